//! What has changed in a Node, as a strategic merge patch of its status subresource.

use k8s_openapi::api::core::v1::{Node, NodeCondition};
use serde_json::{Map, Value, json};

/// Whether anything but a heartbeat differs.
pub(super) fn differs(before: &Node, after: &Node) -> bool {
    let stripped = |node: &Node| {
        let mut node = node.clone();
        for condition in node
            .status
            .iter_mut()
            .flat_map(|status| status.conditions.iter_mut().flatten())
        {
            condition.last_heartbeat_time = None;
        }
        (
            node.status,
            node.metadata.labels,
            node.metadata.annotations.filter(|map| !map.is_empty()),
        )
    };
    stripped(before) != stripped(after)
}

/// The patch that makes `after` of `before`, by the fields that are the node's to write.
pub(in crate::node) fn patch(before: &Node, after: &Node) -> Value {
    let to_value = |node: &Node| serde_json::to_value(node).expect("a Node is plain data");
    let (old, new) = (to_value(before), to_value(after));
    let mut status = Map::new();
    if let Some(changed) = changed_conditions(before, after) {
        status.insert("conditions".into(), changed);
    }
    for field in [
        "addresses",
        "capacity",
        "allocatable",
        "nodeInfo",
        "daemonEndpoints",
        "images",
        "runtimeHandlers",
        "features",
    ] {
        let (old, new) = (&old["status"][field], &new["status"][field]);
        if old == new {
            continue;
        }
        let value = match (field, new) {
            // Merged by type otherwise, which loses the second address of one type.
            ("addresses", Value::Array(list)) => {
                json!(
                    list.iter()
                        .cloned()
                        .chain([json!({"$patch": "replace"})])
                        .collect::<Vec<_>>()
                )
            }
            ("images" | "runtimeHandlers", _) => new.clone(),
            _ => merge_patch(old, new),
        };
        status.insert(field.into(), value);
    }
    let mut whole = json!({"metadata": {"uid": new["metadata"]["uid"]}, "status": status});
    if whole["metadata"]["uid"].is_null() {
        whole["metadata"] = json!({});
    }
    for field in ["labels", "annotations"] {
        let (old, new) = (&old["metadata"][field], &new["metadata"][field]);
        if old != new {
            whole["metadata"][field] = merge_patch(old, if new.is_null() { &Value::Null } else { new });
        }
    }
    whole
}

fn changed_conditions(before: &Node, after: &Node) -> Option<Value> {
    let list = |node: &Node| -> Vec<NodeCondition> {
        node.status
            .as_ref()
            .and_then(|status| status.conditions.clone())
            .unwrap_or_default()
    };
    let old = list(before);
    let changed: Vec<NodeCondition> = list(after)
        .into_iter()
        .filter(|condition| !old.contains(condition))
        .collect();
    (!changed.is_empty()).then(|| json!(changed))
}

/// RFC 7396, which strategic merge follows for maps.
fn merge_patch(old: &Value, new: &Value) -> Value {
    let (Value::Object(old_map), Value::Object(new_map)) = (old, new) else {
        return new.clone();
    };
    let mut patch = Map::new();
    for (key, value) in new_map {
        match old_map.get(key) {
            Some(before) if before == value => {}
            Some(before) => {
                patch.insert(key.clone(), merge_patch(before, value));
            }
            None => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    for key in old_map.keys().filter(|key| !new_map.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    Value::Object(patch)
}
