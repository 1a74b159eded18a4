//! The status loop: facts, plan, patch. Every `nodeStatusUpdateFrequency`, and at once when something has happened; posted
//! when changed, or every `nodeStatusReportFrequency`.

mod conditions;
pub(super) mod patch;
mod plan;
mod resources;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::api::Patch;
use tokio::sync::Notify;
use tokio::time::Instant;

pub(crate) use plan::{Facts, architecture, plan};

use super::address;
use super::machine::Machine;
use super::runtime::Runtime;
use crate::api::{Api, Error, Events, Objects};
use crate::config::Settings;

/// Tries of one turn of the loop.
const TRIES: usize = 5;
/// Turns while the node is not Ready yet, and how long they go on.
const FAST: Duration = Duration::from_millis(100);
const FAST_FOR: Duration = Duration::from_secs(120);
/// The machine's own facts are read again this often.
const MACHINE_FOR: Duration = Duration::from_secs(300);
/// Longest wait for one heartbeat's answer.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// All the loop needs.
pub(super) struct Loop {
    pub(super) settings: Arc<Settings>,
    pub(super) api: Arc<Api>,
    pub(super) objects: Arc<Objects>,
    pub(super) events: Events,
    pub(super) runtime: Arc<dyn Runtime>,
    /// Rung when something has happened that the status should tell at once.
    pub(super) wake: Arc<Notify>,
    pub(super) unenforced: Vec<String>,
    pub(super) machine: Mutex<Option<(Instant, Machine)>>,
    pub(super) addresses: Arc<Mutex<Vec<IpAddr>>>,
}

/// A node that was Ready before its agent was started anew is not called NotReady for what the start has yet to find out:
/// its pods would lose their Services for a moment.
const RESTART_GRACE: Duration = Duration::from_secs(10);

/// When the status was last posted, and how much later than usual the next is due: after a change that many nodes see at
/// once they would all report at once, too.
struct Posted {
    began: Instant,
    at: Option<Instant>,
    shift: f64,
}

impl Loop {
    /// Reads all facts.
    pub(super) async fn facts(&self) -> Facts {
        let (health, images) = tokio::join!(self.runtime.health(), self.runtime.images());
        let (health, health_error) = match health {
            Ok(health) => (Some(health), None),
            Err(error) => (None, Some(error)),
        };
        let images = images
            .inspect_err(|error| tracing::warn!(error, "images cannot be listed"))
            .ok();
        let addresses = address::choose(
            &address::Machine,
            &self.settings.node_ips,
            &self.settings.node_name,
        )
        .await;
        match &addresses {
            Ok(found) => self
                .addresses
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone_from(found),
            Err(error) => tracing::error!(error, "the node has no address"),
        }
        Facts {
            machine: self.machine(),
            addresses: Some(addresses),
            health,
            health_error,
            images,
            unenforced: self.unenforced.clone(),
            ..Facts::default()
        }
    }

    fn machine(&self) -> Machine {
        let mut cached = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        match &*cached {
            Some((at, machine)) if at.elapsed() < MACHINE_FOR => machine.clone(),
            _ => {
                let machine = Machine::read(Path::new("/"), &self.settings.root_dir);
                *cached = Some((Instant::now(), machine.clone()));
                machine
            }
        }
    }

    /// Keeps the status true, for ever.
    pub(super) async fn run(self: Arc<Self>) {
        let began = Instant::now();
        let mut posted = Posted {
            began,
            at: None,
            shift: 0.0,
        };
        let mut ready = false;
        loop {
            match self.turn(&mut posted).await {
                Ok(now_ready) => ready = now_ready,
                Err(error) => tracing::error!(%error, "the node's status could not be updated"),
            }
            let fast = !ready && began.elapsed() < FAST_FOR;
            let pause = if fast {
                FAST
            } else {
                self.settings.kubelet.node_status_update_frequency
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.wake.notified() => {}
            }
        }
    }

    /// One turn with its retries: the first from the cache, the others from the API server. Answers whether the node is
    /// Ready.
    async fn turn(&self, posted: &mut Posted) -> Result<bool, Error> {
        let name = &self.settings.node_name;
        let mut last = None;
        for try_number in 0..TRIES {
            let original = match self.objects.node().filter(|_| try_number == 0) {
                Some(node) => Some(Node::clone(&node)),
                None => self.api.get::<Node>(None, name).await?,
            };
            let Some(original) = original else {
                // Deleted under us: register anew, as upstream does only after a restart.
                last = Some(Error::Malformed {
                    operation: "update status of",
                    object: format!("Node {name}"),
                    cause: "it does not exist; it is registered when the agent is started".to_owned(),
                });
                break;
            };
            match self.try_turn(&original, posted).await {
                Ok(ready) => return Ok(ready),
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("each try that does not return leaves its error"))
    }

    async fn try_turn(&self, original: &Node, posted: &mut Posted) -> Result<bool, Error> {
        let (node, told) = plan(&self.settings, original, &self.facts().await, Timestamp::now());
        if is_ready(original) && !is_ready(&node) && posted.began.elapsed() < RESTART_GRACE {
            return Ok(false);
        }
        let changed = patch::differs(original, &node);
        if !changed && !posted.is_due(self.settings.kubelet.node_status_report_frequency) {
            return Ok(is_ready(&node));
        }
        let change = Patch::Strategic(patch::patch(original, &node));
        let name = &self.settings.node_name;
        let sent = self
            .api
            .patch_status::<Node, _>("api.patch_node_status", None, name, &change);
        match tokio::time::timeout(HEARTBEAT, sent).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error),
            Err(_) => {
                let object = format!("Node {name}");
                return Err(Error::Timeout {
                    operation: "patch status of",
                    object,
                    seconds: HEARTBEAT.as_secs(),
                });
            }
        }
        let first = posted.at.replace(Instant::now()).is_none();
        posted.shift = if changed || first {
            rand::random::<f64>() - 0.5
        } else {
            0.0
        };
        for one in told {
            self.events
                .record(&super::reference(name), one.kind, &one.reason, one.message);
        }
        Ok(is_ready(&node))
    }
}

impl Posted {
    fn is_due(&self, frequency: Duration) -> bool {
        self.at
            .is_none_or(|at| at.elapsed() >= frequency.mul_f64((1.0 + self.shift).max(0.0)))
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
