//! The objects that kubeadm puts into a new cluster so that nodes can join it.

use crate::kubeconfig;
use crate::kubectl::Kubectl;
use crate::paths::workspace;
use crate::pki::Pki;
use crate::state::State;
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::time::Duration;

const JOINERS: &str = "system:bootstrappers:kubeadm:default-node-token";

/// A new bootstrap token, `ID.SECRET`.
pub(crate) fn new_token() -> Result<String> {
    use std::io::Read as _;
    let mut bytes = [0_u8; 11];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("read /dev/urandom")?;
    let text = crate::pki::hex(&bytes);
    Ok(format!("{}.{}", &text[..6], &text[6..22]))
}

/// Applies the objects and waits until pods can be made and nodes can join.
pub(crate) fn ensure(state: &State, pki: &Pki, kubectl: &Kubectl) -> Result<()> {
    let items = objects(state, pki)?;
    kubectl
        .apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}))
        .context("apply the join objects")?;
    let network = workspace().join("docs/manifests/network-rbac.yaml");
    kubectl.run(&[OsStr::new("apply"), OsStr::new("-f"), network.as_os_str()])?;
    let timeout = Duration::from_secs(60);
    kubectl.wait_until("serviceaccount/default", None, timeout, |found| found.is_some())?;
    let signature = format!("jws-kubeconfig-{}", token_parts(&state.token).0);
    let signed = |found: Option<&Value>| found.is_some_and(|map| map["data"][&signature].is_string());
    kubectl.wait_until("configmap/cluster-info", Some("kube-public"), timeout, signed)?;
    Ok(())
}

fn token_parts(token: &str) -> (&str, &str) {
    token.split_once('.').unwrap_or((token, ""))
}

fn objects(state: &State, pki: &Pki) -> Result<Vec<Value>> {
    let (id, secret) = token_parts(&state.token);
    let info = kubeconfig::anonymous(pki, &state.addresses.api_server())?;
    Ok(vec![
        json!({"apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": format!("bootstrap-token-{id}"), "namespace": "kube-system"},
        "stringData": {
            "token-id": id, "token-secret": secret, "usage-bootstrap-authentication": "true",
            "usage-bootstrap-signing": "true", "auth-extra-groups": JOINERS,
            "description": "joins the nodes of the lab",
        }}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cluster-info", "namespace": "kube-public"},
            "data": {"kubeconfig": serde_json::to_string(&info)?}}),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": {"name": "kubeadm:bootstrap-signer-clusterinfo", "namespace": "kube-public"},
            "rules": [{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["cluster-info"],
                "verbs": ["get"]}]}),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": "kubeadm:bootstrap-signer-clusterinfo", "namespace": "kube-public"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role",
                "name": "kubeadm:bootstrap-signer-clusterinfo"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:anonymous"}]}),
        binding("kubeadm:kubelet-bootstrap", "system:node-bootstrapper", JOINERS),
        binding(
            "kubeadm:node-autoapprove-bootstrap",
            "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
            JOINERS,
        ),
        binding(
            "kubeadm:node-autoapprove-certificate-rotation",
            "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
            "system:nodes",
        ),
    ])
}

fn binding(name: &str, role: &str, group: &str) -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group}]})
}
