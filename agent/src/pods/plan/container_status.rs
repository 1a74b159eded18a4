//! The status of each container: what the runtime shows, joined with what was reported before.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    ContainerUser, LinuxContainerUser, VolumeMount, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::Input;
use super::observed::{Container, State, User};
use super::spec::{ContainerSpec, Kind};

/// Prefix of `containerID`: the runtime's name.
const RUNTIME: &str = "longshore";
const STATUS_UNKNOWN: &str = "ContainerStatusUnknown";
const LOST: &str = "The container could not be located when the pod was terminated";
const LOST_RUNNING: &str =
    "The container could not be located when the pod was deleted.  The container used to be Running";
const INIT_FORGOTTEN: &str = "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally";
/// Exit code reported where the true one is not known.
const UNKNOWN_EXIT: i32 = 137;
/// All termination messages of a pod share this many bytes.
const MESSAGES_LIMIT: usize = 12 * 1024;

/// The status of one container before any reason for waiting is put over it.
pub(super) fn status(
    input: &Input<'_>,
    specs: &[ContainerSpec<'_>],
    spec: &ContainerSpec<'_>,
) -> ContainerStatus {
    let before = before(input, spec);
    let share = MESSAGES_LIMIT / specs.len().max(1);
    let mut seen = input.observed.of_name(spec.name);
    let mut status = match seen.next() {
        Some(newest) => of_container(newest, spec, before, seen.next(), share),
        None => of_missing(input, specs, spec, before),
    };
    mark_readiness(input, spec, &mut status);
    status
}

/// What was reported last for the container.
fn before<'a>(input: &Input<'a>, spec: &ContainerSpec<'_>) -> Option<&'a ContainerStatus> {
    let previous = input.previous;
    let list = match spec.kind {
        Kind::Init | Kind::Sidecar => &previous.init_container_statuses,
        Kind::Regular => &previous.container_statuses,
        Kind::Ephemeral => &previous.ephemeral_container_statuses,
    };
    list.iter().flatten().find(|s| s.name == spec.name)
}

/// A container that the runtime knows; `older` is the one of the same name before it.
fn of_container(
    newest: &Container,
    spec: &ContainerSpec<'_>,
    before: Option<&ContainerStatus>,
    older: Option<&Container>,
    share: usize,
) -> ContainerStatus {
    let was_running = before.is_some_and(|b| b.state.as_ref().is_some_and(|s| s.running.is_some()));
    let lost = newest.state == State::Unknown && was_running;
    let mut status = ContainerStatus {
        name: spec.name.to_owned(),
        image: newest.image.clone(),
        image_id: newest.image_ref.clone(),
        container_id: Some(format!("{RUNTIME}://{}", newest.id)),
        restart_count: i32::try_from(newest.attempt).unwrap_or(i32::MAX),
        state: Some(if lost {
            terminated(STATUS_UNKNOWN, LOST)
        } else {
            state(newest, share)
        }),
        last_state: older.map(|c| state(c, share)).filter(|s| s.terminated.is_some()),
        volume_mounts: mounts(spec.mounts),
        resources: Some(spec.resources.cloned().unwrap_or_default()),
        allocated_resources: spec.resources.and_then(|r| r.requests.clone()),
        user: newest.user.as_ref().map(user),
        ..ContainerStatus::default()
    };
    if let Some(before) = before {
        keep_history(&mut status, before);
        if lost {
            status.restart_count = before.restart_count + 1;
        }
    }
    status
}

/// Restart counts never fall, and the last termination survives the removal of its container.
fn keep_history(status: &mut ContainerStatus, before: &ContainerStatus) {
    status.restart_count = status.restart_count.max(before.restart_count);
    if status.last_state.is_some() {
        return;
    }
    let ended = |s: &Option<ContainerState>| s.clone().filter(|s| s.terminated.is_some());
    let replaced = before.container_id != status.container_id;
    status.last_state = replaced
        .then(|| ended(&before.state))
        .flatten()
        .or_else(|| ended(&before.last_state));
}

/// A container that the runtime does not know: not made yet, or lost.
fn of_missing(
    input: &Input<'_>,
    specs: &[ContainerSpec<'_>],
    spec: &ContainerSpec<'_>,
    before: Option<&ContainerStatus>,
) -> ContainerStatus {
    let has_init = specs.iter().any(|s| matches!(s.kind, Kind::Init | Kind::Sidecar));
    let waiting = waiting(
        if has_init {
            "PodInitializing"
        } else {
            "ContainerCreating"
        },
        "",
    );
    let mut status = ContainerStatus {
        name: spec.name.to_owned(),
        image: spec.image.to_owned(),
        state: Some(waiting),
        volume_mounts: mounts(spec.mounts),
        ..ContainerStatus::default()
    };
    let old_state = before.and_then(|b| b.state.as_ref());
    if let Some(before) = before {
        if old_state.is_some_and(|s| s.terminated.is_some()) {
            return before.clone();
        }
        status.restart_count = before.restart_count;
        status.last_state = before.last_state.clone();
    }
    let regular_made = specs
        .iter()
        .any(|s| s.kind == Kind::Regular && input.observed.newest(s.name).is_some());
    if spec.kind == Kind::Init && regular_made {
        status.state = Some(exited(0, "Completed", INIT_FORGOTTEN));
        return status;
    }
    let known_end = status.last_state.as_ref().is_some_and(|s| s.terminated.is_some());
    if old_state.is_some_and(|s| s.running.is_some()) && !known_end {
        status.last_state = Some(terminated(STATUS_UNKNOWN, LOST_RUNNING));
        if input.wish.ending.is_none() {
            status.restart_count += 1;
        }
    }
    status
}

/// Without probes a container is started and ready while it runs.
fn mark_readiness(input: &Input<'_>, spec: &ContainerSpec<'_>, status: &mut ContainerStatus) {
    let state = status.state.as_ref();
    let running = state.is_some_and(|s| s.running.is_some());
    let probed = input
        .observed
        .newest(spec.name)
        .and_then(|c| input.observed.probed.get(&c.id));
    status.started = Some(running && probed.is_none_or(|p| p.started));
    status.ready = match spec.kind {
        Kind::Init => state
            .and_then(|s| s.terminated.as_ref())
            .is_some_and(|t| t.exit_code == 0),
        Kind::Ephemeral => false,
        _ => running && probed.is_none_or(|p| p.started && p.ready),
    };
}

/// A pod is over: what has no known end gets an unknown one.
pub(super) fn terminate(status: &mut ContainerStatus) {
    if status.state.as_ref().is_none_or(|s| s.terminated.is_none()) {
        status.state = Some(terminated(STATUS_UNKNOWN, LOST));
        status.ready = false;
        status.started = Some(false);
    }
}

/// Whether it has ever been more than waiting.
pub(super) fn has_run(status: &ContainerStatus) -> bool {
    let ended = status.last_state.as_ref().is_some_and(|s| s.terminated.is_some());
    ended || status.state.as_ref().is_some_and(|s| s.waiting.is_none())
}

fn state(container: &Container, share: usize) -> ContainerState {
    match &container.state {
        State::Running => {
            let started_at = container.started_at.map(seconds);
            ContainerState {
                running: Some(ContainerStateRunning { started_at }),
                ..ContainerState::default()
            }
        }
        State::Created | State::Unknown => waiting("", ""),
        State::Exited {
            code,
            reason,
            message,
            finished_at,
        } => ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code: *code,
                reason: some(reason),
                message: some(cut(message, share)),
                started_at: Some(container.started_at.map_or_else(go_zero_time, seconds)),
                finished_at: Some(finished_at.map_or_else(go_zero_time, seconds)),
                container_id: Some(format!("{RUNTIME}://{}", container.id)),
                signal: None,
            }),
            ..ContainerState::default()
        },
    }
}

pub(super) fn waiting(reason: &str, message: &str) -> ContainerState {
    let waiting = ContainerStateWaiting {
        reason: some(reason),
        message: some(message),
    };
    ContainerState {
        waiting: Some(waiting),
        ..ContainerState::default()
    }
}

fn terminated(reason: &str, message: &str) -> ContainerState {
    exited(UNKNOWN_EXIT, reason, message)
}

fn exited(exit_code: i32, reason: &str, message: &str) -> ContainerState {
    let terminated = ContainerStateTerminated {
        exit_code,
        reason: some(reason),
        message: some(message),
        ..ContainerStateTerminated::default()
    };
    ContainerState {
        terminated: Some(terminated),
        ..ContainerState::default()
    }
}

fn user(user: &User) -> ContainerUser {
    let supplemental_groups = (!user.groups.is_empty()).then(|| user.groups.clone());
    ContainerUser {
        linux: Some(LinuxContainerUser {
            uid: user.uid,
            gid: user.gid,
            supplemental_groups,
        }),
    }
}

fn mounts(mounts: &[VolumeMount]) -> Option<Vec<VolumeMountStatus>> {
    let status = |m: &VolumeMount| {
        let read_only = m.read_only.unwrap_or(false);
        let recursive = matches!(m.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"));
        VolumeMountStatus {
            name: m.name.clone(),
            mount_path: m.mount_path.clone(),
            read_only: read_only.then_some(true),
            recursive_read_only: read_only.then(|| if recursive { "Enabled" } else { "Disabled" }.to_owned()),
            volume_status: None,
        }
    };
    (!mounts.is_empty()).then(|| mounts.iter().map(status).collect())
}

/// The API knows whole seconds.
pub(super) fn seconds(t: Timestamp) -> Time {
    Time(Timestamp::from_second(t.as_second()).unwrap_or(t))
}

/// An unknown time is the epoch: the API has no empty one in this place.
fn go_zero_time() -> Time {
    Time(Timestamp::UNIX_EPOCH)
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// At most `limit` bytes, cut between characters.
fn cut(text: &str, limit: usize) -> &str {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
