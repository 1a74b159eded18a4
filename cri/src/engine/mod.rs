//! The door of the crate. `Core` is what all rooms share; requests that change something run in tasks of their own, so
//! that a caller who goes away does not leave half of the work.

mod adopt;
mod events;
mod images;
mod leftovers;
mod report;

use std::collections::HashSet;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ipnet::IpNet;
use oci_spec::runtime::Capability;
use proto::cri::{
    ContainerEventResponse, ContainerStatusRequest, ContainerStatusResponse, CreateContainerRequest,
    CreateContainerResponse, ListContainersRequest, ListContainersResponse, ListPodSandboxRequest,
    ListPodSandboxResponse, PodSandboxStatusRequest, PodSandboxStatusResponse, RemoveContainerRequest,
    RemoveContainerResponse, RemovePodSandboxRequest, RemovePodSandboxResponse, ReopenContainerLogRequest,
    ReopenContainerLogResponse, RunPodSandboxRequest, RunPodSandboxResponse, RuntimeCondition,
    RuntimeFeatures, RuntimeHandler, RuntimeHandlerFeatures, RuntimeStatus, StartContainerRequest,
    StartContainerResponse, StatusRequest, StatusResponse, StopContainerRequest, StopContainerResponse,
    StopPodSandboxRequest, StopPodSandboxResponse, UpdateRuntimeConfigRequest, UpdateRuntimeConfigResponse,
    VersionRequest, VersionResponse,
};
use tokio::sync::broadcast;

use crate::images::Images;
use crate::paths::Paths;
use crate::spec;
use crate::store::Store;
use crate::{Config, Error, host};

/// Events that a slow reader may fall behind before it loses some and has to list.
const EVENT_BACKLOG: usize = 4096;

/// The engine of a node. One at a time works in a run directory.
pub struct Engine {
    core: Arc<Core>,
}

/// What all rooms of the engine share.
pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) paths: Paths,
    pub(crate) store: Store,
    pub(crate) images: Images,
    pub(crate) host: spec::Host,
    pub(crate) host_name: String,
    pub(crate) boot_id: String,
    /// What is being made.
    pub(crate) names: crate::sandbox::Names,
    events: broadcast::Sender<ContainerEventResponse>,
    network_ready: AtomicBool,
    /// Held open for its lock.
    _lock: File,
}

impl Engine {
    /// Starts the engine: takes its directories, adopts the sandboxes and containers that live there, and removes what
    /// an engine that died left half done.
    ///
    /// # Errors
    /// Another engine works here, or the directories cannot be used. A sandbox that cannot be adopted is no error.
    pub async fn start(config: Config) -> Result<Arc<Self>, Error> {
        let core = blocking("start engine", move || Core::open(config)).await?;
        let core = Arc::new(core);
        adopt::adopt(&core).await?;
        Ok(Arc::new(Self { core }))
    }

    /// What happens to sandboxes and containers from now on; a sandbox's event has its own id as container id.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<ContainerEventResponse> {
        self.core.events.subscribe()
    }

    /// `RunPodSandbox`: ready, with its network, or nothing is left of it.
    ///
    /// # Errors
    /// Bad configuration, no keeper, no network.
    pub async fn run_pod_sandbox(
        &self,
        request: RunPodSandboxRequest,
    ) -> Result<RunPodSandboxResponse, Error> {
        let pod_sandbox_id = self
            .detached("run sandbox", |core| core.run_sandbox(request))
            .await?;
        Ok(RunPodSandboxResponse { pod_sandbox_id })
    }

    /// `StopPodSandbox`: containers killed, network released. An unknown id is success.
    ///
    /// # Errors
    /// Something of it does not go; to be called again.
    pub async fn stop_pod_sandbox(
        &self,
        request: StopPodSandboxRequest,
    ) -> Result<StopPodSandboxResponse, Error> {
        self.detached("stop sandbox", |core| core.stop_sandbox(request.pod_sandbox_id))
            .await?;
        Ok(StopPodSandboxResponse {})
    }

    /// `RemovePodSandbox`: stopped and forgotten with its containers. An unknown id is success.
    ///
    /// # Errors
    /// Something of it does not go; to be called again.
    pub async fn remove_pod_sandbox(
        &self,
        request: RemovePodSandboxRequest,
    ) -> Result<RemovePodSandboxResponse, Error> {
        self.detached("remove sandbox", |core| {
            core.remove_sandbox(request.pod_sandbox_id)
        })
        .await?;
        Ok(RemovePodSandboxResponse {})
    }

    /// `PodSandboxStatus`, with the status of its containers.
    ///
    /// # Errors
    /// Not found.
    pub async fn pod_sandbox_status(
        &self,
        request: PodSandboxStatusRequest,
    ) -> Result<PodSandboxStatusResponse, Error> {
        self.core.sandbox_status(&request.pod_sandbox_id)
    }

    /// `ListPodSandbox`.
    ///
    /// # Errors
    /// None today.
    pub async fn list_pod_sandbox(
        &self,
        request: ListPodSandboxRequest,
    ) -> Result<ListPodSandboxResponse, Error> {
        Ok(self.core.list_sandboxes(&request.filter.unwrap_or_default()))
    }

    /// `CreateContainer`: everything is checked and written down; no process yet.
    ///
    /// # Errors
    /// Bad configuration, no such sandbox or image.
    pub async fn create_container(
        &self,
        request: CreateContainerRequest,
    ) -> Result<CreateContainerResponse, Error> {
        let container_id = self
            .detached("create container", |core| core.create_container(request))
            .await?;
        Ok(CreateContainerResponse { container_id })
    }

    /// `StartContainer`: its program runs on success.
    ///
    /// # Errors
    /// [`Error::Start`] says why the program does not run; the container has exited then.
    pub async fn start_container(
        &self,
        request: StartContainerRequest,
    ) -> Result<StartContainerResponse, Error> {
        self.detached("start container", |core| {
            core.start_container(request.container_id)
        })
        .await?;
        Ok(StartContainerResponse {})
    }

    /// `StopContainer`: asked to end, killed after `timeout` seconds, ended on success. An unknown id is success.
    ///
    /// # Errors
    /// It does not end.
    pub async fn stop_container(
        &self,
        request: StopContainerRequest,
    ) -> Result<StopContainerResponse, Error> {
        let timeout = u64::try_from(request.timeout).unwrap_or_default();
        self.detached("stop container", move |core| {
            core.stop_container(request.container_id, timeout)
        })
        .await?;
        Ok(StopContainerResponse {})
    }

    /// `RemoveContainer`: killed if it runs, and forgotten. An unknown id is success.
    ///
    /// # Errors
    /// Something of it does not go; to be called again.
    pub async fn remove_container(
        &self,
        request: RemoveContainerRequest,
    ) -> Result<RemoveContainerResponse, Error> {
        self.detached("remove container", |core| {
            core.remove_container(request.container_id)
        })
        .await?;
        Ok(RemoveContainerResponse {})
    }

    /// `ListContainers`.
    ///
    /// # Errors
    /// None today.
    pub async fn list_containers(
        &self,
        request: ListContainersRequest,
    ) -> Result<ListContainersResponse, Error> {
        Ok(self.core.list_containers(&request.filter.unwrap_or_default()))
    }

    /// `ContainerStatus`.
    ///
    /// # Errors
    /// Not found.
    pub async fn container_status(
        &self,
        request: ContainerStatusRequest,
    ) -> Result<ContainerStatusResponse, Error> {
        self.core.container_status(&request.container_id)
    }

    /// `ReopenContainerLog`, after a rotation.
    ///
    /// # Errors
    /// The container does not run, or the file cannot be made.
    pub async fn reopen_container_log(
        &self,
        request: ReopenContainerLogRequest,
    ) -> Result<ReopenContainerLogResponse, Error> {
        self.detached("reopen log", |core| core.reopen_log(request.container_id))
            .await?;
        Ok(ReopenContainerLogResponse {})
    }

    /// `Status`: the network is ready once its address ranges are known.
    ///
    /// # Errors
    /// None today.
    pub async fn status(&self, _request: StatusRequest) -> Result<StatusResponse, Error> {
        Ok(self.core.status())
    }

    /// `Version`.
    ///
    /// # Errors
    /// None today.
    pub async fn version(&self, _request: VersionRequest) -> Result<VersionResponse, Error> {
        Ok(VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: "longshore".to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime_api_version: "v1".to_owned(),
        })
    }

    /// `UpdateRuntimeConfig`: the node's address ranges, comma-separated, one of each family at most.
    ///
    /// # Errors
    /// They are no ranges, or the network cannot be made.
    pub async fn update_runtime_config(
        &self,
        request: UpdateRuntimeConfigRequest,
    ) -> Result<UpdateRuntimeConfigResponse, Error> {
        let network = request
            .runtime_config
            .and_then(|config| config.network_config)
            .unwrap_or_default();
        if network.pod_cidr.is_empty() {
            return Ok(UpdateRuntimeConfigResponse {});
        }
        let cidrs = network
            .pod_cidr
            .split(',')
            .map(|cidr| cidr.trim().parse::<IpNet>())
            .collect::<Result<Vec<_>, _>>();
        let cidrs = cidrs.map_err(|error| {
            Error::invalid(
                "network_config.pod_cidr",
                format!("{:?}: {error}", network.pod_cidr),
            )
        })?;
        self.detached("set pod network", |core| core.set_pod_cidrs(cidrs))
            .await?;
        Ok(UpdateRuntimeConfigResponse {})
    }

    /// Runs a request to its end even if the caller stops waiting.
    async fn detached<T, F>(
        &self,
        operation: &'static str,
        work: impl FnOnce(Arc<Core>) -> F,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let task = tokio::spawn(work(Arc::clone(&self.core)));
        task.await.map_err(|error| Error::Internal {
            operation,
            reason: error.to_string(),
        })?
    }
}

impl Core {
    /// Takes the directories. Blocks.
    fn open(config: Config) -> Result<Self, Error> {
        let paths = Paths::new(&config);
        for (point, directory, mode) in [
            ("cri.make_run_directory", paths.sandboxes(), 0o700),
            ("cri.make_netns_directory", paths.network_namespaces(), 0o700),
            ("cri.make_layers_directory", paths.writable_layers(), 0o700),
            ("cri.make_keepers_cgroup", paths.keepers().to_owned(), 0o755),
        ] {
            crate::state::mkdir(point, &directory, mode).map_err(crate::sandbox::state_error)?;
        }
        let lock = host::lock("cri.lock_engine", &paths.lock())?;
        let registries = Some(config.registries.clone());
        let images = Images::open(&config.state_dir, registries).map_err(images::error)?;
        let (events, _) = broadcast::channel(EVENT_BACKLOG);
        Ok(Self {
            host: spec::Host {
                capabilities: held_capabilities()?,
            },
            host_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            boot_id: boot_id()?,
            store: Store::default(),
            names: crate::sandbox::Names::default(),
            network_ready: AtomicBool::new(false),
            _lock: lock,
            config,
            paths,
            images,
            events,
        })
    }

    async fn set_pod_cidrs(self: Arc<Self>, cidrs: Vec<IpNet>) -> Result<(), Error> {
        let core = Arc::clone(&self);
        blocking("set pod network", move || {
            crate::fault::point("cri.set_pod_cidrs");
            let set = core.config.network.set_pod_cidrs(&cidrs);
            let warnings = set.map_err(|error| Error::Unavailable {
                reason: format!("pod network: {error}"),
            })?;
            for warning in warnings {
                tracing::warn!(%warning, "pod network");
            }
            Ok(())
        })
        .await?;
        self.network_ready.store(true, Ordering::Release);
        Ok(())
    }

    /// Whether pods can have a network.
    pub(crate) fn network_is_ready(&self) -> bool {
        self.network_ready.load(Ordering::Acquire)
    }

    fn status(&self) -> StatusResponse {
        let condition = |kind: &str, fine: bool, reason: &str, message: &str| RuntimeCondition {
            r#type: kind.to_owned(),
            status: fine,
            reason: if fine { String::new() } else { reason.to_owned() },
            message: if fine { String::new() } else { message.to_owned() },
        };
        let network = "the node's pod address ranges are not known yet: network plugin is not ready";
        let conditions = vec![
            condition("RuntimeReady", true, "", ""),
            condition(
                "NetworkReady",
                self.network_is_ready(),
                "NetworkPluginNotReady",
                network,
            ),
        ];
        let features = RuntimeHandlerFeatures {
            recursive_read_only_mounts: true,
            user_namespaces: false,
        };
        StatusResponse {
            status: Some(RuntimeStatus { conditions }),
            info: Default::default(),
            runtime_handlers: vec![RuntimeHandler {
                name: String::new(),
                features: Some(features),
            }],
            features: Some(RuntimeFeatures {
                supplemental_groups_policy: true,
                user_namespaces_host_network: false,
            }),
        }
    }
}

/// Runs what blocks on a thread that may.
pub(crate) async fn blocking<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let task = tokio::task::spawn_blocking(work);
    task.await.map_err(|error| Error::Internal {
        operation,
        reason: error.to_string(),
    })?
}

/// Now, in nanoseconds since the epoch.
pub(crate) fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).expect("holds until the year 2262")
}

/// A new id: 32 random bytes in hex, as container runtimes have them.
pub(crate) fn new_id() -> String {
    use std::fmt::Write as _;
    let mut id = String::with_capacity(64);
    for byte in rand::random::<[u8; 32]>() {
        let _ = write!(id, "{byte:02x}");
    }
    id
}

fn boot_id() -> Result<String, Error> {
    let path = "/proc/sys/kernel/random/boot_id";
    let id = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    Ok(id.trim().to_owned())
}

/// The capabilities of this process, which bound what it can give.
fn held_capabilities() -> Result<HashSet<Capability>, Error> {
    let sets =
        rustix::thread::capabilities(None).map_err(Error::io("read capabilities of", "this process"))?;
    let permitted = sets.permitted.bits();
    let all = spec::capabilities::ALL.iter().enumerate();
    Ok(all
        .filter(|(number, _)| permitted & (1 << number) != 0)
        .map(|(_, capability)| *capability)
        .collect())
}
