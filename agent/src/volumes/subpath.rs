//! Parts of volumes, shown by a bind mount of a handle, so that no link can be swapped in between. Contract §7.5.

use std::path::{Path, PathBuf};

use super::apply::SUBPATHS;
use super::error::{FileError, SubPathError};
use super::sys::{self, Dir};

/// One mount of a part of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SubPath {
    /// Name of the volume.
    pub(crate) volume: String,
    /// Where the volume lies on the node.
    pub(crate) source: PathBuf,
    /// Path inside it: relative, without `..`.
    pub(crate) path: String,
    pub(crate) container: String,
    /// Place in the container's list of mounts.
    pub(crate) index: usize,
}

/// Shows the part below the pod's directory; answers where. A directory that is not there is made.
pub(super) fn prepare(pod: &Dir, wanted: &SubPath) -> Result<PathBuf, SubPathError> {
    show(pod, wanted).map_err(|error| {
        tracing::warn!(volume = wanted.volume, container = wanted.container, %error, "subPath not prepared");
        SubPathError::Prepare {
            volume: wanted.volume.clone(),
            container: wanted.container.clone(),
        }
    })
}

fn show(pod: &Dir, wanted: &SubPath) -> Result<PathBuf, FileError> {
    let part = open(&wanted.source, &wanted.path)?;
    let dir = pod
        .make(SUBPATHS, 0o750)?
        .make(&wanted.volume, 0o750)?
        .make(&wanted.container, 0o750)?;
    let name = wanted.index.to_string();
    // One of an earlier start of the container shows what may be gone by now.
    while let Some(status) = dir.status(&name)?.filter(|status| status.is_mount_root) {
        dir.unmount(Path::new(&name), status.mount_id)?;
    }
    super::removal::remove(&dir, &name)?;
    if part.is_directory {
        dir.make(&name, 0o750)?;
    } else {
        dir.write_new(&name, b"", 0o640)?;
    }
    sys::bind(&part, &dir, &name)?;
    Ok(dir.path().join(name))
}

fn open(volume: &Path, path: &str) -> Result<sys::Part, FileError> {
    match sys::open_part(volume, path) {
        Err(error) if error.is_not_found() => {
            sys::make_part(volume, path)?;
            sys::open_part(volume, path)
        }
        other => other,
    }
}
