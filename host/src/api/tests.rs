//! The description against the routes; the rest is tested through the daemon in `app`.

use serde_json::Value;

use super::docs::OPENAPI;

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
