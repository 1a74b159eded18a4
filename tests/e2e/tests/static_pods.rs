//! Static pods: a manifest on the node becomes a pod and a mirror of it on the API; the pod does not need the API.

use std::fs;

use anyhow::{Context as _, ensure};
use lab::Node;
use longshore_e2e::shell_pod;
use serde_json::json;

const MANIFESTS: &str = "/etc/kubernetes/manifests";

/// A manifest on a node; removed when dropped.
struct Manifest {
    path: std::path::PathBuf,
}

impl Manifest {
    fn put(node: &Node, name: &str, text: &str) -> anyhow::Result<Self> {
        let path = node.path(&format!("{MANIFESTS}/{name}"));
        // Written in place, piece by piece, as an editor might: a half-written file must do no harm.
        let (first, second) = text.split_at(text.len() / 2);
        fs::write(&path, first).with_context(|| format!("write {}", path.display()))?;
        let manifest = Self { path };
        fs::write(&manifest.path, format!("{first}{second}")).context("write the rest of the manifest")?;
        Ok(manifest)
    }
}

impl Drop for Manifest {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[test]
fn a_manifest_runs_as_a_pod_with_a_mirror_and_goes_with_its_file() -> anyhow::Result<()> {
    let lab = longshore_e2e::lab()?;
    let nodes = lab.nodes()?;
    let node = nodes.last().context("the lab has a node")?;
    let kubectl = lab.kubectl();
    let script = "trap 'exit 0' TERM; echo static; while :; do sleep 1000 & wait; done";
    let mut pod = shell_pod("from-file", script, json!({}));
    pod["metadata"]["namespace"] = json!("default");
    let manifest = Manifest::put(node, "from-file.json", &pod.to_string())?;
    let mirror = format!("pod/from-file-{}", node.name());
    let limit = std::time::Duration::from_secs(60);
    let running =
        |pod: Option<&serde_json::Value>| pod.is_some_and(|pod| pod["status"]["phase"] == "Running");
    let object = kubectl
        .wait_until(&mirror, Some("default"), limit, running)?
        .context("the mirror pod")?;
    let annotations = &object["metadata"]["annotations"];
    ensure!(
        annotations["kubernetes.io/config.source"] == "file",
        "annotations: {annotations}"
    );
    ensure!(
        annotations["kubernetes.io/config.mirror"] == annotations["kubernetes.io/config.hash"],
        "{annotations}"
    );
    ensure!(
        object["metadata"]["ownerReferences"][0]["kind"] == "Node",
        "owner: {}",
        object["metadata"]
    );

    // Deleting the mirror does not touch the pod: the mirror comes back, the container is the same.
    let container = object["status"]["containerStatuses"][0]["containerID"].clone();
    let uid = object["metadata"]["uid"].clone();
    kubectl.run(&["delete", &mirror, "--wait=false"])?;
    let again = kubectl.wait_until(&mirror, Some("default"), limit, |pod| {
        running(pod) && pod.is_some_and(|pod| pod["metadata"]["uid"] != uid)
    })?;
    let again = again.context("the second mirror pod")?;
    ensure!(
        again["status"]["containerStatuses"][0]["containerID"] == container,
        "the container was replaced"
    );

    drop(manifest);
    kubectl.wait_until(&mirror, Some("default"), limit, |pod| pod.is_none())?;
    Ok(())
}
