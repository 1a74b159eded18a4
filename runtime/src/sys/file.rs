//! Files and directories: each effect takes the name of its fault point.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use super::point;

/// Most bytes that [`read_bounded`] takes.
pub(crate) const READ_LIMIT: usize = 1 << 20;

/// Makes one directory; no error if it is there.
pub(crate) fn ensure_directory(name: &str, path: &Path, mode: u32) -> Result<(), Errno> {
    point(name);
    match rustix::fs::mkdir(path, Mode::from_raw_mode(mode)) {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

/// Makes directory `child` in `parent`; no error if it is there.
pub(crate) fn ensure_directory_at(parent: impl AsFd, child: &str, mode: u32) -> Result<(), Errno> {
    point("runtime.make_mount_point");
    match rustix::fs::mkdirat(parent, child, Mode::from_raw_mode(mode)) {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

/// Makes an empty regular file `child` in `parent`; an error if the name is taken.
pub(crate) fn make_file_at(parent: impl AsFd, child: &str, mode: u32) -> Result<OwnedFd, Errno> {
    point("runtime.make_mount_point");
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    rustix::fs::openat(parent, child, flags, Mode::from_raw_mode(mode))
}

/// Makes a device node.
pub(crate) fn make_device_at(
    parent: impl AsFd,
    child: &str,
    kind: FileType,
    mode: u32,
    device: (u32, u32),
) -> Result<(), Errno> {
    point("runtime.make_device");
    let number = rustix::fs::makedev(device.0, device.1);
    rustix::fs::mknodat(parent, child, kind, Mode::from_raw_mode(mode), number)
}

/// Gives `child` of `parent`, not followed if a link, an owner.
pub(crate) fn set_owner_at(parent: impl AsFd, child: &str, uid: u32, gid: u32) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::fs::chownat(parent, child, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}

/// Gives an open file an owner.
pub(crate) fn set_owner(file: impl AsFd, uid: u32, gid: u32) -> Result<(), Errno> {
    rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
}

/// Makes symbolic link `child` in `parent`.
pub(crate) fn make_link_at(target: &str, parent: impl AsFd, child: &str) -> Result<(), Errno> {
    point("runtime.make_device_link");
    rustix::fs::symlinkat(target, parent, child)
}

/// Writes `bytes` to an existing file of `parent` in one call.
pub(crate) fn write_at(name: &str, parent: impl AsFd, path: &str, bytes: &[u8]) -> Result<(), Errno> {
    point(name);
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat2(parent, path, flags, Mode::empty(), resolve)?;
    match rustix::io::write(&file, bytes)? {
        written if written == bytes.len() => Ok(()),
        _ => Err(Errno::IO),
    }
}

/// Opens a log file for appending, made 0640 if absent.
pub(crate) fn open_log(path: &Path) -> Result<OwnedFd, Errno> {
    point("runtime.open_log");
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o640))?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(0o640))?;
    Ok(file)
}

/// Replaces `directory/child` by a file of `bytes`: temporary file, sync, rename.
pub(crate) fn replace(directory: &Path, child: &str, bytes: &[u8]) -> Result<(), Errno> {
    point("runtime.write_exit_record");
    let directory = rustix::fs::open(
        directory,
        OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let temporary = format!(".{child}.new");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(&directory, temporary.as_str(), flags, Mode::from_raw_mode(0o600))?;
    let mut left = bytes;
    while !left.is_empty() {
        left = &left[rustix::io::retry_on_intr(|| rustix::io::write(&file, left))?..];
    }
    rustix::fs::fsync(&file)?;
    point("runtime.rename_exit_record");
    rustix::fs::renameat(&directory, temporary.as_str(), &directory, child)
}

/// Removes a file; no error if it is not there.
pub(crate) fn remove(name: &str, path: &Path) -> Result<(), Errno> {
    point(name);
    match rustix::fs::unlink(path) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// All of an open file, an error if it is longer than [`READ_LIMIT`].
pub(crate) fn read_bounded(file: impl AsFd) -> Result<Vec<u8>, Errno> {
    let mut content = Vec::new();
    let mut chunk = [0u8; 4096];
    loop {
        let length = rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut chunk))?;
        if length == 0 {
            return Ok(content);
        }
        if content.len() + length > READ_LIMIT {
            return Err(Errno::FBIG);
        }
        content.extend_from_slice(&chunk[..length]);
    }
}

/// The host's `/dev/null`, proven to be the character device 1:3.
pub(crate) fn open_null() -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NOCTTY;
    let null = rustix::fs::openat(CWD, "/dev/null", flags, Mode::empty())?;
    let status = rustix::fs::fstat(&null)?;
    let is_null = FileType::from_raw_mode(status.st_mode) == FileType::CharacterDevice
        && status.st_rdev == rustix::fs::makedev(1, 3);
    if is_null { Ok(null) } else { Err(Errno::NODEV) }
}
