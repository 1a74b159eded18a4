//! A pod that should run: volumes, sandbox, then containers in their order.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PodSpec;

use super::action::StopReason;
use super::draft::{Draft, Notice};
use super::end::stop_containers;
use super::observed::{Container, PullFailure, Sandbox, State, Volumes};
use super::spec::{ContainerSpec, Kind, containers};
use super::{Action, Input};

/// What a container needs before it can be launched.
struct Ground<'a> {
    sandbox: Option<&'a Sandbox>,
    volumes: bool,
}

pub(super) fn plan(input: &Input<'_>, draft: &mut Draft<'_>) {
    let Some(spec) = &input.pod.spec else { return };
    let host_network = spec.host_network.unwrap_or(false);
    let usable = usable_sandbox(&input.observed.sandboxes, host_network);
    let wanted = wanted_containers(input, spec, usable);

    let ground = Ground {
        volumes: mount(input, draft),
        sandbox: usable,
    };
    if usable.is_none() && (!wanted.is_empty() || input.observed.containers.is_empty()) {
        replace_sandbox(input, draft);
    }
    for container in wanted {
        bring_up(input, draft, &ground, &container);
    }
    replace_changed(input, draft);
    prune(input, draft);
}

/// The sandbox to work in: the only ready one, of the right network mode, with an address.
pub(super) fn usable_sandbox(sandboxes: &[Sandbox], host_network: bool) -> Option<&Sandbox> {
    let newest = sandboxes.first()?;
    let alone = sandboxes.iter().filter(|s| s.ready).count() == 1;
    let addressed = host_network || !newest.ips.is_empty();
    (newest.ready && alone && newest.host_network == host_network && addressed).then_some(newest)
}

/// Whether the volumes are there; plans the mount if not.
fn mount(input: &Input<'_>, draft: &mut Draft<'_>) -> bool {
    match &input.observed.volumes {
        Volumes::Mounted => return true,
        Volumes::Failed(failure) if draft.wait_until(failure.retry_at) => {}
        _ => draft.act(Action::MountVolumes),
    }
    false
}

/// Ends unusable sandboxes, then makes a new one.
fn replace_sandbox(input: &Input<'_>, draft: &mut Draft<'_>) {
    let old: Vec<_> = input.observed.sandboxes.iter().filter(|s| !s.stopped).collect();
    if !old.is_empty() {
        let deadline = input.now + grace(input);
        if stop_containers(input, draft, deadline) {
            for sandbox in old {
                draft.act(Action::StopSandbox {
                    id: sandbox.id.clone(),
                    reason: StopReason::Changed,
                });
            }
        }
        return;
    }
    if let Some(failure) = &input.observed.sandbox_failure
        && draft.wait_until(failure.retry_at)
    {
        return;
    }
    let attempt = input
        .observed
        .sandboxes
        .iter()
        .map(|s| s.attempt + 1)
        .max()
        .unwrap_or(0);
    draft.act(Action::RunSandbox { attempt });
}

/// The grace period of the spec, at least one second.
pub(super) fn grace(input: &Input<'_>) -> SignedDuration {
    let seconds = input
        .pod
        .spec
        .as_ref()
        .and_then(|s| s.termination_grace_period_seconds)
        .unwrap_or(30);
    SignedDuration::from_secs(seconds.max(1))
}

/// Which containers should be started now.
fn wanted_containers<'a>(
    input: &Input<'a>,
    pod: &PodSpec,
    sandbox: Option<&Sandbox>,
) -> Vec<ContainerSpec<'a>> {
    let all = containers(input.pod);
    let has_initialized = all
        .iter()
        .filter(|s| s.kind == Kind::Regular)
        .any(|s| began_in(input, s, sandbox));
    let mut wanted = Vec::new();
    wanted.extend(
        all.iter()
            .filter(|s| s.kind == Kind::Ephemeral && input.observed.newest(s.name).is_none()),
    );

    let mut initialized = true;
    for spec in all
        .iter()
        .filter(|s| matches!(s.kind, Kind::Init | Kind::Sidecar))
    {
        match init_step(input, pod, spec, sandbox, has_initialized) {
            InitStep::Passed => {}
            InitStep::StartAndGoOn => wanted.push(*spec),
            InitStep::Start => {
                wanted.push(*spec);
                initialized = false;
                break;
            }
            InitStep::Wait => {
                initialized = false;
                break;
            }
        }
    }
    if initialized {
        let regular = all.iter().filter(|s| s.kind == Kind::Regular);
        wanted.extend(regular.filter(|s| should_start(input, pod, s, sandbox)));
    }
    wanted
}

enum InitStep {
    /// Nothing to do here; look at the next.
    Passed,
    /// Start it and look at the next.
    StartAndGoOn,
    /// Start it; the next waits for it.
    Start,
    /// It runs; the next waits for it.
    Wait,
}

/// Init containers count only in the sandbox they ran in: a new sandbox starts with the first again.
fn init_step(
    input: &Input<'_>,
    pod: &PodSpec,
    spec: &ContainerSpec<'_>,
    sandbox: Option<&Sandbox>,
    has_initialized: bool,
) -> InitStep {
    let current = input
        .observed
        .newest(spec.name)
        .filter(|c| sandbox.is_some_and(|s| s.id == c.sandbox));
    match (spec.kind, current) {
        (Kind::Init, _) if has_initialized => InitStep::Passed,
        (Kind::Init, Some(c)) => match c.exit() {
            Some((0, _)) => InitStep::Passed,
            Some((code, _)) if spec.may_restart(pod, code) => InitStep::Start,
            Some(_) => InitStep::Wait,
            None if c.is_running() => InitStep::Wait,
            None => InitStep::Start,
        },
        (_, Some(c)) if c.is_running() => {
            let started = input.observed.probed.get(&c.id).is_none_or(|p| p.started);
            if started || has_initialized {
                InitStep::Passed
            } else {
                InitStep::Wait
            }
        }
        // A sidecar of an initialised pod restarts beside the others.
        (Kind::Sidecar, _) if has_initialized => InitStep::StartAndGoOn,
        _ => InitStep::Start,
    }
}

/// Whether a regular container was made in this sandbox and has not been lost since.
fn began_in(input: &Input<'_>, spec: &ContainerSpec<'_>, sandbox: Option<&Sandbox>) -> bool {
    let Some(sandbox) = sandbox else { return false };
    input
        .observed
        .newest(spec.name)
        .is_some_and(|c| c.sandbox == sandbox.id)
}

fn should_start(
    input: &Input<'_>,
    pod: &PodSpec,
    spec: &ContainerSpec<'_>,
    sandbox: Option<&Sandbox>,
) -> bool {
    let Some(newest) = input.observed.newest(spec.name) else {
        return true;
    };
    match &newest.state {
        // One that runs on in an unusable sandbox has to move.
        State::Running => sandbox.is_none_or(|s| s.id != newest.sandbox),
        State::Created | State::Unknown => true,
        State::Exited { code, .. } => is_outdated(newest, spec) || spec.may_restart(pod, *code),
    }
}

fn is_outdated(container: &Container, spec: &ContainerSpec<'_>) -> bool {
    !container.hash.is_empty() && container.hash != spec.hash()
}

/// Takes one container a step nearer to running.
fn bring_up(input: &Input<'_>, draft: &mut Draft<'_>, ground: &Ground<'_>, spec: &ContainerSpec<'_>) {
    let starts = |a: &Action| matches!(a, Action::Launch { container, .. } | Action::Start { container, .. } if container == spec.name);
    if input.observed.is_under_way(starts) {
        return;
    }
    let newest = input.observed.newest(spec.name);
    // What may still live is taken down first, so that there never are two of one name.
    if let Some(living) = newest.filter(|c| c.may_live()) {
        let message = match living.state {
            State::Unknown => "Container is in \"unknown\" state, try killing it before restart".to_owned(),
            _ => format!("Stopping container {}", spec.name),
        };
        return stop(draft, living, input.now + grace(input), message);
    }
    if let Some(failure) = input.observed.failures.get(spec.name)
        && draft.wait_until(failure.retry_at)
    {
        return draft.waits(spec.name, &failure.reason, &failure.message);
    }
    let in_sandbox = |c: &&Container| ground.sandbox.is_some_and(|s| s.id == c.sandbox);
    if let Some(created) = newest.filter(|c| c.state == State::Created).filter(in_sandbox)
        && !input.observed.failures.contains_key(spec.name)
    {
        if ground.volumes {
            draft.act(Action::Start {
                container: spec.name.to_owned(),
                id: created.id.clone(),
            });
        }
        return;
    }
    if in_crash_back_off(input, draft, spec, newest) {
        return;
    }
    let attempt = input.observed.next_attempt(spec.name);
    let Some(image_ref) = ensure_image(input, draft, spec, attempt) else {
        return;
    };
    if let Some(sandbox) = ground.sandbox
        && ground.volumes
    {
        let (container, sandbox) = (spec.name.to_owned(), sandbox.id.clone());
        draft.act(Action::Launch {
            container,
            attempt,
            sandbox,
            image_ref,
        });
    }
}

/// Whether the container has to wait after its last exit.
fn in_crash_back_off(
    input: &Input<'_>,
    draft: &mut Draft<'_>,
    spec: &ContainerSpec<'_>,
    newest: Option<&Container>,
) -> bool {
    let Some((_, Some(finished))) = newest.and_then(Container::exit) else {
        return false;
    };
    let Some(delay) = input.memory.crash_delay(spec.name, spec.backoff_key(), finished) else {
        return false;
    };
    if !draft.wait_until(finished + delay) {
        return false;
    }
    let pod = describe(input);
    let text = format!(
        "back-off {} restarting failed container={} pod={pod}",
        go_duration(delay),
        spec.name
    );
    draft.waits(spec.name, "CrashLoopBackOff", text);
    draft.notice(Notice {
        container: spec.name.to_owned(),
        warning: true,
        reason: "BackOff",
        message: format!("Back-off restarting failed container {} in pod {pod}", spec.name),
    });
    true
}

/// The image reference to create from, once it is there.
fn ensure_image(
    input: &Input<'_>,
    draft: &mut Draft<'_>,
    spec: &ContainerSpec<'_>,
    attempt: u32,
) -> Option<String> {
    let image = input
        .observed
        .images
        .get(spec.name)
        .filter(|i| i.name == spec.image && i.attempt == attempt);
    match image.map(|i| &i.outcome) {
        Some(Ok(image_ref)) => return Some(image_ref.clone()),
        Some(Err(failure)) if draft.wait_until(failure.retry_at) => show_pull_failure(draft, spec, failure),
        _ => draft.act(Action::EnsureImage {
            container: spec.name.to_owned(),
            image: spec.image.to_owned(),
            policy: spec.pull_policy,
            attempt,
        }),
    }
    None
}

fn show_pull_failure(draft: &mut Draft<'_>, spec: &ContainerSpec<'_>, failure: &PullFailure) {
    let backing_off = failure.back_off_at.is_some_and(|at| !draft.wait_until(at));
    if !backing_off {
        return draft.waits(spec.name, &failure.reason, &failure.message);
    }
    let text = format!("Back-off pulling image \"{}\"", spec.image);
    draft.waits(
        spec.name,
        "ImagePullBackOff",
        format!("{text}: {}: {}", failure.reason, failure.message),
    );
    for (warning, reason, message) in [
        (false, "BackOff", text),
        (true, "Failed", "Error: ImagePullBackOff".to_owned()),
    ] {
        let container = spec.name.to_owned();
        draft.notice(Notice {
            container,
            warning,
            reason,
            message,
        });
    }
}

/// Stops running containers whose definition changed; they start again whatever the policy says.
fn replace_changed(input: &Input<'_>, draft: &mut Draft<'_>) {
    for spec in containers(input.pod)
        .iter()
        .filter(|s| matches!(s.kind, Kind::Regular | Kind::Sidecar))
    {
        let Some(newest) = input.observed.newest(spec.name).filter(|c| c.is_running()) else {
            continue;
        };
        if is_outdated(newest, spec) {
            let what = if spec.kind == Kind::Sidecar {
                "Init container"
            } else {
                "Container"
            };
            let message = format!("{what} {} definition changed, will be restarted", spec.name);
            stop(draft, newest, input.now + grace(input), message);
        }
    }
}

/// Keeps one dead container beside the newest of each name, and no sandbox but the current and its containers'.
fn prune(input: &Input<'_>, draft: &mut Draft<'_>) {
    let observed = input.observed;
    for spec in containers(input.pod) {
        for old in observed.of_name(spec.name).skip(2).filter(|c| !c.may_live()) {
            draft.act(Action::RemoveContainer { id: old.id.clone() });
        }
    }
    for old in observed
        .sandboxes
        .iter()
        .skip(1)
        .filter(|s| !s.ready && s.stopped)
    {
        if !observed.containers.iter().any(|c| c.sandbox == old.id) {
            draft.act(Action::RemoveSandbox { id: old.id.clone() });
        }
    }
}

fn stop(draft: &mut Draft<'_>, container: &Container, deadline: Timestamp, message: String) {
    let (name, id) = (container.name.clone(), container.id.clone());
    draft.act(Action::Stop {
        container: name,
        id,
        deadline,
        message,
    });
}

/// `name_namespace(uid)`, as events and messages name a pod.
fn describe(input: &Input<'_>) -> String {
    let meta = &input.pod.metadata;
    let text = |s: &Option<String>| s.clone().unwrap_or_default();
    format!(
        "{}_{}({})",
        text(&meta.name),
        text(&meta.namespace),
        text(&meta.uid)
    )
}

/// As Go prints it: `10s`, `1m20s`, `5m0s`.
fn go_duration(d: SignedDuration) -> String {
    let seconds = d.as_secs();
    if seconds < 60 {
        format!("{seconds}s")
    } else {
        format!("{}m{}s", seconds / 60, seconds % 60)
    }
}
