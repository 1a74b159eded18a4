use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Addresses that lead to the node itself, to a neighbour, or to many.
const REFUSED: [&str; 6] = [
    "127.0.0.1",
    "::1",
    "169.254.1.1",
    "fe80::1",
    "224.0.0.1",
    "::ffff:10.0.0.1",
];

fn ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        4 => (1u8..4).prop_map(|n| IpAddr::from([10, 0, 0, n])),
        4 => (1u16..6).prop_map(|n| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, n])),
        1 => proptest::sample::select(&REFUSED[..])
            .prop_map(|text| text.parse().unwrap()),
    ]
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    // Mostly as the API has them: not ready, and of those some that end but still serve.
    let flag = || prop_oneof![1 => Just(None), 1 => Just(Some(true)), 4 => Just(Some(false))];
    let ending = || proptest::option::weighted(0.8, proptest::bool::weighted(0.8));
    (ip(), flag(), ending(), ending(), any::<bool>()).prop_map(
        |(address, ready, serving, terminating, local)| Endpoint {
            address,
            ready,
            serving,
            terminating,
            local,
        },
    )
}

fn port_name() -> impl Strategy<Value = String> {
    proptest::sample::select(vec!["", "", "http"]).prop_map(str::to_owned)
}

fn protocol() -> impl Strategy<Value = Protocol> {
    proptest::sample::select(vec![Protocol::Tcp, Protocol::Tcp, Protocol::Udp])
}

fn service() -> impl Strategy<Value = Service> {
    let cluster_ips = vec(
        prop_oneof![
            6 => (1u8..3).prop_map(|n| format!("10.96.0.{n}")),
            6 => (1u8..3).prop_map(|n| format!("fd96::{n}")),
            1 => Just("None".to_owned()),
            1 => Just(String::new()),
        ],
        0..3,
    );
    let ports = vec(
        (port_name(), protocol(), 80u16..82).prop_map(|(name, protocol, port)| ServicePort {
            name,
            protocol,
            port,
        }),
        0..3,
    );
    let flag = || proptest::bool::weighted(0.2);
    (
        0u8..3,
        cluster_ips,
        flag(),
        flag(),
        flag(),
        any::<Option<u32>>(),
        ports,
    )
        .prop_map(
            |(name, cluster_ips, external_name, other_proxy, internal_local, affinity_seconds, ports)| {
                Service {
                    namespace: "default".to_owned(),
                    name: format!("s{name}"),
                    cluster_ips,
                    external_name,
                    other_proxy,
                    internal_local,
                    affinity_seconds,
                    ports,
                }
            },
        )
}

fn slice() -> impl Strategy<Value = Slice> {
    let ports = vec(
        (
            port_name(),
            protocol(),
            proptest::option::weighted(0.9, 8080u16..8083),
        )
            .prop_map(|(name, protocol, port)| SlicePort { name, protocol, port }),
        0..3,
    );
    (
        0u8..3,
        proptest::bool::weighted(0.2),
        ports,
        vec(endpoint(), 0..5),
    )
        .prop_map(|(service, ignored, ports, endpoints)| Slice {
            namespace: "default".to_owned(),
            service: format!("s{service}"),
            ignored,
            ports,
            endpoints,
        })
}

fn services() -> impl Strategy<Value = Vec<Service>> {
    // Names are unique in a cluster.
    vec(service(), 0..4).prop_map(|services| {
        let mut seen = BTreeSet::new();
        services
            .into_iter()
            .filter(|service| seen.insert(service.name.clone()))
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]
    /// Every backend has a reason, every reason has its backend, and ending ones serve only where none is ready.
    #[test]
    fn backends_follow_the_rules(services in services(), slices in vec(slice(), 0..4)) {
        let table = Table::build(&services, &slices);
        let refused = REFUSED.map(|text| text.parse::<IpAddr>().unwrap());
        for (vip, backends) in table.iter() {
            let owner = services.iter().filter(|s| is_proxied(s)).filter(|s| {
                s.cluster_ips.iter().any(|ip| ip.parse() == Ok(vip.address))
                    && s.ports.iter().any(|p| p.port == vip.port && p.protocol == vip.protocol)
            }).min_by_key(|s| s.name.clone()).unwrap();
            let named = owner.ports.iter().find(|p| p.port == vip.port && p.protocol == vip.protocol).unwrap();
            let mut ready = BTreeSet::new();
            let mut ending = BTreeSet::new();
            for slice in slices.iter().filter(|s| s.service == owner.name && !s.ignored) {
                let port = slice.ports.iter().find(|p| p.name == named.name && p.protocol == named.protocol);
                let Some(port) = port.and_then(|p| p.port) else { continue };
                for e in &slice.endpoints {
                    if e.address.is_ipv4() != vip.address.is_ipv4() || refused.contains(&e.address) || (owner.internal_local && !e.local) {
                        continue;
                    }
                    let socket = SocketAddr::new(e.address, port);
                    match (e.ready, e.serving, e.terminating) {
                        (None | Some(true), _, _) => { ready.insert(socket); }
                        (_, Some(true), Some(true)) => { ending.insert(socket); }
                        _ => {}
                    }
                }
            }
            prop_assert_eq!(&backends.endpoints, if ready.is_empty() { &ending } else { &ready });
            prop_assert!(owner.internal_local || backends.without == WithoutBackend::Reject);
        }
        for service in services.iter().filter(|service| is_proxied(service)) {
            for address in service.cluster_ips.iter().filter_map(|ip| ip.parse().ok()) {
                for port in &service.ports {
                    let vip = Vip { address, protocol: port.protocol, port: port.port };
                    prop_assert!(table.get(&vip).is_some());
                }
            }
        }
    }

    #[test]
    fn order_does_not_matter_and_changes_lead_there(
        before in services(), after in services(), slices in vec(slice(), 0..4),
    ) {
        let old = Table::build(&before, &slices);
        let new = Table::build(&after, &slices);
        let (mut turned, mut turned_slices) = (after, slices);
        turned.reverse();
        turned_slices.reverse();
        // Of two slices' ports with one name the first counts, but only within a slice, so their order is free.
        prop_assert_eq!(&Table::build(&turned, &turned_slices), &new);
        let mut table = old.clone();
        for change in old.changes_to(&new) {
            match change {
                Change::Set(vip, backends) => { prop_assert_ne!(table.entries.insert(vip, backends.clone()), Some(backends)); }
                Change::Remove(vip) => prop_assert!(table.entries.remove(&vip).is_some()),
            }
        }
        prop_assert_eq!(&table, &new);
        prop_assert_eq!(new.changes_to(&new), vec![]);
    }
}

fn web(internal_local: bool) -> Service {
    Service {
        namespace: "default".to_owned(),
        name: "web".to_owned(),
        cluster_ips: vec!["10.96.0.1".to_owned(), "fd96::1".to_owned()],
        external_name: false,
        other_proxy: false,
        internal_local,
        affinity_seconds: None,
        ports: vec![ServicePort {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: 80,
        }],
    }
}

#[test]
fn local_policy_drops_only_where_others_serve() {
    let away = Endpoint {
        address: [10, 0, 0, 1].into(),
        ready: None,
        serving: None,
        terminating: None,
        local: false,
    };
    let slice = Slice {
        namespace: "default".to_owned(),
        service: "web".to_owned(),
        ignored: false,
        ports: vec![SlicePort {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: Some(8080),
        }],
        endpoints: vec![away],
    };
    let vip = |address: &str| Vip {
        address: address.parse().unwrap(),
        protocol: Protocol::Tcp,
        port: 80,
    };
    let table = Table::build(&[web(true)], std::slice::from_ref(&slice));
    assert_eq!(
        table.get(&vip("10.96.0.1")).unwrap().without,
        WithoutBackend::Drop
    );
    assert_eq!(
        table.get(&vip("fd96::1")).unwrap().without,
        WithoutBackend::Reject
    );
    let table = Table::build(&[web(false)], &[slice]);
    assert_eq!(
        table.get(&vip("10.96.0.1")).unwrap().endpoints,
        BTreeSet::from(["10.0.0.1:8080".parse().unwrap()])
    );
    assert!(table.get(&vip("fd96::1")).unwrap().endpoints.is_empty());
}
