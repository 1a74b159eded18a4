//! Our Node object beside upstream's: the same control plane, the same machine, the upstream kubelet as oracle. Every
//! field that differs stands below with its reason; a difference that does not, fails.

use std::collections::BTreeMap;

use anyhow::ensure;
use serde_json::Value;

/// (path of a field, or its beginning up to a `*`; why it differs).
const DIFFERENCES: &[(&str, &str)] = &[
    ("metadata.name", "two nodes"),
    ("metadata.uid", "two objects"),
    ("metadata.resourceVersion", "two objects"),
    ("metadata.creationTimestamp", "two objects"),
    ("metadata.generation", "counts spec changes by the controllers"),
    ("metadata.labels.kubernetes.io/hostname", "two nodes"),
    (
        "metadata.annotations.longshore.dev/unenforced",
        "ours: the limits that the lab's cgroup tree cannot hold",
    ),
    ("spec.podCIDR*", "each node has its own ranges"),
    ("status.addresses*", "each node has its own addresses"),
    ("status.conditions[*].last*", "times of the two nodes"),
    (
        "status.allocatable.memory",
        "enforcement: the oracle runs with cgroupsPerQOS off",
    ),
    ("status.images*", "each node has pulled what its pods needed"),
    (
        "status.nodeInfo.containerRuntimeVersion",
        "longshore:// against containerd://",
    ),
    (
        "status.nodeInfo.kubeletVersion",
        "ours carries longshore's version as build metadata",
    ),
    ("status.nodeInfo.machineID", "each node has its own machine-id"),
    (
        "status.nodeInfo.systemUUID",
        "without DMI data both fall back to the machine-id",
    ),
    (
        "status.conditions[DiskPressure].*",
        "ours says so once disk eviction is built; upstream may find this disk full",
    ),
    ("spec.taints*", "follow from the conditions"),
    (
        "status.runtimeHandlers*",
        "containerd names its handler runc beside the default one",
    ),
    ("status.features*", "what the runtime can do"),
    ("status.declaredFeatures*", "we declare only what we do"),
    ("status.volumesInUse*", "each node's own volumes"),
];

/// Leaves of a JSON value by path; items of arrays that have a type or name are keyed by it.
fn leaves(value: &Value, path: String, into: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let dot = if path.is_empty() { "" } else { "." };
                leaves(field, format!("{path}{dot}{name}"), into);
            }
        }
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                let key = item["type"]
                    .as_str()
                    .or(item["name"].as_str())
                    .map_or_else(|| i.to_string(), str::to_owned);
                leaves(item, format!("{path}[{key}]"), into);
            }
        }
        leaf => _ = into.insert(path, leaf.clone()),
    }
}

/// Does the pattern cover the path? `*` stands for anything.
fn covers(pattern: &str, path: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| path.strip_prefix(first)) else {
        return false;
    };
    let mut open = pattern.ends_with('*');
    for part in parts {
        if part.is_empty() {
            open = true;
            continue;
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
        open = true;
    }
    open || rest.is_empty()
}

#[test]
fn our_node_object_differs_from_upstreams_only_where_it_should() -> anyhow::Result<()> {
    let lab = longshore_e2e::lab()?;
    let object = |name: &str| lab.kubectl().json(&["get", "node", name]);
    let ours = object(lab.nodes()?[0].name())?;
    let upstream = object(lab.oracle()?.name())?;
    let (mut our_leaves, mut their_leaves) = (BTreeMap::new(), BTreeMap::new());
    for (node, into) in [(&ours, &mut our_leaves), (&upstream, &mut their_leaves)] {
        let mut node = node.clone();
        // Who last wrote a field is bookkeeping of the API server.
        node["metadata"]
            .as_object_mut()
            .map(|metadata| metadata.remove("managedFields"));
        leaves(&node, String::new(), into);
    }
    let mut unexplained = Vec::new();
    let paths: std::collections::BTreeSet<_> = our_leaves.keys().chain(their_leaves.keys()).collect();
    for path in paths {
        let (one, other) = (our_leaves.get(path), their_leaves.get(path));
        if one == other {
            continue;
        }
        let text = |value: Option<&Value>| value.map_or("absent".to_owned(), Value::to_string);
        match DIFFERENCES.iter().find(|(pattern, _)| covers(pattern, path)) {
            Some((_, reason)) => println!("{path}: ours {}, upstream's {}: {reason}", text(one), text(other)),
            None => unexplained.push(format!("{path}: ours {}, upstream's {}", text(one), text(other))),
        }
    }
    ensure!(
        unexplained.is_empty(),
        "differences without a reason:\n{}",
        unexplained.join("\n")
    );
    Ok(())
}

#[test]
fn patterns_cover_what_they_say() {
    assert!(covers("status.images*", "status.images[0].names[0]"));
    assert!(covers(
        "status.conditions[*].last*",
        "status.conditions[Ready].lastHeartbeatTime"
    ));
    assert!(!covers(
        "status.conditions[*].last*",
        "status.conditions[Ready].reason"
    ));
    assert!(covers("metadata.name", "metadata.name"));
    assert!(!covers("metadata.name", "metadata.namespace"));
}
