//! What the pods of this node refer to: ConfigMaps and Secrets, each watched by name while a pod uses it (a node may
//! neither list nor watch others), all Services, and the node's own Node.

mod watched;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use futures::StreamExt as _;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Secret, Service};
use kube::runtime::watcher;
use tokio::sync::{broadcast, watch};

use super::{Api, Error, Patience};
use watched::Watched;

/// Which object a pod refers to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Key {
    /// A ConfigMap: namespace, name.
    ConfigMap(String, String),
    /// A Secret: namespace, name.
    Secret(String, String),
}

/// The caches. Reads wait for the first answer of the API server, then cost nothing.
pub(crate) struct Objects {
    api: Arc<Api>,
    config_maps: Watched<ConfigMap>,
    secrets: Watched<Secret>,
    users: Mutex<BTreeMap<String, BTreeSet<Key>>>,
    services: ArcSwap<Vec<Arc<Service>>>,
    services_synced: watch::Sender<bool>,
    node: ArcSwapOption<Node>,
    node_changes: watch::Sender<u64>,
    changes: broadcast::Sender<Key>,
}

/// Changes that a slow reader may fall behind; then it sees `Lagged` and looks at everything.
const CHANGES: usize = 1024;

impl Objects {
    /// Starts the caches of the node `node_name`. A standalone node's stay empty and count as synced.
    pub(crate) fn start(api: Arc<Api>, node_name: &str) -> Arc<Self> {
        let (changes, _) = broadcast::channel(CHANGES);
        let objects = Arc::new(Self {
            config_maps: Watched::new(Arc::clone(&api), changes.clone(), Key::ConfigMap),
            secrets: Watched::new(Arc::clone(&api), changes.clone(), Key::Secret),
            users: Mutex::default(),
            services: ArcSwap::default(),
            services_synced: watch::Sender::new(api.is_standalone()),
            node: ArcSwapOption::empty(),
            node_changes: watch::Sender::new(0),
            changes,
            api,
        });
        if let Some(client) = objects.api.client() {
            tokio::spawn(watch_services(Arc::downgrade(&objects), client.clone()));
            tokio::spawn(watch_node(Arc::downgrade(&objects), client, node_name.to_owned()));
        }
        objects
    }

    /// The ConfigMap of that name; `None` when there is none.
    ///
    /// # Errors
    /// Any [`Error`]: it is unknown whether there is one.
    pub(crate) async fn config_map(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<ConfigMap>>, Error> {
        self.config_maps.get(namespace, name).await
    }

    /// The Secret of that name; `None` when there is none.
    ///
    /// # Errors
    /// Any [`Error`]: it is unknown whether there is one.
    pub(crate) async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Arc<Secret>>, Error> {
        self.secrets.get(namespace, name).await
    }

    /// Says that the pod `uid` uses exactly `keys` from now on: they are watched until no pod uses them.
    pub(crate) fn use_by(&self, uid: &str, keys: impl IntoIterator<Item = Key>) {
        let keys: BTreeSet<Key> = keys.into_iter().collect();
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        for key in &keys {
            match key {
                Key::ConfigMap(namespace, name) => self.config_maps.watch(namespace, name),
                Key::Secret(namespace, name) => self.secrets.watch(namespace, name),
            }
        }
        let before = if keys.is_empty() {
            users.remove(uid)
        } else {
            users.insert(uid.to_owned(), keys)
        };
        for key in before.unwrap_or_default() {
            if users.values().any(|keys| keys.contains(&key)) {
                continue;
            }
            match &key {
                Key::ConfigMap(namespace, name) => self.config_maps.forget(namespace, name),
                Key::Secret(namespace, name) => self.secrets.forget(namespace, name),
            }
        }
    }

    /// The pod `uid` uses nothing any more.
    pub(crate) fn release(&self, uid: &str) {
        self.use_by(uid, []);
    }

    /// UIDs of the pods that use `key`.
    pub(crate) fn users_of(&self, key: &Key) -> Vec<String> {
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users
            .iter()
            .filter(|(_, keys)| keys.contains(key))
            .map(|(uid, _)| uid.clone())
            .collect()
    }

    /// Says which ConfigMap or Secret in use has changed.
    pub(crate) fn changes(&self) -> broadcast::Receiver<Key> {
        self.changes.subscribe()
    }

    /// All Services of the cluster, as last seen.
    pub(crate) fn services(&self) -> Arc<Vec<Arc<Service>>> {
        self.services.load_full()
    }

    /// Whether [`Objects::services`] has been filled.
    pub(crate) fn services_synced(&self) -> bool {
        *self.services_synced.borrow()
    }

    /// Waits until [`Objects::services`] has been filled.
    pub(crate) async fn wait_for_services(&self) {
        let mut synced = self.services_synced.subscribe();
        // The sender lives in self: it cannot go away meanwhile.
        let _ = synced.wait_for(|synced| *synced).await;
    }

    /// This node's Node object, as last seen.
    pub(crate) fn node(&self) -> Option<Arc<Node>> {
        self.node.load_full()
    }

    /// Wakes whenever [`Objects::node`] has changed.
    pub(crate) fn node_changes(&self) -> watch::Receiver<u64> {
        self.node_changes.subscribe()
    }

    /// A token of a service account by TokenRequest.
    ///
    /// # Errors
    /// Any [`Error`].
    pub(crate) async fn token(
        &self,
        namespace: &str,
        service_account: &str,
        request: &TokenRequest,
    ) -> Result<TokenRequest, Error> {
        self.api.token(namespace, service_account, request).await
    }
}

/// Keeps `services` equal to the cluster's.
async fn watch_services(objects: std::sync::Weak<Objects>, client: kube::Client) {
    let mut known: BTreeMap<String, Arc<Service>> = BTreeMap::new();
    let mut fresh: BTreeMap<String, Arc<Service>> = BTreeMap::new();
    let mut stream = std::pin::pin!(watcher(
        kube::Api::<Service>::all(client),
        watcher::Config::default()
    ));
    let mut patience = Patience::new();
    let key = |s: &Service| {
        format!(
            "{}/{}",
            s.metadata.namespace.as_deref().unwrap_or_default(),
            s.metadata.name.as_deref().unwrap_or_default()
        )
    };
    let mut filling = false;
    while let Some(event) = stream.next().await {
        let Some(objects) = objects.upgrade() else { return };
        match event {
            Ok(watcher::Event::Init) => (filling, fresh) = (true, BTreeMap::new()),
            Ok(watcher::Event::InitApply(service)) => {
                fresh.insert(key(&service), Arc::new(service));
            }
            Ok(watcher::Event::InitDone) => (filling, known) = (false, std::mem::take(&mut fresh)),
            Ok(watcher::Event::Apply(service)) => {
                known.insert(key(&service), Arc::new(service));
            }
            Ok(watcher::Event::Delete(service)) => {
                known.remove(&key(&service));
            }
            Err(error) => {
                drop(objects);
                patience.tell("Services", &error);
                patience.wait().await;
                continue;
            }
        }
        if !filling {
            objects
                .services
                .store(Arc::new(known.values().cloned().collect()));
            objects.services_synced.send_replace(true);
        }
    }
}

/// Keeps `node` equal to the node's own Node object.
async fn watch_node(objects: std::sync::Weak<Objects>, client: kube::Client, name: String) {
    let mut stream = std::pin::pin!(watcher::watch_object(kube::Api::<Node>::all(client), &name));
    let mut patience = Patience::new();
    while let Some(event) = stream.next().await {
        let Some(objects) = objects.upgrade() else { return };
        match event {
            Ok(node) => {
                patience.reset();
                objects.node.store(node.map(Arc::new));
                objects.node_changes.send_modify(|count| *count += 1);
            }
            Err(error) => {
                drop(objects);
                patience.tell("the own Node", &error);
                patience.wait().await;
            }
        }
    }
}
