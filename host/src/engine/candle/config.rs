//! `config.json` as a typed description of one decoder; every family is a setting of it.
//!
//! What is not understood is an error and never a guess: an unknown `model_type`, rope type or
//! activation, packed weights, a number out of range. Defaults stand only where the family's
//! own configuration class in transformers has them. Deliberately absent: mixtures of experts,
//! multi-modal models, and anything that needs code from the model's folder.

use serde_json::{Map, Value};

use super::rope::Rope;

/// The families that run here, by their `model_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    Gpt2,
    Phi,
    Phi3,
}

const FAMILIES: [(&str, Family); 7] = [
    ("llama", Family::Llama),
    ("mistral", Family::Mistral),
    ("qwen2", Family::Qwen2),
    ("qwen3", Family::Qwen3),
    ("gpt2", Family::Gpt2),
    ("phi", Family::Phi),
    ("phi3", Family::Phi3),
];

/// What stands between the two matrices of the feed-forward part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Activation {
    Silu,
    /// The tanh approximation (`gelu_new`, `gelu_pytorch_tanh`).
    GeluTanh,
    /// With the error function (`gelu`).
    GeluErf,
    Relu,
}

/// How a model computes. Sizes are counts of values; every one has been checked to be in range.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Config {
    pub family: Family,
    pub model_type: String,
    pub vocab: usize,
    pub width: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub ffn: usize,
    /// Positions the model was trained for; the most there can be where they are learned.
    pub context: usize,
    pub eps: f32,
    pub activation: Activation,
    /// `None` where positions are learned.
    pub rope: Option<Rope>,
    /// Per layer: how many tokens back, itself included, a token sees; `None` for all.
    pub windows: Vec<Option<usize>>,
    /// The output matrix is the embedding.
    pub tied: bool,
    pub qkv_bias: bool,
    pub out_bias: bool,
    pub mlp_bias: bool,
    /// Queries and keys are normalised per head.
    pub qk_norm: bool,
    pub bos: Option<u32>,
    /// Tokens that end generation.
    pub eos: Vec<u32>,
}

impl Config {
    /// Norms subtract the mean and have a bias (else: root mean square).
    pub fn layer_norm(&self) -> bool {
        matches!(self.family, Family::Gpt2 | Family::Phi)
    }

    /// Attention and feed-forward read the same normalised input.
    pub fn parallel(&self) -> bool {
        self.family == Family::Phi
    }

    /// The feed-forward part has a gate.
    pub fn gated(&self) -> bool {
        !matches!(self.family, Family::Gpt2 | Family::Phi)
    }

    /// # Errors
    /// What is wrong or not supported, naming the entry.
    pub fn parse(text: &str) -> Result<Self, String> {
        let entries: Map<String, Value> =
            serde_json::from_str(text).map_err(|error| format!("config.json: {error}"))?;
        let raw = Raw(entries);
        let model_type = raw.text("model_type").ok_or("config.json has no model_type")?;
        let Some((_, family)) = FAMILIES.iter().find(|(name, _)| *name == model_type) else {
            let known: Vec<&str> = FAMILIES.iter().map(|(name, _)| *name).collect();
            return Err(format!(
                "the architecture {model_type:?} is not supported; supported are {}",
                known.join(", ")
            ));
        };
        raw.refuse_foreign()?;
        if *family == Family::Gpt2 { gpt2(&raw, model_type) } else { rotary(&raw, *family, model_type) }
    }
}

/// The families with rotary positions; their entries have the same names.
fn rotary(raw: &Raw, family: Family, model_type: String) -> Result<Config, String> {
    let width = raw.size("hidden_size", MOST_WIDTH)?;
    let heads = raw.size("num_attention_heads", MOST_HEADS)?;
    let kv_heads = raw.size_or("num_key_value_heads", heads, MOST_HEADS)?;
    let head_dim = match raw.number("head_dim") {
        Some(_) => raw.size("head_dim", MOST_HEAD)?,
        None => divided(width, heads)?,
    };
    let layers = raw.size("num_hidden_layers", MOST_LAYERS)?;
    let context = raw.size("max_position_embeddings", MOST_CONTEXT)?;
    let phi = family == Family::Phi;
    if phi && raw.flag("qk_layernorm")?.unwrap_or(false) {
        return Err("qk_layernorm is not supported for phi".to_owned());
    }
    let share = raw.real("partial_rotary_factor")?.or(raw.rope_entry("partial_rotary_factor")?);
    let share = match (family, share) {
        (Family::Phi, share) => share.unwrap_or(0.5),
        (Family::Phi3, share) => share.unwrap_or(1.0),
        (_, None) => 1.0,
        (_, Some(1.0)) => 1.0,
        (_, Some(share)) => {
            return Err(format!("partial_rotary_factor {share} is not supported for {model_type}"));
        }
    };
    let attention_bias = raw.flag("attention_bias")?.unwrap_or(false);
    let (qkv_bias, out_bias) = match family {
        Family::Llama | Family::Qwen3 => (attention_bias, attention_bias),
        Family::Qwen2 => (true, false),
        Family::Phi => (true, true),
        Family::Mistral | Family::Phi3 | Family::Gpt2 => (false, false),
    };
    let mlp_bias = phi || family == Family::Llama && raw.flag("mlp_bias")?.unwrap_or(false);
    let eps = if phi { raw.real_needed("layer_norm_eps")? } else { raw.real_needed("rms_norm_eps")? };
    let config = Config {
        family,
        model_type,
        vocab: raw.size("vocab_size", MOST_VOCAB)?,
        width,
        layers,
        heads,
        kv_heads,
        head_dim,
        ffn: raw.size("intermediate_size", MOST_WIDTH)?,
        context,
        eps: in_range("the epsilon of the norms", eps, 0.0, 1.0)? as f32,
        activation: activation(&raw.text("hidden_act").ok_or("config.json has no hidden_act")?)?,
        rope: Some(Rope::parse(raw, rotated(head_dim, share)?)?),
        windows: windows(raw, family, layers)?,
        tied: raw.flag("tie_word_embeddings")?.unwrap_or(false),
        qkv_bias,
        out_bias,
        mlp_bias,
        qk_norm: family == Family::Qwen3,
        bos: raw.token("bos_token_id")?.first().copied(),
        eos: raw.token("eos_token_id")?,
    };
    fits(config)
}

fn gpt2(raw: &Raw, model_type: String) -> Result<Config, String> {
    let width = raw.size("n_embd", MOST_WIDTH)?;
    let heads = raw.size("n_head", MOST_HEADS)?;
    for (key, wanted) in [
        ("scale_attn_weights", true),
        ("scale_attn_by_inverse_layer_idx", false),
        ("add_cross_attention", false),
    ] {
        if raw.flag(key)?.is_some_and(|value| value != wanted) {
            return Err(format!("{key} {} is not supported for gpt2", !wanted));
        }
    }
    let layers = raw.size("n_layer", MOST_LAYERS)?;
    let act = raw.text("activation_function").ok_or("config.json has no activation_function")?;
    let eps = raw.real_needed("layer_norm_epsilon")?;
    let config = Config {
        family: Family::Gpt2,
        model_type,
        vocab: raw.size("vocab_size", MOST_VOCAB)?,
        width,
        layers,
        heads,
        kv_heads: heads,
        head_dim: divided(width, heads)?,
        ffn: raw.size_or("n_inner", 4 * width, MOST_WIDTH)?,
        context: raw.size("n_positions", MOST_CONTEXT)?,
        eps: in_range("layer_norm_epsilon", eps, 0.0, 1.0)? as f32,
        activation: activation(&act)?,
        rope: None,
        windows: vec![None; layers],
        tied: raw.flag("tie_word_embeddings")?.unwrap_or(true),
        qkv_bias: true,
        out_bias: true,
        mlp_bias: true,
        qk_norm: false,
        bos: raw.token("bos_token_id")?.first().copied(),
        eos: raw.token("eos_token_id")?,
    };
    fits(config)
}

const MOST_VOCAB: u64 = 1 << 22;
const MOST_WIDTH: u64 = 1 << 18;
const MOST_LAYERS: u64 = 1 << 10;
const MOST_HEADS: u64 = 1 << 12;
const MOST_HEAD: u64 = 1 << 12;
const MOST_CONTEXT: u64 = 1 << 28;

fn divided(width: usize, heads: usize) -> Result<usize, String> {
    match width.checked_div(heads) {
        Some(head) if head * heads == width => Ok(head),
        _ => Err(format!("a width of {width} cannot be divided among {heads} heads")),
    }
}

/// How many values of a head are rotated; they are rotated in pairs.
fn rotated(head_dim: usize, share: f64) -> Result<usize, String> {
    let share = in_range("partial_rotary_factor", share, f64::MIN_POSITIVE, 1.0)?;
    let dims = (head_dim as f64 * share) as usize;
    if dims == 0 || !dims.is_multiple_of(2) {
        return Err(format!("{dims} of {head_dim} values of a head are to be rotated; they form no pairs"));
    }
    Ok(dims)
}

/// What no single entry says.
fn fits(config: Config) -> Result<Config, String> {
    if config.kv_heads == 0 || !config.heads.is_multiple_of(config.kv_heads) {
        return Err(format!("{} heads cannot share {} key-value heads", config.heads, config.kv_heads));
    }
    if config.bos.iter().chain(&config.eos).any(|&token| token as usize >= config.vocab) {
        return Err(format!("a special token is outside the vocabulary of {}", config.vocab));
    }
    Ok(config)
}

fn activation(name: &str) -> Result<Activation, String> {
    match name {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
        "gelu" => Ok(Activation::GeluErf),
        "relu" => Ok(Activation::Relu),
        other => Err(format!(
            "the activation {other:?} is not supported; supported are silu, gelu, gelu_new, gelu_pytorch_tanh and relu"
        )),
    }
}

/// Which layers see only a window, as the family's own code decides it.
fn windows(raw: &Raw, family: Family, layers: usize) -> Result<Vec<Option<usize>>, String> {
    let size = match raw.number("sliding_window") {
        None => None,
        Some(_) => Some(raw.size("sliding_window", MOST_CONTEXT)?),
    };
    let switched = match family {
        Family::Mistral | Family::Phi3 => true,
        Family::Qwen2 | Family::Qwen3 => raw.flag("use_sliding_window")?.unwrap_or(false),
        Family::Llama | Family::Phi | Family::Gpt2 => false,
    };
    if let Some(kinds) = raw.get("layer_types") {
        let kinds = kinds.as_array().filter(|kinds| kinds.len() == layers);
        let kinds = kinds.ok_or(format!("layer_types is not a list of {layers} kinds"))?;
        return kinds
            .iter()
            .map(|kind| match (kind.as_str(), size) {
                (Some("full_attention"), _) => Ok(None),
                (Some("sliding_attention"), Some(size)) => Ok(Some(size)),
                (Some("sliding_attention"), None) => {
                    Err("a layer has sliding attention and there is no sliding_window".to_owned())
                }
                _ => Err(format!("the layer type {kind} is not supported")),
            })
            .collect();
    }
    let (Some(size), true) = (size, switched) else { return Ok(vec![None; layers]) };
    let first = match family {
        Family::Qwen2 | Family::Qwen3 => raw.size_or("max_window_layers", layers, MOST_LAYERS)?,
        _ => 0,
    };
    Ok((0..layers).map(|layer| (layer >= first).then_some(size)).collect())
}

fn in_range(what: &str, value: f64, least: f64, most: f64) -> Result<f64, String> {
    if value.is_finite() && (least..=most).contains(&value) {
        return Ok(value);
    }
    Err(format!("{what} is {value}, not within {least} to {most}"))
}

/// The entries, read with their limits.
#[derive(Debug)]
pub(super) struct Raw(Map<String, Value>);

impl Raw {
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn text(&self, key: &str) -> Option<String> {
        self.get(key)?.as_str().map(str::to_owned)
    }

    fn number(&self, key: &str) -> Option<&Value> {
        self.get(key)
    }

    fn size(&self, key: &str, most: u64) -> Result<usize, String> {
        let value = self.get(key).ok_or(format!("config.json has no {key}"))?;
        value
            .as_u64()
            .filter(|value| (1..=most).contains(value))
            .and_then(|value| usize::try_from(value).ok())
            .ok_or(format!("{key} is {value}, not within 1 to {most}"))
    }

    fn size_or(&self, key: &str, default: usize, most: u64) -> Result<usize, String> {
        if self.get(key).is_some() { self.size(key, most) } else { Ok(default) }
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, String> {
        let flag = |value: &Value| value.as_bool().ok_or(format!("{key} is {value}, not true or false"));
        self.get(key).map(flag).transpose()
    }

    pub fn real(&self, key: &str) -> Result<Option<f64>, String> {
        real(&self.0, key)
    }

    fn real_needed(&self, key: &str) -> Result<f64, String> {
        self.real(key)?.ok_or(format!("config.json has no {key}"))
    }

    /// Settings of the rotary positions: `rope_parameters`, or `rope_scaling` of older files.
    pub fn rope_section(&self) -> Result<Option<&Map<String, Value>>, String> {
        let section = self.get("rope_parameters").or_else(|| self.get("rope_scaling"));
        section.map(|section| section.as_object().ok_or(format!("rope settings are {section}"))).transpose()
    }

    fn rope_entry(&self, key: &str) -> Result<Option<f64>, String> {
        self.rope_section()?.map_or(Ok(None), |section| real(section, key))
    }

    /// One token, or a list of them.
    fn token(&self, key: &str) -> Result<Vec<u32>, String> {
        let token = |value: &Value| {
            let id = value.as_u64().and_then(|value| u32::try_from(value).ok());
            id.ok_or(format!("{key} is {value}, not a token"))
        };
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(token).collect(),
            Some(value) => Ok(vec![token(value)?]),
        }
    }

    /// Things that change what is computed and are not done here.
    fn refuse_foreign(&self) -> Result<(), String> {
        if let Some(packed) = self.get("quantization_config").or_else(|| self.get("quantization")) {
            let method = packed.get("quant_method").and_then(Value::as_str).unwrap_or("unknown");
            return Err(format!("the weights are packed ({method}); only F32, F16 and BF16 are supported"));
        }
        if let Some(class) = self.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str)
            && !(class.ends_with("ForCausalLM") || class.ends_with("LMHeadModel"))
        {
            return Err(format!(
                "the architecture class {class} is not a language model that predicts tokens"
            ));
        }
        if let Some(map) = self.get("auto_map").filter(|map| map.get("AutoModelForCausalLM").is_some()) {
            return Err(format!("the model needs code of its own ({map}); none is run"));
        }
        Ok(())
    }
}

/// A number of a section.
pub(super) fn real(section: &Map<String, Value>, key: &str) -> Result<Option<f64>, String> {
    let number = |value: &Value| {
        value.as_f64().filter(|value| value.is_finite()).ok_or(format!("{key} is {value}, not a number"))
    };
    section.get(key).filter(|value| !value.is_null()).map(number).transpose()
}
