//! What a sandbox is made of, from its configuration. Pure.

use std::fmt::Write as _;

use proto::cri::{DnsConfig, NamespaceMode, NamespaceOption, PodSandboxConfig};
use runtime::plan::SandboxPlan;

use crate::paths::Paths;
use crate::{Error, spec};

/// The keeper is the last of its pod that the kernel should take memory from.
const KEEPER_OOM_SCORE_ADJ: i32 = -999;

/// Longest host name that the kernel takes.
const MAX_HOSTNAME: usize = 64;

/// Everything to make for a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setup {
    /// For its keeper.
    pub(crate) keeper: SandboxPlan,
    /// Text of `/etc/hostname`; none where the host's name is shared.
    pub(crate) hostname: Option<String>,
    /// Text of `/etc/resolv.conf`; none is the host's.
    pub(crate) resolv_conf: Option<String>,
    /// A network of its own.
    pub(crate) own_network: bool,
    /// Shared memory of its own.
    pub(crate) own_shm: bool,
}

/// Namespaces that a sandbox asks for. Where it says nothing at all, nobody asked to share process ids, though that is
/// the meaning of the field's zero.
pub(crate) fn namespaces(config: &PodSandboxConfig) -> NamespaceOption {
    let security = config
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref());
    let options = security.and_then(|security| security.namespace_options.clone());
    options.unwrap_or_else(spec::own_namespaces)
}

/// What sandbox `id` is made of.
pub(crate) fn plan(id: &str, config: &PodSandboxConfig, paths: &Paths) -> Result<Setup, Error> {
    let options = namespaces(config);
    check(config, &options)?;
    let own_network = options.network() != NamespaceMode::Node;
    let own_ipc = options.ipc() != NamespaceMode::Node;
    // The host name follows the network: a pod on the host's network is the host to those it talks to.
    let hostname = own_network
        .then(|| config.hostname.clone())
        .filter(|name| !name.is_empty());
    let keeper = SandboxPlan {
        id: id.to_owned(),
        hostname: hostname.clone(),
        own_network,
        own_ipc,
        sysctls: sysctls(config, own_network, own_ipc)?,
        keeper_cgroup: paths.keeper_cgroup(id).to_string_lossy().into_owned(),
        directory: paths.sandbox(id).to_string_lossy().into_owned(),
        oom_score_adj: KEEPER_OOM_SCORE_ADJ,
    };
    let resolv_conf = config.dns_config.as_ref().map(resolv_conf).transpose()?;
    let hostname = hostname.map(|name| format!("{name}\n"));
    Ok(Setup {
        keeper,
        hostname,
        resolv_conf,
        own_network,
        own_shm: own_ipc,
    })
}

/// What a container needs to know of its sandbox.
pub(crate) fn facts(id: &str, config: &PodSandboxConfig, paths: &Paths, host_name: &str) -> spec::Sandbox {
    let options = namespaces(config);
    let own_network = options.network() != NamespaceMode::Node;
    let own_name = own_network && !config.hostname.is_empty();
    let parent = config
        .linux
        .as_ref()
        .map(|linux| linux.cgroup_parent.trim_matches('/'))
        .unwrap_or_default();
    let parent = if parent.is_empty() {
        "longshore.slice/containers"
    } else {
        parent
    };
    spec::Sandbox {
        hostname: if own_name {
            config.hostname.clone()
        } else {
            host_name.to_owned()
        },
        hostname_file: own_name.then(|| paths.hostname(id)),
        resolv_conf: paths.resolv_conf(id),
        shm: if options.ipc() == NamespaceMode::Node {
            "/dev/shm".into()
        } else {
            paths.shm(id)
        },
        cgroup_parent: format!("/{parent}"),
    }
}

fn check(config: &PodSandboxConfig, options: &NamespaceOption) -> Result<(), Error> {
    let metadata = config
        .metadata
        .as_ref()
        .ok_or_else(|| Error::invalid("config.metadata", "missing"))?;
    if metadata.name.is_empty() || metadata.namespace.is_empty() || metadata.uid.is_empty() {
        return Err(Error::invalid(
            "config.metadata",
            "name, namespace and uid must not be empty",
        ));
    }
    if options.pid() == NamespaceMode::Pod {
        return Err(spec::shared_pid());
    }
    if options
        .userns_options
        .as_ref()
        .is_some_and(|userns| userns.mode() == NamespaceMode::Pod)
    {
        return Err(Error::invalid(
            "namespace_options.userns_options",
            "user namespaces are not known yet",
        ));
    }
    if config.hostname.len() > MAX_HOSTNAME || config.hostname.contains(['\0', '\n', '/']) {
        return Err(Error::invalid(
            "config.hostname",
            format!("{:?} is not a host name", config.hostname),
        ));
    }
    if let Some(linux) = &config.linux
        && (linux
            .cgroup_parent
            .split('/')
            .any(|part| part == ".." || part == ".")
            || linux.cgroup_parent.contains('\0'))
    {
        return Err(Error::invalid(
            "linux.cgroup_parent",
            format!("{:?} is not a cgroup", linux.cgroup_parent),
        ));
    }
    Ok(())
}

/// Sysctls by name, each of a namespace that the sandbox has to itself.
fn sysctls(
    config: &PodSandboxConfig,
    own_network: bool,
    own_ipc: bool,
) -> Result<Vec<(String, String)>, Error> {
    let mut sysctls: Vec<(String, String)> = Vec::new();
    for (name, value) in config.linux.iter().flat_map(|linux| &linux.sysctls) {
        // A slash parts names as a dot does, sysctl.d(5).
        let name = name.replace('/', ".");
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let sound = name.bytes().all(plain) && name.split('.').all(|part| !part.is_empty());
        let ipc = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."]
            .iter()
            .any(|prefix| name.starts_with(prefix));
        let namespaced = (name.starts_with("net.") && own_network) || (ipc && own_ipc);
        if !sound || !namespaced {
            let reason = format!("{name:?} is not a sysctl of a namespace that the sandbox has to itself");
            return Err(Error::invalid("linux.sysctls", reason));
        }
        if value.contains(['\n', '\0']) {
            return Err(Error::invalid(
                "linux.sysctls",
                format!("value of {name} is not one line"),
            ));
        }
        sysctls.push((name, value.clone()));
    }
    sysctls.sort();
    Ok(sysctls)
}

/// Text of resolv.conf, see resolv.conf(5).
fn resolv_conf(dns: &DnsConfig) -> Result<String, Error> {
    let words = dns.servers.iter().chain(&dns.searches).chain(&dns.options);
    if let Some(word) = words
        .into_iter()
        .find(|word| word.is_empty() || word.contains(char::is_whitespace))
    {
        return Err(Error::invalid(
            "config.dns_config",
            format!("{word:?} is not one word"),
        ));
    }
    let mut text = String::new();
    if !dns.searches.is_empty() {
        let _ = writeln!(text, "search {}", dns.searches.join(" "));
    }
    for server in &dns.servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !dns.options.is_empty() {
        let _ = writeln!(text, "options {}", dns.options.join(" "));
    }
    Ok(text)
}
