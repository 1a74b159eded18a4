//! The floor: a node that does nothing but say Ready, through the same client. What a pod takes on it is the API
//! server's share of every other figure.

use anyhow::Context as _;
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Client, ResourceExt as _};
use serde_json::json;

/// Name of its Node object.
pub(crate) const NAME: &str = "null";

/// Registers the node, and answers for its pods until the task is aborted.
pub(crate) async fn start(client: Client) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    let nodes: Api<Node> = Api::all(client.clone());
    let node: Node = serde_json::from_value(json!({
        "metadata": {"name": NAME, "labels": {"longshore.dev/bench": "null"}},
        "spec": {"taints": [{"key": "longshore.dev/bench", "effect": "NoSchedule"}]},
    }))?;
    match nodes.create(&PostParams::default(), &node).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => return Err(error).context("register the null node"),
    }
    Ok(tokio::spawn(async move {
        if let Err(error) = answer(client).await {
            eprintln!("bench: null node ended: {error:#}");
        }
    }))
}

/// Takes the node away again.
pub(crate) async fn remove(client: Client) -> anyhow::Result<()> {
    let nodes: Api<Node> = Api::all(client);
    nodes
        .delete(NAME, &DeleteParams::default())
        .await
        .context("delete the null node")?;
    Ok(())
}

async fn answer(client: Client) -> anyhow::Result<()> {
    let all: Api<Pod> = Api::all(client.clone());
    let params = WatchParams::default().fields(&format!("spec.nodeName={NAME}"));
    loop {
        let mut events = Box::pin(all.watch(&params, "0").await?);
        while let Some(event) = events.try_next().await? {
            if let WatchEvent::Added(pod) | WatchEvent::Modified(pod) = event {
                let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
                // A pod may be gone by the time its answer comes; the bench then sees that by itself.
                let _ = settle(&api, &pod).await;
            }
        }
    }
}

async fn settle(api: &Api<Pod>, pod: &Pod) -> kube::Result<()> {
    let name = pod.name_any();
    if pod.metadata.deletion_timestamp.is_some() {
        let now = DeleteParams {
            grace_period_seconds: Some(0),
            ..DeleteParams::default()
        };
        api.delete(&name, &now).await?;
    } else if pod.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Running") {
        let condition = |kind: &str| json!({"type": kind, "status": "True"});
        let status = json!({"status": {"phase": "Running", "conditions": [condition("ContainersReady"), condition("Ready")]}});
        api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(status))
            .await?;
    }
    Ok(())
}
