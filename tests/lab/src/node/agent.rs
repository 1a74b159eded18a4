//! The program under the care of a node's init, seen from the lab.

use super::Node;
use super::service::{CGROUP, LOG_FILE, PROGRAM_FILE, Program, STATUS_FILE, Status};
use crate::process::{ProcessRecord, tail};
use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Start, stop and kill a node's agent.
#[derive(Clone, Copy, Debug)]
pub struct Agent<'a> {
    node: &'a Node,
}

impl<'a> Agent<'a> {
    pub(crate) fn of(node: &'a Node) -> Self {
        Self { node }
    }

    /// What the init says of it.
    pub fn status(&self) -> Result<Status> {
        match fs::read(self.node.path(STATUS_FILE)) {
            Ok(text) => serde_json::from_slice(&text).context("parse the agent's status"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Status::default()),
            Err(error) => {
                Err(error).with_context(|| format!("read the agent's status on {}", self.node.name()))
            }
        }
    }

    /// Pid in this machine's pid namespace, while it runs.
    pub fn pid(&self) -> Result<Option<u32>> {
        let Some(inside) = self.status()?.pid else {
            return Ok(None);
        };
        let processes =
            fs::read_to_string(self.node.cgroup().join(CGROUP).join("cgroup.procs")).unwrap_or_default();
        let mut pids = processes.lines().filter_map(|pid| pid.parse::<u32>().ok());
        Ok(pids.find(|&pid| pid_inside(pid) == Some(inside)))
    }

    /// Kills it with SIGKILL and returns once it is dead. The init starts it again at once.
    pub fn kill(&self) -> Result<()> {
        let before = self.status()?.starts;
        let pid = self
            .pid()?
            .with_context(|| format!("no agent runs on {}", self.node.name()))?;
        let process = ProcessRecord::of("agent", pid)?;
        process.signal(Signal::KILL)?;
        self.wait(|status| status.pid.is_none() || status.starts > before)
    }

    /// Stops it (SIGTERM, SIGKILL after 10 s) and keeps it stopped.
    pub fn stop(&self) -> Result<()> {
        self.change(|program| program.enabled = false)?;
        self.wait(|status| status.pid.is_none())
    }

    /// Starts it again after [`Agent::stop`].
    pub fn start(&self) -> Result<()> {
        self.change(|program| program.enabled = true)?;
        self.wait(|status| status.pid.is_some())
    }

    /// Sets an environment variable of it from its next start on, or removes it.
    pub fn set_environment(&self, name: &str, value: Option<&str>) -> Result<()> {
        self.change(|program| {
            match value {
                Some(value) => program.environment.insert(name.to_owned(), value.to_owned()),
                None => program.environment.remove(name),
            };
        })
    }

    /// Its arguments from its next start on.
    pub fn set_argv(&self, argv: &[String]) -> Result<()> {
        self.change(|program| program.argv = argv.to_vec())
    }

    /// Its arguments.
    pub fn argv(&self) -> Result<Vec<String>> {
        Ok(self.program()?.argv)
    }

    /// Log file, on this machine.
    pub fn log(&self) -> PathBuf {
        self.node
            .dir()
            .join("var-log")
            .join(LOG_FILE.trim_start_matches("/var/log/"))
    }

    /// The end of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log(), lines)
    }

    /// Gives the init a program to keep running.
    pub(crate) fn install(&self, program: &Program) -> Result<()> {
        let path = self.node.path(PROGRAM_FILE);
        let temporary = path.with_extension("new");
        fs::write(&temporary, serde_json::to_vec(program)?)
            .and_then(|()| fs::rename(&temporary, &path))
            .with_context(|| format!("write {}", path.display()))?;
        self.node.init.signal(Signal::USR1)
    }

    /// Is the program installed already?
    pub(crate) fn is_installed(&self) -> bool {
        self.program().is_ok()
    }

    fn program(&self) -> Result<Program> {
        let path = self.node.path(PROGRAM_FILE);
        let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))
    }

    fn change(&self, edit: impl FnOnce(&mut Program)) -> Result<()> {
        let mut program = self.program()?;
        edit(&mut program);
        self.install(&program)
    }

    fn wait(&self, wanted: impl Fn(&Status) -> bool) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let status = self.status()?;
            if wanted(&status) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "the agent of {} is not as wanted after 20 s: {status:?}",
                    self.node.name()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Pid of a process in its innermost pid namespace.
fn pid_inside(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    pids.split_ascii_whitespace().last()?.parse().ok()
}
