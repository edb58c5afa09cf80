//! Types and values of the entries that runtimes rely on; some abort on a wrong one.

use crate::model::finding::{Code, Findings};
use crate::model::gguf::{Metadata, Value, ValueKind};

use ValueKind::{Bool, F32, I32, String as Text, U16, U32};

/// What an entry must be.
enum Shape {
    /// A single value of this kind.
    One(ValueKind),
    /// A u32, or an array of one per layer.
    PerLayer,
    /// An array of these kinds.
    List(&'static [ValueKind]),
}
use Shape::{List, One, PerLayer};

/// Entries with a fixed name.
const GENERAL: [(&str, Shape); 20] = [
    ("general.architecture", One(Text)),
    ("general.type", One(Text)),
    ("general.file_type", One(U32)),
    ("general.quantization_version", One(U32)),
    ("tokenizer.ggml.model", One(Text)),
    ("tokenizer.ggml.pre", One(Text)),
    ("tokenizer.ggml.tokens", List(&[Text])),
    ("tokenizer.ggml.merges", List(&[Text])),
    ("tokenizer.ggml.scores", List(&[F32])),
    ("tokenizer.ggml.token_type", List(&[I32, U32])),
    ("tokenizer.ggml.add_bos_token", One(Bool)),
    ("tokenizer.ggml.add_eos_token", One(Bool)),
    ("tokenizer.ggml.add_space_prefix", One(Bool)),
    ("tokenizer.ggml.bos_token_id", One(U32)),
    ("tokenizer.ggml.eos_token_id", One(U32)),
    ("tokenizer.ggml.unknown_token_id", One(U32)),
    ("tokenizer.chat_template", One(Text)),
    ("split.no", One(U16)),
    ("split.count", One(U16)),
    ("split.tensors.count", One(I32)),
];

/// Entries that begin with the architecture's name.
const HPARAMS: [(&str, Shape); 18] = [
    ("context_length", One(U32)),
    ("embedding_length", One(U32)),
    ("block_count", One(U32)),
    ("vocab_size", One(U32)),
    ("feed_forward_length", PerLayer),
    ("attention.head_count", PerLayer),
    ("attention.head_count_kv", PerLayer),
    ("attention.key_length", One(U32)),
    ("attention.value_length", One(U32)),
    ("attention.layer_norm_rms_epsilon", One(F32)),
    ("attention.layer_norm_epsilon", One(F32)),
    ("rope.dimension_count", One(U32)),
    ("rope.freq_base", One(F32)),
    ("rope.scaling.type", One(Text)),
    ("rope.scaling.factor", One(F32)),
    ("expert_count", One(U32)),
    ("expert_used_count", PerLayer),
    ("expert_feed_forward_length", PerLayer),
];

fn fits(shape: &Shape, value: &Value) -> bool {
    match (shape, value) {
        (One(kind), value) => value.kind() == *kind,
        (PerLayer, Value::U32(_)) => true,
        (PerLayer, Value::Array(array)) => matches!(array.kind(), I32 | U32),
        (PerLayer, _) => false,
        (List(kinds), Value::Array(array)) => kinds.contains(&array.kind()),
        (List(_), _) => false,
    }
}

fn demanded(shape: &Shape) -> String {
    match shape {
        One(kind) => kind.name().to_owned(),
        PerLayer => "u32 or an array of them".to_owned(),
        List(kinds) => format!("an array of {}", kinds.first().map_or("?", |kind| kind.name())),
    }
}

/// Known entries that have another type than runtimes demand.
pub(super) fn check_types(metadata: &Metadata, findings: &mut Findings) {
    let mut check = |key: &str, shape: &Shape| {
        if let Some(value) = metadata.get(key)
            && !fits(shape, value)
        {
            let got = match value {
                Value::Array(array) => format!("an array of {}", array.kind().name()),
                other => other.kind().name().to_owned(),
            };
            let message = format!("{key} is {got}; it must be {}", demanded(shape));
            findings.push(Code::MetadataWrongType.finding(message));
        }
    };
    for (key, shape) in &GENERAL {
        check(key, shape);
    }
    if let Some(architecture) = metadata.architecture() {
        for (key, shape) in &HPARAMS {
            check(&format!("{architecture}.{key}"), shape);
        }
    }
}

/// Most layers and experts that llama.cpp has room for (LLAMA_MAX_LAYERS, LLAMA_MAX_EXPERTS).
const MAX_LAYERS: u64 = 512;
const MAX_EXPERTS: u64 = 1024;
/// Larger than any real width, head count or context, small enough that products fit.
const MAX_WIDTH: u64 = 1 << 24;
const MAX_CONTEXT: u64 = 1 << 31;

/// Entries that are missing or have impossible values.
pub(super) fn check_values(metadata: &Metadata, findings: &mut Findings) {
    let Some(architecture) = metadata.architecture() else {
        findings.push(Code::MetadataMissing.finding("general.architecture is missing"));
        return;
    };
    if metadata.get("tokenizer.ggml.model").is_none() {
        findings.push(Code::MetadataMissing.finding("tokenizer.ggml.model is missing"));
    }
    let ranges: [(&str, bool, u64, u64); 8] = [
        ("block_count", true, 1, MAX_LAYERS),
        ("embedding_length", true, 1, MAX_WIDTH),
        ("context_length", true, 1, MAX_CONTEXT),
        ("vocab_size", false, 1, MAX_WIDTH),
        ("attention.key_length", false, 1, MAX_WIDTH),
        ("attention.value_length", false, 1, MAX_WIDTH),
        ("rope.dimension_count", false, 0, MAX_WIDTH),
        ("expert_count", false, 0, MAX_EXPERTS),
    ];
    for (key, required, least, most) in ranges {
        let name = format!("{architecture}.{key}");
        match metadata.u64(&name) {
            Some(value) if !(least..=most).contains(&value) => {
                let message = format!("{name} is {value}; {least} to {most} are possible");
                findings.push(Code::MetadataAbsurd.finding(message));
            }
            Some(_) => {}
            None if required && metadata.get(&name).is_none() => {
                findings.push(Code::MetadataMissing.finding(format!("{name} is missing")));
            }
            None => {}
        }
    }
    let known = super::tensors::LLAMA_LIKE.contains(&architecture);
    let mixture = metadata.hparam("expert_count").and_then(Value::as_u64).unwrap_or(0) > 0;
    for (key, required) in [
        ("attention.layer_norm_rms_epsilon", known),
        ("attention.head_count", known),
        ("feed_forward_length", known && !mixture),
    ] {
        if required && metadata.hparam(key).is_none() {
            findings.push(Code::MetadataMissing.finding(format!("{architecture}.{key} is missing")));
        }
    }
    let without = matches!(metadata.str("tokenizer.ggml.model"), None | Some("none" | "no_vocab"));
    if !without && metadata.get("tokenizer.ggml.tokens").is_none() {
        findings.push(Code::MetadataMissing.finding("tokenizer.ggml.tokens is missing"));
    }
    // llama.cpp aborts on a mixture of one expert.
    let experts = metadata.hparam("expert_count").and_then(Value::as_u64).unwrap_or(0);
    if experts == 1 {
        findings.push(Code::MetadataAbsurd.finding(format!("{architecture}.expert_count is 1")));
    }
    let used = metadata.hparam("expert_used_count").and_then(Value::as_u64).unwrap_or(0);
    if used > experts {
        let message = format!("{architecture}.expert_used_count is {used} of {experts} experts");
        findings.push(Code::MetadataAbsurd.finding(message));
    }
    for key in ["attention.head_count", "attention.head_count_kv", "feed_forward_length"] {
        let worst = match metadata.hparam(key) {
            Some(Value::Array(array)) => {
                array.integers().find(|value| !(0..=i128::from(MAX_WIDTH)).contains(value))
            }
            Some(value) => value.as_integer().filter(|value| !(0..=i128::from(MAX_WIDTH)).contains(value)),
            None => None,
        };
        if let Some(value) = worst {
            findings.push(Code::MetadataAbsurd.finding(format!("{architecture}.{key} is {value}")));
        }
    }
    for (key, zero_allowed) in [
        ("attention.layer_norm_rms_epsilon", true),
        ("attention.layer_norm_epsilon", true),
        ("rope.freq_base", false),
        ("rope.scaling.factor", true),
    ] {
        if let Some(value) = metadata.hparam(key).and_then(Value::as_float) {
            let fine = value.is_finite() && (value > 0.0 || (zero_allowed && value == 0.0));
            if !fine {
                findings.push(Code::MetadataAbsurd.finding(format!("{architecture}.{key} is {value}")));
            }
        }
    }
    if let Some(scaling) = metadata.hparam("rope.scaling.type").and_then(Value::as_str)
        && !["none", "linear", "yarn", "longrope"].contains(&scaling)
    {
        let message = format!("{architecture}.rope.scaling.type is {scaling:?}; runtimes abort on it");
        findings.push(Code::MetadataAbsurd.finding(message));
    }
}
