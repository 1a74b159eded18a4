//! The process of a spec.

use oci_spec::runtime::{Capability, LinuxCapabilities, PosixRlimit, PosixRlimitType};

use super::{Error, refuse};
use crate::plan::{Capabilities, Id, Process, User};

/// File mode creation mask where the spec has none, as runc.
const DEFAULT_UMASK: u32 = 0o022;

pub(super) fn compile(process: &oci_spec::runtime::Process, user: Option<User>) -> Result<Process, Error> {
    refuse_unsupported(process)?;
    let args = process.args().clone().unwrap_or_default();
    if args.first().is_none_or(String::is_empty) {
        return Err(Error::Missing {
            field: "process.args",
        });
    }
    let env = process.env().clone().unwrap_or_default();
    if let Some(entry) = env
        .iter()
        .find(|entry| !entry.contains('=') || entry.starts_with('='))
    {
        return Err(Error::invalid("process.env", entry, "is not KEY=value"));
    }
    for (field, texts) in [("process.args", &args), ("process.env", &env)] {
        if let Some(text) = texts.iter().find(|text| text.contains('\0')) {
            return Err(Error::invalid(field, text, "holds a NUL byte"));
        }
    }
    let cwd = process.cwd().display().to_string();
    if !cwd.starts_with('/') {
        return Err(Error::invalid("process.cwd", cwd, "is not an absolute path"));
    }
    let score = process.oom_score_adj();
    if let Some(score) = score.filter(|score| !(-1000..=1000).contains(score)) {
        return Err(Error::invalid(
            "process.oomScoreAdj",
            score,
            "is not in -1000..1000",
        ));
    }
    let rlimits = process.rlimits().as_deref().unwrap_or_default();
    Ok(Process {
        args,
        env,
        cwd,
        user: user.map_or_else(|| numeric_user(process.user()), Ok)?,
        capabilities: process
            .capabilities()
            .as_ref()
            .map(capabilities)
            .transpose()?
            .unwrap_or_default(),
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        oom_score_adj: score,
        rlimits: rlimits.iter().map(rlimit).collect::<Result<_, _>>()?,
        terminal: process.terminal().unwrap_or(false),
        umask: process.user().umask().unwrap_or(DEFAULT_UMASK),
    })
}

fn refuse_unsupported(process: &oci_spec::runtime::Process) -> Result<(), Error> {
    let set = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let profile = process
        .apparmor_profile()
        .as_ref()
        .is_some_and(|name| !name.is_empty() && name != "unconfined");
    refuse(&[
        ("process.consoleSize", process.console_size().is_some()),
        ("process.commandLine", set(process.command_line())),
        ("process.apparmorProfile", profile),
        ("process.selinuxLabel", set(process.selinux_label())),
        ("process.ioPriority", process.io_priority().is_some()),
        ("process.scheduler", process.scheduler().is_some()),
        ("process.execCPUAffinity", process.exec_cpu_affinity().is_some()),
    ])
}

fn numeric_user(user: &oci_spec::runtime::User) -> Result<User, Error> {
    if let Some(name) = user.username().as_ref().filter(|name| !name.is_empty()) {
        return Err(Error::unsupported("process.user.username", name));
    }
    for (field, id) in [("process.user.uid", user.uid()), ("process.user.gid", user.gid())] {
        if id == u32::MAX {
            return Err(Error::invalid(field, id, "is not in 0-4294967294"));
        }
    }
    Ok(User {
        uid: Id::Number(user.uid()),
        gid: Some(Id::Number(user.gid())),
        additional_gids: user.additional_gids().clone().unwrap_or_default(),
        image_groups: false,
    })
}

fn capabilities(sets: &LinuxCapabilities) -> Result<Capabilities, Error> {
    let mask = |set: &Option<std::collections::HashSet<Capability>>| {
        set.iter()
            .flatten()
            .fold(0, |mask, capability| mask | 1 << number(*capability))
    };
    let compiled = Capabilities {
        bounding: mask(sets.bounding()),
        effective: mask(sets.effective()),
        permitted: mask(sets.permitted()),
        inheritable: mask(sets.inheritable()),
        ambient: mask(sets.ambient()),
    };
    if compiled.effective & !compiled.permitted != 0 {
        let text = format!("{:#x}", compiled.effective & !compiled.permitted);
        return Err(Error::invalid(
            "process.capabilities.effective",
            text,
            "is not permitted",
        ));
    }
    if compiled.ambient & !(compiled.permitted & compiled.inheritable) != 0 {
        let text = format!("{:#x}", compiled.ambient);
        return Err(Error::invalid(
            "process.capabilities.ambient",
            text,
            "is not permitted and inheritable",
        ));
    }
    Ok(compiled)
}

/// The kernel's number of a capability, see capabilities(7) and linux/capability.h.
fn number(capability: Capability) -> u32 {
    match capability {
        Capability::Chown => 0,
        Capability::DacOverride => 1,
        Capability::DacReadSearch => 2,
        Capability::Fowner => 3,
        Capability::Fsetid => 4,
        Capability::Kill => 5,
        Capability::Setgid => 6,
        Capability::Setuid => 7,
        Capability::Setpcap => 8,
        Capability::LinuxImmutable => 9,
        Capability::NetBindService => 10,
        Capability::NetBroadcast => 11,
        Capability::NetAdmin => 12,
        Capability::NetRaw => 13,
        Capability::IpcLock => 14,
        Capability::IpcOwner => 15,
        Capability::SysModule => 16,
        Capability::SysRawio => 17,
        Capability::SysChroot => 18,
        Capability::SysPtrace => 19,
        Capability::SysPacct => 20,
        Capability::SysAdmin => 21,
        Capability::SysBoot => 22,
        Capability::SysNice => 23,
        Capability::SysResource => 24,
        Capability::SysTime => 25,
        Capability::SysTtyConfig => 26,
        Capability::Mknod => 27,
        Capability::Lease => 28,
        Capability::AuditWrite => 29,
        Capability::AuditControl => 30,
        Capability::Setfcap => 31,
        Capability::MacOverride => 32,
        Capability::MacAdmin => 33,
        Capability::Syslog => 34,
        Capability::WakeAlarm => 35,
        Capability::BlockSuspend => 36,
        Capability::AuditRead => 37,
        Capability::Perfmon => 38,
        Capability::Bpf => 39,
        Capability::CheckpointRestore => 40,
    }
}

fn rlimit(limit: &PosixRlimit) -> Result<(u32, u64, u64), Error> {
    if limit.soft() > limit.hard() {
        return Err(Error::invalid(
            "process.rlimits.soft",
            limit.soft(),
            "is over the hard limit",
        ));
    }
    // asm-generic/resource.h, which x86-64, arm64 and riscv64 share.
    let number = match limit.typ() {
        PosixRlimitType::RlimitCpu => 0,
        PosixRlimitType::RlimitFsize => 1,
        PosixRlimitType::RlimitData => 2,
        PosixRlimitType::RlimitStack => 3,
        PosixRlimitType::RlimitCore => 4,
        PosixRlimitType::RlimitRss => 5,
        PosixRlimitType::RlimitNproc => 6,
        PosixRlimitType::RlimitNofile => 7,
        PosixRlimitType::RlimitMemlock => 8,
        PosixRlimitType::RlimitAs => 9,
        PosixRlimitType::RlimitLocks => 10,
        PosixRlimitType::RlimitSigpending => 11,
        PosixRlimitType::RlimitMsgqueue => 12,
        PosixRlimitType::RlimitNice => 13,
        PosixRlimitType::RlimitRtprio => 14,
        PosixRlimitType::RlimitRttime => 15,
    };
    Ok((number, limit.soft(), limit.hard()))
}
