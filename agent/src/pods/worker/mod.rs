//! One task a pod: plans, begins what the plan says, and sleeps until something happens.
//!
//! Actions run side by side within the task; it is woken by their ends, by its sources, by the runtime's events and by
//! the plan's own wake-up time. It never looks without a reason.

mod apply;
mod container;
mod handle;
mod images;
mod log_tail;
mod news;
mod observe;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ObjectReference, Pod, PodStatus};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::handle::Mailbox;
pub(crate) use self::handle::{Handle, Order};
use self::news::News;
use super::effects::{EndingRecord, Files};
use super::plan::{self, Action, Ending, Input, Memory, Notice, Observed, Plan, Stage, Wish};
use super::runtime::Cri;
use super::runtime_config::{Configurator, log_directory, log_path, object_keys};
use super::source::{Source, uid};
use super::status::Statuses;
use super::store::{ContainerView, PodView, Store};
use crate::api::{EventKind, Events, Objects};
use crate::resources::Cgroups;
use crate::volumes::{MountedVolumes, Volumes};

/// What all workers work with.
pub(crate) struct Context {
    pub(crate) runtime: Arc<dyn Cri>,
    pub(crate) volumes: Arc<Volumes>,
    pub(crate) configurator: Arc<Configurator>,
    pub(crate) cgroups: Cgroups,
    pub(crate) objects: Arc<Objects>,
    pub(crate) events: Events,
    pub(crate) statuses: Statuses,
    pub(crate) store: Arc<Store>,
    pub(crate) files: Files,
    pub(crate) node: plan::NodeFacts,
    /// Limit of the crash back-off.
    pub(crate) crash_limit: SignedDuration,
}

/// A finished action.
struct Finished {
    /// `None` for work beside the plan.
    action: Option<Action>,
    news: News,
}

struct Worker {
    context: Arc<Context>,
    uid: String,
    orders: watch::Receiver<Order>,
    mailbox: Arc<Mailbox>,
    /// The runtime may hold more than is observed.
    unseen: bool,
    order: Order,
    observed: Observed,
    /// Ids told of before their container was known here.
    early: BTreeSet<String>,
    details: observe::Details,
    memory: Memory,
    previous: PodStatus,
    reported: Option<(PodStatus, Stage)>,
    notices: BTreeSet<Notice>,
    ending: Option<EndingRecord>,
    mounted: Option<Arc<MountedVolumes>>,
    refresh_at: Option<Timestamp>,
    work: FuturesUnordered<BoxFuture<'static, Finished>>,
    /// Cancelled once pulls are of no use any more.
    pulls: CancellationToken,
}

impl Worker {
    fn new(
        context: Arc<Context>,
        mut orders: watch::Receiver<Order>,
        mailbox: Arc<Mailbox>,
        known: bool,
    ) -> Self {
        let order = orders.borrow_and_update().clone();
        let uid = uid(&order.pod).to_owned();
        Self {
            memory: Memory::new(context.crash_limit),
            ending: if known {
                context.files.read_ending(&uid)
            } else {
                None
            },
            previous: order.pod.status.clone().unwrap_or_default(),
            context,
            uid,
            orders,
            mailbox,
            unseen: known,
            order,
            observed: Observed::default(),
            early: BTreeSet::new(),
            details: observe::Details::default(),
            reported: None,
            notices: BTreeSet::new(),
            mounted: None,
            refresh_at: None,
            work: FuturesUnordered::new(),
            pulls: CancellationToken::new(),
        }
    }

    #[tracing::instrument(name = "pod", skip_all, fields(uid = %self.uid, pod = %describe(&self.order.pod)))]
    async fn run(mut self) {
        self.use_objects();
        if self.unseen {
            self.observed.log_attempts = observe::log_attempts(&self.context.files, &self.order.pod);
        }
        loop {
            if self.unseen {
                self.see_all().await;
            }
            let plan = self.plan();
            self.report(&plan);
            for action in plan.actions {
                self.begin(action);
            }
            if plan.stage > Stage::Running {
                self.pulls.cancel();
            }
            if plan.stage == Stage::Gone && self.work.is_empty() {
                return self.leave();
            }
            self.wait(plan.wake).await;
        }
    }

    fn plan(&mut self) -> Plan {
        let now = Timestamp::now();
        self.hold_to_deadline(now);
        let wish = Wish {
            ending: self
                .ending
                .filter(|_| self.order.end.is_some())
                .map(|e| Ending { deadline: e.deadline }),
            listed: self.order.listed,
            verdict: self.order.verdict.clone(),
        };
        plan::plan(&Input {
            pod: &self.order.pod,
            wish: &wish,
            observed: &self.observed,
            memory: &self.memory,
            previous: &self.previous,
            node: &self.context.node,
            now,
        })
    }

    /// Sets the deadline once the pod has to end, on disk first; later it only moves nearer.
    fn hold_to_deadline(&mut self, now: Timestamp) {
        let Some(grace) = self.order.end.map(|g| g.max(1)) else {
            return;
        };
        let wanted = EndingRecord {
            deadline: now + SignedDuration::from_secs(grace),
            grace,
        };
        let record = match self.ending {
            Some(held) if grace >= held.grace => return,
            Some(held) => EndingRecord {
                deadline: held.deadline.min(wanted.deadline),
                grace,
            },
            None => wanted,
        };
        if let Err(error) = self.context.files.write_ending(&self.uid, record) {
            // Without it a restarted agent gives the grace period once more; the pod ends all the same.
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the pod's deadline is not recorded"
            );
        }
        self.ending = Some(record);
    }

    /// Tells the status manager, the store and the event recorder what is new.
    fn report(&mut self, plan: &Plan) {
        for notice in plan.notices.iter().filter(|n| !self.notices.contains(n)) {
            let kind = if notice.warning {
                EventKind::Warning
            } else {
                EventKind::Normal
            };
            self.context.event(
                &self.order.pod,
                Some(&notice.container),
                kind,
                notice.reason,
                &notice.message,
            );
        }
        self.notices = plan.notices.iter().cloned().collect();
        self.previous = plan.status.clone();
        let now = (plan.status.clone(), plan.stage);
        let finished = plan.stage >= Stage::Stopped;
        if self.order.source.is_some() && self.reported.as_ref() != Some(&now) {
            self.context
                .statuses
                .report(&self.order.pod, plan.status.clone(), finished);
        }
        self.reported = Some(now);
        self.publish(plan);
    }

    fn publish(&self, plan: &Plan) {
        let Some(source) = self.order.source else { return };
        let logs = log_directory(&self.context.files.pod_logs, &self.order.pod);
        let container = |c: &plan::observed::Container| ContainerView {
            id: c.id.clone(),
            name: c.name.clone(),
            attempt: c.attempt,
            state: c.state.clone(),
            log: logs.join(log_path(&c.name, c.attempt)),
        };
        let view = PodView {
            pod: Arc::clone(&self.order.pod),
            source,
            status: Arc::new(plan.status.clone()),
            stage: plan.stage,
            containers: self.observed.containers.iter().map(container).collect(),
        };
        self.context.store.put(&self.uid, view);
    }

    /// Begins an action; it goes on within this task.
    fn begin(&mut self, action: Action) {
        self.note_restart(&action);
        let step = apply::Step {
            context: Arc::clone(&self.context),
            pod: Arc::clone(&self.order.pod),
            mounted: self.mounted.clone(),
            ips: self.pod_ips(),
            sandbox_attempt: self.observed.sandboxes.first().map_or(0, |s| s.attempt),
            target: self.target_of(&action),
            logs: self.log_of(&action),
            pulls: self.pulls.clone(),
        };
        self.observed.under_way.push(action.clone());
        self.work.push(Box::pin(async move {
            let news = step.apply(&action).await;
            Finished {
                action: Some(action),
                news,
            }
        }));
    }

    /// A container that has exited before starts again: its next back-off is longer.
    fn note_restart(&mut self, action: &Action) {
        let Action::Launch { container, .. } = action else {
            return;
        };
        let finished = self
            .observed
            .newest(container)
            .and_then(|c| c.exit())
            .and_then(|(_, at)| at);
        let specs = plan::spec::containers(&self.order.pod);
        let key = specs
            .iter()
            .find(|s| s.name == container)
            .map(plan::spec::ContainerSpec::backoff_key);
        if let (Some(finished), Some(key)) = (finished, key) {
            self.memory.restarted(container, key, finished, Timestamp::now());
        }
    }

    fn pod_ips(&self) -> Vec<std::net::IpAddr> {
        let host = self
            .order
            .pod
            .spec
            .as_ref()
            .and_then(|s| s.host_network)
            .unwrap_or(false);
        if host {
            return self.context.node.host_ips.clone();
        }
        self.observed
            .sandboxes
            .first()
            .map(|s| s.ips.clone())
            .unwrap_or_default()
    }

    /// Id of the container whose processes an ephemeral container shall see.
    fn target_of(&self, action: &Action) -> Option<String> {
        let Action::Launch { container, .. } = action else {
            return None;
        };
        let ephemeral = self.order.pod.spec.as_ref()?.ephemeral_containers.as_ref()?;
        let target = ephemeral
            .iter()
            .find(|e| e.name == *container)?
            .target_container_name
            .as_ref()?;
        self.observed
            .newest(target)
            .filter(|c| c.is_running())
            .map(|c| c.id.clone())
    }

    /// Log and link of a container to be removed.
    fn log_of(&self, action: &Action) -> Option<(PathBuf, PathBuf)> {
        let Action::RemoveContainer { id } = action else {
            return None;
        };
        let container = self.observed.containers.iter().find(|c| c.id == *id)?;
        let log = log_directory(&self.context.files.pod_logs, &self.order.pod)
            .join(log_path(&container.name, container.attempt));
        Some((
            log,
            apply::link_of(&self.context.files, &self.order.pod, &container.name, id),
        ))
    }

    /// Sleeps until something happens, and takes it in.
    async fn wait(&mut self, wake: Option<Timestamp>) {
        let due = [wake, self.refresh_at].into_iter().flatten().min();
        let mailbox = Arc::clone(&self.mailbox);
        tokio::select! {
            Some(finished) = self.work.next(), if !self.work.is_empty() => {
                self.finish(finished).await;
            }
            changed = self.orders.changed() => {
                if changed.is_ok() {
                    self.order = self.orders.borrow_and_update().clone();
                    self.use_objects();
                } else {
                    // The dispatcher is gone: the agent ends, pods stay.
                    std::future::pending::<()>().await;
                }
            }
            () = mailbox.mail.notified() => self.open_mail().await,
            () = sleep_until(due) => {}
        }
        self.refresh_volumes();
    }

    async fn finish(&mut self, finished: Finished) {
        if let Some(action) = &finished.action
            && let Some(at) = self.observed.under_way.iter().position(|a| a == action)
        {
            self.observed.under_way.swap_remove(at);
        }
        self.take_in(finished.news).await;
    }

    async fn open_mail(&mut self) {
        let changes = std::mem::take(&mut *self.mailbox.changes());
        if changes.volumes && self.mounted.is_some() {
            self.refresh_at = Some(Timestamp::UNIX_EPOCH);
        }
        if changes.all {
            self.unseen = true;
            return;
        }
        for id in changes.ids {
            self.see(&id).await;
        }
    }

    /// Brings volumes of files up to date when that is due: beside the plan, for it changes nothing of it.
    fn refresh_volumes(&mut self) {
        if self.refresh_at.is_none_or(|at| at > Timestamp::now()) || self.order.end.is_some() {
            return;
        }
        self.refresh_at = None;
        let (context, pod) = (Arc::clone(&self.context), Arc::clone(&self.order.pod));
        self.work.push(Box::pin(async move {
            let news = News::Refreshed(context.volumes.refresh(&pod).await);
            Finished { action: None, news }
        }));
    }

    /// Has the objects watched that the pod refers to.
    fn use_objects(&self) {
        if self.order.source == Some(Source::Api) && self.order.end.is_none() {
            self.context
                .objects
                .use_by(&self.uid, object_keys(&self.order.pod));
        }
    }

    /// Nothing of the pod is left.
    fn leave(self) {
        self.context.objects.release(&self.uid);
    }
}

impl Context {
    /// Records an event about the pod, or one of its containers.
    pub(crate) fn event(
        &self,
        pod: &Pod,
        container: Option<&str>,
        kind: EventKind,
        reason: &str,
        message: &str,
    ) {
        self.events
            .record(&reference(pod, container), kind, reason, message);
    }
}

/// What an event is about.
fn reference(pod: &Pod, container: Option<&str>) -> ObjectReference {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let of_kind = |name: &str| {
        let init = spec
            .and_then(|s| s.init_containers.as_ref())
            .into_iter()
            .flatten();
        let ephemeral = spec
            .and_then(|s| s.ephemeral_containers.as_ref())
            .into_iter()
            .flatten();
        let is_init = init.into_iter().any(|c| c.name == name);
        let is_ephemeral = ephemeral.into_iter().any(|c| c.name == name);
        match (is_init, is_ephemeral) {
            (true, _) => "initContainers",
            (_, true) => "ephemeralContainers",
            _ => "containers",
        }
    };
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: container.map(|name| format!("spec.{}{{{name}}}", of_kind(name))),
    }
}

fn describe(pod: &Pod) -> String {
    let text = |s: &Option<String>| s.clone().unwrap_or_default();
    format!("{}/{}", text(&pod.metadata.namespace), text(&pod.metadata.name))
}

async fn sleep_until(at: Option<Timestamp>) {
    match at {
        Some(at) => {
            let left = at.duration_since(Timestamp::now());
            tokio::time::sleep(left.try_into().unwrap_or_default()).await;
        }
        None => std::future::pending().await,
    }
}
