//! What an action has brought, and how that changes what is observed.

use jiff::{SignedDuration, Timestamp};

use super::super::plan::observed::{Failure, Image, PullFailure, Sandbox, Volumes};
use super::super::runtime::Seen;
use super::{MountedVolumes, Worker};
use crate::volumes;

/// After a failed step towards running, half as much again at random.
const RETRY: SignedDuration = SignedDuration::from_secs(10);
/// After one that waits for something of the node.
const NODE_RETRY: SignedDuration = SignedDuration::from_secs(1);
/// After a failed step of taking down.
const TAKE_DOWN_RETRY: SignedDuration = SignedDuration::from_secs(1);
/// How long a failed pull is shown as such before it is shown as back-off.
const SHOW_PULL_ERROR: SignedDuration = SignedDuration::from_secs(2);

/// A reason and a message, as a waiting container shows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) reason: String,
    pub(super) message: String,
    /// It is the node's, and soon over.
    pub(super) soon_over: bool,
}

impl Problem {
    pub(super) fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            message: message.into(),
            soon_over: false,
        }
    }
}

/// The outcome of an action.
#[derive(Debug)]
pub(super) enum News {
    Mounted(Result<MountedVolumes, Problem>),
    Refreshed(Result<Option<Timestamp>, volumes::Error>),
    Sandbox(Result<Sandbox, Problem>),
    /// `pulling`: the failure was one of pulling, with back-off.
    Image {
        container: String,
        image: String,
        attempt: u32,
        outcome: Result<String, Problem>,
        pulling: bool,
    },
    /// A container was created, and perhaps started.
    Launched {
        container: String,
        seen: Option<Box<Seen>>,
        problem: Option<Problem>,
    },
    /// Something was stopped or removed; what it was is looked at anew.
    Down {
        what: Down,
        problem: Option<Problem>,
    },
    /// It was given up because the pod ends.
    Abandoned,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Down {
    Container(String),
    ContainerRecord(String),
    Sandbox(String),
    SandboxRecord(String),
    Volumes,
    Files,
}

impl Worker {
    /// Takes in what an action has brought.
    pub(super) async fn take_in(&mut self, news: News) {
        match news {
            News::Mounted(Ok(mounted)) => {
                self.refresh_at = mounted.refresh;
                self.mounted = Some(std::sync::Arc::new(mounted));
                self.observed.volumes = Volumes::Mounted;
            }
            News::Mounted(Err(problem)) => self.observed.volumes = Volumes::Failed(failure(problem)),
            News::Refreshed(outcome) => self.take_in_refresh(outcome),
            News::Sandbox(Ok(sandbox)) => {
                self.observed.sandbox_failure = None;
                let id = sandbox.id.clone();
                self.observed.sandboxes.retain(|s| s.id != id);
                self.observed.sandboxes.insert(0, sandbox);
                if self.early.remove(&id) {
                    self.see_sandbox(&id).await;
                }
            }
            News::Sandbox(Err(problem)) => {
                self.observed.sandbox_failure = Some(failure(problem));
                // A failed start may have left something; the next one must not stumble over it.
                self.unseen = true;
            }
            News::Image {
                container,
                image,
                attempt,
                outcome,
                pulling,
            } => {
                let outcome = outcome.map_err(|problem| self.pull_failure(&image, problem, pulling));
                self.observed.images.insert(
                    container,
                    Image {
                        name: image,
                        attempt,
                        outcome,
                    },
                );
            }
            News::Launched {
                container,
                seen,
                problem,
            } => {
                match problem {
                    Some(problem) => self.observed.failures.insert(container, failure(problem)),
                    None => self.observed.failures.remove(&container),
                };
                if let Some(seen) = seen {
                    self.add(*seen).await;
                }
            }
            News::Down { what, problem } => self.take_in_down(what, problem).await,
            News::Abandoned => {}
        }
    }

    fn take_in_refresh(&mut self, outcome: Result<Option<Timestamp>, volumes::Error>) {
        let next = outcome.unwrap_or_else(|error| {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "volumes not brought up to date, will retry"
            );
            Some(Timestamp::now() + jittered(RETRY))
        });
        self.refresh_at = [self.refresh_at, next].into_iter().flatten().min();
    }

    fn pull_failure(&mut self, image: &str, problem: Problem, pulling: bool) -> PullFailure {
        let now = Timestamp::now();
        let delay = if pulling {
            self.memory.pull_failed(image, now)
        } else {
            jittered(RETRY)
        };
        PullFailure {
            reason: problem.reason,
            message: problem.message,
            back_off_at: pulling.then_some(now + SHOW_PULL_ERROR),
            retry_at: now + delay,
        }
    }

    async fn take_in_down(&mut self, what: Down, problem: Option<Problem>) {
        if let Some(problem) = problem {
            let retry_at = Timestamp::now() + jittered(TAKE_DOWN_RETRY);
            self.observed.stop_failure = Some(Failure {
                reason: problem.reason,
                message: problem.message,
                retry_at,
            });
            self.unseen = true;
            return;
        }
        self.observed.stop_failure = None;
        let observed = &mut self.observed;
        match what {
            Down::Container(id) => self.see(&id).await,
            Down::ContainerRecord(id) => observed.containers.retain(|c| c.id != id),
            Down::Sandbox(id) => {
                if let Some(sandbox) = observed.sandboxes.iter_mut().find(|s| s.id == id) {
                    (sandbox.ready, sandbox.stopped) = (false, true);
                    sandbox.ips.clear();
                }
            }
            Down::SandboxRecord(id) => {
                observed.sandboxes.retain(|s| s.id != id);
                observed.containers.retain(|c| c.sandbox != id);
            }
            Down::Volumes => {
                self.mounted = None;
                self.refresh_at = None;
                observed.volumes = Volumes::Unmounted;
            }
            Down::Files => observed.released = true,
        }
    }
}

fn failure(problem: Problem) -> Failure {
    let delay = jittered(if problem.soon_over { NODE_RETRY } else { RETRY });
    Failure {
        reason: problem.reason,
        message: problem.message,
        retry_at: Timestamp::now() + delay,
    }
}

/// Up to half as long again, so that pods that failed together do not come back together.
fn jittered(delay: SignedDuration) -> SignedDuration {
    delay + SignedDuration::from_secs_f64(delay.as_secs_f64() * rand::random::<f64>() / 2.0)
}
