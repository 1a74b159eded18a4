//! The container runtime as pods use it: the engine in this process, or anything that speaks CRI.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use proto::cri;
use tokio::sync::broadcast;

use super::plan::observed::{Container, Sandbox, State, User};
use super::runtime_config::{CONTAINER_NAME_LABEL, HASH_ANNOTATION, POD_UID_LABEL, RESTART_COUNT_ANNOTATION};

/// The calls of CRI that pods need. Errors are the runtime's own, its words kept for events and statuses.
#[async_trait]
pub(crate) trait Cri: Send + Sync + 'static {
    async fn run_pod_sandbox(
        &self,
        r: cri::RunPodSandboxRequest,
    ) -> Result<cri::RunPodSandboxResponse, Error>;
    async fn stop_pod_sandbox(
        &self,
        r: cri::StopPodSandboxRequest,
    ) -> Result<cri::StopPodSandboxResponse, Error>;
    async fn remove_pod_sandbox(
        &self,
        r: cri::RemovePodSandboxRequest,
    ) -> Result<cri::RemovePodSandboxResponse, Error>;
    async fn pod_sandbox_status(
        &self,
        r: cri::PodSandboxStatusRequest,
    ) -> Result<cri::PodSandboxStatusResponse, Error>;
    async fn list_pod_sandbox(
        &self,
        r: cri::ListPodSandboxRequest,
    ) -> Result<cri::ListPodSandboxResponse, Error>;
    async fn create_container(
        &self,
        r: cri::CreateContainerRequest,
    ) -> Result<cri::CreateContainerResponse, Error>;
    async fn start_container(
        &self,
        r: cri::StartContainerRequest,
    ) -> Result<cri::StartContainerResponse, Error>;
    async fn stop_container(&self, r: cri::StopContainerRequest)
    -> Result<cri::StopContainerResponse, Error>;
    async fn remove_container(
        &self,
        r: cri::RemoveContainerRequest,
    ) -> Result<cri::RemoveContainerResponse, Error>;
    async fn list_containers(
        &self,
        r: cri::ListContainersRequest,
    ) -> Result<cri::ListContainersResponse, Error>;
    async fn container_status(
        &self,
        r: cri::ContainerStatusRequest,
    ) -> Result<cri::ContainerStatusResponse, Error>;
    async fn pull_image(&self, r: cri::PullImageRequest) -> Result<cri::PullImageResponse, Error>;
    async fn image_status(&self, r: cri::ImageStatusRequest) -> Result<cri::ImageStatusResponse, Error>;
    /// Changes of containers and sandboxes, from now on.
    fn events(&self) -> broadcast::Receiver<cri::ContainerEventResponse>;
}

/// A refused call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Error {
    pub(crate) kind: Kind,
    /// In the runtime's words.
    pub(crate) message: String,
}

/// What a caller tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    NotFound,
    InvalidArgument,
    /// Something it needs is not ready yet, such as the network.
    Unavailable,
    Other,
}

impl Error {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    pub(crate) fn is_not_found(&self) -> bool {
        self.kind == Kind::NotFound
    }
}

/// Success for what is already gone.
pub(crate) fn or_gone<T: Default>(result: Result<T, Error>) -> Result<T, Error> {
    match result {
        Err(error) if error.is_not_found() => Ok(T::default()),
        other => other,
    }
}

/// The selector for all that belongs to one pod.
pub(crate) fn of_pod(uid: &str) -> HashMap<String, String> {
    HashMap::from([(POD_UID_LABEL.to_owned(), uid.to_owned())])
}

/// A sandbox as the planner sees it. `stopped` is not the runtime's to know.
pub(crate) fn sandbox(status: &cri::PodSandboxStatus) -> Sandbox {
    let namespaces = status.linux.as_ref().and_then(|l| l.namespaces.as_ref());
    let network = namespaces.and_then(|n| n.options.as_ref()).map(|o| o.network());
    Sandbox {
        id: status.id.clone(),
        attempt: status.metadata.as_ref().map_or(0, |m| m.attempt),
        ready: status.state() == cri::PodSandboxState::SandboxReady,
        stopped: false,
        host_network: network == Some(cri::NamespaceMode::Node),
        ips: addresses(status.network.as_ref()),
    }
}

fn addresses(network: Option<&cri::PodSandboxNetworkStatus>) -> Vec<IpAddr> {
    let Some(network) = network else { return Vec::new() };
    let all = std::iter::once(&network.ip).chain(network.additional_ips.iter().map(|ip| &ip.ip));
    all.filter_map(|ip| ip.parse().ok()).collect()
}

/// A container and what of it only the worker needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) container: Container,
    /// Nanoseconds; to tell which of one name is newer.
    pub(crate) created: i64,
    /// Where its termination message lies on the node.
    pub(crate) message_file: Option<PathBuf>,
    /// `FallbackToLogsOnError`.
    pub(crate) message_from_log: bool,
}

/// A container as the planner sees it; `sandbox` is its sandbox's id.
pub(crate) fn container(status: &cri::ContainerStatus, sandbox: &str) -> Seen {
    use super::runtime_config::{MESSAGE_PATH_ANNOTATION, MESSAGE_POLICY_ANNOTATION};
    let annotation = |name: &str| status.annotations.get(name).cloned().unwrap_or_default();
    let name = status.metadata.as_ref().map(|m| m.name.clone());
    let attempt = status.metadata.as_ref().map_or(0, |m| m.attempt);
    let message_path = annotation(MESSAGE_PATH_ANNOTATION);
    let message_file = status
        .mounts
        .iter()
        .find(|m| !message_path.is_empty() && m.container_path == message_path);
    let image = status.image.as_ref();
    let user_image = image
        .map(|i| i.user_specified_image.clone())
        .filter(|i| !i.is_empty());
    Seen {
        created: status.created_at,
        message_file: message_file.map(|m| PathBuf::from(&m.host_path)),
        message_from_log: annotation(MESSAGE_POLICY_ANNOTATION) == "FallbackToLogsOnError",
        container: Container {
            id: status.id.clone(),
            name: name
                .or_else(|| status.labels.get(CONTAINER_NAME_LABEL).cloned())
                .unwrap_or_default(),
            sandbox: sandbox.to_owned(),
            attempt: annotation(RESTART_COUNT_ANNOTATION).parse().unwrap_or(attempt),
            state: state(status),
            hash: annotation(HASH_ANNOTATION),
            image: image.map(|i| i.image.clone()).or(user_image).unwrap_or_default(),
            image_ref: status.image_ref.clone(),
            started_at: time(status.started_at),
            user: status.user.as_ref().and_then(|u| u.linux.as_ref()).map(|u| User {
                uid: u.uid,
                gid: u.gid,
                groups: u.supplemental_groups.clone(),
            }),
        },
    }
}

fn state(status: &cri::ContainerStatus) -> State {
    match status.state() {
        cri::ContainerState::ContainerCreated => State::Created,
        cri::ContainerState::ContainerRunning => State::Running,
        cri::ContainerState::ContainerUnknown => State::Unknown,
        cri::ContainerState::ContainerExited => State::Exited {
            code: status.exit_code,
            reason: status.reason.clone(),
            message: status.message.clone(),
            finished_at: time(status.finished_at),
        },
    }
}

/// CRI's nanoseconds since the epoch; 0 is no time.
fn time(nanoseconds: i64) -> Option<Timestamp> {
    let at = Timestamp::UNIX_EPOCH + SignedDuration::from_nanos(nanoseconds);
    (nanoseconds > 0).then_some(at)
}
