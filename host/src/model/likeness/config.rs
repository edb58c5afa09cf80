//! `config.json` key by key, however it is spelt, and in GGUF's words as far as there are any.
//! What one side has no word for is told, never passed over.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::facts::Facts;
use crate::domain::Sha256;
use crate::model::folder::COSMETIC;
use crate::model::{canonical, facts};

type Settings = BTreeMap<String, Value>;

/// The entries as `a.b`, without those that are null or cosmetic, which is as good as absent, and
/// with one spelling for what has several.
pub fn settings(config: &Map<String, Value>) -> Settings {
    let mut out = Settings::new();
    flatten("", config, &mut out);
    for prefix in ["", "text_config."] {
        rope_as_before(prefix, &mut out);
    }
    out
}

/// SHA-256 over its settings.
pub fn hash(config: &Map<String, Value>) -> Option<Sha256> {
    canonical::digest(&serde_json::to_string(&settings(config)).ok()?, &[]).ok()
}

/// `{"a": {"b": 1}}` as `a.b`. JSON this deep does not get past its parser.
fn flatten(prefix: &str, map: &Map<String, Value>, out: &mut Settings) {
    for (key, value) in map.iter().filter(|(key, _)| !COSMETIC.contains(&key.as_str())) {
        let key = format!("{prefix}{}", key.replace('.', "\\."));
        match value {
            Value::Object(map) => flatten(&format!("{key}."), map, out),
            Value::Null => {}
            other => drop(out.insert(key, other.clone())),
        }
    }
}

/// transformers 5 writes `rope_parameters` for what were `rope_theta` and `rope_scaling`, and
/// `rope_type` was once `type`.
fn rope_as_before(prefix: &str, out: &mut Settings) {
    let mut rename = |from: &str, to: String| {
        let (from, to) = (format!("{prefix}{from}"), format!("{prefix}{to}"));
        // Two that disagree both stay.
        if let Some(value) = out.get(&from)
            && out.get(&to).is_none_or(|other| other == value)
            && let Some(value) = out.remove(&from)
        {
            out.insert(to, value);
        }
    };
    for key in ["rope_theta", "partial_rotary_factor"] {
        rename(&format!("rope_parameters.{key}"), key.to_owned());
    }
    for key in SCALING {
        rename(&format!("rope_parameters.{key}"), format!("rope_scaling.{key}"));
    }
    rename("rope_scaling.type", "rope_scaling.rope_type".to_owned());
    let kind = format!("{prefix}rope_scaling.rope_type");
    if out.get(&kind).is_some_and(|kind| kind == "default") {
        out.remove(&kind);
    }
}

const SCALING: [&str; 14] = [
    "type",
    "rope_type",
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "short_factor",
    "long_factor",
    "truncate",
];

/// Names in config.json for numbers that GGUF has, too.
const NUMBERS: [(&[&str], &str); 17] = [
    (&["hidden_size", "n_embd"], "embedding_length"),
    (&["num_hidden_layers", "n_layer"], "block_count"),
    (&["intermediate_size", "n_inner"], "feed_forward_length"),
    (&["num_attention_heads", "n_head"], "attention.head_count"),
    (&["num_key_value_heads"], "attention.head_count_kv"),
    (&["head_dim"], "attention.key_length"),
    (&["rms_norm_eps"], "attention.layer_norm_rms_epsilon"),
    (&["layer_norm_epsilon", "layer_norm_eps"], "attention.layer_norm_epsilon"),
    (&["rope_theta"], "rope.freq_base"),
    (&["max_position_embeddings", "n_positions", "n_ctx"], "context_length"),
    (&["vocab_size"], "vocab_size"),
    (&["num_local_experts", "num_experts"], "expert_count"),
    (&["num_experts_per_tok"], "expert_used_count"),
    (&["moe_intermediate_size"], "expert_feed_forward_length"),
    (&["sliding_window"], "attention.sliding_window"),
    (&["attn_logit_softcapping"], "attn_logit_softcapping"),
    (&["final_logit_softcapping"], "final_logit_softcapping"),
];

/// Other keys of GGUF that config.json has words for.
const OTHERS: [&str; 6] = [
    "attention.value_length",
    "rope.dimension_count",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope_freqs",
];

/// What a `model_type` is called in GGUF.
const ARCHITECTURES: [(&str, &str); 12] = [
    ("llama", "llama"),
    ("mistral", "llama"),
    ("mixtral", "llama"),
    ("qwen2", "qwen2"),
    ("qwen2_moe", "qwen2moe"),
    ("qwen3", "qwen3"),
    ("qwen3_moe", "qwen3moe"),
    ("smollm3", "smollm3"),
    ("phi3", "phi3"),
    ("gemma", "gemma"),
    ("gemma2", "gemma2"),
    ("gpt2", "gpt2"),
];
/// Architectures that have this activation and no word for another.
const SILU: [&str; 7] = ["llama", "qwen2", "qwen2moe", "qwen3", "qwen3moe", "smollm3", "phi3"];

/// Entries of config.json that have not been understood yet.
struct Left(Settings);

impl Left {
    /// The entry, or that of the language model in a multi-modal configuration.
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).or_else(|| self.0.get(&format!("text_config.{key}")))
    }

    fn number(&self, key: &str) -> Option<f64> {
        self.get(key)?.as_f64()
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        self.0.remove(key).or_else(|| self.0.remove(&format!("text_config.{key}")))
    }
}

/// Puts the folder's configuration and settings of generation in GGUF's words, and takes from both
/// what cannot be compared; says what that is.
pub(super) fn translate(folder: &mut Facts, file: &mut Facts) -> Vec<String> {
    let mut unknown = Vec::new();
    generation(folder, file, &mut unknown);
    if folder.config.is_empty() || file.config.is_empty() {
        return unknown;
    }
    let mut left = Left(std::mem::take(&mut folder.config));
    let mut said = Settings::new();
    // A window that is switched off is none.
    if left.take("use_sliding_window") == Some(Value::Bool(false)) {
        left.take("sliding_window");
        left.take("max_window_layers");
    }
    for (names, ours) in NUMBERS {
        for name in names {
            match (left.take(name), said.get(ours)) {
                (None, _) => {}
                (Some(value), None) => drop(said.insert(ours.to_owned(), single(value))),
                (Some(value), Some(other)) if single(value.clone()) == *other => {}
                (Some(value), Some(_)) => drop(left.0.insert((*name).to_owned(), value)),
            }
        }
    }
    if let Some(head) = said.get("attention.key_length").cloned() {
        said.insert("attention.value_length".to_owned(), head);
    }
    // The one architecture whose feed-forward width has a default.
    if left.get("model_type").is_some_and(|kind| kind == "gpt2")
        && let Some(width) = said.get("embedding_length").and_then(Value::as_u64)
    {
        said.entry("feed_forward_length".to_owned()).or_insert(width.saturating_mul(4).into());
    }
    names(&mut left, &mut said, file);
    // The table of factors needs the width of a head.
    facts::fill_defaults(&mut said);
    rope(&mut left, &mut said, file);
    let [ours, theirs] = ids(&mut left, &file.special, "config", &mut unknown);
    said.extend(ours);
    file.config.extend(theirs);
    let words = |key: &str| {
        said.contains_key(key) || OTHERS.contains(&key) || NUMBERS.iter().any(|(_, ours)| *ours == key)
    };
    let (spoken, silent): (Settings, Settings) =
        std::mem::take(&mut file.config).into_iter().partition(|(key, _)| words(key));
    (folder.config, file.config) = (said, spoken);
    for (side, list) in [("GGUF", left.0), ("config.json", silent)] {
        if !list.is_empty() {
            unknown.push(format!("config: {side} has no words here for {}", listed(list.into_keys())));
        }
    }
    unknown
}

/// GGUF has fractions in 32 bits.
fn single(value: Value) -> Value {
    match &value {
        Value::Number(number) if number.is_f64() => {
            number.as_f64().map_or(value, |number| f64::from(number as f32).into())
        }
        _ => value,
    }
}

/// What is said in words.
fn names(left: &mut Left, said: &mut Settings, file: &mut Facts) {
    let architecture = file.config.get("architecture").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut understood = |key: &str, translate: &mut dyn FnMut(&Value) -> bool| {
        if let Some(value) = left.take(key)
            && !translate(&value)
        {
            left.0.insert(key.to_owned(), value);
        }
    };
    understood("model_type", &mut |kind| {
        let found = ARCHITECTURES.iter().find(|(name, _)| kind == name);
        found.is_some_and(|(_, ours)| said.insert("architecture".to_owned(), (*ours).into()).is_none())
    });
    understood("architectures", &mut |list| {
        let one = list.as_array().filter(|list| list.len() == 1).and_then(|list| list.first()?.as_str());
        one.is_some_and(|name| name.ends_with("ForCausalLM") || name.ends_with("LMHeadModel"))
    });
    understood("hidden_act", &mut |name| {
        let known = SILU.contains(&architecture.as_str());
        if known {
            said.insert("hidden_act".to_owned(), name.clone());
            file.config.insert("hidden_act".to_owned(), "silu".into());
        }
        known
    });
    for (key, part) in [("attention_bias", "attn_q"), ("mlp_bias", "ffn_up")] {
        understood(key, &mut |flag| {
            said.insert(key.to_owned(), flag.clone());
            file.config.insert(key.to_owned(), file.biases.contains(part).into());
            true
        });
    }
    understood("layer_types", &mut |list| {
        list.as_array().is_some_and(|list| list.iter().all(|kind| kind == "full_attention"))
    });
    // Lineage compares the embedding under both names.
    understood("tie_word_embeddings", &mut |_| true);
}

/// Scaling of positions: two methods that GGUF names, and one whose factors it has in a tensor.
fn rope(left: &mut Left, said: &mut Settings, file: &mut Facts) {
    let number = |said: &Settings, key: &str| said.get(key).and_then(Value::as_f64);
    if let Some(part) = left.number("partial_rotary_factor")
        && let Some(head) = number(said, "attention.key_length")
    {
        left.take("partial_rotary_factor");
        said.insert("rope.dimension_count".to_owned(), ((head * part) as u64).into());
    }
    let kind = left.take("rope_scaling.rope_type");
    let mut method = "none";
    match kind.as_ref().and_then(Value::as_str) {
        None if kind.is_none() => {}
        Some(name @ ("linear" | "yarn")) => {
            method = if name == "yarn" { "yarn" } else { "linear" };
            if let Some(factor) = left.take("rope_scaling.factor") {
                said.insert("rope.scaling.factor".to_owned(), single(factor));
            }
            if name == "yarn" {
                let trained = left.take("rope_scaling.original_max_position_embeddings");
                let trained = trained.or_else(|| said.get("context_length").cloned());
                said.extend(
                    trained.map(|length| ("rope.scaling.original_context_length".to_owned(), length)),
                );
            }
        }
        Some("llama3") => {
            let keys = ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"];
            let values = keys.map(|key| left.number(&format!("rope_scaling.{key}")));
            let base = number(said, "rope.freq_base").zip(number(said, "rope.dimension_count"));
            if let ([Some(factor), Some(low), Some(high), Some(length)], Some(base)) = (values, base) {
                keys.iter().for_each(|key| drop(left.take(&format!("rope_scaling.{key}"))));
                let factors = llama3(base, factor, [low, high], length);
                let table = file.config.get("rope_freqs").filter(|table| near(table, &factors)).cloned();
                said.insert("rope_freqs".to_owned(), table.unwrap_or_else(|| factors.into()));
            } else {
                left.0.extend(kind.map(|kind| ("rope_scaling.rope_type".to_owned(), kind)));
            }
        }
        _ => left.0.extend(kind.map(|kind| ("rope_scaling.rope_type".to_owned(), kind))),
    }
    said.insert("rope.scaling.type".to_owned(), method.into());
    // Runtimes take a factor without a method for a linear one.
    let factor = number(&file.config, "rope.scaling.factor").is_some_and(|factor| factor != 0.0);
    file.config
        .entry("rope.scaling.type".to_owned())
        .or_insert(if factor { "linear" } else { "none" }.into());
}

/// By how much each frequency is divided: long waves by the factor, short ones not at all.
fn llama3((base, width): (f64, f64), factor: f64, [low, high]: [f64; 2], length: f64) -> Vec<f64> {
    let pairs = (width / 2.0).clamp(0.0, crate::domain::budget::ROPE_FACTORS as f64) as u64;
    let one = |pair: u64| {
        let wave = std::f64::consts::TAU * base.powf(2.0 * pair as f64 / width);
        let turns = length / wave;
        if turns > high {
            1.0
        } else if turns < low {
            factor
        } else {
            let smooth = (turns - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    (0..pairs).map(one).collect()
}

/// Converters compute the table in 32 bits.
fn near(table: &Value, factors: &[f64]) -> bool {
    table.as_array().is_some_and(|table| {
        table.len() == factors.len()
            && table.iter().zip(factors).all(|(a, b)| a.as_f64().is_some_and(|a| (a - b).abs() <= 1e-5 * b))
    })
}

/// Ids of special tokens as the folder and as the file have them. Where a folder lists several
/// ends, a file names some of them at most.
fn ids(left: &mut Left, file: &Settings, about: &str, unknown: &mut Vec<String>) -> [Settings; 2] {
    let mut out = [Settings::new(), Settings::new()];
    let [folder, named] = &mut out;
    for (key, name) in [
        ("bos_token_id", "bos_token_id"),
        ("eos_token_id", "eos_token_id"),
        ("pad_token_id", "padding_token_id"),
    ] {
        let Some(mut theirs) = left.take(key) else { continue };
        let ours = file.get(name);
        if ours.is_none() && name == "padding_token_id" {
            unknown.push(format!("{about}: {key} is {theirs}, and GGUF names none"));
            continue;
        }
        if let (Some(list), Some(id)) = (theirs.as_array(), ours)
            && list.contains(id)
        {
            let ends = ["eos_token_id", "eot_token_id", "eom_token_id"].map(|key| file.get(key));
            if list.iter().any(|id| !ends.contains(&Some(id))) {
                unknown.push(format!("{about}: {key} is {theirs}, and GGUF names {id} of these"));
            }
            theirs = id.clone();
        }
        folder.insert(key.to_owned(), theirs);
        named.extend(ours.map(|id| (key.to_owned(), id.clone())));
    }
    out
}

/// Settings of generation: those that both sides state.
fn generation(folder: &mut Facts, file: &mut Facts, unknown: &mut Vec<String>) {
    let mut left = Left(std::mem::take(&mut folder.generation));
    let mut stated = std::mem::take(&mut file.generation);
    [folder.generation, file.generation] = ids(&mut left, &file.special, "generation", unknown);
    for (theirs, ours) in [
        ("temperature", "temp"),
        ("top_k", "top_k"),
        ("top_p", "top_p"),
        ("min_p", "min_p"),
        ("repetition_penalty", "penalty_repeat"),
    ] {
        if left.get(theirs).is_some()
            && let Some(value) = stated.remove(ours)
        {
            file.generation.insert(ours.to_owned(), value);
            folder.generation.extend(left.take(theirs).map(|value| (ours.to_owned(), single(value))));
        }
    }
    for (side, list) in [("GGUF", left.0), ("generation_config.json", stated)] {
        if !list.is_empty() {
            unknown.push(format!("generation: {side} does not state {}", listed(list.into_keys())));
        }
    }
}

fn listed(keys: impl Iterator<Item = String>) -> String {
    keys.collect::<Vec<_>>().join(", ")
}
