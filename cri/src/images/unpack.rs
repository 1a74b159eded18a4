//! A layer's archive becomes a directory that overlay can stack.
//!
//! Compression is told by the first bytes. The archive is hashed while it is read; a directory whose `diff_id` was not
//! met never gets its name.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use sha2::{Digest as _, Sha256};

use super::archive::{self, Entry, Kind, Reader};
use super::digest::Digest;
use super::error::{Error, Result};
use crate::state;
use crate::state::layer::{LayerTree, Metadata, name_bytes};

#[cfg(test)]
mod tests;

/// Prefix of names that hide names of lower layers (OCI image specification, whiteouts).
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Names that aufs kept for itself; they mean nothing here.
const RESERVED: &[u8] = b".wh..wh.";
/// zstd's window: 8 MiB.
const MAX_WINDOW_LOG: u32 = 23;

/// What one layer may cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
    /// Unpacked bytes for each compressed one, beyond [`Limits::free_bytes`].
    pub(crate) ratio: u64,
    pub(crate) free_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 256 << 30,
            entries: 2_000_000,
            ratio: 500,
            free_bytes: 1 << 30,
        }
    }
}

/// Unpacks the layer archive `blob` to the directory `to`, which must not be there, and checks its `diff_id`.
pub(crate) fn unpack(blob: &Path, diff_id: &Digest, to: &Path, limits: Limits) -> Result<()> {
    let staging = state::beside(to);
    let result = unpack_into(blob, diff_id, &staging, limits)
        .and_then(|tree| tree.commit("cri.commit_layer", to).map_err(Error::from));
    if result.is_err() {
        state::remove_tree("cri.remove_layer", &staging)?;
    }
    result
}

fn unpack_into(blob: &Path, diff_id: &Digest, staging: &Path, limits: Limits) -> Result<LayerTree> {
    let fail = |operation| state::Error::at(operation, blob);
    let file = File::open(blob).map_err(fail("open"))?;
    let compressed = file.metadata().map_err(fail("stat"))?.len();
    let allowed = compressed
        .saturating_mul(limits.ratio)
        .saturating_add(limits.free_bytes)
        .min(limits.bytes);
    let source = Metered {
        inner: decompressor(file).map_err(fail("read"))?,
        hasher: Sha256::new(),
        read: 0,
        allowed,
    };
    let mut tree = LayerTree::create("cri.make_layer", staging)?;
    let mut reader = Reader::new(source);
    let source = write_all(&mut reader, &mut tree, limits)
        .and_then(|()| reader.finish().map_err(|error| Failure::new("", error)))
        .map_err(|failure| failure.of(diff_id))?;
    let actual = Digest::from_hasher(source.hasher);
    if actual != *diff_id {
        return Err(Error::DigestMismatch {
            object: format!("layer {diff_id} unpacked"),
            expected: *diff_id,
            actual,
        });
    }
    Ok(tree)
}

/// What went wrong at which entry.
struct Failure {
    entry: String,
    error: archive::Error,
}

impl Failure {
    fn new(entry: impl AsRef<Path>, error: impl Into<archive::Error>) -> Self {
        Self {
            entry: entry.as_ref().display().to_string(),
            error: error.into(),
        }
    }

    fn of(self, layer: &Digest) -> Error {
        let (entry, reason) = match self.error {
            archive::Error::Bounds { entry, limit } => {
                let entry = if entry.is_empty() { self.entry } else { entry };
                return Error::Bounds {
                    object: format!("layer {layer} entry {entry:?}"),
                    limit,
                };
            }
            archive::Error::Io(error) => {
                match error.get_ref().and_then(|inner| inner.downcast_ref::<TooMuch>()) {
                    Some(too_much) => {
                        return Error::Bounds {
                            object: format!("layer {layer}"),
                            limit: format!("{} bytes", too_much.0),
                        };
                    }
                    None => (self.entry, error.to_string()),
                }
            }
            archive::Error::Malformed { entry, reason } => (entry, reason),
        };
        Error::Layer {
            layer: *layer,
            entry,
            reason,
        }
    }
}

type Step<T> = std::result::Result<T, Failure>;

fn write_all<R: Read>(reader: &mut Reader<R>, tree: &mut LayerTree, limits: Limits) -> Step<()> {
    let mut directories: Vec<(PathBuf, Metadata)> = Vec::new();
    let mut entries = 0;
    while let Some(entry) = reader.next().map_err(|error| Failure::new("", error))? {
        entries += 1;
        if entries > limits.entries {
            let limit = format!("{} entries", limits.entries);
            return Err(Failure::new(
                &entry.path,
                archive::Error::Bounds {
                    entry: String::new(),
                    limit,
                },
            ));
        }
        write_entry(reader, tree, &entry).map_err(|error| Failure::new(&entry.path, error))?;
        if entry.kind == Kind::Directory && !name_bytes(&entry.path).starts_with(WHITEOUT) {
            directories.push((entry.path, entry.metadata));
        }
    }
    // Writing into a directory moves its time; so times come last, each directory's last word counting.
    for (path, metadata) in directories {
        tree.touch_directory(&path, &metadata)
            .map_err(|error| Failure::new(&path, error))?;
    }
    Ok(())
}

fn write_entry<R: Read>(reader: &mut Reader<R>, tree: &mut LayerTree, entry: &Entry) -> archive::Result<()> {
    let Entry { path, kind, metadata } = entry;
    let name = name_bytes(path);
    if let Some(hidden) = name.strip_prefix(WHITEOUT) {
        if name == OPAQUE {
            return Ok(tree.opaque(path.parent().unwrap_or(Path::new("")))?);
        }
        if name.starts_with(RESERVED) {
            return Ok(());
        }
        return whiteout(tree, path, hidden);
    }
    match kind {
        Kind::File(_) => tree.file(path, metadata, |file| {
            reader.copy(file).map_err(archive::Error::from)
        })?,
        Kind::Directory => tree.directory(path, metadata)?,
        Kind::Symlink(target) => tree.symlink(path, target, metadata)?,
        Kind::Hardlink(target) => tree.hardlink(path, target)?,
        Kind::Fifo => tree.fifo(path, metadata)?,
        // A node that reaches a device of the host is no part of an image: containers get theirs from the runtime.
        Kind::Device => {}
    }
    Ok(())
}

fn whiteout(tree: &mut LayerTree, path: &Path, hidden: &[u8]) -> archive::Result<()> {
    use std::os::unix::ffi::OsStrExt as _;
    if matches!(hidden, b"" | b"." | b"..") {
        let entry = path.display().to_string();
        return Err(archive::Error::Malformed {
            entry,
            reason: "whiteout of no file name".to_owned(),
        });
    }
    Ok(tree.whiteout(&path.with_file_name(std::ffi::OsStr::from_bytes(hidden)))?)
}

fn decompressor(file: File) -> io::Result<Box<dyn Read>> {
    use std::io::BufRead as _;
    let mut file = BufReader::with_capacity(128 << 10, file);
    // A regular file gives as much as it has at once.
    let start = file.fill_buf()?;
    if start.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(BufReader::with_capacity(
            128 << 10,
            MultiGzDecoder::new(file),
        )));
    }
    if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(file)?;
        decoder.window_log_max(MAX_WINDOW_LOG)?;
        return Ok(Box::new(BufReader::with_capacity(128 << 10, decoder)));
    }
    Ok(Box::new(file))
}

/// Hashes and counts what passes, and stops where it becomes too much.
struct Metered {
    inner: Box<dyn Read>,
    hasher: Sha256,
    read: u64,
    allowed: u64,
}

#[derive(Debug, thiserror::Error)]
#[error("more than {0} bytes")]
struct TooMuch(u64);

impl Read for Metered {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.read += count as u64;
        if self.read > self.allowed {
            return Err(io::Error::other(TooMuch(self.allowed)));
        }
        Ok(count)
    }
}
