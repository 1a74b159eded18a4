//! The command line: `longshore agent|join|play|version`, and all of the kubelet's flags when called `kubelet`.

mod agent;
mod flags;
mod join;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, Command};

pub(crate) use agent::AgentArgs;
pub(crate) use join::JoinArgs;

use crate::config::KUBELET_VERSION;

/// What is asked for.
pub(crate) enum Invocation {
    /// Run the node.
    Agent(Box<AgentArgs>),
    /// Join a cluster.
    Join(JoinArgs),
    /// Run the pods of a file without any API server.
    Play {
        file: PathBuf,
        down: bool,
        agent: Box<AgentArgs>,
    },
    /// Print this and end well.
    Print(String),
}

/// Reads the command line. `--help`, and bad usage, come back as clap's own error, which knows its exit code.
///
/// # Errors
/// [`clap::Error`].
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, clap::Error> {
    let mut args: Vec<OsString> = args.into_iter().map(dashes).collect();
    let called = args
        .first()
        .map(PathBuf::from)
        .and_then(|path| path.file_name().map(ToOwned::to_owned));
    if called.is_some_and(|name| name == "kubelet") {
        args[0] = "kubelet".into();
        let matches = agent::flags(Command::new("kubelet"))
            .about("The Longshore node agent")
            .try_get_matches_from(args)?;
        return agent(&matches);
    }
    let matches = command().try_get_matches_from(args)?;
    match matches.subcommand() {
        Some(("agent", matches)) => agent(matches),
        Some(("join", matches)) => Ok(Invocation::Join(JoinArgs::read(matches)?)),
        Some(("play", matches)) => Ok(Invocation::Play {
            file: matches
                .get_one::<PathBuf>("FILE")
                .cloned()
                .expect("clap requires FILE"),
            down: matches.get_flag("down"),
            agent: Box::new(AgentArgs::read(matches)?),
        }),
        _ => Ok(Invocation::Print(VERSION_LINE.to_owned())),
    }
}

fn command() -> Command {
    let file = Arg::new("FILE")
        .required(true)
        .value_parser(clap::value_parser!(PathBuf))
        .help("Manifest: YAML or JSON, one or more Pods");
    let down = Arg::new("down")
        .long("down")
        .action(ArgAction::SetTrue)
        .help("Only take down what an earlier run has left");
    Command::new("longshore")
        .about("The node side of Kubernetes")
        .version(VERSION_LINE)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            agent::flags(Command::new("agent"))
                .about("Run this machine as a node (takes the kubelet's flags)"),
        )
        .subcommand(join::flags(Command::new("join")).about("Join this machine to a cluster"))
        .subcommand(
            agent::flags(Command::new("play"))
                .arg(file)
                .arg(down)
                .about("Run the pods of a file without an API server"),
        )
        .subcommand(Command::new("version").about("Print the version"))
}

fn agent(matches: &clap::ArgMatches) -> Result<Invocation, clap::Error> {
    if let Some(version) = matches.get_one::<String>("version") {
        return Ok(match version.as_str() {
            "raw" => Invocation::Print(KUBELET_VERSION.to_owned()),
            "false" => Invocation::Agent(Box::new(AgentArgs::read(matches)?)),
            // kubeadm reads this line: ^\s*Kubernetes v(x.y.z[-\w.+]*)\s*$
            _ => Invocation::Print(format!("Kubernetes {KUBELET_VERSION}")),
        });
    }
    Ok(Invocation::Agent(Box::new(AgentArgs::read(matches)?)))
}

/// What `longshore --version` says after the name.
const VERSION_LINE: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (Kubernetes v1.36.3+longshore.",
    env!("CARGO_PKG_VERSION"),
    ")"
);

/// `--some_flag=a_b` as `--some-flag=a_b`: in flag names both signs are one.
fn dashes(arg: OsString) -> OsString {
    let Some(text) = arg.to_str() else { return arg };
    if !text.starts_with("--") || text.len() == 2 {
        return arg;
    }
    match text.split_once('=') {
        Some((name, value)) => format!("{}={value}", name.replace('_', "-")).into(),
        None => text.replace('_', "-").into(),
    }
}

/// A flag with a value, given once or more (the last counts, or all).
fn valued(name: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .action(ArgAction::Append)
        .num_args(1)
        .allow_hyphen_values(true)
}

/// A flag that may stand alone for true.
fn switch(name: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .action(ArgAction::Append)
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("true")
}

#[cfg(test)]
mod tests;
