//! The container's root: mounted, entered, sealed.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};

use super::resolve::{self, Kind};
use super::{Init, Trouble};
use crate::failure::About as _;
use crate::plan::Rootfs;
use crate::sys::mount as effects;

fn open_directory(path: &String) -> Result<OwnedFd, Trouble> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path.as_str(), flags, Mode::empty()).about(path)
}

/// Mounts the root over this namespace's, where it waits for the pivot.
pub(super) fn mount(init: &mut Init<'_>) -> Result<(), Trouble> {
    let root = match &init.plan.rootfs {
        Rootfs::Overlay {
            lower, upper, work, ..
        } => {
            let layers = lower.iter().map(open_directory).collect::<Result<Vec<_>, _>>()?;
            let (upper_directory, work) = (open_directory(upper)?, open_directory(work)?);
            effects::new_overlay(&layers, &upper_directory, &work).about(upper)?
        }
        Rootfs::Directory { path, .. } => {
            let tree = effects::copy_tree(path, true).about(path)?;
            effects::set_attributes(&tree, true, 0, 0, libc::MS_PRIVATE).about(path)?;
            tree
        }
    };
    effects::attach_over_root(&root).about("/")?;
    init.root = Some(root);
    Ok(())
}

/// Makes the root read-only once every mount point in it is made.
pub(super) fn make_readonly(init: &mut Init<'_>) -> Result<(), Trouble> {
    let (Rootfs::Overlay { readonly, .. } | Rootfs::Directory { readonly, .. }) = &init.plan.rootfs;
    if *readonly {
        effects::set_attributes(init.root()?, false, libc::MOUNT_ATTR_RDONLY, 0, 0).about("/")?;
    }
    Ok(())
}

/// Makes the container's root ours and lets go of the host's.
pub(super) fn pivot(init: &mut Init<'_>) -> Result<(), Trouble> {
    rustix::process::fchdir(init.root()?).about("/")?;
    effects::pivot_to_working_directory().about("/")
}

/// Enters the working directory, made if absent.
pub(super) fn change_directory(init: &mut Init<'_>) -> Result<(), Trouble> {
    let cwd = &init.plan.process.cwd;
    let worded = |errno: rustix::io::Errno| {
        let text = crate::failure::text_of(errno);
        Trouble::worded(
            cwd,
            errno,
            format!("chdir to cwd ({cwd:?}) set in config.json failed: {text}"),
        )
    };
    if !cwd.starts_with('/') {
        return Err(Trouble::rule(cwd, "working directory is not an absolute path"));
    }
    let directory = match resolve::existing(init.root()?, cwd) {
        Ok(directory) => directory,
        Err(rustix::io::Errno::NOENT) => resolve::destination(init.root()?, cwd, Kind::Directory)?,
        Err(errno) => return Err(worded(errno)),
    };
    rustix::process::fchdir(&directory).map_err(worded)?;
    // The kernel's getcwd says "(unreachable)" for a directory outside the root.
    let here = rustix::process::getcwd(Vec::new()).map_err(worded)?;
    if here.to_bytes().first() != Some(&b'/') {
        return Err(Trouble::rule(
            cwd,
            "working directory is outside the container's root",
        ));
    }
    Ok(())
}
