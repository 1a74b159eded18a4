//! `/containerLogs`: from namespace, pod and container to a log, with upstream's answers for all that can be wrong.

use std::path::Path;

use http::{Response, StatusCode};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use tokio::sync::mpsc;

use super::host::Host;
use super::logs::{self, LogFile, Options, QueryError};
use super::response::{Body, streamed, text};

/// Chunks that wait for a slow client.
const CHUNKS: usize = 4;

/// The three parts of the path.
pub(super) struct Target<'a> {
    pub(super) namespace: &'a str,
    pub(super) pod: &'a str,
    pub(super) container: &'a str,
}

/// Answers with the log or with what is wrong.
pub(super) async fn answer(
    host: &dyn Host,
    pod_logs_dir: &Path,
    target: &Target<'_>,
    query: &str,
) -> Response<Body> {
    let missing = [
        (target.pod, "podID"),
        (target.container, "container name"),
        (target.namespace, "podNamespace"),
    ];
    if let Some((_, what)) = missing.into_iter().find(|(value, _)| value.is_empty()) {
        return text(
            StatusCode::BAD_REQUEST,
            format!(r#"{{"message": "Missing {what}."}}"#),
        );
    }
    let options = match Options::parse(query, Timestamp::now()) {
        Ok(options) => options,
        Err(error @ QueryError::Invalid) => return text(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()),
        Err(error) => return text(StatusCode::BAD_REQUEST, error.to_string()),
    };
    let Some(pod) = host.pod(target.namespace, target.pod) else {
        return text(
            StatusCode::NOT_FOUND,
            format!("pod {:?} does not exist", target.pod),
        );
    };
    if !has_container(&pod, target.container) {
        let message = format!(
            "container {:?} not found in pod {:?}",
            target.container, target.pod
        );
        return text(StatusCode::NOT_FOUND, message);
    }
    match open(host, pod_logs_dir, target, &pod, options).await {
        Ok(response) => response,
        Err(message) => text(StatusCode::BAD_REQUEST, message),
    }
}

async fn open(
    host: &dyn Host,
    pod_logs_dir: &Path,
    target: &Target<'_>,
    pod: &Pod,
    options: Options,
) -> Result<Response<Body>, String> {
    let status = pod.status.clone().unwrap_or_default();
    let id = container_id(target, &status, options.previous)?;
    let bare = id.split_once("://").map_or(id.as_str(), |(_, bare)| bare);
    let Some(log) = host.container_log(bare).await else {
        return Err(format!("unable to retrieve container logs for {id}"));
    };
    let file = LogFile::locate(pod_logs_dir, &log.path).map_err(|error| error.to_string())?;
    let (sender, receiver) = mpsc::channel(CHUNKS);
    logs::copy(file, options, log.ended, sender)
        .await
        .map_err(|error| error.to_string())?;
    Ok(streamed(receiver))
}

fn has_container(pod: &Pod, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let init = spec.init_containers.iter().flatten();
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    spec.containers
        .iter()
        .chain(init)
        .any(|container| container.name == name)
        || ephemeral.into_iter().any(|container| container.name == name)
}

/// Which of a container's runs has the log that is meant: the running one, else the one that ended last.
pub(super) fn container_id(
    target: &Target<'_>,
    status: &PodStatus,
    previous: bool,
) -> Result<String, String> {
    let name = format!("container {:?} in pod {:?}", target.container, target.pod);
    let found =
        container_status(status, target.container).ok_or_else(|| format!("{name} is not available"))?;
    let state = found.state.clone().unwrap_or_default();
    let last = found
        .last_state
        .as_ref()
        .and_then(|last| last.terminated.as_ref());
    let of_last = || {
        last.and_then(|last| last.container_id.clone())
            .filter(|id| !id.is_empty())
    };
    if previous {
        return of_last().ok_or_else(|| format!("previous terminated {name} not found"));
    }
    if state.running.is_some() {
        return Ok(found.container_id.clone().unwrap_or_default());
    }
    if let Some(terminated) = state.terminated {
        // Empty where the next run could not even be made.
        let own = terminated.container_id.filter(|id| !id.is_empty());
        return own
            .or_else(of_last)
            .ok_or_else(|| format!("{name} is terminated"));
    }
    if last.is_some() {
        return of_last().ok_or_else(|| format!("{name} is terminated"));
    }
    Err(
        match state
            .waiting
            .map(|waiting| waiting.reason.unwrap_or_default())
            .as_deref()
        {
            Some("ErrImagePull") => format!("{name} is waiting to start: image can't be pulled"),
            Some("ImagePullBackOff") => {
                format!("{name} is waiting to start: trying and failing to pull image")
            }
            Some(reason) => format!("{name} is waiting to start: {reason}"),
            None => format!("{name} is waiting to start - no logs yet"),
        },
    )
}

fn container_status<'a>(status: &'a PodStatus, name: &str) -> Option<&'a ContainerStatus> {
    [
        &status.container_statuses,
        &status.init_container_statuses,
        &status.ephemeral_container_statuses,
    ]
    .into_iter()
    .flatten()
    .flatten()
    .find(|status| status.name == name)
}
