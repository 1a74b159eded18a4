//! resolv.conf of a pod: policies, merging, limits. Contract §13.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, PodDNSConfigOption};
use proto::cri::DnsConfig;

const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_LINE: usize = 2048;
const MAX_SEARCH: usize = 253;
/// A resolv.conf longer than this is refused.
pub(crate) const MAX_RESOLV_CONF: u64 = 10 * 1024 * 1024;
/// Options of a pod that asks the cluster's DNS.
const CLUSTER_OPTIONS: &str = "ndots:5";

/// What a node's resolver says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct HostResolver {
    pub(crate) servers: Vec<String>,
    pub(crate) searches: Vec<String>,
    pub(crate) options: Vec<String>,
}

/// What of the node a pod's DNS depends on.
#[derive(Debug, Clone)]
pub(crate) struct DnsFacts {
    pub(crate) cluster_dns: Vec<String>,
    pub(crate) cluster_domain: String,
    /// The node's resolver; `None` when `resolvConf` is empty: lookups then go to the node itself.
    pub(crate) host: Option<HostResolver>,
    pub(crate) node_ips: Vec<IpAddr>,
}

/// A Warning event that comes with a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Warning {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// The event is about the node too, with this message.
    pub(crate) node_message: Option<String>,
}

/// Reads a resolv.conf: nameservers add up, the last search line wins, options merge by name.
pub(crate) fn parse_resolv_conf(text: &str) -> HostResolver {
    let mut host = HostResolver::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => host.servers.extend(words.next().map(str::to_owned)),
            Some("search") => {
                host.searches = words
                    .filter(|domain| *domain != ".")
                    .map(|domain| domain.strip_suffix('.').unwrap_or(domain).to_owned())
                    .collect();
            }
            Some("options") => {
                for option in words {
                    set_option(&mut host.options, option.to_owned());
                }
            }
            _ => {}
        }
    }
    host
}

/// Which servers a pod asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Cluster,
    Host,
    Nothing,
}

/// The DNS settings of `pod`, and the events its making calls for.
pub(crate) fn pod_dns(pod: &Pod, facts: &DnsFacts) -> (DnsConfig, Vec<Warning>) {
    let mut warnings = Vec::new();
    let mut source = source_of(pod);
    if source == Source::Cluster && facts.cluster_dns.is_empty() {
        warnings.push(missing_cluster_dns(pod));
        source = Source::Host;
    }
    let host = facts.host.clone().unwrap_or_default();
    let mut config = match source {
        Source::Nothing => DnsConfig::default(),
        Source::Cluster => DnsConfig {
            servers: facts.cluster_dns.clone(),
            searches: cluster_searches(pod, &facts.cluster_domain, host.searches),
            options: vec![CLUSTER_OPTIONS.to_owned()],
        },
        Source::Host if facts.host.is_none() => DnsConfig {
            servers: loopback_servers(&facts.node_ips),
            searches: vec![".".to_owned()],
            options: Vec::new(),
        },
        Source::Host => DnsConfig {
            servers: host.servers,
            searches: host.searches,
            options: host.options,
        },
    };
    if let Some(own) = pod.spec.as_ref().and_then(|spec| spec.dns_config.as_ref()) {
        config.servers.extend(own.nameservers.iter().flatten().cloned());
        config.searches.extend(own.searches.iter().flatten().cloned());
        deduplicate(&mut config.servers);
        deduplicate(&mut config.searches);
        merge_options(&mut config.options, own.options.as_deref().unwrap_or_default());
    }
    warnings.extend(limit_servers(&mut config.servers));
    warnings.extend(limit_searches(&mut config.searches));
    (config, warnings)
}

fn source_of(pod: &Pod) -> Source {
    let spec = pod.spec.as_ref();
    let host_network = spec.and_then(|s| s.host_network).unwrap_or(false);
    match spec.and_then(|s| s.dns_policy.as_deref()) {
        Some("None") => Source::Nothing,
        Some("Default") => Source::Host,
        Some("ClusterFirst") if host_network => Source::Host,
        _ => Source::Cluster,
    }
}

fn missing_cluster_dns(pod: &Pod) -> Warning {
    let words = "kubelet does not have ClusterDNS IP configured and cannot create Pod using \"ClusterFirst\" policy. \
                 Falling back to \"Default\" policy.";
    Warning {
        reason: "MissingClusterDNS",
        message: format!("pod: {:?}. {words}", super::pod_reference(pod)),
        node_message: Some(words.to_owned()),
    }
}

fn loopback_servers(node_ips: &[IpAddr]) -> Vec<String> {
    let mut servers: Vec<String> = node_ips
        .iter()
        .map(|ip| if ip.is_ipv6() { "::1" } else { "127.0.0.1" }.to_owned())
        .collect();
    if servers.is_empty() {
        servers.push("127.0.0.1".to_owned());
    }
    servers
}

fn cluster_searches(pod: &Pod, domain: &str, host: Vec<String>) -> Vec<String> {
    if domain.is_empty() {
        return host;
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut searches = vec![
        format!("{namespace}.svc.{domain}"),
        format!("svc.{domain}"),
        domain.to_owned(),
    ];
    searches.extend(host);
    deduplicate(&mut searches);
    searches
}

fn deduplicate(list: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

fn option_name(option: &str) -> &str {
    option.split(':').next().unwrap_or(option)
}

/// Adds an option; one of the same name gives way, in its place.
fn set_option(options: &mut Vec<String>, option: String) {
    match options
        .iter_mut()
        .find(|old| option_name(old) == option_name(&option))
    {
        Some(old) => *old = option,
        None => options.push(option),
    }
}

fn merge_options(options: &mut Vec<String>, own: &[PodDNSConfigOption]) {
    for option in own {
        let name = option.name.clone().unwrap_or_default();
        let text = match option.value.as_deref().filter(|value| !value.is_empty()) {
            Some(value) => format!("{name}:{value}"),
            None => name,
        };
        set_option(options, text);
    }
}

fn forming(message: String) -> Warning {
    Warning {
        reason: "DNSConfigForming",
        message,
        node_message: None,
    }
}

fn limit_servers(servers: &mut Vec<String>) -> Option<Warning> {
    if servers.len() <= MAX_SERVERS {
        return None;
    }
    servers.truncate(MAX_SERVERS);
    Some(forming(format!(
        "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
        servers.join(" ")
    )))
}

fn limit_searches(searches: &mut Vec<String>) -> Option<Warning> {
    let wanted = searches.len();
    searches.truncate(MAX_SEARCHES);
    searches.retain(|search| search.len() <= MAX_SEARCH);
    let line = |searches: &[String]| {
        searches
            .iter()
            .map(|s| s.len() + 1)
            .sum::<usize>()
            .saturating_sub(1)
    };
    while line(searches) > MAX_SEARCH_LINE {
        searches.pop();
    }
    (searches.len() < wanted).then(|| {
        forming(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            searches.join(" ")
        ))
    })
}
