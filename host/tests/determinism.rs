//! Repeatability: a scripted model that wrongly depends on one condition is caught on that
//! axis and on no other; a real model through the real binary gives a rate with its bound.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must stop")]

use std::path::{Path, PathBuf};
use std::process::Command;

use assayd::engine::{EngineKind, LoadSpec};
use assayd::measure::determinism::{Decision, Determinism, Plan, examine_spec};
use assayd::worker::WorkerLimits;
use serde_json::Value;

fn examine(folder: &Path, sensitive_to: &str) -> Determinism {
    let path = folder.join(format!("{sensitive_to}.json"));
    let list = if sensitive_to.is_empty() { String::new() } else { format!("{sensitive_to:?}") };
    let script = format!(
        r#"{{"schema":"assayd.scripted/1","vocab":4001,"seed":7,"faults":{{"sensitive_to":[{list}]}}}}"#
    );
    std::fs::write(&path, script).unwrap();
    let spec = LoadSpec::judged(EngineKind::Scripted, vec![path], 256, 1);
    let limits = WorkerLimits {
        program: Some(PathBuf::from(env!("CARGO_BIN_EXE_assayd"))),
        ..WorkerLimits::default()
    };
    examine_spec(&spec, &Plan { new_tokens: 12, has_tokenizer: true, limits }, &mut |_, _| {}).unwrap()
}

#[test]
fn what_wrongly_matters_is_found_on_its_axis() {
    let folder = tempfile::tempdir().unwrap();
    for (condition, axes) in [
        ("", [].as_slice()),
        ("seed", &["seed"]),
        ("micro-batch", &["batch-size"]),
        ("parallel", &["parallel"]),
        ("prompt-cache", &["prompt-cache"]),
        // Other threads need another process too.
        ("threads", &["threads"]),
        ("process", &["process", "threads"]),
    ] {
        let found = examine(folder.path(), condition);
        let parted: Vec<&str> =
            found.axes.iter().filter(|axis| axis.identical == Some(false)).map(|axis| axis.axis).collect();
        assert_eq!(parted, axes, "{condition}: {found:?}");
        for axis in found.axes.iter().filter(|axis| axis.identical == Some(false)) {
            let divergence = axis.first_divergence.as_ref().unwrap();
            assert_eq!(divergence.token_index, 3, "{divergence:?}");
            assert_ne!(divergence.expected, divergence.got);
            assert_eq!(divergence.got_text, divergence.got.map(|token| format!("<{token}>")));
            assert!(axis.values.contains(&divergence.value) && axis.values[0] != divergence.value);
        }
        assert!(found.total >= 9, "{}", found.total);
        let fully = found.decision == Decision::FullyDeterministic;
        assert_eq!((fully, found.passed == found.total), (axes.is_empty(), axes.is_empty()));
        let n_of_n = 0.05f64.powf(1.0 / found.total as f64);
        assert!((fully && (found.lower_bound_95 - n_of_n).abs() < 1e-9) || found.lower_bound_95 < n_of_n);
        let rate = found.passed as f64 / found.total as f64;
        assert_eq!(found.decision == Decision::MostlyDeterministic, !fully && rate >= 0.8, "{rate}");
    }
}

#[test]
fn a_real_model_gets_a_rate_with_its_bound() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models/reference.gguf");
    let run = |model: &Path, more: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_assayd"))
            .arg("determinism")
            .arg(model)
            .args(more)
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let (code, out, err) = run(&model, &["--new-tokens", "24", "--json"]);
    assert!(err.is_empty(), "{err}");
    let found: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(code == 0, found["decision"] == "FULLY_DETERMINISTIC", "{out}");
    let (passed, total) = (found["passed"].as_u64().unwrap(), found["total"].as_u64().unwrap());
    let bound = found["lower_bound_95"].as_f64().unwrap();
    assert!(passed <= total && total >= 9 && bound < passed as f64 / total as f64, "{out}");
    let axes = found["axes"].as_array().unwrap();
    let axis = |name: &str| axes.iter().find(|axis| axis["axis"] == name).unwrap();
    for name in ["repeat", "seed", "process"] {
        // The same work in the same shape: the same bits.
        assert_eq!(axis(name)["identical"], true, "{out}");
        assert_eq!(axis(name)["max_logprob_difference"], 0.0, "{out}");
    }
    for name in ["batch-size", "parallel", "prompt-cache", "threads", "device"] {
        assert!(axis(name)["values"].as_array().is_some_and(|values| !values.is_empty()), "{name}");
    }
    // Other shapes of batch round otherwise, and that shows.
    assert!(axis("batch-size")["max_logprob_difference"].as_f64().unwrap() < 1e-3);

    let (_, out, _) = run(&model, &["--new-tokens", "8"]);
    assert!(out.contains("at 95 % confidence") && !out.contains("100 %"), "{out}");
    let (code, out, err) = run(Path::new("nowhere.gguf"), &["--json"]);
    assert!(code == 4 && out.is_empty() && err.contains("nowhere.gguf"), "{err}");
    let (code, _, err) = run(&model, &["--new-tokens", "4096"]);
    assert!(code == 2 && err.contains("no room for a prompt"), "{err}");
}
