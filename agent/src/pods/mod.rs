//! Pods: where they come from, whether they may run here, what to do for them, and what the API is told.
//!
//! source → store → admission → worker (plan → apply) → status. See [`plan`] for the heart of it.

pub(crate) mod admission;
pub(crate) mod plan;
pub(crate) mod runtime_config;
pub(crate) mod source;
