//! Signals of the keeper as a descriptor, and their reset in a child.
#![expect(
    unsafe_code,
    reason = "signal masks, dispositions and signalfd have no safe binding"
)]

use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

fn last_errno() -> Errno {
    Errno::from_raw_os_error(
        std::io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO),
    )
}

fn signal_set(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: sigset_t is plain data, and sigemptyset/sigaddset write only within it.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for &signal in signals {
            libc::sigaddset(&raw mut set, signal);
        }
        set
    }
}

/// Blocks `signals` and returns a non-blocking descriptor they are read from.
pub(crate) fn signal_descriptor(signals: &[i32]) -> Result<OwnedFd, Errno> {
    let set = signal_set(signals);
    // SAFETY: `set` is initialised and lives over both calls; the descriptor returned is ours alone.
    unsafe {
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) != 0 {
            return Err(last_errno());
        }
        match libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            fd if fd >= 0 => Ok(OwnedFd::from_raw_fd(fd)),
            _ => Err(last_errno()),
        }
    }
}

/// The number of one pending signal, none if no more is pending.
pub(crate) fn next_signal(descriptor: impl AsFd) -> Result<Option<i32>, Errno> {
    let mut record = [0u8; std::mem::size_of::<libc::signalfd_siginfo>()];
    match rustix::io::read(descriptor, &mut record) {
        Ok(_) => Ok(Some(i32::from_ne_bytes([
            record[0], record[1], record[2], record[3],
        ]))),
        Err(Errno::AGAIN) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Gives every signal its default disposition and unblocks all, as a new program expects.
pub(crate) fn reset_signals() -> Result<(), Errno> {
    for number in 1..=64 {
        // SAFETY: SIG_DFL installs no handler. Numbers that may not be set are refused, which is what we want.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
    let none = signal_set(&[]);
    // SAFETY: `none` is initialised and lives over the call.
    let result = unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}
