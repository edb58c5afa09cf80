//! `assayd verify` over a vocabulary of 32,000 tokens: without `--exact` the scores are lower
//! bounds and the report bounds what is left out, with it they are of whole distributions.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot go on must stop"
)]

use std::path::Path;
use std::process::Command;

use serde_json::Value;

mod wide;

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

fn verify(folder: &Path, candidate: &str, more: &[&str]) -> (i32, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_assayd"))
        .args([
            "verify",
            candidate,
            "--reference",
            "reference.gguf",
            "--mode",
            "quick",
            "--key",
            KEY,
            "--json",
        ])
        .args(["--threads", "1"])
        .args(more)
        .env("ASSAYD_CACHE", folder.join("cache"))
        .current_dir(folder)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let report = serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!("{error}: {text}\n{}", String::from_utf8_lossy(&output.stderr));
    });
    (output.status.code().unwrap(), report)
}

fn nats(report: &Value) -> Vec<f64> {
    let records = report["records"].as_array().unwrap();
    records.iter().filter_map(|record| record["notes"]["mean_kl_nats"].as_f64()).collect()
}

#[test]
fn whole_distributions_differ_by_more_and_by_no_more_than_the_bound() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    wide::write(&place.join("reference.gguf"), 32_000, 0.0);
    wide::write(&place.join("noisy.gguf"), 32_000, 0.05);
    std::fs::copy(place.join("reference.gguf"), place.join("copy.gguf")).unwrap();

    let (_, coarse) = verify(place, "noisy.gguf", &[]);
    let (_, exact) = verify(place, "noisy.gguf", &["--exact"]);
    let (seen, truth) = (nats(&coarse), nats(&exact));
    assert!(seen.len() >= 8 && truth.len() >= 8, "{coarse}");
    for (seen, truth) in seen.iter().zip(&truth) {
        assert!(truth > seen, "{truth} is not above the lower bound {seen}");
    }
    let gap: f64 = truth.iter().zip(&seen).map(|(truth, seen)| truth - seen).sum();
    assert!(gap > 1e-3 * truth.iter().sum::<f64>(), "nothing was left out of the coarse ones: {gap}");

    let said = |report: &Value| report["enhanced_diff"]["coverage"].clone();
    let (bound, whole) = (said(&coarse), said(&exact));
    assert_eq!((&bound["kind"], &bound["lower_bound"]), (&"coarse".into(), &true.into()), "{bound}");
    assert_eq!((&whole["kind"], &whole["lower_bound"]), (&"half".into(), &false.into()), "{whole}");
    assert!(bound["rest_mass"].as_f64().unwrap() > 0.05, "{bound}");
    assert_eq!(coarse["enhanced_diff"]["n_effective"], exact["enhanced_diff"]["n_effective"]);
    let mean = |report: &Value| report["enhanced_diff"]["mean_diff"].as_f64().unwrap();
    let at_most = bound["mean_at_most"].as_f64().unwrap();
    assert!(mean(&coarse) < mean(&exact) && mean(&exact) <= at_most, "{coarse}");
    assert_eq!(whole["mean_at_most"].as_f64().unwrap(), mean(&exact));
    let claim = |report: &Value| report["enhanced_diff"]["claim"].as_str().unwrap().to_owned();
    assert!(claim(&coarse).contains("each score is a lower bound"), "{}", claim(&coarse));
    assert!(!claim(&exact).contains("lower bound"), "{}", claim(&exact));

    // 16 bits or not: a model does not differ from its copy.
    let (code, copy) = verify(place, "copy.gguf", &["--exact"]);
    assert_eq!((code, mean(&copy)), (0, 0.0), "{copy}");
}
