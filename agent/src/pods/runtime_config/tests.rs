use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, HostAlias, Pod, ResourceFieldSelector, Service};
use proptest::prelude::*;
use proto::cri;
use serde_json::{Value, json};

use super::container::{ContainerPlan, Gathered, container_config};
use super::dns::{DnsFacts, HostResolver, parse_resolv_conf, pod_dns};
use super::environment::{Environment, References, Surroundings, environment, lookup, names};
use super::expansion::{expand, expand_strictly};
use super::hosts::{HostName, host_name, host_network, kernel_name, managed};
use super::limits::{LimitFacts, container_limits};
use super::mounts::{OwnFiles, mounts, sub_path};
use super::sandbox::{SandboxFacts, sandbox_config};
use super::security::{ImageUser, SecurityFacts, container_context, verify_non_root};
use super::{fields, object_keys, services};
use crate::resources::{Controllers, Limits};
use crate::volumes::{MountedVolume, MountedVolumes};

fn read<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).expect("the object")
}

fn pod(spec: &Value) -> Pod {
    read(&json!({
        "metadata": {
            "name": "web-0", "namespace": "shop", "uid": "u-1",
            "labels": { "app": "web" }, "annotations": { "note": "a\"b\n" }
        },
        "spec": spec,
    }))
}

fn container(value: &Value) -> Container {
    let mut whole = json!({ "name": "c", "image": "nginx" });
    whole
        .as_object_mut()
        .expect("object")
        .extend(value.as_object().expect("object").clone());
    read(&whole)
}

fn ips(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|ip| ip.parse().expect("an address")).collect()
}

#[test]
fn expansion_follows_the_rules() {
    let known = |name: &str| match name {
        "A" => Some("a"),
        "REF" => Some("$(A)"),
        "EMPTY" => Some(""),
        _ => None,
    };
    let cases = [
        ("$(A)", "a"),
        ("$(A)$(A)", "aa"),
        ("x$(A)y", "xay"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$a"),
        ("$$$$(A)", "$$(A)"),
        ("$(REF)", "$(A)"),
        ("$(EMPTY)-", "-"),
        ("$(UNKNOWN)", "$(UNKNOWN)"),
        ("$(A", "$(A"),
        ("$(A$(A)", "$(A$(A)"),
        ("$A", "$A"),
        ("$", "$"),
        ("a$", "a$"),
        ("$$", "$"),
        ("$()", "$()"),
        ("$(é)$é", "$(é)$é"),
    ];
    for (text, wanted) in cases {
        assert_eq!(expand(text, known), wanted, "{text}");
    }
    assert_eq!(expand_strictly("$(A)/$(B)/$(C)", known), Err("B".to_owned()));
    assert_eq!(expand_strictly("$(A)/x", known), Ok("a/x".to_owned()));
}

proptest! {
    #[test]
    fn text_without_references_stays(text in "[^$]{0,40}") {
        prop_assert_eq!(expand(&text, |_| Some("no")), text);
    }

    #[test]
    fn escaped_text_comes_back(text in ".{0,40}") {
        prop_assert_eq!(expand(&text.replace('$', "$$"), |_| Some("no")), text);
    }

    #[test]
    fn with_nothing_known_only_escapes_shrink(text in "[$()A]{0,12}") {
        let expanded = expand(&text, |_| None);
        prop_assert!(expanded.len() <= text.len());
        prop_assert_eq!(expanded == text, !text.contains("$$") || expanded.len() == text.len());
    }

    #[test]
    fn resolver_limits_hold(servers in proptest::collection::vec("[a-z0-9.]{1,8}", 0..8),
                            searches in proptest::collection::vec("[a-z.]{1,300}", 0..50)) {
        let own = json!({ "dnsPolicy": "None", "dnsConfig": { "nameservers": servers, "searches": searches } });
        let (config, _) = pod_dns(&pod(&own), &dns_facts());
        prop_assert!(config.servers.len() <= 3 && config.searches.len() <= 32);
        prop_assert!(config.searches.join(" ").len() <= 2048);
        prop_assert!(config.searches.iter().all(|s| s.len() <= 253));
    }
}

fn service(namespace: &str, name: &str, spec: &Value) -> Arc<Service> {
    Arc::new(read(
        &json!({ "metadata": { "namespace": namespace, "name": name }, "spec": spec }),
    ))
}

fn some_services() -> Vec<Arc<Service>> {
    let ports = json!([{ "port": 443, "name": "https-alt", "protocol": "TCP" }, { "port": 53, "protocol": "UDP", "name": "dns" }]);
    vec![
        service(
            "default",
            "kubernetes",
            &json!({ "clusterIP": "10.0.0.1", "ports": [{ "port": 443, "name": "https" }] }),
        ),
        service(
            "shop",
            "my-db",
            &json!({ "clusterIP": "fd00::1", "ports": ports }),
        ),
        service(
            "shop",
            "headless",
            &json!({ "clusterIP": "None", "ports": [{ "port": 1 }] }),
        ),
        service(
            "other",
            "far",
            &json!({ "clusterIP": "10.0.0.3", "ports": [{ "port": 1 }] }),
        ),
    ]
}

#[test]
fn services_are_named_as_in_the_contract() {
    let found = services::service_env(&some_services(), "shop", true);
    let wanted = [
        ("KUBERNETES_PORT", "tcp://10.0.0.1:443"),
        ("KUBERNETES_PORT_443_TCP", "tcp://10.0.0.1:443"),
        ("KUBERNETES_PORT_443_TCP_ADDR", "10.0.0.1"),
        ("KUBERNETES_PORT_443_TCP_PORT", "443"),
        ("KUBERNETES_PORT_443_TCP_PROTO", "tcp"),
        ("KUBERNETES_SERVICE_HOST", "10.0.0.1"),
        ("KUBERNETES_SERVICE_PORT", "443"),
        ("KUBERNETES_SERVICE_PORT_HTTPS", "443"),
        ("MY_DB_PORT", "tcp://[fd00::1]:443"),
        ("MY_DB_PORT_443_TCP", "tcp://[fd00::1]:443"),
        ("MY_DB_PORT_443_TCP_ADDR", "fd00::1"),
        ("MY_DB_PORT_443_TCP_PORT", "443"),
        ("MY_DB_PORT_443_TCP_PROTO", "tcp"),
        ("MY_DB_PORT_53_UDP", "udp://[fd00::1]:53"),
        ("MY_DB_PORT_53_UDP_ADDR", "fd00::1"),
        ("MY_DB_PORT_53_UDP_PORT", "53"),
        ("MY_DB_PORT_53_UDP_PROTO", "udp"),
        ("MY_DB_SERVICE_HOST", "fd00::1"),
        ("MY_DB_SERVICE_PORT", "443"),
        ("MY_DB_SERVICE_PORT_DNS", "53"),
        ("MY_DB_SERVICE_PORT_HTTPS_ALT", "443"),
    ];
    let found: Vec<(&str, &str)> = found.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(found, wanted);
    let few = services::service_env(&some_services(), "shop", false);
    assert!(few.keys().all(|name| name.starts_with("KUBERNETES_")) && few.len() == 8);
    // A Service of the pod's own namespace goes before the master of the same name.
    let mut own = some_services();
    own.push(service(
        "shop",
        "kubernetes",
        &json!({ "clusterIP": "10.0.0.9", "ports": [{ "port": 1 }] }),
    ));
    assert_eq!(
        services::service_env(&own, "shop", true)["KUBERNETES_SERVICE_HOST"],
        "10.0.0.9"
    );
}

fn references() -> References {
    References {
        config_maps: BTreeMap::from([
            (
                "cm".to_owned(),
                Some(Arc::new(read(
                    &json!({ "metadata": {}, "data": { "k": "from-map", "shared": "1" } }),
                ))),
            ),
            (
                "later".to_owned(),
                Some(Arc::new(read(
                    &json!({ "metadata": {}, "data": { "shared": "2" } }),
                ))),
            ),
            ("absent".to_owned(), None),
        ]),
        secrets: BTreeMap::from([
            (
                "s".to_owned(),
                Some(Arc::new(read(
                    &json!({ "metadata": {}, "data": { "pw": "c2VjcmV0" } }),
                ))),
            ),
            ("absent".to_owned(), None),
        ]),
    }
}

fn environment_of(container: &Container) -> Result<Environment, String> {
    let pod = pod(
        &json!({ "nodeName": "n1", "serviceAccountName": "sa", "containers": [{ "name": "other", "resources": { "limits": { "cpu": "250m" } } }] }),
    );
    let around = Surroundings {
        pod: &pod,
        services: &some_services(),
        pod_ips: &ips(&["10.1.0.2", "fd01::2"]),
        host_ips: &ips(&["192.0.2.1", "2001:db8::1"]),
        allocatable: &read(&json!({ "cpu": "4", "memory": "8Gi" })),
    };
    environment(container, &around, &references()).map_err(|error| error.to_string())
}

#[test]
fn environment_precedence_is_own_then_whole_objects_then_services() {
    let container = container(&json!({
        "envFrom": [
            { "configMapRef": { "name": "cm" } }, { "prefix": "P_", "secretRef": { "name": "s" } },
            { "configMapRef": { "name": "later" } }, { "configMapRef": { "name": "absent", "optional": true } },
        ],
        "env": [
            { "name": "k", "value": "own" },
            { "name": "KUBERNETES_SERVICE_HOST", "value": "mine" },
            { "name": "REFERS", "value": "$(k) $(shared) $(P_pw) $(KUBERNETES_SERVICE_PORT) $(LATER) $$(k)" },
            { "name": "LATER", "value": "x" },
            { "name": "EMPTY" },
            { "name": "GONE", "valueFrom": { "configMapKeyRef": { "name": "absent", "key": "k", "optional": true } } },
        ],
    }));
    let found = environment_of(&container).expect("environment");
    let value = |name| lookup(&found, name);
    assert_eq!(value("k"), Some("own"));
    assert_eq!(value("shared"), Some("2"), "the later object wins");
    assert_eq!(value("P_pw"), Some("secret"));
    assert_eq!(value("KUBERNETES_SERVICE_HOST"), Some("mine"));
    assert_eq!(
        found
            .iter()
            .filter(|(name, _)| name == "KUBERNETES_SERVICE_HOST")
            .count(),
        1
    );
    assert_eq!(value("REFERS"), Some("own 2 secret 443 $(LATER) $(k)"));
    assert_eq!(value("EMPTY"), Some(""));
    assert_eq!(value("GONE"), None);
    assert_eq!(names(&container).config_maps, ["absent", "cm", "later"]);
}

#[test]
fn environment_takes_fields_and_resources() {
    let field = |path: &str| json!({ "name": path, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let amount =
        |name: &str, resource: &Value| json!({ "name": name, "valueFrom": { "resourceFieldRef": resource } });
    let container = container(&json!({
        "resources": { "requests": { "memory": "100M" }, "limits": { "cpu": "1500m" } },
        "env": [
            field("metadata.name"), field("metadata.labels['app']"), field("spec.nodeName"),
            field("spec.serviceAccountName"), field("status.hostIP"), field("status.podIPs"), field("status.podIP"),
            field("status.hostIPs"), field("metadata.annotations['none']"),
            amount("cpu", &json!({ "resource": "limits.cpu" })),
            amount("millis", &json!({ "resource": "limits.cpu", "divisor": "1m" })),
            amount("other", &json!({ "containerName": "other", "resource": "limits.cpu", "divisor": "1m" })),
            amount("memory", &json!({ "resource": "requests.memory", "divisor": "1Mi" })),
            amount("node", &json!({ "resource": "limits.memory", "divisor": "1Gi" })),
        ],
    }));
    let found = environment_of(&container).expect("environment");
    let wanted = [
        ("metadata.name", "web-0"),
        ("metadata.labels['app']", "web"),
        ("spec.nodeName", "n1"),
        ("spec.serviceAccountName", "sa"),
        ("status.hostIP", "192.0.2.1"),
        ("status.hostIPs", "192.0.2.1,2001:db8::1"),
        ("status.podIP", "10.1.0.2"),
        ("status.podIPs", "10.1.0.2,fd01::2"),
        ("metadata.annotations['none']", ""),
        ("cpu", "2"),
        ("millis", "1500"),
        ("other", "250"),
        ("memory", "96"),
        ("node", "8"),
    ];
    for (name, value) in wanted {
        assert_eq!(lookup(&found, name), Some(value), "{name}");
    }
}

#[test]
fn what_is_missing_is_named_in_upstreams_words() {
    let from = |source: Value| {
        environment_of(&container(
            &json!({ "env": [{ "name": "X", "valueFrom": source }] }),
        ))
    };
    let whole = |source: Value| environment_of(&container(&json!({ "envFrom": [source] })));
    let refused = |words: &str| Err(words.to_owned());
    assert_eq!(
        from(json!({ "configMapKeyRef": { "name": "absent", "key": "k" } })),
        refused("configmap \"absent\" not found")
    );
    assert_eq!(
        from(json!({ "secretKeyRef": { "name": "absent", "key": "k" } })),
        refused("secret \"absent\" not found")
    );
    assert_eq!(
        from(json!({ "configMapKeyRef": { "name": "cm", "key": "z" } })),
        refused("couldn't find key z in ConfigMap shop/cm")
    );
    assert_eq!(
        from(json!({ "secretKeyRef": { "name": "s", "key": "z" } })),
        refused("couldn't find key z in Secret shop/s")
    );
    assert_eq!(
        whole(json!({ "configMapRef": { "name": "absent" } })),
        refused("configmap \"absent\" not found")
    );
    assert_eq!(
        whole(json!({ "secretRef": { "name": "absent" } })),
        refused("secret \"absent\" not found")
    );
    assert_eq!(
        from(json!({ "fieldRef": { "fieldPath": "spec.odd" } })),
        refused("unsupported fieldPath: spec.odd")
    );
}

#[test]
fn field_files_quote_as_upstream() {
    let pod = pod(&json!({}));
    assert_eq!(
        fields::metadata_field(&pod, "metadata.labels").expect("labels"),
        "app=\"web\""
    );
    assert_eq!(
        fields::metadata_field(&pod, "metadata.annotations").expect("annotations"),
        "note=\"a\\\"b\\n\""
    );
    let mut odd = pod;
    odd.metadata.annotations = Some(BTreeMap::from([(
        "k".to_owned(),
        "é\u{1}\u{200b}\t日".to_owned(),
    )]));
    let text = fields::metadata_field(&odd, "metadata.annotations").expect("annotations");
    assert_eq!(text, "k=\"é\\x01\\u200b\\t日\"");
    let selector: ResourceFieldSelector = read(&json!({ "resource": "limits.odd" }));
    let own = container(&json!({}));
    let error = fields::resource_field(&selector, &odd, Some(&own), &BTreeMap::new()).expect_err("refused");
    assert_eq!(error.to_string(), "unsupported container resource : limits.odd");
}

fn dns_facts() -> DnsFacts {
    DnsFacts {
        cluster_dns: vec!["10.0.0.10".to_owned()],
        cluster_domain: "cluster.local".to_owned(),
        host: Some(HostResolver {
            servers: vec!["192.0.2.53".to_owned()],
            searches: vec!["example.org".to_owned()],
            options: vec!["edns0".to_owned()],
        }),
        node_ips: ips(&["192.0.2.1", "2001:db8::1"]),
    }
}

#[test]
fn dns_follows_the_policy() {
    let of = |spec: Value, facts: &DnsFacts| {
        let (config, warnings) = pod_dns(&pod(&spec), facts);
        (
            config.servers.join(" "),
            config.searches.join(" "),
            config.options.join(" "),
            warnings.len(),
        )
    };
    let facts = dns_facts();
    let text = |servers: &str, searches: &str, options: &str, warnings| {
        (
            servers.to_owned(),
            searches.to_owned(),
            options.to_owned(),
            warnings,
        )
    };
    let cluster = "shop.svc.cluster.local svc.cluster.local cluster.local example.org";
    assert_eq!(
        of(json!({ "dnsPolicy": "ClusterFirst" }), &facts),
        text("10.0.0.10", cluster, "ndots:5", 0)
    );
    let host = text("192.0.2.53", "example.org", "edns0", 0);
    assert_eq!(
        of(
            json!({ "dnsPolicy": "ClusterFirst", "hostNetwork": true }),
            &facts
        ),
        host
    );
    assert_eq!(of(json!({ "dnsPolicy": "Default" }), &facts), host);
    let with_host_net = json!({ "dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true });
    assert_eq!(
        of(with_host_net, &facts),
        text("10.0.0.10", cluster, "ndots:5", 0)
    );
    let own = json!({
        "nameservers": ["10.0.0.10", "9.9.9.9"], "searches": ["svc.cluster.local", "own"],
        "options": [{ "name": "ndots", "value": "2" }, { "name": "rotate" }]
    });
    let merged = of(json!({ "dnsPolicy": "ClusterFirst", "dnsConfig": own }), &facts);
    assert_eq!(
        merged,
        text(
            "10.0.0.10 9.9.9.9",
            &format!("{cluster} own"),
            "ndots:2 rotate",
            0
        )
    );
    let none = of(json!({ "dnsPolicy": "None", "dnsConfig": own }), &facts);
    assert_eq!(
        none,
        text("10.0.0.10 9.9.9.9", "svc.cluster.local own", "ndots:2 rotate", 0)
    );
    let without = DnsFacts {
        cluster_dns: Vec::new(),
        ..facts.clone()
    };
    assert_eq!(of(json!({ "dnsPolicy": "ClusterFirst" }), &without).3, 1);
    let (_, warnings) = pod_dns(&pod(&json!({ "dnsPolicy": "ClusterFirst" })), &without);
    assert_eq!(warnings[0].reason, "MissingClusterDNS");
    assert!(
        warnings[0]
            .message
            .starts_with("pod: \"web-0_shop(u-1)\". kubelet does not have ClusterDNS IP")
    );
    let local = DnsFacts { host: None, ..facts };
    assert_eq!(
        of(json!({ "dnsPolicy": "Default" }), &local),
        text("127.0.0.1 ::1", ".", "", 0)
    );
}

#[test]
fn dns_limits_cut_and_say_so() {
    let own = json!({ "nameservers": ["1.1.1.1", "2.2.2.2", "3.3.3.3", "4.4.4.4"] });
    let (config, warnings) = pod_dns(
        &pod(&json!({ "dnsPolicy": "None", "dnsConfig": own })),
        &dns_facts(),
    );
    assert_eq!(config.servers.len(), 3);
    assert_eq!(
        warnings[0].message,
        "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: 1.1.1.1 2.2.2.2 3.3.3.3"
    );
    let resolver = parse_resolv_conf(
        "# comment\nnameserver 1.1.1.1\nsearch a. b .\nsearch c.\noptions ndots:1 rotate\noptions ndots:3\nnameserver 2.2.2.2\n",
    );
    assert_eq!(resolver.servers, ["1.1.1.1", "2.2.2.2"]);
    assert_eq!(resolver.searches, ["c"]);
    assert_eq!(resolver.options, ["ndots:3", "rotate"]);
}

#[test]
fn hosts_files_read_as_upstreams() {
    let aliases: Vec<HostAlias> = read(&json!([{ "ip": "1.2.3.4", "hostnames": ["a", "b"] }]));
    let name = |domain: &str| HostName {
        name: "web-0".into(),
        domain: domain.into(),
    };
    let text = managed(
        &ips(&["10.1.0.2", "fd01::2"]),
        &name("sub.shop.svc.cluster.local"),
        &aliases,
    );
    assert_eq!(
        text,
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n\
         10.1.0.2\tweb-0.sub.shop.svc.cluster.local\tweb-0\nfd01::2\tweb-0.sub.shop.svc.cluster.local\tweb-0\n\
         \n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"
    );
    assert!(managed(&ips(&["10.1.0.2"]), &name(""), &[]).ends_with("ip6-allrouters\n10.1.0.2\tweb-0\n"));
    let of_node = host_network("127.0.0.1 localhost\n", &[]);
    assert_eq!(
        of_node,
        "# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n"
    );
}

#[test]
fn host_names_follow_the_rules() {
    let of = |spec: Value| host_name(&pod(&spec), "cluster.local").map_err(|e| e.to_string());
    let name = |name: &str, domain: &str| {
        Ok(HostName {
            name: name.into(),
            domain: domain.into(),
        })
    };
    assert_eq!(of(json!({})), name("web-0", ""));
    assert_eq!(
        of(json!({ "hostname": "h", "subdomain": "s" })),
        name("h", "s.shop.svc.cluster.local")
    );
    assert_eq!(
        of(json!({ "hostnameOverride": "a.b", "subdomain": "s" })),
        name("a.b", "")
    );
    assert!(of(json!({ "hostname": "Not.OK" })).is_err());
    let mut long = pod(&json!({}));
    long.metadata.name = Some(format!("{}-.{}", "x".repeat(61), "y".repeat(20)));
    assert_eq!(host_name(&long, "d").expect("cut").name, "x".repeat(61));
    let full = pod(&json!({ "hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true }));
    let its_name = host_name(&full, "cluster.local").expect("a name");
    assert_eq!(
        kernel_name(&full, &its_name).expect("short"),
        "h.s.shop.svc.cluster.local"
    );
    let its_name = host_name(&full, &"d".repeat(60)).expect("a name");
    assert!(
        kernel_name(&full, &its_name)
            .expect_err("long")
            .to_string()
            .contains("is too long")
    );
}

fn limit_facts() -> LimitFacts {
    let mut controllers = Controllers::of(["cpu", "memory"]);
    controllers.page_sizes = vec!["2MB".to_owned()];
    controllers.swap = true;
    LimitFacts {
        limits: Limits {
            cpu_quota: true,
            cpu_period: 100_000,
            pod_pids: None,
        },
        controllers,
        memory_capacity: 1 << 30,
        single_process_oom_kill: false,
    }
}

#[test]
fn limits_are_left_out_with_their_controllers() {
    let container = container(&json!({ "resources": {
        "requests": { "cpu": "250m", "memory": "64Mi" }, "limits": { "cpu": "500m", "memory": "128Mi", "hugepages-2Mi": "4Mi" }
    } }));
    let pod = pod(&json!({ "containers": [container] }));
    let limits = container_limits(&pod, &container, &limit_facts());
    assert_eq!(
        (limits.cpu_shares, limits.cpu_quota, limits.cpu_period),
        (256, 50_000, 100_000)
    );
    assert_eq!(
        (limits.memory_limit_in_bytes, limits.oom_score_adj),
        (128 << 20, 938)
    );
    assert_eq!(limits.unified["memory.oom.group"], "1");
    assert_eq!(limits.unified["memory.swap.max"], "0");
    assert_eq!(
        limits.hugepage_limits,
        [cri::HugepageLimit {
            page_size: "2MB".into(),
            limit: 4 << 20
        }]
    );
    let bare = LimitFacts {
        controllers: Controllers::default(),
        ..limit_facts()
    };
    let wanted = cri::LinuxContainerResources {
        oom_score_adj: 938,
        ..Default::default()
    };
    assert_eq!(container_limits(&pod, &container, &bare), wanted);
}

#[test]
fn run_as_non_root_is_judged_in_upstreams_words() {
    let of = |context: Value, uid: Option<i64>, username: &str| {
        let container = container(&json!({ "securityContext": context }));
        let image = ImageUser {
            uid,
            username: username.to_owned(),
        };
        verify_non_root(&pod(&json!({})), &container, &image).map_err(|error| error.to_string())
    };
    let strict = json!({ "runAsNonRoot": true });
    let place = "(pod: \"web-0_shop(u-1)\", container: c)";
    let refused = |words: &str| Err(format!("{words} {place}"));
    assert_eq!(of(json!({}), Some(0), ""), Ok(()));
    assert_eq!(
        of(strict.clone(), Some(0), ""),
        refused("container has runAsNonRoot and image will run as root")
    );
    assert_eq!(of(strict.clone(), Some(1000), ""), Ok(()));
    assert_eq!(
        of(strict.clone(), None, "www"),
        refused(
            "container has runAsNonRoot and image has non-numeric user (www), cannot verify user is non-root"
        )
    );
    assert_eq!(of(strict, None, ""), Ok(()));
    assert_eq!(
        of(json!({ "runAsNonRoot": true, "runAsUser": 0 }), Some(5), ""),
        refused("container's runAsUser breaks non-root policy")
    );
    assert_eq!(
        of(json!({ "runAsNonRoot": true, "runAsUser": 5 }), Some(0), ""),
        Ok(())
    );
}

fn context(pod_context: &Value, own: &Value) -> cri::LinuxContainerSecurityContext {
    let pod = pod(&json!({ "securityContext": pod_context, "shareProcessNamespace": true }));
    let facts = SecurityFacts {
        seccomp_default: false,
        seccomp_root: Path::new("/var/lib/kubelet/seccomp"),
        thermal_throttle: &["/sys/devices/system/cpu/cpu0/thermal_throttle".to_owned()],
    };
    let image = ImageUser {
        uid: Some(33),
        username: String::new(),
    };
    container_context(
        &pod,
        &container(&json!({ "securityContext": own })),
        &image,
        None,
        &facts,
    )
    .expect("a context")
}

#[test]
fn security_contexts_merge_the_container_over_the_pod() {
    let of_pod = json!({
        "runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4, 5],
        "supplementalGroupsPolicy": "Strict", "seccompProfile": { "type": "RuntimeDefault" }
    });
    let own = json!({
        "runAsUser": 9, "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
        "capabilities": { "add": ["NET_ADMIN"], "drop": ["ALL"] },
        "seccompProfile": { "type": "Localhost", "localhostProfile": "p.json" },
        "appArmorProfile": { "type": "Localhost", "localhostProfile": "prof" },
    });
    let merged = context(&of_pod, &own);
    assert_eq!(merged.run_as_user, Some(cri::Int64Value { value: 9 }));
    assert_eq!(merged.run_as_group, Some(cri::Int64Value { value: 2 }));
    assert_eq!(merged.supplemental_groups, [3, 4, 5]);
    assert_eq!(
        merged.supplemental_groups_policy(),
        cri::SupplementalGroupsPolicy::Strict
    );
    assert!(merged.readonly_rootfs && merged.no_new_privs && !merged.privileged);
    let capabilities = merged.capabilities.expect("capabilities");
    assert_eq!(
        (capabilities.add_capabilities, capabilities.drop_capabilities),
        (vec!["NET_ADMIN".into()], vec!["ALL".into()])
    );
    assert_eq!(
        merged.seccomp.expect("seccomp").localhost_ref,
        "/var/lib/kubelet/seccomp/p.json"
    );
    assert_eq!(merged.apparmor.expect("apparmor").localhost_ref, "prof");
    assert_eq!(merged.masked_paths.len(), 13);
    assert_eq!(merged.readonly_paths.len(), 5);
    assert_eq!(
        merged.namespace_options.expect("namespaces").pid(),
        cri::NamespaceMode::Pod
    );
    let bare = context(&json!({}), &json!({ "procMount": "Unmasked" }));
    assert_eq!(
        bare.run_as_user,
        Some(cri::Int64Value { value: 33 }),
        "the image's user"
    );
    assert!(bare.masked_paths.is_empty() && bare.readonly_paths.is_empty() && !bare.no_new_privs);
    let unconfined = cri::security_profile::ProfileType::Unconfined;
    assert_eq!(bare.seccomp.expect("seccomp").profile_type(), unconfined);
}

#[test]
fn mounts_carry_their_options_and_own_files() {
    let volumes: MountedVolumes = [("v", "/host/v", false), ("cfg", "/host/cfg", true)]
        .map(|(name, path, read_only)| {
            (
                name.to_owned(),
                MountedVolume {
                    host_path: path.into(),
                    read_only,
                },
            )
        })
        .into_iter()
        .collect();
    let files = OwnFiles {
        hosts: Some("/pods/hosts".into()),
        termination_log: Some("/pods/log".into()),
    };
    let of = |list: Value| {
        let container =
            container(&json!({ "volumeMounts": list, "terminationMessagePath": "/dev/termination-log" }));
        let part = |index| (index == 1).then(|| PathBuf::from("/part"));
        mounts(&container, &volumes, &part, &files).map_err(|error| error.to_string())
    };
    let found = of(json!([
        { "name": "v", "mountPath": "data", "mountPropagation": "HostToContainer" },
        { "name": "v", "mountPath": "/part", "subPath": "x", "readOnly": true, "recursiveReadOnly": "IfPossible" },
        { "name": "cfg", "mountPath": "/cfg" },
    ]))
    .expect("mounts");
    let seen: Vec<_> = found
        .iter()
        .map(|m| (m.container_path.as_str(), m.host_path.as_str(), m.readonly))
        .collect();
    assert_eq!(
        seen,
        [
            ("/data", "/host/v", false),
            ("/part", "/part", true),
            ("/cfg", "/host/cfg", true),
            ("/etc/hosts", "/pods/hosts", false),
            ("/dev/termination-log", "/pods/log", false),
        ]
    );
    assert_eq!(
        found[0].propagation(),
        cri::MountPropagation::PropagationHostToContainer
    );
    assert!(found[1].recursive_read_only && !found[2].recursive_read_only);
    let own_hosts = of(json!([{ "name": "v", "mountPath": "/etc/hosts" }])).expect("mounts");
    assert_eq!(
        own_hosts
            .iter()
            .filter(|m| m.container_path == "/etc/hosts")
            .count(),
        1
    );
    let refused = of(json!([{ "name": "none", "mountPath": "/x" }]));
    assert_eq!(
        refused,
        Err("cannot find volume \"none\" to mount into container \"c\"".to_owned())
    );
    let refused = of(json!([{ "name": "v", "mountPath": "/x", "recursiveReadOnly": "Enabled" }]));
    assert_eq!(
        refused,
        Err("failed to resolve recursive read-only mode: volume is not mounted as read-only".to_owned())
    );
}

#[test]
fn subpaths_are_relative_and_expand_strictly() {
    let environment = vec![
        ("POD".to_owned(), "p1".to_owned()),
        ("UP".to_owned(), "..".to_owned()),
    ];
    let of = |more: Value| {
        let mut whole = json!({ "name": "v", "mountPath": "/x" });
        whole
            .as_object_mut()
            .expect("object")
            .extend(more.as_object().expect("object").clone());
        sub_path(&read(&whole), &environment).map_err(|error| error.to_string())
    };
    assert_eq!(of(json!({})), Ok(None));
    assert_eq!(of(json!({ "subPath": "a/b" })), Ok(Some("a/b".to_owned())));
    assert_eq!(
        of(json!({ "subPathExpr": "logs/$(POD)" })),
        Ok(Some("logs/p1".to_owned()))
    );
    assert_eq!(
        of(json!({ "subPathExpr": "$(NONE)" })),
        Err("missing value for \"NONE\"".to_owned())
    );
    assert!(of(json!({ "subPathExpr": "$(UP)/x" })).is_err());
    assert!(of(json!({ "subPath": "/etc" })).is_err());
    assert!(of(json!({ "subPath": "a/../.." })).is_err());
}

#[test]
fn a_sandbox_says_whose_it_is_and_where_it_belongs() {
    let pod = pod(&json!({
        "hostname": "h", "dnsPolicy": "Default", "hostPID": true,
        "securityContext": { "sysctls": [{ "name": "net.ipv4.ping_group_range", "value": "0 1" }] },
        "containers": [
            { "name": "c", "ports": [{ "containerPort": 80, "hostPort": 8080, "protocol": "UDP" }], "securityContext": { "privileged": true } }
        ],
    }));
    let (dns, limits) = (dns_facts(), limit_facts());
    let facts = SandboxFacts {
        dns: &dns,
        limits: &limits,
        pod_logs_dir: Path::new("/var/log/pods"),
        cgroup_parent: "/kubepods/besteffort/podu-1".to_owned(),
    };
    let (config, warnings) = sandbox_config(&pod, 2, &facts).expect("a sandbox");
    assert!(warnings.is_empty());
    assert_eq!(config.metadata.expect("metadata").attempt, 2);
    assert_eq!(config.hostname, "h");
    assert_eq!(config.log_directory, "/var/log/pods/shop_web-0_u-1");
    assert_eq!(config.labels["app"], "web");
    assert_eq!(config.labels["io.kubernetes.pod.uid"], "u-1");
    assert_eq!(config.annotations["note"], "a\"b\n");
    assert_eq!(
        (
            config.port_mappings[0].host_port,
            config.port_mappings[0].protocol()
        ),
        (8080, cri::Protocol::Udp)
    );
    let linux = config.linux.expect("linux");
    assert_eq!(linux.cgroup_parent, "/kubepods/besteffort/podu-1");
    assert_eq!(linux.sysctls["net.ipv4.ping_group_range"], "0 1");
    let security = linux.security_context.expect("security");
    assert!(security.privileged);
    let namespaces = security.namespace_options.expect("namespaces");
    assert_eq!(
        (namespaces.pid(), namespaces.network()),
        (cri::NamespaceMode::Node, cri::NamespaceMode::Pod)
    );
}

#[test]
fn a_container_is_told_all_that_its_pod_says() {
    let container = container(&json!({
        "command": ["run", "$(WHO)"], "args": ["$(NONE)"], "workingDir": "/w", "tty": true,
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
        "ports": [{ "containerPort": 80 }],
        "lifecycle": { "preStop": { "exec": { "command": ["x"] } }, "stopSignal": "SIGRTMIN+1" },
    }));
    let pod = pod(&json!({ "containers": [container], "terminationGracePeriodSeconds": 7 }));
    let image_user = ImageUser::default();
    let plan = ContainerPlan {
        pod: &pod,
        container: &container,
        attempt: 3,
        image_ref: "sha256:abc",
        image_user: &image_user,
        target: Some("target-id"),
    };
    let environment = vec![("WHO".to_owned(), "me".to_owned())];
    let limits = limit_facts();
    let gathered = Gathered {
        environment: &environment,
        mounts: Vec::new(),
        limits: &limits,
        security: SecurityFacts {
            seccomp_default: true,
            seccomp_root: Path::new("/s"),
            thermal_throttle: &[],
        },
    };
    let config = container_config(&plan, gathered).expect("a container");
    assert_eq!(config.metadata.as_ref().expect("metadata").attempt, 3);
    let image = config.image.as_ref().expect("image");
    assert_eq!(
        (image.image.as_str(), image.user_specified_image.as_str()),
        ("sha256:abc", "nginx")
    );
    assert_eq!(config.command, ["run", "me"]);
    assert_eq!(config.args, ["$(NONE)"]);
    assert_eq!(config.log_path, "c/3.log");
    assert_eq!(config.stop_signal(), cri::Signal::Sigrtminplus1);
    assert_eq!(config.labels["io.kubernetes.container.name"], "c");
    let note = |name: &str| config.annotations[&format!("io.kubernetes.{name}")].as_str();
    assert_eq!(note("container.restartCount"), "3");
    assert_eq!(note("container.terminationMessagePolicy"), "File");
    assert_eq!(note("container.ports"), "[{\"containerPort\":80}]");
    assert_eq!(
        note("container.preStopHandler"),
        "{\"exec\":{\"command\":[\"x\"]}}"
    );
    assert_eq!(note("pod.terminationGracePeriod"), "7");
    assert!(
        !config
            .annotations
            .contains_key("io.kubernetes.pod.deletionGracePeriod")
    );
    let security = config
        .linux
        .as_ref()
        .and_then(|l| l.security_context.as_ref())
        .expect("security");
    let namespaces = security.namespace_options.as_ref().expect("namespaces");
    assert_eq!(
        (namespaces.pid(), namespaces.target_id.as_str()),
        (cri::NamespaceMode::Target, "target-id")
    );
}

#[test]
fn all_objects_a_pod_refers_to_are_found() {
    let pod = pod(&json!({
        "containers": [{ "name": "c", "envFrom": [{ "configMapRef": { "name": "a" } }] }],
        "initContainers": [{ "name": "i", "env": [{ "name": "X", "valueFrom": { "secretKeyRef": { "name": "b", "key": "k" } } }] }],
        "volumes": [
            { "name": "v1", "configMap": { "name": "c" } },
            { "name": "v2", "secret": { "secretName": "d" } },
            { "name": "v3", "projected": { "sources": [{ "configMap": { "name": "e" } }, { "secret": { "name": "f" } }] } },
        ],
        "imagePullSecrets": [{ "name": "g" }, { "name": "" }],
    }));
    let keys: Vec<String> = object_keys(&pod).iter().map(|key| format!("{key:?}")).collect();
    let map = |name: &str| format!("ConfigMap(\"shop\", {name:?})");
    let secret = |name: &str| format!("Secret(\"shop\", {name:?})");
    assert_eq!(
        keys,
        [
            map("a"),
            map("c"),
            map("e"),
            secret("b"),
            secret("d"),
            secret("f"),
            secret("g")
        ]
    );
}
