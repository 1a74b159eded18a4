//! Static pods as upstream names and refuses them; a directory that changes under the reader.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::manifest::{fnv128a, read_manifest};
use super::{Event, ManifestError, Source, channel, uid, watch_files};

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
  - name: c
    image: img
    resources: {requests: {cpu: 1}}
";

fn read(text: &str) -> Result<k8s_openapi::api::core::v1::Pod, ManifestError> {
    read_manifest(text.as_bytes(), Path::new("/m/web.yaml"), "Node1", "t0")
}

#[test]
fn a_static_pod_gets_name_uid_and_annotations() {
    let pod = read(POD).unwrap();
    assert_eq!(pod.metadata.name.as_deref(), Some("web-node1"));
    assert_eq!(pod.metadata.namespace.as_deref(), Some("default"));
    let id = uid(&pod).to_owned();
    assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()));
    let annotations = pod.metadata.annotations.unwrap();
    assert_eq!(annotations["kubernetes.io/config.hash"], id);
    assert_eq!(annotations["kubernetes.io/config.source"], "file");
    assert_eq!(annotations["kubernetes.io/config.seen"], "t0");
    let spec = pod.spec.unwrap();
    assert_eq!(spec.node_name.as_deref(), Some("Node1"));
    assert_eq!(spec.tolerations.unwrap()[0].effect.as_deref(), Some("NoExecute"));
    assert_eq!(spec.containers[0].image_pull_policy.as_deref(), Some("Always"));
    let requests = spec.containers[0]
        .resources
        .as_ref()
        .unwrap()
        .requests
        .as_ref()
        .unwrap();
    assert_eq!(requests["cpu"].0, "1");
}

#[test]
fn the_uid_follows_content_node_and_file() {
    let same = read_manifest(POD.as_bytes(), Path::new("/m/web.yaml"), "Node1", "t1").unwrap();
    assert_eq!(
        uid(&read(POD).unwrap()),
        uid(&same),
        "the time it was seen does not count"
    );
    let changed = read(&POD.replace("image: img", "image: img2")).unwrap();
    let node = read_manifest(POD.as_bytes(), Path::new("/m/web.yaml"), "node2", "t0").unwrap();
    let file = read_manifest(POD.as_bytes(), Path::new("/m/other.yaml"), "Node1", "t0").unwrap();
    for other in [&changed, &node, &file] {
        assert_ne!(uid(&same), uid(other));
    }
}

#[test]
fn fnv_of_128_bits() {
    // The vectors of the FNV authors.
    assert_eq!(
        fnv128a(b"".iter().copied()),
        0x6c62_272e_07bb_0142_62b8_2175_6295_c58d
    );
    assert_eq!(
        fnv128a(b"a".iter().copied()),
        0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964
    );
}

#[test]
fn refused_manifests() {
    let with = |spec: &str| format!("{POD}{spec}");
    let rows = [
        ("kind: Service\napiVersion: v1".to_owned(), "Service"),
        ("a: [".to_owned(), "no valid YAML"),
        (POD.replace("name: web", "name: \"\""), "name is needed"),
        (POD.replace("name: web", "name: ../web"), "metadata.name"),
        (POD.replace("name: c", "name: C"), "spec.containers.name"),
        (POD.replace("image: img", "image: \"\""), "spec.containers.image"),
        (
            with("  serviceAccountName: x\n"),
            "static pods may not reference serviceaccounts",
        ),
        (
            with("  volumes: [{name: v, secret: {secretName: s}}]\n"),
            "secrets (via secret volumes)",
        ),
        (
            with("  volumes: [{name: v, configMap: {name: s}}]\n"),
            "configmaps (via configmap volumes)",
        ),
        (
            with("  volumes: [{name: v, persistentVolumeClaim: {claimName: s}}]\n"),
            "persistentvolumeclaims",
        ),
        (
            with("  volumes: [{name: v, projected: {sources: [{serviceAccountToken: {path: t}}]}}]\n"),
            "serviceaccounts (via projected volumes)",
        ),
        (with("  resourceClaims: [{name: r}]\n"), "resourceclaims"),
        (
            with("    envFrom: [{secretRef: {name: s}}]\n"),
            "reference secrets",
        ),
    ];
    for (text, expected) in rows {
        let error = read(&text).expect_err(&text).to_string();
        assert!(error.contains(expected), "{error} lacks {expected}");
    }
}

#[test]
fn json_is_read_too() {
    let text = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "j"},
        "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
    let pod = read(&text.to_string()).unwrap();
    assert_eq!(
        pod.spec.unwrap().containers[0].image_pull_policy.as_deref(),
        Some("IfNotPresent")
    );
}

#[tokio::test]
async fn a_directory_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let (events, mut heard) = channel();
    let period = Duration::from_secs(3600);
    let task = tokio::spawn(watch_files(dir.path().to_owned(), "n".to_owned(), period, events));
    let mut next = async || match heard.recv().await {
        Some((Source::File, Event::Listed(pods))) => pods
            .iter()
            .map(|p| p.metadata.name.clone().unwrap())
            .collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert!(next().await.is_empty(), "an empty directory is synced too");
    // Half a file and hidden ones are nothing; only a whole one is told of.
    std::fs::write(dir.path().join(".hidden.yaml"), POD).unwrap();
    let path = dir.path().join("web.yaml");
    std::fs::write(&path, &POD[..40]).unwrap();
    std::fs::write(&path, POD).unwrap();
    assert_eq!(next().await, ["web-n"]);
    // A broken rewrite leaves the pod alone; removal ends it.
    std::fs::write(&path, "a: [").unwrap();
    std::fs::write(dir.path().join("two.yaml"), POD.replace("name: web", "name: two")).unwrap();
    assert_eq!(next().await, ["two-n", "web-n"]);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(next().await, ["two-n"]);
    task.abort();
}
