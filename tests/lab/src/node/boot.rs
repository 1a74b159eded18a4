//! Starting a node's first process.

use crate::process::{ProcessRecord, tail};
use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the init is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Boot {
    pub(crate) name: String,
    /// The node's cgroup directory on this machine.
    pub(crate) cgroup: PathBuf,
    /// The node's directory on this machine.
    pub(crate) dir: PathBuf,
}

/// Boots a node; returns its init once its mounts are in place.
pub(crate) fn boot(program: &Path, name: &str, cgroup: &Path) -> Result<ProcessRecord> {
    let dir = super::dir(name);
    let boot = Boot {
        name: name.to_owned(),
        cgroup: cgroup.to_path_buf(),
        dir: dir.clone(),
    };
    let description = dir.join("boot.json");
    fs::write(&description, serde_json::to_vec_pretty(&boot)?)
        .with_context(|| format!("write {}", description.display()))?;
    let log = dir.join("init.log");
    let file = File::options().create(true).append(true).open(&log)?;
    let mut command = Command::new("setsid");
    command.arg(program).arg("__node-init").arg(&description);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file);
    let mut child = command
        .spawn()
        .with_context(|| format!("start {}", program.display()))?;
    let mut lines = BufReader::new(child.stdout.take().context("standard output is a pipe")?).lines();
    // First the pid, from the process that clones; then "ready", from the init itself.
    let pid = lines
        .next()
        .transpose()?
        .and_then(|line| line.parse::<u32>().ok());
    let ready = lines.next().transpose()?;
    child.wait()?;
    match (pid, ready.as_deref()) {
        (Some(pid), Some("ready")) => ProcessRecord::of(name, pid),
        _ => bail!("node {name} did not boot: {}", tail(&log, 5)),
    }
}
