//! `longshore play FILE`: runs the pods of a file in the foreground, without any API server.
//!
//! They live as long as the command: Ctrl-C takes them down. Should it be killed instead, its pods run on;
//! `longshore play --down FILE` (or the next `play` with the same directories) takes them down.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use tokio::signal::unix::{SignalKind, signal};

use super::plan::is_terminal;
use super::runtime_config::log_directory;
use super::source::{self, Event, ManifestError, Source, read_manifests, uid};
use super::{Deps, Pods, Sources, runtime};

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot read {path}: {cause}")]
    Read { path: PathBuf, cause: std::io::Error },
    #[error("{path}: {cause}")]
    Manifest { path: PathBuf, cause: ManifestError },
    #[error("the container runtime does not answer: {0}")]
    Runtime(#[from] runtime::Error),
    #[error("cannot listen for signals: {0}")]
    Signals(std::io::Error),
    #[error("cannot write: {0}")]
    Write(#[from] std::io::Error),
    #[error("{failed} of {all} pods failed")]
    Failed { failed: usize, all: usize },
}

/// Runs the pods of `file` until they are over or a signal comes, then takes them down; with `down` only the latter.
/// What happens is told on `out`, one line each.
///
/// # Errors
/// What is wrong with the file, and pods that failed.
pub(crate) async fn play(deps: Deps, file: &Path, down: bool, out: &mut impl Write) -> Result<(), Error> {
    let node = deps.settings.node_name.clone();
    let logs = PathBuf::from(&deps.settings.kubelet.pod_logs_dir);
    let pods = if down { Vec::new() } else { load(file, &node)? };
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signals)?;
    let (sender, receiver) = source::channel();
    let running = Pods::start(deps, Sources::Given(receiver)).await?;
    // The dispatcher listens as long as the sender is here.
    let _ = sender.send((Source::File, Event::Listed(pods.clone()))).await;
    let mut outcome = Ok(());
    if !down {
        for pod in &pods {
            writeln!(
                out,
                "pod {}: logs in {}",
                name(pod),
                log_directory(&logs, pod).display()
            )?;
        }
        writeln!(out, "Ctrl-C takes all of it down.")?;
        outcome = tokio::select! {
            told = tell(&running, &pods, out) => told,
            _ = interrupt.recv() => Ok(()),
            _ = terminate.recv() => Ok(()),
        };
    }
    writeln!(out, "Taking down …")?;
    let _ = sender.send((Source::File, Event::Listed(Vec::new()))).await;
    running.wait_until_none().await;
    writeln!(out, "Nothing is left.")?;
    outcome
}

fn load(file: &Path, node: &str) -> Result<Vec<Arc<Pod>>, Error> {
    let text = source::read_limited(file).map_err(|cause| Error::Read {
        path: file.to_owned(),
        cause,
    })?;
    let seen = jiff::Timestamp::now().to_string();
    let path = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let pods = read_manifests(&text, &path, node, &seen);
    let pods = pods.map_err(|cause| Error::Manifest {
        path: file.to_owned(),
        cause,
    })?;
    Ok(pods.into_iter().map(Arc::new).collect())
}

/// Tells of changes until all pods are over.
async fn tell(running: &Pods, pods: &[Arc<Pod>], out: &mut impl Write) -> Result<(), Error> {
    let mut changes = running.changes();
    let mut told: BTreeMap<String, String> = BTreeMap::new();
    loop {
        changes.mark_unchanged();
        let snapshot = running.snapshot();
        let mut phases = Vec::new();
        for pod in pods {
            let Some(view) = snapshot.get(uid(pod)) else {
                continue;
            };
            let line = line(pod, &view.status);
            if told.get(uid(pod)) != Some(&line) {
                writeln!(out, "{line}")?;
                told.insert(uid(pod).to_owned(), line);
            }
            phases.extend(view.status.phase.clone());
        }
        if phases.len() == pods.len() && phases.iter().all(|phase| is_terminal(phase)) {
            let failed = phases.iter().filter(|phase| *phase == "Failed").count();
            return if failed == 0 {
                Ok(())
            } else {
                Err(Error::Failed {
                    failed,
                    all: pods.len(),
                })
            };
        }
        if changes.changed().await.is_err() {
            return Ok(());
        }
    }
}

/// How a pod is, in one line: phase, addresses, what its containers wait for.
fn line(pod: &Pod, status: &k8s_openapi::api::core::v1::PodStatus) -> String {
    let mut line = format!(
        "pod {}: {}",
        name(pod),
        status.phase.as_deref().unwrap_or("Pending")
    );
    for ip in status.pod_ips.iter().flatten() {
        line += &format!(" {}", ip.ip);
    }
    if let Some(reason) = &status.reason {
        line += &format!(" ({reason}: {})", status.message.as_deref().unwrap_or_default());
    }
    let all = status
        .init_container_statuses
        .iter()
        .chain(&status.container_statuses)
        .flatten();
    for container in all {
        let waiting = container.state.as_ref().and_then(|s| s.waiting.as_ref());
        let Some(reason) = waiting.and_then(|w| w.reason.as_deref()) else {
            continue;
        };
        let message = waiting.and_then(|w| w.message.as_deref()).unwrap_or_default();
        line += &format!(", {} waits: {reason} {message}", container.name);
    }
    line.trim_end().to_owned()
}

fn name(pod: &Pod) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    format!("{}/{}", text(&pod.metadata.namespace), text(&pod.metadata.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_a_pod_waits_for() {
        let pod =
            serde_json::from_value(serde_json::json!({"metadata": {"name": "p", "namespace": "n"}})).unwrap();
        let status = serde_json::from_value(
            serde_json::json!({"phase": "Pending", "podIPs": [{"ip": "10.0.0.1"}],
            "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": "ErrImagePull", "message": "no route"}}}]}),
        )
        .unwrap();
        assert_eq!(
            line(&pod, &status),
            "pod n/p: Pending 10.0.0.1, c waits: ErrImagePull no route"
        );
    }
}
