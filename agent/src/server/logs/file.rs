//! Log files, opened below the pod log directory and nowhere else: a container can write into its log directory by a
//! hostPath volume, so a name in there may be a link to any file of the host.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The engine named a path elsewhere.
    #[error("log file {path:?} is not below {root:?}")]
    Elsewhere { path: PathBuf, root: PathBuf },
    /// Something else than a regular file.
    #[error("log file {path:?} is not a regular file")]
    NotRegular { path: PathBuf },
    /// The kernel's answer; a symbolic link on the way is ELOOP.
    #[error("failed to open log file {path:?}: {source}")]
    Open { path: PathBuf, source: io::Error },
}

/// The place of one container's current log: its directory, held open, and the name in it, which rotation reuses.
#[derive(Debug)]
pub(crate) struct LogFile {
    directory: OwnedFd,
    name: PathBuf,
    path: PathBuf,
}

impl LogFile {
    /// Finds the place of `path`, which must be below `root`.
    ///
    /// # Errors
    /// Any [`OpenError`].
    pub(crate) fn locate(root: &Path, path: &Path) -> Result<Self, OpenError> {
        let elsewhere = || OpenError::Elsewhere {
            path: path.to_owned(),
            root: root.to_owned(),
        };
        let below = path.strip_prefix(root).map_err(|_| elsewhere())?;
        let (Some(parent), Some(name)) = (below.parent(), below.file_name()) else {
            return Err(elsewhere());
        };
        let open = |source: rustix::io::Errno| OpenError::Open {
            path: path.to_owned(),
            source: source.into(),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags, Mode::empty()).map_err(open)?;
        let parent = if parent.as_os_str().is_empty() {
            Path::new(".")
        } else {
            parent
        };
        let directory = rustix::fs::openat2(root, parent, flags, Mode::empty(), beneath()).map_err(open)?;
        Ok(Self {
            directory,
            name: name.into(),
            path: path.to_owned(),
        })
    }

    /// Opens what has the name now.
    ///
    /// # Errors
    /// Any [`OpenError`].
    pub(crate) fn open(&self) -> Result<File, OpenError> {
        // Not blocking: a FIFO of that name must not hold the reader.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat2(&self.directory, &self.name, flags, Mode::empty(), beneath())
            .map_err(|source| OpenError::Open {
                path: self.path.clone(),
                source: source.into(),
            })?;
        let file = File::from(file);
        let metadata = file.metadata().map_err(|source| OpenError::Open {
            path: self.path.clone(),
            source,
        })?;
        match metadata.is_file() {
            true => Ok(file),
            false => Err(OpenError::NotRegular {
                path: self.path.clone(),
            }),
        }
    }

    /// Opens what has the name now if that is another file than `current` and has something in it: the writer has
    /// moved on, and `current` is complete.
    pub(super) fn successor(&self, current: &File) -> Option<File> {
        let current = current.metadata().ok()?;
        // Between a rotation's two steps there is no such file.
        let candidate = self.open().ok()?;
        let metadata = candidate.metadata().ok()?;
        let is_other = (metadata.dev(), metadata.ino()) != (current.dev(), current.ino());
        (is_other && metadata.len() > 0).then_some(candidate)
    }

    /// A path to the directory that stays true whatever is renamed, for inotify.
    pub(super) fn directory_path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.directory.as_fd().as_raw_fd()).into()
    }
}

fn beneath() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS
}

/// Where the last `lines` lines begin. What stands after the last newline is no line yet, but is included.
pub(super) fn tail_start(file: &File, lines: u64) -> io::Result<u64> {
    const BLOCK: u64 = 64 * 1024;
    let mut end = file.metadata()?.len();
    let mut newlines = 0;
    let mut block = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        block.resize((end - start) as usize, 0);
        file.read_exact_at(&mut block, start)?;
        for (offset, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            newlines += 1;
            if newlines > lines {
                return Ok(start + offset as u64 + 1);
            }
        }
        end = start;
    }
    Ok(0)
}
