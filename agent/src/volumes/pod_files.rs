//! Files of the agent's own in a pod's directory: the hosts file and termination messages.

use std::path::PathBuf;

use super::error::FileError;
use super::sys::Dir;

const HOSTS: &str = "etc-hosts";
const CONTAINERS: &str = "containers";
/// Longest termination message that is read.
const MAX_MESSAGE: u64 = 4096;

/// Writes the hosts file; answers its place. Containers hold the file itself by a mount, so one with the same text is
/// left alone and one with another text is written over, not replaced.
pub(super) fn write_hosts(pod: &Dir, text: &str) -> Result<PathBuf, FileError> {
    let limit = u64::try_from(text.len()).unwrap_or(u64::MAX).saturating_add(1);
    let old = pod.read(HOSTS, limit)?;
    match old {
        Some(old) if old == text.as_bytes() => {}
        Some(_) => pod.overwrite(HOSTS, text.as_bytes())?,
        None => pod.replace(HOSTS, text.as_bytes(), 0o644)?,
    }
    Ok(pod.path().join(HOSTS))
}

/// Makes the termination message file of a start of a container, empty and open to all inside; answers its place.
pub(super) fn make_termination_log(pod: &Dir, container: &str) -> Result<PathBuf, FileError> {
    let dir = pod.make(CONTAINERS, 0o750)?.make(container, 0o750)?;
    let name = format!("{:08x}", rand::random::<u32>());
    dir.unlink(&name)?;
    dir.write_new(&name, b"", 0o666)?;
    Ok(dir.path().join(name))
}

/// What a container left as its termination message, `file` as [`make_termination_log`] answered it.
pub(super) fn read_termination_log(
    pod: &Dir,
    container: &str,
    file: &str,
) -> Result<Option<Vec<u8>>, FileError> {
    let Some(dir) = pod.child(CONTAINERS)? else {
        return Ok(None);
    };
    let Some(dir) = dir.child(container)? else {
        return Ok(None);
    };
    dir.read(file, MAX_MESSAGE)
}
