//! Processes of the lab: started detached, known by pid and start time, ended only by both.

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A process that the lab started: a pid alone may have been reused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessRecord {
    pub(crate) name: String,
    pub(crate) pid: u32,
    pub(crate) start_time: u64,
}

impl ProcessRecord {
    /// Records the living process `pid`.
    pub(crate) fn of(name: &str, pid: u32) -> Result<Self> {
        let start_time = start_time(pid).with_context(|| format!("{name} (pid {pid}) ended at once"))?;
        Ok(Self {
            name: name.to_owned(),
            pid,
            start_time,
        })
    }

    pub(crate) fn is_alive(&self) -> bool {
        start_time(self.pid) == Some(self.start_time)
    }

    /// Sends `signal` if the process still is the recorded one.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.pid.cast_signed()).context("pid 0 was recorded")?;
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else {
            return Ok(());
        };
        // The pidfd pins whoever has the pid now; only then is the start time compared.
        if self.is_alive() {
            pidfd_send_signal(&pidfd, signal)
                .with_context(|| format!("signal {} ({})", self.name, self.pid))?;
        }
        Ok(())
    }

    /// Waits (at most 3 s) until the pid is free again: a zombie is still a process to whoever looks.
    pub(crate) fn wait_reaped(&self) {
        let deadline = Instant::now() + Duration::from_secs(3);
        let exists = || Path::new("/proc").join(self.pid.to_string()).exists();
        while exists() && start_time(self.pid).is_none() && Instant::now() < deadline {
            // Ours if this process started it; else its new parent sees to it.
            let _ = waitpid(Pid::from_raw(self.pid.cast_signed()), WaitOptions::NOHANG);
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Start time in clock ticks after boot (`proc(5)`, field 22); none for the dead and for zombies.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// What to start and where.
pub(crate) struct Detached<'a> {
    pub(crate) name: &'a str,
    pub(crate) argv: Vec<OsString>,
    /// Output goes to the end of this file.
    pub(crate) log: &'a Path,
    /// The process is born into this cgroup directory.
    pub(crate) cgroup: &'a Path,
    /// The process runs in this network namespace file.
    pub(crate) netns: &'a Path,
}

impl Detached<'_> {
    /// Starts the program in a session of its own; it outlives this process.
    pub(crate) fn start(self) -> Result<ProcessRecord> {
        let log = File::options().create(true).append(true).open(self.log);
        let log = log.with_context(|| format!("open {}", self.log.display()))?;
        let mut command = Command::new("/bin/sh");
        // Each link of this chain execs the next in place, so the pid stays.
        command.args(["-c", r#"echo 0 > "$1" || exit 125; shift; exec "$@""#, "sh"]);
        command
            .arg(self.cgroup.join("cgroup.procs"))
            .args(["setsid", "nsenter"]);
        command
            .arg(format!("--net={}", self.netns.display()))
            .arg("--")
            .args(&self.argv);
        without_proxy(&mut command);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("start {}", self.name))?;
        ProcessRecord::of(self.name, child.id())
    }
}

/// The lab's traffic must not leave through the user's HTTP proxy.
pub(crate) fn without_proxy(command: &mut Command) -> &mut Command {
    for name in [
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
    ] {
        command.env_remove(name);
    }
    command
}

/// Runs a command to its end; an error carries its standard error.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {}", line(command)))?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}: {}", line(command), output.status, error.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command as a user would type it.
pub(crate) fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// The last `lines` lines of a log file, for error messages.
pub(crate) fn tail(log: &Path, lines: usize) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
