//! The keeper: one small single-threaded process a pod. It holds the pod's namespaces, makes and reaps its containers,
//! writes their logs, and tells whoever drives it over a UNIX socket. It outlives its drivers.
//!
//! Files: `seal`, `birth` (become a keeper) · `event_loop` (wait and dispatch) · `requests` (what drivers ask) · `lifecycle`
//! (what containers do) · `creation`, `device_filter` (make one) · `container`, `connection`, `log`, `timestamp` (state and formats).

/// Writes a line to the keeper's own log, standard error, if that takes it at once. Whoever reads there may be gone or
/// stuck, and pods must not notice.
macro_rules! say {
    ($($part:tt)*) => { $crate::keeper::write_own_log(format!($($part)*)) };
}

mod birth;
mod connection;
mod container;
mod creation;
mod device_filter;
mod event_loop;
mod lifecycle;
mod log;
mod requests;
mod seal;
mod timestamp;

use std::process::ExitCode;

use crate::failure::{About as _, Trouble};
use crate::wire::{self, Failure};

/// Name of the socket in the sandbox's directory.
pub const SOCKET_NAME: &str = "keeper.sock";

/// Name of the directory of exit records in the sandbox's directory.
pub const EXITS_NAME: &str = "exits";

/// The whole life of a keeper, by the arguments after its name (none, when someone starts it): reads its plan from standard input, answers on standard output, and works until told to
/// shut down.
pub fn run(arguments: &[&str]) -> ExitCode {
    let sealed = seal::seal(arguments == [seal::SEALED]).map_err(|trouble| trouble.in_step("seal"));
    let born = sealed.and_then(|()| birth::be_born());
    let answer: Result<u32, Failure> = match &born {
        Ok(_) => Ok(std::process::id()),
        Err(failure) => Err(failure.clone()),
    };
    if let Err(failure) = birth::answer(&answer).map_err(|trouble| trouble.in_step("answer")) {
        say!("{failure}");
        return ExitCode::FAILURE;
    }
    let Ok(mut keeper) = born else {
        return ExitCode::FAILURE;
    };
    match keeper.work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(errno) => {
            say!("wait for events: {errno}");
            ExitCode::FAILURE
        }
    }
}

fn encode_answer(answer: &Result<u32, Failure>) -> Result<Vec<u8>, Trouble> {
    wire::encode(answer).map_err(|error| Trouble::rule("answer", error.to_string()))
}

fn write_all(file: &impl std::os::fd::AsFd, bytes: &[u8], object: &str) -> Result<(), Trouble> {
    let mut left = bytes;
    while !left.is_empty() {
        left = &left[rustix::io::retry_on_intr(|| rustix::io::write(file, left)).about(object)?..];
    }
    Ok(())
}

fn write_own_log(mut line: String) {
    let stderr = rustix::stdio::stderr();
    let mut ready = [rustix::event::PollFd::new(&stderr, rustix::event::PollFlags::OUT)];
    let now = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    if !matches!(rustix::event::poll(&mut ready, Some(&now)), Ok(1)) {
        return;
    }
    // A pipe that is ready takes this much without waiting (PIPE_BUF).
    line.truncate(line.floor_char_boundary(4000));
    let line = format!("longshore-oci keeper {}: {line}\n", std::process::id());
    let _ = rustix::io::write(stderr, line.as_bytes());
}
