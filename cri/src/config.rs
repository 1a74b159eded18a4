//! What the engine is told when it starts.

use std::path::PathBuf;
use std::sync::Arc;

/// Where the engine works, and with what.
#[derive(Clone)]
pub struct Config {
    /// Live state on tmpfs, `/run/longshore`: sandboxes, network namespaces.
    pub run_dir: PathBuf,
    /// Lasting state, `/var/lib/longshore`: images, layers, writable layers.
    pub state_dir: PathBuf,
    /// Our runtime's binary, `longshore-oci`.
    pub oci_binary: PathBuf,
    /// Registry hosts, in containerd's layout: `HOST/hosts.toml`, `_default/hosts.toml`.
    pub registries: PathBuf,
    /// Where cgroup v2 is mounted, `/sys/fs/cgroup`.
    pub cgroup_root: PathBuf,
    /// Cgroup of the keepers, relative to `cgroup_root`: `longshore.slice/keepers`.
    pub keepers_cgroup: String,
    /// The pods' network.
    pub network: Arc<cni::Network>,
}
