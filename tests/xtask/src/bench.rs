//! `cargo xtask bench`: figures against the peers, measured in one run on one lab.

use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use lab::setup::{self, Profile};
use lab::{Lab, Node, Options};

/// Arguments of `bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which bench: `pod-start`; all without it
    pub(crate) name: Option<String>,
}

struct Bench {
    name: &'static str,
    run: fn() -> anyhow::Result<()>,
}

const BENCHES: &[Bench] = &[Bench {
    name: "pod-start",
    run: pod_start,
}];

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let names: Vec<_> = BENCHES.iter().map(|bench| bench.name).collect();
    let wanted = |name: &str| args.name.as_deref().is_none_or(|wanted| wanted == name);
    if !names.iter().any(|name| wanted(name)) {
        bail!(
            "no bench is named {:?}; there are {}",
            args.name.as_deref().unwrap_or_default(),
            names.join(", ")
        );
    }
    BENCHES
        .iter()
        .filter(|bench| wanted(bench.name))
        .try_for_each(|bench| (bench.run)())
}

/// Pod start and end on our node, on upstream's and on one that only says so, by one client on one control plane.
fn pod_start() -> anyhow::Result<()> {
    setup::become_root()?;
    let request = setup::Request {
        peers: true,
        profile: Profile::Release,
        ..setup::Request::default()
    };
    let prepared = setup::prepare(&request)?;
    Lab::down()?;
    let options = Options {
        nodes: 1,
        oracle: true,
        ..Options::default()
    };
    let lab = Lab::up(&prepared, &options)?;
    let measured = measure(&lab);
    Lab::down()?;
    measured
}

fn measure(lab: &Lab) -> anyhow::Result<()> {
    let ours = lab.nodes()?.into_iter().next().context("the lab has a node")?;
    let oracle = lab.oracle()?;
    let node = |label: &str, node: &Node| format!("--node={label}={}:{}", node.name(), node.init_pid());
    let status = setup::as_user(&mut Command::new("cargo"))
        .args([
            "run",
            "--quiet",
            "--locked",
            "--package",
            "longshore-bench",
            "--target",
            setup::TARGET,
            "--",
        ])
        .arg("--kubeconfig")
        .arg(lab.kubectl().kubeconfig())
        .args([
            "pod-start",
            &node("longshore", &ours),
            &node("kubelet+containerd+runc", &oracle),
        ])
        .current_dir(lab::workspace())
        .status()
        .context("run longshore-bench")?;
    ensure!(status.success(), "longshore-bench ended with {status}");
    Ok(())
}
