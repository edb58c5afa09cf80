//! Differences made one at a time, and the small real models where they are present.

mod across;

use std::path::PathBuf;

use super::*;
use crate::model::gguf::write::write_file;
use crate::model::gguf::{Array, Value as Entry};

type Entries = Vec<(&'static str, Entry)>;

fn metadata() -> Entries {
    let tokens: Vec<String> = (0..16).map(|i| format!("t{i}")).collect();
    vec![
        ("general.architecture", "llama".into()),
        ("general.name", "a".into()),
        ("llama.embedding_length", 64u32.into()),
        ("llama.block_count", 2u32.into()),
        ("llama.attention.head_count", 4u32.into()),
        ("llama.attention.layer_norm_rms_epsilon", 1e-5f32.into()),
        ("llama.rope.freq_base", 10_000f32.into()),
        ("tokenizer.ggml.model", "gpt2".into()),
        ("tokenizer.ggml.pre", "llama-bpe".into()),
        ("tokenizer.ggml.tokens", Array::of_strings(tokens).into()),
        ("tokenizer.ggml.scores", Array::of_f32(&[0.5; 16]).into()),
        ("tokenizer.ggml.token_type", Array::of_i32(&[1; 16]).into()),
        ("tokenizer.ggml.merges", Array::of_strings(["a b", "b c"]).into()),
        ("tokenizer.ggml.bos_token_id", 1u32.into()),
        ("tokenizer.ggml.add_bos_token", true.into()),
        ("tokenizer.chat_template", "{{ a }}".into()),
    ]
}

/// The keys that differ after one entry was set.
fn keys(key: &'static str, value: Entry) -> (Vec<String>, Vec<String>, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, entries: &Entries| -> PathBuf {
        let path = folder.path().join(name);
        write_file(&path, entries, &[]).unwrap();
        path
    };
    let reference = write("a.gguf", &metadata());
    let mut other = metadata();
    other.retain(|(name, _)| *name != key);
    other.push((key, value));
    let found = compare(&write("b.gguf", &other), &reference).unwrap();
    assert_eq!(found.unknown, Vec::<String>::new());
    assert_eq!(found.compatible(), Some(found.tokenizer.is_empty()));
    let keys = |list: &[Difference]| list.iter().map(|difference| difference.key.clone()).collect();
    (keys(&found.tokenizer), keys(&found.templates), keys(&found.config))
}

#[test]
fn every_difference_is_named_and_nothing_else() {
    let mut swapped: Vec<String> = (0..16).map(|i| format!("t{i}")).collect();
    swapped.swap(3, 4);
    let mut scores = [0.5; 16];
    scores[7] = 0.25;
    let mut kinds = [1; 16];
    kinds[0] = 3;
    let tokenizer: Vec<(&'static str, Entry, &[&str])> = vec![
        ("tokenizer.ggml.tokens", Array::of_strings(swapped).into(), &["tokens[3]", "tokens[4]"]),
        ("tokenizer.ggml.scores", Array::of_f32(&scores).into(), &["scores[7]"]),
        ("tokenizer.ggml.token_type", Array::of_i32(&kinds).into(), &["token_type[0]"]),
        ("tokenizer.ggml.merges", Array::of_strings(["a b", "c b"]).into(), &["merges[1]"]),
        ("tokenizer.ggml.merges", Array::of_strings(["a b"]).into(), &["merges (number)"]),
        ("tokenizer.ggml.remove_extra_whitespaces", true.into(), &["remove_extra_whitespaces"]),
        ("tokenizer.ggml.add_space_prefix", true.into(), &["add_space_prefix"]),
        ("tokenizer.ggml.bos_token_id", 2u32.into(), &["bos_token_id"]),
        ("tokenizer.ggml.eos_token_id", 2u32.into(), &["eos_token_id"]),
        ("tokenizer.ggml.pre", "qwen2".into(), &["pre"]),
        ("tokenizer.ggml.add_bos_token", false.into(), &["add_bos_token"]),
        ("tokenizer.ggml.precompiled_charsmap", Array::of_i32(&[1]).into(), &["precompiled_charsmap"]),
    ];
    for (key, value, expected) in tokenizer {
        let (tokenizer, templates, config) = keys(key, value);
        assert_eq!(tokenizer, expected, "{key}");
        assert!(templates.is_empty() && config.is_empty(), "{key}");
    }
    let (tokenizer, templates, config) = keys("tokenizer.chat_template", "{{ b }}".into());
    assert_eq!((tokenizer.len(), templates, config.len()), (0, vec!["chat_template.default".to_owned()], 0));
    for (key, value, named) in [
        ("llama.rope.freq_base", Entry::from(500_000f32), "rope.freq_base"),
        ("llama.attention.layer_norm_rms_epsilon", 1e-6f32.into(), "attention.layer_norm_rms_epsilon"),
        ("llama.block_count", 3u32.into(), "block_count"),
    ] {
        let (tokenizer, templates, config) = keys(key, value);
        assert_eq!((tokenizer.len(), templates.len(), config), (0, 0, vec![named.to_owned()]), "{key}");
    }
    for (key, value) in [
        ("general.name", Entry::from("b")),
        ("tokenizer.ggml.padding_token_id", u32::MAX.into()),
        // What runtimes assume anyway.
        ("tokenizer.ggml.add_space_prefix", false.into()),
        ("llama.attention.head_count_kv", 4u32.into()),
    ] {
        assert_eq!(keys(key, value), Default::default(), "{key}");
    }
    // The width changes what follows from it, too.
    let (_, _, config) = keys("llama.embedding_length", 128u32.into());
    assert!(config.contains(&"embedding_length".to_owned()));
    let many: Vec<String> = (0..16).map(|i| format!("u{i}")).collect();
    let (tokenizer, ..) = keys("tokenizer.ggml.tokens", Array::of_strings(many).into());
    assert_eq!(tokenizer.last().map(String::as_str), Some("tokens, 8 more"));
}

/// Settings of generation are compared like the others.
#[test]
fn settings_of_generation() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, temperature: f32| -> PathBuf {
        let path = folder.path().join(name);
        let mut entries = metadata();
        entries.push(("general.sampling.temp", temperature.into()));
        write_file(&path, &entries, &[]).unwrap();
        path
    };
    let found = compare(&write("a.gguf", 0.5), &write("b.gguf", 0.25)).unwrap();
    assert_eq!(found.generation[0].to_string(), "temp: 0.25 -> 0.5");
    assert_eq!((found.compatible(), found.same_config()), (Some(true), Some(true)));
}

#[test]
fn real_models_differ_where_they_were_changed() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/models");
    if !root.join("manifest.json").is_file() {
        eprintln!("skipped: the models beside the project are not there");
        return;
    }
    let base = root.join("gguf/base-f32.gguf");
    let of = |candidate: &str| compare(&root.join(candidate), &base).unwrap();
    let keys = |list: &[Difference]| list.iter().map(|item| item.key.clone()).collect::<Vec<_>>();
    for same in [
        "gguf/base-q4_0.gguf",
        "gguf/ft-python-300.gguf",
        "split/good",
        "hf/base-float32",
        "hf/base-bfloat16",
    ] {
        let found = of(same);
        assert_eq!((found.compatible(), found.same_config()), (Some(true), Some(true)), "{same} {found:?}");
    }
    assert_eq!(keys(&of("gguf/rope-theta-500000.gguf").config), ["rope.freq_base"]);
    let permuted = of("gguf/tok-permuted.gguf");
    assert_eq!(keys(&permuted.tokenizer), ["tokens[265]", "tokens[300]", "scores[265]", "scores[300]"]);
    assert_eq!(permuted.tokenizer[0].reference.as_deref(), Some("\"▁the\""));
    assert_eq!(keys(&of("gguf/chat-template-added.gguf").templates), ["chat_template.default"]);
    assert_eq!(keys(&of("gguf/unrelated-llama2xs.gguf").config), ["context_length", "feed_forward_length"]);
}
