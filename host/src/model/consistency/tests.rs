//! Contradictions, each made by one change to a small consistent model.

use super::*;
use crate::model::gguf::write::{TensorData, write};
use crate::model::gguf::{Array, GgmlType, Value, read_strict};

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

impl Draft {
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
        let mut codes: Vec<String> = findings.finish().into_iter().map(|finding| finding.code).collect();
        codes.dedup();
        codes
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
    let mut experts = draft().set("llama.expert_count", 3u32).set("llama.expert_used_count", 2u32);
    for layer in 0..2 {
        experts = experts.without(&format!("blk.{layer}.ffn_gate")).without(&format!("blk.{layer}.ffn_up"));
        experts = experts.without(&format!("blk.{layer}.ffn_down"));
        for (part, shape) in [
            ("gate_inp", &[8, 3][..]),
            ("gate_exps", &[8, 12, 3]),
            ("up_exps", &[8, 12, 3]),
            ("down_exps", &[12, 8, 3]),
        ] {
            experts = experts.with(&format!("blk.{layer}.ffn_{part}.weight"), shape);
        }
    }
    assert_eq!(experts.codes(), [""; 0], "experts");
    let unknown = draft().set("general.architecture", "novel").set("novel.block_count", 2u32);
    let unknown =
        unknown.set("novel.embedding_length", 8u32).set("novel.context_length", 8u32).without("blk.1.ffn");
    assert_eq!(unknown.codes(), [""; 0], "an unknown architecture");
    let predicting = draft().set("llama.block_count", 3u32).set("llama.nextn_predict_layers", 1u32);
    assert_eq!(predicting.codes(), [""; 0], "left-out layers for multi-token prediction");
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
        ("importance matrix", draft().set("general.type", "imatrix"), "not-a-language-model"),
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
