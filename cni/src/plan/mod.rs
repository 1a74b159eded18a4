//! The pure half: what is wanted against what is there gives a list of actions. No kernel, no clock.
//!
//! Two plans, because the two sides change at different times: the node's (bridge, gateway addresses, routes to peers)
//! and a pod's (the pair of links, addresses, default routes). Either gives the empty list once its actions are done.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

#[cfg(test)]
mod tests;

/// An Ethernet address.
pub(crate) type Mac = [u8; 6];

/// The bridge as it should be. Spanning tree off, no forward delay, no multicast snooping go without saying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bridge {
    /// Bytes.
    pub(crate) mtu: u32,
    /// Fixed, or the bridge would take its lowest port's and change with the pods.
    pub(crate) mac: Mac,
    /// The first address of each pod CIDR, with the CIDR's prefix length.
    pub(crate) gateways: BTreeSet<IpNet>,
}

/// A route to another node's pod CIDR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Route {
    /// The peer's pod CIDR.
    pub(crate) destination: IpNet,
    /// The peer's node address, of the same family.
    pub(crate) gateway: IpAddr,
}

/// What the node's namespace should hold. Without a bridge (no pod CIDR yet) an existing one is left as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeDesired {
    pub(crate) bridge: Option<Bridge>,
    pub(crate) routes: BTreeSet<Route>,
}

/// The bridge as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ObservedBridge {
    pub(crate) mtu: u32,
    pub(crate) mac: Mac,
    pub(crate) up: bool,
    /// Spanning tree off, forward delay 0, multicast snooping off.
    pub(crate) tuned: bool,
    /// Global addresses only; link-local ones are the kernel's.
    pub(crate) addresses: BTreeSet<IpNet>,
}

/// What the node's namespace holds. Routes are only those that carry our protocol number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeObserved {
    pub(crate) bridge: Option<ObservedBridge>,
    pub(crate) routes: BTreeSet<Route>,
}

/// One change of the node's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NodeAction {
    CreateBridge {
        mtu: u32,
        mac: Mac,
    },
    /// Set all attributes of an existing bridge.
    TuneBridge {
        mtu: u32,
        mac: Mac,
    },
    RemoveGateway(IpNet),
    AddGateway(IpNet),
    BridgeUp,
    RemoveRoute(Route),
    /// Another gateway for a destination of ours, without a moment that has no route.
    ReplaceRoute(Route),
    AddRoute(Route),
}

/// What to do in the node's namespace, in order.
pub(crate) fn node(desired: &NodeDesired, observed: &NodeObserved) -> Vec<NodeAction> {
    let mut actions = Vec::new();
    if let Some(bridge) = &desired.bridge {
        plan_bridge(bridge, observed.bridge.as_ref(), &mut actions);
    }
    plan_routes(&desired.routes, &observed.routes, &mut actions);
    actions
}

fn plan_bridge(desired: &Bridge, observed: Option<&ObservedBridge>, actions: &mut Vec<NodeAction>) {
    let (mtu, mac) = (desired.mtu, desired.mac);
    let present = match observed {
        None => {
            actions.push(NodeAction::CreateBridge { mtu, mac });
            BTreeSet::new()
        }
        Some(bridge) => {
            if !bridge.tuned || bridge.mtu != mtu || bridge.mac != mac {
                actions.push(NodeAction::TuneBridge { mtu, mac });
            }
            bridge.addresses.clone()
        }
    };
    actions.extend(
        present
            .difference(&desired.gateways)
            .copied()
            .map(NodeAction::RemoveGateway),
    );
    actions.extend(
        desired
            .gateways
            .difference(&present)
            .copied()
            .map(NodeAction::AddGateway),
    );
    if !observed.is_some_and(|bridge| bridge.up) {
        actions.push(NodeAction::BridgeUp);
    }
}

fn plan_routes(desired: &BTreeSet<Route>, observed: &BTreeSet<Route>, actions: &mut Vec<NodeAction>) {
    let wanted: BTreeSet<IpNet> = desired.iter().map(|route| route.destination).collect();
    let present: BTreeSet<IpNet> = observed.iter().map(|route| route.destination).collect();
    let gone = observed
        .iter()
        .filter(|route| !wanted.contains(&route.destination));
    actions.extend(gone.copied().map(NodeAction::RemoveRoute));
    for route in desired.difference(observed) {
        actions.push(match present.contains(&route.destination) {
            true => NodeAction::ReplaceRoute(*route),
            false => NodeAction::AddRoute(*route),
        });
    }
}

/// What a pod's network should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodDesired {
    /// At most one of each family, with the pod CIDR's prefix length: pods of a node reach each other over the bridge.
    pub(crate) addresses: BTreeSet<IpNet>,
    /// Default routes: the bridge's address of each family.
    pub(crate) gateways: BTreeSet<IpAddr>,
}

/// The node's end of a pod's pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostEnd {
    pub(crate) on_bridge: bool,
    pub(crate) hairpin: bool,
    pub(crate) up: bool,
}

/// The pod's end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodEnd {
    pub(crate) up: bool,
    /// Global addresses only.
    pub(crate) addresses: BTreeSet<IpNet>,
    pub(crate) default_routes: BTreeSet<IpAddr>,
}

/// What is there of a pod's network; the default is a fresh namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodObserved {
    pub(crate) host_end: Option<HostEnd>,
    pub(crate) loopback_up: bool,
    pub(crate) pod_end: Option<PodEnd>,
}

/// One change for a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PodAction {
    /// A host end without a pod end belongs to a namespace that is gone.
    RemoveHostEnd,
    /// Both ends at once, the pod's born in its namespace, the host's born up and on the bridge.
    CreatePair,
    /// The host end to the bridge, and up.
    ConnectHostEnd,
    Hairpin,
    LoopbackUp,
    PodEndUp,
    AddAddress(IpNet),
    AddDefaultRoute(IpAddr),
}

/// What to do for a pod, in order. Routes need the link up, so addresses and routes come last.
pub(crate) fn pod(desired: &PodDesired, observed: &PodObserved) -> Vec<PodAction> {
    let mut actions = Vec::new();
    let fresh = PodEnd::default();
    let pod_end = match (&observed.host_end, &observed.pod_end) {
        (Some(host_end), Some(pod_end)) => {
            if !host_end.on_bridge || !host_end.up {
                actions.push(PodAction::ConnectHostEnd);
            }
            if !host_end.hairpin {
                actions.push(PodAction::Hairpin);
            }
            pod_end
        }
        (host_end, _) => {
            if host_end.is_some() {
                actions.push(PodAction::RemoveHostEnd);
            }
            actions.extend([PodAction::CreatePair, PodAction::Hairpin]);
            &fresh
        }
    };
    if !observed.loopback_up {
        actions.push(PodAction::LoopbackUp);
    }
    if !pod_end.up {
        actions.push(PodAction::PodEndUp);
    }
    actions.extend(
        desired
            .addresses
            .difference(&pod_end.addresses)
            .copied()
            .map(PodAction::AddAddress),
    );
    actions.extend(
        desired
            .gateways
            .difference(&pod_end.default_routes)
            .copied()
            .map(PodAction::AddDefaultRoute),
    );
    actions
}

/// The gateway of a pod CIDR, which is its first address, with the CIDR's prefix length.
pub(crate) fn gateway(cidr: IpNet) -> IpNet {
    let address = match cidr.network() {
        IpAddr::V4(network) => IpAddr::from((network.to_bits().saturating_add(1)).to_be_bytes()),
        IpAddr::V6(network) => IpAddr::from((network.to_bits().saturating_add(1)).to_be_bytes()),
    };
    IpNet::new(address, cidr.prefix_len()).expect("the prefix length comes from a network of the same family")
}

/// An Ethernet address that follows from an IP address, so that an address used again keeps its neighbours' caches true.
/// `0a:58` is locally administered.
pub(crate) fn mac(addresses: &BTreeSet<IpNet>) -> Mac {
    let [a, b, c, d] = match addresses.first().map(IpNet::addr) {
        Some(IpAddr::V4(address)) => address.octets(),
        Some(IpAddr::V6(address)) => {
            let octets = address.octets();
            [octets[12], octets[13], octets[14], octets[15]]
        }
        None => [0; 4],
    };
    [0x0a, 0x58, a, b, c, d]
}

/// Routes to all peers' pod CIDRs, and the CIDRs for which a peer has no address of the right family.
pub(crate) fn routes<'a>(
    own: &[IpNet],
    peers: impl Iterator<Item = (&'a [IpNet], &'a [IpAddr])>,
) -> (BTreeSet<Route>, Vec<IpNet>) {
    let mut routes = BTreeSet::new();
    let mut taken: BTreeSet<IpNet> = own.iter().map(IpNet::trunc).collect();
    let mut unreachable = Vec::new();
    for (cidrs, via) in peers {
        for destination in cidrs.iter().map(IpNet::trunc) {
            // The first to claim a CIDR has it: two routes to one destination cannot both be right.
            if taken.contains(&destination) {
                continue;
            }
            match via
                .iter()
                .find(|address| address.is_ipv4() == destination.addr().is_ipv4())
            {
                Some(&gateway) => {
                    taken.insert(destination);
                    routes.insert(Route { destination, gateway });
                }
                None => unreachable.push(destination),
            }
        }
    }
    (routes, unreachable)
}
