use super::*;

fn agent_args(args: &[&str]) -> AgentArgs {
    let line = ["longshore", "agent"].iter().chain(args).map(OsString::from);
    match parse(line).expect("good usage") {
        Invocation::Agent(args) => *args,
        _ => panic!("another command"),
    }
}

#[test]
fn kubelet_name_takes_kubeadms_line() {
    let line = [
        "/usr/bin/kubelet",
        "--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf",
        "--kubeconfig=/etc/kubernetes/kubelet.conf",
        "--config=/var/lib/kubelet/config.yaml",
        "--container-runtime-endpoint=unix:///var/run/containerd/containerd.sock",
        "--pod-infra-container-image=registry.k8s.io/pause:3.10",
        "--register-with-taints=dedicated=x:NoSchedule,plain:NoExecute",
        "--hostname-override=n1",
    ];
    let Ok(Invocation::Agent(args)) = parse(line.iter().map(OsString::from)) else {
        panic!("refused")
    };
    assert_eq!(args.hostname_override.as_deref(), Some("n1"));
    assert_eq!(args.config, Some("/var/lib/kubelet/config.yaml".into()));
    let taints = args
        .overrides
        .iter()
        .find(|one| one.key == "registerWithTaints")
        .unwrap();
    assert_eq!(
        taints.value,
        serde_json::json!([
            {"key": "dedicated", "value": "x", "effect": "NoSchedule"},
            {"key": "plain", "effect": "NoExecute"},
        ])
    );
    assert!(
        args.warnings
            .iter()
            .any(|w| w.starts_with("--pod-infra-container-image has no effect"))
    );
}

#[test]
fn version_is_what_kubeadm_reads() {
    let Ok(Invocation::Print(line)) = parse(["kubelet", "--version"].map(OsString::from)) else {
        panic!("refused")
    };
    assert_eq!(line, "Kubernetes v1.36.3+longshore.0.1.0");
    let Ok(Invocation::Print(line)) = parse(["kubelet", "--version=raw"].map(OsString::from)) else {
        panic!("refused")
    };
    assert_eq!(line, "v1.36.3+longshore.0.1.0");
}

#[test]
fn underscores_in_flag_names_are_dashes() {
    let args = agent_args(&["--max_pods=7", "--node_labels", "a_b=c_d"]);
    assert_eq!(args.overrides[0].key, "maxPods");
    assert_eq!(args.node_labels["a_b"], "c_d");
}

#[test]
fn scalars_keep_the_last_and_collections_gather() {
    let args = agent_args(&[
        "--max-pods=1",
        "--max-pods=2",
        "--cluster-dns=10.0.0.1",
        "--cluster-dns=10.0.0.2,fd00::1",
        "--feature-gates=A=true,B=false",
        "--eviction-hard=memory.available<1Gi",
        "--fail-swap-on=false",
        "--rotate-certificates",
        "--reserved-memory=0:memory=1Gi,hugepages-1Gi=2Gi;1:memory=2Gi",
        "-v=4",
    ]);
    let value = |key: &str| {
        args.overrides
            .iter()
            .find(|one| one.key == key)
            .unwrap()
            .value
            .clone()
    };
    assert_eq!(value("maxPods"), 2);
    assert_eq!(
        value("clusterDNS"),
        serde_json::json!(["10.0.0.1", "10.0.0.2", "fd00::1"])
    );
    assert_eq!(value("featureGates"), serde_json::json!({"A": true, "B": false}));
    assert_eq!(
        value("evictionHard"),
        serde_json::json!({"memory.available": "1Gi"})
    );
    assert_eq!(value("failSwapOn"), false);
    assert_eq!(value("rotateCertificates"), true);
    assert_eq!(
        value("reservedMemory")[1],
        serde_json::json!({"numaNode": 1, "limits": {"memory": "2Gi"}})
    );
    assert_eq!(value("logging.verbosity"), 4);
}

#[test]
fn bad_values_name_the_flag() {
    for (flag, wanted) in [
        ("--max-pods=many", "--max-pods: \"many\" is not a whole number"),
        (
            "--fail-swap-on=maybe",
            "--fail-swap-on: \"maybe\" is neither true nor false",
        ),
        ("--node-ip=here", "--node-ip: \"here\""),
        (
            "--register-with-taints=x",
            "--register-with-taints: taint \"x\" must be key=value:effect",
        ),
    ] {
        let Err(error) = parse(["longshore", "agent", flag].map(OsString::from)) else {
            panic!("{flag} was taken")
        };
        assert!(error.to_string().contains(wanted), "{error}");
    }
}

#[test]
fn every_config_flag_names_a_known_key() {
    let known = serde_json::to_value(crate::config::KubeletConfiguration::default()).unwrap();
    for one in flags::CONFIG_FLAGS {
        let found = one.key.split('.').try_fold(&known, |at, step| at.get(step));
        assert!(found.is_some(), "--{} sets {}", one.name, one.key);
    }
}

#[test]
fn join_needs_a_hash_or_an_explicit_no() {
    let refused =
        parse(["longshore", "join", "--token=abcdef.0123456789abcdef", "h:6443"].map(OsString::from));
    assert!(
        refused
            .err()
            .unwrap()
            .to_string()
            .contains("--discovery-token-ca-cert-hash")
    );
    let taken = parse(
        [
            "longshore",
            "join",
            "--token=abcdef.0123456789abcdef",
            "--discovery-token-ca-cert-hash",
            "sha256:ab",
            "h:6443",
        ]
        .map(OsString::from),
    );
    let Ok(Invocation::Join(args)) = taken else {
        panic!("refused")
    };
    assert_eq!((args.endpoint.as_str(), args.ca_hashes.len()), ("h:6443", 1));
}
