//! The Longshore node agent.

fn main() {}
