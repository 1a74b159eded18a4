use std::net::IpAddr;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequestCondition, CertificateSigningRequestStatus,
};
use k8s_openapi::api::core::v1::{Node as NodeObject, NodeAddress, NodeSpec, NodeStatus, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::watcher;
use x509_parser::prelude::FromDer as _;

use super::address::{Resolver, choose};
use super::keys::Validity;
use super::machine::{Machine, process_limit};
use super::network::{Peer, Peers};
use super::signing::{Ask, CLIENT_SIGNER, SERVING_SIGNER};
use super::status::Facts;
use super::*;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn settings() -> Settings {
    Settings {
        node_name: "n1".into(),
        ..Settings::default()
    }
}

fn der(pem: &str) -> Vec<u8> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
    pem.contents
}

#[test]
fn client_requests_name_the_node() {
    let key = keys::generate().unwrap();
    let pem = keys::client_request("n1", &key).unwrap();
    let der = der(&pem);
    let (_, request) = x509_parser::certification_request::X509CertificationRequest::from_der(&der).unwrap();
    request.verify_signature().unwrap();
    assert_eq!(
        request.certification_request_info.subject.to_string(),
        "O=system:nodes, CN=system:node:n1"
    );
    // The signer refuses requests with names in them.
    assert!(
        request
            .requested_extensions()
            .is_none_or(|mut extensions| extensions.next().is_none())
    );
    let ask = Ask {
        name: Some(keys::request_name("n1", &key).unwrap()),
        signer: CLIENT_SIGNER,
        usage: "client auth",
        request_pem: &pem,
        point: "x",
    };
    let object = signing::request(&ask);
    assert!(object.metadata.name.as_deref().unwrap().starts_with("node-csr-"));
    assert_eq!(object.metadata.generate_name, None);
    assert_eq!(object.spec.usages.unwrap(), ["digital signature", "client auth"]);
    assert_eq!(
        object.spec.signer_name,
        "kubernetes.io/kube-apiserver-client-kubelet"
    );
}

#[test]
fn serving_requests_carry_names_and_addresses() {
    let key = keys::generate().unwrap();
    let addresses: Vec<IpAddr> = vec!["10.0.0.5".parse().unwrap(), "fd00::5".parse().unwrap()];
    let pem = keys::serving_request("n1", &key, &["n1".to_owned()], &addresses).unwrap();
    let der = der(&pem);
    let (_, request) = x509_parser::certification_request::X509CertificationRequest::from_der(&der).unwrap();
    let names: Vec<String> = request
        .requested_extensions()
        .unwrap()
        .map(|extension| format!("{extension:?}"))
        .collect();
    assert!(names.join(" ").contains("DNSName(\"n1\")"), "{names:?}");
    assert!(names.join(" ").contains("IPAddress([10, 0, 0, 5])"), "{names:?}");
    let ask = Ask {
        name: None,
        signer: SERVING_SIGNER,
        usage: "server auth",
        request_pem: &pem,
        point: "x",
    };
    let object = signing::request(&ask);
    assert_eq!(object.metadata.generate_name.as_deref(), Some("csr-"));
    assert_eq!(object.spec.usages.unwrap(), ["digital signature", "server auth"]);
}

#[test]
fn request_names_stay_with_key_and_node() {
    let (key, other) = (keys::generate().unwrap(), keys::generate().unwrap());
    let name = |node: &str, key: &str| keys::request_name(node, key).unwrap();
    assert_eq!(name("n1", &key), name("n1", &key));
    assert_ne!(name("n1", &key), name("n2", &key));
    assert_ne!(name("n1", &key), name("n1", &other));
}

#[test]
fn self_signed_certificates_serve_for_a_year() {
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    let (chain, key) = keys::self_signed("n1", &["10.0.0.5".parse().unwrap()], now).unwrap();
    keys::certified(chain.as_bytes(), key.as_bytes()).unwrap();
    let validity = Validity::of(chain.as_bytes()).unwrap();
    assert!(validity.holds(now));
    assert!(!validity.holds(now + SignedDuration::from_hours(24 * 366)));
    let foreign = keys::generate().unwrap();
    assert!(keys::certified(chain.as_bytes(), foreign.as_bytes()).is_err());
}

#[test]
fn renewal_is_due_between_70_and_90_percent_of_life() {
    let at = |second| Timestamp::from_second(second).unwrap();
    let validity = Validity {
        from: at(1000),
        until: at(2000),
    };
    assert_eq!(validity.renewal(0.0), at(1700));
    assert_eq!(validity.renewal(1.0), at(1900));
    assert!(!validity.holds(at(999)) && validity.holds(at(1000)) && !validity.holds(at(2000)));
}

#[test]
fn verdicts_of_a_request() {
    let condition = |kind: &str| CertificateSigningRequestCondition {
        type_: kind.into(),
        message: Some("because".into()),
        ..CertificateSigningRequestCondition::default()
    };
    let status = |kinds: &[&str], certificate: Option<&str>| CertificateSigningRequestStatus {
        conditions: Some(kinds.iter().map(|kind| condition(kind)).collect()),
        certificate: certificate.map(|text| ByteString(text.as_bytes().to_vec())),
    };
    let verdict = |status: &CertificateSigningRequestStatus| signing::verdict("csr-1", Some(status));
    assert!(signing::verdict("csr-1", None).is_none());
    assert!(verdict(&status(&["Approved"], None)).is_none());
    assert!(verdict(&status(&[], Some("x"))).is_none());
    assert_eq!(verdict(&status(&["Approved"], Some("x"))).unwrap().unwrap(), b"x");
    let error = verdict(&status(&["Denied"], None))
        .unwrap()
        .unwrap_err()
        .to_string();
    assert_eq!(error, "certificate signing request csr-1 was denied: because");
    let error = verdict(&status(&["Approved", "Failed"], None))
        .unwrap()
        .unwrap_err()
        .to_string();
    assert!(error.contains("marked as failed"), "{error}");
}

#[test]
fn client_certificates_are_stored_as_the_kubelet_does() {
    let dir = tempfile::tempdir().unwrap();
    let store = bootstrap::ClientStore::new(dir.path());
    let key = store.key().unwrap();
    assert_eq!(store.key().unwrap(), key, "a pending key is kept");
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    let (chain, foreign) = keys::self_signed("n1", &[], now).unwrap();
    assert!(
        store.store(chain.as_bytes(), &key, now).is_err(),
        "a certificate of another key"
    );
    store.store(chain.as_bytes(), &foreign, now).unwrap();
    let target = std::fs::read_link(store.current()).unwrap();
    assert_eq!(
        target.file_name().unwrap(),
        "kubelet-client-2027-01-15-08-00-00.pem"
    );
    let pem = std::fs::read(store.current()).unwrap();
    keys::certified(&pem, &pem).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(target).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert!(!dir.path().join("kubelet-client.key.tmp").exists());
    assert_ne!(store.key().unwrap(), key);
}

#[tokio::test]
async fn a_kubeconfig_is_judged_by_its_certificate() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kubelet.conf");
    let now = Timestamp::now();
    assert_eq!(
        bootstrap::unusable(&path, now).await.as_deref(),
        Some("it does not exist")
    );
    std::fs::write(&path, "no: [yaml").unwrap();
    assert!(bootstrap::unusable(&path, now).await.is_some());

    let (chain, key) = keys::self_signed("n1", &[], now).unwrap();
    let pem = dir.path().join("current.pem");
    std::fs::write(&pem, format!("{chain}{key}")).unwrap();
    let mut bootstrap_config = kube::Config::new("https://10.0.0.1:6443".parse().unwrap());
    bootstrap_config.root_cert = Some(vec![der(&chain)]);
    std::fs::write(&path, bootstrap::kubeconfig_text(&bootstrap_config, &pem)).unwrap();
    assert_eq!(bootstrap::unusable(&path, now).await, None);
    let later = now + SignedDuration::from_hours(24 * 366);
    assert!(
        bootstrap::unusable(&path, later)
            .await
            .unwrap()
            .contains("has expired on")
    );
    let config = crate::api::load(&path).await.unwrap();
    assert_eq!(
        config.cluster_url.to_string().trim_end_matches('/'),
        "https://10.0.0.1:6443"
    );
    assert_eq!(config.root_cert, bootstrap_config.root_cert);
    let text = std::fs::read_to_string(&path).unwrap();
    for name in ["default-cluster", "default-auth", "default-context"] {
        assert!(text.contains(name), "{text}");
    }
}

#[test]
fn a_clock_that_is_off_is_told_with_both_times() {
    let tls = "invalid peer certificate: certificate not valid yet: verification time 1000 (UNIX), but certificate is \
               not valid before 2000 (1000 seconds in future)";
    let words = bootstrap::with_clocks(tls, Timestamp::from_second(1000).unwrap());
    assert!(words.contains("valid only from 1970-01-01T00:33:20Z"), "{words}");
    assert!(
        words.contains("this machine's clock says 1970-01-01T00:16:40Z"),
        "{words}"
    );
    let late = "certificate expired: verification time 3000 (UNIX), but certificate is not valid after 2000 (1000 seconds ago)";
    let words = bootstrap::with_clocks(late, Timestamp::from_second(3000).unwrap());
    assert!(words.contains("was valid until 1970-01-01T00:33:20Z"), "{words}");
    assert_eq!(
        bootstrap::with_clocks("connection refused", NOW),
        "connection refused"
    );
}

struct Net {
    lookup: Vec<IpAddr>,
    local: Vec<IpAddr>,
    route: Vec<IpAddr>,
}

impl Resolver for Net {
    async fn lookup(&self, _name: &str) -> Vec<IpAddr> {
        self.lookup.clone()
    }

    fn is_local(&self, address: IpAddr) -> bool {
        self.local.contains(&address)
    }

    fn default_route(&self, ipv4: bool) -> Option<IpAddr> {
        self.route
            .iter()
            .copied()
            .find(|address| address.is_ipv4() == ipv4)
    }
}

#[tokio::test]
async fn addresses_in_upstreams_order_of_choice() {
    let ips = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| text.parse().unwrap())
            .collect::<Vec<IpAddr>>()
    };
    let all = ips(&["10.0.0.1", "10.0.0.2", "fd00::1"]);
    let net = |lookup: &[&str], route: &[&str]| Net {
        lookup: ips(lookup),
        local: all.clone(),
        route: ips(route),
    };
    let named = net(&["127.0.0.1", "fd00::1", "10.0.0.2"], &["10.0.0.1"]);
    for (given, wanted) in [
        (vec!["10.0.0.1"], Ok(vec!["10.0.0.1"])),
        (vec!["fd00::1", "10.0.0.1"], Ok(vec!["fd00::1", "10.0.0.1"])),
        (
            vec!["10.9.9.9"],
            Err("failed to validate nodeIP: node IP: \"10.9.9.9\" not found"),
        ),
        (
            vec!["10.0.0.1", "fd00::9"],
            Err("failed to validate secondaryNodeIP: node IP: \"fd00::9\""),
        ),
        (vec!["127.0.0.1"], Err("nodeIP can't be loopback address")),
        (
            vec!["169.254.1.1"],
            Err("nodeIP can't be a link-local unicast address"),
        ),
        (vec![], Ok(vec!["10.0.0.2"])),
        (vec!["::"], Ok(vec!["fd00::1"])),
    ] {
        match (choose(&named, &ips(&given), "n1").await, wanted) {
            (Ok(found), Ok(wanted)) => assert_eq!(found, ips(&wanted), "{given:?}"),
            (Err(error), Err(wanted)) => assert!(error.contains(wanted), "{error}"),
            (found, wanted) => panic!("{given:?}: {found:?}, not {wanted:?}"),
        }
    }
    let unnamed = net(&["127.0.1.1"], &["10.0.0.1"]);
    assert_eq!(choose(&unnamed, &[], "n1").await, Ok(ips(&["10.0.0.1"])));
    assert_eq!(choose(&unnamed, &[], "192.0.2.7").await, Ok(ips(&["192.0.2.7"])));
    let nothing = net(&[], &[]);
    assert!(
        choose(&nothing, &[], "n1")
            .await
            .unwrap_err()
            .contains("--node-ip")
    );
}

#[test]
fn machine_facts_come_from_files() {
    let root = tempfile::tempdir().unwrap();
    let put = |path: &str, text: &str| {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    put(
        "proc/cpuinfo",
        "processor\t: 0\nmodel name\t: x\n\nprocessor\t: 1\n",
    );
    put(
        "proc/meminfo",
        "MemTotal:       24564796 kB\nMemFree: 1 kB\nSwapTotal:      2048 kB\n",
    );
    put("proc/sys/kernel/random/boot_id", "b\n");
    put("proc/sys/kernel/osrelease", "6.1.0\n");
    put("etc/machine-id", "m\n");
    put(
        "etc/os-release",
        "NAME=\"Debian\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n",
    );
    put("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "3\n");
    put("sys/kernel/mm/hugepages/other/nr_hugepages", "3\n");
    let machine = Machine::read(root.path(), &root.path().join("not/there/yet"));
    assert_eq!(
        (machine.cpus, machine.memory, machine.swap),
        (2, 24_564_796 * 1024, 2_097_152)
    );
    assert_eq!(machine.huge_pages, [(2048, 3 * 2048 * 1024)].into());
    assert_eq!(
        (
            machine.machine_id.as_str(),
            machine.system_uuid.as_str(),
            machine.boot_id.as_str()
        ),
        ("m", "m", "b")
    );
    assert_eq!(machine.os_image, "Debian GNU/Linux 12 (bookworm)");
    assert!(machine.storage.unwrap() > 0);
    put("proc/sys/kernel/pid_max", "4194304\n");
    put("proc/sys/kernel/threads-max", "191712\n");
    assert_eq!(process_limit(root.path()), Some(191_712));
    let empty = Machine::read(&root.path().join("empty"), root.path());
    assert_eq!(
        (empty.cpus, empty.memory, empty.os_image.as_str()),
        (0, 0, "Linux")
    );
}

#[test]
fn the_first_node_has_labels_taints_and_annotations() {
    let mut settings = settings();
    settings.node_labels = [
        ("zone".to_owned(), "a".to_owned()),
        ("kubernetes.io/arch".to_owned(), "own".to_owned()),
    ]
    .into();
    settings.cloud_provider = "external".into();
    let taint = Taint {
        key: "k".into(),
        effect: "NoExecute".into(),
        ..Taint::default()
    };
    settings.kubelet.register_with_taints = vec![taint];
    settings.kubelet.provider_id = "cloud://1".into();
    let node = registration::initial(&settings, &Facts::default(), NOW);
    let labels = node.metadata.labels.unwrap();
    assert_eq!(labels["kubernetes.io/hostname"], "n1");
    assert_eq!(labels["zone"], "a");
    let annotations = node.metadata.annotations.unwrap();
    assert_eq!(
        annotations["volumes.kubernetes.io/controller-managed-attach-detach"],
        "true"
    );
    let spec = node.spec.unwrap();
    assert_eq!(spec.provider_id.as_deref(), Some("cloud://1"));
    let taints: Vec<String> = spec.taints.unwrap().into_iter().map(|taint| taint.key).collect();
    assert_eq!(taints, ["k", "node.cloudprovider.kubernetes.io/uninitialized"]);
}

#[test]
fn a_restart_puts_labels_right_and_leaves_the_rest() {
    let wanted = registration::initial(&settings(), &Facts::default(), NOW);
    let mut existing = wanted.clone();
    let labels = existing.metadata.labels.as_mut().unwrap();
    labels.insert("kubernetes.io/hostname".into(), "old".into());
    labels.insert("theirs".into(), "kept".into());
    existing.metadata.annotations = Some([("theirs".to_owned(), "kept".to_owned())].into());
    existing.spec.as_mut().unwrap().unschedulable = Some(true);
    let right = registration::reconcile(&existing, &wanted);
    let labels = right.metadata.labels.as_ref().unwrap();
    assert_eq!(
        (
            labels["kubernetes.io/hostname"].as_str(),
            labels["theirs"].as_str()
        ),
        ("n1", "kept")
    );
    assert_eq!(right.metadata.annotations.as_ref().unwrap().len(), 2);
    assert_eq!(right.spec.as_ref().unwrap().unschedulable, Some(true));
    assert_eq!(registration::reconcile(&right, &wanted), right);
}

#[test]
fn a_lease_is_the_nodes_and_keeps_its_owner() {
    let first = lease::lease(None, &settings(), Some("uid-1".into()), NOW);
    let spec = first.spec.clone().unwrap();
    assert_eq!(
        (spec.holder_identity.as_deref(), spec.lease_duration_seconds),
        (Some("n1"), Some(40))
    );
    let owner = &first.metadata.owner_references.as_ref().unwrap()[0];
    assert_eq!(
        (owner.kind.as_str(), owner.uid.as_str(), owner.controller),
        ("Node", "uid-1", None)
    );
    let later = NOW + SignedDuration::from_secs(10);
    let renewed = lease::lease(Some(&first), &settings(), Some("uid-2".into()), later);
    assert_eq!(renewed.metadata, first.metadata);
    assert_eq!(renewed.spec.unwrap().renew_time.unwrap().0, later);
}

#[test]
fn peers_are_the_other_nodes_with_ranges_and_addresses() {
    let node = |name: &str, cidrs: &[&str], address: Option<&str>| NodeObject {
        metadata: ObjectMeta {
            name: Some(name.into()),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            pod_cidrs: Some(cidrs.iter().map(|cidr| (*cidr).to_owned()).collect()),
            ..NodeSpec::default()
        }),
        status: Some(NodeStatus {
            addresses: address.map(|address| {
                vec![NodeAddress {
                    type_: "InternalIP".into(),
                    address: address.into(),
                }]
            }),
            ..NodeStatus::default()
        }),
    };
    let mut peers = Peers::new("own");
    peers.take(watcher::Event::Init);
    peers.take(watcher::Event::InitApply(node(
        "own",
        &["10.1.0.0/24"],
        Some("1.1.1.1"),
    )));
    peers.take(watcher::Event::InitApply(node(
        "a",
        &["10.2.0.0/24", "bad"],
        Some("1.1.1.2"),
    )));
    assert!(
        !peers.complete && peers.list().is_empty(),
        "half a list changes nothing"
    );
    peers.take(watcher::Event::InitDone);
    let a = Peer {
        cidrs: vec!["10.2.0.0/24".parse().unwrap()],
        via: vec!["1.1.1.2".parse().unwrap()],
    };
    assert!(peers.complete);
    assert_eq!(peers.list(), std::slice::from_ref(&a));
    peers.take(watcher::Event::Apply(node("b", &[], Some("1.1.1.3"))));
    assert_eq!(peers.list(), [a]);
    peers.take(watcher::Event::Apply(node("a", &["10.2.0.0/24"], None)));
    assert!(
        peers.list().is_empty(),
        "a node that lost its address has no way to it"
    );
    peers.take(watcher::Event::Delete(node("b", &[], None)));
}

#[test]
fn files_are_replaced_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b.conf");
    files::write("x", &path, b"one", 0o600).unwrap();
    // A temporary file that a crash left does not get in the way.
    std::fs::write(path.with_extension("new"), "half").unwrap();
    files::write("x", &path, b"two", 0o600).unwrap();
    assert_eq!(files::read(&path).unwrap().as_deref(), Some(&b"two"[..]));
    assert!(!path.with_extension("new").exists());
    files::remove("x", &path).unwrap();
    files::remove("x", &path).unwrap();
    assert_eq!(files::read(&path).unwrap(), None);
    let error = files::write("x", Path::new("/proc/none/x"), b"", 0o600)
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("write /proc/none/x: "), "{error}");
}
