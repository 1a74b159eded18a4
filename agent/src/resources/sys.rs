//! The funnel of effects on the cgroup tree. Each effect passes its fault point first.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Error;
use crate::fault;

/// cgroup files are short; more than this is not one.
const MAX_FILE: u64 = 64 * 1024;

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |cause| Error::Io {
        operation,
        path,
        cause,
    }
}

/// Whether `path` lies on a cgroup v2 file system.
pub(super) fn is_unified(path: &Path) -> bool {
    const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;
    rustix::fs::statfs(path)
        .is_ok_and(|stat| u64::try_from(stat.f_type).is_ok_and(|magic| magic == CGROUP2_SUPER_MAGIC))
}

pub(super) fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// The text of one cgroup file.
pub(super) fn read(path: &Path) -> Result<String, Error> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE).read_to_string(&mut text))
        .map_err(failed("read", path))?;
    Ok(text)
}

/// Names of the child cgroups; none when the directory is gone.
pub(super) fn children(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(cause) => return Err(failed("list", path)(cause)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed("list", path))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Makes a cgroup; true when it was not there before.
pub(super) fn make(path: &Path) -> Result<bool, Error> {
    fault::point("resources.make_cgroup");
    match fs::create_dir(path) {
        Ok(()) => Ok(true),
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(cause) => Err(failed("make cgroup", path)(cause)),
    }
}

/// Hands a controller down to the children of the cgroup at `path`.
pub(super) fn enable(path: &Path, controller: &str) -> Result<(), Error> {
    fault::point("resources.enable_controller");
    let file = path.join("cgroup.subtree_control");
    write(&file, &format!("+{controller}"))
}

/// Writes one limit.
pub(super) fn set(path: &Path, file: &str, value: &str) -> Result<(), Error> {
    fault::point("resources.write_limit");
    write(&path.join(file), value)
}

fn write(file: &Path, value: &str) -> Result<(), Error> {
    OpenOptions::new()
        .write(true)
        .open(file)
        .and_then(|mut f| f.write_all(value.as_bytes()))
        .map_err(failed("write", file))
}

/// Kills every process below `path` and waits, for at most `limit`, until none is left.
pub(super) fn kill(path: &Path, limit: Duration) -> Result<(), Error> {
    fault::point("resources.kill_cgroup");
    let events_path = path.join("cgroup.events");
    let mut events = match File::open(&events_path) {
        Ok(events) => events,
        Err(cause) if is_gone(&cause) => return Ok(()),
        Err(cause) => return Err(failed("open", &events_path)(cause)),
    };
    match write(&path.join("cgroup.kill"), "1") {
        Err(Error::Io { cause, .. }) if is_gone(&cause) => return Ok(()),
        other => other?,
    }
    let deadline = Instant::now() + limit;
    loop {
        match is_populated(&mut events) {
            Ok(false) => return Ok(()),
            Ok(true) => {}
            Err(cause) if is_gone(&cause) => return Ok(()),
            Err(cause) => return Err(failed("read", &events_path)(cause)),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::Populated {
                path: path.to_owned(),
                seconds: limit.as_secs(),
            });
        }
        let timeout = Timespec::try_from(left).expect("the limit is a few seconds");
        let mut fds = [PollFd::new(&events, PollFlags::PRI)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(failed("wait for", &events_path)(errno.into())),
        }
    }
}

fn is_populated(events: &mut File) -> io::Result<bool> {
    use std::io::Seek as _;
    events.rewind()?;
    let mut text = String::new();
    events.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text.lines().any(|line| line == "populated 1"))
}

/// The cgroup went away meanwhile: cgroup files of a removed one answer ENODEV.
fn is_gone(cause: &io::Error) -> bool {
    cause.kind() == io::ErrorKind::NotFound
        || cause.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

/// Removes one empty cgroup.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    fault::point("resources.remove_cgroup");
    match fs::remove_dir(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(failed("remove cgroup", path)(cause)),
        _ => Ok(()),
    }
}
