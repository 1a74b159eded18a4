//! The pod conditions that the node owns.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};

use super::container_status::seconds;
use super::spec::{ContainerSpec, Kind};

/// Condition types that only the node writes.
pub(crate) const OWNED: [&str; 8] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    "PodResizePending",
    "PodResizeInProgress",
    "AllContainersRestarting",
];

/// What the rules look at.
pub(super) struct Facts<'a> {
    pub(super) pod: &'a Pod,
    pub(super) specs: &'a [ContainerSpec<'a>],
    pub(super) statuses: &'a [ContainerStatus],
    pub(super) phase: &'a str,
    pub(super) sandbox_usable: bool,
    /// As reported last, foreign ones included.
    pub(super) previous: &'a [PodCondition],
    pub(super) now: Timestamp,
}

/// The value of one condition.
struct Verdict {
    status: bool,
    reason: &'static str,
    message: String,
}

const YES: Verdict = Verdict {
    status: true,
    reason: "",
    message: String::new(),
};

fn no(reason: &'static str, message: String) -> Verdict {
    Verdict {
        status: false,
        reason,
        message,
    }
}

/// All conditions of the pod: foreign ones as they are, then ours in upstream's order.
pub(super) fn conditions(facts: &Facts<'_>) -> Vec<PodCondition> {
    let api = facts
        .pod
        .status
        .as_ref()
        .and_then(|s| s.conditions.as_deref())
        .unwrap_or_default();
    let mut all: Vec<PodCondition> = api
        .iter()
        .filter(|c| !OWNED.contains(&c.type_.as_str()))
        .cloned()
        .collect();
    let shared = facts.previous.iter().filter(|c| c.type_ == "DisruptionTarget");
    for condition in shared {
        all.retain(|c| c.type_ != condition.type_);
        all.push(condition.clone());
    }
    let containers_ready = containers_ready(facts);
    let ready = ready(facts, &containers_ready, &all);
    let sandbox = Verdict {
        status: facts.sandbox_usable,
        ..YES
    };
    all.push(condition(facts, "PodReadyToStartContainers", sandbox));
    all.push(condition(facts, "Initialized", initialized(facts)));
    all.push(condition(facts, "Ready", ready));
    all.push(condition(facts, "ContainersReady", containers_ready));
    all.push(condition(facts, "PodScheduled", YES));
    all
}

/// Makes the API condition; the transition time changes only with the status.
fn condition(facts: &Facts<'_>, type_: &str, verdict: Verdict) -> PodCondition {
    let status = if verdict.status { "True" } else { "False" };
    let before = facts.previous.iter().find(|c| c.type_ == type_);
    let kept = before
        .filter(|c| c.status == status)
        .and_then(|c| c.last_transition_time.clone());
    PodCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: (!verdict.reason.is_empty()).then(|| verdict.reason.to_owned()),
        message: (!verdict.message.is_empty()).then_some(verdict.message),
        last_transition_time: Some(kept.unwrap_or_else(|| seconds(facts.now))),
        last_probe_time: None,
        observed_generation: facts.pod.metadata.generation,
    }
}

/// Names of containers of some kinds without a status, and of those whose status fails a test.
fn sort_out<'a>(
    facts: &Facts<'a>,
    kinds: &[Kind],
    good: impl Fn(&ContainerSpec<'_>, &ContainerStatus) -> bool,
) -> (Vec<&'a str>, Vec<&'a str>) {
    let (mut unknown, mut bad) = (Vec::new(), Vec::new());
    for spec in facts.specs.iter().filter(|s| kinds.contains(&s.kind)) {
        match facts.statuses.iter().find(|s| s.name == spec.name) {
            None => unknown.push(spec.name),
            Some(status) if !good(spec, status) => bad.push(spec.name),
            Some(_) => {}
        }
    }
    (unknown, bad)
}

fn message(unknown: &[&str], bad: &[&str], what: &str) -> String {
    let list = |names: &[&str], what: &str| format!("containers with {what} status: [{}]", names.join(" "));
    let mut parts = Vec::new();
    if !unknown.is_empty() {
        parts.push(list(unknown, "unknown"));
    }
    if !bad.is_empty() {
        parts.push(list(bad, what));
    }
    parts.join(", ")
}

fn containers_ready(facts: &Facts<'_>) -> Verdict {
    if facts.statuses.is_empty() {
        return no("UnknownContainerStatuses", String::new());
    }
    let (unknown, unready) = sort_out(facts, &[Kind::Sidecar, Kind::Regular], |_, status| status.ready);
    match facts.phase {
        "Succeeded" if unknown.is_empty() => return no("PodCompleted", String::new()),
        "Failed" => return no("PodFailed", String::new()),
        _ => {}
    }
    if unknown.is_empty() && unready.is_empty() {
        return YES;
    }
    no("ContainersNotReady", message(&unknown, &unready, "unready"))
}

fn ready(facts: &Facts<'_>, containers: &Verdict, conditions: &[PodCondition]) -> Verdict {
    if !containers.status {
        return no(containers.reason, containers.message.clone());
    }
    let gates = facts
        .pod
        .spec
        .as_ref()
        .and_then(|s| s.readiness_gates.as_deref())
        .unwrap_or_default();
    let closed: Vec<String> = gates
        .iter()
        .filter_map(|gate| {
            let name = &gate.condition_type;
            match conditions.iter().find(|c| c.type_ == *name) {
                None => Some(format!(
                    "corresponding condition of pod readiness gate \"{name}\" does not exist."
                )),
                Some(c) if c.status != "True" => Some(format!(
                    "the status of pod readiness gate \"{name}\" is not \"True\", but {}",
                    c.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    if closed.is_empty() {
        YES
    } else {
        no("ReadinessGatesNotReady", closed.join(", "))
    }
}

fn initialized(facts: &Facts<'_>) -> Verdict {
    let has_init = facts
        .specs
        .iter()
        .any(|s| matches!(s.kind, Kind::Init | Kind::Sidecar));
    if facts.statuses.is_empty() && has_init {
        return no("UnknownContainerStatuses", String::new());
    }
    let done = |spec: &ContainerSpec<'_>, status: &ContainerStatus| match spec.kind {
        Kind::Sidecar => status.started.unwrap_or(false),
        _ => status.ready,
    };
    let (unknown, incomplete) = sort_out(facts, &[Kind::Init, Kind::Sidecar], done);
    if facts.phase == "Succeeded" && unknown.is_empty() {
        return Verdict {
            reason: "PodCompleted",
            ..YES
        };
    }
    let began = |s: &&ContainerSpec<'_>| {
        let status = facts.statuses.iter().find(|status| status.name == s.name);
        status
            .and_then(|s| s.state.as_ref())
            .is_some_and(|s| s.running.is_some() || s.terminated.is_some())
    };
    if facts
        .specs
        .iter()
        .filter(|s| s.kind == Kind::Regular)
        .any(|s| began(&s))
    {
        return YES;
    }
    if unknown.is_empty() && incomplete.is_empty() {
        return YES;
    }
    no(
        "ContainersNotInitialized",
        message(&unknown, &incomplete, "incomplete"),
    )
}
