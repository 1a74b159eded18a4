//! What comes from Debian. Build and network tools are installed; the registry and the static busybox are only unpacked
//! into the cache, because installing them would start a service and replace the machine's busybox.

use super::preflight::find_program;
use super::privilege::{give_back_tree, make_dir};
use super::progress::run_step;
use crate::paths::cache_dir;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A program and the package that has it.
const PROGRAMS: [(&str, &str); 9] = [
    ("cc", "gcc"),
    ("musl-gcc", "musl-tools"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("setsid", "util-linux"),
    ("openssl", "openssl"),
    ("git", "git"),
];

/// Packages to install.
pub(crate) fn missing() -> Vec<&'static str> {
    let absent = PROGRAMS
        .iter()
        .filter(|(program, _)| find_program(program).is_none());
    let mut packages: Vec<&str> = absent.map(|&(_, package)| package).collect();
    packages.dedup();
    packages
}

/// Installs what is missing, without questions.
pub(crate) fn install_missing() -> Result<()> {
    let packages = missing();
    if !packages.is_empty() {
        update_lists()?;
        let mut command = apt_get();
        command
            .args(["install", "-y", "--no-install-recommends"])
            .args(&packages);
        run_step(
            &format!("install {}", packages.join(", ")),
            Duration::from_secs(20),
            &mut command,
        )?;
    }
    static_busybox()?;
    registry_program()?;
    Ok(())
}

/// What building upstream's runc takes: its seccomp filters come from a C library.
pub(crate) fn install_for_runc() -> Result<()> {
    if Path::new("/usr/include/seccomp.h").exists() && find_program("pkg-config").is_some() {
        return Ok(());
    }
    update_lists()?;
    let mut command = apt_get();
    command.args([
        "install",
        "-y",
        "--no-install-recommends",
        "libseccomp-dev",
        "pkg-config",
    ]);
    run_step(
        "install libseccomp-dev, pkg-config",
        Duration::from_secs(10),
        &mut command,
    )
}

/// Debian's docker-registry: the installed one, else unpacked into the cache.
pub fn registry_program() -> Result<PathBuf> {
    match find_program("docker-registry") {
        Some(program) => Ok(program),
        None => unpacked("docker-registry", &["usr/bin/docker-registry"]),
    }
}

/// Debian's static busybox: the installed one, else unpacked into the cache.
pub fn static_busybox() -> Result<PathBuf> {
    match find_program("busybox").filter(|program| is_static(program)) {
        Some(program) => Ok(program),
        None => unpacked("busybox-static", &["bin/busybox", "usr/bin/busybox"]),
    }
}

fn unpacked(package: &str, candidates: &[&str]) -> Result<PathBuf> {
    let dir = cache_dir().join("debian").join(package);
    let find = || {
        candidates
            .iter()
            .map(|file| dir.join(file))
            .find(|file| file.exists())
    };
    if let Some(program) = find() {
        return Ok(program);
    }
    make_dir(&dir)?;
    update_lists()?;
    let mut command = Command::new("sh");
    let script = r#"rm -f ./*.deb && apt-get download "$1" && dpkg-deb -x ./*.deb . && rm -f ./*.deb"#;
    command.args(["-c", script, "sh", package]).current_dir(&dir);
    run_step(&format!("fetch {package}"), Duration::from_secs(5), &mut command)?;
    give_back_tree(&dir)?;
    find().with_context(|| format!("package {package} has none of {candidates:?}"))
}

fn update_lists() -> Result<()> {
    if find_program("apt-get").is_none() {
        bail!("no apt-get on this machine");
    }
    run_step(
        "update package lists",
        Duration::from_secs(10),
        apt_get().arg("update"),
    )
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(["-q", "-o", "DPkg::Lock::Timeout=120"])
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// An ELF file without an interpreter is static.
fn is_static(program: &Path) -> bool {
    fs::read(program).is_ok_and(|elf| has_interpreter(&elf) == Some(false))
}

/// Does the 64-bit little-endian ELF file have a `PT_INTERP` header?
fn has_interpreter(elf: &[u8]) -> Option<bool> {
    const PT_INTERP: u32 = 3;
    let number = |at: usize, length: usize| -> Option<u64> {
        let bytes = elf.get(at..at.checked_add(length)?)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0, |value, &byte| value << 8 | u64::from(byte)),
        )
    };
    if elf.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for index in 0..count {
        let at = usize::try_from(table.checked_add(index * size)?).ok()?;
        if number(at, 4)? == u64::from(PT_INTERP) {
            return Some(true);
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn this_test_is_dynamic_and_text_is_no_program() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(has_interpreter(&own), Some(!cfg!(target_env = "musl")));
        assert_eq!(has_interpreter(b"#!/bin/sh\n"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(tail in proptest::collection::vec(any::<u8>(), 0..200)) {
            let elf: Vec<u8> = b"\x7fELF\x02\x01".iter().copied().chain(tail).collect();
            let _ = has_interpreter(&elf);
        }
    }
}
