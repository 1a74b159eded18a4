//! What can go wrong in the cgroup tree.

use std::io;
use std::path::PathBuf;

/// A failed operation on the cgroup tree.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Not a cgroup v2 tree.
    #[error("{path}: not a cgroup v2 file system; longshore needs the unified hierarchy")]
    NotUnified { path: PathBuf },
    /// Controllers without which limits cannot be kept.
    #[error(
        "cgroup controllers missing below {path}: {missing}; enable them, or allow it with --allow-missing-controllers={missing}"
    )]
    MissingControllers { path: PathBuf, missing: String },
    /// A file or directory of the tree.
    #[error("{operation} {path}: {cause}")]
    Io {
        operation: &'static str,
        path: PathBuf,
        cause: io::Error,
    },
    /// `kubeReserved` and `systemReserved`.
    #[error("reserved {name}: {cause}")]
    Reservation { name: &'static str, cause: String },
    /// A name that must not become part of a path.
    #[error("pod uid {uid:?} is not usable as a cgroup name")]
    Uid { uid: String },
    /// Processes that would not die.
    #[error("cgroup {path} still holds processes {seconds} s after they were killed")]
    Populated { path: PathBuf, seconds: u64 },
    /// The worker thread is gone: the agent is stopping.
    #[error("cgroup work was cut off")]
    Stopped,
}
