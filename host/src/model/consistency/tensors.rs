//! The inventory of tensors against the declared layers, and shapes against widths.

use std::collections::{BTreeMap, HashMap};

use super::{Model, about};
use crate::model::finding::{Code, Findings};
use crate::model::gguf::Value;

/// Architectures whose layers consist of exactly known tensors: attention with separate
/// or fused queries, keys and values, a gated feed-forward or experts, two norms.
pub const LLAMA_LIKE: [&str; 11] = [
    "llama",
    "qwen2",
    "qwen3",
    "qwen3moe",
    "gemma",
    "gemma2",
    "gemma3",
    "smollm3",
    "mistral3",
    "internlm2",
    "baichuan",
];

/// Tensor names, and the parts they are in.
type Names<'a> = HashMap<&'a str, Option<&'a str>>;

pub(super) fn check(model: &Model<'_>, findings: &mut Findings) {
    let names: Names<'_> = model.placed().map(|(tensor, part)| (tensor.name.as_str(), part)).collect();
    let known = model.metadata.architecture().is_some_and(|name| LLAMA_LIKE.contains(&name));
    layers(model, &names, known, findings);
    if known {
        for name in ["token_embd.weight", "output_norm.weight"] {
            if !names.contains_key(name) {
                findings.push(missing(name, format!("the tensor {name} is missing")));
            }
        }
        shapes(model, findings);
        if model.metadata.architecture() == Some("llama") {
            strangers(&names, findings);
        }
    } else {
        embedding_width(model, findings);
    }
}

/// What a tensor is to the part of a model that it is named after.
const ENDINGS: [&str; 4] = ["weight", "bias", "scale", "input_scale"];
/// Names of tensors of the plain llama architecture, without these.
const LLAMA_PARTS: &str = "attn_norm attn_q attn_k attn_v attn_qkv attn_output attn_rot_embd attn_sub_norm ffn_norm \
     ffn_sub_norm ffn_gate ffn_up ffn_down ffn_gate_inp ffn_gate_exps ffn_up_exps ffn_down_exps ffn_gate_up_exps \
     ffn_gate_shexp ffn_up_shexp ffn_down_shexp attn_q_norm attn_k_norm token_embd output output_norm rope_freqs \
     rope_factors_long rope_factors_short";

/// Tensors that no llama model has: a runtime that counts them refuses the file.
fn strangers(names: &Names<'_>, findings: &mut Findings) {
    let known = |name: &str| {
        let rest = match layer_of(name) {
            Some(_) => name.splitn(3, '.').nth(2).unwrap_or_default(),
            None => name,
        };
        let mut words = rest.split('.');
        let (part, ending) = (words.next().unwrap_or_default(), words.next_back().unwrap_or_default());
        // Experts of old files have a tensor each: blk.0.ffn_up.3.weight.
        let expert =
            words.next().is_none_or(|number| number.parse::<u16>().is_ok()) && words.next().is_none();
        LLAMA_PARTS.split(' ').any(|known| known == part) && ENDINGS.contains(&ending) && expert
    };
    let mut strange: Vec<(&str, Option<&str>)> =
        names.iter().filter(|(name, _)| !known(name)).map(|(name, place)| (*name, *place)).collect();
    strange.sort_unstable();
    for (name, place) in strange {
        let message = format!("no llama model has a tensor named {name}");
        findings.push(about(name, place, Code::UnknownTensor.finding(message)));
    }
}

fn missing(name: &str, message: String) -> crate::domain::inspection::Finding {
    crate::domain::inspection::Finding {
        tensor: Some(name.to_owned()),
        ..Code::MissingTensor.finding(message)
    }
}

/// The layer number in `blk.N.…`.
pub(crate) fn layer_of(name: &str) -> Option<u64> {
    let (number, _) = name.strip_prefix("blk.")?.split_once('.')?;
    number.parse().ok()
}

fn layers(model: &Model<'_>, names: &Names<'_>, known: bool, findings: &mut Findings) {
    let Some(declared) = model.metadata.hparam("block_count").and_then(Value::as_u64) else { return };
    let mut present: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
    for name in names.keys() {
        if let Some(layer) = layer_of(name) {
            present.entry(layer).or_default().push(name);
        }
    }
    if present.is_empty() && !known {
        // Encoder-decoder models and others name their layers otherwise.
        return;
    }
    // Layers for multi-token prediction are declared, and often left out.
    let optional = model.metadata.hparam("nextn_predict_layers").and_then(Value::as_u64).unwrap_or(0);
    let required = declared.saturating_sub(optional);
    let mut absent = (0..required.min(1 << 16)).filter(|layer| !present.contains_key(layer)).peekable();
    if let Some(&first) = absent.peek() {
        let count = absent.count();
        let message = format!(
            "block_count is {declared}, and {count} of these layers have no tensors, the first of them layer {first}"
        );
        findings.push(missing(&format!("blk.{first}"), message));
    }
    for (layer, tensors) in present.range(declared..) {
        let name = tensors.iter().min().copied().unwrap_or_default();
        let message = format!("there are tensors of layer {layer}, and block_count is {declared}");
        findings.push(about(
            name,
            names.get(name).copied().flatten(),
            Code::UnexpectedTensor.finding(message),
        ));
    }
    if known {
        for layer in present.range(..required).map(|(layer, _)| *layer) {
            inventory(layer, names, findings);
        }
    }
}

/// Each group lists alternatives, one of which must be there as a whole.
const LAYER_GROUPS: [&[&[&str]]; 5] = [
    &[&["attn_norm"]],
    &[&["attn_q", "attn_k", "attn_v"], &["attn_qkv"]],
    &[&["attn_output"]],
    &[&["ffn_norm"]],
    &[
        &["ffn_gate", "ffn_up", "ffn_down"],
        &["ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"],
        &["ffn_gate_inp", "ffn_gate_up_exps", "ffn_down_exps"],
    ],
];

fn inventory(layer: u64, names: &Names<'_>, findings: &mut Findings) {
    let full = |part: &str| format!("blk.{layer}.{part}.weight");
    for alternatives in LAYER_GROUPS {
        let lacking = alternatives
            .iter()
            .map(|group| {
                group
                    .iter()
                    .map(|part| full(part))
                    .filter(|name| !names.contains_key(name.as_str()))
                    .collect()
            })
            .min_by_key(|lacking: &Vec<String>| lacking.len())
            .unwrap_or_default();
        for name in lacking {
            let message = format!("the tensor {name} is missing");
            findings.push(missing(&name, message));
        }
    }
}

fn embedding_width(model: &Model<'_>, findings: &mut Findings) {
    let width = model.metadata.hparam("embedding_length").and_then(Value::as_u64);
    if let (Some(width), Some(tensor)) = (width, model.tensor("token_embd.weight"))
        && tensor.columns() != width
    {
        let message =
            format!("token_embd.weight is {} wide and embedding_length is {width}", tensor.columns());
        findings.push(about(&tensor.name, None, Code::ShapeMismatch.finding(message)));
    }
}

/// A value that is one for all layers or one per layer.
struct PerLayer {
    one: Option<u64>,
    each: Vec<u64>,
}

impl PerLayer {
    fn of(model: &Model<'_>, key: &str) -> Self {
        match model.metadata.hparam(key) {
            Some(Value::Array(array)) => Self {
                one: None,
                // More layers than any runtime has room for are reported elsewhere.
                each: array.integers().take(1 << 16).map(|value| value.try_into().unwrap_or(0)).collect(),
            },
            value => Self { one: value.and_then(Value::as_u64), each: Vec::new() },
        }
    }

    fn get(&self, layer: u64) -> Option<u64> {
        self.one.or_else(|| self.each.get(usize::try_from(layer).ok()?).copied())
    }
}

fn shapes(model: &Model<'_>, findings: &mut Findings) {
    let number = |key: &str| model.metadata.hparam(key).and_then(Value::as_u64);
    let Some(width) = number("embedding_length") else { return };
    let (key_length, value_length) = (number("attention.key_length"), number("attention.value_length"));
    let experts = number("expert_count");
    let head_count = PerLayer::of(model, "attention.head_count");
    let kv_head_count = PerLayer::of(model, "attention.head_count_kv");
    let feed_forward = PerLayer::of(model, "feed_forward_length");
    for (tensor, part_name) in model.placed() {
        let layer = layer_of(&tensor.name);
        let heads = head_count.get(layer.unwrap_or(0));
        let kv_heads = kv_head_count.get(layer.unwrap_or(0)).or(heads);
        let by_heads = heads.filter(|&heads| heads > 0).map(|heads| width / heads);
        let key = key_length.or(by_heads);
        let value = value_length.or(by_heads);
        let times = |a: Option<u64>, b: Option<u64>| a?.checked_mul(b?);
        let (q, k, v) = (times(heads, key), times(kv_heads, key), times(kv_heads, value));
        let fused = q.zip(k).zip(v).and_then(|((q, k), v)| q.checked_add(k)?.checked_add(v));
        let forward = feed_forward.get(layer.unwrap_or(0));
        let part = match layer {
            Some(_) => tensor.name.splitn(3, '.').nth(2).unwrap_or_default(),
            None => tensor.name.as_str(),
        };
        // None: any size will do.
        let expected: &[Option<u64>] = match part {
            "token_embd.weight" | "output.weight" => &[Some(width), None],
            "output_norm.weight" | "attn_norm.weight" | "ffn_norm.weight" => &[Some(width)],
            "attn_q.weight" => &[Some(width), q],
            "attn_k.weight" => &[Some(width), k],
            "attn_v.weight" => &[Some(width), v],
            "attn_qkv.weight" => &[Some(width), fused],
            "attn_output.weight" => &[times(heads, value), Some(width)],
            "ffn_gate.weight" | "ffn_up.weight" => &[Some(width), forward],
            "ffn_down.weight" => &[forward, Some(width)],
            "ffn_gate_inp.weight" => &[Some(width), experts],
            "ffn_gate_exps.weight" | "ffn_up_exps.weight" => &[Some(width), None, experts],
            "ffn_down_exps.weight" => &[None, Some(width), experts],
            _ => continue,
        };
        let fits = tensor.shape.len() == expected.len()
            && tensor.shape.iter().zip(expected).all(|(got, want)| want.is_none_or(|want| want == *got));
        if !fits {
            let wanted: Vec<String> = expected
                .iter()
                .map(|want| want.map_or_else(|| "any".to_owned(), |want| want.to_string()))
                .collect();
            let message = format!(
                "{} has the shape {:?}; the metadata calls for [{}]",
                tensor.name,
                tensor.shape,
                wanted.join(", ")
            );
            findings.push(about(&tensor.name, part_name, Code::ShapeMismatch.finding(message)));
        }
    }
    // Runtimes demand that all of a head takes part in the rotation.
    let heads = head_count.get(0).filter(|&heads| heads > 0);
    let head = key_length.or(heads.map(|heads| width / heads));
    if model.metadata.architecture() == Some("llama")
        && let (Some(rotated), Some(head)) = (number("rope.dimension_count"), head)
        && rotated != head
    {
        let message = format!("llama.rope.dimension_count is {rotated} and a head is {head} wide");
        findings.push(Code::ShapeMismatch.finding(message));
    }
    if let Some(heads) = heads
        && !width.is_multiple_of(heads)
        && key_length.is_none()
    {
        let message = format!("embedding_length {width} is not a multiple of head_count {heads}");
        findings.push(Code::ShapeMismatch.finding(message));
    }
}
