//! Labels a node may register itself with. Source: the NodeRestriction admission plugin's documentation.

use std::collections::BTreeMap;

use super::Error;

/// Names in the Kubernetes domains that a node may set on itself.
const ALLOWED: [&str; 11] = [
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
const ALLOWED_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

/// Checks the labels of `--node-labels`.
///
/// # Errors
/// [`Error::Flag`] with upstream's words.
pub(super) fn check(labels: &BTreeMap<String, String>) -> Result<(), Error> {
    let flag = || "node-labels".to_owned();
    let unknown: Vec<&str> = labels
        .keys()
        .map(String::as_str)
        .filter(|key| is_kubernetes(key) && !is_allowed(key))
        .collect();
    if !unknown.is_empty() {
        let cause = format!(
            "unknown 'kubernetes.io' or 'k8s.io' labels specified with --node-labels: {unknown:?}: those in the \
             'kubernetes.io' namespace must begin with an allowed prefix ({}) or be in the specifically allowed set ({})",
            ALLOWED_DOMAINS.join(", "),
            ALLOWED.join(", ")
        );
        return Err(Error::Flag { flag: flag(), cause });
    }
    for (key, value) in labels {
        let name = key.rsplit_once('/').map_or(key.as_str(), |(_, name)| name);
        let domain = key.rsplit_once('/').map(|(domain, _)| domain);
        if name.is_empty() || !is_word(name) || domain.is_some_and(|domain| !is_domain(domain)) {
            return Err(Error::Flag {
                flag: flag(),
                cause: format!("invalid label name {key:?}"),
            });
        }
        if !value.is_empty() && !is_word(value) {
            let cause = format!(
                "invalid value {value:?} of label {key}: at most 63 of letters, digits, '-', '_' and '.', a letter or digit at both ends"
            );
            return Err(Error::Flag { flag: flag(), cause });
        }
    }
    Ok(())
}

fn in_domain(domain: &str, parent: &str) -> bool {
    domain == parent
        || domain
            .strip_suffix(parent)
            .is_some_and(|head| head.ends_with('.'))
}

fn is_kubernetes(key: &str) -> bool {
    key.split_once('/').is_some_and(|(domain, _)| {
        ["kubernetes.io", "k8s.io"]
            .iter()
            .any(|parent| in_domain(domain, parent))
    })
}

fn is_allowed(key: &str) -> bool {
    let in_allowed_domain = |domain: &str| ALLOWED_DOMAINS.iter().any(|parent| in_domain(domain, parent));
    ALLOWED.contains(&key)
        || key
            .split_once('/')
            .is_some_and(|(domain, _)| in_allowed_domain(domain))
}

/// A label's name or value: at most 63 characters, alphanumeric at both ends.
fn is_word(text: &str) -> bool {
    text.len() <= 63
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
}

/// A DNS subdomain: at most 253 characters of lower-case words.
pub(super) fn is_domain(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').all(|part| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !part.starts_with('-')
                && !part.ends_with('-')
        })
}
