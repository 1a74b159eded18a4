//! Building Longshore itself as static musl programs.

use super::preflight::find_program;
use super::privilege::as_user;
use super::progress::run_step;
use crate::paths::{target_dir, workspace};
use anyhow::Result;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const TARGET: &str = "x86_64-unknown-linux-musl";

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

/// Where a build puts the programs.
pub(crate) fn directory(profile: Profile, fault_points: bool) -> PathBuf {
    let profile = match profile {
        Profile::Dev => "debug",
        Profile::Release => "release",
    };
    build_dir(fault_points).join(TARGET).join(profile)
}

/// The build with fault points has a directory of its own, so that neither build undoes the other.
fn build_dir(fault_points: bool) -> PathBuf {
    if fault_points {
        target_dir().join("faults")
    } else {
        target_dir()
    }
}

/// Builds `longshore` and `longshore-oci`; cargo sees to what is current.
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
    command
        .env("CARGO_TARGET_DIR", build_dir(fault_points))
        .current_dir(workspace());
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
    Ok(directory(profile, fault_points))
}
