//! From a freshly started process to a keeper: plan, session, cgroup, namespaces, socket.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::UnshareFlags;

use super::event_loop::Keeper;
use super::{EXITS_NAME, SOCKET_NAME, encode_answer, write_all};
use crate::failure::{About as _, Trouble};
use crate::plan::{SandboxPlan, valid_id};
use crate::sys::{cgroup, file, mount, point, process, signal, socket};
use crate::wire::{self, Failure};

/// Becomes the keeper of the sandbox whose plan is on standard input.
pub(super) fn be_born() -> Result<Keeper, Failure> {
    rustix::process::umask(Mode::from_raw_mode(0o077));
    let plan = read_plan().map_err(|trouble| trouble.in_step("read plan"))?;
    let null = file::open_null()
        .about("/dev/null")
        .map_err(|trouble| trouble.in_step("open null"))?;
    type Deed = fn(&SandboxPlan) -> Result<(), Trouble>;
    let deeds: [(&str, Deed); 6] = [
        ("check plan", check),
        ("detach", detach),
        ("join cgroup", join_cgroup),
        ("set oom score", set_oom_score),
        ("make namespaces", make_namespaces),
        ("set sysctls", set_sysctls),
    ];
    for (step, deed) in deeds {
        deed(&plan).map_err(|trouble| trouble.in_step(step))?;
    }
    // Before the socket shows: a driver that can connect finds signals handled.
    let signals = signal::signal_descriptor(&[libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP])
        .about("signals")
        .map_err(|trouble| trouble.in_step("take signals"))?;
    let (listener, directory) = open_door(&plan).map_err(|trouble| trouble.in_step("open socket"))?;
    rustix::stdio::dup2_stdin(&null)
        .about("standard input")
        .map_err(|trouble| trouble.in_step("detach"))?;
    Keeper::new(plan.id, directory, listener, signals)
        .about("epoll")
        .map_err(|trouble| trouble.in_step("watch"))
}

/// Tells the starter how it went, and lets go of standard output.
pub(super) fn answer(answer: &Result<u32, Failure>) -> Result<(), Trouble> {
    point("runtime.report_keeper");
    write_all(
        &rustix::stdio::stdout(),
        &encode_answer(answer)?,
        "standard output",
    )?;
    let null = file::open_null().about("/dev/null")?;
    rustix::stdio::dup2_stdout(&null).about("standard output")
}

fn read_plan() -> Result<SandboxPlan, Trouble> {
    let malformed = |error: wire::DecodeError| Trouble::rule("standard input", error.to_string());
    let (mut frame, mut chunk) = (Vec::new(), [0u8; 4096]);
    loop {
        let length = rustix::io::retry_on_intr(|| rustix::io::read(rustix::stdio::stdin(), &mut chunk))
            .about("standard input")?;
        frame.extend_from_slice(&chunk[..length]);
        match wire::decode(&frame).map_err(malformed)? {
            Some((plan, _)) => return Ok(plan),
            None if length == 0 => return Err(Trouble::rule("standard input", "ends before the plan does")),
            None => {}
        }
    }
}

fn check(plan: &SandboxPlan) -> Result<(), Trouble> {
    if !valid_id(&plan.id) {
        return Err(Trouble::rule(plan.id.clone(), "sandbox id is not [a-z0-9]{1,64}"));
    }
    for path in [&plan.keeper_cgroup, &plan.directory] {
        if !Path::new(path).is_absolute() {
            return Err(Trouble::rule(path.clone(), "path is not absolute"));
        }
    }
    if plan.hostname.is_some()
        && plan
            .hostname
            .as_ref()
            .is_none_or(|name| name.is_empty() || name.len() > 64)
    {
        return Err(Trouble::rule(
            "hostname",
            "hostname is empty or longer than 64 bytes",
        ));
    }
    Ok(())
}

fn detach(_: &SandboxPlan) -> Result<(), Trouble> {
    // A starter that made us leader of a group already is fine.
    let _ = rustix::process::setsid();
    rustix::process::chdir("/").about("/")?;
    rustix::thread::set_name(c"longshore-oci").about("name")?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).about("dumpable")?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).about("subreaper")
}

fn join_cgroup(plan: &SandboxPlan) -> Result<(), Trouble> {
    cgroup::ensure("runtime.mkdir_keeper_cgroup", Path::new(&plan.keeper_cgroup))
        .about(&plan.keeper_cgroup)?;
    let group = cgroup::open(Path::new(&plan.keeper_cgroup)).about(&plan.keeper_cgroup)?;
    file::write_at("runtime.join_keeper_cgroup", &group, "cgroup.procs", b"0").about(&plan.keeper_cgroup)
}

fn set_oom_score(plan: &SandboxPlan) -> Result<(), Trouble> {
    crate::init::adjust_oom_score(&private_procfs()?, plan.oom_score_adj)
}

/// A procfs of our own: what we write there is nowhere else.
fn private_procfs() -> Result<OwnedFd, Trouble> {
    mount::new_file_system("proc", &[], 0).about("proc")
}

fn make_namespaces(plan: &SandboxPlan) -> Result<(), Trouble> {
    let mut flags = UnshareFlags::empty();
    flags.set(UnshareFlags::NEWNET, plan.own_network);
    flags.set(UnshareFlags::NEWIPC, plan.own_ipc);
    flags.set(UnshareFlags::NEWUTS, plan.hostname.is_some());
    if !flags.is_empty() {
        process::unshare(flags).about("net, ipc, uts")?;
    }
    if let Some(hostname) = &plan.hostname {
        process::set_hostname(hostname).about(hostname)?;
    }
    Ok(())
}

/// Writes namespaced settings. The instance of procfs is made after the namespaces: it shows those of its maker.
fn set_sysctls(plan: &SandboxPlan) -> Result<(), Trouble> {
    if plan.sysctls.is_empty() {
        return Ok(());
    }
    let procfs = private_procfs()?;
    for (name, value) in &plan.sysctls {
        let namespaced = (plan.own_network && name.starts_with("net."))
            || (plan.own_ipc && (name.starts_with("kernel.") || name.starts_with("fs.mqueue.")));
        let plain = name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte));
        if !namespaced || !plain || name.contains("..") {
            return Err(Trouble::rule(
                name,
                "sysctl is not in a namespace of the sandbox's own",
            ));
        }
        let path = format!("sys/{}", sysctl_path(name));
        file::write_at("runtime.write_sysctl", procfs.as_fd(), &path, value.as_bytes())
            .about(format!("{name} = {value}"))?;
    }
    Ok(())
}

/// `a.b/c` → `a/b.c`: as sysctl(8), a slash in the dotted form stands for a dot of a file name.
fn sysctl_path(name: &str) -> String {
    match name.find(['.', '/']).map(|at| name.as_bytes()[at]) {
        Some(b'/') => name.to_owned(),
        _ => name
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
    }
}

fn open_door(plan: &SandboxPlan) -> Result<(OwnedFd, PathBuf), Trouble> {
    let directory = PathBuf::from(&plan.directory);
    let exits = directory.join(EXITS_NAME);
    for path in [&directory, &exits] {
        file::ensure_directory("runtime.mkdir_exits", path, 0o700).about(path.display().to_string())?;
    }
    let listener =
        socket::listen_in(&directory, SOCKET_NAME).about(format!("{}/{SOCKET_NAME}", plan.directory))?;
    Ok((listener, directory))
}
