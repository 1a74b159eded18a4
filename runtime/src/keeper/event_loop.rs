//! The loop of a keeper: wait, take one event, act on it. Nothing in it blocks on a driver or a container.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::SocketFlags;

use super::connection::{Connection, Input};
use super::container::{Asker, Container};
use crate::sys::signal;
use crate::wire::{Envelope, Failure, Message, Reply};

/// Drivers connected at a time; the agent needs one, a person looking another.
const MAX_CONNECTIONS: usize = 16;

/// Bytes read at a time from anyone.
const READ_SIZE: usize = 16 << 10;

/// What a file descriptor of the keeper is for; travels through epoll as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Listener,
    Signals,
    Driver(u32),
    Control(u32),
    Stdout(u32),
    Stderr(u32),
    CgroupEvents(u32),
}

impl Source {
    fn encode(self) -> EventData {
        let (kind, key) = match self {
            Self::Listener => (0, 0),
            Self::Signals => (1, 0),
            Self::Driver(key) => (2, key),
            Self::Control(key) => (3, key),
            Self::Stdout(key) => (4, key),
            Self::Stderr(key) => (5, key),
            Self::CgroupEvents(key) => (6, key),
        };
        EventData::new_u64(kind << 32 | u64::from(key))
    }

    fn decode(data: EventData) -> Option<Self> {
        let key = data.u64() as u32;
        Some(match data.u64() >> 32 {
            0 => Self::Listener,
            1 => Self::Signals,
            2 => Self::Driver(key),
            3 => Self::Control(key),
            4 => Self::Stdout(key),
            5 => Self::Stderr(key),
            6 => Self::CgroupEvents(key),
            _ => return None,
        })
    }
}

/// A keeper at work.
pub(super) struct Keeper {
    pub(super) sandbox: String,
    pub(super) directory: PathBuf,
    pub(super) containers: BTreeMap<u32, Container>,
    pub(super) connections: BTreeMap<u32, Connection>,
    /// Who waits for the end of the keeper, once it was asked for.
    pub(super) stopping: Option<Vec<Asker>>,
    pub(super) buffer: Vec<u8>,
    epoll: OwnedFd,
    listener: OwnedFd,
    signals: OwnedFd,
    next_key: u32,
}

impl Keeper {
    pub(super) fn new(
        sandbox: String,
        directory: PathBuf,
        listener: OwnedFd,
        signals: OwnedFd,
    ) -> Result<Self, Errno> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let keeper = Self {
            sandbox,
            directory,
            containers: BTreeMap::new(),
            connections: BTreeMap::new(),
            stopping: None,
            buffer: vec![0; READ_SIZE],
            epoll,
            listener,
            signals,
            next_key: 0,
        };
        keeper.watch(&keeper.listener, Source::Listener, EventFlags::IN)?;
        keeper.watch(&keeper.signals, Source::Signals, EventFlags::IN)?;
        Ok(keeper)
    }

    /// Works until told to stop and everything is over.
    pub(super) fn work(&mut self) -> Result<(), Errno> {
        let mut events = Vec::with_capacity(16);
        while !self.is_over() {
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
            for event in events.drain(..) {
                let (data, flags) = (event.data, event.flags);
                if let Some(source) = Source::decode(data) {
                    self.dispatch(source, flags);
                }
            }
        }
        Ok(())
    }

    fn dispatch(&mut self, source: Source, flags: EventFlags) {
        match source {
            Source::Listener => self.accept(),
            Source::Signals => self.take_signals(),
            Source::Driver(key) => self.serve(key, flags),
            Source::Control(key) => self.hear_init(key),
            Source::Stdout(_) | Source::Stderr(_) => self.take_output(source),
            Source::CgroupEvents(key) => self.finish_removal(key),
        }
    }

    /// A key for a new container or connection.
    pub(super) fn new_key(&mut self) -> u32 {
        self.next_key = self.next_key.wrapping_add(1);
        self.next_key
    }

    /// Has events of `file` come back as `source`.
    pub(super) fn watch(&self, file: impl AsFd, source: Source, flags: EventFlags) -> Result<(), Errno> {
        epoll::add(&self.epoll, file, source.encode(), flags)
    }

    /// Ends that. Needed before closing: a child that is not executing its program yet may hold the same file.
    pub(super) fn unwatch(&self, file: impl AsFd) {
        if let Err(errno) = epoll::delete(&self.epoll, file) {
            say!("unwatch: {errno}");
        }
    }

    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = match rustix::net::accept_with(&self.listener, flags) {
            Ok(socket) => socket,
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return,
            Err(errno) => return say!("accept: {errno}"),
        };
        let ours = rustix::process::geteuid();
        let trusted = rustix::net::sockopt::socket_peercred(&socket).is_ok_and(|peer| peer.uid == ours);
        if !trusted || self.connections.len() >= MAX_CONNECTIONS {
            return say!("driver refused: another user's, or one too many");
        }
        let key = self.new_key();
        match self.watch(&socket, Source::Driver(key), EventFlags::IN) {
            Ok(()) => drop(self.connections.insert(key, Connection::new(socket))),
            Err(errno) => say!("watch driver: {errno}"),
        }
    }

    fn serve(&mut self, key: u32, flags: EventFlags) {
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        if flags.contains(EventFlags::OUT) {
            match connection.flush() {
                Ok(()) => self.update_interest(key),
                Err(reason) => return self.drop_driver(key, &reason),
            }
        }
        if !flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            return;
        }
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        match connection.receive(&mut self.buffer) {
            Input::Requests(requests) => {
                for request in requests {
                    self.handle(key, request);
                }
            }
            Input::Gone(reason) => self.drop_driver(key, &reason),
        }
    }

    /// Lets go of a driver; containers do not notice.
    pub(super) fn drop_driver(&mut self, key: u32, reason: &str) {
        let Some(connection) = self.connections.remove(&key) else {
            return;
        };
        self.unwatch(&connection);
        if reason != "closed" {
            say!("driver dropped: {reason}");
        }
    }

    /// Sends a message to a driver if it is still there.
    pub(super) fn send(&mut self, key: u32, message: &Message) {
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        match connection.send(message) {
            Ok(()) => self.update_interest(key),
            Err(reason) => self.drop_driver(key, &reason),
        }
    }

    /// Answers a request.
    pub(super) fn answer(&mut self, asker: Asker, body: Result<Reply, Failure>) {
        let reply = Message::Reply(Envelope {
            sequence: asker.sequence,
            body,
        });
        self.send(asker.connection, &reply);
    }

    fn update_interest(&mut self, key: u32) {
        let Some(connection) = self.connections.get(&key) else {
            return;
        };
        let out = if connection.has_unsent() {
            EventFlags::OUT
        } else {
            EventFlags::empty()
        };
        let changed = epoll::modify(
            &self.epoll,
            connection.as_fd(),
            Source::Driver(key).encode(),
            EventFlags::IN | out,
        );
        if let Err(errno) = changed {
            self.drop_driver(key, &errno.to_string());
        }
    }

    fn take_signals(&mut self) {
        loop {
            match signal::next_signal(&self.signals) {
                Ok(Some(libc::SIGCHLD)) => self.reap(),
                Ok(Some(libc::SIGTERM | libc::SIGINT)) => self.begin_shutdown(None),
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(errno) => return say!("read signals: {errno}"),
            }
        }
    }
}
