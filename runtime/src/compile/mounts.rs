//! The mounts of a spec: options become attribute bits, propagation and data, as runc reads them.

use super::Error;
use crate::plan::{Mount, MountKind, Propagation};

/// Files of /proc that a mount may cover (lxcfs and the like); everything else there is the kernel's to say.
const PROC_FILES: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// What an option does to the mount.
enum Effect {
    Set(u64),
    Clear(u64),
    /// Access time: one value in several bits.
    AccessTime(u64),
    Propagation(Propagation),
    Bind {
        recursive: bool,
    },
    RecursiveReadonly,
    /// Belongs to the file system, not to the mount.
    Super,
    Nothing,
    Unsupported,
    Data,
}

fn effect(option: &str) -> Effect {
    match option {
        "ro" => Effect::Set(libc::MOUNT_ATTR_RDONLY),
        "rw" => Effect::Clear(libc::MOUNT_ATTR_RDONLY),
        "nosuid" => Effect::Set(libc::MOUNT_ATTR_NOSUID),
        "suid" => Effect::Clear(libc::MOUNT_ATTR_NOSUID),
        "nodev" => Effect::Set(libc::MOUNT_ATTR_NODEV),
        "dev" => Effect::Clear(libc::MOUNT_ATTR_NODEV),
        "noexec" => Effect::Set(libc::MOUNT_ATTR_NOEXEC),
        "exec" => Effect::Clear(libc::MOUNT_ATTR_NOEXEC),
        "nodiratime" => Effect::Set(libc::MOUNT_ATTR_NODIRATIME),
        "diratime" => Effect::Clear(libc::MOUNT_ATTR_NODIRATIME),
        "nosymfollow" => Effect::Set(libc::MOUNT_ATTR_NOSYMFOLLOW),
        "symfollow" => Effect::Clear(libc::MOUNT_ATTR_NOSYMFOLLOW),
        "noatime" => Effect::AccessTime(libc::MOUNT_ATTR_NOATIME),
        "strictatime" => Effect::AccessTime(libc::MOUNT_ATTR_STRICTATIME),
        "atime" | "relatime" | "norelatime" | "nostrictatime" => {
            Effect::AccessTime(libc::MOUNT_ATTR_RELATIME)
        }
        "private" | "rprivate" => Effect::Propagation(Propagation::Private),
        "slave" | "rslave" => Effect::Propagation(Propagation::Slave),
        "shared" | "rshared" => Effect::Propagation(Propagation::Shared),
        "bind" => Effect::Bind { recursive: false },
        "rbind" => Effect::Bind { recursive: true },
        "rro" => Effect::RecursiveReadonly,
        "sync" | "async" | "dirsync" | "lazytime" | "nolazytime" | "mand" | "nomand" => Effect::Super,
        "defaults" => Effect::Nothing,
        "unbindable" | "runbindable" | "tmpcopyup" | "idmap" | "ridmap" | "remount" | "rrw" | "rnosuid"
        | "rsuid" | "rnodev" | "rdev" | "rnoexec" | "rexec" | "rnodiratime" | "rdiratime" | "rnoatime"
        | "ratime" | "rrelatime" | "rnorelatime" | "rstrictatime" | "rnostrictatime" | "rnosymfollow"
        | "rsymfollow" => Effect::Unsupported,
        _ => Effect::Data,
    }
}

/// Compiles all mounts, with a tmpfs at /dev where the spec has none: device nodes never go into an image's directory.
pub(super) fn compile(mounts: &[oci_spec::runtime::Mount]) -> Result<Vec<Mount>, Error> {
    let mut compiled = mounts.iter().map(one).collect::<Result<Vec<_>, _>>()?;
    if !compiled.iter().any(|mount| mount.destination == "/dev") {
        let below = compiled
            .iter()
            .position(|mount| mount.destination.starts_with("/dev/"));
        compiled.insert(below.unwrap_or(compiled.len()), default_dev());
    }
    Ok(compiled)
}

fn default_dev() -> Mount {
    let options = ["mode=755", "size=65536k"].map(str::to_owned).to_vec();
    Mount {
        destination: "/dev".to_owned(),
        kind: MountKind::FileSystem {
            name: "tmpfs".to_owned(),
            options,
        },
        flags: libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_STRICTATIME,
        cleared: 0,
        propagation: Propagation::Private,
    }
}

/// What the options of one mount come to.
struct Options {
    flags: u64,
    cleared: u64,
    propagation: Propagation,
    bind: Option<bool>,
    recursive_readonly: bool,
    data: Vec<String>,
}

fn read_options(options: &[String]) -> Result<Options, Error> {
    let mut read = Options {
        flags: 0,
        cleared: 0,
        propagation: Propagation::Private,
        bind: None,
        recursive_readonly: false,
        data: Vec::new(),
    };
    for option in options {
        match effect(option) {
            Effect::Set(bits) => (read.flags, read.cleared) = (read.flags | bits, read.cleared & !bits),
            Effect::Clear(bits) => (read.flags, read.cleared) = (read.flags & !bits, read.cleared | bits),
            Effect::AccessTime(bits) => {
                read.flags = (read.flags & !libc::MOUNT_ATTR__ATIME) | bits;
                read.cleared |= libc::MOUNT_ATTR__ATIME;
            }
            Effect::Propagation(propagation) => read.propagation = propagation,
            Effect::Bind { recursive } => read.bind = Some(recursive),
            Effect::RecursiveReadonly => read.recursive_readonly = true,
            Effect::Super | Effect::Data => read.data.push(option.clone()),
            Effect::Nothing => {}
            Effect::Unsupported => return Err(Error::unsupported("mounts.options", option)),
        }
    }
    Ok(read)
}

fn one(mount: &oci_spec::runtime::Mount) -> Result<Mount, Error> {
    let mapped = |list: &Option<Vec<_>>| list.as_ref().is_some_and(|list| !list.is_empty());
    if mapped(mount.uid_mappings()) || mapped(mount.gid_mappings()) {
        return Err(Error::unsupported(
            "mounts.uidMappings",
            mount.destination().display().to_string(),
        ));
    }
    let destination = clean(&mount.destination().display().to_string())?;
    let options = read_options(mount.options().as_deref().unwrap_or_default())?;
    let name = mount.typ().as_deref().unwrap_or_default();
    let bind = options.bind.or(if name == "bind" { Some(false) } else { None });
    let kind = match bind {
        Some(recursive) => bind_kind(mount, &options, recursive)?,
        None => file_system_kind(name, &options)?,
    };
    check_destination(&destination, &kind)?;
    Ok(Mount {
        destination,
        kind,
        flags: options.flags,
        cleared: options.cleared,
        propagation: options.propagation,
    })
}

fn bind_kind(
    mount: &oci_spec::runtime::Mount,
    options: &Options,
    recursive: bool,
) -> Result<MountKind, Error> {
    let source = mount
        .source()
        .as_ref()
        .map(|source| source.display().to_string())
        .unwrap_or_default();
    if !source.starts_with('/') {
        return Err(Error::invalid("mounts.source", source, "is not an absolute path"));
    }
    if let Some(option) = options.data.first() {
        return Err(Error::unsupported(
            "mounts.options",
            format!("{option} on a bind mount"),
        ));
    }
    Ok(MountKind::Bind {
        source,
        recursive,
        recursive_readonly: options.recursive_readonly,
    })
}

fn file_system_kind(name: &str, options: &Options) -> Result<MountKind, Error> {
    if options.recursive_readonly {
        return Err(Error::unsupported("mounts.options", "rro on a file system"));
    }
    // Specs name the first version; a private namespace of the second is what every container has here.
    let name = match name {
        "" | "none" => return Err(Error::Missing { field: "mounts.type" }),
        "cgroup" => "cgroup2",
        other => other,
    };
    if let Some(option) = options
        .data
        .iter()
        .find(|option| option.contains('\0') || option.starts_with('='))
    {
        return Err(Error::invalid(
            "mounts.options",
            option,
            "is not KEY or KEY=value",
        ));
    }
    Ok(MountKind::FileSystem {
        name: name.to_owned(),
        options: options.data.clone(),
    })
}

fn check_destination(destination: &str, kind: &MountKind) -> Result<(), Error> {
    let is_proc = matches!(kind, MountKind::FileSystem { name, .. } if name == "proc");
    let is_bind = matches!(kind, MountKind::Bind { .. });
    if destination == "/" {
        return Err(Error::invalid(
            "mounts.destination",
            destination,
            "is the root itself",
        ));
    }
    if destination == "/proc" && !is_proc && !is_bind {
        return Err(Error::invalid(
            "mounts.destination",
            destination,
            "can only be a proc file system",
        ));
    }
    if destination.starts_with("/proc/") && !PROC_FILES.contains(&destination) {
        return Err(Error::invalid(
            "mounts.destination",
            destination,
            "cannot be mounted because it is inside /proc",
        ));
    }
    Ok(())
}

/// The path without empty, `.` and `..` parts.
fn clean(path: &str) -> Result<String, Error> {
    if !path.starts_with('/') || path.contains('\0') {
        return Err(Error::invalid(
            "mounts.destination",
            path,
            "is not an absolute path",
        ));
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    Ok(format!("/{}", parts.join("/")))
}
