//! Building Longshore itself as static musl programs.

use super::preflight::find_program;
use super::privilege::{as_user, give_back};
use super::progress::run_step;
use crate::paths::{target_dir, workspace};
use anyhow::{Context as _, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What a node runs.
const PROGRAMS: [&str; 2] = ["longshore", "longshore-oci"];

/// The target of the product and of every test.
pub const TARGET: &str = "x86_64-unknown-linux-musl";

/// Which build of the product.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// Quick to build.
    #[default]
    Dev,
    /// As users get it; what benches measure.
    Release,
}

/// Is the standard library for the target there?
pub(crate) fn has_target() -> bool {
    let mut command = Command::new("rustc");
    command
        .args(["--print", "target-libdir", "--target", TARGET])
        .current_dir(workspace());
    let output = as_user(&mut command).output();
    output.is_ok_and(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()).is_dir())
}

/// Adds the target to the toolchain of this workspace.
pub(crate) fn add_target() -> Result<()> {
    if has_target() || find_program("rustup").is_none() {
        return Ok(());
    }
    let mut command = Command::new("rustup");
    command.args(["target", "add", TARGET]).current_dir(workspace());
    run_step(
        &format!("add the Rust target {TARGET}"),
        Duration::from_secs(10),
        as_user(&mut command),
    )
}

/// Where the programs of a build are kept: `target/programs/PROFILE[-faults]`.
pub(crate) fn directory(profile: Profile, fault_points: bool) -> PathBuf {
    let faults = if fault_points { "-faults" } else { "" };
    target_dir()
        .join("programs")
        .join(format!("{}{faults}", cargo_directory(profile)))
}

fn cargo_directory(profile: Profile) -> &'static str {
    match profile {
        Profile::Dev => "debug",
        Profile::Release => "release",
    }
}

/// Builds `longshore` and `longshore-oci`; cargo sees to what is current. Both builds share cargo's directory, since
/// all that they stand on is the same; the programs are then copied, so that neither build undoes the other.
pub(crate) fn build(profile: Profile, fault_points: bool) -> Result<PathBuf> {
    let mut command = Command::new("cargo");
    command.args([
        "build",
        "--locked",
        "--target",
        TARGET,
        "-p",
        "longshore",
        "-p",
        "longshore-runtime",
        "--bins",
    ]);
    command.current_dir(workspace());
    if profile == Profile::Release {
        command.arg("--release");
    }
    if fault_points {
        command.args([
            "--features",
            "longshore/fault-points,longshore-runtime/fault-points",
        ]);
    }
    let what = if fault_points {
        "build longshore with fault points"
    } else {
        "build longshore"
    };
    run_step(what, Duration::from_secs(300), as_user(&mut command))?;
    keep(
        &target_dir().join(TARGET).join(cargo_directory(profile)),
        &directory(profile, fault_points),
    )
}

fn keep(from: &Path, to: &Path) -> Result<PathBuf> {
    fs::create_dir_all(to).with_context(|| format!("make {}", to.display()))?;
    for program in PROGRAMS {
        let (source, target) = (from.join(program), to.join(program));
        let temporary = to.join(format!(".{program}"));
        fs::copy(&source, &temporary)
            .and_then(|_| fs::rename(&temporary, &target))
            .with_context(|| format!("copy {} to {}", source.display(), target.display()))?;
        give_back(&target)?;
    }
    give_back(to)?;
    Ok(to.to_owned())
}
