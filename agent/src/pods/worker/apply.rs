//! The actions of a plan, carried out. Each answers with news, never with an error: what went wrong is news too.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use proto::cri;
use tokio_util::sync::CancellationToken;

use super::super::effects::{self, Files};
use super::super::plan::Action;
use super::super::plan::action::StopReason;
use super::super::runtime::{self, Kind, or_gone};
use super::super::runtime_config::log_directory;
use super::Context;
use super::news::{Down, News, Problem};
use super::uid;
use crate::api::{EventKind, chain};
use crate::volumes::MountedVolumes;

/// A container gets at least this long to end, seconds.
const SHORTEST_STOP: i64 = 2;

/// One action with all it needs.
pub(super) struct Step {
    pub(super) context: Arc<Context>,
    pub(super) pod: Arc<Pod>,
    pub(super) mounted: Option<Arc<MountedVolumes>>,
    pub(super) ips: Vec<IpAddr>,
    pub(super) sandbox_attempt: u32,
    pub(super) target: Option<String>,
    pub(super) logs: Option<(PathBuf, PathBuf)>,
    pub(super) pulls: CancellationToken,
}

impl Step {
    pub(super) async fn apply(&self, action: &Action) -> News {
        tracing::debug!(?action, "begin");
        match action {
            Action::MountVolumes => self.mount().await,
            Action::RunSandbox { attempt } => News::Sandbox(self.run_sandbox(*attempt).await),
            Action::EnsureImage {
                container,
                image,
                policy,
                attempt,
            } => tokio::select! {
                () = self.pulls.cancelled() => News::Abandoned,
                news = self.ensure_image(container, image, *policy, *attempt) => news,
            },
            Action::Launch {
                container,
                attempt,
                sandbox,
                image_ref,
            } => self.launch(container, *attempt, sandbox, image_ref).await,
            Action::Start { container, id } => self.start_created(container, id).await,
            Action::Stop {
                container,
                id,
                deadline,
                message,
            } => self.stop(container, id, *deadline, message).await,
            Action::RemoveContainer { id } => self.remove_container(id).await,
            Action::StopSandbox { id, reason } => self.stop_sandbox(id, *reason).await,
            Action::RemoveSandbox { id } => {
                let request = cri::RemovePodSandboxRequest {
                    pod_sandbox_id: id.clone(),
                };
                let done = or_gone(self.context.runtime.remove_pod_sandbox(request).await);
                down(Down::SandboxRecord(id.clone()), done)
            }
            Action::UnmountVolumes => {
                let done = self.context.volumes.unmount(uid(&self.pod)).await;
                if let Err(error) = &done {
                    self.warn(None, "FailedKillPod", &format!("error killing pod: {error}"));
                }
                down(Down::Volumes, done)
            }
            Action::Release => self.release().await,
        }
    }

    pub(super) fn warn(&self, container: Option<&str>, reason: &str, message: &str) {
        self.context
            .event(&self.pod, container, EventKind::Warning, reason, message);
    }

    pub(super) fn tell(&self, container: Option<&str>, reason: &str, message: &str) {
        self.context
            .event(&self.pod, container, EventKind::Normal, reason, message);
    }

    async fn mount(&self) -> News {
        News::Mounted(self.context.volumes.mount(&self.pod).await.map_err(|error| {
            let message = error.to_string();
            self.warn(None, "FailedMount", &message);
            Problem::new("FailedMount", message)
        }))
    }

    async fn run_sandbox(&self, attempt: u32) -> Result<super::super::plan::observed::Sandbox, Problem> {
        if attempt > 0 {
            let message = "Pod sandbox changed, it will be killed and re-created.";
            self.tell(None, "SandboxChanged", message);
        }
        if let Err(error) = self.context.cgroups.ensure(&self.pod).await {
            let message = format!("unable to ensure pod container exists: {}", chain(&error));
            self.warn(None, "FailedCreatePodContainer", &message);
            return Err(Problem::new("FailedCreatePodContainer", message));
        }
        let problem = |message: String| {
            Problem::new(
                "CreatePodSandboxError",
                format!("Failed to create pod sandbox: {message}"),
            )
        };
        let failed = |message: String| {
            let problem = problem(message);
            self.warn(None, "FailedCreatePodSandBox", &problem.message);
            problem
        };
        let (config, warnings) = self
            .context
            .configurator
            .sandbox(&self.pod, attempt)
            .map_err(|e| failed(e.to_string()))?;
        let runtime_handler = String::new();
        let request = cri::RunPodSandboxRequest {
            config: Some(config),
            runtime_handler,
        };
        let made = self.context.runtime.run_pod_sandbox(request).await;
        let made = made.map_err(|error| match error.kind {
            Kind::Unavailable => {
                self.warn(None, "NetworkNotReady", &format!("network is not ready: {error}"));
                Problem {
                    soon_over: true,
                    ..problem(error.to_string())
                }
            }
            _ => failed(error.to_string()),
        })?;
        for warning in warnings {
            self.warn(None, warning.reason, &warning.message);
        }
        let request = cri::PodSandboxStatusRequest {
            pod_sandbox_id: made.pod_sandbox_id,
            verbose: false,
        };
        let status = self
            .context
            .runtime
            .pod_sandbox_status(request)
            .await
            .map_err(|error| {
                let message = format!("Unable to get pod sandbox status: {error}");
                self.warn(None, "FailedPodSandBoxStatus", &message);
                Problem::new("CreatePodSandboxError", message)
            })?;
        let status = status
            .status
            .ok_or_else(|| failed("the runtime has no status of it".to_owned()))?;
        Ok(runtime::sandbox(&status))
    }

    async fn stop(&self, name: &str, id: &str, deadline: Timestamp, message: &str) -> News {
        self.tell(Some(name), "Killing", message);
        let left = deadline.duration_since(Timestamp::now()).as_secs_f64().ceil();
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a rounded number of seconds between dates of our age"
        )]
        let timeout = (left as i64).max(SHORTEST_STOP);
        let request = cri::StopContainerRequest {
            container_id: id.to_owned(),
            timeout,
        };
        let done = or_gone(self.context.runtime.stop_container(request).await);
        if let Err(error) = &done {
            self.warn(None, "FailedKillPod", &format!("error killing pod: {error}"));
        }
        down(Down::Container(id.to_owned()), done)
    }

    async fn stop_sandbox(&self, id: &str, reason: StopReason) -> News {
        let request = cri::StopPodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        let done = or_gone(self.context.runtime.stop_pod_sandbox(request).await);
        if let Err(error) = &done {
            self.warn(None, "FailedKillPod", &format!("error killing pod: {error}"));
        }
        let what = Down::Sandbox(id.to_owned());
        if done.is_err() || reason == StopReason::Changed {
            return down(what, done);
        }
        down(what, self.context.cgroups.remove(uid(&self.pod)).await)
    }

    async fn remove_container(&self, id: &str) -> News {
        let request = cri::RemoveContainerRequest {
            container_id: id.to_owned(),
        };
        let done = or_gone(self.context.runtime.remove_container(request).await);
        let what = Down::ContainerRecord(id.to_owned());
        if let Err(error) = done {
            return down::<(), _>(what, Err(error));
        }
        let (files, logs) = (self.context.files.clone(), self.logs.clone());
        down(
            what,
            on_files(move || logs.map_or(Ok(()), |(log, link)| files.remove_log(&log, &link))).await,
        )
    }

    /// Removes all that is left of the pod on this node.
    async fn release(&self) -> News {
        let uid = uid(&self.pod).to_owned();
        if let Err(error) = self.context.cgroups.remove(&uid).await {
            return down::<(), _>(Down::Files, Err(error));
        }
        if let Err(error) = self.context.volumes.remove(&uid).await {
            return down::<(), _>(Down::Files, Err(error));
        }
        let files = self.context.files.clone();
        let logs = log_directory(&files.pod_logs, &self.pod);
        let done = on_files(move || {
            files.remove_logs(&logs)?;
            files.remove_ending(&uid)
        });
        down(Down::Files, done.await)
    }
}

/// News of something taken down, or not.
fn down<T, E: std::error::Error>(what: Down, done: Result<T, E>) -> News {
    let problem = done.err().map(|error| {
        tracing::warn!(error = &chain(&error), ?what, "not taken down, will retry");
        Problem::new("FailedKillPod", chain(&error))
    });
    News::Down { what, problem }
}

/// Runs file effects on a thread that may wait.
async fn on_files(
    effect: impl FnOnce() -> Result<(), effects::Error> + Send + 'static,
) -> Result<(), effects::Error> {
    tokio::task::spawn_blocking(effect).await.unwrap_or_else(|cause| {
        let cause = std::io::Error::other(cause);
        Err(effects::Error {
            operation: "wait for",
            path: PathBuf::new(),
            cause,
        })
    })
}

/// The link to a container's log.
pub(super) fn link_of(files: &Files, pod: &Pod, container: &str, id: &str) -> PathBuf {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    files.link(
        &text(&pod.metadata.name),
        &text(&pod.metadata.namespace),
        container,
        id,
    )
}
