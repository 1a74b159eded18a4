//! The patch that makes a pod's status on the API server ours: pure.

use k8s_openapi::api::core::v1::PodStatus;
use serde_json::{Map, Value, json};

use super::super::plan::OWNED_CONDITIONS;

/// Fields of the status that the node owns, as plain values.
const FIELDS: [&str; 12] = [
    "phase",
    "reason",
    "message",
    "startTime",
    "hostIP",
    "podIP",
    "qosClass",
    "observedGeneration",
    "containerStatuses",
    "initContainerStatuses",
    "ephemeralContainerStatuses",
    "resize",
];
/// Lists that the API merges by address; they are replaced whole.
const ADDRESSES: [&str; 2] = ["hostIPs", "podIPs"];

/// A strategic merge patch from `api` to `ours`, guarded by the UID; `None` if there is nothing to change.
///
/// Conditions of others and fields the node does not own are not in it.
pub(super) fn patch(uid: &str, api: &PodStatus, ours: &PodStatus) -> Option<Value> {
    let (old, new) = (fields(api), fields(ours));
    let mut status = Map::new();
    for name in FIELDS {
        let (old, new) = (old.get(name), new.get(name));
        if pruned(old) != pruned(new) {
            status.insert(name.to_owned(), new.cloned().unwrap_or(Value::Null));
        }
    }
    for name in ADDRESSES {
        let (old, new) = (old.get(name), new.get(name));
        if pruned(old) != pruned(new) {
            let items = new.and_then(Value::as_array).into_iter().flatten().cloned();
            let list = std::iter::once(json!({"$patch": "replace"}))
                .chain(items)
                .collect();
            status.insert(name.to_owned(), Value::Array(list));
        }
    }
    let conditions = conditions(&old, &new);
    if !conditions.is_empty() {
        status.insert("conditions".to_owned(), Value::Array(conditions));
    }
    (!status.is_empty()).then(|| json!({"metadata": {"uid": uid}, "status": status}))
}

fn fields(status: &PodStatus) -> Map<String, Value> {
    match serde_json::to_value(status) {
        Ok(Value::Object(fields)) => fields,
        // A status is always an object; without one the patch would only be larger.
        _ => Map::new(),
    }
}

/// Changed and vanished conditions of ours.
fn conditions(old: &Map<String, Value>, new: &Map<String, Value>) -> Vec<Value> {
    let list = |fields: &Map<String, Value>| -> Vec<Value> {
        let all = fields
            .get("conditions")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        all.filter(|c| c["type"].as_str().is_some_and(|t| OWNED_CONDITIONS.contains(&t)))
            .cloned()
            .collect()
    };
    let (old, new) = (list(old), list(new));
    let of_type =
        |list: &'_ [Value], wanted: &Value| list.iter().find(|c| c["type"] == wanted["type"]).cloned();
    let mut changes: Vec<Value> = new
        .iter()
        .filter(|c| pruned(of_type(&old, c).as_ref()) != pruned(Some(c)))
        .map(whole)
        .collect();
    let vanished = old.iter().filter(|c| of_type(&new, c).is_none());
    changes.extend(vanished.map(|c| json!({"type": c["type"], "$patch": "delete"})));
    changes
}

/// The condition with its absent texts as null, so that old ones do not stay.
fn whole(condition: &Value) -> Value {
    let mut condition = condition.clone();
    for name in ["reason", "message"] {
        if condition.get(name).is_none() {
            condition[name] = Value::Null;
        }
    }
    condition
}

/// Without nulls, empty objects and empty lists: the API server writes them or leaves them out as it likes.
fn pruned(value: Option<&Value>) -> Option<Value> {
    match value? {
        Value::Null => None,
        Value::Object(fields) => {
            let kept: Map<_, _> = fields
                .iter()
                .filter_map(|(k, v)| Some((k.clone(), pruned(Some(v))?)))
                .collect();
            (!kept.is_empty()).then_some(Value::Object(kept))
        }
        Value::Array(items) => {
            let kept: Vec<_> = items.iter().filter_map(|v| pruned(Some(v))).collect();
            (!kept.is_empty()).then_some(Value::Array(kept))
        }
        other => Some(other.clone()),
    }
}
