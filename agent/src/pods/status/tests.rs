//! What a patch holds and what it leaves alone.

use k8s_openapi::api::core::v1::PodStatus;
use serde_json::{Value, json};

use super::patch::patch;

fn status(value: Value) -> PodStatus {
    serde_json::from_value(value).unwrap()
}

#[test]
fn nothing_to_say_is_no_patch() {
    let api = status(json!({"phase": "Running", "containerStatuses": [
        {"name": "a", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "lastState": {},
         "state": {"running": {}}}],
        "conditions": [{"type": "example.com/gate", "status": "True"}]}));
    let ours = status(json!({"phase": "Running", "containerStatuses": [
        {"name": "a", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
         "state": {"running": {}}}]}));
    assert_eq!(
        patch("u", &api, &ours),
        None,
        "empty objects and foreign conditions are no difference"
    );
}

#[test]
fn changes_carry_the_uid_and_nulls() {
    let api = status(json!({"phase": "Pending", "reason": "Old", "podIP": "10.0.0.1",
        "podIPs": [{"ip": "10.0.0.1"}]}));
    let ours = status(json!({"phase": "Running", "podIP": "10.0.0.2",
        "podIPs": [{"ip": "10.0.0.2"}, {"ip": "fd00::2"}]}));
    let expected = json!({"metadata": {"uid": "u"}, "status": {
        "phase": "Running", "reason": null, "podIP": "10.0.0.2",
        "podIPs": [{"$patch": "replace"}, {"ip": "10.0.0.2"}, {"ip": "fd00::2"}]}});
    assert_eq!(patch("u", &api, &ours), Some(expected));
}

#[test]
fn only_our_conditions_are_touched() {
    let api = status(json!({"conditions": [
        {"type": "example.com/gate", "status": "True"},
        {"type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "m"},
        {"type": "PodResizePending", "status": "True"},
        {"type": "Initialized", "status": "True"}]}));
    let ours = status(json!({"conditions": [
        {"type": "Ready", "status": "True"},
        {"type": "Initialized", "status": "True"}]}));
    let expected = json!({"metadata": {"uid": "u"}, "status": {"conditions": [
        {"type": "Ready", "status": "True", "reason": null, "message": null},
        {"type": "PodResizePending", "$patch": "delete"}]}});
    assert_eq!(patch("u", &api, &ours), Some(expected));
}
