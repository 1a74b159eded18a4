//! The state writer: the only place of this crate that changes files.
//!
//! Every function takes the name of its fault point, which is passed right before the effect. Records become visible
//! whole or not at all: temporary file, fsync, rename, fsync of the directory. All calls block.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::fault;

pub(crate) mod layer;
#[cfg(test)]
mod tests;

/// An effect on disk that failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {}: {source}", path.display())]
pub(crate) struct Error {
    /// `write`, `rename`, …
    pub(crate) operation: &'static str,
    /// On what.
    pub(crate) path: PathBuf,
    /// The kernel's answer.
    pub(crate) source: io::Error,
}

impl Error {
    pub(crate) fn at<E: Into<io::Error>>(operation: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |source| Self {
            operation,
            path: path.to_owned(),
            source: source.into(),
        }
    }
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Makes `path` and its missing parents, `mode` on those it makes, whatever the umask says about the last one.
pub(crate) fn mkdir(point: &str, path: &Path, mode: u32) -> Result<()> {
    fault::point(point);
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .and_then(|()| std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)))
        .map_err(Error::at("make directory", path))
}

/// Replaces the record at `path` (0600) by `bytes`; a reader or a crash sees the old one or the new one.
pub(crate) fn write_record(point: &str, path: &Path, bytes: &[u8]) -> Result<()> {
    let mut staged = Staged::create(point, &beside(path))?;
    staged.write(bytes)?;
    staged.commit(point, path)
}

/// Reads a record of at most `limit` bytes; none if there is no such file.
pub(crate) fn read_record(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::at("open", path)(error)),
    };
    let mut bytes = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(Error::at("read", path))?;
    if bytes.len() as u64 > limit {
        let error = io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {limit} bytes"));
        return Err(Error::at("read", path)(error));
    }
    Ok(Some(bytes))
}

/// Removes a file; one that is not there is success.
pub(crate) fn remove(point: &str, path: &Path) -> Result<()> {
    fault::point(point);
    absent_is_fine(std::fs::remove_file(path)).map_err(Error::at("remove", path))
}

/// Removes a directory with all in it, following no link; one that is not there is success.
pub(crate) fn remove_tree(point: &str, path: &Path) -> Result<()> {
    fault::point(point);
    absent_is_fine(std::fs::remove_dir_all(path)).map_err(Error::at("remove tree", path))
}

/// Renames within one file system; durable on return.
pub(crate) fn rename(point: &str, from: &Path, to: &Path) -> Result<()> {
    fault::point(point);
    std::fs::rename(from, to).map_err(Error::at("rename", from))?;
    sync_parent(to)
}

/// A file that is being written and has no name that counts yet. Dropped before [`Staged::commit`], it is removed.
#[derive(Debug)]
pub(crate) struct Staged {
    file: File,
    path: PathBuf,
    committed: bool,
}

impl Staged {
    /// Makes `path` (0600), emptying what was there.
    pub(crate) fn create(point: &str, path: &Path) -> Result<Self> {
        fault::point(point);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)
            .map_err(Error::at("create", path))?;
        Ok(Self {
            file,
            path: path.to_owned(),
            committed: false,
        })
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::at("write", &self.path))
    }

    /// Empties the file, to begin again.
    pub(crate) fn restart(&mut self) -> Result<()> {
        use std::io::Seek as _;
        self.file
            .set_len(0)
            .and_then(|()| self.file.rewind())
            .map_err(Error::at("truncate", &self.path))
    }

    /// Gives the file its final name; durable on return.
    pub(crate) fn commit(mut self, point: &str, to: &Path) -> Result<()> {
        self.file.sync_all().map_err(Error::at("sync", &self.path))?;
        fault::point(point);
        std::fs::rename(&self.path, to).map_err(Error::at("rename", &self.path))?;
        self.committed = true;
        sync_parent(to)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.committed {
            // Left over it would be swept at the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// A temporary name in the directory of `path`, not used twice by one process. Begins with a dot and ends in `.tmp`.
pub(crate) fn beside(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    name.push(format!(".{}-{next}.tmp", std::process::id()));
    path.with_file_name(name)
}

/// Removes what crashes left in `directory` under names of [`beside`].
pub(crate) fn sweep(point: &str, directory: &Path) -> Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::at("list", directory)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(Error::at("list", directory))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !(name.starts_with('.') && name.ends_with(".tmp")) {
            continue;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => remove_tree(point, &entry.path())?,
            _ => remove(point, &entry.path())?,
        }
    }
    Ok(())
}

fn sync_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    File::open(parent)
        .and_then(|directory| directory.sync_all())
        .map_err(Error::at("sync directory", parent))
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
