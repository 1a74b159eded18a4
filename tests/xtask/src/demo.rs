//! `cargo xtask demo`: from a fresh machine to a sample that works.

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Tear everything down afterwards and exit.
    #[arg(long)]
    pub(crate) once: bool,
}

pub(crate) fn run(_args: &Args) -> anyhow::Result<()> {
    anyhow::bail!("demo: lands with the lab")
}
