//! The mounts below a pod's directory, from /proc/self/mountinfo, see proc(5).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use super::error::{Error, FileError};
use super::sys::{self, Dir};

/// Rounds of looking and unmounting; each takes off a layer of stacked mounts.
const MAX_ROUNDS: usize = 64;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) id: u64,
    pub(super) point: PathBuf,
}

/// Reads mountinfo; lines that are none are left out.
pub(super) fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let mut words = line.split(|byte| *byte == b' ');
            let id = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
            // Skips parent, device and root.
            let point = PathBuf::from(OsString::from_vec(unescape(words.nth(3)?)));
            Some(Mount { id, point })
        })
        .collect()
}

/// Undoes the octal escapes of blank, tab, newline and backslash.
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| byte == b'\\').and_then(|digits| {
            let text = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(text, 8).ok()
        });
        match octal {
            Some(value) => {
                bytes.push(value);
                rest = &tail[3..];
            }
            None => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    bytes
}

/// Mounts below `dir`, not on it, deepest and latest first, with their places below it.
pub(super) fn below(mounts: &[Mount], dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut found: Vec<(PathBuf, u64)> = mounts
        .iter()
        .rev()
        .filter_map(|mount| {
            let place = mount.point.strip_prefix(dir).ok()?;
            (!place.as_os_str().is_empty()).then(|| (place.to_owned(), mount.id))
        })
        .collect();
    found.sort_by_key(|(place, _)| std::cmp::Reverse(place.components().count()));
    found
}

/// Takes off every mount below `dir`: those of volumes, those shown by subPath, and those that containers left. The
/// path of `dir` must be free of links.
pub(super) fn unmount_all(dir: &Dir) -> Result<(), Error> {
    for _ in 0..MAX_ROUNDS {
        let found = below(&parse(&sys::mount_info()?), dir.path());
        if found.is_empty() {
            return Ok(());
        }
        let mut progress = false;
        let mut first: Option<FileError> = None;
        for (place, id) in &found {
            match dir.unmount(place, *id) {
                Ok(done) => progress |= done,
                // Gone together with a mount above it.
                Err(error) if error.is_not_found() => progress = true,
                Err(error) => first = first.or(Some(error)),
            }
        }
        if !progress {
            return Err(first.map_or_else(|| still_mounted(dir, &found), Error::File));
        }
    }
    let found = below(&parse(&sys::mount_info()?), dir.path());
    if found.is_empty() {
        Ok(())
    } else {
        Err(still_mounted(dir, &found))
    }
}

fn still_mounted(dir: &Dir, found: &[(PathBuf, u64)]) -> Error {
    Error::StillMounted {
        path: dir.path().to_owned(),
        count: found.len(),
        first: found
            .first()
            .map(|(place, _)| place.display().to_string())
            .unwrap_or_default(),
    }
}
