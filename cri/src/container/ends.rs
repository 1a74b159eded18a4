//! Ends of containers: told by a keeper, found on disk after it died, or made up where nobody knows.

use std::sync::Arc;

use proto::cri::ContainerEventType;
use runtime::wire::Event;

use super::{apply, outcome};
use crate::Error;
use crate::engine::{Core, blocking, now};
use crate::keeper::Notice;
use crate::records::{ContainerRecord, Outcome};
use crate::store::{Container, ContainerState, Sandbox};

impl Core {
    /// Records an end that no keeper has recorded, and tells of it.
    pub(super) fn conclude(&self, container: &Container, outcome: Outcome) {
        let record = ContainerRecord {
            started: true,
            outcome: Some(outcome.clone()),
            ..container.record.clone()
        };
        if let Err(error) = apply::write_record("cri.write_container_outcome", &record, &self.paths) {
            tracing::error!(container = container.id(), %error, "how a container ended is not recorded");
        }
        if container.exited(outcome) {
            let kind = ContainerEventType::ContainerStoppedEvent;
            self.publish(kind, container.id(), &container.record.sandbox);
        }
    }

    /// Takes what the keeper of `sandbox` tells.
    pub(crate) fn heard(self: &Arc<Self>, sandbox: &str, notice: Notice) {
        match notice {
            Notice::Event(Event::Exited { id, exit }) => {
                let Some(container) = self.store.container(&id) else {
                    return;
                };
                // A start that failed has a reply with the reason on its way.
                let failed_start = exit.started_at == 0 && container.state() == ContainerState::Starting;
                if !failed_start && container.exited(outcome::of(&exit)) {
                    self.publish(ContainerEventType::ContainerStoppedEvent, &id, sandbox);
                }
            }
            Notice::Ended => {
                let (core, sandbox) = (Arc::clone(self), sandbox.to_owned());
                tokio::spawn(async move { core.keeper_ended(&sandbox).await });
            }
        }
    }

    /// Gives an end to every container of a sandbox whose keeper is gone: the keeper's record if there is one. What
    /// still runs is killed.
    pub(crate) async fn settle(self: &Arc<Self>, sandbox: &Sandbox) -> Result<(), Error> {
        let containers = self.store.containers_of(sandbox.id());
        let core = Arc::clone(self);
        blocking("settle containers", move || {
            let mut first = Ok(());
            for container in containers {
                let started_at = match container.state() {
                    ContainerState::Running { started_at } => started_at,
                    ContainerState::Starting => 0,
                    ContainerState::Created(_) | ContainerState::Exited(_) => continue,
                };
                let cgroup = core.paths.cgroup(&container.record.cgroup);
                let killed = crate::host::kill_cgroup("cri.kill_lost_cgroup", &cgroup);
                first = first.and(killed);
                let path = core.paths.exit_record(&container.record.sandbox, container.id());
                match runtime::exit_record::read(&path) {
                    Ok(Some((id, exit))) if id == container.id() => {
                        if container.exited(outcome::of(&exit)) {
                            let kind = ContainerEventType::ContainerStoppedEvent;
                            core.publish(kind, &id, &container.record.sandbox);
                        }
                    }
                    Ok(_) => core.conclude(&container, outcome::lost(started_at, now())),
                    Err(error) => {
                        tracing::error!(container = container.id(), %error, "exit record cannot be used");
                        core.conclude(&container, outcome::lost(started_at, now()));
                    }
                }
            }
            first
        })
        .await
    }
}
