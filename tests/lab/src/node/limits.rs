//! runc for the oracle on a machine whose cgroup v2 tree lacks controllers: the limits of the missing ones are taken
//! out of the OCI spec, as the agent leaves them out of its plans there, and the real runc is exec'd.

use super::init::PROGRAMS;
use anyhow::{Context as _, Result};
use serde_json::Value;
use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A controller and what it enforces in `linux.resources` of the runtime spec.
const CONTROLLERS: [(&str, &str); 4] = [
    ("cpu", "cpu"),
    ("memory", "memory"),
    ("pids", "pids"),
    ("io", "blockIO"),
];

/// Becomes `runc` with these arguments.
pub fn run(arguments: &[OsString]) -> Result<()> {
    if let Some(bundle) = bundle(arguments) {
        let path = bundle.join("config.json");
        let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let mut spec: Value =
            serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))?;
        let available =
            fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").context("read the controllers")?;
        strip(&mut spec, &available);
        fs::write(&path, serde_json::to_vec(&spec)?).with_context(|| format!("write {}", path.display()))?;
    }
    let error = Command::new(Path::new(PROGRAMS).join("runc"))
        .args(arguments)
        .exec();
    Err(error).context("become runc")
}

/// The bundle of a `create` or `run`.
fn bundle(arguments: &[OsString]) -> Option<PathBuf> {
    let mut rest = arguments
        .iter()
        .skip_while(|argument| *argument != "create" && *argument != "run");
    rest.find(|argument| *argument == "--bundle" || *argument == "-b")?;
    rest.next().map(PathBuf::from)
}

fn strip(spec: &mut Value, available: &str) {
    let Some(resources) = spec
        .pointer_mut("/linux/resources")
        .and_then(Value::as_object_mut)
    else {
        return;
    };
    let is_there = |controller: &str| available.split_ascii_whitespace().any(|name| name == controller);
    for (controller, field) in CONTROLLERS {
        if !is_there(controller) {
            resources.remove(field);
        }
    }
    let Some(unified) = resources.get_mut("unified").and_then(Value::as_object_mut) else {
        return;
    };
    unified.retain(|file, _| file.split('.').next().is_some_and(is_there));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_cannot_be_enforced_goes() {
        let resources = json!({"cpu": {"shares": 2}, "memory": {"limit": 1}, "devices": [],
            "unified": {"memory.oom.group": "1", "cpu.idle": "0"}});
        let mut spec = json!({"linux": {"resources": resources}});
        strip(&mut spec, "hugetlb memory\n");
        let left = json!({"memory": {"limit": 1}, "devices": [], "unified": {"memory.oom.group": "1"}});
        assert_eq!(spec["linux"]["resources"], left);
        let mut bare = json!({});
        strip(&mut bare, "");
        assert_eq!(bare, json!({}));
    }

    #[test]
    fn the_bundle_is_the_one_of_create() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        let create = words("--root /run/r --log x create --bundle /b/1 --pid-file p id");
        assert_eq!(bundle(&create), Some(PathBuf::from("/b/1")));
        assert_eq!(bundle(&words("--root /run/r kill --all id 9")), None);
        assert_eq!(bundle(&words("create --bundle")), None);
    }
}
