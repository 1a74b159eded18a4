//! Figures of Longshore beside its peers, measured in one run by one client on one control plane.

mod daemons;
mod null_node;
mod pod_start;
mod watch;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "longshore-bench",
    about = "Measures nodes of a running lab; `cargo xtask bench` calls it"
)]
struct Arguments {
    /// Admin kubeconfig of the lab
    #[arg(long)]
    kubeconfig: PathBuf,
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// Pod create call → Ready and delete call → gone; daemon memory
    PodStart(pod_start::Args),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a TLS provider was installed before main"))?;
    let kubeconfig = kube::config::Kubeconfig::read_from(&arguments.kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
    let client = kube::Client::try_from(config)?;
    match arguments.bench {
        Bench::PodStart(args) => pod_start::run(client, &args).await,
    }
}
