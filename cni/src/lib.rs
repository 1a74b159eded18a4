//! Pod network: one bridge a node, addresses leased from the node's pod CIDRs, routes to the other nodes' pod CIDRs and
//! masquerading of what leaves the cluster. All in process and synchronous: a pod's network is a handful of netlink
//! messages, sent by one long-lived thread.
//!
//! The door is [`Network`]. Rooms:
//! - `plan`: pure; desired links, addresses and routes against the observed ones give a list of actions.
//! - `node_links`, `pod_links`: observe and apply for the node's namespace and for a pod's.
//! - `address_pool`: who has which address; leases are files, written before use.
//! - `worker`: the link worker, the only thread that enters other network namespaces.
//! - `masquerade`: the text of our nftables table.
//! - `sys`: the funnel of every effect outside the process, and so the fault point.
//!
//! Limits, by design of the kernel: an `accept` in our table cannot undo a `drop` in another one. On a host whose
//! iptables FORWARD policy is DROP (Docker sets it), pod traffic has to be accepted in that table too, for instance by
//! `iptables -I DOCKER-USER -i longshore0 -j ACCEPT` and the same with `-o`.

mod address_pool;
mod error;
mod fault;
mod masquerade;
mod network;
mod node_links;
mod plan;
mod pod_links;
mod sys;
mod worker;

pub use address_pool::PoolError;
pub use error::{Error, Warning};
pub use network::{Attachment, Config, Network, Peer};
