//! The testbed's kubectl with the lab's admin kubeconfig.

use crate::process::{line, without_proxy};
use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Runs kubectl; results are JSON where kubectl has them.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    pub(crate) fn new(program: PathBuf, kubeconfig: PathBuf) -> Self {
        Self { program, kubeconfig }
    }

    /// The program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The admin kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A kubectl command, for callers that want to stream its output.
    pub fn command<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::null());
        without_proxy(&mut command);
        command
    }

    /// Runs kubectl; the error carries its standard error.
    pub fn run<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Result<String> {
        crate::process::run(&mut self.command(arguments))
    }

    /// Runs kubectl with `-o json`.
    pub fn json<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Result<Value> {
        let mut command = self.command(arguments);
        command.args(["-o", "json"]);
        let text = crate::process::run(&mut command)?;
        serde_json::from_str(&text).with_context(|| format!("parse the output of {}", line(&command)))
    }

    /// One object, or none if it does not exist. `object` is like `pod/web`; no namespace means `default`.
    pub fn get(&self, object: &str, namespace: Option<&str>) -> Result<Option<Value>> {
        let mut command = self.command(&["get", object, "--ignore-not-found", "-o", "json"]);
        command.args(["-n", namespace.unwrap_or("default")]);
        let text = crate::process::run(&mut command)?;
        if text.trim().is_empty() {
            Ok(None)
        } else {
            Ok(Some(serde_json::from_str(&text)?))
        }
    }

    /// The items of a list, such as of `pods -l app=web`.
    pub fn list<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Result<Vec<Value>> {
        let mut command = self.command(&["get"]);
        command.args(arguments).args(["-o", "json"]);
        let mut list: Value = serde_json::from_str(&crate::process::run(&mut command)?)?;
        match list["items"].take() {
            Value::Array(items) => Ok(items),
            _ => bail!("{}: not a list", line(&command)),
        }
    }

    /// Applies an object (or a `v1` List of objects).
    pub fn apply(&self, object: &Value) -> Result<()> {
        self.feed(&["apply", "-f", "-"], object)
    }

    /// Creates an object as it is.
    pub fn create(&self, object: &Value) -> Result<()> {
        self.feed(&["create", "-f", "-"], object)
    }

    /// Deletes an object and waits until it is gone. Absent is fine.
    pub fn delete(&self, object: &str, namespace: Option<&str>) -> Result<()> {
        let namespace = namespace.unwrap_or("default");
        self.run(&[
            "delete",
            object,
            "-n",
            namespace,
            "--ignore-not-found",
            "--timeout=120s",
        ])
        .map(drop)
    }

    /// `kubectl wait --for=CONDITION`.
    pub fn wait(
        &self,
        object: &str,
        namespace: Option<&str>,
        condition: &str,
        timeout: Duration,
    ) -> Result<()> {
        let namespace = namespace.unwrap_or("default");
        let (condition, timeout) = (
            format!("--for={condition}"),
            format!("--timeout={}s", timeout.as_secs()),
        );
        self.run(&["wait", object, "-n", namespace, &condition, &timeout])
            .map(drop)
    }

    /// Reads an object every 200 ms until `wanted` holds; the error shows the object as it last was.
    pub fn wait_until(
        &self,
        object: &str,
        namespace: Option<&str>,
        timeout: Duration,
        wanted: impl Fn(Option<&Value>) -> bool,
    ) -> Result<Option<Value>> {
        let deadline = Instant::now() + timeout;
        loop {
            let found = self.get(object, namespace)?;
            if wanted(found.as_ref()) {
                return Ok(found);
            }
            if Instant::now() > deadline {
                let status = found.map_or_else(|| "absent".to_owned(), |found| found["status"].to_string());
                bail!(
                    "{object} was not as wanted after {} s; its status: {status}",
                    timeout.as_secs()
                );
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn feed(&self, arguments: &[&str], object: &Value) -> Result<()> {
        let mut command = self.command(arguments);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .with_context(|| format!("run {}", line(&command)))?;
        let mut input = child.stdin.take().context("standard input is a pipe")?;
        // A kubectl that ends early says why on standard error.
        let _ = input.write_all(object.to_string().as_bytes());
        drop(input);
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!(
                "{}: {}",
                line(&command),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }
}
