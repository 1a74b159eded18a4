//! A pod that should be no more: containers, sandbox, volumes, and at last its records.

use jiff::Timestamp;

use super::action::StopReason;
use super::draft::Draft;
use super::observed::{Container, Volumes};
use super::run::grace;
use super::spec::{Kind, containers};
use super::{Action, Input, Stage};

pub(super) fn plan(input: &Input<'_>, draft: &mut Draft<'_>) -> Stage {
    let observed = input.observed;
    // What is being made must be there before it can be taken away; both take milliseconds.
    let making = |a: &Action| {
        matches!(
            a,
            Action::RunSandbox { .. } | Action::Launch { .. } | Action::Start { .. }
        )
    };
    if observed.is_under_way(making) {
        return Stage::Stopping;
    }
    let deadline = input
        .wish
        .ending
        .map_or_else(|| input.now + grace(input), |e| e.deadline);
    if !stop_containers(input, draft, deadline) {
        return Stage::Stopping;
    }
    let sandboxes_down = stop_sandboxes(input, draft);
    let volumes_down = unmount(input, draft);
    if !sandboxes_down || !volumes_down {
        return Stage::Stopping;
    }
    if input.wish.listed {
        Stage::Stopped
    } else {
        forget(input, draft)
    }
}

/// Stops what runs: regular and init containers together, then sidecars one by one, the last of the spec first.
/// Whether nothing runs any more.
pub(super) fn stop_containers(input: &Input<'_>, draft: &mut Draft<'_>, deadline: Timestamp) -> bool {
    let living: Vec<&Container> = input
        .observed
        .containers
        .iter()
        .filter(|c| c.may_live())
        .collect();
    let specs = containers(input.pod);
    let sidecar = |c: &Container| {
        specs
            .iter()
            .position(|s| s.kind == Kind::Sidecar && s.name == c.name)
    };
    let mut now: Vec<&Container> = living.iter().copied().filter(|c| sidecar(c).is_none()).collect();
    if now.is_empty() {
        now.extend(living.iter().copied().max_by_key(|c| sidecar(c)));
    }
    for container in now {
        draft.act(Action::Stop {
            container: container.name.clone(),
            id: container.id.clone(),
            deadline,
            message: format!("Stopping container {}", container.name),
        });
    }
    living.is_empty()
}

fn stop_sandboxes(input: &Input<'_>, draft: &mut Draft<'_>) -> bool {
    let mut down = true;
    for sandbox in input.observed.sandboxes.iter().filter(|s| s.ready || !s.stopped) {
        draft.act(Action::StopSandbox {
            id: sandbox.id.clone(),
            reason: StopReason::Over,
        });
        down = false;
    }
    down
}

fn unmount(input: &Input<'_>, draft: &mut Draft<'_>) -> bool {
    if input.observed.volumes == Volumes::Unmounted {
        return true;
    }
    if !input.observed.is_under_way(|a| *a == Action::MountVolumes) {
        draft.act(Action::UnmountVolumes);
    }
    false
}

/// Removes the records of a pod that no source names.
fn forget(input: &Input<'_>, draft: &mut Draft<'_>) -> Stage {
    let observed = input.observed;
    if !observed.sandboxes.is_empty() {
        for sandbox in &observed.sandboxes {
            draft.act(Action::RemoveSandbox {
                id: sandbox.id.clone(),
            });
        }
        return Stage::Stopped;
    }
    // Containers whose sandbox was lost have no other remover.
    if !observed.containers.is_empty() {
        for container in &observed.containers {
            draft.act(Action::RemoveContainer {
                id: container.id.clone(),
            });
        }
        return Stage::Stopped;
    }
    if !observed.released {
        draft.act(Action::Release);
        return Stage::Stopped;
    }
    Stage::Gone
}
