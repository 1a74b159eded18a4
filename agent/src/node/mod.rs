//! Being a node: joining, certificates, the Node object, its status and lease, the ways to other nodes' pods.
//!
//! `keys`, `status::plan`, `status::patch` and the discovery checks are pure; `files` is the funnel of this room's files,
//! the API's writes go through `api`.

mod address;
mod bootstrap;
mod certificates;
mod discovery;
mod engine;
mod error;
mod files;
mod join;
mod keys;
mod lease;
mod machine;
mod network;
mod process;
mod registration;
mod runtime;
mod signing;
mod status;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::ObjectReference;
use tokio::sync::Notify;

pub(crate) use bootstrap::{ensure as ensure_credentials, explain};
pub(crate) use certificates::{open_serving, renew_client, renew_serving};
pub(crate) use error::Error;
pub(crate) use join::join;
pub(crate) use machine::process_limit;
pub(crate) use network::SetPeers;
pub(crate) use process::{check_swap, lock, prepare_process};
pub(crate) use runtime::Runtime;

use crate::api::{Api, EventKind, Events, Objects};
use crate::config::Settings;

/// What a node is made of.
pub(crate) struct Parts {
    pub(crate) settings: Arc<Settings>,
    pub(crate) api: Arc<Api>,
    pub(crate) objects: Arc<Objects>,
    pub(crate) events: Events,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) set_peers: SetPeers,
    /// Controllers whose limits are not enforced.
    pub(crate) unenforced: Vec<String>,
}

/// The running node.
pub(crate) struct Node {
    addresses: Arc<Mutex<Vec<IpAddr>>>,
    status: Arc<status::Loop>,
}

impl Node {
    /// The node's addresses as last found.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The same, for whoever asks again and again.
    pub(crate) fn address_source(&self) -> impl Fn() -> Vec<IpAddr> + Send + Sync + 'static {
        let addresses = Arc::clone(&self.addresses);
        move || addresses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The Node as it would be registered now; what pods are judged by while there is no Node object.
    pub(crate) async fn own(&self) -> k8s_openapi::api::core::v1::Node {
        let facts = self.status.facts().await;
        registration::initial(&self.status.settings, &facts, jiff::Timestamp::now())
    }

    /// Finds the addresses and starts everything; `spawn` gets each task with its name. A standalone node has no tasks.
    pub(crate) async fn start(
        parts: Parts,
        spawn: impl Fn(&'static str, futures::future::BoxFuture<'static, ()>),
    ) -> Self {
        let Parts {
            settings,
            api,
            objects,
            events,
            runtime,
            set_peers,
            unenforced,
        } = parts;
        let found = address::choose(&address::Machine, &settings.node_ips, &settings.node_name).await;
        let addresses = Arc::new(Mutex::new(found.unwrap_or_default()));
        let wake = Arc::new(Notify::new());
        let status = Arc::new(status::Loop {
            settings: Arc::clone(&settings),
            api: Arc::clone(&api),
            objects: Arc::clone(&objects),
            events: events.clone(),
            runtime: Arc::clone(&runtime),
            wake: Arc::clone(&wake),
            unenforced: unenforced.clone(),
            machine: Mutex::default(),
            addresses: Arc::clone(&addresses),
        });
        let node = Self {
            addresses,
            status: Arc::clone(&status),
        };
        if api.is_standalone() {
            return node;
        }
        events.record(
            &reference(&settings.node_name),
            EventKind::Normal,
            "Starting",
            "Starting kubelet.",
        );
        warn_of(&unenforced, &settings.node_name, &events);
        spawn("node status", Box::pin(run_status(status)));
        {
            let (api, settings, objects) = (Arc::clone(&api), Arc::clone(&settings), Arc::clone(&objects));
            spawn(
                "lease",
                Box::pin(async move { lease::keep(&api, &settings, &objects).await }),
            );
        }
        let wake = move || wake.notify_one();
        spawn(
            "own pod ranges",
            Box::pin(network::follow_own_ranges(objects, runtime, wake)),
        );
        let name = settings.node_name.clone();
        spawn(
            "other nodes",
            Box::pin(network::follow_peers(api, events, name, set_peers)),
        );
        node
    }
}

async fn run_status(status: Arc<status::Loop>) {
    if status.settings.kubelet.register_node {
        registration::register(&status).await;
    }
    status.run().await;
}

fn warn_of(unenforced: &[String], node_name: &str, events: &Events) {
    if unenforced.is_empty() {
        return;
    }
    let list = unenforced.join(", ");
    let message = format!(
        "Limits of the cgroup controllers {list} are not enforced on this node: the kernel does not offer them here \
         (--allow-missing-controllers)"
    );
    events.record(
        &reference(node_name),
        EventKind::Warning,
        "UnenforcedLimits",
        message,
    );
}

/// The node as events name it: its name is its UID there.
pub(crate) fn reference(name: &str) -> ObjectReference {
    ObjectReference {
        kind: Some("Node".into()),
        name: Some(name.to_owned()),
        uid: Some(name.to_owned()),
        ..ObjectReference::default()
    }
}
