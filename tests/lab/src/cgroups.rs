//! The lab's cgroup tree below the machine's cgroup2 mount.

use crate::NAME;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where the machine has cgroup v2 mounted: `/sys/fs/cgroup` on a systemd host, elsewhere on a hybrid one.
pub(crate) fn mount_point() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    find_mount(&mounts).context("cgroup v2 is not mounted")
}

fn find_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        let is_cgroup2 = back.split(' ').next() == Some("cgroup2");
        is_cgroup2.then(|| front.split(' ').nth(4).map(PathBuf::from))?
    })
}

/// The lab's own subtree: a leaf beside the machine's slices, never inside one.
pub(crate) fn root() -> Result<PathBuf> {
    Ok(mount_point()?.join(NAME))
}

/// Makes the lab's cgroup with every controller the machine has to give, and `child` in it.
pub(crate) fn ensure(root: &Path, child: &str) -> Result<PathBuf> {
    fs::create_dir_all(root).with_context(|| format!("make cgroup {}", root.display()))?;
    delegate(root);
    let path = root.join(child);
    fs::create_dir_all(&path).with_context(|| format!("make cgroup {}", path.display()))?;
    Ok(path)
}

/// Switches on every controller for the children. One that is busy elsewhere (cgroup v1) is simply not there.
pub(crate) fn delegate(cgroup: &Path) {
    let controllers = fs::read_to_string(cgroup.join("cgroup.controllers")).unwrap_or_default();
    for controller in controllers.split_ascii_whitespace() {
        let _ = fs::write(cgroup.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// Kills all that is in the tree and removes it. Absent is fine.
pub(crate) fn remove(cgroup: &Path) -> Result<()> {
    if !cgroup.exists() {
        return Ok(());
    }
    fs::write(cgroup.join("cgroup.kill"), "1").with_context(|| format!("kill {}", cgroup.display()))?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while is_populated(cgroup) {
        if Instant::now() > deadline {
            bail!(
                "processes of {} did not end within 20 s of SIGKILL",
                cgroup.display()
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    remove_tree(cgroup).with_context(|| format!("remove cgroup {}", cgroup.display()))
}

fn is_populated(cgroup: &Path) -> bool {
    fs::read_to_string(cgroup.join("cgroup.events")).is_ok_and(|events| events.contains("populated 1"))
}

fn remove_tree(cgroup: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_cgroup2_on_hybrid_and_on_pure_hosts() {
        let hybrid = "30 24 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n31 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      32 30 0:28 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(find_mount(hybrid), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        let pure = "32 30 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(find_mount(pure), Some(PathBuf::from("/sys/fs/cgroup")));
        assert_eq!(
            find_mount("30 24 0:26 / /sys/fs/cgroup ro - tmpfs cgroup2 ro\n"),
            None
        );
    }
}
