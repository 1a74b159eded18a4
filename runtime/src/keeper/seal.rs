//! The keeper's own executable, out of reach: a container's process can name what it was before it became its program
//! (`/proc/self/exe`, also as an interpreter), and could write there once nothing runs from it.
//!
//! The keeper executes itself again from a read-only copy of the mount that its executable is on. The file and its
//! pages are the same, only that way to it takes no writes; nothing else leads to that mount.

use std::ffi::CString;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;

use rustix::fs::{Mode, OFlags, StatVfsMountFlags};

use crate::failure::{About as _, Trouble};
use crate::sys::{mount, process};

/// Second argument of a keeper that went this way.
pub(super) const SEALED: &str = "sealed";

const EXECUTABLE: &str = "/proc/self/exe";

/// Goes on only in a process whose executable takes no writes; `again` says that this is the second time here.
pub(super) fn seal(again: bool) -> Result<(), Trouble> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let executable = rustix::fs::open(EXECUTABLE, flags, Mode::empty()).about(EXECUTABLE)?;
    if rustix::fs::fstatvfs(&executable)
        .about(EXECUTABLE)?
        .f_flag
        .contains(StatVfsMountFlags::RDONLY)
    {
        return Ok(());
    }
    if again {
        return Err(Trouble::rule(EXECUTABLE, "takes writes although it was sealed"));
    }
    let sealed = open_sealed()?;
    let arguments = std::env::args_os().take(2).map(|argument| argument.into_vec());
    let arguments = arguments
        .chain([SEALED.as_bytes().to_vec()])
        .map(string)
        .collect::<Result<Vec<_>, _>>()?;
    let environment = std::env::vars_os().map(|(key, value)| [key.into_vec(), value.into_vec()].join(&b'='));
    let environment = environment.map(string).collect::<Result<Vec<_>, _>>()?;
    Err(Trouble::kernel(
        EXECUTABLE,
        process::exec_opened(sealed.as_fd(), &arguments, &environment),
    ))
}

/// The executable by way of a read-only mount that nobody else has.
fn open_sealed() -> Result<OwnedFd, Trouble> {
    let copy = mount::copy_tree(EXECUTABLE, false).about(EXECUTABLE)?;
    let attributes = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    mount::set_attributes(&copy, false, attributes, 0, libc::MS_PRIVATE).about(EXECUTABLE)?;
    let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
    rustix::fs::open(path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).about(EXECUTABLE)
}

fn string(bytes: Vec<u8>) -> Result<CString, Trouble> {
    CString::new(bytes).map_err(|_| Trouble::rule("argument", "holds a NUL byte"))
}
