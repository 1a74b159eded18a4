//! Checks that a tool of the Rust toolchain does.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

/// The version that `cargo xtask` builds where it is absent.
const CARGO_DENY: &str = "0.20.2";

fn cargo(root: &Path, args: &[&str]) -> anyhow::Result<()> {
    let status = Command::new("cargo")
        .args(args)
        .current_dir(root)
        .status()
        .with_context(|| format!("run cargo {}", args[0]))?;
    ensure!(status.success(), "cargo {} ended with {status}", args.join(" "));
    Ok(())
}

pub(super) fn format(root: &Path) -> anyhow::Result<()> {
    cargo(root, &["fmt", "--check"])
}

pub(super) fn lints(root: &Path) -> anyhow::Result<()> {
    cargo(
        root,
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--target",
            lab::setup::TARGET,
            "--",
            "-D",
            "warnings",
        ],
    )
}

pub(super) fn deny(root: &Path) -> anyhow::Result<()> {
    let tool = deny_tool()?;
    let status = Command::new(&tool)
        .args([
            "--locked",
            "--offline",
            "--log-level",
            "error",
            "check",
            "bans",
            "licenses",
            "sources",
        ])
        .current_dir(root)
        .status()
        .with_context(|| format!("run {}", tool.display()))?;
    ensure!(
        status.success(),
        "cargo deny found a crate that may not be here; deny.toml says what may"
    );
    Ok(())
}

/// cargo-deny of the pinned version, built into the cache on first use.
fn deny_tool() -> anyhow::Result<PathBuf> {
    let root = lab::setup::cache_dir().join("tools");
    let tool = root.join("bin/cargo-deny");
    let current = tool.exists()
        && Command::new(&tool)
            .arg("--version")
            .output()
            .is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains(CARGO_DENY));
    if !current {
        let status = Command::new("cargo")
            .args([
                "install",
                "--quiet",
                "--locked",
                "--version",
                CARGO_DENY,
                "cargo-deny",
                "--root",
            ])
            .arg(&root)
            .status()
            .context("run cargo install cargo-deny")?;
        ensure!(
            status.success(),
            "cargo install cargo-deny {CARGO_DENY} ended with {status}; is the crate registry reachable?"
        );
    }
    Ok(tool)
}
