//! The objects of the demo.

use serde_json::{Value, json};

pub(crate) const NAMESPACE: &str = "demo";
const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost:2.63.0";
const KUBECTL: &str = "registry.k8s.io/kubectl:v1.36.3";

/// Namespace, Deployment and Service.
pub(crate) fn sample() -> Value {
    let labels = json!({"app": "web"});
    let container = json!({
        "name": "web", "image": AGNHOST, "args": ["netexec", "--http-port=8080"],
        "ports": [{"containerPort": 8080}],
    });
    list(&[
        namespace(),
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": NAMESPACE},
            "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": {
                "metadata": {"labels": labels},
                "spec": {"terminationGracePeriodSeconds": 5, "containers": [container]}}}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": NAMESPACE},
            "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]}}),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "lister", "namespace": NAMESPACE}}),
    ])
}

fn namespace() -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
}

/// A pod that lists the pods of its namespace with the token mounted into it.
pub(crate) fn lister(name: &str, api_host: &str, api_port: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": NAMESPACE},
    "spec": {
        "serviceAccountName": "lister", "restartPolicy": "Never",
        "containers": [{
            "name": "kubectl", "image": KUBECTL, "args": ["get", "pods", "-o", "name"],
            // The API server's own address: cluster IPs come with the service proxy.
            "env": [
                {"name": "KUBERNETES_SERVICE_HOST", "value": api_host},
                {"name": "KUBERNETES_SERVICE_PORT", "value": api_port},
            ],
        }],
    }})
}

/// Role and RoleBinding that let the lister list.
pub(crate) fn permission() -> Value {
    list(&[
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": {"name": "pod-lister", "namespace": NAMESPACE},
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]}),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": "pod-lister", "namespace": NAMESPACE},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "pod-lister"},
            "subjects": [{"kind": "ServiceAccount", "name": "lister", "namespace": NAMESPACE}]}),
    ])
}

fn list(items: &[Value]) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}
