//! Assays over HTTP of safetensors folders: quantised while they are loaded, and where the
//! configuration has accelerators for models that can use them.

use serde_json::{Value, json};

use super::Daemon;
use super::completions::{example, serving};
use super::http::{get, post, wait};
use hf::{Folder, Source, Stored};

#[path = "../hf/mod.rs"]
#[expect(dead_code, reason = "each test file uses a part of it")]
mod hf;

/// A daemon that watches the example's reference model and the same weights in a folder, `plain`.
fn both_formats() -> (tempfile::TempDir, Daemon) {
    let (dir, daemon) = serving(&["reference.gguf"]);
    let plain = dir.path().join("models/plain");
    Folder::of_llama(&Source::read(&example("reference.gguf"))).write(&plain, Stored::F32);
    (dir, daemon)
}

/// The report of an assay, once it is there.
fn report(daemon: &Daemon, body: &Value) -> Value {
    let made = post(daemon.address, "/api/assays", body);
    assert_eq!(made.status, 202, "{made:?}");
    let place = format!("/api/assays/{}", made.json()["id"].as_str().unwrap());
    wait("the verdict", || (get(daemon.address, &place).json()["state"] == "done").then_some(()));
    get(daemon.address, &format!("{place}/report")).json()
}

#[test]
#[cfg_attr(feature = "cuda", ignore = "a card would take the folder, too")]
fn a_folder_runs_on_the_cpu_wherever_other_models_run() {
    let (_dir, daemon) = both_formats();
    for (candidate, reference, remarks) in
        [("plain", "plain", 2), ("plain", "reference.gguf", 1), ("reference.gguf", "reference.gguf", 0)]
    {
        let body = json!({"candidate": candidate, "reference": reference, "mode": "quick", "gpu_layers": -1});
        let found = report(&daemon, &body);
        assert_eq!(found["final_decision"], "SAME", "{found}");
        let all = found["remarks"].as_array().unwrap().iter();
        let said: Vec<&str> =
            all.filter_map(Value::as_str).filter(|said| said.contains("on the CPU")).collect();
        assert_eq!(said.len(), remarks, "{said:?}");
        assert!(said.iter().all(|said| said.contains("plain: on the CPU")), "{said:?}");
    }
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_candidate_is_quantised_on_load_where_that_can_be_done() {
    let (_dir, daemon) = both_formats();
    let report = |model: &str| {
        report(&daemon, &json!({"candidate": model, "reference": model, "mode": "quick", "load_bits": 8}))
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
