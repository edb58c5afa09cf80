//! `assayd logprobs` through the real binary, on the example models and, where it is there,
//! on a family of models whose log-probabilities are known.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on must stop")]

use std::path::{Path, PathBuf};

use place::{assayd, beside, example, root};
use serde_json::Value;

#[expect(dead_code, reason = "each test file uses a part of it")]
mod place;

fn logprobs(model: &Path, tokens: &Path, more: &[&str]) -> (i32, String, String) {
    let (model, tokens) = (model.to_str().unwrap(), tokens.to_str().unwrap());
    let folder = tempfile::tempdir().unwrap();
    assayd(&[&["logprobs", model, "--tokens", tokens], more].concat(), folder.path())
}

fn json(model: &Path, tokens: &Path, more: &[&str]) -> Value {
    let (code, out, err) = logprobs(model, tokens, &[more, &["--json"]].concat());
    assert_eq!(code, 0, "{err}");
    serde_json::from_str(&out).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn token_file(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("tokens.json");
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn positions_do_not_depend_on_what_is_scored_beside_them() {
    let folder = tempfile::tempdir().unwrap();
    let model = example("reference.gguf");
    let long: Vec<u32> = (0..300).map(|i| 260 + i * 7 % 200).collect();
    let short = &long[..40];
    let both = token_file(folder.path(), &serde_json::to_string(&[&long[..], short]).unwrap());
    let whole = json(&model, &both, &[]);
    let first = numbers(&whole["sequences"][0]["logprobs"]);
    assert_eq!(first.len(), long.len() - 1);
    // A prefix has the prefix's log-probabilities: nothing looks ahead.
    let second = numbers(&whole["sequences"][1]["logprobs"]);
    for (a, b) in first.iter().zip(&second) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
    // Scoring from a position on gives the tail, alone or side by side.
    let tail = json(&model, &both, &["--from", "30", "--parallel", "1"]);
    let tail = numbers(&tail["sequences"][0]["logprobs"]);
    assert_eq!(tail.len(), long.len() - 30);
    for (a, b) in first[29..].iter().zip(&tail) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
    // The summary numbers follow from the rows.
    let rows: Vec<f64> = first.iter().chain(&second).copied().collect();
    let nll = -rows.iter().sum::<f64>() / rows.len() as f64;
    assert!((whole["mean_nll"].as_f64().unwrap() - nll).abs() < 1e-12);
    assert!((whole["perplexity"].as_f64().unwrap() - nll.exp()).abs() < 1e-6 * nll.exp());
    for key in ["load_seconds", "score_seconds", "tokens_per_second"] {
        assert!(whole["timings"][key].as_f64().unwrap() > 0.0, "{key}");
    }
    assert_eq!(whole["engine"]["name"], "llama.cpp");
}

#[test]
fn bad_input_is_refused_with_the_file_and_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let models = root().join("examples/models");
    let good = token_file(folder.path(), "[[1, 300, 301]]");
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let too_big = write("big.json", b"[[1, 99999]]");
    let one = write("one.json", b"[[1]]");
    let foreign = write("foreign.gguf", b"this is a text and no model");
    let empty = write("empty.gguf", b"");
    let reference = models.join("reference.gguf");
    for (model, tokens, code, words) in [
        (&models.join("truncated.gguf"), &good, 4, "truncated.gguf"),
        (&models.join("nowhere.gguf"), &good, 4, "nowhere.gguf"),
        (&foreign, &good, 4, "foreign.gguf"),
        (&empty, &good, 4, "empty.gguf"),
        (&reference, &too_big, 4, "not in the vocabulary"),
        (&reference, &one, 2, "one.json"),
        (&reference, &folder.path().join("none.json"), 4, "none.json"),
    ] {
        let (got, out, err) = logprobs(model, tokens, &["--json"]);
        assert_eq!(got, code, "{err}");
        assert!(out.is_empty(), "{out}");
        assert!(err.starts_with("error: ") && err.contains(words), "{err}");
    }
}

/// Negative log-likelihoods of the family against float64 ground truth. Bounds: f32 files at
/// 1e-4 per token, the others within what rounding of weights and activations allows.
#[test]
fn the_known_family_has_its_known_log_probabilities() {
    let Some(family) = beside("models", "the known family") else { return };
    let truth = std::fs::read_to_string(family.join("ground_truth.json")).unwrap();
    let truth: Value = serde_json::from_str(&truth).unwrap();
    for (file, model, bound) in [
        ("gguf/base-f32.gguf", "base", 1e-5),
        ("gguf/exact-copy-official.gguf", "base", 1e-5),
        ("split/good", "base", 1e-5),
        ("gguf/equiv-ffn-permuted.gguf", "equiv-ffn-permuted", 1e-5),
        ("gguf/moe.gguf", "moe", 1e-5),
        ("gguf/unrelated-llama2xs.gguf", "unrelated-llama2xs", 1e-4),
        ("gguf/base-f16.gguf", "base-f16", 2e-3),
        ("gguf/base-q8_0.gguf", "base-q8_0", 0.03),
        ("gguf/base-q4_0.gguf", "base-q4_0", 0.05),
    ] {
        let got = json(&family.join(file), &family.join("sequences.json"), &[]);
        let want = numbers(&truth["models"][model]["nll_per_sequence"]);
        let sequences = got["sequences"].as_array().unwrap();
        assert_eq!(sequences.len(), want.len());
        for (sequence, want) in sequences.iter().zip(want) {
            let nll = sequence["nll"].as_f64().unwrap();
            assert!((nll - want).abs() < bound, "{file}: {nll} instead of {want}");
        }
    }
}
