//! Registering the node, or finding it registered and putting right what it must have.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeSpec, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::Patch;

use super::status::{Facts, Loop, architecture, patch, plan};
use crate::api::{Api, Error};
use crate::config::Settings;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(7);

const ATTACH: &str = "volumes.kubernetes.io/controller-managed-attach-detach";

/// Labels that a restart puts right on an existing Node.
const RECONCILED: [&str; 11] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

/// Registers the node; tries until it is.
pub(super) async fn register(status: &Loop) -> Node {
    let (api, settings) = (&status.api, &status.settings);
    let mut pause = FIRST_PAUSE;
    loop {
        let wanted = initial(settings, &status.facts().await, Timestamp::now());
        match once(api, settings, &wanted).await {
            Ok(node) => return node,
            Err(error) => {
                tracing::error!(%error, milliseconds = pause.as_millis(), "the node is not registered, trying again");
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

async fn once(api: &Api, settings: &Settings, wanted: &Node) -> Result<Node, Error> {
    match api.create("api.create_node", None, wanted).await {
        Ok(node) => {
            tracing::info!(node = settings.node_name, "the node is registered");
            return Ok(node);
        }
        Err(error) if error.is_already_exists() || error.is_forbidden() => {}
        Err(error) => return Err(error),
    }
    let name = &settings.node_name;
    let existing: Node = api.get(None, name).await?.ok_or_else(|| Error::Malformed {
        operation: "get",
        object: format!("Node {name}"),
        cause: "it exists for a create and does not for a get".to_owned(),
    })?;
    let right = reconcile(&existing, wanted);
    if right == existing {
        return Ok(existing);
    }
    let change = Patch::Strategic(patch::patch(&existing, &right));
    api.patch_status("api.reconcile_node", None, name, &change).await
}

/// The Node as it is first posted.
pub(super) fn initial(settings: &Settings, facts: &Facts, now: Timestamp) -> Node {
    let kubelet = &settings.kubelet;
    let mut labels = settings.node_labels.clone();
    for (key, value) in [
        ("kubernetes.io/hostname", settings.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture()),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", architecture()),
    ] {
        // --node-labels wins over what the node finds itself.
        labels.entry(key.to_owned()).or_insert_with(|| value.to_owned());
    }
    let mut taints = kubelet.register_with_taints.clone();
    if settings.cloud_provider == "external" {
        taints.push(Taint {
            key: "node.cloudprovider.kubernetes.io/uninitialized".into(),
            value: Some("true".into()),
            effect: "NoSchedule".into(),
            time_added: None,
        });
    }
    let attach = kubelet.enable_controller_attach_detach;
    let node = Node {
        metadata: ObjectMeta {
            name: Some(settings.node_name.clone()),
            labels: Some(labels),
            annotations: attach.then(|| [(ATTACH.to_owned(), "true".to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            taints: (!taints.is_empty()).then_some(taints),
            provider_id: (!kubelet.provider_id.is_empty()).then(|| kubelet.provider_id.clone()),
            ..NodeSpec::default()
        }),
        status: None,
    };
    plan(settings, &node, facts, now).0
}

/// An existing Node with what a restart must put right.
pub(super) fn reconcile(existing: &Node, wanted: &Node) -> Node {
    let mut node = existing.clone();
    let annotations = node.metadata.annotations.get_or_insert_default();
    match wanted
        .metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(ATTACH))
    {
        Some(value) => annotations.insert(ATTACH.to_owned(), value.clone()),
        None => annotations.remove(ATTACH),
    };
    if annotations.is_empty() {
        node.metadata.annotations = None;
    }
    let labels = node.metadata.labels.get_or_insert_default();
    let wanted_labels = wanted.metadata.labels.clone().unwrap_or_default();
    for key in RECONCILED {
        if let Some(value) = wanted_labels.get(key) {
            labels.insert(key.to_owned(), value.clone());
        }
    }
    let (status, wanted) = (
        node.status.get_or_insert_default(),
        wanted.status.clone().unwrap_or_default(),
    );
    for (map, wanted) in [
        (&mut status.capacity, wanted.capacity),
        (&mut status.allocatable, wanted.allocatable),
    ] {
        let Some(wanted) = wanted else { continue };
        let map = map.get_or_insert_with(|| wanted.clone());
        let is_huge = |name: &String| name.starts_with("hugepages-");
        map.retain(|name, _| !is_huge(name) || wanted.contains_key(name));
        map.extend(wanted.into_iter().filter(|(name, _)| is_huge(name)));
    }
    node
}
