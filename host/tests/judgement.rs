//! What a verdict rests on, through the real binary and the real plugins: published values of
//! the deciders, what every report says whatever decides, the measured band, the user's own
//! prompts, and the relationship label.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on must stop"
)]

use std::path::{Path, PathBuf};

use assayd::assay::judge::{replay, stopping_step};
use assayd::domain::moments::Moments;
use assayd::domain::score::{Decision, DecisionParams};
use assayd::engine::QuantizeSpec;
use assayd::model::gguf::{self, GgmlType};
use assayd::plugin::PluginSet;
use assayd::worker::{Worker, WorkerLimits};
use place::{KEY, Place, beside, example};
use random::Random;
use serde_json::Value;

mod place;
#[expect(dead_code, reason = "each test file uses a part of it")]
mod random;

/// `verify` with the key of these tests.
fn verify(place: &Place, candidate: &Path, reference: &Path, more: &[&str]) -> (i32, Value) {
    place.verify(candidate, reference, &[&["--key", KEY], more].concat())
}

/// `source` with the tensor types of `like`, made by the quantiser in a worker.
fn quantized(place: &Place, source: &Path, like: &[(String, u32)], name: &str) -> PathBuf {
    let target = place.path(name);
    let spec = QuantizeSpec {
        source: vec![source.to_owned()],
        target: target.clone(),
        types: like.to_vec(),
        threads: 2,
        max_bytes: 64 << 20,
    };
    let program = Some(PathBuf::from(env!("CARGO_BIN_EXE_assayd")));
    Worker::quantize(&spec, &WorkerLimits { program, ..WorkerLimits::default() }).unwrap();
    target
}

fn types_of(model: &Path) -> Vec<(String, u32)> {
    let bytes = std::fs::read(model).unwrap();
    let header = gguf::read_strict(&bytes.as_slice()).unwrap();
    header.tensors.iter().map(|tensor| (tensor.name.clone(), tensor.kind.id())).collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn cases(vectors: &Value) -> Vec<(&Value, Vec<f64>)> {
    let list = vectors["cases"].as_array().unwrap();
    list.iter().map(|case| (case, case["x"].as_array().unwrap().iter().map(number).collect())).collect()
}

/// Every sequence of the published vectors through the plugins as they are built in.
#[test]
fn published_values_come_out_of_the_plugins() {
    let Some(path) = beside("reference/statistics-vectors.json", "published values") else { return };
    let vectors: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let plugins = PluginSet::builtin().unwrap();
    let compared = std::cell::Cell::new(0);
    let close = |ours: Option<f64>, theirs: &Value, what: &str| {
        let (ours, theirs) = (ours.unwrap_or(f64::NAN), number(theirs));
        assert!((ours - theirs).abs() < 1e-6, "{what}: {ours} for {theirs}");
        compared.set(compared.get() + 1);
    };
    for (case, scores) in cases(&vectors) {
        let at = |row: &Value| usize::try_from(row["t"].as_u64().unwrap()).unwrap() - 1;
        for expected in case["expected"].as_array().unwrap() {
            let alpha = number(&expected["alpha"]);
            let params = DecisionParams { alpha, gamma: 0.05, delta: 0.2, n_max: scores.len() as u64 };
            for (id, key) in [("hedged", "hedged_exact"), ("prpl-eb", "prpl_eb")] {
                let steps = replay(&plugins.decider(id).unwrap(), &params, &scores).unwrap();
                for row in expected["rows"].as_array().unwrap() {
                    let what = format!("{} {id} alpha {alpha} n {}", case["id"], row["t"]);
                    close(steps[at(row)].lower, &row[key][0], &what);
                    close(steps[at(row)].upper, &row[key][1], &what);
                }
            }
        }
        for expected in case["grid5"].as_array().unwrap() {
            let (gamma, delta) = (number(&expected["gamma"]), number(&expected["delta"]));
            let params = DecisionParams { alpha: 0.01, gamma, delta, n_max: scores.len() as u64 };
            let decider = plugins.decider("grid5").unwrap();
            let steps = replay(&decider, &params, &scores).unwrap();
            for row in expected["rows"].as_array().unwrap() {
                let what = format!("{} grid5 {gamma} {delta} n {}", case["id"], row["t"]);
                close(steps[at(row)].log_e_same, &row["log_E_same"], &what);
                close(steps[at(row)].log_e_different, &row["log_E_diff"], &what);
            }
            for verdict in expected["decisions"].as_array().unwrap() {
                let asked = DecisionParams { alpha: number(&verdict["alpha"]), ..params };
                let steps = replay(&decider, &asked, &scores).unwrap();
                let (decision, n) = stopping_step(&steps, asked.n_max)
                    .map_or((Decision::Undecided, scores.len() as u64), |step| (step.decision, step.n));
                assert_eq!(verdict["verdict"], decision.as_str(), "{} {gamma}", case["id"]);
                assert_eq!(verdict["n"], n, "{} {gamma}", case["id"]);
                compared.set(compared.get() + 1);
            }
        }
    }
    assert!(compared.get() > 3_000, "{compared:?}");
}

/// The same through the command, with its own reading and writing of numbers.
#[test]
fn published_values_come_out_of_the_command() {
    let Some(path) = beside("reference/statistics-vectors.json", "published values of decide") else {
        return;
    };
    let vectors: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let place = Place::new();
    for (case, scores) in cases(&vectors) {
        std::fs::write(place.path("scores.json"), serde_json::to_string(&scores).unwrap()).unwrap();
        let expected = &case["grid5"][0];
        let (gamma, delta) = (expected["gamma"].to_string(), expected["delta"].to_string());
        let band = ["--gamma", &gamma, "--delta", &delta];
        let (_, document) = place.json(&[&["decide", "scores.json", "--json"][..], &band].concat());
        for row in expected["rows"].as_array().unwrap() {
            let step = &document["steps"][usize::try_from(row["t"].as_u64().unwrap()).unwrap() - 1];
            assert!(
                (number(&step["log_e_same"]) - number(&row["log_E_same"])).abs() < 1e-6,
                "{}",
                case["id"]
            );
        }
        let mut verdicts = expected["decisions"].as_array().unwrap().iter();
        let verdict = verdicts.find(|verdict| number(&verdict["alpha"]) == 0.01).unwrap();
        assert_eq!(
            (&document["decision"], &document["n"]),
            (&verdict["verdict"], &verdict["n"]),
            "{}",
            case["id"]
        );
    }
}

/// Published: scores of zero, alpha 0.01, bets of at most a half; and the stopping times of
/// the default decider in every mode. Needs no file.
#[test]
fn zeros_decide_at_the_published_times() {
    let place = Place::new();
    std::fs::write(place.path("zeros.json"), serde_json::to_string(&vec![0.0; 1200]).unwrap()).unwrap();
    let decide = |more: &[&str]| {
        let (code, document) = place.json(&[&["decide", "zeros.json", "--json"], more].concat());
        assert_eq!((code, document["decision"].as_str()), (0, Some("SAME")), "{more:?}");
        document["n"].as_u64().unwrap()
    };
    for (band, n) in [("0.10", 110), ("0.05", 220), ("0.01", 1099)] {
        let strict = ["--decider", "prpl-eb", "--confidence", "0.99", "--delta", band, "--strict-band"];
        assert_eq!(decide(&strict), n, "{band}");
    }
    for (mode, n) in [("quick", 16), ("audit", 24), ("extended", 73)] {
        assert_eq!(decide(&["--mode", mode]), n, "{mode}");
    }
    let refused = place.run(&["decide", "zeros.json", "--strict-band", "--gamma", "0.1"]);
    assert_eq!(refused.status.code(), Some(2));
}

/// Whatever decides, the report has the hedged sequence, p-values, the certified delta, what
/// could hide, and the claim.
#[test]
fn every_decider_gets_the_whole_report() {
    let place = Place::new();
    let (copy, reference) = (example("copy.gguf"), example("reference.gguf"));
    for (decider, scorer) in [
        ("grid5", "kl"),
        ("hedged", "kl"),
        ("prpl-eb", "kl"),
        ("stitched", "tv"),
        ("binomial", "exact-text"),
        ("fixed-eb", "js"),
    ] {
        let (code, report) = verify(
            &place,
            &copy,
            &reference,
            &["--decider", decider, "--scorer", scorer, "--confidence", "0.95"],
        );
        let diff = &report["enhanced_diff"];
        assert_eq!((code, report["final_decision"].as_str()), (0, Some("SAME")), "{decider}: {diff}");
        let (lower, upper) = (number(&diff["ci_lower"]), number(&diff["ci_upper"]));
        assert!(lower == 0.0 && upper < 0.4, "{decider}: {lower} {upper}");
        assert!(number(&diff["p_same"]) <= 0.1 && number(&diff["p_different"]) == 1.0, "{decider}: {diff}");
        let own = matches!(decider, "grid5" | "hedged" | "binomial");
        assert_eq!(diff["p_values_from"], if own { decider } else { "hedged" });
        let certified = number(&diff["smallest_delta_certified"]);
        assert!(certified > 0.0 && certified <= 0.2, "{decider}: {certified}");
        assert!(diff["claim"].as_str().unwrap().contains("below 0.2"), "{decider}");
        let rare = diff["rare_difference"].as_str().unwrap();
        assert!(rare.contains("% of prompts is not excluded") && rare.contains("95 %"), "{rare}");
        assert!(diff["effect_size"].is_null() && diff["outliers"].as_array().unwrap().is_empty());
        assert!(
            report["errors"].as_array().unwrap().iter().any(|e| e.as_str().unwrap().contains("effect_size"))
        );
    }
    // Only what is decided differently is undecided, with what would be needed.
    let (code, report) = verify(&place, &copy, &reference, &["--n-max", "23"]);
    assert_eq!((code, &report["enhanced_diff"]["needed_n"]), (3, &24.into()));
}

#[test]
fn labels_of_the_example_models_follow_their_weights() {
    let place = Place::new();
    let reference = example("reference.gguf");
    let tuned = quantized(
        &place,
        &example("finetuned.gguf"),
        &types_of(&example("reference-q8_0.gguf")),
        "tuned-q8.gguf",
    );
    for (candidate, label, verdict) in [
        (example("copy.gguf"), "identical", "SAME"),
        (example("reference-f16.gguf"), "honest-quantisation", "SAME"),
        (example("reference-q8_0.gguf"), "honest-quantisation", "SAME"),
        (example("finetuned.gguf"), "fine-tune-or-merge", "DIFFERENT"),
        (tuned, "fine-tune-or-merge", "DIFFERENT"),
    ] {
        let (_, report) = verify(&place, &candidate, &reference, &[]);
        assert_eq!(report["relationship"]["label"], label, "{candidate:?}: {}", report["relationship"]);
        assert_eq!(report["final_decision"], verdict, "{candidate:?}");
        let evidence = report["relationship"]["evidence"].as_array().unwrap();
        assert!(evidence.iter().any(|e| e.as_str().unwrap().starts_with("behaviour: ")), "{evidence:?}");
    }
    let screen = place.run(&[
        "verify",
        example("copy.gguf").to_str().unwrap(),
        "--reference",
        reference.to_str().unwrap(),
    ]);
    let screen = String::from_utf8(screen.stdout).unwrap();
    assert!(screen.contains("identical (advisory)") && screen.contains("not excluded"), "{screen}");
}

/// `source`, which is F32 throughout, with noise of a hundredth of each tensor's deviation.
fn noised(place: &Place, source: &Path) -> PathBuf {
    let mut bytes = std::fs::read(source).unwrap();
    let header = gguf::read_strict(&bytes.as_slice()).unwrap();
    let mut random = Random(5);
    for tensor in &header.tensors {
        assert_eq!(tensor.kind, GgmlType::F32);
        let range = tensor.offset as usize..(tensor.offset + tensor.bytes) as usize;
        let weights = bytes[range.clone()].chunks_exact(4);
        let weights: Vec<f32> = weights.map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
        let spread = Moments::of(weights.iter().map(|&weight| f64::from(weight))).std().unwrap();
        for (place, weight) in bytes[range].chunks_exact_mut(4).zip(weights) {
            // Uniform with deviation 1.
            let unit = (random.next() >> 11) as f64 / (1u64 << 53) as f64;
            let noise = (unit - 0.5) * 12f64.sqrt() * 0.01 * spread;
            place.copy_from_slice(&((f64::from(weight) + noise) as f32).to_le_bytes());
        }
    }
    let target = place.path("noised.gguf");
    std::fs::write(&target, bytes).unwrap();
    target
}

/// A model is itself by any demand. One per cent of noise is below what the modes ask about, and
/// said not to be the reference's weights; a demand that asks about so little finds it at once.
#[test]
fn a_hundredth_of_noise_is_found_by_who_asks_for_it_and_never_called_the_same_weights() {
    let place = Place::new();
    let reference = example("reference.gguf");
    let noised = noised(&place, &reference);
    let fine = ["--gamma", "0.004", "--delta", "0.05"];
    let (code, report) = verify(&place, &example("copy.gguf"), &reference, &fine);
    assert_eq!((code, &report["final_decision"]), (0, &"SAME".into()));
    assert!(report["enhanced_diff"]["claim"].as_str().unwrap().contains("0.05"));
    let (code, report) = verify(&place, &noised, &reference, &fine);
    assert_eq!((code, &report["final_decision"]), (1, &"DIFFERENT".into()), "{}", report["enhanced_diff"]);
    assert!(number(&report["enhanced_diff"]["n_effective"]) <= 30.0);
    let (_, report) = verify(&place, &noised, &reference, &[]);
    assert_eq!(report["relationship"]["label"], "fine-tune-or-merge");
    assert_eq!(report["lineage"]["relation"], "derived");
    let mean = number(&report["enhanced_diff"]["mean_diff"]);
    let claimed = number(&report["enhanced_diff"]["delta"]);
    assert!(
        0.004 < mean && mean < claimed,
        "{mean}: below the mode's {claimed}, so SAME would be true of it"
    );
}

/// Behaviour cannot tell three steps of fine-tuning from rounding; the label can.
#[test]
fn a_light_fine_tune_in_q8_0_is_not_called_honest_quantisation() {
    let Some(models) = beside("models/gguf", "the light fine-tune") else { return };
    let place = Place::new();
    let base = models.join("base-f32.gguf");
    let types = types_of(&models.join("base-q8_0.gguf"));
    for (source, label) in [("base-f32", "honest-quantisation"), ("ft-tiny-3", "fine-tune-or-merge")] {
        let candidate = quantized(&place, &models.join(source).with_extension("gguf"), &types, "q8.gguf");
        assert_eq!(
            types_of(&candidate).iter().collect::<std::collections::BTreeSet<_>>(),
            types.iter().collect()
        );
        let (_, report) = verify(&place, &candidate, &base, &[]);
        assert_eq!(report["relationship"]["label"], label, "{source}: {}", report["relationship"]);
        assert_eq!(report["final_decision"], "SAME", "the label does not decide");
    }
    for (name, label) in [
        ("base-f32", "identical"),
        ("exact-copy-official", "same-within-noise"),
        ("equiv-ffn-permuted", "same-within-noise"),
        ("chat-template-added", "same-within-noise"),
        ("base-q4_0", "honest-quantisation"),
        ("rope-theta-500000", "other-settings"),
        ("tok-permuted", "other-settings"),
        ("lora-r8-merged", "fine-tune-or-merge"),
        ("layers-swapped-1-2", "fine-tune-or-merge"),
        ("unrelated-llama2xs", "unrelated"),
    ] {
        let (_, report) = verify(&place, &models.join(name).with_extension("gguf"), &base, &[]);
        assert_eq!(report["relationship"]["label"], label, "{name}: {}", report["relationship"]);
    }
}

/// A rounding so coarse that the default band calls it DIFFERENT is no more different than an
/// honest one; a fine-tune in the same format is.
#[test]
fn a_measured_band_asks_whether_the_rounding_is_honest() {
    let place = Place::new();
    let reference = example("reference.gguf");
    let types: Vec<(String, u32)> = types_of(&example("reference-q8_0.gguf"))
        .into_iter()
        .map(|(name, id)| (name, if id == GgmlType::Q8_0.id() { GgmlType::Q4_0.id() } else { id }))
        .collect();
    let honest = quantized(&place, &reference, &types, "honest-q4.gguf");
    let tuned = quantized(&place, &example("finetuned.gguf"), &types, "tuned-q4.gguf");
    std::fs::write(place.path("own.txt"), "A prompt of my own").unwrap();
    let bundled = ["--band", "auto", "--probe", "own.txt", "--bundle", "b"];
    let (_, report) = verify(&place, &honest, &reference, &bundled);
    assert_eq!(report["final_decision"], "SAME", "{} {}", report["error"], report["enhanced_diff"]);
    let (band, diff) = (&report["band"], &report["enhanced_diff"]);
    assert_eq!((&band["gamma"], &band["delta"]), (&diff["gamma"], &diff["delta"]));
    assert_eq!((&band["clip_nats"], &band["n"]), (&diff["clip_nats"], &64.into()));
    assert!(number(&band["mean"]) < number(&band["gamma"]) && band["gamma"] == band["upper"]);
    assert_eq!(band["sha256"].as_str().unwrap(), sha256(&honest), "the same quantiser, the same bytes");
    assert!(band["other_types"].as_array().unwrap().is_empty(), "{}", band["other_types"]);
    assert!(band["digest"].is_string());
    let claim = diff["claim"].as_str().unwrap();
    assert!(claim.contains("no more different than an honest Q4_0 of the reference"), "{claim}");
    assert_ne!(band["commitment"], report["challenges"]["commitment"]);
    assert_eq!(report["challenges"]["distinct"], 200, "judging challenges are others");
    let left = std::fs::read_dir(place.path("cache/calibration")).unwrap().count();
    assert_eq!(left, 0, "the quantised reference is gone");
    // The bundle holds what the band was measured on, too.
    let checked = place.run(&["bundle", "verify", "b"]);
    assert_eq!(checked.status.code(), Some(0), "{}", String::from_utf8_lossy(&checked.stdout));
    // Reproducible, and the same band for any candidate in this format.
    let (code, other) = verify(&place, &tuned, &reference, &["--band", "auto"]);
    assert_eq!(&other["band"], band);
    assert_eq!(code, 1, "{}", other["enhanced_diff"]);
    assert!(other["enhanced_diff"]["claim"].as_str().unwrap().contains("more different than an honest Q4_0"));

    for wrong in [&["--gamma", "0.1"][..], &["--delta", "0.3"], &["--strict-band"]] {
        let base = ["verify", "x.gguf", "--reference", "y.gguf", "--band", "auto"];
        let refused = place.run(&[&base[..], wrong].concat());
        assert_eq!(refused.status.code(), Some(2), "{wrong:?}");
    }
}

fn sha256(path: &Path) -> String {
    assayd::digest::sha256_parts(&[&std::fs::read(path).unwrap()]).to_string()
}

#[test]
fn a_measured_band_on_real_models() {
    let Some(models) = beside("models/gguf", "measured bands") else { return };
    let place = Place::new();
    let base = models.join("base-f32.gguf");
    for (name, verdict) in [("base-q8_0", "SAME"), ("base-q4_0", "SAME"), ("ft-python-300-q8_0", "DIFFERENT")]
    {
        let (_, report) =
            verify(&place, &models.join(name).with_extension("gguf"), &base, &["--band", "auto"]);
        assert_eq!(
            report["final_decision"], verdict,
            "{name}: {} {}",
            report["error"], report["enhanced_diff"]
        );
    }
}

/// The user's own prompts are asked and shown, and change nothing else.
#[test]
fn probes_are_reported_apart_and_never_judged() {
    let place = Place::new();
    let reference = example("reference.gguf");
    std::fs::write(place.path("lines.txt"), "The trigger word\n\nAnother prompt\nThe trigger word\n")
        .unwrap();
    std::fs::write(place.path("list.json"), r#"["The trigger word", "Another\nprompt"]"#).unwrap();
    let (_, without) = verify(&place, &example("finetuned.gguf"), &reference, &[]);
    let (code, with) = verify(&place, &example("finetuned.gguf"), &reference, &["--probe", "lines.txt"]);
    assert_eq!(code, 1);
    for part in ["records", "final_decision", "enhanced_diff"] {
        assert_eq!(without[part], with[part], "{part}");
    }
    assert!(without["probes"].is_null());
    let probes = &with["probes"];
    assert_eq!((&probes["prompts"], &probes["failed"]), (&3.into(), &1.into()));
    let results = probes["results"].as_array().unwrap();
    assert_eq!(results[0]["prompt"], "The trigger word");
    assert!(number(&results[0]["score"]) > 0.0 && number(&results[0]["nats"]) > 0.0);
    assert!(results[2]["failure"].as_str().unwrap().contains("repeats"), "{}", results[2]);
    assert!(probes.get("mean").is_none() && probes.get("mean_diff").is_none(), "never averaged");

    let (code, copy) = verify(&place, &example("copy.gguf"), &reference, &["--probe", "list.json"]);
    assert_eq!((code, &copy["probes"]["above_gamma"]), (0, &0.into()));
    assert_eq!(copy["probes"]["results"][1]["prompt"], "Another\nprompt");
    for (content, named) in [("", "no prompt"), ("[1]", "array of strings")] {
        std::fs::write(place.path("bad.txt"), content).unwrap();
        let refused = place.run(&["verify", "x.gguf", "--reference", "y.gguf", "--probe", "bad.txt"]);
        assert_eq!(refused.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&refused.stderr).contains(named), "{content:?}");
    }
    let missing = place.run(&["verify", "x.gguf", "--reference", "y.gguf", "--probe", "none.txt"]);
    assert_eq!(missing.status.code(), Some(2));
}
