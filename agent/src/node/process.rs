//! The process and the machine before the node starts: one agent at a time, limits, swap.

use std::fs::File;
use std::path::Path;

use rustix::fs::FlockOperation;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{Error, files};
use crate::config::Settings;

/// Takes the lock that keeps a second agent off; held as long as the file.
///
/// # Errors
/// [`Error::Machine`] naming the other agent.
pub(crate) fn lock(path: &Path) -> Result<File, Error> {
    let file = files::open_lock(path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let holder = files::read(path)?.unwrap_or_default();
            let holder = String::from_utf8_lossy(&holder).trim().to_owned();
            return Err(Error::Machine(format!(
                "another agent (pid {}) runs on this node and holds {}: stop it first, or give this one its own --run-dir",
                if holder.is_empty() { "unknown" } else { &holder },
                path.display()
            )));
        }
        Err(errno) => {
            return Err(Error::File {
                operation: "lock",
                path: path.to_owned(),
                source: errno.into(),
            });
        }
    }
    files::sign_lock(&file, path)?;
    Ok(file)
}

/// Raises what the process may use, and makes it the last to be killed for memory. What is not allowed is told.
pub(crate) fn prepare_process(settings: &Settings) {
    let wanted = u64::try_from(settings.kubelet.max_open_files).unwrap_or(0);
    let limit = getrlimit(Resource::Nofile);
    let maximum = limit.maximum.map_or(wanted, |maximum| maximum.max(wanted));
    let raised = Rlimit {
        current: Some(wanted),
        maximum: Some(maximum),
    };
    if setrlimit(Resource::Nofile, raised).is_err() {
        // Without the right to raise the hard limit, up to it.
        let most = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
        if let Err(errno) = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: Some(most),
                maximum: limit.maximum,
            },
        ) {
            tracing::warn!(%errno, wanted, "the limit of open files could not be raised");
        }
    }
    if let Err(error) = files::set_oom_score(settings.kubelet.oom_score_adj) {
        tracing::warn!(%error, "oomScoreAdj could not be set");
    }
}

/// Refuses to run with swap on, if so configured.
///
/// # Errors
/// [`Error::Machine`] with upstream's words.
pub(crate) fn check_swap(settings: &Settings) -> Result<(), Error> {
    let swaps = files::read(Path::new("/proc/swaps"))?.unwrap_or_default();
    let text = String::from_utf8_lossy(&swaps);
    let list: Vec<&str> = text
        .lines()
        .skip(1)
        .filter(|line| !line.trim().is_empty())
        .collect();
    if list.is_empty() || !settings.kubelet.fail_swap_on {
        return Ok(());
    }
    Err(Error::Machine(format!(
        "running with swap on is not supported, please disable swap or set failSwapOn (--fail-swap-on) to false. \
         /proc/swaps contained: {list:?}"
    )))
}
