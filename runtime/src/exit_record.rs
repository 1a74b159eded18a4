//! Exit records: one text line a container, written by its keeper before it tells anyone, read by whoever comes later.
//!
//! `v1 ID CODE SIGNAL|- OOM STARTED FINISHED CRC32\n`; times in nanoseconds since the epoch, OOM `0` or `1`, the
//! checksum (IEEE, eight hex digits) over all before its space.

use std::io::Read as _;
use std::path::Path;

use crate::wire::Exit;

/// No record is longer.
const MAX_BYTES: u64 = 512;

/// Why a record cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system refused.
    #[error("read exit record {path}: {source}")]
    Io {
        /// The record.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The line is not a record, or its checksum is wrong.
    #[error("exit record {path} is damaged: {reason}")]
    Damaged {
        /// The record.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// Reads `DIRECTORY/exits/CONTAINER-ID`: the id within it and the exit; none if there is no such file.
///
/// # Errors
/// [`Error`] if the file cannot be read or is not a whole record.
pub fn read(path: &Path) -> Result<Option<(String, Exit)>, Error> {
    let io = |source| Error::Io {
        path: path.display().to_string(),
        source,
    };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let mut line = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut line).map_err(io)?;
    let damaged = |reason| Error::Damaged {
        path: path.display().to_string(),
        reason,
    };
    parse(&line).map(Some).map_err(damaged)
}

/// The record of a container's exit.
pub(crate) fn format(id: &str, exit: &Exit) -> String {
    let signal = exit
        .signal
        .map_or_else(|| "-".to_owned(), |signal| signal.to_string());
    let oom = u8::from(exit.oom_killed);
    let text = format!(
        "v1 {id} {} {signal} {oom} {} {}",
        exit.code, exit.started_at, exit.finished_at
    );
    format!("{text} {:08x}\n", crc32(text.as_bytes()))
}

/// The id and exit of a record.
pub(crate) fn parse(line: &[u8]) -> Result<(String, Exit), &'static str> {
    let line = std::str::from_utf8(line).map_err(|_| "not text")?;
    let line = line.strip_suffix('\n').ok_or("no end of line")?;
    let (text, checksum) = line.rsplit_once(' ').ok_or("no checksum")?;
    if checksum != format!("{:08x}", crc32(text.as_bytes())) {
        return Err("checksum does not match");
    }
    let fields: Vec<&str> = text.split(' ').collect();
    let [version, id, code, signal, oom, started, finished] = fields[..] else {
        return Err("wrong field count");
    };
    if version != "v1" {
        return Err("unknown version");
    }
    let signal = match signal {
        "-" => None,
        number => Some(number.parse().map_err(|_| "signal is no number")?),
    };
    let oom_killed = match oom {
        "0" => false,
        "1" => true,
        _ => return Err("oom flag is neither 0 nor 1"),
    };
    let exit = Exit {
        code: code.parse().map_err(|_| "code is no number")?,
        signal,
        oom_killed,
        started_at: started.parse().map_err(|_| "start time is no number")?,
        finished_at: finished.parse().map_err(|_| "finish time is no number")?,
    };
    Ok((id.to_owned(), exit))
}

/// CRC-32 as in IEEE 802.3, bit by bit: records are short and rare, a table would cost a page in each keeper.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| {
            if sum & 1 == 1 {
                (sum >> 1) ^ 0xEDB8_8320
            } else {
                sum >> 1
            }
        })
    })
}

#[cfg(test)]
mod tests;
