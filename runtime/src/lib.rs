//! The OCI runtime: the plan of a container computed from its spec, the keeper that runs containers of one pod,
//! and the wire between the keeper and whoever drives it.
//!
//! Rooms: [`compile`] (OCI spec to plan, pure) · [`plan`] (pure data that a keeper carries out) · [`wire`] (frames between agent and keeper) · [`keeper`] (the
//! process a pod) · `init` (from clone to exec in a container) · [`exit_record`] (what a keeper leaves behind) ·
//! [`client`] (a blocking driver) · `sys` (the funnel of effects).

pub mod client;
pub mod compile;
pub mod exit_record;
mod failure;
mod init;
pub mod keeper;
pub mod plan;
mod sys;
pub mod wire;
