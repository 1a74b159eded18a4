//! The files a node starts with, as kubeadm and an administrator would leave them.

use super::NodeSettings;
use crate::addresses::DNS_SERVICE;
use crate::kubeconfig;
use crate::pki::{Pki, hex};
use crate::state::{NodeRecord, State};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Writes the node's directory; what a running node has changed (its state, its certificates) stays.
pub(crate) fn write(state: &State, pki: &Pki, record: &NodeRecord, settings: &NodeSettings) -> Result<()> {
    let dir = super::dir(&record.name);
    for part in [
        "bin",
        "var-lib/kubelet",
        "var-lib/longshore",
        "var-log/pods",
        "etc/work",
    ] {
        make(&dir.join(part))?;
    }
    copy_programs(&settings.programs, &dir.join("bin"))?;
    let etc = dir.join("etc/upper");
    let kubernetes = etc.join("kubernetes");
    make(&kubernetes.join("manifests"))?;
    machine_files(state, &etc, record)?;
    if !settings.join_command {
        make(&kubernetes.join("pki"))?;
        put(&kubernetes.join("pki/ca.crt"), &pki.read("ca.crt")?)?;
        let bootstrap = kubeconfig::with_token(pki, &state.addresses.api_server(), &state.token)?;
        kubeconfig::write(&kubernetes.join("bootstrap-kubelet.conf"), &bootstrap)?;
    }
    let mut configuration = kubelet_configuration();
    merge(&mut configuration, &settings.kubelet_configuration);
    put(
        &dir.join("var-lib/kubelet/config.yaml"),
        &serde_json::to_string_pretty(&configuration)?,
    )
}

fn machine_files(state: &State, etc: &Path, record: &NodeRecord) -> Result<()> {
    let name = &record.name;
    let [v4, v6] = state.addresses.node(record.index);
    put(&etc.join("hostname"), &format!("{name}\n"))?;
    let hosts =
        format!("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n{v4} {name}\n{v6} {name}\n");
    put(&etc.join("hosts"), &hosts)?;
    // No resolver answers in the lab; a lookup fails at once instead of leaving it.
    put(
        &etc.join("resolv.conf"),
        &format!("nameserver {}\n", state.addresses.control_plane()[0]),
    )?;
    let identity = Sha256::digest(format!("{name} {}", state.token));
    put(&etc.join("machine-id"), &format!("{}\n", &hex(&identity)[..32]))?;
    let mirror = format!(
        "server = \"http://{registry}\"\n[host.\"http://{registry}\"]\n  capabilities = [\"pull\", \"resolve\"]\n",
        registry = state.addresses.registry()
    );
    make(&etc.join("longshore/certs.d/_default"))?;
    put(&etc.join("longshore/certs.d/_default/hosts.toml"), &mirror)
}

fn copy_programs(from: &Path, to: &Path) -> Result<()> {
    for program in ["longshore", "longshore-oci"] {
        let (source, target) = (from.join(program), to.join(program));
        let temporary = to.join(format!(".{program}"));
        // A running program cannot be written to, only replaced.
        fs::copy(&source, &temporary)
            .and_then(|_| fs::rename(&temporary, &target))
            .with_context(|| format!("copy {} to {}", source.display(), target.display()))?;
    }
    Ok(())
}

/// The values that kubeadm writes; the cgroup driver is the one of a node without systemd.
fn kubelet_configuration() -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": false}, "webhook": {"cacheTTL": "0s", "enabled": true},
            "x509": {"clientCAFile": "/etc/kubernetes/pki/ca.crt"}},
        "authorization": {"mode": "Webhook",
            "webhook": {"cacheAuthorizedTTL": "0s", "cacheUnauthorizedTTL": "0s"}},
        "cgroupDriver": "cgroupfs", "clusterDNS": [DNS_SERVICE], "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": "", "cpuManagerReconcilePeriod": "0s", "evictionPressureTransitionPeriod": "0s",
        "fileCheckFrequency": "0s", "healthzBindAddress": "127.0.0.1", "healthzPort": 10248, "httpCheckFrequency": "0s",
        "imageMaximumGCAge": "0s", "imageMinimumGCAge": "0s",
        "logging": {"flushFrequency": 0, "options": {"json": {"infoBufferSize": "0"}, "text": {"infoBufferSize": "0"}},
            "verbosity": 0},
        "memorySwap": {}, "nodeStatusReportFrequency": "0s", "nodeStatusUpdateFrequency": "0s",
        "rotateCertificates": true, "runtimeRequestTimeout": "0s", "shutdownGracePeriod": "0s",
        "shutdownGracePeriodCriticalPods": "0s", "staticPodPath": "/etc/kubernetes/manifests",
        "streamingConnectionIdleTimeout": "0s", "syncFrequency": "0s", "volumeStatsAggPeriod": "0s",
    })
}

/// JSON merge patch (RFC 7396).
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        if !patch.is_null() {
            *target = patch.clone();
        }
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let Value::Object(fields) = target else { return };
    for (name, value) in patch {
        if value.is_null() {
            fields.remove(name);
        } else {
            merge(fields.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

fn make(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("chmod {}", dir.display()))
}

fn put(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_sets_replaces_and_removes() {
        let mut target = json!({"a": 1, "b": {"c": 2, "d": 3}, "e": [1]});
        merge(
            &mut target,
            &json!({"a": null, "b": {"c": 4}, "e": [2, 3], "f": {"g": 1, "h": null}}),
        );
        assert_eq!(target, json!({"b": {"c": 4, "d": 3}, "e": [2, 3], "f": {"g": 1}}));
        merge(&mut target, &Value::Null);
        assert_eq!(target["f"]["g"], 1);
    }
}
