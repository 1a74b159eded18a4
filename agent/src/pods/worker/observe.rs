//! Looking at what the runtime has of a pod.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use proto::cri;

use super::super::effects::{Files, entries};
use super::super::plan::observed::State;
use super::super::runtime::{self, Seen, of_pod};
use super::super::runtime_config::{log_directory, log_path};
use super::Worker;
use super::log_tail::tail_of_log;

/// Pause before a runtime that failed to answer is asked again.
const ASK_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// What of containers only the worker needs, by id.
pub(super) type Details = BTreeMap<String, Seen>;

impl Worker {
    /// Looks at all that the runtime has of the pod.
    pub(super) async fn see_all(&mut self) {
        let filter = cri::PodSandboxFilter {
            label_selector: of_pod(&self.uid),
            ..Default::default()
        };
        let sandboxes = self
            .context
            .runtime
            .list_pod_sandbox(cri::ListPodSandboxRequest { filter: Some(filter) });
        let filter = cri::ContainerFilter {
            label_selector: of_pod(&self.uid),
            ..Default::default()
        };
        let containers = self
            .context
            .runtime
            .list_containers(cri::ListContainersRequest { filter: Some(filter) });
        let (sandboxes, containers) = match futures::future::try_join(sandboxes, containers).await {
            Ok((sandboxes, containers)) => (sandboxes.items, containers.containers),
            Err(error) => {
                self.unseen_after(&error);
                tokio::time::sleep(ASK_AGAIN).await;
                return;
            }
        };
        self.unseen = false;
        self.observed
            .sandboxes
            .retain(|s| sandboxes.iter().any(|found| found.id == s.id));
        self.observed
            .containers
            .retain(|c| containers.iter().any(|found| found.id == c.id));
        for sandbox in &sandboxes {
            self.see_sandbox(&sandbox.id).await;
        }
        for container in &containers {
            self.see_container(&container.id, &container.pod_sandbox_id).await;
        }
        if self.unseen {
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// Looks at one sandbox or container that is known here; one that is not yet is looked at when it is.
    pub(super) async fn see(&mut self, id: &str) {
        if self.observed.sandboxes.iter().any(|s| s.id == id) {
            return self.see_sandbox(id).await;
        }
        let container = self.observed.containers.iter().find(|c| c.id == id);
        match container.map(|c| c.sandbox.clone()) {
            Some(sandbox) => self.see_container(id, &sandbox).await,
            None => {
                self.early.insert(id.to_owned());
            }
        }
    }

    pub(super) async fn see_sandbox(&mut self, id: &str) {
        let request = cri::PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            verbose: false,
        };
        match self.context.runtime.pod_sandbox_status(request).await {
            Ok(response) => {
                let Some(status) = response.status else { return };
                let mut sandbox = runtime::sandbox(&status);
                let before = self.observed.sandboxes.iter().find(|s| s.id == id);
                sandbox.stopped = !sandbox.ready && before.is_some_and(|s| s.stopped);
                let sandboxes = &mut self.observed.sandboxes;
                sandboxes.retain(|s| s.id != id);
                sandboxes.push(sandbox);
                sandboxes.sort_by_key(|s| std::cmp::Reverse(s.attempt));
            }
            Err(error) if error.is_not_found() => self.observed.sandboxes.retain(|s| s.id != id),
            Err(error) => self.unseen_after(&error),
        }
    }

    async fn see_container(&mut self, id: &str, sandbox: &str) {
        let request = cri::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: false,
        };
        match self.context.runtime.container_status(request).await {
            Ok(response) => {
                let Some(status) = response.status else { return };
                self.put(runtime::container(&status, sandbox)).await;
            }
            Err(error) if error.is_not_found() => {
                self.details.remove(id);
                self.observed.containers.retain(|c| c.id != id);
            }
            Err(error) => self.unseen_after(&error),
        }
    }

    fn unseen_after(&mut self, error: &runtime::Error) {
        tracing::warn!(
            error = error as &dyn std::error::Error,
            "the runtime does not tell, will ask again"
        );
        self.unseen = true;
    }

    /// Adds a container just made; if it was told of meanwhile, what was seen of it may be old already.
    pub(super) async fn add(&mut self, seen: Seen) {
        let (id, sandbox) = (seen.container.id.clone(), seen.container.sandbox.clone());
        self.put(seen).await;
        if self.early.remove(&id) {
            self.see_container(&id, &sandbox).await;
        }
    }

    /// Puts in what was seen of a container, newest first, with its last words if it has ended.
    async fn put(&mut self, mut seen: Seen) {
        self.last_words(&mut seen).await;
        self.observed.containers.retain(|c| c.id != seen.container.id);
        self.details.insert(seen.container.id.clone(), seen.clone());
        self.observed.containers.push(seen.container);
        let details = &self.details;
        let age = |id: &str| details.get(id).map_or(0, |d| d.created);
        self.observed
            .containers
            .sort_by_key(|c| std::cmp::Reverse((age(&c.id), c.attempt)));
        self.details
            .retain(|id, _| self.observed.containers.iter().any(|c| c.id == *id));
    }

    /// The termination message, read once.
    async fn last_words(&mut self, seen: &mut Seen) {
        let (name, attempt) = (seen.container.name.clone(), seen.container.attempt);
        let State::Exited { code, message, .. } = &mut seen.container.state else {
            return;
        };
        let known = self.details.get(&seen.container.id).map(|d| &d.container.state);
        if let Some(State::Exited { message: known, .. }) = known {
            message.clone_from(known);
            return;
        }
        if let Some(file) = &seen.message_file {
            let read = self
                .context
                .volumes
                .termination_message(&self.uid, &name, file)
                .await;
            match read {
                Ok(Some(bytes)) if !bytes.is_empty() => {
                    *message = String::from_utf8_lossy(&bytes).into_owned();
                }
                Ok(_) => {}
                Err(error) => {
                    *message = format!("Error on reading termination log {}: {error}", file.display());
                }
            }
        }
        if message.is_empty() && seen.message_from_log && *code != 0 {
            let log =
                log_directory(&self.context.files.pod_logs, &self.order.pod).join(log_path(&name, attempt));
            *message = tail_of_log(&log).await;
        }
    }
}

/// By container: one more than the highest attempt that has a log.
pub(super) fn log_attempts(files: &Files, pod: &Pod) -> BTreeMap<String, u32> {
    let mut attempts = BTreeMap::new();
    for directory in entries(&log_directory(&files.pod_logs, pod)).unwrap_or_default() {
        let logs = entries(&directory).unwrap_or_default();
        let highest = logs.iter().filter_map(|log| attempt_of(log)).max();
        if let (Some(name), Some(highest)) = (directory.file_name(), highest) {
            attempts.insert(name.to_string_lossy().into_owned(), highest.saturating_add(1));
        }
    }
    attempts
}

/// `3` of `3.log` and of `3.log.20260101-000000.gz`.
fn attempt_of(log: &Path) -> Option<u32> {
    let name = log.file_name()?.to_str()?;
    let (number, rest) = name.split_once('.')?;
    (rest == "log" || rest.starts_with("log.")).then(|| number.parse().ok())?
}
