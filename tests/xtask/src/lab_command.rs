//! `cargo xtask lab up|down`.

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

pub(crate) fn run(_args: &Args) -> anyhow::Result<()> {
    anyhow::bail!("lab: lands soon")
}
