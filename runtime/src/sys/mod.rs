//! The funnel: every effect on something outside this process, and the only `unsafe` of the crate.
//!
//! Each effect passes a fault point named `runtime.*` before it happens, so that a test can kill the process there.
//! Functions return the kernel's error number; the caller knows what it was doing and to what.

pub(crate) mod cgroup;
pub(crate) mod device_filter;
pub(crate) mod file;
pub(crate) mod mount;
pub(crate) mod process;
pub(crate) mod signal;
pub(crate) mod socket;

/// Passes the fault point `name`; nothing in a build without the `fault-points` feature.
#[cfg(feature = "fault-points")]
pub(crate) fn point(name: &str) {
    fault_point::hit(name);
}

/// Passes the fault point `name`; nothing in a build without the `fault-points` feature.
#[cfg(not(feature = "fault-points"))]
#[inline(always)]
pub(crate) fn point(_name: &str) {}

/// The descriptor that fault points work by; a child must not close it.
#[cfg(feature = "fault-points")]
pub(crate) fn kept_descriptor() -> Option<u32> {
    use std::os::fd::AsRawFd as _;
    fault_point::held_descriptor().and_then(|held| u32::try_from(held.as_raw_fd()).ok())
}

/// The descriptor that fault points work by; none without them.
#[cfg(not(feature = "fault-points"))]
pub(crate) fn kept_descriptor() -> Option<u32> {
    None
}
