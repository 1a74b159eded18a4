//! Steps that may take long: what runs, for how long, and how long it usually takes.

use super::privilege::give_back;
use crate::paths::workspace;
use crate::process::{line, tail};
use anyhow::{Context as _, Result, bail};
use std::fs::{self, File};
use std::io::{IsTerminal as _, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A step shorter than this says nothing before it is done.
const SILENT: Duration = Duration::from_secs(5);
/// How often a line is printed where no terminal shows a ticker.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);

/// Prints a heading.
pub fn heading(text: &str) {
    println!("== {text}");
}

/// Runs a command as a step; its output goes to a log, whose end is shown on failure.
pub fn run_step(name: &str, expected: Duration, command: &mut Command) -> Result<()> {
    let dir = workspace().join("target/setup");
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let slug: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let path = dir.join(format!("{slug}.log"));
    let log = File::create(&path).with_context(|| format!("make {}", path.display()))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut child = command
        .spawn()
        .with_context(|| format!("run {}", line(command)))?;
    let mut ticker = Ticker::new(name, expected);
    let status = loop {
        if let Some(status) = child
            .try_wait()
            .with_context(|| format!("wait for {}", line(command)))?
        {
            break status;
        }
        ticker.tick();
        std::thread::sleep(POLL);
    };
    ticker.done(status.success());
    give_back(&dir)?;
    give_back(&path)?;
    if !status.success() {
        bail!(
            "{name} failed ({status})\n  {}\nend of {}:\n{}",
            line(command),
            path.display(),
            tail(&path, 20)
        );
    }
    Ok(())
}

struct Ticker<'a> {
    name: &'a str,
    expected: Duration,
    started: Instant,
    last: Option<Instant>,
    terminal: bool,
}

impl<'a> Ticker<'a> {
    fn new(name: &'a str, expected: Duration) -> Self {
        Self {
            name,
            expected,
            started: Instant::now(),
            last: None,
            terminal: std::io::stdout().is_terminal(),
        }
    }

    fn tick(&mut self) {
        let elapsed = self.started.elapsed();
        let interval = if self.terminal {
            Duration::from_secs(1)
        } else {
            PLAIN_INTERVAL
        };
        let is_due = self
            .last
            .map_or(elapsed >= SILENT, |last| last.elapsed() >= interval);
        if !is_due {
            return;
        }
        self.last = Some(Instant::now());
        let (start, end) = if self.terminal {
            ("\r\x1b[K", "")
        } else {
            ("", "\n")
        };
        print!(
            "{start}   {}: {} (usually {}){end}",
            self.name,
            show(elapsed),
            show(self.expected)
        );
        let _ = std::io::stdout().flush();
    }

    fn done(&self, success: bool) {
        if self.terminal && self.last.is_some() {
            print!("\r\x1b[K");
        }
        let how = if success { "done" } else { "FAILED" };
        println!("   {}: {how} in {}", self.name, show(self.started.elapsed()));
    }
}

fn show(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds => format!("{} min {:02} s", seconds / 60, seconds % 60),
    }
}
