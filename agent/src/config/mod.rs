//! The agent's settings: flags, files and defaults resolved once, before anything is opened or started.

pub(crate) mod duration;
mod error;
mod kubelet;
mod labels;
mod load;
pub(crate) mod quantity;
mod resolve;
#[cfg(test)]
mod tests;
mod validate;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

pub(crate) use error::Error;
pub(crate) use kubelet::*;
pub(crate) use load::{Override, load};

/// The version of Kubernetes this node implements, with ours as build metadata: `status.nodeInfo.kubeletVersion`.
pub(crate) const KUBELET_VERSION: &str = concat!("v1.36.3+longshore.", env!("CARGO_PKG_VERSION"));

/// All settings of a running agent.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Name of the Node object.
    pub(crate) node_name: String,
    /// `--node-ip`: none, one, or one of each family; an unspecified address only prefers its family.
    pub(crate) node_ips: Vec<IpAddr>,
    /// Labels to register with.
    pub(crate) node_labels: BTreeMap<String, String>,
    /// `""` or `external`.
    pub(crate) cloud_provider: String,
    /// State in the kubelet's layout: `/var/lib/kubelet`.
    pub(crate) root_dir: PathBuf,
    /// State that ends with the boot: `/run/longshore`.
    pub(crate) run_dir: PathBuf,
    /// Images and containers: `/var/lib/longshore`.
    pub(crate) state_dir: PathBuf,
    /// Certificates: `/var/lib/kubelet/pki`.
    pub(crate) cert_dir: PathBuf,
    /// Held while the agent runs.
    pub(crate) lock_file: PathBuf,
    /// Credentials for the API server; `None`: the node is standalone.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Credentials to ask for the former with.
    pub(crate) bootstrap_kubeconfig: Option<PathBuf>,
    /// Registry hosts directory (containerd's `certs.d` layout).
    pub(crate) registries: PathBuf,
    /// The runtime's binary.
    pub(crate) oci_binary: PathBuf,
    /// Controllers that this node may lack.
    pub(crate) allow_missing_controllers: BTreeSet<String>,
    /// Pod ranges of the whole cluster: traffic between them is not masqueraded.
    pub(crate) cluster_cidrs: Vec<IpNet>,
    /// The kubelet's configuration, flags applied.
    pub(crate) kubelet: KubeletConfiguration,
}

impl Default for Settings {
    /// A standalone node named `localhost` with the standard directories.
    fn default() -> Self {
        Self {
            node_name: "localhost".to_owned(),
            node_ips: Vec::new(),
            node_labels: BTreeMap::new(),
            cloud_provider: String::new(),
            root_dir: "/var/lib/kubelet".into(),
            run_dir: "/run/longshore".into(),
            state_dir: "/var/lib/longshore".into(),
            cert_dir: "/var/lib/kubelet/pki".into(),
            lock_file: "/run/longshore/agent.lock".into(),
            kubeconfig: None,
            bootstrap_kubeconfig: None,
            registries: "/etc/longshore/certs.d".into(),
            oci_binary: "longshore-oci".into(),
            allow_missing_controllers: BTreeSet::new(),
            cluster_cidrs: Vec::new(),
            kubelet: KubeletConfiguration::default(),
        }
    }
}
