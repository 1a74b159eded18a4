//! The funnel of effects on the machine that are not records: mounts, cgroups, writable layers. Every function takes
//! the name of its fault point, is idempotent, and blocks.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::{Error, fault};

/// How long the last process of a cgroup may take to go after it was killed.
const EMPTY_WITHIN: Duration = Duration::from_secs(10);

/// Takes the lock on `path` for as long as the file is held; another holder is an error at once.
pub(crate) fn lock(point: &str, path: &Path) -> Result<File, Error> {
    fault::point(point);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path);
    let file = file.map_err(Error::io("open", path.display()))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(Error::Unavailable {
            reason: format!("another engine works here: it holds {}", path.display()),
        }),
        Err(error) => Err(Error::io("lock", path.display())(error)),
    }
}

/// Writes a file that containers may read (0644). No fsync: it lies on tmpfs and is made anew with its sandbox.
pub(crate) fn write_shared_file(point: &str, path: &Path, text: &str) -> Result<(), Error> {
    fault::point(point);
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o644)
            .custom_flags(libc_nofollow())
            .open(path)?;
        file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
        file.write_all(text.as_bytes())
    };
    write().map_err(Error::io("write", path.display()))
}

fn libc_nofollow() -> i32 {
    i32::try_from(OFlags::NOFOLLOW.bits()).expect("O_NOFOLLOW is a small number")
}

/// Makes a host directory that a pod mounts and that is not there, as container runtimes always did.
pub(crate) fn make_bind_source(point: &str, path: &Path) -> Result<(), Error> {
    if std::fs::metadata(path).is_ok() {
        return Ok(());
    }
    fault::point(point);
    std::fs::create_dir_all(path).map_err(Error::io("make host path", path.display()))
}

/// Mounts the shared memory of a sandbox: a tmpfs of 64 MiB for everyone.
pub(crate) fn mount_shm(point: &str, path: &Path) -> Result<(), Error> {
    fault::point(point);
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("shm", path, "tmpfs", flags, Some(c"mode=1777,size=65536k"))
        .map_err(Error::io("mount shared memory at", path.display()))
}

/// Pins the network namespace of process `pid` at `path` and opens it.
pub(crate) fn bind_network_namespace(point: &str, pid: u32, path: &Path) -> Result<OwnedFd, Error> {
    fault::point(point);
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o444)
        .open(path)
        .map_err(Error::io("make", path.display()))?;
    rustix::mount::mount_bind(format!("/proc/{pid}/ns/net"), path)
        .map_err(Error::io("pin network namespace at", path.display()))?;
    File::open(path)
        .map(OwnedFd::from)
        .map_err(Error::io("open network namespace", path.display()))
}

/// Takes away every mount at `path`; none is success.
pub(crate) fn unmount(point: &str, path: &Path) -> Result<(), Error> {
    fault::point(point);
    loop {
        match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(error) => return Err(Error::io("unmount", path.display())(error)),
        }
    }
}

/// Kills every process below a cgroup; one that is not there is success.
pub(crate) fn kill_cgroup(point: &str, path: &Path) -> Result<(), Error> {
    fault::point(point);
    match OpenOptions::new()
        .write(true)
        .open(path.join("cgroup.kill"))
        .and_then(|mut file| file.write_all(b"1"))
    {
        // ENODEV: removed between open and write.
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(19) => Ok(()),
        other => other.map_err(Error::io("kill processes of cgroup", path.display())),
    }
}

/// Removes a cgroup and those below it, waiting for processes on their way out; one that is not there is success.
pub(crate) fn remove_cgroup(point: &str, path: &Path) -> Result<(), Error> {
    fault::point(point);
    remove_empty_cgroup(path, 0)
}

fn remove_empty_cgroup(path: &Path, depth: usize) -> Result<(), Error> {
    match std::fs::remove_dir(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) && depth < 64 => {}
        Err(error) => return Err(Error::io("remove cgroup", path.display())(error)),
    }
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_empty_cgroup(&entry.path(), depth + 1)?;
        }
    }
    wait_until_empty(path)?;
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(Error::io("remove cgroup", path.display())),
    }
}

/// Waits until no process is left in a cgroup: the kernel says so by an exceptional condition on `cgroup.events`.
fn wait_until_empty(path: &Path) -> Result<(), Error> {
    let deadline = std::time::Instant::now() + EMPTY_WITHIN;
    let events = match File::open(path.join("cgroup.events")) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("watch cgroup", path.display())(error)),
    };
    loop {
        let mut text = String::new();
        let read = rustix::fs::seek(&events, rustix::fs::SeekFrom::Start(0))
            .map_err(io::Error::from)
            .and_then(|_| (&events).take(4096).read_to_string(&mut text));
        match read {
            Ok(_) if text.lines().any(|line| line == "populated 0") => return Ok(()),
            Ok(_) => {}
            // The cgroup went while we held its file.
            Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => return Ok(()),
            Err(error) => return Err(Error::io("watch cgroup", path.display())(error)),
        }
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        if left.is_zero() {
            let (object, seconds) = (path.display().to_string(), EMPTY_WITHIN.as_secs());
            return Err(Error::Timeout {
                operation: "processes of cgroup",
                object,
                seconds,
            });
        }
        let timeout = Timespec::try_from(left).expect("seconds fit a timespec");
        let mut watched = [PollFd::from_borrowed_fd(events.as_fd(), PollFlags::PRI)];
        match rustix::event::poll(&mut watched, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(Error::io("watch cgroup", path.display())(error)),
        }
    }
}

/// Removes a writable layer with all that containers put there; one that is not there is success.
///
/// Nothing is followed and no mount is crossed. Directories that are not empty are moved up to the top and emptied
/// there in turn, so that no depth of nesting needs a deep stack or many descriptors.
pub(crate) fn remove_layer(point: &str, path: &Path) -> Result<(), Error> {
    fault::point(point);
    let failed = |error: Errno| Error::io("remove writable layer", path.display())(error);
    let top = match open_directory(rustix::fs::CWD, path) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    let mut next: u64 = 0;
    loop {
        let names = entries(&top).map_err(failed)?;
        if names.is_empty() {
            break;
        }
        for name in names {
            if !unlink(&top, &name).map_err(failed)? {
                empty(&top, &name, &mut next).map_err(failed)?;
            }
        }
    }
    drop(top);
    match rustix::fs::rmdir(path) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// Empties directory `name` of `top`: what is in it goes, or moves up to `top` under a new name.
fn empty(top: &OwnedFd, name: &OsString, next: &mut u64) -> Result<(), Errno> {
    let directory = open_directory(top, name)?;
    for child in entries(&directory)? {
        if unlink(&directory, &child)? {
            continue;
        }
        loop {
            let moved = format!(".removed-{next}");
            *next += 1;
            match rustix::fs::renameat_with(
                &directory,
                &child,
                top,
                moved,
                rustix::fs::RenameFlags::NOREPLACE,
            ) {
                Ok(()) => break,
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
        }
    }
    rustix::fs::unlinkat(top, name, AtFlags::REMOVEDIR)
}

/// Removes a file or an empty directory; says no if it is a directory with something in it.
fn unlink(directory: &OwnedFd, name: &OsString) -> Result<bool, Errno> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        Err(Errno::ISDIR) => {}
        Err(error) => return Err(error),
    }
    match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY) => Ok(false),
        Err(error) => Err(error),
    }
}

fn open_directory(at: impl std::os::fd::AsFd, path: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, path, flags, Mode::empty())
}

fn entries(directory: &OwnedFd) -> Result<Vec<OsString>, Errno> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests;
