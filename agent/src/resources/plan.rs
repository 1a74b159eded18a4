//! The cgroup tree as data: names of its levels, values of its files. Contract §8.1 and §8.2.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use k8s_openapi::api::core::v1::Pod;

use super::amounts::{self, CPU, HUGE_PAGES_PREFIX, MEMORY, amount_of};
use super::qos::QosClass;
use super::{Error, formulas};
use crate::config::KubeletConfiguration;
use crate::config::quantity::Amount;

/// Controllers that an agent needs, as upstream does; hugetlb is used where there is one.
pub(crate) const NEEDED: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];
pub(crate) const HUGETLB: &str = "hugetlb";

/// Who names cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Driver {
    /// Plain directories: `kubepods/burstable/podUID`.
    Cgroupfs,
    /// Slices: `kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID.slice`.
    #[allow(
        dead_code,
        reason = "the engine in this process takes directories; a foreign one may want slices"
    )]
    Systemd,
}

/// What the kernel offers below the node's root cgroup, and what of the wanted it lacks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Controllers {
    present: BTreeSet<String>,
    /// `memory.swap.max` exists.
    pub(crate) swap: bool,
    /// Huge page sizes as the kernel names their files, `2MB`.
    pub(crate) page_sizes: Vec<String>,
}

impl Controllers {
    /// From the names of `cgroup.controllers`.
    pub(crate) fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            present: names.into_iter().map(str::to_owned).collect(),
            ..Self::default()
        }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.present.contains(name)
    }

    /// Controllers to hand down to children.
    pub(crate) fn delegated(&self) -> Vec<&str> {
        NEEDED
            .into_iter()
            .chain([HUGETLB])
            .filter(|name| self.has(name))
            .collect()
    }

    /// Needed controllers that are not there.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        NEEDED.into_iter().filter(|name| !self.has(name)).collect()
    }
}

/// How the node wants its limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limits {
    /// CPU limits are enforced (`cpuCFSQuota`).
    pub(crate) cpu_quota: bool,
    /// Period of CPU limits, µs.
    pub(crate) cpu_period: i64,
    /// `podPidsLimit`; none below 1.
    pub(crate) pod_pids: Option<i64>,
}

/// One value of one file of a cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    /// The controller that owns the file.
    pub(crate) controller: &'static str,
    pub(crate) file: String,
    pub(crate) value: String,
}

impl Setting {
    fn new(controller: &'static str, file: impl Into<String>, value: impl ToString) -> Self {
        Self {
            controller,
            file: file.into(),
            value: value.to_string(),
        }
    }
}

/// Path of a class' tier below the cgroup root, without a leading slash.
pub(crate) fn tier_path(driver: Driver, class: QosClass) -> PathBuf {
    match (driver, class) {
        (Driver::Cgroupfs, QosClass::Guaranteed) => "kubepods".into(),
        (Driver::Cgroupfs, QosClass::Burstable) => "kubepods/burstable".into(),
        (Driver::Cgroupfs, QosClass::BestEffort) => "kubepods/besteffort".into(),
        (Driver::Systemd, QosClass::Guaranteed) => "kubepods.slice".into(),
        (Driver::Systemd, QosClass::Burstable) => "kubepods.slice/kubepods-burstable.slice".into(),
        (Driver::Systemd, QosClass::BestEffort) => "kubepods.slice/kubepods-besteffort.slice".into(),
    }
}

/// Last component of a pod's cgroup.
pub(crate) fn pod_component(driver: Driver, class: QosClass, uid: &str) -> String {
    match driver {
        Driver::Cgroupfs => format!("pod{uid}"),
        Driver::Systemd => {
            let uid = uid.replace('-', "_");
            match class {
                QosClass::Guaranteed => format!("kubepods-pod{uid}.slice"),
                QosClass::Burstable => format!("kubepods-burstable-pod{uid}.slice"),
                QosClass::BestEffort => format!("kubepods-besteffort-pod{uid}.slice"),
            }
        }
    }
}

/// Path of a pod's cgroup below the cgroup root, without a leading slash.
pub(crate) fn pod_path(driver: Driver, class: QosClass, uid: &str) -> PathBuf {
    tier_path(driver, class).join(pod_component(driver, class, uid))
}

/// The uid in a pod component made by the cgroupfs driver.
pub(crate) fn uid_of(component: &str) -> Option<&str> {
    component.strip_prefix("pod").filter(|uid| super::is_uid(uid))
}

/// What the pod as a whole is held to.
pub(crate) fn pod_settings(pod: &Pod, limits: &Limits, controllers: &Controllers) -> Vec<Setting> {
    let class = QosClass::of(pod);
    let requests = amounts::pod_requests(pod);
    let bounds = amounts::pod_limits(pod);
    let shares = match class {
        QosClass::BestEffort => formulas::MIN_SHARES,
        _ => formulas::shares(amount_of(&requests, CPU).milli_value()),
    };
    let mut settings = vec![Setting::new("cpu", "cpu.weight", formulas::weight(shares))];
    let limited =
        |name| class == QosClass::Guaranteed || (class == QosClass::Burstable && is_declared(pod, name));
    let quota = if limits.cpu_quota && limited(CPU) {
        formulas::quota(amount_of(&bounds, CPU).milli_value(), limits.cpu_period)
    } else {
        0
    };
    settings.push(Setting::new(
        "cpu",
        "cpu.max",
        formulas::cpu_max(quota, limits.cpu_period),
    ));
    let memory = if limited(MEMORY) {
        amount_of(&bounds, MEMORY).value()
    } else {
        0
    };
    let memory = if memory > 0 {
        memory.to_string()
    } else {
        "max".to_owned()
    };
    settings.push(Setting::new("memory", "memory.max", memory));
    if let Some(pids) = limits.pod_pids {
        settings.push(Setting::new("pids", "pids.max", pids));
    }
    let pages = huge_pages(&bounds);
    for size in &controllers.page_sizes {
        let bytes = pages.get(size).copied().unwrap_or(0);
        settings.push(Setting::new(HUGETLB, format!("hugetlb.{size}.max"), bytes));
    }
    settings
}

/// Whether each container, or the pod as a whole, has a limit of `name`.
fn is_declared(pod: &Pod, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let whole = spec.resources.as_ref().and_then(|r| r.limits.as_ref());
    if amount_of(&amounts::amounts(whole), name) > Amount::default() {
        return true;
    }
    spec.containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .all(|c| amount_of(&amounts::container_limits(c), name) > Amount::default())
}

/// Bytes of huge pages by the kernel's name of the size.
pub(crate) fn huge_pages(limits: &amounts::Amounts) -> BTreeMap<String, i64> {
    limits
        .iter()
        .filter_map(|(name, amount)| {
            let size = Amount::parse(name.strip_prefix(HUGE_PAGES_PREFIX)?).ok()?;
            Some((formulas::page_size_name(size.value()), amount.value()))
        })
        .collect()
}

/// What the tier of a class is held to, for the pods on the node. The Guaranteed tier is the root of pods and has
/// settings of its own: [`root_settings`].
pub(crate) fn tier_settings<'a>(class: QosClass, pods: impl IntoIterator<Item = &'a Pod>) -> Vec<Setting> {
    let shares = match class {
        QosClass::BestEffort => formulas::MIN_SHARES,
        _ => {
            let milli = pods
                .into_iter()
                .filter(|pod| QosClass::of(pod) == class)
                .map(|pod| amount_of(&amounts::pod_requests(pod), CPU).milli_value())
                .fold(0i64, i64::saturating_add);
            formulas::shares(milli)
        }
    };
    vec![Setting::new("cpu", "cpu.weight", formulas::weight(shares))]
}

/// What all pods together may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeShare {
    /// Thousandths of a CPU.
    pub(crate) milli_cpu: i64,
    /// Bytes.
    pub(crate) memory: i64,
    /// Processes; none: as many as the node.
    pub(crate) pids: Option<i64>,
}

/// What the node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NodeCapacity {
    /// Thousandths of a CPU.
    pub(crate) milli_cpu: i64,
    /// Bytes.
    pub(crate) memory: i64,
    /// Processes; none: not known.
    pub(crate) pids: Option<i64>,
}

impl NodeShare {
    /// What is left for pods by `kubeReserved` and `systemReserved`, or all where pods are not held to that
    /// (`enforceNodeAllocatable`).
    ///
    /// # Errors
    /// A reservation that cannot be read, or above the capacity.
    pub(crate) fn of(kubelet: &KubeletConfiguration, capacity: NodeCapacity) -> Result<Self, Error> {
        let enforced = kubelet
            .enforce_node_allocatable
            .iter()
            .any(|level| level == "pods");
        let left = |name: &'static str, capacity: i64, reserved: i64| {
            if reserved > capacity {
                let cause = format!("{reserved} is reserved, the node has {capacity}");
                return Err(Error::Reservation { name, cause });
            }
            Ok(if enforced { capacity - reserved } else { capacity })
        };
        let reserved = |name| reserved(kubelet, name);
        Ok(Self {
            milli_cpu: left(CPU, capacity.milli_cpu, reserved(CPU)?.milli_value())?,
            memory: left(MEMORY, capacity.memory, reserved(MEMORY)?.value())?,
            pids: match capacity.pids {
                Some(pids) => Some(left("pid", pids, reserved("pid")?.value())?),
                None => None,
            },
        })
    }
}

fn reserved(kubelet: &KubeletConfiguration, name: &'static str) -> Result<Amount, Error> {
    let mut sum = Amount::default();
    for list in [&kubelet.kube_reserved, &kubelet.system_reserved] {
        let Some(text) = list.get(name) else { continue };
        let amount = Amount::parse(text).map_err(|cause| Error::Reservation { name, cause })?;
        sum = sum.saturating_add(amount);
    }
    Ok(sum)
}

/// What the root of pods is held to.
pub(crate) fn root_settings(share: &NodeShare) -> Vec<Setting> {
    let mut settings = vec![
        Setting::new(
            "cpu",
            "cpu.weight",
            formulas::weight(formulas::shares(share.milli_cpu)),
        ),
        Setting::new("memory", "memory.max", share.memory),
    ];
    if let Some(pids) = share.pids {
        settings.push(Setting::new("pids", "pids.max", pids));
    }
    settings
}
