//! A container in CRI's shape. Contract §10.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use proto::cri;
use serde_json::json;

use super::environment::{Environment, lookup};
use super::error::ConfigError;
use super::expansion::expand;
use super::limits::{self, LimitFacts};
use super::sandbox::identity_labels;
use super::security::{self, ImageUser, SecurityFacts};

pub(crate) const CONTAINER_NAME_LABEL: &str = "io.kubernetes.container.name";
pub(crate) const HASH_ANNOTATION: &str = "io.kubernetes.container.hash";
pub(crate) const RESTART_COUNT_ANNOTATION: &str = "io.kubernetes.container.restartCount";
pub(crate) const MESSAGE_PATH_ANNOTATION: &str = "io.kubernetes.container.terminationMessagePath";
pub(crate) const MESSAGE_POLICY_ANNOTATION: &str = "io.kubernetes.container.terminationMessagePolicy";
pub(crate) const PRE_STOP_ANNOTATION: &str = "io.kubernetes.container.preStopHandler";
pub(crate) const PORTS_ANNOTATION: &str = "io.kubernetes.container.ports";
pub(crate) const GRACE_ANNOTATION: &str = "io.kubernetes.pod.terminationGracePeriod";
pub(crate) const DELETION_GRACE_ANNOTATION: &str = "io.kubernetes.pod.deletionGracePeriod";

/// One container to be made.
#[derive(Clone, Copy)]
pub(crate) struct ContainerPlan<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) container: &'a Container,
    /// How often it was made before in this pod: the restart count.
    pub(crate) attempt: u32,
    /// The image as the runtime knows it, from the pull.
    pub(crate) image_ref: &'a str,
    pub(crate) image_user: &'a ImageUser,
    /// Container whose pid namespace an ephemeral container joins.
    pub(crate) target: Option<&'a str>,
}

/// What was gathered for it.
pub(crate) struct Gathered<'a> {
    pub(crate) environment: &'a Environment,
    pub(crate) mounts: Vec<cri::Mount>,
    pub(crate) limits: &'a LimitFacts,
    pub(crate) security: SecurityFacts<'a>,
}

/// The container's configuration.
///
/// # Errors
/// Security context rules.
pub(crate) fn container_config(
    plan: &ContainerPlan<'_>,
    gathered: Gathered<'_>,
) -> Result<cri::ContainerConfig, ConfigError> {
    let ContainerPlan { pod, container, .. } = *plan;
    security::verify_non_root(pod, container, plan.image_user)?;
    let context =
        security::container_context(pod, container, plan.image_user, plan.target, &gathered.security)?;
    let known = |name: &str| lookup(gathered.environment, name);
    let expanded = |words: &Option<Vec<String>>| {
        words
            .iter()
            .flatten()
            .map(|word| expand(word, known))
            .collect::<Vec<_>>()
    };
    Ok(cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: container.name.clone(),
            attempt: plan.attempt,
        }),
        image: Some(cri::ImageSpec {
            image: plan.image_ref.to_owned(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: gathered
            .environment
            .iter()
            .map(|(key, value)| cri::KeyValue {
                key: key.clone(),
                value: value.clone().into_bytes(),
            })
            .collect(),
        mounts: gathered.mounts,
        labels: labels(pod, container),
        annotations: annotations(pod, container, plan.attempt),
        log_path: log_path(&container.name, plan.attempt),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(limits::container_limits(pod, container, gathered.limits)),
            security_context: Some(context),
        }),
        stop_signal: stop_signal(container)?.into(),
        ..Default::default()
    })
}

/// The log file below the sandbox's log directory.
pub(crate) fn log_path(container: &str, attempt: u32) -> String {
    format!("{container}/{attempt}.log")
}

fn labels(pod: &Pod, container: &Container) -> HashMap<String, String> {
    let mut labels = identity_labels(pod);
    labels.insert(CONTAINER_NAME_LABEL.to_owned(), container.name.clone());
    labels
}

fn annotations(pod: &Pod, container: &Container, attempt: u32) -> HashMap<String, String> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let mut found = HashMap::from([
        (
            HASH_ANNOTATION.to_owned(),
            format!("{:x}", container_hash(container)),
        ),
        (RESTART_COUNT_ANNOTATION.to_owned(), attempt.to_string()),
        (
            MESSAGE_PATH_ANNOTATION.to_owned(),
            text(&container.termination_message_path),
        ),
        (
            MESSAGE_POLICY_ANNOTATION.to_owned(),
            text(&container.termination_message_policy),
        ),
    ]);
    let mut number = |name: &str, value: Option<i64>| {
        if let Some(value) = value {
            found.insert(name.to_owned(), value.to_string());
        }
    };
    number(
        DELETION_GRACE_ANNOTATION,
        pod.metadata.deletion_grace_period_seconds,
    );
    number(
        GRACE_ANNOTATION,
        pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds),
    );
    if let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()) {
        found.insert(PRE_STOP_ANNOTATION.to_owned(), json!(hook).to_string());
    }
    if let Some(ports) = container.ports.as_ref().filter(|ports| !ports.is_empty()) {
        found.insert(PORTS_ANNOTATION.to_owned(), json!(ports).to_string());
    }
    found
}

/// Changes when the container must be made anew: its name or image. FNV-1 over their JSON, as wide as upstream's.
pub(crate) fn container_hash(container: &Container) -> u32 {
    let picked = json!({ "image": container.image, "name": container.name });
    picked.to_string().bytes().fold(0x811c_9dc5, |hash: u32, byte| {
        hash.wrapping_mul(0x0100_0193) ^ u32::from(byte)
    })
}

/// `lifecycle.stopSignal`, where the pod names one.
fn stop_signal(container: &Container) -> Result<cri::Signal, ConfigError> {
    let Some(name) = container
        .lifecycle
        .as_ref()
        .and_then(|l| l.stop_signal.as_deref())
    else {
        return Ok(cri::Signal::RuntimeDefault);
    };
    let spelled = name.replace('+', "PLUS").replace("RTMAX-", "RTMAXMINUS");
    cri::Signal::from_str_name(&spelled).ok_or_else(|| ConfigError::Invalid {
        what: "unknown stop signal",
        value: name.to_owned(),
    })
}
