//! The start of an engine: what lives is adopted, what was half done is undone or finished.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use futures::StreamExt as _;
use runtime::wire::{ContainerState as KeeperState, Request, Status};

use super::{Core, blocking, leftovers};
use crate::container::outcome;
use crate::paths::is_id;
use crate::records::{self, ContainerRecord, Phase, Record, SandboxRecord};
use crate::store::{Container, ContainerState, Sandbox};
use crate::{Error, sandbox, state};

/// Keepers that are spoken to at a time.
const AT_A_TIME: usize = 64;

/// A sandbox as its records have it.
struct Found {
    sandbox: SandboxRecord,
    containers: Vec<ContainerRecord>,
}

/// Adopts all that lives below the engine's directories.
pub(super) async fn adopt(core: &Arc<Core>) -> Result<(), Error> {
    let reader = Arc::clone(core);
    let found = blocking("read records", move || read_records(&reader)).await?;
    let adoptions = found.into_iter().map(|found| adopt_sandbox(core, found));
    futures::stream::iter(adoptions)
        .buffer_unordered(AT_A_TIME)
        .for_each(|()| async {})
        .await;
    let live: BTreeSet<String> = core
        .store
        .sandboxes()
        .iter()
        .map(|sandbox| sandbox.id().to_owned())
        .collect();
    let containers: BTreeSet<String> = core
        .store
        .containers()
        .iter()
        .map(|c| c.id().to_owned())
        .collect();
    let collector = Arc::clone(core);
    blocking("collect leftovers", move || {
        leftovers::collect(&collector, &live, &containers);
        Ok(())
    })
    .await?;
    if let Err(error) = core.images.collect().await {
        tracing::warn!(%error, "leftovers of images stay");
    }
    Ok(())
}

/// Reads all records; what cannot be used is put aside, and what it was about is a leftover then.
fn read_records(core: &Core) -> Result<Vec<Found>, Error> {
    let mut found = Vec::new();
    for id in ids(&core.paths.sandboxes(), "")? {
        let Some(sandbox) = read::<SandboxRecord>(core, &core.paths.sandbox_record(&id)) else {
            continue;
        };
        if sandbox.id != id {
            continue;
        }
        let mut containers = Vec::new();
        for container_id in ids(&core.paths.container_records(&id), ".json")? {
            let path = core.paths.container_record(&id, &container_id);
            let record = read::<ContainerRecord>(core, &path);
            containers.extend(record.filter(|record| record.id == container_id && record.sandbox == id));
        }
        found.push(Found { sandbox, containers });
    }
    Ok(found)
}

fn read<T: Record>(core: &Core, path: &Path) -> Option<T> {
    match records::load(path) {
        Ok(record) => record,
        Err(error) => {
            tracing::error!(record = %path.display(), %error, "record put aside");
            let name = path
                .components()
                .rev()
                .take(2)
                .map(|c| c.as_os_str().to_string_lossy())
                .collect::<Vec<_>>();
            let aside = core.paths.quarantine().join(name.join("-"));
            let moved = state::mkdir("cri.make_quarantine", &core.paths.quarantine(), 0o700)
                .and_then(|()| state::rename("cri.quarantine_record", path, &aside));
            if let Err(error) = moved {
                tracing::error!(record = %path.display(), %error, "record stays where it is");
            }
            None
        }
    }
}

/// Names in `directory` that are ids of ours with `suffix`; none if there is no such directory.
pub(super) fn ids(directory: &Path, suffix: &str) -> Result<Vec<String>, Error> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list", directory.display())(error)),
    };
    let names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    let ids = names.filter_map(|name| name.strip_suffix(suffix).map(str::to_owned));
    Ok(ids.filter(|id| is_id(id)).collect())
}

async fn adopt_sandbox(core: &Arc<Core>, found: Found) {
    let id = found.sandbox.id.clone();
    let stale = found.sandbox.boot_id != core.boot_id || found.sandbox.phase == Phase::Creating;
    let phase = found.sandbox.phase;
    let sandbox = Sandbox::new(found.sandbox);
    core.store.add_sandbox(Arc::clone(&sandbox));
    for record in found.containers {
        core.images.hold_layers(&record.id, record.layers.clone());
        let container = Container::new(record.clone(), recorded_state(&record));
        core.store.add_container(Arc::clone(&container));
        // Its plan died with the last engine, before the keeper heard of it: whoever wanted it asks again.
        if !record.started
            && let Err(error) = core.remove_in_turn(&container, None).await
        {
            tracing::error!(container = record.id, %error, "a container that never ran stays");
        }
    }
    let adopted = match (stale, phase) {
        (true, _) => undo(core, &sandbox).await,
        (false, Phase::Ready) => adopt_ready(core, &sandbox).await,
        (false, _) => core.settle(&sandbox).await,
    };
    if let Err(error) = adopted {
        tracing::error!(sandbox = id, %error, "sandbox is not adopted in full; stopping and removing it will end it");
    }
}

/// What the record alone says. A container that was to be started counts as starting until its keeper says more.
fn recorded_state(record: &ContainerRecord) -> ContainerState {
    match &record.outcome {
        Some(outcome) => ContainerState::Exited(Arc::new(outcome.clone())),
        None => ContainerState::Starting,
    }
}

/// A sandbox that was being made, or is of an earlier boot: nobody may count on it.
async fn undo(core: &Arc<Core>, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
    if let Ok((keeper, _)) = core.connect(sandbox.id()).await {
        sandbox::end(&keeper).await;
    }
    Arc::clone(core).remove_sandbox(sandbox.id().to_owned()).await
}

async fn adopt_ready(core: &Arc<Core>, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
    let (keeper, states) = match core.connect(sandbox.id()).await {
        Ok(connected) => connected,
        Err(error) => {
            tracing::error!(sandbox = sandbox.id(), %error, "keeper is lost");
            let _turn = sandbox.turn.write().await;
            let (core, id) = (Arc::clone(core), sandbox.id().to_owned());
            let killer = Arc::clone(&core);
            blocking("kill keeper", move || {
                crate::host::kill_cgroup("cri.kill_lost_keeper", &killer.paths.keeper_cgroup(&id))
            })
            .await?;
            return core.lose(sandbox).await;
        }
    };
    for state in states {
        adopt_container(core, sandbox, &keeper, state).await;
    }
    sandbox.ready(sandbox.state().ips, Arc::clone(&keeper));
    if keeper.has_ended() {
        core.keeper_ended(sandbox.id()).await;
        return Ok(());
    }
    roll_back_unknown(core, sandbox, &keeper).await
}

async fn adopt_container(
    core: &Arc<Core>,
    sandbox: &Sandbox,
    keeper: &crate::keeper::Keeper,
    state: KeeperState,
) {
    let known = core
        .store
        .container(&state.id)
        .filter(|container| container.record.sandbox == sandbox.id());
    let started = match (&known, state.status) {
        (Some(container), Status::Running { started_at }) => {
            container.running(started_at);
            true
        }
        (Some(container), Status::Exited(exit)) => {
            container.exited(outcome::of(&exit));
            true
        }
        // Made, but its program never ran: taken back, and with it what the record promises.
        (_, Status::Created) | (None, _) => false,
    };
    if !started {
        let removed = keeper
            .call(
                "cri.keeper_remove_leftover",
                Request::Remove { id: state.id.clone() },
            )
            .await;
        if let Err(error) = removed {
            tracing::error!(container = state.id, %error, "keeper does not forget a leftover");
        }
    }
}

/// Removes containers whose start was promised but never reached the keeper.
async fn roll_back_unknown(
    core: &Arc<Core>,
    sandbox: &Sandbox,
    keeper: &crate::keeper::Keeper,
) -> Result<(), Error> {
    for container in core.store.containers_of(sandbox.id()) {
        if container.state() == ContainerState::Starting {
            let _turn = container.turn.lock().await;
            core.remove_in_turn(&container, Some(keeper)).await?;
        }
    }
    Ok(())
}
