//! An assay over HTTP whose candidate is quantised while it is loaded.

use serde_json::{Value, json};

use super::completions::{example, serving};
use super::http::{get, post, wait};
use hf::{Folder, Source, Stored};

#[path = "../hf/mod.rs"]
#[expect(dead_code, reason = "each test file uses a part of it")]
mod hf;

#[test]
fn a_candidate_is_quantised_on_load_where_that_can_be_done() {
    let (dir, daemon) = serving(&["reference.gguf"]);
    let plain = dir.path().join("models/plain");
    Folder::of_llama(&Source::read(&example("reference.gguf"))).write(&plain, Stored::F32);
    let report = |model: &str| -> Value {
        let body = json!({"candidate": model, "reference": model, "mode": "quick", "load_bits": 8});
        let made = post(daemon.address, "/api/assays", &body);
        assert_eq!(made.status, 202, "{made:?}");
        let place = format!("/api/assays/{}", made.json()["id"].as_str().unwrap());
        wait("the verdict", || (get(daemon.address, &place).json()["state"] == "done").then_some(()));
        get(daemon.address, &format!("{place}/report")).json()
    };
    let found = report("plain");
    assert_eq!((&found["load_bits"], &found["final_decision"]), (&json!(8), &json!("SAME")), "{found}");
    assert!(found["enhanced_diff"]["claim"].as_str().unwrap().contains("quantised comparison"), "{found}");
    let refused = report("reference.gguf");
    assert_eq!((&refused["load_bits"], &refused["final_decision"]), (&Value::Null, &json!("ERROR")));
    let error = refused["error"].as_str().unwrap();
    assert!(error.contains("only safetensors folders") && error.contains("llama-quantize"), "{error}");
    assert_eq!(daemon.stop(), 0);
}
