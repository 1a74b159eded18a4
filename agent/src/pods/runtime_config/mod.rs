//! From a Pod to what a container runtime is told: sandbox and containers in CRI's shape.
//!
//! Everything but [`Configurator`] is pure. The configurator gathers what the pure part needs: ConfigMaps and Secrets
//! of the environment, the hosts file, the termination message file, parts of volumes.

mod container;
mod dns;
mod environment;
mod error;
mod expansion;
mod fields;
mod gather;
mod hosts;
mod limits;
mod mounts;
mod sandbox;
mod security;
mod services;
#[cfg(test)]
mod tests;

use k8s_openapi::api::core::v1::{Container, Pod};

pub(crate) use container::{
    CONTAINER_NAME_LABEL, ContainerPlan, GRACE_ANNOTATION, HASH_ANNOTATION, MESSAGE_PATH_ANNOTATION,
    MESSAGE_POLICY_ANNOTATION, RESTART_COUNT_ANNOTATION, log_path,
};
pub(crate) use fields::{FieldError, metadata_field, resource_field};
pub(crate) use gather::{Configurator, NodeFacts, object_keys};
pub(crate) use sandbox::{POD_NAME_LABEL, POD_NAMESPACE_LABEL, POD_UID_LABEL, log_directory};
pub(crate) use security::ImageUser;

/// A pod as messages name it: `NAME_NAMESPACE(UID)`.
pub(crate) fn pod_reference(pod: &Pod) -> String {
    let part = |value: &Option<String>| value.clone().unwrap_or_default();
    let metadata = &pod.metadata;
    format!(
        "{}_{}({})",
        part(&metadata.name),
        part(&metadata.namespace),
        part(&metadata.uid)
    )
}

/// The user a container runs as by its own or its pod's security context.
pub(crate) fn effective_run_as_user(pod: &Pod, container: &Container) -> Option<i64> {
    security::effective(pod, container).run_as_user
}
