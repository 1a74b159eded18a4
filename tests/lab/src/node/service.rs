//! Keeping one program running inside a node, as a systemd unit with `Restart=always` would.

use super::init::PROGRAMS;
use crate::sys;
use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What shall run; written by the lab, which then sends SIGUSR1.
pub(crate) const PROGRAM_FILE: &str = "/run/lab/agent.json";
/// What runs; written by the init.
pub(crate) const STATUS_FILE: &str = "/run/lab/agent.status";
/// Standard output and error of the program.
pub(crate) const LOG_FILE: &str = "/var/log/longshore-agent.log";
/// The unit's cgroup; whatever a dead program leaves in it is killed, as systemd does.
pub(crate) const CGROUP: &str = "system.slice/longshore.service";

const LONGEST_DELAY: Duration = Duration::from_secs(2);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(3600);

/// The supervised program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Program {
    pub(crate) argv: Vec<String>,
    pub(crate) environment: BTreeMap<String, String>,
    /// Off: stop it and do not start it again.
    pub(crate) enabled: bool,
}

/// State of the supervised program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Pid inside the node, while it runs.
    pub pid: Option<u32>,
    /// How often it was started.
    pub starts: u64,
    /// How it last ended.
    pub last_end: Option<String>,
}

pub(crate) struct Service {
    status: Status,
    started: Instant,
    quick_ends: u32,
    not_before: Instant,
    stopping_since: Option<Instant>,
}

impl Service {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self {
            status: Status::default(),
            started: now,
            quick_ends: 0,
            not_before: now,
            stopping_since: None,
        }
    }

    /// Runs until SIGTERM.
    pub(crate) fn supervise(mut self) -> Result<()> {
        loop {
            self.reap();
            let program = read_program();
            let wait = self.reconcile(program.as_ref());
            if sys::wait_signal(wait).context("wait for a signal")? == Some(libc::SIGTERM) {
                return Ok(());
            }
        }
    }

    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if self.status.pid == Some(pid.as_raw_nonzero().get().cast_unsigned()) {
                self.ended(status);
            }
        }
    }

    fn ended(&mut self, status: WaitStatus) {
        let how = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => return,
        };
        let lived = self.started.elapsed();
        self.quick_ends = if lived > Duration::from_secs(1) {
            0
        } else {
            self.quick_ends.saturating_add(1)
        };
        let delay = Duration::from_millis(50).saturating_mul(1 << self.quick_ends.min(10));
        self.not_before = Instant::now()
            + if self.quick_ends == 0 {
                Duration::ZERO
            } else {
                delay.min(LONGEST_DELAY)
            };
        self.status.pid = None;
        self.status.last_end = Some(how);
        self.stopping_since = None;
        let _ = fs::write(Path::new("/sys/fs/cgroup").join(CGROUP).join("cgroup.kill"), "1");
        self.publish();
    }

    /// Brings the program to what is wanted; returns how long nothing needs to be done.
    fn reconcile(&mut self, program: Option<&Program>) -> Duration {
        let now = Instant::now();
        match (program.filter(|program| program.enabled), self.status.pid) {
            (Some(program), None) if now >= self.not_before => {
                if let Err(error) = self.start(program) {
                    eprintln!("cannot start {:?}: {error:#}", program.argv);
                    self.not_before = now + LONGEST_DELAY;
                    return LONGEST_DELAY;
                }
                IDLE
            }
            (Some(_), None) => self.not_before - now,
            (None, Some(pid)) => self.stop(pid),
            _ => IDLE,
        }
    }

    fn start(&mut self, program: &Program) -> Result<()> {
        let cgroup = Path::new("/sys/fs/cgroup").join(CGROUP);
        fs::create_dir_all(&cgroup).context("make the unit's cgroup")?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(LOG_FILE)
            .context("open the log")?;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", r#"echo 0 > "$1" || exit 125; shift; exec "$@""#, "sh"]);
        command.arg(cgroup.join("cgroup.procs")).args(&program.argv);
        let path = format!("{PROGRAMS}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command
            .env_clear()
            .env("PATH", path)
            .env("HOME", "/root")
            .envs(&program.environment);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().context("start it")?;
        self.started = Instant::now();
        self.status.pid = Some(child.id());
        self.status.starts += 1;
        self.publish();
        Ok(())
    }

    fn stop(&mut self, pid: u32) -> Duration {
        let Some(pid) = Pid::from_raw(pid.cast_signed()) else {
            return IDLE;
        };
        match self.stopping_since {
            None => {
                self.stopping_since = Some(Instant::now());
                let _ = kill_process(pid, Signal::TERM);
                STOP_TIMEOUT
            }
            Some(since) if since.elapsed() >= STOP_TIMEOUT => {
                let _ = kill_process(pid, Signal::KILL);
                STOP_TIMEOUT
            }
            Some(since) => STOP_TIMEOUT - since.elapsed(),
        }
    }

    fn publish(&self) {
        let text = serde_json::to_vec(&self.status).expect("a status of plain values serialises");
        let temporary = format!("{STATUS_FILE}.new");
        if let Err(error) = fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, STATUS_FILE)) {
            eprintln!("cannot write {STATUS_FILE}: {error}");
        }
    }
}

fn read_program() -> Option<Program> {
    serde_json::from_slice(&fs::read(PROGRAM_FILE).ok()?).ok()
}
