//! Memory of a node's daemons, read from /proc of the machine that holds the lab.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context as _;

/// The programs that make up a node side: ours, and upstream's.
const DAEMONS: &[&str] = &[
    "longshore",
    "longshore-oci",
    "kubelet",
    "containerd",
    "containerd-shim",
    "kube-proxy",
];

/// Sums over the processes of one program, kB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) processes: usize,
    pub(crate) resident: u64,
    pub(crate) private: u64,
}

/// Memory by program of the daemons in the mount namespace of process `init`.
pub(crate) fn of_node(init: u32) -> anyhow::Result<BTreeMap<String, Memory>> {
    let home = fs::read_link(format!("/proc/{init}/ns/mnt"))
        .with_context(|| format!("namespace of process {init}"))?;
    let mut by_program = BTreeMap::<String, Memory>::new();
    for entry in fs::read_dir("/proc").context("list /proc")?.flatten() {
        let process = entry.path();
        // Processes come and go while we read; one that vanished is not counted.
        let Ok(namespace) = fs::read_link(process.join("ns/mnt")) else {
            continue;
        };
        let Ok(comm) = fs::read_to_string(process.join("comm")) else {
            continue;
        };
        let Some(program) = DAEMONS
            .iter()
            .rev()
            .find(|name| comm.trim() == **name || is_shim(comm.trim(), name))
        else {
            continue;
        };
        if namespace == home
            && let Some((resident, private)) = rollup(&process)
        {
            let sum = by_program.entry((*program).to_owned()).or_default();
            sum.processes += 1;
            sum.resident += resident;
            sum.private += private;
        }
    }
    Ok(by_program)
}

/// The kernel cuts names at 15 bytes: `containerd-shim-runc-v2` shows as `containerd-shim`.
fn is_shim(comm: &str, name: &str) -> bool {
    name == "containerd-shim" && comm.starts_with(name)
}

/// (Rss, Private_Clean + Private_Dirty) in kB.
fn rollup(process: &Path) -> Option<(u64, u64)> {
    let text = fs::read_to_string(process.join("smaps_rollup")).ok()?;
    let field = |name: &str| {
        text.lines()
            .find_map(|line| {
                line.strip_prefix(name)?
                    .split_whitespace()
                    .next()?
                    .parse::<u64>()
                    .ok()
            })
            .unwrap_or(0)
    };
    Some((field("Rss:"), field("Private_Clean:") + field("Private_Dirty:")))
}
