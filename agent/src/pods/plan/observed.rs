//! What can be seen of a pod: the runtime's sandboxes and containers, its volumes and images, failures and the
//! actions under way.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;

use super::action::Action;

/// Everything known of one pod's real state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Observed {
    /// Newest first.
    pub(crate) sandboxes: Vec<Sandbox>,
    /// Newest first.
    pub(crate) containers: Vec<Container>,
    pub(crate) volumes: Volumes,
    /// By container name.
    pub(crate) images: BTreeMap<String, Image>,
    /// The last failure to create or start a container, by its name; gone after success.
    pub(crate) failures: BTreeMap<String, Failure>,
    pub(crate) sandbox_failure: Option<Failure>,
    /// A failed removal or stop: not tried again before then.
    pub(crate) stop_failure: Option<Failure>,
    /// By container name: one more than the highest `N.log` found when the agent started; for restart counts of
    /// containers that a reboot made the runtime forget.
    pub(crate) log_attempts: BTreeMap<String, u32>,
    /// By container id, as the probes see it; no entry means that nothing probes it.
    pub(crate) probed: BTreeMap<String, Probed>,
    /// Actions started and not yet finished.
    pub(crate) under_way: Vec<Action>,
    /// Directories, logs and links are removed.
    pub(crate) released: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sandbox {
    pub(crate) id: String,
    pub(crate) attempt: u32,
    pub(crate) ready: bool,
    /// StopPodSandbox was called with success since it was last seen ready.
    pub(crate) stopped: bool,
    pub(crate) host_network: bool,
    /// The primary address first; empty in the host's network.
    pub(crate) ips: Vec<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) sandbox: String,
    /// Counts from 0; the `restartCount` of the API.
    pub(crate) attempt: u32,
    pub(crate) state: State,
    /// Of the definition it was created from; empty when unknown.
    pub(crate) hash: String,
    pub(crate) image: String,
    pub(crate) image_ref: String,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) user: Option<User>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    Created,
    Running,
    Exited {
        code: i32,
        reason: String,
        message: String,
        finished_at: Option<Timestamp>,
    },
    Unknown,
}

/// The identity the first process started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: i64,
    pub(crate) gid: i64,
    pub(crate) groups: Vec<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Probed {
    pub(crate) started: bool,
    pub(crate) ready: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Volumes {
    /// Not looked at since the agent started.
    #[default]
    Unknown,
    Mounted,
    Failed(Failure),
    Unmounted,
}

/// The image of one attempt of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) name: String,
    pub(crate) attempt: u32,
    pub(crate) outcome: Result<String, PullFailure>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PullFailure {
    /// A waiting reason: `ErrImagePull`, `InvalidImageName`, …
    pub(crate) reason: String,
    pub(crate) message: String,
    /// From then on the reason shown is `ImagePullBackOff`; `None` if the failure was not one of pulling.
    pub(crate) back_off_at: Option<Timestamp>,
    pub(crate) retry_at: Timestamp,
}

/// A failed step, with the time of the next try (back-off and jitter included).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) retry_at: Timestamp,
}

impl Container {
    pub(crate) fn is_running(&self) -> bool {
        self.state == State::Running
    }

    /// Whether a process of it may exist.
    pub(crate) fn may_live(&self) -> bool {
        matches!(self.state, State::Running | State::Unknown)
    }

    /// Exit code and time, if it has exited.
    pub(crate) fn exit(&self) -> Option<(i32, Option<Timestamp>)> {
        match &self.state {
            State::Exited {
                code, finished_at, ..
            } => Some((*code, *finished_at)),
            _ => None,
        }
    }
}

impl Observed {
    /// The newest container of that name.
    pub(crate) fn newest(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// All containers of that name, newest first.
    pub(crate) fn of_name<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Container> {
        self.containers.iter().filter(move |c| c.name == name)
    }

    pub(crate) fn is_under_way(&self, test: impl Fn(&Action) -> bool) -> bool {
        self.under_way.iter().any(test)
    }

    /// The attempt number the next container of that name gets.
    pub(crate) fn next_attempt(&self, name: &str) -> u32 {
        let known = self.of_name(name).map(|c| c.attempt + 1).max();
        known
            .or_else(|| self.log_attempts.get(name).copied())
            .unwrap_or(0)
    }
}
