//! Capacity, and what pods may have of it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::NodeStatus;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::config::Settings;
use crate::config::quantity::Amount;
use crate::node::machine::Machine;

/// Fills in capacity and allocatable; resources of others (devices) keep what they have.
pub(super) fn fill(status: &mut NodeStatus, settings: &Settings, machine: &Machine) {
    let capacity = status.capacity.get_or_insert_default();
    let allocatable = status.allocatable.get_or_insert_default();
    let own = amounts(settings, machine);
    let huge: i64 = machine.huge_pages.values().sum();
    capacity.retain(|name, _| !name.starts_with("hugepages-") || own.contains_key(name));
    allocatable.retain(|name, _| capacity.contains_key(name) || own.contains_key(name));
    for (name, amount) in &own {
        capacity.insert(name.clone(), quantity(name, *amount));
        let mut free = amount.saturating_sub(reserved(settings, name, *amount));
        if name == "memory" {
            free = free.saturating_sub(Amount::units(huge));
        }
        allocatable.insert(name.clone(), quantity(name, free));
    }
}

/// What the machine has, by resource name.
fn amounts(settings: &Settings, machine: &Machine) -> BTreeMap<String, Amount> {
    let kubelet = &settings.kubelet;
    let mut own = BTreeMap::new();
    own.insert("cpu".to_owned(), Amount::units(machine.cpus));
    own.insert("memory".to_owned(), Amount::units(machine.memory));
    let most = i64::from(kubelet.max_pods);
    let pods = match i64::from(kubelet.pods_per_core) {
        0 => most,
        each => machine.cpus.saturating_mul(each).min(most),
    };
    own.insert("pods".to_owned(), Amount::units(pods));
    if let Some(storage) = machine
        .storage
        .filter(|_| kubelet.local_storage_capacity_isolation)
    {
        own.insert("ephemeral-storage".to_owned(), Amount::units(storage));
    }
    for (kilobytes, bytes) in &machine.huge_pages {
        let size = Amount::units(kilobytes.saturating_mul(1024)).binary();
        own.insert(format!("hugepages-{}", size.0), Amount::units(*bytes));
    }
    own
}

/// What is kept from pods: for the system, for Kubernetes, and to stay clear of eviction.
fn reserved(settings: &Settings, name: &str, capacity: Amount) -> Amount {
    let kubelet = &settings.kubelet;
    let signal = match name {
        "memory" => "memory.available",
        "ephemeral-storage" => "nodefs.available",
        _ => "",
    };
    // The configuration's check has parsed all of them before.
    let parsed = |text: Option<&String>| text.and_then(|text| Amount::parse(text).ok()).unwrap_or_default();
    parsed(kubelet.system_reserved.get(name))
        .saturating_add(parsed(kubelet.kube_reserved.get(name)))
        .saturating_add(
            kubelet
                .eviction_hard
                .get(signal)
                .map_or(Amount::default(), |text| threshold(text, capacity)),
        )
}

/// An eviction threshold: a quantity, or a percentage of the capacity.
fn threshold(text: &str, capacity: Amount) -> Amount {
    // Upstream keeps percentages in 32 bits, which shows in the last digits of large numbers.
    match text.strip_suffix('%').map(str::parse::<f32>) {
        Some(Ok(percent)) => {
            #[expect(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                reason = "as upstream computes it"
            )]
            let part = (capacity.value() as f64 * f64::from(percent / 100.0)) as i64;
            Amount::units(part)
        }
        Some(Err(_)) => Amount::default(),
        None => Amount::parse(text).unwrap_or_default(),
    }
}

/// The form upstream gives each resource.
fn quantity(name: &str, amount: Amount) -> Quantity {
    match name {
        "cpu" | "pods" => amount.decimal(),
        // Free storage is the result of a sum with a plain number: upstream shows bytes as they are.
        _ => amount.binary(),
    }
}
