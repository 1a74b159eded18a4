//! What the lab holds, on disk before it is made, so that any later process can remove it.

use crate::addresses::Addresses;
use crate::node::NodeSettings;
use crate::paths::lab_dir;
use crate::process::ProcessRecord;
use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

const VERSION: u32 = 1;

/// The record of one lab.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    version: u32,
    /// Pids and kernel objects mean nothing after a reboot.
    pub(crate) boot_id: String,
    pub(crate) addresses: Addresses,
    pub(crate) cgroup: PathBuf,
    pub(crate) links: Vec<String>,
    /// Files of the machine outside `target/lab`, removed in this order (directories only when empty).
    pub(crate) files: Vec<PathBuf>,
    /// Kernel settings as they were before any node.
    pub(crate) sysctls: BTreeMap<String, String>,
    pub(crate) processes: Vec<ProcessRecord>,
    pub(crate) nodes: Vec<NodeRecord>,
    /// Bootstrap token of the cluster.
    pub(crate) token: String,
    /// Program that becomes a node's init.
    pub(crate) init_program: PathBuf,
    /// Directory of the testbed's programs.
    pub(crate) tools: PathBuf,
    /// How the nodes are made.
    pub(crate) settings: NodeSettings,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeRecord {
    pub(crate) name: String,
    pub(crate) index: usize,
    /// The init process, once there is one.
    pub(crate) init: Option<ProcessRecord>,
}

impl State {
    pub(crate) fn new(
        addresses: Addresses,
        cgroup: PathBuf,
        token: String,
        programs: [PathBuf; 2],
    ) -> Result<Self> {
        let [init_program, tools] = programs;
        Ok(Self {
            version: VERSION,
            boot_id: boot_id()?,
            addresses,
            cgroup,
            links: Vec::new(),
            files: Vec::new(),
            sysctls: crate::sysctls::record(),
            processes: Vec::new(),
            nodes: Vec::new(),
            token,
            init_program,
            tools,
            settings: NodeSettings::default(),
        })
    }

    /// The state of the last `up` of this workspace, if any.
    pub(crate) fn load() -> Result<Option<Self>> {
        let path = path();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        let state: Self = serde_json::from_slice(&text).with_context(|| {
            format!(
                "{} is damaged; `cargo xtask lab down` cleans up without it",
                path.display()
            )
        })?;
        if state.version != VERSION {
            bail!(
                "{} has version {}, this lab writes {VERSION}",
                path.display(),
                state.version
            );
        }
        Ok(Some(state))
    }

    pub(crate) fn save(&self) -> Result<()> {
        let path = path();
        let temporary = path.with_extension("json.new");
        fs::write(&temporary, serde_json::to_vec_pretty(self)?)
            .and_then(|()| fs::rename(&temporary, &path))
            .with_context(|| format!("write {}", path.display()))
    }

    /// Every recorded process, inits of nodes included.
    pub(crate) fn all_processes(&self) -> impl Iterator<Item = &ProcessRecord> {
        let inits = self.nodes.iter().filter_map(|node| node.init.as_ref());
        self.processes.iter().chain(inits)
    }

    /// Is this still the boot the lab was started in?
    pub(crate) fn is_of_this_boot(&self) -> bool {
        boot_id().is_ok_and(|id| id == self.boot_id)
    }
}

fn path() -> PathBuf {
    lab_dir().join("state.json")
}

fn boot_id() -> Result<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("read the boot id")?;
    Ok(id.trim().to_owned())
}
