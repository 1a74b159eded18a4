//! The definition against upstream's, and the generated code against the wire.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use prost::Message as _;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorSet};

use super::*;

/// `Message.field = number label type`, `Enum.VALUE = number`, `rpc Service.Method(Request) Response`, sorted.
fn facts(set: &FileDescriptorSet) -> BTreeSet<String> {
    let mut facts = BTreeSet::new();
    for file in set.file.iter().filter(|file| file.package() == "runtime.v1") {
        for message in &file.message_type {
            message_facts("", message, &mut facts);
        }
        for enumeration in &file.enum_type {
            enum_facts("", enumeration, &mut facts);
        }
        for service in &file.service {
            for method in &service.method {
                let streams = if method.server_streaming() { "stream " } else { "" };
                facts.insert(format!(
                    "rpc {}.{}({}) {streams}{}",
                    service.name(),
                    method.name(),
                    method.input_type(),
                    method.output_type()
                ));
            }
        }
    }
    facts
}

fn message_facts(outer: &str, message: &DescriptorProto, facts: &mut BTreeSet<String>) {
    let name = format!("{outer}{}", message.name());
    facts.insert(format!("message {name}"));
    for field in &message.field {
        let kind = match field.type_name() {
            "" => format!("{:?}", field.r#type()).to_lowercase(),
            named => named.to_owned(),
        };
        let label = format!("{:?}", field.label()).to_lowercase();
        facts.insert(format!(
            "{name}.{} = {} {label} {kind}",
            field.name(),
            field.number()
        ));
    }
    for inner in &message.nested_type {
        message_facts(&format!("{name}."), inner, facts);
    }
    for inner in &message.enum_type {
        enum_facts(&format!("{name}."), inner, facts);
    }
}

fn enum_facts(outer: &str, enumeration: &EnumDescriptorProto, facts: &mut BTreeSet<String>) {
    for value in &enumeration.value {
        facts.insert(format!(
            "{outer}{}.{} = {}",
            enumeration.name(),
            value.name(),
            value.number()
        ));
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn compile(file: &Path) -> FileDescriptorSet {
    let directory = file.parent().expect("a file has a parent");
    protox::compile([file], [directory]).expect("definition compiles")
}

fn ours() -> BTreeSet<String> {
    facts(&compile(&root().join("cri/runtime/v1/api.proto")))
}

/// Upstream's definition, where the testbed has fetched its Go modules.
fn upstream() -> Option<PathBuf> {
    let cache = match (
        std::env::var_os("GOMODCACHE"),
        std::env::var_os("GOPATH"),
        std::env::var_os("HOME"),
    ) {
        (Some(cache), _, _) => PathBuf::from(cache),
        (None, Some(path), _) => PathBuf::from(path).join("pkg/mod"),
        (None, None, home) => PathBuf::from(home?).join("go/pkg/mod"),
    };
    let file = cache.join("k8s.io/cri-api@v0.36.3/pkg/apis/runtime/v1/api.proto");
    file.exists().then_some(file)
}

#[test]
fn definition_has_the_recorded_facts() {
    let recorded = std::fs::read_to_string(root().join("cri/runtime/v1/fields.txt")).expect("fields.txt");
    let recorded: BTreeSet<String> = recorded.lines().map(str::to_owned).collect();
    let ours = ours();
    let missing: Vec<_> = recorded.difference(&ours).collect();
    let extra: Vec<_> = ours.difference(&recorded).collect();
    assert!(
        missing.is_empty() && extra.is_empty(),
        "missing {missing:#?}, extra {extra:#?}"
    );
}

#[test]
fn definition_equals_upstream_where_present() {
    let Some(file) = upstream() else {
        eprintln!("upstream definition is not on this machine; fields.txt stands for it");
        return;
    };
    let upstream = facts(&compile(&file));
    let ours = ours();
    let missing: Vec<_> = upstream.difference(&ours).collect();
    let extra: Vec<_> = ours.difference(&upstream).collect();
    assert!(
        missing.is_empty() && extra.is_empty(),
        "missing {missing:#?}, extra {extra:#?}"
    );
}

#[test]
fn container_request_round_trips() {
    let request = CreateContainerRequest {
        pod_sandbox_id: "s".into(),
        config: Some(ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: "c".into(),
                attempt: 3,
            }),
            envs: vec![KeyValue {
                key: "K".into(),
                value: vec![0xff, 0],
            }],
            stop_signal: Signal::Sigrtmaxminus14.into(),
            cdi_devices: vec![CdiDevice {
                name: "v.com/c=n".into(),
            }],
            linux: Some(LinuxContainerConfig {
                resources: Some(LinuxContainerResources {
                    cpu_quota: -1,
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }),
        sandbox_config: Some(PodSandboxConfig {
            labels: [("a".to_owned(), "b".to_owned())].into(),
            ..Default::default()
        }),
    };
    let bytes = request.encode_to_vec();
    assert_eq!(
        CreateContainerRequest::decode(bytes.as_slice()).expect("decode"),
        request
    );
}

#[test]
fn wire_bytes_are_as_specified() {
    // ImageSpec.image_ref is field 20, length-delimited: tag 162 = 0xa2 0x01.
    let spec = ImageSpec {
        image_ref: "x".into(),
        ..Default::default()
    };
    assert_eq!(spec.encode_to_vec(), [0xa2, 0x01, 1, b'x']);
    assert!(
        ImageSpec::decode([0xa2, 0x01, 9, b'x'].as_slice()).is_err(),
        "length beyond the end"
    );
}

#[test]
fn credentials_are_not_printed() {
    let auth = AuthConfig {
        username: "u".into(),
        password: "hidden-1".into(),
        auth: "hidden-2".into(),
        identity_token: "hidden-3".into(),
        registry_token: "hidden-4".into(),
        ..Default::default()
    };
    let request = PullImageRequest {
        auth: Some(auth),
        ..Default::default()
    };
    let text = format!("{request:?}");
    assert!(text.contains("AuthConfig") && !text.contains("hidden"), "{text}");
}
