//! `cargo xtask fresh`: the README's commands in a minimal Debian root, timed.

/// Arguments of `fresh`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    anyhow::bail!("the fresh run has not landed yet ({args:?})")
}
