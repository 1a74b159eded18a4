//! The recorder of events: callers never wait, floods are merged or dropped, repeats patch a count.
//! Words and limits are those of upstream's client-side correlator.

mod correlate;
mod sink;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use tokio::sync::mpsc;

use super::Api;
use sink::Sink;

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
pub(crate) struct Record {
    /// What it is about.
    pub(crate) object: ObjectReference,
    pub(crate) kind: EventKind,
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// Records events about pods and the node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Events {
    queue: mpsc::Sender<Record>,
}

/// Events that wait for the API server; more are dropped.
const BACKLOG: usize = 1000;

impl Events {
    /// Starts the recorder: at most `rate` posts a second after a burst of `burst`; a rate of 0 means no limit.
    pub(crate) fn start_limited(api: Arc<Api>, node_name: &str, rate: i32, burst: i32) -> Self {
        let (events, records) = Self::channel();
        tokio::spawn(Sink::new(api, node_name, rate, burst).run(records));
        events
    }

    /// A recorder that hands its records to the caller, in order.
    pub(crate) fn channel() -> (Self, mpsc::Receiver<Record>) {
        let (queue, records) = mpsc::channel(BACKLOG);
        (Self { queue }, records)
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
        tracing::info!(
            object = record.object.name,
            kind = kind.word(),
            reason,
            message = record.message,
            "event occurred"
        );
        if self.queue.try_send(record).is_err() {
            tracing::warn!(reason, "event dropped: too many wait for the API server");
        }
    }
}
