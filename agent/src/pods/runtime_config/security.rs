//! Security contexts: the pod's and the container's merged, in CRI's shape. Contract §14.

use std::path::Path;

use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, Pod, PodSecurityContext, SELinuxOptions, SeccompProfile, SecurityContext,
};
use proto::cri;
use proto::cri::security_profile::ProfileType;

use super::error::ConfigError;

/// Hidden in each container's /proc and /sys, unless procMount says otherwise.
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Read-only in each container's /proc.
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];
const APPARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Who an image runs as, from ImageStatus.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ImageUser {
    /// A numeric user.
    pub(crate) uid: Option<i64>,
    /// A user by name; empty without.
    pub(crate) username: String,
}

/// What of the node a security context depends on.
#[derive(Debug, Clone)]
pub(crate) struct SecurityFacts<'a> {
    /// `seccompDefault`.
    pub(crate) seccomp_default: bool,
    /// Directory of Localhost profiles.
    pub(crate) seccomp_root: &'a Path,
    /// Paths to hide beside the fixed ones: each CPU's `thermal_throttle` that exists.
    pub(crate) thermal_throttle: &'a [String],
}

/// The container's security context with the pod's values where it has none of its own.
pub(crate) fn effective(pod: &Pod, container: &Container) -> SecurityContext {
    let mut merged = container.security_context.clone().unwrap_or_default();
    let Some(of_pod) = pod_context(pod) else {
        return merged;
    };
    merged.run_as_user = merged.run_as_user.or(of_pod.run_as_user);
    merged.run_as_group = merged.run_as_group.or(of_pod.run_as_group);
    merged.run_as_non_root = merged.run_as_non_root.or(of_pod.run_as_non_root);
    merged.se_linux_options = merged
        .se_linux_options
        .or_else(|| of_pod.se_linux_options.clone());
    merged
}

fn pod_context(pod: &Pod) -> Option<&PodSecurityContext> {
    pod.spec.as_ref()?.security_context.as_ref()
}

/// runAsNonRoot, judged before a container is made.
///
/// # Errors
/// [`ConfigError::NonRoot`] in upstream's words.
pub(crate) fn verify_non_root(
    pod: &Pod,
    container: &Container,
    image: &ImageUser,
) -> Result<(), ConfigError> {
    let merged = effective(pod, container);
    if merged.run_as_non_root != Some(true) {
        return Ok(());
    }
    let place = || {
        format!(
            "(pod: {:?}, container: {})",
            super::pod_reference(pod),
            container.name
        )
    };
    let refused = |words: String| Err(ConfigError::NonRoot(format!("{words} {}", place())));
    match (merged.run_as_user, image.uid) {
        (Some(0), _) => refused("container's runAsUser breaks non-root policy".to_owned()),
        (Some(_), _) => Ok(()),
        (None, Some(0)) => refused("container has runAsNonRoot and image will run as root".to_owned()),
        (None, Some(uid)) if !(0..=i64::from(i32::MAX)).contains(&uid) => refused(format!(
            "container has runAsNonRoot and image has an invalid user id ({uid}). (Must be 1-({})): must be between 0 \
             and 2147483647, inclusive",
            i32::MAX
        )),
        (None, None) if !image.username.is_empty() => refused(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root",
            image.username
        )),
        _ => Ok(()),
    }
}

/// The namespaces of `pod`, as its containers have them.
pub(crate) fn namespaces(pod: &Pod, target: Option<&str>) -> cri::NamespaceOption {
    use cri::NamespaceMode as Mode;
    let spec = pod.spec.as_ref();
    let is = |flag: Option<bool>| flag.unwrap_or(false);
    let host_or_pod = |host: bool| if host { Mode::Node } else { Mode::Pod };
    let mut pid = if is(spec.and_then(|s| s.host_pid)) {
        Mode::Node
    } else if is(spec.and_then(|s| s.share_process_namespace)) {
        Mode::Pod
    } else {
        Mode::Container
    };
    let mut target_id = String::new();
    if let (Some(target), Mode::Container) = (target, pid) {
        pid = Mode::Target;
        target_id = target.to_owned();
    }
    cri::NamespaceOption {
        network: host_or_pod(is(spec.and_then(|s| s.host_network))).into(),
        pid: pid.into(),
        ipc: host_or_pod(is(spec.and_then(|s| s.host_ipc))).into(),
        target_id,
        userns_options: None,
    }
}

/// fsGroup, then the pod's own list.
pub(crate) fn supplemental_groups(pod: &Pod) -> Vec<i64> {
    let context = pod_context(pod);
    let own = context
        .and_then(|c| c.supplemental_groups.as_deref())
        .unwrap_or_default();
    context
        .and_then(|c| c.fs_group)
        .into_iter()
        .chain(own.iter().copied())
        .collect()
}

/// Merge or Strict.
///
/// # Errors
/// Another word.
pub(crate) fn groups_policy(pod: &Pod) -> Result<cri::SupplementalGroupsPolicy, ConfigError> {
    match pod_context(pod).and_then(|c| c.supplemental_groups_policy.as_deref()) {
        None | Some("Merge") => Ok(cri::SupplementalGroupsPolicy::Merge),
        Some("Strict") => Ok(cri::SupplementalGroupsPolicy::Strict),
        Some(other) => Err(ConfigError::Invalid {
            what: "unsupported supplementalGroupsPolicy",
            value: other.to_owned(),
        }),
    }
}

/// SELinux options in CRI's shape.
pub(crate) fn selinux(options: Option<&SELinuxOptions>) -> Option<cri::SeLinuxOption> {
    let options = options?;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    Some(cri::SeLinuxOption {
        user: text(&options.user),
        role: text(&options.role),
        r#type: text(&options.type_),
        level: text(&options.level),
    })
}

/// The security context of a container.
///
/// # Errors
/// Profiles that are not complete, or an unknown policy.
pub(crate) fn container_context(
    pod: &Pod,
    container: &Container,
    image: &ImageUser,
    target: Option<&str>,
    facts: &SecurityFacts<'_>,
) -> Result<cri::LinuxContainerSecurityContext, ConfigError> {
    let merged = effective(pod, container);
    let int = |value: Option<i64>| value.map(|value| cri::Int64Value { value });
    let (apparmor, apparmor_profile) = apparmor(pod, container)?;
    let unmasked = merged.proc_mount.as_deref() == Some("Unmasked");
    let paths = |fixed: &[&str], more: &[String]| {
        if unmasked {
            return Vec::new();
        }
        fixed
            .iter()
            .map(|p| (*p).to_owned())
            .chain(more.iter().cloned())
            .collect()
    };
    let mut context = cri::LinuxContainerSecurityContext {
        capabilities: merged.capabilities.as_ref().map(|own| cri::Capability {
            add_capabilities: own.add.clone().unwrap_or_default(),
            drop_capabilities: own.drop.clone().unwrap_or_default(),
            ..Default::default()
        }),
        privileged: merged.privileged.unwrap_or(false),
        namespace_options: Some(namespaces(pod, target)),
        selinux_options: selinux(merged.se_linux_options.as_ref()),
        run_as_user: int(merged.run_as_user),
        run_as_group: int(merged.run_as_group),
        readonly_rootfs: merged.read_only_root_filesystem.unwrap_or(false),
        supplemental_groups: supplemental_groups(pod),
        supplemental_groups_policy: groups_policy(pod)?.into(),
        no_new_privs: merged.allow_privilege_escalation == Some(false),
        masked_paths: paths(&MASKED, facts.thermal_throttle),
        readonly_paths: paths(&READ_ONLY, &[]),
        seccomp: Some(seccomp(pod, container, facts)?),
        apparmor,
        ..Default::default()
    };
    #[expect(deprecated, reason = "runtimes before CRI's structured profile read this one")]
    {
        context.apparmor_profile = apparmor_profile;
    }
    if context.run_as_user.is_none() {
        context.run_as_user = int(image.uid);
        context.run_as_username.clone_from(&image.username);
    }
    Ok(context)
}

fn profile(kind: ProfileType, localhost_ref: String) -> cri::SecurityProfile {
    cri::SecurityProfile {
        profile_type: kind.into(),
        localhost_ref,
    }
}

fn seccomp(
    pod: &Pod,
    container: &Container,
    facts: &SecurityFacts<'_>,
) -> Result<cri::SecurityProfile, ConfigError> {
    let own = container
        .security_context
        .as_ref()
        .and_then(|c| c.seccomp_profile.as_ref());
    let chosen = own.or_else(|| pod_context(pod)?.seccomp_profile.as_ref());
    match chosen {
        None if facts.seccomp_default => Ok(profile(ProfileType::RuntimeDefault, String::new())),
        Some(SeccompProfile { type_, .. }) if type_ == "RuntimeDefault" => {
            Ok(profile(ProfileType::RuntimeDefault, String::new()))
        }
        Some(SeccompProfile {
            type_,
            localhost_profile,
        }) if type_ == "Localhost" => {
            let name = localhost_profile
                .as_deref()
                .filter(|name| !name.is_empty())
                .ok_or(ConfigError::Profile(
                    "localhostProfile must be set if seccompProfile type is Localhost.",
                ))?;
            let file = facts.seccomp_root.join(name.trim_start_matches('/'));
            Ok(profile(ProfileType::Localhost, file.display().to_string()))
        }
        _ => Ok(profile(ProfileType::Unconfined, String::new())),
    }
}

/// The AppArmor profile: container's field, then the annotation, then the pod's field.
fn apparmor(pod: &Pod, container: &Container) -> Result<(Option<cri::SecurityProfile>, String), ConfigError> {
    let own = container
        .security_context
        .as_ref()
        .and_then(|c| c.app_armor_profile.clone());
    let chosen = own
        .or_else(|| apparmor_annotation(pod, &container.name))
        .or_else(|| pod_context(pod)?.app_armor_profile.clone());
    let Some(AppArmorProfile {
        type_,
        localhost_profile,
    }) = chosen
    else {
        return Ok((None, String::new()));
    };
    match type_.as_str() {
        "RuntimeDefault" => Ok((
            Some(profile(ProfileType::RuntimeDefault, String::new())),
            "runtime/default".to_owned(),
        )),
        "Unconfined" => Ok((
            Some(profile(ProfileType::Unconfined, String::new())),
            "unconfined".to_owned(),
        )),
        "Localhost" => {
            let name =
                localhost_profile.ok_or(ConfigError::Profile("missing localhost apparmor profile name"))?;
            let text = format!("localhost/{name}");
            Ok((Some(profile(ProfileType::Localhost, name)), text))
        }
        _ => Err(ConfigError::Invalid {
            what: "unknown apparmor profile type",
            value: type_,
        }),
    }
}

fn apparmor_annotation(pod: &Pod, container: &str) -> Option<AppArmorProfile> {
    let text = pod
        .metadata
        .annotations
        .as_ref()?
        .get(&format!("{APPARMOR_ANNOTATION}{container}"))?;
    let (kind, name) = match text.as_str() {
        "runtime/default" => ("RuntimeDefault", None),
        "unconfined" => ("Unconfined", None),
        other => ("Localhost", Some(other.strip_prefix("localhost/")?.to_owned())),
    };
    Some(AppArmorProfile {
        type_: kind.to_owned(),
        localhost_profile: name,
    })
}
