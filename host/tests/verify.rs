//! `assayd verify`, `decide` and `modes` through the real binary, on the example models and,
//! where they are there, on the family of small real models with known truth.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on must stop")]

use std::path::Path;

use assayd::challenge::{Key, Plan, commitment};
use place::{KEY, Place, assayd, beside, example};
use serde_json::Value;

mod place;

/// Exit code and standard error of a command that must not print a document.
fn refused(place: &Place, arguments: &[&str]) -> (i32, String) {
    let (code, out, err) = assayd(arguments, place.0.path());
    assert!(out.is_empty(), "{out}");
    (code, err)
}

fn scores(report: &Value) -> Vec<f64> {
    report["records"].as_array().unwrap().iter().filter_map(|record| record["score"].as_f64()).collect()
}

#[test]
fn a_candidate_is_held_to_what_the_user_pins() {
    let place = Place::new();
    let (candidate, reference) = (example("reference-q8_0.gguf"), example("reference.gguf"));
    let bytes = std::fs::read(&candidate).unwrap();
    let digest = assayd::digest::sha256(&bytes).to_string();
    let allowed = serde_json::json!({"digests": [digest]}).to_string();
    std::fs::write(place.path("allowed.json"), &allowed).unwrap();
    let root = |path: &Path| {
        let output = place.run(&["inspect", "--full", "--json", path.to_str().unwrap()]);
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        found.pointer("/0/weights_root").and_then(Value::as_str).unwrap().to_owned()
    };
    let pin = |root: &str| format!(r#"root-pin={{"weights_root":"{root}"}}"#);
    let (own, others) = (pin(&root(&candidate)), pin(&root(&reference)));
    let held = |checks: &[&str]| {
        let mut more = vec!["--key", KEY, "--mode", "quick"];
        checks.iter().for_each(|check| more.extend(["--hash-check", check]));
        let (code, report) = place.verify(&candidate, &reference, &more);
        let results = report.pointer("/security/hash_checks").unwrap().as_array().unwrap();
        let text = |result: &Value, key: &str| result.get(key).unwrap().as_str().unwrap().to_owned();
        let outcomes: Vec<(String, String)> =
            results.iter().map(|result| (text(result, "plugin"), text(result, "outcome"))).collect();
        assert!(
            results.iter().all(|result| text(result, "artifact") == "reference-q8_0.gguf"),
            "{results:?}"
        );
        (code, outcomes, report)
    };
    let outcomes = |list: &[(&str, &str)]| -> Vec<(String, String)> {
        list.iter().map(|(id, outcome)| ((*id).to_owned(), (*outcome).to_owned())).collect()
    };
    let (code, got, report) = held(&["allow-list=@allowed.json", &own]);
    assert_eq!((code, got), (0, outcomes(&[("allow-list", "Passed"), ("root-pin", "Passed")])));
    let params = report.pointer("/security/hash_checks/0/params_sha256").unwrap().as_str().unwrap();
    assert_eq!(params, assayd::digest::sha256(allowed.as_bytes()).to_string());

    // What is not the pinned one is not run at all: the truth table says ERROR.
    let mut stream = assayd::digest::TlshStream::default();
    stream.update(&std::fs::read(&reference).unwrap());
    let near = format!(r#"tlsh-similarity={{"digest":"{}"}}"#, stream.finish().unwrap());
    for (check, outcome, why) in [
        (others.as_str(), "Failed", "weights_root is pinned to"),
        (r#"allow-list={"digests":[]}"#, "Failed", "is not on the list"),
        (near.as_str(), "Failed", "distance"),
        ("root-pin={}", "Fault", "nothing to judge"),
    ] {
        let (code, got, report) = held(&[check]);
        assert_eq!((code, report["final_decision"].as_str()), (4, Some("ERROR")), "{check}");
        assert_eq!(got, outcomes(&[(check.split('=').next().unwrap(), outcome)]), "{check}");
        assert!(report["error"].as_str().unwrap().contains("hash check"), "{}", report["error"]);
        let said = report.pointer("/security/hash_checks/0/said").unwrap().to_string();
        assert!(said.contains(why), "{said}");
        assert!(report["workers"].as_array().unwrap().is_empty(), "nothing was run");
    }

    let (candidate, reference) = (candidate.to_str().unwrap(), reference.to_str().unwrap());
    for (check, why) in [
        ("no-such-check={}", "no-such-check"),
        (r#"allow-list={"allowed":[]}"#, "unknown field `allowed`"),
        (r#"allow-list={"digests":["abc"]}"#, "is no SHA-256"),
        (r#"root-pin={"weights_root":"00"}"#, "64 hexadecimal digits"),
        (r#"tlsh-similarity={"digest":"TNULL"}"#, "not a TLSH digest"),
        ("allow-list=[1]", "not a table"),
        ("allow-list={", "not JSON"),
        ("allow-list", "ID=JSON"),
        ("allow-list=@nowhere.json", "nowhere.json"),
    ] {
        let (code, text) = refused(
            &place,
            &["verify", candidate, "--reference", reference, "--json", "--hash-check", check],
        );
        assert_eq!(code, 2, "{check}: {text}");
        assert!(text.contains(why), "{check}: {text}");
    }
    let twice = ["--hash-check", "root-pin={}", "--hash-check", "root-pin={}"];
    let (code, text) =
        refused(&place, &[&["verify", candidate, "--reference", reference][..], &twice].concat());
    assert!(code == 2 && text.contains("named twice"), "{text}");
}

#[test]
fn the_example_models_get_the_verdicts_they_deserve() {
    let place = Place::new();
    for (name, verdict, code) in [
        ("copy.gguf", "SAME", 0),
        ("reference-f16.gguf", "SAME", 0),
        ("reference-q8_0.gguf", "SAME", 0),
        ("finetuned.gguf", "DIFFERENT", 1),
        ("truncated.gguf", "ERROR", 4),
    ] {
        let (exit, report) = place.verify(&example(name), &example("reference.gguf"), &["--key", KEY]);
        assert_eq!(report["final_decision"], verdict, "{name}: {}", report["error"]);
        assert_eq!(exit, code, "{name}");
        assert_eq!(report["schema"], "assayd.report/1");
        assert_eq!(report["success"], code != 4);
        if code == 4 {
            assert!(report["error"].as_str().unwrap().contains("truncated.gguf"), "{}", report["error"]);
            assert!(report["workers"].as_array().unwrap().is_empty(), "a broken file is never loaded");
            continue;
        }
        assert!(report["workers"].as_array().unwrap().iter().all(|worker| worker["ending"] == "OK"));
        assert_eq!(report["enhanced_diff"]["n_failed"], 0);
        assert_eq!(report["security"]["tokenizer"]["compatible"], true);
        assert!(report["files"].as_array().unwrap().iter().all(|file| file["sha256"].is_string()));
        // Anyone can open the commitment with the revealed key.
        let challenges = &report["challenges"];
        assert_eq!(challenges["key_revealed"], KEY);
        let set = commitment::verify(
            &challenges["commitment"].as_str().unwrap().parse().unwrap(),
            &Key::from_hex(KEY).unwrap(),
            Plan::Text,
            challenges["distinct"].as_u64().unwrap(),
        )
        .unwrap();
        let first = serde_json::to_value(&set.challenges[0].prompt).unwrap();
        assert_eq!(report["records"][0]["prompt"], first);
    }
}

#[test]
fn a_copy_scores_exactly_zero_and_needs_the_fewest_challenges() {
    let place = Place::new();
    for (mode, n) in [("quick", 16), ("audit", 24), ("extended", 73)] {
        let (_, report) = place.verify(&example("copy.gguf"), &example("reference.gguf"), &["--mode", mode]);
        assert_eq!(report["final_decision"], "SAME", "{mode}");
        assert_eq!(report["enhanced_diff"]["n_effective"], n, "{mode}");
        assert!(scores(&report).iter().all(|score| score.to_bits() == 0), "{mode}: {:?}", scores(&report));
    }
}

/// The same key gives the same numbers, and the second run does not need the reference.
#[test]
fn a_key_reproduces_a_run_from_the_cache() {
    let place = Place::new();
    let run = || place.verify(&example("reference-q8_0.gguf"), &example("reference.gguf"), &["--key", KEY]).1;
    let (first, second) = (run(), run());
    assert_eq!(first["records"], second["records"]);
    assert_eq!(first["provenance"], second["provenance"]);
    let roles = |report: &Value| -> Vec<String> {
        let workers = report["workers"].as_array().unwrap();
        workers.iter().map(|worker| worker["role"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(roles(&first), ["reference", "candidate"]);
    assert_eq!(roles(&second), ["candidate"]);
}

/// Names and places are no evidence.
#[test]
fn renaming_changes_nothing() {
    let place = Place::new();
    std::fs::create_dir(place.path("elsewhere")).unwrap();
    let moved = place.path("elsewhere/reference.gguf");
    std::fs::copy(example("finetuned.gguf"), &moved).unwrap();
    let reference = example("reference.gguf");
    let key = ["--key", KEY];
    let (code, original) = place.verify(&example("finetuned.gguf"), &reference, &key);
    let (renamed_code, renamed) = place.verify(&moved, &reference, &key);
    assert_eq!((code, renamed_code), (1, 1));
    for part in ["records", "provenance", "enhanced_diff", "security"] {
        assert_eq!(original[part], renamed[part], "{part}");
    }
}

#[test]
fn a_manifest_that_contradicts_the_file_ends_in_an_error() {
    let place = Place::new();
    std::fs::copy(example("copy.gguf"), place.path("copy.gguf")).unwrap();
    std::fs::write(place.path("SHA256SUMS"), format!("{}  copy.gguf\n", "0".repeat(64))).unwrap();
    let (code, report) = place.verify(&place.path("copy.gguf"), &example("reference.gguf"), &[]);
    assert_eq!((code, report["final_decision"].as_str().unwrap()), (4, "ERROR"), "{}", report["error"]);
    let digest = report["files"][0]["sha256"].as_str().unwrap().to_owned();
    std::fs::write(place.path("SHA256SUMS"), format!("{digest}  copy.gguf\n")).unwrap();
    let (code, report) = place.verify(&place.path("copy.gguf"), &example("reference.gguf"), &[]);
    assert_eq!((code, report["final_decision"].as_str().unwrap()), (0, "SAME"), "{}", report["error"]);
}

#[test]
fn wrong_requests_are_refused_before_anything_is_read() {
    let place = Place::new();
    let (copy, reference) = (example("copy.gguf"), example("reference.gguf"));
    let base = ["verify", copy.to_str().unwrap(), "--reference", reference.to_str().unwrap()];
    for (more, named) in [
        (&["--n-max", "32", "--confidence", "0.999", "--delta", "0.05"][..], "0.194"),
        (&["--gamma", "0.3", "--delta", "0.2"], "gamma"),
        (&["--confidence", "99"], "confidence"),
        (&["--scorer", "none-such"], "none-such"),
        (&["--decider", "none-such"], "none-such"),
        (&["--key", "xyz"], "hexadecimal"),
        (&["--key", "@missing.key"], "missing.key"),
        (&["--report", "html"], "FORMAT=PATH"),
        (&["--report", "none-such=x"], "none-such"),
        (&["--threads", "0"], "threads"),
        (&["--mode", "fast"], "quick"),
        (&["--max-memory", "much"], "much"),
    ] {
        let (code, stderr) = refused(&place, &[&base[..], more].concat());
        assert_eq!(code, 2, "{more:?}: {stderr}");
        assert!(stderr.contains(named), "{more:?}: {stderr}");
    }
    assert!(!place.path("cache").exists(), "nothing was run");
    // A missing file is not a usage error: it could not be judged.
    let (code, report) = place.verify(&place.path("missing.gguf"), &reference, &[]);
    assert_eq!(code, 4);
    assert!(report["error"].as_str().unwrap().contains("missing.gguf"));
}

#[test]
fn reports_are_written_in_every_format() {
    let place = Place::new();
    let (copy, reference) = (example("copy.gguf"), example("reference.gguf"));
    let output = place.run(&[
        "verify",
        copy.to_str().unwrap(),
        "--reference",
        reference.to_str().unwrap(),
        "--mode",
        "quick",
        "--report",
        "json=r.json",
        "--report",
        "markdown=r.md",
        "--report",
        "html=r.html",
    ]);
    assert_eq!(output.status.code(), Some(0));
    let screen = String::from_utf8(output.stdout).unwrap();
    for part in ["SAME: copy.gguf", "claim", "mean divergence", "16 of at most 64", "r.html"] {
        assert!(screen.contains(part), "{part}: {screen}");
    }
    let report: Value = serde_json::from_slice(&std::fs::read(place.path("r.json")).unwrap()).unwrap();
    assert_eq!(report["final_decision"], "SAME");
    for name in ["r.md", "r.html"] {
        let text = std::fs::read_to_string(place.path(name)).unwrap();
        assert!(text.contains("SAME") && text.contains("copy.gguf"), "{name}");
    }
}

#[test]
fn decide_stops_where_the_formulas_say() {
    let place = Place::new();
    let decide = |scores: &str, more: &[&str]| -> (i32, Value) {
        std::fs::write(place.path("scores.json"), scores).unwrap();
        let output = place.run(&[&["decide", "scores.json", "--json"], more].concat());
        (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap())
    };
    let zeros = serde_json::to_string(&vec![0.0; 40]).unwrap();
    let (code, document) = decide(&zeros, &[]);
    assert_eq!((code, document["decision"].as_str(), document["n"].as_u64()), (0, Some("SAME"), Some(24)));
    assert_eq!(document["steps"].as_array().unwrap().len(), 40, "also the steps after the decision");
    let ones = serde_json::to_string(&vec![1.0; 5]).unwrap();
    let (code, document) = decide(&ones, &["--gamma", "0.1", "--delta", "0.1"]);
    assert_eq!(
        (code, document["decision"].as_str(), document["n"].as_u64()),
        (1, Some("DIFFERENT"), Some(3))
    );
    let (code, document) = decide("[]", &[]);
    assert_eq!(
        (code, document["decision"].as_str(), document["n"].as_u64()),
        (3, Some("UNDECIDED"), Some(0))
    );
    // A decision beyond --n-max does not count.
    let (code, document) = decide(&zeros, &["--n-max", "22"]);
    assert_eq!((code, document["decision"].as_str()), (3, Some("UNDECIDED")));

    for bad in ["[0, 1.5]", "[-0.1]", "[null]", "{}", "[0", "[\"NaN\"]"] {
        std::fs::write(place.path("scores.json"), bad).unwrap();
        let (code, stderr) = refused(&place, &["decide", "scores.json", "--json"]);
        assert_eq!(code, 4, "{bad}: {stderr}");
        assert!(stderr.contains("scores.json"), "{stderr}");
    }
    let impossible = ["decide", "scores.json", "--n-max", "32", "--confidence", "0.999", "--delta", "0.05"];
    let (code, stderr) = refused(&place, &impossible);
    assert!(code == 2 && stderr.contains("0.194"), "{stderr}");
}

#[test]
fn modes_print_one_proven_table() {
    let place = Place::new();
    let document: Value = serde_json::from_slice(&place.run(&["modes", "--json"]).stdout).unwrap();
    let modes = document["modes"].as_array().unwrap();
    assert_eq!(modes.len(), 3);
    for (mode, (name, alpha, gamma, delta, n_max)) in modes.iter().zip([
        ("quick", 0.025, 0.05, 0.25, 64),
        ("audit", 0.01, 0.05, 0.20, 200),
        ("extended", 0.001, 0.02, 0.10, 400),
    ]) {
        assert_eq!(mode["name"], name);
        assert_eq!(
            (&mode["alpha"], &mode["gamma"], &mode["delta"]),
            (&alpha.into(), &gamma.into(), &delta.into())
        );
        assert_eq!((&mode["n_max"], &mode["feasible"]), (&n_max.into(), &true.into()));
    }
    // The table's digest is in every report.
    let (_, report) = place.verify(&example("copy.gguf"), &example("reference.gguf"), &["--mode", "quick"]);
    assert_eq!(report["constants_digest"], document["constants_digest"]);
    let screen = String::from_utf8(place.run(&["modes"]).stdout).unwrap();
    assert!(screen.contains("audit (default)") && screen.contains("99.9 %"), "{screen}");
}

/// Real small models with known truth, beside the repository where there are any.
#[test]
fn real_models_get_the_verdicts_they_deserve() {
    let Some(models) = beside("models/gguf", "real models") else { return };
    let place = Place::new();
    let reference = models.join("base-f32.gguf");
    for (name, verdict) in [
        ("exact-copy-official", "SAME"),
        ("base-f16", "SAME"),
        ("equiv-ffn-permuted", "SAME"),
        ("chat-template-added", "SAME"),
        ("ft-python-300", "DIFFERENT"),
        ("unrelated-llama2xs", "DIFFERENT"),
        ("layers-swapped-1-2", "DIFFERENT"),
        ("rope-theta-500000", "DIFFERENT"),
        ("tok-permuted", "DIFFERENT"),
    ] {
        let (_, report) =
            place.verify(&models.join(name).with_extension("gguf"), &reference, &["--key", KEY]);
        assert_eq!(report["final_decision"], verdict, "{name}: {}", report["error"]);
        assert!(report["seconds"].as_f64().unwrap() < 30.0, "{name}");
    }
}
