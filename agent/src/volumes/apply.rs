//! Volumes made and unmade on the node. Repeatable at any step: what a crash left is found and finished.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::error::{Cause, Error};
use super::payload::Payload;
use super::plan::{Kind, Medium, Ownership, VolumePlan};
use super::sys::{self, Dir};
use super::{atomic, mounts, ownership, removal};

/// Mode of the agent's own directories.
const PRIVATE: u32 = 0o750;
/// Mode of a volume's root: who may do what is the business of those inside.
const OPEN: u32 = 0o777;
/// Mode of a file system in memory, as the kernel makes them.
const MEMORY: u32 = 0o1777;
const PODS: &str = "pods";
const VOLUMES: &str = "volumes";
const PLUGINS: &str = "plugins";
pub(super) const SUBPATHS: &str = "volume-subpaths";
const EMPTY_DIR: &str = "kubernetes.io~empty-dir";
const READY: &str = "ready";

/// One volume with all that is needed to make it.
pub(super) struct Prepared {
    pub(super) plan: VolumePlan,
    /// Files to hold, for volumes of files.
    pub(super) payload: Payload,
    pub(super) nested: BTreeSet<String>,
}

/// The agent's directory of pods, made if it is not there.
pub(super) fn pods_directory(root: &Path) -> Result<Dir, Error> {
    sys::make_path(root, PRIVATE)?;
    // mountinfo knows no links.
    let real = root.canonicalize().unwrap_or_else(|_| root.to_owned());
    Ok(Dir::open_root(&real)?.make(PODS, PRIVATE)?)
}

/// A pod's directory, made with the ones that are always in it.
pub(super) fn pod_directory(pods: &Dir, uid: &str) -> Result<Dir, Error> {
    let pod = pods.make(uid, PRIVATE)?;
    pod.make(VOLUMES, PRIVATE)?;
    pod.make(PLUGINS, PRIVATE)?;
    Ok(pod)
}

/// Makes one volume; answers its place on the node.
pub(super) fn set_up(pod: &Dir, prepared: &Prepared, owner: Ownership) -> Result<PathBuf, Cause> {
    let VolumePlan { name, kind } = &prepared.plan;
    match kind {
        Kind::HostPath { path, kind } => {
            check_host_path(path, kind)?;
            Ok(path.clone())
        }
        Kind::EmptyDir(medium) => empty_dir(pod, name, *medium, owner),
        Kind::Files { medium, .. } => {
            let plugin = kind.plugin().expect("volumes of files have a directory");
            let dir = volume_directory(pod, plugin, name)?;
            let dir = in_medium(pod, plugin, name, dir, *medium)?;
            open_to_all(&dir)?;
            for place in &prepared.nested {
                make_nested(&dir, place)?;
            }
            let own = |dir: &Dir| match owner.group {
                Some(gid) => ownership::apply(dir, gid, true),
                None => Ok(()),
            };
            atomic::write(&dir, &prepared.payload, &own)?;
            Ok(dir.path().to_owned())
        }
    }
}

fn volume_directory(pod: &Dir, plugin: &str, name: &str) -> Result<Dir, Cause> {
    Ok(pod
        .make(VOLUMES, PRIVATE)?
        .make(plugin, PRIVATE)?
        .make(name, OPEN)?)
}

/// The volume's directory with the file system it wants on it.
fn in_medium(pod: &Dir, plugin: &str, name: &str, dir: Dir, medium: Medium) -> Result<Dir, Cause> {
    let Medium::Memory { size } = medium else {
        return Ok(dir);
    };
    if !is_mount_root(&dir)? {
        dir.mount_tmpfs(size, MEMORY)?;
    }
    // Anew: the handle shows what the mount covers.
    volume_directory(pod, plugin, name)
}

fn is_mount_root(dir: &Dir) -> Result<bool, Cause> {
    Ok(dir.status("")?.is_some_and(|status| status.is_mount_root))
}

/// What a cut-off making may have left closed by the umask.
fn open_to_all(dir: &Dir) -> Result<(), Cause> {
    match dir.status("")? {
        Some(status) if status.mode & OPEN != OPEN => Ok(dir.chmod("".as_ref(), OPEN)?),
        _ => Ok(()),
    }
}

fn make_nested(dir: &Dir, place: &str) -> Result<(), Cause> {
    let mut at = dir.again()?;
    for part in place.split('/') {
        match at.status(part)?.map(|status| status.file_type()) {
            // A link or file of the volume's own: the runtime mounts over what it leads to.
            Some(kind) if kind != FileType::Directory => return Ok(()),
            _ => at = at.make(part, 0o755)?,
        }
    }
    Ok(())
}

fn empty_dir(pod: &Dir, name: &str, medium: Medium, owner: Ownership) -> Result<PathBuf, Cause> {
    let marks = pod
        .make(PLUGINS, PRIVATE)?
        .make(EMPTY_DIR, PRIVATE)?
        .make(name, PRIVATE)?;
    let dir = volume_directory(pod, EMPTY_DIR, name)?;
    let is_ready = marks.status(READY)?.is_some();
    let has_medium = medium == Medium::Disk || is_mount_root(&dir)?;
    if is_ready && has_medium {
        // Containers may have changed anything in it since.
        return Ok(dir.path().to_owned());
    }
    let dir = in_medium(pod, EMPTY_DIR, name, dir, medium)?;
    if medium == Medium::Disk {
        dir.chmod("".as_ref(), OPEN)?;
    }
    if let Some(gid) = owner.group {
        ownership::apply(&dir, gid, false)?;
    }
    if !is_ready {
        marks.write_new(READY, b"", 0o640)?;
    }
    Ok(dir.path().to_owned())
}

/// Checks what lies at a hostPath, and makes it where the type asks for that.
fn check_host_path(path: &Path, kind: &str) -> Result<(), Cause> {
    let (wanted, words) = match kind {
        "" => return Ok(()),
        "DirectoryOrCreate" | "Directory" => (FileType::Directory, "directory"),
        "FileOrCreate" | "File" => (FileType::RegularFile, "file"),
        "Socket" => (FileType::Socket, "socket file"),
        "CharDevice" => (FileType::CharacterDevice, "character device"),
        "BlockDevice" => (FileType::BlockDevice, "block device"),
        other => {
            return Err(Cause::HostPathKind {
                kind: other.to_owned(),
            });
        }
    };
    if sys::kind_at(path).is_none() {
        match kind {
            "DirectoryOrCreate" => sys::make_path(path, 0o755)?,
            "FileOrCreate" => sys::make_empty_file(path, 0o644)?,
            _ => {}
        }
    }
    if sys::kind_at(path) == Some(wanted) {
        Ok(())
    } else {
        Err(Cause::HostPathType {
            path: path.display().to_string(),
            wanted: words,
        })
    }
}

/// Unmounts all of a pod's volumes and removes what they held.
pub(super) fn tear_down(pods: &Dir, uid: &str) -> Result<(), Error> {
    let Some(pod) = pods.child(uid)? else {
        return Ok(());
    };
    mounts::unmount_all(&pod)?;
    for part in [SUBPATHS, VOLUMES, PLUGINS] {
        removal::remove(&pod, part)?;
    }
    Ok(())
}

/// Removes a pod's directory, after [`tear_down`].
pub(super) fn remove(pods: &Dir, uid: &str) -> Result<(), Error> {
    tear_down(pods, uid)?;
    Ok(removal::remove(pods, uid)?)
}

/// Names of the pods' directories.
pub(super) fn uids(pods: &Dir) -> Result<BTreeSet<String>, Error> {
    removal::remove_leftovers(pods)?;
    let entries = pods.entries()?;
    let names = entries
        .into_iter()
        .filter(|(_, kind)| *kind == FileType::Directory);
    Ok(names
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| crate::resources::is_uid(name))
        .collect())
}
