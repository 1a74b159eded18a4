//! A blocking driver of a keeper, for tests, the command line and threads that may block.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Child;

use crate::keeper::SOCKET_NAME;
use crate::plan::{ContainerPlan, PLAN_VERSION, SandboxPlan};
use crate::sys::process;
use crate::wire::{
    self, ContainerState, DecodeError, Envelope, Event, Failure, Message, PROTOCOL_VERSION, Reply, Request,
};

/// Why a keeper could not be started or talked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The keeper refused, with its reason.
    #[error(transparent)]
    Refused(#[from] Failure),
    /// An operation on the keeper's process or socket failed.
    #[error("{operation} {object}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        object: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The keeper said something that is no frame of ours.
    #[error("keeper at {object}: {source}")]
    Frame {
        /// Socket or program.
        object: String,
        /// What is wrong.
        source: DecodeError,
    },
    /// The keeper went before it answered.
    #[error("keeper at {object} closed the connection")]
    Closed {
        /// Socket or program.
        object: String,
    },
    /// The answer is not one to the question.
    #[error("keeper at {object} gave an unexpected answer: {answer}")]
    Unexpected {
        /// Socket.
        object: String,
        /// What it said.
        answer: String,
    },
}

/// A keeper just started.
#[derive(Debug)]
pub struct Keeper {
    /// Its process id.
    pub pid: u32,
    /// Its process, to be waited for by its parent.
    pub child: Child,
}

/// Starts a keeper and waits until its namespaces and its socket are there.
///
/// Blocks. `oci_binary` is `longshore-oci`; its standard error is ours.
///
/// # Errors
/// [`Error::Refused`] with the keeper's own reason, others if it cannot be started or dies on the way; the process is
/// gone then.
pub fn spawn_keeper(oci_binary: &Path, plan: &SandboxPlan) -> Result<Keeper, Error> {
    let object = oci_binary.display().to_string();
    let frame = wire::encode(plan).map_err(|source| Error::Frame {
        object: object.clone(),
        source,
    })?;
    let mut child = process::spawn(oci_binary, "keeper").map_err(|source| Error::Io {
        operation: "start",
        object: object.clone(),
        source,
    })?;
    match shake_hands(&mut child, &frame, &object) {
        Ok(pid) => Ok(Keeper { pid, child }),
        Err(error) => {
            // It may have ended by itself; what counts is that it is gone and reaped.
            let _ = child.kill();
            let _ = child.wait();
            Err(error)
        }
    }
}

fn shake_hands(child: &mut Child, frame: &[u8], object: &str) -> Result<u32, Error> {
    let io = |operation| {
        move |source| Error::Io {
            operation,
            object: object.to_owned(),
            source,
        }
    };
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (Some(mut stdin), Some(mut stdout)) = (stdin, stdout) else {
        return Err(Error::Closed {
            object: object.to_owned(),
        });
    };
    let sent = stdin.write_all(frame);
    drop(stdin);
    let mut answer = Vec::new();
    stdout
        .by_ref()
        .take(wire::MAX_FRAME as u64)
        .read_to_end(&mut answer)
        .map_err(io("read answer of"))?;
    let decoded = wire::decode::<Result<u32, Failure>>(&answer);
    match decoded.map_err(|source| Error::Frame {
        object: object.to_owned(),
        source,
    })? {
        Some((result, _)) => Ok(result?),
        None => {
            sent.map_err(io("send plan to"))?;
            Err(Error::Closed {
                object: object.to_owned(),
            })
        }
    }
}

/// A connection to a keeper.
#[derive(Debug)]
pub struct Client {
    socket: UnixStream,
    object: String,
    input: Vec<u8>,
    events: VecDeque<Event>,
    sequence: u32,
    /// Sandbox id and process id the keeper gave at hello.
    pub keeper: (String, u32),
}

impl Client {
    /// Connects to the keeper whose directory this is and says hello.
    ///
    /// # Errors
    /// [`Error`] if nobody listens there, or somebody who speaks other versions.
    pub fn connect(directory: &Path) -> Result<Self, Error> {
        let object = directory.join(SOCKET_NAME).display().to_string();
        let io = |source| Error::Io {
            operation: "connect to",
            object: object.clone(),
            source,
        };
        // By way of a descriptor: a socket address holds 108 bytes, a directory's path may be longer.
        let opened = std::fs::File::open(directory).map_err(io)?;
        let socket =
            UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET_NAME}", opened.as_raw_fd())).map_err(io)?;
        let mut client = Self {
            socket,
            object,
            input: Vec::new(),
            events: VecDeque::new(),
            sequence: 0,
            keeper: (String::new(), 0),
        };
        match client.request(Request::Hello {
            protocol: PROTOCOL_VERSION,
            plan: PLAN_VERSION,
        })? {
            Reply::Hello { sandbox, pid, .. } => client.keeper = (sandbox, pid),
            other => return Err(client.unexpected(&other)),
        }
        Ok(client)
    }

    /// Sends a request and waits for its reply; events that come before it are kept for [`Self::next_event`].
    ///
    /// # Errors
    /// [`Error::Refused`] with the keeper's reason, others if the connection fails.
    pub fn request(&mut self, body: Request) -> Result<Reply, Error> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let frame = wire::encode(&Envelope { sequence, body }).map_err(|source| Error::Frame {
            object: self.object.clone(),
            source,
        })?;
        self.socket
            .write_all(&frame)
            .map_err(|source| self.io("write to", source))?;
        loop {
            match self.next_message()? {
                Message::Event(event) => self.events.push_back(event),
                Message::Reply(reply) if reply.sequence == sequence => return Ok(reply.body?),
                Message::Reply(reply) => return Err(self.unexpected(&reply)),
            }
        }
    }

    /// Waits for the next event; [`Request::Subscribe`] comes first.
    ///
    /// # Errors
    /// [`Error`] if the connection fails.
    pub fn next_event(&mut self) -> Result<Event, Error> {
        if let Some(event) = self.events.pop_front() {
            return Ok(event);
        }
        match self.next_message()? {
            Message::Event(event) => Ok(event),
            Message::Reply(reply) => Err(self.unexpected(&reply)),
        }
    }

    /// Asks for events from here on.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub fn subscribe(&mut self) -> Result<(), Error> {
        self.done(Request::Subscribe)
    }

    /// Makes a container; its first process id.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub fn create(&mut self, plan: ContainerPlan) -> Result<u32, Error> {
        match self.request(Request::Create(Box::new(plan)))? {
            Reply::Created { pid } => Ok(pid),
            other => Err(self.unexpected(&other)),
        }
    }

    /// All containers.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub fn list(&mut self) -> Result<Vec<ContainerState>, Error> {
        match self.request(Request::List)? {
            Reply::Containers(states) => Ok(states),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Sends a request whose answer is [`Reply::Done`].
    ///
    /// # Errors
    /// As [`Self::request`].
    pub fn done(&mut self, body: Request) -> Result<(), Error> {
        match self.request(body)? {
            Reply::Done => Ok(()),
            other => Err(self.unexpected(&other)),
        }
    }

    fn next_message(&mut self) -> Result<Message, Error> {
        let mut chunk = [0u8; 4096];
        loop {
            let decoded = wire::decode(&self.input);
            if let Some((message, used)) = decoded.map_err(|source| Error::Frame {
                object: self.object.clone(),
                source,
            })? {
                self.input.drain(..used);
                return Ok(message);
            }
            match self.socket.read(&mut chunk) {
                Ok(0) => {
                    return Err(Error::Closed {
                        object: self.object.clone(),
                    });
                }
                Ok(length) => self.input.extend_from_slice(&chunk[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.io("read from", source)),
            }
        }
    }

    fn io(&self, operation: &'static str, source: std::io::Error) -> Error {
        Error::Io {
            operation,
            object: self.object.clone(),
            source,
        }
    }

    fn unexpected(&self, answer: &impl std::fmt::Debug) -> Error {
        Error::Unexpected {
            object: self.object.clone(),
            answer: format!("{answer:?}"),
        }
    }
}
