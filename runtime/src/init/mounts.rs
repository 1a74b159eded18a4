//! The plan's mounts: sources taken from the host's tree, destinations found in the container's.

use std::io::BufRead as _;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, PROC_SUPER_MAGIC, StatxFlags};

use super::resolve::{self, Kind};
use super::{Init, Trouble};
use crate::failure::About as _;
use crate::plan::{Mount, MountKind, Propagation};
use crate::sys::mount;

/// Bits of the access-time setting, which is one value in several bits.
const ACCESS_TIME: u64 = libc::MOUNT_ATTR__ATIME;

/// Destinations at which a link would let the image choose what later steps write to.
const PLAIN: [&str; 3] = ["/proc", "/sys", "/dev"];

/// Copies what bind mounts show, while mounts of the host still travel here: a slave must stay tied to its master.
pub(super) fn open_sources(init: &mut Init<'_>) -> Result<(), Trouble> {
    for mount in &init.plan.mounts {
        let source = match &mount.kind {
            MountKind::Bind {
                source,
                recursive,
                recursive_readonly,
            } => {
                if mount.propagation == Propagation::Shared {
                    check_shared(source)?;
                }
                let tree = mount::copy_tree(source, *recursive).about(source)?;
                tie(&tree, mount.propagation).about(source)?;
                dress(&tree, mount, *recursive_readonly).about(source)?;
                Some(tree)
            }
            MountKind::FileSystem { .. } => None,
        };
        init.sources.push(source);
    }
    Ok(())
}

fn tie(tree: &OwnedFd, propagation: Propagation) -> Result<(), rustix::io::Errno> {
    let kind = match propagation {
        Propagation::Private => libc::MS_PRIVATE,
        Propagation::Slave => libc::MS_SLAVE,
        Propagation::Shared => libc::MS_SHARED,
    };
    mount::set_attributes(tree, true, 0, 0, kind)
}

/// What is mounted in the container shows on the host only if the source is on a shared mount there.
fn check_shared(source: &str) -> Result<(), Trouble> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let opened = rustix::fs::open(source, flags, Mode::empty()).about(source)?;
    let status = rustix::fs::statx(&opened, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).about(source)?;
    let id = status.stx_mnt_id.to_string();
    let table = std::fs::File::open("/proc/self/mountinfo")
        .map_err(|error| Trouble::rule(source, error.to_string()))?;
    for line in std::io::BufReader::new(table).lines() {
        let line = line.map_err(|error| Trouble::rule(source, error.to_string()))?;
        let mut fields = line.split(' ');
        if fields.next() != Some(&id) {
            continue;
        }
        let place = fields.nth(3).unwrap_or_default().to_owned();
        // Between the options and a dash come the tags.
        if fields
            .skip(1)
            .take_while(|field| *field != "-")
            .any(|tag| tag.starts_with("shared:"))
        {
            return Ok(());
        }
        let text = format!("path {source:?} is mounted on {place:?} but it is not a shared mount");
        return Err(Trouble::rule(source, text));
    }
    Err(Trouble::rule(source, "its mount is not in the table of mounts"))
}

/// Gives a bind its attributes; what is not named stays as it is on the host.
fn dress(tree: &OwnedFd, mount: &Mount, recursive_readonly: bool) -> Result<(), rustix::io::Errno> {
    if recursive_readonly {
        mount::set_attributes(tree, true, libc::MOUNT_ATTR_RDONLY, 0, 0)?;
    }
    // relatime is the zero of the access-time bits: only `cleared` shows that it was asked for.
    let touches_time = (mount.flags | mount.cleared) & ACCESS_TIME != 0;
    let cleared = (mount.cleared & !ACCESS_TIME) | if touches_time { ACCESS_TIME } else { 0 };
    if mount.flags | cleared == 0 {
        return Ok(());
    }
    mount::set_attributes(tree, false, mount.flags, cleared, 0)
}

/// Puts every mount in its place, in order.
pub(super) fn attach_all(init: &mut Init<'_>) -> Result<(), Trouble> {
    for (mount, source) in init.plan.mounts.iter().zip(std::mem::take(&mut init.sources)) {
        let root = init.root()?;
        let (tree, kind) = match (&mount.kind, source) {
            (MountKind::FileSystem { name, options }, _) => {
                let tree = mount::new_file_system(name, options, mount.flags)
                    .about(format!("{name} at {}", mount.destination))?;
                if mount.propagation != Propagation::Private {
                    tie(&tree, mount.propagation).about(&mount.destination)?;
                }
                (tree, Kind::Directory)
            }
            (MountKind::Bind { source, .. }, Some(tree)) => {
                check_procfs(&tree, &mount.destination)?;
                let mode = rustix::fs::fstat(&tree).about(source)?.st_mode;
                let directory = FileType::from_raw_mode(mode) == FileType::Directory;
                (tree, if directory { Kind::Directory } else { Kind::File })
            }
            (MountKind::Bind { source, .. }, None) => {
                return Err(Trouble::rule(source, "source was not opened"));
            }
        };
        let strict = PLAIN.contains(&mount.destination.as_str()) || is_kernel_view(&mount.kind);
        let target = if strict {
            resolve::plain_directory(root, &mount.destination)?
        } else {
            resolve::destination(root, &mount.destination, kind)?
        };
        mount::attach(&tree, target.as_fd()).about(&mount.destination)?;
    }
    Ok(())
}

fn is_kernel_view(kind: &MountKind) -> bool {
    matches!(kind, MountKind::FileSystem { name, .. } if name == "proc" || name == "sysfs")
}

/// Over /proc goes a procfs or nothing: what later steps and the container write there must not be the image's files.
fn check_procfs(tree: &OwnedFd, destination: &str) -> Result<(), Trouble> {
    if destination != "/proc" || rustix::fs::fstatfs(tree).about(destination)?.f_type == PROC_SUPER_MAGIC {
        return Ok(());
    }
    Err(Trouble::rule(
        destination,
        "only a proc file system can be mounted here",
    ))
}
