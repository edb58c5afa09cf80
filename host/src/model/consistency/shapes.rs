//! Shapes against the widths and counts that the metadata declare.

use super::{Model, about};
use crate::model::finding::{Code, Findings, shape_mismatch};
use crate::model::gguf::Value;

/// Architectures of which all shapes are known: attention with separate or fused queries, keys and
/// values, and a gated feed-forward or experts.
const LLAMA_LIKE: &str = "llama llama-embed qwen2 qwen3 qwen3vl qwen3moe gemma gemma2 gemma3 gemma-embedding smollm3 \
     mistral3 internlm2 baichuan granite granitemoe minicpm exaone refact llada nanbeige arcee hunyuan-dense \
     hunyuan_vl pangu-embedded";

/// Those whose experts have a width of their own; without it they share the feed-forward's.
const NARROW_EXPERTS: [&str; 1] = ["qwen3moe"];

/// Those for which llama.cpp demands that all of a head takes part in the rotation.
const ROTATES_WHOLE_HEADS: [&str; 4] = ["llama", "llama-embed", "falcon", "deci"];

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

/// Of an architecture whose inventory is `known` norms, embedding and router are; of any other only the
/// embedding.
pub(super) fn check(model: &Model<'_>, known: bool, findings: &mut Findings) {
    let architecture = model.metadata.architecture().unwrap_or_default();
    let plain = LLAMA_LIKE.split_whitespace().any(|name| name == architecture);
    let number = |key: &str| model.metadata.hparam(key).and_then(Value::as_u64);
    let Some(width) = number("embedding_length") else { return };
    let (key_length, value_length) = (number("attention.key_length"), number("attention.value_length"));
    let experts = number("expert_count");
    let head_count = PerLayer::of(model, "attention.head_count");
    let kv_head_count = PerLayer::of(model, "attention.head_count_kv");
    let feed_forward = PerLayer::of(model, "feed_forward_length");
    let expert_forward = PerLayer::of(model, "expert_feed_forward_length");
    let used_experts = PerLayer::of(model, "expert_used_count");
    for (tensor, part_name) in model.placed() {
        let (layer, part) = match super::tensors::place_of(&tensor.name) {
            Some(("", layer, part)) => (layer, part),
            Some(_) => continue,
            None => (0, tensor.name.as_str()),
        };
        let heads = head_count.get(layer);
        let kv_heads = kv_head_count.get(layer).or(heads);
        let by_heads = heads.filter(|&heads| heads > 0).map(|heads| width / heads);
        let key = key_length.or(by_heads);
        let value = value_length.or(by_heads);
        let times = |a: Option<u64>, b: Option<u64>| a?.checked_mul(b?);
        let (q, k, v) = (times(heads, key), times(kv_heads, key), times(kv_heads, value));
        let fused = q.zip(k).zip(v).and_then(|((q, k), v)| q.checked_add(k)?.checked_add(v));
        let forward = feed_forward.get(layer);
        let expert = if NARROW_EXPERTS.contains(&architecture) {
            let share = || forward?.checked_div(used_experts.get(layer)?);
            expert_forward.get(layer).filter(|&width| width > 0).or_else(share)
        } else {
            forward
        };
        // None: any size will do.
        let expected: &[Option<u64>] = match part {
            "token_embd.weight" => &[Some(width), None],
            _ if !known => continue,
            "output.weight" => &[Some(width), None],
            "output_norm.weight" | "attn_norm.weight" | "ffn_norm.weight" => &[Some(width)],
            "post_attention_norm.weight" | "post_ffw_norm.weight" => &[Some(width)],
            "ffn_gate_inp.weight" => &[Some(width), experts],
            _ if !plain => continue,
            "attn_q.weight" => &[Some(width), q],
            "attn_k.weight" => &[Some(width), k],
            "attn_v.weight" => &[Some(width), v],
            "attn_qkv.weight" => &[Some(width), fused],
            "attn_q_norm.weight" | "attn_k_norm.weight" => &[key],
            "attn_output.weight" => &[times(heads, value), Some(width)],
            "ffn_gate.weight" | "ffn_up.weight" => &[Some(width), forward],
            "ffn_down.weight" => &[forward, Some(width)],
            "ffn_gate_exps.weight" | "ffn_up_exps.weight" => &[Some(width), expert, experts],
            "ffn_down_exps.weight" => &[expert, Some(width), experts],
            _ => continue,
        };
        // Dimensions of 1 at the end make no difference.
        let wanted = |index: usize| expected.get(index).copied().unwrap_or(Some(1));
        let fits = (0..tensor.shape.len().max(expected.len()))
            .all(|index| wanted(index).is_none_or(|want| want == tensor.dimension(index)));
        if !fits {
            let finding = shape_mismatch(&tensor.name, &tensor.shape, expected, "the metadata calls for");
            findings.push(about(&tensor.name, part_name, finding));
        }
    }
    let heads = head_count.get(0).filter(|&heads| heads > 0);
    let head = key_length.or(heads.map(|heads| width / heads));
    if ROTATES_WHOLE_HEADS.contains(&architecture)
        && let (Some(rotated), Some(head)) = (number("rope.dimension_count"), head)
        && rotated != head
    {
        let message = format!("{architecture}.rope.dimension_count is {rotated} and a head is {head} wide");
        findings.push(Code::ShapeMismatch.finding(message));
    }
    if plain
        && key_length.is_none()
        && let Some(heads) = heads
        && !width.is_multiple_of(heads)
    {
        let message = format!("embedding_length {width} is not a multiple of head_count {heads}");
        findings.push(Code::ShapeMismatch.finding(message));
    }
}
