//! The mounts of a container, in order: the usual file systems, then what the pod asks for, outer paths first.

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Mount, MountBuilder};
use proto::cri::{ContainerConfig, Mount as CriMount, MountPropagation};

use super::Sandbox;
use crate::Error;

/// All mounts of a container below its root.
pub(crate) fn of(config: &ContainerConfig, sandbox: &Sandbox) -> Result<Vec<Mount>, Error> {
    let security = config
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref());
    let privileged = security.is_some_and(|security| security.privileged);
    let readonly_root = security.is_some_and(|security| security.readonly_rootfs);
    let asked = config.mounts.iter().map(asked).collect::<Result<Vec<_>, _>>()?;
    let taken = |path: &Path| asked.iter().any(|mount| mount.destination() == path);
    let own_dev = taken(Path::new("/dev"));
    let mut mounts = file_systems(privileged);
    // What the pod mounts itself is its own; a `/dev` of its own brings what is below it.
    mounts.retain(|mount| {
        let path = mount.destination();
        let replaced = taken(path) || (own_dev && path.starts_with("/dev"));
        !replaced
    });
    let mut rest: Vec<Mount> = sandbox_files(sandbox, readonly_root)
        .into_iter()
        .filter(|mount| !taken(mount.destination()))
        .collect();
    rest.extend(asked);
    rest.sort_by_key(|mount| mount.destination().components().count());
    mounts.extend(rest);
    Ok(mounts)
}

/// proc, dev and the like, as every container gets them.
fn file_systems(privileged: bool) -> Vec<Mount> {
    let kernel = if privileged { "rw" } else { "ro" };
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", kernel]),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", kernel],
        ),
    ]
}

/// The files that all containers of a sandbox share.
fn sandbox_files(sandbox: &Sandbox, readonly: bool) -> Vec<Mount> {
    let access = if readonly { "ro" } else { "rw" };
    let bind = |destination: &str, source: &Path, more: &[&str]| {
        let mut options = vec!["rbind", "rprivate", access];
        options.extend(more);
        mount(destination, "bind", source, &options)
    };
    let mut mounts = Vec::with_capacity(3);
    if let Some(hostname) = &sandbox.hostname_file {
        mounts.push(bind("/etc/hostname", hostname, &[]));
    }
    mounts.push(bind("/etc/resolv.conf", &sandbox.resolv_conf, &[]));
    // Shared memory stays writable whatever the root is: it is no part of the image.
    mounts.push(mount(
        "/dev/shm",
        "bind",
        &*sandbox.shm,
        &["rbind", "rprivate", "rw", "nosuid", "noexec", "nodev"],
    ));
    mounts
}

/// A mount the pod asks for.
fn asked(mount: &CriMount) -> Result<Mount, Error> {
    const FIELD: &str = "config.mounts";
    let destination = absolute(&mount.container_path)
        .filter(|path| path != Path::new("/"))
        .ok_or_else(|| {
            Error::invalid(
                FIELD,
                format!("{:?} is not a path in a container", mount.container_path),
            )
        })?;
    if mount.image.as_ref().is_some_and(|image| !image.image.is_empty()) {
        return Err(Error::invalid(
            FIELD,
            format!("{}: image volumes are not known", destination.display()),
        ));
    }
    let source = absolute(&mount.host_path)
        .ok_or_else(|| Error::invalid(FIELD, format!("host path {:?} is not absolute", mount.host_path)))?;
    if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
        return Err(Error::invalid(
            FIELD,
            format!("{}: id-mapped mounts are not known", destination.display()),
        ));
    }
    let propagation = match mount.propagation() {
        MountPropagation::PropagationPrivate => "rprivate",
        MountPropagation::PropagationHostToContainer => "rslave",
        MountPropagation::PropagationBidirectional => "rshared",
    };
    let access = match (mount.readonly, mount.recursive_read_only) {
        (true, true) if propagation == "rprivate" => "rro",
        (_, true) => {
            let reason = format!(
                "{}: recursive_read_only goes with readonly and private propagation only",
                destination.display()
            );
            return Err(Error::invalid(FIELD, reason));
        }
        (true, false) => "ro",
        (false, false) => "rw",
    };
    Ok(self::mount(
        destination,
        "bind",
        source,
        &["rbind", propagation, access],
    ))
}

/// The path without `.` and doubled slashes; nothing if relative or with `..` or a NUL byte.
fn absolute(path: &str) -> Option<PathBuf> {
    let plain = |component: &Component<'_>| matches!(component, Component::RootDir | Component::Normal(_));
    let valid =
        path.starts_with('/') && !path.contains('\0') && Path::new(path).components().all(|c| plain(&c));
    valid.then(|| Path::new(path).components().collect())
}

fn mount(destination: impl Into<PathBuf>, kind: &str, source: impl Into<PathBuf>, options: &[&str]) -> Mount {
    MountBuilder::default()
        .destination(destination)
        .typ(kind)
        .source(source)
        .options(
            options
                .iter()
                .map(|&option| option.to_owned())
                .collect::<Vec<_>>(),
        )
        .build()
        .expect("every field has a default")
}
