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
        load_bits: None,
        baseline: None,
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

/// A record beside an earlier one of the same model: the JSON holds what the table shows, and it
/// follows from the two records; others are refused before anything is run.
#[test]
fn a_record_is_compared_with_an_earlier_one_of_the_same_model() {
    let folder = tempfile::tempdir().unwrap();
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models");
    let asked = |model: &str, [prompt, new, context]: [&str; 3], more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_assayd"));
        command.current_dir(folder.path()).arg("bench").arg(models.join(model)).args(["--runs", "1"]);
        command.args(["--prompt-tokens", prompt, "--new-tokens", new, "--ctx", context]);
        let output = command.args(more).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let usual = ["64", "16", "256"];
    let bench = |model: &str, more: &[&str]| asked(model, usual, more);
    let file = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let (code, before, err) = bench("reference.gguf", &["--json"]);
    assert_eq!(code, 0, "{err}");
    file("before.json", &before);
    let before: Value = serde_json::from_str(&before).unwrap();
    assert_eq!((&before["schema"], &before["baseline"]), (&"assayd.bench/1".into(), &Value::Null));

    let now = ["--threads", "2", "--kv-type", "f32", "--baseline", "before.json"];
    let (code, out, err) = bench("reference.gguf", &[&now[..], &["--json"]].concat());
    assert_eq!(code, 0, "{err}");
    let now: Value = serde_json::from_str(&out).unwrap();
    let beside = &now["baseline"];
    for (part, key) in [("prefill", "prefill_tokens_per_second"), ("decode", "decode_tokens_per_second")] {
        let speed = |record: &Value| record[key]["mean"].as_f64().unwrap();
        let penalty = beside[part]["penalty"].as_f64().unwrap();
        assert!((penalty - speed(&before) / speed(&now)).abs() < 1e-12 * penalty, "{beside}");
    }
    let peak = |record: &Value| record["memory"]["peak_bytes"].as_i64().unwrap();
    assert_eq!(beside["host_memory"]["saved_bytes"], peak(&before) - peak(&now), "{beside}");
    assert_eq!(beside["device_memory"]["saved_bytes"], Value::Null, "no accelerator, no saving: {beside}");
    let changed = beside["changed"].as_array().unwrap();
    assert!(changed.contains(&r#"kv_type: "f16" -> "f32""#.into()), "{beside}");

    // What is missing in the earlier record is not made up.
    let mut poorer = before.clone();
    poorer["decode_tokens_per_second"]["mean"] = Value::Null;
    poorer["memory"]["peak_bytes"] = Value::Null;
    file("poorer.json", &poorer.to_string());
    let (code, out, err) = bench("reference.gguf", &["--baseline", "poorer.json"]);
    assert_eq!(code, 0, "{err}");
    let row = out.lines().find(|line| line.starts_with("| now | ")).unwrap_or_else(|| panic!("{out}"));
    let cells: Vec<&str> = row.split('|').map(str::trim).collect();
    assert!(cells[3].ends_with('x') && cells[4] != "n/a", "{row}");
    assert_eq!([cells[5], cells[6], cells[7], cells[9]], ["n/a"; 4], "{row}");

    // Other records: before a model is run, with exit code 2 and what to do.
    let mut older = before;
    older["schema"] = "assayd.bench/0".into();
    file("older.json", &older.to_string());
    for (model, tokens, baseline, words) in [
        ("finetuned.gguf", usual, "before.json", "another model"),
        ("reference.gguf", usual, "older.json", "its schema is assayd.bench/0"),
        ("reference.gguf", usual, "none.json", "none.json"),
        ("reference.gguf", ["65", "16", "256"], "before.json", "other prompts: 64"),
        ("reference.gguf", ["64", "8", "256"], "before.json", "--new-tokens 16"),
        ("reference.gguf", ["64", "16", "300"], "before.json", "context of 256"),
    ] {
        let (code, out, err) = asked(model, tokens, &["--baseline", baseline]);
        assert!(code == 2 && out.is_empty() && err.contains(words), "{model} {tokens:?}: {code} {err}");
    }
}
