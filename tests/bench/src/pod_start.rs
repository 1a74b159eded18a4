//! Pod create call → Ready and delete call → gone, one by one and as a burst, per node; the image is present and the
//! pods name their node, so that the scheduler's share is out of the figures.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::Client;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::json;

use crate::watch::PodWatch;
use crate::{daemons, null_node};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Nodes to measure, LABEL=NODE-NAME[:PID-OF-ITS-INIT]; the first is ours, the others its peers
    #[arg(long = "node", required = true)]
    nodes: Vec<String>,
    /// Pods started one by one on each node
    #[arg(long, default_value_t = 20)]
    count: usize,
    /// Pods of the burst
    #[arg(long, default_value_t = 30)]
    burst: usize,
    /// Image of the pods: a shell at /bin/sh
    #[arg(long, default_value = "busybox:latest")]
    image: String,
}

struct Node {
    label: String,
    name: String,
    init: Option<u32>,
}

/// Milliseconds, sorted.
struct Sample(Vec<f64>);

impl Sample {
    fn new(times: impl IntoIterator<Item = Duration>) -> Self {
        let mut millis: Vec<f64> = times.into_iter().map(|time| time.as_secs_f64() * 1e3).collect();
        millis.sort_by(f64::total_cmp);
        Self(millis)
    }

    /// The value below which the share `q` of the sample lies.
    fn quantile(&self, q: f64) -> f64 {
        let last = self.0.len().saturating_sub(1);
        self.0
            .get((last as f64 * q).round() as usize)
            .copied()
            .unwrap_or(f64::NAN)
    }
}

struct Figures {
    ready: Sample,
    gone: Sample,
    burst_ready: Sample,
    burst_gone: Sample,
    memory: Vec<(String, daemons::Memory)>,
}

const NAMESPACE: &str = "bench-pod-start";

pub(crate) async fn run(client: Client, args: &Args) -> anyhow::Result<()> {
    let mut nodes = args
        .nodes
        .iter()
        .map(|text| parse_node(text))
        .collect::<anyhow::Result<Vec<_>>>()?;
    nodes.push(Node {
        label: "null (floor)".into(),
        name: null_node::NAME.into(),
        init: None,
    });
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": NAMESPACE}}))?;
    namespaces
        .create(&PostParams::default(), &namespace)
        .await
        .context("create the bench's namespace")?;
    wait_for_account(&client).await?;
    let floor = null_node::start(client.clone()).await?;
    let mut rows = Vec::new();
    for node in &nodes {
        rows.push((
            node,
            measure(&client, node, args)
                .await
                .with_context(|| format!("measure {}", node.label))?,
        ));
    }
    floor.abort();
    null_node::remove(client.clone()).await?;
    namespaces
        .delete(NAMESPACE, &DeleteParams::default())
        .await
        .context("delete the bench's namespace")?;
    print(&rows, args);
    Ok(())
}

fn parse_node(text: &str) -> anyhow::Result<Node> {
    let (label, rest) = text
        .split_once('=')
        .with_context(|| format!("--node {text}: want LABEL=NAME[:PID]"))?;
    let (name, init) = match rest.split_once(':') {
        Some((name, pid)) => (
            name,
            Some(pid.parse().with_context(|| format!("--node {text}: pid"))?),
        ),
        None => (rest, None),
    };
    Ok(Node {
        label: label.into(),
        name: name.into(),
        init,
    })
}

/// Pods are refused until the namespace's default ServiceAccount exists.
async fn wait_for_account(client: &Client) -> anyhow::Result<()> {
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> =
        Api::namespaced(client.clone(), NAMESPACE);
    for _ in 0..100 {
        if accounts.get_opt("default").await?.is_some() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("namespace {NAMESPACE} got no default ServiceAccount in 10 s")
}

async fn measure(client: &Client, node: &Node, args: &Args) -> anyhow::Result<Figures> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let mut watch = PodWatch::start(pods.clone()).await?;
    let short = node.name.to_lowercase();
    // The first start brings image and caches in and is not counted.
    one(&pods, &mut watch, node, &format!("{short}-warm"), args).await?;
    let mut singles = Vec::new();
    for i in 0..args.count {
        singles.push(one(&pods, &mut watch, node, &format!("{short}-one-{i}"), args).await?);
    }
    let (burst_ready, burst_gone, memory) = burst(&pods, &mut watch, node, args).await?;
    Ok(Figures {
        ready: Sample::new(singles.iter().map(|(ready, _)| *ready)),
        gone: Sample::new(singles.iter().map(|(_, gone)| *gone)),
        burst_ready,
        burst_gone,
        memory,
    })
}

fn pod(name: &str, node: &Node, image: &str) -> anyhow::Result<Pod> {
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "nodeName": node.name,
            "containers": [{
                "name": "main", "image": image, "imagePullPolicy": "IfNotPresent",
                // Ends at once on SIGTERM, so that delete → gone has no grace period in it.
                "command": ["/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 3600 & wait; done"],
            }],
        },
    }))?)
}

async fn one(
    pods: &Api<Pod>,
    watch: &mut PodWatch,
    node: &Node,
    name: &str,
    args: &Args,
) -> anyhow::Result<(Duration, Duration)> {
    let object = pod(name, node, &args.image)?;
    let created = Instant::now();
    pods.create(&PostParams::default(), &object)
        .await
        .with_context(|| format!("create pod {name}"))?;
    let seen = watch.until(|seen| seen.ready.contains_key(name)).await?;
    let deleted = Instant::now();
    pods.delete(name, &DeleteParams::default())
        .await
        .with_context(|| format!("delete pod {name}"))?;
    let ready = seen.ready[name] - created;
    let seen = watch.until(|seen| seen.gone.contains_key(name)).await?;
    Ok((ready, seen.gone[name] - deleted))
}

async fn burst(
    pods: &Api<Pod>,
    watch: &mut PodWatch,
    node: &Node,
    args: &Args,
) -> anyhow::Result<(Sample, Sample, Vec<(String, daemons::Memory)>)> {
    let names: Vec<String> = (0..args.burst)
        .map(|i| format!("{}-burst-{i}", node.name))
        .collect();
    let created = try_join_all(names.iter().map(|name| async move {
        let object = pod(name, node, &args.image)?;
        let start = Instant::now();
        pods.create(&PostParams::default(), &object).await?;
        anyhow::Ok(start)
    }))
    .await
    .context("create the burst")?;
    let seen = watch
        .until(|seen| names.iter().all(|name| seen.ready.contains_key(name)))
        .await?;
    let ready = Sample::new(
        names
            .iter()
            .zip(&created)
            .map(|(name, start)| seen.ready[name] - *start),
    );
    let memory = node
        .init
        .map(daemons::of_node)
        .transpose()?
        .unwrap_or_default()
        .into_iter()
        .collect();
    let deleted = try_join_all(names.iter().map(|name| async move {
        let start = Instant::now();
        pods.delete(name, &DeleteParams::default()).await?;
        anyhow::Ok(start)
    }))
    .await
    .context("delete the burst")?;
    let seen = watch
        .until(|seen| names.iter().all(|name| seen.gone.contains_key(name)))
        .await?;
    let gone = Sample::new(
        names
            .iter()
            .zip(&deleted)
            .map(|(name, start)| seen.gone[name] - *start),
    );
    Ok((ready, gone, memory))
}

fn print(rows: &[(&Node, Figures)], args: &Args) {
    println!(
        "pod create call → Ready, delete call → gone; ms; {} one by one, then a burst of {}",
        args.count, args.burst
    );
    println!(
        "{:<28} {:>9} {:>9} {:>9} {:>9} {:>10} {:>10} {:>10}",
        "node", "ready p50", "p90", "gone p50", "p90", "burst p50", "burst max", "burst gone"
    );
    for (node, figures) in rows {
        println!(
            "{:<28} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {:>10.1} {:>10.1} {:>10.1}",
            node.label,
            figures.ready.quantile(0.5),
            figures.ready.quantile(0.9),
            figures.gone.quantile(0.5),
            figures.gone.quantile(0.9),
            figures.burst_ready.quantile(0.5),
            figures.burst_ready.quantile(1.0),
            figures.burst_gone.quantile(0.5),
        );
    }
    if let [(ours, first), others @ ..] = rows {
        for (node, figures) in others {
            let ratio =
                |pick: fn(&Figures) -> &Sample| pick(first).quantile(0.5) / pick(figures).quantile(0.5);
            println!(
                "{} / {}: ready {:.3}, gone {:.3}, burst ready {:.3}, burst gone {:.3}",
                ours.label,
                node.label,
                ratio(|f| &f.ready),
                ratio(|f| &f.gone),
                ratio(|f| &f.burst_ready),
                ratio(|f| &f.burst_gone),
            );
        }
    }
    println!("memory of the node's daemons with {} pods, MB:", args.burst);
    for (node, figures) in rows {
        for (program, memory) in &figures.memory {
            println!(
                "{:<28} {program:<18} {:>4} processes, resident {:>7.1}, private {:>7.1}",
                node.label,
                memory.processes,
                memory.resident as f64 / 1e3,
                memory.private as f64 / 1e3,
            );
        }
    }
}
