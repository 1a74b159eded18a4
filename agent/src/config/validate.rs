//! Values that are well formed and cannot work, with upstream's words; all faults are told at once.

use std::net::IpAddr;
use std::time::Duration;

use super::KubeletConfiguration;
use super::quantity::Amount;

/// Collects what is wrong.
struct Faults(Vec<String>);

impl Faults {
    fn unless(&mut self, holds: bool, fault: impl FnOnce() -> String) {
        if !holds {
            self.0.push(fault());
        }
    }

    fn one_of(&mut self, key: &str, value: &str, allowed: &[&str]) {
        self.unless(allowed.contains(&value), || {
            format!("{key} {value:?} must be one of: {allowed:?}")
        });
    }

    fn not_negative(&mut self, key: &str, value: i64) {
        self.unless(value >= 0, || {
            format!("{key} {value} must not be a negative number")
        });
    }

    fn between(&mut self, key: &str, value: i64, low: i64, high: i64) {
        self.unless((low..=high).contains(&value), || {
            format!("{key} {value} must be between {low} and {high}, inclusive")
        });
    }

    fn address(&mut self, key: &str, value: &str) {
        self.unless(value.parse::<IpAddr>().is_ok(), || {
            format!("{key} {value:?} must be an IP address")
        });
    }
}

/// All faults of `config`, none when it can work.
pub(super) fn faults(config: &KubeletConfiguration) -> Vec<String> {
    let mut faults = Faults(Vec::new());
    numbers(config, &mut faults);
    words(config, &mut faults);
    periods(config, &mut faults);
    reservations(config, &mut faults);
    enforcement(config, &mut faults);
    faults.0
}

fn numbers(config: &KubeletConfiguration, faults: &mut Faults) {
    faults.unless(config.node_lease_duration_seconds > 0, || {
        "nodeLeaseDurationSeconds must be greater than 0".to_owned()
    });
    faults.not_negative("eventBurst (--event-burst)", config.event_burst.into());
    faults.not_negative("eventRecordQPS (--event-qps)", config.event_record_qps.into());
    faults.not_negative("kubeAPIBurst (--kube-api-burst)", config.kube_api_burst.into());
    faults.not_negative("kubeAPIQPS (--kube-api-qps)", config.kube_api_qps.into());
    faults.not_negative("maxOpenFiles (--max-open-files)", config.max_open_files);
    faults.not_negative("maxPods (--max-pods)", config.max_pods.into());
    faults.not_negative("podsPerCore (--pods-per-core)", config.pods_per_core.into());
    faults.not_negative("registryBurst (--registry-burst)", config.registry_burst.into());
    faults.not_negative(
        "registryPullQPS (--registry-qps)",
        config.registry_pull_qps.into(),
    );
    faults.between(
        "oomScoreAdj (--oom-score-adj)",
        config.oom_score_adj.into(),
        -1000,
        1000,
    );
    faults.between("iptablesDropBit", config.iptables_drop_bit.into(), 0, 31);
    faults.between(
        "iptablesMasqueradeBit",
        config.iptables_masquerade_bit.into(),
        0,
        31,
    );
    let (high, low) = (
        config.image_gc_high_threshold_percent,
        config.image_gc_low_threshold_percent,
    );
    faults.between(
        "imageGCHighThresholdPercent (--image-gc-high-threshold)",
        high.into(),
        0,
        100,
    );
    faults.between(
        "imageGCLowThresholdPercent (--image-gc-low-threshold)",
        low.into(),
        0,
        100,
    );
    faults.unless(low < high, || {
        format!("imageGCLowThresholdPercent (--image-gc-low-threshold) {low} must be less than imageGCHighThresholdPercent (--image-gc-high-threshold) {high}")
    });
    faults.unless(config.node_status_max_images >= -1, || {
        format!(
            "nodeStatusMaxImages (--node-status-max-images) {} must be -1 or greater",
            config.node_status_max_images
        )
    });
    let parallel = config.max_parallel_image_pulls;
    faults.unless(parallel.is_none_or(|count| count >= 1), || {
        "maxParallelImagePulls must be a positive number".to_owned()
    });
    faults.unless(!config.serialize_image_pulls || parallel.is_none_or(|count| count <= 1), || {
        "maxParallelImagePulls cannot be larger than 1 unless serializeImagePulls (--serialize-image-pulls) is set to false".to_owned()
    });
    faults.unless(config.container_log_max_files > 1, || {
        format!(
            "containerLogMaxFiles {} must be greater than 1",
            config.container_log_max_files
        )
    });
    let factor = config.memory_throttling_factor;
    faults.unless(factor > 0.0 && factor <= 1.0, || {
        format!("memoryThrottlingFactor {factor} must be greater than 0 and less than or equal to 1.0")
    });
    faults.unless(
        config.user_namespaces.ids_per_pod > 0 && config.user_namespaces.ids_per_pod % 65_536 == 0,
        || {
            format!(
                "userNamespaces.idsPerPod {} must be a multiple of 65536",
                config.user_namespaces.ids_per_pod
            )
        },
    );
}

fn words(config: &KubeletConfiguration, faults: &mut Faults) {
    faults.one_of(
        "cgroupDriver (--cgroup-driver)",
        &config.cgroup_driver,
        &["cgroupfs", "systemd"],
    );
    faults.one_of(
        "authorization.mode (--authorization-mode)",
        &config.authorization.mode,
        &["AlwaysAllow", "Webhook"],
    );
    faults.one_of(
        "cpuManagerPolicy",
        &config.cpu_manager_policy,
        &["none", "static"],
    );
    faults.one_of(
        "memoryManagerPolicy",
        &config.memory_manager_policy,
        &["None", "Static"],
    );
    faults.one_of(
        "topologyManagerPolicy (--topology-manager-policy)",
        &config.topology_manager_policy,
        &["none", "best-effort", "restricted", "single-numa-node"],
    );
    faults.one_of(
        "topologyManagerScope (--topology-manager-scope)",
        &config.topology_manager_scope,
        &["container", "pod"],
    );
    faults.one_of(
        "hairpinMode (--hairpin-mode)",
        &config.hairpin_mode,
        &["none", "hairpin-veth", "promiscuous-bridge"],
    );
    faults.one_of(
        "memorySwap.swapBehavior",
        &config.memory_swap.swap_behavior,
        &["", "LimitedSwap", "NoSwap"],
    );
    faults.one_of(
        "memoryReservationPolicy",
        &config.memory_reservation_policy,
        &["None", "TieredReservation"],
    );
    faults.one_of("logging.format", &config.logging.format, &["text", "json"]);
    faults.one_of(
        "imagePullCredentialsVerificationPolicy",
        &config.image_pull_credentials_verification_policy,
        &[
            "NeverVerify",
            "NeverVerifyPreloadedImages",
            "NeverVerifyAllowlistedImages",
            "AlwaysVerify",
        ],
    );
    faults.one_of(
        "configMapAndSecretChangeDetectionStrategy",
        &config.config_map_and_secret_change_detection_strategy,
        &["Watch", "Cache", "Get"],
    );
    faults.one_of(
        "tlsMinVersion (--tls-min-version)",
        &config.tls_min_version,
        &["", "VersionTLS12", "VersionTLS13"],
    );
    faults.address("address (--address)", &config.address);
    faults.address(
        "healthzBindAddress (--healthz-bind-address)",
        &config.healthz_bind_address,
    );
    for server in &config.cluster_dns {
        faults.address("clusterDNS (--cluster-dns)", server);
    }
    faults.unless(config.tls_cert_file.is_empty() == config.tls_private_key_file.is_empty(), || {
        "tlsCertFile (--tls-cert-file) and tlsPrivateKeyFile (--tls-private-key-file) must be given together".to_owned()
    });
    faults.unless(!config.run_once, || {
        "runOnce (--runonce): Runonce mode has been deprecated and should not be set".to_owned()
    });
    for taint in &config.register_with_taints {
        let effect = taint.effect.as_str();
        let known = ["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect);
        faults.unless(known && !taint.key.is_empty(), || {
            format!(
                "invalid taint {}={}:{effect}",
                taint.key,
                taint.value.as_deref().unwrap_or_default()
            )
        });
    }
    faults.unless(
        !config.enable_system_log_query || config.enable_system_log_handler,
        || "enableSystemLogHandler is required for enableSystemLogQuery".to_owned(),
    );
}

fn periods(config: &KubeletConfiguration, faults: &mut Faults) {
    let (least, age) = (config.image_minimum_gc_age, config.image_maximum_gc_age);
    faults.unless(age.is_zero() || age > least, || {
        format!("imageMaximumGCAge {age:?} must be greater than imageMinimumGCAge {least:?}")
    });
    let quota = config.cpu_cfs_quota_period;
    faults.unless(
        (Duration::from_millis(1)..=Duration::from_secs(1)).contains(&quota),
        || {
            format!(
                "cpuCFSQuotaPeriod (--cpu-cfs-quota-period) {quota:?} must be between 1ms and 1sec, inclusive"
            )
        },
    );
    let back_off = config.crash_loop_back_off.max_container_restart_period;
    faults.unless(
        (Duration::from_secs(1)..=Duration::from_secs(300)).contains(&back_off),
        || format!("crashLoopBackOff.maxContainerRestartPeriod {back_off:?} must be set between 1s and 300s"),
    );
    let (all, critical) = (
        config.shutdown_grace_period,
        config.shutdown_grace_period_critical_pods,
    );
    faults.unless(critical <= all, || {
        format!("shutdownGracePeriodCriticalPods {critical:?} must be <= shutdownGracePeriod {all:?}")
    });
    for (key, period) in [
        ("shutdownGracePeriod", all),
        ("shutdownGracePeriodCriticalPods", critical),
    ] {
        faults.unless(period.is_zero() || period >= Duration::from_secs(1), || {
            format!("{key} {period:?} must be either zero or otherwise >= 1 sec")
        });
    }
    faults.unless(
        config.shutdown_grace_period_by_pod_priority.is_empty() || all.is_zero(),
        || {
            "cannot specify both shutdownGracePeriodByPodPriority and shutdownGracePeriod at the same time"
                .to_owned()
        },
    );
}

fn reservations(config: &KubeletConfiguration, faults: &mut Faults) {
    for (key, map) in [
        ("systemReserved", &config.system_reserved),
        ("kubeReserved", &config.kube_reserved),
    ] {
        for (resource, quantity) in map {
            let known = ["cpu", "memory", "ephemeral-storage", "pid"].contains(&resource.as_str());
            faults.unless(known, || {
                format!(
                    "{key}: cannot reserve {resource:?} resource, only cpu, memory, ephemeral-storage and pid"
                )
            });
            match Amount::parse(quantity) {
                Ok(amount) => faults.unless(amount >= Amount::default(), || {
                    format!("{key}: resource quantity for {resource:?} cannot be negative: {quantity}")
                }),
                Err(cause) => faults.0.push(format!("{key}: {resource}: {cause}")),
            }
        }
    }
    if let Err(cause) = Amount::parse(&config.container_log_max_size) {
        faults.0.push(format!("containerLogMaxSize: {cause}"));
    }
    let signals = [
        ("evictionHard", &config.eviction_hard),
        ("evictionSoft", &config.eviction_soft),
    ];
    for (key, thresholds) in signals {
        for (signal, threshold) in thresholds {
            faults.unless(EVICTION_SIGNALS.contains(&signal.as_str()), || {
                format!("{key}: unknown eviction signal {signal:?}, it must be one of: {EVICTION_SIGNALS:?}")
            });
            faults.unless(is_threshold(threshold), || {
                format!("{key}: {signal}: invalid threshold {threshold:?}, write a percentage or a quantity")
            });
        }
    }
    for signal in config.eviction_soft.keys() {
        faults.unless(config.eviction_soft_grace_period.contains_key(signal), || {
            format!("evictionSoft: grace period must be specified for the soft eviction threshold {signal}")
        });
    }
}

const EVICTION_SIGNALS: [&str; 9] = [
    "memory.available",
    "nodefs.available",
    "nodefs.inodesFree",
    "imagefs.available",
    "imagefs.inodesFree",
    "containerfs.available",
    "containerfs.inodesFree",
    "pid.available",
    "allocatableMemory.available",
];

fn is_threshold(text: &str) -> bool {
    match text.strip_suffix('%') {
        Some(percent) => percent
            .parse::<f64>()
            .is_ok_and(|value| (0.0..=100.0).contains(&value)),
        None => Amount::parse(text).is_ok_and(|amount| amount >= Amount::default()),
    }
}

fn enforcement(config: &KubeletConfiguration, faults: &mut Faults) {
    let all = &config.enforce_node_allocatable;
    let has = |word: &str| all.iter().any(|one| one == word);
    for word in all {
        match word.as_str() {
            "none" => faults.unless(all.len() == 1, || {
                "enforceNodeAllocatable (--enforce-node-allocatable) may not contain additional enforcements when \"none\" is specified".to_owned()
            }),
            "pods" => {}
            "system-reserved" | "system-reserved-compressible" => {
                faults.unless(!config.system_reserved_cgroup.is_empty(), || {
                    format!("systemReservedCgroup (--system-reserved-cgroup) must be specified when {word:?} is in enforceNodeAllocatable")
                });
            }
            "kube-reserved" | "kube-reserved-compressible" => {
                faults.unless(!config.kube_reserved_cgroup.is_empty(), || {
                    format!("kubeReservedCgroup (--kube-reserved-cgroup) must be specified when {word:?} is in enforceNodeAllocatable")
                });
            }
            _ => faults.one_of(
                "enforceNodeAllocatable (--enforce-node-allocatable)",
                word,
                &["pods", "system-reserved", "system-reserved-compressible", "kube-reserved", "kube-reserved-compressible", "none"],
            ),
        }
    }
    faults.unless(config.cgroups_per_qos || all.is_empty() || has("none"), || {
        "cgroupsPerQOS (--cgroups-per-qos) must be set to true when enforceNodeAllocatable (--enforce-node-allocatable) is not empty".to_owned()
    });
    for reserved in ["system-reserved", "kube-reserved"] {
        let compressible = format!("{reserved}-compressible");
        faults.unless(!(has(reserved) && has(&compressible)), || {
            format!("both {reserved:?} and {compressible:?} cannot be specified together in enforceNodeAllocatable (--enforce-node-allocatable)")
        });
    }
}
