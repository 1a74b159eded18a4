//! Root for the lab, the user for builds: sudo is asked once, and what is built stays the user's.

use anyhow::{Context as _, Result, bail};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

/// Variables that sudo would drop and builds need.
const KEPT: [&str; 24] = [
    "PATH",
    "HOME",
    "TERM",
    "CARGO_HOME",
    "RUSTUP_HOME",
    "RUSTUP_TOOLCHAIN",
    "CARGO_TARGET_DIR",
    "CARGO",
    "GOPATH",
    "GOCACHE",
    "GOMODCACHE",
    "GOPROXY",
    "GOFLAGS",
    "GOTOOLCHAIN",
    "GOSUMDB",
    "XDG_CACHE_HOME",
    "LONGSHORE_CACHE",
    "LONGSHORE_XTASK",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// Returns as root: any other user's process is replaced by itself under sudo, which asks for the password once.
pub fn become_root() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let program = std::env::current_exe().context("find this program")?;
    let kept = KEPT.iter().filter_map(|&name| {
        let value = std::env::var_os(name)?;
        let mut pair = std::ffi::OsString::from(format!("{name}="));
        pair.push(value);
        Some(pair)
    });
    println!("The lab makes namespaces, cgroups and links, so it needs root: asking sudo once.");
    let mut command = Command::new("sudo");
    command
        .args(["--", "/usr/bin/env"])
        .args(kept)
        .arg(program)
        .args(std::env::args_os().skip(1));
    let error = command.exec();
    bail!(
        "this needs root, and sudo cannot be run ({error}): run it as root, or `apt-get install sudo` and join the group sudo"
    )
}

/// User and group behind sudo, if any.
fn user() -> Option<(u32, u32)> {
    let id = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    let pair = (id("SUDO_UID")?, id("SUDO_GID")?);
    (rustix::process::geteuid().is_root() && pair.0 != 0).then_some(pair)
}

/// Makes the command run as the user behind sudo.
pub fn as_user(command: &mut Command) -> &mut Command {
    if let Some((uid, gid)) = user() {
        command.uid(uid).gid(gid);
    }
    command
}

/// Gives a file or directory (not what is in it) to the user behind sudo.
pub fn give_back(path: &Path) -> Result<()> {
    let Some((uid, gid)) = user() else { return Ok(()) };
    std::os::unix::fs::lchown(path, Some(uid), Some(gid))
        .with_context(|| format!("give {} to the user", path.display()))
}

/// Gives a directory with all that is in it to the user behind sudo.
pub(crate) fn give_back_tree(dir: &Path) -> Result<()> {
    if user().is_none() {
        return Ok(());
    }
    give_back(dir)?;
    for entry in std::fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            give_back_tree(&entry.path())?;
        } else {
            give_back(&entry.path())?;
        }
    }
    Ok(())
}

/// Makes a directory that belongs, with the parents that were missing, to the user behind sudo.
pub(crate) fn make_dir(dir: &Path) -> Result<()> {
    crate::process::run(as_user(Command::new("mkdir").arg("-p").arg(dir))).map(drop)
}
