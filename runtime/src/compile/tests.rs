use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::plan::{Id, MountKind, Propagation};

/// A spec as Kubernetes asks for one, with `change` merged over it.
fn spec(change: Value) -> Spec {
    let mut whole = json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs", "readonly": true},
        "process": {
            "user": {"uid": 1000, "gid": 2000, "additionalGids": [2000, 7]},
            "args": ["/bin/app", "-x"], "env": ["PATH=/bin"], "cwd": "/work",
            "capabilities": {
                "bounding": ["CAP_CHOWN", "CAP_CHECKPOINT_RESTORE"], "effective": ["CAP_CHOWN"],
                "permitted": ["CAP_CHOWN"]
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20}],
            "noNewPrivileges": true, "oomScoreAdj": 1000
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev/shm", "type": "bind", "source": "/run/shm", "options": ["rbind", "ro", "rslave"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "relatime"]}
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "network"}, {"type": "uts"}, {"type": "ipc"}],
            "maskedPaths": ["/proc/kcore"], "readonlyPaths": ["/proc/sys"],
            "resources": {
                "memory": {"limit": 1000, "swap": 1500},
                "cpu": {"shares": 1024, "quota": 20000, "period": 100000},
                "pids": {"limit": 9}, "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
                "unified": {"memory.oom.group": "1", "memory.max": "2000"}
            }
        }
    });
    merge(&mut whole, change);
    serde_json::from_value(whole).unwrap()
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn extras() -> Extras {
    Extras {
        id: "c1".into(),
        rootfs: Rootfs::Directory {
            path: "/r".into(),
            readonly: false,
        },
        stdio: Stdio {
            log_path: None,
            stdin: false,
            stdin_once: false,
        },
        cgroup_path: "/sys/fs/cgroup/c1".into(),
        user: None,
    }
}

fn compiled(change: Value) -> Result<ContainerPlan, Error> {
    container(&spec(change), extras())
}

#[test]
fn the_whole_spec_is_in_the_plan() {
    let plan = compiled(json!({})).unwrap();
    assert_eq!(
        plan.rootfs,
        Rootfs::Directory {
            path: "/r".into(),
            readonly: true
        }
    );
    assert_eq!(plan.process.user.uid, Id::Number(1000));
    assert_eq!(plan.process.user.additional_gids, [2000, 7]);
    assert_eq!(
        (
            plan.process.capabilities.bounding,
            plan.process.capabilities.permitted
        ),
        (1 | 1 << 40, 1)
    );
    assert_eq!(plan.process.rlimits, [(7, 10, 20)]);
    assert!(plan.process.no_new_privileges && plan.pid_namespace == PidNamespace::Own);
    let settings: Vec<String> = plan
        .cgroup
        .settings
        .iter()
        .map(|(file, value)| format!("{file}={value}"))
        .collect();
    let expected = "memory.swap.max=500 cpu.weight=100 cpu.max=20000 100000 pids.max=9 hugetlb.2MB.max=0 \
                    memory.max=2000 memory.oom.group=1";
    assert_eq!(settings.join(" "), expected);
}

#[test]
fn mount_options_become_bits() {
    let plan = compiled(json!({})).unwrap();
    let names: Vec<&str> = plan
        .mounts
        .iter()
        .map(|mount| mount.destination.as_str())
        .collect();
    assert_eq!(
        names,
        ["/proc", "/dev", "/dev/shm", "/sys/fs/cgroup"],
        "a tmpfs comes under what is below /dev"
    );
    assert_eq!(plan.mounts[0].flags, 0xE);
    let shm = &plan.mounts[2];
    assert_eq!((shm.flags, shm.propagation), (1, Propagation::Slave));
    let bind = MountKind::Bind {
        source: "/run/shm".into(),
        recursive: true,
        recursive_readonly: false,
    };
    assert_eq!(shm.kind, bind);
    assert_eq!(
        plan.mounts[3].kind,
        MountKind::FileSystem {
            name: "cgroup2".into(),
            options: Vec::new()
        }
    );
}

#[test]
fn later_options_win() {
    let options = json!({"mounts": [
        {"destination": "/a/../b//c/.", "source": "/x", "options": ["bind", "ro", "noatime", "rw", "strictatime", "rro"]}
    ]});
    let plan = compiled(options).unwrap();
    assert_eq!((plan.mounts[0].flags, plan.mounts[0].cleared), (0x20, 0x71));
    assert_eq!(plan.mounts[0].destination, "/b/c");
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    let mount = |mount: Value| json!({"mounts": [mount]});
    let cases = [
        (
            json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}}}),
            "linux.seccomp is not supported",
        ),
        (
            json!({"process": {"apparmorProfile": "p"}}),
            "process.apparmorProfile is not supported",
        ),
        (
            json!({"process": {"selinuxLabel": "l"}}),
            "process.selinuxLabel is not supported",
        ),
        (
            json!({"hooks": {"poststop": [{"path": "/h"}]}}),
            "hooks is not supported",
        ),
        (
            json!({"linux": {"namespaces": [{"type": "user"}]}}),
            "linux.namespaces.type is not supported: user",
        ),
        (
            json!({"linux": {"namespaces": []}}),
            "linux.namespaces is not supported: no mount namespace",
        ),
        (
            json!({"linux": {"resources": {"memory": {"swappiness": 1}}}}),
            "linux.resources.memory.swappiness",
        ),
        (
            json!({"linux": {"resources": {"memory": {"swap": 10}}}}),
            "is less than the memory limit",
        ),
        (
            json!({"linux": {"resources": {"unified": {"cgroup.procs": "1"}}}}),
            "is not a file of a controller",
        ),
        (
            json!({"linux": {"resources": {"unified": {"a.b/../../c": "1"}}}}),
            "is not a file of a controller",
        ),
        (
            json!({"linux": {"maskedPaths": ["proc"]}}),
            "linux.maskedPaths \"proc\" is not an absolute path",
        ),
        (json!({"process": {"args": []}}), "process.args is missing"),
        (
            json!({"process": {"cwd": "relative"}}),
            "process.cwd \"relative\" is not an absolute path",
        ),
        (
            json!({"process": {"user": {"uid": u32::MAX}}}),
            "process.user.uid",
        ),
        (json!({"process": {"oomScoreAdj": 1001}}), "process.oomScoreAdj"),
        (json!({"ociVersion": "2.0.0"}), "ociVersion \"2.0.0\" is not 1.x"),
        (
            mount(json!({"destination": "/a", "type": "bind", "source": "b"})),
            "mounts.source \"b\"",
        ),
        (
            mount(json!({"destination": "a", "type": "tmpfs"})),
            "mounts.destination \"a\"",
        ),
        (
            mount(json!({"destination": "/a/..", "type": "tmpfs"})),
            "is the root itself",
        ),
        (
            mount(json!({"destination": "/proc", "type": "tmpfs"})),
            "can only be a proc file system",
        ),
        (
            mount(json!({"destination": "/x/../proc/1", "type": "tmpfs"})),
            "because it is inside /proc",
        ),
        (
            mount(json!({"destination": "/a", "source": "/b", "options": ["bind", "mode=1"]})),
            "mode=1 on a bind mount",
        ),
        (
            mount(json!({"destination": "/a", "type": "tmpfs", "options": ["tmpcopyup"]})),
            "tmpcopyup",
        ),
        (mount(json!({"destination": "/a"})), "mounts.type is missing"),
    ];
    for (change, expected) in cases {
        let error = compiled(change).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} does not say {expected:?}");
    }
}

#[test]
fn a_filter_ends_with_what_every_container_needs() {
    let rules = json!({"linux": {"resources": {"devices": [
        {"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}
    ]}}});
    let plan = compiled(rules).unwrap();
    assert_eq!(
        plan.device_rules[0],
        crate::plan::DeviceRule {
            allow: false,
            block: None,
            major: None,
            minor: None,
            access: 7
        }
    );
    assert_eq!(
        (plan.device_rules[1].major, plan.device_rules[1].access),
        (Some(10), 6)
    );
    assert!(
        plan.device_rules
            .iter()
            .any(|rule| rule.allow && (rule.major, rule.minor) == (Some(1), Some(3)))
    );
    assert!(compiled(json!({})).unwrap().device_rules.is_empty());
}

#[test]
fn sandbox_takes_the_shared_part() {
    let extras = SandboxExtras {
        id: "s1".into(),
        keeper_cgroup: "/k".into(),
        directory: "/d".into(),
        oom_score_adj: -998,
    };
    let spec = spec(json!({"hostname": "web-0", "linux": {"sysctl": {"net.b": "2", "net.a": "1"}}}));
    let plan = sandbox(&spec, extras).unwrap();
    assert_eq!(plan.hostname.as_deref(), Some("web-0"));
    assert!(plan.own_network && plan.own_ipc);
    assert_eq!(
        plan.sysctls,
        [("net.a".into(), "1".into()), ("net.b".into(), "2".into())]
    );
}

#[test]
fn known_weights() {
    assert_eq!(
        [0, 2, 3, 102, 1024, 2048, 262_143, 262_144].map(cpu_weight),
        [1, 1, 2, 17, 100, 174, 10_000, 10_000]
    );
}

proptest! {
    #[test]
    fn weight_is_in_range_and_grows(shares in 0u64..300_000) {
        let weight = cpu_weight(shares);
        prop_assert!((1..=10_000).contains(&weight));
        prop_assert!(weight <= cpu_weight(shares + 1));
    }

    /// Whatever a mount says, its destination stays a plain absolute path below the root.
    #[test]
    fn destinations_are_plain(path in "(/(\\.\\.?|a|proc|b c|))*") {
        let mounts = json!({"mounts": [{"destination": path, "type": "tmpfs"}]});
        if let Ok(plan) = compiled(mounts) {
            let destination = &plan.mounts[0].destination;
            prop_assert!(destination.starts_with('/') && destination.len() > 1);
            prop_assert!(destination[1..].split('/').all(|part| !matches!(part, "" | "." | "..")));
        }
    }
}
