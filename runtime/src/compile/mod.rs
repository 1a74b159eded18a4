//! From an OCI runtime spec to plans. Pure: no system call, no clock, no environment.
//!
//! A spec has two readers here. [`sandbox`] takes what belongs to the namespaces that all containers of a pod share:
//! host name, sysctls, the net, ipc and uts namespaces. [`container`] takes everything else. What neither can carry out
//! is an error that names the field, never left out: of the whole spec only annotations (information, not settings),
//! `root.path` (given as a [`Rootfs`]) and the namespace of cgroups (always private) have no part in a plan.

mod devices;
mod error;
mod mounts;
mod process;
mod resources;
mod sandbox;

use oci_spec::runtime::{Linux, LinuxNamespaceType, Spec};

pub use self::error::Error;
pub use self::resources::cpu_weight;
pub use self::sandbox::{SandboxExtras, sandbox};

use crate::plan::{Cgroup, ContainerPlan, PidNamespace, Rootfs, Stdio, User, valid_id};

/// What a container's plan needs beyond the spec.
#[derive(Debug, Clone)]
pub struct Extras {
    /// Container id, `[a-z0-9]{1,64}`.
    pub id: String,
    /// Replaces the spec's `root.path`; read-only if it says so or `root.readonly` does.
    pub rootfs: Rootfs,
    /// Standard streams and the log.
    pub stdio: Stdio,
    /// Absolute path of the cgroup directory to make, below the cgroup2 mount. Replaces `linux.cgroupsPath`.
    pub cgroup_path: String,
    /// Replaces the spec's numeric user, e.g. by a name that only the container's /etc/passwd knows.
    pub user: Option<User>,
}

/// Compiles the part of a spec that one container carries.
///
/// # Errors
/// [`Error`] if the spec asks for something invalid, or for something this runtime does not do.
pub fn container(spec: &Spec, extras: Extras) -> Result<ContainerPlan, Error> {
    if !valid_id(&extras.id) {
        return Err(Error::invalid("id", &extras.id, "is not [a-z0-9]{1,64}"));
    }
    refuse_foreign(spec)?;
    let linux = spec.linux().as_ref().ok_or(Error::Missing { field: "linux" })?;
    refuse_unsupported(linux)?;
    let process = spec
        .process()
        .as_ref()
        .ok_or(Error::Missing { field: "process" })?;
    let mounts = mounts::compile(spec.mounts().as_deref().unwrap_or_default())?;
    Ok(ContainerPlan {
        id: extras.id,
        rootfs: with_readonly(
            extras.rootfs,
            spec.root().as_ref().and_then(|root| root.readonly()),
        ),
        mounts,
        devices: devices::nodes(linux.devices().as_deref().unwrap_or_default())?,
        device_rules: devices::rules(linux)?,
        masked_paths: absolute("linux.maskedPaths", linux.masked_paths().as_deref())?,
        readonly_paths: absolute("linux.readonlyPaths", linux.readonly_paths().as_deref())?,
        process: process::compile(process, extras.user)?,
        pid_namespace: pid_namespace(linux)?,
        cgroup: Cgroup {
            path: extras.cgroup_path,
            settings: resources::compile(linux.resources().as_ref())?,
        },
        stdio: extras.stdio,
    })
}

fn with_readonly(rootfs: Rootfs, wanted: Option<bool>) -> Rootfs {
    let wanted = wanted.unwrap_or(false);
    match rootfs {
        Rootfs::Overlay {
            lower,
            upper,
            work,
            readonly,
        } => Rootfs::Overlay {
            lower,
            upper,
            work,
            readonly: readonly || wanted,
        },
        Rootfs::Directory { path, readonly } => Rootfs::Directory {
            path,
            readonly: readonly || wanted,
        },
    }
}

/// Parts of a spec that are not Linux containers, and those that come later in this runtime's life.
fn refuse_foreign(spec: &Spec) -> Result<(), Error> {
    let ranges = |mappings: &Option<Vec<_>>| mappings.as_ref().is_some_and(|mappings| !mappings.is_empty());
    let present = [
        ("solaris", spec.solaris().is_some()),
        ("windows", spec.windows().is_some()),
        ("vm", spec.vm().is_some()),
        ("zos", spec.zos().is_some()),
        ("domainname", spec.domainname().is_some()),
        ("uidMappings", ranges(spec.uid_mappings())),
        ("gidMappings", ranges(spec.gid_mappings())),
        ("hooks", spec.hooks().as_ref().is_some_and(has_hooks)),
    ];
    refuse(&present)?;
    if !spec.version().starts_with("1.") {
        return Err(Error::invalid("ociVersion", spec.version(), "is not 1.x"));
    }
    Ok(())
}

fn has_hooks(hooks: &oci_spec::runtime::Hooks) -> bool {
    [
        hooks.create_runtime(),
        hooks.create_container(),
        hooks.start_container(),
        hooks.poststart(),
        hooks.poststop(),
    ]
    .iter()
    .any(|list| list.as_ref().is_some_and(|list| !list.is_empty()))
}

fn refuse_unsupported(linux: &Linux) -> Result<(), Error> {
    let label = linux
        .mount_label()
        .as_ref()
        .is_some_and(|label| !label.is_empty());
    let present = [
        (
            "linux.netDevices",
            linux
                .net_devices()
                .as_ref()
                .is_some_and(|devices| !devices.is_empty()),
        ),
        (
            "linux.uidMappings",
            linux.uid_mappings().as_ref().is_some_and(|list| !list.is_empty()),
        ),
        (
            "linux.gidMappings",
            linux.gid_mappings().as_ref().is_some_and(|list| !list.is_empty()),
        ),
        ("linux.seccomp", linux.seccomp().is_some()),
        ("linux.mountLabel", label),
        ("linux.intelRdt", linux.intel_rdt().is_some()),
        ("linux.memoryPolicy", linux.memory_policy().is_some()),
        ("linux.personality", linux.personality().is_some()),
        (
            "linux.timeOffsets",
            linux
                .time_offsets()
                .as_ref()
                .is_some_and(|offsets| !offsets.is_empty()),
        ),
    ];
    refuse(&present)?;
    // Each mount says how it travels; the root of the namespace is private and shows none of them to anyone else.
    match linux.rootfs_propagation().as_deref() {
        None | Some("" | "private" | "rprivate" | "slave" | "rslave" | "shared" | "rshared") => {}
        Some(other) => return Err(Error::unsupported("linux.rootfsPropagation", other)),
    }
    Ok(())
}

/// The first field that is present is an error.
fn refuse(present: &[(&'static str, bool)]) -> Result<(), Error> {
    match present.iter().find(|(_, present)| *present) {
        Some((field, _)) => Err(Error::Unsupported {
            field,
            value: String::new(),
        }),
        None => Ok(()),
    }
}

fn absolute(field: &'static str, paths: Option<&[String]>) -> Result<Vec<String>, Error> {
    let paths = paths.unwrap_or_default();
    match paths.iter().find(|path| !path.starts_with('/')) {
        Some(path) => Err(Error::invalid(field, path, "is not an absolute path")),
        None => Ok(paths.to_vec()),
    }
}

/// The pid namespace; mount namespaces are always the container's own, user and time namespaces the host's.
fn pid_namespace(linux: &Linux) -> Result<PidNamespace, Error> {
    let mut pid = PidNamespace::Host;
    let mut own_mounts = false;
    for namespace in linux.namespaces().as_deref().unwrap_or_default() {
        let path = namespace.path().as_ref().map(|path| path.display().to_string());
        match (namespace.typ(), path) {
            (LinuxNamespaceType::Pid, None) => pid = PidNamespace::Own,
            (LinuxNamespaceType::Pid, Some(path)) => pid = PidNamespace::Path(path),
            (LinuxNamespaceType::Mount, None) => own_mounts = true,
            (LinuxNamespaceType::Mount | LinuxNamespaceType::Cgroup, Some(path)) => {
                return Err(Error::unsupported("linux.namespaces.path", path));
            }
            (LinuxNamespaceType::User | LinuxNamespaceType::Time, _) => {
                return Err(Error::unsupported(
                    "linux.namespaces.type",
                    namespace.typ().to_string(),
                ));
            }
            // The sandbox's.
            (LinuxNamespaceType::Network | LinuxNamespaceType::Ipc | LinuxNamespaceType::Uts, _) => {}
            (LinuxNamespaceType::Cgroup, None) => {}
        }
    }
    if !own_mounts {
        return Err(Error::unsupported("linux.namespaces", "no mount namespace"));
    }
    Ok(pid)
}

#[cfg(test)]
mod tests;
