//! Adapters as PEFT writes them: do the tensors fit what the configuration declares?

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;

use super::contents::{about, by_name};
use super::{Config, Shard};
use crate::domain::budget;
use crate::domain::inspection::{Finding, Severity};
use crate::model::finding::{Code, Findings};
use crate::model::safetensors::Tensor;

type Tensors<'a> = BTreeMap<&'a str, (&'a Shard, &'a Tensor)>;

/// What PEFT puts before the names of the model's own modules.
const PREFIX: &str = "base_model.model.";

/// Every A has its B, both have the rank that is declared, and only declared modules have any.
pub(super) fn check(config: &Config, shards: &[Shard], findings: &mut Findings) {
    let tensors = by_name(shards);
    let paired = |name: &&str| name.contains(".lora_A.") || name.contains(".lora_B.");
    // Other tools call their configuration the same, and write neither kind nor tensors as PEFT does.
    let low_rank = match config.text("peft_type") {
        Some(kind) => kind == "LORA",
        None => tensors.keys().any(paired),
    };
    if low_rank && let Some(finding) = rank_fault(config.get("r")) {
        findings.push(Finding { part: Some("adapter_config.json".to_owned()), ..finding });
    }
    if config.text("peft_type").as_deref() == Some("LORA") {
        declared(config, &tensors, findings);
    }
    let (targets, ranks) = (targets(config), Ranks::of(config));
    let is_target =
        |module| targets.as_ref().is_none_or(|names| endings(module).any(|name| names.contains(name)));
    for (name, (shard, tensor)) in &tensors {
        let Some((module, rest)) = name.split_once(".lora_") else { continue };
        let (other, side) = match rest.split_once('.') {
            // A bias of the product (lora_bias) has no counterpart.
            Some(("B", "bias")) => continue,
            Some(("A", rest)) => (format!("{module}.lora_B.{rest}"), 0),
            Some(("B", rest)) => (format!("{module}.lora_A.{rest}"), 1),
            _ => continue,
        };
        let mut push = |about_what: &str, code: Code, message: String| {
            findings.push(about(&shard.name, about_what, code.finding(message)));
        };
        if !tensors.contains_key(other.as_str()) {
            push(&other, Code::MissingTensor, format!("{name} has no counterpart {other}"));
        }
        let module = module.strip_prefix(PREFIX).unwrap_or(module);
        if low_rank && !is_target(module) {
            push(name, Code::UnexpectedTensor, format!("target_modules does not name the module of {name}"));
        }
        if let (Some(rank), Some(&got)) = (ranks.of_module(module), tensor.shape.get(side))
            && tensor.shape.len() == 2
            && rank != got
            && !of_experts(config, &ranks, module, rank, got)
        {
            push(name, Code::ShapeMismatch, format!("r is {rank} and {name} has the rank {got}"));
        }
    }
}

fn rank_fault(rank: Option<&Value>) -> Option<Finding> {
    match rank {
        None => Some(Code::MetadataMissing.finding("r is missing")),
        Some(Value::Number(rank)) if rank.as_u64().is_some_and(|rank| rank > 0) => None,
        Some(rank @ Value::Number(_)) => Some(Code::MetadataAbsurd.finding(format!("r is {rank}"))),
        Some(rank) => Some(Code::MetadataWrongType.finding(format!("r is {rank}; it must be a number"))),
    }
}

/// Is the module the one that is named, or does its path end so?
fn is_named(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Names that mean the module, to look up in many: what is left of its path behind a dot, and all of it.
fn endings(module: &str) -> impl Iterator<Item = &str> {
    // Far more than any path has.
    const DOTS: usize = 64;
    let behind = |(at, _)| module.get(at + 1..);
    module.rmatch_indices('.').take(DOTS).filter_map(behind).chain([module])
}

/// The modules that are adapted; `None` where that may be any, as a text is a pattern.
fn targets(config: &Config) -> Option<HashSet<&str>> {
    let names = config.get("target_modules").and_then(Value::as_array);
    let names = names.filter(|_| config.get("target_parameters").is_none())?;
    Some(names.iter().filter_map(Value::as_str).collect())
}

/// Ranks by module, and that of all others.
struct Ranks<'a> {
    own: HashMap<&'a str, &'a Value>,
    /// Some pattern is no plain name, so that it may mean any module.
    unclear: bool,
    common: Option<u64>,
}

impl<'a> Ranks<'a> {
    fn of(config: &'a Config) -> Self {
        let own = config.get("rank_pattern").and_then(Value::as_object).into_iter().flatten();
        let own: HashMap<&str, &Value> = own.map(|(name, rank)| (name.as_str(), rank)).collect();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
        let unclear = own.keys().any(|name| !name.bytes().all(plain));
        Self { own, unclear, common: config.number("r") }
    }

    /// The rank that is declared for a module; `None` if that is not clear. Of several names that mean
    /// it, PEFT takes the first in the file, which may be any.
    fn of_module(&self, module: &str) -> Option<u64> {
        let mut found = endings(module).filter_map(|name| self.own.get(name)).map(|rank| rank.as_u64());
        match (self.unclear, found.next()) {
            (true, _) => None,
            (false, None) => self.common,
            (false, Some(rank)) => rank.filter(|rank| found.all(|other| other == Some(*rank))),
        }
    }
}

/// The factors of a parameter that is stacked (one matrix for each expert) are stacked, too. Its module
/// is the part of its name before the last dot, and wrapped once more for every further parameter.
fn of_experts(config: &Config, ranks: &Ranks<'_>, module: &str, rank: u64, got: u64) -> bool {
    let parameters = config.get("target_parameters").and_then(Value::as_array);
    let many = parameters.is_some_and(|list| list.len() > budget::ADAPTER_MODULES);
    let mut names = parameters.into_iter().flatten().filter_map(Value::as_str);
    let module = module.trim_end_matches(".base_layer");
    (many || names.any(|name| name.rsplit_once('.').is_some_and(|(parent, _)| is_named(module, parent))))
        && (!ranks.own.is_empty() || got > 0 && got.is_multiple_of(rank.max(1)))
}

/// Modules that PEFT saves whole without being told: embeddings and outputs of a vocabulary that grew,
/// and the heads of models that classify.
const SAVED_WHOLE: [&str; 9] = [
    "embed",
    "wte",
    "shared",
    "output_layer",
    "output.weight",
    "head.",
    "classifier.",
    "score.",
    "qa_outputs.",
];
const MAGNITUDE: &str = "lora_magnitude_vector";

/// Tensors are factors or something else that the configuration says is trained, since PEFT puts
/// whatever it finds over the tensors of the base; and what it says is there.
fn declared(config: &Config, tensors: &Tensors<'_>, findings: &mut Findings) {
    let listed = |key: &str| -> Vec<&str> {
        config.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
    };
    let missing = |message: &str| Code::MissingTensor.finding(message);
    let warning = |finding: Finding| Finding { severity: Severity::Warning, ..finding };
    // Names end with the module and what is saved of it.
    let is_of = |name: &str, module: &str| name.split(module).skip(1).any(|rest| rest.starts_with('.'));
    let saved = listed("modules_to_save");
    let many = saved.len() > budget::ADAPTER_MODULES;
    let is_saved = |name: &str| many || saved.iter().any(|module| is_of(name, module));
    let dora = config.flag("use_dora") == Some(true);
    let biases = config.text("bias").is_some_and(|bias| bias != "none");
    let tokens = config.get("trainable_token_indices").is_some();
    let targets =
        !config.get("target_modules").is_some_and(|list| list.as_array().is_some_and(Vec::is_empty))
            || config.get("target_parameters").is_some();
    if targets && !tensors.keys().any(|name| name.to_ascii_lowercase().contains("lora")) {
        findings.push(missing("peft_type is LORA, and there is no tensor of that kind"));
    }
    // Lists often name a module for each of several architectures.
    if !saved.is_empty() && !tensors.keys().any(|name| is_saved(name)) {
        let message =
            format!("there is no tensor of any module that modules_to_save names ({})", saved.join(", "));
        findings.push(warning(missing(&message)));
    }
    for (name, (shard, _)) in tensors {
        let mut push = |tensor: &str, finding| findings.push(about(&shard.name, tensor, finding));
        if let Some((module, _)) = name.split_once(".lora_A.").filter(|_| dora) {
            let magnitude = format!("{module}.{MAGNITUDE}");
            let next = tensors.range(magnitude.as_str()..).next();
            if !next.is_some_and(|(name, _)| name.starts_with(&magnitude)) {
                push(&magnitude, missing(&format!("use_dora is true (DoRA), and {magnitude} is missing")));
            }
        }
        if name.contains(MAGNITUDE) && !dora {
            let message = format!("{name} is there, and use_dora is not true");
            push(name, Code::UnexpectedTensor.finding(message));
        }
        let expected = name.to_ascii_lowercase().contains("lora")
            || SAVED_WHOLE.iter().any(|part| name.contains(part))
            || is_saved(name)
            || biases && name.ends_with(".bias")
            || tokens && name.contains("trainable_tokens");
        if !expected {
            let message = format!("nothing declares {name}; PEFT puts it over the tensor of the base");
            push(name, warning(Code::UnexpectedTensor.finding(message)));
        }
    }
}
