//! The funnel of effects on pods' directories. Each passes its fault point first.
//!
//! Everything below a pod's directory is reached from a directory handle, without following links: a container may
//! have planted some. Only the agent's own root is opened by path.

mod mounting;
mod parts;

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use super::error::FileError;
use crate::fault;

pub(super) use mounting::mount_info;
pub(super) use parts::{Part, bind, make_part, open_part};

/// Inside the directory, never through a link.
const INSIDE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// A directory handle with its path, for words only.
pub(super) struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

/// Kind, owner and identity of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mount_id: u64,
    pub(super) is_mount_root: bool,
}

impl Status {
    pub(super) fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }
}

fn failed(operation: &'static str, path: PathBuf) -> impl FnOnce(Errno) -> FileError {
    move |errno| FileError {
        operation,
        path,
        cause: errno.into(),
    }
}

impl Dir {
    /// Opens a directory of the agent's own by path.
    pub(super) fn open_root(path: &Path) -> Result<Self, FileError> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
        let fd = fs::open(path, flags, Mode::empty()).map_err(failed("open", path.to_owned()))?;
        Ok(Self {
            fd,
            path: path.to_owned(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory at `name` (one component or several), `None` if there is none. Mounts are crossed.
    pub(super) fn child(&self, name: impl AsRef<Path>) -> Result<Option<Self>, FileError> {
        match self.open_child(name.as_ref(), INSIDE) {
            Ok(dir) => Ok(Some(dir)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// As [`Dir::child`], but never across a mount.
    pub(super) fn child_on_same_mount(&self, name: &CStr) -> Result<Self, FileError> {
        self.open_child(&self.name(name), INSIDE | ResolveFlags::NO_XDEV)
    }

    fn open_child(&self, name: &Path, resolve: ResolveFlags) -> Result<Self, FileError> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY | OFlags::NOFOLLOW;
        let fd = fs::openat2(&self.fd, name, flags, Mode::empty(), resolve)
            .map_err(failed("open", self.path.join(name)))?;
        Ok(Self {
            fd,
            path: self.path.join(name),
        })
    }

    /// The directory `name`, made with `mode` if there is none; `mode` holds whatever the umask is.
    pub(super) fn make(&self, name: &str, mode: u32) -> Result<Self, FileError> {
        if let Some(dir) = self.child(name)? {
            return Ok(dir);
        }
        fault::point("volumes.make_directory");
        let mode = Mode::from_raw_mode(mode);
        match fs::mkdirat(&self.fd, name, mode) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed("make", self.path.join(name))(errno)),
        }
        let dir = self.open_child(Path::new(name), INSIDE)?;
        fs::fchmod(&dir.fd, mode).map_err(failed("chmod", dir.path.clone()))?;
        Ok(dir)
    }

    /// A second handle.
    pub(super) fn again(&self) -> Result<Self, FileError> {
        let fd = self.fd.try_clone().map_err(|cause| FileError {
            operation: "open",
            path: self.path.clone(),
            cause,
        })?;
        Ok(Self {
            fd,
            path: self.path.clone(),
        })
    }

    /// Names and kinds of the entries, without `.` and `..`.
    pub(super) fn entries(&self) -> Result<Vec<(CString, FileType)>, FileError> {
        let list = || -> rustix::io::Result<Vec<(CString, FileType)>> {
            let mut found = Vec::new();
            for entry in fs::Dir::read_from(&self.fd)? {
                let entry = entry?;
                let name = entry.file_name();
                if name != c"." && name != c".." {
                    found.push((name.to_owned(), entry.file_type()));
                }
            }
            Ok(found)
        };
        list().map_err(failed("list", self.path.clone()))
    }

    /// What lies at `name`, a link itself and not its target; the directory itself for an empty name.
    pub(super) fn status(&self, name: impl AsRef<Path>) -> Result<Option<Status>, FileError> {
        let name = name.as_ref();
        let flags = AtFlags::SYMLINK_NOFOLLOW
            | if name.as_os_str().is_empty() {
                AtFlags::EMPTY_PATH
            } else {
                AtFlags::empty()
            };
        let mask = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
        match fs::statx(&self.fd, name, flags, mask) {
            Ok(stat) => Ok(Some(Status {
                mode: u32::from(stat.stx_mode),
                uid: stat.stx_uid,
                gid: stat.stx_gid,
                mount_id: stat.stx_mnt_id,
                is_mount_root: stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
            })),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(failed("look at", self.path.join(name))(errno)),
        }
    }

    /// The first `limit` bytes of the regular file at `name`; `None` if there is none.
    pub(super) fn read(&self, name: impl AsRef<Path>, limit: u64) -> Result<Option<Vec<u8>>, FileError> {
        let name = name.as_ref();
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let fd = match fs::openat2(&self.fd, name, flags, Mode::empty(), INSIDE) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(errno) => return Err(failed("open", self.path.join(name))(errno)),
        };
        // Not a FIFO or device, which could keep the reader waiting.
        let stat = fs::fstat(&fd).map_err(failed("look at", self.path.join(name)))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(None);
        }
        let mut data = Vec::new();
        File::from(fd)
            .take(limit)
            .read_to_end(&mut data)
            .map_err(|cause| FileError {
                operation: "read",
                path: self.path.join(name),
                cause,
            })?;
        Ok(Some(data))
    }

    /// Where the link `name` points; `None` if there is no such link.
    pub(super) fn link_target(&self, name: &str) -> Result<Option<String>, FileError> {
        match fs::readlinkat(&self.fd, name, Vec::new()) {
            Ok(target) => Ok(Some(target.to_string_lossy().into_owned())),
            Err(Errno::NOENT | Errno::INVAL) => Ok(None),
            Err(errno) => Err(failed("read link", self.path.join(name))(errno)),
        }
    }

    /// Writes a new file; it must not be there yet. Its mode holds whatever the umask is.
    pub(super) fn write_new(&self, name: &str, data: &[u8], mode: u32) -> Result<(), FileError> {
        fault::point("volumes.write_file");
        let path = self.path.join(name);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = fs::openat(&self.fd, name, flags, Mode::from_raw_mode(0o600))
            .map_err(failed("make", path.clone()))?;
        let mut file = File::from(fd);
        file.write_all(data).map_err(|cause| FileError {
            operation: "write",
            path: path.clone(),
            cause,
        })?;
        fs::fchmod(&file, Mode::from_raw_mode(mode)).map_err(failed("chmod", path))
    }

    /// Writes the file `name` whole or not at all: a temporary one, then a rename. No sync: these files are made
    /// anew after a crash of the machine.
    pub(super) fn replace(&self, name: &str, data: &[u8], mode: u32) -> Result<(), FileError> {
        let temporary = format!("{name}.new");
        self.unlink(&temporary)?;
        self.write_new(&temporary, data, mode)?;
        self.rename(&temporary, name)
    }

    /// Writes over the file `name` in place: for files that containers hold by a mount.
    pub(super) fn overwrite(&self, name: &str, data: &[u8]) -> Result<(), FileError> {
        fault::point("volumes.overwrite_file");
        let path = self.path.join(name);
        let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC;
        let fd = fs::openat2(&self.fd, name, flags, Mode::empty(), INSIDE)
            .map_err(failed("open", path.clone()))?;
        File::from(fd).write_all(data).map_err(|cause| FileError {
            operation: "write",
            path,
            cause,
        })
    }

    pub(super) fn link(&self, target: &str, name: &str) -> Result<(), FileError> {
        fault::point("volumes.link");
        fs::symlinkat(target, &self.fd, name).map_err(failed("link", self.path.join(name)))
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> Result<(), FileError> {
        fault::point("volumes.rename");
        fs::renameat(&self.fd, from, &self.fd, to).map_err(failed("rename", self.path.join(from)))
    }

    /// Moves the entry `name` to `to` in another directory of the same file system.
    pub(super) fn move_to(&self, name: &CStr, target: &Self, to: &str) -> Result<(), FileError> {
        fault::point("volumes.rename");
        fs::renameat(&self.fd, name, &target.fd, to)
            .map_err(failed("rename", self.path.join(self.name(name))))
    }

    /// Removes a file or link; one that is not there is removed already.
    pub(super) fn unlink(&self, name: &str) -> Result<(), FileError> {
        let name = CString::new(name).map_err(|_| failed("remove", self.path.join(name))(Errno::INVAL))?;
        self.remove_entry(&name, AtFlags::empty())
    }

    /// Removes a file, link, or empty directory.
    pub(super) fn remove_entry(&self, name: &CStr, flags: AtFlags) -> Result<(), FileError> {
        fault::point(if flags.contains(AtFlags::REMOVEDIR) {
            "volumes.remove_directory"
        } else {
            "volumes.remove_file"
        });
        match fs::unlinkat(&self.fd, name, flags) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(failed("remove", self.path.join(self.name(name)))(errno)),
        }
    }

    /// Changes owner and group of the entry `name` itself, a link not followed.
    pub(super) fn chown(&self, name: &Path, uid: Option<u32>, gid: Option<u32>) -> Result<(), FileError> {
        fault::point("volumes.chown");
        let flags = AtFlags::SYMLINK_NOFOLLOW
            | if name.as_os_str().is_empty() {
                AtFlags::EMPTY_PATH
            } else {
                AtFlags::empty()
            };
        let (uid, gid) = (uid.map(fs::Uid::from_raw), gid.map(fs::Gid::from_raw));
        fs::chownat(&self.fd, name, uid, gid, flags).map_err(failed("chown", self.path.join(name)))
    }

    /// Changes the mode of the entry `name`, which must not be a link; of the directory itself for an empty name.
    pub(super) fn chmod(&self, name: &Path, mode: u32) -> Result<(), FileError> {
        fault::point("volumes.chmod");
        let change = || -> rustix::io::Result<()> {
            let mode = Mode::from_raw_mode(mode);
            if name.as_os_str().is_empty() {
                return fs::fchmod(&self.fd, mode);
            }
            // A handle first: a name may become a link between a look and a change.
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = fs::openat2(&self.fd, name, flags, Mode::empty(), INSIDE)?;
            fs::chmod(magic_path(fd.as_fd()), mode)
        };
        change().map_err(failed("chmod", self.path.join(name)))
    }

    fn name(&self, name: &CStr) -> PathBuf {
        use std::os::unix::ffi::OsStrExt as _;
        PathBuf::from(std::ffi::OsStr::from_bytes(name.to_bytes()))
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The path that names an open handle.
fn magic_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Makes a directory by path, with those above it: the agent's own roots, and hostPath's DirectoryOrCreate.
pub(super) fn make_path(path: &Path, mode: u32) -> Result<(), FileError> {
    use std::os::unix::fs::DirBuilderExt as _;
    if path.is_dir() {
        return Ok(());
    }
    fault::point("volumes.make_path");
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|cause| FileError {
            operation: "make",
            path: path.to_owned(),
            cause,
        })
}

/// Makes an empty file by path, if there is none: hostPath's FileOrCreate.
pub(super) fn make_empty_file(path: &Path, mode: u32) -> Result<(), FileError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    fault::point("volumes.make_host_file");
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(mode)
        .open(path)
        .map(drop)
        .map_err(|cause| FileError {
            operation: "make",
            path: path.to_owned(),
            cause,
        })
}

/// The kind of what lies at a path of the node, links followed; `None` if there is nothing.
pub(super) fn kind_at(path: &Path) -> Option<FileType> {
    fs::stat(path)
        .ok()
        .map(|stat| FileType::from_raw_mode(stat.st_mode))
}
