//! Bringing the lab up, finding one that is up, and removing it.

use crate::addresses::{Addresses, MOST_NODES};
use crate::kubectl::Kubectl;
use crate::node::{self, Node, NodeSettings};
use crate::paths::lab_dir;
use crate::pki::Pki;
use crate::registry::Client;
use crate::setup::Prepared;
use crate::state::{NodeRecord, State};
use crate::{cgroups, cluster_objects, control_plane, fabric, images};
use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How the nodes of a lab are made.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many nodes there shall be; those of an earlier `up` count.
    pub nodes: usize,
    /// More arguments of the agent.
    pub agent_arguments: Vec<String>,
    /// Environment of the agent.
    pub agent_environment: Vec<(String, String)>,
    /// Merge patch on the KubeletConfiguration that kubeadm would write.
    pub kubelet_configuration: Value,
    /// Use the programs with fault points.
    pub fault_points: bool,
    /// Join by `longshore join` instead of a bootstrap kubeconfig that is there already.
    pub join_command: bool,
    /// Also the oracle: a node with upstream's kubelet, containerd and runc. Needs what `Request::peers` prepares.
    pub oracle: bool,
    /// Wait until the nodes are Ready.
    pub wait_ready: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: 1,
            agent_arguments: vec!["--allow-missing-controllers=cpu,cpuset,memory,pids,io".to_owned()],
            agent_environment: Vec::new(),
            kubelet_configuration: Value::Null,
            fault_points: false,
            join_command: false,
            oracle: false,
            wait_ready: true,
        }
    }
}

/// A lab that is up.
#[derive(Debug)]
pub struct Lab {
    state: State,
    pki: Pki,
    kubectl: Kubectl,
}

impl Lab {
    /// Starts what is missing of the lab. Safe to repeat, also after a crash of an earlier `up`.
    pub fn up(prepared: &Prepared, options: &Options) -> Result<Self> {
        let _alone = only_one()?;
        let mut lab = Self::open_or_new(prepared, options)?;
        fabric::ensure(&mut lab.state)?;
        control_plane::ensure(&mut lab.state, &lab.pki, &lab.kubectl)?;
        cluster_objects::ensure(&lab.state, &lab.pki, &lab.kubectl)?;
        let registry = Client::connect(&lab.state.addresses.registry())?;
        for image in images::make(&lab.state.tools)? {
            registry.push(&image)?;
        }
        crate::setup::give_back(&lab_dir().join("kubeconfig"))?;
        crate::setup::give_back(&lab_dir().join("registry"))?;
        let there = lab
            .state
            .nodes
            .iter()
            .filter(|record| record.name != node::oracle::NAME)
            .count();
        for index in 0..options.nodes.max(there) {
            lab.ensure_node(index)?;
        }
        if options.oracle {
            lab.ensure_oracle()?;
        }
        if options.wait_ready {
            lab.wait_ready(Duration::from_secs(60))?;
        }
        Ok(lab)
    }

    /// The lab of this workspace that is up.
    pub fn attach() -> Result<Self> {
        let state = State::load()?.filter(State::is_of_this_boot);
        let state = state.context("no lab is up; start one with `cargo xtask lab up`")?;
        let pki = Pki::ensure(&lab_dir().join("pki"), &state.addresses)?;
        let kubectl = Kubectl::new(state.tools.join("kubectl"), lab_dir().join("kubeconfig"));
        Ok(Self { state, pki, kubectl })
    }

    fn open_or_new(prepared: &Prepared, options: &Options) -> Result<Self> {
        if options.nodes > MOST_NODES {
            bail!("{} nodes: the fabric has room for {MOST_NODES}", options.nodes);
        }
        let mut state = match State::load()? {
            Some(state) if state.is_of_this_boot() => state,
            _ => {
                Self::remove_all()?;
                Self::new_state(prepared)?
            }
        };
        let pki = Pki::ensure(&lab_dir().join("pki"), &state.addresses)?;
        let kubectl = Kubectl::new(state.tools.join("kubectl"), lab_dir().join("kubeconfig"));
        state.settings = NodeSettings {
            programs: prepared.programs(options.fault_points)?,
            agent_arguments: options.agent_arguments.clone(),
            agent_environment: options.agent_environment.clone(),
            kubelet_configuration: options.kubelet_configuration.clone(),
            join_command: options.join_command,
        };
        state.save()?;
        Ok(Self { state, pki, kubectl })
    }

    fn new_state(prepared: &Prepared) -> Result<State> {
        let dir = lab_dir();
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        // A copy: cargo may replace the program while nodes that it becomes the init of are up.
        let init_program = dir.join("init");
        fs::copy(&prepared.init_program, &init_program)
            .with_context(|| format!("copy {}", prepared.init_program.display()))?;
        let token = cluster_objects::new_token()?;
        let programs = [init_program, prepared.tools.clone()];
        let state = State::new(Addresses::choose()?, cgroups::root()?, token, programs)?;
        state.save()?;
        Ok(state)
    }

    fn ensure_node(&mut self, index: usize) -> Result<Node> {
        if index == self.state.nodes.len() {
            self.add_record(format!("node-{}", index + 1))?;
        }
        let record = self.state.nodes[index].clone();
        let is_up = record
            .init
            .as_ref()
            .is_some_and(crate::process::ProcessRecord::is_alive);
        if !is_up {
            node::write_files(&self.state, &self.pki, &record, &self.state.settings)?;
            node::ensure(&mut self.state, index)?;
        }
        let node = self.node_at(index)?;
        if !node.agent().is_installed() {
            if self.state.settings.join_command {
                self.join(&node)?;
            }
            node.agent()
                .install(&node::agent_command(&self.state.settings, node.addresses()))?;
        }
        Ok(node)
    }

    fn add_record(&mut self, name: String) -> Result<()> {
        let index = self.state.nodes.len();
        self.state.nodes.push(NodeRecord {
            name,
            index,
            init: None,
        });
        self.state.save()
    }

    /// The oracle comes after the nodes of ours, so that their numbers do not depend on it.
    fn ensure_oracle(&mut self) -> Result<()> {
        let of_oracle = |record: &NodeRecord| record.name == node::oracle::NAME;
        if !self.state.nodes.iter().any(of_oracle) {
            self.add_record(node::oracle::NAME.to_owned())?;
        }
        let position = self
            .state
            .nodes
            .iter()
            .position(of_oracle)
            .context("the oracle was added")?;
        let record = self.state.nodes[position].clone();
        if !record
            .init
            .as_ref()
            .is_some_and(crate::process::ProcessRecord::is_alive)
        {
            // The kubelet has no join command of its own: kubeadm would leave it these files.
            let settings = NodeSettings {
                join_command: false,
                ..self.state.settings.clone()
            };
            node::write_files(&self.state, &self.pki, &record, &settings)?;
            node::oracle::write(&self.state, &record, &settings)?;
            node::ensure(&mut self.state, position)?;
        }
        let node = self.node_at(position)?;
        if !node.agent().is_installed() {
            node.agent().install(&node::oracle::program(node.addresses()))?;
        }
        node::oracle::write_network(&node, &node.wait_pod_ranges(Duration::from_secs(60))?)
    }

    /// The oracle, if the lab has one.
    pub fn oracle(&self) -> Result<Node> {
        self.node(node::oracle::NAME)
    }

    fn join(&self, node: &Node) -> Result<()> {
        let program = format!("{}/longshore", node::init::PROGRAMS);
        let (token, server) = (self.state.token.as_str(), self.state.addresses.api_server());
        let hash = self.pki.ca_hash()?;
        let argv = [
            &program,
            "join",
            "--token",
            token,
            "--discovery-token-ca-cert-hash",
            &hash,
            &server,
        ];
        let output = node.exec(&argv)?;
        if output.code != Some(0) {
            bail!(
                "longshore join on {}: exit {:?}: {}",
                node.name(),
                output.code,
                output.stderr.trim()
            );
        }
        Ok(())
    }

    /// Waits until every node is Ready, then routes its pods on the fabric.
    pub fn wait_ready(&self, timeout: Duration) -> Result<()> {
        for (index, record) in self.state.nodes.iter().enumerate() {
            let node = self.node_at(index)?;
            node.wait_ready(timeout)?;
            fabric::route_pods(&self.state, record.index, &node.pod_ranges()?)?;
        }
        Ok(())
    }

    /// The nodes of ours, in the order of their numbers.
    pub fn nodes(&self) -> Result<Vec<Node>> {
        let ours = |index: &usize| self.state.nodes[*index].name != node::oracle::NAME;
        (0..self.state.nodes.len())
            .filter(ours)
            .map(|index| self.node_at(index))
            .collect()
    }

    /// The node `name`, such as `node-1`.
    pub fn node(&self, name: &str) -> Result<Node> {
        let index = self.state.nodes.iter().position(|record| record.name == name);
        self.node_at(index.with_context(|| format!("the lab has no node {name}"))?)
    }

    fn node_at(&self, index: usize) -> Result<Node> {
        Node::new(&self.state, &self.state.nodes[index], &self.kubectl)
    }

    /// Cuts the power of a node: every process dies at once, its disk stays.
    pub fn power_off(&mut self, name: &str) -> Result<()> {
        let index = self.state.nodes.iter().position(|record| record.name == name);
        node::power_off(
            &mut self.state,
            index.with_context(|| format!("the lab has no node {name}"))?,
        )
    }

    /// Boots a node again after [`Lab::power_off`].
    pub fn power_on(&mut self, name: &str) -> Result<Node> {
        let index = self.state.nodes.iter().position(|record| record.name == name);
        self.ensure_node(index.with_context(|| format!("the lab has no node {name}"))?)
    }

    /// Directory of the programs that the nodes were made with.
    pub fn programs(&self) -> &Path {
        &self.state.settings.programs
    }

    /// kubectl with the admin kubeconfig.
    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// Addresses on the fabric.
    pub fn addresses(&self) -> &Addresses {
        &self.state.addresses
    }

    /// Bootstrap token, `ID.SECRET`.
    pub fn token(&self) -> &str {
        &self.state.token
    }

    /// `sha256:…` of the cluster CA's public key.
    pub fn ca_hash(&self) -> Result<String> {
        self.pki.ca_hash()
    }

    /// A command that runs on the fabric, beside the control plane.
    pub fn fabric_command<S: AsRef<OsStr>>(&self, argv: &[S]) -> std::process::Command {
        let mut command = std::process::Command::new("nsenter");
        command
            .arg(format!("--net={}", fabric::netns_file().display()))
            .arg("--")
            .args(argv);
        crate::process::without_proxy(&mut command);
        command
    }

    /// Body of an HTTP GET from the fabric, which must be answered within 5 s.
    pub fn http_get(&self, url: &str) -> Result<String> {
        let agent = ureq::Agent::config_builder()
            .proxy(None)
            .timeout_global(Some(Duration::from_secs(5)))
            .build();
        let agent = ureq::Agent::from(agent);
        fabric::inside(|| -> Result<String> { Ok(agent.get(url).call()?.body_mut().read_to_string()?) })?
            .with_context(|| format!("GET {url}"))
    }

    /// What of a lab is on this machine, whoever made it.
    pub fn leftovers() -> Result<Vec<String>> {
        let candidates = [
            fabric::netns_file(),
            cgroups::root()?,
            lab_dir(),
            fabric::host_link_dir(),
        ];
        Ok(candidates
            .iter()
            .filter(|path| path.exists())
            .map(|path| path.display().to_string())
            .collect())
    }

    /// Removes everything that is the lab's, whatever state it is in; nothing to remove is fine.
    pub fn down() -> Result<()> {
        let _alone = only_one()?;
        Self::remove_all()
    }

    fn remove_all() -> Result<()> {
        // A damaged record must not keep the lab alive: all of it is known by name too.
        let state = State::load().unwrap_or_default();
        let current = state.as_ref().filter(|state| state.is_of_this_boot());
        let processes: Vec<_> = current.into_iter().flat_map(State::all_processes).collect();
        for process in &processes {
            process.signal(Signal::KILL)?;
        }
        cgroups::remove(&cgroups::root()?)?;
        for process in &processes {
            process.wait_reaped();
        }
        fabric::remove()?;
        if let Some(state) = state.as_ref().filter(|state| state.is_of_this_boot()) {
            crate::sysctls::restore(&state.sysctls)?;
        }
        for file in state.iter().flat_map(|state| &state.files) {
            remove_file_or_empty_dir(file)?;
        }
        remove_dir(&lab_dir())
    }
}

/// Holds every other `up` and `down` of this machine off while it lives. The lock is on a directory that is always
/// there, so that it leaves no file.
fn only_one() -> Result<fs::File> {
    let directory = fs::File::open("/run").context("open /run")?;
    if directory.try_lock().is_err() {
        println!("   another command is bringing a lab up or down: waiting for it");
        directory.lock().context("lock /run")?;
    }
    Ok(directory)
}

/// Copies the logs of control plane and agents into `dir`, for when the lab is gone.
pub fn save_logs(dir: &Path) -> Result<()> {
    let control_plane = fs::read_dir(lab_dir().join("logs"))
        .into_iter()
        .flatten()
        .flatten();
    for log in control_plane {
        fs::copy(log.path(), dir.join(log.file_name()))?;
    }
    for node in fs::read_dir(lab_dir().join("nodes"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let agent = node.path().join("var-log/longshore-agent.log");
        if agent.exists() {
            fs::copy(
                agent,
                dir.join(format!("{}-agent.log", node.file_name().to_string_lossy())),
            )?;
        }
    }
    Ok(())
}

fn remove_file_or_empty_dir(path: &PathBuf) -> Result<()> {
    let result = if path.is_dir() {
        fs::remove_dir(path)
    } else {
        fs::remove_file(path)
    };
    match result {
        Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}
