//! The lab: a real control plane, a registry, and nodes made of namespaces on this machine.
//!
//! Files of one lab lie under `target/lab` of the workspace; what it holds of the kernel (a network namespace with the
//! fabric, one link on the machine, a cgroup tree, processes) carries the name [`NAME`] and is removed by [`Lab::down`].

mod addresses;
mod cgroups;
mod cluster_objects;
mod control_plane;
mod fabric;
mod images;
mod kubeconfig;
mod kubectl;
mod lifecycle;
mod node;
mod paths;
mod pki;
mod process;
mod registry;
pub mod setup;
mod state;
mod sys;
mod sysctls;

pub use addresses::Addresses;
pub use kubectl::Kubectl;
pub use lifecycle::{Lab, Options, save_logs};
pub use node::{Agent, Node, Output, Status, init::run as node_init, limits::run as oracle_runc};
pub use paths::{lab_dir, workspace};

/// Name of the lab's network namespace and of its cgroup.
pub const NAME: &str = "longshore-lab";
