//! Adapters as PEFT writes them: do the tensors fit what the configuration declares?

use serde_json::Value;

use super::contents::{about, by_name};
use super::{Config, Shard};
use crate::domain::inspection::Finding;
use crate::model::finding::{Code, Findings};

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
    for (name, (shard, tensor)) in &tensors {
        let Some((module, rest)) = name.split_once(".lora_") else { continue };
        let (other, side) = match rest.split_once('.') {
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
        if low_rank && !targeted(config, module) {
            push(name, Code::UnexpectedTensor, format!("target_modules does not name the module of {name}"));
        }
        if let (Some(rank), Some(&got)) = (rank_of(config, module), tensor.shape.get(side))
            && tensor.shape.len() == 2
            && rank != got
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
    module.strip_suffix(name).is_some_and(|path| path.is_empty() || path.ends_with('.'))
}

/// A list names the modules that are adapted; a text is a pattern, which may mean any.
fn targeted(config: &Config, module: &str) -> bool {
    match config.get("target_modules") {
        Some(Value::Array(names)) if config.get("target_parameters").is_none() => {
            names.iter().filter_map(Value::as_str).any(|name| is_named(module, name))
        }
        _ => true,
    }
}

/// The rank that is declared for a module; `None` if a pattern that is no plain name may mean it.
fn rank_of(config: &Config, module: &str) -> Option<u64> {
    let own = config.get("rank_pattern").and_then(Value::as_object);
    for (name, rank) in own.into_iter().flatten() {
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.'));
        if !plain {
            return None;
        }
        if is_named(module, name) {
            return rank.as_u64();
        }
    }
    config.number("r")
}
