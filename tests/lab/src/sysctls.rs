//! Settings of the machine's kernel that a kubelet changes and no namespace holds: recorded before, restored after.

use anyhow::{Context as _, Result};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// What a kubelet sets at start (contract of the node side: kernel tunables).
const NAMES: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// The values now.
pub(crate) fn record() -> BTreeMap<String, String> {
    let read = |name: &str| fs::read_to_string(Path::new("/proc/sys").join(name)).ok();
    NAMES
        .iter()
        .filter_map(|&name| Some((name.to_owned(), read(name)?.trim().to_owned())))
        .collect()
}

/// Writes back what differs from the record.
pub(crate) fn restore(recorded: &BTreeMap<String, String>) -> Result<()> {
    let now = record();
    for (name, value) in recorded
        .iter()
        .filter(|&(name, value)| now.get(name) != Some(value))
    {
        fs::write(Path::new("/proc/sys").join(name), value)
            .with_context(|| format!("restore sysctl {name}"))?;
    }
    Ok(())
}
