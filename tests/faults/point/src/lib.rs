//! Named fault points: every side effect of the product passes one, so that a test can record them all and then kill
//! the process at each in turn.
//!
//! The environment variable `LONGSHORE_FAULTS` names a directory that a test controls while the process runs:
//! - `trace`, if it is there, gets the name of every point passed, one a line;
//! - `armed`, if it holds `NAME N`, kills the process that passes NAME for the Nth time since: with SIGKILL, once; the
//!   file is removed by the one that dies.
//!
//! The directory is held open, so that a container's child can still reach it after it changed its root. The product
//! compiles calls to this crate only under its `fault-points` feature.

use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, unlinkat};
use rustix::process::{Signal, getpid, kill_process};

static DIRECTORY: OnceLock<Option<OwnedFd>> = OnceLock::new();

/// What was last read from `armed`, and how often its point was passed since.
static PASSED: Mutex<(String, u32)> = Mutex::new((String::new(), 0));

/// The control directory, opened once; none where no test controls this process.
fn directory() -> Option<&'static OwnedFd> {
    let open = || {
        let path = std::env::var_os("LONGSHORE_FAULTS")?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(CWD, path, flags, Mode::empty()).ok()
    };
    DIRECTORY.get_or_init(open).as_ref()
}

/// The descriptor that points work by: a child that closes what it inherited has to keep it.
pub fn held_descriptor() -> Option<BorrowedFd<'static>> {
    directory().map(|directory| directory.as_fd())
}

/// Passes the point `name`: records it, and dies here if it is armed.
pub fn hit(name: &str) {
    let Some(directory) = directory() else { return };
    trace(directory, name);
    if is_armed(directory, name) && unlinkat(directory, "armed", AtFlags::empty()).is_ok() {
        let _ = kill_process(getpid(), Signal::KILL);
        // The first process of a pid namespace cannot kill itself with a signal; it can abort.
        std::process::abort();
    }
}

fn trace(directory: &OwnedFd, name: &str) {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC;
    if let Ok(file) = openat(directory, "trace", flags, Mode::empty()) {
        // One write a line: O_APPEND keeps lines of several processes whole. A lost line shows as a missing point.
        let _ = std::fs::File::from(file).write_all(format!("{name}\n").as_bytes());
    }
}

fn is_armed(directory: &OwnedFd, name: &str) -> bool {
    let mut armed = String::new();
    let Ok(file) = openat(
        directory,
        "armed",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    ) else {
        return false;
    };
    if std::fs::File::from(file)
        .take(512)
        .read_to_string(&mut armed)
        .is_err()
    {
        return false;
    }
    let Some((wanted, at)) = armed.trim().rsplit_once(' ') else {
        return false;
    };
    if wanted != name {
        return false;
    }
    let mut passed = PASSED.lock().unwrap_or_else(PoisonError::into_inner);
    if passed.0 != armed {
        *passed = (armed.clone(), 0);
    }
    passed.1 += 1;
    at.parse() == Ok(passed.1)
}
