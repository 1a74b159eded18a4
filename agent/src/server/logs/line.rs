//! CRI log lines: `TIMESTAMP STREAM TAGS CONTENT\n`. Pure.

#[cfg(test)]
mod tests;

use std::ops::ControlFlow;

use jiff::Timestamp;

use super::Options;

/// One line, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    timestamp: Timestamp,
    /// As written.
    timestamp_text: &'a str,
    /// With the newline, unless the line is a part of a longer one.
    content: &'a [u8],
}

/// Takes a line apart; `None` if it is no CRI log line. `raw` may lack the newline at the end of a file.
fn parse(raw: &[u8]) -> Option<Line<'_>> {
    let mut parts = raw.splitn(4, |byte| *byte == b' ');
    let timestamp_text = std::str::from_utf8(parts.next()?).ok()?;
    let timestamp = timestamp_text.parse().ok()?;
    if !matches!(parts.next()?, b"stdout" | b"stderr") {
        return None;
    }
    // The first tag says whether the line goes on; others are for later versions of the format.
    let partial = parts.next()?.split(|byte| *byte == b':').next() == Some(b"P");
    let mut content = parts.next()?;
    if partial {
        content = content.strip_suffix(b"\n").unwrap_or(content);
    }
    Some(Line {
        timestamp,
        timestamp_text,
        content,
    })
}

/// Turns log lines into what the options ask for, one after the other.
#[derive(Debug)]
pub(super) struct Shaper {
    since: Option<Timestamp>,
    timestamps: bool,
    /// Bytes that may still go out.
    bytes: Option<u64>,
    /// Lines that may still come in: with `tail_lines` and no `follow`, what is written meanwhile does not count.
    lines: Option<u64>,
    /// The next content begins a line of the output.
    begins: bool,
}

impl Shaper {
    pub(super) fn new(options: &Options) -> Self {
        let lines = options.tail_lines.filter(|_| !options.follow);
        let Options {
            since,
            timestamps,
            limit_bytes: bytes,
            ..
        } = *options;
        Self {
            since,
            timestamps,
            bytes,
            lines,
            begins: true,
        }
    }

    /// Whether nothing more can come out.
    pub(super) fn is_done(&self) -> bool {
        self.bytes == Some(0) || self.lines == Some(0)
    }

    /// Takes one raw line and appends what comes of it to `output`. A line that is no CRI log line is left out.
    pub(super) fn line(&mut self, raw: &[u8], output: &mut Vec<u8>) -> ControlFlow<()> {
        if self.is_done() {
            return ControlFlow::Break(());
        }
        if let Some(line) = parse(raw) {
            if self.since.is_none_or(|since| line.timestamp >= since) {
                if self.timestamps && self.begins {
                    self.put(&fixed_width(line.timestamp_text), output);
                }
                self.put(line.content, output);
            }
            self.lines = self.lines.map(|lines| lines - 1);
            self.begins = line.content.last().is_none_or(|byte| *byte == b'\n');
        }
        if self.is_done() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    fn put(&mut self, bytes: &[u8], output: &mut Vec<u8>) {
        let room = self.bytes.map_or(bytes.len(), |room| {
            usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len())
        });
        output.extend_from_slice(&bytes[..room]);
        self.bytes = self.bytes.map(|left| left - room as u64);
    }
}

/// A timestamp as it goes out: nine digits of a second, in the zone it was written in, and a blank.
fn fixed_width(text: &str) -> Vec<u8> {
    let zone = text.len()
        - text
            .bytes()
            .rev()
            .take_while(|byte| !matches!(byte, b'Z' | b'z' | b'+' | b'-'))
            .count()
        - 1;
    let (time, zone) = text.split_at(zone);
    let (seconds, fraction) = time.split_once('.').unwrap_or((time, ""));
    let zone = if zone == "+00:00" { "Z" } else { zone };
    format!("{seconds}.{fraction:0<9}{zone} ").into_bytes()
}
