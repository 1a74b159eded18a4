//! A node: namespaces, a cgroup, a link to the fabric, own `/etc`, `/run`, `/tmp`, `/var/lib`, `/var/log`; and in it
//! an init that keeps the agent running, as systemd would.

mod agent;
mod boot;
mod files;
pub(crate) mod init;
pub(crate) mod limits;
pub(crate) mod oracle;
mod pods;
mod service;

pub use agent::Agent;
pub use service::Status;

use crate::kubectl::Kubectl;
use crate::paths::lab_dir;
use crate::process::{ProcessRecord, line};
use crate::state::{NodeRecord, State};
use crate::{cgroups, fabric};
use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What a command in a node gave back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// A node of the lab that is up.
#[derive(Clone, Debug)]
pub struct Node {
    name: String,
    addresses: [IpAddr; 2],
    init: ProcessRecord,
    cgroup: PathBuf,
    kubectl: Kubectl,
}

impl Node {
    pub(crate) fn new(state: &State, record: &NodeRecord, kubectl: &Kubectl) -> Result<Self> {
        let init = record.init.clone().filter(ProcessRecord::is_alive);
        let init = init.with_context(|| format!("node {} is not up", record.name))?;
        Ok(Self {
            name: record.name.clone(),
            addresses: state.addresses.node(record.index),
            init,
            cgroup: state.cgroup.join(&record.name),
            kubectl: kubectl.clone(),
        })
    }

    /// Name of the node and of its Node object.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// IPv4 and IPv6 address on the fabric.
    pub fn addresses(&self) -> [IpAddr; 2] {
        self.addresses
    }

    /// Pid of the node's init in this machine's pid namespace.
    pub fn init_pid(&self) -> u32 {
        self.init.pid
    }

    /// The node's cgroup directory on this machine; inside the node it is `/sys/fs/cgroup`.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// The node's file system as seen from this machine.
    pub fn path(&self, inside: &str) -> PathBuf {
        Path::new("/proc")
            .join(self.init.pid.to_string())
            .join("root")
            .join(inside.trim_start_matches('/'))
    }

    /// The node's directory on this machine: `var-lib`, `var-log`, `bin`, `etc/upper` in it outlive the node.
    pub fn dir(&self) -> PathBuf {
        dir(&self.name)
    }

    /// The program that runs on this node under the init's care.
    pub fn agent(&self) -> Agent<'_> {
        Agent::of(self)
    }

    /// A command that will run inside the node, in the cgroup of its init.
    pub fn command<S: AsRef<OsStr>>(&self, argv: &[S]) -> Command {
        let mut command = Command::new("/bin/sh");
        // The cgroup must be entered before the namespace: a namespace's border may not be crossed from within.
        command.args(["-c", r#"echo 0 > "$1" || exit 125; shift; exec "$@""#, "sh"]);
        command.arg(self.cgroup.join("init/cgroup.procs"));
        command.args([
            "nsenter",
            "-t",
            &self.init.pid.to_string(),
            "-m",
            "-u",
            "-i",
            "-n",
            "-p",
            "-C",
            "--",
        ]);
        command.args(argv).stdin(Stdio::null());
        crate::process::without_proxy(&mut command);
        command
    }

    /// Runs a command inside the node to its end.
    pub fn exec<S: AsRef<OsStr>>(&self, argv: &[S]) -> Result<Output> {
        let mut command = self.command(argv);
        let output = command
            .output()
            .with_context(|| format!("run {}", line(&command)))?;
        Ok(Output {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs a shell line inside the node; anything but exit code 0 is an error.
    pub fn sh(&self, script: &str) -> Result<String> {
        let output = self.exec(&["sh", "-c", script])?;
        if output.code != Some(0) {
            bail!(
                "on {}: `{script}`: exit {:?}: {}",
                self.name,
                output.code,
                output.stderr.trim()
            );
        }
        Ok(output.stdout)
    }

    /// Waits until the Node object is Ready; the error says what the agent last said.
    pub fn wait_ready(&self, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        loop {
            let node = self.kubectl.get(&format!("node/{}", self.name), None)?;
            if node.as_ref().is_some_and(is_ready) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{}", self.not_ready(node.as_ref(), timeout));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn not_ready(&self, node: Option<&Value>, timeout: Duration) -> String {
        let conditions = match node {
            None => "there is no Node object".to_owned(),
            Some(node) => conditions(node),
        };
        let agent = self.agent();
        let status = agent
            .status()
            .map_or_else(|error| format!("{error:#}"), |status| format!("{status:?}"));
        format!(
            "node {} was not Ready after {} s\nconditions: {conditions}\nagent: {status}\nend of its log:\n{}",
            self.name,
            timeout.as_secs(),
            agent.log_tail(30)
        )
    }

    /// Pod ranges that the controller manager gave the node.
    pub fn pod_ranges(&self) -> Result<Vec<String>> {
        let node = self.kubectl.get(&format!("node/{}", self.name), None)?;
        let ranges = node.as_ref().and_then(|node| node["spec"]["podCIDRs"].as_array());
        Ok(ranges
            .into_iter()
            .flatten()
            .filter_map(|range| range.as_str().map(str::to_owned))
            .collect())
    }

    /// [`Node::pod_ranges`] once there are any.
    pub(crate) fn wait_pod_ranges(&self, timeout: Duration) -> Result<Vec<String>> {
        let deadline = Instant::now() + timeout;
        loop {
            let ranges = self.pod_ranges()?;
            if !ranges.is_empty() {
                return Ok(ranges);
            }
            if Instant::now() > deadline {
                bail!("{}", self.not_ready(None, timeout));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Every process of the node (pids of this machine), its init included.
    pub fn pids(&self) -> Result<Vec<u32>> {
        let mut pids = Vec::new();
        collect_pids(&self.cgroup, &mut pids)?;
        Ok(pids)
    }
}

/// Is the condition Ready of a Node object true?
fn is_ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .any(|one| one["type"] == "Ready" && one["status"] == "True")
}

fn conditions(node: &Value) -> String {
    let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
    let lines: Vec<String> = conditions
        .map(|one| {
            format!(
                "{}={} {} {}",
                one["type"], one["status"], one["reason"], one["message"]
            )
        })
        .collect();
    if lines.is_empty() {
        "none".to_owned()
    } else {
        lines.join("; ")
    }
}

fn collect_pids(cgroup: &Path, pids: &mut Vec<u32>) -> Result<()> {
    let text = std::fs::read_to_string(cgroup.join("cgroup.procs"));
    let text = text.with_context(|| format!("read the processes of {}", cgroup.display()))?;
    pids.extend(text.lines().filter_map(|pid| pid.parse::<u32>().ok()));
    for entry in std::fs::read_dir(cgroup)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_pids(&entry.path(), pids)?;
        }
    }
    Ok(())
}

/// Directory of the node `name` on this machine.
pub(crate) fn dir(name: &str) -> PathBuf {
    lab_dir().join("nodes").join(name)
}

/// How nodes are made: what runs on them and with what settings.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct NodeSettings {
    /// Directory with `longshore` and `longshore-oci`.
    pub(crate) programs: PathBuf,
    pub(crate) agent_arguments: Vec<String>,
    pub(crate) agent_environment: Vec<(String, String)>,
    pub(crate) kubelet_configuration: Value,
    pub(crate) join_command: bool,
}

/// Boots the node's namespaces unless they are up, and connects it. The agent is not started.
pub(crate) fn ensure(state: &mut State, position: usize) -> Result<()> {
    let record = state.nodes[position].clone();
    if record.init.as_ref().is_some_and(ProcessRecord::is_alive) {
        return Ok(());
    }
    // What is left of a node that died must be gone before its cgroup is used again.
    cgroups::remove(&state.cgroup.join(&record.name))?;
    let cgroup = cgroups::ensure(&state.cgroup, &record.name)?;
    let init = boot::boot(&state.init_program, &record.name, &cgroup)?;
    fabric::connect_node(state, init.pid, record.index)?;
    // Only now: a node that is recorded as up is connected. One that is not goes with its cgroup.
    state.nodes[position].init = Some(init);
    state.save()
}

/// Ends the node: all its processes, namespaces, links. Its directory stays.
pub(crate) fn power_off(state: &mut State, position: usize) -> Result<()> {
    if let Some(init) = &state.nodes[position].init {
        init.signal(Signal::KILL)?;
    }
    cgroups::remove(&state.cgroup.join(&state.nodes[position].name))?;
    state.nodes[position].init = None;
    state.save()
}

pub(crate) use files::write as write_files;

/// The agent's command line on a node.
pub(crate) fn agent_command(settings: &NodeSettings, addresses: [IpAddr; 2]) -> service::Program {
    let [v4, v6] = addresses;
    let fixed = [
        "longshore",
        "agent",
        "--config=/var/lib/kubelet/config.yaml",
        "--kubeconfig=/etc/kubernetes/kubelet.conf",
        "--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf",
        "--registries=/etc/longshore/certs.d",
    ];
    let mut argv: Vec<OsString> = fixed.iter().map(OsString::from).collect();
    argv.push(format!("--node-ip={v4},{v6}").into());
    argv.extend(settings.agent_arguments.iter().map(OsString::from));
    service::Program {
        argv: argv
            .iter()
            .map(|word| word.to_string_lossy().into_owned())
            .collect(),
        environment: settings.agent_environment.iter().cloned().collect(),
        enabled: true,
    }
}
