//! What a container has on the machine beside its process. Every step is idempotent; all of it blocks.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDeviceBuilder, LinuxDeviceType};
use proto::cri::ContainerConfig;

use super::plan::Planned;
use crate::paths::Paths;
use crate::records::{self, ContainerRecord};
use crate::sandbox::state_error;
use crate::spec::Device;
use crate::{Error, host, state};

/// Below /dev, but no devices of the host: mounts of their own, or this machine's console.
const NO_DEVICES: [&str; 7] = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", "console"];

/// Makes what a container needs before it starts, its record first.
pub(crate) fn make(planned: &Planned, record: &ContainerRecord, paths: &Paths) -> Result<(), Error> {
    write_record("cri.write_container_intent", record, paths)?;
    let layer = paths.writable_layer(&record.id);
    state::mkdir("cri.make_writable_layer", &layer, 0o711).map_err(state_error)?;
    // The upper directory is the root directory that the container sees.
    state::mkdir("cri.make_upper_directory", &layer.join("upper"), 0o755).map_err(state_error)?;
    state::mkdir("cri.make_work_directory", &layer.join("work"), 0o711).map_err(state_error)?;
    if let Some(directory) = Path::new(&planned.log_path).parent() {
        state::mkdir("cri.make_log_directory", directory, 0o755).map_err(state_error)?;
    }
    for source in &planned.bind_sources {
        host::make_bind_source("cri.make_bind_source", source)?;
    }
    Ok(())
}

/// Removes all of a container that no process is left of; its record last.
pub(crate) fn remove(record: &ContainerRecord, paths: &Paths) -> Result<(), Error> {
    let cgroup = paths.cgroup(&record.cgroup);
    host::kill_cgroup("cri.kill_removed_cgroup", &cgroup)?;
    host::remove_cgroup("cri.remove_removed_cgroup", &cgroup)?;
    host::remove_layer("cri.remove_writable_layer", &paths.writable_layer(&record.id))?;
    state::remove(
        "cri.remove_exit_record",
        &paths.exit_record(&record.sandbox, &record.id),
    )
    .map_err(state_error)?;
    state::remove(
        "cri.remove_container_record",
        &paths.container_record(&record.sandbox, &record.id),
    )
    .map_err(state_error)
}

/// Writes the record of a container.
pub(crate) fn write_record(point: &str, record: &ContainerRecord, paths: &Paths) -> Result<(), Error> {
    records::store(
        point,
        &paths.container_record(&record.sandbox, &record.id),
        record,
    )
    .map_err(state_error)
}

/// The host's devices that a container asks for; all of them if it is privileged.
pub(crate) fn devices(config: &ContainerConfig) -> Result<Vec<Device>, Error> {
    let mut devices = Vec::new();
    let security = config
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref());
    if security.is_some_and(|security| security.privileged) {
        collect(Path::new("/dev"), Path::new("/dev"), "rwm", &mut devices)?;
    }
    for device in &config.devices {
        let (host, inside) = (Path::new(&device.host_path), Path::new(&device.container_path));
        let inside = if device.container_path.is_empty() {
            host
        } else {
            inside
        };
        let access = if device.permissions.is_empty() {
            "rwm"
        } else {
            &device.permissions
        };
        let before = devices.len();
        collect(host, inside, access, &mut devices)?;
        if devices.len() == before {
            return Err(Error::invalid(
                "config.devices",
                format!("{} is not a device", host.display()),
            ));
        }
    }
    Ok(devices)
}

/// Adds the device at `host`, or every device below it, under the name it has inside.
fn collect(host: &Path, inside: &Path, access: &str, devices: &mut Vec<Device>) -> Result<(), Error> {
    // A link is followed only where the pod names it; those below a directory are names of devices that come anyway.
    let metadata = std::fs::metadata(host).map_err(Error::io("look at device", host.display()))?;
    if !metadata.is_dir() {
        devices.extend(device(&metadata, inside, access));
        return Ok(());
    }
    let mut pending: Vec<(PathBuf, PathBuf)> = vec![(host.to_owned(), inside.to_owned())];
    while let Some((host, inside)) = pending.pop() {
        for entry in std::fs::read_dir(&host).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if host == Path::new("/dev") && NO_DEVICES.iter().any(|no_device| name == *no_device) {
                continue;
            }
            // Devices come and go while one looks.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                pending.push((entry.path(), inside.join(&name)));
            } else {
                devices.extend(device(&metadata, &inside.join(&name), access));
            }
        }
    }
    Ok(())
}

fn device(metadata: &std::fs::Metadata, inside: &Path, access: &str) -> Option<Device> {
    let kind = metadata.file_type();
    let typ = if kind.is_block_device() {
        LinuxDeviceType::B
    } else if kind.is_char_device() {
        LinuxDeviceType::C
    } else {
        return None;
    };
    let node = LinuxDeviceBuilder::default()
        .path(inside)
        .typ(typ)
        .major(i64::from(rustix::fs::major(metadata.rdev())))
        .minor(i64::from(rustix::fs::minor(metadata.rdev())))
        .file_mode(metadata.mode() & 0o777)
        .uid(metadata.uid())
        .gid(metadata.gid())
        .build()
        .expect("every field has a default");
    Some(Device {
        node,
        access: access.to_owned(),
    })
}
