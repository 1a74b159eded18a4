//! Quality of service class of a pod.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};

use crate::config::quantity::Amount;

/// The API's own answer if there is one; else by the rules: no request or limit of cpu or memory anywhere is
/// BestEffort, limits of both everywhere with equal requests is Guaranteed, the rest Burstable.
pub(crate) fn class(pod: &Pod) -> &str {
    if let Some(class) = pod.status.as_ref().and_then(|s| s.qos_class.as_deref()) {
        return class;
    }
    let Some(spec) = &pod.spec else {
        return "BestEffort";
    };
    if let Some(resources) = &spec.resources {
        return class_of(std::iter::once(resources));
    }
    let none = ResourceRequirements::default();
    let containers = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    class_of(containers.map(|c| c.resources.as_ref().unwrap_or(&none)))
}

fn class_of<'a>(all: impl Iterator<Item = &'a ResourceRequirements>) -> &'static str {
    let (mut any, mut guaranteed) = (false, true);
    for resources in all {
        let limits = named(&resources.limits);
        let requests = named(&resources.requests);
        any |= !limits.is_empty() || !requests.is_empty();
        // A request that is left out equals its limit.
        let equal = requests.iter().all(|r| limits.contains(r));
        guaranteed &= limits.len() == 2 && equal;
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

type Resources = std::collections::BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>;

/// Positive amounts of cpu and memory.
fn named(list: &Option<Resources>) -> BTreeSet<(&str, Amount)> {
    let mut named = BTreeSet::new();
    for name in ["cpu", "memory"] {
        let quantity = list.as_ref().and_then(|l| l.get(name));
        let amount = quantity.and_then(|q| Amount::of(q).ok()).unwrap_or_default();
        if amount > Amount::default() {
            named.insert((name, amount));
        }
    }
    named
}
