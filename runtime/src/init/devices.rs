//! Device nodes and the links every program expects in /dev.

use std::os::fd::AsFd as _;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::resolve::{self, Kind};
use super::{Init, Trouble};
use crate::failure::About as _;
use crate::plan::{Device, MountKind};
use crate::sys::file;

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Makes the plan's devices and the links, unless /dev is the host's.
pub(super) fn make(init: &mut Init<'_>) -> Result<(), Trouble> {
    let over_dev = init
        .plan
        .mounts
        .iter()
        .rev()
        .find(|mount| mount.destination == "/dev");
    if !over_dev.is_some_and(|mount| matches!(mount.kind, MountKind::FileSystem { .. })) {
        return Ok(());
    }
    for device in &init.plan.devices {
        make_one(init, device)?;
    }
    let dev = resolve::destination(init.root()?, "/dev", Kind::Directory)?;
    for (name, target) in LINKS {
        match file::make_link_at(target, dev.as_fd(), name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(Trouble::kernel(format!("/dev/{name}"), errno)),
        }
    }
    Ok(())
}

fn make_one(init: &Init<'_>, device: &Device) -> Result<(), Trouble> {
    let (parent, name) = resolve::parent(init.root()?, &device.path)?;
    let kind = if device.block {
        FileType::BlockDevice
    } else {
        FileType::CharacterDevice
    };
    match file::make_device_at(
        &parent,
        name,
        kind,
        device.mode & 0o7777,
        (device.major, device.minor),
    ) {
        Ok(()) => file::set_owner_at(&parent, name, device.uid, device.gid).about(&device.path),
        Err(Errno::EXIST) => {
            let number = rustix::fs::makedev(device.major, device.minor);
            let mounted = init
                .plan
                .mounts
                .iter()
                .any(|mount| mount.destination == device.path);
            if mounted || resolve::is_device(&parent, name, number) {
                return Ok(());
            }
            Err(Trouble::kernel(&device.path, Errno::EXIST))
        }
        Err(errno) => Err(Trouble::kernel(&device.path, errno)),
    }
}
