//! The Node object as it should be: pure, from settings, facts and the object as it is.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeDaemonEndpoints, NodeFeatures, NodeRuntimeHandler,
    NodeRuntimeHandlerFeatures, NodeStatus, NodeSwapStatus, NodeSystemInfo,
};
use std::net::IpAddr;

use super::conditions::{self, Pressures};
use super::resources;
use crate::api::EventKind;
use crate::config::{KUBELET_VERSION, Settings};
use crate::node::machine::Machine;
use crate::node::runtime::{Health, Image};

/// Names an image has in the object at most.
const MAX_NAMES: usize = 5;

/// What was observed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    pub(crate) machine: Machine,
    /// The node's addresses, or why there are none.
    pub(crate) addresses: Option<Result<Vec<IpAddr>, String>>,
    /// The engine's last word, and what went wrong with asking.
    pub(crate) health: Option<Health>,
    pub(crate) health_error: Option<String>,
    pub(crate) images: Option<Vec<Image>>,
    pub(crate) pressures: Pressures,
    /// Other reasons against Ready.
    pub(crate) errors: Vec<String>,
    /// Controllers whose limits are not enforced.
    pub(crate) unenforced: Vec<String>,
}

/// An event about the node that a change of status is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) kind: EventKind,
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// Annotation that lists the controllers whose limits this node does not enforce.
pub(crate) const UNENFORCED: &str = "longshore.dev/unenforced";
const PROVIDED_IP: &str = "alpha.kubernetes.io/provided-node-ip";

/// The object with everything that is ours brought up to date, and what to tell.
pub(crate) fn plan(settings: &Settings, original: &Node, facts: &Facts, now: Timestamp) -> (Node, Vec<Told>) {
    let mut node = original.clone();
    let mut told = Vec::new();
    required_labels(&mut node);
    annotations(&mut node, settings, facts);
    let before = original.status.clone().unwrap_or_default();
    let mut status = before.clone();
    addresses(&mut status, settings, facts);
    reboot(&before, facts, settings, &mut told);
    resources::fill(&mut status, settings, &facts.machine);
    status.node_info = Some(info(&before, &facts.machine));
    status.daemon_endpoints = Some(NodeDaemonEndpoints {
        kubelet_endpoint: Some(DaemonEndpoint {
            port: settings.kubelet.port.into(),
        }),
    });
    if let Some(found) = &facts.images {
        status.images = images(found, settings.kubelet.node_status_max_images);
    }
    if let Some(health) = &facts.health {
        handlers(&mut status, health);
    }
    conditions::fill(&mut status, settings, facts, now, &mut told);
    node.status = Some(status);
    (node, told)
}

/// Labels that are put right whenever somebody has taken them away.
fn required_labels(node: &mut Node) {
    let labels = node.metadata.labels.get_or_insert_default();
    labels.insert("kubernetes.io/os".into(), "linux".into());
    labels.insert("kubernetes.io/arch".into(), architecture().into());
}

/// The machine's architecture in Go's words.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn annotations(node: &mut Node, settings: &Settings, facts: &Facts) {
    let annotations = node.metadata.annotations.get_or_insert_default();
    let mut put = |key: &str, value: Option<String>| match value {
        Some(value) => annotations.insert(key.to_owned(), value),
        None => annotations.remove(key),
    };
    let unenforced = (!facts.unenforced.is_empty()).then(|| facts.unenforced.join(","));
    put(UNENFORCED, unenforced);
    let given: Vec<String> = settings
        .node_ips
        .iter()
        .filter(|ip| !ip.is_unspecified())
        .map(ToString::to_string)
        .collect();
    let external = settings.cloud_provider == "external" && !given.is_empty();
    put(PROVIDED_IP, external.then(|| given.join(",")));
    if annotations.is_empty() {
        node.metadata.annotations = None;
    }
}

fn addresses(status: &mut NodeStatus, settings: &Settings, facts: &Facts) {
    let host = NodeAddress {
        type_: "Hostname".into(),
        address: settings.node_name.clone(),
    };
    if settings.cloud_provider == "external" {
        // The cloud's controller fills them in; what it wrote stays.
        if status
            .addresses
            .as_ref()
            .is_some_and(|addresses| !addresses.is_empty())
        {
            return;
        }
        if settings.node_ips.is_empty() {
            status.addresses = Some(vec![host]);
            return;
        }
    }
    if let Some(Ok(found)) = &facts.addresses {
        let internal = found.iter().map(|ip| NodeAddress {
            type_: "InternalIP".into(),
            address: ip.to_string(),
        });
        status.addresses = Some(internal.chain([host]).collect());
    }
}

fn reboot(before: &NodeStatus, facts: &Facts, settings: &Settings, told: &mut Vec<Told>) {
    let old = before
        .node_info
        .as_ref()
        .map(|info| info.boot_id.as_str())
        .unwrap_or_default();
    let new = &facts.machine.boot_id;
    if !old.is_empty() && old != new {
        told.push(Told {
            kind: EventKind::Warning,
            reason: "Rebooted".into(),
            message: format!("Node {} has been rebooted, boot id: {new}", settings.node_name),
        });
    }
}

fn info(before: &NodeStatus, machine: &Machine) -> NodeSystemInfo {
    NodeSystemInfo {
        machine_id: machine.machine_id.clone(),
        system_uuid: machine.system_uuid.clone(),
        boot_id: machine.boot_id.clone(),
        kernel_version: machine.kernel_version.clone(),
        os_image: machine.os_image.clone(),
        container_runtime_version: format!("longshore://{}", env!("CARGO_PKG_VERSION")),
        kubelet_version: KUBELET_VERSION.into(),
        kube_proxy_version: String::new(),
        operating_system: "linux".into(),
        architecture: architecture().into(),
        swap: match machine.swap {
            0 => before.node_info.as_ref().and_then(|info| info.swap.clone()),
            swap => Some(NodeSwapStatus { capacity: Some(swap) }),
        },
    }
}

fn images(found: &[Image], max: i32) -> Option<Vec<ContainerImage>> {
    let mut sorted: Vec<&Image> = found.iter().collect();
    sorted.sort_by(|a, b| {
        b.size
            .cmp(&a.size)
            .then_with(|| (&a.digests, &a.tags).cmp(&(&b.digests, &b.tags)))
    });
    let max = usize::try_from(max).unwrap_or(usize::MAX);
    let list: Vec<ContainerImage> = sorted
        .into_iter()
        .take(max)
        .map(|image| ContainerImage {
            names: Some(
                image
                    .digests
                    .iter()
                    .chain(&image.tags)
                    .take(MAX_NAMES)
                    .cloned()
                    .collect(),
            ),
            size_bytes: Some(image.size),
        })
        .collect();
    (!list.is_empty()).then_some(list)
}

fn handlers(status: &mut NodeStatus, health: &Health) {
    let mut sorted = health.handlers.clone();
    sorted.sort();
    let one = |handler: crate::node::runtime::Handler| NodeRuntimeHandler {
        name: Some(handler.name),
        features: Some(NodeRuntimeHandlerFeatures {
            recursive_read_only_mounts: Some(handler.recursive_read_only_mounts),
            user_namespaces: Some(handler.user_namespaces),
        }),
    };
    status.runtime_handlers = (!sorted.is_empty()).then(|| sorted.into_iter().map(one).collect());
    status.features = Some(NodeFeatures {
        supplemental_groups_policy: Some(health.supplemental_groups_policy),
    });
}
