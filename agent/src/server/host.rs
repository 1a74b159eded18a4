//! What the server needs to know of the node, and nothing more.

use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use tokio_util::sync::CancellationToken;

/// Where a container's log is.
#[derive(Clone, Debug)]
pub(crate) struct ContainerLog {
    /// Absolute, below the pod log directory.
    pub(crate) path: PathBuf,
    /// Cancelled once the container has ended and all of its output is in the file. Cancelled from the start for one
    /// that has ended before.
    pub(crate) ended: CancellationToken,
}

/// The node behind the server.
pub(crate) trait Host: Send + Sync {
    /// The desired pods with their newest status. A static pod appears as itself, not as its mirror.
    fn pods(&self) -> Vec<Arc<Pod>>;

    /// One of them by name.
    fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        self.pods().into_iter().find(|pod| {
            pod.metadata.name.as_deref() == Some(name)
                && pod.metadata.namespace.as_deref().unwrap_or("default") == namespace
        })
    }

    /// The log of a container by the engine's id (without `longshore://`); `None` for one it does not know (any more).
    fn container_log<'a>(&'a self, container_id: &'a str) -> BoxFuture<'a, Option<ContainerLog>>;

    /// Whether pods are being worked on; the error says what hangs.
    fn sync_loop(&self) -> Result<(), String>;
}
