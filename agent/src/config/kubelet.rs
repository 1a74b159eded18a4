//! KubeletConfiguration `kubelet.config.k8s.io/v1beta1`, all of its fields with their defaults.
//! A field's meaning is upstream's documentation; defaults are those of Kubernetes 1.36.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;
use serde::{Deserialize, Serialize};

use super::duration;

/// A struct of the configuration: every field with its default beside it.
macro_rules! section {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $kind:ty = $default:expr,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        pub(crate) struct $name {
            $($(#[$field_meta])* pub(crate) $field: $kind,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }
    };
}

type Strings = BTreeMap<String, String>;

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn text(value: &str) -> String {
    value.to_owned()
}

section! {
    /// The node agent's configuration file.
    KubeletConfiguration {
        api_version: String = text("kubelet.config.k8s.io/v1beta1"),
        kind: String = text("KubeletConfiguration"),
        enable_server: bool = true,
        static_pod_path: String = String::new(),
        pod_logs_dir: String = text("/var/log/pods"),
        #[serde(with = "duration")]
        sync_frequency: Duration = seconds(60),
        #[serde(with = "duration")]
        file_check_frequency: Duration = seconds(20),
        #[serde(with = "duration")]
        http_check_frequency: Duration = seconds(20),
        #[serde(rename = "staticPodURL")]
        static_pod_url: String = String::new(),
        #[serde(rename = "staticPodURLHeader")]
        static_pod_url_header: BTreeMap<String, Vec<String>> = BTreeMap::new(),
        address: String = text("0.0.0.0"),
        port: u16 = 10250,
        read_only_port: u16 = 0,
        tls_cert_file: String = String::new(),
        tls_private_key_file: String = String::new(),
        tls_cipher_suites: Vec<String> = Vec::new(),
        tls_curve_preferences: Vec<i32> = Vec::new(),
        tls_min_version: String = String::new(),
        rotate_certificates: bool = false,
        #[serde(rename = "serverTLSBootstrap")]
        server_tls_bootstrap: bool = false,
        authentication: Authentication = Authentication::default(),
        authorization: Authorization = Authorization::default(),
        #[serde(rename = "registryPullQPS")]
        registry_pull_qps: i32 = 5,
        registry_burst: i32 = 10,
        image_pull_credentials_verification_policy: String = text("NeverVerifyPreloadedImages"),
        preloaded_images_verification_allowlist: Vec<String> = Vec::new(),
        #[serde(rename = "eventRecordQPS")]
        event_record_qps: i32 = 50,
        event_burst: i32 = 100,
        enable_debugging_handlers: bool = true,
        enable_contention_profiling: bool = false,
        healthz_port: u16 = 10248,
        healthz_bind_address: String = text("127.0.0.1"),
        oom_score_adj: i32 = -999,
        cluster_domain: String = String::new(),
        #[serde(rename = "clusterDNS")]
        cluster_dns: Vec<String> = Vec::new(),
        #[serde(with = "duration")]
        streaming_connection_idle_timeout: Duration = seconds(4 * 3600),
        #[serde(with = "duration")]
        node_status_update_frequency: Duration = seconds(10),
        #[serde(with = "duration")]
        node_status_report_frequency: Duration = seconds(300),
        node_lease_duration_seconds: i32 = 40,
        #[serde(rename = "imageMinimumGCAge", with = "duration")]
        image_minimum_gc_age: Duration = seconds(120),
        #[serde(rename = "imageMaximumGCAge", with = "duration")]
        image_maximum_gc_age: Duration = Duration::ZERO,
        #[serde(rename = "imageGCHighThresholdPercent")]
        image_gc_high_threshold_percent: i32 = 85,
        #[serde(rename = "imageGCLowThresholdPercent")]
        image_gc_low_threshold_percent: i32 = 80,
        #[serde(with = "duration")]
        volume_stats_agg_period: Duration = seconds(60),
        kubelet_cgroups: String = String::new(),
        system_cgroups: String = String::new(),
        cgroup_root: String = String::new(),
        #[serde(rename = "cgroupsPerQOS")]
        cgroups_per_qos: bool = true,
        cgroup_driver: String = text("cgroupfs"),
        cpu_manager_policy: String = text("none"),
        #[serde(rename = "singleProcessOOMKill")]
        single_process_oom_kill: Option<bool> = None,
        cpu_manager_policy_options: Strings = Strings::new(),
        #[serde(with = "duration")]
        cpu_manager_reconcile_period: Duration = seconds(10),
        memory_manager_policy: String = text("None"),
        topology_manager_policy: String = text("none"),
        topology_manager_scope: String = text("container"),
        topology_manager_policy_options: Strings = Strings::new(),
        qos_reserved: Strings = Strings::new(),
        #[serde(with = "duration")]
        runtime_request_timeout: Duration = seconds(120),
        hairpin_mode: String = text("promiscuous-bridge"),
        max_pods: i32 = 110,
        #[serde(rename = "podCIDR")]
        pod_cidr: String = String::new(),
        pod_pids_limit: i64 = -1,
        resolv_conf: String = text("/etc/resolv.conf"),
        run_once: bool = false,
        #[serde(rename = "cpuCFSQuota")]
        cpu_cfs_quota: bool = true,
        #[serde(rename = "cpuCFSQuotaPeriod", with = "duration")]
        cpu_cfs_quota_period: Duration = Duration::from_millis(100),
        node_status_max_images: i32 = 50,
        max_open_files: i64 = 1_000_000,
        content_type: String = text("application/vnd.kubernetes.protobuf"),
        #[serde(rename = "kubeAPIQPS")]
        kube_api_qps: i32 = 50,
        #[serde(rename = "kubeAPIBurst")]
        kube_api_burst: i32 = 100,
        serialize_image_pulls: bool = true,
        max_parallel_image_pulls: Option<i32> = None,
        eviction_hard: Strings = default_eviction_hard(),
        eviction_soft: Strings = Strings::new(),
        eviction_soft_grace_period: Strings = Strings::new(),
        #[serde(with = "duration")]
        eviction_pressure_transition_period: Duration = seconds(300),
        eviction_max_pod_grace_period: i32 = 0,
        eviction_minimum_reclaim: Strings = Strings::new(),
        merge_default_eviction_settings: bool = false,
        pods_per_core: i32 = 0,
        enable_controller_attach_detach: bool = true,
        protect_kernel_defaults: bool = false,
        #[serde(rename = "makeIPTablesUtilChains")]
        make_iptables_util_chains: bool = true,
        iptables_masquerade_bit: i32 = 14,
        iptables_drop_bit: i32 = 15,
        feature_gates: BTreeMap<String, bool> = BTreeMap::new(),
        fail_swap_on: bool = true,
        memory_swap: MemorySwap = MemorySwap::default(),
        container_log_max_size: String = text("10Mi"),
        container_log_max_files: i32 = 5,
        container_log_max_workers: i32 = 1,
        #[serde(with = "duration")]
        container_log_monitor_interval: Duration = seconds(10),
        config_map_and_secret_change_detection_strategy: String = text("Watch"),
        system_reserved: Strings = Strings::new(),
        kube_reserved: Strings = Strings::new(),
        #[serde(rename = "reservedSystemCPUs")]
        reserved_system_cpus: String = String::new(),
        show_hidden_metrics_for_version: String = String::new(),
        system_reserved_cgroup: String = String::new(),
        kube_reserved_cgroup: String = String::new(),
        enforce_node_allocatable: Vec<String> = vec![text("pods")],
        allowed_unsafe_sysctls: Vec<String> = Vec::new(),
        volume_plugin_dir: String = text("/usr/libexec/kubernetes/kubelet-plugins/volume/exec/"),
        #[serde(rename = "providerID")]
        provider_id: String = String::new(),
        kernel_memcg_notification: bool = false,
        logging: Logging = Logging::default(),
        enable_system_log_handler: bool = true,
        enable_system_log_query: bool = false,
        #[serde(with = "duration")]
        shutdown_grace_period: Duration = Duration::ZERO,
        #[serde(with = "duration")]
        shutdown_grace_period_critical_pods: Duration = Duration::ZERO,
        shutdown_grace_period_by_pod_priority: Vec<ShutdownGracePeriodByPodPriority> = Vec::new(),
        crash_loop_back_off: CrashLoopBackOff = CrashLoopBackOff::default(),
        reserved_memory: Vec<MemoryReservation> = Vec::new(),
        enable_profiling_handler: bool = true,
        enable_debug_flags_handler: bool = true,
        seccomp_default: bool = false,
        memory_throttling_factor: f64 = 0.9,
        memory_reservation_policy: String = text("None"),
        register_with_taints: Vec<Taint> = Vec::new(),
        register_node: bool = true,
        tracing: Option<Tracing> = None,
        local_storage_capacity_isolation: bool = true,
        container_runtime_endpoint: String = text("unix:///run/containerd/containerd.sock"),
        image_service_endpoint: String = String::new(),
        fail_cgroup_v1: bool = true,
        user_namespaces: UserNamespaces = UserNamespaces::default(),
    }
}

section! {
    /// Who may call the agent's API.
    Authentication {
        x509: X509Authentication = X509Authentication::default(),
        webhook: WebhookAuthentication = WebhookAuthentication::default(),
        anonymous: AnonymousAuthentication = AnonymousAuthentication::default(),
    }
}

section! {
    /// Client certificates.
    X509Authentication {
        #[serde(rename = "clientCAFile")]
        client_ca_file: String = String::new(),
    }
}

section! {
    /// Bearer tokens by TokenReview.
    WebhookAuthentication {
        enabled: bool = true,
        #[serde(rename = "cacheTTL", with = "duration")]
        cache_ttl: Duration = seconds(120),
    }
}

section! {
    /// Requests without credentials.
    AnonymousAuthentication {
        enabled: bool = false,
    }
}

section! {
    /// What an authenticated caller may do: `Webhook` or `AlwaysAllow`.
    Authorization {
        mode: String = text("Webhook"),
        webhook: WebhookAuthorization = WebhookAuthorization::default(),
    }
}

section! {
    /// How long SubjectAccessReview answers are kept.
    WebhookAuthorization {
        #[serde(rename = "cacheAuthorizedTTL", with = "duration")]
        cache_authorized_ttl: Duration = seconds(300),
        #[serde(rename = "cacheUnauthorizedTTL", with = "duration")]
        cache_unauthorized_ttl: Duration = seconds(30),
    }
}

section! {
    /// `NoSwap` (also when empty) or `LimitedSwap`.
    MemorySwap {
        swap_behavior: String = String::new(),
    }
}

section! {
    /// Log format and verbosity. `flushFrequency` is a Go duration or nanoseconds.
    Logging {
        format: String = text("text"),
        flush_frequency: serde_json::Value = serde_json::Value::String(text("5s")),
        verbosity: u32 = 0,
        vmodule: serde_json::Value = serde_json::Value::Array(Vec::new()),
        options: serde_json::Value = serde_json::Value::Object(serde_json::Map::new()),
    }
}

section! {
    /// Grace for pods of a priority and above at node shutdown.
    ShutdownGracePeriodByPodPriority {
        priority: i32 = 0,
        shutdown_grace_period_seconds: i64 = 0,
    }
}

section! {
    /// The longest pause before a crashed container is started again.
    CrashLoopBackOff {
        #[serde(with = "duration")]
        max_container_restart_period: Duration = seconds(300),
    }
}

section! {
    /// Memory kept from the pods of one NUMA node.
    MemoryReservation {
        numa_node: i32 = 0,
        limits: Strings = Strings::new(),
    }
}

section! {
    /// OTLP traces.
    Tracing {
        endpoint: Option<String> = None,
        sampling_rate_per_million: Option<i32> = None,
    }
}

section! {
    /// Ids a pod gets in a user namespace.
    UserNamespaces {
        ids_per_pod: i64 = 65_536,
    }
}

/// The hard eviction thresholds of Linux when the file gives none.
pub(super) fn default_eviction_hard() -> Strings {
    [
        ("memory.available", "100Mi"),
        ("nodefs.available", "10%"),
        ("nodefs.inodesFree", "5%"),
        ("imagefs.available", "15%"),
        ("imagefs.inodesFree", "5%"),
    ]
    .map(|(signal, value)| (text(signal), text(value)))
    .into()
}
