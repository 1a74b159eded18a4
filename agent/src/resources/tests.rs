use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::amounts::{amount_of, pod_limits, pod_requests};
use super::plan::{self, Controllers, Driver, Limits, NodeShare, pod_settings};
use super::{Cgroups, Config, Error, QosClass, formulas, is_uid, qos};
use crate::config::KubeletConfiguration;

fn pod(spec: &Value) -> Pod {
    let name = json!({ "name": "p", "namespace": "d", "uid": "u-1" });
    serde_json::from_value(json!({ "metadata": name, "spec": spec })).expect("a pod")
}

fn container(requests: &Value, limits: &Value) -> Value {
    json!({ "name": "c", "image": "i", "resources": { "requests": requests, "limits": limits } })
}

const LIMITS: Limits = Limits {
    cpu_quota: true,
    cpu_period: 100_000,
    pod_pids: Some(100),
};

#[test]
fn shares_and_quota_follow_the_formulas() {
    for (milli, shares) in [
        (0, 2),
        (1, 2),
        (2, 2),
        (10, 10),
        (100, 102),
        (1000, 1024),
        (i64::MAX, 262_144),
    ] {
        assert_eq!(formulas::shares(milli), shares, "{milli}m");
    }
    for (milli, quota) in [
        (0, 0),
        (1, 1000),
        (5, 1000),
        (10, 1000),
        (500, 50_000),
        (2000, 200_000),
    ] {
        assert_eq!(formulas::quota(milli, 100_000), quota, "{milli}m");
    }
    for (shares, weight) in [(0, 1), (2, 1), (1024, 100), (262_144, 10_000), (300_000, 10_000)] {
        assert_eq!(formulas::weight(shares), weight, "{shares} shares");
    }
    assert_eq!(formulas::cpu_max(0, 100_000), "max 100000");
    assert_eq!(formulas::cpu_max(-1, 100_000), "max 100000");
    assert_eq!(formulas::cpu_max(50_000, 100_000), "50000 100000");
    for (bytes, name) in [
        (2 << 20, "2MB"),
        (1 << 30, "1GB"),
        (64 << 10, "64KB"),
        (32 << 20, "32MB"),
    ] {
        assert_eq!(formulas::page_size_name(bytes), name);
    }
}

#[test]
fn qos_class_is_that_of_the_contract() {
    let both = json!({ "cpu": "1", "memory": "1Gi" });
    let cases = [
        (json!([container(&json!({}), &json!({}))]), QosClass::BestEffort),
        (
            json!([container(&json!({ "cpu": "0" }), &json!({}))]),
            QosClass::BestEffort,
        ),
        (json!([container(&both, &both)]), QosClass::Guaranteed),
        (json!([container(&json!({}), &both)]), QosClass::Guaranteed),
        (
            json!([container(&both, &both), container(&json!({}), &json!({}))]),
            QosClass::Burstable,
        ),
        (
            json!([container(&json!({ "cpu": "500m", "memory": "1Gi" }), &both)]),
            QosClass::Burstable,
        ),
        (
            json!([container(&json!({ "cpu": "1000m", "memory": "1024Mi" }), &both)]),
            QosClass::Guaranteed,
        ),
        (
            json!([container(
                &json!({ "memory": "1Gi" }),
                &json!({ "memory": "1Gi" })
            )]),
            QosClass::Burstable,
        ),
        (
            json!([container(&json!({ "example.com/gpu": "1" }), &json!({}))]),
            QosClass::BestEffort,
        ),
    ];
    for (containers, class) in cases {
        assert_eq!(
            QosClass::of(&pod(&json!({ "containers": containers }))),
            class,
            "{containers}"
        );
    }
    let init = json!({ "containers": [container(&both, &both)], "initContainers": [container(&json!({}), &json!({}))] });
    assert_eq!(QosClass::of(&pod(&init)), QosClass::Burstable);
    let mut told = pod(&json!({ "containers": [container(&both, &both)] }));
    told.status = serde_json::from_value(json!({ "qosClass": "Burstable" })).expect("a status");
    assert_eq!(
        QosClass::of(&told),
        QosClass::Burstable,
        "the class at creation stays"
    );
}

#[test]
fn pod_requests_count_init_peak_sidecars_and_overhead() {
    let sidecar =
        json!({ "name": "s", "restartPolicy": "Always", "resources": { "requests": { "cpu": "100m" } } });
    let init = |cpu: &str| json!({ "name": "i", "resources": { "requests": { "cpu": cpu } } });
    let regular = container(&json!({ "cpu": "300m" }), &json!({ "cpu": "1" }));
    let requests = |init: Value, more: Value| {
        let mut spec = json!({ "containers": [regular], "initContainers": init });
        spec.as_object_mut()
            .expect("object")
            .extend(more.as_object().expect("object").clone());
        amount_of(&pod_requests(&pod(&spec)), "cpu").milli_value()
    };
    assert_eq!(requests(json!([]), json!({})), 300);
    assert_eq!(requests(json!([init("200m")]), json!({})), 300);
    assert_eq!(requests(json!([init("900m")]), json!({})), 900);
    assert_eq!(
        requests(json!([sidecar, init("900m")]), json!({})),
        1000,
        "the sidecar runs beside it"
    );
    assert_eq!(
        requests(json!([init("900m"), sidecar]), json!({})),
        900,
        "it starts later"
    );
    assert_eq!(requests(json!([sidecar]), json!({})), 400);
    assert_eq!(
        requests(json!([sidecar]), json!({ "overhead": { "cpu": "50m" } })),
        450
    );
    assert_eq!(
        requests(
            json!([sidecar]),
            json!({ "resources": { "requests": { "cpu": "2" } } })
        ),
        2000
    );
    let with_overhead = pod(&json!({ "containers": [regular], "overhead": { "cpu": "1", "memory": "1Gi" } }));
    let limits = pod_limits(&with_overhead);
    assert_eq!(amount_of(&limits, "cpu").milli_value(), 2000);
    assert_eq!(
        amount_of(&limits, "memory").value(),
        0,
        "overhead limits nothing that is not limited"
    );
}

#[test]
fn oom_score_is_that_of_the_contract() {
    let score = |spec: &Value| {
        let pod = pod(spec);
        let first = pod.spec.as_ref().expect("spec").containers[0].clone();
        qos::oom_score_adjust(&pod, &first, 10_000)
    };
    let both = json!({ "cpu": "1", "memory": "1k" });
    assert_eq!(
        score(&json!({ "containers": [container(&json!({}), &json!({}))] })),
        1000
    );
    assert_eq!(score(&json!({ "containers": [container(&both, &both)] })), -997);
    let burstable =
        |memory: &str| json!({ "containers": [container(&json!({ "memory": memory }), &json!({}))] });
    for (memory, wanted) in [("1", 999), ("1k", 900), ("5k", 500), ("10k", 3), ("20k", 3)] {
        assert_eq!(score(&burstable(memory)), wanted, "{memory}");
    }
    let mut critical = burstable("1k");
    critical["priorityClassName"] = json!("system-node-critical");
    assert_eq!(score(&critical), 900, "the class name alone is not enough");
    critical["priority"] = json!(2_000_001_000);
    assert_eq!(score(&critical), -997);
    // A sidecar is killed no earlier than the smallest regular container.
    let sidecar: Container = serde_json::from_value(json!({
        "name": "s", "restartPolicy": "Always", "resources": { "requests": { "memory": "1k" } }
    }))
    .expect("a container");
    let whole = pod(&json!({
        "containers": [container(&json!({ "memory": "4k" }), &json!({}))], "initContainers": [sidecar]
    }));
    assert_eq!(qos::oom_score_adjust(&whole, &sidecar, 10_000), 600);
}

#[test]
fn names_are_those_of_both_drivers() {
    let uid = "8b1c-22";
    let cases = [
        (Driver::Cgroupfs, QosClass::Guaranteed, "kubepods/pod8b1c-22"),
        (
            Driver::Cgroupfs,
            QosClass::Burstable,
            "kubepods/burstable/pod8b1c-22",
        ),
        (
            Driver::Cgroupfs,
            QosClass::BestEffort,
            "kubepods/besteffort/pod8b1c-22",
        ),
        (
            Driver::Systemd,
            QosClass::Guaranteed,
            "kubepods.slice/kubepods-pod8b1c_22.slice",
        ),
        (
            Driver::Systemd,
            QosClass::Burstable,
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod8b1c_22.slice",
        ),
        (
            Driver::Systemd,
            QosClass::BestEffort,
            "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod8b1c_22.slice",
        ),
    ];
    for (driver, class, path) in cases {
        assert_eq!(plan::pod_path(driver, class, uid), Path::new(path));
    }
    assert_eq!(plan::uid_of("pod8b1c-22"), Some("8b1c-22"));
    assert_eq!(plan::uid_of("burstable"), None);
    assert_eq!(plan::uid_of("pod.."), None);
}

fn settings(spec: &Value, controllers: &Controllers) -> Vec<(String, String)> {
    let settings = pod_settings(&pod(spec), &LIMITS, controllers);
    settings.into_iter().map(|s| (s.file, s.value)).collect()
}

fn value<'s>(settings: &'s [(String, String)], file: &str) -> &'s str {
    &settings.iter().find(|(name, _)| name == file).expect(file).1
}

#[test]
fn a_pod_is_held_to_its_limits_only_where_every_container_has_one() {
    let mut controllers = Controllers::of(["cpu", "memory", "pids", "hugetlb"]);
    controllers.page_sizes = vec!["2MB".to_owned()];
    let limited = json!({ "cpu": "1", "memory": "64Mi", "hugepages-2Mi": "4Mi" });
    let one = container(&json!({ "cpu": "500m" }), &limited);
    let free = container(&json!({ "cpu": "500m" }), &json!({}));
    let all = settings(&json!({ "containers": [one, one] }), &controllers);
    assert_eq!(value(&all, "cpu.max"), "200000 100000");
    assert_eq!(value(&all, "memory.max"), (128 << 20).to_string());
    assert_eq!(value(&all, "cpu.weight"), "100");
    assert_eq!(value(&all, "pids.max"), "100");
    assert_eq!(value(&all, "hugetlb.2MB.max"), (8 << 20).to_string());
    let some = settings(&json!({ "containers": [one, free] }), &controllers);
    assert_eq!(value(&some, "cpu.max"), "max 100000");
    assert_eq!(value(&some, "memory.max"), "max");
    let whole = json!({ "containers": [one, free], "resources": { "limits": { "memory": "1Gi" } } });
    assert_eq!(
        value(&settings(&whole, &controllers), "memory.max"),
        (1u64 << 30).to_string()
    );
    let nothing = settings(
        &json!({ "containers": [container(&json!({}), &json!({}))] }),
        &controllers,
    );
    assert_eq!(value(&nothing, "cpu.weight"), "1");
    assert_eq!(value(&nothing, "hugetlb.2MB.max"), "0");
}

#[test]
fn pods_share_what_is_not_reserved() {
    let capacity = plan::NodeCapacity {
        milli_cpu: 4000,
        memory: 1 << 30,
        pids: Some(1000),
    };
    let reserved = |list: &[(&str, &str)]| {
        list.iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    };
    let mut kubelet = KubeletConfiguration {
        kube_reserved: reserved(&[("cpu", "500m"), ("memory", "256Mi")]),
        system_reserved: reserved(&[("cpu", "500m"), ("pid", "100")]),
        ..KubeletConfiguration::default()
    };
    let share = |milli_cpu, memory, pids| NodeShare {
        milli_cpu,
        memory,
        pids: Some(pids),
    };
    assert_eq!(
        NodeShare::of(&kubelet, capacity).expect("share"),
        share(3000, 768 << 20, 900)
    );
    kubelet.enforce_node_allocatable = vec!["none".to_owned()];
    assert_eq!(
        NodeShare::of(&kubelet, capacity).expect("share"),
        share(4000, 1 << 30, 1000)
    );
    kubelet.system_reserved = reserved(&[("memory", "1Gi")]);
    let refused = NodeShare::of(&kubelet, capacity)
        .expect_err("more than there is")
        .to_string();
    assert_eq!(
        refused,
        "reserved memory: 1342177280 is reserved, the node has 1073741824"
    );
}

proptest! {
    #[test]
    fn weight_rises_with_shares_and_stays_in_range(a in 0u64..400_000, b in 0u64..400_000) {
        let (low, high) = (a.min(b), a.max(b));
        prop_assert!(formulas::weight(low) <= formulas::weight(high));
        prop_assert!((1..=10_000).contains(&formulas::weight(a)));
    }

    #[test]
    fn uids_stay_one_component(uid in ".{0,40}") {
        if is_uid(&uid) {
            prop_assert_eq!(Path::new(&uid).components().count(), 1);
            prop_assert!(uid != "." && uid != "..");
        }
    }
}

/// A cgroup of the test's own below the machine's unified hierarchy; gone with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let line = mounts
            .lines()
            .find(|line| line.contains(" - cgroup2 "))
            .expect("a cgroup v2 file system");
        let point = line.split(' ').nth(4).expect("a mount point");
        let path = Path::new(point).join(format!("longshore-test-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).expect("own cgroup");
        Self(path)
    }

    fn config(&self) -> Config {
        let allow_missing = ["cpu", "cpuset", "memory", "pids"].map(str::to_owned).into();
        Config {
            root: self.0.clone(),
            allow_missing,
            limits: LIMITS,
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fn remove(path: &Path) {
            for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
                if entry.path().is_dir() {
                    remove(&entry.path());
                }
            }
            let _ = std::fs::remove_dir(path);
        }
        let _ = std::fs::write(self.0.join("cgroup.kill"), "1");
        remove(&self.0);
    }
}

#[tokio::test]
async fn pod_cgroups_are_made_found_and_removed_with_what_runs_in_them() {
    let scratch = Scratch::new("pods");
    let cgroups = Cgroups::open(scratch.config()).expect("tree");
    let pod = Arc::new(pod(
        &json!({ "containers": [container(&json!({ "cpu": "1" }), &json!({}))] }),
    ));
    cgroups.ensure(&pod).await.expect("made");
    cgroups.ensure(&pod).await.expect("made again");
    cgroups.update_tiers(vec![Arc::clone(&pod)]).await.expect("tiers");
    cgroups
        .enforce_node(NodeShare {
            milli_cpu: 2000,
            memory: 1 << 30,
            pids: None,
        })
        .await
        .expect("node");
    assert_eq!(cgroups.pod_cgroup(&pod), "/kubepods/burstable/podu-1");
    let path = scratch.0.join("kubepods/burstable/podu-1");
    std::fs::create_dir(path.join("container")).expect("container's cgroup");
    let mut child = Command::new("sleep")
        .arg("1000")
        .stdin(Stdio::null())
        .spawn()
        .expect("sleep");
    std::fs::write(path.join("container/cgroup.procs"), child.id().to_string()).expect("moved");
    // A new instance finds what an old one made.
    let cgroups = Cgroups::open(scratch.config()).expect("tree again");
    let live = BTreeSet::from(["u-1".to_owned()]);
    assert_eq!(cgroups.orphans(&live).await.expect("orphans"), BTreeSet::new());
    assert!(path.exists());
    let reaper = std::thread::spawn(move || child.wait().expect("killed"));
    assert_eq!(cgroups.orphans(&BTreeSet::new()).await.expect("orphans"), live);
    cgroups.remove("u-1").await.expect("removed");
    assert!(!path.exists());
    assert!(!reaper.join().expect("reaped").success());
    cgroups.remove("u-1").await.expect("removed again");
    assert!(matches!(cgroups.remove("../x").await, Err(Error::Uid { .. })));
}

#[test]
fn missing_controllers_are_refused_unless_allowed() {
    let scratch = Scratch::new("missing");
    let refused = Cgroups::open(Config {
        allow_missing: BTreeSet::new(),
        ..scratch.config()
    });
    let present = std::fs::read_to_string(scratch.0.join("cgroup.controllers")).expect("controllers");
    let missing = Controllers::of(present.split_whitespace()).missing();
    match refused {
        Ok(cgroups) => assert!(missing.is_empty() && cgroups.unenforced().is_empty()),
        Err(Error::MissingControllers { missing: named, .. }) => assert_eq!(named, missing.join(",")),
        Err(other) => panic!("{other}"),
    }
    let allowed = Cgroups::open(scratch.config()).expect("allowed");
    assert_eq!(allowed.unenforced(), missing);
    let dir = tempfile::tempdir().expect("temp dir");
    let plain = Cgroups::open(Config {
        root: dir.path().to_owned(),
        ..scratch.config()
    });
    assert!(matches!(plain, Err(Error::NotUnified { .. })));
}
