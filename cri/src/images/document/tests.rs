use serde_json::{Value, json};

use super::*;

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

fn descriptor(media_type: &str, text: &str) -> Value {
    json!({"mediaType": media_type, "digest": digest(text), "size": text.len()})
}

fn manifest() -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFESTS[0],
        "config": descriptor(CONFIGS[0], "config"),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", "layer")],
    })
}

fn parse(value: &Value, said: Option<&str>) -> Result<(Document, String)> {
    Document::parse(&digest("doc"), value.to_string().as_bytes(), said)
}

fn with(mut value: Value, key: &str, part: Value) -> Value {
    value[key] = part;
    value
}

#[test]
fn manifest_and_index_are_told_apart() {
    assert!(matches!(parse(&manifest(), None), Ok((Document::Manifest(_), kind)) if kind == MANIFESTS[0]));
    let index = json!({"schemaVersion": 2, "manifests": []});
    assert!(matches!(parse(&index, Some(INDEXES[1])), Ok((Document::Index(_), kind)) if kind == INDEXES[1]));
    assert!(
        parse(&manifest(), Some("text/plain")).is_ok(),
        "a type that claims nothing"
    );
}

#[test]
fn a_document_of_two_kinds_or_under_a_false_name_is_refused() {
    for (value, said) in [
        (with(manifest(), "manifests", json!([])), None),
        (json!({"schemaVersion": 2, "manifests": [], "layers": []}), None),
        (json!({"schemaVersion": 2}), None),
        (with(manifest(), "schemaVersion", json!(1)), None),
        (with(manifest(), "fsLayers", json!([])), None),
        (with(manifest(), "mediaType", json!(INDEXES[0])), None),
        (with(manifest(), "mediaType", json!("application/x")), None),
        (manifest(), Some(INDEXES[0])),
        (manifest(), Some(MANIFESTS[1])),
        (
            with(
                manifest(),
                "config",
                descriptor("application/vnd.cncf.helm.config.v1+json", "c"),
            ),
            None,
        ),
        (
            with(
                manifest(),
                "layers",
                json!([descriptor(
                    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                    "l"
                )]),
            ),
            None,
        ),
        (
            with(
                manifest(),
                "layers",
                json!([descriptor("application/vnd.oci.image.layer.v1.tar+xz", "l")]),
            ),
            None,
        ),
        (
            with(
                manifest(),
                "layers",
                json!([{"mediaType": "x", "digest": "sha256:../../x", "size": 1}]),
            ),
            None,
        ),
        (
            with(
                manifest(),
                "config",
                json!({"mediaType": CONFIGS[0], "digest": digest("c"), "size": -1}),
            ),
            None,
        ),
        (
            with(
                manifest(),
                "config",
                json!({"mediaType": CONFIGS[0], "digest": digest("c"), "size": MAX_CONFIG + 1}),
            ),
            None,
        ),
    ] {
        assert!(parse(&value, said).is_err(), "{value} as {said:?}");
    }
    let twice = br#"{"schemaVersion":2,"manifests":[],"manifests":[]}"#;
    assert!(
        Document::parse(&digest("doc"), twice, None).is_err(),
        "a key twice"
    );
    let deep = "[".repeat(100_000);
    assert!(
        Document::parse(&digest("doc"), deep.as_bytes(), None).is_err(),
        "depth"
    );
}

#[test]
fn digests_are_strict() {
    let hex = digest("x").hex();
    assert_eq!(format!("sha256:{hex}").parse::<Digest>(), Ok(digest("x")));
    for bad in [
        hex.clone(),
        format!("sha256:{}", hex.to_uppercase()),
        format!("sha256:{}", &hex[1..]),
        format!("sha256:{hex}0"),
        format!("sha512:{hex}"),
        format!("md5:{hex}"),
        format!("sha256:../{}", &hex[3..]),
        format!(" sha256:{hex}"),
        String::new(),
    ] {
        assert!(bad.parse::<Digest>().is_err(), "{bad}");
    }
}

#[test]
fn platform_is_chosen_by_os_and_architecture() {
    let entry = |os: &str, architecture: &str, variant: Option<&str>, text: &str| Descriptor {
        media_type: MANIFESTS[0].into(),
        digest: digest(text),
        size: 1,
        platform: Some(Platform {
            os: os.into(),
            architecture: architecture.into(),
            variant: variant.map(str::to_owned),
        }),
        annotations: Default::default(),
    };
    let own = own_architecture();
    let all = [
        entry("windows", own, None, "windows"),
        entry("unknown", "unknown", None, "attestation"),
        entry("linux", own, Some("v99"), "too new"),
        entry("linux", own, None, "ours"),
    ];
    assert_eq!(
        choose(&digest("index"), &all).expect("one fits").digest,
        digest("ours")
    );
    let error = choose(&digest("index"), &all[..3]).expect_err("none fits");
    assert!(
        error
            .to_string()
            .starts_with(&format!("no match for platform linux/{own} in manifest")),
        "{error}"
    );
}

#[test]
fn config_must_count_the_layers_and_chain_ids_follow_the_specification() {
    let diffs = [digest("a"), digest("b")];
    let config = json!({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diffs}, "history": []});
    let bytes = config.to_string();
    let (_, layers) = parse_config(&digest("c"), bytes.as_bytes(), 2).expect("fits");
    assert_eq!(layers[0].chain_id, diffs[0]);
    assert_eq!(
        layers[1].chain_id,
        Digest::of(format!("{} {}", diffs[0], diffs[1]).as_bytes())
    );
    assert!(
        parse_config(&digest("c"), bytes.as_bytes(), 1).is_err(),
        "more diff_ids than layers"
    );
    let none = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}});
    let (_, layers) = parse_config(&digest("c"), none.to_string().as_bytes(), 0).expect("no layers at all");
    assert!(layers.is_empty());
}
