//! QoS classes and what follows from them. Contract §8.3.

use k8s_openapi::api::core::v1::{Container, Pod};

use super::amounts::{self, Amounts, CPU, MEMORY, amount_of};
use crate::config::quantity::Amount;

/// Quality of service, worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum QosClass {
    BestEffort,
    Burstable,
    Guaranteed,
}

const GUARANTEED_SCORE: i64 = -997;
const BEST_EFFORT_SCORE: i64 = 1000;
/// Priority from which a pod is critical.
const CRITICAL_PRIORITY: i32 = 2_000_000_000;
const NODE_CRITICAL_CLASS: &str = "system-node-critical";
const SOURCE_ANNOTATION: &str = "kubernetes.io/config.source";
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

impl QosClass {
    /// As the API writes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::BestEffort => "BestEffort",
            Self::Burstable => "Burstable",
            Self::Guaranteed => "Guaranteed",
        }
    }

    /// The class of `pod`: as the API server wrote it at creation, else computed.
    pub(crate) fn of(pod: &Pod) -> Self {
        match pod.status.as_ref().and_then(|s| s.qos_class.as_deref()) {
            Some("Guaranteed") => Self::Guaranteed,
            Some("Burstable") => Self::Burstable,
            Some("BestEffort") => Self::BestEffort,
            _ => Self::computed(pod),
        }
    }

    /// The class of `pod` by its spec.
    pub(crate) fn computed(pod: &Pod) -> Self {
        let Some(spec) = &pod.spec else {
            return Self::BestEffort;
        };
        let mut classes = Vec::new();
        match &spec.resources {
            Some(r) if r.requests.is_some() || r.limits.is_some() => {
                classes.push((
                    amounts::amounts(r.requests.as_ref()),
                    amounts::amounts(r.limits.as_ref()),
                ));
            }
            _ => {
                for container in spec
                    .containers
                    .iter()
                    .chain(spec.init_containers.iter().flatten())
                {
                    classes.push((
                        amounts::container_requests(container),
                        amounts::container_limits(container),
                    ));
                }
            }
        }
        Self::judged(&classes)
    }

    fn judged(members: &[(Amounts, Amounts)]) -> Self {
        let given = |list: &Amounts, name| amount_of(list, name) > Amount::default();
        let any = members.iter().any(|(requests, limits)| {
            [CPU, MEMORY]
                .iter()
                .any(|name| given(requests, name) || given(limits, name))
        });
        if !any {
            return Self::BestEffort;
        }
        let guaranteed = members.iter().all(|(requests, limits)| {
            [CPU, MEMORY].iter().all(|name| {
                // An absent request is its limit, as the API server defaults it.
                let request = requests.get(*name).filter(|a| **a > Amount::default());
                given(limits, name) && request.is_none_or(|request| *request == amount_of(limits, name))
            })
        });
        if guaranteed {
            Self::Guaranteed
        } else {
            Self::Burstable
        }
    }
}

/// A static, mirror or system-critical pod.
pub(crate) fn is_critical(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    let annotation = |name: &str| annotations.and_then(|a| a.get(name)).map(String::as_str);
    annotation(SOURCE_ANNOTATION).is_some_and(|source| source != "api")
        || annotation(MIRROR_ANNOTATION).is_some()
        || pod
            .spec
            .as_ref()
            .and_then(|s| s.priority)
            .is_some_and(|p| p >= CRITICAL_PRIORITY)
}

/// `oom_score_adj` of a container on a node with `capacity` bytes of memory.
pub(crate) fn oom_score_adjust(pod: &Pod, container: &Container, capacity: i64) -> i64 {
    let Some(spec) = &pod.spec else {
        return BEST_EFFORT_SCORE;
    };
    if is_critical(pod) && spec.priority_class_name.as_deref() == Some(NODE_CRITICAL_CLASS) {
        return GUARANTEED_SCORE;
    }
    match QosClass::of(pod) {
        QosClass::Guaranteed => return GUARANTEED_SCORE,
        QosClass::BestEffort => return BEST_EFFORT_SCORE,
        QosClass::Burstable => {}
    }
    let memory = |c: &Container| amount_of(&amounts::container_requests(c), MEMORY).value();
    let share = remaining_share(pod, &memory);
    let capacity = capacity.max(1);
    let score = |bytes: i64| 1000 - 1000i64.saturating_mul(bytes.saturating_add(share)) / capacity;
    let mut own = score(memory(container));
    let in_init = spec
        .init_containers
        .iter()
        .flatten()
        .any(|c| c.name == container.name);
    if in_init && amounts::is_sidecar(container) {
        let smallest = spec.containers.iter().map(&memory).min().unwrap_or(0);
        own = own.min(score(smallest));
    }
    own.clamp(1000 + GUARANTEED_SCORE, BEST_EFFORT_SCORE - 1)
}

/// What the pod as a whole requests beyond its containers' sum, a container.
fn remaining_share(pod: &Pod, memory: &dyn Fn(&Container) -> i64) -> i64 {
    let Some(spec) = &pod.spec else { return 0 };
    let Some(requests) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) else {
        return 0;
    };
    let whole = amount_of(&amounts::amounts(Some(requests)), MEMORY).value();
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|c| amounts::is_sidecar(c));
    let members: Vec<i64> = spec.containers.iter().chain(sidecars).map(memory).collect();
    let rest = whole.saturating_sub(members.iter().sum());
    let count = i64::try_from(members.len()).unwrap_or(i64::MAX).max(1);
    rest.max(0) / count
}
