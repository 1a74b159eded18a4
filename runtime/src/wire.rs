//! The wire between a keeper and its driver: records on a UNIX stream socket, each a frame of
//! `u32` little-endian length (of what follows) and a postcard-encoded value. One request gets one reply with the same
//! sequence number; events come between replies, after [`Request::Subscribe`].

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::plan::ContainerPlan;

/// Version of the records in this module.
pub const PROTOCOL_VERSION: u16 = 1;

/// Longest frame either side accepts, bytes without the length prefix: an environment may be 2 MiB (`ARG_MAX`).
pub const MAX_FRAME: usize = 4 << 20;

/// Driver → keeper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// Chosen by the driver, returned in the reply.
    pub sequence: u32,
    /// The record.
    pub body: T,
}

/// What a driver asks of a keeper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// First on each connection.
    Hello {
        /// [`PROTOCOL_VERSION`] of the driver.
        protocol: u16,
        /// [`crate::plan::PLAN_VERSION`] of the driver.
        plan: u16,
    },
    /// From here on, send [`Event`]s on this connection; exits already recorded are sent first.
    Subscribe,
    /// Make a container up to the point before its program runs. Idempotent for an id that exists.
    Create(Box<ContainerPlan>),
    /// Run the program of a created container.
    Start {
        /// Container id.
        id: String,
    },
    /// Send a signal to the container's first process; `SIGKILL` goes to every process of it.
    Kill {
        /// Container id.
        id: String,
        /// Signal number.
        signal: i32,
    },
    /// Forget an ended container: its cgroup and exit record go. Kills it first if it runs.
    Remove {
        /// Container id.
        id: String,
    },
    /// Close and open the log file again, after a rotation.
    ReopenLog {
        /// Container id.
        id: String,
    },
    /// All containers the keeper knows.
    List,
    /// Kill all containers, write their exit records, and end.
    Shutdown,
}

/// Keeper → driver, told apart from replies by the outer enum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Answer to the request of that sequence number.
    Reply(Envelope<Result<Reply, Failure>>),
    /// Something happened.
    Event(Event),
}

/// What a keeper answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// To [`Request::Hello`].
    Hello {
        /// [`PROTOCOL_VERSION`] of the keeper.
        protocol: u16,
        /// [`crate::plan::PLAN_VERSION`] of the keeper.
        plan: u16,
        /// Sandbox id.
        sandbox: String,
        /// Process id of the keeper, in the pid namespace of the keeper itself.
        pid: u32,
    },
    /// To [`Request::Create`].
    Created {
        /// Process id of the container's first process, in the keeper's pid namespace.
        pid: u32,
    },
    /// To [`Request::List`].
    Containers(Vec<ContainerState>),
    /// Done.
    Done,
}

/// A container as its keeper sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    /// Container id.
    pub id: String,
    /// Process id of the first process; 0 once it ended.
    pub pid: u32,
    /// How far it is.
    pub status: Status,
}

/// The life of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// Made, program not yet run.
    Created,
    /// Program runs.
    Running {
        /// Nanoseconds since the epoch.
        started_at: i64,
    },
    /// Ended.
    Exited(Exit),
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code; 128 + signal if a signal ended it.
    pub code: i32,
    /// The signal, if one ended it.
    pub signal: Option<i32>,
    /// The kernel killed a process of its cgroup for memory (`memory.events` oom_kill).
    pub oom_killed: bool,
    /// Nanoseconds since the epoch; 0 if the program never ran.
    pub started_at: i64,
    /// Nanoseconds since the epoch.
    pub finished_at: i64,
}

/// What a keeper tells without being asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A container ended; its record is on disk.
    Exited {
        /// Container id.
        id: String,
        /// How.
        exit: Exit,
    },
}

/// Why a request was refused, with what a user needs to mend it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{step} {object}: {message}")]
pub struct Failure {
    /// Named step that failed, e.g. `mount`, `resolve user`, `exec`.
    pub step: String,
    /// What it was done to: a path, a name, an id.
    pub object: String,
    /// Error number, 0 if none.
    pub errno: i32,
    /// The kernel's text, or ours.
    pub message: String,
}

/// A frame that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The length prefix is over [`MAX_FRAME`].
    #[error("frame of {length} bytes is over the limit of {MAX_FRAME}")]
    TooLong {
        /// What the prefix said.
        length: usize,
    },
    /// The body is not the record it should be.
    #[error("frame does not hold the expected record: {0}")]
    Malformed(#[source] postcard::Error),
    /// Bytes are left after the record.
    #[error("frame holds {0} bytes after its record")]
    Trailing(usize),
}

/// Encodes `record` as one frame, prefix included.
///
/// # Errors
/// [`DecodeError::TooLong`] if the record is over [`MAX_FRAME`].
pub fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>, DecodeError> {
    let mut frame = postcard::to_extend(record, vec![0u8; 4]).map_err(DecodeError::Malformed)?;
    let length = frame.len() - 4;
    if length > MAX_FRAME {
        return Err(DecodeError::TooLong { length });
    }
    let prefix = u32::try_from(length).expect("MAX_FRAME fits a u32").to_le_bytes();
    frame[..4].copy_from_slice(&prefix);
    Ok(frame)
}

/// Takes one frame off the front of `buffer`: the record and the bytes used, or nothing while it is incomplete.
///
/// # Errors
/// [`DecodeError`] if the frame cannot be one of ours; the connection is then of no more use.
pub fn decode<T: DeserializeOwned>(buffer: &[u8]) -> Result<Option<(T, usize)>, DecodeError> {
    let Some((prefix, rest)) = buffer.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(*prefix) as usize;
    if length > MAX_FRAME {
        return Err(DecodeError::TooLong { length });
    }
    let Some(body) = rest.get(..length) else {
        return Ok(None);
    };
    let (record, left) = postcard::take_from_bytes(body).map_err(DecodeError::Malformed)?;
    if !left.is_empty() {
        return Err(DecodeError::Trailing(left.len()));
    }
    Ok(Some((record, 4 + length)))
}

#[cfg(test)]
mod tests;
