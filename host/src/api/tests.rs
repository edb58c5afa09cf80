//! The description against the routes; the rest is tested through the daemon in `app`.

use std::collections::BTreeSet;

use schemars::{JsonSchema, schema_for};
use serde_json::Value;

use super::docs::OPENAPI;
use super::{chat, completions, tokens};

#[test]
fn every_route_is_described_and_every_description_is_a_route() {
    let source = include_str!("mod.rs");
    let routes: Vec<(&str, &str)> = source
        .lines()
        .filter_map(|line| line.trim().strip_prefix(".route(\"")?.split_once("\", "))
        .filter(|(path, _)| !path.starts_with("/assets/"))
        .collect();
    assert!(routes.len() > 10);
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    let paths = document["paths"].as_object().unwrap();
    assert_eq!(paths.len(), routes.len());
    for (path, handlers) in routes {
        let described = paths.get(path).unwrap_or_else(|| panic!("{path} is not described"));
        for method in ["get", "post", "delete"] {
            let routed = handlers.contains(&format!("{method}("));
            assert_eq!(described.get(method).is_some(), routed, "{method} {path}");
        }
    }
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn every_reference_of_the_description_leads_somewhere() {
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    let mut found = 0;
    let mut open = vec![&document];
    while let Some(value) = open.pop() {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(target)) = fields.get("$ref") {
                    found += 1;
                    let pointer = target.strip_prefix('#').unwrap();
                    assert!(document.pointer(pointer).is_some(), "{target}");
                }
                open.extend(fields.values());
            }
            Value::Array(items) => open.extend(items),
            _ => {}
        }
    }
    assert!(found > 10);
}

/// Names and required names of a schema, those of its flattened parts included.
fn names(schema: &Value) -> [BTreeSet<String>; 2] {
    let properties = schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.clone());
    let required = schema["required"].as_array().into_iter().flatten();
    [properties.collect(), required.map(|name| name.as_str().unwrap().to_owned()).collect()]
}

/// The description of a body says what its type takes: the schema of the type is made from the
/// same attributes as its reader.
fn described<T: JsonSchema>(path: &str) {
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    let pointer =
        format!("/paths/{}/post/requestBody/content/application~1json/schema", path.replace('/', "~1"));
    let schema = document.pointer(&pointer).unwrap();
    let schema = match schema.get("$ref") {
        Some(target) => document.pointer(target.as_str().unwrap().trim_start_matches('#')).unwrap(),
        None => schema,
    };
    let taken = schema_for!(T).to_value();
    assert!(names(&taken)[0].len() > 1, "{taken}");
    assert_eq!(names(schema), names(&taken), "{path}");
    assert_eq!(schema["additionalProperties"], false, "{path}");
}

#[test]
fn the_description_of_a_body_says_what_its_reader_takes() {
    described::<completions::Body>(completions::PATH);
    described::<chat::Body>(chat::PATH);
    described::<tokens::Text>("/tokenize");
    described::<tokens::Tokens>("/detokenize");
}
