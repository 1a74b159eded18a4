//! Gathers what a pod's runtime configuration is made of, and makes it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Container, Pod, VolumeProjection};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use proto::cri;

use super::container::{ContainerPlan, Gathered, container_config};
use super::dns::{DnsFacts, HostResolver, MAX_RESOLV_CONF, Warning, parse_resolv_conf};
use super::environment::{self, Environment, Names, References, Surroundings};
use super::error::ConfigError;
use super::hosts;
use super::limits::LimitFacts;
use super::mounts::{self, ETC_HOSTS, OwnFiles};
use super::sandbox::{SandboxFacts, sandbox_config};
use super::security::SecurityFacts;
use crate::api::{Key, Objects};
use crate::config::Settings;
use crate::resources::{Cgroups, Config};
use crate::volumes::{MountedVolumes, SubPath, Volumes};

/// A hosts file of the node longer than this is refused.
const MAX_HOSTS: u64 = 10 * 1024 * 1024;

/// What of the node runtime configurations depend on and that does not change while the agent runs.
#[derive(Debug, Clone)]
pub(crate) struct NodeFacts {
    /// The node's addresses, first family first.
    pub(crate) host_ips: Vec<IpAddr>,
    /// Bytes of memory the node has.
    pub(crate) memory_capacity: i64,
    /// What pods may use, until the Node object says so.
    pub(crate) capacity: BTreeMap<String, Quantity>,
}

/// Makes runtime configurations. The door of this room.
pub(crate) struct Configurator {
    settings: Arc<Settings>,
    node: NodeFacts,
    objects: Arc<Objects>,
    volumes: Arc<Volumes>,
    cgroups: Cgroups,
    limits: LimitFacts,
    seccomp_root: PathBuf,
    thermal_throttle: Vec<String>,
}

impl Configurator {
    /// For the node that `settings` and `node` describe.
    pub(crate) fn new(
        settings: Arc<Settings>,
        node: NodeFacts,
        objects: Arc<Objects>,
        volumes: Arc<Volumes>,
        cgroups: Cgroups,
    ) -> Self {
        let limits = LimitFacts {
            limits: Config::of(&settings).limits,
            controllers: cgroups.controllers().clone(),
            memory_capacity: node.memory_capacity,
            single_process_oom_kill: settings.kubelet.single_process_oom_kill.unwrap_or(false),
        };
        let seccomp_root = settings.root_dir.join("seccomp");
        let thermal_throttle = thermal_throttle_paths(Path::new("/sys/devices/system/cpu"));
        Self {
            settings,
            node,
            objects,
            volumes,
            cgroups,
            limits,
            seccomp_root,
            thermal_throttle,
        }
    }

    /// The sandbox of `pod`, made for the `attempt`th time, and the Warning events that come with it.
    ///
    /// # Errors
    /// The node's resolv.conf, or rules the pod breaks.
    pub(crate) fn sandbox(
        &self,
        pod: &Pod,
        attempt: u32,
    ) -> Result<(cri::PodSandboxConfig, Vec<Warning>), ConfigError> {
        let kubelet = &self.settings.kubelet;
        let dns = DnsFacts {
            cluster_dns: kubelet.cluster_dns.clone(),
            cluster_domain: kubelet.cluster_domain.clone(),
            host: host_resolver(&kubelet.resolv_conf)?,
            node_ips: self.node.host_ips.clone(),
        };
        let facts = SandboxFacts {
            dns: &dns,
            limits: &self.limits,
            pod_logs_dir: Path::new(&kubelet.pod_logs_dir),
            cgroup_parent: self.cgroups.pod_cgroup(pod),
        };
        sandbox_config(pod, attempt, &facts)
    }

    /// The configuration of one container, once its pod's volumes are mounted and its image is there. Makes the files
    /// it mounts. `pod_ips` are the sandbox' addresses (the node's for hostNetwork).
    ///
    /// # Errors
    /// The message of CreateContainerConfigError.
    pub(crate) async fn container(
        &self,
        plan: &ContainerPlan<'_>,
        pod_ips: &[IpAddr],
        volumes: &MountedVolumes,
    ) -> Result<cri::ContainerConfig, ConfigError> {
        super::security::verify_non_root(plan.pod, plan.container, plan.image_user)?;
        let environment = self.environment(plan.pod, plan.container, pod_ips).await?;
        let mounts = self.mounts(plan, pod_ips, volumes, &environment).await?;
        let gathered = Gathered {
            environment: &environment,
            mounts,
            limits: &self.limits,
            security: SecurityFacts {
                seccomp_default: self.settings.kubelet.seccomp_default,
                seccomp_root: &self.seccomp_root,
                thermal_throttle: &self.thermal_throttle,
            },
        };
        container_config(plan, gathered)
    }

    /// The environment of one container.
    ///
    /// # Errors
    /// What it refers to and is not optional is missing.
    pub(crate) async fn environment(
        &self,
        pod: &Pod,
        container: &Container,
        pod_ips: &[IpAddr],
    ) -> Result<Environment, ConfigError> {
        if !self.objects.services_synced() && !is_static(pod) {
            return Err(ConfigError::ServicesNotSynced);
        }
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let references = self.references(namespace, environment::names(container)).await?;
        let node = self.objects.node();
        let allocatable = node
            .as_ref()
            .and_then(|node| node.status.as_ref()?.allocatable.as_ref());
        let around = Surroundings {
            pod,
            services: &self.objects.services(),
            pod_ips,
            host_ips: &self.node.host_ips,
            allocatable: allocatable.unwrap_or(&self.node.capacity),
        };
        environment::environment(container, &around, &references)
    }

    /// Fetches all at once.
    async fn references(&self, namespace: &str, names: Names) -> Result<References, ConfigError> {
        let maps = names.config_maps.into_iter().map(async |name| {
            let map = self.objects.config_map(namespace, &name).await;
            map.map(|map| (name, map))
        });
        let secrets = names.secrets.into_iter().map(async |name| {
            let secret = self.objects.secret(namespace, &name).await;
            secret.map(|secret| (name, secret))
        });
        let (maps, secrets) = futures::join!(join_all(maps), join_all(secrets));
        let failed = |cause| ConfigError::Api { cause };
        Ok(References {
            config_maps: maps.into_iter().collect::<Result<_, _>>().map_err(failed)?,
            secrets: secrets.into_iter().collect::<Result<_, _>>().map_err(failed)?,
        })
    }

    async fn mounts(
        &self,
        plan: &ContainerPlan<'_>,
        pod_ips: &[IpAddr],
        volumes: &MountedVolumes,
        environment: &Environment,
    ) -> Result<Vec<cri::Mount>, ConfigError> {
        let ContainerPlan { pod, container, .. } = *plan;
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let parts = sub_paths(container, volumes, environment)?;
        let sources = self.volumes.prepare_subpaths(uid, parts).await??;
        let files = OwnFiles {
            hosts: match self.hosts_text(pod, pod_ips)? {
                Some(text) => Some(self.volumes.write_hosts(uid, text).await?),
                None => None,
            },
            termination_log: match container.termination_message_path.as_deref().unwrap_or_default() {
                "" => None,
                _ => Some(self.volumes.make_termination_log(uid, &container.name).await?),
            },
        };
        mounts::mounts(container, volumes, &|index| sources.get(&index).cloned(), &files)
    }

    /// The text of the pod's hosts file; none before the pod has an address.
    fn hosts_text(&self, pod: &Pod, pod_ips: &[IpAddr]) -> Result<Option<String>, ConfigError> {
        let spec = pod.spec.as_ref();
        let aliases = spec
            .and_then(|spec| spec.host_aliases.as_deref())
            .unwrap_or_default();
        if spec.and_then(|spec| spec.host_network).unwrap_or(false) {
            let node_file = read_host_file(ETC_HOSTS, MAX_HOSTS)?;
            return Ok(Some(hosts::host_network(&node_file, aliases)));
        }
        if pod_ips.is_empty() {
            return Ok(None);
        }
        let name = hosts::host_name(pod, &self.settings.kubelet.cluster_domain)?;
        Ok(Some(hosts::managed(pod_ips, &name, aliases)))
    }
}

fn sub_paths(
    container: &Container,
    volumes: &MountedVolumes,
    environment: &Environment,
) -> Result<Vec<SubPath>, ConfigError> {
    let mut found = Vec::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let Some(path) = mounts::sub_path(mount, environment)? else {
            continue;
        };
        let volume = volumes
            .get(&mount.name)
            .ok_or_else(|| ConfigError::MissingVolume {
                volume: mount.name.clone(),
                container: container.name.clone(),
            })?;
        found.push(SubPath {
            volume: mount.name.clone(),
            source: volume.host_path.clone(),
            path,
            container: container.name.clone(),
            index,
        });
    }
    Ok(found)
}

fn host_resolver(path: &str) -> Result<Option<HostResolver>, ConfigError> {
    if path.is_empty() {
        return Ok(None);
    }
    Ok(Some(parse_resolv_conf(&read_host_file(path, MAX_RESOLV_CONF)?)))
}

fn read_host_file(path: &str, limit: u64) -> Result<String, ConfigError> {
    use std::io::Read as _;
    let failed = |cause| ConfigError::HostFile {
        operation: "read",
        path: path.to_owned(),
        cause,
    };
    let mut data = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(limit + 1).read_to_end(&mut data).map_err(failed)?;
    if u64::try_from(data.len()).unwrap_or(u64::MAX) > limit {
        return Err(failed(std::io::Error::other(format!(
            "longer than {limit} bytes"
        ))));
    }
    Ok(String::from_utf8_lossy(&data).into_owned())
}

/// `cpuN/thermal_throttle` of each CPU that has one.
fn thermal_throttle_paths(cpus: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(cpus) else {
        return Vec::new();
    };
    let mut paths: Vec<String> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let number = entry.file_name().into_string().ok()?;
            let number = number.strip_prefix("cpu")?;
            let is_cpu = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
            let path = entry.path().join("thermal_throttle");
            (is_cpu && path.exists()).then(|| path.display().to_string())
        })
        .collect();
    paths.sort();
    paths
}

fn is_static(pod: &Pod) -> bool {
    let source = pod
        .metadata
        .annotations
        .as_ref()
        .and_then(|a| a.get("kubernetes.io/config.source"));
    source.is_some_and(|source| source != "api")
}

/// All ConfigMaps and Secrets that the pod refers to: environment, volumes, pull secrets. For [`Objects::use_by`].
pub(crate) fn object_keys(pod: &Pod) -> BTreeSet<Key> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let map = |name: &str| Key::ConfigMap(namespace.clone(), name.to_owned());
    let secret = |name: &str| Key::Secret(namespace.clone(), name.to_owned());
    let mut keys = BTreeSet::new();
    let Some(spec) = &pod.spec else { return keys };
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        let names = environment::names(container);
        keys.extend(names.config_maps.iter().map(|name| map(name)));
        keys.extend(names.secrets.iter().map(|name| secret(name)));
    }
    for volume in spec.volumes.iter().flatten() {
        keys.extend(volume.config_map.as_ref().map(|v| map(&v.name)));
        keys.extend(
            volume
                .secret
                .as_ref()
                .and_then(|v| v.secret_name.as_deref())
                .map(&secret),
        );
        let sources = volume.projected.iter().flat_map(|v| v.sources.iter().flatten());
        for VolumeProjection {
            config_map,
            secret: of_secret,
            ..
        } in sources
        {
            keys.extend(config_map.as_ref().map(|v| map(&v.name)));
            keys.extend(of_secret.as_ref().map(|v| secret(&v.name)));
        }
    }
    let pull = spec.image_pull_secrets.iter().flatten();
    keys.extend(
        pull.filter(|reference| !reference.name.is_empty())
            .map(|reference| secret(&reference.name)),
    );
    keys
}
