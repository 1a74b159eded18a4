//! The composition root of a running node: everything is opened, wired and started here, in order.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use crate::api::{Api, EventKind, Events, Objects, Session};
use crate::config::Settings;
use crate::config::quantity::Amount;
use crate::node::{self, Node};
use crate::pods::runtime_config::{Configurator, NodeFacts};
use crate::pods::{self, Pods, Sources};
use crate::resources::{self, Cgroups, NodeCapacity, NodeShare};
use crate::server::{self, NodeHost};
use crate::supervise::{Tasks, keep_watchdog, notify};
use crate::volumes::Volumes;

/// The pods' bridge.
const BRIDGE: &str = "longshore0";

/// Pod ranges of `play` where none are configured.
const PLAY_CIDRS: &str = "10.88.0.0/16,fd88::/64";

/// What every node has, with or without an API server.
struct Base {
    settings: Arc<Settings>,
    tasks: Tasks,
    api: Arc<Api>,
    objects: Arc<Objects>,
    events: Events,
    cgroups: Cgroups,
    engine: Arc<cri::Engine>,
    node: Node,
    /// Held for as long as the agent lives.
    _lock: File,
}

/// Runs the node until it is told to stop.
///
/// # Errors
/// What keeps it from starting, with cause and cure; or why it had to stop.
pub(crate) async fn run(settings: Settings) -> anyhow::Result<()> {
    let base = open(settings).await?;
    let (settings, tasks) = (Arc::clone(&base.settings), base.tasks.clone());
    let identity = certificates(&settings, &base.api, &base.node, &tasks)?;
    let deps = pods(&base).await;
    hold_pods(&base, &deps);
    let runtime = Arc::clone(&deps.runtime);
    let pods = Pods::start(deps, Sources::Settings)
        .await
        .context("take over what the runtime has")?;
    if settings.kubelet.enable_server {
        serve(&base, identity, NodeHost::start(pods, runtime)).await?;
    }
    tracing::info!(
        node = settings.node_name,
        version = crate::config::KUBELET_VERSION,
        "the node runs"
    );
    tasks.spawn("watchdog", keep_watchdog());
    notify("READY=1");
    tasks.run_to_end().await.map_err(anyhow::Error::msg)
}

/// Runs the pods of `file` without an API server until they are over or a signal comes; with `down`, only takes down what
/// an earlier run has left.
///
/// # Errors
/// What keeps the node from starting, what is wrong with the file, pods that failed.
pub(crate) async fn play(mut settings: Settings, file: &Path, down: bool) -> anyhow::Result<()> {
    settings.kubeconfig = None;
    settings.bootstrap_kubeconfig = None;
    if settings.kubelet.pod_cidr.is_empty() {
        PLAY_CIDRS.clone_into(&mut settings.kubelet.pod_cidr);
    }
    let base = open(settings).await?;
    let deps = pods(&base).await;
    crate::pods::play::play(deps, file, down, &mut std::io::stdout()).await?;
    Ok(())
}

/// Opens everything up to the node itself.
async fn open(settings: Settings) -> anyhow::Result<Base> {
    let settings = Arc::new(settings);
    let lock = node::lock(&settings.lock_file)?;
    prepare(&settings)?;
    let tasks = Tasks::new();
    let kubelet = Arc::new(settings.kubelet.clone());
    {
        let (kubelet, stop) = (Arc::clone(&kubelet), tasks.stop().clone());
        tokio::spawn(async move { server::serve_health(&kubelet, stop).await });
    }
    let cgroups = Cgroups::open(resources::Config::of(&settings))?;
    let network = Arc::new(network(&settings)?);
    let engine = cri::Engine::start(engine_config(&settings, &network))
        .await
        .context("start the container engine")?;
    let cidrs = kubelet.pod_cidr.clone();
    if settings.kubeconfig.is_none() && !cidrs.is_empty() {
        // No Node object will ever tell.
        let set = node::Runtime::set_pod_cidrs(engine.as_ref(), cidrs).await;
        set.map_err(anyhow::Error::msg)
            .context("set the pod ranges (podCIDR)")?;
    }

    node::ensure_credentials(&settings).await?;
    let api = match &settings.kubeconfig {
        Some(path) => Api::new(Session::open(path).await?),
        None => Api::standalone(),
    };
    let rate = (kubelet.event_record_qps, kubelet.event_burst);
    let events = Events::start_limited(Arc::clone(&api), &settings.node_name, rate.0, rate.1);
    let objects = Objects::start(Arc::clone(&api), &settings.node_name);

    let parts = node::Parts {
        settings: Arc::clone(&settings),
        api: Arc::clone(&api),
        objects: Arc::clone(&objects),
        events: events.clone(),
        runtime: Arc::clone(&engine) as Arc<dyn node::Runtime>,
        set_peers: set_peers(&network),
        unenforced: cgroups.unenforced().iter().map(ToString::to_string).collect(),
    };
    let node = Node::start(parts, |name, task| tasks.spawn(name, task)).await;
    Ok(Base {
        settings,
        tasks,
        api,
        objects,
        events,
        cgroups,
        engine,
        node,
        _lock: lock,
    })
}

/// What the pods need of the rest.
async fn pods(base: &Base) -> pods::Deps {
    let own_node = Arc::new(base.node.own().await);
    let host_ips = base.node.addresses();
    let status = own_node.status.as_ref();
    let capacity = status.and_then(|s| s.capacity.clone()).unwrap_or_default();
    let memory = capacity
        .get("memory")
        .and_then(|q| Amount::of(q).ok())
        .unwrap_or_default();
    let volumes = Volumes::new(
        &base.settings.root_dir,
        Arc::clone(&base.objects),
        capacity.clone(),
    );
    let facts = NodeFacts {
        host_ips: host_ips.clone(),
        memory_capacity: memory.value(),
        capacity,
    };
    let configurator = Configurator::new(
        Arc::clone(&base.settings),
        facts,
        Arc::clone(&base.objects),
        Arc::clone(&volumes),
        base.cgroups.clone(),
    );
    pods::Deps {
        settings: Arc::clone(&base.settings),
        api: Arc::clone(&base.api),
        objects: Arc::clone(&base.objects),
        events: base.events.clone(),
        runtime: Arc::clone(&base.engine) as Arc<dyn pods::runtime::Cri>,
        volumes,
        configurator: Arc::new(configurator),
        cgroups: base.cgroups.clone(),
        host_ips,
        own_node,
    }
}

/// Between tries to hold the pods to their share.
const SHARE_RETRY: Duration = Duration::from_secs(60);

/// Holds all pods together to what the node has for them, and tells so.
fn hold_pods(base: &Base, deps: &pods::Deps) {
    let capacity = deps
        .own_node
        .status
        .as_ref()
        .and_then(|status| status.capacity.clone())
        .unwrap_or_default();
    let amount = |name: &str| {
        capacity
            .get(name)
            .and_then(|quantity| Amount::of(quantity).ok())
            .unwrap_or_default()
    };
    let capacity = NodeCapacity {
        milli_cpu: amount("cpu").milli_value(),
        memory: amount("memory").value(),
        pids: node::process_limit(Path::new("/")),
    };
    let (settings, events, cgroups) = (
        Arc::clone(&base.settings),
        base.events.clone(),
        base.cgroups.clone(),
    );
    tokio::spawn(async move {
        let object = node::reference(&settings.node_name);
        let (done, failed) = ("NodeAllocatableEnforced", "FailedNodeAllocatableEnforcement");
        loop {
            let held = match NodeShare::of(&settings.kubelet, capacity) {
                Ok(share) => cgroups.enforce_node(share).await,
                Err(error) => Err(error),
            };
            match held {
                Ok(()) => {
                    let words = "Updated Node Allocatable limit across pods";
                    return events.record(&object, EventKind::Normal, done, words);
                }
                Err(error) => {
                    let words = format!("Failed to update Node Allocatable Limits: {error}");
                    events.record(&object, EventKind::Warning, failed, words);
                }
            }
            tokio::time::sleep(SHARE_RETRY).await;
        }
    });
}

/// The HTTPS API.
async fn serve(base: &Base, identity: Arc<server::Identity>, host: Arc<NodeHost>) -> anyhow::Result<()> {
    let kubelet = &base.settings.kubelet;
    let reviews = server::ApiReviews::new(Arc::clone(&base.api), base.settings.node_name.clone());
    let server = server::Server::new(kubelet, identity, Arc::new(reviews), host)?;
    let listener = server::listen(kubelet).await?;
    let stop = base.tasks.stop().clone();
    base.tasks.spawn("HTTPS API", server.serve(listener, stop));
    Ok(())
}

/// What the process itself and the machine need before anything is started.
fn prepare(settings: &Settings) -> anyhow::Result<()> {
    node::prepare_process(settings);
    node::check_swap(settings)?;
    Ok(())
}

fn network(settings: &Settings) -> anyhow::Result<cni::Network> {
    let config = cni::Config {
        bridge: BRIDGE.to_owned(),
        state_dir: settings.run_dir.join("network"),
        mtu: None,
        cluster_cidrs: settings.cluster_cidrs.clone(),
        masquerade: true,
    };
    let network = cni::Network::new(config).context("open the pod network")?;
    for warning in network.warnings() {
        tracing::warn!(%warning, "pod network");
    }
    Ok(network)
}

fn engine_config(settings: &Settings, network: &Arc<cni::Network>) -> cri::Config {
    cri::Config {
        run_dir: settings.run_dir.clone(),
        state_dir: settings.state_dir.clone(),
        oci_binary: settings.oci_binary.clone(),
        registries: settings.registries.clone(),
        cgroup_root: "/sys/fs/cgroup".into(),
        keepers_cgroup: "longshore.slice/keepers".to_owned(),
        network: Arc::clone(network),
    }
}

fn set_peers(network: &Arc<cni::Network>) -> node::SetPeers {
    let network = Arc::clone(network);
    Arc::new(move |peers| {
        let peers: Vec<cni::Peer> = peers
            .iter()
            .map(|peer| cni::Peer {
                cidrs: peer.cidrs.clone(),
                via: peer.via.clone(),
            })
            .collect();
        let warnings = network.set_peers(&peers).map_err(|error| error.to_string())?;
        for warning in warnings {
            tracing::warn!(%warning, "routes to other nodes' pods");
        }
        tracing::info!(nodes = peers.len(), "routes to other nodes' pods");
        Ok(())
    })
}

/// The node's certificates towards callers and towards the API server, and their renewal.
fn certificates(
    settings: &Arc<Settings>,
    api: &Arc<Api>,
    node: &Node,
    tasks: &Tasks,
) -> anyhow::Result<Arc<server::Identity>> {
    let kubelet = &settings.kubelet;
    let identity = server::Identity::new(&kubelet.tls_min_version, &kubelet.tls_cipher_suites)?;
    node::open_serving(settings, &node.addresses(), &identity)?;
    tasks.spawn(
        "client certificate",
        node::renew_client(Arc::clone(settings), Arc::clone(api)),
    );
    let addresses = node.address_source();
    let renewal = node::renew_serving(
        Arc::clone(settings),
        Arc::clone(api),
        Arc::clone(&identity),
        addresses,
    );
    tasks.spawn("serving certificate", renewal);
    Ok(identity)
}
