//! Contradictions, each made by one change to a small consistent model.

use super::*;
use crate::model::gguf::write::{TensorData, write};
use crate::model::gguf::{Array, GgmlType, Value, read_strict};

mod inventory;
mod keys;
mod others;

/// Metadata and tensor shapes of a consistent two-layer model.
#[derive(Clone)]
struct Draft {
    metadata: Vec<(String, Value)>,
    tensors: Vec<(String, Vec<u64>)>,
}

fn draft() -> Draft {
    let mut metadata: Vec<(String, Value)> = vec![("general.architecture".into(), "llama".into())];
    let numbers = [
        ("context_length", 64u32),
        ("embedding_length", 8),
        ("block_count", 2),
        ("feed_forward_length", 12),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("rope.dimension_count", 2),
        ("vocab_size", 5),
    ];
    metadata.extend(numbers.map(|(key, value)| (format!("llama.{key}"), value.into())));
    metadata.push(("llama.attention.layer_norm_rms_epsilon".into(), 1e-5f32.into()));
    metadata.push(("tokenizer.ggml.model".into(), "llama".into()));
    metadata.push(("tokenizer.ggml.tokens".into(), Array::of_strings(["<s>", "a", "b", "c", "d"]).into()));
    metadata.push(("tokenizer.ggml.scores".into(), Array::of_f32(&[0.0; 5]).into()));
    metadata.push(("tokenizer.ggml.token_type".into(), Array::of_i32(&[1; 5]).into()));
    metadata.push(("tokenizer.ggml.bos_token_id".into(), 0u32.into()));
    metadata.push(("tokenizer.ggml.padding_token_id".into(), u32::MAX.into()));
    let mut tensors: Vec<(String, Vec<u64>)> = vec![
        ("token_embd.weight".into(), vec![8, 5]),
        ("output_norm.weight".into(), vec![8]),
        ("output.weight".into(), vec![8, 5]),
    ];
    for layer in 0..2 {
        let of_layer: [(&str, &[u64]); 9] = [
            ("attn_norm", &[8]),
            ("attn_q", &[8, 8]),
            ("attn_k", &[8, 4]),
            ("attn_v", &[8, 4]),
            ("attn_output", &[8, 8]),
            ("ffn_norm", &[8]),
            ("ffn_gate", &[8, 12]),
            ("ffn_up", &[8, 12]),
            ("ffn_down", &[12, 8]),
        ];
        tensors.extend(of_layer.map(|(part, shape)| (format!("blk.{layer}.{part}.weight"), shape.to_vec())));
    }
    Draft { metadata, tensors }
}

/// Two layers with three experts of this width.
fn mixture(architecture: &str, width: u64) -> Draft {
    let mut draft = draft().of(architecture);
    draft = draft.set(&format!("{architecture}.expert_count"), 3u32);
    draft = draft.set(&format!("{architecture}.expert_used_count"), 2u32);
    for layer in 0..2 {
        for part in ["gate", "up", "down"] {
            draft = draft.without(&format!("blk.{layer}.ffn_{part}"));
        }
        for (part, shape) in [
            ("gate_inp", &[8, 3][..]),
            ("gate_exps", &[8, width, 3]),
            ("up_exps", &[8, width, 3]),
            ("down_exps", &[width, 8, 3]),
        ] {
            draft = draft.with(&format!("blk.{layer}.ffn_{part}.weight"), shape);
        }
    }
    draft
}

fn tokens(list: [&str; 5]) -> Draft {
    draft().set("tokenizer.ggml.tokens", Array::of_strings(list))
}

/// With norms of queries and keys, for heads that are 2 wide.
fn normed() -> Draft {
    draft().of("qwen3").in_layers("attn_q_norm", &[2]).in_layers("attn_k_norm", &[2])
}

fn gemma() -> Draft {
    draft().of("gemma2").in_layers("post_attention_norm", &[8]).in_layers("post_ffw_norm", &[8])
}

impl Draft {
    /// The same as another architecture.
    fn of(mut self, architecture: &str) -> Self {
        for (key, _) in &mut self.metadata {
            *key = key.replacen("llama.", &format!("{architecture}."), 1);
        }
        self.set("general.architecture", architecture)
    }

    /// With a tensor in both layers.
    fn in_layers(mut self, part: &str, shape: &[u64]) -> Self {
        for layer in 0..2 {
            self = self.with(&format!("blk.{layer}.{part}.weight"), shape);
        }
        self
    }

    fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.metadata.retain(|(other, _)| other != key);
        self.metadata.push((key.to_owned(), value.into()));
        self
    }

    fn unset(mut self, key: &str) -> Self {
        let before = self.metadata.len();
        self.metadata.retain(|(other, _)| other != key);
        assert_eq!(self.metadata.len() + 1, before, "{key}");
        self
    }

    fn without(mut self, part: &str) -> Self {
        let before = self.tensors.len();
        self.tensors.retain(|(name, _)| !name.starts_with(part));
        assert!(self.tensors.len() < before, "{part}");
        self
    }

    fn with(mut self, name: &str, shape: &[u64]) -> Self {
        self.tensors.retain(|(other, _)| other != name);
        self.tensors.push((name.to_owned(), shape.to_vec()));
        self
    }

    /// The distinct codes found, in order.
    fn codes(&self) -> Vec<String> {
        let mut codes: Vec<String> = self.findings().into_iter().map(|finding| finding.code).collect();
        codes.dedup();
        codes
    }

    fn findings(&self) -> Vec<Finding> {
        let data = vec![0u8; 4096];
        let tensors: Vec<TensorData<'_>> = self
            .tensors
            .iter()
            .map(|(name, shape)| {
                let bytes = shape.iter().product::<u64>() * 4;
                TensorData {
                    name,
                    kind: GgmlType::F32,
                    shape,
                    data: &data[..usize::try_from(bytes).unwrap()],
                }
            })
            .collect();
        let metadata: Vec<(&str, Value)> =
            self.metadata.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
        let mut bytes = Vec::new();
        write(&mut bytes, &metadata, &tensors).unwrap();
        let header = read_strict(&bytes.as_slice()).unwrap();
        let mut findings = Findings::default();
        check(&Model::single(&header), &mut findings);
        findings.finish()
    }
}

#[test]
fn consistent_models_have_no_findings() {
    assert_eq!(draft().codes(), [""; 0]);
    assert_eq!(draft().without("output.weight").codes(), [""; 0], "tied output");
    assert_eq!(draft().with("blk.0.ffn_up.scale", &[1]).codes(), [""; 0], "a second scale");
    let per_layer = draft().set("llama.attention.head_count_kv", Array::of_i32(&[2, 2]));
    assert_eq!(per_layer.codes(), [""; 0], "head counts per layer");
    let fused = draft().without("blk.0.attn_q").without("blk.0.attn_k").without("blk.0.attn_v");
    assert_eq!(fused.with("blk.0.attn_qkv.weight", &[8, 16]).codes(), [""; 0], "fused");
    assert_eq!(mixture("llama", 12).codes(), [""; 0], "experts");
    assert_eq!(
        mixture("llama", 12).set("llama.expert_count", 1u32).codes(),
        ["metadata-absurd", "shape-mismatch"]
    );
    let ones = draft().with("token_embd.weight", &[8, 5, 1, 1]).with("blk.0.attn_norm.weight", &[8, 1]);
    assert_eq!(ones.codes(), [""; 0], "dimensions of 1 at the end");
    let mut empty = draft().set("tokenizer.ggml.tokens", Array::of_strings(["<s>", "", "", "a", "b"]));
    assert_eq!(empty.codes(), [""; 0], "empty tokens are told apart by their number");
    empty = empty.set("tokenizer.ggml.model", "gpt2").set("tokenizer.ggml.pre", "kimi-k2");
    assert_eq!(empty.clone().codes(), [""; 0], "a tokenizer without merges");
    let merged = empty.set("tokenizer.ggml.merges", Array::of_strings(["a b"]));
    for (model, way, expected) in [
        ("gpt2", "llama-bpe", &[][..]),
        ("gpt2", "", &[]),
        ("gpt2", "llama-bp", &["metadata-absurd"]),
        ("llama", "llama-bp", &[]),
    ] {
        let draft = merged.clone().set("tokenizer.ggml.model", model).set("tokenizer.ggml.pre", way);
        assert_eq!(draft.codes(), expected, "{model} {way}");
    }
    assert_eq!(
        mixture("qwen3moe", 6).in_layers("attn_q_norm", &[2]).in_layers("attn_k_norm", &[2]).codes(),
        [""; 0]
    );
    assert_eq!(normed().codes(), [""; 0], "norms of queries and keys");
    assert_eq!(gemma().codes(), [""; 0], "norms behind attention and feed-forward");
    let only_prediction = draft().set("llama.nextn_predict_layers", 2u32);
    assert!(!only_prediction.codes().contains(&"missing-tensor".to_owned()));
    let unknown = draft().set("general.architecture", "novel").set("novel.block_count", 2u32);
    let unknown =
        unknown.set("novel.embedding_length", 8u32).set("novel.context_length", 8u32).without("blk.1.ffn");
    assert_eq!(unknown.clone().codes(), ["inventory-unknown"], "an unknown architecture");
    let predicting = unknown.set("novel.nextn_predict_layers", 1u32);
    assert_eq!(predicting.clone().codes(), ["inventory-unknown"], "layers for multi-token prediction");
    assert_eq!(predicting.without("blk.0.").codes(), ["inventory-unknown"], "nothing but these");
    let predicting = draft().set("llama.block_count", 3u32).set("llama.nextn_predict_layers", 1u32);
    assert_eq!(predicting.codes(), [""; 0], "left-out layers for multi-token prediction");
}

/// What is not the vocabulary's own output may be of any size; the embedding may not.
#[test]
fn not_every_output_is_of_the_vocabulary() {
    for (architecture, fits) in
        [("llama", false), ("qwen3tts", true), ("wavtokenizer-dec", true), ("eagle3", true), ("dflash", true)]
    {
        let mismatch = |draft: Draft| draft.codes().contains(&"vocab-mismatch".to_owned());
        let draft = draft().of(architecture);
        assert_eq!(mismatch(draft.clone().with("output.weight", &[8, 3])), !fits, "{architecture}");
        assert!(mismatch(draft.with("token_embd.weight", &[8, 3])), "{architecture}");
    }
}

#[test]
fn contradictions_have_their_code() {
    let layers = |count: u32| draft().set("llama.block_count", count);
    let cases: Vec<(&str, Draft, &str)> = vec![
        ("a layer too many declared", layers(3), "missing-tensor"),
        ("a layer too few declared", layers(1), "unexpected-tensor"),
        ("no layers", layers(0), "metadata-absurd"),
        ("2^31 layers", layers(1 << 31), "metadata-absurd"),
        ("layer gone", draft().without("blk.1."), "missing-tensor"),
        ("tensor gone", draft().without("blk.0.ffn_gate"), "missing-tensor"),
        ("norm gone", draft().without("output_norm"), "missing-tensor"),
        ("a stranger", draft().with("blk.0.other.weight", &[8]), "unknown-tensor"),
        (
            "a strange ending",
            draft().without("output.weight").with("output.we)ght", &[8, 5]),
            "unknown-tensor",
        ),
        ("a strange expert", draft().with("blk.0.ffn_up.x.weight", &[8]), "unknown-tensor"),
        ("embedding gone", draft().without("token_embd"), "missing-tensor"),
        ("no architecture", draft().unset("general.architecture"), "metadata-missing"),
        ("no tokenizer", draft().unset("tokenizer.ggml.model"), "metadata-missing"),
        ("no layer count", draft().unset("llama.block_count"), "metadata-missing"),
        ("layer count as u64", draft().set("llama.block_count", Value::U64(2)), "metadata-wrong-type"),
        ("split.no as i32", draft().set("split.no", Value::I32(0)), "metadata-wrong-type"),
        (
            "tokens as numbers",
            draft().set("tokenizer.ggml.tokens", Array::of_i32(&[1])),
            "metadata-wrong-type",
        ),
        ("wrong width", draft().set("llama.embedding_length", 16u32), "shape-mismatch"),
        ("wrong head count", draft().set("llama.attention.head_count", 2u32), "shape-mismatch"),
        ("wrong kv head count", draft().set("llama.attention.head_count_kv", 4u32), "shape-mismatch"),
        ("wrong feed-forward", draft().set("llama.feed_forward_length", 16u32), "shape-mismatch"),
        ("wrong rotation", draft().set("llama.rope.dimension_count", 4u32), "shape-mismatch"),
        ("heads that do not divide", draft().set("llama.attention.head_count", 3u32), "shape-mismatch"),
        ("vocabulary larger", draft().with("token_embd.weight", &[8, 6]), "vocab-mismatch"),
        ("vocab_size lies", draft().set("llama.vocab_size", 7u32), "vocab-mismatch"),
        ("scores short", draft().set("tokenizer.ggml.scores", Array::of_f32(&[0.0; 4])), "vocab-mismatch"),
        ("types short", draft().set("tokenizer.ggml.token_type", Array::of_i32(&[1; 4])), "vocab-mismatch"),
        ("special token", draft().set("tokenizer.ggml.bos_token_id", 5u32), "special-token-range"),
        ("one expert", draft().set("llama.expert_count", 1u32), "metadata-absurd"),
        ("2^31 experts", draft().set("llama.expert_count", 1u32 << 31), "metadata-absurd"),
        ("more used than there are", draft().set("llama.expert_used_count", 2u32), "metadata-absurd"),
        ("NaN", draft().set("llama.attention.layer_norm_rms_epsilon", f32::NAN), "metadata-absurd"),
        ("scaling type", draft().set("llama.rope.scaling.type", ""), "metadata-absurd"),
        ("no experts used", mixture("llama", 12).set("llama.expert_used_count", 0u32), "metadata-absurd"),
        ("experts used unsaid", mixture("llama", 12).unset("llama.expert_used_count"), "metadata-absurd"),
        ("used by layers", draft().set("llama.expert_used_count", Array::of_u32(&[1, 1])), "metadata-absurd"),
        ("groups of no experts", draft().set("llama.expert_group_count", 1u32), "metadata-absurd"),
        ("unequal groups", mixture("llama", 12).set("llama.expert_group_count", 2u32), "metadata-absurd"),
        ("all layers predict", draft().set("llama.nextn_predict_layers", u32::MAX), "metadata-absurd"),
        (
            "a layer that may not predict",
            draft().set("llama.nextn_predict_layers", 1u32),
            "unexpected-tensor",
        ),
        ("no heads", draft().set("llama.attention.head_count", 0u32), "metadata-absurd"),
        ("heads unsaid", draft().unset("llama.attention.head_count"), "metadata-missing"),
        (
            "heads of one layer",
            draft().set("llama.attention.head_count", Array::of_u32(&[4])),
            "metadata-absurd",
        ),
        ("heads of none", draft().set("llama.attention.head_count", Array::of_u32(&[])), "metadata-absurd"),
        ("narrow experts", mixture("llama", 6), "shape-mismatch"),
        ("wide experts", mixture("qwen3moe", 12), "shape-mismatch"),
        ("a query norm gone", normed().without("blk.1.attn_q_norm"), "missing-tensor"),
        ("a wide key norm", normed().with("blk.1.attn_k_norm.weight", &[8]), "shape-mismatch"),
        ("a last norm gone", gemma().without("blk.1.post_ffw_norm"), "missing-tensor"),
        ("a narrow last norm", gemma().with("blk.1.post_attention_norm.weight", &[4]), "shape-mismatch"),
        ("tokens with one text", tokens(["<s>", "a", "b", "c", "a"]), "duplicate-token"),
        ("equal up to a NUL", tokens(["<s>", "a", "b", "c", "a\0b"]), "duplicate-token"),
        ("named as an empty one is", tokens(["<s>", "a", "[EMPTY_3]", "", "b"]), "duplicate-token"),
        ("a strange tokenizer", draft().set("tokenizer.ggml.model", "novel"), "metadata-absurd"),
        ("no merges", draft().set("tokenizer.ggml.model", "gpt2"), "metadata-missing"),
        ("no tokens", draft().unset("tokenizer.ggml.tokens"), "metadata-missing"),
        ("importance matrix", draft().set("general.type", "imatrix"), "not-a-language-model"),
        ("projector", draft().set("general.type", "mmproj"), "not-a-language-model"),
    ];
    for (what, draft, code) in cases {
        let codes = draft.codes();
        assert!(codes.iter().any(|found| found == code), "{what}: {codes:?}");
    }
    let mut broken =
        draft().set("tokenizer.ggml.tokens", Array::of_strings([&b"<s>"[..], b"\xff", b"b", b"c", b"d"]));
    assert_eq!(broken.codes(), ["token-not-utf8"]);
    broken.tensors.clear();
    assert_eq!(broken.codes(), ["not-a-language-model"]);
}
