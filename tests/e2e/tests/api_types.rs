//! Our API types must not drop a field of Pod or Node that the API server knows: a status we patch back or a spec we
//! act on would silently lose it.

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// An object of `schema` in which every field is set.
fn full_object(schemas: &Value, schema: &Value, depth: usize) -> Value {
    assert!(depth < 40, "schema recurses: {schema}");
    let referenced = schema
        .get("$ref")
        .or_else(|| schema.pointer("/allOf/0/$ref"))
        .and_then(Value::as_str);
    if let Some(reference) = referenced {
        let name = reference
            .rsplit('/')
            .next()
            .expect("rsplit gives one part at least");
        return full_object(schemas, &schemas[name], depth + 1);
    }
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        let fields = properties
            .iter()
            .map(|(name, field)| (name.clone(), full_object(schemas, field, depth + 1)));
        return Value::Object(fields.collect::<Map<_, _>>());
    }
    match (schema["type"].as_str(), schema["format"].as_str()) {
        (Some("object"), _) => match schema.get("additionalProperties") {
            Some(values) => json!({"key": full_object(schemas, values, depth + 1)}),
            None => json!({"f:free": {}}),
        },
        (Some("array"), _) => json!([full_object(schemas, &schema["items"], depth + 1)]),
        (Some("string"), Some("date-time")) => json!("2026-01-02T03:04:05Z"),
        (Some("string"), Some("byte")) => json!("dGVzdA=="),
        (Some("integer"), _) => json!(7),
        (Some("number"), _) => json!(1.5),
        (Some("boolean"), _) => json!(true),
        // Quantities and int-or-string have no type of their own in some schemas.
        _ => json!("1"),
    }
}

fn lost_fields(before: &Value, after: &Value, path: &str, lost: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(before), after) => {
            for (name, value) in before {
                let path = format!("{path}.{name}");
                match after.get(name) {
                    Some(kept) => lost_fields(value, kept, &path, lost),
                    None => lost.push(path),
                }
            }
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for (one, other) in before.iter().zip(after) {
                lost_fields(one, other, &format!("{path}[]"), lost);
            }
        }
        (before, after) if before != after => lost.push(format!("{path}: {before} became {after}")),
        _ => {}
    }
}

fn assert_keeps_all<T: Serialize + DeserializeOwned>(schemas: &Value, name: &str) -> anyhow::Result<()> {
    let schema = &schemas[name];
    anyhow::ensure!(schema.is_object(), "the API server's OpenAPI has no {name}");
    let mut full = full_object(schemas, schema, 0);
    full["apiVersion"] = json!("v1");
    full["kind"] = json!(name.rsplit('.').next());
    let typed: T = serde_json::from_value(full.clone()).with_context(|| format!("read a full {name}"))?;
    let mut lost = Vec::new();
    lost_fields(&full, &serde_json::to_value(&typed)?, name, &mut lost);
    anyhow::ensure!(lost.is_empty(), "our types drop:\n  {}", lost.join("\n  "));
    Ok(())
}

#[test]
fn no_field_of_pod_or_node_is_dropped() -> anyhow::Result<()> {
    let text = longshore_e2e::lab()?
        .kubectl()
        .run(&["get", "--raw", "/openapi/v3/api/v1"])?;
    let document: Value = serde_json::from_str(&text).context("parse the API server's OpenAPI")?;
    let schemas = &document["components"]["schemas"];
    assert_keeps_all::<Pod>(schemas, "io.k8s.api.core.v1.Pod")?;
    assert_keeps_all::<Node>(schemas, "io.k8s.api.core.v1.Node")
}

#[test]
fn a_dropped_field_is_found() {
    let mut lost = Vec::new();
    lost_fields(
        &json!({"a": {"b": 1, "c": [{"d": 2}]}}),
        &json!({"a": {"c": [{}]}}),
        "X",
        &mut lost,
    );
    assert_eq!(lost, ["X.a.b", "X.a.c[].d"]);
}
