//! Cgroup v2 directories: made, filled in, killed, removed.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{file, point};

/// Directories below a container's cgroup that are removed with it, at most this deep.
const MAX_DEPTH: usize = 32;

/// Makes `path` and what is missing above it; ENOTSUP if that is not in a cgroup2 file system.
pub(crate) fn ensure(name: &str, path: &Path) -> Result<(), Errno> {
    let there = path
        .ancestors()
        .find_map(|above| rustix::fs::statfs(above).ok())
        .ok_or(Errno::NOENT)?;
    if there.f_type != libc::CGROUP2_SUPER_MAGIC {
        return Err(Errno::NOTSUP);
    }
    ensure_below(name, path)
}

fn ensure_below(name: &str, path: &Path) -> Result<(), Errno> {
    match file::ensure_directory(name, path, 0o755) {
        Err(Errno::NOENT) => {
            let parent = path.parent().ok_or(Errno::NOENT)?;
            ensure_below(name, parent)?;
            file::ensure_directory(name, path, 0o755)
        }
        other => other,
    }
}

/// Opens a cgroup directory.
pub(crate) fn open(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(
        path,
        OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// Whether `controller` is handed to the children of `path`; turned on there if the group has it.
pub(crate) fn enable_controller(path: &Path, controller: &str) -> Result<bool, Errno> {
    let group = open(path)?;
    if lists(&group, "cgroup.subtree_control", controller)? {
        return Ok(true);
    }
    if !lists(&group, "cgroup.controllers", controller)? {
        return Ok(false);
    }
    let word = format!("+{controller}");
    file::write_at(
        "runtime.enable_controller",
        &group,
        "cgroup.subtree_control",
        word.as_bytes(),
    )?;
    Ok(true)
}

fn lists(group: impl AsFd, file_name: &str, word: &str) -> Result<bool, Errno> {
    let text = read(group, file_name)?;
    Ok(text.split_ascii_whitespace().any(|w| w == word))
}

/// The text of a file of a cgroup.
pub(crate) fn read(group: impl AsFd, file_name: &str) -> Result<String, Errno> {
    let opened = rustix::fs::openat(group, file_name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    String::from_utf8(file::read_bounded(opened)?).map_err(|_| Errno::ILSEQ)
}

/// Writes a file of a cgroup.
pub(crate) fn write(group: impl AsFd, file_name: &str, value: &str) -> Result<(), Errno> {
    file::write_at("runtime.write_cgroup", group, file_name, value.as_bytes())
}

/// Kills every process of the cgroup and below.
pub(crate) fn kill(group: impl AsFd) -> Result<(), Errno> {
    file::write_at("runtime.cgroup_kill", group, "cgroup.kill", b"1")
}

/// Removes the cgroup and all below it, which must be empty of processes; no error if it is gone.
pub(crate) fn remove(path: &Path) -> Result<(), Errno> {
    point("runtime.rmdir_cgroup");
    match rustix::fs::rmdir(path) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::BUSY) => {
            remove_below(path, 0)?;
            rustix::fs::rmdir(path)
        }
        Err(errno) => Err(errno),
    }
}

fn remove_below(path: &Path, depth: usize) -> Result<(), Errno> {
    if depth == MAX_DEPTH {
        return Err(Errno::LOOP);
    }
    let group = open(path)?;
    let mut children: Vec<PathBuf> = Vec::new();
    for entry in Dir::read_from(&group)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if entry.file_type() == FileType::Directory && name != b"." && name != b".." {
            children.push(path.join(entry.file_name().to_string_lossy().as_ref()));
        }
    }
    for child in children {
        remove_below(&child, depth + 1)?;
        match rustix::fs::unlinkat(rustix::fs::CWD, &child, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
