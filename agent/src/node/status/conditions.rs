//! The node's conditions, in upstream's words and order: Ready is last.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{NodeCondition, NodeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::plan::{Facts, Told};
use crate::api::EventKind;
use crate::config::Settings;

/// What the node is short of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Pressures {
    pub(crate) memory: bool,
    pub(crate) disk: bool,
    pub(crate) pids: bool,
}

/// Words of one pressure: reason, message and event, when under it and when not.
struct Words {
    kind: &'static str,
    yes: [&'static str; 3],
    no: [&'static str; 3],
}

const MEMORY: Words = Words {
    kind: "MemoryPressure",
    yes: [
        "KubeletHasInsufficientMemory",
        "kubelet has insufficient memory available",
        "NodeHasInsufficientMemory",
    ],
    no: [
        "KubeletHasSufficientMemory",
        "kubelet has sufficient memory available",
        "NodeHasSufficientMemory",
    ],
};
const DISK: Words = Words {
    kind: "DiskPressure",
    yes: [
        "KubeletHasDiskPressure",
        "kubelet has disk pressure",
        "NodeHasDiskPressure",
    ],
    no: [
        "KubeletHasNoDiskPressure",
        "kubelet has no disk pressure",
        "NodeHasNoDiskPressure",
    ],
};
const PIDS: Words = Words {
    kind: "PIDPressure",
    yes: [
        "KubeletHasInsufficientPID",
        "kubelet has insufficient PID available",
        "NodeHasInsufficientPID",
    ],
    no: [
        "KubeletHasSufficientPID",
        "kubelet has sufficient PID available",
        "NodeHasSufficientPID",
    ],
};

/// Fills in the four conditions; those of others stay.
pub(super) fn fill(
    status: &mut NodeStatus,
    settings: &Settings,
    facts: &Facts,
    now: Timestamp,
    told: &mut Vec<Told>,
) {
    let errors = errors(status, settings, facts);
    let conditions = status.conditions.get_or_insert_default();
    let pressures = facts.pressures;
    for (words, under) in [
        (MEMORY, pressures.memory),
        (DISK, pressures.disk),
        (PIDS, pressures.pids),
    ] {
        let [reason, message, event] = if under { words.yes } else { words.no };
        let changed = put(
            conditions,
            condition(words.kind, under, reason, message.to_owned(), now),
        );
        if changed != Changed::No {
            told.push(tell(settings, event));
        }
    }
    let ready = match aggregate(&errors) {
        None => condition(
            "Ready",
            true,
            "KubeletReady",
            "kubelet is posting ready status".to_owned(),
            now,
        ),
        Some(message) => condition("Ready", false, "KubeletNotReady", message, now),
    };
    let is_ready = ready.status == "True";
    if put(conditions, ready) == Changed::Yes {
        told.push(tell(
            settings,
            if is_ready { "NodeReady" } else { "NodeNotReady" },
        ));
    }
}

fn tell(settings: &Settings, event: &str) -> Told {
    Told {
        kind: EventKind::Normal,
        reason: event.to_owned(),
        message: format!("Node {} status is now: {event}", settings.node_name),
    }
}

fn condition(kind: &str, holds: bool, reason: &str, message: String, now: Timestamp) -> NodeCondition {
    NodeCondition {
        type_: kind.to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_heartbeat_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

#[derive(PartialEq, Eq)]
enum Changed {
    No,
    New,
    Yes,
}

/// Puts a condition in its place; its transition time stays while its status does.
fn put(conditions: &mut Vec<NodeCondition>, mut new: NodeCondition) -> Changed {
    let Some(old) = conditions.iter_mut().find(|old| old.type_ == new.type_) else {
        conditions.push(new);
        return Changed::New;
    };
    let changed = if old.status == new.status {
        Changed::No
    } else {
        Changed::Yes
    };
    if changed == Changed::No {
        new.last_transition_time.clone_from(&old.last_transition_time);
    }
    *old = new;
    changed
}

/// What speaks against Ready, in upstream's order: runtime, network, the rest, capacity.
fn errors(status: &NodeStatus, settings: &Settings, facts: &Facts) -> Vec<String> {
    let mut errors = Vec::new();
    let named = |kind: &str| {
        let conditions = facts
            .health
            .as_ref()
            .map(|health| health.conditions.as_slice())
            .unwrap_or_default();
        conditions
            .iter()
            .find(|condition| condition.kind == kind && !condition.holds)
    };
    match (&facts.health, &facts.health_error) {
        (_, Some(error)) => errors.push(format!("container runtime is down: {error}")),
        (None, None) => {
            errors.push("container runtime status check may not have completed yet".to_owned());
        }
        (Some(_), None) => {}
    }
    if let Some(condition) = named("RuntimeReady") {
        errors.push(format!("container runtime not ready: {condition}"));
    }
    if let Some(condition) = named("NetworkReady") {
        errors.push(format!("container runtime network not ready: {condition}"));
    }
    errors.extend(facts.errors.iter().cloned());
    let capacity = status.capacity.clone().unwrap_or_default();
    let mut wanted = vec!["cpu", "memory", "pods"];
    if settings.kubelet.local_storage_capacity_isolation {
        wanted.push("ephemeral-storage");
    }
    wanted.retain(|name| !capacity.contains_key(*name));
    if !wanted.is_empty() {
        errors.push(format!(
            "missing node capacity for resources: {}",
            wanted.join(", ")
        ));
    }
    errors
}

/// Several errors as Go joins them.
fn aggregate(errors: &[String]) -> Option<String> {
    match errors {
        [] => None,
        [one] => Some(one.clone()),
        many => Some(format!("[{}]", many.join(", "))),
    }
}
