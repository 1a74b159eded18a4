//! The CRI engine: sandboxes, containers, images and logs of a node, as the Container Runtime Interface names them.
//!
//! The one door is `Engine`; its methods are the calls of the interface, in process. What each call does to the
//! machine is planned first (pure), recorded, then applied; a record left by an engine that died is enough for the
//! next one to finish or undo the work.

mod error;
mod fault;
#[allow(dead_code, unused_imports, reason = "the engine stands on it next")]
mod images;
#[allow(dead_code, reason = "the engine stands on it next")]
mod state;

pub use error::{Code, Error};
pub use images::{Digest, DigestError, Reason, Reference, ReferenceError, Version};
