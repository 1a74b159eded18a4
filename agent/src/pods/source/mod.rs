//! Where pods come from: the API server and the manifest directory, each a task that sends typed events.

mod api;
mod files;
mod manifest;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;

pub(crate) use self::api::watch_api;
pub(crate) use self::files::{read_limited, watch_files};
pub(crate) use self::manifest::{ManifestError, read_manifests};

/// Events a source may send ahead of their reader.
const BACKLOG: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Source {
    /// The API server: pods bound to this node, mirror pods among them.
    Api,
    /// The manifest directory: static pods.
    File,
}

/// What a source says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    /// A pod is new or has changed.
    Applied(Arc<Pod>),
    /// A pod is gone; as it was last seen.
    Removed(Arc<Pod>),
    /// All there is: a pod of this source that is not among them is gone. From then on the source is synced.
    Listed(Vec<Arc<Pod>>),
}

/// The sending end of a source.
pub(crate) type Sender = mpsc::Sender<(Source, Event)>;

/// A bounded channel from sources to the dispatcher.
pub(crate) fn channel() -> (Sender, mpsc::Receiver<(Source, Event)>) {
    mpsc::channel(BACKLOG)
}

/// The UID; every pod of a source has one.
pub(crate) fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}
