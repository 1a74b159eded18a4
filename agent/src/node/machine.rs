//! Facts of the machine, read from /proc, /sys and /etc below a root that tests choose.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Longest text read of one file.
const MAX_TEXT: u64 = 4 * 1024 * 1024;

/// What the machine is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Logical processors.
    pub(crate) cpus: i64,
    /// Bytes.
    pub(crate) memory: i64,
    /// Bytes of swap.
    pub(crate) swap: i64,
    /// Page size in kB → bytes set aside, 0 too.
    pub(crate) huge_pages: BTreeMap<i64, i64>,
    pub(crate) machine_id: String,
    pub(crate) system_uuid: String,
    pub(crate) boot_id: String,
    pub(crate) kernel_version: String,
    pub(crate) os_image: String,
    /// Bytes of the file system that holds the node's state; `None` when it cannot be told.
    pub(crate) storage: Option<i64>,
}

impl Machine {
    /// Reads the facts; what cannot be read stays empty.
    pub(crate) fn read(root: &Path, state: &Path) -> Self {
        let text = |path: &str| read(&root.join(path));
        let memory = text("proc/meminfo").unwrap_or_default();
        let machine_id = first([text("etc/machine-id"), text("var/lib/dbus/machine-id")]);
        let system_uuid = first([
            text("sys/class/dmi/id/product_uuid"),
            text("proc/device-tree/vm,uuid"),
            text("etc/machine-id"),
        ]);
        Self {
            cpus: cpus(&text("proc/cpuinfo").unwrap_or_default()),
            memory: kilobytes(&memory, "MemTotal:"),
            swap: kilobytes(&memory, "SwapTotal:"),
            huge_pages: huge_pages(&root.join("sys/kernel/mm/hugepages")),
            machine_id,
            system_uuid,
            boot_id: first([text("proc/sys/kernel/random/boot_id")]),
            kernel_version: first([text("proc/sys/kernel/osrelease")]),
            os_image: os_image(&first([text("etc/os-release"), text("usr/lib/os-release")])),
            storage: storage(state),
        }
    }
}

/// Most processes the kernel allows at once.
pub(crate) fn process_limit(root: &Path) -> Option<i64> {
    let number = |path: &str| read(&root.join(path))?.trim().parse::<i64>().ok();
    [
        number("proc/sys/kernel/pid_max"),
        number("proc/sys/kernel/threads-max"),
    ]
    .into_iter()
    .flatten()
    .min()
}

fn read(path: &PathBuf) -> Option<String> {
    let mut text = String::new();
    std::fs::File::open(path)
        .ok()?
        .take(MAX_TEXT)
        .read_to_string(&mut text)
        .ok()?;
    Some(text)
}

/// The first text that says something, trimmed.
fn first<const N: usize>(texts: [Option<String>; N]) -> String {
    let said = |text: String| {
        let text = text
            .trim_matches(|c: char| c.is_whitespace() || c == '\0')
            .to_owned();
        (!text.is_empty()).then_some(text)
    };
    texts.into_iter().flatten().find_map(said).unwrap_or_default()
}

fn cpus(info: &str) -> i64 {
    let count = info.lines().filter(|line| line.starts_with("processor")).count();
    i64::try_from(count).unwrap_or(0)
}

/// A line like `MemTotal:  123 kB` in bytes, 0 when it is not there.
fn kilobytes(info: &str, key: &str) -> i64 {
    let line = info.lines().find_map(|line| line.strip_prefix(key));
    let number = line
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|word| word.parse::<i64>().ok());
    number.unwrap_or(0).saturating_mul(1024)
}

fn huge_pages(dir: &Path) -> BTreeMap<i64, i64> {
    let mut sizes = BTreeMap::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let size = name
            .to_str()
            .and_then(|name| name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok());
        let Some(size) = size else { continue };
        let count: i64 = read(&entry.path().join("nr_hugepages"))
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0);
        sizes.insert(size, count.saturating_mul(size).saturating_mul(1024));
    }
    sizes
}

fn os_image(release: &str) -> String {
    let value = |key: &str| {
        let line = release
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
        Some(line.trim().trim_matches(['"', '\'']).to_owned())
    };
    value("PRETTY_NAME")
        .or_else(|| value("NAME"))
        .unwrap_or_else(|| "Linux".to_owned())
}

fn storage(path: &Path) -> Option<i64> {
    // Before the first start the directory may be missing: its parent's file system will hold it.
    let existing = path.ancestors().find(|path| path.exists())?;
    let stat = rustix::fs::statvfs(existing).ok()?;
    i64::try_from(stat.f_blocks.saturating_mul(stat.f_frsize)).ok()
}
