//! The node's side: the bridge, its addresses, the routes to peers. Observe and apply; `plan` decides.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    BridgeStpState, InfoBridge, InfoData, InfoKind, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo,
    LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::error::Error;
use crate::plan::{Mac, NodeAction, NodeObserved, ObservedBridge, Route};
use crate::sys::Rtnl;

/// Marks our routes, so that no other is ever touched. Not assigned in the kernel's rtnetlink.h.
const ROUTE_PROTOCOL: RouteProtocol = RouteProtocol::Other(108);

/// The error of a netlink request.
pub(crate) fn failed(operation: &'static str, object: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let object = object.into();
    move |source| Error::Netlink {
        operation,
        object,
        source,
    }
}

/// The link of this name.
pub(crate) fn link_by_name(rtnl: &mut Rtnl, name: &str) -> Result<Option<LinkMessage>, Error> {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message
        .attributes
        .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    match rtnl
        .get(RouteNetlinkMessage::GetLink(message))
        .map_err(failed("look up link", name))?
    {
        Some(RouteNetlinkMessage::NewLink(link)) => Ok(Some(link)),
        _ => Ok(None),
    }
}

/// Global addresses of a link.
pub(crate) fn addresses(rtnl: &mut Rtnl, index: u32) -> Result<BTreeSet<IpNet>, Error> {
    let mut message = AddressMessage::default();
    message.header.index = index;
    let replies = rtnl
        .dump(RouteNetlinkMessage::GetAddress(message))
        .map_err(failed("list addresses of link", index.to_string()))?;
    let global = replies.into_iter().filter_map(|reply| match reply {
        RouteNetlinkMessage::NewAddress(address)
            if address.header.index == index && address.header.scope == AddressScope::Universe =>
        {
            Some(address)
        }
        _ => None,
    });
    Ok(global.filter_map(|address| interface_address(&address)).collect())
}

fn interface_address(message: &AddressMessage) -> Option<IpNet> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })?;
    IpNet::new(address, message.header.prefix_len).ok()
}

/// An address to add to or remove from a link. Never with duplicate address detection: that takes a second or two.
pub(crate) fn address_message(index: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address.addr());
    message.header.prefix_len = address.prefix_len();
    message.header.index = index;
    if address.addr().is_ipv6() {
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    message.attributes = vec![
        AddressAttribute::Local(address.addr()),
        AddressAttribute::Address(address.addr()),
    ];
    message
}

/// The netlink family of an address.
pub(crate) fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// A message that sets a link up.
pub(crate) fn up_message(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message
}

/// What the namespace of `rtnl` holds of the bridge and of our routes.
pub(crate) fn observe(rtnl: &mut Rtnl, bridge: &str) -> Result<NodeObserved, Error> {
    let bridge = match link_by_name(rtnl, bridge)? {
        Some(link) => {
            let index = link.header.index;
            Some(ObservedBridge {
                addresses: addresses(rtnl, index)?,
                ..observed_bridge(bridge, &link)?
            })
        }
        None => None,
    };
    Ok(NodeObserved {
        bridge,
        routes: our_routes(rtnl)?,
    })
}

fn observed_bridge(name: &str, link: &LinkMessage) -> Result<ObservedBridge, Error> {
    let mut observed = ObservedBridge {
        mtu: 0,
        mac: [0; 6],
        up: link.header.flags.contains(LinkFlags::Up),
        tuned: false,
        addresses: BTreeSet::new(),
    };
    let mut is_bridge = false;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) => observed.mtu = *mtu,
            LinkAttribute::Address(address) => observed.mac = Mac::try_from(&address[..]).unwrap_or_default(),
            LinkAttribute::LinkInfo(infos) => {
                is_bridge |= infos.contains(&LinkInfo::Kind(InfoKind::Bridge));
                observed.tuned |= infos.iter().any(is_tuned);
            }
            _ => {}
        }
    }
    if is_bridge {
        Ok(observed)
    } else {
        Err(Error::NotABridge {
            name: name.to_owned(),
        })
    }
}

/// How a bridge of ours behaves: pods talk at once, and no protocol of its own runs on it.
fn tuning() -> [InfoBridge; 3] {
    [
        InfoBridge::StpState(BridgeStpState::Disabled),
        InfoBridge::ForwardDelay(0),
        InfoBridge::MulticastSnooping(false),
    ]
}

fn is_tuned(info: &LinkInfo) -> bool {
    match info {
        LinkInfo::Data(InfoData::Bridge(values)) => tuning().iter().all(|wanted| values.contains(wanted)),
        _ => false,
    }
}

fn our_routes(rtnl: &mut Rtnl) -> Result<BTreeSet<Route>, Error> {
    let mut routes = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = ROUTE_PROTOCOL;
        let replies = rtnl
            .dump(RouteNetlinkMessage::GetRoute(message))
            .map_err(failed("list", "routes to peers"))?;
        routes.extend(replies.iter().filter_map(|reply| match reply {
            RouteNetlinkMessage::NewRoute(route) if route.header.protocol == ROUTE_PROTOCOL => {
                peer_route(route)
            }
            _ => None,
        }));
    }
    Ok(routes)
}

fn peer_route(message: &RouteMessage) -> Option<Route> {
    let mut destination = None;
    let mut gateway = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            _ => {}
        }
    }
    let destination = IpNet::new(destination?, message.header.destination_prefix_length).ok()?;
    Some(Route {
        destination,
        gateway: gateway?,
    })
}

/// The IP address of a route attribute.
pub(crate) fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

/// The smallest MTU of the links that hold a default route, of either family; `None` without one.
pub(crate) fn uplink_mtu(rtnl: &mut Rtnl) -> Result<Option<u32>, Error> {
    let mut mtu: Option<u32> = None;
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        for index in default_route_links(rtnl, family)? {
            let mut message = LinkMessage::default();
            message.header.index = index;
            let link = rtnl
                .get(RouteNetlinkMessage::GetLink(message))
                .map_err(failed("look up link", index.to_string()))?;
            let Some(RouteNetlinkMessage::NewLink(link)) = link else {
                continue;
            };
            let of_link = link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::Mtu(mtu) => Some(*mtu),
                _ => None,
            });
            mtu = mtu.into_iter().chain(of_link).min();
        }
    }
    Ok(mtu)
}

fn default_route_links(rtnl: &mut Rtnl, family: AddressFamily) -> Result<BTreeSet<u32>, Error> {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.kind = RouteType::Unicast;
    let replies = rtnl
        .dump(RouteNetlinkMessage::GetRoute(message))
        .map_err(failed("list", "default routes"))?;
    let defaults = replies.into_iter().filter_map(|reply| match reply {
        RouteNetlinkMessage::NewRoute(route) if route.header.destination_prefix_length == 0 => Some(route),
        _ => None,
    });
    Ok(defaults
        .flat_map(|route| route.attributes)
        .filter_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(index),
            _ => None,
        })
        .collect())
}

/// Does one action in the namespace of `rtnl`.
pub(crate) fn apply(rtnl: &mut Rtnl, bridge: &str, action: &NodeAction) -> Result<(), Error> {
    let created = NLM_F_CREATE | NLM_F_EXCL;
    match action {
        NodeAction::CreateBridge { mtu, mac } => rtnl
            .change(
                "cni.create_bridge",
                RouteNetlinkMessage::NewLink(bridge_message(bridge, *mtu, *mac)),
                created,
            )
            .map_err(failed("create bridge", bridge)),
        NodeAction::TuneBridge { mtu, mac } => rtnl
            .change(
                "cni.tune_bridge",
                RouteNetlinkMessage::NewLink(bridge_message(bridge, *mtu, *mac)),
                0,
            )
            .map_err(failed("change bridge", bridge)),
        NodeAction::BridgeUp => {
            let message = up_message(bridge_index(rtnl, bridge)?);
            rtnl.change("cni.bridge_up", RouteNetlinkMessage::SetLink(message), 0)
                .map_err(failed("set up bridge", bridge))
        }
        NodeAction::AddGateway(address) => {
            let message = address_message(bridge_index(rtnl, bridge)?, *address);
            rtnl.change(
                "cni.add_gateway",
                RouteNetlinkMessage::NewAddress(message),
                created,
            )
            .map_err(failed("add address", format!("{address} to {bridge}")))
        }
        NodeAction::RemoveGateway(address) => {
            let message = address_message(bridge_index(rtnl, bridge)?, *address);
            rtnl.change("cni.remove_gateway", RouteNetlinkMessage::DelAddress(message), 0)
                .map_err(failed("remove address", format!("{address} from {bridge}")))
        }
        NodeAction::AddRoute(route) => change_route(
            rtnl,
            "cni.add_peer_route",
            "add route",
            RouteNetlinkMessage::NewRoute,
            created,
            route,
        ),
        NodeAction::ReplaceRoute(route) => {
            let point = "cni.replace_peer_route";
            change_route(
                rtnl,
                point,
                "replace route",
                RouteNetlinkMessage::NewRoute,
                NLM_F_REPLACE,
                route,
            )
        }
        NodeAction::RemoveRoute(route) => change_route(
            rtnl,
            "cni.remove_peer_route",
            "remove route",
            RouteNetlinkMessage::DelRoute,
            0,
            route,
        ),
    }
}

fn bridge_index(rtnl: &mut Rtnl, bridge: &str) -> Result<u32, Error> {
    match link_by_name(rtnl, bridge)? {
        Some(link) => Ok(link.header.index),
        None => Err(Error::NoBridge {
            name: bridge.to_owned(),
        }),
    }
}

fn bridge_message(name: &str, mtu: u32, mac: Mac) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::Address(mac.to_vec()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(tuning().to_vec())),
        ]),
    ];
    message
}

fn change_route(
    rtnl: &mut Rtnl,
    point: &str,
    operation: &'static str,
    request: fn(RouteMessage) -> RouteNetlinkMessage,
    flags: u16,
    route: &Route,
) -> Result<(), Error> {
    let mut message = route_message(Some(route.destination), route.gateway);
    message.header.protocol = ROUTE_PROTOCOL;
    rtnl.change(point, request(message), flags).map_err(failed(
        operation,
        format!("{} via {}", route.destination, route.gateway),
    ))
}

/// A unicast route of the main table; without destination a default route.
pub(crate) fn route_message(destination: Option<IpNet>, gateway: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(gateway);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Boot;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    if let Some(destination) = destination {
        message.header.destination_prefix_length = destination.prefix_len();
        message
            .attributes
            .push(RouteAttribute::Destination(destination.network().into()));
    }
    message.attributes.push(RouteAttribute::Gateway(gateway.into()));
    message
}
