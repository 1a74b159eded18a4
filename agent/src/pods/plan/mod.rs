//! The pod planner: from what a pod should be and what there is, to what to do next, when to look again, and the
//! status to report.
//!
//! It is pure: no IO, no clock, no randomness. The worker calls it after every event, applies the actions it has not
//! yet started, and calls it again. Reading order: [`action`] (what can be done), [`observed`] (what can be seen),
//! [`run`] and [`end`] (the two ways a pod goes), [`status`] (what the API is told).
//!
//! Facts come from the pod lifecycle as the kubelet of Kubernetes 1.36 has it.

pub(crate) mod action;
pub(crate) mod backoff;
mod conditions;
mod container_status;
mod draft;
mod end;
pub(crate) mod observed;
mod phase;
mod run;
pub(crate) mod spec;
mod status;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};

pub(crate) use self::action::Action;
pub(crate) use self::backoff::Memory;
pub(crate) use self::conditions::OWNED as OWNED_CONDITIONS;
pub(crate) use self::draft::Notice;
pub(crate) use self::observed::Observed;
pub(crate) use self::status::is_terminal;

use self::draft::Draft;

/// All the planner looks at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Input<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) wish: &'a Wish,
    pub(crate) observed: &'a Observed,
    pub(crate) memory: &'a Memory,
    /// The status reported last; before the first one, what the API says.
    pub(crate) previous: &'a PodStatus,
    pub(crate) node: &'a NodeFacts,
    pub(crate) now: Timestamp,
}

/// What the sources and the node want of the pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wish {
    /// Set once the pod must go; the deadline only moves nearer.
    pub(crate) ending: Option<Ending>,
    /// A source still names the pod. Its records are removed only once none does.
    pub(crate) listed: bool,
    /// Failed by decision of the node: rejected, evicted, past its deadline.
    pub(crate) verdict: Option<Verdict>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ending {
    /// When the last process must be gone.
    pub(crate) deadline: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// `status.reason`, such as `OutOfcpu`.
    pub(crate) reason: String,
    /// `status.message`.
    pub(crate) message: String,
}

/// What the planner needs to know of the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NodeFacts {
    /// Addresses for `status.hostIP(s)`, at most two, the primary family first.
    pub(crate) host_ips: Vec<std::net::IpAddr>,
}

/// How far the pod is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Containers are to run.
    Running,
    /// Everything is being stopped.
    Stopping,
    /// Nothing runs, nothing is mounted: the API object may be removed.
    Stopped,
    /// No source names the pod and nothing of it is left.
    Gone,
}

/// What to do, when to plan again without an event, and what to report.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<Action>,
    pub(crate) wake: Option<Timestamp>,
    pub(crate) status: PodStatus,
    pub(crate) notices: Vec<Notice>,
    pub(crate) stage: Stage,
}

/// Plans the next step of one pod.
pub(crate) fn plan(input: &Input<'_>) -> Plan {
    let mut draft = Draft::new(input);
    let outlook = status::outlook(input);
    let stage = if input.wish.ending.is_some() || input.wish.verdict.is_some() || is_terminal(&outlook.phase)
    {
        end::plan(input, &mut draft)
    } else {
        run::plan(input, &mut draft);
        Stage::Running
    };
    let status = status::build(input, outlook, &draft, stage);
    draft.finish(status, stage)
}
