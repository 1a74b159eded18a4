//! `cargo xtask lab up|down`.

use anyhow::{Result, bail};
use lab::{Lab, Options, setup};

/// What to do with the lab.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Args {
    /// Start what is missing of the lab; safe to repeat.
    Up {
        /// How many nodes.
        #[arg(long, default_value_t = 1)]
        nodes: usize,
        /// What a node is: a set of namespaces on this machine, or a virtual machine.
        #[arg(long, value_enum, default_value_t = Kind::Netns)]
        kind: Kind,
    },
    /// Remove every process, namespace, mount, link, cgroup and file of the lab.
    Down,
}

/// What a node is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Namespaces on this machine.
    Netns,
    /// A virtual machine.
    Vm,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::become_root()?;
    match args {
        Args::Up { kind: Kind::Vm, .. } => {
            bail!("nodes as virtual machines are not built yet; leave --kind away for nodes in namespaces")
        }
        Args::Up {
            nodes,
            kind: Kind::Netns,
        } => up(*nodes),
        Args::Down => Lab::down(),
    }
}

fn up(nodes: usize) -> Result<()> {
    let prepared = setup::prepare(&setup::Request::default())?;
    let lab = Lab::up(
        &prepared,
        &Options {
            nodes,
            ..Options::default()
        },
    )?;
    for node in lab.nodes()? {
        let [v4, v6] = node.addresses();
        println!("{}  {v4}  {v6}", node.name());
    }
    println!("KUBECONFIG={}", lab.kubectl().kubeconfig().display());
    println!("registry={}", lab.addresses().registry());
    Ok(())
}
