//! The funnel of the node's files: certificates, kubeconfigs. Temporary file, fsync, rename, fsync of the directory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::Error;
use crate::fault;

/// Largest file read here.
const MAX_FILE: u64 = 1024 * 1024;

/// Writes `bytes` to `path` so that a reader sees the old file or the new one, whole.
///
/// # Errors
/// [`Error::File`].
pub(super) fn write(point: &'static str, path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    fault::point(point);
    try_write(path, bytes, mode).map_err(failed("write", path))
}

fn try_write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(dir)?;
    let temporary = path.with_extension("new");
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    File::open(dir)?.sync_all()
}

/// Points the symbolic link `link` at `target`, at once.
///
/// # Errors
/// [`Error::File`].
pub(super) fn link(point: &'static str, link: &Path, target: &Path) -> Result<(), Error> {
    fault::point(point);
    let temporary = link.with_extension("new");
    let linked = match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => std::os::unix::fs::symlink(target, &temporary),
    };
    linked
        .and_then(|()| std::fs::rename(&temporary, link))
        .map_err(failed("link", link))
}

/// Removes `path`; nothing there is fine.
///
/// # Errors
/// [`Error::File`].
pub(super) fn remove(point: &'static str, path: &Path) -> Result<(), Error> {
    fault::point(point);
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Reads a file; `None` when there is none.
///
/// # Errors
/// [`Error::File`].
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", path)(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE)
        .read_to_end(&mut bytes)
        .map_err(failed("read", path))?;
    Ok(Some(bytes))
}

/// Opens the lock file, made with its directory on first use.
///
/// # Errors
/// [`Error::File`].
pub(super) fn open_lock(path: &Path) -> Result<File, Error> {
    fault::point("node.open_lock");
    let dir = path.parent().unwrap_or(Path::new("/"));
    let opened = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(dir)
        .and_then(|()| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o644)
                .open(path)
        });
    opened.map_err(failed("open", path))
}

/// Writes our pid into the lock file that we hold.
///
/// # Errors
/// [`Error::File`].
pub(super) fn sign_lock(mut file: &File, path: &Path) -> Result<(), Error> {
    fault::point("node.sign_lock");
    let signed = file
        .set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    signed.map_err(failed("write", path))
}

/// Sets the process's own OOM score.
///
/// # Errors
/// [`Error::File`].
pub(super) fn set_oom_score(score: i32) -> Result<(), Error> {
    const PATH: &str = "/proc/self/oom_score_adj";
    fault::point("node.set_oom_score");
    std::fs::write(PATH, score.to_string()).map_err(failed("write", Path::new(PATH)))
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File {
        operation,
        path,
        source,
    }
}
