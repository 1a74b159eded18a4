use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use super::*;

fn cidr() -> impl Strategy<Value = IpNet> {
    prop_oneof![
        (0u8..4, 20u8..=24).prop_map(|(n, prefix)| IpNet::new([10, n, 0, 0].into(), prefix).unwrap().trunc()),
        (0u16..4).prop_map(|n| IpNet::new([0xfd00, n, 0, 0, 0, 0, 0, 0].into(), 64).unwrap()),
    ]
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (1u8..5).prop_map(|n| IpAddr::from([192, 168, 0, n])),
        (1u16..5).prop_map(|n| IpAddr::from([0xfd01, 0, 0, 0, 0, 0, 0, n])),
    ]
}

fn route() -> impl Strategy<Value = Route> {
    (cidr(), address()).prop_map(|(destination, gateway)| Route { destination, gateway })
}

/// One route a destination, as the kernel and `routes` have it.
fn distinct(routes: BTreeSet<Route>) -> BTreeSet<Route> {
    let mut seen = BTreeSet::new();
    routes
        .into_iter()
        .filter(|route| seen.insert(route.destination))
        .collect()
}

fn routes_of() -> impl Strategy<Value = BTreeSet<Route>> {
    btree_set(route(), 0..6).prop_map(distinct)
}

fn node_desired() -> impl Strategy<Value = NodeDesired> {
    let bridge = (
        prop_oneof![Just(1400u32), Just(1500)],
        any::<Mac>(),
        btree_set(cidr().prop_map(gateway), 0..3),
    )
        .prop_map(|(mtu, mac, gateways)| Bridge { mtu, mac, gateways });
    (proptest::option::of(bridge), routes_of()).prop_map(|(bridge, routes)| NodeDesired { bridge, routes })
}

fn node_observed() -> impl Strategy<Value = NodeObserved> {
    let bridge = (
        prop_oneof![Just(1400u32), Just(1500)],
        any::<Mac>(),
        any::<bool>(),
        any::<bool>(),
        btree_set(cidr().prop_map(gateway), 0..3),
    )
        .prop_map(|(mtu, mac, up, tuned, addresses)| ObservedBridge {
            mtu,
            mac,
            up,
            tuned,
            addresses,
        });
    (proptest::option::of(bridge), routes_of()).prop_map(|(bridge, routes)| NodeObserved { bridge, routes })
}

/// A kernel as simple as can be. It refuses what the real one refuses: doubles, and changes of what is not there.
fn do_node(observed: &mut NodeObserved, action: &NodeAction) {
    match action {
        NodeAction::CreateBridge { mtu, mac } => {
            assert!(observed.bridge.is_none());
            let bridge = ObservedBridge {
                mtu: *mtu,
                mac: *mac,
                up: false,
                tuned: true,
                addresses: BTreeSet::new(),
            };
            observed.bridge = Some(bridge);
        }
        NodeAction::TuneBridge { mtu, mac } => {
            let bridge = observed.bridge.as_mut().unwrap();
            (bridge.mtu, bridge.mac, bridge.tuned) = (*mtu, *mac, true);
        }
        NodeAction::RemoveGateway(net) => assert!(observed.bridge.as_mut().unwrap().addresses.remove(net)),
        NodeAction::AddGateway(net) => assert!(observed.bridge.as_mut().unwrap().addresses.insert(*net)),
        NodeAction::BridgeUp => observed.bridge.as_mut().unwrap().up = true,
        NodeAction::RemoveRoute(route) => assert!(observed.routes.remove(route)),
        NodeAction::ReplaceRoute(route) => {
            let before = observed.routes.len();
            observed.routes.retain(|old| old.destination != route.destination);
            assert_eq!(observed.routes.len(), before - 1);
            observed.routes.insert(*route);
        }
        NodeAction::AddRoute(route) => {
            assert!(
                observed
                    .routes
                    .iter()
                    .all(|old| old.destination != route.destination)
            );
            observed.routes.insert(*route);
        }
    }
}

fn pod_desired() -> impl Strategy<Value = PodDesired> {
    vec(cidr(), 1..3).prop_map(|cidrs| PodDesired {
        addresses: cidrs.iter().copied().collect(),
        gateways: cidrs.iter().map(|cidr| gateway(*cidr).addr()).collect(),
    })
}

fn pod_observed() -> impl Strategy<Value = PodObserved> {
    let host_end =
        (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(on_bridge, hairpin, up)| HostEnd {
            on_bridge,
            hairpin,
            up,
        });
    let pod_end = (
        any::<bool>(),
        btree_set(cidr(), 0..3),
        btree_set(cidr().prop_map(|c| gateway(c).addr()), 0..3),
    )
        .prop_map(|(up, addresses, default_routes)| PodEnd {
            up,
            addresses,
            default_routes,
        });
    (
        proptest::option::of(host_end),
        any::<bool>(),
        proptest::option::of(pod_end),
    )
        .prop_map(|(host_end, loopback_up, pod_end)| {
            // A pair has two ends; only the host's can outlive the other, in the eyes of a namespace made anew.
            let pod_end = host_end.and(pod_end);
            PodObserved {
                host_end,
                loopback_up,
                pod_end,
            }
        })
}

fn do_pod(observed: &mut PodObserved, action: PodAction) {
    match action {
        PodAction::RemoveHostEnd => {
            assert!(observed.pod_end.is_none());
            observed.host_end = None;
        }
        PodAction::CreatePair => {
            assert!(observed.host_end.is_none());
            observed.host_end = Some(HostEnd {
                on_bridge: true,
                hairpin: false,
                up: true,
            });
            observed.pod_end = Some(PodEnd::default());
        }
        PodAction::ConnectHostEnd => {
            let end = observed.host_end.as_mut().unwrap();
            (end.on_bridge, end.up) = (true, true);
        }
        PodAction::Hairpin => observed.host_end.as_mut().unwrap().hairpin = true,
        PodAction::LoopbackUp => observed.loopback_up = true,
        PodAction::PodEndUp => observed.pod_end.as_mut().unwrap().up = true,
        PodAction::AddAddress(net) => assert!(observed.pod_end.as_mut().unwrap().addresses.insert(net)),
        PodAction::AddDefaultRoute(via) => {
            let end = observed.pod_end.as_mut().unwrap();
            assert!(end.up, "a route over a link that is down is refused");
            assert!(end.default_routes.insert(via));
        }
    }
}

proptest! {
    /// Apply twice = no change, from any state, and from any point at which a crash stopped the first run.
    #[test]
    fn node_plan_converges(desired in node_desired(), mut observed in node_observed(), crash in 0usize..12) {
        for action in node(&desired, &observed).iter().take(crash) {
            do_node(&mut observed, action);
        }
        for action in &node(&desired, &observed) {
            do_node(&mut observed, action);
        }
        prop_assert_eq!(node(&desired, &observed), vec![]);
        prop_assert_eq!(&observed.routes, &desired.routes);
        if let Some(bridge) = &desired.bridge {
            let observed = observed.bridge.as_ref().unwrap();
            prop_assert!(observed.up && observed.tuned && observed.addresses == bridge.gateways);
        }
    }

    #[test]
    fn pod_plan_converges(desired in pod_desired(), mut observed in pod_observed(), crash in 0usize..12) {
        for action in pod(&desired, &observed).into_iter().take(crash) {
            do_pod(&mut observed, action);
        }
        for action in pod(&desired, &observed) {
            do_pod(&mut observed, action);
        }
        prop_assert_eq!(pod(&desired, &observed), vec![]);
        let whole = HostEnd { on_bridge: true, hairpin: true, up: true };
        prop_assert!(observed.host_end == Some(whole) && observed.loopback_up);
        let end = observed.pod_end.unwrap();
        prop_assert!(end.up);
        prop_assert!(end.addresses.is_superset(&desired.addresses));
        prop_assert!(end.default_routes.is_superset(&desired.gateways));
    }

    /// Never a route to ourselves, never two to one destination, always of the destination's family.
    #[test]
    fn routes_are_unambiguous(
        own in vec(cidr(), 0..2),
        peers in vec((vec(cidr(), 0..3), vec(address(), 0..3)), 0..5),
    ) {
        let (routes, unreachable) = routes(&own, peers.iter().map(|(cidrs, via)| (&cidrs[..], &via[..])));
        prop_assert_eq!(&distinct(routes.clone()), &routes);
        for route in &routes {
            prop_assert!(!own.contains(&route.destination));
            prop_assert_eq!(route.destination.addr().is_ipv4(), route.gateway.is_ipv4());
        }
        for (cidrs, via) in &peers {
            for cidr in cidrs {
                let found = routes.iter().any(|route| route.destination == *cidr);
                prop_assert!(found || own.contains(cidr) || (unreachable.contains(cidr)));
                prop_assert!(found || via.iter().all(|a| a.is_ipv4() != cidr.addr().is_ipv4()) || own.contains(cidr));
            }
        }
    }
}

#[test]
fn a_fresh_pod_takes_the_short_way() {
    let desired = PodDesired {
        addresses: BTreeSet::from(["10.0.0.5/21".parse().unwrap()]),
        gateways: BTreeSet::from(["10.0.0.1".parse().unwrap()]),
    };
    let expected = [
        PodAction::CreatePair,
        PodAction::Hairpin,
        PodAction::LoopbackUp,
        PodAction::PodEndUp,
        PodAction::AddAddress("10.0.0.5/21".parse().unwrap()),
        PodAction::AddDefaultRoute("10.0.0.1".parse().unwrap()),
    ];
    assert_eq!(pod(&desired, &PodObserved::default()), expected);
}

#[test]
fn gateway_is_the_first_address() {
    assert_eq!(gateway("10.1.8.0/21".parse().unwrap()).to_string(), "10.1.8.1/21");
    assert_eq!(
        gateway("fd00:1::/64".parse().unwrap()).to_string(),
        "fd00:1::1/64"
    );
}
