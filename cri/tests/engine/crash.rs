//! The crash matrix of the engine: a process that wants a pod, or wants it gone, is killed at each fault point in turn
//! and started again; the end is the same, nothing is left, and no container was started twice.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};
use std::sync::Arc;

use cri::{Engine, Error};
use proto::cri::*;

use crate::bench;

/// Later passes of a point in one run are the same step for another object.
const PASSES: usize = 2;

/// The role of a node: `create DIRECTORY CGROUP` or `delete DIRECTORY CGROUP`.
pub(crate) fn node(arguments: &[String]) -> ExitCode {
    let [what, root, cgroup] = arguments else {
        panic!("create|delete DIRECTORY CGROUP")
    };
    let (root, cgroup) = (PathBuf::from(root), PathBuf::from(cgroup));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let worked = runtime.block_on(async {
        let engine = Engine::start(bench::config(&root, &cgroup, bench::network(&root, "crash0"))).await?;
        engine.update_runtime_config(bench::address_ranges()).await?;
        match what.as_str() {
            "create" => create(&engine, &root).await,
            _ => delete(&engine).await,
        }
    });
    match worked {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("node: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Comes to one ready sandbox with one running container, from whatever is there.
async fn create(engine: &Arc<Engine>, root: &Path) -> Result<(), Error> {
    let mut sandbox = None;
    for found in engine
        .list_pod_sandbox(ListPodSandboxRequest::default())
        .await?
        .items
    {
        if found.state() == PodSandboxState::SandboxReady && sandbox.is_none() {
            sandbox = Some(found.id);
        } else {
            engine
                .remove_pod_sandbox(RemovePodSandboxRequest {
                    pod_sandbox_id: found.id,
                })
                .await?;
        }
    }
    let config = pod(root);
    let sandbox = match sandbox {
        Some(sandbox) => sandbox,
        None => {
            let request = RunPodSandboxRequest {
                config: Some(config.clone()),
                runtime_handler: String::new(),
            };
            engine.run_pod_sandbox(request).await?.pod_sandbox_id
        }
    };
    let found = engine
        .list_containers(ListContainersRequest::default())
        .await?
        .containers;
    let container_id = match found
        .into_iter()
        .find(|container| container.pod_sandbox_id == sandbox)
    {
        Some(container) if container.state() == ContainerState::ContainerRunning => return Ok(()),
        Some(container) => container.id,
        None => {
            let request = CreateContainerRequest {
                pod_sandbox_id: sandbox,
                config: Some(container(root)),
                sandbox_config: Some(config),
            };
            engine.create_container(request).await?.container_id
        }
    };
    engine
        .start_container(StartContainerRequest { container_id })
        .await
        .map(drop)
}

async fn delete(engine: &Arc<Engine>) -> Result<(), Error> {
    for container in engine
        .list_containers(ListContainersRequest::default())
        .await?
        .containers
    {
        engine
            .stop_container(StopContainerRequest {
                container_id: container.id.clone(),
                timeout: 0,
            })
            .await?;
        engine
            .remove_container(RemoveContainerRequest {
                container_id: container.id,
            })
            .await?;
    }
    for sandbox in engine
        .list_pod_sandbox(ListPodSandboxRequest::default())
        .await?
        .items
    {
        engine
            .stop_pod_sandbox(StopPodSandboxRequest {
                pod_sandbox_id: sandbox.id.clone(),
            })
            .await?;
        engine
            .remove_pod_sandbox(RemovePodSandboxRequest {
                pod_sandbox_id: sandbox.id,
            })
            .await?;
    }
    Ok(())
}

fn pod(root: &Path) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: "crash".into(),
            uid: "crash".into(),
            namespace: "default".into(),
            attempt: 0,
        }),
        hostname: "crash".into(),
        log_directory: root.join("logs").to_str().unwrap().into(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: "/pods/crash".into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Each run of its program adds a line.
fn container(root: &Path) -> ContainerConfig {
    let options = NamespaceOption {
        pid: NamespaceMode::Container.into(),
        ..Default::default()
    };
    let security = LinuxContainerSecurityContext {
        namespace_options: Some(options),
        ..Default::default()
    };
    ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: "c".into(),
            attempt: 0,
        }),
        image: Some(ImageSpec {
            image: crate::image::NAME.into(),
            ..Default::default()
        }),
        command: ["/bin/sh", "-c", "echo ran >> /shared/runs; exec sleep 1000"]
            .map(str::to_owned)
            .to_vec(),
        log_path: "c/0.log".into(),
        mounts: vec![Mount {
            container_path: "/shared".into(),
            host_path: root.join("shared").to_str().unwrap().into(),
            ..Default::default()
        }],
        linux: Some(LinuxContainerConfig {
            resources: None,
            security_context: Some(security),
        }),
        ..Default::default()
    }
}

struct Matrix {
    root: tempfile::TempDir,
    cgroup: PathBuf,
}

impl Matrix {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let cgroup = PathBuf::from(std::env::var_os(super::INNER).unwrap()).join("crash");
        std::fs::create_dir(&cgroup).unwrap();
        std::fs::create_dir_all(root.path().join("faults")).unwrap();
        std::fs::create_dir_all(root.path().join("shared")).unwrap();
        crate::image::make(&root.path().join("state"));
        Self { root, cgroup }
    }

    fn run(&self, what: &str) -> ExitStatus {
        Command::new(std::env::current_exe().unwrap())
            .args(["node", what])
            .args([self.root.path(), &self.cgroup])
            .env("LONGSHORE_FAULTS", self.root.path().join("faults"))
            .status()
            .unwrap()
    }

    fn arm(&self, point: &str, pass: usize) {
        std::fs::write(self.root.path().join("faults/armed"), format!("{point} {pass}")).unwrap();
    }

    /// Points of this crate and of the network passed by a run, with the number of passes.
    fn traced(&self, what: &str) -> Vec<(String, usize)> {
        let trace = self.root.path().join("faults/trace");
        std::fs::write(&trace, "").unwrap();
        assert!(self.run(what).success());
        let text = std::fs::read_to_string(&trace).unwrap();
        std::fs::remove_file(&trace).unwrap();
        let mut passes: BTreeMap<String, usize> = BTreeMap::new();
        let ours = |line: &&str| {
            line.starts_with("cri.") || line.starts_with("cni.") || *line == "runtime.spawn_keeper"
        };
        text.lines()
            .filter(ours)
            .for_each(|line| *passes.entry(line.to_owned()).or_default() += 1);
        passes.into_iter().collect()
    }

    /// Runs `what` with the point armed, and again until it works; whether it was killed.
    fn crash(&self, what: &str, point: &str, pass: usize) -> bool {
        self.arm(point, pass);
        let first = self.run(what);
        let killed = !self.root.path().join("faults/armed").exists();
        let _ = std::fs::remove_file(self.root.path().join("faults/armed"));
        assert!(
            first.success() || killed,
            "{what} fails without a crash at {point}"
        );
        assert!(
            self.run(what).success(),
            "{what} does not work after a crash at {point} {pass}"
        );
        killed
    }

    fn assert_running(&self, after: &str) {
        let count = |path: &str| std::fs::read_dir(self.root.path().join(path)).unwrap().count();
        assert_eq!(count("run/sandboxes"), 1, "sandboxes after {after}");
        assert_eq!(count("run/netns"), 1, "network namespaces after {after}");
        assert_eq!(count("state/containers"), 1, "writable layers after {after}");
        assert_eq!(count("run/network/leases"), 1, "leases after {after}");
        let keepers = bench::processes(&self.cgroup.join("longshore.slice/keepers"));
        assert_eq!(keepers.len(), 1, "keepers after {after}");
        assert_eq!(
            bench::processes(&self.cgroup.join("pods")).len(),
            1,
            "container processes after {after}"
        );
    }

    fn assert_clean(&self, after: &str) {
        assert_eq!(
            bench::left_over(self.root.path(), &self.cgroup),
            Vec::<String>::new(),
            "after {after}"
        );
        let runs = self.root.path().join("shared/runs");
        let text = std::fs::read_to_string(&runs).unwrap_or_default();
        assert!(
            text.lines().count() <= 1,
            "started {} times after {after}",
            text.lines().count()
        );
        let _ = std::fs::remove_file(runs);
    }
}

pub(crate) async fn an_engine_killed_anywhere_comes_to_the_same_end() {
    let matrix = Matrix::new();
    let created = matrix.traced("create");
    let deleted = matrix.traced("delete");
    matrix.assert_clean("no crash");
    let (mut kills, mut points) = (0, std::collections::BTreeSet::new());
    for (what, list) in [("create", &created), ("delete", &deleted)] {
        for (point, passes) in list {
            for pass in 1..=(*passes).min(PASSES) {
                let label = format!("{what}: {point} {pass}");
                if what == "delete" {
                    assert!(matrix.run("create").success(), "{label}");
                }
                let killed = matrix.crash(what, point, pass);
                kills += usize::from(killed);
                points.insert(point.clone());
                if what == "create" {
                    matrix.assert_running(&label);
                    assert!(matrix.run("delete").success(), "{label}");
                }
                matrix.assert_clean(&label);
                println!("    {label}{}", if killed { "" } else { " (not passed)" });
            }
        }
    }
    println!("    {kills} kills at {} points", points.len());
    assert!(points.len() >= 40, "{} fault points", points.len());
}
