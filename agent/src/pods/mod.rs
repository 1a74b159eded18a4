//! Pods: where they come from, whether they may run here, what to do for them, and what the API is told.
//!
//! source → dispatch → admission → worker (plan → apply) → status, with the store beside. See [`plan`] for the heart
//! of it. The door is [`Pods`].

pub(crate) mod admission;
mod dispatch;
mod effects;
mod engine;
mod housekeeping;
mod mirror;
pub(crate) mod plan;
pub(crate) mod play;
pub(crate) mod runtime;
pub(crate) mod runtime_config;
pub(crate) mod source;
mod status;
pub(crate) mod store;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Node;
use proto::cri;
use tokio::sync::{mpsc, watch};

use self::admission::Sysctls;
use self::dispatch::{Beat, Dispatcher, Ears, Live};
use self::effects::Files;
use self::mirror::Mirrors;
use self::plan::NodeFacts;
use self::plan::backoff::LIMIT;
use self::runtime::Cri;
use self::runtime_config::Configurator;
use self::source::{Event, Source};
use self::status::Statuses;
use self::store::{Snapshot, Store};
use self::worker::Context;
use crate::api::{Api, Events, Objects};
use crate::config::Settings;
use crate::resources::Cgroups;
use crate::volumes::Volumes;

/// What pods need of the rest of the agent.
pub(crate) struct Deps {
    pub(crate) settings: Arc<Settings>,
    pub(crate) api: Arc<Api>,
    pub(crate) objects: Arc<Objects>,
    pub(crate) events: Events,
    pub(crate) runtime: Arc<dyn Cri>,
    pub(crate) volumes: Arc<Volumes>,
    pub(crate) configurator: Arc<Configurator>,
    pub(crate) cgroups: Cgroups,
    /// The node's addresses, primary family first.
    pub(crate) host_ips: Vec<IpAddr>,
    /// The node as it registers; judges static pods while there is no Node object.
    pub(crate) own_node: Arc<Node>,
}

/// Where pods come from.
pub(crate) enum Sources {
    /// The API server, unless standalone, and the manifest directory of the settings.
    Settings,
    /// Only what is sent here: `play`.
    Given(mpsc::Receiver<(Source, Event)>),
}

/// The pods of this node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Pods {
    store: Arc<Store>,
    beat: Beat,
    /// Pods that are worked on or wait; nothing before all sources are known.
    count: watch::Receiver<Option<usize>>,
}

impl Pods {
    /// Takes over what the runtime has and begins to work.
    ///
    /// # Errors
    /// The runtime cannot say what it has.
    pub(crate) async fn start(deps: Deps, sources: Sources) -> Result<Self, runtime::Error> {
        // Before the list: what happens after it must be heard.
        let events = deps.runtime.events();
        let sandboxes = deps
            .runtime
            .list_pod_sandbox(cri::ListPodSandboxRequest::default())
            .await?
            .items;
        let containers = deps
            .runtime
            .list_containers(cri::ListContainersRequest::default())
            .await?
            .containers;
        let found = dispatch::found(&sandboxes, &containers);

        let (receiver, expected) = match sources {
            Sources::Settings => open_sources(&deps),
            Sources::Given(receiver) => (receiver, BTreeSet::from([Source::File])),
        };
        let statuses = Statuses::new(Arc::clone(&deps.api));
        let mirrors = Mirrors::new(Arc::clone(&deps.api), Arc::clone(&deps.objects), statuses.clone());
        let sysctls = Sysctls::new(&deps.settings.kubelet.allowed_unsafe_sysctls);
        let own_node = Arc::clone(&deps.own_node);
        let context = Arc::new(context(deps, statuses));
        let (ended, ended_receiver) = mpsc::unbounded_channel();
        let live = Live::default();
        let beat = Beat::new();
        let (counter, count) = watch::channel(None);
        let dispatcher = Dispatcher {
            context: Arc::clone(&context),
            mirrors,
            sysctls,
            own_node,
            expected,
            synced: BTreeSet::new(),
            found,
            workers: BTreeMap::new(),
            waiting: BTreeMap::new(),
            live: Arc::clone(&live),
            ended,
            beat: beat.clone(),
            count: counter,
        };
        let store = Arc::clone(&context.store);
        tokio::spawn(dispatcher.run(Ears {
            sources: receiver,
            runtime: events,
            ended: ended_receiver,
        }));
        tokio::spawn(housekeeping::keep_house(context, live, count.clone()));
        Ok(Self { store, beat, count })
    }

    /// All pods as they are now, by UID: for `/pods`, logs, statistics.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.store.snapshot()
    }

    /// Time since the dispatcher's loop came round; it does every minute unless it hangs or has ended.
    pub(crate) fn loop_age(&self) -> std::time::Duration {
        self.beat.age()
    }

    /// Wakes after every change of [`Pods::snapshot`].
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.store.changes()
    }

    /// Waits until no pod is left, those that no source names included.
    pub(crate) async fn wait_until_none(&self) {
        // An error says that the dispatcher is gone, and with it all that could be waited for.
        let _ = self.count.clone().wait_for(|count| *count == Some(0)).await;
    }
}

fn context(deps: Deps, statuses: Statuses) -> Context {
    let kubelet = &deps.settings.kubelet;
    let configured = kubelet.crash_loop_back_off.max_container_restart_period;
    let crash_limit = SignedDuration::try_from(configured).unwrap_or(LIMIT);
    Context {
        files: Files::new(Path::new(&kubelet.pod_logs_dir), &deps.settings.run_dir),
        runtime: deps.runtime,
        volumes: deps.volumes,
        configurator: deps.configurator,
        cgroups: deps.cgroups,
        objects: deps.objects,
        events: deps.events,
        statuses,
        store: Arc::new(Store::default()),
        node: NodeFacts {
            host_ips: deps.host_ips,
        },
        crash_limit,
    }
}

/// Starts the sources that the settings name.
fn open_sources(deps: &Deps) -> (mpsc::Receiver<(Source, Event)>, BTreeSet<Source>) {
    let (sender, receiver) = source::channel();
    let mut expected = BTreeSet::new();
    let settings = &deps.settings;
    if let Some(client) = deps.api.client() {
        expected.insert(Source::Api);
        tokio::spawn(source::watch_api(
            client,
            settings.node_name.clone(),
            sender.clone(),
        ));
    }
    let manifests = PathBuf::from(&settings.kubelet.static_pod_path);
    if !manifests.as_os_str().is_empty() {
        expected.insert(Source::File);
        let period = settings.kubelet.file_check_frequency;
        tokio::spawn(source::watch_files(
            manifests,
            settings.node_name.clone(),
            period,
            sender.clone(),
        ));
    }
    if expected.is_empty() {
        // Nothing will ever come; the dispatcher still has to end what no source names.
        expected.insert(Source::File);
        tokio::spawn(async move {
            let _ = sender.send((Source::File, Event::Listed(Vec::new()))).await;
            sender.closed().await;
        });
    }
    (receiver, expected)
}
