#[cfg(feature = "fault-points")]
mod crash;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::payload::{Payload, ProjectedFile, Rules, checked, clean_path};
use super::plan::{Kind, Medium, Ownership};
use super::sys::Dir;
use super::{Error, SubPath, Volumes, apply, atomic, mounts, payload, plan, removal, tokens};
use crate::api::{Api, Objects};

fn pod(spec: &Value) -> Arc<Pod> {
    let metadata = json!({ "name": "p", "namespace": "d", "uid": "u-1", "labels": { "a": "b" } });
    Arc::new(serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).expect("a pod"))
}

/// A pod of one container that mounts every volume at `/NAME`.
fn pod_with(volumes: &Value, more: &Value) -> Arc<Pod> {
    let names = volumes
        .as_array()
        .expect("volumes")
        .iter()
        .map(|v| v["name"].as_str().expect("name"));
    let mounts: Vec<Value> = names
        .map(|n| json!({ "name": n, "mountPath": format!("/{n}") }))
        .collect();
    let mut spec = json!({ "containers": [{ "name": "c", "volumeMounts": mounts }], "volumes": volumes });
    spec.as_object_mut()
        .expect("object")
        .extend(more.as_object().expect("object").clone());
    pod(&spec)
}

fn standalone(root: &Path) -> Arc<Volumes> {
    Volumes::new(root, Objects::start(Api::standalone(), "n"), BTreeMap::new())
}

/// Runs `body` in a mount namespace of its own: in a second process of this test binary. mountinfo is per process.
fn in_own_mounts(test: &str, body: impl AsyncFnOnce()) {
    const INSIDE: &str = "LONGSHORE_TEST_OWN_MOUNTS";
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .expect("runtime");
        return runtime.block_on(body());
    }
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().expect("own path"))
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

fn file(data: &str, mode: u32) -> ProjectedFile {
    ProjectedFile {
        data: data.as_bytes().to_vec(),
        mode,
        owner: None,
    }
}

fn payload_of(files: &[(&str, &str)]) -> Payload {
    files
        .iter()
        .map(|(path, data)| ((*path).to_owned(), file(data, 0o644)))
        .collect()
}

fn write(dir: &Path, payload: &Payload) -> bool {
    atomic::write(&Dir::open_root(dir).expect("dir"), payload, &|_| Ok(())).expect("written")
}

/// What a reader of the volume sees: files by path, through the links.
fn seen(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(dir: &Path, prefix: &str, found: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(dir).expect("list") {
            let entry = entry.expect("entry");
            let name = entry.file_name().into_string().expect("UTF-8");
            if prefix.is_empty() && name.starts_with("..") {
                continue;
            }
            let path = format!("{prefix}{name}");
            if entry.path().is_dir() {
                walk(&entry.path(), &format!("{path}/"), found);
            } else {
                found.insert(path, fs::read(entry.path()).expect("read"));
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(dir, "", &mut found);
    found
}

fn hidden(dir: &Path) -> BTreeSet<String> {
    let names = fs::read_dir(dir)
        .expect("list")
        .map(|e| e.expect("entry").file_name().into_string().expect("UTF-8"));
    names.filter(|name| name.starts_with("..")).collect()
}

fn data(payload: &Payload) -> BTreeMap<String, Vec<u8>> {
    payload
        .iter()
        .map(|(path, file)| (path.clone(), file.data.clone()))
        .collect()
}

fn payloads() -> impl Strategy<Value = Payload> {
    let path = proptest::collection::vec("[a-c]{1,2}", 1..4).prop_map(|parts| parts.join("/"));
    proptest::collection::btree_map(path, ".{0,20}", 0..6).prop_filter_map("conflicting paths", |files| {
        checked(files.into_iter().map(|(path, data)| (path, file(&data, 0o600)))).ok()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn clean_paths_stay_inside_and_off_the_writers_names(path in "[./a\\x00-]{0,12}|.{0,30}") {
        if let Ok(clean) = clean_path(&path) {
            prop_assert!(!clean.starts_with('/') && !clean.starts_with("..") && !clean.contains('\0'));
            prop_assert!(clean.split('/').all(|part| !matches!(part, "" | "." | "..")));
            prop_assert_eq!(clean_path(&clean), Ok(clean));
        }
    }

    #[test]
    fn a_volume_shows_exactly_what_was_written_last(history in proptest::collection::vec(payloads(), 1..5)) {
        let dir = tempfile::tempdir().expect("temp dir");
        for payload in &history {
            write(dir.path(), payload);
            prop_assert_eq!(seen(dir.path()), data(payload));
            prop_assert_eq!(hidden(dir.path()).len(), 2, "..data and the directory in force");
            prop_assert!(!write(dir.path(), payload), "nothing to do");
        }
    }

    #[test]
    fn whatever_a_crash_left_the_next_write_mends(old in payloads(), new in payloads(), cut in 0usize..5) {
        let dir = tempfile::tempdir().expect("temp dir");
        let at = |name: &str| dir.path().join(name);
        write(dir.path(), &old);
        let half = "..2020_01_01_00_00_00.00000000";
        if cut >= 1 {
            fs::create_dir(at(half)).expect("half-written directory");
            fs::write(at(half).join("a"), "half").expect("half-written file");
        }
        if cut >= 2 {
            symlink(half, at("..data_tmp")).expect("link not yet swapped in");
        }
        if cut >= 3 {
            fs::rename(at("..data_tmp"), at("..data")).expect("swapped, links not made");
        }
        if cut >= 4 {
            symlink("..data/gone", at("gone")).expect("stale link");
        }
        write(dir.path(), &new);
        prop_assert_eq!(seen(dir.path()), data(&new));
        prop_assert_eq!(hidden(dir.path()).len(), 2);
    }
}

#[test]
fn paths_that_must_not_be_written_are_refused() {
    for path in [
        "",
        "/",
        ".",
        "/etc/passwd",
        "a/../b",
        "..",
        "..data",
        "..data/x",
        "a/..",
        &"x".repeat(256),
    ] {
        assert!(clean_path(path).is_err(), "{path:?}");
    }
    for (path, clean) in [
        ("a", "a"),
        ("a//b/./c", "a/b/c"),
        (".hidden", ".hidden"),
        ("a/..b", "a/..b"),
    ] {
        assert_eq!(clean_path(path).as_deref(), Ok(clean));
    }
    let both = [("a", ""), ("a/b", "")].map(|(path, data)| (path.to_owned(), file(data, 0o644)));
    assert_eq!(
        checked(both).expect_err("conflict").to_string(),
        "invalid path: a is both a file and a directory"
    );
}

#[test]
fn an_update_swaps_all_files_at_once_and_keeps_modes() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut first = payload_of(&[("cert", "1"), ("dir/key", "1")]);
    first.get_mut("cert").expect("cert").mode = 0o400;
    assert!(write(dir.path(), &first));
    assert_eq!(
        fs::read_link(dir.path().join("cert")).expect("link"),
        Path::new("..data/cert")
    );
    assert_eq!(
        fs::metadata(dir.path().join("cert")).expect("cert").mode() & 0o7777,
        0o400
    );
    let before = fs::canonicalize(dir.path().join("..data")).expect("data");
    let held = fs::File::open(before.join("cert")).expect("a reader's handle");
    assert!(write(dir.path(), &payload_of(&[("cert", "2"), ("new", "2")])));
    assert!(!before.exists());
    drop(held);
    assert_eq!(seen(dir.path()).keys().collect::<Vec<_>>(), ["cert", "new"]);
}

#[test]
fn sources_give_their_keys_or_the_ones_listed() {
    let rules = |optional| Rules {
        default_mode: 0o644,
        optional,
    };
    let map: ConfigMap = serde_json::from_value(json!({
        "metadata": {}, "data": { "a": "1", "b": "2" }, "binaryData": { "c": "Aw==" }
    }))
    .expect("a ConfigMap");
    let all = checked(payload::of_config_map(&map, None, rules(false)).expect("all")).expect("paths");
    assert_eq!(
        data(&all),
        BTreeMap::from([
            ("a".into(), vec![b'1']),
            ("b".into(), vec![b'2']),
            ("c".into(), vec![3])
        ])
    );
    let items = |items: Value| serde_json::from_value::<Vec<_>>(items).expect("items");
    let one = items(json!([{ "key": "a", "path": "x/y", "mode": 256 }]));
    let files = payload::of_config_map(&map, Some(&one), rules(false)).expect("one");
    assert_eq!(files, [("x/y".to_owned(), file("1", 0o400))]);
    let absent = items(json!([{ "key": "z", "path": "z" }]));
    let error = payload::of_config_map(&map, Some(&absent), rules(false)).expect_err("missing");
    assert_eq!(
        error.to_string(),
        "configmap references non-existent config key: z"
    );
    assert_eq!(
        payload::of_config_map(&map, Some(&absent), rules(true)).expect("optional"),
        []
    );
    let error = payload::of_secret(&Secret::default(), Some(&absent), rules(false)).expect_err("missing");
    assert_eq!(error.to_string(), "references non-existent secret key: z");
    let token = |owner, group| payload::of_token("t".into(), 0o644, owner, group).mode;
    assert_eq!(
        [token(None, false), token(Some(7), false), token(None, true)],
        [0o644, 0o600, 0o600]
    );
}

#[test]
fn the_plan_takes_used_volumes_with_their_media_and_bounds() {
    let volumes = json!([
        { "name": "disk", "emptyDir": {} },
        { "name": "memory", "emptyDir": { "medium": "Memory", "sizeLimit": "1Mi" } },
        { "name": "large", "emptyDir": { "medium": "Memory", "sizeLimit": "1Ti" } },
        { "name": "huge", "emptyDir": { "medium": "HugePages" } },
        { "name": "claim", "persistentVolumeClaim": { "claimName": "x" } },
        { "name": "climbs", "hostPath": { "path": "/a/../b" } },
    ]);
    let mut pod = Pod::clone(&pod_with(&volumes, &json!({})));
    let spec = pod.spec.as_mut().expect("spec");
    spec.volumes
        .as_mut()
        .expect("volumes")
        .push(serde_json::from_value(json!({ "name": "unused" })).expect("volume"));
    let allocatable = serde_json::from_value(json!({ "memory": "1Gi" })).expect("amounts");
    let planned: BTreeMap<String, String> = plan::plan(&pod, &allocatable)
        .into_iter()
        .map(|(name, plan)| {
            (
                name,
                plan.map_or_else(|e| e.to_string(), |p| format!("{:?}", p.kind)),
            )
        })
        .collect();
    let memory = |size| format!("{:?}", Kind::EmptyDir(Medium::Memory { size: Some(size) }));
    let wanted = [
        (
            "claim",
            "persistentvolumeclaim \"x\": this node has no plugin for persistent volumes".to_owned(),
        ),
        (
            "climbs",
            "invalid HostPath `/a/../b`: must not contain '..'".to_owned(),
        ),
        ("disk", format!("{:?}", Kind::EmptyDir(Medium::Disk))),
        ("huge", "unknown storage medium \"HugePages\"".to_owned()),
        ("large", memory(1 << 30)),
        ("memory", memory(1 << 20)),
    ];
    assert_eq!(
        planned,
        wanted.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
    );
}

#[test]
fn owners_are_known_only_where_all_containers_agree() {
    let of = |pod_context: Value, first: Value, second: Value| {
        Ownership::of(&pod(&json!({
            "securityContext": pod_context,
            "containers": [{ "name": "a", "securityContext": first }, { "name": "b", "securityContext": second }],
        })))
    };
    let (none, seven) = (json!({}), json!({ "runAsUser": 7 }));
    assert_eq!(
        of(none.clone(), none.clone(), none.clone()),
        Ownership {
            user: None,
            group: None
        }
    );
    assert_eq!(of(seven.clone(), none.clone(), none.clone()).user, Some(7));
    assert_eq!(of(none.clone(), seven.clone(), none).user, None);
    assert_eq!(
        of(json!({ "runAsUser": 1, "fsGroup": 9 }), seven.clone(), seven),
        Ownership {
            user: Some(7),
            group: Some(9)
        }
    );
}

#[test]
fn mounts_below_mounts_get_their_directories() {
    let pod = pod(&json!({ "containers": [{ "name": "c", "volumeMounts": [
        { "name": "cfg", "mountPath": "/etc/app" },
        { "name": "x", "mountPath": "/etc/app/cache/deep/" },
        { "name": "y", "mountPath": "/etc/application" },
        { "name": "z", "mountPath": "/etc/app/..data/x" },
    ] }] }));
    assert_eq!(
        plan::nested_mount_points(&pod, "cfg"),
        BTreeSet::from(["cache/deep".to_owned()])
    );
    assert_eq!(plan::nested_mount_points(&pod, "x"), BTreeSet::new());
}

#[test]
fn tokens_are_renewed_at_four_fifths_and_daily() {
    let second = |s| Timestamp::from_second(s).expect("time");
    let at = |expires, seconds| tokens::refresh_time(second(expires), seconds, SignedDuration::ZERO);
    assert_eq!(at(10_000, 1000), second(9800));
    assert_eq!(at(2_000_000, 1_000_000), second(1_000_000 + 86_400));
    let jitter = SignedDuration::from_secs(5);
    assert_eq!(tokens::refresh_time(second(10_000), 1000, jitter), second(9795));
}

#[test]
fn mountinfo_is_read_with_its_escapes() {
    let text = b"36 35 98:0 /mnt1 /pods/u/a\\040b rw,noatime - ext3 /dev/root rw\n37 36 0:5 / /pods/u rw - tmpfs t rw\nnonsense\n";
    let mounts = mounts::parse(text);
    assert_eq!(mounts.len(), 2);
    assert_eq!(mounts::below(&mounts, Path::new("/pods/u")), [("a b".into(), 36)]);
    assert_eq!(
        mounts::below(&mounts, Path::new("/pods")),
        [("u/a b".into(), 36), ("u".into(), 37)]
    );
    assert_eq!(mounts::below(&mounts, Path::new("/pods/uu")), []);
}

#[test]
fn volumes_are_made_adopted_and_unmade() {
    in_own_mounts(
        "volumes::tests::volumes_are_made_adopted_and_unmade",
        async || {
            let dir = tempfile::tempdir().expect("temp dir");
            let host = dir.path().join("host");
            let root = dir.path().join("kubelet");
            let pod = pod_with(
                &json!([
                    { "name": "disk", "emptyDir": {} },
                    { "name": "memory", "emptyDir": { "medium": "Memory", "sizeLimit": "64Ki" } },
                    { "name": "host", "hostPath": { "path": host, "type": "DirectoryOrCreate" } },
                    { "name": "fields", "downwardAPI": { "items": [
                        { "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } }
                    ] } },
                ]),
                &json!({ "securityContext": { "fsGroup": 1234 } }),
            );
            let volumes = standalone(&root);
            let mounted = volumes.mount(&pod).await.expect("mounted");
            let at = |name: &str| mounted.get(name).expect(name).host_path.clone();
            let status = |path: &Path| fs::metadata(path).expect("status");
            assert_eq!(
                at("disk"),
                root.join("pods/u-1/volumes/kubernetes.io~empty-dir/disk")
            );
            assert_eq!(status(&at("disk")).mode() & 0o7777, 0o2777);
            assert_eq!(status(&at("disk")).gid(), 1234);
            assert_eq!(status(&root.join("pods/u-1")).mode() & 0o7777, 0o750);
            assert!(
                fs::write(at("memory").join("big"), vec![0; 1 << 20]).is_err(),
                "the file system is bounded"
            );
            fs::remove_file(at("memory").join("big")).expect("room again");
            fs::write(at("memory").join("small"), "kept").expect("write");
            assert!(mounted.get("fields").expect("fields").read_only);
            assert_eq!(
                fs::read_to_string(at("fields").join("labels")).expect("labels"),
                "a=\"b\""
            );
            assert_eq!(status(&at("fields").join("labels")).gid(), 1234);
            fs::write(at("host").join("kept"), "kept").expect("write");
            fs::set_permissions(at("disk"), fs::Permissions::from_mode(0o700))
                .expect("a container's own choice");
            // Another agent, or the same after a crash, finds it all.
            let again = standalone(&root).mount(&pod).await.expect("again");
            assert_eq!(again, mounted);
            assert_eq!(
                status(&at("disk")).mode() & 0o7777,
                0o700,
                "what is in use stays as it is"
            );
            assert_eq!(
                fs::read_to_string(at("memory").join("small")).expect("small"),
                "kept"
            );
            let info = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
            assert_eq!(info.matches("/pods/u-1/").count(), 2, "no mount on a mount");
            assert_eq!(
                volumes.orphans(&BTreeSet::new()).await.expect("orphans"),
                BTreeSet::from(["u-1".to_owned()])
            );
            volumes.unmount("u-1").await.expect("unmounted");
            volumes.unmount("u-1").await.expect("again");
            assert!(!root.join("pods/u-1/volumes").exists());
            volumes.remove("u-1").await.expect("removed");
            assert!(!root.join("pods/u-1").exists());
            assert!(host.join("kept").exists());
            assert!(matches!(volumes.remove("../host").await, Err(Error::Name { .. })));
        },
    );
}

#[test]
fn teardown_leaves_what_planted_links_and_mounts_lead_to() {
    in_own_mounts(
        "volumes::tests::teardown_leaves_what_planted_links_and_mounts_lead_to",
        async || {
            let dir = tempfile::tempdir().expect("temp dir");
            let outside = dir.path().join("outside");
            fs::create_dir(&outside).expect("outside");
            fs::write(outside.join("file"), "kept").expect("file");
            let root = dir.path().join("kubelet");
            let volumes = standalone(&root);
            let pod = pod_with(&json!([{ "name": "disk", "emptyDir": {} }]), &json!({}));
            let mounted = volumes.mount(&pod).await.expect("mounted");
            let disk = mounted.get("disk").expect("disk").host_path.clone();
            symlink(&outside, disk.join("link")).expect("link to a directory");
            symlink(outside.join("file"), disk.join("link2")).expect("link to a file");
            let place = disk.join("a b/left behind");
            fs::create_dir_all(&place).expect("mount point");
            for _ in 0..2 {
                assert!(
                    Command::new("mount")
                        .arg("--bind")
                        .args([&outside, &place])
                        .status()
                        .expect("mount")
                        .success()
                );
            }
            // A volume's directory swapped for a link.
            let plugin = root.join("pods/u-1/volumes/kubernetes.io~secret");
            symlink(&outside, &plugin).expect("link in place of a plugin's directory");
            volumes.remove("u-1").await.expect("removed");
            assert!(!root.join("pods/u-1").exists());
            assert_eq!(fs::read_to_string(outside.join("file")).expect("file"), "kept");
        },
    );
}

#[test]
fn removal_stops_at_a_mount() {
    in_own_mounts("volumes::tests::removal_stops_at_a_mount", async || {
        let dir = tempfile::tempdir().expect("temp dir");
        let (outside, tree) = (dir.path().join("outside"), dir.path().join("tree"));
        fs::create_dir(&outside).expect("outside");
        fs::write(outside.join("file"), "kept").expect("file");
        fs::create_dir_all(tree.join("point")).expect("tree");
        let point = tree.join("point");
        assert!(
            Command::new("mount")
                .arg("--bind")
                .args([&outside, &point])
                .status()
                .expect("mount")
                .success()
        );
        let parent = Dir::open_root(dir.path()).expect("dir");
        assert!(removal::remove(&parent, "tree").is_err());
        assert!(outside.join("file").exists());
        assert!(
            Command::new("umount")
                .arg(&point)
                .status()
                .expect("umount")
                .success()
        );
    });
}

#[test]
fn handles_never_go_through_links() {
    let dir = tempfile::tempdir().expect("temp dir");
    let root = Dir::open_root(dir.path()).expect("dir");
    root.make("real", 0o755)
        .expect("made")
        .write_new("file", b"x", 0o644)
        .expect("file");
    symlink("real", dir.path().join("link")).expect("link");
    assert!(root.read("real/file", 10).expect("read").is_some());
    assert!(root.read("link/file", 10).is_err());
    assert!(root.child("link").is_err() && root.make("link", 0o755).is_err());
    assert!(root.read("../x", 10).is_err() && root.child("..").is_err());
}

#[test]
fn removal_goes_to_any_depth() {
    let dir = tempfile::tempdir().expect("temp dir");
    let parent = Dir::open_root(dir.path()).expect("dir");
    let mut at = parent.make("tree", 0o755).expect("top");
    for level in 0..3000 {
        at.write_new("file", b"x", 0o644).expect("file");
        at = at
            .make(if level % 2 == 0 { "d" } else { "e" }, 0o755)
            .expect("level");
    }
    drop(at);
    removal::remove(&parent, "tree").expect("removed");
    assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 0);
    fs::create_dir(dir.path().join(".longshore-removed-0123")).expect("leftover");
    removal::remove_leftovers(&parent).expect("removed");
    assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 0);
}

#[test]
fn a_subpath_never_leaves_its_volume() {
    in_own_mounts("volumes::tests::a_subpath_never_leaves_its_volume", async || {
        let dir = tempfile::tempdir().expect("temp dir");
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).expect("outside");
        let source = dir.path().join("volume");
        fs::create_dir(&source).expect("volume");
        fs::set_permissions(&source, fs::Permissions::from_mode(0o2775)).expect("mode");
        write(&source, &payload_of(&[("key", "value")]));
        symlink(&outside, source.join("absolute")).expect("link");
        symlink("../outside", source.join("relative")).expect("link");
        let volumes = standalone(&dir.path().join("kubelet"));
        let prepare = async |path: &str| {
            let part = SubPath {
                volume: "v".into(),
                source: source.clone(),
                path: path.to_owned(),
                container: "c".into(),
                index: 3,
            };
            volumes
                .prepare_subpaths("u-1", vec![part])
                .await
                .expect("pod's directory")
                .map(|found| found[&3].clone())
        };
        for path in ["absolute", "relative", "absolute/new"] {
            let error = prepare(path).await.expect_err(path);
            assert_eq!(
                error.to_string(),
                "failed to prepare subPath for volumeMount \"v\" of container \"c\""
            );
        }
        assert_eq!(fs::read_dir(&outside).expect("list").count(), 0);
        // A file, through the writer's links; then, at the next start, a directory that is made.
        let shown = prepare("key").await.expect("key");
        assert_eq!(fs::read_to_string(&shown).expect("file"), "value");
        let shown = prepare("new/deep").await.expect("new");
        fs::write(shown.join("file"), "").expect("write");
        assert!(source.join("new/deep/file").exists());
        assert_eq!(
            fs::metadata(source.join("new/deep")).expect("new").mode() & 0o7777,
            0o2775
        );
        volumes.remove("u-1").await.expect("removed");
        assert!(source.join("new/deep/file").exists());
    });
}

#[test]
fn host_paths_are_checked_by_type() {
    let dir = tempfile::tempdir().expect("temp dir");
    let pods = apply::pods_directory(dir.path()).expect("pods");
    let pod = apply::pod_directory(&pods, "u-1").expect("pod");
    let at = |name: &str| dir.path().join(name).display().to_string();
    fs::write(at("file"), "").expect("file");
    let check = |path: &str, kind: &str| {
        let kind = Kind::HostPath {
            path: path.into(),
            kind: kind.to_owned(),
        };
        let plan = plan::VolumePlan {
            name: "h".into(),
            kind,
        };
        let prepared = apply::Prepared {
            plan,
            payload: Payload::new(),
            nested: BTreeSet::new(),
        };
        apply::set_up(&pod, &prepared, Ownership::default())
            .map(drop)
            .map_err(|cause| cause.to_string())
    };
    let refused = |path: &str, kind: &str| Err(format!("hostPath type check failed: {path} is not a {kind}"));
    assert_eq!(check(&at("absent"), ""), Ok(()));
    assert!(!dir.path().join("absent").exists());
    assert_eq!(
        check(&at("absent"), "Directory"),
        refused(&at("absent"), "directory")
    );
    assert_eq!(check(&at("absent"), "File"), refused(&at("absent"), "file"));
    assert_eq!(
        check(&at("file"), "DirectoryOrCreate"),
        refused(&at("file"), "directory")
    );
    assert_eq!(check(&at("file"), "Socket"), refused(&at("file"), "socket file"));
    assert_eq!(
        check(&at("file"), "BlockDevice"),
        refused(&at("file"), "block device")
    );
    assert_eq!(check("/dev/null", "CharDevice"), Ok(()));
    assert_eq!(
        check("/dev/null", "Odd"),
        Err("Odd is an invalid volume type".to_owned())
    );
    assert_eq!(check(&at("made/deep"), "DirectoryOrCreate"), Ok(()));
    assert_eq!(check(&at("made/file"), "FileOrCreate"), Ok(()));
    assert_eq!(fs::metadata(at("made/file")).expect("file").mode() & 0o777, 0o644);
}

#[tokio::test]
async fn a_failed_volume_says_so_in_the_words_of_the_event() {
    let dir = tempfile::tempdir().expect("temp dir");
    let volumes = standalone(dir.path());
    let pod = pod_with(
        &json!([{ "name": "data", "persistentVolumeClaim": { "claimName": "x" } }]),
        &json!({}),
    );
    let error = volumes.mount(&pod).await.expect_err("no plugin");
    assert!(
        error
            .to_string()
            .starts_with("MountVolume.SetUp failed for volume \"data\" : persistentvolumeclaim")
    );
}

#[tokio::test]
async fn the_hosts_file_keeps_its_identity_and_messages_are_bounded() {
    let dir = tempfile::tempdir().expect("temp dir");
    let volumes = standalone(dir.path());
    let path = volumes.write_hosts("u-1", "one\n".into()).await.expect("written");
    let before = fs::metadata(&path).expect("hosts");
    assert_eq!(before.mode() & 0o777, 0o644);
    volumes.write_hosts("u-1", "two\n".into()).await.expect("written");
    assert_eq!(
        fs::metadata(&path).expect("hosts").ino(),
        before.ino(),
        "containers hold this very file"
    );
    assert_eq!(fs::read_to_string(&path).expect("hosts"), "two\n");
    let log = volumes.make_termination_log("u-1", "c").await.expect("made");
    assert_eq!(fs::metadata(&log).expect("log").mode() & 0o777, 0o666);
    fs::write(&log, "x".repeat(5000)).expect("write");
    let message = volumes
        .termination_message("u-1", "c", &log)
        .await
        .expect("read")
        .expect("there");
    assert_eq!(message.len(), 4096);
    fs::remove_file(&log).expect("removed");
    symlink("/etc/passwd", &log).expect("planted");
    assert!(!matches!(
        volumes.termination_message("u-1", "c", &log).await,
        Ok(Some(_))
    ));
}
