//! A pod's side: the pair of links, the addresses, the default routes. Observe and apply; `plan` decides.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkFlags,
    LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::error::Error;
use crate::node_links::{address_message, addresses, failed, ip, link_by_name, route_message, up_message};
use crate::plan::{HostEnd, Mac, PodAction, PodDesired, PodEnd, PodObserved, mac};
use crate::sys::Rtnl;

/// The pod's end of the pair, as every CNI plugin names it.
const POD_LINK: &str = "eth0";
/// Host ends carry this link group and name prefix, so that garbage collection never meets a foreign link.
const LINK_GROUP: u32 = 0x6c73;
const HOST_PREFIX: &str = "lsh";

/// Everything about one pod's links that does not change while they are set up.
pub(crate) struct PodLinks<'a> {
    pub(crate) bridge: &'a str,
    pub(crate) host_link: &'a str,
    pub(crate) desired: &'a PodDesired,
    pub(crate) netns: BorrowedFd<'a>,
}

/// The name of the host end of a sandbox: 15 bytes at most, and the same for the same sandbox after a crash.
pub(crate) fn host_link_name(sandbox_id: &str) -> String {
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    // FNV-1a: 60 of its bits name a link. It guards against accidents, and the ids are our own.
    let mut hash = sandbox_id.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    let mut name = HOST_PREFIX.to_owned();
    for _ in 0..12 {
        name.push(char::from(DIGITS[(hash & 31) as usize]));
        hash >>= 5;
    }
    name
}

/// All host ends of ours in the namespace of `rtnl`.
pub(crate) fn host_links(rtnl: &mut Rtnl) -> Result<BTreeSet<String>, Error> {
    let replies = rtnl
        .dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))
        .map_err(failed("list", "links"))?;
    let ours = replies.into_iter().filter_map(|reply| match reply {
        RouteNetlinkMessage::NewLink(link) if link.attributes.contains(&LinkAttribute::Group(LINK_GROUP)) => {
            link.attributes.into_iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) if name.starts_with(HOST_PREFIX) => Some(name),
                _ => None,
            })
        }
        _ => None,
    });
    Ok(ours.collect())
}

/// Removes a host end and with it the pod's end. Takes some 20 ms: for leftovers only.
pub(crate) fn remove_host_link(rtnl: &mut Rtnl, name: &str) -> Result<(), Error> {
    let Some(link) = link_by_name(rtnl, name)? else {
        return Ok(());
    };
    let mut message = LinkMessage::default();
    message.header.index = link.header.index;
    match rtnl.change("cni.remove_host_link", RouteNetlinkMessage::DelLink(message), 0) {
        // Its namespace was closed between the two requests.
        Err(source) if source.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        result => result.map_err(failed("remove link", name)),
    }
}

/// What is there of a pod's network.
pub(crate) fn observe(
    home: &mut Rtnl,
    inside: &mut Rtnl,
    links: &PodLinks<'_>,
) -> Result<PodObserved, Error> {
    let bridge = bridge(home, links.bridge)?.header.index;
    let host_end = link_by_name(home, links.host_link)?.map(|link| HostEnd {
        on_bridge: link.attributes.contains(&LinkAttribute::Controller(bridge)),
        hairpin: link.attributes.iter().any(is_hairpin),
        up: link.header.flags.contains(LinkFlags::Up),
    });
    let is_up = |link: LinkMessage| link.header.flags.contains(LinkFlags::Up);
    let loopback_up = link_by_name(inside, "lo")?.is_some_and(is_up);
    let pod_end = match link_by_name(inside, POD_LINK)? {
        Some(link) => {
            let addresses = addresses(inside, link.header.index)?;
            Some(PodEnd {
                up: is_up(link),
                addresses,
                default_routes: default_routes(inside)?,
            })
        }
        None => None,
    };
    Ok(PodObserved {
        host_end,
        loopback_up,
        pod_end,
    })
}

fn is_hairpin(attribute: &LinkAttribute) -> bool {
    let LinkAttribute::LinkInfo(infos) = attribute else {
        return false;
    };
    infos.iter().any(|info| match info {
        LinkInfo::PortData(InfoPortData::BridgePort(values)) => {
            values.contains(&InfoBridgePort::HairpinMode(true))
        }
        _ => false,
    })
}

fn default_routes(inside: &mut Rtnl) -> Result<BTreeSet<IpAddr>, Error> {
    let mut gateways = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.kind = RouteType::Unicast;
        let replies = inside
            .dump(RouteNetlinkMessage::GetRoute(message))
            .map_err(failed("list", "the pod's routes"))?;
        let defaults = replies.into_iter().filter_map(|reply| match reply {
            RouteNetlinkMessage::NewRoute(route) if route.header.destination_prefix_length == 0 => {
                Some(route)
            }
            _ => None,
        });
        gateways.extend(defaults.flat_map(|route| route.attributes).filter_map(
            |attribute| match attribute {
                RouteAttribute::Gateway(address) => ip(&address),
                _ => None,
            },
        ));
    }
    Ok(gateways)
}

fn bridge(home: &mut Rtnl, name: &str) -> Result<LinkMessage, Error> {
    link_by_name(home, name)?.ok_or_else(|| Error::NoBridge {
        name: name.to_owned(),
    })
}

/// Does one action; `home` is a socket of the node's namespace, `inside` one of the pod's.
pub(crate) fn apply(
    home: &mut Rtnl,
    inside: &mut Rtnl,
    links: &PodLinks<'_>,
    action: PodAction,
) -> Result<(), Error> {
    match action {
        PodAction::RemoveHostEnd => remove_host_link(home, links.host_link),
        PodAction::CreatePair => create_pair(home, links),
        PodAction::ConnectHostEnd => {
            let mut message = up_message(index(home, links.host_link)?);
            message.attributes.push(LinkAttribute::Controller(
                bridge(home, links.bridge)?.header.index,
            ));
            home.change("cni.connect_host_end", RouteNetlinkMessage::SetLink(message), 0)
                .map_err(failed("connect link", links.host_link))
        }
        PodAction::Hairpin => {
            let message = hairpin_message(index(home, links.host_link)?);
            home.change("cni.set_hairpin", RouteNetlinkMessage::NewLink(message), 0)
                .map_err(failed("set hairpin mode of link", links.host_link))
        }
        PodAction::LoopbackUp => set_up(inside, "cni.loopback_up", "lo"),
        PodAction::PodEndUp => set_up(inside, "cni.pod_end_up", POD_LINK),
        PodAction::AddAddress(address) => {
            let message = address_message(index(inside, POD_LINK)?, address);
            inside
                .change(
                    "cni.add_pod_address",
                    RouteNetlinkMessage::NewAddress(message),
                    NLM_F_CREATE | NLM_F_EXCL,
                )
                .map_err(failed("add address to the pod's link", address.to_string()))
        }
        PodAction::AddDefaultRoute(gateway) => {
            let mut message = route_message(None, gateway);
            message
                .attributes
                .push(RouteAttribute::Oif(index(inside, POD_LINK)?));
            inside
                .change(
                    "cni.add_pod_route",
                    RouteNetlinkMessage::NewRoute(message),
                    NLM_F_CREATE | NLM_F_EXCL,
                )
                .map_err(failed("add the pod's default route via", gateway.to_string()))
        }
    }
}

fn index(rtnl: &mut Rtnl, name: &str) -> Result<u32, Error> {
    match link_by_name(rtnl, name)? {
        Some(link) => Ok(link.header.index),
        None => {
            let source = std::io::Error::from_raw_os_error(libc::ENODEV);
            Err(Error::Netlink {
                operation: "find link",
                object: name.to_owned(),
                source,
            })
        }
    }
}

fn set_up(rtnl: &mut Rtnl, point: &str, name: &'static str) -> Result<(), Error> {
    let message = up_message(index(rtnl, name)?);
    rtnl.change(point, RouteNetlinkMessage::SetLink(message), 0)
        .map_err(failed("set up the pod's link", name))
}

/// One message makes both ends. The pod's end is born in the pod's namespace (to move it there later costs 16 ms of
/// waiting for readers) and cannot be born up; the host's end is born on the bridge and up.
fn create_pair(home: &mut Rtnl, links: &PodLinks<'_>) -> Result<(), Error> {
    let bridge = bridge(home, links.bridge)?;
    let mtu = bridge.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(LinkAttribute::Mtu(*mtu)),
        _ => None,
    });
    let pod_mac: Mac = mac(&links.desired.addresses);
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(POD_LINK.to_owned()),
        LinkAttribute::Address(pod_mac.to_vec()),
        LinkAttribute::NetNsFd(links.netns.as_raw_fd()),
    ];
    peer.attributes.extend(mtu.clone());
    let mut message = up_message(0);
    message.attributes = vec![
        LinkAttribute::IfName(links.host_link.to_owned()),
        LinkAttribute::Group(LINK_GROUP),
        LinkAttribute::Controller(bridge.header.index),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    message.attributes.extend(mtu);
    home.change(
        "cni.create_pair",
        RouteNetlinkMessage::NewLink(message),
        NLM_F_CREATE | NLM_F_EXCL,
    )
    .map_err(failed("create link pair", links.host_link))?;
    crate::fault::point("cni.pair_created");
    Ok(())
}

/// A pod that reaches itself through a Service gets its own frame back: the bridge must allow that.
fn hairpin_message(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = vec![LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)])),
    ])];
    message
}
