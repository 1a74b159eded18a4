//! One driver's connection: frames in, frames out, both bounded.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use serde::Serialize;

use crate::wire::{self, Envelope, MAX_FRAME, Request};

/// A driver that leaves this much unread is dropped.
const MAX_UNSENT: usize = 2 * MAX_FRAME;

/// What reading from a driver came to.
pub(crate) enum Input {
    /// Requests that are complete.
    Requests(Vec<Envelope<Request>>),
    /// The driver went, or talks nonsense.
    Gone(String),
}

/// A connected driver.
pub(crate) struct Connection {
    socket: OwnedFd,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Hello was exchanged.
    pub(crate) greeted: bool,
    /// Wants events.
    pub(crate) subscribed: bool,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Connection {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            input: Vec::new(),
            output: Vec::new(),
            greeted: false,
            subscribed: false,
        }
    }

    /// Reads once into `buffer` and returns the requests that are complete by now.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> Input {
        match rustix::net::recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Input::Gone("closed".to_owned()),
            Ok((length, _)) => self.input.extend_from_slice(&buffer[..length]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Input::Gone(errno.to_string()),
        }
        let (mut requests, mut used) = (Vec::new(), 0);
        loop {
            match wire::decode(&self.input[used..]) {
                Ok(Some((request, length))) => {
                    requests.push(request);
                    used += length;
                }
                Ok(None) => break,
                Err(error) => return Input::Gone(error.to_string()),
            }
        }
        // Given back once empty: a plan may have been megabytes.
        self.input = if used == self.input.len() {
            Vec::new()
        } else {
            self.input.split_off(used)
        };
        Input::Requests(requests)
    }

    /// Sends a record now as far as the socket takes it. An error means that the driver is to be dropped.
    pub(crate) fn send<T: Serialize>(&mut self, record: &T) -> Result<(), String> {
        let frame = wire::encode(record).map_err(|error| error.to_string())?;
        if self.output.len() + frame.len() > MAX_UNSENT {
            return Err("does not read what it is sent".to_owned());
        }
        self.output.extend_from_slice(&frame);
        self.flush()
    }

    /// Sends what is waiting.
    pub(crate) fn flush(&mut self) -> Result<(), String> {
        while !self.output.is_empty() {
            match rustix::net::send(
                &self.socket,
                &self.output,
                SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
            ) {
                Ok(sent) => self.output = self.output.split_off(sent),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.to_string()),
            }
        }
        Ok(())
    }

    /// Something is waiting to be sent.
    pub(crate) fn has_unsent(&self) -> bool {
        !self.output.is_empty()
    }
}
