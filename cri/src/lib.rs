//! The CRI engine: sandboxes, containers, images and logs of a node, as the Container Runtime Interface names them.
//!
//! The one door is [`Engine`]; its methods are the calls of the interface, in process. What each call does to the
//! machine is planned first (pure), recorded, then applied; a record left by an engine that died is enough for the
//! next one to finish or undo the work.
//!
//! Rooms: `engine` (door, adoption, answers) · `sandbox`, `container` (`plan` pure, `apply` effects) · `spec` (from CRI
//! to an OCI specification, pure) · `store` (what is known) · `records` (what survives) · `keeper` (its client) ·
//! `images` · `state`, `host` (the funnels of effects) · `paths`, `config`, `error`, `fault`.

mod config;
mod container;
mod engine;
mod error;
mod fault;
mod host;
#[allow(
    dead_code,
    unused_imports,
    reason = "the image service has more than the engine calls today"
)]
mod images;
mod keeper;
mod paths;
mod records;
mod sandbox;
mod spec;
#[allow(dead_code, reason = "shared with the image service")]
mod state;
mod store;

pub use config::Config;
pub use engine::Engine;
pub use error::{Code, Error};
pub use images::{Digest, DigestError, Reason, Reference, ReferenceError, Version};
