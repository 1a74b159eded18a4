//! Node selector and required node affinity.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod};

/// Whether the node is one the pod asks for.
pub(super) fn matches(pod: &Pod, node: &Node) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let selected = spec
        .node_selector
        .iter()
        .flatten()
        .all(|(key, value)| labels.get(key) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let name = node.metadata.name.clone().unwrap_or_default();
    let fields = BTreeMap::from([("metadata.name".to_owned(), name)]);
    selected
        && required.is_none_or(|r| {
            r.node_selector_terms
                .iter()
                .any(|t| term_matches(t, &labels, &fields))
        })
}

/// A term without requirements matches nothing.
fn term_matches(
    term: &NodeSelectorTerm,
    labels: &BTreeMap<String, String>,
    fields: &BTreeMap<String, String>,
) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let field_rules = term.match_fields.as_deref().unwrap_or_default();
    !(expressions.is_empty() && field_rules.is_empty())
        && expressions.iter().all(|r| requirement_holds(r, labels))
        && field_rules.iter().all(|r| requirement_holds(r, fields))
}

fn requirement_holds(rule: &NodeSelectorRequirement, values: &BTreeMap<String, String>) -> bool {
    let value = values.get(&rule.key);
    let listed = rule.values.as_deref().unwrap_or_default();
    let compare = |holds: fn(&i64, &i64) -> bool| {
        let number = value.and_then(|v| v.parse().ok());
        let bound = listed.first().and_then(|v| v.parse().ok());
        number
            .zip(bound)
            .is_some_and(|(number, bound)| holds(&number, &bound))
    };
    match rule.operator.as_str() {
        "In" => value.is_some_and(|v| listed.contains(v)),
        "NotIn" => value.is_none_or(|v| !listed.contains(v)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(i64::gt),
        "Lt" => compare(i64::lt),
        _ => false,
    }
}
