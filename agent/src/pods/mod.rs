//! Pods: where they come from, whether they may run here, what to do for them, and what the API is told.

pub(crate) mod runtime_config;
