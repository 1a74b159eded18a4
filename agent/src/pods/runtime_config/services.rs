//! Environment variables that name Services. Contract §13.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort};

/// The Service every pod hears of, and its namespace.
const MASTER: (&str, &str) = ("default", "kubernetes");

/// Variables for the services that a pod of `namespace` sees.
pub(super) fn service_env(
    services: &[Arc<Service>],
    namespace: &str,
    links: bool,
) -> BTreeMap<String, String> {
    let mut chosen: BTreeMap<&str, &Service> = BTreeMap::new();
    for service in services {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let of = service.metadata.namespace.as_deref().unwrap_or_default();
        if cluster_ip(service).is_none() {
            continue;
        }
        // The master's name goes to the pod's own namespace if that has a Service of the name.
        if (of, name) == MASTER {
            chosen.entry(name).or_insert(service);
        } else if of == namespace && links {
            chosen.insert(name, service);
        }
    }
    chosen.into_values().flat_map(variables).collect()
}

fn cluster_ip(service: &Service) -> Option<&str> {
    let ip = service.spec.as_ref()?.cluster_ip.as_deref()?;
    (!ip.is_empty() && ip != "None").then_some(ip)
}

fn variables(service: &Service) -> Vec<(String, String)> {
    let Some(ip) = cluster_ip(service) else {
        return Vec::new();
    };
    let ports = service
        .spec
        .as_ref()
        .and_then(|spec| spec.ports.as_deref())
        .unwrap_or_default();
    let prefix = variable_name(service.metadata.name.as_deref().unwrap_or_default());
    let mut found = vec![(format!("{prefix}_SERVICE_HOST"), ip.to_owned())];
    if let Some(first) = ports.first() {
        found.push((format!("{prefix}_SERVICE_PORT"), first.port.to_string()));
        found.push((format!("{prefix}_PORT"), url(ip, first)));
    }
    for port in ports {
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            found.push((
                format!("{prefix}_SERVICE_PORT_{}", variable_name(name)),
                port.port.to_string(),
            ));
        }
        let link = format!("{prefix}_PORT_{}_{}", port.port, protocol(port).to_uppercase());
        found.push((link.clone(), url(ip, port)));
        found.push((format!("{link}_PROTO"), protocol(port)));
        found.push((format!("{link}_PORT"), port.port.to_string()));
        found.push((format!("{link}_ADDR"), ip.to_owned()));
    }
    found
}

fn protocol(port: &ServicePort) -> String {
    port.protocol
        .as_deref()
        .filter(|p| !p.is_empty())
        .unwrap_or("TCP")
        .to_lowercase()
}

fn url(ip: &str, port: &ServicePort) -> String {
    let host = match ip.parse::<IpAddr>() {
        Ok(IpAddr::V6(_)) => format!("[{ip}]"),
        _ => ip.to_owned(),
    };
    format!("{}://{host}:{}", protocol(port), port.port)
}

fn variable_name(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}
