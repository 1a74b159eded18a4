//! `cargo xtask bench`: figures against the peers, measured in one run.

/// Arguments of `bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which bench; all without it.
    pub(crate) name: Option<String>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    anyhow::bail!("the benches have not landed yet ({args:?})")
}
