//! Processes: birth, signals, program start, and the little that has no safe binding.
#![expect(
    unsafe_code,
    reason = "clone3, execve, close_range, unshare and pidfd signals have no safe binding"
)]

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use super::point;

/// See clone(2); libc has no name for it on musl.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A child process and the file descriptor that stands for it.
pub(crate) struct Child {
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
}

/// Ends the process if the code of a child unwinds.
struct NeverReturn;

impl Drop for NeverReturn {
    fn drop(&mut self) {
        // SAFETY: _exit takes no pointers and does not return; no other thread of this process exists.
        unsafe { libc::_exit(125) }
    }
}

fn last_errno() -> Errno {
    Errno::from_raw_os_error(
        std::io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO),
    )
}

/// Makes a child in its own mount namespace, inside the cgroup behind `cgroup`, in a pid namespace of its own if
/// asked; runs `body` in it.
pub(crate) fn clone_container(
    own_pid_namespace: bool,
    cgroup: BorrowedFd<'_>,
    body: impl FnOnce(),
) -> Result<Child, Errno> {
    point("runtime.clone");
    let mut pidfd: libc::c_int = -1;
    let mut flags = libc::CLONE_NEWNS as u64 | libc::CLONE_PIDFD as u64 | CLONE_INTO_CGROUP;
    if own_pid_namespace {
        flags |= libc::CLONE_NEWPID as u64;
    }
    // SAFETY: clone_args is plain data for which zero means absent.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = flags;
    arguments.pidfd = &raw mut pidfd as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.cgroup = cgroup.as_raw_fd() as u64;
    // SAFETY: without CLONE_VM and with no stack given this is a fork; the arguments outlive the call. The keeper has
    // one thread (tests call this from a forked keeper only), so no lock can be held by a thread the child lacks.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut arguments,
            std::mem::size_of::<libc::clone_args>(),
        )
    };
    match pid {
        0 => {
            let _guard = NeverReturn;
            body();
            exit_now(125)
        }
        pid if pid > 0 => {
            point("runtime.cloned");
            // SAFETY: CLONE_PIDFD stored a descriptor that nothing else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Child {
                pid: u32::try_from(pid).expect("a pid fits 22 bits"),
                pidfd,
            })
        }
        _ => Err(last_errno()),
    }
}

/// Ends this process at once, without running anything more of it.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes no pointers and does not return.
    unsafe { libc::_exit(code) }
}

/// Replaces the program of this process; returns only on failure.
pub(crate) fn exec(program: &CString, arguments: &[CString], environment: &[CString]) -> Errno {
    point("runtime.exec");
    let (argv, envp) = (pointers(arguments), pointers(environment));
    // SAFETY: both arrays end with null and point to strings that live over the call.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    last_errno()
}

/// Replaces the program of this process by the one behind `program`; returns only on failure.
pub(crate) fn exec_opened(program: BorrowedFd<'_>, arguments: &[CString], environment: &[CString]) -> Errno {
    point("runtime.exec_sealed");
    let (argv, envp) = (pointers(arguments), pointers(environment));
    // SAFETY: both arrays end with null and point to strings that live over the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    last_errno()
}

/// The array that exec takes: a pointer to each string, then null.
fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings
        .iter()
        .map(|string| string.as_ptr())
        .chain([std::ptr::null()])
        .collect()
}

/// Marks every descriptor from 3 on close-on-exec.
pub(crate) fn close_rest_on_exec() -> Result<(), Errno> {
    // SAFETY: with CLOSE_RANGE_CLOEXEC nothing is closed; a flag changes on each descriptor.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 4u32) };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Closes every descriptor from 3 on that is not among `kept`: what a fork inherits beyond what it was given.
///
/// Owners of the closed descriptors must never be dropped or used; a cloned child ends without unwinding past its body.
pub(crate) fn close_all_but(kept: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut kept: Vec<u32> = kept
        .iter()
        .filter_map(|fd| u32::try_from(fd.as_raw_fd()).ok())
        .collect();
    kept.extend(super::kept_descriptor());
    kept.sort_unstable();
    let mut first = 3u32;
    for fd in kept.into_iter().filter(|fd| *fd >= 3).chain([u32::MAX]) {
        if first < fd {
            // SAFETY: the child was given the kept descriptors only, and this is the child: no owner of a closed one
            // acts again in this process.
            let result = unsafe { libc::syscall(libc::SYS_close_range, first, fd - 1, 0u32) };
            if result != 0 {
                return Err(last_errno());
            }
        }
        first = fd.saturating_add(1);
    }
    Ok(())
}

/// Leaves the namespaces named by `flags` for new ones.
pub(crate) fn unshare(flags: UnshareFlags) -> Result<(), Errno> {
    point("runtime.unshare");
    debug_assert!(!flags.contains(UnshareFlags::FILES));
    // SAFETY: the descriptor table is not unshared, which is the one unsound use.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// Names the host of this uts namespace.
pub(crate) fn set_hostname(name: &str) -> Result<(), Errno> {
    point("runtime.set_hostname");
    rustix::system::sethostname(name.as_bytes())
}

/// Has children be born in the pid namespace behind `namespace`.
pub(crate) fn enter_pid_namespace(namespace: BorrowedFd<'_>) -> Result<(), Errno> {
    point("runtime.enter_pid_namespace");
    rustix::thread::move_into_link_name_space(namespace, Some(LinkNameSpaceType::ProcessID))
}

/// Starts a program with pipes for standard input and output.
pub(crate) fn spawn(program: &Path, argument: &str) -> std::io::Result<std::process::Child> {
    point("runtime.spawn_keeper");
    let (stdin, stdout) = (Stdio::piped(), Stdio::piped());
    Command::new(program)
        .arg(argument)
        .stdin(stdin)
        .stdout(stdout)
        .spawn()
}

/// Sends `signal` (1..=64) to the process behind `pidfd`.
pub(crate) fn send_signal(pidfd: impl AsFd, signal: i32) -> Result<(), Errno> {
    point("runtime.kill");
    // SAFETY: no siginfo is passed; the descriptor is borrowed over the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0u32,
        )
    };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Bounds a resource of this process; `resource` is a `RLIMIT_*` number.
pub(crate) fn set_limit(resource: u32, soft: u64, hard: u64) -> Result<(), Errno> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: `limit` lives over the call; no old value is asked for.
    let result = unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            &raw const limit,
            std::ptr::null::<libc::rlimit64>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}
