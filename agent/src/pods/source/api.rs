//! Pods bound to this node, by list and watch.

use std::sync::Arc;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};

use super::{Event, Sender, Source};

/// Objects asked for in one answer.
const PAGE: u32 = 100;

/// Watches for ever, with back-off after failures; ends when nobody listens any more.
pub(crate) async fn watch_api(client: Client, node_name: String, events: Sender) {
    let mut config = watcher::Config::default().fields(&format!("spec.nodeName={node_name}"));
    config.page_size = Some(PAGE);
    let mut stream = std::pin::pin!(watcher(Api::<Pod>::all(client), config).default_backoff());
    let mut list = Vec::new();
    while let Some(event) = stream.next().await {
        let event = match event {
            Ok(watcher::Event::Apply(pod)) => Event::Applied(Arc::new(pod)),
            Ok(watcher::Event::Delete(pod)) => Event::Removed(Arc::new(pod)),
            Ok(watcher::Event::Init) => {
                list.clear();
                continue;
            }
            Ok(watcher::Event::InitApply(pod)) => {
                list.push(Arc::new(pod));
                continue;
            }
            Ok(watcher::Event::InitDone) => Event::Listed(std::mem::take(&mut list)),
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "watching pods failed, will retry"
                );
                continue;
            }
        };
        if events.send((Source::Api, event)).await.is_err() {
            return;
        }
    }
}
