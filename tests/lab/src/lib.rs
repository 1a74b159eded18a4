//! The lab: a real control plane, a registry, and nodes in namespaces of this machine.

use std::path::Path;

/// Runs as the first process of a node: `boot` is the boot description that the lab wrote.
pub fn node_init(boot: &Path) -> anyhow::Result<()> {
    anyhow::bail!("node init of {} lands soon", boot.display())
}
