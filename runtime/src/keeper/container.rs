//! A container as its keeper holds it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::io::Errno;

use super::log::{Lines, Log, Stream};
use super::timestamp;
use crate::sys::{cgroup, process};
use crate::wire::{ContainerState, Exit, Failure, Status};

/// A request that waits for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asker {
    pub(crate) connection: u32,
    pub(crate) sequence: u32,
}

/// How far a container is.
pub(crate) enum Stage {
    /// Its init works through its steps.
    Creating { askers: Vec<Asker> },
    /// Its init waits for the word to start.
    Created,
    /// The word was given; the program is being executed.
    Starting { askers: Vec<Asker> },
    /// The program runs.
    Running { started_at: i64 },
    /// It ended.
    Exited(Exit),
}

/// One stream of a container's output.
pub(crate) struct Output {
    pub(crate) source: OwnedFd,
    lines: Lines,
}

/// What reading an output came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// Some bytes.
    Some(usize),
    /// Nothing now.
    Nothing,
    /// Never anything again.
    End,
}

impl Output {
    pub(crate) fn new(source: OwnedFd, stream: Stream) -> Self {
        Self {
            source,
            lines: Lines::new(stream),
        }
    }

    /// Reads once into `buffer` and logs the lines completed.
    pub(crate) fn read(&mut self, log: Option<&mut Log>, buffer: &mut [u8]) -> Read {
        let length = match rustix::io::read(&self.source, &mut *buffer) {
            Ok(length) => length,
            Err(Errno::AGAIN | Errno::INTR) => return Read::Nothing,
            // A pseudo terminal whose other side is closed says EIO.
            Err(_) => 0,
        };
        let Some(log) = log else {
            return if length == 0 {
                Read::End
            } else {
                Read::Some(length)
            };
        };
        let (time, mut lines) = (timestamp::rfc3339(timestamp::now()), Vec::new());
        if length == 0 {
            self.lines.finish(&time, &mut lines);
        } else {
            self.lines.feed(&buffer[..length], &time, &mut lines);
        }
        log.write(&lines);
        if length == 0 {
            Read::End
        } else {
            Read::Some(length)
        }
    }

    /// Logs what was written before now, without waiting for who else may hold the stream open.
    pub(crate) fn drain(&mut self, mut log: Option<&mut Log>, buffer: &mut [u8]) -> Read {
        let mut left = usize::try_from(rustix::io::ioctl_fionread(&self.source).unwrap_or(0)).unwrap_or(0);
        loop {
            match self.read(log.as_deref_mut(), buffer) {
                Read::Some(length) if length < left => left -= length,
                Read::End => return Read::End,
                // Zero bytes left may be the end of the stream or not; one more read tells.
                Read::Some(_) if left > 0 => left = 0,
                other => {
                    let mut lines = Vec::new();
                    self.lines
                        .finish(&timestamp::rfc3339(timestamp::now()), &mut lines);
                    if let Some(log) = log {
                        log.write(&lines);
                    }
                    return other;
                }
            }
        }
    }
}

/// A container as its keeper holds it.
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) stage: Stage,
    /// Of the init; 0 once reaped.
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
    /// It has a pid namespace of its own, so that the end of its init is the end of all.
    pub(crate) own_pids: bool,
    pub(crate) cgroup_path: PathBuf,
    pub(crate) cgroup: OwnedFd,
    /// `cgroup.events`, watched while the removal waits for the last process.
    pub(crate) cgroup_events: Option<OwnedFd>,
    /// To the init, until its program runs.
    pub(crate) control: Option<OwnedFd>,
    /// Why the init gave up, once it said so.
    pub(crate) failure: Option<Failure>,
    pub(crate) stdout: Option<Output>,
    pub(crate) stderr: Option<Output>,
    /// Held so that the program's standard input does not end.
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) log: Option<Log>,
    /// Who waits for its removal.
    pub(crate) removers: Vec<Asker>,
}

impl Container {
    /// Kills every process of the container.
    pub(crate) fn kill_all(&self) {
        if let Err(errno) = cgroup::kill(&self.cgroup)
            && errno != Errno::NODEV
        {
            say!("kill cgroup {}: {errno}", self.cgroup_path.display());
        }
        if self.pid != 0
            && let Err(errno) = process::send_signal(&self.pidfd, libc::SIGKILL)
            && errno != Errno::SRCH
        {
            say!("kill container {}: {errno}", self.id);
        }
    }

    /// The kernel killed a process of it for memory.
    pub(crate) fn was_oom_killed(&self) -> bool {
        let events = cgroup::read(self.cgroup.as_fd(), "memory.events").unwrap_or_default();
        events
            .lines()
            .filter_map(|line| line.split_once(' '))
            .any(|(key, count)| key == "oom_kill" && count != "0")
    }

    /// As drivers see it.
    pub(crate) fn state(&self) -> ContainerState {
        let status = match &self.stage {
            Stage::Creating { .. } | Stage::Created | Stage::Starting { .. } => Status::Created,
            Stage::Running { started_at } => Status::Running {
                started_at: *started_at,
            },
            Stage::Exited(exit) => Status::Exited(exit.clone()),
        };
        ContainerState {
            id: self.id.clone(),
            pid: self.pid,
            status,
        }
    }
}
