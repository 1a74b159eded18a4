//! A pod's sandbox in CRI's shape. Contract §10.

use std::collections::HashMap;
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use proto::cri;
use proto::cri::security_profile::ProfileType;

use super::dns::{self, DnsFacts, Warning};
use super::error::ConfigError;
use super::limits::{self, LimitFacts};
use super::{hosts, security};

pub(crate) const POD_NAME_LABEL: &str = "io.kubernetes.pod.name";
pub(crate) const POD_NAMESPACE_LABEL: &str = "io.kubernetes.pod.namespace";
pub(crate) const POD_UID_LABEL: &str = "io.kubernetes.pod.uid";

/// What of the node a sandbox depends on.
pub(crate) struct SandboxFacts<'a> {
    pub(crate) dns: &'a DnsFacts,
    pub(crate) limits: &'a LimitFacts,
    /// `podLogsDir`.
    pub(crate) pod_logs_dir: &'a Path,
    /// The pod's cgroup.
    pub(crate) cgroup_parent: String,
}

/// The directory of a pod's logs: `NAMESPACE_NAME_UID`.
pub(crate) fn log_directory(pod_logs_dir: &Path, pod: &Pod) -> std::path::PathBuf {
    let part = |value: &Option<String>| value.clone().unwrap_or_default();
    let metadata = &pod.metadata;
    pod_logs_dir.join(format!(
        "{}_{}_{}",
        part(&metadata.namespace),
        part(&metadata.name),
        part(&metadata.uid)
    ))
}

/// The sandbox of `pod`, made for the `attempt`th time, and the events its making calls for.
///
/// # Errors
/// Host name or policy rules.
pub(crate) fn sandbox_config(
    pod: &Pod,
    attempt: u32,
    facts: &SandboxFacts<'_>,
) -> Result<(cri::PodSandboxConfig, Vec<Warning>), ConfigError> {
    let spec = pod.spec.as_ref();
    let (dns_config, warnings) = dns::pod_dns(pod, facts.dns);
    let hostname = if spec.and_then(|s| s.host_network).unwrap_or(false) {
        String::new()
    } else {
        hosts::kernel_name(pod, &hosts::host_name(pod, &facts.dns.cluster_domain)?)?
    };
    let config = cri::PodSandboxConfig {
        metadata: Some(metadata(pod, attempt)),
        hostname,
        log_directory: log_directory(facts.pod_logs_dir, pod)
            .to_string_lossy()
            .into_owned(),
        dns_config: Some(dns_config),
        port_mappings: port_mappings(pod),
        labels: pod_labels(pod),
        annotations: pod
            .metadata
            .annotations
            .clone()
            .unwrap_or_default()
            .into_iter()
            .collect(),
        linux: Some(linux_config(pod, facts)?),
        ..Default::default()
    };
    Ok((config, warnings))
}

fn metadata(pod: &Pod, attempt: u32) -> cri::PodSandboxMetadata {
    cri::PodSandboxMetadata {
        name: pod.metadata.name.clone().unwrap_or_default(),
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        attempt,
    }
}

/// The labels that say whose sandbox or container it is.
pub(super) fn identity_labels(pod: &Pod) -> HashMap<String, String> {
    let metadata = metadata(pod, 0);
    HashMap::from([
        (POD_NAME_LABEL.to_owned(), metadata.name),
        (POD_NAMESPACE_LABEL.to_owned(), metadata.namespace),
        (POD_UID_LABEL.to_owned(), metadata.uid),
    ])
}

fn pod_labels(pod: &Pod) -> HashMap<String, String> {
    let mut labels: HashMap<_, _> = pod
        .metadata
        .labels
        .clone()
        .unwrap_or_default()
        .into_iter()
        .collect();
    labels.extend(identity_labels(pod));
    labels
}

fn port_mappings(pod: &Pod) -> Vec<cri::PortMapping> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers
        .flat_map(|container| container.ports.iter().flatten())
        .map(|port| {
            let protocol = match port.protocol.as_deref() {
                Some("UDP") => cri::Protocol::Udp,
                Some("SCTP") => cri::Protocol::Sctp,
                _ => cri::Protocol::Tcp,
            };
            cri::PortMapping {
                protocol: protocol.into(),
                container_port: port.container_port,
                host_port: port.host_port.unwrap_or(0),
                host_ip: port.host_ip.clone().unwrap_or_default(),
            }
        })
        .collect()
}

fn linux_config(pod: &Pod, facts: &SandboxFacts<'_>) -> Result<cri::LinuxPodSandboxConfig, ConfigError> {
    let (resources, overhead) = limits::sandbox_limits(pod, facts.limits);
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let sysctls = context.and_then(|c| c.sysctls.as_deref()).unwrap_or_default();
    Ok(cri::LinuxPodSandboxConfig {
        cgroup_parent: facts.cgroup_parent.clone(),
        sysctls: sysctls
            .iter()
            .map(|s| (s.name.clone(), s.value.clone()))
            .collect(),
        security_context: Some(sandbox_context(pod)?),
        overhead: Some(overhead),
        resources: Some(resources),
    })
}

fn sandbox_context(pod: &Pod) -> Result<cri::LinuxSandboxSecurityContext, ConfigError> {
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let int = |value: Option<i64>| value.map(|value| cri::Int64Value { value });
    Ok(cri::LinuxSandboxSecurityContext {
        namespace_options: Some(security::namespaces(pod, None)),
        selinux_options: security::selinux(context.and_then(|c| c.se_linux_options.as_ref())),
        run_as_user: int(context.and_then(|c| c.run_as_user)),
        run_as_group: int(context.and_then(|c| c.run_as_group)),
        supplemental_groups: security::supplemental_groups(pod),
        supplemental_groups_policy: security::groups_policy(pod)?.into(),
        privileged: has_privileged_container(pod),
        seccomp: Some(cri::SecurityProfile {
            profile_type: ProfileType::RuntimeDefault.into(),
            localhost_ref: String::new(),
        }),
        ..Default::default()
    })
}

fn has_privileged_container(pod: &Pod) -> bool {
    pod.spec
        .iter()
        .flat_map(|spec| {
            spec.containers
                .iter()
                .chain(spec.init_containers.iter().flatten())
        })
        .any(|c| {
            c.security_context
                .as_ref()
                .and_then(|s| s.privileged)
                .unwrap_or(false)
        })
}
