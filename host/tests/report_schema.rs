//! The published JSON schemas: they are those of the types, real documents are valid under them,
//! and every key that `assayd verify --json` promises is required and there.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on must stop")]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

/// What the contract lists for `verify`: an object's pointer and its keys.
const PROMISED: &[(&str, &str)] = &[
    (
        "",
        "schema assayd_version model1 model2 mode final_decision success error started_at finished_at seconds \
         enhanced_diff security lineage provenance files challenges plugins constants_digest engine memory \
         peak_memory_gb workers errors timings",
    ),
    (
        "/enhanced_diff",
        "decision confidence effect_size ci_lower ci_upper mean_diff std_diff n_effective n_max gamma delta \
         clip_nats claim p_same p_different smallest_delta_certified scorer decider stopped_early needed_n",
    ),
    ("/security", "config_hash fuzzy_hash tokenizer"),
    ("/security/config_hash", "reference candidate match"),
    ("/security/fuzzy_hash", "algorithm distance similarity match"),
    ("/security/tokenizer", "compatible differences"),
    ("/lineage", "relation tensors_compared tensors_identical max_excess_error worst_tensor"),
    ("/provenance", "reference_root candidate_root transcript_root"),
    ("/files/0", "role path bytes sha256"),
    ("/challenges", "commitment key_revealed distinct space_size"),
    ("/plugins/0", "id kind version sha256"),
    ("/engine", "name version build device"),
    ("/memory", "limit_bytes predicted_bytes peak_bytes enforcement"),
    ("/workers/0", "role ending detail"),
];

fn host() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn published(name: &str) -> Value {
    let path = host().join(format!("docs/{name}.schema.json"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// What is wrong with a value under the part of JSON Schema that schemars writes; a keyword
/// that is not known here is wrong, too, so that nothing is passed over.
fn faults(root: &Value, schema: &Value, value: &Value, at: &str, out: &mut Vec<String>) {
    let Some(rules) = schema.as_object() else {
        if schema != &Value::Bool(true) {
            out.push(format!("{at}: nothing is allowed here"));
        }
        return;
    };
    let valid = |schema: &Value| {
        let mut inner = Vec::new();
        faults(root, schema, value, at, &mut inner);
        inner.is_empty()
    };
    for (keyword, rule) in rules {
        let right =
            match keyword.as_str() {
                "$schema" | "$defs" | "title" | "description" | "format" | "default" => true,
                "$ref" => {
                    let target = rule.as_str().unwrap().strip_prefix('#').unwrap();
                    faults(root, root.pointer(target).unwrap(), value, at, out);
                    true
                }
                "type" => match rule {
                    Value::Array(types) => types.iter().any(|name| is(value, name.as_str().unwrap())),
                    name => is(value, name.as_str().unwrap()),
                },
                "enum" => rule.as_array().unwrap().contains(value),
                "const" => rule == value,
                "minimum" => value.as_f64().is_none_or(|number| number >= rule.as_f64().unwrap()),
                "maximum" => value.as_f64().is_none_or(|number| number <= rule.as_f64().unwrap()),
                "pattern" => {
                    assert_eq!(rule, "^[0-9a-f]{64}$", "the only pattern there is");
                    let hex = |text: &str| {
                        text.len() == 64 && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
                    };
                    value.as_str().is_none_or(hex)
                }
                "anyOf" => rule.as_array().unwrap().iter().any(valid),
                "oneOf" => rule.as_array().unwrap().iter().filter(|schema| valid(schema)).count() == 1,
                "allOf" => rule.as_array().unwrap().iter().all(valid),
                "required" => rule.as_array().unwrap().iter().all(|key| {
                    value.as_object().is_none_or(|object| object.contains_key(key.as_str().unwrap()))
                }),
                "properties" => {
                    for (key, schema) in rule.as_object().unwrap() {
                        if let Some(inner) = value.get(key) {
                            faults(root, schema, inner, &format!("{at}/{key}"), out);
                        }
                    }
                    true
                }
                "additionalProperties" => {
                    let known = rules.get("properties").and_then(Value::as_object);
                    for (key, inner) in value.as_object().into_iter().flatten() {
                        if known.is_none_or(|known| !known.contains_key(key)) {
                            faults(root, rule, inner, &format!("{at}/{key}"), out);
                        }
                    }
                    true
                }
                "items" => {
                    for (i, inner) in value.as_array().into_iter().flatten().enumerate() {
                        faults(root, rule, inner, &format!("{at}/{i}"), out);
                    }
                    true
                }
                other => panic!("{at}: the keyword {other} is not known to this test"),
            };
        if !right {
            out.push(format!("{at}: {keyword}: {rule} is not true of {value:.200}"));
        }
    }
}

fn is(value: &Value, kind: &str) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("the type {other}"),
    }
}

fn check(report: &Value) -> Vec<String> {
    check_against(&published("report"), report)
}

fn check_against(schema: &Value, document: &Value) -> Vec<String> {
    let mut out = Vec::new();
    faults(schema, schema, document, "", &mut out);
    out
}

#[test]
fn the_published_schemas_are_those_of_the_types() {
    for (name, schema) in [
        ("report", assayd::assay::report::schema()),
        ("doctor", assayd::cli::doctor::schema()),
        ("monitor", assayd::cli::monitor::schema()),
    ] {
        let path = host().join(format!("docs/{name}.schema.json"));
        if std::env::var_os("ASSAYD_UPDATE_DOCS").is_some() {
            std::fs::write(&path, schema).unwrap();
            continue;
        }
        let published = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            published == schema,
            "{name}: run the tests once with ASSAYD_UPDATE_DOCS=1 and commit the change"
        );
    }
}

/// What the commands that look at the machine print; every key of the schema's root is there.
#[test]
fn documents_about_the_machine_are_valid() {
    let place = tempfile::tempdir().unwrap();
    for (name, arguments, wrong) in [
        ("doctor", &["doctor", "--json"][..], "/memory/total_bytes"),
        (
            "monitor",
            &["monitor", "--seconds", "0.2", "--interval", "0.1", "--warning", "1"],
            "/alerts/0/level",
        ),
    ] {
        let command = Command::new(env!("CARGO_BIN_EXE_assayd"))
            .args(arguments)
            .env("ASSAYD_KEYS", place.path())
            .current_dir(place.path())
            .output()
            .unwrap();
        let document: Value = serde_json::from_slice(&command.stdout).unwrap();
        let schema = published(name);
        assert_eq!(check_against(&schema, &document), Vec::<String>::new(), "{name}");
        let required = schema["required"].as_array().unwrap();
        assert!(required.len() >= 8 && required.len() <= document.as_object().unwrap().len(), "{required:?}");
        for key in required {
            let mut less = document.clone();
            less.as_object_mut().unwrap().remove(key.as_str().unwrap()).unwrap();
            assert!(!check_against(&schema, &less).is_empty(), "{name} without {key}");
        }
        let mut other = document.clone();
        *other.pointer_mut(wrong).unwrap() = json!("much");
        assert!(!check_against(&schema, &other).is_empty(), "{name}: {wrong}");
    }
}

#[test]
fn real_reports_are_valid_and_hold_every_promised_key() {
    let place = tempfile::tempdir().unwrap();
    let examples = host().parent().unwrap().join("examples/models");
    let verify = |candidate: &Path, more: &[&str]| -> Value {
        let output = Command::new(env!("CARGO_BIN_EXE_assayd"))
            .args(["verify", candidate.to_str().unwrap(), "--json", "--mode", "quick", "--reference"])
            .arg(examples.join("reference.gguf"))
            .args(more)
            .env("ASSAYD_CACHE", place.path())
            .output()
            .unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let mut whole = None;
    for (candidate, more) in [
        ("finetuned.gguf", &[][..]),
        ("copy.gguf", &["--n-max", "13", "--max-memory", "8GiB"]),
        ("truncated.gguf", &[]),
        ("missing.gguf", &[]),
        ("reference-q8_0.gguf", &["--scorer", "tv", "--decider", "stitched"]),
    ] {
        let report = verify(&examples.join(candidate), more);
        assert_eq!(check(&report), Vec::<String>::new(), "{candidate}");
        // Objects that may be null are whole where they are there.
        for (pointer, keys) in PROMISED {
            let Some(object) = report.pointer(pointer).filter(|object| !object.is_null()) else { continue };
            for key in keys.split_whitespace() {
                assert!(object.get(key).is_some(), "{candidate}: {pointer}/{key}");
            }
        }
        whole.get_or_insert(report);
    }
    let whole = whole.unwrap();
    assert!(
        PROMISED.iter().all(|(pointer, _)| whole.pointer(pointer).is_some_and(|v| !v.is_null())),
        "all were seen"
    );

    // The checker sees what is wrong: a key that is gone, a type, a word, a digest.
    for (pointer, wrong) in [
        ("/final_decision", json!("MAYBE")),
        ("/seconds", json!("3")),
        ("/constants_digest", json!("00")),
        ("/enhanced_diff/n_max", json!(-1)),
        ("/workers/0/ending", json!("FINE")),
        ("/records/0/family", json!("poem")),
        ("/provenance", json!({})),
        ("/model2", Value::Null),
    ] {
        let mut report = whole.clone();
        *report.pointer_mut(pointer).unwrap() = wrong;
        assert!(!check(&report).is_empty(), "{pointer}");
    }
    for (pointer, keys) in PROMISED {
        for key in keys.split_whitespace() {
            let mut report = whole.clone();
            report.pointer_mut(pointer).unwrap().as_object_mut().unwrap().remove(key).unwrap();
            assert!(!check(&report).is_empty(), "without {pointer}/{key}");
        }
    }
}
