//! Sandboxes and containers in the words of the interface. Pure over what the store holds.

use std::collections::HashMap;

use proto::cri::{
    Container as CriContainer, ContainerFilter, ContainerResources, ContainerState as CriContainerState,
    ContainerStatus, ContainerStatusResponse, ContainerUser, ImageSpec, LinuxContainerUser,
    LinuxPodSandboxStatus, ListContainersResponse, ListPodSandboxResponse, Namespace, PodIp, PodSandbox,
    PodSandboxFilter, PodSandboxNetworkStatus, PodSandboxState, PodSandboxStatus, PodSandboxStatusResponse,
};

use super::{Core, now};
use crate::Error;
use crate::records::Phase;
use crate::sandbox;
use crate::spec::signal;
use crate::store::{Container, ContainerState, Sandbox};

impl Core {
    pub(super) fn sandbox_status(&self, id: &str) -> Result<PodSandboxStatusResponse, Error> {
        let sandbox = self.store.sandbox(id).ok_or_else(|| Error::no_sandbox(id))?;
        let mut containers = self.store.containers_of(id);
        containers.sort_by_key(|container| container.record.created_at);
        Ok(PodSandboxStatusResponse {
            status: Some(status_of(&sandbox)),
            info: HashMap::new(),
            containers_statuses: containers
                .iter()
                .map(|container| self.status_of(container))
                .collect(),
            timestamp: now(),
        })
    }

    pub(super) fn list_sandboxes(&self, filter: &PodSandboxFilter) -> ListPodSandboxResponse {
        let wanted = |sandbox: &Sandbox| {
            matches_id(sandbox.id(), &filter.id)
                && filter
                    .state
                    .is_none_or(|state| state.state() == cri_state(sandbox.state().phase))
                && matches_labels(&sandbox.record.config.labels, &filter.label_selector)
        };
        let sandboxes = self.store.sandboxes();
        let items = sandboxes
            .iter()
            .filter(|sandbox| wanted(sandbox))
            .map(|sandbox| PodSandbox {
                id: sandbox.id().to_owned(),
                metadata: sandbox.record.config.metadata.clone(),
                state: cri_state(sandbox.state().phase).into(),
                created_at: sandbox.record.created_at,
                labels: sandbox.record.config.labels.clone(),
                annotations: sandbox.record.config.annotations.clone(),
                runtime_handler: sandbox.record.runtime_handler.clone(),
            });
        ListPodSandboxResponse {
            items: items.collect(),
        }
    }

    pub(super) fn container_status(&self, id: &str) -> Result<ContainerStatusResponse, Error> {
        let container = self.store.container(id).ok_or_else(|| Error::no_container(id))?;
        Ok(ContainerStatusResponse {
            status: Some(self.status_of(&container)),
            info: HashMap::new(),
        })
    }

    pub(super) fn list_containers(&self, filter: &ContainerFilter) -> ListContainersResponse {
        let wanted = |container: &Container| {
            matches_id(container.id(), &filter.id)
                && (filter.pod_sandbox_id.is_empty() || container.record.sandbox == filter.pod_sandbox_id)
                && filter
                    .state
                    .is_none_or(|state| state.state() == cri_container_state(&container.state()))
                && matches_labels(&container.record.config.labels, &filter.label_selector)
        };
        let containers = self.store.containers();
        let items = containers
            .iter()
            .filter(|container| wanted(container))
            .map(|container| CriContainer {
                id: container.id().to_owned(),
                pod_sandbox_id: container.record.sandbox.clone(),
                metadata: container.record.config.metadata.clone(),
                image: container.record.config.image.clone(),
                image_ref: container.record.image_ref.clone(),
                state: cri_container_state(&container.state()).into(),
                created_at: container.record.created_at,
                labels: container.record.config.labels.clone(),
                annotations: container.record.config.annotations.clone(),
                image_id: container.record.image_id.clone(),
            });
        ListContainersResponse {
            containers: items.collect(),
        }
    }

    fn status_of(&self, container: &Container) -> ContainerStatus {
        let record = &container.record;
        let config = &record.config;
        let mut status = ContainerStatus {
            id: record.id.clone(),
            metadata: config.metadata.clone(),
            created_at: record.created_at,
            image: Some(self.image_of(container)),
            image_ref: record.image_ref.clone(),
            image_id: record.image_id.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            mounts: config.mounts.clone(),
            log_path: record.log_path.clone(),
            resources: config
                .linux
                .as_ref()
                .and_then(|linux| linux.resources.clone())
                .map(|linux| ContainerResources {
                    linux: Some(linux),
                    windows: None,
                }),
            user: user_of(container),
            stop_signal: signal::to_cri(record.stop_signal).into(),
            ..ContainerStatus::default()
        };
        let state = container.state();
        status.state = cri_container_state(&state).into();
        match state {
            ContainerState::Created(_) | ContainerState::Starting => {}
            ContainerState::Running { started_at } => status.started_at = started_at,
            ContainerState::Exited(outcome) => {
                status.started_at = outcome.started_at;
                status.finished_at = outcome.finished_at;
                status.exit_code = outcome.exit_code;
                status.reason = outcome.reason.clone();
                status.message = outcome.message.clone();
            }
        }
        status
    }

    /// The image as a name that people know: a tag of it, while it has one.
    fn image_of(&self, container: &Container) -> ImageSpec {
        let mut spec = container.record.config.image.clone().unwrap_or_default();
        if let Some(image) = self.images.get(&container.record.image_id)
            && !image.repo_tags.contains(&spec.image)
        {
            let asked = (!spec.user_specified_image.is_empty())
                .then(|| {
                    image
                        .repo_tags
                        .iter()
                        .find(|tag| tag.ends_with(&spec.user_specified_image))
                })
                .flatten();
            if let Some(tag) = asked.or(image.repo_tags.first()) {
                spec.image = tag.clone();
            }
        }
        spec
    }
}

fn status_of(sandbox: &Sandbox) -> PodSandboxStatus {
    let state = sandbox.state();
    let config = &sandbox.record.config;
    let mut ips = state.ips.iter().map(ToString::to_string);
    let network = PodSandboxNetworkStatus {
        ip: ips.next().unwrap_or_default(),
        additional_ips: ips.map(|ip| PodIp { ip }).collect(),
    };
    PodSandboxStatus {
        id: sandbox.id().to_owned(),
        metadata: config.metadata.clone(),
        state: cri_state(state.phase).into(),
        created_at: sandbox.record.created_at,
        network: Some(network),
        linux: Some(LinuxPodSandboxStatus {
            namespaces: Some(Namespace {
                options: Some(sandbox::plan::namespaces(config)),
            }),
        }),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        runtime_handler: sandbox.record.runtime_handler.clone(),
    }
}

fn user_of(container: &Container) -> Option<ContainerUser> {
    let (uid, gid, groups) = container.record.user.as_ref()?;
    Some(ContainerUser {
        linux: Some(LinuxContainerUser {
            uid: i64::from(*uid),
            gid: i64::from(*gid),
            supplemental_groups: groups.iter().map(|group| i64::from(*group)).collect(),
        }),
    })
}

fn cri_state(phase: Phase) -> PodSandboxState {
    match phase {
        Phase::Ready => PodSandboxState::SandboxReady,
        Phase::Creating | Phase::Lost | Phase::Stopped => PodSandboxState::SandboxNotready,
    }
}

fn cri_container_state(state: &ContainerState) -> CriContainerState {
    match state {
        ContainerState::Created(_) | ContainerState::Starting => CriContainerState::ContainerCreated,
        ContainerState::Running { .. } => CriContainerState::ContainerRunning,
        ContainerState::Exited(_) => CriContainerState::ContainerExited,
    }
}

/// An id of the filter may be cut short, as people type it.
fn matches_id(id: &str, wanted: &str) -> bool {
    id.starts_with(wanted)
}

fn matches_labels(labels: &HashMap<String, String>, wanted: &HashMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}
