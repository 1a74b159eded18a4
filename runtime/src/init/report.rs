//! What an init and its keeper say to each other over the control socket.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::{Deserialize, Serialize};

use super::Init;
use crate::failure::{About as _, Trouble};
use crate::sys::process;
use crate::wire::{self, Failure};

/// The word to start, keeper → init.
pub(crate) const START: &[u8] = b"start";

/// Longest report; a failure names paths of up to 4 KiB.
const MAX_REPORT: usize = 16 << 10;

#[derive(Serialize, Deserialize)]
enum Report {
    Ready,
    Failed(Failure),
}

/// What a keeper heard from an init.
pub(crate) enum Heard {
    /// Nothing now.
    Nothing,
    /// It waits for the word to start.
    Ready {
        /// The keeper's side of the container's terminal.
        terminal: Option<OwnedFd>,
    },
    /// It gave up.
    Failed(Failure),
    /// It is gone, or its program runs.
    Closed,
}

/// Takes one report without waiting.
pub(crate) fn hear(control: &OwnedFd) -> Heard {
    let mut bytes = vec![0u8; MAX_REPORT];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(control, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags);
    let length = match received {
        Ok(message) => message.bytes,
        Err(Errno::AGAIN | Errno::INTR) => return Heard::Nothing,
        Err(_) => return Heard::Closed,
    };
    let terminal = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    match wire::decode(&bytes[..length]) {
        Ok(Some((Report::Ready, _))) => Heard::Ready { terminal },
        Ok(Some((Report::Failed(failure), _))) => Heard::Failed(failure),
        _ => Heard::Closed,
    }
}

/// Tells the keeper that only the word to start is missing.
pub(super) fn ready(init: &mut Init<'_>) -> Result<(), Trouble> {
    let frame = wire::encode(&Report::Ready).map_err(|error| Trouble::rule("report", error.to_string()))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let terminal: Vec<_> = init.terminal.iter().map(|terminal| terminal.as_fd()).collect();
    if !terminal.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&terminal)) {
        return Err(Trouble::rule("terminal", "no room for its descriptor"));
    }
    rustix::net::sendmsg(
        &init.control,
        &[IoSlice::new(&frame)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )
    .about("control socket")?;
    init.terminal = None;
    Ok(())
}

/// Tells the keeper why this init gives up. If it cannot be told, it is gone, and so are we soon.
pub(super) fn failed(init: &Init<'_>, failure: Failure) {
    if let Ok(frame) = wire::encode(&Report::Failed(failure)) {
        let _ = rustix::net::send(&init.control, &frame, SendFlags::NOSIGNAL);
    }
}

/// Waits until the keeper says to start. A keeper that is gone says so by the end of the socket.
pub(super) fn wait_for_start(init: &mut Init<'_>) -> Result<(), Trouble> {
    let mut word = [0u8; 16];
    loop {
        match rustix::net::recv(&init.control, &mut word, RecvFlags::empty()) {
            Ok((length, _)) if &word[..length] == START => return Ok(()),
            Ok(_) => process::exit_now(super::GAVE_UP),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Trouble::kernel("control socket", errno)),
        }
    }
}
