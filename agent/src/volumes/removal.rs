//! Removal of trees that containers have written: by handles, never through a link, never across a mount, at any
//! depth. Threat 63.

use std::ffi::{CStr, CString};

use rustix::fs::{AtFlags, FileType};

use super::error::FileError;
use super::sys::Dir;

/// Levels walked down at once, each holding a handle. What is deeper is moved up first.
const MAX_DEPTH: usize = 64;
/// Where deep directories are moved to, beside the tree that is removed.
const LIFTED: &str = ".longshore-removed-";

/// Removes the entry `name` of `parent` with all below it; none there is fine.
pub(super) fn remove(parent: &Dir, name: &str) -> Result<(), FileError> {
    let Some(status) = parent.status(name)? else {
        return Ok(());
    };
    if status.file_type() != FileType::Directory {
        return parent.unlink(name);
    }
    let mut walk = Walk {
        top: parent,
        lifted: Vec::new(),
    };
    walk.remove_directory(parent, &c_name(name), 0)?;
    while let Some(lifted) = walk.lifted.pop() {
        walk.remove_directory(parent, &lifted, 0)?;
    }
    Ok(())
}

/// Removes what a removal that was cut off has left in `parent`.
pub(super) fn remove_leftovers(parent: &Dir) -> Result<(), FileError> {
    for (name, _) in parent.entries()? {
        if let Ok(name) = name.to_str()
            && name.starts_with(LIFTED)
        {
            remove(parent, name)?;
        }
    }
    Ok(())
}

fn c_name(name: &str) -> CString {
    CString::new(name).expect("names come from a directory, or were looked at: no NUL")
}

struct Walk<'d> {
    top: &'d Dir,
    lifted: Vec<CString>,
}

impl Walk<'_> {
    fn remove_directory(&mut self, parent: &Dir, name: &CStr, depth: usize) -> Result<(), FileError> {
        let dir = parent.child_on_same_mount(name)?;
        for (entry, kind) in dir.entries()? {
            if kind != FileType::Directory {
                dir.remove_entry(&entry, AtFlags::empty())?;
            } else if depth < MAX_DEPTH {
                self.remove_directory(&dir, &entry, depth + 1)?;
            } else {
                let name = format!("{LIFTED}{:016x}", rand::random::<u64>());
                dir.move_to(&entry, self.top, &name)?;
                self.lifted.push(c_name(&name));
            }
        }
        parent.remove_entry(name, AtFlags::REMOVEDIR)
    }
}
