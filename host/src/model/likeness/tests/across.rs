//! Folders beside folders, and beside GGUF files: what means the same in both, and every change of
//! either, which is named or said to be unknown.

use std::path::Path;

use serde_json::json;

use super::*;
use crate::model::gguf::GgmlType;
use crate::model::gguf::write::TensorData;

/// The texts of a folder.
#[derive(Clone)]
struct Texts {
    tokenizer: Value,
    settings: Value,
    config: Value,
    generation: Value,
}

type Edit = fn(&mut Texts);

impl Texts {
    fn write(&self, folder: &Path) -> PathBuf {
        std::fs::create_dir_all(folder).unwrap();
        for (name, value) in [
            ("tokenizer.json", &self.tokenizer),
            ("tokenizer_config.json", &self.settings),
            ("config.json", &self.config),
            ("generation_config.json", &self.generation),
        ] {
            std::fs::write(folder.join(name), value.to_string()).unwrap();
        }
        std::fs::write(folder.join("model.safetensors"), b"\x02\0\0\0\0\0\0\0{}").unwrap();
        folder.to_owned()
    }

    fn edited(&self, edit: Edit) -> Self {
        let mut other = self.clone();
        edit(&mut other);
        other
    }

    fn hashes(&self) -> (Option<crate::domain::Sha256>, Option<crate::domain::Sha256>) {
        let tokenizer = Tokenizer::parse(self.tokenizer.to_string().as_bytes()).unwrap();
        let config = self.config.as_object().unwrap();
        (tokenizer_hash(tokenizer, Some(&self.settings), None), config_hash(config))
    }
}

fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 1e4, "rope_scaling": null,
        "torch_dtype": "float32", "vocab_size": 264, "bos_token_id": 1, "eos_token_id": 2,
        "attention_bias": false, "tie_word_embeddings": true, "pad_token_id": null,
    })
}

/// Tokens of a SentencePiece model: three special ones, the bytes, and some letters.
fn pieces() -> Vec<String> {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend(["\u{2581}", "a", "b", "\u{2581}a", "ab"].map(str::to_owned));
    tokens
}

/// A folder with such a tokenizer, as converters write it.
fn sentencepiece() -> Texts {
    let vocab: serde_json::Map<String, Value> =
        pieces().into_iter().zip(0..).map(|(token, id)| (token, Value::from(id))).collect();
    let special = |id: u64, content: &str| json!({"id": id, "content": content, "special": true});
    let tokenizer = json!({
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u{2581}"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}]},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "byte_fallback": true, "fuse_unk": true, "unk_token": "<unk>",
            "vocab": vocab, "merges": [["\u{2581}", "a"], ["a", "b"]]},
    });
    let settings = json!({"bos_token": {"content": "<s>"}, "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": true});
    Texts { tokenizer, settings, config: config(), generation: json!({"eos_token_id": 2}) }
}

/// The same as GGUF says it.
fn sentencepiece_file() -> Entries {
    let mut kinds = vec![2, 3, 3];
    kinds.extend([6; 256]);
    kinds.extend([1; 5]);
    let mut scores = vec![0f32; 259];
    scores.extend([-9., -9., -9., -1., -2.]);
    vec![
        ("general.architecture", "llama".into()),
        ("llama.embedding_length", 64u32.into()),
        ("llama.block_count", 2u32.into()),
        ("llama.feed_forward_length", 96u32.into()),
        ("llama.context_length", 128u32.into()),
        ("llama.attention.head_count", 4u32.into()),
        ("llama.attention.layer_norm_rms_epsilon", 1e-5f32.into()),
        ("llama.rope.freq_base", 10_000f32.into()),
        ("tokenizer.ggml.model", "llama".into()),
        ("tokenizer.ggml.tokens", Array::of_strings(pieces()).into()),
        ("tokenizer.ggml.scores", Array::of_f32(&scores).into()),
        ("tokenizer.ggml.token_type", Array::of_i32(&kinds).into()),
    ]
}

/// A folder whose texts are cut up by Llama 3's expression.
fn bytes() -> Texts {
    let mut texts = sentencepiece();
    let vocab: serde_json::Map<String, Value> = (0..15).map(|i| (format!("t{i}"), i.into())).collect();
    let expression = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    let begin = json!({"id": "t1", "ids": [1], "tokens": ["t1"]});
    texts.tokenizer = json!({
        "added_tokens": [{"id": 15, "content": "t15"}],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]},
        "post_processor": {"type": "Sequence", "processors": [
            {"type": "ByteLevel", "add_prefix_space": true},
            {"type": "TemplateProcessing", "special_tokens": {"t1": begin},
             "single": [{"SpecialToken": {"id": "t1"}}, {"Sequence": {"id": "A"}}]}]},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "ignore_merges": true, "vocab": vocab, "merges": [["a", "b"], "b c"]},
    });
    texts.settings = json!({"bos_token": "t1", "eos_token": "t11"});
    texts.config["vocab_size"] = 16.into();
    texts.config["eos_token_id"] = 11.into();
    texts.generation = json!({});
    texts
}

fn bytes_file() -> Entries {
    let mut entries = metadata();
    let mut kinds = [1; 16];
    kinds[15] = 4;
    entries.retain(|(key, _)| !key.ends_with("token_type") && !key.ends_with("chat_template"));
    entries.push(("tokenizer.ggml.token_type", Array::of_i32(&kinds).into()));
    entries.push(("tokenizer.ggml.eos_token_id", 11u32.into()));
    entries.push(("llama.feed_forward_length", 96u32.into()));
    entries.push(("llama.context_length", 128u32.into()));
    entries
}

fn keys(list: &[Difference]) -> Vec<String> {
    list.iter().map(|difference| difference.key.clone()).collect()
}

/// Between folders, whatever changes a hash is named, and nothing else is.
#[test]
fn folders_differ_where_their_hashes_do() {
    let place = tempfile::tempdir().unwrap();
    let edits: Vec<(Edit, &[&str], &[&str])> = vec![
        (|t| t.tokenizer["normalizer"]["normalizers"][0]["prepend"] = "x".into(), &["normalizer"], &[]),
        (|t| t.tokenizer["normalizer"] = Value::Null, &["normalizer"], &[]),
        (|t| t.tokenizer["pre_tokenizer"] = json!({"type": "Whitespace"}), &["pre_tokenizer"], &[]),
        (|t| t.tokenizer["post_processor"] = Value::Null, &["post_processor"], &[]),
        (|t| t.tokenizer["decoder"] = Value::Null, &["decoder"], &[]),
        (|t| t.tokenizer["added_tokens"][1]["special"] = false.into(), &["added_tokens[1]"], &[]),
        (|t| t.tokenizer["added_tokens"][1]["lstrip"] = true.into(), &["added_tokens[1]"], &[]),
        (|t| t.tokenizer["added_tokens"][1]["normalized"] = true.into(), &["added_tokens[1]"], &[]),
        (|t| t.tokenizer["model"]["dropout"] = 0.1.into(), &["model.dropout"], &[]),
        (|t| t.tokenizer["model"]["byte_fallback"] = false.into(), &["model.byte_fallback"], &[]),
        (|t| t.tokenizer["model"]["fuse_unk"] = Value::Null, &["model.fuse_unk"], &[]),
        (|t| t.tokenizer["model"]["end_of_word_suffix"] = "w".into(), &["model.end_of_word_suffix"], &[]),
        (|t| t.tokenizer["model"]["merges"] = json!(["a b", "\u{2581} a"]), &["merges[0]", "merges[1]"], &[]),
        (|t| t.tokenizer["model"]["vocab"]["again"] = 260.into(), &["tokens[260] \"again\""], &[]),
        (|t| t.tokenizer["model"]["vocab"]["far"] = 1_000_000.into(), &["tokens[1000000] \"far\""], &[]),
        (|t| t.settings["eos_token"] = "<s>".into(), &["eos_token_id"], &[]),
        (|t| t.settings["eos_token"] = "</end>".into(), &["eos_token_id"], &[]),
        (|t| t.settings["add_bos_token"] = false.into(), &["add_bos_token"], &[]),
        (|t| t.config["hidden_size"] = 65.into(), &[], &["hidden_size"]),
        (|t| t.config["rms_norm_eps"] = 1.0001e-5.into(), &[], &["rms_norm_eps"]),
        (|t| t.config["rope_parameters"] = json!({"rope_theta": 5e5}), &[], &["rope_parameters.rope_theta"]),
        (
            |t| t.config["rope_scaling"] = json!({"type": "linear", "factor": 2}),
            &[],
            &["rope_scaling.factor", "rope_scaling.rope_type"],
        ),
        (|t| t.config["a.b"] = 1.into(), &[], &["a\\.b"]),
        // Other spellings, and what is as good as absent.
        (|t| t.tokenizer["model"]["merges"] = json!(["\u{2581} a", "a b"]), &[], &[]),
        (|t| t.tokenizer["model"]["dropout"] = 0.0.into(), &[], &[]),
        (|t| t.tokenizer["model"]["ignore_merges"] = false.into(), &[], &[]),
        (|t| t.tokenizer["truncation"] = json!({"max_length": 5}), &[], &[]),
        (|t| t.tokenizer["pre_tokenizer"] = Value::Null, &[], &[]),
        (|t| t.settings["eos_token"] = json!({"content": "</s>", "lstrip": false}), &[], &[]),
        (|t| t.settings["model_max_length"] = 7.into(), &[], &[]),
        (|t| drop(t.config.as_object_mut().unwrap().remove("rope_scaling")), &[], &[]),
        (|t| drop(t.config.as_object_mut().unwrap().remove("pad_token_id")), &[], &[]),
        (|t| t.config["rope_theta"] = 10_000.into(), &[], &[]),
        (|t| t.config["dtype"] = "bfloat16".into(), &[], &[]),
        (
            |t| {
                t.config["rope_theta"] = Value::Null;
                t.config["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 1e4});
            },
            &[],
            &[],
        ),
    ];
    let base = sentencepiece();
    let reference = base.write(&place.path().join("reference"));
    for (number, (edit, tokenizer, config)) in edits.into_iter().enumerate() {
        let other = base.edited(edit);
        let found = compare(&other.write(&place.path().join("candidate")), &reference).unwrap();
        assert_eq!(
            (keys(&found.tokenizer), keys(&found.config)),
            (
                tokenizer.iter().map(ToString::to_string).collect(),
                config.iter().map(ToString::to_string).collect(),
            ),
            "{number}"
        );
        assert_eq!(found.unknown, [""; 0], "{number}");
        let (ours, theirs) = (other.hashes(), base.hashes());
        assert_eq!(
            (ours.0 == theirs.0, ours.1 == theirs.1),
            (tokenizer.is_empty(), config.is_empty()),
            "{number}"
        );
    }
    // The older file of special tokens counts where the newer leaves room for it.
    let candidate = base.write(&place.path().join("candidate"));
    std::fs::write(candidate.join("special_tokens_map.json"), r#"{"eos_token": "<s>"}"#).unwrap();
    assert_eq!(keys(&compare(&candidate, &reference).unwrap().tokenizer), ["eos_token_id"]);
    base.edited(|t| t.settings["added_tokens_decoder"] = json!({})).write(&candidate);
    assert_eq!(compare(&candidate, &reference).unwrap().compatible(), Some(true));
    std::fs::remove_file(candidate.join("special_tokens_map.json")).unwrap();
    // And the settings of generation.
    base.edited(|t| t.generation = json!({"temperature": 0.5, "transformers_version": "5"}))
        .write(&candidate);
    let found = compare(&candidate, &reference).unwrap();
    assert_eq!(keys(&found.generation), ["eos_token_id", "temperature"]);
    assert_eq!((found.compatible(), found.same_config()), (Some(true), Some(true)));
    // And templates that have names.
    for (folder, text) in [(&candidate, "one"), (&reference, "other")] {
        std::fs::create_dir(folder.join("additional_chat_templates")).unwrap();
        std::fs::write(folder.join("additional_chat_templates/rag.jinja"), text).unwrap();
    }
    assert_eq!(keys(&compare(&candidate, &reference).unwrap().templates), ["chat_template.rag"]);
    // What one side lacks is not equal, and what cannot be read is an error.
    std::fs::remove_file(candidate.join("tokenizer.json")).unwrap();
    assert_eq!(compare(&candidate, &reference).unwrap().compatible(), None);
    std::fs::write(candidate.join("tokenizer.json"), "{").unwrap();
    assert!(compare(&candidate, &reference).is_err());
}

/// Beside a file: compatible, the same configuration; keys that differ; what is unknown begins so.
type Outcome<'a> = (Edit, Option<bool>, Option<bool>, &'a [&'a str], &'a str);

fn beside(texts: &Texts, file: &Entries, tensors: &[TensorData<'_>], outcomes: Vec<Outcome<'_>>) {
    let place = tempfile::tempdir().unwrap();
    let gguf = place.path().join("m.gguf");
    write_file(&gguf, file, tensors).unwrap();
    for (number, (edit, compatible, same, differences, unknown)) in outcomes.into_iter().enumerate() {
        let folder = texts.edited(edit).write(&place.path().join("folder"));
        let found = compare(&folder, &gguf).unwrap();
        let all = [keys(&found.tokenizer), keys(&found.config), keys(&found.generation)].concat();
        assert_eq!(all, differences, "{number} {found:?}");
        let answers = (found.compatible(), found.same_config());
        assert_eq!(answers, (compatible, same), "{number} {found:?}");
        let told = found.unknown.iter().any(|line| line.starts_with(unknown));
        assert_eq!(found.unknown.is_empty(), unknown.is_empty(), "{number} {found:?}");
        assert!(told || unknown.is_empty(), "{number} {found:?}");
        // The other way round.
        let back = compare(&gguf, &folder).unwrap();
        assert_eq!((back.compatible(), back.same_config(), back.unknown), (compatible, same, found.unknown));
    }
}

#[test]
fn a_folder_beside_a_sentencepiece_file() {
    const YES: Option<bool> = Some(true);
    const NO: Option<bool> = Some(false);
    let spaces: Edit = |t| drop(t.tokenizer["normalizer"]["normalizers"].as_array_mut().unwrap().remove(0));
    beside(
        &sentencepiece(),
        &sentencepiece_file(),
        &[],
        vec![
            (|_| {}, YES, YES, &[], ""),
            (|t| t.settings = json!({}), YES, YES, &[], ""),
            (|t| t.tokenizer["model"]["merges"] = json!(["\u{2581} a", "a b"]), YES, YES, &[], ""),
            (|t| t.tokenizer["model"]["merges"] = json!(["a b", "\u{2581} a"]), NO, YES, &["merges[1]"], ""),
            (
                |t| t.tokenizer["model"]["merges"] = json!(["\u{2581} a"]),
                None,
                YES,
                &[],
                "tokenizer.merges: 0 pairs",
            ),
            (
                |t| t.tokenizer["model"]["merges"][1] = "b a".into(),
                None,
                YES,
                &[],
                "tokenizer.merges: 1 pairs",
            ),
            (|t| t.tokenizer["model"]["merges"] = Value::Null, None, YES, &[], "tokenizer.merges: a side"),
            (|t| t.tokenizer["normalizer"] = Value::Null, None, YES, &[], "tokenizer.normalizer"),
            (
                |t| {
                    t.tokenizer["normalizer"]["normalizers"]
                        .as_array_mut()
                        .unwrap()
                        .push(json!({"type": "Lowercase"}))
                },
                None,
                YES,
                &[],
                "tokenizer.normalizer",
            ),
            (
                |t| t.tokenizer["pre_tokenizer"] = json!({"type": "Whitespace"}),
                None,
                YES,
                &[],
                "tokenizer.normalizer",
            ),
            (spaces, NO, YES, &["add_space_prefix"], "tokenizer.decoder"),
            (|t| t.tokenizer["decoder"] = Value::Null, None, YES, &[], "tokenizer.decoder"),
            (|t| t.tokenizer["post_processor"] = Value::Null, None, YES, &[], "tokenizer.add_bos_token"),
            (
                |t| t.tokenizer["post_processor"] = json!({"type": "RobertaProcessing"}),
                None,
                YES,
                &[],
                "tokenizer.post_processor",
            ),
            (
                |t| t.tokenizer["post_processor"]["special_tokens"]["<s>"]["ids"] = json!([2]),
                None,
                YES,
                &[],
                "tokenizer.add_bos_token: what is added",
            ),
            (
                |t| {
                    t.tokenizer["post_processor"] = Value::Null;
                    t.settings["add_bos_token"] = Value::Null;
                },
                NO,
                YES,
                &["add_bos_token"],
                "",
            ),
            (|t| t.tokenizer["model"]["byte_fallback"] = false.into(), NO, YES, &["model.byte_fallback"], ""),
            (|t| t.tokenizer["model"]["dropout"] = 0.5.into(), NO, YES, &["model.dropout"], ""),
            (|t| t.tokenizer["model"]["type"] = "Unigram".into(), None, YES, &[], "tokenizer: \"Unigram\""),
            (|t| t.tokenizer["added_tokens"][1]["special"] = false.into(), NO, YES, &["token_type[1]"], ""),
            (
                |t| t.tokenizer["added_tokens"][1]["lstrip"] = true.into(),
                None,
                YES,
                &[],
                "tokenizer.added_tokens[1]",
            ),
            (
                |t| t.tokenizer["added_tokens"][1]["normalized"] = true.into(),
                None,
                YES,
                &[],
                "tokenizer.added_tokens[1]",
            ),
            (
                |t| {
                    t.tokenizer["added_tokens"]
                        .as_array_mut()
                        .unwrap()
                        .push(json!({"id": 264, "content": "<pad>", "special": true}))
                },
                NO,
                YES,
                &["tokens (number)", "token_type (number)"],
                "",
            ),
            (|t| t.settings["eos_token"] = "<s>".into(), NO, YES, &["eos_token_id"], ""),
            (|t| t.settings["pad_token"] = "</s>".into(), YES, YES, &[], "special tokens: only one side"),
            (|t| t.generation = json!({"eos_token_id": 5}), YES, YES, &["eos_token_id"], ""),
            (|t| t.generation = json!({"eos_token_id": [2, 5], "top_k": 4}), YES, YES, &[], "generation: "),
        ],
    );
    // Ids that only pad the embedding have no name in a folder.
    let mut padded = sentencepiece_file();
    let tokens = pieces().into_iter().chain(["[PAD264]".to_owned()]);
    for (key, value) in [
        ("tokenizer.ggml.tokens", Array::of_strings(tokens)),
        (
            "tokenizer.ggml.scores",
            Array::of_f32(&[[0f32; 259].as_slice(), &[-9., -9., -9., -1., -2., 0.]].concat()),
        ),
        (
            "tokenizer.ggml.token_type",
            Array::of_i32(&[[2, 3, 3].as_slice(), &[6; 256], &[1; 5], &[5]].concat()),
        ),
    ] {
        padded.retain(|(name, _)| *name != key);
        padded.push((key, value.into()));
    }
    beside(
        &sentencepiece(),
        &padded,
        &[],
        vec![(|t| t.config["vocab_size"] = 265.into(), YES, YES, &[], "")],
    );
}

#[test]
fn a_folder_beside_a_file_of_byte_pairs() {
    const YES: Option<bool> = Some(true);
    const NO: Option<bool> = Some(false);
    beside(
        &bytes(),
        &bytes_file(),
        &[],
        vec![
            (|_| {}, YES, YES, &[], ""),
            (|t| t.tokenizer["normalizer"] = json!({"type": "NFC"}), None, YES, &[], "tokenizer.normalizer"),
            (|t| t.tokenizer["model"]["ignore_merges"] = Value::Null, NO, YES, &["model.ignore_merges"], ""),
            (
                |t| t.tokenizer["model"]["merges"] = json!(["b c", "a b"]),
                NO,
                YES,
                &["merges[0]", "merges[1]"],
                "",
            ),
            (|t| t.tokenizer["added_tokens"][0]["special"] = true.into(), NO, YES, &["token_type[15]"], ""),
            (|t| t.tokenizer["post_processor"] = Value::Null, NO, YES, &["add_bos_token"], ""),
            (
                |t| t.tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "x".into(),
                None,
                YES,
                &[],
                "tokenizer.normalizer",
            ),
            (
                |t| t.tokenizer["pre_tokenizer"] = json!({"type": "ByteLevel", "add_prefix_space": false}),
                NO,
                YES,
                &["pre"],
                "",
            ),
            (
                |t| t.tokenizer["pre_tokenizer"] = json!({"type": "ByteLevel"}),
                None,
                YES,
                &[],
                "tokenizer.normalizer",
            ),
        ],
    );
}

#[test]
fn a_configuration_beside_a_file_s() {
    const YES: Option<bool> = Some(true);
    const NO: Option<bool> = Some(false);
    beside(
        &sentencepiece(),
        &sentencepiece_file(),
        &[],
        vec![
            (
                |t| t.config["hidden_size"] = 128.into(),
                YES,
                NO,
                &[
                    "attention.key_length",
                    "attention.value_length",
                    "embedding_length",
                    "rope.dimension_count",
                ],
                "",
            ),
            (|t| t.config["rms_norm_eps"] = 1e-6.into(), YES, NO, &["attention.layer_norm_rms_epsilon"], ""),
            (|t| t.config["model_type"] = "qwen2".into(), YES, NO, &["architecture"], ""),
            (|t| t.config["model_type"] = "mistral".into(), YES, YES, &[], ""),
            (|t| t.config["model_type"] = "novel".into(), YES, None, &[], "config: "),
            (
                |t| t.config["architectures"] = json!(["LlamaForSequenceClassification"]),
                YES,
                None,
                &[],
                "config: ",
            ),
            (|t| t.config["hidden_act"] = "gelu".into(), YES, NO, &["hidden_act"], ""),
            (|t| t.config["attention_bias"] = true.into(), YES, NO, &["attention_bias"], ""),
            (|t| t.config["sliding_window"] = 64.into(), YES, NO, &["attention.sliding_window"], ""),
            (
                |t| {
                    t.config["sliding_window"] = 64.into();
                    t.config["use_sliding_window"] = false.into();
                    t.config["layer_types"] = json!(["full_attention", "full_attention"]);
                },
                YES,
                YES,
                &[],
                "",
            ),
            (|t| t.config["layer_types"] = json!(["sliding_attention"]), YES, None, &[], "config: "),
            (|t| t.config["partial_rotary_factor"] = 0.5.into(), YES, NO, &["rope.dimension_count"], ""),
            (|t| t.config["bos_token_id"] = 2.into(), YES, NO, &["bos_token_id"], ""),
            (|t| t.config["eos_token_id"] = json!([2]), YES, YES, &[], ""),
            (|t| t.config["eos_token_id"] = json!([2, 7]), YES, None, &[], "config: eos_token_id"),
            (|t| t.config["eos_token_id"] = json!([7]), YES, NO, &["eos_token_id"], ""),
            (|t| t.config["pad_token_id"] = 0.into(), YES, None, &[], "config: pad_token_id"),
            (
                |t| t.config["something"] = json!({"new": 1}),
                YES,
                None,
                &[],
                "config: GGUF has no words here for something.new",
            ),
            (
                |t| t.config["rope_scaling"] = json!({"type": "linear", "factor": 2.0}),
                YES,
                NO,
                &["rope.scaling.factor", "rope.scaling.type"],
                "",
            ),
            (
                |t| t.config["rope_parameters"] = json!({"rope_type": "yarn", "factor": 2.0}),
                YES,
                NO,
                &["rope.scaling.factor", "rope.scaling.original_context_length", "rope.scaling.type"],
                "",
            ),
            (
                |t| t.config["rope_scaling"] = json!({"rope_type": "dynamic", "factor": 2.0}),
                YES,
                None,
                &[],
                "config: ",
            ),
            (
                |t| t.config["rope_scaling"] = json!({"rope_type": "llama3", "factor": 2.0}),
                YES,
                None,
                &[],
                "config: ",
            ),
            (|t| t.config = llama3(t, 8.0), YES, NO, &["rope_freqs"], ""),
        ],
    );
    let mut scaled = sentencepiece_file();
    scaled.push(("llama.rope.scaling.type", "linear".into()));
    scaled.push(("llama.rope.scaling.factor", 2f32.into()));
    scaled.push(("llama.attention.causal", true.into()));
    beside(
        &sentencepiece(),
        &scaled,
        &[],
        vec![
            (
                |t| t.config["rope_scaling"] = json!({"rope_type": "linear", "factor": 2}),
                YES,
                None,
                &[],
                "config: config.json has no words here for attention.causal",
            ),
            (|_| {}, YES, NO, &["rope.scaling.factor", "rope.scaling.type"], "config: "),
        ],
    );
    // As llama.cpp's converter computes it, for heads of 16.
    let factors = [1f32, 1., 2.339_116_8, 8., 8., 8., 8., 8.];
    let data: Vec<u8> = factors.iter().flat_map(|factor| factor.to_le_bytes()).collect();
    let table = TensorData { name: "rope_freqs.weight", kind: GgmlType::F32, shape: &[8], data: &data };
    beside(
        &sentencepiece(),
        &sentencepiece_file(),
        &[table],
        vec![
            (|t| t.config = llama3(t, 8.0), YES, YES, &[], ""),
            (|t| t.config = llama3(t, 4.0), YES, NO, &["rope_freqs"], ""),
            (|_| {}, YES, NO, &["rope_freqs"], ""),
        ],
    );
}

fn llama3(texts: &Texts, factor: f64) -> Value {
    let mut config = texts.config.clone();
    config["rope_scaling"] = json!({"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 128});
    config
}
