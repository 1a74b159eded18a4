//! What the machine must have, checked before anything is changed; all that is missing is named at once.

use super::{debian_packages, go_tools};
use crate::addresses::Addresses;
use crate::paths::{cache_dir, lab_dir, workspace};
use crate::state::State;
use crate::{NAME, cgroups, fabric};
use anyhow::{Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What is missing and the command that mends it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Problem {
    what: String,
    mend: String,
}

fn problem(what: impl Into<String>, mend: impl Into<String>) -> Option<Problem> {
    Some(Problem {
        what: what.into(),
        mend: mend.into(),
    })
}

const KERNEL_FLOOR: (u32, u32) = (6, 1);
const MEMORY_MIB: u64 = 3 * 1024;
const DISK_WARM_GIB: u64 = 3;
const DISK_COLD_GIB: u64 = 15;

/// Fails with the list of all that is missing.
pub(crate) fn check() -> Result<()> {
    let checks = [
        platform,
        kernel,
        memory,
        disk,
        cgroup,
        namespaces,
        overlay,
        ipv6,
        package_tools,
        rust,
        go,
        addresses,
        other_lab,
    ];
    let problems: Vec<Problem> = checks.iter().filter_map(|check| check()).collect();
    if problems.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = problems
        .iter()
        .map(|problem| format!("  - {}\n      mend: {}", problem.what, problem.mend))
        .collect();
    bail!(
        "this machine lacks {} thing(s):\n{}",
        problems.len(),
        lines.join("\n")
    )
}

fn platform() -> Option<Problem> {
    let (os, architecture) = (std::env::consts::OS, std::env::consts::ARCH);
    if (os, architecture) == ("linux", "x86_64") {
        return None;
    }
    problem(
        format!("Linux on x86_64 (this is {os} on {architecture})"),
        "use such a machine, or a virtual one",
    )
}

fn kernel() -> Option<Problem> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    if kernel_version(&release).is_some_and(|version| version >= KERNEL_FLOOR) {
        return None;
    }
    let (major, minor) = KERNEL_FLOOR;
    problem(
        format!("Linux {major}.{minor} or newer (this is {release})"),
        "apt-get install linux-image-amd64 && reboot",
    )
}

fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn memory() -> Option<Problem> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let available = line.split_ascii_whitespace().next()?.parse::<u64>().ok()? / 1024;
    if available >= MEMORY_MIB || lab_dir().exists() {
        return None;
    }
    problem(
        format!("{MEMORY_MIB} MiB of free memory (there are {available})"),
        "end other programs, or add memory",
    )
}

fn disk() -> Option<Problem> {
    let is_warm = go_tools::directory().is_ok_and(|dir| dir.join("kube-apiserver").exists());
    let needed = if is_warm { DISK_WARM_GIB } else { DISK_COLD_GIB };
    [workspace(), cache_dir()].iter().find_map(|path| {
        let free = free_gib(path)?;
        if free >= needed {
            return None;
        }
        problem(
            format!(
                "{needed} GiB free on the disk of {} (there are {free})",
                path.display()
            ),
            "free some space",
        )
    })
}

fn free_gib(path: &Path) -> Option<u64> {
    let existing = path.ancestors().find(|path| path.exists())?;
    let info = rustix::fs::statvfs(existing).ok()?;
    Some((info.f_bavail * info.f_frsize) >> 30)
}

fn cgroup() -> Option<Problem> {
    let mend = "mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified";
    let Ok(mount) = cgroups::mount_point() else {
        return problem("a cgroup v2 mount", mend);
    };
    let probe = mount.join(format!("{NAME}-probe"));
    let made = fs::create_dir(&probe);
    let _ = fs::remove_dir(&probe);
    let error = made.err()?;
    problem(
        format!("a writable cgroup v2 mount ({}: {error})", mount.display()),
        format!("mount -o remount,rw {}", mount.display()),
    )
}

fn namespaces() -> Option<Problem> {
    let mut command = Command::new("unshare");
    command.args([
        "--mount", "--net", "--pid", "--fork", "--cgroup", "--uts", "--ipc", "mount", "-t", "tmpfs", "none",
        "/mnt",
    ]);
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    if status.is_ok_and(|status| status.success()) {
        return None;
    }
    problem(
        "the right to make namespaces and mounts",
        "run as real root, or in a container started with --privileged",
    )
}

fn ipv6() -> Option<Problem> {
    if Path::new("/proc/sys/net/ipv6").exists() {
        return None;
    }
    problem(
        "IPv6 in the kernel",
        "remove ipv6.disable=1 from the kernel's command line and reboot",
    )
}

fn overlay() -> Option<Problem> {
    let systems = fs::read_to_string("/proc/filesystems").ok()?;
    let has_overlay = || systems.lines().any(|line| line.ends_with("\toverlay"));
    let loaded = || {
        Command::new("modprobe")
            .arg("overlay")
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    };
    if has_overlay() || loaded() {
        None
    } else {
        problem("the overlay file system", "modprobe overlay")
    }
}

fn package_tools() -> Option<Problem> {
    let missing = debian_packages::missing();
    if missing.is_empty() || find_program("apt-get").is_some() {
        return None;
    }
    problem(
        format!("the programs of these Debian packages: {}", missing.join(", ")),
        "install them with your package manager",
    )
}

fn rust() -> Option<Problem> {
    if find_program("rustup").is_some() || super::product::has_target() {
        return None;
    }
    problem(
        "the Rust target x86_64-unknown-linux-musl (and no rustup to add it)",
        "install rustup from https://rustup.rs",
    )
}

fn go() -> Option<Problem> {
    let mend = "install Go 1.26 or newer from https://go.dev/dl and put its bin directory on PATH";
    let Some(go) = find_program("go") else {
        return problem("Go 1.26 or newer (there is none)", mend);
    };
    let output = Command::new(&go)
        .args(["env", "GOVERSION"])
        .current_dir(workspace().join("tests/testbed"))
        .output()
        .ok()?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let is_new = kernel_version(version.trim_start_matches("go")).is_some_and(|version| version >= (1, 26));
    if is_new {
        None
    } else {
        problem(format!("Go 1.26 or newer ({} is {version})", go.display()), mend)
    }
}

fn addresses() -> Option<Problem> {
    // Without `ip` there is nothing to ask; it is installed in the next step and asked again by `up`.
    find_program("ip")?;
    let error = Addresses::choose().err()?;
    problem(
        format!("a free address range for the lab ({error:#})"),
        "remove one of these routes: ip route del …",
    )
}

fn other_lab() -> Option<Problem> {
    let has_own = matches!(State::load(), Ok(Some(_)) | Err(_));
    if has_own || !fabric::netns_file().exists() {
        return None;
    }
    let owner = owner().map_or_else(|| "another checkout".to_owned(), |dir| dir.display().to_string());
    problem(
        format!("a machine without another lab: {owner} has one up"),
        "wait for its end, or remove it: cargo xtask lab down (here or there; it removes any lab of this machine)",
    )
}

/// The workspace whose lab is up, read off the arguments of its processes.
fn owner() -> Option<PathBuf> {
    let processes = fs::read_to_string(cgroups::root().ok()?.join("control-plane/cgroup.procs")).ok()?;
    processes.lines().find_map(|pid| {
        let arguments = fs::read(Path::new("/proc").join(pid).join("cmdline")).ok()?;
        let arguments = String::from_utf8_lossy(&arguments).into_owned();
        let (before, _) = arguments.split_once("/target/lab/")?;
        before.rsplit(['=', '\0']).next().map(PathBuf::from)
    })
}

/// A program on PATH.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let sbin = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(sbin)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert_eq!(kernel_version("6.18.44-fc-v669"), Some((6, 18)));
        assert_eq!(kernel_version("5.15.0-91-generic"), Some((5, 15)));
        assert!(kernel_version("6.9.1") < kernel_version("6.18.0"));
        assert_eq!(kernel_version("weird"), None);
    }
}
