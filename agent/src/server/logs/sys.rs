//! The one call of this room that the compiler cannot check.
#![expect(
    unsafe_code,
    reason = "tokio asks for I/O safety of what it polls by an unsafe function"
)]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Has the runtime poll `fd`.
pub(super) fn poll(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names the same open file from here until `AsyncFd` drops it, which deregisters it first.
    unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)
}
