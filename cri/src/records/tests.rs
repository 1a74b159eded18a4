//! Records survive the trip to disk, and no damage goes unseen.

use super::*;
use proptest::prelude::*;
use proto::cri::{ContainerMetadata, PodSandboxMetadata};

fn sandbox() -> SandboxRecord {
    SandboxRecord {
        id: "a1".into(),
        boot_id: "boot".into(),
        created_at: 7,
        phase: Phase::Ready,
        runtime_handler: String::new(),
        ips: vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
        config: PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: "n".into(),
                uid: "u".into(),
                namespace: "s".into(),
                attempt: 3,
            }),
            labels: [("a".to_owned(), "b".to_owned())].into(),
            ..PodSandboxConfig::default()
        },
    }
}

fn container(outcome: Option<Outcome>) -> ContainerRecord {
    ContainerRecord {
        id: "c1".into(),
        sandbox: "a1".into(),
        created_at: 9,
        image_id: "sha256:aa".into(),
        layers: vec![Digest::of(b"layer")],
        image_ref: "docker.io/library/x@sha256:bb".into(),
        cgroup: "/pod/c1".into(),
        log_path: "/var/log/pods/x/c/0.log".into(),
        stop_signal: 15,
        user: Some((1, 2, vec![3])),
        started: true,
        outcome,
        config: ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: "c".into(),
                attempt: 1,
            }),
            ..ContainerConfig::default()
        },
    }
}

#[test]
fn records_come_back_as_they_were() {
    assert_eq!(decode::<SandboxRecord>(&encode(&sandbox())).unwrap(), sandbox());
    let outcome = Outcome {
        exit_code: 1,
        reason: "Error".into(),
        message: "m\n\"".into(),
        started_at: 1,
        finished_at: 2,
    };
    for record in [container(None), container(Some(outcome))] {
        assert_eq!(decode::<ContainerRecord>(&encode(&record)).unwrap(), record);
    }
}

#[test]
fn a_record_damaged_at_any_byte_is_refused() {
    let whole = encode(&sandbox());
    for place in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[place] ^= 0x01;
        assert!(
            decode::<SandboxRecord>(&damaged).is_err(),
            "byte {place} was changed and nobody saw it"
        );
        assert!(
            decode::<SandboxRecord>(&whole[..place]).is_err(),
            "cut at {place} and nobody saw it"
        );
    }
}

#[test]
fn another_kind_or_version_is_named() {
    let wrong_kind = decode::<ContainerRecord>(&encode(&sandbox()));
    assert!(matches!(wrong_kind, Err(Error::Version { format, .. }) if format == "longshore.sandbox"));
    let newer = String::from_utf8(encode(&sandbox()))
        .unwrap()
        .replace("\"version\":1", "\"version\":2");
    assert!(matches!(
        decode::<SandboxRecord>(newer.as_bytes()),
        Err(Error::Version { version: 2, .. })
    ));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode::<SandboxRecord>(&bytes);
    }
}
