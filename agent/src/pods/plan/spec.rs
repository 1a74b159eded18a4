//! The containers of a pod as the planner reads them: one list, whatever their kind.

use k8s_openapi::api::core::v1::{ContainerRestartRule, Pod, PodSpec, ResourceRequirements, VolumeMount};

use super::action::PullPolicy;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Runs to completion before the next may start.
    Init,
    /// An init container with restartPolicy Always: keeps running beside the regular ones.
    Sidecar,
    Regular,
    /// Added to a running pod, never restarted.
    Ephemeral,
}

/// What the planner needs of a container's definition.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ContainerSpec<'a> {
    pub(crate) kind: Kind,
    pub(crate) name: &'a str,
    pub(crate) image: &'a str,
    pub(crate) pull_policy: PullPolicy,
    restart_policy: Option<&'a str>,
    restart_rules: &'a [ContainerRestartRule],
    pub(crate) resources: Option<&'a ResourceRequirements>,
    pub(crate) mounts: &'a [VolumeMount],
}

/// The pod's restart policy; the API server's default is Always.
pub(crate) fn restart_policy(spec: &PodSpec) -> &str {
    spec.restart_policy.as_deref().unwrap_or("Always")
}

/// All containers: init and sidecars in order of the spec, then regular, then ephemeral ones.
pub(crate) fn containers(pod: &Pod) -> Vec<ContainerSpec<'_>> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let init = spec.init_containers.iter().flatten().map(|c| {
        let sidecar = c.restart_policy.as_deref() == Some("Always");
        of_container(c, if sidecar { Kind::Sidecar } else { Kind::Init })
    });
    let regular = spec.containers.iter().map(|c| of_container(c, Kind::Regular));
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| ContainerSpec {
        kind: Kind::Ephemeral,
        name: &c.name,
        image: c.image.as_deref().unwrap_or_default(),
        pull_policy: pull_policy(c.image_pull_policy.as_deref(), c.image.as_deref()),
        restart_policy: None,
        restart_rules: &[],
        resources: None,
        mounts: c.volume_mounts.as_deref().unwrap_or_default(),
    });
    init.chain(regular).chain(ephemeral).collect()
}

fn of_container(c: &k8s_openapi::api::core::v1::Container, kind: Kind) -> ContainerSpec<'_> {
    ContainerSpec {
        kind,
        name: &c.name,
        image: c.image.as_deref().unwrap_or_default(),
        pull_policy: pull_policy(c.image_pull_policy.as_deref(), c.image.as_deref()),
        restart_policy: c.restart_policy.as_deref(),
        restart_rules: c.restart_policy_rules.as_deref().unwrap_or_default(),
        resources: c.resources.as_ref(),
        mounts: c.volume_mounts.as_deref().unwrap_or_default(),
    }
}

/// Unset (static pods, `play`) defaults as the API server does it: Always for `latest` and untagged images.
fn pull_policy(policy: Option<&str>, image: Option<&str>) -> PullPolicy {
    match policy {
        Some("Always") => PullPolicy::Always,
        Some("Never") => PullPolicy::Never,
        Some("IfNotPresent") => PullPolicy::IfNotPresent,
        _ => {
            let image = image.unwrap_or_default();
            let last = image.rsplit('/').next().unwrap_or_default();
            let latest = last.ends_with(":latest") || !last.contains(':');
            if latest && !image.contains('@') {
                PullPolicy::Always
            } else {
                PullPolicy::IfNotPresent
            }
        }
    }
}

impl ContainerSpec<'_> {
    /// Whether it starts again after an exit with `code`.
    pub(crate) fn may_restart(&self, pod: &PodSpec, code: i32) -> bool {
        if self.kind == Kind::Ephemeral {
            return false;
        }
        if self.restart_policy.is_some() && self.restart_rules.iter().any(|rule| matches_exit(rule, code)) {
            return true;
        }
        let pod_policy = restart_policy(pod);
        // An init container that has succeeded is done, also in a pod that restarts Always.
        let default = if self.kind == Kind::Init && pod_policy == "Always" {
            "OnFailure"
        } else {
            pod_policy
        };
        match self.restart_policy.unwrap_or(default) {
            "Never" => false,
            "OnFailure" => code != 0,
            _ => true,
        }
    }

    /// Of what makes a running container outdated: its name and image. FNV-1a, as hexadecimal digits.
    pub(crate) fn hash(&self) -> String {
        format!("{:x}", fnv1a(&[self.name, self.image]))
    }

    /// Of what resets its crash back-off: image and resources.
    pub(crate) fn backoff_key(&self) -> u64 {
        let resources = format!("{:?}", self.resources);
        fnv1a(&[self.image, &resources])
    }
}

fn matches_exit(rule: &ContainerRestartRule, code: i32) -> bool {
    let Some(codes) = &rule.exit_codes else {
        return false;
    };
    let listed = codes.values.iter().flatten().any(|v| *v == code);
    match codes.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        _ => false,
    }
}

/// FNV-1a, 64 bits, each part ended by a byte that no name holds.
fn fnv1a(parts: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parts.iter().flat_map(|p| p.bytes().chain([0])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash
}
