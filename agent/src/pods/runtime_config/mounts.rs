//! A container's mounts: volumes, hosts file, termination message. Contract §5.6, §7.5, §13.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, VolumeMount};
use proto::cri;

use super::environment::{Environment, lookup};
use super::error::ConfigError;
use super::expansion::expand_strictly;
use crate::volumes::{MountedVolumes, SubPathError};

pub(crate) const ETC_HOSTS: &str = "/etc/hosts";

/// The path inside the volume that a mount shows; `None`: all of it.
///
/// # Errors
/// A path that is absolute or climbs, or an unknown variable in subPathExpr.
pub(crate) fn sub_path(
    mount: &VolumeMount,
    environment: &Environment,
) -> Result<Option<String>, ConfigError> {
    let expression = mount.sub_path_expr.as_deref().filter(|text| !text.is_empty());
    let path = match expression {
        Some(expression) => expand_strictly(expression, |name| lookup(environment, name))
            .map_err(|variable| ConfigError::SubPathExpression { variable })?,
        None => mount.sub_path.clone().unwrap_or_default(),
    };
    if path.is_empty() {
        return Ok(None);
    }
    if path.starts_with('/') {
        return Err(SubPathError::Absolute { path }.into());
    }
    if path.split('/').any(|part| part == "..") {
        return Err(SubPathError::Backstep { path }.into());
    }
    Ok(Some(path))
}

/// Files of the pod's directory that a container sees.
#[derive(Debug, Clone, Default)]
pub(crate) struct OwnFiles {
    /// The managed hosts file; `None` where the pod has no address yet.
    pub(crate) hosts: Option<PathBuf>,
    /// The termination message file of this start of the container.
    pub(crate) termination_log: Option<PathBuf>,
}

/// The mounts of `container`. `sources` are the host paths of mounts that show a part of a volume, by index.
///
/// # Errors
/// A volume that is not mounted, or options that contradict each other.
pub(crate) fn mounts(
    container: &Container,
    volumes: &MountedVolumes,
    sources: &dyn Fn(usize) -> Option<PathBuf>,
    files: &OwnFiles,
) -> Result<Vec<cri::Mount>, ConfigError> {
    let wanted = container.volume_mounts.as_deref().unwrap_or_default();
    let mut mounts = Vec::with_capacity(wanted.len() + 2);
    for (index, mount) in wanted.iter().enumerate() {
        let volume = volumes
            .get(&mount.name)
            .ok_or_else(|| ConfigError::MissingVolume {
                volume: mount.name.clone(),
                container: container.name.clone(),
            })?;
        let source = sources(index).unwrap_or_else(|| volume.host_path.clone());
        let readonly = mount.read_only.unwrap_or(false);
        mounts.push(cri::Mount {
            container_path: absolute(&mount.mount_path),
            host_path: path_text(&source),
            readonly: readonly || volume.read_only,
            recursive_read_only: is_recursive_read_only(mount, readonly)?,
            propagation: propagation(mount)?.into(),
            ..Default::default()
        });
    }
    let covers = |path: &str| wanted.iter().any(|mount| mount.mount_path == path);
    if let Some(hosts) = files.hosts.as_deref().filter(|_| !covers(ETC_HOSTS)) {
        mounts.push(own_file(ETC_HOSTS, hosts));
    }
    let message_path = container
        .termination_message_path
        .as_deref()
        .filter(|path| !path.is_empty());
    if let (Some(path), Some(log)) = (message_path, &files.termination_log) {
        mounts.push(own_file(path, log));
    }
    Ok(mounts)
}

fn own_file(container_path: &str, host_path: &Path) -> cri::Mount {
    cri::Mount {
        container_path: container_path.to_owned(),
        host_path: path_text(host_path),
        selinux_relabel: true,
        ..Default::default()
    }
}

fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A relative mount path is one from the root.
fn absolute(path: &str) -> String {
    if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    }
}

fn propagation(mount: &VolumeMount) -> Result<cri::MountPropagation, ConfigError> {
    match mount.mount_propagation.as_deref() {
        None | Some("None") => Ok(cri::MountPropagation::PropagationPrivate),
        Some("HostToContainer") => Ok(cri::MountPropagation::PropagationHostToContainer),
        Some("Bidirectional") => Ok(cri::MountPropagation::PropagationBidirectional),
        Some(other) => Err(ConfigError::Invalid {
            what: "invalid MountPropagation mode",
            value: other.to_owned(),
        }),
    }
}

/// The runtime of this node can make mounts read-only all the way down, so IfPossible means yes wherever a read-only
/// mount without propagation was asked for.
fn is_recursive_read_only(mount: &VolumeMount, readonly: bool) -> Result<bool, ConfigError> {
    let private = matches!(mount.mount_propagation.as_deref(), None | Some("None"));
    match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => Ok(false),
        Some("IfPossible") => Ok(readonly && private),
        Some("Enabled") if !readonly => Err(ConfigError::RecursiveReadOnly {
            cause: "volume is not mounted as read-only",
        }),
        Some("Enabled") if !private => Err(ConfigError::RecursiveReadOnly {
            cause: "mount propagation is not None",
        }),
        Some("Enabled") => Ok(true),
        Some(other) => Err(ConfigError::Invalid {
            what: "unknown recursiveReadOnly mode",
            value: other.to_owned(),
        }),
    }
}
