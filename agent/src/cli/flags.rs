//! The kubelet's flags as data: name, kind of value, and the key of the configuration it sets.
//! Source: the kubelet command's reference; deprecated flags are kept where configuration backs them.

use serde_json::{Map, Value, json};

/// How a flag's text becomes a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Bool,
    Number,
    /// Comma-separated words.
    List,
    /// `k=v,k=v`
    Map,
    /// `k<v,k<v`
    Thresholds,
    /// `Gate=true,…`
    Gates,
    /// `Header:value,…`
    Headers,
    /// `key=value:effect,…`
    Taints,
    /// `node:resource=quantity,…;…`
    ReservedMemory,
}

/// A flag that sets a key of the configuration.
pub(super) struct ConfigFlag {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) key: &'static str,
}

const fn flag(name: &'static str, kind: Kind, key: &'static str) -> ConfigFlag {
    ConfigFlag { name, kind, key }
}

use Kind::{Bool, Gates, Headers, List, Number, ReservedMemory, Taints, Text, Thresholds};

/// All of them.
pub(super) const CONFIG_FLAGS: &[ConfigFlag] = &[
    flag("address", Text, "address"),
    flag("allowed-unsafe-sysctls", List, "allowedUnsafeSysctls"),
    flag("anonymous-auth", Bool, "authentication.anonymous.enabled"),
    flag(
        "authentication-token-webhook",
        Bool,
        "authentication.webhook.enabled",
    ),
    flag(
        "authentication-token-webhook-cache-ttl",
        Text,
        "authentication.webhook.cacheTTL",
    ),
    flag("authorization-mode", Text, "authorization.mode"),
    flag(
        "authorization-webhook-cache-authorized-ttl",
        Text,
        "authorization.webhook.cacheAuthorizedTTL",
    ),
    flag(
        "authorization-webhook-cache-unauthorized-ttl",
        Text,
        "authorization.webhook.cacheUnauthorizedTTL",
    ),
    flag("cgroup-driver", Text, "cgroupDriver"),
    flag("cgroup-root", Text, "cgroupRoot"),
    flag("cgroups-per-qos", Bool, "cgroupsPerQOS"),
    flag("client-ca-file", Text, "authentication.x509.clientCAFile"),
    flag("cluster-dns", List, "clusterDNS"),
    flag("cluster-domain", Text, "clusterDomain"),
    flag("container-log-max-files", Number, "containerLogMaxFiles"),
    flag("container-log-max-size", Text, "containerLogMaxSize"),
    flag("container-runtime-endpoint", Text, "containerRuntimeEndpoint"),
    flag("contention-profiling", Bool, "enableContentionProfiling"),
    flag("cpu-cfs-quota", Bool, "cpuCFSQuota"),
    flag("cpu-cfs-quota-period", Text, "cpuCFSQuotaPeriod"),
    flag("cpu-manager-policy", Text, "cpuManagerPolicy"),
    flag("cpu-manager-policy-options", Kind::Map, "cpuManagerPolicyOptions"),
    flag("cpu-manager-reconcile-period", Text, "cpuManagerReconcilePeriod"),
    flag(
        "enable-controller-attach-detach",
        Bool,
        "enableControllerAttachDetach",
    ),
    flag("enable-debugging-handlers", Bool, "enableDebuggingHandlers"),
    flag("enable-server", Bool, "enableServer"),
    flag("enforce-node-allocatable", List, "enforceNodeAllocatable"),
    flag("event-burst", Number, "eventBurst"),
    flag("event-qps", Number, "eventRecordQPS"),
    flag("eviction-hard", Thresholds, "evictionHard"),
    flag(
        "eviction-max-pod-grace-period",
        Number,
        "evictionMaxPodGracePeriod",
    ),
    flag("eviction-minimum-reclaim", Kind::Map, "evictionMinimumReclaim"),
    flag(
        "eviction-pressure-transition-period",
        Text,
        "evictionPressureTransitionPeriod",
    ),
    flag("eviction-soft", Thresholds, "evictionSoft"),
    flag("eviction-soft-grace-period", Kind::Map, "evictionSoftGracePeriod"),
    flag("fail-cgroupv1", Bool, "failCgroupV1"),
    flag("fail-swap-on", Bool, "failSwapOn"),
    flag("feature-gates", Gates, "featureGates"),
    flag("file-check-frequency", Text, "fileCheckFrequency"),
    flag("hairpin-mode", Text, "hairpinMode"),
    flag("healthz-bind-address", Text, "healthzBindAddress"),
    flag("healthz-port", Number, "healthzPort"),
    flag("http-check-frequency", Text, "httpCheckFrequency"),
    flag("image-gc-high-threshold", Number, "imageGCHighThresholdPercent"),
    flag("image-gc-low-threshold", Number, "imageGCLowThresholdPercent"),
    flag("image-service-endpoint", Text, "imageServiceEndpoint"),
    flag("kernel-memcg-notification", Bool, "kernelMemcgNotification"),
    flag("kube-api-burst", Number, "kubeAPIBurst"),
    flag("kube-api-content-type", Text, "contentType"),
    flag("kube-api-qps", Number, "kubeAPIQPS"),
    flag("kube-reserved", Kind::Map, "kubeReserved"),
    flag("kube-reserved-cgroup", Text, "kubeReservedCgroup"),
    flag("kubelet-cgroups", Text, "kubeletCgroups"),
    flag(
        "local-storage-capacity-isolation",
        Bool,
        "localStorageCapacityIsolation",
    ),
    flag("log-flush-frequency", Text, "logging.flushFrequency"),
    flag("logging-format", Text, "logging.format"),
    flag("make-iptables-util-chains", Bool, "makeIPTablesUtilChains"),
    flag("manifest-url", Text, "staticPodURL"),
    flag("manifest-url-header", Headers, "staticPodURLHeader"),
    flag("max-open-files", Number, "maxOpenFiles"),
    flag("max-pods", Number, "maxPods"),
    flag("memory-manager-policy", Text, "memoryManagerPolicy"),
    flag("minimum-image-ttl-duration", Text, "imageMinimumGCAge"),
    flag("node-status-max-images", Number, "nodeStatusMaxImages"),
    flag("node-status-update-frequency", Text, "nodeStatusUpdateFrequency"),
    flag("oom-score-adj", Number, "oomScoreAdj"),
    flag("pod-cidr", Text, "podCIDR"),
    flag("pod-manifest-path", Text, "staticPodPath"),
    flag("pod-max-pids", Number, "podPidsLimit"),
    flag("pods-per-core", Number, "podsPerCore"),
    flag("port", Number, "port"),
    flag("protect-kernel-defaults", Bool, "protectKernelDefaults"),
    flag("provider-id", Text, "providerID"),
    flag("qos-reserved", Kind::Map, "qosReserved"),
    flag("read-only-port", Number, "readOnlyPort"),
    flag("register-node", Bool, "registerNode"),
    flag("register-with-taints", Taints, "registerWithTaints"),
    flag("registry-burst", Number, "registryBurst"),
    flag("registry-qps", Number, "registryPullQPS"),
    flag("reserved-cpus", Text, "reservedSystemCPUs"),
    flag("reserved-memory", ReservedMemory, "reservedMemory"),
    flag("resolv-conf", Text, "resolvConf"),
    flag("rotate-certificates", Bool, "rotateCertificates"),
    flag("rotate-server-certificates", Bool, "serverTLSBootstrap"),
    flag("runonce", Bool, "runOnce"),
    flag("runtime-request-timeout", Text, "runtimeRequestTimeout"),
    flag("seccomp-default", Bool, "seccompDefault"),
    flag("serialize-image-pulls", Bool, "serializeImagePulls"),
    flag(
        "streaming-connection-idle-timeout",
        Text,
        "streamingConnectionIdleTimeout",
    ),
    flag("sync-frequency", Text, "syncFrequency"),
    flag("system-cgroups", Text, "systemCgroups"),
    flag("system-reserved", Kind::Map, "systemReserved"),
    flag("system-reserved-cgroup", Text, "systemReservedCgroup"),
    flag("tls-cert-file", Text, "tlsCertFile"),
    flag("tls-cipher-suites", List, "tlsCipherSuites"),
    flag("tls-min-version", Text, "tlsMinVersion"),
    flag("tls-private-key-file", Text, "tlsPrivateKeyFile"),
    flag("topology-manager-policy", Text, "topologyManagerPolicy"),
    flag(
        "topology-manager-policy-options",
        Kind::Map,
        "topologyManagerPolicyOptions",
    ),
    flag("topology-manager-scope", Text, "topologyManagerScope"),
    flag("v", Number, "logging.verbosity"),
    flag("volume-plugin-dir", Text, "volumePluginDir"),
    flag("volume-stats-agg-period", Text, "volumeStatsAggPeriod"),
];

/// Configuration-backed flags that upstream does not call deprecated.
pub(super) const CURRENT: [&str; 6] = [
    "fail-cgroupv1",
    "log-flush-frequency",
    "logging-format",
    "provider-id",
    "seccomp-default",
    "v",
];

/// Flags that are taken and have no effect on this agent, each with the reason that its user is told.
pub(super) const IGNORED: [(&str, &str); 13] = [
    ("container-runtime-endpoint", "the container engine is built in"),
    ("image-service-endpoint", "the container engine is built in"),
    ("pod-infra-container-image", "there is no pause container"),
    ("runtime-cgroups", "the container engine is built in"),
    (
        "minimum-container-ttl-duration",
        "dead containers are kept by number",
    ),
    (
        "maximum-dead-containers-per-container",
        "one dead container each is kept",
    ),
    ("maximum-dead-containers", "one dead container each is kept"),
    ("experimental-mounter-path", "mounts are made by system calls"),
    (
        "experimental-allocatable-ignore-eviction",
        "it was removed upstream",
    ),
    ("housekeeping-interval", "nothing is polled"),
    ("vmodule", "verbosity is set by --v and RUST_LOG"),
    (
        "image-credential-provider-config",
        "registries and their credentials are configured with --registries and imagePullSecrets",
    ),
    (
        "image-credential-provider-bin-dir",
        "registries and their credentials are configured with --registries and imagePullSecrets",
    ),
];

/// Reads the texts that a flag was given, in order: scalars keep the last, collections gather all.
///
/// # Errors
/// A sentence without the flag's name.
pub(super) fn value(kind: Kind, texts: &[String]) -> Result<Value, String> {
    let last = texts.last().map(String::as_str).unwrap_or_default();
    match kind {
        Kind::Text => Ok(json!(last)),
        Kind::Bool => boolean(last).map(Value::Bool),
        Kind::Number => last
            .parse::<i64>()
            .map(Value::from)
            .map_err(|_| format!("{last:?} is not a whole number")),
        Kind::List => Ok(words(texts).map(Value::from).collect()),
        Kind::Map => pairs(texts, '=', |text| Ok(text.into())),
        Kind::Thresholds => pairs(texts, '<', |text| Ok(text.into())),
        Kind::Gates => pairs(texts, '=', |text| boolean(text).map(Value::Bool)),
        Kind::Headers => headers(texts),
        Kind::Taints => words(texts).map(taint).collect(),
        Kind::ReservedMemory => last
            .split(';')
            .filter(|part| !part.is_empty())
            .map(reserved_memory)
            .collect(),
    }
}

fn words(texts: &[String]) -> impl Iterator<Item = &str> {
    texts
        .iter()
        .flat_map(|text| text.split(','))
        .map(str::trim)
        .filter(|word| !word.is_empty())
}

fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

fn pairs(texts: &[String], sign: char, read: fn(&str) -> Result<Value, String>) -> Result<Value, String> {
    let mut map = Map::new();
    for word in words(texts) {
        let (key, text) = word
            .split_once(sign)
            .ok_or_else(|| format!("{word:?} must be key{sign}value"))?;
        map.insert(key.trim().to_owned(), read(text.trim())?);
    }
    Ok(Value::Object(map))
}

fn headers(texts: &[String]) -> Result<Value, String> {
    let mut map = Map::new();
    for word in words(texts) {
        let (key, text) = word
            .split_once(':')
            .ok_or_else(|| format!("{word:?} must be name:value"))?;
        let values = map.entry(key.trim()).or_insert_with(|| json!([]));
        values
            .as_array_mut()
            .expect("made above")
            .push(text.trim().into());
    }
    Ok(Value::Object(map))
}

fn taint(word: &str) -> Result<Value, String> {
    let (name, effect) = word
        .rsplit_once(':')
        .ok_or_else(|| format!("taint {word:?} must be key=value:effect"))?;
    let (key, value) = name.split_once('=').unwrap_or((name, ""));
    let mut taint = json!({"key": key, "effect": effect});
    if !value.is_empty() {
        taint["value"] = value.into();
    }
    Ok(taint)
}

fn reserved_memory(text: &str) -> Result<Value, String> {
    let wanted = || format!("{text:?} must be node:resource=quantity,…");
    let (node, limits) = text.split_once(':').ok_or_else(wanted)?;
    let node: u32 = node.trim().parse().map_err(|_| wanted())?;
    Ok(json!({"numaNode": node, "limits": pairs(&[limits.to_owned()], '=', |text| Ok(text.into()))?}))
}
