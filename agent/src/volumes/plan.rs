//! A pod's volumes as data: which plugin, where, how big. Contract §7.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, Container, DownwardAPIVolumeSource, EmptyDirVolumeSource, Pod,
    ProjectedVolumeSource, SecretVolumeSource, Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::error::Cause;
use crate::config::quantity::Amount;
use crate::pods::runtime_config::effective_run_as_user;
use crate::resources::amounts::{self, MEMORY, amount_of};

/// One volume that a container of the pod uses.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct VolumePlan {
    pub(super) name: String,
    pub(super) kind: Kind,
}

/// What stands behind a volume.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// A directory of the pod's own; on tmpfs of that size when in memory.
    EmptyDir(Medium),
    /// Something of the node's.
    HostPath { path: PathBuf, kind: String },
    /// Files that the agent writes and keeps up to date; in memory, of that size, unless on disk.
    Files { source: Source, medium: Medium },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Medium {
    Disk,
    Memory { size: Option<u64> },
}

/// Where a volume of files comes from.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Source {
    ConfigMap(ConfigMapVolumeSource),
    Secret(SecretVolumeSource),
    DownwardApi(DownwardAPIVolumeSource),
    Projected(ProjectedVolumeSource),
}

impl Kind {
    /// Directory name of the plugin, `None` where the volume has no directory of its own.
    pub(super) fn plugin(&self) -> Option<&'static str> {
        match self {
            Self::HostPath { .. } => None,
            Self::EmptyDir(_) => Some("kubernetes.io~empty-dir"),
            Self::Files {
                source: Source::ConfigMap(_),
                ..
            } => Some("kubernetes.io~configmap"),
            Self::Files {
                source: Source::Secret(_),
                ..
            } => Some("kubernetes.io~secret"),
            Self::Files {
                source: Source::DownwardApi(_),
                ..
            } => Some("kubernetes.io~downward-api"),
            Self::Files {
                source: Source::Projected(_),
                ..
            } => Some("kubernetes.io~projected"),
        }
    }

    /// Containers may only read it.
    pub(super) fn is_read_only(&self) -> bool {
        matches!(self, Self::Files { .. })
    }
}

/// All containers of a pod, of each kind that can mount.
pub(super) fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec
        .iter()
        .flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers))
}

/// Names of the volumes that a container uses.
fn used(pod: &Pod) -> BTreeSet<&str> {
    let ephemeral = pod
        .spec
        .iter()
        .flat_map(|spec| spec.ephemeral_containers.iter().flatten());
    let mounts = containers(pod)
        .flat_map(|c| c.volume_mounts.iter().flatten())
        .chain(ephemeral.flat_map(|c| c.volume_mounts.iter().flatten()));
    mounts.map(|mount| mount.name.as_str()).collect()
}

/// What each used volume of the pod takes; volumes that no container uses are left out, as upstream does.
pub(super) fn plan(
    pod: &Pod,
    allocatable: &BTreeMap<String, Quantity>,
) -> Vec<(String, Result<VolumePlan, Cause>)> {
    let used = used(pod);
    let memory = memory_bound(pod, allocatable);
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes
        .filter(|volume| used.contains(volume.name.as_str()))
        .map(|volume| {
            let plan = kind_of(volume, memory).map(|kind| VolumePlan {
                name: volume.name.clone(),
                kind,
            });
            (volume.name.clone(), plan)
        })
        .collect()
}

fn kind_of(volume: &Volume, memory: Option<u64>) -> Result<Kind, Cause> {
    let in_memory = Medium::Memory { size: memory };
    if let Some(source) = &volume.empty_dir {
        return empty_dir(source, memory);
    }
    if let Some(source) = &volume.host_path {
        return host_path(&source.path, source.type_.as_deref());
    }
    let files = |source, medium| Ok(Kind::Files { source, medium });
    if let Some(source) = &volume.config_map {
        return files(Source::ConfigMap(source.clone()), Medium::Disk);
    }
    if let Some(source) = &volume.secret {
        return files(Source::Secret(source.clone()), in_memory);
    }
    if let Some(source) = &volume.downward_api {
        return files(Source::DownwardApi(source.clone()), in_memory);
    }
    if let Some(source) = &volume.projected {
        return files(Source::Projected(source.clone()), in_memory);
    }
    if let Some(source) = &volume.persistent_volume_claim {
        return Err(Cause::Claim {
            claim: source.claim_name.clone(),
        });
    }
    Err(Cause::Unsupported {
        kind: unsupported(volume),
    })
}

fn unsupported(volume: &Volume) -> &'static str {
    let kinds = [
        (volume.csi.is_some(), "csi"),
        (volume.ephemeral.is_some(), "ephemeral"),
        (volume.nfs.is_some(), "nfs"),
        (volume.iscsi.is_some(), "iscsi"),
        (volume.fc.is_some(), "fc"),
        (volume.image.is_some(), "image"),
        (volume.git_repo.is_some(), "gitRepo"),
        (volume.flex_volume.is_some(), "flexVolume"),
    ];
    kinds
        .iter()
        .find(|(is, _)| *is)
        .map_or("another source", |(_, kind)| kind)
}

fn empty_dir(source: &EmptyDirVolumeSource, memory: Option<u64>) -> Result<Kind, Cause> {
    match source.medium.as_deref() {
        None | Some("") => Ok(Kind::EmptyDir(Medium::Disk)),
        Some("Memory") => {
            let limit = source
                .size_limit
                .as_ref()
                .and_then(|q| Amount::of(q).ok())
                .and_then(positive);
            let size = [memory, limit].into_iter().flatten().min();
            Ok(Kind::EmptyDir(Medium::Memory { size }))
        }
        Some(other) => Err(Cause::Medium {
            medium: other.to_owned(),
        }),
    }
}

fn positive(amount: Amount) -> Option<u64> {
    u64::try_from(amount.value()).ok().filter(|bytes| *bytes > 0)
}

/// No file system in memory may hold more than the node gives pods, nor than the pod's own limit.
fn memory_bound(pod: &Pod, allocatable: &BTreeMap<String, Quantity>) -> Option<u64> {
    let node = positive(amount_of(&amounts::amounts(Some(allocatable)), MEMORY));
    let every = containers(pod).all(|c| amount_of(&amounts::container_limits(c), MEMORY) > Amount::default());
    let whole = pod
        .spec
        .as_ref()
        .and_then(|s| s.resources.as_ref())
        .is_some_and(|r| r.limits.is_some());
    let own = if every || whole {
        positive(amount_of(&amounts::pod_limits(pod), MEMORY))
    } else {
        None
    };
    [node, own].into_iter().flatten().min()
}

fn host_path(path: &str, kind: Option<&str>) -> Result<Kind, Cause> {
    if path.split('/').any(|part| part == "..") {
        return Err(Cause::HostPathBackstep {
            path: path.to_owned(),
        });
    }
    Ok(Kind::HostPath {
        path: path.into(),
        kind: kind.unwrap_or_default().to_owned(),
    })
}

/// Who files of the pod belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Ownership {
    /// The one user all containers run as, where the pod says so.
    pub(super) user: Option<u32>,
    /// `fsGroup`.
    pub(super) group: Option<u32>,
}

impl Ownership {
    pub(super) fn of(pod: &Pod) -> Self {
        let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
        let id = |value: i64| u32::try_from(value).ok();
        let mut users = containers(pod).map(|container| effective_run_as_user(pod, container));
        let first = users.next().flatten();
        let user = first
            .filter(|first| users.all(|user| user == Some(*first)))
            .and_then(id);
        Self {
            user,
            group: context.and_then(|c| c.fs_group).and_then(id),
        }
    }
}

/// Directories that must exist in the volume `name` because a container mounts another volume below it.
pub(super) fn nested_mount_points(pod: &Pod, name: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for container in containers(pod) {
        let mounts = container.volume_mounts.as_deref().unwrap_or_default();
        let is_partial = |m: &k8s_openapi::api::core::v1::VolumeMount| {
            m.sub_path.as_deref().is_some_and(|p| !p.is_empty())
                || m.sub_path_expr.as_deref().is_some_and(|p| !p.is_empty())
        };
        for own in mounts.iter().filter(|m| m.name == name && !is_partial(m)) {
            let base = format!("{}/", own.mount_path.trim_end_matches('/'));
            for other in mounts.iter().filter(|m| m.name != name) {
                let inside = other
                    .mount_path
                    .strip_prefix(&base)
                    .map(|path| path.trim_matches('/'));
                // What the writer would refuse as a file it must not have as a directory either.
                found.extend(inside.and_then(|path| super::payload::clean_path(path).ok()));
            }
        }
    }
    found
}
