//! Sums of requests and limits over the containers of a pod.
//!
//! Quantities were checked where the pod came in (API server, manifest reader); one that still cannot be read counts
//! as absent.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::config::quantity::Amount;

/// Amounts by resource name.
pub(crate) type Amounts = BTreeMap<String, Amount>;

pub(crate) const CPU: &str = "cpu";
pub(crate) const MEMORY: &str = "memory";
/// Huge pages of one size: `hugepages-2Mi`.
pub(crate) const HUGE_PAGES_PREFIX: &str = "hugepages-";

/// Which side of `resources` is summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Requests,
    Limits,
}

/// The amounts of an API object's resource list.
pub(crate) fn amounts(list: Option<&BTreeMap<String, Quantity>>) -> Amounts {
    list.into_iter()
        .flatten()
        .filter_map(|(name, quantity)| Some((name.clone(), Amount::of(quantity).ok()?)))
        .collect()
}

/// What one container requests.
pub(crate) fn container_requests(container: &Container) -> Amounts {
    amounts(container.resources.as_ref().and_then(|r| r.requests.as_ref()))
}

/// What one container is limited to.
pub(crate) fn container_limits(container: &Container) -> Amounts {
    amounts(container.resources.as_ref().and_then(|r| r.limits.as_ref()))
}

/// The amount of `name`, zero when absent.
pub(crate) fn amount_of(list: &Amounts, name: &str) -> Amount {
    list.get(name).copied().unwrap_or_default()
}

/// An init container that runs on beside the regular ones.
pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// What the pod requests: the larger of its regular containers with sidecars and its init peak, pod-level values in
/// place of sums, plus overhead. Contract §8.2.
pub(crate) fn pod_requests(pod: &Pod) -> Amounts {
    pod_sum(pod, Side::Requests, Overhead::Included)
}

/// What the pod is limited to, summed likewise. Overhead adds only to what is limited.
pub(crate) fn pod_limits(pod: &Pod) -> Amounts {
    pod_sum(pod, Side::Limits, Overhead::Included)
}

/// [`pod_requests`] without overhead.
pub(crate) fn sandbox_requests(pod: &Pod) -> Amounts {
    pod_sum(pod, Side::Requests, Overhead::Left)
}

/// [`pod_limits`] without overhead.
pub(crate) fn sandbox_limits(pod: &Pod) -> Amounts {
    pod_sum(pod, Side::Limits, Overhead::Left)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Overhead {
    Included,
    Left,
}

fn pod_sum(pod: &Pod, side: Side, overhead: Overhead) -> Amounts {
    let Some(spec) = &pod.spec else {
        return Amounts::new();
    };
    let mut sum = containers_sum(spec, side);
    for (name, amount) in pod_level(spec, side) {
        if supports_pod_level(&name) {
            sum.insert(name, amount);
        }
    }
    if overhead == Overhead::Included {
        for (name, amount) in amounts(spec.overhead.as_ref()) {
            match (side, sum.get_mut(&name)) {
                (_, Some(value)) if side == Side::Requests || *value > Amount::default() => {
                    *value = value.saturating_add(amount);
                }
                (Side::Requests, None) => {
                    sum.insert(name, amount);
                }
                _ => {}
            }
        }
    }
    sum
}

fn containers_sum(spec: &PodSpec, side: Side) -> Amounts {
    let of = |container: &Container| match side {
        Side::Requests => container_requests(container),
        Side::Limits => container_limits(container),
    };
    let mut sum = Amounts::new();
    for container in &spec.containers {
        add(&mut sum, &of(container));
    }
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for container in spec.init_containers.iter().flatten() {
        let mut needed = of(container);
        if is_sidecar(container) {
            add(&mut sum, &needed);
            add(&mut sidecars, &needed);
            needed.clone_from(&sidecars);
        } else {
            add(&mut needed, &sidecars);
        }
        raise(&mut peak, &needed);
    }
    raise(&mut sum, &peak);
    sum
}

fn pod_level(spec: &PodSpec, side: Side) -> Amounts {
    let resources = spec.resources.as_ref();
    match side {
        Side::Requests => amounts(resources.and_then(|r| r.requests.as_ref())),
        Side::Limits => amounts(resources.and_then(|r| r.limits.as_ref())),
    }
}

/// Resources that may be given for the pod as a whole.
fn supports_pod_level(name: &str) -> bool {
    name == CPU || name == MEMORY || name.starts_with(HUGE_PAGES_PREFIX)
}

fn add(to: &mut Amounts, from: &Amounts) {
    for (name, amount) in from {
        let value = to.entry(name.clone()).or_default();
        *value = value.saturating_add(*amount);
    }
}

fn raise(to: &mut Amounts, from: &Amounts) {
    for (name, amount) in from {
        let value = to.entry(name.clone()).or_default();
        *value = (*value).max(*amount);
    }
}
