//! The actions of a plan, carried out. Each answers with news, never with an error: what went wrong is news too.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use proto::cri;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::sync::CancellationToken;

use super::super::admission::is_static;
use super::super::effects::{self, Files};
use super::super::plan::Action;
use super::super::plan::action::StopReason;
use super::super::plan::spec;
use super::super::runtime::{self, Kind, Seen, or_gone};
use super::super::runtime_config::{
    ContainerPlan, HASH_ANNOTATION, ImageUser, RESTART_COUNT_ANNOTATION, log_directory, log_path,
};
use super::Context;
use super::news::{Down, News, Problem};
use super::uid;
use crate::api::{EventKind, chain};
use crate::volumes::MountedVolumes;

/// A container gets at least this long to end, seconds.
const SHORTEST_STOP: i64 = 2;
/// How long the environment of a first container may wait for the list of Services.
const SERVICES_WAIT: std::time::Duration = std::time::Duration::from_secs(10);
/// Of a log that stands in for a termination message: bytes and lines.
const LOG_TAIL: (u64, usize) = (2048, 80);

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

    fn warn(&self, container: Option<&str>, reason: &str, message: &str) {
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

    /// Creates and starts a container.
    async fn launch(&self, name: &str, attempt: u32, sandbox: &str, image_ref: &str) -> News {
        let container = name.to_owned();
        match self.create(name, attempt, sandbox, image_ref).await {
            Ok(id) => {
                self.tell(Some(name), "Created", "Container created");
                self.start(name, &id, attempt, sandbox).await
            }
            Err(problem) => {
                self.warn(Some(name), "Failed", &format!("Error: {}", problem.message));
                News::Launched {
                    container,
                    seen: None,
                    problem: Some(problem),
                }
            }
        }
    }

    async fn create(
        &self,
        name: &str,
        attempt: u32,
        sandbox: &str,
        image_ref: &str,
    ) -> Result<String, Problem> {
        let config_error = |message: String| Problem::new("CreateContainerConfigError", message);
        let definition = definition(&self.pod, name)
            .ok_or_else(|| config_error(format!("the pod has no container {name}")))?;
        let user = self.image_user(image_ref).await;
        if !is_static(&self.pod) && !self.context.objects.services_synced() {
            // What is still missing then is said by the configuration itself.
            let _ = tokio::time::timeout(SERVICES_WAIT, self.context.objects.wait_for_services()).await;
        }
        let plan = ContainerPlan {
            pod: &self.pod,
            container: &definition,
            attempt,
            image_ref,
            image_user: &user,
            target: self.target.as_deref(),
        };
        let none = MountedVolumes::default();
        let volumes = self.mounted.as_deref().unwrap_or(&none);
        let mut config = self
            .context
            .configurator
            .container(&plan, &self.ips, volumes)
            .await
            .map_err(|error| config_error(error.to_string()))?;
        if let Some(spec) = spec::containers(&self.pod).iter().find(|s| s.name == name) {
            config.annotations.insert(HASH_ANNOTATION.to_owned(), spec.hash());
        }
        config
            .annotations
            .insert(RESTART_COUNT_ANNOTATION.to_owned(), attempt.to_string());
        let (sandbox_config, _) = self
            .context
            .configurator
            .sandbox(&self.pod, self.sandbox_attempt)
            .map_err(|error| config_error(error.to_string()))?;
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        let made = self.context.runtime.create_container(request).await;
        made.map(|m| m.container_id)
            .map_err(|error| Problem::new("CreateContainerError", error.to_string()))
    }

    /// Who the image wants to run as.
    async fn image_user(&self, image_ref: &str) -> ImageUser {
        let image = cri::ImageSpec {
            image: image_ref.to_owned(),
            ..Default::default()
        };
        let request = cri::ImageStatusRequest {
            image: Some(image),
            verbose: false,
        };
        let image = self
            .context
            .runtime
            .image_status(request)
            .await
            .ok()
            .and_then(|r| r.image);
        let uid = image.as_ref().and_then(|i| i.uid.as_ref()).map(|u| u.value);
        ImageUser {
            uid,
            username: image.map(|i| i.username).unwrap_or_default(),
        }
    }

    async fn start(&self, name: &str, id: &str, attempt: u32, sandbox: &str) -> News {
        let log = log_directory(&self.context.files.pod_logs, &self.pod).join(log_path(name, attempt));
        let link = link_of(&self.context.files, &self.pod, name, id);
        let request = cri::StartContainerRequest {
            container_id: id.to_owned(),
        };
        let problem = match self.context.runtime.start_container(request).await {
            Ok(_) => {
                self.tell(Some(name), "Started", "Container started");
                let files = self.context.files.clone();
                // Beside the way: nobody waits for the link, and its failure is only logged.
                tokio::task::spawn_blocking(move || match files.link_log(&link, &log) {
                    Ok(()) => {}
                    Err(error) => {
                        tracing::warn!(error = &error as &dyn std::error::Error, "no link to the log");
                    }
                });
                None
            }
            Err(error) => {
                self.warn(Some(name), "Failed", &format!("Error: {error}"));
                Some(Problem::new("RunContainerError", error.to_string()))
            }
        };
        News::Launched {
            container: name.to_owned(),
            seen: self.look(id, sandbox).await,
            problem,
        }
    }

    async fn start_created(&self, name: &str, id: &str) -> News {
        let filter = cri::ContainerFilter {
            id: id.to_owned(),
            ..Default::default()
        };
        let list = self
            .context
            .runtime
            .list_containers(cri::ListContainersRequest { filter: Some(filter) })
            .await;
        let found = list.ok().and_then(|l| l.containers.into_iter().next());
        let Some(found) = found else {
            let problem = Problem::new("RunContainerError", format!("container {id} is gone"));
            return News::Launched {
                container: name.to_owned(),
                seen: None,
                problem: Some(problem),
            };
        };
        let attempt = found.metadata.map_or(0, |m| m.attempt);
        self.start(name, id, attempt, &found.pod_sandbox_id).await
    }

    async fn look(&self, id: &str, sandbox: &str) -> Option<Box<Seen>> {
        let request = cri::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: false,
        };
        let status = self
            .context
            .runtime
            .container_status(request)
            .await
            .ok()?
            .status?;
        Some(Box::new(runtime::container(&status, sandbox)))
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

/// The definition of a container of any kind, as an ordinary one.
fn definition(pod: &Pod, name: &str) -> Option<Container> {
    let spec = pod.spec.as_ref()?;
    let ordinary = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    if let Some(found) = ordinary.into_iter().find(|c| c.name == name) {
        return Some(found.clone());
    }
    let ephemeral = spec
        .ephemeral_containers
        .iter()
        .flatten()
        .find(|c| c.name == name)?;
    // The two kinds name their shared fields alike; a target is not one of them.
    serde_json::from_value(serde_json::to_value(ephemeral).ok()?).ok()
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

/// The last lines of a CRI log without its framing; empty if there is none.
pub(super) async fn tail_of_log(path: &Path) -> String {
    let read = async {
        let mut file = tokio::fs::File::open(path).await?;
        let length = file.metadata().await?.len();
        // Framing takes up to 60 bytes a line.
        let window = LOG_TAIL.0 * 4;
        file.seek(std::io::SeekFrom::Start(length.saturating_sub(window)))
            .await?;
        let mut text = Vec::new();
        file.take(window).read_to_end(&mut text).await?;
        std::io::Result::Ok(text)
    };
    let Ok(bytes) = read.await else {
        return String::new();
    };
    let text = String::from_utf8_lossy(&bytes);
    let content = |line: &str| {
        let mut parts = line.splitn(4, ' ');
        let (_, _, tag, text) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        Some(if tag.starts_with('P') {
            text.to_owned()
        } else {
            format!("{text}\n")
        })
    };
    let lines: Vec<String> = text.lines().filter_map(content).collect();
    let first = lines.len().saturating_sub(LOG_TAIL.1);
    let tail = lines[first..].concat();
    let mut start = tail
        .len()
        .saturating_sub(usize::try_from(LOG_TAIL.0).unwrap_or(usize::MAX));
    while !tail.is_char_boundary(start) {
        start += 1;
    }
    tail[start..].to_owned()
}
