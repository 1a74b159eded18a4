//! Volumes of pods in the kubelet's layout: `pods/UID/volumes/PLUGIN/NAME` below the root directory.
//!
//! `plan` and `payload` are pure; `gather` fetches; `apply`, `atomic`, `ownership`, `mounts`, `removal` and `subpath`
//! act through the funnel `sys`. Every call is repeatable by UID and finds what a crash left.

mod apply;
mod atomic;
mod error;
mod gather;
mod mounts;
mod ownership;
mod payload;
mod plan;
mod pod_files;
mod removal;
mod subpath;
mod sys;
#[cfg(test)]
mod tests;
mod tokens;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

pub(crate) use error::{Cause, Error, SubPathError};
pub(crate) use subpath::SubPath;

use crate::api::Objects;
use crate::resources::is_uid;
use apply::Prepared;
use gather::{Gathered, Gatherer};
use plan::{Kind, Ownership, VolumePlan};

/// One volume of a pod, ready for containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountedVolume {
    /// Where it lies on the node.
    pub(crate) host_path: PathBuf,
    /// Containers may only read it, whatever their mounts say.
    pub(crate) read_only: bool,
}

/// The volumes of a pod by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct MountedVolumes {
    volumes: BTreeMap<String, MountedVolume>,
    /// When [`Volumes::refresh`] is due without any change: a token must be renewed.
    pub(crate) refresh: Option<Timestamp>,
}

impl MountedVolumes {
    /// The volume of that name.
    pub(crate) fn get(&self, name: &str) -> Option<&MountedVolume> {
        self.volumes.get(name)
    }
}

impl FromIterator<(String, MountedVolume)> for MountedVolumes {
    fn from_iter<I: IntoIterator<Item = (String, MountedVolume)>>(volumes: I) -> Self {
        Self {
            volumes: volumes.into_iter().collect(),
            refresh: None,
        }
    }
}

/// The door: volumes of all pods of the node.
pub(crate) struct Volumes {
    root: PathBuf,
    objects: Arc<Objects>,
    tokens: tokens::Tokens,
    /// What the node gives pods, until the Node object says so.
    capacity: BTreeMap<String, Quantity>,
}

impl Volumes {
    /// Volumes below `root` (`/var/lib/kubelet`), made on first use. `capacity` bounds file systems in memory while
    /// the Node object is not known (static pods).
    pub(crate) fn new(root: &Path, objects: Arc<Objects>, capacity: BTreeMap<String, Quantity>) -> Arc<Self> {
        Arc::new(Self {
            root: root.to_owned(),
            objects,
            tokens: tokens::Tokens::default(),
            capacity,
        })
    }

    /// Makes the pod's directory and all volumes that its containers use. Repeatable.
    ///
    /// # Errors
    /// [`Error::SetUp`] with the first volume that cannot be made, the text of the event FailedMount; others are made
    /// all the same.
    pub(crate) async fn mount(&self, pod: &Arc<Pod>) -> Result<MountedVolumes, Error> {
        self.make(pod, |_| true).await
    }

    /// Makes those of the pod's volumes that are `wanted`.
    async fn make(&self, pod: &Arc<Pod>, wanted: fn(&Kind) -> bool) -> Result<MountedVolumes, Error> {
        let uid = uid_of(pod)?;
        let allocatable = self.allocatable();
        let ownership = Ownership::of(pod);
        let gatherer = Gatherer {
            pod,
            objects: &self.objects,
            tokens: &self.tokens,
            allocatable: &allocatable,
            ownership,
            now: Timestamp::now(),
        };
        let planned = plan::plan(pod, &allocatable);
        if let Some((name, _)) = planned.iter().find(|(name, _)| !is_name(name)) {
            return Err(Error::Name {
                what: "volume name",
                name: name.clone(),
            });
        }
        let fetches = planned
            .into_iter()
            .filter(|(_, plan)| plan.as_ref().map_or(true, |plan| wanted(&plan.kind)))
            .map(async |(volume, plan)| (volume, prepare(&gatherer, plan).await));
        let (mut prepared, mut failed, mut refresh) = (Vec::new(), None, None);
        for (volume, fetched) in futures::future::join_all(fetches).await {
            match fetched {
                Ok((ready, next)) => {
                    refresh = [refresh, next].into_iter().flatten().min();
                    prepared.push(ready);
                }
                Err(cause) => failed = failed.or(Some(Error::SetUp { volume, cause })),
            }
        }
        let volumes = self
            .blocking(move |root| {
                let pods = apply::pods_directory(root)?;
                set_up_all(&apply::pod_directory(&pods, &uid)?, &prepared, ownership)
            })
            .await;
        match (failed, volumes) {
            (Some(error), _) | (None, Err(error)) => Err(error),
            (None, Ok(volumes)) => Ok(MountedVolumes { volumes, refresh }),
        }
    }

    /// Brings volumes of files up to date: after a change of an object they show, and when
    /// [`MountedVolumes::refresh`] is due. Answers when it is due next.
    ///
    /// # Errors
    /// As [`Volumes::mount`]; containers keep what they had.
    pub(crate) async fn refresh(&self, pod: &Arc<Pod>) -> Result<Option<Timestamp>, Error> {
        Ok(self
            .make(pod, |kind| matches!(kind, Kind::Files { .. }))
            .await?
            .refresh)
    }

    /// Unmounts all volumes of the pod and removes what they held (never what lies behind a hostPath). Repeatable.
    ///
    /// # Errors
    /// A mount or file that stays; nothing is removed while a mount is there.
    pub(crate) async fn unmount(&self, uid: &str) -> Result<(), Error> {
        let uid = checked_uid(uid)?;
        self.tokens.forget(&uid);
        self.blocking(move |root| apply::tear_down(&apply::pods_directory(root)?, &uid))
            .await
    }

    /// Unmounts, and removes the pod's directory whole. Repeatable.
    ///
    /// # Errors
    /// As [`Volumes::unmount`].
    pub(crate) async fn remove(&self, uid: &str) -> Result<(), Error> {
        let uid = checked_uid(uid)?;
        self.tokens.forget(&uid);
        self.blocking(move |root| apply::remove(&apply::pods_directory(root)?, &uid))
            .await
    }

    /// UIDs that have a directory here and are not in `live`.
    ///
    /// # Errors
    /// The directory of pods cannot be read.
    pub(crate) async fn orphans(&self, live: &BTreeSet<String>) -> Result<BTreeSet<String>, Error> {
        let found = self
            .blocking(move |root| apply::uids(&apply::pods_directory(root)?))
            .await?;
        Ok(found.difference(live).cloned().collect())
    }

    /// Shows parts of volumes for a container about to start; answers host paths by place in its list of mounts.
    ///
    /// # Errors
    /// [`Error::File`] for the pod's directory; the inner error for a part that cannot be shown.
    pub(crate) async fn prepare_subpaths(
        &self,
        uid: &str,
        wanted: Vec<SubPath>,
    ) -> Result<Result<BTreeMap<usize, PathBuf>, SubPathError>, Error> {
        if wanted.is_empty() {
            return Ok(Ok(BTreeMap::new()));
        }
        let uid = checked_uid(uid)?;
        self.blocking(move |root| {
            let pod = apply::pod_directory(&apply::pods_directory(root)?, &uid)?;
            Ok(wanted
                .iter()
                .map(|part| Ok((part.index, subpath::prepare(&pod, part)?)))
                .collect())
        })
        .await
    }

    /// Writes the pod's hosts file; answers its place.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(crate) async fn write_hosts(&self, uid: &str, text: String) -> Result<PathBuf, Error> {
        let uid = checked_uid(uid)?;
        self.blocking(move |root| {
            let pod = apply::pod_directory(&apply::pods_directory(root)?, &uid)?;
            Ok(pod_files::write_hosts(&pod, &text)?)
        })
        .await
    }

    /// Makes an empty termination message file for a start of a container; answers its place.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(crate) async fn make_termination_log(&self, uid: &str, container: &str) -> Result<PathBuf, Error> {
        let (uid, container) = (checked_uid(uid)?, container.to_owned());
        self.blocking(move |root| {
            let pod = apply::pod_directory(&apply::pods_directory(root)?, &uid)?;
            Ok(pod_files::make_termination_log(&pod, &container)?)
        })
        .await
    }

    /// The termination message of a container: at most 4096 bytes of the file that [`Volumes::make_termination_log`]
    /// answered; `None` if it is gone.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub(crate) async fn termination_message(
        &self,
        uid: &str,
        container: &str,
        file: &Path,
    ) -> Result<Option<Vec<u8>>, Error> {
        let (uid, container) = (checked_uid(uid)?, container.to_owned());
        let name = file
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        self.blocking(move |root| {
            let Some(pod) = apply::pods_directory(root)?.child(&uid)? else {
                return Ok(None);
            };
            Ok(pod_files::read_termination_log(&pod, &container, &name)?)
        })
        .await
    }

    fn allocatable(&self) -> BTreeMap<String, Quantity> {
        let node = self.objects.node();
        let known = node
            .as_ref()
            .and_then(|node| node.status.as_ref()?.allocatable.clone());
        known.unwrap_or_else(|| self.capacity.clone())
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let root = self.root.clone();
        // A join error is a panic of the work, or the runtime stopping.
        tokio::task::spawn_blocking(move || work(&root))
            .await
            .unwrap_or(Err(Error::Stopped))
    }
}

/// Fetches what one planned volume holds.
async fn prepare(
    gatherer: &Gatherer<'_>,
    planned: Result<VolumePlan, Cause>,
) -> Result<(Prepared, Option<Timestamp>), Cause> {
    let plan = planned?;
    let (mut payload, mut refresh, mut nested) = Default::default();
    if let Kind::Files { source, .. } = &plan.kind {
        Gathered { payload, refresh } = gatherer.gather(source).await?;
        nested = plan::nested_mount_points(gatherer.pod, &plan.name);
    }
    Ok((
        Prepared {
            plan,
            payload,
            nested,
        },
        refresh,
    ))
}

/// Makes all of them; the first that fails is the answer.
fn set_up_all(
    pod: &sys::Dir,
    prepared: &[Prepared],
    owner: Ownership,
) -> Result<BTreeMap<String, MountedVolume>, Error> {
    let (mut volumes, mut failed) = (BTreeMap::new(), None);
    for one in prepared {
        let name = one.plan.name.clone();
        match apply::set_up(pod, one, owner) {
            Ok(host_path) => {
                let read_only = one.plan.kind.is_read_only();
                volumes.insert(name, MountedVolume { host_path, read_only });
            }
            Err(cause) => failed = failed.or(Some(Error::SetUp { volume: name, cause })),
        }
    }
    failed.map_or(Ok(volumes), Err)
}

fn uid_of(pod: &Pod) -> Result<String, Error> {
    checked_uid(pod.metadata.uid.as_deref().unwrap_or_default())
}

fn checked_uid(uid: &str) -> Result<String, Error> {
    if is_uid(uid) {
        Ok(uid.to_owned())
    } else {
        Err(Error::Name {
            what: "pod uid",
            name: uid.to_owned(),
        })
    }
}

/// A DNS label, as volume names are.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 63 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}
