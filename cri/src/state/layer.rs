//! Writing one unpacked layer: every name comes from outside, so every step is taken on file descriptors.
//!
//! A directory is found by `openat2` with the layer as root: no name, link or `..` leads out of it. Its last part is
//! then handled with calls that follow no link.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid,
    XattrFlags,
};
use rustix::io::Errno;

use crate::fault;

const POINT: &str = "cri.write_layer_entry";
/// Extended attribute that makes overlay hide the lower directory of the same name.
const OPAQUE: &str = "trusted.overlay.opaque";

/// Owner, mode, time and extended attributes of an entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Metadata {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Permission bits with setuid, setgid, sticky.
    pub(crate) mode: u32,
    /// Seconds and nanoseconds since the epoch.
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: Vec<(OsString, Vec<u8>)>,
}

/// A directory that a layer is unpacked into.
#[derive(Debug)]
pub(crate) struct LayerTree {
    root: OwnedFd,
    path: PathBuf,
    /// The parent used last: layers list a directory's files one after another.
    parent: Option<(PathBuf, OwnedFd)>,
}

impl LayerTree {
    /// Makes the empty directory `path` and opens it.
    pub(crate) fn create(point: &str, path: &Path) -> super::Result<Self> {
        super::mkdir(point, path, 0o755)?;
        let root = rustix::fs::open(
            path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(super::Error::at("open", path))?;
        Ok(Self {
            root,
            path: path.to_owned(),
            parent: None,
        })
    }

    /// A directory; one that is there already takes the new metadata.
    pub(crate) fn directory(&mut self, path: &Path, metadata: &Metadata) -> io::Result<()> {
        fault::point(POINT);
        self.parent = None;
        let Some(name) = path.file_name() else {
            return apply_fd(self.open(Path::new("."))?.as_fd(), metadata);
        };
        let parent = self.parent_of(path)?;
        let mut hides_lower = false;
        match lookup(parent.as_fd(), name)? {
            Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {}
            found => {
                if let Some(stat) = found {
                    hides_lower = is_whiteout(&stat);
                    clear(parent.as_fd(), name)?;
                }
                rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700))?;
            }
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(&parent, name, flags, Mode::empty())?;
        if hides_lower {
            rustix::fs::fsetxattr(&directory, OPAQUE, b"y", XattrFlags::empty())?;
        }
        apply_fd(directory.as_fd(), metadata)
    }

    /// A regular file with the bytes that `fill` writes.
    pub(crate) fn file<E: From<io::Error>>(
        &mut self,
        path: &Path,
        metadata: &Metadata,
        fill: impl FnOnce(&mut std::fs::File) -> Result<(), E>,
    ) -> Result<(), E> {
        fault::point(POINT);
        let (parent, name) = self.cleared(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o600)).map_err(io::Error::from)?;
        let mut file = std::fs::File::from(file);
        fill(&mut file)?;
        apply_fd(file.as_fd(), metadata)?;
        Ok(())
    }

    pub(crate) fn symlink(&mut self, path: &Path, target: &OsStr, metadata: &Metadata) -> io::Result<()> {
        fault::point(POINT);
        let (parent, name) = self.cleared(path)?;
        rustix::fs::symlinkat(target, &parent, name)?;
        let owner = (
            Some(Uid::from_raw(metadata.uid)),
            Some(Gid::from_raw(metadata.gid)),
        );
        rustix::fs::chownat(&parent, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
        rustix::fs::utimensat(&parent, name, &times(metadata), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    /// A second name of a file of this layer. The link itself is linked where `target` is one.
    pub(crate) fn hardlink(&mut self, path: &Path, target: &Path) -> io::Result<()> {
        fault::point(POINT);
        let target_name = target.file_name().ok_or(Errno::ISDIR)?;
        let from = self.parent_of(target)?;
        let source = lookup(from.as_fd(), target_name)?.ok_or(Errno::NOENT)?;
        let name = path.file_name().ok_or(Errno::ISDIR)?;
        let parent = self.parent_of(path)?;
        match lookup(parent.as_fd(), name)? {
            // Linked to itself: clearing the name would lose the file.
            Some(there) if (there.st_dev, there.st_ino) == (source.st_dev, source.st_ino) => return Ok(()),
            Some(_) => clear(parent.as_fd(), name)?,
            None => {}
        }
        self.parent = None;
        rustix::fs::linkat(&from, target_name, &parent, name, AtFlags::empty())?;
        Ok(())
    }

    pub(crate) fn fifo(&mut self, path: &Path, metadata: &Metadata) -> io::Result<()> {
        fault::point(POINT);
        let (parent, name) = self.cleared(path)?;
        rustix::fs::mknodat(&parent, name, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
        // Opened for nothing but its place: a FIFO's open could block.
        let fifo = rustix::fs::openat(
            &parent,
            name,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        apply_path(&fd_path(fifo.as_fd()), metadata)
    }

    /// Hides `path` of the layers below: overlay's character device 0:0.
    pub(crate) fn whiteout(&mut self, path: &Path) -> io::Result<()> {
        fault::point(POINT);
        let name = path.file_name().ok_or(Errno::INVAL)?;
        let parent = self.parent_of(path)?;
        match lookup(parent.as_fd(), name)? {
            None => Ok(rustix::fs::mknodat(
                &parent,
                name,
                FileType::CharacterDevice,
                Mode::empty(),
                0,
            )?),
            // A whiteout speaks of the layers below only; this layer's own directory stays and hides theirs.
            Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => self.opaque(path),
            Some(_) => Ok(()),
        }
    }

    /// Hides all that the layers below have in the directory `path`.
    pub(crate) fn opaque(&mut self, path: &Path) -> io::Result<()> {
        fault::point(POINT);
        let directory = self.ensure(path)?;
        let directory = rustix::fs::openat(
            &directory,
            ".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        Ok(rustix::fs::fsetxattr(
            &directory,
            OPAQUE,
            b"y",
            XattrFlags::empty(),
        )?)
    }

    /// Sets the time of a directory, after all of its entries were written. One that was replaced since is left alone.
    pub(crate) fn touch_directory(&self, path: &Path, metadata: &Metadata) -> io::Result<()> {
        let parent = match self.open(path.parent().unwrap_or(Path::new("."))) {
            Err(error) if is_gone(&error) => return Ok(()),
            parent => parent?,
        };
        let name = path.file_name().unwrap_or(OsStr::new("."));
        match lookup(parent.as_fd(), name)? {
            Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => Ok(
                rustix::fs::utimensat(&parent, name, &times(metadata), AtFlags::SYMLINK_NOFOLLOW)?,
            ),
            _ => Ok(()),
        }
    }

    /// Brings the tree to the disk and gives it its name.
    pub(crate) fn commit(self, point: &str, to: &Path) -> super::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(&self.path, flags, Mode::empty())
            .and_then(rustix::fs::syncfs)
            .map_err(super::Error::at("sync", &self.path))?;
        super::rename(point, &self.path, to)
    }

    /// The parent of `path`, with nothing left at its name.
    fn cleared<'p>(&mut self, path: &'p Path) -> io::Result<(OwnedFd, &'p OsStr)> {
        let name = path.file_name().ok_or(Errno::ISDIR)?;
        let parent = self.parent_of(path)?;
        if let Some(stat) = lookup(parent.as_fd(), name)? {
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                self.parent = None;
            }
            clear(parent.as_fd(), name)?;
        }
        Ok((parent, name))
    }

    fn parent_of(&mut self, path: &Path) -> io::Result<OwnedFd> {
        let parent = path.parent().unwrap_or(Path::new("."));
        if let Some((last, fd)) = &self.parent
            && last == parent
        {
            return fd.try_clone();
        }
        let fd = self.ensure(parent)?;
        self.parent = Some((parent.to_owned(), fd.try_clone()?));
        Ok(fd)
    }

    /// Opens the directory `path`, making the parts of it that are not there.
    fn ensure(&self, path: &Path) -> io::Result<OwnedFd> {
        match self.open(path) {
            Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {}
            opened => return opened,
        }
        let mut made = PathBuf::new();
        for part in path.components() {
            let here = self.open(if made.as_os_str().is_empty() {
                Path::new(".")
            } else {
                &made
            })?;
            match rustix::fs::mkdirat(&here, part.as_os_str(), Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            made.push(part);
        }
        self.open(path)
    }

    fn open(&self, path: &Path) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        Ok(rustix::fs::openat2(
            &self.root,
            path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV,
        )?)
    }
}

fn lookup(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<Stat>> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Removes one name of this layer, a directory with all in it.
fn clear(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        // remove_dir_all follows no link and works on descriptors below its start.
        Err(Errno::ISDIR | Errno::PERM) => std::fs::remove_dir_all(fd_path(parent).join(name)),
        Err(error) => Err(error.into()),
    }
}

/// A path to what a descriptor of ours stands for.
fn fd_path(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn times(metadata: &Metadata) -> Timestamps {
    let (seconds, nanoseconds) = metadata.mtime;
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: seconds,
            tv_nsec: nanoseconds.into(),
        },
    }
}

/// Owner first: a change of owner clears setuid and file capabilities.
fn apply_fd(fd: BorrowedFd<'_>, metadata: &Metadata) -> io::Result<()> {
    // A directory found by openat2 is an O_PATH descriptor, which takes no fchown.
    if rustix::fs::fcntl_getfl(fd)?.contains(OFlags::PATH) {
        return apply_path(&fd_path(fd), metadata);
    }
    rustix::fs::fchown(
        fd,
        Some(Uid::from_raw(metadata.uid)),
        Some(Gid::from_raw(metadata.gid)),
    )?;
    rustix::fs::fchmod(fd, Mode::from_raw_mode(metadata.mode))?;
    for (name, value) in &metadata.xattrs {
        tolerate_unsupported(rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()))?;
    }
    Ok(rustix::fs::futimens(fd, &times(metadata))?)
}

/// The same by a path of [`fd_path`], for descriptors that stand for a place only.
fn apply_path(path: &Path, metadata: &Metadata) -> io::Result<()> {
    let owner = (
        Some(Uid::from_raw(metadata.uid)),
        Some(Gid::from_raw(metadata.gid)),
    );
    rustix::fs::chownat(CWD, path, owner.0, owner.1, AtFlags::empty())?;
    rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(metadata.mode), AtFlags::empty())?;
    for (name, value) in &metadata.xattrs {
        tolerate_unsupported(rustix::fs::setxattr(path, name, value, XattrFlags::empty()))?;
    }
    Ok(rustix::fs::utimensat(
        CWD,
        path,
        &times(metadata),
        AtFlags::empty(),
    )?)
}

/// Some file systems have no ACLs or user attributes; an image must still unpack there.
fn tolerate_unsupported(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    ) || error.raw_os_error() == Some(Errno::LOOP.raw_os_error())
}

/// The last part of an entry's name, for whiteouts.
pub(crate) fn name_bytes(path: &Path) -> &[u8] {
    path.file_name().map(OsStr::as_bytes).unwrap_or_default()
}
