//! The part of a spec that a sandbox carries.

use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::Error;
use crate::plan::{SandboxPlan, valid_id};

/// What a sandbox's plan needs beyond the spec.
#[derive(Debug, Clone)]
pub struct SandboxExtras {
    /// Sandbox id, `[a-z0-9]{1,64}`.
    pub id: String,
    /// See [`SandboxPlan::keeper_cgroup`].
    pub keeper_cgroup: String,
    /// See [`SandboxPlan::directory`].
    pub directory: String,
    /// See [`SandboxPlan::oom_score_adj`].
    pub oom_score_adj: i32,
}

/// Compiles host name, sysctls and shared namespaces of a spec.
///
/// # Errors
/// [`Error`] if the spec asks for something invalid, or joins a namespace by path.
pub fn sandbox(spec: &Spec, extras: SandboxExtras) -> Result<SandboxPlan, Error> {
    if !valid_id(&extras.id) {
        return Err(Error::invalid("id", &extras.id, "is not [a-z0-9]{1,64}"));
    }
    let linux = spec.linux().as_ref().ok_or(Error::Missing { field: "linux" })?;
    let (mut own_network, mut own_ipc, mut own_uts) = (false, false, false);
    for namespace in linux.namespaces().as_deref().unwrap_or_default() {
        let own = match namespace.typ() {
            LinuxNamespaceType::Network => &mut own_network,
            LinuxNamespaceType::Ipc => &mut own_ipc,
            LinuxNamespaceType::Uts => &mut own_uts,
            _ => continue,
        };
        if let Some(path) = namespace.path() {
            return Err(Error::unsupported(
                "linux.namespaces.path",
                path.display().to_string(),
            ));
        }
        *own = true;
    }
    let hostname = spec.hostname().clone().filter(|name| !name.is_empty());
    if hostname.is_some() && !own_uts {
        return Err(Error::invalid(
            "hostname",
            hostname.unwrap_or_default(),
            "is set without a uts namespace",
        ));
    }
    let mut sysctls: Vec<(String, String)> = linux
        .sysctl()
        .iter()
        .flatten()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    sysctls.sort();
    // A uts namespace of its own without a name gets the id: the host's name is none of its business.
    let hostname = hostname.or_else(|| own_uts.then(|| extras.id.clone()));
    Ok(SandboxPlan {
        id: extras.id,
        hostname,
        own_network,
        own_ipc,
        sysctls,
        keeper_cgroup: extras.keeper_cgroup,
        directory: extras.directory,
        oom_score_adj: extras.oom_score_adj,
    })
}
