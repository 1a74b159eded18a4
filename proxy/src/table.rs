//! The table of Services: virtual address to backends, by the rules of kube-proxy that need no kernel.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Also what an unset protocol means.
    Tcp,
    /// Datagrams.
    Udp,
    /// Streams of messages.
    Sctp,
}

/// A Service as far as cluster IPs go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `spec.clusterIPs` as they stand; `None` and the empty string make a Service headless.
    pub cluster_ips: Vec<String>,
    /// `spec.type` is `ExternalName`.
    pub external_name: bool,
    /// The label `service.kubernetes.io/service-proxy-name` is there: another proxy does it.
    pub other_proxy: bool,
    /// `spec.internalTrafficPolicy` is `Local`.
    pub internal_local: bool,
    /// `ClientIP` affinity: seconds for which a client stays with its backend.
    pub affinity_seconds: Option<u32>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// The empty string if unnamed.
    pub name: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The port of the cluster IP.
    pub port: u16,
}

/// An EndpointSlice with an IP address type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Its namespace.
    pub namespace: String,
    /// The label `kubernetes.io/service-name`.
    pub service: String,
    /// The label `service.kubernetes.io/headless` or `…/service-proxy-name` is there.
    pub ignored: bool,
    /// Ports, joined with the Service's by name and protocol.
    pub ports: Vec<SlicePort>,
    /// Endpoints; only their first address counts, as upstream.
    pub endpoints: Vec<Endpoint>,
}

/// One port of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// The empty string if unnamed.
    pub name: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The endpoints' port; unset means all ports, which a proxy cannot use.
    pub port: Option<u16>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its first address.
    pub address: IpAddr,
    /// `conditions.ready`; unset is ready.
    pub ready: Option<bool>,
    /// `conditions.serving`; unset is as `ready`.
    pub serving: Option<bool>,
    /// `conditions.terminating`; unset is not.
    pub terminating: Option<bool>,
    /// Its `nodeName` is this node.
    pub local: bool,
}

/// A virtual address: what clients connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vip {
    /// A cluster IP.
    pub address: IpAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// The Service's port.
    pub port: u16,
}

/// What a client gets when there is no backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithoutBackend {
    /// A reset or ICMP port unreachable: nobody serves this.
    Reject,
    /// Silence: others serve it, the traffic policy only keeps this node from using them.
    Drop,
}

/// Where a virtual address leads to. Each with equal weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backends {
    /// In order, without doubles.
    pub endpoints: BTreeSet<SocketAddr>,
    /// For an empty set.
    pub without: WithoutBackend,
    /// Seconds for which a client stays with its backend.
    pub affinity_seconds: Option<u32>,
}

/// One step from a table to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// New or different.
    Set(Vip, Backends),
    /// Gone.
    Remove(Vip),
}

/// All virtual addresses of both families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    entries: BTreeMap<Vip, Backends>,
}

impl Table {
    /// Computes the table. The order of the input does not matter: of two Services that claim one address the one first
    /// by namespace and name has it.
    #[must_use]
    pub fn build(services: &[Service], slices: &[Slice]) -> Self {
        let mut by_service: BTreeMap<(&str, &str), Vec<&Slice>> = BTreeMap::new();
        for slice in slices.iter().filter(|slice| !slice.ignored) {
            by_service
                .entry((&slice.namespace, &slice.service))
                .or_default()
                .push(slice);
        }
        let mut services: Vec<&Service> = services.iter().filter(|service| is_proxied(service)).collect();
        services.sort_by_key(|service| (&service.namespace, &service.name));
        let mut entries = BTreeMap::new();
        for service in services {
            let slices = by_service
                .get(&(&service.namespace[..], &service.name[..]))
                .map_or(&[][..], Vec::as_slice);
            for address in service
                .cluster_ips
                .iter()
                .filter_map(|text| text.parse::<IpAddr>().ok())
            {
                for port in &service.ports {
                    let vip = Vip {
                        address,
                        protocol: port.protocol,
                        port: port.port,
                    };
                    entries
                        .entry(vip)
                        .or_insert_with(|| backends(service, port, address, slices));
                }
            }
        }
        Self { entries }
    }

    /// The backends of a virtual address.
    #[must_use]
    pub fn get(&self, vip: &Vip) -> Option<&Backends> {
        self.entries.get(vip)
    }

    /// All entries in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Vip, &Backends)> {
        self.entries.iter()
    }

    /// What turns this table into `newer`, and nothing more.
    #[must_use]
    pub fn changes_to(&self, newer: &Self) -> Vec<Change> {
        let gone = self
            .entries
            .keys()
            .filter(|vip| !newer.entries.contains_key(vip))
            .map(|vip| Change::Remove(*vip));
        let set = newer
            .entries
            .iter()
            .filter(|(vip, backends)| self.entries.get(vip) != Some(backends));
        gone.chain(set.map(|(vip, backends)| Change::Set(*vip, backends.clone())))
            .collect()
    }
}

fn is_proxied(service: &Service) -> bool {
    let headless = service
        .cluster_ips
        .first()
        .is_none_or(|ip| ip.is_empty() || ip == "None");
    !service.external_name && !service.other_proxy && !headless
}

fn backends(service: &Service, port: &ServicePort, vip: IpAddr, slices: &[&Slice]) -> Backends {
    let candidates: Vec<(&Endpoint, SocketAddr)> = slices
        .iter()
        .flat_map(|slice| {
            let of_port = slice
                .ports
                .iter()
                .find(|p| p.name == port.name && p.protocol == port.protocol);
            let number = of_port.and_then(|of_port| of_port.port);
            slice
                .endpoints
                .iter()
                .filter_map(move |endpoint| Some((endpoint, SocketAddr::new(endpoint.address, number?))))
        })
        .filter(|(endpoint, _)| endpoint.address.is_ipv4() == vip.is_ipv4() && is_allowed(endpoint.address))
        .collect();
    let endpoints = usable(
        candidates
            .iter()
            .filter(|(endpoint, _)| endpoint.local || !service.internal_local),
    );
    let elsewhere = service.internal_local && !usable(candidates.iter()).is_empty();
    let without = if elsewhere {
        WithoutBackend::Drop
    } else {
        WithoutBackend::Reject
    };
    Backends {
        endpoints,
        without,
        affinity_seconds: service.affinity_seconds,
    }
}

/// The ready ones, or if there is none those that end but still serve.
fn usable<'a>(
    candidates: impl Iterator<Item = &'a (&'a Endpoint, SocketAddr)> + Clone,
) -> BTreeSet<SocketAddr> {
    let ready = |endpoint: &Endpoint| endpoint.ready.unwrap_or(true);
    let chosen: BTreeSet<SocketAddr> = candidates
        .clone()
        .filter(|(endpoint, _)| ready(endpoint))
        .map(|(_, address)| *address)
        .collect();
    if !chosen.is_empty() {
        return chosen;
    }
    let ending = |endpoint: &Endpoint| {
        endpoint.serving.unwrap_or_else(|| ready(endpoint)) && endpoint.terminating.unwrap_or(false)
    };
    candidates
        .filter(|(endpoint, _)| ending(endpoint))
        .map(|(_, address)| *address)
        .collect()
}

/// An endpoint must not lead to the node itself or to a neighbour by link-local address, whoever wrote the slice.
fn is_allowed(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !(v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_unspecified()
                || v4.is_broadcast())
        }
        IpAddr::V6(v6) => {
            let refused =
                v6.is_loopback() || v6.is_unicast_link_local() || v6.is_multicast() || v6.is_unspecified();
            !refused && v6.to_ipv4_mapped().is_none()
        }
    }
}
