//! The OCI runtime: the plan of a container computed from its spec, the keeper that runs containers of one pod,
//! and the wire between the keeper and whoever drives it.
//!
//! Rooms: [`plan`] (pure data that a keeper carries out) · [`wire`] (frames between agent and keeper).

pub mod plan;
pub mod wire;
