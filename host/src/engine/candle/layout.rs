//! Which tensors a model consists of: their names, shapes and places, one table for loading
//! and for saying what is missing or too many.

use super::config::{Config, Family};

/// The place of a tensor in the decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Slot {
    Embedding,
    Positions,
    FinalNorm,
    FinalNormBias,
    Head,
    HeadBias,
    AttentionNorm,
    AttentionNormBias,
    Q,
    QBias,
    K,
    KBias,
    V,
    VBias,
    /// Queries, keys and values, one after the other.
    Qkv,
    QkvBias,
    Out,
    OutBias,
    QNorm,
    KNorm,
    FfnNorm,
    FfnNormBias,
    Gate,
    GateBias,
    Up,
    UpBias,
    /// Gate and up, one after the other.
    GateUp,
    Down,
    DownBias,
}

/// One tensor: where it goes, what it is called, and the shape it must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub slot: Slot,
    pub name: String,
    /// As stored, the slowest-varying dimension first.
    pub shape: Vec<usize>,
    /// Stored with the input dimension first.
    pub transposed: bool,
}

impl Place {
    /// Outputs and inputs of a matrix that something is multiplied with, or whose rows are looked
    /// up by token; of such a matrix each weight can be made narrower on its own.
    pub fn matrix(&self) -> Option<[usize; 2]> {
        match (self.shape.as_slice(), self.transposed) {
            _ if self.slot == Slot::Positions => None,
            ([outputs, inputs], false) | ([inputs, outputs], true) => Some([*outputs, *inputs]),
            _ => None,
        }
    }
}

/// Every tensor of a model.
#[derive(Debug)]
pub(super) struct Layout {
    pub whole: Vec<Place>,
    /// One list per layer.
    pub layers: Vec<Vec<Place>>,
}

impl Layout {
    pub fn of(config: &Config) -> Self {
        let layers = (0..config.layers).map(|layer| layer_places(config, layer)).collect();
        Self { whole: whole_places(config), layers }
    }

    pub fn all(&self) -> impl Iterator<Item = &Place> {
        self.whole.iter().chain(self.layers.iter().flatten())
    }
}

/// Tensors that older exporters wrote and that carry nothing of their own: tables that are
/// computed, and causal masks.
pub(super) fn is_computed(name: &str) -> bool {
    name.ends_with(".rotary_emb.inv_freq")
        || name.ends_with(".attn.bias")
        || name.ends_with(".attn.masked_bias")
}

fn place(slot: Slot, name: String, shape: &[usize]) -> Place {
    Place { slot, name, shape: shape.to_vec(), transposed: false }
}

fn whole_places(config: &Config) -> Vec<Place> {
    let Config { vocab, width, .. } = *config;
    let (embedding, norm) = match config.family {
        Family::Gpt2 => ("wte.weight", "ln_f"),
        Family::Phi => ("model.embed_tokens.weight", "model.final_layernorm"),
        _ => ("model.embed_tokens.weight", "model.norm"),
    };
    let mut places = vec![
        place(Slot::Embedding, embedding.to_owned(), &[vocab, width]),
        place(Slot::FinalNorm, format!("{norm}.weight"), &[width]),
    ];
    if config.family == Family::Gpt2 {
        places.push(place(Slot::Positions, "wpe.weight".to_owned(), &[config.context, width]));
    }
    if config.layer_norm() {
        places.push(place(Slot::FinalNormBias, format!("{norm}.bias"), &[width]));
    }
    if !config.tied {
        places.push(place(Slot::Head, "lm_head.weight".to_owned(), &[vocab, width]));
    }
    if config.family == Family::Phi {
        places.push(place(Slot::HeadBias, "lm_head.bias".to_owned(), &[vocab]));
    }
    places
}

/// The parts of a layer: slot, slot of the bias if there is one, name, outputs, inputs (0 for
/// a vector).
type Part = (Slot, Option<Slot>, &'static str, usize, usize);

fn layer_places(config: &Config, layer: usize) -> Vec<Place> {
    let Config { width, head_dim, ffn, .. } = *config;
    let (q, kv) = (config.heads * head_dim, config.kv_heads * head_dim);
    let some = |bias: bool, slot: Slot| bias.then_some(slot);
    let (qkv, out, mlp) = (config.qkv_bias, config.out_bias, config.mlp_bias);
    let norm = config.layer_norm();
    let parts: Vec<Part> = match config.family {
        Family::Gpt2 => vec![
            (Slot::AttentionNorm, some(norm, Slot::AttentionNormBias), "ln_1", width, 0),
            (Slot::Qkv, Some(Slot::QkvBias), "attn.c_attn", q + 2 * kv, width),
            (Slot::Out, Some(Slot::OutBias), "attn.c_proj", width, q),
            (Slot::FfnNorm, some(norm, Slot::FfnNormBias), "ln_2", width, 0),
            (Slot::Up, Some(Slot::UpBias), "mlp.c_fc", ffn, width),
            (Slot::Down, Some(Slot::DownBias), "mlp.c_proj", width, ffn),
        ],
        Family::Phi => vec![
            (Slot::AttentionNorm, some(norm, Slot::AttentionNormBias), "input_layernorm", width, 0),
            (Slot::Q, some(qkv, Slot::QBias), "self_attn.q_proj", q, width),
            (Slot::K, some(qkv, Slot::KBias), "self_attn.k_proj", kv, width),
            (Slot::V, some(qkv, Slot::VBias), "self_attn.v_proj", kv, width),
            (Slot::Out, some(out, Slot::OutBias), "self_attn.dense", width, q),
            (Slot::Up, some(mlp, Slot::UpBias), "mlp.fc1", ffn, width),
            (Slot::Down, some(mlp, Slot::DownBias), "mlp.fc2", width, ffn),
        ],
        Family::Phi3 => vec![
            (Slot::AttentionNorm, None, "input_layernorm", width, 0),
            (Slot::Qkv, None, "self_attn.qkv_proj", q + 2 * kv, width),
            (Slot::Out, None, "self_attn.o_proj", width, q),
            (Slot::FfnNorm, None, "post_attention_layernorm", width, 0),
            (Slot::GateUp, None, "mlp.gate_up_proj", 2 * ffn, width),
            (Slot::Down, None, "mlp.down_proj", width, ffn),
        ],
        Family::Llama | Family::Mistral | Family::Qwen2 | Family::Qwen3 => {
            let mut parts: Vec<Part> = vec![
                (Slot::AttentionNorm, None, "input_layernorm", width, 0),
                (Slot::Q, some(qkv, Slot::QBias), "self_attn.q_proj", q, width),
                (Slot::K, some(qkv, Slot::KBias), "self_attn.k_proj", kv, width),
                (Slot::V, some(qkv, Slot::VBias), "self_attn.v_proj", kv, width),
                (Slot::Out, some(out, Slot::OutBias), "self_attn.o_proj", width, q),
                (Slot::FfnNorm, None, "post_attention_layernorm", width, 0),
                (Slot::Gate, some(mlp, Slot::GateBias), "mlp.gate_proj", ffn, width),
                (Slot::Up, some(mlp, Slot::UpBias), "mlp.up_proj", ffn, width),
                (Slot::Down, some(mlp, Slot::DownBias), "mlp.down_proj", width, ffn),
            ];
            if config.qk_norm {
                parts.push((Slot::QNorm, None, "self_attn.q_norm", head_dim, 0));
                parts.push((Slot::KNorm, None, "self_attn.k_norm", head_dim, 0));
            }
            parts
        }
    };
    let gpt2 = config.family == Family::Gpt2;
    let prefix = if gpt2 { format!("h.{layer}") } else { format!("model.layers.{layer}") };
    let mut places = Vec::new();
    for (slot, bias, name, outputs, inputs) in parts {
        let transposed = gpt2 && inputs > 0;
        let shape = match (inputs, transposed) {
            (0, _) => vec![outputs],
            (_, true) => vec![inputs, outputs],
            (_, false) => vec![outputs, inputs],
        };
        places.push(Place { slot, name: format!("{prefix}.{name}.weight"), shape, transposed });
        if let Some(bias) = bias {
            places.push(place(bias, format!("{prefix}.{name}.bias"), &[outputs]));
        }
    }
    places
}
