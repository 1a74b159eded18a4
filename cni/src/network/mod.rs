//! The door of this crate.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;

use crate::address_pool::AddressPool;
use crate::error::{Error, Warning};
use crate::plan::{self, Bridge, NodeAction, NodeDesired, PodDesired};
use crate::sys::{self, Rtnl};
use crate::worker::{LinkWorker, Request};
use crate::{masquerade, node_links, pod_links};

/// How the pod network is set up; resolved once at start.
#[derive(Clone, Debug)]
pub struct Config {
    /// The bridge's link name, `longshore0` unless configured.
    pub bridge: String,
    /// Where leases live, on a tmpfs (`/run/longshore/network`).
    pub state_dir: PathBuf,
    /// Bytes; `None` takes the smallest of the uplinks' (the links that hold a default route), or 1500 without one.
    pub mtu: Option<u32>,
    /// All pod and Service CIDRs of the cluster, as far as known: traffic to them keeps the pod's address. The CIDRs of
    /// this node and its peers are added.
    pub cluster_cidrs: Vec<IpNet>,
    /// Whether traffic that leaves the cluster gets the node's address. Needs `nft`.
    pub masquerade: bool,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its pod CIDRs.
    pub cidrs: Vec<IpNet>,
    /// Its node addresses, which must be reachable without another router.
    pub via: Vec<IpAddr>,
}

/// A sandbox that wants a network.
#[derive(Clone, Copy, Debug)]
pub struct Attachment<'a> {
    /// Names the lease: the same id gets the same addresses until it is detached.
    pub sandbox_id: &'a str,
    /// The sandbox's network namespace.
    pub netns: BorrowedFd<'a>,
}

/// The pod network of one node.
///
/// Everything is idempotent and leads to the same end after a crash at any step. Methods block for the time of their
/// netlink requests; those of the node's side wait for each other, attach and detach do not wait for them.
pub struct Network {
    config: Config,
    nft: Option<PathBuf>,
    pool: Mutex<AddressPool>,
    node: Mutex<Node>,
    worker: LinkWorker,
    /// Found at start, for the caller to report.
    warnings: Vec<Warning>,
}

/// The node's side: what it was told last, and what is applied.
struct Node {
    rtnl: Rtnl,
    pod_cidrs: Vec<IpNet>,
    peers: Vec<Peer>,
    ruleset: Option<String>,
}

impl Network {
    /// Reads the leases and starts the link worker. The calling thread's network namespace becomes the node's. Changes
    /// nothing in it.
    ///
    /// # Errors
    /// A bad bridge name, no `nft` for masquerading, an unusable state directory, no netlink.
    pub fn new(config: Config) -> Result<Self, Error> {
        let usable = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if !(1..=15).contains(&config.bridge.len()) || !config.bridge.bytes().all(usable) {
            return Err(Error::BridgeName { name: config.bridge });
        }
        let nft = config.masquerade.then(masquerade::find_nft).transpose()?;
        let boot_id = sys::read_sysctl("kernel/random/boot_id").map_err(|source| Error::Read {
            path: "/proc/sys/kernel/random/boot_id",
            source,
        })?;
        let (pool, warnings) = AddressPool::load(&config.state_dir.join("leases"), &boot_id)?;
        let rtnl = Rtnl::open().map_err(|source| Error::Namespace {
            operation: "open netlink socket of own",
            source,
        })?;
        let node = Node {
            rtnl,
            pod_cidrs: Vec::new(),
            peers: Vec::new(),
            ruleset: None,
        };
        let worker = LinkWorker::start()?;
        Ok(Self {
            config,
            nft,
            pool: Mutex::new(pool),
            node: Mutex::new(node),
            worker,
            warnings,
        })
    }

    /// What [`Network::new`] found amiss without failing.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Sets the node's own pod CIDRs, one of each family at most: makes the bridge with the first address of each as
    /// gateway, switches forwarding on and applies the masquerade table.
    ///
    /// # Errors
    /// CIDRs that cannot be leased from, and whatever the kernel refuses but single routes and settings, which come
    /// back as warnings. Calling it again tries everything again.
    pub fn set_pod_cidrs(&self, cidrs: &[IpNet]) -> Result<Vec<Warning>, Error> {
        let mut node = lock(&self.node);
        lock(&self.pool).set_cidrs(cidrs)?;
        node.pod_cidrs = cidrs.iter().map(IpNet::trunc).collect();
        self.converge(&mut node)
    }

    /// Sets the other nodes. Routes to all others that we once made are removed; those of other owners never.
    ///
    /// # Errors
    /// As [`Network::set_pod_cidrs`].
    pub fn set_peers(&self, peers: &[Peer]) -> Result<Vec<Warning>, Error> {
        let mut node = lock(&self.node);
        node.peers = peers.to_vec();
        self.converge(&mut node)
    }

    fn converge(&self, node: &mut Node) -> Result<Vec<Warning>, Error> {
        let mut warnings = Vec::new();
        let peers = node.peers.iter().map(|peer| (&peer.cidrs[..], &peer.via[..]));
        let (routes, unreachable) = plan::routes(&node.pod_cidrs, peers);
        warnings.extend(unreachable.into_iter().map(|cidr| Warning::NoGateway { cidr }));
        let desired = NodeDesired {
            bridge: self.bridge(node)?,
            routes,
        };
        let observed = node_links::observe(&mut node.rtnl, &self.config.bridge)?;
        for action in plan::node(&desired, &observed) {
            if action == NodeAction::BridgeUp {
                warnings.extend(self.prepare_bridge());
            }
            match (
                node_links::apply(&mut node.rtnl, &self.config.bridge, &action),
                &action,
            ) {
                (Ok(()), _) => {}
                (Err(error), action) => warnings.push(route_warning(error, action)?),
            }
        }
        if desired.bridge.is_some() {
            warnings.extend(enable_forwarding());
            self.masquerade(node)?;
        }
        Ok(warnings)
    }

    fn bridge(&self, node: &mut Node) -> Result<Option<Bridge>, Error> {
        if node.pod_cidrs.is_empty() {
            return Ok(None);
        }
        let mtu = match self.config.mtu {
            Some(mtu) => mtu,
            None => node_links::uplink_mtu(&mut node.rtnl)?.unwrap_or(1500),
        };
        let gateways: BTreeSet<IpNet> = node.pod_cidrs.iter().copied().map(plan::gateway).collect();
        Ok(Some(Bridge {
            mtu,
            mac: plan::mac(&gateways),
            gateways,
        }))
    }

    /// Settings that must be there before the bridge is up: its address at once, and no word from pods about routes.
    fn prepare_bridge(&self) -> Vec<Warning> {
        let base = format!("net/ipv6/conf/{}", self.config.bridge);
        let settings = [
            ("cni.bridge_accept_dad", "accept_dad", "0"),
            ("cni.bridge_accept_ra", "accept_ra", "0"),
        ];
        settings
            .into_iter()
            .filter_map(|(point, name, value)| set(point, format!("{base}/{name}"), value))
            .collect()
    }

    fn masquerade(&self, node: &mut Node) -> Result<(), Error> {
        let Some(nft) = &self.nft else { return Ok(()) };
        let peers = node.peers.iter().flat_map(|peer| &peer.cidrs);
        let cluster: Vec<IpNet> = self
            .config
            .cluster_cidrs
            .iter()
            .chain(peers)
            .map(IpNet::trunc)
            .collect();
        let ruleset = masquerade::ruleset(&self.config.bridge, &node.pod_cidrs, &cluster);
        if node.ruleset.as_ref() != Some(&ruleset) {
            masquerade::apply(nft, &ruleset)?;
            node.ruleset = Some(ruleset);
        }
        Ok(())
    }

    /// Gives a sandbox its network: `eth0` with its addresses, in the order of the pod CIDRs. For a sandbox that has
    /// one already, what is missing of it is made, and its addresses are the same.
    ///
    /// After an error the lease stays until [`Network::detach`], so that a retry gets the same addresses.
    ///
    /// # Errors
    /// No pod CIDR yet, no free address, no bridge, or the kernel's refusal.
    pub fn attach(&self, attachment: &Attachment<'_>) -> Result<Vec<IpAddr>, Error> {
        let netns = attachment
            .netns
            .try_clone_to_owned()
            .map_err(|source| Error::Namespace {
                operation: "hold the pod's",
                source,
            })?;
        let leased = lock(&self.pool).lease(attachment.sandbox_id)?;
        let desired = PodDesired {
            addresses: leased.addresses.iter().copied().collect(),
            gateways: leased
                .addresses
                .iter()
                .map(|address| plan::gateway(*address).addr())
                .collect(),
        };
        self.worker.attach(Request {
            netns,
            bridge: self.config.bridge.clone(),
            host_link: pod_links::host_link_name(attachment.sandbox_id),
            desired,
            fresh: leased.fresh,
        })?;
        Ok(leased.addresses.iter().map(IpNet::addr).collect())
    }

    /// Frees a sandbox's addresses. Its links go with its network namespace, which the caller closes: deleting them
    /// here would take 20 ms.
    ///
    /// # Errors
    /// The lease's file cannot be removed.
    pub fn detach(&self, sandbox_id: &str) -> Result<(), Error> {
        Ok(lock(&self.pool).release(sandbox_id)?)
    }

    /// Frees the addresses and removes the links of all sandboxes that are not in `live`. For the start of the process,
    /// before the first attach: a sandbox that is being attached must be in `live` too.
    ///
    /// # Errors
    /// The first thing that could not be removed, after all others were tried.
    pub fn collect(&self, live: &BTreeSet<String>) -> Result<(), Error> {
        let mut node = lock(&self.node);
        let mut result = Ok(());
        let dead: Vec<String> = lock(&self.pool)
            .sandboxes()
            .filter(|id| !live.contains(*id))
            .map(str::to_owned)
            .collect();
        for sandbox_id in dead {
            result = result.and(self.detach(&sandbox_id));
        }
        let wanted: BTreeSet<String> = live.iter().map(|id| pod_links::host_link_name(id)).collect();
        for link in pod_links::host_links(&mut node.rtnl)?.difference(&wanted) {
            result = result.and(pod_links::remove_host_link(&mut node.rtnl, link));
        }
        result
    }
}

/// One bad peer must not keep the others away: errors of single routes become warnings, all else stays an error.
fn route_warning(error: Error, action: &NodeAction) -> Result<Warning, Error> {
    let (operation, route) = match action {
        NodeAction::AddRoute(route) => ("add", route),
        NodeAction::ReplaceRoute(route) => ("replace", route),
        NodeAction::RemoveRoute(route) => ("remove", route),
        _ => return Err(error),
    };
    match error {
        Error::Netlink { source, .. } => Ok(Warning::Route {
            operation,
            cidr: route.destination,
            via: route.gateway,
            source,
        }),
        error => Err(error),
    }
}

/// Lets the node route between pods and the world.
fn enable_forwarding() -> Vec<Warning> {
    let v6 = "net/ipv6/conf/all/forwarding";
    let mut warnings = Vec::new();
    if sys::read_sysctl(v6).is_ok_and(|value| value == "0") {
        warnings.extend(keep_router_advertisements());
    }
    warnings.extend(set(
        "cni.enable_forwarding_v4",
        "net/ipv4/ip_forward".to_owned(),
        "1",
    ));
    warnings.extend(set("cni.enable_forwarding_v6", v6.to_owned(), "1"));
    warnings
}

/// A router ignores router advertisements: without this a node that has its default route from one would lose it.
fn keep_router_advertisements() -> Vec<Warning> {
    let Ok(links) = std::fs::read_dir("/proc/sys/net/ipv6/conf") else {
        return Vec::new();
    };
    let names = links
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    names
        .filter(|name| !["all", "default", "lo"].contains(&name.as_str()))
        .map(|name| format!("net/ipv6/conf/{name}/accept_ra"))
        .filter(|path| sys::read_sysctl(path).is_ok_and(|value| value == "1"))
        .filter_map(|path| set("cni.keep_router_advertisements", path, "2"))
        .collect()
}

/// Sets what is not set already. A read-only /proc/sys, or a kernel without IPv6, is a warning.
fn set(point: &str, path: String, value: &'static str) -> Option<Warning> {
    if sys::read_sysctl(&path).is_ok_and(|present| present == value) {
        return None;
    }
    sys::write_sysctl(point, &path, value)
        .err()
        .map(|source| Warning::Sysctl { path, value, source })
}

/// The state behind these locks is whole between statements, so a panic elsewhere leaves it usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
