//! Network namespaces for tests.
#![expect(unsafe_code, reason = "unshare(2) is unsafe in rustix")]

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::sys::own_network_namespace;

/// Runs `test` on a thread of its own in a new network namespace, with a directory for leases.
pub(super) fn on_node(test: impl FnOnce(&tempfile::TempDir) + Send) {
    on_thread(|| {
        unshare();
        test(&tempfile::tempdir().unwrap());
    });
}

/// A new network namespace, which lives as long as the file descriptor and what runs in it.
pub(super) fn new_namespace() -> OwnedFd {
    on_thread(|| {
        unshare();
        own_network_namespace().unwrap()
    })
}

/// Runs `work` on a thread in the namespace.
pub(super) fn inside<T: Send>(namespace: &OwnedFd, work: impl FnOnce() -> T + Send) -> T {
    on_thread(|| {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        work()
    })
}

/// Moves a link of the calling thread's namespace.
pub(super) fn move_link(name: &str, namespace: &OwnedFd) {
    let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
    super::output("ip", &["link", "set", name, "netns", &path]);
}

fn on_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

fn unshare() {
    // SAFETY: only the network namespace is changed, and only this thread's: no file descriptor or memory that safe
    // code relies on is affected. The thread was made for it and ends with it.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
}
