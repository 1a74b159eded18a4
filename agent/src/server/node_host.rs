//! The node behind the server: pods from their store, containers from the runtime.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use proto::cri;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::host::{ContainerLog, Host};
use crate::pods::Pods;
use crate::pods::runtime::Cri;
use crate::pods::store;

/// The dispatcher of pods looks up once a minute at least; after this time it hangs.
const LOOP_LIMIT: Duration = Duration::from_secs(300);

/// [`Host`] by the pods and the runtime of this node.
pub(crate) struct NodeHost {
    pods: Pods,
    runtime: Arc<dyn Cri>,
    endings: Arc<Endings>,
}

impl NodeHost {
    /// Begins to listen for ends of containers, for as long as the runtime tells of them.
    pub(crate) fn start(pods: Pods, runtime: Arc<dyn Cri>) -> Arc<Self> {
        let endings = Arc::new(Endings::default());
        tokio::spawn(Arc::clone(&endings).listen(Arc::clone(&runtime), runtime.events()));
        Arc::new(Self {
            pods,
            runtime,
            endings,
        })
    }
}

impl Host for NodeHost {
    fn pods(&self) -> Vec<Arc<Pod>> {
        self.pods
            .snapshot()
            .values()
            .map(|view| Arc::new(view.to_pod()))
            .collect()
    }

    fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        store::find(&self.pods.snapshot(), namespace, name).map(|view| Arc::new(view.to_pod()))
    }

    fn container_log<'a>(&'a self, container_id: &'a str) -> BoxFuture<'a, Option<ContainerLog>> {
        async move {
            // First the token, then the state: an end in between is heard by the token.
            let ended = self.endings.token(container_id);
            let status = status(self.runtime.as_ref(), container_id).await;
            if !is_live(status.as_ref()) {
                self.endings.end(container_id);
            }
            let path = PathBuf::from(status?.log_path);
            Some(ContainerLog { path, ended })
        }
        .boxed()
    }

    fn sync_loop(&self) -> Result<(), String> {
        let age = self.pods.loop_age();
        if age < LOOP_LIMIT {
            Ok(())
        } else {
            Err(format!("sync Loop took longer than expected: {age:?}"))
        }
    }
}

async fn status(runtime: &dyn Cri, container_id: &str) -> Option<cri::ContainerStatus> {
    let request = cri::ContainerStatusRequest {
        container_id: container_id.to_owned(),
        ..Default::default()
    };
    match runtime.container_status(request).await {
        Ok(response) => response.status,
        Err(error) if error.is_not_found() => None,
        Err(error) => {
            tracing::warn!(container_id, %error, "no status of a container whose log is asked for");
            None
        }
    }
}

/// Whether more can still come from it.
fn is_live(status: Option<&cri::ContainerStatus>) -> bool {
    let live = [
        cri::ContainerState::ContainerCreated,
        cri::ContainerState::ContainerRunning,
    ];
    status.is_some_and(|status| live.contains(&status.state()))
}

/// Who waits for the end of which container. An entry lives until its container ends.
#[derive(Default)]
struct Endings {
    tokens: Mutex<HashMap<String, CancellationToken>>,
}

impl Endings {
    /// The token of a container; cancelled once, by [`Endings::end`].
    fn token(&self, container_id: &str) -> CancellationToken {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.entry(container_id.to_owned()).or_default().clone()
    }

    /// The container has ended, or there is none.
    fn end(&self, container_id: &str) {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = tokens.remove(container_id) {
            token.cancel();
        }
    }

    fn waited_for(&self) -> Vec<String> {
        self.tokens
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .keys()
            .cloned()
            .collect()
    }

    async fn listen(
        self: Arc<Self>,
        runtime: Arc<dyn Cri>,
        mut events: broadcast::Receiver<cri::ContainerEventResponse>,
    ) {
        use cri::ContainerEventType::{ContainerDeletedEvent, ContainerStoppedEvent};
        loop {
            match events.recv().await {
                Ok(event)
                    if matches!(
                        event.container_event_type(),
                        ContainerStoppedEvent | ContainerDeletedEvent
                    ) =>
                {
                    self.end(&event.container_id);
                }
                Ok(_) => {}
                // Events were lost: ask again for all that somebody waits for.
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    for container_id in self.waited_for() {
                        if !is_live(status(runtime.as_ref(), &container_id).await.as_ref()) {
                            self.end(&container_id);
                        }
                    }
                }
                Err(broadcast::error::RecvError::Closed) => {
                    // No more news: let followers end rather than wait for ever.
                    self.waited_for()
                        .iter()
                        .for_each(|container_id| self.end(container_id));
                    return;
                }
            }
        }
    }
}
