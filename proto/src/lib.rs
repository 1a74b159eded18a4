//! Interface definitions and the code generated from them.
//!
//! - [`cri`]: Container Runtime Interface v1 (`runtime.v1`), messages, client and server.

pub mod cri;
