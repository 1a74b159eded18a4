//! fsGroup: who else may use a volume's files. Contract §7.5.

use std::ffi::CStr;
use std::path::Path;

use rustix::fs::FileType;

use super::error::FileError;
use super::sys::Dir;

const READ_WRITE: u32 = 0o660;
const READ: u32 = 0o440;
const SEARCH: u32 = 0o110;
const SET_GROUP: u32 = 0o2000;
/// Deeper trees than the agent writes.
const MAX_DEPTH: usize = 512;

/// Gives everything below and including `dir` to the group `gid`, bottom-up, the root last.
pub(super) fn apply(dir: &Dir, gid: u32, read_only: bool) -> Result<(), FileError> {
    walk(dir, gid, if read_only { READ } else { READ_WRITE }, MAX_DEPTH)
}

fn walk(dir: &Dir, gid: u32, bits: u32, depth: usize) -> Result<(), FileError> {
    for (name, kind) in dir.entries()? {
        if kind == FileType::Directory && depth > 0 {
            walk(&dir.child_on_same_mount(&name)?, gid, bits, depth - 1)?;
        } else {
            give(dir, &name, gid, bits)?;
        }
    }
    give(dir, c"", gid, bits)
}

fn give(dir: &Dir, name: &CStr, gid: u32, bits: u32) -> Result<(), FileError> {
    let text = name.to_string_lossy();
    let name = Path::new(text.as_ref());
    let Some(status) = dir.status(name)? else {
        return Ok(());
    };
    let wanted = match status.file_type() {
        FileType::Symlink => None,
        FileType::Directory => Some(status.mode & 0o7777 | bits | SEARCH | SET_GROUP),
        _ => Some(status.mode & 0o7777 | bits),
    };
    if status.gid != gid {
        dir.chown(name, None, Some(gid))?;
    }
    // A change of group may clear bits, so the mode is set after it.
    match wanted {
        Some(mode) if mode != status.mode & 0o7777 || status.gid != gid => dir.chmod(name, mode),
        _ => Ok(()),
    }
}
