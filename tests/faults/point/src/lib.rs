//! Named fault points: every side effect of the product passes one, so that a test can record them all and then
//! kill the process at each in turn.
//!
//! Two environment variables, read once per process:
//! - `LONGSHORE_FAULT_TRACE=FILE`: append the name of every point passed, one a line.
//! - `LONGSHORE_FAULT_KILL=NAME[:N]`: kill this process with SIGKILL when it passes NAME for the Nth time (default 1).
//!   With `LONGSHORE_FAULT_ONCE=FILE` the kill happens only if FILE can be created, so a restarted process lives on.
//!
//! The product compiles calls to this crate only under its `fault-points` feature.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

struct Faults {
    trace: Option<File>,
    kill: Option<Kill>,
}

struct Kill {
    name: String,
    at: u32,
    once: Option<PathBuf>,
    seen: AtomicU32,
}

static FAULTS: OnceLock<Faults> = OnceLock::new();

impl Faults {
    fn from_env() -> Self {
        let trace = std::env::var_os("LONGSHORE_FAULT_TRACE")
            .and_then(|path| OpenOptions::new().append(true).create(true).open(path).ok());
        let kill = std::env::var("LONGSHORE_FAULT_KILL").ok().map(|spec| {
            // Names may hold colons themselves; only a numeric tail is a count.
            let (name, at) = match spec.rsplit_once(':').map(|(name, n)| (name, n.parse())) {
                Some((name, Ok(n))) => (name.to_owned(), n),
                _ => (spec, 1),
            };
            let once = std::env::var_os("LONGSHORE_FAULT_ONCE").map(PathBuf::from);
            Kill {
                name,
                at,
                once,
                seen: AtomicU32::new(0),
            }
        });
        Self { trace, kill }
    }
}

/// The descriptor of the trace, for a child that closes what it inherited.
pub fn trace_descriptor() -> Option<BorrowedFd<'static>> {
    FAULTS
        .get_or_init(Faults::from_env)
        .trace
        .as_ref()
        .map(|trace| trace.as_fd())
}

/// Passes the point `name`: records it, and dies here if this is the armed one.
pub fn hit(name: &str) {
    let faults = FAULTS.get_or_init(Faults::from_env);
    if let Some(mut trace) = faults.trace.as_ref() {
        // One write a line: O_APPEND keeps lines of several processes whole. A lost line shows as a missing point.
        let _ = trace.write_all(format!("{name}\n").as_bytes());
    }
    if let Some(kill) = &faults.kill
        && kill.name == name
        && kill.seen.fetch_add(1, Ordering::SeqCst) + 1 == kill.at
        && kill
            .once
            .as_ref()
            .is_none_or(|path| OpenOptions::new().write(true).create_new(true).open(path).is_ok())
    {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // The first process of a pid namespace cannot kill itself.
        std::process::abort();
    }
}
