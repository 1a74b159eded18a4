//! Limits of a container, from the interface's fields to the runtime specification's.

use std::collections::HashMap;

use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxHugepageLimitBuilder,
    LinuxMemoryBuilder, LinuxResources, LinuxResourcesBuilder,
};
use proto::cri::LinuxContainerResources;

use super::Device;

/// The limits; 0 and empty mean unset, as in the interface. A privileged container may use every device.
pub(crate) fn of(
    resources: Option<&LinuxContainerResources>,
    devices: &[Device],
    privileged: bool,
) -> LinuxResources {
    let mut result = LinuxResourcesBuilder::default()
        .build()
        .expect("every field has a default");
    result.set_devices((!privileged).then(|| device_rules(devices)));
    let Some(asked) = resources else { return result };
    let mut cpu = LinuxCpuBuilder::default()
        .build()
        .expect("every field has a default");
    cpu.set_shares(u64::try_from(asked.cpu_shares).ok().filter(|&shares| shares > 0))
        .set_quota((asked.cpu_quota != 0).then_some(asked.cpu_quota))
        .set_period(u64::try_from(asked.cpu_period).ok().filter(|&period| period > 0))
        .set_cpus(Some(asked.cpuset_cpus.clone()).filter(|cpus| !cpus.is_empty()))
        .set_mems(Some(asked.cpuset_mems.clone()).filter(|mems| !mems.is_empty()));
    result.set_cpu(Some(cpu));
    let mut memory = LinuxMemoryBuilder::default()
        .build()
        .expect("every field has a default");
    memory
        .set_limit((asked.memory_limit_in_bytes != 0).then_some(asked.memory_limit_in_bytes))
        .set_swap((asked.memory_swap_limit_in_bytes != 0).then_some(asked.memory_swap_limit_in_bytes));
    result.set_memory(Some(memory));
    if !asked.hugepage_limits.is_empty() {
        let limits = asked.hugepage_limits.iter().map(|limit| {
            LinuxHugepageLimitBuilder::default()
                .page_size(limit.page_size.clone())
                .limit(i64::try_from(limit.limit).unwrap_or(i64::MAX))
                .build()
                .expect("every field has a default")
        });
        result.set_hugepage_limits(Some(limits.collect()));
    }
    if !asked.unified.is_empty() {
        result.set_unified(Some(asked.unified.clone().into_iter().collect::<HashMap<_, _>>()));
    }
    result
}

/// Nothing but what every container has (the runtime adds that), and what the pod asks for.
fn device_rules(devices: &[Device]) -> Vec<LinuxDeviceCgroup> {
    let everything = LinuxDeviceCgroupBuilder::default()
        .allow(false)
        .typ(LinuxDeviceType::A)
        .access("rwm");
    let asked = devices.iter().map(|device| {
        LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(device.node.typ())
            .major(device.node.major())
            .minor(device.node.minor())
            .access(device.access.clone())
    });
    std::iter::once(everything)
        .chain(asked)
        .map(|rule| rule.build().expect("every field has a default"))
        .collect()
}
