//! The composition root of a running node: everything is opened, wired and started here, in order.

use std::sync::Arc;

use anyhow::Context as _;
use ipnet::IpNet;

use crate::api::{Api, Events, Objects, Session};
use crate::config::Settings;
use crate::node::{self, Node};
use crate::resources::{self, Cgroups};
use crate::server;
use crate::supervise::{Tasks, notify};

/// The pods' bridge.
const BRIDGE: &str = "longshore0";

/// Runs the node until it is told to stop.
///
/// # Errors
/// What keeps it from starting, with cause and cure; or why it had to stop.
pub(crate) async fn run(settings: Settings) -> anyhow::Result<()> {
    let settings = Arc::new(settings);
    let _lock = node::lock(&settings.lock_file)?;
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
    certificates(&settings, &api, &node, &tasks)?;

    tracing::info!(
        node = settings.node_name,
        version = crate::config::KUBELET_VERSION,
        "the node runs"
    );
    notify("READY=1");
    tasks.run_to_end().await.map_err(anyhow::Error::msg)
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
    if !settings.kubelet.pod_cidr.is_empty() && settings.kubeconfig.is_none() {
        let ranges: Result<Vec<IpNet>, _> = settings.kubelet.pod_cidr.split(',').map(str::parse).collect();
        for warning in network
            .set_pod_cidrs(&ranges.context("podCIDR")?)
            .context("set the pod ranges")?
        {
            tracing::warn!(%warning, "pod network");
        }
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
