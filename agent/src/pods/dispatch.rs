//! The one task that hears all sources and the runtime, and tells the right worker.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Pod};
use proto::cri;
use tokio::sync::{broadcast, mpsc, watch};

use super::admission::{self, Bench, Sysctls, is_static};
use super::mirror::{Mirrors, is_mirror};
use super::plan::{Verdict, is_terminal};
use super::runtime_config::{GRACE_ANNOTATION, POD_NAME_LABEL, POD_NAMESPACE_LABEL, POD_UID_LABEL};
use super::source::{Event, Source, uid};
use super::worker::{Context, Handle, Order};
use crate::api::{EventKind, Key};

/// Grace of a pod of which nobody knows a better one, seconds.
const SHORTEST_GRACE: i64 = 1;

/// UIDs that must not be cleaned up behind their workers' backs. `None` until all sources are known.
pub(crate) type Live = Arc<Mutex<Option<BTreeSet<String>>>>;

/// What the runtime had when the agent started, by UID.
pub(crate) type Found = BTreeMap<String, Arc<Pod>>;

pub(crate) struct Dispatcher {
    pub(crate) context: Arc<Context>,
    pub(crate) mirrors: Mirrors,
    pub(crate) sysctls: Sysctls,
    /// The node as it would register: judges static pods while there is no Node object.
    pub(crate) own_node: Arc<Node>,
    /// Sources that have to list before anything is called an orphan.
    pub(crate) expected: BTreeSet<Source>,
    pub(crate) synced: BTreeSet<Source>,
    pub(crate) found: Found,
    pub(crate) workers: BTreeMap<String, Handle>,
    /// Pods that have to wait: for the end of a namesake, or for the Node object.
    pub(crate) waiting: BTreeMap<String, (Source, Arc<Pod>)>,
    pub(crate) live: Live,
    pub(crate) ended: mpsc::UnboundedSender<String>,
    pub(crate) beat: Beat,
    /// Pods worked on or waiting; nothing before all sources are known.
    pub(crate) count: watch::Sender<Option<usize>>,
}

/// When the dispatcher's loop came round last: what the health check looks at.
#[derive(Clone)]
pub(crate) struct Beat(Arc<Mutex<Instant>>);

impl Beat {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    /// Time since then.
    pub(crate) fn age(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    fn beat(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

/// The loop comes round this often even if nothing happens.
const BEAT: Duration = Duration::from_secs(60);

/// The ears of the dispatcher.
pub(crate) struct Ears {
    pub(crate) sources: mpsc::Receiver<(Source, Event)>,
    pub(crate) runtime: broadcast::Receiver<cri::ContainerEventResponse>,
    /// UIDs of workers that are done. Unbounded: at most one a worker.
    pub(crate) ended: mpsc::UnboundedReceiver<String>,
}

/// One thing heard; nothing in place of what was missed.
enum Heard {
    Source((Source, Event)),
    Runtime(Option<Box<cri::ContainerEventResponse>>),
    Ended(String),
    Object(Option<Key>),
    Node,
}

impl Heard {
    fn of<T, U: From<T>>(
        received: Result<T, broadcast::error::RecvError>,
        heard: fn(Option<U>) -> Self,
    ) -> Option<Self> {
        match received {
            Ok(event) => Some(heard(Some(event.into()))),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(heard(None)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

impl Dispatcher {
    /// Runs until the sources are gone.
    pub(crate) async fn run(mut self, mut ears: Ears) {
        let mut objects = self.context.objects.changes();
        let mut node = self.context.objects.node_changes();
        let mut beats = tokio::time::interval(BEAT);
        loop {
            self.beat.beat();
            let heard = tokio::select! {
                _ = beats.tick() => continue,
                event = ears.sources.recv() => event.map(Heard::Source),
                event = ears.runtime.recv() => Heard::of(event, Heard::Runtime),
                uid = ears.ended.recv() => uid.map(Heard::Ended),
                key = objects.recv() => Heard::of(key, Heard::Object),
                changed = node.changed() => changed.ok().map(|()| Heard::Node),
            };
            // An ear that is closed for ever: the agent ends.
            let Some(heard) = heard else { return };
            self.take_in(heard);
            self.publish_live();
        }
    }

    fn take_in(&mut self, heard: Heard) {
        match heard {
            Heard::Source((source, event)) => self.hear(source, event),
            Heard::Runtime(Some(event)) => self.hear_runtime(&event),
            Heard::Runtime(None) => {
                tracing::warn!("events of the runtime were missed, all pods are looked at");
                self.workers.values().for_each(Handle::touch_all);
            }
            Heard::Ended(uid) => self.bury(&uid),
            Heard::Object(Some(key)) => self.touch_users(&self.context.objects.users_of(&key)),
            Heard::Object(None) => self.workers.values().for_each(Handle::touch_volumes),
            Heard::Node => self.retry_waiting(),
        }
    }

    fn touch_users(&self, uids: &[String]) {
        for handle in uids.iter().filter_map(|uid| self.workers.get(uid)) {
            handle.touch_volumes();
        }
    }

    fn hear(&mut self, source: Source, event: Event) {
        match event {
            Event::Applied(pod) => self.applied(source, &pod),
            Event::Removed(pod) => self.removed(source, &pod),
            Event::Listed(pods) => self.listed(source, pods),
        }
    }

    fn applied(&mut self, source: Source, pod: &Arc<Pod>) {
        if source == Source::Api && is_mirror(pod) {
            return self.mirrors.mirror_applied(pod);
        }
        match source {
            Source::Api => self.context.statuses.seen(uid(pod), pod),
            Source::File => self.mirrors.pod_applied(pod),
        }
        self.place(source, pod);
    }

    fn removed(&mut self, source: Source, pod: &Arc<Pod>) {
        if source == Source::Api && is_mirror(pod) {
            return self.mirrors.mirror_removed(pod);
        }
        match source {
            Source::Api => self.context.statuses.gone(uid(pod)),
            Source::File => self.mirrors.pod_removed(pod),
        }
        self.waiting.remove(uid(pod));
        if let Some(handle) = self.workers.get(uid(pod)) {
            let order = handle.order();
            let end = Some(order.end.unwrap_or(i64::MAX).min(grace(pod)));
            handle.give(Order {
                pod: Arc::clone(pod),
                listed: false,
                end,
                ..order
            });
        }
    }

    fn listed(&mut self, source: Source, mut pods: Vec<Arc<Pod>>) {
        let now: BTreeSet<&str> = pods.iter().map(|p| uid(p)).collect();
        let of_source = |order: &Order| order.source == Some(source) && order.listed;
        let working = self
            .workers
            .values()
            .map(Handle::order)
            .filter(of_source)
            .map(|o| o.pod);
        let waiting = self
            .waiting
            .values()
            .filter(|(s, _)| *s == source)
            .map(|(_, pod)| Arc::clone(pod));
        let gone: Vec<Arc<Pod>> = working.chain(waiting).filter(|p| !now.contains(uid(p))).collect();
        for pod in gone {
            self.removed(source, &pod);
        }
        if source == Source::Api {
            let mirrors: Vec<_> = pods.iter().filter(|p| is_mirror(p)).cloned().collect();
            self.mirrors.mirrors_listed(&mirrors);
            pods.retain(|p| !is_mirror(p));
        }
        // The oldest first: they were here first, so they fit first.
        pods.sort_by_key(|p| p.metadata.creation_timestamp.clone());
        for pod in &pods {
            self.applied(source, pod);
        }
        self.synced.insert(source);
        if self.expected.is_subset(&self.synced) {
            self.end_orphans();
        }
    }

    /// Gives a pod to its worker, or makes one.
    fn place(&mut self, source: Source, pod: &Arc<Pod>) {
        let uid = uid(pod);
        let end = pod.metadata.deletion_timestamp.as_ref().map(|_| grace(pod));
        if let Some(handle) = self.workers.get(uid) {
            let order = handle.order();
            if order.listed {
                handle.give(Order {
                    pod: Arc::clone(pod),
                    end: end.or(order.end),
                    ..order
                });
            } else {
                // The same static pod is back before its end: it begins again after it.
                self.waiting.insert(uid.to_owned(), (source, Arc::clone(pod)));
            }
            return;
        }
        let namesake = |order: &Order| {
            order.pod.metadata.name == pod.metadata.name
                && order.pod.metadata.namespace == pod.metadata.namespace
        };
        if self
            .workers
            .values()
            .map(Handle::order)
            .any(|order| namesake(&order))
        {
            self.waiting.insert(uid.to_owned(), (source, Arc::clone(pod)));
            return;
        }
        match self.judge(source, pod) {
            Some(verdict) => {
                let order = Order {
                    pod: Arc::clone(pod),
                    source: Some(source),
                    listed: true,
                    end,
                    verdict,
                };
                self.start(order);
            }
            None => {
                self.waiting.insert(uid.to_owned(), (source, Arc::clone(pod)));
            }
        }
    }

    /// Whether a pod that is new here may run: a verdict if it may not; nothing if that cannot be said yet.
    fn judge(&self, source: Source, pod: &Arc<Pod>) -> Option<Option<Verdict>> {
        let status = pod.status.as_ref();
        let accepted = status.is_some_and(|s| s.start_time.is_some());
        if accepted || self.found.contains_key(uid(pod)) || pod.metadata.deletion_timestamp.is_some() {
            return Some(None);
        }
        let node = match (self.context.objects.node(), source) {
            (Some(node), _) => node,
            (None, Source::File) => Arc::clone(&self.own_node),
            (None, Source::Api) => return None,
        };
        let others = self.running();
        let bench = Bench {
            node: &node,
            others: &others,
            sysctls: &self.sysctls,
        };
        let rejection = admission::admit(pod, &bench).err();
        if let Some(rejection) = &rejection {
            self.context.event(
                pod,
                None,
                EventKind::Warning,
                &rejection.reason,
                &rejection.message,
            );
        }
        Some(rejection.map(|r| r.verdict()))
    }

    /// Pods that take room: admitted and not over.
    fn running(&self) -> Vec<Arc<Pod>> {
        let store = self.context.store.snapshot();
        let over = |uid: &str| {
            let phase = store.get(uid).and_then(|view| view.status.phase.clone());
            phase.is_some_and(|phase| is_terminal(&phase))
        };
        let orders = self
            .workers
            .iter()
            .filter(|(uid, _)| !over(uid))
            .map(|(_, handle)| handle.order());
        orders
            .filter(|o| o.verdict.is_none() && o.source.is_some())
            .map(|o| o.pod)
            .collect()
    }

    fn start(&mut self, order: Order) {
        let uid = uid(&order.pod).to_owned();
        // What was accepted before may have left something, also where the runtime has forgotten it.
        let accepted = order.pod.status.as_ref().is_some_and(|s| s.start_time.is_some());
        let known = self.found.remove(&uid).is_some() || accepted || is_static(&order.pod);
        let ended = self.ended.clone();
        let handle = Handle::start(Arc::clone(&self.context), order, known, move |uid| {
            // Nobody to tell: the agent ends.
            let _ = ended.send(uid);
        });
        self.workers.insert(uid, handle);
    }

    /// Ends what the runtime has and no source names.
    fn end_orphans(&mut self) {
        let waiting: BTreeSet<String> = self.waiting.keys().cloned().collect();
        let orphans: Vec<Arc<Pod>> = self
            .found
            .iter()
            .filter(|(uid, _)| !waiting.contains(*uid))
            .map(|(_, pod)| Arc::clone(pod))
            .collect();
        for pod in orphans {
            tracing::info!(uid = uid(&pod), "no source names this pod any more, it ends");
            let end = Some(grace(&pod));
            self.start(Order {
                pod,
                source: None,
                listed: false,
                end,
                verdict: None,
            });
        }
    }

    /// A worker is done: its pod is gone.
    fn bury(&mut self, uid: &str) {
        self.workers.remove(uid);
        self.context.store.remove(uid);
        self.context.statuses.forget(uid);
        if let Some(pod) = self
            .waiting
            .get(uid)
            .filter(|(s, _)| *s == Source::File)
            .map(|(_, pod)| Arc::clone(pod))
        {
            // Forgetting the old status has forgotten the mirror's too.
            self.mirrors.pod_applied(&pod);
        }
        self.retry_waiting();
    }

    fn retry_waiting(&mut self) {
        for (source, pod) in std::mem::take(&mut self.waiting).into_values() {
            self.place(source, &pod);
        }
    }

    fn hear_runtime(&self, event: &cri::ContainerEventResponse) {
        let sandbox = event.pod_sandbox_status.as_ref();
        let uid = sandbox.and_then(|s| {
            s.labels
                .get(POD_UID_LABEL)
                .or(s.metadata.as_ref().map(|m| &m.uid))
        });
        let Some(handle) = uid.and_then(|uid| self.workers.get(uid)) else {
            return;
        };
        handle.touch(&event.container_id);
    }

    fn publish_live(&self) {
        if !self.expected.is_subset(&self.synced) {
            return;
        }
        let uids = self.workers.keys().chain(self.waiting.keys()).cloned().collect();
        *self.live.lock().unwrap_or_else(PoisonError::into_inner) = Some(uids);
        self.count
            .send_replace(Some(self.workers.len() + self.waiting.len()));
    }
}

/// How long the pod may take to end, seconds: what its deletion says, else its spec.
fn grace(pod: &Pod) -> i64 {
    let spec = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
    pod.metadata
        .deletion_grace_period_seconds
        .or(spec)
        .unwrap_or(SHORTEST_GRACE)
        .max(SHORTEST_GRACE)
}

/// What the runtime has, as far as its labels tell.
pub(crate) fn found(sandboxes: &[cri::PodSandbox], containers: &[cri::Container]) -> Found {
    let mut found = Found::new();
    let pods = sandboxes
        .iter()
        .map(|s| &s.labels)
        .chain(containers.iter().map(|c| &c.labels));
    for labels in pods {
        let Some(uid) = labels.get(POD_UID_LABEL) else {
            continue;
        };
        let annotations = containers
            .iter()
            .filter(|c| c.labels.get(POD_UID_LABEL) == Some(uid));
        let grace = annotations
            .filter_map(|c| c.annotations.get(GRACE_ANNOTATION)?.parse().ok())
            .max();
        found
            .entry(uid.clone())
            .or_insert_with(|| Arc::new(remnant(uid, labels, grace)));
    }
    found
}

/// A pod of which only the runtime knows.
fn remnant(uid: &str, labels: &std::collections::HashMap<String, String>, grace: Option<i64>) -> Pod {
    let label = |name: &str| labels.get(name).cloned();
    let mut pod = Pod::default();
    pod.metadata.uid = Some(uid.to_owned());
    pod.metadata.name = label(POD_NAME_LABEL);
    pod.metadata.namespace = label(POD_NAMESPACE_LABEL);
    pod.spec.get_or_insert_default().termination_grace_period_seconds = Some(grace.unwrap_or(SHORTEST_GRACE));
    pod
}
