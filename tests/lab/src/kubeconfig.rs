//! Kubeconfig documents, as JSON (which every reader of YAML takes).

use crate::pki::Pki;
use anyhow::{Context as _, Result};
use base64::Engine as _;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// A kubeconfig with the client certificate `client` of the PKI.
pub(crate) fn with_certificate(pki: &Pki, server: &str, client: &str) -> Result<Value> {
    let user = json!({
        "client-certificate-data": encode(&pki.read(&format!("{client}.crt"))?),
        "client-key-data": encode(&pki.read(&format!("{client}.key"))?),
    });
    document(pki, server, &user)
}

/// The kubeconfig of a node that has yet to join.
pub(crate) fn with_token(pki: &Pki, server: &str, token: &str) -> Result<Value> {
    document(pki, server, &json!({"token": token}))
}

/// What the ConfigMap `cluster-info` publishes: server and CA, no user.
pub(crate) fn anonymous(pki: &Pki, server: &str) -> Result<Value> {
    let cluster = cluster(pki, server)?;
    Ok(
        json!({"apiVersion": "v1", "kind": "Config", "clusters": [{"name": "", "cluster": cluster}],
        "contexts": [], "users": [], "preferences": {}, "current-context": ""}),
    )
}

/// Writes a document only root (and whom it is given to) can read.
pub(crate) fn write(path: &Path, document: &Value) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, serde_json::to_vec_pretty(document)?)
        .with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .with_context(|| format!("chmod {}", path.display()))
}

fn document(pki: &Pki, server: &str, user: &Value) -> Result<Value> {
    Ok(json!({
        "apiVersion": "v1", "kind": "Config",
        "clusters": [{"name": "lab", "cluster": cluster(pki, server)?}],
        "users": [{"name": "lab", "user": user}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        "current-context": "lab",
    }))
}

fn cluster(pki: &Pki, server: &str) -> Result<Value> {
    let authority = encode(&pki.read("ca.crt")?);
    Ok(json!({"server": format!("https://{server}"), "certificate-authority-data": authority}))
}

fn encode(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}
