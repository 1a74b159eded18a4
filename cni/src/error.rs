//! What can go wrong at the door, and what went wrong without stopping the work.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use crate::address_pool::PoolError;

/// Why the pod network could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bridge's name cannot be a link name: 1 to 15 letters, digits, `-` or `_`.
    #[error("bridge name {name:?} is not usable: 1 to 15 letters, digits, '-' or '_'")]
    BridgeName {
        /// The name as configured.
        name: String,
    },
    /// A link of the bridge's name exists and is something else.
    #[error("link {name} exists and is not a bridge: remove it or configure another bridge name")]
    NotABridge {
        /// The link.
        name: String,
    },
    /// The bridge is not there; [`crate::Network::set_pod_cidrs`] makes it.
    #[error("bridge {name} does not exist: the node's pod CIDRs are not applied yet")]
    NoBridge {
        /// The bridge.
        name: String,
    },
    /// Masquerading was asked for and no `nft` was found.
    #[error(
        "masquerading of pod traffic needs the nft command, and none of {} exists: install the package nftables",
        searched.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    NoNft {
        /// Where it was looked for.
        searched: Vec<PathBuf>,
    },
    /// `nft` refused the ruleset or could not be run.
    #[error("cannot apply the nftables table: {detail}")]
    Nft {
        /// The exit status and the end of its error output.
        detail: String,
    },
    /// An address could not be leased or released.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// A netlink request was refused.
    #[error("cannot {operation} {object}: {source}")]
    Netlink {
        /// What was asked of the kernel.
        operation: &'static str,
        /// The link, address or route.
        object: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A network namespace could not be opened or entered.
    #[error("cannot {operation} network namespace: {source}")]
    Namespace {
        /// What was tried.
        operation: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A file below /proc could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The link worker is gone: it panicked. Only a restart of the process mends it.
    #[error("the link worker has ended")]
    WorkerGone,
}

/// Something that was not done, and without which the network still works in part.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Warning {
    /// A kernel setting could not be written; common where /proc/sys is read-only.
    #[error("cannot set {path} to {value}: {source}")]
    Sysctl {
        /// The file below /proc/sys.
        path: String,
        /// The wanted value.
        value: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A peer has a pod CIDR of a family in which it has no node address.
    #[error("no route to pod CIDR {cidr}: its node has no address of that family")]
    NoGateway {
        /// The peer's pod CIDR.
        cidr: IpNet,
    },
    /// A route to a peer could not be changed. Another owner of the same route shows as "File exists".
    #[error("cannot {operation} route to {cidr} via {via}: {source}")]
    Route {
        /// add, replace or remove.
        operation: &'static str,
        /// The peer's pod CIDR.
        cidr: IpNet,
        /// The peer's node address.
        via: IpAddr,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A lease file could not be understood. It was renamed and its addresses count as free.
    #[error("lease {path} is damaged ({detail}); kept beside as .damaged", path = path.display())]
    DamagedLease {
        /// The file.
        path: PathBuf,
        /// What was wrong with it.
        detail: String,
    },
}
