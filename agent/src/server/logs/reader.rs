//! Reading a log into a stream of chunks, and following it over rotations until its container has ended.

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use bytes::Bytes;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::file::{self, LogFile, OpenError};
use super::line::Shaper;
use super::options::Options;
use super::sys;

/// Why reading stopped early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The file could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The file could not be read.
    #[error("failed to read log file: {0}")]
    Read(#[source] io::Error),
}

const CHUNK: usize = 64 * 1024;
/// Runtimes cut lines at 16 KiB. What is longer is no log line and is left out.
const LINE_LIMIT: usize = 1024 * 1024;
/// How often to look without inotify, whose instances are few.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Opens the log and copies what the options ask for to `output`, in chunks. Returns as soon as the file is open; the
/// copying ends with the log, with its container (`ended`) when following, and with the receiver. A slow receiver
/// slows only this reader.
///
/// # Errors
/// The log cannot be opened or searched for its tail. Later errors go through `output`.
pub(crate) async fn copy(
    log: LogFile,
    options: Options,
    ended: CancellationToken,
    output: mpsc::Sender<Result<Bytes, ReadError>>,
) -> Result<(), ReadError> {
    let tail_lines = options.tail_lines;
    let (log, source) = blocking(move || {
        let file = log.open()?;
        let position = match tail_lines {
            Some(lines) => file::tail_start(&file, lines).map_err(ReadError::Read)?,
            None => 0,
        };
        Ok::<_, ReadError>((
            log,
            Source {
                file,
                position,
                pending: Vec::new(),
                skipping: false,
            },
        ))
    })
    .await?;
    let shaper = Shaper::new(&options);
    let mut copier = Copier {
        log: Some(log),
        source: Some(source),
        shaper: Some(shaper),
        output,
    };
    tokio::spawn(async move {
        let result = match options.follow {
            true => copier.follow(&ended).await,
            false => copier.drain(true).await.map(|_| ()),
        };
        if let Err(error) = result {
            // A receiver that is gone has no use for it.
            let _ = copier.output.send(Err(error)).await;
        }
    });
    Ok(())
}

/// A file, how far it was read, and the begin of a line whose end was not there yet.
struct Source {
    file: File,
    position: u64,
    pending: Vec<u8>,
    /// Inside a line that is too long.
    skipping: bool,
}

/// What one step of reading found.
enum Step {
    /// Output to send, more may follow at once.
    Output(Vec<u8>),
    /// The end of the file for now.
    AtEnd,
    /// Nothing more is wanted.
    Done(Vec<u8>),
}

impl Source {
    fn step(&mut self, shaper: &mut Shaper) -> io::Result<Step> {
        if shaper.is_done() {
            return Ok(Step::Done(Vec::new()));
        }
        let mut chunk = vec![0; CHUNK];
        let count = self.file.read_at(&mut chunk, self.position)?;
        if count == 0 {
            return Ok(Step::AtEnd);
        }
        self.position += count as u64;
        let mut output = Vec::new();
        for part in chunk[..count].split_inclusive(|byte| *byte == b'\n') {
            let complete = part.ends_with(b"\n");
            if self.pending.len() + part.len() > LINE_LIMIT {
                self.pending = Vec::new();
                self.skipping = true;
            }
            if self.skipping {
                self.skipping = !complete;
                continue;
            }
            self.pending.extend_from_slice(part);
            if complete {
                let flow = shaper.line(&self.pending, &mut output);
                self.pending.clear();
                if flow.is_break() {
                    return Ok(Step::Done(output));
                }
            }
        }
        Ok(Step::Output(output))
    }

    /// The last line of a file that will not grow, without its newline.
    fn rest(&mut self, shaper: &mut Shaper) -> Vec<u8> {
        let mut output = Vec::new();
        let pending = std::mem::take(&mut self.pending);
        if !pending.is_empty() && !self.skipping {
            let _ = shaper.line(&pending, &mut output);
        }
        output
    }
}

/// Reading goes to the blocking threads and back chunk by chunk, so a follower that waits holds no thread. The parts
/// that travel are `Option`s: absent only while a step runs.
struct Copier {
    log: Option<LogFile>,
    source: Option<Source>,
    shaper: Option<Shaper>,
    output: mpsc::Sender<Result<Bytes, ReadError>>,
}

/// Whether to go on after a drain.
#[derive(PartialEq, Eq)]
enum Progress {
    AtEnd,
    Finished,
}

impl Copier {
    /// Copies up to the end of the file. `last`: it will not grow any more, so an unfinished line counts.
    async fn drain(&mut self, last: bool) -> Result<Progress, ReadError> {
        loop {
            let (source, shaper) = (self.source.take(), self.shaper.take());
            let (Some(mut source), Some(mut shaper)) = (source, shaper) else {
                return Ok(Progress::Finished);
            };
            let (source, shaper, step) = blocking(move || {
                let step = source.step(&mut shaper).map(|step| match step {
                    Step::AtEnd if last => Step::Done(source.rest(&mut shaper)),
                    step => step,
                });
                (source, shaper, step)
            })
            .await;
            (self.source, self.shaper) = (Some(source), Some(shaper));
            let (output, progress) = match step.map_err(ReadError::Read)? {
                Step::Output(output) => (output, None),
                Step::AtEnd => return Ok(Progress::AtEnd),
                Step::Done(output) => (output, Some(Progress::Finished)),
            };
            if !output.is_empty() && self.output.send(Ok(output.into())).await.is_err() {
                return Ok(Progress::Finished);
            }
            if let Some(progress) = progress {
                return Ok(progress);
            }
        }
    }

    async fn follow(&mut self, ended: &CancellationToken) -> Result<(), ReadError> {
        // Watch first, read then: what is written in between is an event.
        let mut changes = Changes::watch(self.log.as_ref());
        loop {
            // Asked before reading: what was written before the end is read after it.
            let is_last = ended.is_cancelled();
            if self.drain(false).await? == Progress::Finished {
                return Ok(());
            }
            if self.move_on().await? {
                continue;
            }
            if is_last {
                self.drain(true).await?;
                return Ok(());
            }
            tokio::select! {
                () = ended.cancelled() => {}
                () = changes.next() => {}
                () = self.output.closed() => return Ok(()),
            }
        }
    }

    /// Goes to the file that rotation put in the place of the current one. That one is read to its end first: with
    /// the first byte in the new file the writer has left the old one.
    async fn move_on(&mut self) -> Result<bool, ReadError> {
        let (Some(log), Some(source)) = (self.log.take(), self.source.take()) else {
            return Ok(false);
        };
        let (log, source, successor) = blocking(move || {
            let successor = log.successor(&source.file);
            (log, source, successor)
        })
        .await;
        (self.log, self.source) = (Some(log), Some(source));
        let Some(file) = successor else { return Ok(false) };
        if self.drain(false).await? == Progress::Finished {
            return Ok(true);
        }
        // A line that was never finished stays one: the output of the old file ends here.
        if let (Some(source), Some(shaper)) = (&mut self.source, &mut self.shaper) {
            let rest = source.rest(shaper);
            if !rest.is_empty() && self.output.send(Ok(rest.into())).await.is_err() {
                return Ok(true);
            }
        }
        self.source = Some(Source {
            file,
            position: 0,
            pending: Vec::new(),
            skipping: false,
        });
        Ok(true)
    }
}

/// Changes in the log's directory: by inotify, or where that is used up by looking now and then.
struct Changes {
    events: Option<AsyncFd<OwnedFd>>,
}

impl Changes {
    fn watch(log: Option<&LogFile>) -> Self {
        let watch = |log: &LogFile| -> io::Result<AsyncFd<OwnedFd>> {
            let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            let flags = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
            inotify::add_watch(&inotify, log.directory_path(), flags)?;
            sys::poll(inotify)
        };
        Self {
            events: log.and_then(|log| watch(log).ok()),
        }
    }

    /// Waits for a change. Only that there was one counts, so all that have come are taken together.
    async fn next(&mut self) {
        let Some(events) = &self.events else {
            return tokio::time::sleep(LOOK_INTERVAL).await;
        };
        let Ok(mut ready) = events.readable().await else {
            self.events = None;
            return;
        };
        let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
        // Until it would block: the next wait must be for the next change.
        while rustix::io::read(events.get_ref(), &mut buffer[..]).is_ok() {}
        ready.clear_ready();
    }
}

/// Runs file work on a thread that may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        // Only a panic or the end of the runtime; the first goes on, and after the second nothing awaits this.
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => std::future::pending().await,
        },
    }
}
