//! Kernel settings a pod may set: the safe ones, and those `allowedUnsafeSysctls` adds.

/// Safe on every kernel from 6.1 on.
const SAFE: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// The settings that pods of this node may set.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sysctls {
    /// Names, or prefixes that ended with `*`.
    extra: Vec<(String, bool)>,
}

impl Sysctls {
    /// With the node's additions: names, or prefixes ending with `*`.
    pub(crate) fn new(unsafe_ones: &[String]) -> Self {
        let entry = |pattern: &String| match pattern.strip_suffix('*') {
            Some(prefix) => (normalise(prefix), true),
            None => (normalise(pattern), false),
        };
        Self {
            extra: unsafe_ones.iter().map(entry).collect(),
        }
    }

    /// Whether a pod may set `name`, given the namespaces it shares with the host.
    ///
    /// # Errors
    /// The problem in upstream's words.
    pub(super) fn check(&self, name: &str, host_net: bool, host_ipc: bool) -> Result<(), String> {
        let name = normalise(name);
        let extra = |(pattern, prefix): &(String, bool)| {
            if *prefix {
                name.starts_with(pattern)
            } else {
                name == *pattern
            }
        };
        if !SAFE.contains(&name.as_str()) && !self.extra.iter().any(extra) {
            return Err(format!("\"{name}\" not allowlisted"));
        }
        let namespace = if name.starts_with("net.") { "Net" } else { "IPC" };
        let shared = if namespace == "Net" { host_net } else { host_ipc };
        if shared {
            return Err(format!("\"{name}\" not allowed with host {namespace} enabled"));
        }
        Ok(())
    }
}

/// `net/ipv4/conf/eno2.100/x` is `net.ipv4.conf.eno2/100.x`: the first separator says which is which.
fn normalise(name: &str) -> String {
    let first = name.find(['.', '/']).map(|at| name.as_bytes()[at]);
    if first != Some(b'/') {
        return name.to_owned();
    }
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    name.chars().map(swap).collect()
}
