//! Keepers and containers for real: needs root and a cgroup2 mount. Each test has its own keeper, cgroup and
//! directory, and leaves nothing behind.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod bench;
mod hostile;
mod inside;
mod lifecycle;
