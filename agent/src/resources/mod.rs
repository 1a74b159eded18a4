//! What pods may use: sums of requests and limits, QoS classes, and the cgroup tree that holds pods to them.
//!
//! `amounts`, `formulas`, `qos` and `plan` are pure; `apply` makes the tree true through the funnel `sys`.

pub(crate) mod amounts;
mod apply;
mod error;
pub(crate) mod formulas;
mod plan;
pub(crate) mod qos;
mod sys;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

pub(crate) use error::Error;
pub(crate) use plan::{Controllers, Driver, Limits, NodeCapacity, NodeShare, huge_pages, pod_path};
pub(crate) use qos::QosClass;

use crate::config::Settings;

/// Where and how the tree is kept.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// The cgroup below which pods' cgroups are made: `/sys/fs/cgroup`, with `cgroupRoot` appended.
    pub(crate) root: PathBuf,
    /// Controllers whose absence is accepted; their limits are left out.
    pub(crate) allow_missing: BTreeSet<String>,
    /// Limits of the node's configuration.
    pub(crate) limits: Limits,
}

impl Config {
    /// From the agent's settings.
    pub(crate) fn of(settings: &Settings) -> Self {
        let kubelet = &settings.kubelet;
        Self {
            root: Path::new("/sys/fs/cgroup").join(kubelet.cgroup_root.trim_start_matches('/')),
            allow_missing: settings.allow_missing_controllers.clone(),
            limits: Limits {
                cpu_quota: kubelet.cpu_cfs_quota,
                cpu_period: i64::try_from(kubelet.cpu_cfs_quota_period.as_micros()).unwrap_or(100_000),
                pod_pids: Some(kubelet.pod_pids_limit).filter(|limit| *limit > 0),
            },
        }
    }
}

/// The cgroup tree of this node's pods. Cheap to clone; work on the tree runs on blocking threads.
#[derive(Clone)]
pub(crate) struct Cgroups {
    tree: Arc<apply::Tree>,
}

impl Cgroups {
    /// Opens the tree and makes its QoS levels. Blocks briefly; for start-up.
    ///
    /// # Errors
    /// [`Error::NotUnified`], [`Error::MissingControllers`], or an effect that failed.
    pub(crate) fn open(config: Config) -> Result<Self, Error> {
        Ok(Self {
            tree: Arc::new(apply::Tree::open(config)?),
        })
    }

    /// What the kernel offers here.
    pub(crate) fn controllers(&self) -> &Controllers {
        self.tree.controllers()
    }

    /// Missing controllers that were allowed: limits of theirs are not kept. For the node's annotation
    /// `longshore.dev/unenforced`.
    pub(crate) fn unenforced(&self) -> &[&'static str] {
        self.tree.unenforced()
    }

    /// The pod's cgroup as `cgroup_parent` names it: absolute, seen from the cgroup file system.
    pub(crate) fn pod_cgroup(&self, pod: &Pod) -> String {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        format!(
            "/{}",
            pod_path(Driver::Cgroupfs, QosClass::of(pod), uid).display()
        )
    }

    /// Makes the pod's cgroup and sets its limits; repeatable.
    ///
    /// # Errors
    /// An effect that failed.
    pub(crate) async fn ensure(&self, pod: &Arc<Pod>) -> Result<(), Error> {
        let pod = Arc::clone(pod);
        self.blocking(move |tree| tree.ensure(&pod)).await
    }

    /// Kills what still runs in the pod's cgroup and removes it; repeatable.
    ///
    /// # Errors
    /// An effect that failed, or [`Error::Populated`].
    pub(crate) async fn remove(&self, uid: &str) -> Result<(), Error> {
        let uid = uid.to_owned();
        self.blocking(move |tree| tree.remove(&uid)).await
    }

    /// UIDs that have a cgroup and are not in `live`.
    ///
    /// # Errors
    /// A level that cannot be listed.
    pub(crate) async fn orphans(&self, live: &BTreeSet<String>) -> Result<BTreeSet<String>, Error> {
        let found = self.blocking(apply::Tree::pods).await?;
        Ok(found.difference(live).cloned().collect())
    }

    /// Holds all pods together to `share` (`enforceNodeAllocatable: pods`, or the node's capacity).
    ///
    /// # Errors
    /// An effect that failed.
    pub(crate) async fn enforce_node(&self, share: NodeShare) -> Result<(), Error> {
        self.blocking(move |tree| tree.enforce_node(&share)).await
    }

    /// Sets the QoS tiers to what the node's `pods` request; each minute and before a new pod.
    ///
    /// # Errors
    /// An effect that failed.
    pub(crate) async fn update_tiers(&self, pods: Vec<Arc<Pod>>) -> Result<(), Error> {
        self.blocking(move |tree| tree.update_tiers(&pods)).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&apply::Tree) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let tree = Arc::clone(&self.tree);
        // A join error is a panic of the work, or the runtime stopping.
        tokio::task::spawn_blocking(move || work(&tree))
            .await
            .unwrap_or(Err(Error::Stopped))
    }
}

/// Whether `uid` can be a path component: what API servers and static pods use, and nothing that could leave the
/// directory.
pub(crate) fn is_uid(uid: &str) -> bool {
    !uid.is_empty() && uid.len() <= 128 && uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}
