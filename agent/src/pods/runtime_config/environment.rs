//! A container's environment: env over envFrom over Services. Contract §13.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvVarSource, ObjectFieldSelector, Pod, Secret, Service,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::error::ConfigError;
use super::expansion::expand;
use super::{fields, services};

/// What a container's environment refers to, fetched. `None` = there is no such object.
#[derive(Debug, Clone, Default)]
pub(crate) struct References {
    pub(crate) config_maps: BTreeMap<String, Option<Arc<ConfigMap>>>,
    pub(crate) secrets: BTreeMap<String, Option<Arc<Secret>>>,
}

/// Names of the ConfigMaps and Secrets that a container's environment refers to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Names {
    pub(crate) config_maps: Vec<String>,
    pub(crate) secrets: Vec<String>,
}

/// Which objects the environment of `container` refers to.
pub(crate) fn names(container: &Container) -> Names {
    let mut names = Names::default();
    for source in container.env_from.iter().flatten() {
        names
            .config_maps
            .extend(source.config_map_ref.as_ref().map(|r| r.name.clone()));
        names
            .secrets
            .extend(source.secret_ref.as_ref().map(|r| r.name.clone()));
    }
    for source in container
        .env
        .iter()
        .flatten()
        .filter_map(|var| var.value_from.as_ref())
    {
        names
            .config_maps
            .extend(source.config_map_key_ref.as_ref().map(|r| r.name.clone()));
        names
            .secrets
            .extend(source.secret_key_ref.as_ref().map(|r| r.name.clone()));
    }
    for list in [&mut names.config_maps, &mut names.secrets] {
        list.sort();
        list.dedup();
    }
    names
}

/// What else an environment is made of.
pub(crate) struct Surroundings<'a> {
    pub(crate) pod: &'a Pod,
    /// All Services of the cluster.
    pub(crate) services: &'a [Arc<Service>],
    pub(crate) pod_ips: &'a [IpAddr],
    pub(crate) host_ips: &'a [IpAddr],
    pub(crate) allocatable: &'a BTreeMap<String, Quantity>,
}

/// Environment variables in a stable order: by name, those of Services after the container's own.
pub(crate) type Environment = Vec<(String, String)>;

/// The environment of `container`.
///
/// # Errors
/// What it refers to and is not optional is missing, or a field path is not one.
pub(crate) fn environment(
    container: &Container,
    around: &Surroundings<'_>,
    references: &References,
) -> Result<Environment, ConfigError> {
    let spec = around.pod.spec.as_ref();
    let namespace = around.pod.metadata.namespace.as_deref().unwrap_or_default();
    let links = spec.and_then(|s| s.enable_service_links).unwrap_or(true);
    let of_services = services::service_env(around.services, namespace, links);
    let mut own = from_whole_objects(container, references)?;
    for variable in container.env.iter().flatten() {
        let value = match (
            variable.value.as_deref().filter(|v| !v.is_empty()),
            &variable.value_from,
        ) {
            (Some(text), _) => {
                let known = |name: &str| {
                    own.get(name)
                        .or_else(|| of_services.get(name))
                        .map(String::as_str)
                };
                Some(expand(text, known))
            }
            (None, Some(source)) => from_source(source, container, around, references)?,
            (None, None) => Some(String::new()),
        };
        if let Some(value) = value {
            own.insert(variable.name.clone(), value);
        }
    }
    let rest: Vec<_> = of_services
        .into_iter()
        .filter(|(name, _)| !own.contains_key(name))
        .collect();
    Ok(own.into_iter().chain(rest).collect())
}

/// envFrom: later sources win.
fn from_whole_objects(
    container: &Container,
    references: &References,
) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut own = BTreeMap::new();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &source.config_map_ref {
            let optional = reference.optional.unwrap_or(false);
            if let Some(map) = config_map(references, &reference.name, optional)? {
                for (key, value) in map.data.iter().flatten() {
                    insert(&mut own, prefix, key, value.clone());
                }
            }
        } else if let Some(reference) = &source.secret_ref {
            let optional = reference.optional.unwrap_or(false);
            if let Some(secret) = secret(references, &reference.name, optional)? {
                for (key, value) in secret.data.iter().flatten() {
                    insert(&mut own, prefix, key, text(value));
                }
            }
        }
    }
    Ok(own)
}

fn insert(own: &mut BTreeMap<String, String>, prefix: &str, key: &str, value: String) {
    own.insert(format!("{prefix}{key}"), value);
}

fn from_source(
    source: &EnvVarSource,
    container: &Container,
    around: &Surroundings<'_>,
    references: &References,
) -> Result<Option<String>, ConfigError> {
    let namespace = around.pod.metadata.namespace.clone().unwrap_or_default();
    let missing = |kind, key: &str, name: &str| ConfigError::MissingKey {
        kind,
        key: key.to_owned(),
        namespace: namespace.clone(),
        name: name.to_owned(),
    };
    if let Some(field) = &source.field_ref {
        return field_value(field, around).map(Some);
    }
    if let Some(selector) = &source.resource_field_ref {
        let value = fields::resource_field(selector, around.pod, Some(container), around.allocatable)?;
        return Ok(Some(value));
    }
    if let Some(reference) = &source.config_map_key_ref {
        let optional = reference.optional.unwrap_or(false);
        let Some(map) = config_map(references, &reference.name, optional)? else {
            return Ok(None);
        };
        return match map.data.as_ref().and_then(|data| data.get(&reference.key)) {
            None if !optional => Err(missing("ConfigMap", &reference.key, &reference.name)),
            value => Ok(value.cloned()),
        };
    }
    if let Some(reference) = &source.secret_key_ref {
        let optional = reference.optional.unwrap_or(false);
        let Some(secret) = secret(references, &reference.name, optional)? else {
            return Ok(None);
        };
        return match secret.data.as_ref().and_then(|data| data.get(&reference.key)) {
            None if !optional => Err(missing("Secret", &reference.key, &reference.name)),
            value => Ok(value.map(text)),
        };
    }
    if let Some(reference) = &source.file_key_ref {
        return Err(ConfigError::Reference(format!(
            "environment variable from file {:?} of volume {:?}: this node does not read env files",
            reference.path, reference.volume_name
        )));
    }
    Ok(Some(String::new()))
}

fn field_value(field: &ObjectFieldSelector, around: &Surroundings<'_>) -> Result<String, ConfigError> {
    let spec = around.pod.spec.as_ref();
    let list = |ips: &[IpAddr]| ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
    let first = |ips: &[IpAddr]| ips.first().map(IpAddr::to_string).unwrap_or_default();
    Ok(match field.field_path.as_str() {
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => spec
            .and_then(|s| s.service_account_name.clone())
            .unwrap_or_default(),
        "status.hostIP" => first(around.host_ips),
        "status.hostIPs" => list(around.host_ips),
        "status.podIP" => first(around.pod_ips),
        "status.podIPs" => list(around.pod_ips),
        path => fields::metadata_field(around.pod, path)?,
    })
}

fn config_map<'r>(
    references: &'r References,
    name: &str,
    optional: bool,
) -> Result<Option<&'r ConfigMap>, ConfigError> {
    match references.config_maps.get(name) {
        Some(Some(map)) => Ok(Some(map)),
        _ if optional => Ok(None),
        _ => Err(ConfigError::NotFound {
            kind: "configmap",
            name: name.to_owned(),
        }),
    }
}

fn secret<'r>(
    references: &'r References,
    name: &str,
    optional: bool,
) -> Result<Option<&'r Secret>, ConfigError> {
    match references.secrets.get(name) {
        Some(Some(secret)) => Ok(Some(secret)),
        _ if optional => Ok(None),
        _ => Err(ConfigError::NotFound {
            kind: "secret",
            name: name.to_owned(),
        }),
    }
}

/// Values are bytes; what is not UTF-8 cannot be told apart in upstream's strings either.
fn text(value: &ByteString) -> String {
    String::from_utf8_lossy(&value.0).into_owned()
}

/// The value of `name` in an environment.
pub(crate) fn lookup<'e>(environment: &'e Environment, name: &str) -> Option<&'e str> {
    environment
        .iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.as_str())
}
