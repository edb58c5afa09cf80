//! How weights of Hugging Face folders stand in GGUF, family by family: under which names, in which
//! order of rows, and with what added.
//!
//! After the names of llama.cpp's converter. A family that is not here may be laid out in any way, and
//! what differs there is no evidence.

/// The ways of a family that its names do not show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// Rows of queries and keys: the halves of a head one after the other here, interleaved in GGUF.
    pub interleaved: bool,
    /// Norms are stored less one here.
    pub norms_less_one: bool,
    /// There are norms before and after each part of a layer.
    sandwiched: bool,
}

/// The layout of an architecture, by its name in GGUF or in `config.json`; `None` for those that are not
/// known.
pub(super) fn layout(architecture: &str) -> Option<Layout> {
    let plain = Layout { interleaved: false, norms_less_one: false, sandwiched: false };
    match architecture {
        "llama" | "mistral" | "mistral3" => Some(Layout { interleaved: true, ..plain }),
        "qwen2" | "qwen3" | "qwen2moe" | "qwen3moe" | "phi3" => Some(plain),
        "gemma" => Some(Layout { norms_less_one: true, ..plain }),
        "gemma2" | "gemma3" => Some(Layout { norms_less_one: true, sandwiched: true, ..plain }),
        _ => None,
    }
}

/// Where a tensor stands in GGUF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Own(String),
    /// As one of the experts of a tensor.
    Expert(String, u64),
}

/// `model.layers.3.mlp.up_proj.weight` is `blk.3.ffn_up.weight`; `None` if there is no rule.
pub(super) fn gguf_name(layout: Layout, name: &str) -> Option<Place> {
    let own = |name: &str| Some(Place::Own(name.to_owned()));
    let name = name.strip_prefix("language_model.").unwrap_or(name);
    match name {
        "model.embed_tokens.weight" => return own("token_embd.weight"),
        "model.norm.weight" => return own("output_norm.weight"),
        "lm_head.weight" => return own("output.weight"),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (part, end) = rest.rsplit_once('.')?;
    if let Some((number, part)) = expert(part) {
        return Some(Place::Expert(format!("blk.{layer}.{part}.{end}"), number));
    }
    let part = match (part, layout.sandwiched) {
        ("input_layernorm", _) => "attn_norm",
        ("post_attention_layernorm", false) | ("pre_feedforward_layernorm", true) => "ffn_norm",
        ("post_attention_layernorm", true) => "post_attention_norm",
        ("post_feedforward_layernorm", true) => "post_ffw_norm",
        ("self_attn.q_proj", _) => "attn_q",
        ("self_attn.k_proj", _) => "attn_k",
        ("self_attn.v_proj", _) => "attn_v",
        ("self_attn.qkv_proj", _) => "attn_qkv",
        ("self_attn.o_proj", _) => "attn_output",
        ("self_attn.q_norm", _) => "attn_q_norm",
        ("self_attn.k_norm", _) => "attn_k_norm",
        ("mlp.gate_proj", _) => "ffn_gate",
        ("mlp.up_proj" | "mlp.gate_up_proj", _) => "ffn_up",
        ("mlp.down_proj", _) => "ffn_down",
        ("mlp.gate" | "block_sparse_moe.gate", _) => "ffn_gate_inp",
        ("mlp.shared_expert_gate", _) => "ffn_gate_inp_shexp",
        ("mlp.shared_expert.gate_proj", _) => "ffn_gate_shexp",
        ("mlp.shared_expert.up_proj", _) => "ffn_up_shexp",
        ("mlp.shared_expert.down_proj", _) => "ffn_down_shexp",
        _ => return None,
    };
    Some(Place::Own(format!("blk.{layer}.{part}.{end}")))
}

/// The number of an expert, and the tensor of all experts.
fn expert(part: &str) -> Option<(u64, &'static str)> {
    let rest =
        part.strip_prefix("mlp.experts.").or_else(|| part.strip_prefix("block_sparse_moe.experts."))?;
    let (number, part) = rest.split_once('.')?;
    let part = match part {
        "gate_proj" | "w1" => "ffn_gate_exps",
        "up_proj" | "w3" => "ffn_up_exps",
        "down_proj" | "w2" => "ffn_down_exps",
        _ => return None,
    };
    Some((number.parse().ok()?, part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_translated() {
        for (architecture, name, gguf) in [
            ("llama", "lm_head.weight", Some("output.weight")),
            ("llama", "model.layers.12.self_attn.k_proj.bias", Some("blk.12.attn_k.bias")),
            ("llama", "model.layers.0.post_attention_layernorm.weight", Some("blk.0.ffn_norm.weight")),
            (
                "gemma3",
                "model.layers.0.post_attention_layernorm.weight",
                Some("blk.0.post_attention_norm.weight"),
            ),
            (
                "gemma3",
                "language_model.model.layers.0.pre_feedforward_layernorm.weight",
                Some("blk.0.ffn_norm.weight"),
            ),
            ("llama", "model.layers.0.pre_feedforward_layernorm.weight", None),
            ("llama", "model.layers.0.block_sparse_moe.gate.weight", Some("blk.0.ffn_gate_inp.weight")),
            ("phi3", "model.layers.7.self_attn.qkv_proj.weight", Some("blk.7.attn_qkv.weight")),
            ("qwen3moe", "model.layers.7.mlp.experts.x.up_proj.weight", None),
            ("llama", "visual.blocks.0.norm1.weight", None),
        ] {
            let found = gguf_name(layout(architecture).unwrap(), name);
            assert_eq!(found, gguf.map(|name| Place::Own(name.to_owned())), "{name}");
        }
        for name in ["block_sparse_moe.experts.11.w2", "mlp.experts.11.down_proj"] {
            let found = gguf_name(layout("llama").unwrap(), &format!("model.layers.3.{name}.weight"));
            assert_eq!(found, Some(Place::Expert("blk.3.ffn_down_exps.weight".to_owned(), 11)));
        }
        assert_eq!(layout("bloom"), None);
    }
}
