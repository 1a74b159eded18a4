use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, NodeAddress, NodeCondition, NodeStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use proptest::prelude::*;
use serde_json::json;

use super::conditions::Pressures;
use super::patch::{differs, patch};
use super::*;
use crate::api::EventKind;
use crate::node::runtime::{Condition, Handler, Health, Image};

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn settings() -> Settings {
    Settings {
        node_name: "n1".into(),
        ..Settings::default()
    }
}

fn machine() -> Machine {
    Machine {
        cpus: 4,
        memory: 8 * 1024 * 1024 * 1024,
        huge_pages: BTreeMap::from([(2048, 0), (1024 * 1024, 1024 * 1024 * 1024)]),
        machine_id: "mid".into(),
        system_uuid: "uuid".into(),
        boot_id: "boot-1".into(),
        kernel_version: "6.18".into(),
        os_image: "Debian".into(),
        storage: Some(101_203_873_792),
        swap: 0,
    }
}

fn healthy() -> Health {
    let condition = |kind: &str| Condition {
        kind: kind.into(),
        holds: true,
        reason: String::new(),
        message: String::new(),
    };
    let handler = Handler {
        name: String::new(),
        recursive_read_only_mounts: true,
        user_namespaces: false,
    };
    Health {
        conditions: vec![condition("RuntimeReady"), condition("NetworkReady")],
        handlers: vec![handler],
        supplemental_groups_policy: true,
    }
}

fn facts() -> Facts {
    Facts {
        machine: machine(),
        addresses: Some(Ok(vec!["10.0.0.5".parse().unwrap(), "fd00::5".parse().unwrap()])),
        health: Some(healthy()),
        images: Some(Vec::new()),
        ..Facts::default()
    }
}

fn node() -> Node {
    Node {
        metadata: ObjectMeta {
            name: Some("n1".into()),
            ..ObjectMeta::default()
        },
        ..Node::default()
    }
}

fn condition<'a>(node: &'a Node, kind: &str) -> &'a NodeCondition {
    let conditions = node.status.as_ref().unwrap().conditions.as_ref().unwrap();
    conditions
        .iter()
        .find(|condition| condition.type_ == kind)
        .unwrap()
}

fn reasons(told: &[plan::Told]) -> Vec<&str> {
    told.iter().map(|one| one.reason.as_str()).collect()
}

#[test]
fn a_healthy_node_is_ready_with_conditions_in_order() {
    let (after, told) = plan(&settings(), &node(), &facts(), NOW);
    let status = after.status.clone().unwrap();
    let kinds: Vec<String> = status.conditions.unwrap().into_iter().map(|c| c.type_).collect();
    assert_eq!(kinds, ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"]);
    let ready = condition(&after, "Ready");
    assert_eq!(
        (ready.status.as_str(), ready.reason.as_deref()),
        ("True", Some("KubeletReady"))
    );
    assert_eq!(ready.message.as_deref(), Some("kubelet is posting ready status"));
    assert_eq!(
        condition(&after, "DiskPressure").message.as_deref(),
        Some("kubelet has no disk pressure")
    );
    // Pressures are told when they are new, Ready only when it changes.
    assert_eq!(
        reasons(&told),
        [
            "NodeHasSufficientMemory",
            "NodeHasNoDiskPressure",
            "NodeHasSufficientPID"
        ]
    );
    assert_eq!(told[0].message, "Node n1 status is now: NodeHasSufficientMemory");
    let info = status.node_info.unwrap();
    assert_eq!(info.kubelet_version, "v1.36.3+longshore.0.1.0");
    assert_eq!(info.container_runtime_version, "longshore://0.1.0");
    assert_eq!(
        (info.kube_proxy_version.as_str(), info.boot_id.as_str()),
        ("", "boot-1")
    );
    assert_eq!(
        status.daemon_endpoints.unwrap().kubelet_endpoint.unwrap().port,
        10250
    );
    let addresses: Vec<_> = status
        .addresses
        .unwrap()
        .into_iter()
        .map(|a| (a.type_, a.address))
        .collect();
    let pair = |kind: &str, address: &str| (kind.to_owned(), address.to_owned());
    assert_eq!(
        addresses,
        [
            pair("InternalIP", "10.0.0.5"),
            pair("InternalIP", "fd00::5"),
            pair("Hostname", "n1")
        ]
    );
}

#[test]
fn capacity_and_allocatable_as_upstream_computes_them() {
    let mut settings = settings();
    settings.kubelet.system_reserved =
        [("cpu".into(), "500m".into()), ("memory".into(), "1Gi".into())].into();
    settings.kubelet.kube_reserved = [("cpu".into(), "100m".into())].into();
    let status = plan(&settings, &node(), &facts(), NOW).0.status.unwrap();
    let text = |map: &Option<BTreeMap<String, Quantity>>, name: &str| map.as_ref().unwrap()[name].0.clone();
    for (name, capacity, allocatable) in [
        ("cpu", "4", "3400m"),
        // 8Gi - 1Gi - 100Mi (eviction) - 1Gi (huge pages)
        ("memory", "8Gi", "6044Mi"),
        ("pods", "110", "110"),
        // 10 % as a 32 bit float, as upstream has it.
        ("ephemeral-storage", "98831908Ki", "91083486262"),
        ("hugepages-2Mi", "0", "0"),
        ("hugepages-1Gi", "1Gi", "1Gi"),
    ] {
        assert_eq!(text(&status.capacity, name), capacity, "capacity of {name}");
        assert_eq!(
            text(&status.allocatable, name),
            allocatable,
            "allocatable of {name}"
        );
    }
    settings.kubelet.pods_per_core = 5;
    let status = plan(&settings, &node(), &facts(), NOW).0.status.unwrap();
    assert_eq!(text(&status.capacity, "pods"), "20");
}

#[test]
fn resources_of_others_stay_and_lost_huge_pages_go() {
    let mut before = node();
    let map = |names: &[&str]| {
        Some(
            names
                .iter()
                .map(|n| ((*n).to_owned(), Quantity("7".into())))
                .collect(),
        )
    };
    before.status = Some(NodeStatus {
        capacity: map(&["example.com/gpu", "hugepages-64Ki"]),
        allocatable: map(&["example.com/gpu", "hugepages-64Ki"]),
        ..NodeStatus::default()
    });
    let status = plan(&settings(), &before, &facts(), NOW).0.status.unwrap();
    for map in [status.capacity.unwrap(), status.allocatable.unwrap()] {
        assert_eq!(map["example.com/gpu"].0, "7");
        assert!(!map.contains_key("hugepages-64Ki"));
    }
}

#[test]
fn what_speaks_against_ready_is_named() {
    let not = |facts: Facts| {
        let (after, _) = plan(&settings(), &node(), &facts, NOW);
        let ready = condition(&after, "Ready");
        assert_eq!(
            (ready.status.as_str(), ready.reason.as_deref()),
            ("False", Some("KubeletNotReady"))
        );
        ready.message.clone().unwrap()
    };
    assert_eq!(
        not(Facts {
            health: None,
            ..facts()
        }),
        "container runtime status check may not have completed yet"
    );
    assert_eq!(
        not(Facts {
            health_error: Some("x".into()),
            ..facts()
        }),
        "container runtime is down: x"
    );
    let mut health = healthy();
    health.conditions[1] = Condition {
        kind: "NetworkReady".into(),
        holds: false,
        reason: "NetworkPluginNotReady".into(),
        message: "no pod CIDR yet".into(),
    };
    assert_eq!(
        not(Facts {
            health: Some(health.clone()),
            ..facts()
        }),
        "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:no pod CIDR yet"
    );
    let both = Facts {
        health: Some(health),
        errors: vec!["node is shutting down".into()],
        ..facts()
    };
    let message = not(both);
    assert!(
        message.starts_with("[container runtime network") && message.ends_with(", node is shutting down]"),
        "{message}"
    );
    let mut no_storage = facts();
    no_storage.machine.storage = None;
    assert_eq!(
        not(no_storage),
        "missing node capacity for resources: ephemeral-storage"
    );
}

#[test]
fn transitions_move_the_transition_time_and_are_told_once() {
    let (first, _) = plan(&settings(), &node(), &facts(), NOW);
    let later = NOW + SignedDuration::from_secs(60);
    let (same, told) = plan(&settings(), &first, &facts(), later);
    assert!(told.is_empty(), "{told:?}");
    assert_eq!(condition(&same, "Ready").last_transition_time, Some(Time(NOW)));
    assert_eq!(condition(&same, "Ready").last_heartbeat_time, Some(Time(later)));
    let pressed = Facts {
        pressures: Pressures {
            memory: true,
            ..Pressures::default()
        },
        errors: vec!["x".into()],
        ..facts()
    };
    let (changed, told) = plan(&settings(), &same, &pressed, later);
    assert_eq!(reasons(&told), ["NodeHasInsufficientMemory", "NodeNotReady"]);
    assert_eq!(
        condition(&changed, "MemoryPressure").reason.as_deref(),
        Some("KubeletHasInsufficientMemory")
    );
    assert_eq!(
        condition(&changed, "Ready").last_transition_time,
        Some(Time(later))
    );
    let (_, told) = plan(&settings(), &changed, &facts(), later);
    assert_eq!(reasons(&told), ["NodeHasSufficientMemory", "NodeReady"]);
}

#[test]
fn a_new_boot_is_told() {
    let (first, _) = plan(&settings(), &node(), &facts(), NOW);
    let mut rebooted = facts();
    rebooted.machine.boot_id = "boot-2".into();
    let (_, told) = plan(&settings(), &first, &rebooted, NOW);
    assert_eq!(
        (told[0].kind, told[0].reason.as_str()),
        (EventKind::Warning, "Rebooted")
    );
    assert_eq!(told[0].message, "Node n1 has been rebooted, boot id: boot-2");
}

#[test]
fn images_are_the_largest_with_digests_first() {
    let image = |name: &str, size: i64| Image {
        digests: vec![format!("{name}@sha256:1")],
        tags: (0..6).map(|n| format!("{name}:{n}")).collect(),
        size,
    };
    let mut settings = settings();
    settings.kubelet.node_status_max_images = 2;
    let facts = Facts {
        images: Some(vec![image("a", 1), image("b", 3), image("c", 2)]),
        ..facts()
    };
    let images = plan(&settings, &node(), &facts, NOW)
        .0
        .status
        .unwrap()
        .images
        .unwrap();
    assert_eq!(
        images
            .iter()
            .map(|image| image.size_bytes.unwrap())
            .collect::<Vec<_>>(),
        [3, 2]
    );
    assert_eq!(
        images[0].names.as_ref().unwrap(),
        &["b@sha256:1", "b:0", "b:1", "b:2", "b:3"]
    );
    settings.kubelet.node_status_max_images = -1;
    assert_eq!(
        plan(&settings, &node(), &facts, NOW)
            .0
            .status
            .unwrap()
            .images
            .unwrap()
            .len(),
        3
    );
}

#[test]
fn a_cloud_controllers_addresses_stay() {
    let mut settings = settings();
    settings.cloud_provider = "external".into();
    let status = plan(&settings, &node(), &facts(), NOW).0.status.unwrap();
    assert_eq!(status.addresses.as_ref().unwrap()[0].type_, "Hostname");
    let mut theirs = node();
    let address = NodeAddress {
        type_: "ExternalIP".into(),
        address: "1.2.3.4".into(),
    };
    theirs.status = Some(NodeStatus {
        addresses: Some(vec![address.clone()]),
        ..NodeStatus::default()
    });
    settings.node_ips = vec!["10.0.0.5".parse().unwrap()];
    let (after, _) = plan(&settings, &theirs, &facts(), NOW);
    assert_eq!(after.status.unwrap().addresses, Some(vec![address]));
    assert_eq!(
        after.metadata.annotations.unwrap()["alpha.kubernetes.io/provided-node-ip"],
        "10.0.0.5"
    );
}

#[test]
fn unenforced_controllers_are_annotated_until_they_are_enforced() {
    let weak = Facts {
        unenforced: vec!["cpu".into(), "memory".into()],
        ..facts()
    };
    let (after, _) = plan(&settings(), &node(), &weak, NOW);
    assert_eq!(
        after.metadata.annotations.as_ref().unwrap()["longshore.dev/unenforced"],
        "cpu,memory"
    );
    let (strong, _) = plan(&settings(), &after, &facts(), NOW);
    assert_eq!(strong.metadata.annotations, None);
    assert_eq!(patch(&after, &strong)["metadata"]["annotations"], json!(null));
}

#[test]
fn a_heartbeat_alone_is_no_change() {
    let (first, _) = plan(&settings(), &node(), &facts(), NOW);
    let (same, _) = plan(&settings(), &first, &facts(), NOW + SignedDuration::from_secs(10));
    assert!(!differs(&first, &same));
    assert!(differs(&node(), &first));
    let change = patch(&first, &same);
    assert_eq!(change["status"].as_object().unwrap().len(), 1);
    assert_eq!(change["status"]["conditions"].as_array().unwrap().len(), 4);
}

#[test]
fn the_patch_says_only_what_changed() {
    let (first, _) = plan(&settings(), &node(), &facts(), NOW);
    let mut moved = facts();
    moved.addresses = Some(Ok(vec!["10.0.0.6".parse().unwrap()]));
    moved.machine.cpus = 8;
    let (after, _) = plan(&settings(), &first, &moved, NOW);
    assert_eq!(
        patch(&first, &after),
        json!({"metadata": {}, "status": {
            "addresses": [
                {"type": "InternalIP", "address": "10.0.0.6"},
                {"type": "Hostname", "address": "n1"},
                {"$patch": "replace"},
            ],
            "capacity": {"cpu": "8"},
            "allocatable": {"cpu": "8"},
        }})
    );
}

#[test]
fn conditions_of_others_are_left_alone() {
    let mut before = node();
    let other = NodeCondition {
        type_: "NetworkUnavailable".into(),
        status: "False".into(),
        ..NodeCondition::default()
    };
    before.status = Some(NodeStatus {
        conditions: Some(vec![other.clone()]),
        ..NodeStatus::default()
    });
    let (after, _) = plan(&settings(), &before, &facts(), NOW);
    assert_eq!(condition(&after, "NetworkUnavailable"), &other);
    let sent = patch(&before, &after)["status"]["conditions"].to_string();
    assert!(!sent.contains("NetworkUnavailable"), "{sent}");
}

proptest! {
    /// Whatever was there before: a second plan changes nothing.
    #[test]
    fn planning_twice_changes_nothing(
        cpus in 0i64..1000,
        memory in 0i64..1 << 45,
        storage in proptest::option::of(0i64..1 << 50),
        pods_per_core in 0i32..20,
        percent in 0u8..=100,
        down in proptest::option::of("[a-z]{0,8}"),
    ) {
        let mut settings = settings();
        settings.kubelet.pods_per_core = pods_per_core;
        settings.kubelet.eviction_hard.insert("nodefs.available".into(), format!("{percent}%"));
        let mut facts = facts();
        facts.machine = Machine { cpus, memory, storage, ..machine() };
        facts.health_error = down;
        let (first, _) = plan(&settings, &node(), &facts, NOW);
        let (second, told) = plan(&settings, &first, &facts, NOW);
        prop_assert_eq!(&first, &second);
        prop_assert!(told.is_empty());
        prop_assert_eq!(patch(&first, &second), json!({"metadata": {}, "status": {}}));
    }
}
