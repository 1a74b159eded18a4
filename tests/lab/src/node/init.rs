//! The first process of a node: makes the mounts, then reaps and keeps the agent running.
//!
//! It is a role of the single-threaded `xtask` program (`__node-init`), since a process with threads may not fork and
//! go on.

use super::boot::Boot;
use super::service::Service;
use crate::sys::{self, Side};
use anyhow::{Context as _, Result};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_change,
    move_mount, open_tree, unmount,
};
use std::ffi::CStr;
use std::fs;
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

/// Where the node's own programs are.
pub(crate) const PROGRAMS: &str = "/run/lab/bin";

/// Sysctls that a new network namespace may copy from the machine, set here so that each node is the same.
const SYSCTLS: [(&str, &str); 8] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/disable_ipv6", "0"),
    ("net/ipv6/conf/default/disable_ipv6", "0"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv6/conf/default/forwarding", "1"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
];

/// Clones into the node's namespaces, prints the new init's pid and returns; the clone becomes the init.
pub fn run(boot: &Path) -> Result<()> {
    let text = fs::read(boot).with_context(|| format!("read {}", boot.display()))?;
    let boot: Boot = serde_json::from_slice(&text).context("parse the boot description")?;
    let cgroup = rustix::fs::open(
        &boot.cgroup,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .with_context(|| format!("open {}", boot.cgroup.display()))?;
    match sys::clone_into_node(cgroup.as_fd()).context("clone into the node's namespaces")? {
        Side::Parent { child } => say(&child.to_string()),
        Side::Child => be_init(&boot),
    }
}

fn be_init(boot: &Boot) -> Result<()> {
    rustix::process::setsid().context("start a session")?;
    sys::block_signals().context("block signals")?;
    set_up(boot)?;
    say("ready")?;
    let null = fs::File::open("/dev/null").context("open /dev/null")?;
    rustix::stdio::dup2_stdout(&null).context("let go of standard output")?;
    Service::new().supervise()
}

fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .context("report to the lab")
}

fn set_up(boot: &Boot) -> Result<()> {
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .context("make mounts private")?;
    std::env::set_current_dir(&boot.dir).with_context(|| format!("enter {}", boot.dir.display()))?;
    rustix::system::sethostname(boot.name.as_bytes()).context("set the host name")?;
    // Taken before anything is covered: the workspace may lie below a directory that gets covered.
    let own = [
        ("var-lib", "/var/lib"),
        ("var-log", "/var/log"),
        ("bin", PROGRAMS),
    ];
    let trees = own.map(|(from, to)| (take(from), to));
    mount_kernel_views()?;
    overlay_etc()?;
    mount_tmpfs("/run", c"mode=755")?;
    mount_tmpfs("/tmp", c"mode=1777")?;
    mount_tmpfs("/dev/shm", c"mode=1777")?;
    fs::create_dir_all(PROGRAMS).context("make the directory of programs")?;
    fs::create_dir_all("/run/lock").context("make /run/lock")?;
    for (tree, to) in trees {
        attach(&tree?, to)?;
    }
    // As on a systemd host, so that volumes with mount propagation work.
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::SHARED)
        .context("make mounts shared")?;
    own_cgroups()?;
    set_sysctls()?;
    std::env::set_current_dir("/").context("enter /")
}

fn take(from: &str) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(CWD, from, flags).with_context(|| format!("take the tree {from}"))
}

fn attach(tree: &OwnedFd, to: &str) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(tree.as_fd(), c"", CWD, to, flags).with_context(|| format!("mount on {to}"))
}

fn mount_kernel_views() -> Result<()> {
    let strict = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", strict, None::<&CStr>).context("mount /proc")?;
    // Drops every cgroup v1 mount of a hybrid machine at once.
    unmount("/sys", UnmountFlags::DETACH).context("detach /sys")?;
    mount("sysfs", "/sys", "sysfs", strict, None::<&CStr>).context("mount /sys")?;
    mount("cgroup2", "/sys/fs/cgroup", "cgroup2", strict, None::<&CStr>).context("mount /sys/fs/cgroup")?;
    mount("bpf", "/sys/fs/bpf", "bpf", strict, None::<&CStr>).context("mount /sys/fs/bpf")
}

/// Relative paths: the workspace's own path may hold what overlay's option syntax cannot.
fn overlay_etc() -> Result<()> {
    let options = c"lowerdir=/etc,upperdir=etc/upper,workdir=etc/work";
    mount("overlay", "/etc", "overlay", MountFlags::empty(), options).context("mount an own /etc")
}

fn mount_tmpfs(on: &str, options: &CStr) -> Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", on, "tmpfs", flags, options).with_context(|| format!("mount {on}"))
}

fn own_cgroups() -> Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    fs::create_dir_all(root.join("init")).context("make the cgroup init")?;
    // A cgroup with processes of its own cannot hand controllers to its children.
    fs::write(root.join("init/cgroup.procs"), "0").context("enter the cgroup init")?;
    crate::cgroups::delegate(root);
    Ok(())
}

fn set_sysctls() -> Result<()> {
    for (name, value) in SYSCTLS {
        fs::write(Path::new("/proc/sys").join(name), value).with_context(|| format!("set sysctl {name}"))?;
    }
    Ok(())
}
