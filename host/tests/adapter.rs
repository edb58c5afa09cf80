//! LoRA adapters through the real binary, in both forms: base with adapter says what the merged
//! weights say, and an adapter that does nothing or belongs to another model is refused.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on must stop"
)]

use std::fs;
use std::path::{Path, PathBuf};

use hf::{Dice, Folder, Source, Stored, Weight, pairs_from_halves, write_gguf, write_safetensors};
use place::{assayd, beside, example};
use serde_json::{Value, json};

#[expect(dead_code, reason = "each test file uses a part of it")]
mod hf;
#[expect(dead_code, reason = "each test file uses a part of it")]
mod place;

const RANK: usize = 4;
const ALPHA: f64 = 6.0;

fn base_gguf() -> PathBuf {
    example("reference.gguf")
}

/// Runs `logprobs` on fixed tokens.
fn run(model: &Path, adapter: Option<&Path>, more: &[&str], folder: &Path) -> (i32, String, String) {
    let tokens: Vec<u32> = std::iter::once(1).chain((0..80).map(|i| 259 + i * 37 % 250)).collect();
    let path = folder.join("tokens.json");
    fs::write(&path, serde_json::to_string(&[tokens]).unwrap()).unwrap();
    let mut arguments =
        vec!["logprobs", model.to_str().unwrap(), "--json", "--portable", "--tokens", path.to_str().unwrap()];
    if let Some(adapter) = adapter {
        arguments.extend(["--adapter", adapter.to_str().unwrap()]);
    }
    arguments.extend(more);
    assayd(&arguments, folder)
}

fn logprobs(model: &Path, adapter: Option<&Path>, folder: &Path) -> Vec<f64> {
    logprobs_with(model, adapter, &[], folder)
}

fn logprobs_with(model: &Path, adapter: Option<&Path>, more: &[&str], folder: &Path) -> Vec<f64> {
    let (code, out, err) = run(model, adapter, more, folder);
    assert_eq!(code, 0, "{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    let rows = report["sequences"][0]["logprobs"].as_array().unwrap();
    rows.iter().map(|x| x.as_f64().unwrap()).collect()
}

fn refusal(model: &Path, adapter: &Path, folder: &Path) -> String {
    let (code, out, err) = run(model, Some(adapter), &[], folder);
    assert_eq!(code, 4, "{err}");
    assert!(out.is_empty() && err.starts_with("error: "), "{out}{err}");
    err
}

fn furthest(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// One adapted matrix: its name in the folder, A and B.
struct Pair {
    module: String,
    a: Weight,
    b: Weight,
}

/// An adapter by chance over some matrices of the first and last layer.
fn pairs(base: &Folder, spread: f32) -> Vec<Pair> {
    let mut dice = Dice(11);
    let modules = ["0.self_attn.q_proj", "0.self_attn.k_proj", "2.self_attn.v_proj", "2.mlp.down_proj"];
    let module = |name: &str| {
        let module = format!("model.layers.{name}");
        let weight = base.weights.iter().find(|weight| weight.name == format!("{module}.weight")).unwrap();
        let (rows, columns) = (weight.shape[0], weight.shape[1]);
        let a = dice.weight("a", &[RANK, columns]);
        let mut b = dice.weight("b", &[rows, RANK]);
        b.values.iter_mut().for_each(|value| *value *= spread);
        Pair { module, a, b }
    };
    modules.map(module).into()
}

fn peft(folder: &Path, pairs: &[Pair], change: impl Fn(&mut Value)) -> PathBuf {
    fs::create_dir_all(folder).unwrap();
    let mut config = json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA, "bias": "none",
        "use_dora": false, "use_rslora": false, "fan_in_fan_out": false,
        "target_modules": ["q_proj", "k_proj", "v_proj", "down_proj"],
    });
    change(&mut config);
    fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
    let named = |weight: &Weight, module: &str, letter: &str| Weight {
        name: format!("base_model.model.{module}.lora_{letter}.weight"),
        ..weight.clone()
    };
    let weights: Vec<Weight> = pairs
        .iter()
        .flat_map(|pair| [named(&pair.a, &pair.module, "A"), named(&pair.b, &pair.module, "B")])
        .collect();
    write_safetensors(&folder.join("adapter_model.safetensors"), &weights, Stored::F32);
    folder.to_owned()
}

/// The same adapter as GGUF: rows of B in llama.cpp's order for queries and keys.
fn gguf_adapter(path: &Path, pairs: &[Pair], source: &Source) -> PathBuf {
    let number = |key: &str| source.number(&format!("llama.attention.{key}"));
    let weights: Vec<Weight> = pairs
        .iter()
        .flat_map(|pair| {
            let (layer, part) = pair.module.strip_prefix("model.layers.").unwrap().split_once('.').unwrap();
            let (to, _) = hf::LLAMA_NAMES.iter().find(|(_, from)| *from == part).unwrap();
            let b = match *to {
                "attn_q" => pairs_from_halves(&pair.b, number("head_count")),
                "attn_k" => pairs_from_halves(&pair.b, number("head_count_kv")),
                _ => pair.b.clone(),
            };
            let name = |letter: &str| format!("blk.{layer}.{to}.weight.lora_{letter}");
            [Weight { name: name("a"), ..pair.a.clone() }, Weight { name: name("b"), ..b }]
        })
        .collect();
    let metadata = [
        ("general.architecture".to_owned(), "llama".into()),
        ("general.type".to_owned(), "adapter".into()),
        ("adapter.type".to_owned(), "lora".into()),
        ("adapter.lora.alpha".to_owned(), (ALPHA as f32).into()),
    ];
    write_gguf(path, &metadata, &weights);
    path.to_owned()
}

/// W + alpha/r B A, in f64.
fn merged(base: &Folder, pairs: &[Pair]) -> Folder {
    let mut out = base.clone();
    for Pair { module, a, b } in pairs {
        let weight = out.weight(&format!("{module}.weight"));
        let columns = weight.shape[1];
        for (at, value) in weight.values.iter_mut().enumerate() {
            let (row, column) = (at / columns, at % columns);
            let sum: f64 = (0..RANK)
                .map(|k| f64::from(b.values[row * RANK + k]) * f64::from(a.values[k * columns + column]))
                .sum();
            *value = (f64::from(*value) + ALPHA / RANK as f64 * sum) as f32;
        }
    }
    out
}

#[test]
fn base_with_adapter_is_the_merged_model_in_both_forms() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let source = Source::read(&base_gguf());
    let base = Folder::of_llama(&source);
    let pairs = pairs(&base, 0.2);
    let folder = base.write(&at("base"), Stored::F32);
    let whole = logprobs(&merged(&base, &pairs).write(&at("merged"), Stored::F32), None, place.path());
    let plain = logprobs(&folder, None, place.path());
    assert!(furthest(&plain, &whole) > 0.1, "the adapter must matter");
    let ours = logprobs(&folder, Some(&peft(&at("peft"), &pairs, |_| {})), place.path());
    assert!(furthest(&ours, &whole) < 1e-5, "{}", furthest(&ours, &whole));
    // Quantised on load is the merged matrix, not the base's.
    let eight = |model: &Path, adapter: Option<&Path>| {
        logprobs_with(model, adapter, &["--load-bits", "8"], place.path())
    };
    let (ours, merged) = (eight(&folder, Some(&at("peft"))), eight(&at("merged"), None));
    assert!(furthest(&ours, &merged) < 0.02, "{}", furthest(&ours, &merged));
    assert!(furthest(&ours, &whole) > 1e-5, "it was quantised");
    let theirs =
        logprobs(&base_gguf(), Some(&gguf_adapter(&at("adapter.gguf"), &pairs, &source)), place.path());
    assert!(furthest(&theirs, &whole) < 1e-4, "{}", furthest(&theirs, &whole));
    // Rank-stabilised: alpha over the root of the rank, here twice as much.
    let stabilised = peft(&at("rs"), &pairs, |config| config["use_rslora"] = json!(true));
    let halved = peft(&at("half"), &pairs, |config| config["lora_alpha"] = json!(2.0 * ALPHA));
    let stabilised = logprobs(&folder, Some(&stabilised), place.path());
    assert!(furthest(&stabilised, &logprobs(&folder, Some(&halved), place.path())) < 1e-9);
}

#[test]
fn adapters_that_do_nothing_or_do_not_fit_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let source = Source::read(&base_gguf());
    let base = Folder::of_llama(&source);
    let folder = base.write(&at("base"), Stored::F32);
    let idle = pairs(&base, 0.0);
    for (model, adapter) in [
        (&folder, peft(&at("idle"), &idle, |_| {})),
        (&base_gguf(), gguf_adapter(&at("idle.gguf"), &idle, &source)),
    ] {
        let said = refusal(model, &adapter, place.path());
        assert!(said.contains("changes nothing"), "{said}");
    }
    let good = pairs(&base, 0.2);
    let peft_form = peft(&at("good"), &good, |_| {});
    let gguf_form = gguf_adapter(&at("good.gguf"), &good, &source);
    for (model, adapter, words) in [
        (&base_gguf(), &peft_form, "PEFT form"),
        (&folder, &gguf_form, "GGUF form"),
        (&folder, &folder, "is not a LoRA adapter"),
        (&peft_form, &peft_form, "is an adapter and no model"),
    ] {
        let said = refusal(model, adapter, place.path());
        assert!(said.contains(words), "{words}: {said}");
    }
    let mut foreign = pairs(&base, 0.2);
    foreign[0].module = "model.layers.9.self_attn.q_proj".to_owned();
    let said = refusal(&folder, &peft(&at("foreign"), &foreign, |_| {}), place.path());
    assert!(said.contains("another model") && said.contains("model.layers.9.self_attn.q_proj"), "{said}");
    let mut narrow = pairs(&base, 0.2);
    narrow[0].a = Dice(1).weight("a", &[RANK, 32]);
    let said = refusal(&folder, &peft(&at("narrow"), &narrow, |_| {}), place.path());
    assert!(said.contains("another model"), "{said}");
    let dora = peft(&at("dora"), &good, |config| config["use_dora"] = json!(true));
    assert!(refusal(&folder, &dora, place.path()).contains("DoRA"));
}

#[test]
fn a_verdict_about_base_and_adapter_counts_the_adapter() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let source = Source::read(&base_gguf());
    let base = Folder::of_llama(&source);
    let pairs = pairs(&base, 0.6);
    let folder = base.write(&at("base"), Stored::F32);
    let whole = merged(&base, &pairs).write(&at("merged"), Stored::F32);
    let peft_form = peft(&at("peft"), &pairs, |_| {});
    let gguf_form = gguf_adapter(&at("adapter.gguf"), &pairs, &source);
    for (candidate, adapter, reference, wanted) in [
        (&folder, &peft_form, &folder, "DIFFERENT"),
        (&folder, &peft_form, &whole, "SAME"),
        (&base_gguf(), &gguf_form, &base_gguf(), "DIFFERENT"),
        (&base_gguf(), &gguf_form, &whole, "SAME"),
    ] {
        let (_, out, err) = assayd(
            &[
                "verify",
                candidate.to_str().unwrap(),
                "--adapter",
                adapter.to_str().unwrap(),
                "--reference",
                reference.to_str().unwrap(),
                "--mode",
                "quick",
                "--key",
                "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
                "--json",
            ],
            place.path(),
        );
        let report: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {err}"));
        assert_eq!(report["final_decision"], wanted, "{}: {}", report["error"], report["errors"]);
        assert_eq!(report["adapter"], adapter.to_str().unwrap());
        // The adapter's digests are part of what the verdict rests on.
        let files = report["files"].as_array().unwrap();
        let listed = |file: &Value| {
            let path = Path::new(file["path"].as_str().unwrap());
            file["role"] == "candidate" && path.starts_with(adapter) && file["sha256"].is_string()
        };
        assert!(files.iter().any(listed), "{files:?}");
        assert_ne!(report["provenance"]["candidate_root"], report["provenance"]["reference_root"]);
    }
}

/// The real adapter of the model family: both forms have the known likelihoods of the merged model.
#[test]
fn the_known_adapter_has_its_known_log_probabilities() {
    let Some(family) = beside("models", "the known family") else { return };
    let truth = fs::read_to_string(family.join("ground_truth.json")).unwrap();
    let truth: Value = serde_json::from_str(&truth).unwrap();
    let wanted = truth["models"]["lora-r8-merged"]["nll_per_sequence"].as_array().unwrap();
    let place = tempfile::tempdir().unwrap();
    let tokens = family.join("sequences.json");
    // The folder holds both forms: the GGUF one is named itself.
    let peft = place.path().join("peft");
    fs::create_dir(&peft).unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(family.join("lora/r8").join(name), peft.join(name)).unwrap();
    }
    for (model, adapter) in
        [("hf/base-float32", peft), ("gguf/base-f32.gguf", family.join("lora/r8/adapter-r8.gguf"))]
    {
        let model = family.join(model);
        let (code, out, err) = assayd(
            &[
                "logprobs",
                model.to_str().unwrap(),
                "--adapter",
                adapter.to_str().unwrap(),
                "--tokens",
                tokens.to_str().unwrap(),
                "--portable",
                "--json",
            ],
            place.path(),
        );
        assert_eq!(code, 0, "{err}");
        let report: Value = serde_json::from_str(&out).unwrap();
        let sequences = report["sequences"].as_array().unwrap();
        assert_eq!(sequences.len(), wanted.len());
        for (sequence, wanted) in sequences.iter().zip(wanted) {
            let (nll, wanted) = (sequence["nll"].as_f64().unwrap(), wanted.as_f64().unwrap());
            assert!((nll - wanted).abs() < 1e-5, "{}: {nll} and not {wanted}", model.display());
        }
    }
}
