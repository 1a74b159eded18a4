//! `cargo xtask fresh`: the README's two commands on a machine that has nothing: a minimal Debian root with git and a
//! C linker, the machine's Rust and Go toolchains bound in read-only, empty HOME and caches, in mount and pid
//! namespaces of its own. Prints how long each took.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

/// What the bare root holds beside Debian's essential packages: what a machine has that can clone and build Rust.
const PACKAGES: &str = "git,ca-certificates,gcc,libc6-dev,util-linux,mount,procps";
const SUITE: &str = "bookworm";

/// Time allowed by the issue that fixed these commands.
const COLD_DEMO: Duration = Duration::from_secs(25 * 60);
const WARM_DEMO: Duration = Duration::from_secs(60);

/// Arguments of `fresh`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Where the commands run: a root directory that is deleted afterwards.
struct Root {
    path: PathBuf,
}

impl Drop for Root {
    fn drop(&mut self) {
        // Everything mounted below it lived in the namespace of the command, which has ended.
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            eprintln!(
                "fresh: remove {}: {error}; remove it by hand",
                self.path.display()
            );
        }
    }
}

/// Makes the root, runs the commands, prints their times; an error if one failed or the demo took too long.
pub(crate) fn run(_args: &Args) -> anyhow::Result<()> {
    let workspace = lab::workspace();
    lab::setup::become_root()?;
    let root = bootstrap(&workspace)?;
    clone(&workspace, &root.path)?;
    let mut times = Vec::new();
    for (name, command) in [
        ("demo, cold", "cargo xtask demo --once"),
        ("test, after the demo", "cargo xtask test"),
        ("demo, warm", "cargo xtask demo --once"),
    ] {
        println!("fresh: {name}: {command}");
        let start = Instant::now();
        inside(&root.path, command)?;
        times.push((name, start.elapsed()));
    }
    println!("\n{:>9}  command", "seconds");
    for (name, took) in &times {
        println!("{:>9.0}  {name}", took.as_secs_f64());
    }
    for (name, limit) in [("demo, cold", COLD_DEMO), ("demo, warm", WARM_DEMO)] {
        let took = times
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, took)| *took)
            .unwrap_or_default();
        ensure!(
            took <= limit,
            "{name} took {} s, allowed are {} s",
            took.as_secs(),
            limit.as_secs()
        );
    }
    Ok(())
}

fn bootstrap(workspace: &Path) -> anyhow::Result<Root> {
    let path = workspace.join("target/fresh");
    if path.exists() {
        std::fs::remove_dir_all(&path).context("remove the root of an earlier run")?;
    }
    ensure!(
        Command::new("mmdebstrap").arg("--version").output().is_ok(),
        "fresh makes its root with mmdebstrap: apt-get install mmdebstrap"
    );
    println!("fresh: Debian {SUITE} with {PACKAGES} (about 60 s)");
    let status = Command::new("mmdebstrap")
        .args(["--quiet", "--mode=root", "--variant=apt", "--skip=check/empty"])
        .arg(format!("--include={PACKAGES}"))
        .arg(SUITE)
        .arg(&path)
        .args(apt_sources())
        .status()
        .context("run mmdebstrap")?;
    ensure!(status.success(), "mmdebstrap ended with {status}");
    Ok(Root { path })
}

/// The machine's own list of Debian sources; without one, mmdebstrap's default.
fn apt_sources() -> Option<PathBuf> {
    ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"]
        .into_iter()
        .map(PathBuf::from)
        .find(|p| p.exists())
}

/// Clones the committed tree.
fn clone(workspace: &Path, root: &Path) -> anyhow::Result<()> {
    let status = Command::new("git")
        .args(["clone", "--quiet"])
        .arg(workspace)
        .arg(root.join("longshore"))
        .status()
        .context("run git clone")?;
    ensure!(status.success(), "git clone ended with {status}");
    Ok(())
}

/// Runs `command` in the clone inside the root, in its own mount and pid namespaces.
fn inside(root: &Path, command: &str) -> anyhow::Result<()> {
    let rustup = toolchain_home("RUSTUP_HOME", ".rustup")?;
    let cargo = toolchain_home("CARGO_HOME", ".cargo")?.join("bin");
    let go = PathBuf::from(output_of("go", &["env", "GOROOT"])?);
    // A chroot is not enough: pivot_root inside it, which every container start does, needs a root that is a mount.
    let script = format!(
        r#"set -eu
mount --make-rprivate /
mount --bind "$ROOT" "$ROOT"
cd "$ROOT"
mkdir -p opt/rustup opt/cargo-bin usr/local/go old
for pair in "$RUSTUP opt/rustup" "$CARGO opt/cargo-bin" "$GO usr/local/go"; do
  set -- $pair
  mount --bind "$1" "$2" && mount -o remount,bind,ro "$2"
done
cp /etc/resolv.conf etc/resolv.conf
cp /etc/ssl/certs/ca-certificates.crt etc/ssl/certs/ca-certificates.crt
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount -t proc proc proc
pivot_root . old
umount -l /old
cd /longshore
exec env -i HOME=/root TERM="${{TERM:-dumb}}" RUSTUP_HOME=/opt/rustup CARGO_HOME=/root/.cargo \
  SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt GOTOOLCHAIN=local GOFLAGS="${{GOFLAGS:-}}" \
  PATH=/opt/cargo-bin:/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  {command}
"#
    );
    let status = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", &script])
        .env("ROOT", root)
        .env("RUSTUP", rustup)
        .env("CARGO", cargo)
        .env("GO", go)
        .status()
        .context("run unshare")?;
    if !status.success() {
        bail!("`{command}` in the fresh root ended with {status}");
    }
    Ok(())
}

fn toolchain_home(variable: &str, below_home: &str) -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(path.into());
    }
    let home = std::env::var_os("HOME").with_context(|| format!("neither {variable} nor HOME is set"))?;
    Ok(PathBuf::from(home).join(below_home))
}

fn output_of(program: &str, args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(args)
        .output()
        .with_context(|| format!("run {program}"))?;
    ensure!(
        output.status.success(),
        "{program} {} ended with {}",
        args.join(" "),
        output.status
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
