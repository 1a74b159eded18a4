//! CRI log files: `TIMESTAMP stdout|stderr F|P TEXT`, one line of output a line, long ones cut.
//!
//! As containerd writes them: a line over 16 KiB is cut into `P` pieces and a last `F` piece; what is left without a
//! newline when the stream ends is a `P` piece.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::sys::file;

/// Longest text of one log line, bytes.
pub(crate) const MAX_LINE: usize = 16 << 10;

/// Which stream a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// Cuts one output stream into log lines.
pub(crate) struct Lines {
    stream: Stream,
    partial: Vec<u8>,
}

impl Lines {
    pub(crate) fn new(stream: Stream) -> Self {
        Self {
            stream,
            partial: Vec::new(),
        }
    }

    /// Appends the lines completed by `bytes` to `out`.
    pub(crate) fn feed(&mut self, bytes: &[u8], time: &str, out: &mut Vec<u8>) {
        let mut rest = bytes;
        while !rest.is_empty() {
            match rest.iter().position(|&byte| byte == b'\n') {
                Some(end) => {
                    self.push(&rest[..end], time, out);
                    self.emit(b'F', time, out);
                    rest = &rest[end + 1..];
                }
                None => {
                    self.push(rest, time, out);
                    rest = &[];
                }
            }
        }
    }

    /// Appends what is left without a newline.
    pub(crate) fn finish(&mut self, time: &str, out: &mut Vec<u8>) {
        if !self.partial.is_empty() {
            self.emit(b'P', time, out);
        }
    }

    fn push(&mut self, mut piece: &[u8], time: &str, out: &mut Vec<u8>) {
        while self.partial.len() + piece.len() > MAX_LINE {
            let (head, tail) = piece.split_at(MAX_LINE - self.partial.len());
            self.partial.extend_from_slice(head);
            self.emit(b'P', time, out);
            piece = tail;
        }
        self.partial.extend_from_slice(piece);
    }

    fn emit(&mut self, tag: u8, time: &str, out: &mut Vec<u8>) {
        let stream: &[u8] = match self.stream {
            Stream::Stdout => b" stdout ",
            Stream::Stderr => b" stderr ",
        };
        out.extend_from_slice(time.as_bytes());
        out.extend_from_slice(stream);
        out.extend_from_slice(&[tag, b' ']);
        out.extend_from_slice(&self.partial);
        out.push(b'\n');
        // Given back rather than cleared: a quiet container holds no buffer.
        self.partial = Vec::new();
    }
}

/// A log file, appended to.
pub(crate) struct Log {
    path: PathBuf,
    file: OwnedFd,
    failed: bool,
}

impl Log {
    /// Opens the file, made if absent.
    pub(crate) fn open(path: PathBuf) -> Result<Self, Errno> {
        let file = file::open_log(&path)?;
        Ok(Self {
            path,
            file,
            failed: false,
        })
    }

    /// Opens the path again after a rotation; the old file stays if that fails.
    pub(crate) fn reopen(&mut self) -> Result<(), Errno> {
        self.file = file::open_log(&self.path)?;
        self.failed = false;
        Ok(())
    }

    /// Appends whole lines. Output that cannot be written is lost, as upstream; said once.
    pub(crate) fn write(&mut self, lines: &[u8]) {
        let mut left = lines;
        while !left.is_empty() {
            match rustix::io::retry_on_intr(|| rustix::io::write(&self.file, left)) {
                Ok(written) => left = &left[written..],
                Err(errno) => {
                    if !self.failed {
                        say!(
                            "keeper: write log {}: {errno}; output is lost",
                            self.path.display()
                        );
                    }
                    self.failed = true;
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
