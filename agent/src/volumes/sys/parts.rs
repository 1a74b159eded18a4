//! Parts of volumes: opened without leaving the volume, shown elsewhere by a bind mount of the handle.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{self, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::{Dir, INSIDE, failed};
use crate::fault;
use crate::volumes::error::FileError;

/// An open part of a volume, ready to be shown elsewhere.
pub(in crate::volumes) struct Part {
    fd: OwnedFd,
    /// It is a directory.
    pub(in crate::volumes) is_directory: bool,
}

/// Opens `path` inside the volume at `volume`: links are followed as far as they stay inside.
pub(in crate::volumes) fn open_part(volume: &Path, path: &str) -> Result<Part, FileError> {
    let whole = volume.join(path);
    let open = || -> rustix::io::Result<Part> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let root = fs::open(volume, flags, Mode::empty())?;
        let fd = fs::openat2(
            &root,
            path,
            flags,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
        )?;
        let is_directory = FileType::from_raw_mode(fs::fstat(&fd)?.st_mode) == FileType::Directory;
        Ok(Part { fd, is_directory })
    };
    open().map_err(failed("open", whole))
}

/// Makes the directories of `path` inside the volume at `volume` that are not there, each like the volume's root.
pub(in crate::volumes) fn make_part(volume: &Path, path: &str) -> Result<(), FileError> {
    fault::point("volumes.make_subpath");
    let whole = volume.join(path);
    let make = || -> rustix::io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let mut dir = fs::open(volume, flags, Mode::empty())?;
        let like = fs::fstat(&dir)?;
        for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
            dir = match fs::openat2(&dir, part, flags, Mode::empty(), resolve) {
                Err(Errno::NOENT) => {
                    match fs::mkdirat(&dir, part, Mode::from_raw_mode(0o700)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(errno) => return Err(errno),
                    }
                    let made = fs::openat2(&dir, part, flags | OFlags::NOFOLLOW, Mode::empty(), resolve)?;
                    fs::fchown(&made, None, Some(fs::Gid::from_raw(like.st_gid)))?;
                    fs::fchmod(&made, Mode::from_raw_mode(like.st_mode & 0o7777))?;
                    made
                }
                other => other?,
            };
        }
        Ok(())
    };
    make().map_err(failed("make", whole))
}

/// Shows `part` at `name` in `dir`, which is made to fit: a file for a file.
pub(in crate::volumes) fn bind(part: &Part, dir: &Dir, name: &str) -> Result<(), FileError> {
    fault::point("volumes.bind_subpath");
    let path = dir.path.join(name);
    let make = || -> rustix::io::Result<()> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE;
        let tree = open_tree(&part.fd, "", flags)?;
        let target = fs::openat2(
            &dir.fd,
            name,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
            INSIDE | ResolveFlags::NO_XDEV,
        )?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&tree, "", &target, "", flags)
    };
    make().map_err(failed("bind", path))
}
