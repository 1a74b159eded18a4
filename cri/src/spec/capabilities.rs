//! Which capabilities a container has.

use std::collections::HashSet;
use std::str::FromStr as _;

use oci_spec::runtime::{Capability, LinuxCapabilities, LinuxCapabilitiesBuilder};
use proto::cri::LinuxContainerSecurityContext;

use crate::Error;

/// What a container has unless the pod says otherwise; containerd's set.
const DEFAULT: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

/// Every capability there is, by its number in capability.h.
pub(crate) const ALL: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// The sets of a container: defaults, `ALL` first, then what is added, then what is dropped. `held` is what the engine
/// itself has: nothing beyond it can be given. Inheritable and ambient stay empty unless ambient ones are asked for.
pub(crate) fn of(
    security: Option<&LinuxContainerSecurityContext>,
    held: &HashSet<Capability>,
) -> Result<LinuxCapabilities, Error> {
    let mut set: HashSet<Capability> = DEFAULT.into();
    let mut ambient = HashSet::new();
    if security.is_some_and(|security| security.privileged) {
        set = held.clone();
    } else if let Some(change) = security.and_then(|security| security.capabilities.as_ref()) {
        if change.add_capabilities.iter().any(is_all) {
            set = held.clone();
        }
        if change.drop_capabilities.iter().any(is_all) {
            set.clear();
        }
        for name in change.add_capabilities.iter().filter(|name| !is_all(name)) {
            set.insert(parse(name)?);
        }
        for name in change.drop_capabilities.iter().filter(|name| !is_all(name)) {
            set.remove(&parse(name)?);
        }
        for name in &change.add_ambient_capabilities {
            ambient.insert(parse(name)?);
        }
    }
    set.retain(|capability| held.contains(capability));
    ambient.retain(|capability| set.contains(capability));
    Ok(LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .effective(set.clone())
        .permitted(set)
        .inheritable(ambient.clone())
        .ambient(ambient)
        .build()
        .expect("every field has a default"))
}

fn is_all(name: impl AsRef<str>) -> bool {
    name.as_ref().eq_ignore_ascii_case("ALL")
}

/// `NET_ADMIN`, `CAP_NET_ADMIN`, in any case.
fn parse(name: &str) -> Result<Capability, Error> {
    let upper = name.to_ascii_uppercase();
    Capability::from_str(upper.strip_prefix("CAP_").unwrap_or(&upper)).map_err(|_| {
        Error::invalid(
            "security_context.capabilities",
            format!("unknown capability {name:?}"),
        )
    })
}
