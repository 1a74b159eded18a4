//! A keeper for one test: temporary directory, own cgroup, a root of static busybox; all gone when dropped.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use runtime::client::{Client, Keeper, spawn_keeper};
use runtime::plan::*;
use runtime::wire::{Event, Exit};

static NEXT: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Bench {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) cgroup: PathBuf,
    pub(crate) keeper: Keeper,
}

/// Arguments that run a shell script.
pub(crate) fn shell(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
}

/// Arguments by spaces.
pub(crate) fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// The text of log lines.
pub(crate) fn text(log: &[String]) -> Vec<String> {
    log.iter()
        .map(|line| line.splitn(3, ' ').nth(2).unwrap_or_default().to_owned())
        .collect()
}

/// Where cgroup2 is mounted: the only place on a pure v2 host, `unified` on a hybrid one.
fn cgroup_mount() -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts
        .lines()
        .find(|line| line.split(' ').nth(2) == Some("cgroup2"))
        .expect("a cgroup2 mount");
    PathBuf::from(line.split(' ').nth(1).unwrap())
}

pub(crate) fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_longshore-oci"))
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    /// With changes to the sandbox's plan.
    pub(crate) fn with(change: impl FnOnce(&mut SandboxPlan)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for path in ["lower/bin", "lower/etc", "lower/tmp", "run", "logs"] {
            std::fs::create_dir_all(root.join(path)).unwrap();
        }
        std::fs::copy("/bin/busybox", root.join("lower/bin/busybox")).expect("Debian's busybox-static");
        for applet in [
            "sh", "true", "false", "cat", "id", "sleep", "ls", "grep", "hostname", "wc", "head", "sed",
            "sort", "tr", "touch", "mount", "mknod", "readlink", "tty", "cut",
        ] {
            std::os::unix::fs::symlink("busybox", root.join("lower/bin").join(applet)).unwrap();
        }
        std::fs::write(
            root.join("lower/etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n",
        )
        .unwrap();
        std::fs::write(
            root.join("lower/etc/group"),
            "root:x:0:\nweb:x:34:\nlogs:x:40:web\n",
        )
        .unwrap();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let cgroup = cgroup_mount().join(format!("longshore-runtime-test-{}-{number}", std::process::id()));
        std::fs::create_dir(&cgroup).unwrap();
        let mut plan = SandboxPlan {
            id: format!("s{number}"),
            hostname: Some("pod-host".into()),
            own_network: true,
            own_ipc: true,
            sysctls: Vec::new(),
            keeper_cgroup: cgroup.join("keeper").to_str().unwrap().into(),
            directory: root.join("run").to_str().unwrap().into(),
            oom_score_adj: 0,
        };
        change(&mut plan);
        let keeper = spawn_keeper(binary(), &plan).unwrap();
        Self {
            directory,
            cgroup,
            keeper,
        }
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    pub(crate) fn text(&self, path: &str) -> String {
        self.path(path).to_str().unwrap().to_owned()
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(&self.path("run")).unwrap()
    }

    /// A container as Kubernetes makes one by default, root, without limits.
    pub(crate) fn container(&self, id: &str, args: &[String]) -> ContainerPlan {
        for path in ["upper", "work"] {
            std::fs::create_dir_all(self.path(&format!("{id}/{path}"))).unwrap();
        }
        ContainerPlan {
            id: id.into(),
            rootfs: Rootfs::Overlay {
                lower: vec![self.text("lower")],
                upper: self.text(&format!("{id}/upper")),
                work: self.text(&format!("{id}/work")),
                readonly: false,
            },
            mounts: vec![
                file_system("/proc", "proc", &[], 0xE),
                file_system("/dev", "tmpfs", &["mode=755", "size=65536k"], 0x2),
                file_system(
                    "/dev/pts",
                    "devpts",
                    &["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
                    0xA,
                ),
                file_system("/dev/mqueue", "mqueue", &[], 0xE),
                file_system("/dev/shm", "tmpfs", &["mode=1777", "size=65536k"], 0xE),
                file_system("/sys", "sysfs", &[], 0xF),
                file_system("/sys/fs/cgroup", "cgroup2", &[], 0xF),
            ],
            devices: ["null:3", "zero:5", "full:7", "random:8", "urandom:9"]
                .map(device)
                .to_vec(),
            device_rules: Vec::new(),
            masked_paths: ["/proc/interrupts", "/proc/scsi", "/sys/firmware", "/proc/none"]
                .map(Into::into)
                .to_vec(),
            readonly_paths: ["/proc/sys", "/proc/sysrq-trigger"].map(Into::into).to_vec(),
            process: Process {
                args: args.to_vec(),
                env: vec!["PATH=/sbin:/bin".into(), "GREETING=hello".into()],
                cwd: "/".into(),
                user: User {
                    uid: Id::Number(0),
                    gid: None,
                    additional_gids: Vec::new(),
                    image_groups: true,
                },
                capabilities: capabilities(0xA804_25FB),
                no_new_privileges: false,
                oom_score_adj: Some(500),
                rlimits: Vec::new(),
                terminal: false,
                umask: 0o022,
            },
            pid_namespace: PidNamespace::Own,
            cgroup: Cgroup {
                path: self.cgroup.join(id).to_str().unwrap().into(),
                settings: Vec::new(),
            },
            stdio: Stdio {
                log_path: Some(self.text(&format!("logs/{id}"))),
                stdin: false,
                stdin_once: false,
            },
        }
    }

    /// The next exit of a container, others passed over.
    pub(crate) fn wait_exit(&self, client: &mut Client, wanted: &str) -> Exit {
        loop {
            let Event::Exited { id, exit } = client.next_event().unwrap();
            if id == wanted {
                return exit;
            }
        }
    }

    pub(crate) fn record(&self, id: &str) -> Option<Exit> {
        let record = runtime::exit_record::read(&self.path("run/exits").join(id)).unwrap();
        record.map(|(recorded, exit)| {
            assert_eq!(recorded, id);
            exit
        })
    }

    /// The log's lines without their times.
    pub(crate) fn log(&self, id: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("logs").join(id)).unwrap();
        text.lines()
            .map(|line| line.split_once(' ').unwrap().1.to_owned())
            .collect()
    }

    /// The same plan for another container.
    pub(crate) fn moved(&self, plan: ContainerPlan, id: &str) -> ContainerPlan {
        let fresh = self.container(id, &[]);
        ContainerPlan {
            id: fresh.id,
            rootfs: fresh.rootfs,
            cgroup: fresh.cgroup,
            stdio: fresh.stdio,
            ..plan
        }
    }

    /// Waits until a line is in a container's log: the file itself is what a reader would watch.
    pub(crate) fn wait_log(&self, id: &str, line: &str) {
        wait(|| self.log(id).iter().any(|other| other == line));
    }

    /// Waits until a process is gone or a zombie.
    pub(crate) fn wait_gone(&self, pid: u32) {
        wait(|| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            status
                .rsplit(") ")
                .next()
                .is_none_or(|rest| rest.is_empty() || rest.starts_with('Z'))
        });
    }

    /// Waits until no process is in a container's cgroup.
    pub(crate) fn wait_empty(&self, id: &str) {
        let events = self.cgroup.join(id).join("cgroup.events");
        wait(|| std::fs::read_to_string(&events).unwrap().contains("populated 0"));
    }

    /// Runs a container to its end; its exit and log.
    pub(crate) fn run(&self, plan: ContainerPlan) -> (Exit, Vec<String>) {
        let id = plan.id.clone();
        let mut client = self.connect();
        client.subscribe().unwrap();
        client.create(plan).unwrap();
        client
            .done(runtime::wire::Request::Start { id: id.clone() })
            .unwrap();
        let exit = self.wait_exit(&mut client, &id);
        let log = self.log(&id);
        (exit, log)
    }
}

/// Looks until it is so; a test that never sees it fails by its own clock.
fn wait(mut so: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !so() {
        assert!(start.elapsed().as_secs() < 60, "did not happen within a minute");
        std::thread::yield_now();
    }
}

fn capabilities(mask: u64) -> Capabilities {
    Capabilities {
        bounding: mask,
        effective: mask,
        permitted: mask,
        inheritable: 0,
        ambient: 0,
    }
}

fn device(text: &str) -> Device {
    let (name, minor) = text.split_once(':').unwrap();
    Device {
        path: format!("/dev/{name}"),
        block: false,
        major: 1,
        minor: minor.parse().unwrap(),
        mode: 0o666,
        uid: 0,
        gid: 0,
    }
}

pub(crate) fn file_system(destination: &str, name: &str, options: &[&str], flags: u64) -> Mount {
    let options = options.iter().map(|&option| option.to_owned()).collect();
    Mount {
        destination: destination.into(),
        kind: MountKind::FileSystem {
            name: name.into(),
            options,
        },
        flags,
        cleared: 0,
        propagation: Propagation::Private,
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = std::fs::write(self.cgroup.join("cgroup.kill"), "1");
        let _ = self.keeper.child.kill();
        let _ = self.keeper.child.wait();
        // The last processes of the cgroup may take a moment to be gone: removal waits for its events.
        for _ in 0..2000 {
            if remove_tree(&self.cgroup).is_ok() {
                return;
            }
            std::thread::yield_now();
            let _ = std::fs::read_to_string(self.cgroup.join("cgroup.events"));
        }
        eprintln!("left behind: {}", self.cgroup.display());
    }
}

fn remove_tree(path: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    std::fs::remove_dir(path)
}
