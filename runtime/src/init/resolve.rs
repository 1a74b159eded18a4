//! Names inside the container's root become descriptors here, and nowhere else.
//!
//! A destination that exists is opened in one call that cannot leave the root. One that does not is walked component by
//! component on descriptors we hold; links are followed by us, within the root, never into procfs.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags};
use rustix::io::Errno;

use crate::failure::{About as _, Trouble};
use crate::sys::file;

/// Links followed on one way.
const MAX_LINKS: usize = 40;

/// Tries to open a path while others mount and rename.
const MAX_TRIES: usize = 1024;

/// Components of one destination, links included.
const MAX_COMPONENTS: usize = 1024;

/// What a destination has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
}

/// One open within `root`. The kernel gives up with EAGAIN when anything was renamed or mounted anywhere while it
/// walked a `..`; that says nothing about this path, so it is tried again.
fn open_in(root: BorrowedFd<'_>, path: &str, flags: OFlags, how: ResolveFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC;
    let open = || {
        rustix::fs::openat2(
            root,
            relative(path),
            flags,
            Mode::empty(),
            ResolveFlags::IN_ROOT | how,
        )
    };
    let mut tries = std::iter::repeat_with(open).take(MAX_TRIES);
    tries
        .find(|opened| !matches!(opened, Err(Errno::AGAIN)))
        .unwrap_or(Err(Errno::AGAIN))
}

/// Opens what is at `path` in `root`, as a mere reference, following links within the root.
pub(super) fn existing(root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    open_in(root, path, OFlags::PATH, ResolveFlags::NO_MAGICLINKS)
}

/// Opens `path` in `root` for reading if it is there and no link.
pub(super) fn readable_file(root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    open_in(root, path, flags, ResolveFlags::NO_MAGICLINKS)
}

/// Opens the device `path` in `root` for both ways, with no link on the way.
pub(super) fn device(root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    open_in(
        root,
        path,
        OFlags::RDWR | OFlags::NOCTTY,
        ResolveFlags::NO_SYMLINKS,
    )
}

/// Opens the directory `path`, made if absent, refusing any link on the way: what is mounted there must be what later
/// steps find by the same name.
pub(super) fn plain_directory(root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Trouble> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let open = || open_in(root, path, flags, ResolveFlags::NO_SYMLINKS);
    let opened = match open() {
        Err(Errno::NOENT) => {
            destination(root, path, Kind::Directory)?;
            open()
        }
        other => other,
    };
    opened.map_err(|errno| match errno {
        Errno::LOOP | Errno::NOTDIR => Trouble::worded(
            path,
            errno,
            format!("{path} must be mounted on ordinary directory"),
        ),
        errno => Trouble::kernel(path, errno),
    })
}

/// Opens the mount point `path`, made with its missing parents if absent.
pub(super) fn destination(root: BorrowedFd<'_>, path: &str, kind: Kind) -> Result<OwnedFd, Trouble> {
    match existing(root, path) {
        Ok(found) => fits(&found, kind, path).map(|()| found),
        Err(Errno::NOENT) => Walk::new(root, path, kind)?.finish(),
        Err(errno) => Err(Trouble::kernel(path, errno)),
    }
}

/// Splits off the last component: its parent directory opened, made if absent, and its name.
pub(super) fn parent<'p>(root: BorrowedFd<'_>, path: &'p str) -> Result<(OwnedFd, &'p str), Trouble> {
    let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
    if name.is_empty() || name == "." || name == ".." {
        return Err(Trouble::rule(path, "path does not name a file"));
    }
    Ok((
        destination(root, if above.is_empty() { "/" } else { above }, Kind::Directory)?,
        name,
    ))
}

fn relative(path: &str) -> &str {
    match path.trim_start_matches('/') {
        "" => ".",
        path => path,
    }
}

fn fits(found: &OwnedFd, kind: Kind, path: &str) -> Result<(), Trouble> {
    let mode = rustix::fs::fstat(found).about(path)?.st_mode;
    let is_directory = FileType::from_raw_mode(mode) == FileType::Directory;
    match (kind, is_directory) {
        (Kind::Directory, false) => Err(Trouble::kernel(path, Errno::NOTDIR)),
        (Kind::File, true) => Err(Trouble::kernel(path, Errno::ISDIR)),
        _ => Ok(()),
    }
}

/// A walk from the root to a destination, making what is missing.
struct Walk<'a> {
    path: &'a str,
    kind: Kind,
    /// Directories from the root to where we are; the first is the root and stays.
    way: Vec<OwnedFd>,
    /// Components ahead, the next one last.
    ahead: Vec<String>,
    links: usize,
}

impl<'a> Walk<'a> {
    fn new(root: BorrowedFd<'_>, path: &'a str, kind: Kind) -> Result<Self, Trouble> {
        let root = root
            .try_clone_to_owned()
            .map_err(|error| Trouble::rule("/", error.to_string()))?;
        let mut walk = Self {
            path,
            kind,
            way: vec![root],
            ahead: Vec::new(),
            links: 0,
        };
        walk.prepend(path)?;
        Ok(walk)
    }

    fn prepend(&mut self, path: &str) -> Result<(), Trouble> {
        self.ahead.extend(
            path.split('/')
                .rev()
                .filter(|part| !part.is_empty() && *part != ".")
                .map(str::to_owned),
        );
        if self.ahead.len() > MAX_COMPONENTS {
            return Err(Trouble::kernel(self.path, Errno::NAMETOOLONG));
        }
        Ok(())
    }

    fn here(&self) -> BorrowedFd<'_> {
        self.way
            .last()
            .expect("the root is never taken off the way")
            .as_fd()
    }

    fn finish(mut self) -> Result<OwnedFd, Trouble> {
        while let Some(name) = self.ahead.pop() {
            if name == ".." {
                if self.way.len() > 1 {
                    self.way.pop();
                }
                continue;
            }
            let next = self.open_or_make(&name)?;
            let kind = FileType::from_raw_mode(rustix::fs::fstat(&next).about(self.path)?.st_mode);
            match kind {
                FileType::Symlink => self.follow(&next)?,
                FileType::Directory => self.way.push(next),
                _ if self.ahead.is_empty() && self.kind == Kind::File => return Ok(next),
                _ => return Err(Trouble::kernel(self.path, Errno::NOTDIR)),
            }
        }
        let end = self
            .way
            .pop()
            .ok_or_else(|| Trouble::kernel(self.path, Errno::NOENT))?;
        fits(&end, self.kind, self.path).map(|()| end)
    }

    fn open_or_make(&self, name: &str) -> Result<OwnedFd, Trouble> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(self.here(), name, flags, Mode::empty());
        match open() {
            Err(Errno::NOENT) => {
                if self.ahead.is_empty() && self.kind == Kind::File {
                    file::make_file_at(self.here(), name, 0o755).about(self.path)?;
                } else {
                    file::ensure_directory_at(self.here(), name, 0o755).about(self.path)?;
                }
                open().about(self.path)
            }
            other => other.about(self.path),
        }
    }

    fn follow(&mut self, link: &OwnedFd) -> Result<(), Trouble> {
        self.links += 1;
        let in_procfs = rustix::fs::fstatfs(link).about(self.path)?.f_type == PROC_SUPER_MAGIC;
        if self.links > MAX_LINKS || in_procfs {
            return Err(Trouble::kernel(self.path, Errno::LOOP));
        }
        let target = rustix::fs::readlinkat(link, "", Vec::new()).about(self.path)?;
        let target = target
            .into_string()
            .map_err(|_| Trouble::kernel(self.path, Errno::ILSEQ))?;
        if target.starts_with('/') {
            self.way.truncate(1);
        }
        self.prepend(&target)
    }
}

/// Whether `child` of `parent` is the device `number`.
pub(super) fn is_device(parent: impl AsFd, child: &str, number: u64) -> bool {
    rustix::fs::statat(parent, child, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|status| status.st_rdev == number)
}
