//! Sandboxes: run, stop, remove, and what happens when a keeper dies. `plan` is pure, `apply` has the effects.

mod apply;
pub(crate) mod plan;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proto::cri::{ContainerEventType, PodSandboxConfig, PodSandboxMetadata, RunPodSandboxRequest};
use runtime::wire::Request;

pub(crate) use apply::{forget, release, state_error, write_record};

use crate::engine::{Core, blocking, new_id, now};
use crate::keeper::Keeper;
use crate::records::{Phase, SandboxRecord};
use crate::store::Sandbox;
use crate::{Error, fault};

/// How long a keeper may take to kill its containers and end, before it is killed itself.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(30);

/// Names that are being made. One thing is made at a time for one name.
#[derive(Debug, Default)]
pub(crate) struct Names(Mutex<HashSet<String>>);

/// A name that is taken until this goes.
pub(crate) struct Claim<'a> {
    names: &'a Names,
    name: String,
}

impl Names {
    /// Takes `name`, or refuses while another request has it.
    pub(crate) fn claim(&self, kind: &'static str, name: String) -> Result<Claim<'_>, Error> {
        let mut taken = self.0.lock().expect("no code panics while it holds the names");
        if !taken.insert(name.clone()) {
            let reason = "is being made by an earlier request".to_owned();
            return Err(Error::FailedPrecondition {
                kind,
                id: name,
                reason,
            });
        }
        Ok(Claim { names: self, name })
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.names
            .0
            .lock()
            .expect("no code panics while it holds the names")
            .remove(&self.name);
    }
}

impl Core {
    /// Makes a sandbox; one that was made for the same attempt and is ready is the answer, one that is not goes first.
    pub(crate) async fn run_sandbox(self: Arc<Self>, request: RunPodSandboxRequest) -> Result<String, Error> {
        if !request.runtime_handler.is_empty() {
            let reason = format!("no runtime for {:?} is configured", request.runtime_handler);
            return Err(Error::invalid("runtime_handler", reason));
        }
        let config = request
            .config
            .ok_or_else(|| Error::invalid("config", "missing"))?;
        let id = new_id();
        let setup = plan::plan(&id, &config, &self.paths)?;
        let _claim = self.names.claim("sandbox", name_of(config.metadata.as_ref()))?;
        if let Some(living) = self.clear_attempt(&config).await? {
            return Ok(living);
        }
        if setup.own_network && !self.network_is_ready() {
            let reason = "the node's pod address ranges are not known yet: network plugin is not ready";
            return Err(Error::Unavailable {
                reason: reason.to_owned(),
            });
        }
        if !config.port_mappings.is_empty() {
            tracing::warn!(
                sandbox = id,
                "port mappings are not made: host ports of pods are not known yet"
            );
        }
        let record = SandboxRecord {
            id: id.clone(),
            boot_id: self.boot_id.clone(),
            created_at: now(),
            phase: Phase::Creating,
            runtime_handler: request.runtime_handler,
            ips: Vec::new(),
            config,
        };
        let ips = self.make(setup, record.clone()).await?;
        let keeper = match self.connect(&id).await {
            Ok((keeper, _)) => keeper,
            Err(error) => {
                self.undo(&id, None).await;
                return Err(error);
            }
        };
        let sandbox = Sandbox::new(record);
        let lost_already = keeper.has_ended();
        sandbox.ready(ips, keeper);
        self.store.add_sandbox(sandbox);
        if lost_already {
            self.keeper_ended(&id).await;
        }
        self.publish(ContainerEventType::ContainerCreatedEvent, &id, &id);
        self.publish(ContainerEventType::ContainerStartedEvent, &id, &id);
        Ok(id)
    }

    /// The living sandbox of the same attempt; a dead or different one is removed.
    async fn clear_attempt(self: &Arc<Self>, config: &PodSandboxConfig) -> Result<Option<String>, Error> {
        for sandbox in self.store.sandboxes() {
            let record = &sandbox.record;
            if record.config.metadata != config.metadata {
                continue;
            }
            if sandbox.state().phase == Phase::Ready && record.config == *config {
                return Ok(Some(sandbox.id().to_owned()));
            }
            Arc::clone(self).remove_sandbox(sandbox.id().to_owned()).await?;
        }
        Ok(None)
    }

    async fn make(self: &Arc<Self>, setup: plan::Setup, record: SandboxRecord) -> Result<Vec<IpAddr>, Error> {
        let core = Arc::clone(self);
        let id = record.id.clone();
        let made = blocking("make sandbox", move || {
            let mut process = None;
            let made = apply::make(&setup, &record, &core.config, &core.paths, &mut process);
            // Ended by its cgroup when the rest is undone, and waited for here: it is a child of this process.
            Ok((made, process))
        });
        match made.await? {
            (Ok(ips), _) => Ok(ips),
            (Err(error), process) => {
                self.undo(&id, process).await;
                Err(error)
            }
        }
    }

    /// Takes back what there is of a sandbox that could not be made. What does not go is taken at the next start.
    async fn undo(self: &Arc<Self>, id: &str, process: Option<std::process::Child>) {
        let (core, owned) = (Arc::clone(self), id.to_owned());
        let undone = blocking("undo sandbox", move || {
            let released = release(&owned, &[], &core.config.network, &core.paths);
            if let Some(mut process) = process {
                // Killed with its cgroup, or by this; then reaped.
                let _ = process.kill();
                let _ = process.wait();
            }
            released.and_then(|()| forget(&owned, &core.paths))
        });
        if let Err(error) = undone.await {
            tracing::error!(sandbox = id, %error, "a sandbox that could not be made is not all undone");
        }
    }

    /// Connects to the keeper of sandbox `id`; what it tells comes to [`Core::heard`].
    pub(crate) async fn connect(
        self: &Arc<Self>,
        id: &str,
    ) -> Result<(Arc<Keeper>, Vec<runtime::wire::ContainerState>), Error> {
        let core = Arc::downgrade(self);
        let owned = id.to_owned();
        let notify = move |notice| {
            if let Some(core) = core.upgrade() {
                core.heard(&owned, notice);
            }
        };
        let connected = Keeper::connect(&self.paths.keeper_socket(id), id, notify).await;
        let (keeper, states) = connected.map_err(|error| Error::Keeper {
            sandbox: id.to_owned(),
            source: Box::new(error),
        })?;
        Ok((Arc::new(keeper), states))
    }

    /// Kills the containers and releases all that the sandbox holds; the records stay.
    pub(crate) async fn stop_sandbox(self: Arc<Self>, id: String) -> Result<(), Error> {
        let Some(sandbox) = self.store.sandbox(&id) else {
            return Ok(());
        };
        let _turn = sandbox.turn.write().await;
        self.stop_in_turn(&sandbox).await
    }

    pub(crate) async fn stop_in_turn(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
        let state = sandbox.state();
        if state.phase == Phase::Stopped {
            return Ok(());
        }
        if let Some(keeper) = state.keeper {
            end(&keeper).await;
        }
        self.settle(sandbox).await?;
        let (core, id) = (Arc::clone(self), sandbox.id().to_owned());
        let containers = self.store.containers_of(&id);
        let cgroups: Vec<String> = containers
            .iter()
            .map(|container| container.record.cgroup.clone())
            .collect();
        let record = SandboxRecord {
            phase: Phase::Stopped,
            ..sandbox.current_record()
        };
        blocking("release sandbox", move || {
            release(&id, &cgroups, &core.config.network, &core.paths)?;
            write_record("cri.write_sandbox_stopped", &record, &core.paths)
        })
        .await?;
        sandbox.ended(Phase::Stopped);
        self.publish(
            ContainerEventType::ContainerStoppedEvent,
            sandbox.id(),
            sandbox.id(),
        );
        Ok(())
    }

    /// Stops the sandbox and forgets it with its containers.
    pub(crate) async fn remove_sandbox(self: Arc<Self>, id: String) -> Result<(), Error> {
        let Some(sandbox) = self.store.sandbox(&id) else {
            return Ok(());
        };
        let _turn = sandbox.turn.write().await;
        if self.store.sandbox(&id).is_none() {
            return Ok(());
        }
        self.stop_in_turn(&sandbox).await?;
        for container in self.store.containers_of(&id) {
            let _turn = container.turn.lock().await;
            self.remove_in_turn(&container, None).await?;
        }
        let (core, owned) = (Arc::clone(&self), id.clone());
        blocking("forget sandbox", move || forget(&owned, &core.paths)).await?;
        self.publish(ContainerEventType::ContainerDeletedEvent, &id, &id);
        self.store.remove_sandbox(&id);
        Ok(())
    }

    /// The keeper of a sandbox has died by itself: its pod goes with it.
    pub(crate) async fn keeper_ended(self: &Arc<Self>, id: &str) {
        let Some(sandbox) = self.store.sandbox(id) else {
            return;
        };
        let _turn = sandbox.turn.write().await;
        if sandbox.state().phase != Phase::Ready {
            return;
        }
        tracing::error!(sandbox = id, "the keeper died, its containers with it");
        if let Err(error) = self.lose(&sandbox).await {
            tracing::error!(sandbox = id, %error, "a lost sandbox is not all taken down; stopping it will be");
        }
    }

    /// Ends what a dead keeper left, and marks the sandbox as lost.
    pub(crate) async fn lose(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
        sandbox.ended(Phase::Lost);
        let settled = self.settle(sandbox).await;
        let (core, record) = (Arc::clone(self), sandbox.current_record());
        let written = blocking("record lost sandbox", move || {
            write_record("cri.write_sandbox_lost", &record, &core.paths)
        })
        .await;
        self.publish(
            ContainerEventType::ContainerStoppedEvent,
            sandbox.id(),
            sandbox.id(),
        );
        settled.and(written)
    }
}

/// Has a keeper kill its containers and end; one that does not is killed.
pub(crate) async fn end(keeper: &Keeper) {
    // It may end before it replies; what counts is that it ends.
    let _ = keeper.call("cri.keeper_shutdown", Request::Shutdown).await;
    if tokio::time::timeout(SHUTDOWN_WITHIN, keeper.ended())
        .await
        .is_err()
    {
        tracing::error!("a keeper does not end, it is killed with its cgroup");
    }
    fault::point("cri.keeper_ended");
}

/// What may exist once: the name and attempt of a pod.
fn name_of(metadata: Option<&PodSandboxMetadata>) -> String {
    metadata
        .map(|m| format!("{}_{}_{}_{}", m.namespace, m.name, m.uid, m.attempt))
        .unwrap_or_default()
}
