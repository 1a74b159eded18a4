//! Which addresses the node tells the world.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

/// Longest wait for the resolver.
const LOOKUP: Duration = Duration::from_secs(2);

/// What the machine says about addresses: a seam, so that the choice is testable.
pub(super) trait Resolver {
    /// Addresses of a name.
    fn lookup(&self, name: &str) -> impl Future<Output = Vec<IpAddr>> + Send;
    /// Whether an interface holds the address.
    fn is_local(&self, address: IpAddr) -> bool;
    /// The address that the default route would send from.
    fn default_route(&self, ipv4: bool) -> Option<IpAddr>;
}

/// The machine's own.
pub(super) struct Machine;

impl Resolver for Machine {
    async fn lookup(&self, name: &str) -> Vec<IpAddr> {
        match tokio::time::timeout(LOOKUP, tokio::net::lookup_host((name, 0))).await {
            Ok(Ok(found)) => found.map(|address| address.ip()).collect(),
            _ => Vec::new(),
        }
    }

    fn is_local(&self, address: IpAddr) -> bool {
        // Binding needs the address on an interface (unless ip_nonlocal_bind is set, which is no node's habit).
        UdpSocket::bind((address, 0)).is_ok()
    }

    fn default_route(&self, ipv4: bool) -> Option<IpAddr> {
        // Connecting a datagram socket only asks the routing table. The targets are documentation addresses.
        let (any, target) = if ipv4 {
            ("0.0.0.0:0", "192.0.2.1:9")
        } else {
            ("[::]:0", "[2001:db8::1]:9")
        };
        let socket = UdpSocket::bind(any).ok()?;
        socket.connect(target).ok()?;
        Some(socket.local_addr().ok()?.ip())
    }
}

/// Checks that `address` can be a node's.
///
/// # Errors
/// Upstream's words.
pub(super) fn validate(resolver: &impl Resolver, address: IpAddr) -> Result<(), String> {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if address.is_loopback() {
        Err("nodeIP can't be loopback address".to_owned())
    } else if address.is_multicast() {
        Err("nodeIP can't be a multicast address".to_owned())
    } else if link_local {
        Err("nodeIP can't be a link-local unicast address".to_owned())
    } else if address.is_unspecified() {
        Err("nodeIP can't be an all zeros address".to_owned())
    } else if !resolver.is_local(address) {
        Err(format!(
            "node IP: \"{address}\" not found in the host's network interfaces"
        ))
    } else {
        Ok(())
    }
}

/// The node's addresses, best first: the configured ones, or the one found by name, or that of the default route.
///
/// # Errors
/// Upstream's words.
pub(super) async fn choose(
    resolver: &impl Resolver,
    configured: &[IpAddr],
    node_name: &str,
) -> Result<Vec<IpAddr>, String> {
    let given: Vec<IpAddr> = configured
        .iter()
        .copied()
        .filter(|address| !address.is_unspecified())
        .collect();
    for (address, which) in given.iter().zip(["nodeIP", "secondaryNodeIP"]) {
        validate(resolver, *address).map_err(|cause| format!("failed to validate {which}: {cause}"))?;
    }
    if !given.is_empty() {
        return Ok(given);
    }
    // An unspecified address only says which family is liked better.
    let ipv4 = configured.first().is_none_or(IpAddr::is_ipv4);
    if let Ok(address) = node_name.parse() {
        return Ok(vec![address]);
    }
    let found = resolver.lookup(node_name).await;
    let good: Vec<IpAddr> = found
        .into_iter()
        .filter(|address| validate(resolver, *address).is_ok())
        .collect();
    let named = good
        .iter()
        .find(|address| address.is_ipv4() == ipv4)
        .or(good.first())
        .copied();
    let routed = || {
        let usable = |address: &IpAddr| validate(resolver, *address).is_ok();
        resolver
            .default_route(ipv4)
            .filter(usable)
            .or_else(|| resolver.default_route(!ipv4).filter(usable))
    };
    match named.or_else(routed) {
        Some(address) => Ok(vec![address]),
        None => Err(format!(
            "can't get ip address of node {node_name}. error: neither its name nor a default route leads to one; \
             give --node-ip"
        )),
    }
}
