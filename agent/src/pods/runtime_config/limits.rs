//! Resource limits in CRI's shape. Contract §8.2 to §8.4.

use k8s_openapi::api::core::v1::{Container, Pod};
use proto::cri;

use crate::config::quantity::Amount;
use crate::resources::amounts::{self, Amounts, CPU, MEMORY, amount_of};
use crate::resources::{Controllers, Limits, formulas, huge_pages, qos};

/// What of the node limits depend on.
#[derive(Debug, Clone)]
pub(crate) struct LimitFacts {
    pub(crate) limits: Limits,
    /// What the kernel offers: limits without a controller are left out.
    pub(crate) controllers: Controllers,
    /// Bytes of memory the node has.
    pub(crate) memory_capacity: i64,
    /// `singleProcessOOMKill`; on the unified hierarchy a container dies as a whole by default.
    pub(crate) single_process_oom_kill: bool,
}

/// The limits of a container.
pub(crate) fn container_limits(
    pod: &Pod,
    container: &Container,
    facts: &LimitFacts,
) -> cri::LinuxContainerResources {
    let requests = amounts::container_requests(container);
    let mut limits = amounts::container_limits(container);
    let whole = pod
        .spec
        .as_ref()
        .and_then(|s| s.resources.as_ref())
        .and_then(|r| r.limits.as_ref());
    let whole = amounts::amounts(whole);
    for name in [CPU, MEMORY] {
        if amount_of(&limits, name) == Amount::default()
            && let Some(amount) = whole.get(name)
        {
            limits.insert(name.to_owned(), *amount);
        }
    }
    let mut resources = linux_resources(&requests, &limits, facts);
    resources.oom_score_adj = qos::oom_score_adjust(pod, container, facts.memory_capacity);
    let pages = huge_pages(&limits);
    resources.hugepage_limits = facts
        .controllers
        .page_sizes
        .iter()
        .map(|size| cri::HugepageLimit {
            page_size: size.clone(),
            limit: u64::try_from(pages.get(size).copied().unwrap_or(0)).unwrap_or(0),
        })
        .collect();
    if facts.controllers.swap {
        resources
            .unified
            .insert("memory.swap.max".to_owned(), "0".to_owned());
    }
    resources
}

/// The limits of the pod as a whole, without and for its overhead: (resources, overhead).
pub(crate) fn sandbox_limits(
    pod: &Pod,
    facts: &LimitFacts,
) -> (cri::LinuxContainerResources, cri::LinuxContainerResources) {
    let own = linux_resources(
        &amounts::sandbox_requests(pod),
        &amounts::sandbox_limits(pod),
        facts,
    );
    let overhead = amounts::amounts(pod.spec.as_ref().and_then(|s| s.overhead.as_ref()));
    let overhead = if overhead.is_empty() {
        cri::LinuxContainerResources::default()
    } else {
        linux_resources(&overhead, &overhead, facts)
    };
    (own, overhead)
}

fn linux_resources(requests: &Amounts, limits: &Amounts, facts: &LimitFacts) -> cri::LinuxContainerResources {
    let mut resources = cri::LinuxContainerResources::default();
    let cpu_limit = amount_of(limits, CPU).milli_value();
    if facts.controllers.has("cpu") {
        let request = requests.get(CPU).map_or(cpu_limit, |amount| amount.milli_value());
        resources.cpu_shares = i64::try_from(formulas::shares(request)).expect("at most 262144");
        if facts.limits.cpu_quota {
            resources.cpu_period = facts.limits.cpu_period;
            resources.cpu_quota = formulas::quota(cpu_limit, facts.limits.cpu_period);
        }
    }
    if facts.controllers.has("memory") {
        resources.memory_limit_in_bytes = amount_of(limits, MEMORY).value().max(0);
        if !facts.single_process_oom_kill {
            resources
                .unified
                .insert("memory.oom.group".to_owned(), "1".to_owned());
        }
    }
    resources
}
