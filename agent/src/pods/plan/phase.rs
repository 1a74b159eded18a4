//! The phase of a pod: ordered rules over its container statuses.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, PodSpec};

use super::spec::{ContainerSpec, Kind};

/// One container as the rules see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// No status at all.
    Unknown,
    /// Waiting and never run.
    Waiting,
    Running {
        started: bool,
    },
    /// Terminated, or waiting for a restart after it.
    Stopped {
        code: i32,
    },
}

fn see(status: Option<&ContainerStatus>) -> Seen {
    let Some(status) = status else {
        return Seen::Unknown;
    };
    let exit =
        |state: Option<&ContainerState>| state.and_then(|s| s.terminated.as_ref()).map(|t| t.exit_code);
    let Some(state) = &status.state else {
        return Seen::Unknown;
    };
    if state.running.is_some() {
        return Seen::Running {
            started: status.started.unwrap_or(false),
        };
    }
    if let Some(code) = exit(Some(state)) {
        return Seen::Stopped { code };
    }
    if state.waiting.is_none() {
        return Seen::Unknown;
    }
    exit(status.last_state.as_ref()).map_or(Seen::Waiting, |code| Seen::Stopped { code })
}

/// What the phase depends on beside the statuses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Circumstances {
    /// Everything is down and stays so, and the pod is not a static one.
    pub(super) over: bool,
    /// A regular container has been made in the current sandbox.
    pub(super) initialized: bool,
}

/// Counts over the containers, by the names of the rules.
#[derive(Default)]
struct Tally {
    pending_init: u32,
    failed_init: u32,
    pending_sidecars: u32,
    unknown: u32,
    running: u32,
    waiting: u32,
    stopped: u32,
    stopped_for_good: u32,
    succeeded: u32,
}

impl Tally {
    fn count(&mut self, pod: &PodSpec, spec: &ContainerSpec<'_>, seen: Seen) {
        match (spec.kind, seen) {
            (Kind::Ephemeral, _) => {}
            (Kind::Init, Seen::Stopped { code: 0 }) => {}
            (Kind::Init, Seen::Stopped { code }) => {
                self.failed_init += u32::from(!spec.may_restart(pod, code));
            }
            (Kind::Init, _) => self.pending_init += 1,
            (Kind::Sidecar, Seen::Stopped { .. }) => {}
            (Kind::Sidecar, Seen::Running { started }) => {
                self.running += 1;
                self.pending_sidecars += u32::from(!started);
            }
            (Kind::Sidecar, Seen::Waiting) => {
                self.pending_sidecars += 1;
                self.waiting += 1;
            }
            (Kind::Regular, Seen::Running { .. }) => self.running += 1,
            (Kind::Regular, Seen::Stopped { code }) => {
                self.stopped += 1;
                self.stopped_for_good += u32::from(!spec.may_restart(pod, code));
                self.succeeded += u32::from(code == 0);
            }
            (Kind::Regular, Seen::Waiting) => self.waiting += 1,
            (Kind::Regular | Kind::Sidecar, Seen::Unknown) => self.unknown += 1,
        }
    }
}

/// The phase by the rules alone; that a terminal phase sticks is the caller's part.
pub(super) fn phase(
    pod: &PodSpec,
    specs: &[ContainerSpec<'_>],
    statuses: &[ContainerStatus],
    circumstances: Circumstances,
) -> &'static str {
    let mut tally = Tally::default();
    for spec in specs {
        tally.count(pod, spec, see(statuses.iter().find(|s| s.name == spec.name)));
    }
    decide(&tally, circumstances)
}

fn decide(t: &Tally, circumstances: Circumstances) -> &'static str {
    let outcome = if t.stopped == t.succeeded {
        "Succeeded"
    } else {
        "Failed"
    };
    if t.failed_init > 0 {
        return "Failed";
    }
    let initializing = t.pending_init > 0 || (t.pending_sidecars > 0 && !circumstances.initialized);
    if initializing || t.waiting > 0 {
        return "Pending";
    }
    if t.unknown > 0 {
        return "Pending";
    }
    if t.running > 0 {
        return "Running";
    }
    if t.stopped == 0 {
        return "Pending";
    }
    if circumstances.over || t.stopped == t.stopped_for_good {
        outcome
    } else {
        "Running"
    }
}
