//! `assayd compare` through the real binary: on the example models, on a made vocabulary of
//! 150,000 tokens, and, where it is there, on a family of models whose truth is known.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must stop")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

mod wide;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn command(candidate: &Path, reference: &Path, tokens: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_assayd"));
    command.arg("compare").arg(candidate).arg("--reference").arg(reference).arg("--tokens").arg(tokens);
    command.args(more).arg("--temp").arg(tokens.parent().unwrap());
    command
}

fn compare(candidate: &Path, reference: &Path, tokens: &Path, more: &[&str]) -> (i32, String, String) {
    let output = command(candidate, reference, tokens, more).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn json(candidate: &Path, reference: &Path, tokens: &Path) -> Value {
    let (code, out, err) = compare(candidate, reference, tokens, &["--json"]);
    assert_eq!(code, 0, "{err}");
    serde_json::from_str(&out).unwrap()
}

fn number(value: &Value, pointer: &str) -> f64 {
    value.pointer(pointer).and_then(Value::as_f64).unwrap_or(f64::NAN)
}

fn token_file(folder: &Path, sequences: &[Vec<u32>]) -> PathBuf {
    let path = folder.join("tokens.json");
    std::fs::write(&path, serde_json::to_string(sequences).unwrap()).unwrap();
    path
}

fn some_tokens(sequences: u32, length: u32, low: u32, span: u32) -> Vec<Vec<u32>> {
    let token = |s, i| low + (i * 7919 + s * 104_729 + i * i * 31) % span;
    (0..sequences).map(|s| (0..length).map(|i| if i == 0 { 1 } else { token(s, i) }).collect()).collect()
}

#[test]
fn a_model_does_not_differ_from_itself_and_a_quantised_one_does() {
    let folder = tempfile::tempdir().unwrap();
    let models = root().join("examples/models");
    let tokens = token_file(folder.path(), &some_tokens(6, 50, 260, 200));
    let reference = models.join("reference.gguf");
    let same = json(&models.join("copy.gguf"), &reference, &tokens);
    for (pointer, want) in [
        ("/kl/mean", 0.0),
        ("/kl/max", 0.0),
        ("/kl/stderr", 0.0),
        ("/perplexity_ratio", 1.0),
        ("/top1_agreement", 1.0),
        ("/delta_p/mean", 0.0),
        ("/delta_p/rms", 0.0),
        ("/positions", 294.0),
    ] {
        assert_eq!(number(&same, pointer), want, "{pointer}");
    }
    assert_eq!(same["warnings"], Value::Array(Vec::new()));

    let quantised = json(&models.join("reference-q8_0.gguf"), &reference, &tokens);
    let at = |pointer: &str| number(&quantised, pointer);
    let rising = ["/kl/median", "/kl/p99", "/kl/p999", "/kl/max"].map(at);
    assert!(rising[0] > 0.0 && rising.windows(2).all(|pair| pair[0] <= pair[1]), "{rising:?}");
    assert!(at("/kl/mean") > 0.0 && at("/kl/mean") < 0.05 && at("/kl/stderr") > 0.0);
    assert!(
        (at("/perplexity_ratio") - at("/perplexity_candidate") / at("/perplexity_reference")).abs() < 1e-9
    );
    assert!(at("/delta_p/rms") > at("/delta_p/mean").abs());
    for error in
        ["/kl/stderr_by_sequence", "/top1_agreement_stderr", "/delta_p/stderr", "/delta_p/rms_stderr"]
    {
        assert!(at(error) >= 0.0, "{error}");
    }
    // The same numbers as `logprobs` gives each model alone.
    for (model, key) in
        [("reference.gguf", "/mean_nll_reference"), ("reference-q8_0.gguf", "/mean_nll_candidate")]
    {
        let output = Command::new(env!("CARGO_BIN_EXE_assayd"))
            .args(["logprobs", "--json", "--portable", "--tokens"])
            .arg(&tokens)
            .arg(models.join(model))
            .output()
            .unwrap();
        let alone: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!((number(&alone, "/mean_nll") - at(key)).abs() < 1e-9, "{key}");
    }
    // For people: units, and the direction of the divergence.
    let (code, out, _) = compare(&models.join("reference-q8_0.gguf"), &reference, &tokens, &["--from", "30"]);
    assert_eq!(code, 0);
    for word in ["KL 99.9 %", "nats", "KL(reference || candidate)", "120 positions of 6 sequences", "±"] {
        assert!(out.contains(word), "{word}: {out}");
    }
}

#[test]
fn what_cannot_be_compared_is_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let models = root().join("examples/models");
    let reference = models.join("reference.gguf");
    let other = folder.path().join("other.gguf");
    wide::write(&other, 400, 0.0);
    let good = token_file(folder.path(), &some_tokens(2, 8, 260, 100));
    let out_of_range = folder.path().join("range.json");
    std::fs::write(&out_of_range, "[[1, 2, 3], [1, 99999]]").unwrap();
    for (candidate, tokens, more, code, words) in [
        (&other, &good, [].as_slice(), 4, "different tokenizers"),
        (&models.join("truncated.gguf"), &good, &[], 4, "truncated.gguf"),
        (&models.join("nowhere.gguf"), &good, &[], 4, "nowhere.gguf"),
        (&models.join("copy.gguf"), &out_of_range, &[], 4, "sequence 1: token 99999"),
        (&models.join("copy.gguf"), &good, &["--from", "8"], 2, "ends before position 8"),
        (&models.join("copy.gguf"), &folder.path().join("none.json"), &[], 4, "none.json"),
    ] {
        let (got, out, err) = compare(candidate, &reference, tokens, &[more, &["--json"]].concat());
        assert_eq!(got, code, "{words}: {err}");
        assert!(out.is_empty() && err.starts_with("error: ") && err.contains(words), "{words}: {err}");
    }
}

/// 400 positions over 150,000 tokens are 229 MiB of logits per model; neither the command nor
/// its worker may hold that.
#[test]
fn a_long_vocabulary_is_compared_in_little_memory() {
    let folder = tempfile::tempdir().unwrap();
    let (reference, candidate) = (folder.path().join("a.gguf"), folder.path().join("b.gguf"));
    wide::write(&reference, 150_000, 0.0);
    wide::write(&candidate, 150_000, 0.1);
    let tokens = token_file(folder.path(), &some_tokens(2, 201, 300, 149_000));
    let mut child = command(
        &candidate,
        &reference,
        &tokens,
        &["--json", "--max-memory", "512MiB", "--guardrail", "relaxed", "--threads", "2"],
    )
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();
    let mut peak_kib = 0u64;
    while child.try_wait().unwrap().is_none() {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        peak_kib = peak_kib.max(kib);
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{err}");
    let got: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(number(&got, "/positions"), 400.0);
    assert!(number(&got, "/kl/mean") > 1e-3 && number(&got, "/kl/mean") < 5.0, "{got}");
    assert!(peak_kib > 0 && peak_kib < 160 << 10, "the command took {} MiB", peak_kib >> 10);
}

/// Against float64 truth: means, errors and differences of probabilities follow from the token
/// log-probabilities of `ground_truth.npz` and were computed from them with numpy.
#[test]
fn the_known_family_has_its_known_damage() {
    let family = root().join("../shared/models");
    if !family.join("ground_truth.json").exists() {
        eprintln!("the model family is not here; nothing to compare with");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("sequences.json");
    std::fs::copy(family.join("sequences.json"), &tokens).unwrap();
    for (file, bound, truth) in TRUTH {
        let path = family.join("gguf").join(file);
        let got = json(&path, &family.join("gguf/base-f32.gguf"), &tokens);
        assert_eq!(number(&got, "/positions"), 630.0);
        for (pointer, want, weight) in truth {
            let got = number(&got, pointer);
            assert!((got - want).abs() <= bound * weight, "{file} {pointer}: {got} instead of {want}");
        }
    }
    let (code, _, err) =
        compare(&family.join("gguf/tok-permuted.gguf"), &family.join("gguf/base-f32.gguf"), &tokens, &[]);
    assert!(code == 4 && err.contains("different tokenizers"), "{err}");
}

/// One value: its place in the document, the truth, and how many bounds it may be off.
type Truth = (&'static str, f64, f64);

/// Files, the bound that their rounding allows (of weights and of activations), and the truth.
const TRUTH: [(&str, f64, [Truth; 8]); 4] = [
    (
        "noise-0.001.gguf",
        1e-6,
        [
            ("/mean_nll_reference", 5.105_679_533_490_884, 10.0),
            ("/mean_nll_candidate", 5.107_281_104_501_542, 10.0),
            ("/perplexity_ratio", 1.001_602_854_210_463_4, 10.0),
            ("/log_perplexity_ratio_errors/stderr", 4.755_890_119_456_538_3e-4, 1.0),
            ("/delta_p/mean", 1.753_814_882_464_897_2e-5, 1.0),
            ("/delta_p/rms", 1.427_737_213_922_732_5e-3, 1.0),
            ("/kl/mean", 4.184_957_660_124_925_6e-5, 1.0),
            ("/top1_agreement", 0.996_825_396_825_396_8, 1.0),
        ],
    ),
    (
        "ft-python-300.gguf",
        1e-6,
        [
            ("/mean_nll_candidate", 4.340_559_838_147_977, 10.0),
            ("/perplexity_ratio", 0.465_278_236_003_160_2, 10.0),
            ("/log_perplexity_ratio_errors/stderr", 0.206_948_369_689_889_36, 10.0),
            ("/delta_p/mean", -0.191_570_006_795_509_9, 10.0),
            ("/delta_p/rms", 0.468_656_324_821_030_53, 10.0),
            ("/delta_p/rms_stderr", 0.013_890_353_125_446_673, 10.0),
            ("/kl/mean", 2.722_344_616_875_065_3, 10.0),
            ("/top1_agreement", 0.187_301_587_301_587_3, 1.0),
        ],
    ),
    (
        "ft-tiny-3.gguf",
        1e-6,
        [
            ("/mean_nll_candidate", 5.085_710_295_756_557, 10.0),
            ("/perplexity_ratio", 0.980_228_826_902_55, 10.0),
            ("/log_perplexity_ratio_errors/stderr", 1.470_894_125_344_326_6e-3, 1.0),
            ("/delta_p/mean", -3.196_877_729_542_372_7e-4, 1.0),
            ("/delta_p/rms", 1.951_164_611_955_951_2e-3, 1.0),
            ("/delta_p/rms_stderr", 2.927_047_408_581_170_6e-4, 1.0),
            ("/kl/mean", 1.690_734_628_812_606_6e-4, 1.0),
            ("/top1_agreement", 0.990_476_190_476_190_5, 1.0),
        ],
    ),
    // llama.cpp quantises activations too, which the truth does not: half as much again.
    (
        "base-q8_0.gguf",
        1e-3,
        [
            ("/mean_nll_reference", 5.105_679_533_490_884, 0.01),
            ("/mean_nll_candidate", 5.102_993_675_705_835, 4.0),
            ("/perplexity_ratio", 0.997_317_745_903_919_3, 4.0),
            ("/log_perplexity_ratio_errors/stderr", 1.800_051_951_798_978_2e-3, 1.0),
            ("/delta_p/mean", 2.526_230_034_181_154e-4, 1.0),
            ("/delta_p/rms", 4.734_847_929_286_324e-3, 2.0),
            ("/kl/mean", 5.745_824_413_869_239e-4, 0.6),
            ("/top1_agreement", 0.990_476_190_476_190_5, 8.0),
        ],
    ),
];
