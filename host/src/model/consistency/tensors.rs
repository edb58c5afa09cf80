//! The inventory of tensors: those of the model as a whole, and strangers.

use std::collections::HashMap;

use super::inventory::{Inventory, lacking, split_stack};
use super::{Model, about, layers, shapes};
use crate::domain::inspection::{Finding, Severity};
use crate::model::finding::{Code, Findings};

/// Tensor names, and the parts they are in.
pub(super) type Names<'a> = HashMap<&'a str, Option<&'a str>>;

pub(super) const EMBEDDING: &str = "token_embd.weight";

pub(super) fn check(model: &Model<'_>, known: Option<&Inventory>, findings: &mut Findings) {
    let names: Names<'_> = model.placed().map(|(tensor, part)| (tensor.name.as_str(), part)).collect();
    let architecture = model.metadata.architecture().unwrap_or_default();
    match known {
        Some(known) => {
            let absent = known.tensors().flat_map(|need| lacking(&need, |name| names.contains_key(name)));
            absent.for_each(|name| findings.push(missing(&name)));
        }
        None => {
            if !names.contains_key(EMBEDDING) {
                findings.push(warning(missing(EMBEDDING)));
            }
            if !architecture.is_empty() {
                let message = format!("it is not known which tensors a {architecture} model must have");
                findings.push(Code::InventoryUnknown.finding(message));
            }
        }
    }
    layers::check(model, &names, known, findings);
    shapes::check(model, known.is_some(), findings);
    if architecture == "llama" {
        strangers(&names, findings);
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
        let rest = place_of(name).map_or(name, |(_, _, part)| part);
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

pub(super) fn missing(name: &str) -> Finding {
    about(name, None, Code::MissingTensor.finding(format!("the tensor {name} is missing")))
}

/// The same finding, where it may be no fault.
pub(super) fn warning(finding: Finding) -> Finding {
    Finding { severity: Severity::Warning, ..finding }
}

/// The stack of layers in `blk.N.…` or `enc.blk.N.…`, the number, and the rest of the name.
pub(super) fn place_of(name: &str) -> Option<(&str, u64, &str)> {
    let (stack, rest) = split_stack(name);
    let (number, part) = rest.strip_prefix("blk.")?.split_once('.')?;
    Some((stack, number.parse().ok()?, part))
}
