//! The cgroup tree made true.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use super::plan::{self, Controllers, Driver, Limits, NodeShare, Setting};
use super::qos::QosClass;
use super::{Config, Error, is_uid, sys};

/// Killed processes are gone within milliseconds; one stuck in the kernel may take longer than anyone waits.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// Deeper trees than a runtime makes.
const MAX_DEPTH: usize = 64;
const TIERS: [QosClass; 3] = [QosClass::Guaranteed, QosClass::Burstable, QosClass::BestEffort];

/// The tree of one node. Calls block for system calls on the cgroup file system.
pub(super) struct Tree {
    root: PathBuf,
    controllers: Controllers,
    unenforced: Vec<&'static str>,
    limits: Limits,
    // Two makers of one level must not see it half made.
    making: Mutex<()>,
}

impl Tree {
    /// Looks at the tree at `config.root` and makes the levels above pods.
    pub(super) fn open(config: Config) -> Result<Self, Error> {
        let root = config.root;
        if !sys::is_unified(&root) {
            return Err(Error::NotUnified { path: root });
        }
        let names = sys::read(&root.join("cgroup.controllers"))?;
        let mut controllers = Controllers::of(names.split_whitespace());
        let missing = controllers.missing();
        let refused: Vec<&str> = missing
            .iter()
            .copied()
            .filter(|name| !config.allow_missing.contains(*name))
            .collect();
        if !refused.is_empty() {
            return Err(Error::MissingControllers {
                path: root,
                missing: refused.join(","),
            });
        }
        delegate(&root, &controllers)?;
        for class in TIERS {
            make_level(&root.join(plan::tier_path(Driver::Cgroupfs, class)), &controllers)?;
        }
        let pods = root.join(plan::tier_path(Driver::Cgroupfs, QosClass::Guaranteed));
        controllers.swap = sys::exists(&pods.join("memory.swap.max"));
        controllers.page_sizes = page_sizes(&pods);
        Ok(Self {
            root,
            controllers,
            unenforced: missing,
            limits: config.limits,
            making: Mutex::new(()),
        })
    }

    pub(super) fn controllers(&self) -> &Controllers {
        &self.controllers
    }

    pub(super) fn unenforced(&self) -> &[&'static str] {
        &self.unenforced
    }

    /// Holds all pods together to `share`.
    pub(super) fn enforce_node(&self, share: &NodeShare) -> Result<(), Error> {
        let path = self
            .root
            .join(plan::tier_path(Driver::Cgroupfs, QosClass::Guaranteed));
        self.write(&path, &plan::root_settings(share))
    }

    /// Sets the tiers to what `pods` request.
    pub(super) fn update_tiers(&self, pods: &[std::sync::Arc<Pod>]) -> Result<(), Error> {
        for class in [QosClass::Burstable, QosClass::BestEffort] {
            let path = self.root.join(plan::tier_path(Driver::Cgroupfs, class));
            self.write(&path, &plan::tier_settings(class, pods.iter().map(AsRef::as_ref)))?;
        }
        Ok(())
    }

    /// Makes the pod's cgroup and sets its limits.
    pub(super) fn ensure(&self, pod: &Pod) -> Result<(), Error> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        if !is_uid(uid) {
            return Err(Error::Uid { uid: uid.to_owned() });
        }
        let path = self
            .root
            .join(plan::pod_path(Driver::Cgroupfs, QosClass::of(pod), uid));
        {
            let _making = self
                .making
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            make_level(&path, &self.controllers)?;
        }
        self.write(&path, &plan::pod_settings(pod, &self.limits, &self.controllers))
    }

    /// Kills what runs in the pod's cgroup and removes it, in whichever tier it lies.
    pub(super) fn remove(&self, uid: &str) -> Result<(), Error> {
        if !is_uid(uid) {
            return Err(Error::Uid { uid: uid.to_owned() });
        }
        for class in TIERS {
            let path = self.root.join(plan::pod_path(Driver::Cgroupfs, class, uid));
            if sys::exists(&path) {
                sys::kill(&path, KILL_LIMIT)?;
                remove_tree(&path, MAX_DEPTH)?;
            }
        }
        Ok(())
    }

    /// UIDs that have a pod cgroup.
    pub(super) fn pods(&self) -> Result<BTreeSet<String>, Error> {
        let mut found = BTreeSet::new();
        for class in TIERS {
            let tier = self.root.join(plan::tier_path(Driver::Cgroupfs, class));
            for child in sys::children(&tier)? {
                let component = child
                    .file_name()
                    .and_then(|name| name.to_str())
                    .unwrap_or_default();
                found.extend(plan::uid_of(component).map(str::to_owned));
            }
        }
        Ok(found)
    }

    fn write(&self, path: &Path, settings: &[Setting]) -> Result<(), Error> {
        for setting in settings.iter().filter(|s| self.controllers.has(s.controller)) {
            sys::set(path, &setting.file, &setting.value)?;
        }
        Ok(())
    }
}

/// Makes the cgroup and those above it, with the controllers handed down to its children.
fn make_level(path: &Path, controllers: &Controllers) -> Result<(), Error> {
    sys::make(path)?;
    delegate(path, controllers)
}

/// Writes only what is not enabled yet: a write is refused where a process lies in the cgroup itself.
fn delegate(path: &Path, controllers: &Controllers) -> Result<(), Error> {
    let enabled = sys::read(&path.join("cgroup.subtree_control"))?;
    let enabled: BTreeSet<&str> = enabled.split_whitespace().collect();
    for controller in controllers.delegated() {
        if !enabled.contains(controller) {
            sys::enable(path, controller)?;
        }
    }
    Ok(())
}

fn remove_tree(path: &Path, depth: usize) -> Result<(), Error> {
    if depth > 0 {
        for child in sys::children(path)? {
            remove_tree(&child, depth - 1)?;
        }
    }
    sys::remove(path)
}

/// Sizes with a `hugetlb.SIZE.max` file.
fn page_sizes(path: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(path) else {
        return Vec::new();
    };
    let mut sizes: Vec<String> = entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            let size = name.strip_prefix("hugetlb.")?.strip_suffix(".max")?;
            (!size.ends_with(".rsvd")).then(|| size.to_owned())
        })
        .collect();
    sizes.sort();
    sizes
}
