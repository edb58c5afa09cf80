//! Eight bits on load: near the weights as they are stored and never equal to them, in a quarter
//! of the memory, and said wherever a person or a program looks.

use std::fs::File;
use std::io::{BufWriter, Write as _};

use assayd::engine::LoadBits;
use assayd::worker::{Ending, Worker, WorkerLimits, dry_run};

use super::*;
use place::{KEY, Place};

/// Near, and not equal: other weights were computed with, and only a little other ones. In
/// proportion, because what is asked are tokens by chance, of which a model thinks little.
#[track_caller]
pub fn near(wide: &[f64], eight: &[f64]) {
    assert_eq!(wide.len(), eight.len());
    let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / wide.len() as f64;
    let differs = mean(&mut wide.iter().zip(eight).map(|(a, b)| (a - b).abs()));
    let share = differs / mean(&mut wide.iter().map(|x| x.abs()));
    println!("8 bits: mean difference {differs:.2e}, {:.2} % of the mean", 100.0 * share);
    assert!(share > 1e-5 && share < 0.02, "{differs}, {share}");
}

#[test]
fn eight_bits_are_of_the_stored_values_however_they_are_stored() {
    let folder = tempfile::tempdir().unwrap();
    let mut made = Folder::of_llama(&Source::read(&reference()));
    for weight in &mut made.weights {
        weight.values = Stored::F16.kept(&weight.values);
    }
    let wide = made.write(&folder.path().join("f32"), Stored::F32);
    let narrow = made.write_sharded(&folder.path().join("f16"), Stored::F16);
    let asked = sequences(300);
    let (exact, _) = logprobs(&wide, &asked, &[], folder.path());
    let eight = ["--load-bits", "8"];
    let (rounded, _) = logprobs(&wide, &asked, &eight, folder.path());
    near(&exact, &rounded);
    close(&logprobs(&narrow, &asked, &eight, folder.path()).0, &rounded, 0.0);
    // Neither threads nor neighbours move a number.
    let more = ["--load-bits", "8", "--threads", "2"];
    close(&logprobs(&wide, &asked, &more, folder.path()).0, &rounded, 0.0);
    close(&logprobs(&wide, &asked[1..2], &eight, folder.path()).0, &rounded[299..335], 0.0);
}

const WIDTH: usize = 768;
const FFN: usize = 2048;
const LAYERS: usize = 16;
const VOCAB: usize = 512;

/// A folder of 113 million weights in F16, written without ever being in memory.
fn large(folder: &Path) -> u64 {
    let source = Source::read(&reference());
    let mut tensors: Vec<(String, Vec<usize>)> = vec![
        ("model.embed_tokens.weight".to_owned(), vec![VOCAB, WIDTH]),
        ("model.norm.weight".to_owned(), vec![WIDTH]),
    ];
    for layer in 0..LAYERS {
        let mut put = |name: &str, shape: &[usize]| {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), shape.to_vec()));
        };
        for name in ["input_layernorm", "post_attention_layernorm"] {
            put(name, &[WIDTH]);
        }
        for name in ["q", "k", "v", "o"] {
            put(&format!("self_attn.{name}_proj"), &[WIDTH, WIDTH]);
        }
        put("mlp.gate_proj", &[FFN, WIDTH]);
        put("mlp.up_proj", &[FFN, WIDTH]);
        put("mlp.down_proj", &[WIDTH, FFN]);
    }
    let config = json!({
        "model_type": "llama", "vocab_size": VOCAB, "hidden_size": WIDTH, "intermediate_size": FFN,
        "num_hidden_layers": LAYERS, "num_attention_heads": 12, "num_key_value_heads": 12,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "hidden_act": "silu",
        "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2,
    });
    Folder { config, tokenizer: source.tokenizer_json(), weights: Vec::new() }.write(folder, Stored::F16);
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in &tensors {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({"dtype": "F16", "shape": shape, "data_offsets": [start, end]}));
    }
    let mut text = serde_json::to_string(&header).unwrap();
    while !text.len().is_multiple_of(8) {
        text.push(' ');
    }
    let mut file = BufWriter::new(File::create(folder.join("model.safetensors")).unwrap());
    file.write_all(&(text.len() as u64).to_le_bytes()).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    // The same numbers over and over, beginning elsewhere in each tensor.
    let numbers = Dice(5).weight("matrix", &[1021, WIDTH]);
    let numbers = Stored::F16.bytes(&Stored::F16.kept(&numbers.values));
    for (number, (_, shape)) in tensors.iter().enumerate() {
        if shape.len() == 1 {
            file.write_all(&[0x00, 0x3c].repeat(shape[0])).unwrap();
            continue;
        }
        let mut left = 2 * shape.iter().product::<usize>();
        let mut at = 2 * 7919 * number % numbers.len();
        while left > 0 {
            let some = left.min(numbers.len() - at);
            file.write_all(&numbers[at..at + some]).unwrap();
            (left, at) = (left - some, 0);
        }
    }
    file.flush().unwrap();
    end as u64
}

fn limits() -> WorkerLimits {
    WorkerLimits { program: Some(PathBuf::from(env!("CARGO_BIN_EXE_assayd"))), ..WorkerLimits::default() }
}

/// Row 44 of the feature list: the memory of 8 bits is half that of 16, give or take 5 points; the
/// peak, and not only what is left of it when all is loaded.
#[test]
fn eight_bits_take_half_the_memory_of_sixteen_and_as_much_as_predicted() {
    let folder = tempfile::tempdir().unwrap();
    let sixteen = large(folder.path());
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let limits = limits();
    let run = |load_bits: Option<LoadBits>, tokens: u32| {
        let spec = LoadSpec { load_bits, ..LoadSpec::judged(EngineKind::Candle, paths.clone(), 256, 1) };
        let (footprint, _) = dry_run(&spec, &limits).unwrap();
        let mut worker = Worker::start(&spec, &limits, &mut |_| {}).unwrap();
        let items =
            [ScoreItem { tokens: (3..3 + tokens).collect(), scored_from: 1, detail: Detail::Summary }];
        let mut logprobs = Vec::new();
        worker.score(&items, &mut |_, trace| logprobs = trace.unwrap().token_logprobs).unwrap();
        let summary = worker.finish();
        assert_eq!(summary.ending, Ending::Ok);
        (summary.peak_rss_anon_bytes, footprint, logprobs)
    };
    // With few tokens there is little but the weights, and what loading them took.
    let (peak, footprint, _) = run(Some(LoadBits::Eight), 4);
    let share = (peak - footprint.process_bytes) as f64 / sixteen as f64;
    println!("8 bits take {:.1} % of {sixteen} bytes in F16", 100.0 * share);
    assert!((0.45..=0.55).contains(&share), "{share}");
    let answers = [None, Some(LoadBits::Eight)].map(|load_bits| {
        let (peak, footprint, logprobs) = run(load_bits, 250);
        let predicted = footprint.held_bytes();
        let error = predicted as f64 / peak as f64 - 1.0;
        println!("{load_bits:?}: peak {peak}, predicted {predicted} ({:+.1} %)", 100.0 * error);
        assert!(error.abs() < 0.05, "{predicted} and {peak}");
        logprobs
    });
    near(&answers[0], &answers[1]);
}

/// "How far is my model at 8 bits from itself?": flagged in the JSON, in the claim, in the remarks,
/// on the screen and in every format; and the bundle holds it to be so.
#[test]
fn a_verdict_about_eight_bits_says_so_everywhere() {
    let place = Place::new();
    let plain = Folder::of_llama(&Source::read(&reference())).write(&place.path("plain"), Stored::F32);
    let quick = ["--mode", "quick", "--key", KEY];
    let (code, as_stored) = place.verify(&plain, &plain, &quick);
    assert_eq!((code, &as_stored["load_bits"]), (0, &Value::Null));
    assert_eq!(as_stored["enhanced_diff"]["mean_diff"], 0.0);
    assert!(!as_stored.to_string().contains("quantised comparison"), "{as_stored}");

    // With the same key, so with the reference's traces of before from the cache.
    let mut arguments = [&quick[..], &["--load-bits", "8", "--bundle", "eight.bundle"]].concat();
    for report in ["html=r.html", "markdown=r.md", "card=r.card"] {
        arguments.extend(["--report", report]);
    }
    let (code, report) = place.verify(&plain, &plain, &arguments);
    assert_eq!((code, &report["load_bits"]), (0, &json!(8)), "{report}");
    // Only one of the two was rounded: the same weights on both sides would score nothing.
    let mean = report["enhanced_diff"]["mean_diff"].as_f64().unwrap();
    assert!(mean > 0.0 && mean < 0.2, "{mean}");
    assert_eq!(report["lineage"]["relation"], "identical");
    let flagged = |text: &str| text.contains("quantised comparison") && text.contains("8 bits");
    assert!(flagged(report["enhanced_diff"]["claim"].as_str().unwrap()), "{report}");
    assert!(flagged(&report["remarks"].to_string()), "{report}");
    for rendered in ["r.html", "r.md", "r.card"] {
        assert!(flagged(&fs::read_to_string(place.path(rendered)).unwrap()), "{rendered}");
    }
    let (code, verified) = place.json(&["bundle", "verify", "eight.bundle", "--json"]);
    assert_eq!(code, 0, "{verified}");
    let name = plain.to_str().unwrap();
    let screen = [&["verify", name, "--reference", name, "--load-bits", "8"], &quick[..]].concat();
    let (code, screen, _) = assayd(&screen, place.0.path());
    assert!(code == 0 && screen.contains("plain, quantised while loading, behaves like"), "{screen}");
    assert!(flagged(&screen) && screen.contains("quantised"), "{screen}");
}

/// The damage that eight bits do, on tokens: the reference is the folder as it is stored.
#[test]
fn the_damage_of_eight_bits_is_measured_against_the_same_folder() {
    let place = Place::new();
    let plain = Folder::of_llama(&Source::read(&reference())).write(&place.path("plain"), Stored::F32);
    let asked = sequences(100);
    let tokens = tokens_file(place.0.path(), &asked);
    let (name, tokens) = (plain.to_str().unwrap(), tokens.to_str().unwrap());
    let compared = |more: &[&str]| {
        let usual = ["compare", name, "--reference", name, "--tokens", tokens, "--json"];
        let (code, found) = place.json(&[&usual[..], more].concat());
        assert_eq!(code, 0, "{found}");
        found
    };
    let (same, eight) = (compared(&[]), compared(&["--load-bits", "8"]));
    assert_eq!((&same["kl"]["max"], &same["load_bits"]), (&json!(0.0), &Value::Null), "{same}");
    let kl = eight["kl"]["mean"].as_f64().unwrap();
    assert!(kl > 1e-9 && kl < 0.01 && eight["load_bits"] == 8, "{eight}");
    assert_eq!(eight["mean_nll_reference"], same["mean_nll_reference"], "only the candidate is quantised");
}

#[test]
fn what_cannot_be_loaded_in_eight_bits_is_refused_with_what_to_do() {
    let place = Place::new();
    let model = reference();
    let model = model.to_str().unwrap();
    let tokens = tokens_file(place.0.path(), &[vec![1, 300, 301]]);
    let tokens = tokens.to_str().unwrap();
    let refused = |arguments: &[&str], code: i32, words: &[&str]| {
        let (got, out, err) = assayd(arguments, place.0.path());
        assert_eq!(got, code, "{arguments:?}: {out}{err}");
        for word in words {
            assert!(err.contains(word) || out.contains(word), "{arguments:?}: no {word} in {out}{err}");
        }
    };
    let why = ["only safetensors folders", "llama-quantize"];
    refused(&["logprobs", model, "--tokens", tokens, "--load-bits", "8"], 2, &why);
    refused(&["bench", model, "--load-bits", "8"], 2, &why);
    refused(&["estimate", model, "--load-bits", "8"], 2, &why);
    refused(&["compare", model, "--reference", model, "--tokens", tokens, "--load-bits", "8"], 2, &why);
    refused(&["verify", model, "--reference", model, "--load-bits", "8"], 4, &why);
    refused(
        &[
            "verify",
            "http://127.0.0.1:9/v1#m",
            "--reference",
            model,
            "--scorer",
            "delta-ce",
            "--load-bits",
            "8",
        ],
        2,
        &["only safetensors folders", "endpoint"],
    );
    refused(&["estimate", model, "--load-bits", "4"], 2, &["8 bits, not in 4"]);
    // Nor does a worker pass over it, whoever asks.
    let spec = LoadSpec {
        load_bits: Some(LoadBits::Eight),
        ..LoadSpec::judged(EngineKind::LlamaCpp, vec![reference()], 64, 1)
    };
    for end in [Worker::start(&spec, &limits(), &mut |_| {}).err(), dry_run(&spec, &limits()).err()] {
        let detail = end.unwrap().detail;
        assert!(detail.contains("only safetensors folders"), "{detail}");
    }
    // Weights that are no numbers are not rounded to some.
    let mut made = Folder::of_llama(&Source::read(&reference()));
    made.weight("model.layers.1.mlp.up_proj.weight").values[77] = f32::INFINITY;
    let broken = made.write(&place.path("broken"), Stored::F32);
    refused(
        &["logprobs", broken.to_str().unwrap(), "--tokens", tokens, "--load-bits", "8"],
        4,
        &["layers.1.mlp.up_proj.weight", "not finite"],
    );
    // Half as many bytes for a candle model, and said.
    let plain = Folder::of_llama(&Source::read(&reference())).write(&place.path("plain"), Stored::F32);
    let bytes = |more: &[&str]| {
        let (code, found) = place.json(&[&["estimate", plain.to_str().unwrap(), "--json"], more].concat());
        assert_eq!(code, 0, "{found}");
        (found["devices"][0]["model_bytes"].as_f64().unwrap(), found["load_bits"].clone())
    };
    let ((wide, none), (eight, bits)) = (bytes(&[]), bytes(&["--load-bits", "8"]));
    assert_eq!((none, bits), (Value::Null, json!(8)));
    assert!((0.26..0.28).contains(&(eight / wide)), "{eight} of {wide}");
}
