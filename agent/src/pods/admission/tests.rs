//! Every reason with upstream's message.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use super::{Bench, Sysctls, admit};

fn node() -> Node {
    serde_json::from_value(json!({
        "metadata": {"name": "n1", "labels": {"zone": "a", "cores": "4"}},
        "spec": {"taints": [{"key": "gone", "effect": "NoExecute"}, {"key": "busy", "effect": "NoSchedule"}]},
        "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "ephemeral-storage": "10Gi", "pods": "3"}},
    }))
    .unwrap()
}

fn pod(spec: &Value) -> Pod {
    let mut whole = json!({"nodeName": "n1", "tolerations": [{"operator": "Exists"}],
        "containers": [{"name": "c", "image": "i"}]});
    for (key, value) in spec.as_object().unwrap() {
        whole[key] = value.clone();
    }
    serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": whole})).unwrap()
}

fn requests(list: &Value) -> Value {
    json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": list}}]})
}

fn port(number: i32) -> Value {
    json!({"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "hostPort": number}]}]})
}

fn affinity(operator: &str, key: &str, values: &[&str]) -> Value {
    json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]}}}})
}

fn judge(spec: &Value, others: &[Pod]) -> String {
    let others: Vec<_> = others.iter().cloned().map(Arc::new).collect();
    let sysctls = Sysctls::new(&["net.core.*".to_owned()]);
    match admit(
        &pod(spec),
        &Bench {
            node: &node(),
            others: &others,
            sysctls: &sysctls,
        },
    ) {
        Ok(()) => "ok".to_owned(),
        Err(rejection) => format!("{}: {}", rejection.reason, rejection.message),
    }
}

#[test]
fn verdicts() {
    let selector =
        "NodeAffinity: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
    let sysctl = |name: &str| json!({"securityContext": {"sysctls": [{"name": name, "value": "1"}]}});
    let rows = [
        (json!({}), "ok"),
        (requests(&json!({"cpu": "1500m", "memory": "1Gi"})), "ok"),
        (requests(&json!({"example.com/far": "1"})), "ok"),
        (
            requests(&json!({"cpu": "3"})),
            "OutOfcpu: Node didn't have enough resource: cpu, requested: 3000, used: 500, capacity: 2000",
        ),
        (
            requests(&json!({"memory": "2Gi"})),
            "OutOfmemory: Node didn't have enough resource: memory, requested: 2147483648, used: 0, \
             capacity: 1073741824",
        ),
        (
            requests(&json!({"ephemeral-storage": "20Gi"})),
            "OutOfephemeral-storage: Node didn't have enough resource: ephemeral-storage, requested: 21474836480, \
             used: 0, capacity: 10737418240",
        ),
        (json!({"nodeSelector": {"zone": "a"}}), "ok"),
        (json!({"nodeSelector": {"zone": "b"}}), selector),
        (affinity("In", "zone", &["a", "b"]), "ok"),
        (affinity("NotIn", "zone", &["a"]), selector),
        (affinity("Gt", "cores", &["3"]), "ok"),
        (affinity("Lt", "cores", &["3"]), selector),
        (affinity("DoesNotExist", "gpu", &[]), "ok"),
        (
            json!({"nodeName": "n2"}),
            "NodeName: Predicate NodeName failed: node(s) didn't match the requested node name",
        ),
        (
            port(8080),
            "NodePorts: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports",
        ),
        (port(8081), "ok"),
        (
            json!({"tolerations": [{"key": "busy", "operator": "Exists"}]}),
            "TaintToleration: Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate",
        ),
        (
            json!({"tolerations": [{"key": "gone", "operator": "Exists", "effect": "NoExecute"}]}),
            "ok",
        ),
        (
            json!({"os": {"name": "windows"}}),
            "PodOSNotSupported: Failed to admit pod as the OS field doesn't match node OS",
        ),
        (sysctl("net.core.somaxconn"), "ok"),
        (sysctl("net/ipv4/tcp_syncookies"), "ok"),
        (
            sysctl("kernel.panic"),
            "SysctlForbidden: forbidden sysctl: \"kernel.panic\" not allowlisted",
        ),
        (
            json!({"hostNetwork": true,
                "securityContext": {"sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}]}}),
            "SysctlForbidden: forbidden sysctl: \"net.ipv4.tcp_syncookies\" not allowed with host Net enabled",
        ),
    ];
    let mut neighbour = pod(&port(8080));
    let container = &mut neighbour.spec.as_mut().unwrap().containers[0];
    container.resources = serde_json::from_value(json!({"requests": {"cpu": "500m"}})).unwrap();
    for (spec, expected) in rows {
        assert_eq!(judge(&spec, std::slice::from_ref(&neighbour)), expected, "{spec}");
    }
}

#[test]
fn too_many_pods() {
    let others = vec![pod(&json!({})); 3];
    let expected = "OutOfpods: Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3";
    assert_eq!(judge(&json!({}), &others), expected);
}
