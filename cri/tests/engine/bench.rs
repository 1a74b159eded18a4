//! A node for one test: directories, a cgroup, an engine; and the requests that tests make of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use cri::{Config, Engine, Error};
use proto::cri::*;
use tokio::sync::broadcast::Receiver;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Where cgroup2 is mounted: the only place on a pure v2 host, `unified` on a hybrid one.
pub(crate) fn cgroup_mount() -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts
        .lines()
        .find(|line| line.split(' ').nth(2) == Some("cgroup2"))
        .expect("a cgroup2 mount");
    PathBuf::from(line.split(' ').nth(1).unwrap())
}

/// Removes a cgroup with those below it, processes and all.
pub(crate) fn remove_cgroups(path: &Path) {
    let _ = std::fs::write(path.join("cgroup.kill"), "1");
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().unwrap().is_dir() {
            remove_cgroups(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(path);
}

/// Brings the namespaces of this program into the state of a node.
pub(crate) fn set_up() {
    let status = std::process::Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status();
    assert!(status.expect("iproute2").success());
}

/// The pod network of a node.
pub(crate) fn network(root: &Path, bridge: &str) -> Arc<cni::Network> {
    let network = cni::Network::new(cni::Config {
        bridge: bridge.into(),
        state_dir: root.join("run/network"),
        mtu: Some(1500),
        cluster_cidrs: Vec::new(),
        masquerade: false,
    });
    Arc::new(network.unwrap())
}

/// An engine's settings on a node.
pub(crate) fn config(root: &Path, cgroup: &Path, network: Arc<cni::Network>) -> Config {
    Config {
        run_dir: root.join("run"),
        state_dir: root.join("state"),
        oci_binary: std::env::current_exe().unwrap(),
        registries: root.join("registries"),
        cgroup_root: cgroup.to_owned(),
        keepers_cgroup: "longshore.slice/keepers".into(),
        network,
    }
}

/// The request that tells an engine its address ranges.
pub(crate) fn address_ranges() -> UpdateRuntimeConfigRequest {
    let network = NetworkConfig {
        pod_cidr: "10.77.0.0/24,fd77::/64".into(),
    };
    UpdateRuntimeConfigRequest {
        runtime_config: Some(RuntimeConfig {
            network_config: Some(network),
        }),
    }
}

pub(crate) struct Bench {
    directory: tempfile::TempDir,
    cgroup: PathBuf,
    network: Arc<cni::Network>,
    engine: Option<Arc<Engine>>,
}

impl Bench {
    /// A node with a network and its image.
    pub(crate) async fn new() -> Self {
        let bench = Self::bare().await;
        bench
            .engine()
            .update_runtime_config(address_ranges())
            .await
            .unwrap();
        bench
    }

    /// A node whose address ranges are not known yet.
    pub(crate) async fn bare() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let cgroup = PathBuf::from(std::env::var_os(super::INNER).unwrap()).join(format!("node{number}"));
        std::fs::create_dir(&cgroup).unwrap();
        super::image::make(&directory.path().join("state"));
        let network = network(directory.path(), &format!("br{number}"));
        let mut bench = Self {
            directory,
            cgroup,
            network,
            engine: None,
        };
        bench.start().await;
        bench
    }

    pub(crate) fn config(&self) -> Config {
        config(self.directory.path(), &self.cgroup, Arc::clone(&self.network))
    }

    /// Starts an engine where none is.
    pub(crate) async fn start(&mut self) {
        assert!(self.engine.is_none());
        self.wait_for_lock().await;
        self.engine = Some(Engine::start(self.config()).await.unwrap());
    }

    /// The tasks of a dropped engine end a little after it, and its lock with them; a real crash takes both at once.
    async fn wait_for_lock(&self) {
        if let Ok(lock) = std::fs::File::open(self.config().run_dir.join("engine.lock")) {
            let wait = move || rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive);
            tokio::task::spawn_blocking(wait).await.unwrap().unwrap();
        }
    }

    /// Ends the engine as a crash would: nothing is said to anyone.
    pub(crate) fn crash(&mut self) {
        let engine = self.engine.take().unwrap();
        assert_eq!(Arc::strong_count(&engine), 1);
    }

    pub(crate) fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    pub(crate) fn cgroup(&self, path: &str) -> PathBuf {
        self.cgroup.join(path)
    }

    pub(crate) fn pod(&self, name: &str) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.into(),
                uid: format!("uid-{name}"),
                namespace: "default".into(),
                attempt: 0,
            }),
            hostname: name.into(),
            log_directory: self.path("logs").join(name).to_str().unwrap().into(),
            dns_config: Some(DnsConfig {
                servers: vec!["10.96.0.10".into()],
                searches: vec!["default.svc.cluster.local".into()],
                options: vec!["ndots:5".into()],
            }),
            labels: [("app".to_owned(), name.to_owned())].into(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("/pods/{name}"),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(NamespaceOption {
                        pid: NamespaceMode::Container.into(),
                        ..NamespaceOption::default()
                    }),
                    ..LinuxSandboxSecurityContext::default()
                }),
                ..LinuxPodSandboxConfig::default()
            }),
            ..PodSandboxConfig::default()
        }
    }

    pub(crate) async fn run(&self, config: &PodSandboxConfig) -> Result<String, Error> {
        let request = RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: String::new(),
        };
        Ok(self.engine().run_pod_sandbox(request).await?.pod_sandbox_id)
    }

    /// A container that runs a shell script.
    pub(crate) fn container(&self, name: &str, script: &str) -> ContainerConfig {
        ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: name.into(),
                attempt: 0,
            }),
            image: Some(ImageSpec {
                image: super::image::NAME.into(),
                ..ImageSpec::default()
            }),
            command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            log_path: format!("{name}/0.log"),
            linux: Some(LinuxContainerConfig {
                resources: None,
                security_context: Some(LinuxContainerSecurityContext {
                    namespace_options: Some(NamespaceOption {
                        pid: NamespaceMode::Container.into(),
                        ..NamespaceOption::default()
                    }),
                    ..LinuxContainerSecurityContext::default()
                }),
            }),
            ..ContainerConfig::default()
        }
    }

    pub(crate) async fn create(&self, sandbox: &str, config: ContainerConfig) -> Result<String, Error> {
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.into(),
            config: Some(config),
            sandbox_config: None,
        };
        Ok(self.engine().create_container(request).await?.container_id)
    }

    pub(crate) async fn start_container(&self, id: &str) -> Result<(), Error> {
        self.engine()
            .start_container(StartContainerRequest {
                container_id: id.into(),
            })
            .await
            .map(drop)
    }

    /// Creates and starts a container.
    pub(crate) async fn launch(&self, sandbox: &str, config: ContainerConfig) -> String {
        let id = self.create(sandbox, config).await.unwrap();
        self.start_container(&id).await.unwrap();
        id
    }

    pub(crate) async fn stop_container(&self, id: &str, timeout: i64) {
        let request = StopContainerRequest {
            container_id: id.into(),
            timeout,
        };
        self.engine().stop_container(request).await.unwrap();
    }

    pub(crate) async fn remove_container(&self, id: &str) {
        let request = RemoveContainerRequest {
            container_id: id.into(),
        };
        self.engine().remove_container(request).await.unwrap();
    }

    pub(crate) async fn stop(&self, sandbox: &str) {
        let request = StopPodSandboxRequest {
            pod_sandbox_id: sandbox.into(),
        };
        self.engine().stop_pod_sandbox(request).await.unwrap();
    }

    pub(crate) async fn remove(&self, sandbox: &str) {
        let request = RemovePodSandboxRequest {
            pod_sandbox_id: sandbox.into(),
        };
        self.engine().remove_pod_sandbox(request).await.unwrap();
    }

    pub(crate) async fn status(&self, container: &str) -> Result<ContainerStatus, Error> {
        let request = ContainerStatusRequest {
            container_id: container.into(),
            verbose: false,
        };
        Ok(self.engine().container_status(request).await?.status.unwrap())
    }

    pub(crate) async fn sandbox_status(&self, sandbox: &str) -> Result<PodSandboxStatus, Error> {
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: sandbox.into(),
            verbose: false,
        };
        Ok(self.engine().pod_sandbox_status(request).await?.status.unwrap())
    }

    /// The status of a container once it has ended, which `events` tells.
    pub(crate) async fn ended(
        &self,
        events: &mut Receiver<ContainerEventResponse>,
        id: &str,
    ) -> ContainerStatus {
        loop {
            let status = self.status(id).await.unwrap();
            if status.state() == ContainerState::ContainerExited {
                return status;
            }
            events.recv().await.unwrap();
        }
    }

    /// Starts a container, waits for its end, and gives its status.
    pub(crate) async fn finish(&self, sandbox: &str, config: ContainerConfig) -> ContainerStatus {
        let mut events = self.engine().events();
        let id = self.launch(sandbox, config).await;
        self.ended(&mut events, &id).await
    }

    /// Lines of a container's log: (stream, tag, text).
    pub(crate) fn log(&self, pod: &str, container: &str) -> Vec<(String, String, String)> {
        let path = self.path("logs").join(pod).join(container).join("0.log");
        let text = std::fs::read_to_string(path).unwrap();
        let parse = |line: &str| {
            let parts: Vec<&str> = line.splitn(4, ' ').collect();
            (parts[1].to_owned(), parts[2].to_owned(), parts[3].to_owned())
        };
        text.lines().map(parse).collect()
    }

    /// The text of a container's standard output.
    pub(crate) fn output(&self, pod: &str, container: &str) -> String {
        self.log(pod, container)
            .into_iter()
            .map(|(_, _, text)| text + "\n")
            .collect()
    }

    /// Process id of a sandbox's keeper.
    pub(crate) fn keeper(&self, sandbox: &str) -> u32 {
        let path = self
            .cgroup("longshore.slice/keepers")
            .join(sandbox)
            .join("cgroup.procs");
        std::fs::read_to_string(path)
            .unwrap()
            .trim()
            .parse()
            .expect("one keeper")
    }

    /// Nothing of any pod is on the machine any more.
    pub(crate) fn assert_clean(&self) {
        assert_eq!(
            left_over(self.directory.path(), &self.cgroup),
            Vec::<String>::new()
        );
    }
}

/// What is left of pods below the directory and the cgroup of a node.
pub(crate) fn left_over(root: &Path, cgroup: &Path) -> Vec<String> {
    let mut left = Vec::new();
    let list = |path: PathBuf| {
        std::fs::read_dir(path)
            .unwrap()
            .flatten()
            .map(|entry| entry.path())
    };
    for directory in [
        "run/sandboxes",
        "run/netns",
        "state/containers",
        "run/network/leases",
    ] {
        left.extend(list(root.join(directory)).map(|path| path.display().to_string()));
    }
    let keepers = list(cgroup.join("longshore.slice/keepers")).filter(|path| path.is_dir());
    left.extend(keepers.map(|path| path.display().to_string()));
    left.extend(processes(cgroup).into_iter().map(|pid| format!("process {pid}")));
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let root = root.to_str().unwrap();
    left.extend(
        mounts
            .lines()
            .filter(|line| line.contains(root))
            .map(|line| format!("mount {line}")),
    );
    left
}

pub(crate) fn processes(cgroup: &Path) -> Vec<String> {
    let mut found: Vec<String> = std::fs::read_to_string(cgroup.join("cgroup.procs"))
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    for entry in std::fs::read_dir(cgroup).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            found.extend(processes(&entry.path()));
        }
    }
    found
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.engine = None;
        remove_cgroups(&self.cgroup);
        // What a failed test leaves mounted would keep its directory.
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let root = self.directory.path().to_str().unwrap_or_default().to_owned();
        for line in mounts.lines().filter(|line| line.contains(&root)) {
            let target = line.split(' ').nth(1).unwrap_or_default();
            let _ = std::process::Command::new("umount").args(["-l", target]).status();
        }
    }
}
