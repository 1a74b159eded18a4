//! The outside of a worker: orders go in, and word of what has changed.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{Notify, watch};

use super::super::plan::Verdict;
use super::super::source::Source;
use super::{Context, Worker};

/// What the dispatcher wants of a pod; the newest order is the one that counts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Order {
    pub(crate) pod: Arc<Pod>,
    /// `None` for what the runtime has and no source names.
    pub(crate) source: Option<Source>,
    pub(crate) listed: bool,
    /// It has to end with this grace period, seconds.
    pub(crate) end: Option<i64>,
    pub(crate) verdict: Option<Verdict>,
}

/// What has changed in the world, gathered until the worker looks.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Containers and sandboxes by id.
    pub(super) ids: BTreeSet<String>,
    /// Anything may have.
    pub(super) all: bool,
    /// Objects that its volumes show.
    pub(super) volumes: bool,
}

#[derive(Debug, Default)]
pub(super) struct Mailbox {
    changes: Mutex<Changes>,
    pub(super) mail: Notify,
}

impl Mailbox {
    pub(super) fn changes(&self) -> MutexGuard<'_, Changes> {
        // Sets and flags are whole at every moment.
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, change: impl FnOnce(&mut Changes)) {
        change(&mut self.changes());
        self.mail.notify_one();
    }
}

/// A running worker.
#[derive(Debug)]
pub(crate) struct Handle {
    orders: watch::Sender<Order>,
    mailbox: Arc<Mailbox>,
}

impl Handle {
    /// Starts the worker of a pod. With `known` the runtime may hold something of it. `ended` is called when nothing is
    /// left of the pod.
    pub(crate) fn start(
        context: Arc<Context>,
        order: Order,
        known: bool,
        ended: impl FnOnce(String) + Send + 'static,
    ) -> Self {
        let (orders, receiver) = watch::channel(order);
        let mailbox = Arc::new(Mailbox::default());
        let worker = Worker::new(context, receiver, Arc::clone(&mailbox), known);
        tokio::spawn(async move {
            let uid = worker.uid.clone();
            worker.run().await;
            ended(uid);
        });
        Self { orders, mailbox }
    }

    /// The order given last.
    pub(crate) fn order(&self) -> Order {
        self.orders.borrow().clone()
    }

    /// Gives a new order.
    pub(crate) fn give(&self, order: Order) {
        self.orders.send_if_modified(|last| {
            let changed = *last != order;
            *last = order;
            changed
        });
    }

    /// A container or sandbox has changed.
    pub(crate) fn touch(&self, id: &str) {
        self.mailbox.put(|changes| {
            changes.ids.insert(id.to_owned());
        });
    }

    /// Anything may have changed.
    pub(crate) fn touch_all(&self) {
        self.mailbox.put(|changes| changes.all = true);
    }

    /// An object that the pod's volumes show has changed.
    pub(crate) fn touch_volumes(&self) {
        self.mailbox.put(|changes| changes.volumes = true);
    }
}
