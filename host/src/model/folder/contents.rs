//! Do the tensors of a folder fit its index and its configuration?

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use super::{Config, Index, Shard};
use crate::domain::inspection::{Finding, Severity};
use crate::model::finding::{Code, Findings, shape_mismatch};
use crate::model::safetensors::Tensor;

fn all(shards: &[Shard]) -> impl Iterator<Item = (&Shard, &Tensor)> {
    shards
        .iter()
        .filter_map(|shard| Some((shard, shard.header.as_ref()?)))
        .flat_map(|(shard, header)| header.tensors.iter().map(move |tensor| (shard, tensor)))
}

/// The same by the tensors' names.
pub(super) fn by_name(shards: &[Shard]) -> BTreeMap<&str, (&Shard, &Tensor)> {
    all(shards).map(|(shard, tensor)| (tensor.name.as_str(), (shard, tensor))).collect()
}

pub(super) fn about(shard: &str, tensor: &str, finding: Finding) -> Finding {
    Finding { part: Some(shard.to_owned()), tensor: Some(tensor.to_owned()), ..finding }
}

/// Every tensor once, and where the index says.
pub(super) fn placed(shards: &[Shard], index: Option<&Index>, findings: &mut Findings) {
    let mut seen: HashMap<&str, &str> = HashMap::new();
    for (shard, tensor) in all(shards) {
        if let Some(first) = seen.insert(&tensor.name, &shard.name)
            && first != shard.name
        {
            let message = format!("the tensor {} is in {first} and in {}", tensor.name, shard.name);
            findings.push(about(&shard.name, &tensor.name, Code::ShardTensor.finding(message)));
        }
    }
    let readable: BTreeSet<&str> =
        shards.iter().filter(|shard| shard.header.is_some()).map(|shard| shard.name.as_str()).collect();
    if let Some(index) = index {
        for (shard, tensor) in all(shards).filter(|(_, tensor)| !index.contains_key(&tensor.name)) {
            let message = format!("the index does not list the tensor {}", tensor.name);
            let finding = about(&shard.name, &tensor.name, Code::ShardTensor.finding(message));
            findings.push(Finding { severity: Severity::Warning, ..finding });
        }
    }
    for (tensor, file) in index.into_iter().flatten() {
        if readable.contains(file.as_str()) && seen.get(tensor.as_str()) != Some(&file.as_str()) {
            let message = format!("the index says that {tensor} is in {file}, and it is not");
            findings.push(about(file, tensor, Code::ShardTensor.finding(message)));
        }
    }
}

/// The layer number in `model.layers.N.…` and its relatives.
fn layer_of(name: &str) -> Option<u64> {
    if name.contains("vision") || name.contains("visual") || name.contains("encoder") {
        return None;
    }
    place_of(name).map(|(_, layer, _)| layer)
}

/// The stack of layers in `model.layers.N.…`, the number, and the rest of the name.
fn place_of(name: &str) -> Option<(&str, u64, &str)> {
    let mut at = 0;
    for word in name.split('.') {
        let behind = at + word.len();
        if matches!(word, "layers" | "h" | "blocks") {
            let (number, part) = name.get(behind + 1..)?.split_once('.')?;
            return Some((name.get(..behind)?, number.parse().ok()?, part));
        }
        at = behind + 1;
    }
    None
}

/// Layers that must be alike for one to be odd, and how many may be.
const ALIKE: usize = 6;
const ODD: usize = 2;
/// What modules consist of, packed or not.
const PIECES: [&str; 9] = [
    "weight",
    "bias",
    "qweight",
    "scales",
    "qzeros",
    "g_idx",
    "weight_scale",
    "weight_scale_inv",
    "weight_packed",
];

/// A layer whose module lacks one of the tensors that it has in nearly all other layers, being equal
/// otherwise, types and shapes included: a module that was left unpacked on purpose has others. It may be
/// meant so, but was most likely dropped.
fn odd_ones_out(shards: &[Shard], findings: &mut Findings) {
    type Pieces<'a> = BTreeMap<&'a str, (&'a str, &'a [u64])>;
    let mut modules: BTreeMap<(&str, &str), BTreeMap<u64, Pieces<'_>>> = BTreeMap::new();
    for (_, tensor) in all(shards) {
        let Some((stack, layer, part)) = place_of(&tensor.name) else { continue };
        if let Some((module, piece)) = part.rsplit_once('.')
            && PIECES.contains(&piece)
        {
            let layers = modules.entry((stack, module)).or_default();
            layers.entry(layer).or_default().insert(piece, (tensor.dtype.name, &tensor.shape));
        }
    }
    for ((stack, module), layers) in modules.iter().filter(|(_, layers)| layers.len() >= ALIKE) {
        let Some(full) = layers.values().max_by_key(|pieces| pieces.len()) else { continue };
        let odd: Vec<_> = layers.iter().filter(|(_, pieces)| *pieces != full).collect();
        if odd.len() > ODD {
            continue;
        }
        for (layer, pieces) in odd {
            let mut absent = full.keys().filter(|piece| !pieces.contains_key(*piece));
            let equal = pieces.iter().all(|(piece, look)| full.get(piece) == Some(look));
            if let (Some(piece), None, true) = (absent.next(), absent.next(), equal) {
                let name = format!("{stack}.{layer}.{module}.{piece}");
                let message = format!("the tensor {name} is missing; the other layers have one");
                let finding = Code::MissingTensor.finding(message);
                findings.push(Finding { tensor: Some(name), severity: Severity::Warning, ..finding });
            }
        }
    }
}

/// Tokens that begin and end a text are tokens of the vocabulary, however large it is.
fn special_tokens(config: &Config, tensors: &BTreeMap<&str, (&Shard, &Tensor)>, findings: &mut Findings) {
    let rows = tensors.iter().filter(|(name, _)| is_embedding(name));
    let rows = rows.filter_map(|(_, (_, tensor))| tensor.shape.first().copied());
    let Some(size) = rows.chain(config.number("vocab_size")).max() else { return };
    for key in ["bos_token_id", "eos_token_id"] {
        let value = config.get(key);
        let ids = value.into_iter().flat_map(|value| match value {
            Value::Array(list) => list.as_slice(),
            one => std::slice::from_ref(one),
        });
        // Some write -1 for none.
        let outside =
            |id: &&Value| id.as_u64().is_some_and(|id| id >= size) || id.as_i64().is_some_and(|id| id < -1);
        for id in ids.filter(outside) {
            let finding = Code::SpecialTokenRange.finding(format!("{key} is {id} of {size} tokens"));
            findings.push(Finding { part: Some("config.json".to_owned()), ..finding });
        }
    }
}

fn is_embedding(name: &str) -> bool {
    name.ends_with("embed_tokens.weight") || name == "lm_head.weight" || name.ends_with(".wte.weight")
}

/// Where the tensors of a model with a head are.
const PREFIX: &str = "model.";

/// Model types whose layers consist of exactly these tensors (and biases).
const LLAMA_LIKE: [&str; 4] = ["llama", "mistral", "qwen2", "qwen3"];
const LAYER_PARTS: [&str; 9] = [
    "input_layernorm",
    "post_attention_layernorm",
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

/// Without one of these their configuration takes a value that fits some first model only.
const SIZES: [&str; 5] =
    ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"];

/// Layers, inventory and shapes by `config.json`.
pub(super) fn against_config(config: &Config, shards: &[Shard], findings: &mut Findings) {
    let tensors = by_name(shards);
    let present: BTreeSet<u64> = tensors.keys().filter_map(|name| layer_of(name)).collect();
    // Parts of pipelines (diffusers) are called by their class instead.
    if config.get("model_type").or_else(|| config.get("_class_name")).is_none() {
        let finding =
            Code::MetadataMissing.finding("model_type is missing; loaders do not know what this is");
        findings.push(Finding { severity: Severity::Warning, ..finding });
    }
    let llama = config.text("model_type").is_some_and(|kind| LLAMA_LIKE.contains(&kind.as_str()));
    for key in SIZES.into_iter().filter(|key| llama && config.get(key).is_none()) {
        let message = format!("{key} is missing, and loaders take that of another model");
        findings.push(Code::MetadataMissing.finding(message));
    }
    special_tokens(config, &tensors, findings);
    odd_ones_out(shards, findings);
    let Some(layers) = config.number("num_hidden_layers").filter(|layers| *layers <= 4096) else { return };
    // Layers that guess further tokens come behind the others.
    let all = layers.saturating_add(config.number("num_nextn_predict_layers").unwrap_or(0));
    if let Some(layer) = present.range(all..).next().filter(|_| llama) {
        let message = format!("num_hidden_layers is {layers}, and there are tensors of layer {layer}");
        findings.push(Code::UnexpectedTensor.finding(message));
    }
    // Which half the number is of, is for each model to say.
    if !present.is_empty() && config.flag("is_encoder_decoder") != Some(true) {
        let absent: Vec<u64> = (0..layers).filter(|layer| !present.contains(layer)).collect();
        if let Some(first) = absent.first() {
            let message = format!(
                "num_hidden_layers is {layers}, and {} of these layers have no tensors, the first of them layer {first}",
                absent.len()
            );
            findings.push(Code::MissingTensor.finding(message));
        }
    }
    if config.packed().is_some() {
        return;
    }
    for (name, (shard, tensor)) in &tensors {
        let [rows, columns] = tensor.shape.as_slice() else { continue };
        if !is_embedding(name) || !one_weight_a_number(tensor) {
            continue;
        }
        if let Some(size) = config.number("vocab_size").filter(|size| size != rows) {
            let message = format!("vocab_size is {size} and {name} has {rows} rows");
            findings.push(about(&shard.name, name, Code::VocabMismatch.finding(message)));
        }
        if let Some(width) = config.number("hidden_size").filter(|width| width != columns) {
            let message = format!("hidden_size is {width} and {name} is {columns} wide");
            findings.push(about(&shard.name, name, Code::ShapeMismatch.finding(message)));
        }
    }
    if llama {
        // What has no head of its own, as for embeddings, is stored without the prefix.
        let bare = !tensors.keys().any(|name| name.starts_with(PREFIX));
        let prefix = if bare { "" } else { PREFIX };
        inventory(config, (layers, &present), prefix, &tensors, findings);
        shapes(config, prefix, &tensors, findings);
    }
}

/// Integers hold several weights each, in shapes of their own.
fn one_weight_a_number(tensor: &Tensor) -> bool {
    tensor.dtype.name.contains('F')
}

/// Shapes of the tensors of layers, as far as the configuration says.
fn shapes(
    config: &Config,
    prefix: &str,
    tensors: &BTreeMap<&str, (&Shard, &Tensor)>,
    findings: &mut Findings,
) {
    let times = |a: Option<u64>, b: Option<u64>| a?.checked_mul(b?);
    let (width, forward) = (config.number("hidden_size"), config.number("intermediate_size"));
    let heads = config.number("num_attention_heads");
    let head = config.number("head_dim").or_else(|| width?.checked_div(heads?));
    let queries = times(heads, head);
    let keys = times(config.number("num_key_value_heads").or(heads), head);
    for (name, (shard, tensor)) in tensors {
        let layers = name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix("layers."));
        let Some((_, part)) = layers.and_then(|rest| rest.split_once('.')) else { continue };
        if !one_weight_a_number(tensor) {
            continue;
        }
        let Some((part, ending)) = part.rsplit_once('.') else { continue };
        let (rows, columns) = match part {
            "self_attn.q_proj" => (queries, width),
            "self_attn.k_proj" | "self_attn.v_proj" => (keys, width),
            "self_attn.o_proj" => (width, queries),
            "mlp.gate_proj" | "mlp.up_proj" => (forward, width),
            "mlp.down_proj" => (width, forward),
            "input_layernorm" | "post_attention_layernorm" => (width, None),
            "self_attn.q_norm" | "self_attn.k_norm" => (head, None),
            _ => continue,
        };
        let matrix = part.ends_with("_proj") && ending == "weight";
        let expected = match ending {
            "weight" if matrix => &[rows, columns][..],
            "weight" | "bias" => &[rows],
            _ => continue,
        };
        let fits = tensor.shape.len() == expected.len()
            && tensor.shape.iter().zip(expected).all(|(got, want)| want.is_none_or(|want| want == *got));
        if !fits {
            let finding = shape_mismatch(name, &tensor.shape, expected, "config.json calls for");
            findings.push(about(&shard.name, name, finding));
        }
    }
}

fn inventory(
    config: &Config,
    (layers, present): (u64, &BTreeSet<u64>),
    prefix: &str,
    tensors: &BTreeMap<&str, (&Shard, &Tensor)>,
    findings: &mut Findings,
) {
    let mut need = |name: String| {
        if !tensors.contains_key(name.as_str()) {
            let finding = Code::MissingTensor.finding(format!("the tensor {name} is missing"));
            findings.push(Finding { tensor: Some(name), ..finding });
        }
    };
    need(format!("{prefix}embed_tokens.weight"));
    need(format!("{prefix}norm.weight"));
    // Models that classify have other heads.
    let class = config.get("architectures").and_then(|list| list.get(0)?.as_str());
    let writes = prefix == PREFIX && class.is_none_or(|class| class.ends_with("ForCausalLM"));
    if writes && config.flag("tie_word_embeddings") == Some(false) {
        need("lm_head.weight".to_owned());
    }
    for layer in (0..layers).filter(|layer| present.contains(layer)) {
        for part in LAYER_PARTS {
            need(format!("{prefix}layers.{layer}.{part}.weight"));
        }
    }
}
