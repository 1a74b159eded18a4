//! End-to-end tests on a running lab: what they share. `cargo xtask test` brings the lab up before them and takes it
//! down after.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context as _;
use lab::{Kubectl, Lab};
use serde_json::{Value, json};

/// The lab that is up; an error that names the cure if none is.
///
/// # Errors
/// No lab is running.
pub fn lab() -> anyhow::Result<&'static Lab> {
    static LAB: OnceLock<Result<Lab, String>> = OnceLock::new();
    LAB.get_or_init(|| Lab::attach().map_err(|error| format!("{error:#}")))
        .as_ref()
        .map_err(|error| {
            anyhow::anyhow!("these tests need a running lab (`cargo xtask test` brings one up): {error}")
        })
}

/// A namespace of a test's own; it and what is in it go when this is dropped.
pub struct Namespace {
    name: String,
    kubectl: Kubectl,
}

impl Namespace {
    /// Makes the namespace `PREFIX-PID-N` and waits for its default service account.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn new(prefix: &str) -> anyhow::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "{prefix}-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let kubectl = lab()?.kubectl().clone();
        kubectl.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))?;
        let namespace = Self { name, kubectl };
        namespace.text(&["wait", "--for=create", "serviceaccount/default", "--timeout=30s"])?;
        Ok(namespace)
    }

    /// The namespace's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs kubectl in the namespace and returns what it prints.
    ///
    /// # Errors
    /// kubectl fails; the error holds its words.
    pub fn text(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.kubectl
            .run(&[&["--namespace", &self.name], arguments].concat())
    }

    /// Applies an object after setting its namespace.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn apply(&self, object: &Value) -> anyhow::Result<()> {
        let mut object = object.clone();
        object["metadata"]["namespace"] = json!(self.name);
        self.kubectl.apply(&object)
    }

    /// An object as JSON.
    ///
    /// # Errors
    /// It is not there.
    pub fn get(&self, kind_and_name: &str) -> anyhow::Result<Value> {
        let text = self.text(&["get", kind_and_name, "-o", "json"])?;
        serde_json::from_str(&text).with_context(|| format!("parse {kind_and_name}"))
    }

    /// Waits until the JSON path of the object has the value.
    ///
    /// # Errors
    /// It has not within two minutes; the error shows the object's status and events.
    pub fn wait(&self, kind_and_name: &str, json_path: &str, value: &str) -> anyhow::Result<()> {
        let condition = format!("--for=jsonpath={{{json_path}}}={value}");
        self.text(&["wait", &condition, kind_and_name, "--timeout=120s"]).map(drop).with_context(|| {
            let status = self.get(kind_and_name).map(|object| object["status"].to_string()).unwrap_or_default();
            let events = self.text(&["events", "--for", kind_and_name]).unwrap_or_default();
            format!("{kind_and_name} did not get {json_path}={value}; its status: {status}\nits events:\n{events}")
        })
    }

    /// Waits until an event of the object has this reason and this part in its message.
    ///
    /// # Errors
    /// None comes within a minute.
    pub fn wait_event(&self, name: &str, reason: &str, part: &str) -> anyhow::Result<()> {
        let selector = format!("involvedObject.name={name},reason={reason}");
        let mut last = String::new();
        for _ in 0..300 {
            last = self.text(&[
                "get",
                "events",
                "--field-selector",
                &selector,
                "-o",
                "jsonpath={.items[*].message}",
            ])?;
            if !last.is_empty() && last.contains(part) {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        anyhow::bail!(
            "{name} got no event {reason} with {part:?} in 60 s; its messages of that reason: {last:?}"
        )
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Deleted in the background: a failed test must not wait for what it could not delete. `lab down` ends it all.
        if let Err(error) = self
            .kubectl
            .run(&["delete", "namespace", &self.name, "--wait=false"])
        {
            eprintln!("delete namespace {}: {error:#}", self.name);
        }
    }
}

/// A pod of one busybox container `main` that runs a shell script; `more` is merged over its spec.
pub fn shell_pod(name: &str, script: &str, more: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 2,
            "containers": [{"name": "main", "image": "busybox", "imagePullPolicy": "IfNotPresent", "command": ["/bin/sh", "-c", script]}],
        },
    });
    merge(&mut pod["spec"], more);
    pod
}

/// Merges objects by field, arrays by position; anything else is replaced.
pub fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(from)) => {
            for (i, value) in from.into_iter().enumerate() {
                match into.get_mut(i) {
                    Some(slot) => merge(slot, value),
                    None => into.push(value),
                }
            }
        }
        (into, from) => *into = from,
    }
}
