//! The CRI engine.
