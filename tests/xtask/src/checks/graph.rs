//! The crate graph of the design: who may depend on whom, and what must never be reachable.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

/// (crate, workspace crates it may depend on). `fault-point` is a leaf of the tests that `fault-points` builds link.
const LAYERS: &[(&str, &[&str])] = &[
    ("longshore-runtime", &["fault-point"]),
    ("longshore-cni", &["fault-point"]),
    ("longshore-proxy", &["fault-point"]),
    ("longshore-proto", &[]),
    (
        "longshore-cri",
        &[
            "longshore-proto",
            "longshore-runtime",
            "longshore-cni",
            "fault-point",
        ],
    ),
    (
        "longshore",
        &[
            "longshore-cri",
            "longshore-proxy",
            "longshore-proto",
            "longshore-cni",
            "longshore-runtime",
            "fault-point",
        ],
    ),
];

/// Crates that stand alone: nothing async, no gRPC anywhere below them.
const ALONE: &[&str] = &["longshore-runtime", "longshore-cni", "longshore-proxy"];
const NOT_ALONE: &[&str] = &["tokio", "tonic", "prost", "hyper", "longshore-proto"];

/// Where the dependency list of `longshore-oci` is written down with reasons.
const OCI_LIST: &str = "runtime/DEPENDENCIES.md";

/// Normal (not dev, not build) dependencies of every package of the lock file, by package name.
struct Graph {
    normal: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    fn read(root: &Path) -> anyhow::Result<Self> {
        let output = Command::new("cargo")
            .args(["metadata", "--format-version", "1", "--locked", "--all-features"])
            .current_dir(root)
            .output()
            .context("run cargo metadata")?;
        ensure!(
            output.status.success(),
            "cargo metadata: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let metadata: Value = serde_json::from_slice(&output.stdout).context("parse cargo metadata")?;
        let mut names = BTreeMap::new();
        for package in array(&metadata["packages"]) {
            names.insert(text(&package["id"]), text(&package["name"]));
        }
        let mut normal: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for node in array(&metadata["resolve"]["nodes"]) {
            let below = normal.entry(names[&text(&node["id"])].clone()).or_default();
            for dep in array(&node["deps"]) {
                if array(&dep["dep_kinds"]).any(|kind| kind["kind"].is_null()) {
                    below.insert(names[&text(&dep["pkg"])].clone());
                }
            }
        }
        Ok(Self { normal })
    }

    fn direct(&self, name: &str) -> anyhow::Result<&BTreeSet<String>> {
        self.normal
            .get(name)
            .with_context(|| format!("crate {name} is not in the workspace"))
    }

    fn below(&self, name: &str) -> BTreeSet<&str> {
        let mut seen = BTreeSet::new();
        let mut open = vec![name];
        while let Some(next) = open.pop() {
            for dep in self.normal.get(next).into_iter().flatten() {
                if seen.insert(dep.as_str()) {
                    open.push(dep);
                }
            }
        }
        seen
    }
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The layers hold.
pub(super) fn layers(root: &Path) -> anyhow::Result<()> {
    let graph = Graph::read(root)?;
    let ours: BTreeSet<&str> = LAYERS
        .iter()
        .map(|(name, _)| *name)
        .chain(["fault-point"])
        .collect();
    for (name, allowed) in LAYERS {
        for dep in graph.direct(name)? {
            if (ours.contains(dep.as_str()) || dep.starts_with("longshore"))
                && !allowed.contains(&dep.as_str())
            {
                bail!("{name} depends on {dep}; it may depend on {allowed:?} only");
            }
        }
    }
    for name in ALONE {
        let below = graph.below(name);
        if let Some(found) = NOT_ALONE.iter().find(|dep| below.contains(*dep)) {
            bail!("{name} must stand alone, but {found} is below it");
        }
    }
    Ok(())
}

/// The direct dependencies of `longshore-oci` are the ones written down, each with a reason.
pub(super) fn oci_dependencies(root: &Path) -> anyhow::Result<()> {
    let graph = Graph::read(root)?;
    let page = std::fs::read_to_string(root.join(OCI_LIST)).with_context(|| format!("read {OCI_LIST}"))?;
    let mut listed = BTreeSet::new();
    for row in page.lines().filter(|line| line.starts_with("| `")) {
        let mut cells = row.trim_matches('|').split('|').map(str::trim);
        let name = cells.next().unwrap_or_default().trim_matches('`').to_owned();
        ensure!(
            cells.next().is_some_and(|why| !why.is_empty()),
            "{OCI_LIST}: {name} has no reason"
        );
        listed.insert(name);
    }
    let mut real = graph.direct("longshore-runtime")?.clone();
    // Linked by test builds only.
    real.remove("fault-point");
    ensure!(
        real == listed,
        "{OCI_LIST} lists {listed:?}; the crate depends on {real:?}"
    );
    Ok(())
}
