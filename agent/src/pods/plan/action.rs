//! The closed set of things that can be done to a pod.

use jiff::Timestamp;

/// One step. Each is idempotent, and applying it changes what is observed, so that the next plan leaves it out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Action {
    /// Make the pod's directories and mount all its volumes.
    MountVolumes,
    /// Make the sandbox: namespaces, network, keeper.
    RunSandbox { attempt: u32 },
    /// See that the image for this attempt of a container is there, by its pull policy.
    EnsureImage {
        container: String,
        image: String,
        policy: PullPolicy,
        attempt: u32,
    },
    /// Create and start one container.
    Launch {
        container: String,
        attempt: u32,
        sandbox: String,
        image_ref: String,
    },
    /// Start a container that was created, but not started, before the agent went down.
    Start { container: String, id: String },
    /// Stop one container; what still runs at the deadline is killed.
    Stop {
        container: String,
        id: String,
        deadline: Timestamp,
        message: String,
    },
    /// Remove a dead container and its log.
    RemoveContainer { id: String },
    /// Kill what is left in a sandbox and release its network.
    StopSandbox { id: String, reason: StopReason },
    /// Forget a sandbox and its containers.
    RemoveSandbox { id: String },
    /// Unmount all volumes of the pod.
    UnmountVolumes,
    /// Remove the pod's directories, logs and links.
    Release,
}

/// Why a sandbox is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum StopReason {
    /// It is unusable; a new one follows.
    Changed,
    /// The pod is over.
    Over,
}

/// When to ask the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

impl Action {
    /// Whether `self`, being under way, makes starting `other` needless or wrong.
    pub(crate) fn covers(&self, other: &Action) -> bool {
        use Action::{EnsureImage, Launch, RunSandbox, Start, Stop, StopSandbox};
        match (self, other) {
            // A nearer deadline must reach the runtime although a stop is already waiting.
            (
                Stop { id, deadline, .. },
                Stop {
                    id: o, deadline: od, ..
                },
            ) => id == o && deadline <= od,
            (EnsureImage { container, .. }, EnsureImage { container: o, .. }) => container == o,
            (Launch { container, .. }, Launch { container: o, .. } | Start { container: o, .. }) => {
                container == o
            }
            (Start { container, .. }, Launch { container: o, .. } | Start { container: o, .. }) => {
                container == o
            }
            (RunSandbox { .. }, RunSandbox { .. }) => true,
            (StopSandbox { id, .. }, StopSandbox { id: o, .. }) => id == o,
            (a, b) => a == b,
        }
    }

    /// Whether it removes something; such actions share one retry time after a failure.
    pub(crate) fn takes_down(&self) -> bool {
        use Action::{Release, RemoveContainer, RemoveSandbox, Stop, StopSandbox, UnmountVolumes};
        matches!(
            self,
            Stop { .. }
                | RemoveContainer { .. }
                | StopSandbox { .. }
                | RemoveSandbox { .. }
                | UnmountVolumes
                | Release
        )
    }
}
