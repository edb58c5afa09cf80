//! Safetensors folders through the real binary: their log-probabilities are those of llama.cpp
//! on the same weights, of every family that is supported; what is not understood is refused
//! with its name.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that cannot go on must stop, and shows what it measured"
)]

use std::fs;
use std::path::{Path, PathBuf};

use assayd::engine::candle::CandleModel;
use assayd::engine::{Detail, EngineKind, LoadSpec, Model as _, ScoreItem};
use assayd::model::gguf::Value as Entry;
use hf::{Dice, Folder, Source, Stored, Weight, pairs_from_halves, write_gguf};
use place::{assayd, beside, example};
use serde_json::{Value, json};

#[path = "safetensors/eight.rs"]
mod eight;
#[path = "safetensors/families.rs"]
mod families;
mod hf;
#[expect(dead_code, reason = "each test file uses a part of it")]
mod place;

fn reference() -> PathBuf {
    example("reference.gguf")
}

fn tokens_file(folder: &Path, sequences: &[Vec<u32>]) -> PathBuf {
    let path = folder.join("tokens.json");
    fs::write(&path, serde_json::to_string(sequences).unwrap()).unwrap();
    path
}

/// Log-probabilities of every position of every sequence, and the engine's name.
fn logprobs(model: &Path, sequences: &[Vec<u32>], more: &[&str], folder: &Path) -> (Vec<f64>, String) {
    let tokens = tokens_file(folder, sequences);
    let mut arguments =
        vec!["logprobs", model.to_str().unwrap(), "--json", "--tokens", tokens.to_str().unwrap()];
    arguments.extend(more);
    let (code, out, err) = assayd(&arguments, folder);
    assert_eq!(code, 0, "{}: {err}", model.display());
    let report: Value = serde_json::from_str(&out).unwrap();
    let rows = report["sequences"].as_array().unwrap().iter().flat_map(|s| s["logprobs"].as_array().unwrap());
    (rows.map(|x| x.as_f64().unwrap()).collect(), report["engine"]["name"].as_str().unwrap().to_owned())
}

/// What `logprobs` says about a model it does not load.
fn refusal(model: &Path, folder: &Path) -> String {
    let tokens = tokens_file(folder, &[vec![1, 300, 301]]);
    let (code, out, err) = assayd(
        &["logprobs", model.to_str().unwrap(), "--tokens", tokens.to_str().unwrap(), "--json"],
        folder,
    );
    assert_eq!(code, 4, "{err}");
    assert!(out.is_empty() && err.starts_with("error: "), "{out}{err}");
    err
}

/// No two differ by more than `bound`; where a token is less likely than e^-10 in proportion
/// more, because F32 rounds large logits in proportion.
#[track_caller]
fn close(a: &[f64], b: &[f64], bound: f64) {
    assert_eq!(a.len(), b.len());
    let differs = |(a, b): (&f64, &f64)| (a - b).abs() / (b.abs() / 10.0).max(1.0);
    let worst = a.iter().zip(b).map(differs).fold(0.0, f64::max);
    println!("largest difference {worst:.2e} over {} positions", a.len());
    assert!(worst <= bound, "largest difference {worst}, allowed {bound}");
}

/// A long sequence (more than one chunk), a short one, and one of two tokens.
fn sequences(longest: u32) -> Vec<Vec<u32>> {
    let long: Vec<u32> = std::iter::once(1).chain((0..longest - 1).map(|i| 259 + i * 37 % 250)).collect();
    vec![long.clone(), long[3..40].to_vec(), vec![1, 300]]
}

#[test]
fn the_example_model_says_the_same_through_both_engines() {
    let folder = tempfile::tempdir().unwrap();
    let made = Folder::of_llama(&Source::read(&reference()));
    let plain = made.write(&folder.path().join("plain"), Stored::F32);
    let sharded = made.write_sharded(&folder.path().join("sharded"), Stored::F32);
    let asked = sequences(400);
    let (wanted, engine) = logprobs(&reference(), &asked, &["--portable"], folder.path());
    assert_eq!(engine, "llama.cpp");
    let (got, engine) = logprobs(&plain, &asked, &[], folder.path());
    assert_eq!(engine, "candle");
    close(&got, &wanted, 1e-4);
    let (same, _) = logprobs(&sharded, &asked, &["--threads", "2"], folder.path());
    close(&same, &got, 1e-5);
    // Where a sequence begins to be scored does not move what is scored.
    let (tail, _) = logprobs(&plain, &asked[..1], &["--from", "300"], folder.path());
    close(&tail, &got[299..399], 0.0);
}

#[test]
fn sixteen_bit_weights_are_computed_as_their_values_in_32() {
    let folder = tempfile::tempdir().unwrap();
    let made = Folder::of_llama(&Source::read(&reference()));
    for (stored, name) in [(Stored::F16, "f16"), (Stored::BF16, "bf16")] {
        let mut widened = made.clone();
        for weight in &mut widened.weights {
            weight.values = stored.kept(&weight.values);
        }
        let narrow = widened.write(&folder.path().join(name), stored);
        let wide = widened.write(&folder.path().join(format!("{name}-wide")), Stored::F32);
        let asked = sequences(100);
        let (narrow, _) = logprobs(&narrow, &asked, &[], folder.path());
        let (wide, _) = logprobs(&wide, &asked, &[], folder.path());
        close(&narrow, &wide, 0.0);
    }
}

#[test]
fn what_is_not_understood_is_refused_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let made = Folder::of_llama(&Source::read(&reference()));
    let refused = |name: &str, change: &dyn Fn(&mut Folder)| {
        let mut changed = made.clone();
        change(&mut changed);
        let path = changed.write(&folder.path().join(name), Stored::F32);
        refusal(&path, folder.path())
    };
    let set = |key: &'static str, value: Value| move |folder: &mut Folder| folder.config[key] = value.clone();
    for (name, change, words) in [
        (
            "arch",
            set("model_type", json!("rwkv")),
            &["rwkv", "llama, mistral, qwen2, qwen3, gpt2, phi, phi3"][..],
        ),
        (
            "yarn",
            set("rope_scaling", json!({"rope_type": "yarn", "factor": 2.0})),
            &["yarn", "linear and llama3"],
        ),
        ("act", set("hidden_act", json!("mish")), &["mish"]),
        ("packed", set("quantization_config", json!({"quant_method": "gptq", "bits": 4})), &["gptq"]),
        ("heads", set("num_key_value_heads", json!(3)), &["has the shape", "k_proj.weight", "[96, 128]"]),
        (
            "class",
            set("architectures", json!(["LlamaForSequenceClassification"])),
            &["LlamaForSequenceClassification"],
        ),
        ("deep", set("num_hidden_layers", json!(4)), &["layer 3"]),
        (
            "bias",
            set("attention_bias", json!(true)),
            &["missing tensors", "model.layers.0.self_attn.q_proj.bias"],
        ),
        ("huge", set("max_position_embeddings", json!(1u64 << 60)), &["max_position_embeddings"]),
        ("head", set("head_dim", json!(64)), &["has the shape", "k_proj.weight"]),
    ] {
        let said = refused(name, &change);
        for word in words {
            assert!(said.contains(word), "{name}: {word} is not in: {said}");
        }
    }
    let said = refused("extra", &|folder| {
        let weight =
            Weight { name: "model.layers.0.mlp.secret.weight".to_owned(), ..folder.weights[0].clone() };
        folder.weights.push(weight);
    });
    assert!(said.contains("does not have: model.layers.0.mlp.secret.weight"), "{said}");
    let said = refused("untied", &|folder| {
        let mut weight = folder.weight("model.embed_tokens.weight").clone();
        weight.name = "lm_head.weight".to_owned();
        weight.values[5] += 1.0;
        folder.weights.retain(|weight| weight.name != "lm_head.weight");
        folder.weights.push(weight);
        folder.config["tie_word_embeddings"] = json!(true);
    });
    assert!(said.contains("tied") && said.contains("lm_head.weight"), "{said}");
    // A file of weights without its folder.
    let alone = folder.path().join("alone");
    fs::create_dir(&alone).unwrap();
    hf::write_safetensors(&alone.join("weights.safetensors"), &made.weights, Stored::F32);
    assert!(refusal(&alone.join("weights.safetensors"), folder.path()).contains("config.json"));
}

fn load(folder: &Path, context: u32) -> CandleModel {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let spec = LoadSpec::judged(EngineKind::Candle, paths, context, 1);
    CandleModel::load(&spec, &mut |_| {}).unwrap()
}

/// Token by token over the cache and all at once give the same: an error in positions or in
/// the cache would show here.
#[test]
fn decoding_says_what_scoring_says() {
    let folder = tempfile::tempdir().unwrap();
    let made = Folder::of_llama(&Source::read(&reference()));
    let mut model = load(&made.write(folder.path(), Stored::F32), 400);
    let prompts = [model.tokenize("One morning, Anna", true).unwrap(), sequences(270)[0].clone()];
    assert_eq!(prompts[0][0], 1, "the tokenizer begins with BOS");
    assert!(model.info().adds_bos);
    let grown = model.generate(&prompts, 40, &mut |_| {}).unwrap();
    for (prompt, grown) in prompts.iter().zip(&grown) {
        assert_eq!(grown.len(), 40);
        let tokens: Vec<u32> = prompt.iter().chain(grown).copied().collect();
        let item = ScoreItem { tokens, scored_from: prompt.len() as u32, detail: Detail::Own };
        model
            .score(&[item], &mut |_, trace| {
                let trace = trace.unwrap();
                for (row, (&chosen, &most)) in grown.iter().zip(&trace.argmax).enumerate() {
                    // Generation never takes the token that ends it.
                    assert!(chosen == most || most == 2, "row {row}: {chosen} and {most}");
                }
                Ok(())
            })
            .unwrap();
    }
    let text = model.detokenize(&grown[0]).unwrap();
    assert!(text.chars().filter(|c| c.is_alphabetic()).count() > 40, "{text}");
    // Text is text: names of special tokens in it are not special.
    assert!(!model.tokenize("a </s> b", false).unwrap().contains(&2));
    let too_long = model.generate(&[vec![1; 390]], 20, &mut |_| {});
    assert!(too_long.is_err());
}

#[test]
fn a_folder_is_judged_against_a_gguf_file_and_another_folder() {
    let folder = tempfile::tempdir().unwrap();
    let key = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    let made = Folder::of_llama(&Source::read(&reference()));
    let same = made.write(&folder.path().join("same"), Stored::F32);
    let tuned = Folder::of_llama(&Source::read(&example("finetuned.gguf")));
    let tuned = tuned.write(&folder.path().join("tuned"), Stored::F32);
    let mut swapped = made.clone();
    swapped.tokenizer = swapped
        .tokenizer
        .replace("\"<0x41>\":", "\"<0xNN>\":")
        .replace("\"<0x42>\":", "\"<0x41>\":")
        .replace("\"<0xNN>\":", "\"<0x42>\":");
    let swapped = swapped.write(&folder.path().join("swapped"), Stored::F32);
    // GGUF has no word for this, so nobody may say that the tokenizers are equal.
    let mut unworded = made.clone();
    let mut tokenizer: Value = serde_json::from_str(&unworded.tokenizer).unwrap();
    tokenizer["added_tokens"][2]["lstrip"] = true.into();
    unworded.tokenizer = tokenizer.to_string();
    let unworded = unworded.write(&folder.path().join("unworded"), Stored::F32);
    let bundle = folder.path().join("b.bundle");
    let verify = |candidate: &Path, reference: &Path| {
        let (code, out, err) = assayd(
            &[
                "verify",
                candidate.to_str().unwrap(),
                "--reference",
                reference.to_str().unwrap(),
                "--mode",
                "quick",
                "--key",
                key,
                "--json",
                "--bundle",
                bundle.to_str().unwrap(),
            ],
            folder.path(),
        );
        let report: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {err}"));
        (code, report)
    };
    for (candidate, reference, wanted, code) in [
        (&same, &reference(), "SAME", 0),
        (&reference(), &same, "SAME", 0),
        (&tuned, &reference(), "DIFFERENT", 1),
        (&tuned, &same, "DIFFERENT", 1),
        (&same, &same, "SAME", 0),
        (&swapped, &reference(), "DIFFERENT", 1),
        (&unworded, &reference(), "UNDECIDED", 3),
        (&unworded, &same, "DIFFERENT", 1),
    ] {
        let (got, report) = verify(candidate, reference);
        let told = (&report["error"], &report["errors"]);
        assert_eq!(
            report["final_decision"],
            wanted,
            "{} and {}: {told:?}",
            candidate.display(),
            reference.display()
        );
        assert_eq!(got, code);
        let (code, out, err) = assayd(&["bundle", "verify", bundle.to_str().unwrap()], folder.path());
        assert_eq!(code, 0, "{} and {}: {out}{err}", candidate.display(), reference.display());
        let config = &report["security"]["config_hash"];
        assert_eq!((&config["match"], &config["differences"]), (&json!(true), &json!([])), "{told:?}");
        if wanted == "UNDECIDED" {
            assert_eq!(report["security"]["tokenizer"], json!({"compatible": null, "differences": []}));
            assert!(report["errors"].to_string().contains("added_tokens[2]: GGUF has no word"), "{told:?}");
        }
        if candidate == &same {
            assert!(
                report["enhanced_diff"]["mean_diff"].as_f64().unwrap() < 1e-6,
                "{}",
                report["enhanced_diff"]
            );
            assert_eq!(report["security"]["tokenizer"]["compatible"], true);
        }
        if candidate == &swapped {
            let differences = report["security"]["tokenizer"]["differences"].to_string();
            assert!(differences.contains("<0x41>"), "{differences}");
            assert_eq!(report["enhanced_diff"]["n_effective"], 0);
        }
    }
}

/// The family of real models whose log-probabilities are known in float64.
#[test]
fn the_known_family_has_its_known_log_probabilities() {
    let Some(family) = beside("models", "the known family") else { return };
    let truth = fs::read_to_string(family.join("ground_truth.json")).unwrap();
    let truth: Value = serde_json::from_str(&truth).unwrap();
    let sequences: Value =
        serde_json::from_str(&fs::read_to_string(family.join("sequences.json")).unwrap()).unwrap();
    let ids = |sequence: &Value| serde_json::from_value::<Vec<u32>>(sequence["ids"].clone()).unwrap();
    let asked: Vec<Vec<u32>> = sequences["sequences"].as_array().unwrap().iter().map(ids).collect();
    let folder = tempfile::tempdir().unwrap();
    for (path, name) in [
        ("hf/base-float32", "base"),
        ("hf/base-float32-2shards", "base"),
        ("hf/base-bfloat16", "base-bf16-all"),
        ("hf/ft-python-300", "ft-python-300"),
    ] {
        let (got, _) = logprobs(&family.join(path), &asked, &[], folder.path());
        let wanted = truth["models"][name]["nll_per_sequence"].as_array().unwrap();
        for ((got, wanted), tokens) in got.chunks(63).zip(wanted).zip(&asked) {
            assert_eq!(tokens.len(), 64);
            let nll = -got.iter().sum::<f64>() / 63.0;
            let wanted = wanted.as_f64().unwrap();
            assert!((nll - wanted).abs() < 1e-5, "{path}: {nll} and not {wanted}");
        }
    }
    // Token by token, the folder and the file.
    let (ours, _) = logprobs(&family.join("hf/base-float32"), &asked, &[], folder.path());
    let (theirs, _) = logprobs(&family.join("gguf/base-f32.gguf"), &asked, &["--portable"], folder.path());
    close(&ours, &theirs, 1e-4);
}
