//! Whether a pod may run here: pure checks in upstream's order and words. The first that fails rejects the pod.

mod affinity;
mod fit;
mod sysctls;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};

pub(crate) use self::sysctls::Sysctls;
use super::plan::Verdict;

/// The operating system pods must be for.
const OS: &str = "linux";
const OS_LABEL: &str = "kubernetes.io/os";

/// What a pod is judged by.
pub(crate) struct Bench<'a> {
    /// The Node object, or what the node would register as.
    pub(crate) node: &'a Node,
    /// Pods that are admitted and not over.
    pub(crate) others: &'a [Arc<Pod>],
    pub(crate) sysctls: &'a Sysctls,
}

/// A reason and its message, without the words "Pod was rejected".
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl Rejection {
    fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            message: message.into(),
        }
    }

    fn predicate(name: &str, description: &str) -> Self {
        Self::new(name, format!("Predicate {name} failed: {description}"))
    }

    /// As it is reported in the status.
    pub(crate) fn verdict(&self) -> Verdict {
        Verdict {
            reason: self.reason.clone(),
            message: format!("Pod was rejected: {}", self.message),
        }
    }
}

/// Judges one pod.
///
/// # Errors
/// Why it may not run here.
pub(crate) fn admit(pod: &Pod, bench: &Bench<'_>) -> Result<(), Rejection> {
    sysctls_allowed(pod, bench.sysctls)?;
    os_fits(pod)?;
    fit::resources(pod, bench)?;
    if !affinity::matches(pod, bench.node) {
        return Err(Rejection::predicate(
            "NodeAffinity",
            "node(s) didn't match Pod's node affinity/selector",
        ));
    }
    node_name(pod, bench.node)?;
    fit::ports(pod, bench)?;
    taints(pod, bench.node)
}

fn sysctls_allowed(pod: &Pod, allowed: &Sysctls) -> Result<(), Rejection> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    let context = spec.security_context.as_ref();
    let (host_net, host_ipc) = (spec.host_network.unwrap_or(false), spec.host_ipc.unwrap_or(false));
    for sysctl in context.and_then(|c| c.sysctls.as_deref()).unwrap_or_default() {
        let forbidden = |problem| Rejection::new("SysctlForbidden", format!("forbidden sysctl: {problem}"));
        allowed
            .check(&sysctl.name, host_net, host_ipc)
            .map_err(forbidden)?;
    }
    Ok(())
}

fn os_fits(pod: &Pod) -> Result<(), Rejection> {
    let label = pod.metadata.labels.as_ref().and_then(|l| l.get(OS_LABEL));
    if label.is_some_and(|os| os != OS) {
        let message = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label";
        return Err(Rejection::new("PodOSSelectorNodeLabelDoesNotMatch", message));
    }
    let field = pod.spec.as_ref().and_then(|s| s.os.as_ref());
    if field.is_some_and(|os| os.name != OS) {
        let message = "Failed to admit pod as the OS field doesn't match node OS";
        return Err(Rejection::new("PodOSNotSupported", message));
    }
    Ok(())
}

fn node_name(pod: &Pod, node: &Node) -> Result<(), Rejection> {
    let wanted = pod
        .spec
        .as_ref()
        .and_then(|s| s.node_name.as_deref())
        .unwrap_or_default();
    if wanted.is_empty() || node.metadata.name.as_deref() == Some(wanted) {
        return Ok(());
    }
    Err(Rejection::predicate(
        "NodeName",
        "node(s) didn't match the requested node name",
    ))
}

/// NoExecute taints only, and not for static pods.
fn taints(pod: &Pod, node: &Node) -> Result<(), Rejection> {
    if is_static(pod) {
        return Ok(());
    }
    let tolerations = pod
        .spec
        .as_ref()
        .and_then(|s| s.tolerations.as_deref())
        .unwrap_or_default();
    let taints = node
        .spec
        .as_ref()
        .and_then(|s| s.taints.as_deref())
        .unwrap_or_default();
    let mut evicting = taints.iter().filter(|t| t.effect == "NoExecute");
    if evicting.all(|taint| tolerations.iter().any(|t| tolerates(t, taint))) {
        return Ok(());
    }
    Err(Rejection::predicate(
        "TaintToleration",
        "node(s) had taints that the pod didn't tolerate",
    ))
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    let same_effect = effect.is_empty() || effect == taint.effect;
    let same_key = key.is_empty() || key == taint.key;
    let value = toleration.value.as_deref().unwrap_or_default();
    same_effect
        && same_key
        && match toleration.operator.as_deref().unwrap_or_default() {
            "" | "Equal" => value == taint.value.as_deref().unwrap_or_default(),
            "Exists" => true,
            _ => false,
        }
}

/// From a file, not from the API.
pub(crate) fn is_static(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    annotations
        .and_then(|a| a.get("kubernetes.io/config.source"))
        .is_some_and(|source| source != "api")
}
