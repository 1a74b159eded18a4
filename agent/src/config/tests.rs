use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::quantity::Amount;
use super::*;
use crate::cli::AgentArgs;

/// What kubeadm 1.30 to 1.36 writes, zero durations and all.
const KUBEADM: &str = r#"
apiVersion: kubelet.config.k8s.io/v1beta1
authentication:
  anonymous:
    enabled: false
  webhook:
    cacheTTL: 0s
    enabled: true
  x509:
    clientCAFile: /etc/kubernetes/pki/ca.crt
authorization:
  mode: Webhook
  webhook:
    cacheAuthorizedTTL: 0s
    cacheUnauthorizedTTL: 0s
cgroupDriver: systemd
clusterDNS:
- 10.96.0.10
clusterDomain: cluster.local
containerRuntimeEndpoint: ""
cpuManagerReconcilePeriod: 0s
crashLoopBackOff: {}
evictionPressureTransitionPeriod: 0s
fileCheckFrequency: 0s
healthzBindAddress: 127.0.0.1
healthzPort: 10248
httpCheckFrequency: 0s
imageMaximumGCAge: 0s
imageMinimumGCAge: 0s
kind: KubeletConfiguration
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: "0"
    text:
      infoBufferSize: "0"
  verbosity: 0
memorySwap: {}
nodeStatusReportFrequency: 0s
nodeStatusUpdateFrequency: 0s
resolvConf: /run/systemd/resolve/resolv.conf
rotateCertificates: true
runtimeRequestTimeout: 0s
shutdownGracePeriod: 0s
shutdownGracePeriodCriticalPods: 0s
staticPodPath: /etc/kubernetes/manifests
streamingConnectionIdleTimeout: 0s
syncFrequency: 0s
volumeStatsAggPeriod: 0s
"#;

const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";

fn file(dir: &tempfile::TempDir, name: &str, text: &str) -> std::path::PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn load_text(text: &str) -> Result<load::Loaded, Error> {
    let dir = tempfile::tempdir().unwrap();
    load(Some(&file(&dir, "config.yaml", text)), None, &[])
}

#[test]
fn kubeadms_file_reads_without_a_word() {
    let loaded = load_text(KUBEADM).unwrap();
    assert_eq!(loaded.warnings, Vec::<String>::new());
    let config = loaded.config;
    assert_eq!(config.authentication.webhook.cache_ttl, Duration::from_secs(120));
    assert_eq!(config.sync_frequency, Duration::from_secs(60));
    assert_eq!(config.node_status_update_frequency, Duration::from_secs(10));
    assert_eq!(config.node_status_report_frequency, Duration::from_secs(300));
    assert_eq!(
        config.crash_loop_back_off.max_container_restart_period,
        Duration::from_secs(300)
    );
    assert_eq!(
        config.container_runtime_endpoint,
        "unix:///run/containerd/containerd.sock"
    );
    assert_eq!(config.static_pod_path, "/etc/kubernetes/manifests");
    assert_eq!(config.cgroup_driver, "systemd");
    assert_eq!(config.cluster_dns, ["10.96.0.10"]);
    assert_eq!(config.eviction_hard["memory.available"], "100Mi");
    assert_eq!(validate::faults(&config), Vec::<String>::new());
}

#[test]
fn defaults_have_no_faults() {
    assert_eq!(
        validate::faults(&KubeletConfiguration::default()),
        Vec::<String>::new()
    );
}

#[test]
fn without_a_file_the_old_open_defaults_hold() {
    let config = load(None, None, &[]).unwrap().config;
    assert!(config.authentication.anonymous.enabled);
    assert!(!config.authentication.webhook.enabled);
    assert_eq!(config.authorization.mode, "AlwaysAllow");
    assert_eq!(config.read_only_port, 10255);
    let config = load_text(HEAD).unwrap().config;
    assert!(!config.authentication.anonymous.enabled);
    assert_eq!(
        (config.authorization.mode.as_str(), config.read_only_port),
        ("Webhook", 0)
    );
}

#[test]
fn unknown_and_doubled_keys_are_warned_of() {
    let loaded = load_text(&format!(
        "{HEAD}maxPods: 5\nmaxpods: 7\nauthentication: {{webhok: {{}}}}\n"
    ))
    .unwrap();
    assert_eq!(loaded.config.max_pods, 5);
    assert!(
        loaded.warnings[0].contains("unknown field \"authentication.webhok\""),
        "{:?}",
        loaded.warnings
    );
    assert!(loaded.warnings[1].contains("unknown field \"maxpods\""));
    let loaded = load_text(&format!("{HEAD}maxPods: 5\nmaxPods: 7\n")).unwrap();
    assert_eq!((loaded.config.max_pods, loaded.warnings.len()), (7, 1));
}

#[test]
fn bad_values_name_file_key_and_cause() {
    for (text, wanted) in [
        ("syncFrequency: 5", "config.yaml: syncFrequency: invalid type"),
        (
            "syncFrequency: 5 minutes",
            "config.yaml: syncFrequency: invalid duration \"5 minutes\"",
        ),
        (
            "authentication: {webhook: {enabled: 7}}",
            "config.yaml: authentication.webhook.enabled: invalid type",
        ),
        ("port: 70000", "config.yaml: port: invalid value"),
    ] {
        let error = load_text(&format!("{HEAD}{text}\n")).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
    let error = load_text("apiVersion: v1\nkind: Pod\n").unwrap_err().to_string();
    assert!(error.contains("kind: KubeletConfiguration"), "{error}");
    let error = load_text("a: [").unwrap_err().to_string();
    assert!(error.starts_with("parse "), "{error}");
    let error = load(Some(Path::new("/nonexistent/x")), None, &[])
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("read /nonexistent/x: No such file"), "{error}");
}

#[test]
fn drop_ins_merge_in_lexical_order_and_flags_win() {
    let dir = tempfile::tempdir().unwrap();
    let main = file(
        &dir,
        "main.yaml",
        &format!("{HEAD}maxPods: 1\nfeatureGates: {{A: true}}\nclusterDomain: a\n"),
    );
    let drop_ins = dir.path().join("d");
    std::fs::create_dir_all(drop_ins.join("sub")).unwrap();
    std::fs::write(
        drop_ins.join("20.conf"),
        format!("{HEAD}maxPods: 3\nfeatureGates: {{B: true}}\n"),
    )
    .unwrap();
    std::fs::write(
        drop_ins.join("10.conf"),
        format!("{HEAD}maxPods: 2\nclusterDomain: b\n"),
    )
    .unwrap();
    std::fs::write(drop_ins.join("sub/30.conf"), format!("{HEAD}podsPerCore: 4\n")).unwrap();
    std::fs::write(drop_ins.join("note.txt"), "not read").unwrap();
    let flags = [Override {
        flag: "feature-gates".into(),
        key: "featureGates",
        value: serde_json::json!({"A": false}),
    }];
    let config = load(Some(&main), Some(&drop_ins), &flags).unwrap().config;
    assert_eq!(
        (
            config.max_pods,
            config.pods_per_core,
            config.cluster_domain.as_str()
        ),
        (3, 4, "b")
    );
    assert_eq!(
        config.feature_gates,
        [("A".to_owned(), false), ("B".to_owned(), true)].into()
    );
}

#[test]
fn dependent_defaults() {
    let config = |text: &str| load_text(&format!("{HEAD}{text}\n")).unwrap().config;
    assert_eq!(
        config("nodeStatusUpdateFrequency: 4s").node_status_report_frequency,
        Duration::from_secs(4)
    );
    assert!(!config("maxParallelImagePulls: 3").serialize_image_pulls);
    assert!(config("maxParallelImagePulls: 1").serialize_image_pulls);
    assert_eq!(
        config("evictionHard: {pid.available: 10%}").eviction_hard.len(),
        1
    );
    let merged =
        config("evictionHard: {memory.available: 1Gi}\nmergeDefaultEvictionSettings: true").eviction_hard;
    assert_eq!((merged.len(), merged["memory.available"].as_str()), (5, "1Gi"));
    assert_eq!(
        config("enforceNodeAllocatable: []").enforce_node_allocatable,
        Vec::<String>::new()
    );
    assert_eq!(config("maxPods: null").max_pods, 110);
}

#[test]
fn impossible_values_are_all_told() {
    let config = KubeletConfiguration {
        cgroup_driver: "none".into(),
        image_gc_low_threshold_percent: 90,
        cluster_dns: vec!["dns.example".into()],
        system_reserved: [("gpu".to_owned(), "1".to_owned())].into(),
        cgroups_per_qos: false,
        ..KubeletConfiguration::default()
    };
    let faults = validate::faults(&config).join("; ");
    for wanted in [
        "cgroupDriver",
        "imageGCLowThresholdPercent",
        "clusterDNS",
        "systemReserved",
        "cgroupsPerQOS",
    ] {
        assert!(faults.contains(wanted), "{wanted} in {faults}");
    }
}

#[test]
fn node_labels_keep_to_their_domains() {
    let check = |key: &str| labels::check(&[(key.to_owned(), "v".to_owned())].into());
    for good in [
        "mine",
        "example.com/x",
        "node.kubernetes.io/x",
        "a.kubelet.kubernetes.io/x",
        "topology.kubernetes.io/zone",
    ] {
        assert!(check(good).is_ok(), "{good}");
    }
    for bad in [
        "node-role.kubernetes.io/worker",
        "kubernetes.io/x",
        "x.k8s.io/y",
        "-bad",
        "exa mple/x",
        "/x",
    ] {
        assert!(check(bad).is_err(), "{bad}");
    }
    let error = labels::check(&[("a".to_owned(), "sp ace".to_owned())].into())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("--node-labels") && error.contains("sp ace"),
        "{error}"
    );
}

#[test]
fn settings_resolve_directories_and_refuse_bad_addresses() {
    let args = AgentArgs {
        hostname_override: Some(" Node-1 ".into()),
        root_dir: Some("/tmp/k".into()),
        oci_binary: Some("/bin/oci".into()),
        ..AgentArgs::default()
    };
    let (settings, _) = Settings::resolve(&args).unwrap();
    assert_eq!(settings.node_name, "node-1");
    assert_eq!(settings.cert_dir, Path::new("/tmp/k/pki"));
    let twice = AgentArgs {
        node_ips: vec!["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()],
        ..args
    };
    assert!(
        Settings::resolve(&twice)
            .unwrap_err()
            .to_string()
            .contains("one address of each family")
    );
    let unnamed = AgentArgs {
        hostname_override: Some("under_score".into()),
        ..AgentArgs::default()
    };
    assert!(
        Settings::resolve(&unnamed)
            .unwrap_err()
            .to_string()
            .contains("--hostname-override")
    );
}

#[test]
fn durations_as_go_writes_them() {
    let parse = |text: &str| duration::parse(text).map(|d| d.as_nanos());
    for (text, nanos) in [
        ("0", 0),
        ("0s", 0),
        ("1m0s", 60_000_000_000),
        ("1.5h", 5_400_000_000_000),
        ("100ms", 100_000_000),
        ("1h2m3.004s", 3_723_004_000_000),
        ("5µs", 5_000),
        ("5us", 5_000),
        (".5s", 500_000_000),
        ("1.s", 1_000_000_000),
    ] {
        assert_eq!(parse(text), Ok(nanos), "{text}");
    }
    for bad in ["", "5", "s", "1x", "-1s", ".s", "1m-1s", "9999999h", "1 m"] {
        assert!(parse(bad).is_err(), "{bad}");
    }
    for (nanos, text) in [
        (60_000_000_000, "1m0s"),
        (5_400_000_000_000, "1h30m0s"),
        (1_500_000_000, "1.5s"),
        (1_100, "1.1µs"),
    ] {
        assert_eq!(duration::format(Duration::from_nanos(nanos)), text);
    }
}

#[test]
fn quantities_as_kubernetes_reads_and_writes_them() {
    let value = |text: &str| Amount::parse(text).unwrap().value();
    for (text, wanted) in [
        ("0", 0),
        ("1", 1),
        ("1Ki", 1024),
        ("1.5Gi", 1_610_612_736),
        ("100m", 1),
        ("1500m", 2),
        ("2e3", 2000),
        ("2E3", 2000),
        ("1E", 1_000_000_000_000_000_000),
        ("5n", 1),
        (".5Ki", 512),
        ("12e-1", 2),
        ("-1500m", -2),
        ("9999999999999999999999", i64::MAX),
        ("7Ei", 8_070_450_532_247_928_832),
        ("0.1Ei", 115_292_150_460_684_698),
    ] {
        assert_eq!(value(text), wanted, "{text}");
    }
    for bad in ["", "Ki", "1KB", "1.2.3", "1 Gi", "--1", "1e", "e3", "."] {
        assert!(Amount::parse(bad).is_err(), "{bad}");
    }
    assert_eq!(Amount::parse("0.1").unwrap().milli_value(), 100);
    assert_eq!(Amount::units(24_576_000 * 1024).binary().0, "24000Mi");
    assert_eq!(Amount::units(1025).binary().0, "1025");
    assert_eq!(Amount::parse("1500m").unwrap().decimal().0, "1500m");
    assert_eq!(Amount::units(110).decimal().0, "110");
    assert_eq!(Amount::default().binary().0, "0");
}

proptest! {
    #[test]
    fn durations_survive_a_round_trip(nanos in 0..i64::MAX as u64) {
        let duration = Duration::from_nanos(nanos);
        prop_assert_eq!(duration::parse(&duration::format(duration)), Ok(duration));
    }

    #[test]
    fn no_text_panics_a_parser(text in "\\PC*") {
        let _ = duration::parse(&text);
        let _ = Amount::parse(&text);
    }

    #[test]
    fn number_like_text_panics_no_parser(text in "[-+]?[0-9]{0,40}\\.?[0-9]{0,40}([eE][-+]?[0-9]{0,4}|[kMGTPE]i?|[mun]s?|h|µs)?") {
        let _ = duration::parse(&text);
        if let Ok(amount) = Amount::parse(&text) {
            let _ = (amount.value(), amount.milli_value(), amount.binary(), amount.decimal());
        }
    }

    #[test]
    fn quantities_survive_a_round_trip(units in 0i64..i64::MAX / 2, millis in 0i64..i64::MAX / 2) {
        let amount = Amount::units(units);
        prop_assert_eq!(Amount::of(&amount.binary()), Ok(amount));
        prop_assert_eq!(Amount::of(&amount.decimal()), Ok(amount));
        let amount = Amount::parse(&format!("{millis}m")).unwrap();
        prop_assert_eq!(Amount::of(&amount.decimal()), Ok(amount));
        prop_assert_eq!(amount.milli_value(), millis);
    }
}
