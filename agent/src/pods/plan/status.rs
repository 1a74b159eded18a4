//! The pod status to report.

use k8s_openapi::api::core::v1::{ContainerStatus, HostIP, PodIP, PodStatus};

use crate::resources::QosClass;

use super::container_status::{self, has_run, seconds, terminate};
use super::draft::Draft;
use super::phase::{Circumstances, phase};
use super::run::usable_sandbox;
use super::spec::{ContainerSpec, Kind, containers};
use super::{Input, Stage, Verdict, conditions};

/// Whether no container of such a pod starts again.
pub(crate) fn is_terminal(phase: &str) -> bool {
    matches!(phase, "Succeeded" | "Failed")
}

/// The statuses of the containers and the phase that follows, before reasons for waiting are put over them.
pub(super) struct Outlook {
    statuses: Vec<ContainerStatus>,
    pub(super) phase: String,
}

pub(super) fn outlook(input: &Input<'_>) -> Outlook {
    let specs = containers(input.pod);
    let statuses: Vec<_> = specs
        .iter()
        .map(|s| container_status::status(input, &specs, s))
        .collect();
    let phase = sticky_phase(input, &specs, &statuses, false);
    Outlook { statuses, phase }
}

/// The phase, given that a terminal one is never left and a decision of the node overrides the rules.
fn sticky_phase(
    input: &Input<'_>,
    specs: &[ContainerSpec<'_>],
    statuses: &[ContainerStatus],
    over: bool,
) -> String {
    let api = input.pod.status.as_ref().and_then(|s| s.phase.as_deref());
    let before = [api, input.previous.phase.as_deref()];
    if let Some(terminal) = before.into_iter().flatten().find(|p| is_terminal(p)) {
        return terminal.to_owned();
    }
    if input.wish.verdict.is_some() {
        return "Failed".to_owned();
    }
    let Some(pod) = &input.pod.spec else {
        return "Pending".to_owned();
    };
    let regular = |s: &&ContainerSpec<'_>| s.kind == Kind::Regular;
    let sandbox = input.observed.sandboxes.first().map(|s| s.id.as_str());
    let made = |s: &ContainerSpec<'_>| {
        input
            .observed
            .newest(s.name)
            .is_some_and(|c| Some(c.sandbox.as_str()) == sandbox)
    };
    let initialized = specs.iter().filter(regular).any(made);
    let over = over && !is_static(input);
    phase(pod, specs, statuses, Circumstances { over, initialized }).to_owned()
}

/// Static pods are not given a terminal phase for being stopped.
fn is_static(input: &Input<'_>) -> bool {
    let annotations = input.pod.metadata.annotations.as_ref();
    annotations
        .and_then(|a| a.get("kubernetes.io/config.source"))
        .is_some_and(|s| s != "api")
}

/// Puts the status together.
pub(super) fn build(input: &Input<'_>, outlook: Outlook, draft: &Draft<'_>, stage: Stage) -> PodStatus {
    if let Some(verdict) = input.wish.verdict.as_ref().filter(|_| never_began(input)) {
        return rejected(input, verdict);
    }
    let specs = containers(input.pod);
    let mut statuses = outlook.statuses;
    let down = stage > Stage::Running && !input.observed.containers.iter().any(|c| c.may_live());
    if down && input.wish.ending.is_some() {
        terminate_all(&specs, &mut statuses);
    }
    let phase = reported_phase(input, &specs, &statuses, down);
    show_waiting(draft, &mut statuses);

    let mut status = PodStatus {
        phase: Some(phase.clone()),
        ..PodStatus::default()
    };
    keep_reason(input, &mut status);
    addresses(input, &mut status);
    let previous = input.previous.conditions.as_deref().unwrap_or_default();
    let host_network = input
        .pod
        .spec
        .as_ref()
        .and_then(|s| s.host_network)
        .unwrap_or(false);
    status.conditions = Some(conditions::conditions(&conditions::Facts {
        pod: input.pod,
        specs: &specs,
        statuses: &statuses,
        phase: &phase,
        sandbox_usable: usable_sandbox(&input.observed.sandboxes, host_network).is_some(),
        previous,
        now: input.now,
    }));
    status.qos_class = Some(QosClass::of(input.pod).name().to_owned());
    status.start_time = Some(
        input
            .previous
            .start_time
            .clone()
            .unwrap_or_else(|| seconds(input.now)),
    );
    status.observed_generation = input.pod.metadata.generation;
    spread(&specs, statuses, &mut status);
    status
}

/// Nothing was ever made or reported of its containers.
fn never_began(input: &Input<'_>) -> bool {
    input.observed.containers.is_empty() && input.previous.container_statuses.is_none()
}

/// A rejected pod has a phase with its reason, and no word of containers.
fn rejected(input: &Input<'_>, verdict: &Verdict) -> PodStatus {
    PodStatus {
        phase: Some("Failed".to_owned()),
        reason: Some(verdict.reason.clone()),
        message: Some(verdict.message.clone()),
        qos_class: Some(QosClass::of(input.pod).name().to_owned()),
        start_time: Some(
            input
                .previous
                .start_time
                .clone()
                .unwrap_or_else(|| seconds(input.now)),
        ),
        observed_generation: input.pod.metadata.generation,
        ..PodStatus::default()
    }
}

/// A terminal phase is told only once nothing runs; until then the last one stays.
fn reported_phase(
    input: &Input<'_>,
    specs: &[ContainerSpec<'_>],
    statuses: &[ContainerStatus],
    down: bool,
) -> String {
    let over = down && input.wish.ending.is_some();
    let phase = sticky_phase(input, specs, statuses, over);
    let running = input.observed.containers.iter().any(|c| c.may_live());
    let before = input.previous.phase.as_deref();
    if is_terminal(&phase) && running && !before.is_some_and(is_terminal) {
        return before.unwrap_or("Pending").to_owned();
    }
    // Nothing is left to run and no rule has named an end: the pod never got to run.
    if over && !is_terminal(&phase) && !is_static(input) {
        "Failed".to_owned()
    } else {
        phase
    }
}

/// Every container of an initialised pod, and every init container up to the last that ran, has ended.
fn terminate_all(specs: &[ContainerSpec<'_>], statuses: &mut [ContainerStatus]) {
    let is_init = |s: &ContainerSpec<'_>| matches!(s.kind, Kind::Init | Kind::Sidecar);
    let last_run_init = (0..specs.len())
        .rev()
        .find(|&i| is_init(&specs[i]) && has_run(&statuses[i]));
    let has_init = specs.iter().any(is_init);
    let initialized = !has_init
        || specs
            .iter()
            .zip(statuses.iter())
            .any(|(s, status)| s.kind == Kind::Regular && has_run(status));
    for (i, spec) in specs.iter().enumerate() {
        let ended = match spec.kind {
            Kind::Init | Kind::Sidecar => i <= last_run_init.unwrap_or(0),
            Kind::Regular => initialized,
            Kind::Ephemeral => false,
        };
        if ended {
            terminate(&mut statuses[i]);
        }
    }
}

/// Puts reasons for waiting over the states; what was a termination becomes the last one.
fn show_waiting(draft: &Draft<'_>, statuses: &mut [ContainerStatus]) {
    for status in statuses {
        let Some(waiting) = draft.waiting.get(&status.name) else {
            continue;
        };
        if status.state.as_ref().is_some_and(|s| s.terminated.is_some()) {
            status.last_state = status.state.take();
        }
        status.state = Some(container_status::waiting(&waiting.reason, &waiting.message));
    }
}

/// Reason and message belong to the phase and stay with it.
fn keep_reason(input: &Input<'_>, status: &mut PodStatus) {
    if input.previous.phase == status.phase {
        status.reason.clone_from(&input.previous.reason);
        status.message.clone_from(&input.previous.message);
    }
    if let Some(verdict) = &input.wish.verdict {
        status.reason = Some(verdict.reason.clone());
        status.message = Some(verdict.message.clone());
    }
}

fn addresses(input: &Input<'_>, status: &mut PodStatus) {
    let spec = input.pod.spec.as_ref();
    let hosts: Vec<String> = input.node.host_ips.iter().map(ToString::to_string).collect();
    let host_network = spec.and_then(|s| s.host_network).unwrap_or(false);
    let mut ips: Vec<String> = match input.observed.sandboxes.first() {
        _ if host_network => hosts.clone(),
        Some(sandbox) => sandbox.ips.iter().map(ToString::to_string).collect(),
        None => Vec::new(),
    };
    if ips.is_empty() {
        // The sandbox is down or not made yet; the addresses it had are still the last ones known.
        ips = input
            .previous
            .pod_ips
            .iter()
            .flatten()
            .map(|ip| ip.ip.clone())
            .collect();
    }
    status.host_ip = hosts.first().cloned();
    status.host_ips = (!hosts.is_empty()).then(|| hosts.into_iter().map(|ip| HostIP { ip }).collect());
    status.pod_ip = ips.first().cloned();
    status.pod_ips = (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect());
}

/// Regular and ephemeral containers by name, init containers in order of the spec.
fn spread(specs: &[ContainerSpec<'_>], statuses: Vec<ContainerStatus>, status: &mut PodStatus) {
    let (mut init, mut regular, mut ephemeral) = (Vec::new(), Vec::new(), Vec::new());
    for (spec, status) in specs.iter().zip(statuses) {
        match spec.kind {
            Kind::Init | Kind::Sidecar => init.push(status),
            Kind::Regular => regular.push(status),
            Kind::Ephemeral => ephemeral.push(status),
        }
    }
    regular.sort_by(|a, b| a.name.cmp(&b.name));
    ephemeral.sort_by(|a, b| a.name.cmp(&b.name));
    let some = |list: Vec<ContainerStatus>| (!list.is_empty()).then_some(list);
    status.init_container_statuses = some(init);
    status.container_statuses = some(regular);
    status.ephemeral_container_statuses = some(ephemeral);
}
