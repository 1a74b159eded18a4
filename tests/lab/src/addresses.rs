//! Every address and port of the lab, in one place.
//!
//! Only the fabric is seen by the machine (one link with one address in it); pod and service ranges live inside the
//! lab's namespaces.

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;

/// Link on the machine that leads to the fabric.
pub(crate) const HOST_LINK: &str = "lslab0";
/// Bridge inside the lab's network namespace.
pub(crate) const BRIDGE: &str = "fabric0";

/// Pod ranges of the cluster: 128 nodes of a /21, each /64.
pub(crate) const POD_RANGES: &str = "10.124.0.0/14,fd53:6c61:6201::/48";
/// Service ranges of the cluster.
pub(crate) const SERVICE_RANGES: &str = "10.96.0.0/12,fd53:6c61:6202::/108";
/// First service addresses: the API server's own Service.
pub(crate) const FIRST_SERVICES: [&str; 2] = ["10.96.0.1", "fd53:6c61:6202::1"];
/// Where cluster DNS is to be found.
pub(crate) const DNS_SERVICE: &str = "10.96.0.10";

const API_PORT: u16 = 6443;
const REGISTRY_PORT: u16 = 5000;
const FABRIC_V6: Ipv6Addr = Ipv6Addr::new(0xfd53, 0x6c61, 0x6200, 0, 0, 0, 0, 0);
/// A /24 each; the first that does not overlap a route of the machine is taken.
const FABRIC_V4: [Ipv4Addr; 3] = [
    Ipv4Addr::new(10, 123, 0, 0),
    Ipv4Addr::new(172, 31, 213, 0),
    Ipv4Addr::new(192, 168, 213, 0),
];
const FIRST_NODE: usize = 10;
/// Most nodes that fit the fabric.
pub(crate) const MOST_NODES: usize = 200;

/// Addresses on the fabric.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    fabric_v4: Ipv4Addr,
}

impl Addresses {
    /// Chooses a fabric range that no route of this machine overlaps.
    pub(crate) fn choose() -> Result<Self> {
        let taken = host_routes()?;
        let free = FABRIC_V4
            .into_iter()
            .find(|&base| !taken.iter().any(|route| route.overlaps(base, 24)));
        let Some(fabric_v4) = free else {
            bail!("each of {FABRIC_V4:?} (/24) overlaps a route of this machine (`ip route show table all`)");
        };
        Ok(Self { fabric_v4 })
    }

    /// Address of control plane and registry.
    pub fn control_plane(&self) -> [IpAddr; 2] {
        self.pair(1)
    }

    /// Address of this machine on the fabric.
    pub(crate) fn host(&self) -> [IpAddr; 2] {
        self.pair(254)
    }

    /// Address of node number `index` (from 0).
    pub(crate) fn node(&self, index: usize) -> [IpAddr; 2] {
        self.pair(u8::try_from(FIRST_NODE + index).expect("MOST_NODES bounds the index"))
    }

    /// `host:port` of the API server.
    pub fn api_server(&self) -> String {
        format!("{}:{API_PORT}", self.control_plane()[0])
    }

    /// `host:port` of the registry.
    pub fn registry(&self) -> String {
        format!("{}:{REGISTRY_PORT}", self.control_plane()[0])
    }

    fn pair(&self, host: u8) -> [IpAddr; 2] {
        let [a, b, c, _] = self.fabric_v4.octets();
        let mut v6 = FABRIC_V6.segments();
        v6[7] = u16::from(host);
        [
            IpAddr::V4(Ipv4Addr::new(a, b, c, host)),
            IpAddr::V6(Ipv6Addr::from(v6)),
        ]
    }
}

/// Prefix lengths of the fabric, in the order of [`Addresses`]' pairs.
pub(crate) const FABRIC_PREFIXES: [u8; 2] = [24, 64];

/// Port of the API server.
pub(crate) fn api_port() -> u16 {
    API_PORT
}

/// Port of the registry.
pub(crate) fn registry_port() -> u16 {
    REGISTRY_PORT
}

/// An IPv4 route's destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Destination {
    base: Ipv4Addr,
    length: u8,
}

impl Destination {
    fn parse(text: &str) -> Option<Self> {
        let (base, length) = text.split_once('/').unwrap_or((text, "32"));
        Some(Self {
            base: base.parse().ok()?,
            length: length.parse().ok().filter(|&length| length <= 32)?,
        })
    }

    fn overlaps(self, base: Ipv4Addr, length: u8) -> bool {
        let common = self.length.min(length);
        let mask = u32::MAX.checked_shl(32 - u32::from(common)).unwrap_or(0);
        self.base.to_bits() & mask == base.to_bits() & mask
    }
}

fn host_routes() -> Result<Vec<Destination>> {
    let output = Command::new("ip")
        .args(["-j", "-4", "route", "show", "table", "all"])
        .output();
    let output = output.context("list this machine's routes with ip")?;
    let routes: Vec<serde_json::Value> =
        serde_json::from_slice(&output.stdout).context("parse `ip -j route`")?;
    let foreign = routes.iter().filter(|route| route["dev"] != HOST_LINK);
    Ok(foreign
        .filter_map(|route| Destination::parse(route["dst"].as_str()?))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_default_route_is_not_a_destination() {
        assert_eq!(Destination::parse("default"), None);
        assert_eq!(Destination::parse("10.0.0.0/33"), None);
    }

    proptest! {
        #[test]
        fn overlap_is_symmetric_and_holds_for_contained_ranges(base: u32, other: u32, a in 0u8..=32, b in 0u8..=32) {
            let (base, other) = (Ipv4Addr::from(base), Ipv4Addr::from(other));
            let one = Destination { base, length: a };
            let two = Destination { base: other, length: b };
            prop_assert_eq!(one.overlaps(other, b), two.overlaps(base, a));
            prop_assert!(one.overlaps(base, 32));
        }
    }
}
