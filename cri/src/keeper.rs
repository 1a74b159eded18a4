//! The client of a keeper: one connection, one task that owns it, requests matched to replies by sequence number.
//!
//! The end of a keeper is told by its pidfd, which cannot be fooled by a child that still holds the socket.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use runtime::plan::PLAN_VERSION;
use runtime::wire::{
    ContainerState, DecodeError, Envelope, Event, Failure, Message, PROTOCOL_VERSION, Reply, Request, decode,
    encode,
};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::fault;

/// How long a keeper may take for a request that makes no mounts.
const QUICK: Duration = Duration::from_secs(10);
/// How long it may take to make a container: overlay, mounts, user look-up, on a slow disk.
const SLOW: Duration = Duration::from_secs(60);

/// A keeper that did not do as asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The socket cannot be used.
    #[error("{operation} {}: {source}", socket.display())]
    Socket {
        /// `connect to`, …
        operation: &'static str,
        /// Which.
        socket: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// It speaks other versions.
    #[error("speaks protocol {protocol} and plan {plan}, not {PROTOCOL_VERSION} and {PLAN_VERSION}")]
    Version {
        /// Its protocol.
        protocol: u16,
        /// Its plan.
        plan: u16,
    },
    /// Bytes that are no frame, or a reply to another question.
    #[error("answers {0}")]
    Garbled(String),
    /// The request cannot be a frame.
    #[error("request: {0}")]
    Request(#[source] DecodeError),
    /// No reply in time.
    #[error("no reply to {request} within {seconds} s")]
    Timeout {
        /// Kind of the request.
        request: &'static str,
        /// How long was waited.
        seconds: u64,
    },
    /// The connection or the keeper ended before the reply.
    #[error("ended before its reply")]
    Gone,
    /// It refused.
    #[error(transparent)]
    Refused(#[from] Failure),
}

/// What a keeper tells without being asked.
#[derive(Debug)]
pub(crate) enum Notice {
    /// A container ended or, after [`Request::Subscribe`], had ended before.
    Event(Event),
    /// The keeper's process ended: nothing of its pod runs on.
    Ended,
}

type Answer = oneshot::Sender<Result<Reply, Error>>;

/// A request under way.
struct Call {
    request: Request,
    answer: Answer,
}

/// A living connection to a keeper. Dropping it ends the connection, not the keeper.
#[derive(Debug)]
pub(crate) struct Keeper {
    calls: mpsc::UnboundedSender<Call>,
    ended: watch::Receiver<bool>,
}

impl Keeper {
    /// Connects to the keeper of sandbox `id`, learns its containers, and has `notify` called with what it tells from
    /// then on, exits of earlier times included.
    pub(crate) async fn connect(
        socket: &Path,
        id: &str,
        notify: impl Fn(Notice) + Send + 'static,
    ) -> Result<(Self, Vec<ContainerState>), Error> {
        let failed = |operation| {
            move |source| Error::Socket {
                operation,
                socket: socket.to_owned(),
                source,
            }
        };
        let mut connection = Connection::open(socket).await.map_err(failed("connect to"))?;
        let pid = timeout(QUICK, hello(&mut connection, id))
            .await
            .map_err(|_| late("Hello", QUICK))??;
        let process = Process::open(pid).map_err(failed("watch the process of"))?;
        // Answered after the process was opened, so the number was not another's by then.
        let states = timeout(QUICK, list(&mut connection))
            .await
            .map_err(|_| late("List", QUICK))??;
        let (calls, queue) = mpsc::unbounded_channel();
        let (end, ended) = watch::channel(false);
        let (socket, id) = (socket.to_owned(), id.to_owned());
        let actor = Actor {
            socket,
            id,
            connection,
            process,
            queue,
            waiting: HashMap::new(),
            notify,
            end,
        };
        let keeper = Self { calls, ended };
        tokio::spawn(actor.run());
        keeper.call("cri.keeper_subscribe", Request::Subscribe).await?;
        Ok((keeper, states))
    }

    /// Sends `request` at once, passing the fault point `point`, and gives the reply to wait for. Requests go out in
    /// the order of these calls, so that several can be under way.
    pub(crate) fn call(
        &self,
        point: &str,
        request: Request,
    ) -> impl Future<Output = Result<Reply, Error>> + Send + use<> {
        fault::point(point);
        let (name, limit) = kind(&request);
        let (answer, reply) = oneshot::channel();
        // A send that fails drops `answer`, and the wait below ends with `Gone`.
        let _ = self.calls.send(Call { request, answer });
        async move {
            match timeout(limit, reply).await {
                Ok(Ok(reply)) => reply,
                Ok(Err(_)) => Err(Error::Gone),
                Err(_) => Err(late(name, limit)),
            }
        }
    }

    /// Whether the keeper's process has ended.
    pub(crate) fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Waits until the keeper's process has ended.
    pub(crate) async fn ended(&self) {
        let mut ended = self.ended.clone();
        // An error means that the task is gone, and it goes only after the keeper or with this handle.
        let _ = ended.wait_for(|ended| *ended).await;
    }
}

fn late(request: &'static str, limit: Duration) -> Error {
    Error::Timeout {
        request,
        seconds: limit.as_secs(),
    }
}

fn kind(request: &Request) -> (&'static str, Duration) {
    match request {
        Request::Hello { .. } => ("Hello", QUICK),
        Request::Subscribe => ("Subscribe", QUICK),
        Request::Create(_) => ("Create", SLOW),
        Request::Start { .. } => ("Start", SLOW),
        Request::Kill { .. } => ("Kill", QUICK),
        Request::Remove { .. } => ("Remove", SLOW),
        Request::ReopenLog { .. } => ("ReopenLog", QUICK),
        Request::List => ("List", QUICK),
        Request::Shutdown => ("Shutdown", SLOW),
        #[allow(
            unreachable_patterns,
            reason = "the wire may grow requests that the engine does not send"
        )]
        _ => ("request", SLOW),
    }
}

/// Frames over a socket.
struct Connection {
    stream: UnixStream,
    inbound: BytesMut,
    outbound: BytesMut,
    sequence: u32,
}

impl Connection {
    /// Connects by way of a descriptor of the directory: a socket's address holds 108 bytes, its path may be longer.
    async fn open(socket: &Path) -> io::Result<Self> {
        let (Some(directory), Some(name)) = (socket.parent(), socket.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let directory = std::fs::File::open(directory)?;
        let short = Path::new("/proc/self/fd")
            .join(directory.as_raw_fd().to_string())
            .join(name);
        let stream = UnixStream::connect(short).await?;
        Ok(Self {
            stream,
            inbound: BytesMut::new(),
            outbound: BytesMut::new(),
            sequence: 0,
        })
    }

    /// Puts a request into the outbound buffer and gives its number.
    fn push(&mut self, body: Request) -> Result<u32, Error> {
        self.sequence = self.sequence.wrapping_add(1);
        let frame = encode(&Envelope {
            sequence: self.sequence,
            body,
        })
        .map_err(Error::Request)?;
        self.outbound.extend_from_slice(&frame);
        Ok(self.sequence)
    }

    /// The next whole message, if its bytes are here.
    fn pop(&mut self) -> Result<Option<Message>, Error> {
        match decode(&self.inbound) {
            Ok(Some((message, used))) => {
                self.inbound.advance(used);
                Ok(Some(message))
            }
            Ok(None) => Ok(None),
            Err(error) => Err(Error::Garbled(error.to_string())),
        }
    }

    /// Writes what is waiting and reads what comes, whichever can; `false` at the end. Loses nothing if dropped.
    async fn step(&mut self) -> io::Result<bool> {
        let (mut reader, mut writer) = self.stream.split();
        tokio::select! {
            read = reader.read_buf(&mut self.inbound) => read.map(|count| count > 0),
            wrote = writer.write_buf(&mut self.outbound), if !self.outbound.is_empty() => wrote.map(|_| true),
        }
    }

    /// One request and its reply, before events can come.
    async fn ask(&mut self, request: Request) -> Result<Reply, Error> {
        let sequence = self.push(request)?;
        loop {
            while let Some(message) = self.pop()? {
                if let Message::Reply(reply) = message
                    && reply.sequence == sequence
                {
                    return reply.body.map_err(Error::from);
                }
            }
            if !self.step().await.unwrap_or(false) {
                return Err(Error::Gone);
            }
        }
    }
}

async fn hello(connection: &mut Connection, id: &str) -> Result<u32, Error> {
    let hello = Request::Hello {
        protocol: PROTOCOL_VERSION,
        plan: PLAN_VERSION,
    };
    match connection.ask(hello).await? {
        Reply::Hello { protocol, plan, .. } if (protocol, plan) != (PROTOCOL_VERSION, PLAN_VERSION) => {
            Err(Error::Version { protocol, plan })
        }
        Reply::Hello { sandbox, .. } if sandbox != id => {
            Err(Error::Garbled(format!("as keeper of {sandbox}")))
        }
        Reply::Hello { pid, .. } => Ok(pid),
        other => Err(Error::Garbled(format!("{other:?} to Hello"))),
    }
}

async fn list(connection: &mut Connection) -> Result<Vec<ContainerState>, Error> {
    match connection.ask(Request::List).await? {
        Reply::Containers(states) => Ok(states),
        other => Err(Error::Garbled(format!("{other:?} to List"))),
    }
}

/// A keeper's process, held by a pidfd.
struct Process(AsyncFd<OwnedFd>);

impl Process {
    fn open(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or(io::ErrorKind::InvalidData)?;
        let process = rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe; an OwnedFd, never swapped, is what that asks for"
        )]
        AsyncFd::with_interest(process, Interest::READABLE).map(Self)
    }

    async fn ended(&self) {
        // An error of the reactor is the end of the program.
        let _ = self.0.readable().await.map(|mut ready| ready.retain_ready());
    }

    /// Takes the exit status if the process is a child of ours, so that no zombie stays.
    fn reap(&self) {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        // Not a child after a restart of the agent: its reaper is another then.
        let _ = rustix::process::waitid(WaitId::PidFd(self.0.get_ref().as_fd()), options);
    }

    fn kill(&self) {
        fault::point("cri.kill_keeper");
        // Gone already is what is wanted.
        let _ = rustix::process::pidfd_send_signal(self.0.get_ref().as_fd(), Signal::KILL);
    }
}

/// Owns the connection.
struct Actor<F> {
    socket: PathBuf,
    id: String,
    connection: Connection,
    process: Process,
    queue: mpsc::UnboundedReceiver<Call>,
    waiting: HashMap<u32, Answer>,
    notify: F,
    end: watch::Sender<bool>,
}

impl<F: Fn(Notice) + Send + 'static> Actor<F> {
    async fn run(mut self) {
        loop {
            if self.serve().await {
                return;
            }
            self.waiting.clear();
            // A keeper that only dropped the connection takes the next one.
            if !self.reconnect().await {
                break;
            }
        }
        // The connection failed or the process ended. A keeper that cannot be spoken to holds a pod that nobody rules:
        // it goes, and its pod with it.
        self.queue.close();
        self.process.kill();
        self.process.ended().await;
        self.process.reap();
        (self.notify)(Notice::Ended);
        self.end.send_replace(true);
    }

    /// Connects anew to a keeper that lives; exits that were missed come with the subscription.
    async fn reconnect(&mut self) -> bool {
        let connect = async {
            let mut connection = Connection::open(&self.socket).await.ok()?;
            hello(&mut connection, &self.id).await.ok()?;
            connection.push(Request::Subscribe).ok()?;
            Some(connection)
        };
        let connected = tokio::select! {
            biased;
            () = self.process.ended() => None,
            connected = timeout(QUICK, connect) => connected.ok().flatten(),
        };
        let Some(connection) = connected else { return false };
        tracing::warn!(
            sandbox = self.id,
            "keeper dropped the connection, connected again"
        );
        self.connection = connection;
        true
    }

    /// Serves until the keeper is lost (`false`) or nobody holds the handle any more (`true`).
    async fn serve(&mut self) -> bool {
        loop {
            tokio::select! {
                biased;
                call = self.queue.recv() => match call {
                    Some(call) => self.send(call),
                    None => return true,
                },
                alive = self.connection.step() => {
                    if !alive.unwrap_or(false) || !self.deliver() {
                        return false;
                    }
                }
                () = self.process.ended() => {
                    self.drain().await;
                    return false;
                }
            }
        }
    }

    fn send(&mut self, call: Call) {
        match self.connection.push(call.request) {
            Ok(sequence) => {
                self.waiting.insert(sequence, call.answer);
            }
            // Nobody waits any more if this fails.
            Err(error) => drop(call.answer.send(Err(error))),
        }
    }

    /// Hands out whole messages; `false` if the peer is no keeper.
    fn deliver(&mut self) -> bool {
        loop {
            match self.connection.pop() {
                Ok(Some(Message::Event(event))) => (self.notify)(Notice::Event(event)),
                Ok(Some(Message::Reply(reply))) => {
                    if let Some(answer) = self.waiting.remove(&reply.sequence) {
                        // Nobody waits any more if this fails.
                        let _ = answer.send(reply.body.map_err(Error::from));
                    }
                }
                Ok(None) => return true,
                Err(error) => {
                    tracing::error!(%error, "keeper speaks another language, ending it");
                    return false;
                }
            }
        }
    }

    /// Takes the last words of a keeper that ended.
    async fn drain(&mut self) {
        self.connection.outbound.clear();
        while self.connection.step().await.unwrap_or(false) && self.deliver() {}
    }
}
