//! `cargo xtask`: set-up, tests, lab and benches of Longshore in one command.

mod bench;
mod checks;
mod demo;
mod fresh;
mod lab_command;
mod test;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Set-up, tests, lab and benches of Longshore.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    version,
    arg_required_else_help = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Set everything up, start a one-node lab, deploy a sample and show it working.
    Demo(demo::Args),
    /// Set everything up and run all tests that CI runs; the last line is `N passed, N failed`.
    Test(test::Args),
    /// Check the tree alone: format, crate graph, effect funnels, licences, lints.
    Check,
    /// Start or remove the lab: a real control plane, a registry and joined nodes.
    #[command(subcommand)]
    Lab(lab_command::Args),
    /// Print side-by-side figures against the peers.
    Bench(bench::Args),
    /// Run both README commands in a minimal Debian root and print the time of each.
    Fresh(fresh::Args),
    /// The first process of a lab node (started by the lab itself).
    #[command(name = "__node-init", hide = true)]
    NodeInit {
        /// File with the node's boot description.
        boot: std::path::PathBuf,
    },
    /// runc without limits that this machine cannot enforce (started by the oracle's containerd).
    #[command(
        name = "__runc",
        hide = true,
        disable_help_flag = true,
        disable_version_flag = true
    )]
    Runc {
        /// runc's arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<std::ffi::OsString>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Demo(args) => demo::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Check => test::check(),
        Command::Lab(args) => lab_command::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Fresh(args) => fresh::run(&args),
        Command::NodeInit { boot } => lab::node_init(&boot),
        Command::Runc { arguments } => lab::oracle_runc(&arguments),
    }
}
