//! Where a registry's content is fetched from: containerd's `certs.d` layout.
//!
//! `DIR/HOST/hosts.toml`, else `DIR/HOST_PORT_/hosts.toml` for a host with port, else `DIR/_default/hosts.toml`, else
//! the registry itself. Keys: `server`, `[host."URL"]` in order, and in each `capabilities`, `skip_verify`, `ca`,
//! `client`, `header`, `override_path`. Files are read at each pull, so a change needs no restart.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use toml::{Table, Value};
use url::{Host as UrlHost, Url};

use super::error::{Error, Result};
use crate::state;

#[cfg(test)]
mod tests;

const MAX_FILE: u64 = 1 << 20;
const MAX_HOSTS: usize = 32;

/// One place to fetch from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    /// Ends in `/v2/`, unless the settings override the path.
    pub(crate) base: Url,
    /// Gives content by digest.
    pub(crate) pull: bool,
    /// Says what a tag stands for.
    pub(crate) resolve: bool,
    /// Stands in for the registry, which is named in the query `ns`.
    pub(crate) mirror: bool,
    pub(crate) tls: Tls,
    /// Sent with each request to this host.
    pub(crate) headers: Vec<(String, String)>,
}

/// How a host proves who it is, and we to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Tls {
    pub(crate) skip_verify: bool,
    /// PEM files of authorities beside the system's.
    pub(crate) ca: Vec<PathBuf>,
    /// PEM files that together hold our certificate and key.
    pub(crate) client: Vec<PathBuf>,
}

/// The hosts for `registry` in the order they are asked; the registry itself, or what `server` names, is last.
pub(crate) fn hosts_for(directory: Option<&Path>, registry: &str) -> Result<Vec<Host>> {
    let Some((path, text)) = directory
        .map(|directory| find(directory, registry))
        .transpose()?
        .flatten()
    else {
        return Ok(vec![registry_itself(registry)?]);
    };
    let fail = |reason: String| Error::Hosts {
        path: path.display().to_string(),
        reason,
    };
    let table: Table = text
        .parse()
        .map_err(|error: toml::de::Error| fail(error.to_string()))?;
    let folder = path.parent().unwrap_or(Path::new("."));

    let mut hosts = Vec::new();
    if let Some(entries) = table.get("host") {
        let entries = entries
            .as_table()
            .ok_or_else(|| fail("host is not a table".into()))?;
        if entries.len() > MAX_HOSTS {
            return Err(fail(format!("more than {MAX_HOSTS} hosts")));
        }
        for (name, settings) in entries {
            let settings = settings
                .as_table()
                .ok_or_else(|| fail(format!("host {name:?} is not a table")))?;
            hosts.push(host(name, settings, folder, true).map_err(fail)?);
        }
    }
    let mut last = match table.get("server") {
        Some(Value::String(server)) => host(server, &table, folder, false).map_err(fail)?,
        Some(_) => return Err(fail("server is not a string".into())),
        None => {
            let itself = registry_itself(registry)?;
            Host {
                base: itself.base,
                ..host("http://unused", &table, folder, false).map_err(fail)?
            }
        }
    };
    last.mirror = !is_own(&last.base, registry)?;
    hosts.push(last);
    Ok(hosts)
}

fn find(directory: &Path, registry: &str) -> Result<Option<(PathBuf, String)>> {
    // The registry is part of a path: the grammar of references allows no slash and no dot-dot in it.
    let with_port = registry
        .rsplit_once(':')
        .map(|(host, port)| format!("{host}_{port}_"));
    let candidates = [Some(registry), with_port.as_deref(), Some("_default")];
    for name in candidates.into_iter().flatten() {
        let path = directory.join(name).join("hosts.toml");
        if let Some(bytes) = state::read_record(&path, MAX_FILE)? {
            let text = String::from_utf8(bytes).map_err(|error| Error::Hosts {
                path: path.display().to_string(),
                reason: error.to_string(),
            })?;
            return Ok(Some((path, text)));
        }
    }
    Ok(None)
}

/// The registry as its name says: TLS, except on this machine itself.
fn registry_itself(registry: &str) -> Result<Host> {
    let name = if registry == "docker.io" {
        "registry-1.docker.io"
    } else {
        registry
    };
    let bad = |reason: String| Error::Hosts {
        path: registry.to_owned(),
        reason,
    };
    let url: Url = format!("https://{name}/v2/")
        .parse()
        .map_err(|error: url::ParseError| bad(error.to_string()))?;
    let plain =
        is_local(&url) && url.port().is_some_and(|port| port != 443) || is_local(&url) && !name.contains(':');
    let base = if plain {
        format!("http://{name}/v2/")
            .parse()
            .map_err(|e: url::ParseError| bad(e.to_string()))?
    } else {
        url
    };
    Ok(Host {
        base,
        pull: true,
        resolve: true,
        mirror: false,
        tls: Tls::default(),
        headers: Vec::new(),
    })
}

fn is_own(base: &Url, registry: &str) -> Result<bool> {
    let own = registry_itself(registry)?.base;
    Ok(own.host() == base.host() && own.port_or_known_default() == base.port_or_known_default())
}

fn host(name: &str, settings: &Table, folder: &Path, mirror: bool) -> std::result::Result<Host, String> {
    let full = if name.contains("://") {
        name.to_owned()
    } else {
        format!("https://{name}")
    };
    let mut base: Url = full.parse().map_err(|error| format!("{name:?}: {error}"))?;
    if !matches!(base.scheme(), "http" | "https") || base.host().is_none() {
        return Err(format!("{name:?} is not an http or https URL"));
    }
    let mut path = base.path().trim_end_matches('/').to_owned();
    if !flag(settings, "override_path")? && !path.ends_with("/v2") {
        path.push_str("/v2");
    }
    path.push('/');
    base.set_path(&path);
    let capabilities = match settings.get("capabilities") {
        None => vec!["pull".to_owned(), "resolve".to_owned()],
        Some(value) => strings("capabilities", value)?,
    };
    let files = |key: &'static str| -> std::result::Result<Vec<PathBuf>, String> {
        let names = settings
            .get(key)
            .map(|value| strings(key, value))
            .transpose()?
            .unwrap_or_default();
        Ok(names.into_iter().map(|name| folder.join(name)).collect())
    };
    Ok(Host {
        base,
        pull: capabilities.iter().any(|capability| capability == "pull"),
        resolve: capabilities.iter().any(|capability| capability == "resolve"),
        mirror,
        tls: Tls {
            skip_verify: flag(settings, "skip_verify")?,
            ca: files("ca")?,
            client: files("client")?,
        },
        headers: headers(settings)?,
    })
}

fn flag(settings: &Table, key: &str) -> std::result::Result<bool, String> {
    match settings.get(key) {
        None => Ok(false),
        Some(value) => value
            .as_bool()
            .ok_or_else(|| format!("{key} is not true or false")),
    }
}

/// A string, or an array of strings or of arrays of strings.
fn strings(key: &str, value: &Value) -> std::result::Result<Vec<String>, String> {
    match value {
        Value::String(text) => Ok(vec![text.clone()]),
        Value::Array(items) => {
            let parts = items
                .iter()
                .map(|item| strings(key, item))
                .collect::<std::result::Result<Vec<_>, _>>()?;
            Ok(parts
                .into_iter()
                .flatten()
                .filter(|text| !text.is_empty())
                .collect())
        }
        _ => Err(format!("{key} is not a string or a list of strings")),
    }
}

fn headers(settings: &Table) -> std::result::Result<Vec<(String, String)>, String> {
    let Some(table) = settings.get("header") else {
        return Ok(Vec::new());
    };
    let table = table.as_table().ok_or("header is not a table")?;
    let mut headers = Vec::new();
    for (name, value) in table {
        headers.extend(
            strings("header", value)?
                .into_iter()
                .map(|value| (name.clone(), value)),
        );
    }
    Ok(headers)
}

/// This machine itself, or the link it is on: where a registry must not send us unless it is there itself.
pub(crate) fn is_local(url: &Url) -> bool {
    let local = |address: IpAddr| match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local() || v4.is_unspecified(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unspecified() || v6.is_unicast_link_local(),
    };
    match url.host() {
        Some(UrlHost::Domain(name)) => {
            let name = name.trim_end_matches('.');
            name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost")
        }
        Some(UrlHost::Ipv4(address)) => local(address.into()),
        Some(UrlHost::Ipv6(address)) => local(address.into()),
        None => false,
    }
}
