//! `assayd bench`: known delays are measured as what they are, and a real model through the
//! real binary gives every number with its unit or a reason why not.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must stop")]

use std::path::{Path, PathBuf};
use std::process::Command;

use assayd::engine::{EngineKind, KvType, LoadSpec};
use assayd::measure::bench::{Bench, Plan, bench_spec};
use assayd::worker::WorkerLimits;
use serde_json::Value;

fn scripted(folder: &Path, faults: &str) -> Bench {
    let path = folder.join("script.json");
    let script = format!(r#"{{"schema":"assayd.scripted/1","vocab":401,"seed":7,"faults":{{{faults}}}}}"#);
    std::fs::write(&path, script).unwrap();
    let spec = LoadSpec::judged(EngineKind::Scripted, vec![path], 256, 1);
    let plan = Plan {
        runs: 2,
        prompt_tokens: Some(100),
        new_tokens: Some(16),
        context: 256,
        threads: None,
        kv_type: KvType::F32,
        gpu_layers: 0,
        cpu_experts: 0,
        limits: WorkerLimits {
            program: Some(PathBuf::from(env!("CARGO_BIN_EXE_assayd"))),
            ..WorkerLimits::default()
        },
    };
    bench_spec(&spec, true, &plan, &mut |_, _| {}).unwrap()
}

/// Sleeping takes what was asked for and a little more, never less.
#[test]
fn known_delays_are_measured() {
    let folder = tempfile::tempdir().unwrap();
    let found = scripted(folder.path(), r#""prompt_ms":100,"token_ms":20"#);
    let ttft = found.ttft_seconds.mean.unwrap();
    assert!((0.1..0.2).contains(&ttft), "{ttft}");
    let prefill = found.prefill_tokens_per_second.mean.unwrap();
    assert!(prefill <= 1000.0 && (prefill - 100.0 / ttft).abs() < 0.2 * prefill, "{prefill}");
    let decode = found.decode_tokens_per_second.mean.unwrap();
    assert!((20.0..=50.0).contains(&decode), "{decode}");
    assert_eq!((found.ttft_seconds.n, found.new_tokens.as_slice()), (2, [16, 16].as_slice()));
    assert_eq!(found.effective_runs, 1);
    assert!(found.warnings.iter().any(|warning| warning.starts_with("deterministic: one effective run")));

    // Ended after three tokens: two steps, counted as two.
    let found = scripted(folder.path(), r#""prompt_ms":20,"token_ms":50,"end_after":3"#);
    assert_eq!(found.new_tokens, [3, 3]);
    let decode = found.decode_tokens_per_second.mean.unwrap();
    assert!((8.0..=20.0).contains(&decode), "{decode}");

    // Nothing at all is no speed, and is said.
    let found = scripted(folder.path(), r#""end_after":0"#);
    assert_eq!((found.decode_tokens_per_second.mean, found.decode_tokens_per_second.n), (None, 0));
    assert!(found.warnings.iter().any(|warning| warning.starts_with("empty output")), "{:?}", found.warnings);

    // Another output in each process: two observations.
    let found = scripted(folder.path(), r#""sensitive_to":["process"]"#);
    assert_eq!(found.effective_runs, 2);
}

#[test]
fn a_real_model_is_measured_or_refused_with_a_reason() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models/reference.gguf");
    let run = |model: &Path, more: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_assayd")).arg("bench").arg(model).args(more).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let (code, out, err) = run(&model, &["--runs", "2", "--json"]);
    assert_eq!(code, 0, "{err}");
    let found: Value = serde_json::from_str(&out).unwrap();
    for key in ["load_seconds", "ttft_seconds", "prefill_tokens_per_second", "decode_tokens_per_second"] {
        assert_eq!(found[key]["n"], 2, "{key}");
        assert!(
            found[key]["mean"].as_f64().unwrap() > 0.0 && found[key]["sd"].as_f64().unwrap() >= 0.0,
            "{key}"
        );
    }
    let memory = &found["memory"];
    let bytes = |key: &str| memory[key].as_u64().unwrap();
    // The weights were read, so they were in memory; and nothing was ever more than the peak.
    let weights = std::fs::metadata(&model).unwrap().len();
    assert!(bytes("peak_bytes") > weights && bytes("rss_file_bytes") > weights / 2, "{memory}");
    assert!(bytes("rss_anon_bytes") > 0 && bytes("rss_anon_bytes") <= bytes("peak_bytes"), "{memory}");
    assert!(memory["devices"][0]["model_bytes"].as_u64().unwrap() > weights / 2, "{memory}");
    // What is null is null for a reason.
    let warnings = found["warnings"].as_array().unwrap();
    let reason = |key: &str| warnings.iter().any(|warning| warning.as_str().unwrap().starts_with(key));
    assert_eq!(memory["predicted_bytes"].is_null(), reason("memory.predicted_bytes"), "{out}");
    assert_eq!((&found["effective_runs"], &found["runs"]), (&1.into(), &2.into()));

    let (_, out, _) = run(&model, &["--runs", "1", "--prompt-tokens", "32", "--new-tokens", "8"]);
    for words in
        ["| model | size | params | backend | threads | test | t/s |", "| pp32 |", "time to first token"]
    {
        assert!(out.contains(words), "{words}: {out}");
    }
    let (code, out, err) = run(&model, &["--prompt-tokens", "4000"]);
    assert!(code == 2 && out.is_empty() && err.contains("do not fit a context of 512"), "{err}");
    let (code, out, err) = run(Path::new("nowhere.gguf"), &["--json"]);
    assert!(code == 4 && out.is_empty() && err.contains("nowhere.gguf"), "{err}");
}
