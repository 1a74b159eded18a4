//! Making containers: their configuration, creation and start.

use k8s_openapi::api::core::v1::{Container, Pod};
use proto::cri;

use super::super::admission::is_static;
use super::super::plan::spec;
use super::super::runtime::{self, Seen};
use super::super::runtime_config::{
    ContainerPlan, HASH_ANNOTATION, ImageUser, RESTART_COUNT_ANNOTATION, log_directory, log_path,
};
use super::apply::{Step, link_of};
use super::news::{News, Problem};
use crate::volumes::MountedVolumes;

/// How long the environment of a first container may wait for the list of Services.
const SERVICES_WAIT: std::time::Duration = std::time::Duration::from_secs(10);

impl Step {
    /// Creates and starts a container.
    pub(super) async fn launch(&self, name: &str, attempt: u32, sandbox: &str, image_ref: &str) -> News {
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

    pub(super) async fn start_created(&self, name: &str, id: &str) -> News {
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
