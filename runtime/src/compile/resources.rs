//! Resources of a spec as settings of cgroup v2.

use oci_spec::runtime::{LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxPids, LinuxResources};

use super::{Error, refuse};

/// Period of `cpu.max` where only a quota is given, microseconds.
const DEFAULT_PERIOD: u64 = 100_000;

/// Settings in the order to write them.
type Settings = Vec<(String, String)>;

pub(super) fn compile(resources: Option<&LinuxResources>) -> Result<Settings, Error> {
    let mut settings = Settings::new();
    let Some(resources) = resources else {
        return Ok(settings);
    };
    let rdma = resources.rdma().as_ref().is_some_and(|limits| !limits.is_empty());
    refuse(&[
        (
            "linux.resources.blockIO",
            resources
                .block_io()
                .as_ref()
                .is_some_and(|io| *io != Default::default()),
        ),
        (
            "linux.resources.network",
            resources
                .network()
                .as_ref()
                .is_some_and(|net| *net != Default::default()),
        ),
        ("linux.resources.rdma", rdma),
    ])?;
    if let Some(limits) = resources.memory() {
        memory(limits, &mut settings)?;
    }
    if let Some(limits) = resources.cpu() {
        cpu(limits, &mut settings)?;
    }
    if let Some(limits) = resources.pids() {
        pids(limits, &mut settings)?;
    }
    for limit in resources.hugepage_limits().as_deref().unwrap_or_default() {
        huge_pages(limit, &mut settings)?;
    }
    unified(resources, &mut settings)?;
    Ok(settings)
}

fn put(settings: &mut Settings, file: impl Into<String>, value: impl ToString) {
    settings.push((file.into(), value.to_string()));
}

/// A limit as cgroup v2 writes it: −1 is none.
fn limit_text(field: &'static str, value: i64) -> Result<String, Error> {
    match value {
        -1 => Ok("max".to_owned()),
        value if value >= 0 => Ok(value.to_string()),
        value => Err(Error::invalid(field, value, "is negative")),
    }
}

fn memory(limits: &LinuxMemory, settings: &mut Settings) -> Result<(), Error> {
    refuse(&[
        (
            "linux.resources.memory.kernel",
            limits.kernel().is_some_and(|value| value != 0),
        ),
        (
            "linux.resources.memory.kernelTCP",
            limits.kernel_tcp().is_some_and(|value| value != 0),
        ),
        ("linux.resources.memory.swappiness", limits.swappiness().is_some()),
        (
            "linux.resources.memory.disableOOMKiller",
            limits.disable_oom_killer().unwrap_or(false),
        ),
        (
            "linux.resources.memory.useHierarchy",
            limits.use_hierarchy().is_some_and(|value| !value),
        ),
        (
            "linux.resources.memory.checkBeforeUpdate",
            limits.check_before_update().unwrap_or(false),
        ),
    ])?;
    let limit = limits.limit().unwrap_or(0);
    if let Some(text) = swap_text(limit, limits.swap().unwrap_or(0))? {
        put(settings, "memory.swap.max", text);
    }
    if limit != 0 {
        put(
            settings,
            "memory.max",
            limit_text("linux.resources.memory.limit", limit)?,
        );
    }
    if let Some(reservation) = limits.reservation().filter(|value| *value != 0) {
        put(
            settings,
            "memory.low",
            limit_text("linux.resources.memory.reservation", reservation)?,
        );
    }
    Ok(())
}

/// Specs give memory and swap in one sum, cgroup v2 takes swap alone.
fn swap_text(limit: i64, sum: i64) -> Result<Option<String>, Error> {
    const FIELD: &str = "linux.resources.memory.swap";
    match (limit, sum) {
        (_, 0) => Ok(None),
        (_, -1) => Ok(Some("max".to_owned())),
        (limit, _) if limit <= 0 => Err(Error::invalid(FIELD, sum, "is set without a memory limit")),
        (limit, sum) if sum < limit => Err(Error::invalid(FIELD, sum, "is less than the memory limit")),
        (limit, sum) => Ok(Some((sum - limit).to_string())),
    }
}

fn cpu(limits: &LinuxCpu, settings: &mut Settings) -> Result<(), Error> {
    refuse(&[
        (
            "linux.resources.cpu.realtimeRuntime",
            limits.realtime_runtime().is_some_and(|value| value != 0),
        ),
        (
            "linux.resources.cpu.realtimePeriod",
            limits.realtime_period().is_some_and(|value| value != 0),
        ),
    ])?;
    if let Some(idle) = limits.idle() {
        put(settings, "cpu.idle", idle);
    }
    // The kernel refuses a weight for an idle group.
    if let Some(shares) = limits
        .shares()
        .filter(|shares| *shares != 0 && limits.idle() != Some(1))
    {
        put(settings, "cpu.weight", cpu_weight(shares));
    }
    let (quota, period) = (limits.quota().unwrap_or(0), limits.period().unwrap_or(0));
    if quota != 0 || period != 0 {
        let period = if period == 0 { DEFAULT_PERIOD } else { period };
        let quota = if quota > 0 {
            quota.to_string()
        } else {
            "max".to_owned()
        };
        put(settings, "cpu.max", format!("{quota} {period}"));
    }
    if let Some(burst) = limits.burst() {
        put(settings, "cpu.max.burst", burst);
    }
    for (file, list) in [("cpuset.cpus", limits.cpus()), ("cpuset.mems", limits.mems())] {
        if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
            put(settings, file, list);
        }
    }
    Ok(())
}

/// `cpu.weight` of cgroup v1 shares, the way runtimes of Kubernetes 1.36 convert: 2 → 1, 1024 → 100, 262144 → 10000.
pub fn cpu_weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        shares => {
            let l = (shares as f64).log2();
            let weight = 10f64.powf((l * l + 125.0 * l) / 612.0 - 7.0 / 34.0).ceil();
            // Within 1..=10000 over the whole range, as the test shows.
            weight as u64
        }
    }
}

fn pids(limits: &LinuxPids, settings: &mut Settings) -> Result<(), Error> {
    // Zero has meant "not set" to every runtime before spec 1.3, and no container can start with it.
    if limits.limit() != 0 {
        put(
            settings,
            "pids.max",
            limit_text("linux.resources.pids.limit", limits.limit())?,
        );
    }
    Ok(())
}

fn huge_pages(limit: &LinuxHugepageLimit, settings: &mut Settings) -> Result<(), Error> {
    let size = limit.page_size();
    let well_formed = size
        .strip_suffix("KB")
        .or(size.strip_suffix("MB"))
        .or(size.strip_suffix("GB"));
    if !well_formed
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    {
        return Err(Error::invalid(
            "linux.resources.hugepageLimits.pageSize",
            size,
            "is not a page size",
        ));
    }
    let text = limit_text("linux.resources.hugepageLimits.limit", limit.limit())?;
    put(settings, format!("hugetlb.{size}.max"), text);
    Ok(())
}

/// Settings named by their files; they come last and replace what was derived.
fn unified(resources: &LinuxResources, settings: &mut Settings) -> Result<(), Error> {
    let mut named: Vec<(&String, &String)> = resources.unified().iter().flatten().collect();
    named.sort();
    for (file, value) in named {
        let plain = file
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        let of_a_controller = file
            .split_once('.')
            .is_some_and(|(controller, _)| !matches!(controller, "" | "cgroup"));
        if !plain || !of_a_controller || file.contains("..") {
            return Err(Error::invalid(
                "linux.resources.unified",
                file,
                "is not a file of a controller",
            ));
        }
        settings.retain(|(other, _)| other != file);
        put(settings, file, value);
    }
    Ok(())
}
