//! Tells the API server how pods are: the newest status wins, one request a pod at a time, sent at once.
//!
//! A request in flight gathers what changes meanwhile; a limit on requests does the same when many pods change.
//! No object is read first: the patch is made against what the watch or the last answer showed.

mod patch;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::Patch;
use serde_json::Value;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use super::plan::is_terminal;
use super::source::uid;
use crate::api::{self, Api};

/// Requests at once.
const PARALLEL: usize = 16;
/// How long a status without news for anyone may wait for a better one.
const CALM: Duration = Duration::from_millis(100);
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// One pod's way to the API server.
struct Slot {
    namespace: String,
    name: String,
    /// UID of the API object: the pod's own, for a static pod its mirror's; `None` while there is none.
    target: Option<String>,
    is_mirror: bool,
    /// What the API server has, as far as known.
    api: PodStatus,
    /// Of `api`; versions of one object grow.
    version: u64,
    deleting: bool,
    /// The removal was sent: what keeps the object now is a finalizer of someone else.
    removed: bool,
    ours: Option<PodStatus>,
    /// The pod is down and cleaned up.
    finished: bool,
    /// Not before then, unless something more urgent comes.
    not_before: Instant,
    sending: bool,
    retry: Duration,
    news: Arc<Notify>,
}

/// What to send next.
enum Job {
    Patch {
        namespace: String,
        name: String,
        body: Value,
    },
    Delete {
        namespace: String,
        name: String,
        uid: String,
    },
}

/// The status manager. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Statuses {
    api: Arc<Api>,
    slots: Arc<Mutex<BTreeMap<String, Slot>>>,
    permits: Arc<Semaphore>,
}

impl Statuses {
    pub(crate) fn new(api: Arc<Api>) -> Self {
        Self {
            api,
            slots: Arc::default(),
            permits: Arc::new(Semaphore::new(PARALLEL)),
        }
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<String, Slot>> {
        // Each change leaves the map whole.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The API object of pod `uid` as a watch showed it: its own, or the mirror of a static pod.
    pub(crate) fn seen(&self, uid: &str, object: &Pod) {
        let wake = {
            let mut slots = self.slots();
            let slot = slots.entry(uid.to_owned()).or_insert_with(|| Slot::new(object));
            slot.see(object)
        };
        if wake {
            self.send(uid);
        }
    }

    /// The API object of pod `uid` is gone.
    pub(crate) fn gone(&self, uid: &str) {
        let mut slots = self.slots();
        if let Some(slot) = slots.get_mut(uid) {
            slot.target = None;
            slot.version = 0;
            slot.api = PodStatus::default();
        }
    }

    /// Forgets the pod.
    pub(crate) fn forget(&self, uid: &str) {
        self.slots().remove(uid);
    }

    /// Reports a status; with `finished` the API object may be removed if that was asked for.
    pub(crate) fn report(&self, pod: &Pod, status: PodStatus, finished: bool) {
        if self.api.is_standalone() {
            return;
        }
        let uid = uid(pod).to_owned();
        {
            let mut slots = self.slots();
            let slot = slots.entry(uid.clone()).or_insert_with(|| Slot::new(pod));
            if slot.ours.is_none() && is_calm(&status) {
                slot.not_before = Instant::now() + CALM;
            } else if !is_calm(&status) {
                slot.not_before = Instant::now();
            }
            slot.ours = Some(status);
            slot.finished |= finished;
            slot.news.notify_one();
        }
        self.send(&uid);
    }

    /// Starts the sender of a pod, unless it is at work.
    fn send(&self, uid: &str) {
        let mut slots = self.slots();
        let Some(slot) = slots.get_mut(uid).filter(|s| !s.sending && s.job().is_some()) else {
            return;
        };
        slot.sending = true;
        drop(slots);
        let (this, uid) = (self.clone(), uid.to_owned());
        tokio::spawn(async move { this.send_all(&uid).await });
    }

    /// Sends until the API server has it all.
    async fn send_all(&self, uid: &str) {
        loop {
            self.calm_down(uid).await;
            let Ok(_permit) = self.permits.acquire().await else {
                return;
            };
            let job = {
                let mut slots = self.slots();
                let Some(slot) = slots.get_mut(uid) else { return };
                let job = slot.job();
                slot.sending = job.is_some();
                job
            };
            let Some(job) = job else { return };
            match self.perform(uid, job).await {
                Ok(()) => {}
                Err(error) if error.is_not_found() || error.is_conflict() => {
                    // Another pod of that name, or none: the watch will tell.
                    self.gone(uid);
                }
                Err(error) => self.back_off(uid, &error).await,
            }
        }
    }

    /// Waits while only news without urgency are to be sent.
    async fn calm_down(&self, uid: &str) {
        loop {
            let (until, news) = match self.slots().get(uid) {
                Some(slot) => (slot.not_before, Arc::clone(&slot.news)),
                None => return,
            };
            if until <= Instant::now() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                () = news.notified() => {}
            }
        }
    }

    async fn perform(&self, uid: &str, job: Job) -> Result<(), api::Error> {
        match job {
            Job::Patch {
                namespace,
                name,
                body,
            } => {
                let patch = Patch::Strategic(&body);
                let pod: Pod = self
                    .api
                    .patch_status("api.patch_pod_status", Some(&namespace), &name, &patch)
                    .await?;
                if let Some(slot) = self.slots().get_mut(uid) {
                    slot.retry = FIRST_RETRY;
                    slot.see(&pod);
                }
            }
            Job::Delete {
                namespace,
                name,
                uid: target,
            } => {
                self.api
                    .delete::<Pod>("api.delete_pod", Some(&namespace), &name, &target)
                    .await?;
                if let Some(slot) = self.slots().get_mut(uid) {
                    slot.removed = true;
                }
            }
        }
        Ok(())
    }

    async fn back_off(&self, uid: &str, error: &api::Error) {
        let (delay, name) = {
            let mut slots = self.slots();
            let Some(slot) = slots.get_mut(uid) else { return };
            let delay = slot.retry;
            slot.retry = (delay * 2).min(LAST_RETRY);
            (delay, format!("{}/{}", slot.namespace, slot.name))
        };
        tracing::warn!(
            pod = name,
            error = error as &dyn std::error::Error,
            "pod status not sent, will retry"
        );
        tokio::time::sleep(delay.mul_f64(1.0 + rand::random::<f64>() / 2.0)).await;
    }
}

impl Slot {
    fn new(pod: &Pod) -> Self {
        let meta = &pod.metadata;
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            target: None,
            is_mirror: false,
            api: PodStatus::default(),
            version: 0,
            deleting: false,
            removed: false,
            ours: None,
            finished: false,
            not_before: Instant::now(),
            sending: false,
            retry: FIRST_RETRY,
            news: Arc::new(Notify::new()),
        }
    }

    /// Takes over what an API object shows, unless a newer one is known; whether there may be more to send.
    fn see(&mut self, object: &Pod) -> bool {
        let meta = &object.metadata;
        let version = meta
            .resource_version
            .as_ref()
            .and_then(|v| v.parse().ok())
            .unwrap_or(u64::MAX);
        let same = meta.uid == self.target;
        if same && version < self.version {
            return false;
        }
        let deleting = meta.deletion_timestamp.is_some();
        let changed = !same || (deleting && !self.deleting);
        self.is_mirror = meta
            .annotations
            .as_ref()
            .is_some_and(|a| a.contains_key(super::mirror::MIRROR));
        self.deleting = deleting;
        self.removed &= same;
        self.version = version;
        self.target.clone_from(&meta.uid);
        self.api = object.status.clone().unwrap_or_default();
        changed
    }

    fn job(&self) -> Option<Job> {
        let (namespace, name) = (self.namespace.clone(), self.name.clone());
        let (target, ours) = (self.target.clone()?, self.ours.as_ref()?);
        if let Some(body) = patch::patch(&target, &self.api, ours) {
            return Some(Job::Patch {
                namespace,
                name,
                body,
            });
        }
        let terminal = self.api.phase.as_deref().is_some_and(is_terminal);
        let remove = self.deleting && !self.removed && self.finished && terminal && !self.is_mirror;
        remove.then_some(Job::Delete {
            namespace,
            name,
            uid: target,
        })
    }
}

/// A pod that has only been accepted: most are running before anyone could read that.
fn is_calm(status: &PodStatus) -> bool {
    let states = status
        .container_statuses
        .iter()
        .flatten()
        .chain(status.init_container_statuses.iter().flatten());
    let mut reasons = states.map(|s| {
        let waiting = s.state.as_ref().and_then(|s| s.waiting.as_ref());
        waiting.and_then(|w| w.reason.as_deref()).unwrap_or_default()
    });
    status.phase.as_deref() == Some("Pending")
        && status.reason.is_none()
        && reasons.all(|reason| matches!(reason, "ContainerCreating" | "PodInitializing"))
}
