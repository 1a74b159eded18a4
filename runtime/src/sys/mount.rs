//! Mounts by descriptor: nothing here takes a path of a container.
#![expect(unsafe_code, reason = "mount_setattr has no safe binding")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags,
};

use super::point;

/// A refused file system: the error number and what the kernel wrote into the context's log.
pub(crate) struct Refused {
    pub(crate) errno: Errno,
    pub(crate) message: Option<String>,
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Self {
        Self { errno, message: None }
    }
}

/// A new file system instance as a detached mount with `attributes` (`MOUNT_ATTR_*`); options are `key=value` or `key`.
pub(crate) fn new_file_system(name: &str, options: &[String], attributes: u64) -> Result<OwnedFd, Refused> {
    point(point_of(name));
    let context = rustix::mount::fsopen(name, FsOpenFlags::FSOPEN_CLOEXEC)?;
    let configured = options
        .iter()
        .try_for_each(|option| match option.split_once('=') {
            Some((key, value)) => rustix::mount::fsconfig_set_string(&context, key, value),
            None => rustix::mount::fsconfig_set_flag(&context, option.as_str()),
        });
    configured
        .and_then(|()| rustix::mount::fsconfig_create(&context))
        .map_err(|errno| refused(&context, errno))?;
    let attributes = MountAttrFlags::from_bits_retain(u32::try_from(attributes).map_err(|_| Errno::INVAL)?);
    Ok(rustix::mount::fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes,
    )?)
}

fn point_of(file_system: &str) -> &'static str {
    match file_system {
        "proc" => "runtime.mount_proc",
        "sysfs" => "runtime.mount_sysfs",
        "tmpfs" => "runtime.mount_tmpfs",
        "devpts" => "runtime.mount_devpts",
        "mqueue" => "runtime.mount_mqueue",
        "cgroup2" => "runtime.mount_cgroup",
        _ => "runtime.mount_other",
    }
}

fn refused(context: &OwnedFd, errno: Errno) -> Refused {
    Refused {
        errno,
        message: last_message(context.as_fd()),
    }
}

/// How directories are named to overlayfs; each kernel takes the later ones too, older ones take only those.
#[derive(Clone, Copy)]
enum Naming {
    /// By descriptor, from Linux 6.13.
    Descriptor,
    /// One `lowerdir+` a layer, from 6.5.
    Path,
    /// All layers in one `lowerdir`, of at most 255 bytes.
    Joined,
}

/// An overlay of `lower` (topmost first) and a writable layer, as a detached mount.
///
/// Directories are named by descriptor only. The oldest way of naming needs the working directory, which is `/` after.
pub(crate) fn new_overlay(lower: &[OwnedFd], upper: &OwnedFd, work: &OwnedFd) -> Result<OwnedFd, Refused> {
    point("runtime.mount_root");
    for naming in [Naming::Descriptor, Naming::Path, Naming::Joined] {
        let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        match name_layers(&context, naming, lower, upper, work) {
            Err(Errno::INVAL) if !matches!(naming, Naming::Joined) => continue,
            Err(errno) => return Err(refused(&context, errno)),
            Ok(()) => {}
        }
        let created = rustix::mount::fsconfig_create(&context);
        rustix::process::chdir("/")?;
        created.map_err(|errno| refused(&context, errno))?;
        return Ok(rustix::mount::fsmount(
            &context,
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::empty(),
        )?);
    }
    unreachable!("the last naming returns")
}

fn name_layers(
    context: &OwnedFd,
    naming: Naming,
    lower: &[OwnedFd],
    upper: &OwnedFd,
    work: &OwnedFd,
) -> Result<(), Errno> {
    let name = |key: &str, directory: &OwnedFd| match naming {
        Naming::Descriptor => rustix::mount::fsconfig_set_fd(context, key, directory),
        Naming::Path => rustix::mount::fsconfig_set_string(
            context,
            key,
            format!("/proc/self/fd/{}", directory.as_raw_fd()),
        ),
        Naming::Joined => rustix::mount::fsconfig_set_string(context, key, directory.as_raw_fd().to_string()),
    };
    if let Naming::Joined = naming {
        rustix::process::chdir("/proc/self/fd")?;
        let layers: Vec<String> = lower.iter().map(|layer| layer.as_raw_fd().to_string()).collect();
        rustix::mount::fsconfig_set_string(context, "lowerdir", layers.join(":"))?;
    } else {
        lower.iter().try_for_each(|layer| name("lowerdir+", layer))?;
    }
    name("upperdir", upper)?;
    name("workdir", work)
}

/// The first message in the log of a file system context, without its `e ` mark.
fn last_message(context: BorrowedFd<'_>) -> Option<String> {
    let mut buffer = [0u8; 512];
    let length = rustix::io::read(context, &mut buffer).ok()?;
    let text = String::from_utf8_lossy(&buffer[..length]).trim().to_owned();
    Some(text.get(2..).map(str::to_owned).unwrap_or(text))
}

/// A detached copy of what is mounted at the absolute path `source` of the host.
pub(crate) fn copy_tree(source: &str, recursive: bool) -> Result<OwnedFd, Errno> {
    point("runtime.mount_bind");
    let recursion = if recursive {
        OpenTreeFlags::AT_RECURSIVE
    } else {
        OpenTreeFlags::empty()
    };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | recursion;
    rustix::mount::open_tree(CWD, source, flags)
}

/// A detached copy of the mount at an open file, which is a private one of this namespace.
pub(crate) fn copy_opened(source: impl AsFd, recursive: bool) -> Result<OwnedFd, Errno> {
    point("runtime.mount_cover");
    let recursion = if recursive {
        OpenTreeFlags::AT_RECURSIVE
    } else {
        OpenTreeFlags::empty()
    };
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    rustix::mount::open_tree(source, "", flags | recursion)
}

/// Puts the detached mount at `target`, an open file or directory of the tree.
pub(crate) fn attach(mount: impl AsFd, target: impl AsFd) -> Result<(), Errno> {
    point("runtime.attach_mount");
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", target, "", flags)
}

/// Puts the detached mount over the root of this mount namespace.
pub(crate) fn attach_over_root(mount: impl AsFd) -> Result<(), Errno> {
    point("runtime.attach_root");
    rustix::mount::move_mount(mount, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Changes attributes of the mount behind `mount`; `propagation` is one of `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`.
pub(crate) fn set_attributes(
    mount: impl AsFd,
    recursive: bool,
    set: u64,
    clear: u64,
    propagation: u64,
) -> Result<(), Errno> {
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: clear,
        propagation,
        userns_fd: 0,
    };
    let recursion = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: path and attributes live over the call and the size is that of the attributes.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursion,
            &raw const attributes,
            std::mem::size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 {
        return Ok(());
    }
    Err(Errno::from_raw_os_error(
        std::io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO),
    ))
}

/// Nothing mounted from here on in this namespace shows outside, and nothing outside shows here.
pub(crate) fn make_all_private() -> Result<(), Errno> {
    point("runtime.make_private");
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
}

/// Makes the working directory, which is a mount, the root of this namespace and lets go of the old root.
pub(crate) fn pivot_to_working_directory() -> Result<(), Errno> {
    point("runtime.pivot_root");
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")
}
