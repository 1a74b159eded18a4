//! Files that change all at once: written beside, then swapped in by one rename. Contract §7.3.
//!
//! A volume holds `..data` → `..2026_01_31_12_00_00.1a2b3c4d/` with the files, and a link `NAME` → `..data/NAME` for
//! each top entry. A crash at any step leaves the old files or the new ones in force, and what it left over goes away
//! with the next write.

use std::collections::BTreeSet;

use jiff::Timestamp;
use rustix::fs::FileType;

use super::error::FileError;
use super::payload::Payload;
use super::removal;
use super::sys::Dir;

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";
/// Depth of directories that is looked at when comparing; deeper ones are written anew.
const MAX_DEPTH: usize = 64;

/// Makes the files in `volume` be those of `payload`. `own` sets owners and modes; it is called before the swap and
/// after the links. True if anything changed.
pub(super) fn write(
    volume: &Dir,
    payload: &Payload,
    own: &dyn Fn(&Dir) -> Result<(), FileError>,
) -> Result<bool, FileError> {
    let old = current(volume)?;
    let same = match &old {
        Some(name) => holds(volume, name, payload)?,
        None => false,
    };
    let mut changed = false;
    if !same {
        let name = fresh_name();
        write_files(volume, &name, payload)?;
        own(volume)?;
        swap(volume, &name)?;
        changed = true;
    }
    changed |= link(volume, payload)?;
    changed |= sweep(volume, payload)?;
    if changed {
        own(volume)?;
    }
    Ok(changed)
}

/// The directory in force.
fn current(volume: &Dir) -> Result<Option<String>, FileError> {
    let target = volume.link_target(DATA)?;
    Ok(target.filter(|name| is_own_directory(name)))
}

fn is_own_directory(name: &str) -> bool {
    name.starts_with("..2") && !name.contains('/')
}

fn fresh_name() -> String {
    let random: u32 = rand::random();
    format!(
        "..{}.{random:08x}",
        Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S")
    )
}

/// Whether the directory `name` holds exactly the files of `payload`.
fn holds(volume: &Dir, name: &str, payload: &Payload) -> Result<bool, FileError> {
    let Some(dir) = volume.child(name)? else {
        return Ok(false);
    };
    for (path, file) in payload {
        let limit = u64::try_from(file.data.len())
            .unwrap_or(u64::MAX)
            .saturating_add(1);
        if dir.read(path, limit)?.as_deref() != Some(&file.data) {
            return Ok(false);
        }
    }
    Ok(count_files(&dir, MAX_DEPTH)? == Some(payload.len()))
}

fn count_files(dir: &Dir, depth: usize) -> Result<Option<usize>, FileError> {
    let mut count = 0;
    for (name, kind) in dir.entries()? {
        if kind == FileType::Directory {
            if depth == 0 {
                return Ok(None);
            }
            let child = dir.child_on_same_mount(&name)?;
            let Some(more) = count_files(&child, depth - 1)? else {
                return Ok(None);
            };
            count += more;
        } else {
            count += 1;
        }
    }
    Ok(Some(count))
}

fn write_files(volume: &Dir, name: &str, payload: &Payload) -> Result<(), FileError> {
    let root = volume.make(name, 0o755)?;
    for (path, file) in payload {
        let mut dir = root.again()?;
        let (parents, last) = path.rsplit_once('/').unwrap_or(("", path));
        for parent in parents.split('/').filter(|part| !part.is_empty()) {
            dir = dir.make(parent, 0o755)?;
        }
        dir.write_new(last, &file.data, file.mode)?;
        if file.owner.is_some() {
            dir.chown(last.as_ref(), file.owner, None)?;
        }
    }
    Ok(())
}

fn swap(volume: &Dir, name: &str) -> Result<(), FileError> {
    volume.unlink(NEW_DATA)?;
    volume.link(name, NEW_DATA)?;
    crate::fault::point("volumes.swap_data");
    volume.rename(NEW_DATA, DATA)
}

fn top_names(payload: &Payload) -> BTreeSet<&str> {
    payload
        .keys()
        .map(|path| path.split('/').next().unwrap_or(path))
        .collect()
}

/// Adds the links that are missing.
fn link(volume: &Dir, payload: &Payload) -> Result<bool, FileError> {
    let mut changed = false;
    for name in top_names(payload) {
        let target = format!("{DATA}/{name}");
        if volume.link_target(name)?.as_deref() != Some(&target) {
            // Whatever lies there is not ours: a file of an older layout, or an empty mount point.
            removal::remove(volume, name)?;
            volume.link(&target, name)?;
            changed = true;
        }
    }
    Ok(changed)
}

/// Removes links to what is gone, and directories that are not in force.
fn sweep(volume: &Dir, payload: &Payload) -> Result<bool, FileError> {
    let wanted = top_names(payload);
    let in_force = current(volume)?;
    let mut changed = false;
    for (name, kind) in volume.entries()? {
        let Ok(name) = name.to_str() else { continue };
        let stale = match kind {
            FileType::Symlink if name == DATA => false,
            FileType::Symlink => !wanted.contains(name),
            FileType::Directory => is_own_directory(name) && in_force.as_deref() != Some(name),
            _ => false,
        };
        if stale {
            removal::remove(volume, name)?;
            changed = true;
        }
    }
    Ok(changed)
}
