//! A runtime of plain data that does what the actions say, and the pods to run on it.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::json;

use super::super::observed::{Container, Failure, Image, PullFailure, Sandbox, State, Volumes};
use super::super::spec::containers;
use super::super::{Action, Ending, Input, Memory, NodeFacts, Observed, Plan, Verdict, Wish, plan};

pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

/// A pod with the given regular and init containers; the name says the rest (`side…` is a sidecar).
pub(super) fn pod(policy: &str, regular: &[&str], init: &[&str]) -> Pod {
    let container = |name: &&str| json!({"name": name, "image": format!("img/{name}:1")});
    let init_container = |name: &&str| {
        let mut c = container(name);
        if name.starts_with("side") {
            c["restartPolicy"] = json!("Always");
        }
        c
    };
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 1},
        "spec": {
            "restartPolicy": policy,
            "terminationGracePeriodSeconds": 30,
            "containers": regular.iter().map(container).collect::<Vec<_>>(),
            "initContainers": init.iter().map(init_container).collect::<Vec<_>>(),
        },
    }))
    .unwrap()
}

/// What goes wrong when an action is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Luck {
    Good,
    Fails,
}

#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) pod: Pod,
    pub(super) wish: Wish,
    pub(super) seen: Observed,
    pub(super) memory: Memory,
    pub(super) previous: PodStatus,
    pub(super) now: Timestamp,
    ids: u32,
    /// Every launch, as name and attempt.
    pub(super) launched: Vec<(String, u32)>,
}

impl World {
    pub(super) fn new(pod: Pod) -> Self {
        Self {
            pod,
            wish: Wish {
                listed: true,
                ..Wish::default()
            },
            seen: Observed::default(),
            memory: Memory::default(),
            previous: PodStatus::default(),
            now: at(0),
            ids: 0,
            launched: Vec::new(),
        }
    }

    pub(super) fn plan(&self) -> Plan {
        let node = NodeFacts {
            host_ips: vec!["192.0.2.1".parse().unwrap()],
        };
        plan(&Input {
            pod: &self.pod,
            wish: &self.wish,
            observed: &self.seen,
            memory: &self.memory,
            previous: &self.previous,
            node: &node,
            now: self.now,
        })
    }

    /// Plans, reports, and applies every action with good luck; whether anything was to do.
    pub(super) fn step(&mut self) -> Plan {
        let plan = self.plan();
        self.previous = plan.status.clone();
        for action in &plan.actions {
            self.apply(action, Luck::Good);
        }
        plan
    }

    /// Steps until nothing is left to do without a timer or an event.
    pub(super) fn settle(&mut self) -> Plan {
        for _ in 0..100 {
            let plan = self.step();
            if plan.actions.is_empty() {
                return plan;
            }
        }
        panic!("no rest after 100 steps: {:?}", self.plan().actions);
    }

    /// Settles, and goes on to each wake-up until there is none.
    pub(super) fn converge(&mut self) -> Plan {
        for _ in 0..100 {
            let plan = self.settle();
            match plan.wake {
                Some(wake) => self.now = wake,
                None => return plan,
            }
        }
        panic!("wakes for ever");
    }

    pub(super) fn end(&mut self, grace: i64) {
        self.wish.ending = Some(Ending {
            deadline: self.now + SignedDuration::from_secs(grace),
        });
    }

    pub(super) fn reject(&mut self, reason: &str, message: &str) {
        self.wish.verdict = Some(Verdict {
            reason: reason.to_owned(),
            message: message.to_owned(),
        });
    }

    pub(super) fn exit(&mut self, name: &str, code: i32) {
        let now = self.now;
        let container = self
            .seen
            .containers
            .iter_mut()
            .find(|c| c.name == name && c.is_running());
        let container = container.expect("a running container of that name");
        let reason = if code == 0 { "Completed" } else { "Error" }.to_owned();
        container.state = State::Exited {
            code,
            reason,
            message: String::new(),
            finished_at: Some(now),
        };
    }

    fn id(&mut self) -> String {
        self.ids += 1;
        format!("id{}", self.ids)
    }

    fn failure(&self, reason: &str) -> Failure {
        let retry_at = self.now + SignedDuration::from_secs(10);
        Failure {
            reason: reason.to_owned(),
            message: "no luck".to_owned(),
            retry_at,
        }
    }

    pub(super) fn apply(&mut self, action: &Action, luck: Luck) {
        if luck == Luck::Fails {
            return self.fail(action);
        }
        let now = self.now;
        match action {
            Action::MountVolumes => self.seen.volumes = Volumes::Mounted,
            Action::UnmountVolumes => self.seen.volumes = Volumes::Unmounted,
            Action::RunSandbox { attempt } => {
                let ips = vec!["10.0.0.2".parse().unwrap()];
                let (id, attempt) = (self.id(), *attempt);
                let sandbox = Sandbox {
                    id,
                    attempt,
                    ready: true,
                    stopped: false,
                    host_network: false,
                    ips,
                };
                self.seen.sandboxes.insert(0, sandbox);
                self.seen.sandbox_failure = None;
            }
            Action::EnsureImage {
                container,
                image,
                attempt,
                ..
            } => {
                let outcome = Ok(format!("{image}@sha256:1"));
                let image = Image {
                    name: image.clone(),
                    attempt: *attempt,
                    outcome,
                };
                self.seen.images.insert(container.clone(), image);
            }
            Action::Launch {
                container,
                attempt,
                sandbox,
                image_ref,
            } => {
                let specs = containers(&self.pod);
                let spec = specs
                    .iter()
                    .find(|s| s.name == container)
                    .expect("launched what the pod names");
                let (hash, image, key) = (spec.hash(), spec.image.to_owned(), spec.backoff_key());
                let newest = self.seen.newest(container);
                assert!(
                    newest.is_none_or(|c| !c.may_live()),
                    "{container} is started twice"
                );
                if let Some((_, Some(finished))) = newest.and_then(Container::exit) {
                    self.memory.restarted(container, key, finished, now);
                }
                self.launched.push((container.clone(), *attempt));
                let made = Container {
                    id: self.id(),
                    name: container.clone(),
                    sandbox: sandbox.clone(),
                    attempt: *attempt,
                    state: State::Running,
                    hash,
                    image,
                    image_ref: image_ref.clone(),
                    started_at: Some(now),
                    user: None,
                };
                self.seen.containers.insert(0, made);
                self.seen.failures.remove(container);
            }
            Action::Start { id, .. } => self.set_state(id, State::Running),
            Action::Stop { id, .. } => {
                let reason = "Error".to_owned();
                let (message, finished_at) = (String::new(), Some(now));
                self.set_state(
                    id,
                    State::Exited {
                        code: 143,
                        reason,
                        message,
                        finished_at,
                    },
                );
            }
            Action::RemoveContainer { id } => self.seen.containers.retain(|c| c.id != *id),
            Action::StopSandbox { id, .. } => {
                let sandbox = self.seen.sandboxes.iter_mut().find(|s| s.id == *id).unwrap();
                (sandbox.ready, sandbox.stopped) = (false, true);
                sandbox.ips.clear();
            }
            Action::RemoveSandbox { id } => {
                self.seen.sandboxes.retain(|s| s.id != *id);
                self.seen.containers.retain(|c| c.sandbox != *id);
            }
            Action::Release => self.seen.released = true,
        }
    }

    fn fail(&mut self, action: &Action) {
        match action {
            Action::MountVolumes => self.seen.volumes = Volumes::Failed(self.failure("FailedMount")),
            Action::RunSandbox { .. } => {
                self.seen.sandbox_failure = Some(self.failure("CreatePodSandboxError"));
            }
            Action::EnsureImage {
                container,
                image,
                attempt,
                ..
            } => {
                let delay = self.memory.pull_failed(image, self.now);
                let failure = PullFailure {
                    reason: "ErrImagePull".to_owned(),
                    message: "no luck".to_owned(),
                    back_off_at: Some(self.now + SignedDuration::from_secs(2)),
                    retry_at: self.now + delay,
                };
                let image = Image {
                    name: image.clone(),
                    attempt: *attempt,
                    outcome: Err(failure),
                };
                self.seen.images.insert(container.clone(), image);
            }
            Action::Launch { container, .. } | Action::Start { container, .. } => {
                let failure = self.failure("CreateContainerConfigError");
                self.seen.failures.insert(container.clone(), failure);
            }
            _ => self.seen.stop_failure = Some(self.failure("FailedKillPod")),
        }
    }

    fn set_state(&mut self, id: &str, state: State) {
        let container = self.seen.containers.iter_mut().find(|c| c.id == id).unwrap();
        container.state = state;
    }
}
