//! Whether the node has room: resources by request, and host ports.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, Pod};

use super::{Bench, Rejection};
use crate::config::quantity::Amount;
use crate::resources::amounts::pod_requests;

/// Amounts by resource; cpu in thousandths, all else in units.
type Totals = BTreeMap<String, i64>;

fn scaled(name: &str, amount: Amount) -> i64 {
    if name == "cpu" {
        amount.milli_value()
    } else {
        amount.value()
    }
}

fn requests(pod: &Pod) -> Totals {
    let amounts = pod_requests(pod).into_iter();
    amounts
        .map(|(name, amount)| (name.clone(), scaled(&name, amount)))
        .collect()
}

/// What pods may use: the node's allocatable, where missing its capacity.
fn allocatable(node: &Node) -> Totals {
    let status = node.status.as_ref();
    let list = status.and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref()));
    let amounts = list.into_iter().flatten();
    amounts
        .filter_map(|(name, q)| Some((name.clone(), scaled(name, Amount::of(q).ok()?))))
        .collect()
}

/// Pods, cpu, memory, ephemeral storage, then the rest by name.
pub(super) fn resources(pod: &Pod, bench: &Bench<'_>) -> Result<(), Rejection> {
    let room = allocatable(bench.node);
    let count = i64::try_from(bench.others.len()).unwrap_or(i64::MAX);
    if let Some(&pods) = room.get("pods")
        && count.saturating_add(1) > pods
    {
        return Err(insufficient("pods", 1, count, pods));
    }
    let wanted = requests(pod);
    let mut used = Totals::new();
    for (name, amount) in bench.others.iter().flat_map(|p| requests(p)) {
        let sum = used.entry(name).or_default();
        *sum = sum.saturating_add(amount);
    }
    let first = ["cpu", "memory", "ephemeral-storage"];
    let rest = wanted
        .keys()
        .map(String::as_str)
        .filter(|name| !first.contains(name));
    for name in first.into_iter().chain(rest) {
        let requested = wanted.get(name).copied().unwrap_or(0);
        // A resource the node does not have at all is cluster-level or not the node's to judge.
        let Some(&capacity) = room.get(name) else { continue };
        let used = used.get(name).copied().unwrap_or(0);
        if requested > 0 && requested > capacity.saturating_sub(used) {
            return Err(insufficient(name, requested, used, capacity));
        }
    }
    Ok(())
}

fn insufficient(resource: &str, requested: i64, used: i64, capacity: i64) -> Rejection {
    let message = format!(
        "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
    );
    Rejection::new(format!("OutOf{resource}"), message)
}

/// A host port: address, protocol, number.
type HostPort = (String, String, i32);

fn host_ports(pod: &Pod) -> BTreeSet<HostPort> {
    let Some(spec) = &pod.spec else {
        return BTreeSet::new();
    };
    let containers = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    let ports = containers.flat_map(|c| c.ports.iter().flatten());
    let text = |value: &Option<String>, default: &str| {
        value
            .clone()
            .filter(|v| !v.is_empty())
            .unwrap_or_else(|| default.to_owned())
    };
    ports
        .filter_map(|port| {
            let number = port.host_port.filter(|n| *n > 0)?;
            Some((
                text(&port.host_ip, "0.0.0.0"),
                text(&port.protocol, "TCP"),
                number,
            ))
        })
        .collect()
}

pub(super) fn ports(pod: &Pod, bench: &Bench<'_>) -> Result<(), Rejection> {
    let wanted = host_ports(pod);
    let conflict = |(ip, protocol, number): &HostPort, taken: &BTreeSet<HostPort>| {
        taken.iter().any(|(other, p, n)| {
            let same_address = ip == other || ip == "0.0.0.0" || other == "0.0.0.0";
            same_address && p == protocol && n == number
        })
    };
    let taken: BTreeSet<HostPort> = bench.others.iter().flat_map(|p| host_ports(p)).collect();
    if wanted.iter().any(|port| conflict(port, &taken)) {
        let description = "node(s) didn't have free ports for the requested pod ports";
        return Err(Rejection::predicate("NodePorts", description));
    }
    Ok(())
}
