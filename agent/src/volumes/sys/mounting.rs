//! File systems in memory, and mounts taken off.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::path::Path;

use rustix::fs::{self, AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};

use super::{Dir, INSIDE, failed, magic_path};
use crate::fault;
use crate::volumes::error::FileError;

impl Dir {
    /// Mounts a tmpfs on this directory: of at most `size` bytes, never swapped out where the kernel can promise it.
    pub(in crate::volumes) fn mount_tmpfs(&self, size: Option<u64>, mode: u32) -> Result<(), FileError> {
        fault::point("volumes.mount_tmpfs");
        let make = || -> rustix::io::Result<()> {
            let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
            fsconfig_set_string(&context, "source", "tmpfs")?;
            fsconfig_set_string(&context, "mode", format!("{mode:o}"))?;
            if let Some(size) = size {
                fsconfig_set_string(&context, "size", size.to_string())?;
            }
            match fsconfig_set_flag(&context, "noswap") {
                // Kernels before 6.4 do not know it.
                Ok(()) | Err(Errno::INVAL) => {}
                Err(errno) => return Err(errno),
            }
            fsconfig_create(&context)?;
            let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
            move_mount(&mount, "", &self.fd, "", flags)
        };
        make().map_err(failed("mount tmpfs on", self.path.clone()))?;
        fault::point("volumes.mounted_tmpfs");
        Ok(())
    }

    /// Takes the mount whose root lies at `place` below this directory off, if it is the one with `mount_id`.
    /// False: another mount covers it.
    pub(in crate::volumes) fn unmount(&self, place: &Path, mount_id: u64) -> Result<bool, FileError> {
        fault::point("volumes.unmount");
        let path = self.path.join(place);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = fs::openat2(&self.fd, place, flags, Mode::empty(), INSIDE)
            .map_err(failed("open", path.clone()))?;
        let stat = fs::statx(&fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)
            .map_err(failed("look at", path.clone()))?;
        if stat.stx_mnt_id != mount_id {
            return Ok(false);
        }
        // Detached at once: the handle keeps it busy for an ordinary unmount.
        unmount(magic_path(fd.as_fd()), UnmountFlags::DETACH).map_err(failed("unmount", path))?;
        Ok(true)
    }
}

/// The mounts this process sees.
pub(in crate::volumes) fn mount_info() -> Result<Vec<u8>, FileError> {
    // Nodes with thousands of pods have megabytes of it; more than this is no node.
    const LIMIT: u64 = 256 * 1024 * 1024;
    let path = Path::new("/proc/self/mountinfo");
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LIMIT).read_to_end(&mut text));
    read.map_err(|cause: io::Error| FileError {
        operation: "read",
        path: path.to_owned(),
        cause,
    })?;
    Ok(text)
}
