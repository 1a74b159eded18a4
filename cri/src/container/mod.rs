//! Containers: create, start, stop, remove, logs. `plan` and `outcome` are pure, `apply` has the effects, `ends` is what
//! keepers and their deaths tell.

pub(crate) mod apply;
mod ends;
pub(crate) mod outcome;
pub(crate) mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use proto::cri::{
    ContainerConfig, ContainerEventType, CreateContainerRequest, NamespaceMode, PodSandboxConfig,
};
use runtime::wire::{Reply, Request, Status};
use tokio::time::timeout;

use crate::engine::{Core, blocking, new_id, now};
use crate::images::Image;
use crate::keeper::{self, Keeper};
use crate::records::{ContainerRecord, Phase};
use crate::store::{Container, ContainerState, Sandbox};
use crate::{Error, fault};

/// How long a container may take to go after SIGKILL.
const KILLED_WITHIN: Duration = Duration::from_secs(30);
const KILL: i32 = 9;

impl Core {
    /// Checks, plans and writes down a container; its process comes with [`Core::start_container`].
    pub(crate) async fn create_container(
        self: Arc<Self>,
        request: CreateContainerRequest,
    ) -> Result<String, Error> {
        let config = request
            .config
            .ok_or_else(|| Error::invalid("config", "missing"))?;
        let sandbox_id = request.pod_sandbox_id;
        let sandbox = self
            .store
            .sandbox(&sandbox_id)
            .ok_or_else(|| Error::no_sandbox(&sandbox_id))?;
        let _turn = sandbox.turn.read().await;
        if sandbox.state().phase != Phase::Ready {
            return Err(not_in_state("sandbox", &sandbox_id, "is not ready"));
        }
        let metadata = config
            .metadata
            .clone()
            .filter(|metadata| !metadata.name.is_empty());
        let metadata = metadata.ok_or_else(|| Error::invalid("config.metadata.name", "missing"))?;
        let name = format!("{sandbox_id}_{}_{}", metadata.name, metadata.attempt);
        let _claim = self.names.claim("container", name)?;
        self.clear_container_attempt(&sandbox, &config).await?;
        let image = self.image_for(&config)?;
        let target = self.target_pid(&sandbox, &config).await?;
        let id = new_id();
        // The layers are kept from here on. A removal just before this may have taken them: then the image is gone.
        self.images.hold(&id, &image);
        if self.images.get(&image.id.to_string()).is_none() {
            self.images.release(&id);
            return Err(Error::NotFound {
                kind: "image",
                id: image.id.to_string(),
            });
        }
        let core = Arc::clone(&self);
        let (sandbox_config, owned) = (sandbox.record.config.clone(), id.clone());
        let made = blocking("make container", move || {
            core.make_container(&owned, config, &sandbox_id, &sandbox_config, &image, target)
        });
        match made.await {
            Ok(container) => {
                self.store.add_container(container);
                self.publish(ContainerEventType::ContainerCreatedEvent, &id, sandbox.id());
                Ok(id)
            }
            Err(error) => {
                self.images.release(&id);
                Err(error)
            }
        }
    }

    /// Removes a container of the same name and attempt that never ran or has ended.
    async fn clear_container_attempt(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        config: &ContainerConfig,
    ) -> Result<(), Error> {
        for container in self.store.containers_of(sandbox.id()) {
            if container.record.config.metadata != config.metadata {
                continue;
            }
            let _turn = container.turn.lock().await;
            if matches!(
                container.state(),
                ContainerState::Starting | ContainerState::Running { .. }
            ) {
                return Err(not_in_state(
                    "container",
                    container.id(),
                    "runs as the same attempt",
                ));
            }
            self.remove_in_turn(&container, sandbox.state().keeper.as_deref())
                .await?;
        }
        Ok(())
    }

    fn image_for(&self, config: &ContainerConfig) -> Result<Image, Error> {
        let name = config
            .image
            .as_ref()
            .map(|image| image.image.as_str())
            .unwrap_or_default();
        if name.is_empty() {
            return Err(Error::invalid("config.image", "missing"));
        }
        self.images.get(name).ok_or_else(|| Error::NotFound {
            kind: "image",
            id: name.to_owned(),
        })
    }

    /// First process of the container whose pid namespace is to be joined.
    async fn target_pid(&self, sandbox: &Sandbox, config: &ContainerConfig) -> Result<Option<u32>, Error> {
        let security = config
            .linux
            .as_ref()
            .and_then(|linux| linux.security_context.as_ref());
        let Some(options) = security.and_then(|security| security.namespace_options.as_ref()) else {
            return Ok(None);
        };
        if options.pid() != NamespaceMode::Target {
            return Ok(None);
        }
        let Some(keeper) = sandbox.state().keeper else {
            return Ok(None);
        };
        let states = keeper
            .call("cri.keeper_list", Request::List)
            .await
            .map_err(of_keeper(sandbox.id()))?;
        let Reply::Containers(states) = states else {
            return Ok(None);
        };
        let target = states
            .iter()
            .find(|state| state.id == options.target_id && state.pid != 0);
        Ok(target.map(|state| state.pid))
    }

    /// Plans and makes it. Blocks.
    fn make_container(
        &self,
        id: &str,
        config: ContainerConfig,
        sandbox_id: &str,
        sandbox: &PodSandboxConfig,
        image: &Image,
        target: Option<u32>,
    ) -> Result<Arc<Container>, Error> {
        let planned = plan::plan(&plan::Input {
            id,
            config: &config,
            sandbox_id,
            sandbox,
            image: image.config.config().as_ref(),
            layers: &self.images.rootfs(image),
            devices: &apply::devices(&config)?,
            target,
            host: &self.host,
            host_name: &self.host_name,
            paths: &self.paths,
        })?;
        let record = ContainerRecord {
            id: id.to_owned(),
            sandbox: sandbox_id.to_owned(),
            created_at: now(),
            image_id: image.id.to_string(),
            layers: image.layers.iter().map(|layer| layer.chain_id).collect(),
            image_ref: image
                .repo_digests
                .first()
                .cloned()
                .unwrap_or_else(|| image.id.to_string()),
            cgroup: planned.cgroup.clone(),
            log_path: planned.log_path.clone(),
            stop_signal: planned.stop_signal,
            user: planned.user.clone(),
            started: false,
            outcome: None,
            // Environments hold secrets; the plan in memory has them.
            config: ContainerConfig {
                envs: Vec::new(),
                ..config
            },
        };
        if let Err(error) = apply::make(&planned, &record, &self.paths) {
            if let Err(left) = apply::remove(&record, &self.paths) {
                tracing::error!(container = id, error = %left, "a container that could not be made is not all undone");
            }
            return Err(error);
        }
        Ok(Container::new(
            record,
            ContainerState::Created(Arc::new(planned.plan)),
        ))
    }

    /// Makes the process and runs the program. On an error the container has exited, and says why.
    pub(crate) async fn start_container(self: Arc<Self>, id: String) -> Result<(), Error> {
        let container = self
            .store
            .container(&id)
            .ok_or_else(|| Error::no_container(&id))?;
        let sandbox_id = &container.record.sandbox;
        let sandbox = self
            .store
            .sandbox(sandbox_id)
            .ok_or_else(|| Error::no_sandbox(sandbox_id))?;
        let _sandbox_turn = sandbox.turn.read().await;
        let _turn = container.turn.lock().await;
        let Some(keeper) = sandbox
            .state()
            .keeper
            .filter(|_| sandbox.state().phase == Phase::Ready)
        else {
            return Err(not_in_state("sandbox", sandbox_id, "is not ready"));
        };
        let Some(plan) = container.starting() else {
            return Err(not_in_state("container", &id, "is not in created state"));
        };
        let intent = ContainerRecord {
            started: true,
            ..container.record.clone()
        };
        // On tmpfs: as quick as the hop to a thread that may block.
        let started = match apply::write_record("cri.write_start_intent", &intent, &self.paths) {
            Ok(()) => start(&keeper, &id, plan).await,
            Err(error) => Err(error),
        };
        match started {
            Ok(started_at) => {
                container.running(started_at);
                self.publish(ContainerEventType::ContainerStartedEvent, &id, sandbox_id);
                Ok(())
            }
            Err(error) => {
                // What there is of it in the keeper goes, its cgroup too.
                let _ = keeper
                    .call("cri.keeper_remove_unstarted", Request::Remove { id: id.clone() })
                    .await;
                self.conclude(&container, outcome::not_started(error.to_string(), now()));
                Err(error)
            }
        }
    }

    /// Asks a container to end, kills it after `seconds`, and waits for its end.
    pub(crate) async fn stop_container(self: Arc<Self>, id: String, seconds: u64) -> Result<(), Error> {
        let Some(container) = self.store.container(&id) else {
            return Ok(());
        };
        if container.state() == ContainerState::Starting {
            drop(container.turn.lock().await);
        }
        if matches!(
            container.state(),
            ContainerState::Created(_) | ContainerState::Exited(_)
        ) {
            return Ok(());
        }
        let keeper = self
            .store
            .sandbox(&container.record.sandbox)
            .and_then(|sandbox| sandbox.state().keeper);
        if let Some(keeper) = keeper {
            if seconds > 0 {
                let signal = container.record.stop_signal;
                kill(&keeper, "cri.keeper_stop", &id, signal).await?;
                // A grace period may be longer than time can tell; nobody waits so long.
                if timeout(
                    Duration::from_secs(seconds.min(u64::from(u32::MAX))),
                    container.ended(),
                )
                .await
                .is_ok()
                {
                    return Ok(());
                }
            }
            kill(&keeper, "cri.keeper_kill", &id, KILL).await?;
        }
        // Without a keeper its pod is being taken down, and this container with it.
        timeout(KILLED_WITHIN, container.ended())
            .await
            .map_err(|_| Error::Timeout {
                operation: "stop container",
                object: id,
                seconds: KILLED_WITHIN.as_secs(),
            })
    }

    /// Kills a container if it runs, and forgets it.
    pub(crate) async fn remove_container(self: Arc<Self>, id: String) -> Result<(), Error> {
        let Some(container) = self.store.container(&id) else {
            return Ok(());
        };
        let Some(sandbox) = self.store.sandbox(&container.record.sandbox) else {
            let _turn = container.turn.lock().await;
            return self.remove_in_turn(&container, None).await;
        };
        let _sandbox_turn = sandbox.turn.read().await;
        let _turn = container.turn.lock().await;
        self.remove_in_turn(&container, sandbox.state().keeper.as_deref())
            .await
    }

    pub(crate) async fn remove_in_turn(
        self: &Arc<Self>,
        container: &Arc<Container>,
        keeper: Option<&Keeper>,
    ) -> Result<(), Error> {
        let id = container.id();
        if self.store.container(id).is_none() {
            return Ok(());
        }
        if let Some(keeper) = keeper
            && !matches!(container.state(), ContainerState::Created(_))
        {
            match keeper
                .call("cri.keeper_remove", Request::Remove { id: id.to_owned() })
                .await
            {
                // A keeper that is gone has nothing of it; the cgroup is ended below.
                Ok(_) | Err(keeper::Error::Gone) => {}
                Err(error) => return Err(of_keeper(&container.record.sandbox)(error)),
            }
        }
        let (core, record) = (Arc::clone(self), container.record.clone());
        blocking("remove container", move || apply::remove(&record, &core.paths)).await?;
        self.images.release(id);
        // The last event still shows what it was.
        container.exited(outcome::lost(0, now()));
        self.publish(
            ContainerEventType::ContainerDeletedEvent,
            id,
            &container.record.sandbox,
        );
        self.store.remove_container(id);
        Ok(())
    }

    /// Has the log of a running container opened again.
    pub(crate) async fn reopen_log(self: Arc<Self>, id: String) -> Result<(), Error> {
        let container = self
            .store
            .container(&id)
            .ok_or_else(|| Error::no_container(&id))?;
        let running = matches!(container.state(), ContainerState::Running { .. });
        let keeper = self
            .store
            .sandbox(&container.record.sandbox)
            .and_then(|sandbox| sandbox.state().keeper);
        let Some(keeper) = keeper.filter(|_| running) else {
            return Err(not_in_state("container", &id, "is not running"));
        };
        let reopened = keeper
            .call("cri.keeper_reopen_log", Request::ReopenLog { id })
            .await;
        reopened.map(drop).map_err(of_keeper(&container.record.sandbox))
    }
}

/// Has the keeper make the container and run its program; when that was, nanoseconds since the epoch.
async fn start(keeper: &Keeper, id: &str, plan: Arc<runtime::plan::ContainerPlan>) -> Result<i64, Error> {
    let failed = |error: keeper::Error| {
        let reason = match error {
            keeper::Error::Refused(failure) => outcome::reason(&failure),
            other => other.to_string(),
        };
        Error::Start {
            id: id.to_owned(),
            reason,
        }
    };
    let plan = Box::new(Arc::unwrap_or_clone(plan));
    keeper
        .call("cri.keeper_create", Request::Create(plan))
        .await
        .map_err(failed)?;
    keeper
        .call("cri.keeper_start", Request::Start { id: id.to_owned() })
        .await
        .map_err(failed)?;
    fault::point("cri.keeper_started");
    // The keeper's word counts, so that an engine which adopts the container tells the same time.
    let listed = keeper.call("cri.keeper_list", Request::List).await;
    let Ok(Reply::Containers(states)) = listed else {
        return Ok(now());
    };
    let status = states
        .into_iter()
        .find(|state| state.id == id)
        .map(|state| state.status);
    Ok(match status {
        Some(Status::Running { started_at }) => started_at,
        Some(Status::Exited(exit)) if exit.started_at != 0 => exit.started_at,
        _ => now(),
    })
}

async fn kill(keeper: &Keeper, point: &str, id: &str, signal: i32) -> Result<(), Error> {
    match keeper
        .call(
            point,
            Request::Kill {
                id: id.to_owned(),
                signal,
            },
        )
        .await
    {
        // Ended, or ending with its keeper: what is waited for comes.
        Ok(_) | Err(keeper::Error::Gone | keeper::Error::Refused(_)) => Ok(()),
        Err(error) => Err(of_keeper(id)(error)),
    }
}

fn of_keeper(sandbox: &str) -> impl FnOnce(keeper::Error) -> Error {
    move |error| Error::Keeper {
        sandbox: sandbox.to_owned(),
        source: Box::new(error),
    }
}

fn not_in_state(kind: &'static str, id: &str, reason: &str) -> Error {
    Error::FailedPrecondition {
        kind,
        id: id.to_owned(),
        reason: reason.to_owned(),
    }
}
