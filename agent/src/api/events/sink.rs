//! Posts what the correlator lets through, one after the other, with patience for an API server that is away.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::Patch;
use serde_json::json;
use tokio::sync::mpsc;

use super::super::{Api, Error};
use super::Record;
use super::correlate::{Correlator, Counted};

/// Tries of one event while the API server is away, and the pause between them.
const TRIES: usize = 12;
const PAUSE: Duration = Duration::from_secs(10);

pub(super) struct Sink {
    api: Arc<Api>,
    node_name: String,
    /// Time one post costs, and how far costs may run ahead.
    cost: Duration,
    burst: Duration,
}

impl Sink {
    pub(super) fn new(api: Arc<Api>, node_name: &str, rate: i32, burst: i32) -> Self {
        let rate = u32::try_from(rate).unwrap_or(0);
        let cost = if rate == 0 {
            Duration::ZERO
        } else {
            Duration::from_secs(1) / rate
        };
        let burst = cost * u32::try_from(burst).unwrap_or(0);
        Self {
            api,
            node_name: node_name.to_owned(),
            cost,
            burst,
        }
    }

    /// Posts until all recorders are gone.
    pub(super) async fn run(self, mut records: mpsc::Receiver<Record>) {
        let mut correlator = Correlator::default();
        let mut paid = tokio::time::Instant::now();
        while let Some(record) = records.recv().await {
            if self.api.is_standalone() {
                continue;
            }
            let Some(counted) = correlator.observe(&record, Timestamp::now()) else {
                tracing::debug!(reason = record.reason, "event dropped: its object has too many");
                continue;
            };
            let now = tokio::time::Instant::now();
            paid = paid.max(now) + self.cost;
            if let Some(ahead) = paid.checked_duration_since(now + self.burst) {
                tokio::time::sleep(ahead).await;
            }
            match self.post(&record, &counted).await {
                Ok(name) => correlator.posted(&counted.key, Some(name)),
                Err(error) => tracing::warn!(%error, reason = record.reason, "event lost"),
            }
        }
    }

    /// Posts one event; answers the name of its object.
    async fn post(&self, record: &Record, counted: &Counted) -> Result<String, Error> {
        let mut last = None;
        for try_number in 0..TRIES {
            if try_number > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            match self.post_once(record, counted).await {
                Err(error) if error.is_transient() => last = Some(error),
                outcome => return outcome,
            }
        }
        Err(last.expect("each try that does not return leaves its error"))
    }

    async fn post_once(&self, record: &Record, counted: &Counted) -> Result<String, Error> {
        let namespace = namespace(record);
        if let Some(name) = &counted.existing {
            let change = json!({
                "count": counted.count,
                "message": counted.message,
                "lastTimestamp": Time(Timestamp::now()),
            });
            let patched = self
                .api
                .patch::<Event, _>(
                    "api.patch_event",
                    Some(namespace),
                    name,
                    &Patch::Strategic(change),
                )
                .await;
            match patched {
                Ok(_) => return Ok(name.clone()),
                // It has expired: a new one goes on with the count.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        let event = self.event(record, counted);
        let name = event.metadata.name.clone().unwrap_or_default();
        match self.api.create("api.create_event", Some(namespace), &event).await {
            Ok(_) => Ok(name),
            // An answer was lost: it is there.
            Err(error) if error.is_already_exists() => Ok(name),
            Err(error) => Err(error),
        }
    }

    fn event(&self, record: &Record, counted: &Counted) -> Event {
        let object = record.object.name.clone().unwrap_or_default();
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{object}.{:x}", counted.first.as_nanosecond())),
                namespace: Some(namespace(record).to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: record.object.clone(),
            reason: Some(record.reason.clone()),
            message: Some(counted.message.clone()),
            type_: Some(record.kind.word().to_owned()),
            source: Some(EventSource {
                component: Some("kubelet".to_owned()),
                host: Some(self.node_name.clone()),
            }),
            first_timestamp: Some(Time(counted.first)),
            last_timestamp: Some(Time(Timestamp::now())),
            count: Some(counted.count),
            reporting_component: Some("kubelet".to_owned()),
            reporting_instance: Some(self.node_name.clone()),
            ..Event::default()
        }
    }
}

/// Events about things without a namespace lie in `default`.
fn namespace(record: &Record) -> &str {
    record
        .object
        .namespace
        .as_deref()
        .filter(|name| !name.is_empty())
        .unwrap_or("default")
}
