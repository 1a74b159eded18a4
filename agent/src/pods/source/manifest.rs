//! A pod written in a file: reading it, the rules for static pods, its name and UID.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Toleration, Volume};
use serde_json::Value;

/// Largest manifest, bytes.
pub(crate) const MAX_BYTES: u64 = 10 << 20;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ManifestError {
    #[error("manifest is no valid YAML or JSON: {cause}")]
    Syntax { cause: String },
    #[error("manifest holds a {kind} where a Pod of apiVersion v1 is needed")]
    NotAPod { kind: String },
    #[error("manifest holds {count} documents where one pod is needed")]
    NotOne { count: usize },
    #[error("invalid pod: {cause}")]
    Shape { cause: String },
    #[error("invalid pod: name is needed for the pod")]
    NoName,
    #[error("invalid pod: {field}: {problem}")]
    Invalid { field: String, problem: String },
    #[error("static pods may not reference {resource}")]
    Reference { resource: &'static str },
}

/// Reads one static pod of node `node` from the text of the file `path`; `seen` is the time it was first read.
///
/// Names, UID, annotations and tolerations are set as the kubelet sets them, so the same file gives the same pod.
///
/// # Errors
/// What is wrong with the text, in words for the log.
pub(crate) fn read_manifest(text: &[u8], path: &Path, node: &str, seen: &str) -> Result<Pod, ManifestError> {
    let mut pods = read_manifests(text, path, node, seen)?;
    match (pods.pop(), pods.len()) {
        (Some(pod), 0) => Ok(pod),
        (_, more) => Err(ManifestError::NotOne { count: more + 1 }),
    }
}

/// Reads all pods of a file, its documents parted by `---`.
///
/// # Errors
/// As [`read_manifest`], and a file without any.
pub(crate) fn read_manifests(
    text: &[u8],
    path: &Path,
    node: &str,
    seen: &str,
) -> Result<Vec<Pod>, ManifestError> {
    let documents = parse(text)?;
    if documents.is_empty() {
        return Err(ManifestError::NotOne { count: 0 });
    }
    documents
        .into_iter()
        .map(|document| read_pod(document, path, node, seen))
        .collect()
}

fn read_pod(mut value: Value, path: &Path, node: &str, seen: &str) -> Result<Pod, ManifestError> {
    let kind = value
        .get("kind")
        .and_then(Value::as_str)
        .unwrap_or("document without a kind")
        .to_owned();
    if kind != "Pod" || value.get("apiVersion").and_then(Value::as_str) != Some("v1") {
        return Err(ManifestError::NotAPod { kind });
    }
    stringify_quantities(&mut value);
    let mut pod: Pod =
        serde_json::from_value(value).map_err(|e| ManifestError::Shape { cause: e.to_string() })?;
    pod.status = None;
    default_fields(&mut pod);
    validate(&pod)?;
    if let Some(resource) = pod.spec.as_ref().and_then(api_reference) {
        return Err(ManifestError::Reference { resource });
    }
    settle(&mut pod, path, node, seen);
    Ok(pod)
}

fn parse(text: &[u8]) -> Result<Vec<Value>, ManifestError> {
    let syntax = |cause: String| ManifestError::Syntax { cause };
    let text = std::str::from_utf8(text).map_err(|e| syntax(e.to_string()))?;
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text)
            .map(|value| vec![value])
            .map_err(|e| syntax(e.to_string()));
    }
    let documents: Vec<Value> =
        serde_saphyr::from_str_multiple::<Value, _>(text).map_err(|e| syntax(e.to_string()))?;
    Ok(documents
        .into_iter()
        .filter(|document| !document.is_null())
        .collect())
}

/// The API takes bare numbers as quantities; our types want text.
fn stringify_quantities(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(stringify_quantities),
        Value::Object(fields) => {
            for (name, field) in fields {
                match (name.as_str(), &mut *field) {
                    ("limits" | "requests" | "overhead", Value::Object(amounts)) => {
                        amounts.values_mut().for_each(number_to_text);
                    }
                    ("sizeLimit" | "divisor", amount) => number_to_text(amount),
                    _ => stringify_quantities(field),
                }
            }
        }
        _ => {}
    }
}

fn number_to_text(value: &mut Value) {
    if let Value::Number(number) = value {
        *value = Value::String(number.to_string());
    }
}

/// What the API server would fill in and the node relies on.
fn default_fields(pod: &mut Pod) {
    let Some(spec) = &mut pod.spec else { return };
    let text = |s: &str| Some(s.to_owned());
    spec.restart_policy.get_or_insert_with(|| "Always".to_owned());
    spec.dns_policy.get_or_insert_with(|| "ClusterFirst".to_owned());
    spec.termination_grace_period_seconds.get_or_insert(30);
    spec.enable_service_links.get_or_insert(true);
    spec.security_context.get_or_insert_default();
    for container in spec
        .containers
        .iter_mut()
        .chain(spec.init_containers.iter_mut().flatten())
    {
        let image = container.image.as_deref().unwrap_or_default();
        let tag = image
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .split_once(':')
            .map(|(_, tag)| tag);
        let moving = !image.contains('@') && matches!(tag, None | Some("latest"));
        let policy = if moving { "Always" } else { "IfNotPresent" };
        container.image_pull_policy = container.image_pull_policy.take().or_else(|| text(policy));
        let path = container.termination_message_path.take();
        container.termination_message_path = path.or_else(|| text("/dev/termination-log"));
        let policy = container.termination_message_policy.take();
        container.termination_message_policy = policy.or_else(|| text("File"));
    }
}

/// The part of the API server's validation whose breach would hurt here; it refuses the mirror pod for the rest.
fn validate(pod: &Pod) -> Result<(), ManifestError> {
    let invalid = |field: &str, problem: &str| {
        Err(ManifestError::Invalid {
            field: field.to_owned(),
            problem: problem.to_owned(),
        })
    };
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    if name.is_empty() {
        return Err(ManifestError::NoName);
    }
    if !is_subdomain(name) {
        return invalid("metadata.name", "must be a lower case DNS subdomain");
    }
    if !pod.metadata.namespace.as_deref().is_none_or(is_label) {
        return invalid("metadata.namespace", "must be a lower case DNS label");
    }
    if !pod
        .metadata
        .uid
        .as_deref()
        .is_none_or(|uid| !uid.is_empty() && is_subdomain(uid))
    {
        return invalid(
            "metadata.uid",
            "must hold only lower case letters, digits, - and .",
        );
    }
    let Some(spec) = pod.spec.as_ref().filter(|s| !s.containers.is_empty()) else {
        return invalid("spec.containers", "at least one container is needed");
    };
    if !matches!(
        spec.restart_policy.as_deref(),
        Some("Always" | "OnFailure" | "Never")
    ) {
        return invalid("spec.restartPolicy", "must be Always, OnFailure or Never");
    }
    let mut names = std::collections::BTreeSet::new();
    for container in spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
    {
        if !is_label(&container.name) || !names.insert(&container.name) {
            return invalid(
                "spec.containers.name",
                "must be unique and a lower case DNS label",
            );
        }
        if container.image.as_deref().unwrap_or_default().is_empty() {
            return invalid("spec.containers.image", "is needed");
        }
    }
    if !spec.volumes.iter().flatten().all(|v| is_label(&v.name)) {
        return invalid("spec.volumes.name", "must be a lower case DNS label");
    }
    Ok(())
}

fn is_label(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    let ends = !text.starts_with('-') && !text.ends_with('-');
    !text.is_empty() && text.len() <= 63 && ends && text.bytes().all(inner)
}

fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

/// The API object a static pod refers to, which it may not: the node could not read it without a pod of the API.
fn api_reference(spec: &PodSpec) -> Option<&'static str> {
    if spec
        .service_account_name
        .as_deref()
        .is_some_and(|n| !n.is_empty())
    {
        return Some("serviceaccounts");
    }
    let containers = || {
        spec.containers
            .iter()
            .chain(spec.init_containers.iter().flatten())
    };
    if spec.image_pull_secrets.iter().flatten().next().is_some() || containers().any(uses_secret) {
        return Some("secrets");
    }
    if containers().any(uses_config_map) {
        return Some("configmaps");
    }
    if spec.resource_claims.iter().flatten().next().is_some() {
        return Some("resourceclaims");
    }
    spec.volumes.iter().flatten().find_map(volume_reference)
}

fn uses_secret(container: &Container) -> bool {
    let from = container
        .env_from
        .iter()
        .flatten()
        .any(|f| f.secret_ref.is_some());
    let mut values = container
        .env
        .iter()
        .flatten()
        .filter_map(|e| e.value_from.as_ref());
    from || values.any(|v| v.secret_key_ref.is_some())
}

fn uses_config_map(container: &Container) -> bool {
    let from = container
        .env_from
        .iter()
        .flatten()
        .any(|f| f.config_map_ref.is_some());
    let mut values = container
        .env
        .iter()
        .flatten()
        .filter_map(|e| e.value_from.as_ref());
    from || values.any(|v| v.config_map_key_ref.is_some())
}

fn volume_reference(volume: &Volume) -> Option<&'static str> {
    let projected = volume
        .projected
        .iter()
        .flat_map(|p| p.sources.iter().flatten())
        .find_map(|source| {
            let rows = [
                (source.config_map.is_some(), "configmaps (via projected volumes)"),
                (source.secret.is_some(), "secrets (via projected volumes)"),
                (
                    source.service_account_token.is_some(),
                    "serviceaccounts (via projected volumes)",
                ),
                (source.cluster_trust_bundle.is_some(), "clustertrustbundles"),
                (source.pod_certificate.is_some(), "podcertificates"),
            ];
            rows.into_iter().find_map(|(used, name)| used.then_some(name))
        });
    let rows = [
        (volume.config_map.is_some(), "configmaps (via configmap volumes)"),
        (volume.secret.is_some(), "secrets (via secret volumes)"),
        (volume.csi.is_some(), "csidrivers (via CSI volumes)"),
        (volume.glusterfs.is_some(), "endpoints (via glusterFS volumes)"),
        (volume.persistent_volume_claim.is_some(), "persistentvolumeclaims"),
        (
            volume.ephemeral.is_some(),
            "persistentvolumeclaims (via ephemeral volumes)",
        ),
        (volume.azure_file.is_some(), "secrets (via azureFile volumes)"),
    ];
    rows.into_iter()
        .find_map(|(used, name)| used.then_some(name))
        .or(projected)
}

/// Makes it a pod of this node: name, UID, annotations, toleration.
fn settle(pod: &mut Pod, path: &Path, node: &str, seen: &str) {
    let uid = pod.metadata.uid.clone().unwrap_or_else(|| {
        // serde_json keeps the keys of its objects sorted, so this text is canonical.
        let spec = serde_json::to_vec(&serde_json::to_value(&*pod).unwrap_or_default()).unwrap_or_default();
        let source = format!("host:{node}file:{}", path.display());
        format!("{:032x}", fnv128a(spec.iter().copied().chain(source.bytes())))
    });
    let meta = &mut pod.metadata;
    meta.name = meta
        .name
        .as_ref()
        .map(|name| format!("{name}-{}", node.to_lowercase()));
    meta.namespace.get_or_insert_with(|| "default".to_owned());
    let annotations: &mut BTreeMap<_, _> = meta.annotations.get_or_insert_default();
    for (name, value) in [("hash", uid.as_str()), ("source", "file"), ("seen", seen)] {
        annotations.insert(format!("kubernetes.io/config.{name}"), value.to_owned());
    }
    meta.uid = Some(uid);
    if let Some(spec) = &mut pod.spec {
        spec.node_name = Some(node.to_owned());
        let toleration = Toleration {
            operator: Some("Exists".to_owned()),
            effect: Some("NoExecute".to_owned()),
            ..Toleration::default()
        };
        let tolerations = spec.tolerations.get_or_insert_default();
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
}

/// FNV-1a of 128 bits (draft-eastlake-fnv).
pub(super) fn fnv128a(bytes: impl Iterator<Item = u8>) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    bytes.fold(OFFSET, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME))
}
