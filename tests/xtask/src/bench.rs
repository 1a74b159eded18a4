//! `cargo xtask bench`: figures against the peers, measured in one run on one lab.

use std::process::Command;

use anyhow::{Context as _, bail, ensure};

/// Arguments of `bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which bench: `pod-start`; all without it
    pub(crate) name: Option<String>,
}

const BENCHES: &[(&str, fn() -> anyhow::Result<()>)] = &[("pod-start", pod_start)];

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let names: Vec<_> = BENCHES.iter().map(|(name, _)| *name).collect();
    let wanted = |name: &str| args.name.as_deref().is_none_or(|wanted| wanted == name);
    if !names.iter().any(|name| wanted(name)) {
        bail!("no bench is named {:?}; there are {}", args.name.as_deref().unwrap_or_default(), names.join(", "));
    }
    BENCHES.iter().filter(|(name, _)| wanted(name)).try_for_each(|(_, bench)| bench())
}
