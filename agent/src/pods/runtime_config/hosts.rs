//! /etc/hosts of a pod, and its host name. Contract §13.

use std::fmt::Write as _;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{HostAlias, Pod};

use super::error::ConfigError;

const HEADER: &str = "# Kubernetes-managed hosts file.\n";
const HOST_NETWORK_HEADER: &str = "# Kubernetes-managed hosts file (host network).\n";
const FIXED: &str = "127.0.0.1\tlocalhost\n\
                     ::1\tlocalhost ip6-localhost ip6-loopback\n\
                     fe00::0\tip6-localnet\n\
                     fe00::0\tip6-mcastprefix\n\
                     fe00::1\tip6-allnodes\n\
                     fe00::2\tip6-allrouters\n";
/// Longest name the kernel takes is 64; one is left for the terminator that other tools count.
const MAX_HOSTNAME: usize = 63;
const MAX_FQDN: usize = 64;

/// A pod's own name and domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostName {
    pub(crate) name: String,
    /// Empty without a subdomain.
    pub(crate) domain: String,
}

/// The hosts file of a pod with a network of its own.
pub(crate) fn managed(ips: &[IpAddr], name: &HostName, aliases: &[HostAlias]) -> String {
    let mut text = format!("{HEADER}{FIXED}");
    for ip in ips {
        let HostName { name, domain } = name;
        let _ = if domain.is_empty() {
            writeln!(text, "{ip}\t{name}")
        } else {
            writeln!(text, "{ip}\t{name}.{domain}\t{name}")
        };
    }
    append_aliases(&mut text, aliases);
    text
}

/// The hosts file of a pod on the node's network, from the node's own.
pub(crate) fn host_network(node_file: &str, aliases: &[HostAlias]) -> String {
    let mut text = format!("{HOST_NETWORK_HEADER}{node_file}");
    append_aliases(&mut text, aliases);
    text
}

fn append_aliases(text: &mut String, aliases: &[HostAlias]) {
    if aliases.is_empty() {
        return;
    }
    text.push_str("\n# Entries added by HostAliases.\n");
    for alias in aliases {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        let _ = writeln!(text, "{}\t{names}", alias.ip);
    }
}

/// The name and domain that `pod` has by its spec.
///
/// # Errors
/// A name that is not a DNS name.
pub(crate) fn host_name(pod: &Pod, cluster_domain: &str) -> Result<HostName, ConfigError> {
    let spec = pod.spec.as_ref();
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    if let Some(name) = spec.and_then(|s| s.hostname_override.as_deref()) {
        if !name.split('.').all(is_label) || name.len() > 253 {
            return Err(ConfigError::Invalid {
                what: "pod HostnameOverride is not a valid DNS subdomain",
                value: name.to_owned(),
            });
        }
        return Ok(HostName {
            name: cut(pod_name, name)?,
            domain: String::new(),
        });
    }
    let given = |value: Option<&String>, what| match value.filter(|v| !v.is_empty()) {
        Some(name) if !is_label(name) => Err(ConfigError::Invalid {
            what,
            value: name.clone(),
        }),
        other => Ok(other.cloned()),
    };
    let name = given(
        spec.and_then(|s| s.hostname.as_ref()),
        "pod Hostname is not a valid DNS label",
    )?;
    let subdomain = given(
        spec.and_then(|s| s.subdomain.as_ref()),
        "pod Subdomain is not a valid DNS label",
    )?;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let domain = subdomain
        .map(|sub| format!("{sub}.{namespace}.svc.{cluster_domain}"))
        .unwrap_or_default();
    Ok(HostName {
        name: cut(pod_name, name.as_deref().unwrap_or(pod_name))?,
        domain,
    })
}

/// What the kernel is told: the name, or the full name where the pod asks for it.
///
/// # Errors
/// A full name longer than the kernel takes.
pub(crate) fn kernel_name(pod: &Pod, name: &HostName) -> Result<String, ConfigError> {
    let wanted = pod
        .spec
        .as_ref()
        .and_then(|s| s.set_hostname_as_fqdn)
        .unwrap_or(false);
    if !wanted || name.domain.is_empty() {
        return Ok(name.name.clone());
    }
    let full = format!("{}.{}", name.name, name.domain);
    if full.len() > MAX_FQDN {
        return Err(ConfigError::Hostname(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long ({MAX_FQDN} \
             characters is the max, {} characters requested)",
            full.len()
        )));
    }
    Ok(full)
}

fn cut(pod_name: &str, name: &str) -> Result<String, ConfigError> {
    if name.len() <= MAX_HOSTNAME {
        return Ok(name.to_owned());
    }
    // Names are ASCII; a stray wide character must not split.
    let end = (0..=MAX_HOSTNAME)
        .rev()
        .find(|at| name.is_char_boundary(*at))
        .unwrap_or(0);
    let short = name[..end].trim_end_matches(['-', '.']);
    if short.is_empty() {
        return Err(ConfigError::Hostname(format!(
            "hostname for pod {pod_name:?} was invalid: {name:?}"
        )));
    }
    Ok(short.to_owned())
}

fn is_label(label: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    label.len() <= MAX_HOSTNAME
        && edge(label.bytes().next())
        && edge(label.bytes().last())
        && label
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}
