//! The two kernel calls of the lab that no crate offers safely.

#![expect(
    unsafe_code,
    reason = "clone3 with a target cgroup and waiting for blocked signals have no safe wrapper"
)]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::time::Duration;

/// `CLONE_INTO_CGROUP` of linux/sched.h; libc's constant has too narrow a type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which side of a clone the caller is on.
pub(crate) enum Side {
    Parent { child: u32 },
    Child,
}

/// Clones the calling process into new mount, network, uts, ipc, pid and cgroup namespaces, the child born in `cgroup`,
/// so that its cgroup namespace is rooted there. The caller must be single-threaded.
pub(crate) fn clone_into_node(cgroup: BorrowedFd<'_>) -> io::Result<Side> {
    let namespaces = libc::CLONE_NEWNS
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWCGROUP;
    // SAFETY: clone_args is plain integers, for which all zeroes is valid and means "off".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = u64::from(namespaces.cast_unsigned()) | CLONE_INTO_CGROUP;
    args.exit_signal = libc::SIGCHLD.cast_unsigned().into();
    args.cgroup = u64::try_from(cgroup.as_raw_fd()).map_err(io::Error::other)?;
    // SAFETY: no memory is shared (no CLONE_VM) and no stack is given, so this is a fork; the caller is single-threaded,
    // so the child may go on running Rust code. `args` outlives the call and its size is passed with it.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    match result {
        0 => Ok(Side::Child),
        child if child > 0 => Ok(Side::Parent {
            child: u32::try_from(child).map_err(io::Error::other)?,
        }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Signals that a node's init waits for.
const AWAITED: [i32; 3] = [libc::SIGCHLD, libc::SIGUSR1, libc::SIGTERM];

fn awaited_set() -> libc::sigset_t {
    // SAFETY: sigset_t is plain data; sigemptyset initialises it and sigaddset gets valid signal numbers.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in AWAITED {
            libc::sigaddset(&raw mut set, signal);
        }
        set
    }
}

/// Blocks the signals of [`wait_signal`] in this thread.
pub(crate) fn block_signals() -> io::Result<()> {
    let set = awaited_set();
    // SAFETY: `set` is initialised; the old mask is not asked for.
    let result = unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Waits for one of the blocked signals; `None` after `timeout`.
pub(crate) fn wait_signal(timeout: Duration) -> io::Result<Option<i32>> {
    let set = awaited_set();
    let timeout = libc::timespec {
        // A day is as good as for ever, and fits whatever the C library's type is.
        tv_sec: timeout.as_secs().min(86_400) as _,
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // SAFETY: set and timeout are initialised and outlive the call; the details of the signal are not asked for.
    let signal = unsafe { libc::sigtimedwait(&raw const set, std::ptr::null_mut(), &raw const timeout) };
    if signal > 0 {
        return Ok(Some(signal));
    }
    match io::Error::last_os_error() {
        error if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => Ok(None),
        error => Err(error),
    }
}
