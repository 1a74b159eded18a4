//! fieldRef and resourceFieldRef: for environment variables and for downward API volumes. Contract §13.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::config::quantity::Amount;
use crate::resources::amounts::{self, Amounts, HUGE_PAGES_PREFIX, amount_of};

/// A reference that cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FieldError {
    #[error("unsupported fieldPath: {path}")]
    Unsupported { path: String },
    #[error("fieldPath {path:?} does not support subscript")]
    Subscript { path: String },
    #[error("unsupported container resource : {resource}")]
    Resource { resource: String },
    #[error("container {name} not found")]
    Container { name: String },
}

/// The field at `path` of the pod's metadata, as downward API volumes and environment variables share it.
///
/// # Errors
/// A path that names none of these fields.
pub(crate) fn metadata_field(pod: &Pod, path: &str) -> Result<String, FieldError> {
    let metadata = &pod.metadata;
    let of = |map: Option<&BTreeMap<String, String>>, key: &str| {
        map.and_then(|map| map.get(key)).cloned().unwrap_or_default()
    };
    if let Some((base, key)) = subscript(path) {
        return match base {
            "metadata.labels" => Ok(of(metadata.labels.as_ref(), key)),
            "metadata.annotations" => Ok(of(metadata.annotations.as_ref(), key)),
            _ => Err(FieldError::Subscript {
                path: path.to_owned(),
            }),
        };
    }
    match path {
        "metadata.name" => Ok(metadata.name.clone().unwrap_or_default()),
        "metadata.namespace" => Ok(metadata.namespace.clone().unwrap_or_default()),
        "metadata.uid" => Ok(metadata.uid.clone().unwrap_or_default()),
        "metadata.labels" => Ok(lines(metadata.labels.as_ref())),
        "metadata.annotations" => Ok(lines(metadata.annotations.as_ref())),
        _ => Err(FieldError::Unsupported {
            path: path.to_owned(),
        }),
    }
}

/// `metadata.labels['key']` → (`metadata.labels`, `key`).
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (base, key) = path.strip_suffix("']")?.split_once("['")?;
    (!base.is_empty()).then_some((base, key))
}

/// Lines `key="quoted value"`, sorted.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let mut out = String::new();
    for (key, value) in map.into_iter().flatten() {
        if !out.is_empty() {
            out.push('\n');
        }
        out.push_str(key);
        out.push('=');
        quote(&mut out, value);
    }
    out
}

/// Quotes as Go's `strconv.Quote` does: what a parser of these files expects.
fn quote(out: &mut String, value: &str) {
    out.push('"');
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if u32::from(c) < 0x20 || u32::from(c) == 0x7f => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c if is_unprintable(c) => {
                let code = u32::from(c);
                let _ = if code > 0xffff {
                    write!(out, "\\U{code:08x}")
                } else {
                    write!(out, "\\u{code:04x}")
                };
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Characters that Go does not print as they are; Rust escapes the same families in Debug.
fn is_unprintable(c: char) -> bool {
    !c.is_ascii()
        && c.escape_debug().len() > 1
        && !matches!(c.escape_debug().next(), Some(first) if first == c)
        || (!c.is_ascii() && c.is_whitespace())
}

/// The amount that `selector` asks for, in units of its divisor, rounded up. A limit that is not set is the node's
/// allocatable amount.
///
/// # Errors
/// A resource that has no such field, or a container the pod lacks.
pub(crate) fn resource_field(
    selector: &ResourceFieldSelector,
    pod: &Pod,
    own: Option<&Container>,
    allocatable: &BTreeMap<String, Quantity>,
) -> Result<String, FieldError> {
    let container = match (
        selector.container_name.as_deref().filter(|name| !name.is_empty()),
        own,
    ) {
        (Some(name), _) => find(pod, name)?,
        (None, Some(own)) => own,
        (None, None) => return Err(FieldError::Container { name: String::new() }),
    };
    let unsupported = || FieldError::Resource {
        resource: selector.resource.clone(),
    };
    let (side, name) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !name.starts_with(HUGE_PAGES_PREFIX) {
        return Err(unsupported());
    }
    let list = match side {
        "requests" => amounts::container_requests(container),
        "limits" => limits_or_allocatable(pod, container, allocatable),
        _ => return Err(unsupported()),
    };
    let divisor = selector
        .divisor
        .as_ref()
        .and_then(|d| Amount::of(d).ok())
        .filter(|d| *d != Amount::default())
        .unwrap_or(Amount::units(1));
    let amount = amount_of(&list, name);
    let (amount, divisor) = if name == "cpu" {
        (amount.milli_value(), divisor.milli_value())
    } else {
        (amount.value(), divisor.value())
    };
    Ok(ceil_div(amount, divisor.max(1)).to_string())
}

fn ceil_div(amount: i64, divisor: i64) -> i64 {
    let (amount, divisor) = (i128::from(amount), i128::from(divisor));
    i64::try_from((amount + divisor - 1).div_euclid(divisor)).unwrap_or(i64::MAX)
}

fn limits_or_allocatable(
    pod: &Pod,
    container: &Container,
    allocatable: &BTreeMap<String, Quantity>,
) -> Amounts {
    let mut limits = amounts::container_limits(container);
    let whole = pod
        .spec
        .as_ref()
        .and_then(|s| s.resources.as_ref())
        .and_then(|r| r.limits.as_ref());
    let whole = amounts::amounts(whole);
    let node = amounts::amounts(Some(allocatable));
    for name in ["cpu", "memory", "ephemeral-storage"] {
        if amount_of(&limits, name) == Amount::default() {
            let given = if name == "ephemeral-storage" {
                None
            } else {
                whole.get(name)
            };
            if let Some(amount) = given.or_else(|| node.get(name)) {
                limits.insert(name.to_owned(), *amount);
            }
        }
    }
    limits
}

fn find<'p>(pod: &'p Pod, name: &str) -> Result<&'p Container, FieldError> {
    pod.spec
        .iter()
        .flat_map(|spec| {
            spec.containers
                .iter()
                .chain(spec.init_containers.iter().flatten())
        })
        .find(|container| container.name == name)
        .ok_or_else(|| FieldError::Container {
            name: name.to_owned(),
        })
}
