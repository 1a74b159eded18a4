//! From what the interface and the image say to an OCI runtime specification. Pure: what has to be looked up on the
//! machine comes in as [`Host`] and [`Sandbox`].

pub(crate) mod capabilities;
mod mounts;
mod process;
mod resources;
pub(crate) mod signal;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::path::PathBuf;

use oci_spec::image::Config as ImageConfig;
use oci_spec::runtime::{
    Capability, Linux, LinuxBuilder, LinuxDevice, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType,
    Process, ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};
use proto::cri::security_profile::ProfileType;
use proto::cri::{
    ContainerConfig, LinuxContainerSecurityContext, NamespaceMode, NamespaceOption, SecurityProfile,
};
use runtime::plan::{Id, User};

use crate::Error;

/// What a container needs to know of its sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sandbox {
    /// Host name inside.
    pub(crate) hostname: String,
    /// To show as `/etc/hostname`; none where the host's name space is shared.
    pub(crate) hostname_file: Option<PathBuf>,
    /// To show as `/etc/resolv.conf`.
    pub(crate) resolv_conf: PathBuf,
    /// To show as `/dev/shm`.
    pub(crate) shm: PathBuf,
    /// Cgroup of the pod below the root of cgroups, with a leading slash.
    pub(crate) cgroup_parent: String,
}

/// What a container needs to know of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    /// Capabilities that the engine has: what it can give.
    pub(crate) capabilities: HashSet<Capability>,
}

/// A device of the host that a container may use.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Device {
    /// Its node, at the path it has inside.
    pub(crate) node: LinuxDevice,
    /// Letters of `rwm`.
    pub(crate) access: String,
}

/// A container in the words of the OCI, and what those words cannot say.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Generated {
    /// The specification.
    pub(crate) spec: Spec,
    /// Who it runs as; may be a name, which only the container's own files can resolve.
    pub(crate) user: User,
    /// The signal that asks it to end.
    pub(crate) stop_signal: i32,
}

/// The specification of container `id`. `devices` are those the host has for what the pod asks; `target` the process
/// whose pid namespace is joined, for `TARGET`.
pub(crate) fn generate(
    id: &str,
    config: &ContainerConfig,
    image: Option<&ImageConfig>,
    sandbox: &Sandbox,
    host: &Host,
    devices: &[Device],
    target: Option<u32>,
) -> Result<Generated, Error> {
    let none = LinuxContainerSecurityContext::default();
    let linux = config.linux.as_ref();
    let security = linux
        .and_then(|linux| linux.security_context.as_ref())
        .unwrap_or(&none);
    refuse_unenforced(security)?;
    let user = process::user(Some(security), image)?;
    let mut process = process(config, image, sandbox, &user)?;
    process
        .set_capabilities(Some(capabilities::of(Some(security), &host.capabilities)?))
        .set_no_new_privileges(Some(security.no_new_privs))
        .set_oom_score_adj(oom_score_adj(config)?);
    let root = RootBuilder::default()
        .path("rootfs")
        .readonly(security.readonly_rootfs)
        .build()
        .expect("every field has a default");
    let spec = SpecBuilder::default()
        .version("1.2.0")
        .root(root)
        .process(process)
        .mounts(mounts::of(config, sandbox)?)
        .linux(linux_part(id, config, security, sandbox, devices, target)?)
        .build()
        .expect("every field has a default");
    Ok(Generated {
        spec,
        user,
        stop_signal: signal::stop_signal(config, image)?,
    })
}

fn process(
    config: &ContainerConfig,
    image: Option<&ImageConfig>,
    sandbox: &Sandbox,
    user: &User,
) -> Result<Process, Error> {
    let numeric = |id: &Id| if let Id::Number(number) = id { *number } else { 0 };
    let mut oci_user = UserBuilder::default().build().expect("every field has a default");
    oci_user
        .set_uid(numeric(&user.uid))
        .set_gid(user.gid.as_ref().map_or(0, numeric))
        .set_additional_gids(Some(user.additional_gids.clone()).filter(|groups| !groups.is_empty()));
    let mut process = ProcessBuilder::default()
        .terminal(config.tty)
        .user(oci_user)
        .args(process::args(config, image)?)
        .env(process::environment(config, image, &sandbox.hostname)?)
        .cwd(process::working_dir(config, image)?)
        .build()
        .expect("every field has a default");
    process.set_rlimits(None);
    Ok(process)
}

fn linux_part(
    id: &str,
    config: &ContainerConfig,
    security: &LinuxContainerSecurityContext,
    sandbox: &Sandbox,
    devices: &[Device],
    target: Option<u32>,
) -> Result<Linux, Error> {
    let resources = config.linux.as_ref().and_then(|linux| linux.resources.as_ref());
    let hidden = |paths: &[String]| {
        if security.privileged {
            Vec::new()
        } else {
            paths.to_vec()
        }
    };
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces(security, target)?)
        .devices(
            devices
                .iter()
                .map(|device| device.node.clone())
                .collect::<Vec<_>>(),
        )
        .resources(resources::of(resources, devices, security.privileged))
        .cgroups_path(format!("{}/{id}", sandbox.cgroup_parent))
        .masked_paths(hidden(&security.masked_paths))
        .readonly_paths(hidden(&security.readonly_paths))
        .build()
        .expect("every field has a default");
    linux.set_seccomp(None);
    Ok(linux)
}

/// The container's own namespaces; network, ipc and uts are its sandbox's.
fn namespaces(
    security: &LinuxContainerSecurityContext,
    target: Option<u32>,
) -> Result<Vec<LinuxNamespace>, Error> {
    let own = |kind: LinuxNamespaceType| {
        LinuxNamespaceBuilder::default()
            .typ(kind)
            .build()
            .expect("every field has a default")
    };
    let mut namespaces = vec![own(LinuxNamespaceType::Mount), own(LinuxNamespaceType::Cgroup)];
    let options = security.namespace_options.clone().unwrap_or_else(own_namespaces);
    match options.pid() {
        NamespaceMode::Container => namespaces.push(own(LinuxNamespaceType::Pid)),
        NamespaceMode::Node => {}
        NamespaceMode::Pod => return Err(shared_pid()),
        NamespaceMode::Target => {
            let pid = target.ok_or_else(|| {
                Error::invalid(
                    "namespace_options.target_id",
                    format!("{:?} does not run", options.target_id),
                )
            })?;
            let mut joined = own(LinuxNamespaceType::Pid);
            joined.set_path(Some(PathBuf::from(format!("/proc/{pid}/ns/pid"))));
            namespaces.push(joined);
        }
    }
    Ok(namespaces)
}

/// The namespaces of who names none.
pub(crate) fn own_namespaces() -> NamespaceOption {
    NamespaceOption {
        pid: NamespaceMode::Container.into(),
        ..NamespaceOption::default()
    }
}

/// A pid namespace for the whole pod needs a process of its own to be PID 1.
pub(crate) fn shared_pid() -> Error {
    Error::invalid(
        "namespace_options.pid",
        "one pid namespace for the pod (shareProcessNamespace) is not known yet",
    )
}

fn oom_score_adj(config: &ContainerConfig) -> Result<Option<i32>, Error> {
    let Some(resources) = config.linux.as_ref().and_then(|linux| linux.resources.as_ref()) else {
        return Ok(None);
    };
    match i32::try_from(resources.oom_score_adj) {
        Ok(value) if (-1000..=1000).contains(&value) => Ok(Some(value)),
        _ => Err(Error::invalid(
            "resources.oom_score_adj",
            format!("{} is not between -1000 and 1000", resources.oom_score_adj),
        )),
    }
}

/// A profile that the pod names and that would not be in force is refused. The runtime's default is best effort, as
/// containerd treats it on a kernel without the feature.
fn refuse_unenforced(security: &LinuxContainerSecurityContext) -> Result<(), Error> {
    let named = |profile: &Option<SecurityProfile>| {
        profile
            .as_ref()
            .is_some_and(|profile| profile.profile_type() == ProfileType::Localhost)
    };
    if security.privileged {
        return Ok(());
    }
    if named(&security.seccomp) {
        return Err(Error::invalid(
            "security_context.seccomp",
            "a profile of the node is asked for, seccomp is not supported",
        ));
    }
    if named(&security.apparmor) {
        return Err(Error::invalid(
            "security_context.apparmor",
            "a profile of the node is asked for, apparmor is not supported",
        ));
    }
    Ok(())
}
