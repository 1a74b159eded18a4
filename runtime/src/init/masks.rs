//! Paths hidden or made read-only. Each is resolved once; every step works on that descriptor.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{FileType, StatVfsMountFlags};
use rustix::io::Errno;

use super::{Init, Trouble, resolve};
use crate::failure::About as _;
use crate::sys::mount;

/// Opens a path that need not be there.
fn find(init: &Init<'_>, path: &str) -> Result<Option<OwnedFd>, Trouble> {
    match resolve::existing(init.root()?, path) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(Trouble::kernel(path, errno)),
    }
}

/// Hides paths: a file behind the host's null device, a directory behind an empty read-only one.
pub(super) fn mask(init: &mut Init<'_>) -> Result<(), Trouble> {
    let null = init
        .null
        .as_ref()
        .ok_or_else(|| Trouble::rule("/dev/null", "it is not open"))?;
    for path in &init.plan.masked_paths {
        let Some(target) = find(init, path)? else { continue };
        let mode = rustix::fs::fstat(&target).about(path)?.st_mode;
        let cover = if FileType::from_raw_mode(mode) == FileType::Directory {
            let attributes = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
            let options = ["mode=555".to_owned(), "nr_inodes=1".to_owned()];
            mount::new_file_system("tmpfs", &options, attributes | libc::MOUNT_ATTR_NOEXEC).about(path)?
        } else {
            mount::copy_opened(null, false).about(path)?
        };
        mount::attach(&cover, target.as_fd()).about(path)?;
    }
    Ok(())
}

/// Makes paths read-only, with what is mounted below them.
pub(super) fn make_readonly(init: &mut Init<'_>) -> Result<(), Trouble> {
    for path in &init.plan.readonly_paths {
        let Some(target) = find(init, path)? else { continue };
        let copy = mount::copy_opened(&target, true).about(path)?;
        mount::set_attributes(&copy, true, libc::MOUNT_ATTR_RDONLY, 0, 0).about(path)?;
        let flags = rustix::fs::fstatvfs(&copy).about(path)?.f_flag;
        if !flags.contains(StatVfsMountFlags::RDONLY) {
            return Err(Trouble::rule(path, "stays writable"));
        }
        mount::attach(&copy, target.as_fd()).about(path)?;
    }
    Ok(())
}
