//! The Longshore node agent.

mod agent;
mod api;
mod cli;
mod config;
mod fault;
mod node;
mod pods;
mod resources;
mod server;
mod supervise;
mod volumes;

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use cli::{AgentArgs, Invocation, JoinArgs};
use config::{KubeletConfiguration, Settings};

fn main() -> ExitCode {
    let invocation = match cli::parse(std::env::args_os()) {
        Ok(invocation) => invocation,
        Err(usage) => {
            let code = usage.exit_code();
            // Nowhere to tell if the terminal is gone.
            let _ = usage.print();
            return ExitCode::from(u8::try_from(code).unwrap_or(2));
        }
    };
    match run(invocation) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(invocation: Invocation) -> anyhow::Result<()> {
    match invocation {
        Invocation::Print(line) => say(&line),
        Invocation::Agent(args) => run_agent(&args),
        Invocation::Join(args) => run_join(&args),
        Invocation::Play { file, down, agent } => run_play(&file, down, &agent),
    }
}

fn run_agent(args: &AgentArgs) -> anyhow::Result<()> {
    let (settings, warnings) = Settings::resolve(args)?;
    start_log(&settings.kubelet);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    run_to_end(agent::run(settings))
}

fn run_play(file: &Path, down: bool, args: &AgentArgs) -> anyhow::Result<()> {
    let (settings, warnings) = Settings::resolve(args)?;
    start_log(&settings.kubelet);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    run_to_end(agent::play(settings, file, down))
}

fn run_to_end(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = runtime()?;
    let ended = runtime.block_on(work);
    // What still blocks on a thread is crash-safe: nobody waits for it.
    runtime.shutdown_timeout(LAST_WORDS);
    ended
}

/// Time for threads to end when the agent stops.
const LAST_WORDS: Duration = Duration::from_millis(100);

fn run_join(args: &JoinArgs) -> anyhow::Result<()> {
    start_log(&KubeletConfiguration::default());
    let named = AgentArgs {
        hostname_override: args.node_name.clone(),
        ..AgentArgs::default()
    };
    let node_name = Settings::resolve(&named)?.0.node_name;
    let joined = runtime()?
        .block_on(node::join(args, node_name))
        .map_err(|error| anyhow::anyhow!(node::explain(&error)))?;
    let start = joined.agent_command(args);
    say(&format!(
        "This machine is the node {} of the cluster now.",
        joined.node_name
    ))?;
    for note in &joined.notes {
        say(&format!("Note: {note}"))?;
    }
    if !args.start {
        return say(&format!(
            "Start it with:\n\n  {}\n\nand see it with: kubectl get node {}",
            start.join(" "),
            joined.node_name
        ));
    }
    match cli::parse(start.into_iter().map(Into::into))? {
        Invocation::Agent(args) => run_agent(&args),
        _ => unreachable!("the command was written to be the agent's"),
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    // One TLS provider for the whole process; a second call would only find the first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the asynchronous runtime")
}

fn say(line: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{line}").context("write to standard output")
}

/// Logs to standard error: by `RUST_LOG`, else by the configuration's verbosity.
fn start_log(config: &KubeletConfiguration) {
    let level = match config.logging.verbosity {
        0..=2 => "info,kube_client=error,kube_runtime=error",
        3..=5 => "info,kube_client=error,kube_runtime=error,longshore=debug,cri=debug,cni=debug,proxy=debug",
        _ => "debug,longshore=trace,cri=trace,cni=trace,proxy=trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // The log may have been started before (join --start): it goes on.
    let _ = if config.logging.format == "json" {
        log.json().try_init()
    } else {
        log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .try_init()
    };
}
