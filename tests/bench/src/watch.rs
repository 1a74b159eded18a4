//! One watch of the bench's pods that stamps each change with the time it arrived.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ListParams, WatchEvent, WatchParams};
use tokio::sync::watch;

/// When each pod, by name, was first seen Ready and gone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) ready: HashMap<String, Instant>,
    pub(crate) gone: HashMap<String, Instant>,
}

/// The running watch; it ends when this is dropped.
pub(crate) struct PodWatch {
    seen: watch::Receiver<Seen>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for PodWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl PodWatch {
    /// Watches the pods of `api` from now on.
    pub(crate) async fn start(api: Api<Pod>) -> anyhow::Result<Self> {
        let version = api
            .list(&ListParams::default().limit(1))
            .await
            .context("list pods")?
            .metadata
            .resource_version;
        let (sender, seen) = watch::channel(Seen::default());
        let task = tokio::spawn(async move {
            if let Err(error) = follow(&api, version.unwrap_or_default(), &Arc::new(sender)).await {
                eprintln!("bench: watch of pods ended: {error:#}");
            }
        });
        Ok(Self { seen, task })
    }

    /// Waits until `done` holds of what was seen.
    pub(crate) async fn until(&mut self, done: impl Fn(&Seen) -> bool) -> anyhow::Result<Seen> {
        let limit = std::time::Duration::from_secs(180);
        let seen = tokio::time::timeout(limit, self.seen.wait_for(|seen| done(seen)))
            .await
            .context("pods did not get there in 180 s")?
            .context("the watch ended")?;
        Ok(seen.clone())
    }
}

async fn follow(api: &Api<Pod>, version: String, sender: &watch::Sender<Seen>) -> anyhow::Result<()> {
    let mut version = version;
    loop {
        let mut events = Box::pin(api.watch(&WatchParams::default().timeout(290), &version).await?);
        while let Some(event) = events.try_next().await? {
            let now = Instant::now();
            match event {
                WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
                    version = pod.metadata.resource_version.clone().unwrap_or(version);
                    if is_ready(&pod) {
                        let name = pod.metadata.name.unwrap_or_default();
                        sender.send_modify(|seen| _ = seen.ready.entry(name).or_insert(now));
                    }
                }
                WatchEvent::Deleted(pod) => {
                    version = pod.metadata.resource_version.clone().unwrap_or(version);
                    sender
                        .send_modify(|seen| _ = seen.gone.insert(pod.metadata.name.unwrap_or_default(), now));
                }
                WatchEvent::Bookmark(mark) => version = mark.metadata.resource_version,
                WatchEvent::Error(status) => anyhow::bail!("{status:?}"),
            }
        }
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
