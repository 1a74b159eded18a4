//! The pod network's share of the API: the node's own pod ranges, and the ways to those of the others.
//!
//! A node may read only its own Node object. The others' ranges and addresses need the ClusterRole `longshore:network`
//! (docs/decisions/): without it pods of this node reach only each other, which is told, not fatal.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::runtime::watcher;

use super::runtime::Runtime;
use crate::api::{Api, EventKind, Events, Objects, Patience, words};

/// Another node, as far as routes to its pods need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) cidrs: Vec<IpNet>,
    pub(crate) via: Vec<IpAddr>,
}

/// Sets routes to others; blocking.
pub(crate) type SetPeers = Arc<dyn Fn(&[Peer]) -> Result<(), String> + Send + Sync>;

/// Pause after a change that the engine or the kernel refused.
const RETRY: Duration = Duration::from_secs(5);
/// Changes that come together are applied together.
const GATHER: Duration = Duration::from_millis(50);

/// Tells the engine the node's own pod ranges whenever they change.
pub(super) async fn follow_own_ranges(objects: Arc<Objects>, runtime: Arc<dyn Runtime>, changed: impl Fn()) {
    let mut changes = objects.node_changes();
    let mut applied = String::new();
    loop {
        changes.mark_unchanged();
        let cidrs = objects
            .node()
            .map(|node| ranges(&node).join(","))
            .unwrap_or_default();
        if !cidrs.is_empty() && cidrs != applied {
            match runtime.set_pod_cidrs(cidrs.clone()).await {
                Ok(()) => {
                    tracing::info!(cidrs, "pod ranges of this node");
                    applied = cidrs;
                    changed();
                }
                Err(error) => {
                    tracing::error!(error, cidrs, "the pod ranges were not taken, trying again");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

fn ranges(node: &Node) -> Vec<String> {
    let Some(spec) = &node.spec else { return Vec::new() };
    match (&spec.pod_cidrs, &spec.pod_cidr) {
        (Some(cidrs), _) if !cidrs.is_empty() => cidrs.clone(),
        (_, Some(cidr)) if !cidr.is_empty() => vec![cidr.clone()],
        _ => Vec::new(),
    }
}

/// Keeps routes to the other nodes' pods, for ever.
pub(super) async fn follow_peers(api: Arc<Api>, events: Events, node_name: String, set: SetPeers) {
    let Some(client) = api.client() else { return };
    let mut stream = std::pin::pin!(watcher(
        kube::Api::<Node>::all(client),
        watcher::Config::default()
    ));
    let mut patience = Patience::new();
    let mut peers = Peers::new(&node_name);
    let mut applied: Option<Vec<Peer>> = None;
    let mut told = false;
    loop {
        let wanted = peers.list();
        let dirty = peers.complete && applied.as_ref() != Some(&wanted);
        let event = if dirty {
            match tokio::time::timeout(GATHER, stream.next()).await {
                Ok(event) => event,
                Err(_) => {
                    applied = apply(&set, wanted).await;
                    continue;
                }
            }
        } else {
            stream.next().await
        };
        match event {
            Some(Ok(event)) => {
                if !matches!(event, watcher::Event::Init) {
                    patience.reset();
                }
                peers.take(event);
            }
            Some(Err(error)) => {
                let words = words(&error);
                patience.tell("other nodes", &error);
                let forbidden = words.contains("forbidden");
                if forbidden && !std::mem::replace(&mut told, true) {
                    events.record(
                        &super::reference(&node_name),
                        EventKind::Warning,
                        "NetworkNotReady",
                        FORBIDDEN,
                    );
                }
                patience.wait().await;
            }
            None => return,
        }
    }
}

const FORBIDDEN: &str = "Pods of other nodes cannot be reached: this node may not watch Nodes. Apply \
                         docs/manifests/network-rbac.yaml (ClusterRole longshore:network for the group system:nodes)";

async fn apply(set: &SetPeers, wanted: Vec<Peer>) -> Option<Vec<Peer>> {
    let (set, list) = (Arc::clone(set), wanted.clone());
    let done = tokio::task::spawn_blocking(move || set(&list)).await;
    match done {
        Ok(Ok(())) => Some(wanted),
        Ok(Err(error)) => {
            tracing::error!(error, "routes to other nodes' pods, trying again");
            tokio::time::sleep(RETRY).await;
            None
        }
        Err(panic) => {
            tracing::error!(%panic, "routes to other nodes' pods, trying again");
            tokio::time::sleep(RETRY).await;
            None
        }
    }
}

/// The other nodes as last seen.
pub(super) struct Peers<'a> {
    own: &'a str,
    known: BTreeMap<String, Peer>,
    fresh: BTreeMap<String, Peer>,
    /// Whether the first list has come: before that, routes of an agent before us stay.
    pub(super) complete: bool,
}

impl<'a> Peers<'a> {
    pub(super) fn new(own: &'a str) -> Self {
        Self {
            own,
            known: BTreeMap::new(),
            fresh: BTreeMap::new(),
            complete: false,
        }
    }

    pub(super) fn list(&self) -> Vec<Peer> {
        self.known.values().cloned().collect()
    }

    pub(super) fn take(&mut self, event: watcher::Event<Node>) {
        match event {
            watcher::Event::Init => self.fresh.clear(),
            watcher::Event::InitApply(node) => insert(&mut self.fresh, self.own, &node),
            watcher::Event::InitDone => {
                self.known = std::mem::take(&mut self.fresh);
                self.complete = true;
            }
            watcher::Event::Apply(node) => insert(&mut self.known, self.own, &node),
            watcher::Event::Delete(node) => {
                self.known
                    .remove(node.metadata.name.as_deref().unwrap_or_default());
            }
        }
    }
}

fn insert(map: &mut BTreeMap<String, Peer>, own: &str, node: &Node) {
    let name = node.metadata.name.clone().unwrap_or_default();
    if name == own {
        return;
    }
    let addresses = node.status.as_ref().and_then(|status| status.addresses.as_ref());
    let internal = addresses
        .into_iter()
        .flatten()
        .filter(|address| address.type_ == "InternalIP");
    let peer = Peer {
        cidrs: ranges(node).iter().filter_map(|text| text.parse().ok()).collect(),
        via: internal
            .filter_map(|address| address.address.parse().ok())
            .collect(),
    };
    if peer.cidrs.is_empty() || peer.via.is_empty() {
        map.remove(&name);
    } else {
        map.insert(name, peer);
    }
}
