//! The pods of this node as everyone may read them: one writer at a time, readers see snapshots.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::watch;

use super::plan::Stage;
use super::plan::observed::State;
use super::source::Source;

/// One pod.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PodView {
    /// As its source has it; its status may be older than `status`.
    pub(crate) pod: Arc<Pod>,
    pub(crate) source: Source,
    /// As reported last.
    pub(crate) status: Arc<PodStatus>,
    pub(crate) stage: Stage,
    /// Containers known to the runtime, newest first.
    pub(crate) containers: Vec<ContainerView>,
}

/// One container of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContainerView {
    pub(crate) id: String,
    pub(crate) name: String,
    /// The restart count.
    pub(crate) attempt: u32,
    pub(crate) state: State,
    /// Its CRI log.
    pub(crate) log: PathBuf,
}

impl PodView {
    /// The pod with its newest status.
    pub(crate) fn to_pod(&self) -> Pod {
        Pod {
            status: Some((*self.status).clone()),
            ..(*self.pod).clone()
        }
    }
}

/// All pods by UID.
pub(crate) type Snapshot = BTreeMap<String, Arc<PodView>>;

#[derive(Debug, Default)]
pub(crate) struct Store {
    pods: ArcSwap<Snapshot>,
    writer: Mutex<()>,
    changes: watch::Sender<()>,
}

impl Store {
    /// All pods as they are now.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.pods.load_full()
    }

    /// Wakes after every change.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Puts in or replaces one pod.
    pub(crate) fn put(&self, uid: &str, view: PodView) {
        self.change(uid, Some(Arc::new(view)));
    }

    /// Takes one pod out.
    pub(crate) fn remove(&self, uid: &str) {
        self.change(uid, None);
    }

    fn change(&self, uid: &str, view: Option<Arc<PodView>>) {
        // The map is whole at every moment, whatever a panicking writer left.
        let turn = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pods = Snapshot::clone(&self.pods.load());
        match view {
            Some(view) => pods.insert(uid.to_owned(), view),
            None => pods.remove(uid),
        };
        self.pods.store(Arc::new(pods));
        drop(turn);
        self.changes.send_replace(());
    }
}

/// The pod of that namespace and name; the one that is not ending, if there are two.
pub(crate) fn find<'a>(snapshot: &'a Snapshot, namespace: &str, name: &str) -> Option<&'a Arc<PodView>> {
    let named = |view: &&Arc<PodView>| {
        let meta = &view.pod.metadata;
        meta.namespace.as_deref() == Some(namespace) && meta.name.as_deref() == Some(name)
    };
    snapshot.values().filter(named).min_by_key(|view| view.stage)
}
