//! The Longshore node agent.
#![allow(
    dead_code,
    unused_imports,
    reason = "the rooms are wired together as they land; removed with the last of them"
)]

mod api;
mod cli;
mod config;
mod fault;
mod node;
mod pods;
mod resources;
mod server;
mod volumes;

fn main() {}
