//! What the headers say about a model: never its file name.

use std::collections::BTreeMap;

use super::consistency::Model;
use super::gguf::{Array, GgmlType, Metadata, Value, ValueKind};
use crate::digest::{Sha256Stream, sha256};
use crate::domain::Sha256;

/// Weights of the model, from tensor shapes. Tables that are computed and not learned
/// (rotary frequencies) do not count.
pub fn parameters(model: &Model<'_>) -> u64 {
    let computed = |name: &str| name.starts_with("rope_f");
    let counted = model.tensors().filter(|tensor| !computed(&tensor.name));
    counted.fold(0, |sum, tensor| sum.saturating_add(tensor.elements()))
}

/// The name of a `general.file_type` and the tensor type most of its weights have.
fn file_type(id: u64) -> Option<(&'static str, GgmlType)> {
    use GgmlType::*;
    Some(match id {
        0 => ("F32", F32),
        1 => ("F16", F16),
        2 => ("Q4_0", Q4_0),
        3 => ("Q4_1", Q4_1),
        7 => ("Q8_0", Q8_0),
        8 => ("Q5_0", Q5_0),
        9 => ("Q5_1", Q5_1),
        10 => ("Q2_K", Q2_K),
        11 => ("Q3_K_S", Q3_K),
        12 => ("Q3_K_M", Q3_K),
        13 => ("Q3_K_L", Q3_K),
        14 => ("Q4_K_S", Q4_K),
        15 => ("Q4_K_M", Q4_K),
        16 => ("Q5_K_S", Q5_K),
        17 => ("Q5_K_M", Q5_K),
        18 => ("Q6_K", Q6_K),
        19 => ("IQ2_XXS", IQ2_XXS),
        20 => ("IQ2_XS", IQ2_XS),
        21 => ("Q2_K_S", Q2_K),
        22 => ("IQ3_XS", IQ3_S),
        23 => ("IQ3_XXS", IQ3_XXS),
        24 => ("IQ1_S", IQ1_S),
        25 => ("IQ4_NL", IQ4_NL),
        26 => ("IQ3_S", IQ3_S),
        27 => ("IQ3_M", IQ3_S),
        28 => ("IQ2_S", IQ2_XS),
        29 => ("IQ2_M", IQ2_S),
        30 => ("IQ4_XS", IQ4_XS),
        31 => ("IQ1_M", IQ1_M),
        32 => ("BF16", BF16),
        36 => ("TQ1_0", TQ1_0),
        37 => ("TQ2_0", TQ2_0),
        38 => ("MXFP4", MXFP4),
        39 => ("NVFP4", NVFP4),
        40 => ("Q1_0", Q1_0),
        41 => ("Q2_0", Q2_0),
        _ => return None,
    })
}

/// How a model is quantised, and whether its label contradicts the tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quantization {
    pub name: String,
    /// The label, where it is another quantisation than the tensors have.
    pub contradicted_label: Option<String>,
}

/// From the types of the matrices; `general.file_type` only refines the name of a
/// mixture (Q4_K_M or Q4_K_S) that it fits. `None` without matrices.
pub fn quantization(model: &Model<'_>) -> Option<Quantization> {
    let mut weights: BTreeMap<GgmlType, u64> = BTreeMap::new();
    for tensor in model.tensors().filter(|tensor| tensor.shape.len() > 1) {
        let sum = weights.entry(tensor.kind).or_default();
        *sum = sum.saturating_add(tensor.elements());
    }
    let (&dominant, _) = weights.iter().max_by_key(|(_, count)| **count)?;
    let label = model.metadata.u64("general.file_type").and_then(file_type);
    Some(match label {
        Some((name, base))
            if base == dominant
                || (name.contains("_K_") || name.starts_with("IQ")) && weights.contains_key(&base) =>
        {
            Quantization { name: name.to_owned(), contradicted_label: None }
        }
        Some((name, _)) => {
            Quantization { name: dominant.name().to_owned(), contradicted_label: Some(name.to_owned()) }
        }
        None => Quantization { name: dominant.name().to_owned(), contradicted_label: None },
    })
}

/// Lists of a tokenizer with an entry per token or merge.
const LISTS: [&str; 4] = ["tokens", "scores", "token_type", "merges"];
/// Pre-tokenizers of which runtimes assume that they begin a text with a token.
const BEGIN: [&str; 11] = [
    "llama3",
    "llama-v3",
    "llama-bpe",
    "falcon3",
    "falcon-h1",
    "pixtral",
    "midm-2.0",
    "lfm2",
    "jina-v5-nano",
    "tekken",
    "chameleon",
];

/// Whatever a tokenizer says besides its lists, with the defaults filled in that runtimes assume.
/// "None" as the largest u32 is as good as absent.
pub fn tokenizer_settings(metadata: &Metadata) -> BTreeMap<String, serde_json::Value> {
    let none = |key: &str, value: &Value| {
        key.ends_with("_token_id") && value.as_integer() == Some(i128::from(u32::MAX))
    };
    let mut out: BTreeMap<String, serde_json::Value> = metadata
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix("tokenizer.ggml.")?, value)))
        .filter(|(key, value)| !LISTS.contains(key) && !none(key, value))
        .map(|(key, value)| (key.to_owned(), json(value)))
        .collect();
    let size = metadata.array("tokenizer.ggml.tokens").map_or(0, Array::len);
    let pre = metadata.str("tokenizer.ggml.pre").unwrap_or("default");
    let model = metadata.str("tokenizer.ggml.model").unwrap_or_default();
    let flags: &[(&str, bool)] = match model {
        "llama" => &[("add_bos_token", true), ("add_eos_token", false), ("add_space_prefix", true)],
        "gpt2" => {
            &[("add_bos_token", BEGIN.contains(&pre)), ("add_eos_token", false), ("add_space_prefix", false)]
        }
        _ => &[],
    };
    // For others runtimes assume ids that are left from one old model; nobody relies on them.
    let ids: &[(&str, u64)] = match model {
        "llama" => &[("bos_token_id", 1), ("eos_token_id", 2), ("unknown_token_id", 0)],
        _ => &[],
    };
    let mut default = |key: &str, value: serde_json::Value| {
        out.entry(key.to_owned()).or_insert(value);
    };
    default("pre", pre.into());
    default("remove_extra_whitespaces", false.into());
    flags.iter().for_each(|(key, flag)| default(key, (*flag).into()));
    ids.iter().filter(|(_, id)| *id < size).for_each(|(key, id)| default(key, (*id).into()));
    out
}

/// SHA-256 over the content of the tokenizer: its lists and [`tokenizer_settings`]. What says the
/// same in another width hashes the same. `None` without tokens.
pub fn tokenizer_hash(metadata: &Metadata) -> Option<Sha256> {
    metadata.array("tokenizer.ggml.tokens")?;
    let mut stream = Sha256Stream::new();
    let mut put = |part: &[u8]| {
        stream.update(&(part.len() as u64).to_le_bytes());
        stream.update(part);
    };
    put(b"assayd tokenizer 2");
    for key in LISTS {
        if let Some(array) = metadata.array(&format!("tokenizer.ggml.{key}")) {
            put(key.as_bytes());
            put(&array.len().to_le_bytes());
            match array.kind() {
                ValueKind::String => put(array.raw()),
                ValueKind::F32 | ValueKind::F64 => {
                    array.floats().for_each(|value| put(&value.to_bits().to_le_bytes()))
                }
                _ => array.integers().for_each(|value| put(&value.to_le_bytes())),
            }
        }
    }
    put(serde_json::to_string(&tokenizer_settings(metadata)).ok()?.as_bytes());
    Some(stream.finish())
}

/// What shapes the computation: the architecture and its hyper-parameters with the defaults
/// filled in that runtimes assume. Names, authors, labels and other things under `general.` are
/// cosmetic and left out. `None` without an architecture.
pub fn config(metadata: &Metadata) -> Option<BTreeMap<String, serde_json::Value>> {
    let architecture = metadata.architecture()?;
    let prefix = format!("{architecture}.");
    let mut config: BTreeMap<String, serde_json::Value> = metadata
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(&prefix)?.to_owned(), json(value))))
        .collect();
    if let Some(tokens) = metadata.array("tokenizer.ggml.tokens") {
        config.entry("vocab_size".to_owned()).or_insert(tokens.len().into());
    }
    config.entry("architecture".to_owned()).or_insert(architecture.into());
    fill_defaults(&mut config);
    Some(config)
}

/// What runtimes assume of hyper-parameters that are not there.
pub fn fill_defaults(config: &mut BTreeMap<String, serde_json::Value>) {
    let get = |key: &str| config.get(key).cloned();
    let number = |key: &str| get(key)?.as_u64();
    let heads = get("attention.head_count");
    let head = number("embedding_length")
        .zip(number("attention.head_count"))
        .and_then(|(width, heads)| width.checked_div(heads))
        .map(serde_json::Value::from);
    let key = get("attention.key_length").or(head.clone());
    let base = heads.as_ref().map(|_| 10_000.0.into());
    for (name, value) in [
        ("attention.head_count_kv", heads),
        ("attention.key_length", key.clone()),
        ("attention.value_length", head),
        ("rope.dimension_count", key),
        ("rope.freq_base", base),
        ("expert_count", Some(0.into())),
        ("expert_used_count", Some(0.into())),
    ] {
        if let Some(value) = value {
            config.entry(name.to_owned()).or_insert(value);
        }
    }
}

/// SHA-256 of [`config`] as JSON with sorted keys.
pub fn config_hash(metadata: &Metadata) -> Option<Sha256> {
    Some(sha256(serde_json::to_string(&config(metadata)?).ok()?.as_bytes()))
}

/// A value as JSON; widths do not matter, what JSON cannot say becomes a string.
pub(super) fn json(value: &Value) -> serde_json::Value {
    let integer = |value: i128| {
        u64::try_from(value)
            .map(serde_json::Value::from)
            .or_else(|_| i64::try_from(value).map(serde_json::Value::from))
            .unwrap_or_else(|_| value.to_string().into())
    };
    let float = |value: f64| {
        serde_json::Number::from_f64(value)
            .map_or_else(|| value.to_string().into(), serde_json::Value::Number)
    };
    match value {
        Value::Bool(value) => (*value).into(),
        Value::String(value) => value.as_str().into(),
        // Long lists (none is known) are named by their digest, so that memory stays small.
        Value::Array(array) if array.raw().len() > 1 << 16 => {
            format!("{} {} {}", array.kind().name(), array.len(), sha256(array.raw())).into()
        }
        Value::Array(array) => match array.kind() {
            ValueKind::String => {
                array.strings().map(|item| serde_json::Value::from(String::from_utf8_lossy(item))).collect()
            }
            ValueKind::F32 | ValueKind::F64 => array.floats().map(float).collect(),
            _ => array.integers().map(integer).collect(),
        },
        other => match (other.as_integer(), other.as_float()) {
            (Some(value), _) => integer(value),
            (None, Some(value)) => float(value),
            (None, None) => serde_json::Value::Null,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::gguf::Tensor;

    fn tensor(name: &str, kind: GgmlType, shape: &[u64]) -> Tensor {
        Tensor { name: name.to_owned(), kind, shape: shape.to_vec(), offset: 0, bytes: 0 }
    }

    fn count(tensors: &[Tensor]) -> u64 {
        let metadata = Metadata::default();
        parameters(&Model::one_part(&metadata, tensors))
    }

    #[test]
    fn published_parameter_counts() {
        // Qwen3-8B: 36 layers, head_dim 128 given apart from the width, untied output.
        let mut qwen = vec![
            tensor("token_embd.weight", GgmlType::BF16, &[4096, 151_936]),
            tensor("output.weight", GgmlType::BF16, &[4096, 151_936]),
            tensor("output_norm.weight", GgmlType::F32, &[4096]),
            tensor("rope_freqs.weight", GgmlType::F32, &[64]),
        ];
        for layer in 0..36 {
            let parts: [(&str, &[u64]); 11] = [
                ("attn_norm", &[4096]),
                ("attn_q", &[4096, 4096]),
                ("attn_k", &[4096, 1024]),
                ("attn_v", &[4096, 1024]),
                ("attn_output", &[4096, 4096]),
                ("attn_q_norm", &[128]),
                ("attn_k_norm", &[128]),
                ("ffn_norm", &[4096]),
                ("ffn_gate", &[4096, 12_288]),
                ("ffn_up", &[4096, 12_288]),
                ("ffn_down", &[12_288, 4096]),
            ];
            qwen.extend(
                parts.map(|(part, shape)| {
                    tensor(&format!("blk.{layer}.{part}.weight"), GgmlType::BF16, shape)
                }),
            );
        }
        assert_eq!(count(&qwen), 8_190_735_360);
        // Experts count in full; a tied output is stored, and counted, once.
        let mixture = [
            tensor("token_embd.weight", GgmlType::F16, &[8, 100]),
            tensor("blk.0.ffn_up_exps.weight", GgmlType::F16, &[8, 16, 4]),
        ];
        assert_eq!(count(&mixture), 800 + 512);
    }

    #[test]
    fn the_label_refines_but_never_overrules_the_tensors() {
        use GgmlType::*;
        let name = |kinds: &[GgmlType], label: Option<u64>| {
            let tensors: Vec<Tensor> = kinds.iter().map(|kind| tensor("t", *kind, &[256, 4])).collect();
            let mut bytes = Vec::new();
            let label = label.map(|id| ("general.file_type", Value::U32(id.try_into().unwrap())));
            crate::model::gguf::write::write(&mut bytes, label.as_slice(), &[]).unwrap();
            let header = crate::model::gguf::read_strict(&bytes.as_slice()).unwrap();
            let found = quantization(&Model::one_part(&header.metadata, &tensors));
            found.map(|found| (found.name, found.contradicted_label.is_some()))
        };
        let is = |text: &str, contradicted| Some((text.to_owned(), contradicted));
        assert_eq!(name(&[Q4_K, Q4_K, Q6_K], Some(15)), is("Q4_K_M", false));
        assert_eq!(
            name(&[Q4_K, Q6_K, Q6_K], Some(15)),
            is("Q4_K_M", false),
            "a mixture need not be mostly its base"
        );
        assert_eq!(name(&[Q4_K, Q4_K, Q6_K], None), is("Q4_K", false));
        assert_eq!(name(&[Q8_0], Some(15)), is("Q8_0", true));
        assert_eq!(name(&[F16, F16, Q8_0], Some(7)), is("F16", true));
        assert_eq!(name(&[F32], Some(99)), is("F32", false));
        assert_eq!(name(&[], Some(15)), None);
    }
}
