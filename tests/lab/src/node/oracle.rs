//! The oracle: a node of the lab on which upstream's kubelet, containerd and runc run, against which tests and
//! figures of ours are held.

use super::NodeSettings;
use super::service::Program;
use crate::setup::peer_tools;
use crate::state::{NodeRecord, State};
use anyhow::{Context as _, Result};
use serde_json::json;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Its name, and the name of its Node object.
pub(crate) const NAME: &str = "oracle";

/// containerd under a restart loop in a cgroup of its own, the kubelet in front: what systemd does with two units.
const START: &str = r#"
export PATH=/run/lab/bin:$PATH
mkdir -p /etc/cni/net.d /run/containerd
unit=/sys/fs/cgroup/system.slice/containerd.service
if ! [ -d $unit ]; then
  mkdir $unit
  (echo 0 > $unit/cgroup.procs
   while :; do containerd --config /etc/containerd/config.toml >> /var/log/containerd.log 2>&1; sleep 1; done) &
fi
until [ -S /run/containerd/containerd.sock ]; do sleep 0.1; done
exec kubelet --config=/etc/kubernetes/kubelet.yaml --kubeconfig=/etc/kubernetes/kubelet.conf \
  --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --node-ip="$NODE_IP"
"#;

/// Settings under which upstream works on a machine whose cgroup v2 tree lacks controllers.
fn kubelet_configuration() -> serde_json::Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true},
            "x509": {"clientCAFile": "/etc/kubernetes/pki/ca.crt"}},
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs", "cgroupsPerQOS": false, "enforceNodeAllocatable": [], "failCgroupV1": false,
        "clusterDNS": [crate::addresses::DNS_SERVICE], "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "rotateCertificates": true, "staticPodPath": "/etc/kubernetes/manifests", "failSwapOn": false,
    })
}

const CONTAINERD: &str = r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "registry.k8s.io/pause:3.10.2"
[plugins."io.containerd.cri.v1.images".registry]
  config_path = "/etc/longshore/certs.d"

[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  disable_apparmor = true
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
  BinaryName = "/run/lab/bin/runc-without-missing-limits"
  SystemdCgroup = false
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["/run/lab/bin/cni"]
  conf_dir = "/etc/cni/net.d"
"#;

/// containerd takes one path for the runtime, without arguments.
const RUNC: &str = "#!/bin/sh\nexec /run/lab/bin/lab __runc \"$@\"\n";

/// Puts upstream's programs and their configuration into the node's directory.
pub(crate) fn write(state: &State, record: &NodeRecord, settings: &NodeSettings) -> Result<()> {
    let dir = super::dir(&record.name);
    copy_tree(&peer_tools::directory(&state.tools)?, &dir.join("bin"))?;
    copy(&state.tools.join("kubelet"), &dir.join("bin/kubelet"))?;
    copy(&state.init_program, &dir.join("bin/lab"))?;
    let wrapper = dir.join("bin/runc-without-missing-limits");
    put(&wrapper, RUNC)?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))
        .context("make the runc wrapper executable")?;
    let etc = dir.join("etc/upper");
    fs::create_dir_all(etc.join("containerd")).context("make /etc/containerd of the oracle")?;
    let mut configuration = kubelet_configuration();
    super::files::merge(&mut configuration, &settings.kubelet_configuration);
    put(
        &etc.join("kubernetes/kubelet.yaml"),
        &serde_json::to_string_pretty(&configuration)?,
    )?;
    put(&etc.join("containerd/config.toml"), CONTAINERD)
}

/// The CNI configuration; the ranges are known once the Node object has them.
pub(crate) fn write_network(node: &super::Node, ranges: &[String]) -> Result<()> {
    let ranges: Vec<_> = ranges.iter().map(|range| json!([{"subnet": range}])).collect();
    let list = json!({
        "cniVersion": "1.0.0", "name": "oracle",
        "plugins": [
            {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
             "ipam": {"type": "host-local", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    });
    // Through the node's own mount: containerd watches the directory, and what changes below an overlay is not seen.
    let dir = node.path("/etc/cni/net.d");
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    put(&dir.join("10-oracle.conflist"), &list.to_string())
}

/// What the node's init keeps running.
pub(crate) fn program(addresses: [IpAddr; 2]) -> Program {
    let [v4, v6] = addresses;
    Program {
        argv: ["/bin/sh", "-c", START].map(str::to_owned).to_vec(),
        environment: [("NODE_IP".to_owned(), format!("{v4},{v6}"))].into(),
        enabled: true,
    }
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("make {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("list {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            copy(&entry.path(), &target)?;
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("copy {} to {}", from.display(), to.display()))
}

fn put(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
