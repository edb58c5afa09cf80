//! Layers: are as many there as declared, and does each have what it must have?

use std::collections::{BTreeMap, BTreeSet};

use super::inventory::{Inventory, STACKS, lacking, split_stack};
use super::metadata::MAX_LAYERS;
use super::tensors::{Names, missing, place_of, warning};
use super::{Model, about};
use crate::model::finding::{Code, Findings};
use crate::model::gguf::Value;

/// The parts of each layer that has any.
type Layers<'a> = BTreeMap<u64, BTreeSet<&'a str>>;

pub(super) fn check(
    model: &Model<'_>,
    names: &Names<'_>,
    known: Option<&Inventory>,
    findings: &mut Findings,
) {
    let number = |key: &str| model.metadata.hparam(key).and_then(Value::as_u64);
    let Some(declared) = number("block_count") else { return };
    // Layers for multi-token prediction are declared, and often left out.
    let predicting = number("nextn_predict_layers").unwrap_or(0);
    let trunk = declared.saturating_sub(predicting);
    for stack in STACKS {
        let mut layers = Layers::new();
        for (own, layer, part) in names.keys().filter_map(|name| place_of(name)) {
            if own == stack {
                layers.entry(layer).or_default().insert(part);
            }
        }
        let count = if stack == "dec." { number("decoder_block_count").unwrap_or(trunk) } else { trunk };
        let listed = known
            .is_some_and(|known| known.layer().flatten().flatten().any(|name| split_stack(name).0 == stack));
        // The layers of an architecture that is not known may have other names.
        if !listed && (layers.is_empty() || !stack.is_empty()) {
            continue;
        }
        // A file may hold nothing but the layers for prediction.
        let required = if predicting > 0 && layers.range(..count).next().is_none() { 0 } else { count };
        let allowed =
            if known.is_none_or(Inventory::predicts) { count.saturating_add(predicting) } else { count };
        absent(stack, declared, required, &layers, findings);
        for (layer, parts) in layers.range(allowed..) {
            let part = parts.first().copied().unwrap_or_default();
            let name = format!("{stack}blk.{layer}.{part}");
            let message = format!("there are tensors of layer {layer}, and there should be {allowed} layers");
            let place = names.get(name.as_str()).copied().flatten();
            findings.push(about(&name, place, Code::UnexpectedTensor.finding(message)));
        }
        layers.retain(|layer, _| *layer < required.min(MAX_LAYERS));
        if let Some(known) = known {
            incomplete(stack, known, &layers, findings);
        }
        odd_one_out(stack, known, &layers, findings);
    }
}

/// Layers without any tensor.
fn absent(stack: &str, declared: u64, required: u64, layers: &Layers<'_>, findings: &mut Findings) {
    let mut absent = (0..required.min(1 << 16)).filter(|layer| !layers.contains_key(layer)).peekable();
    if let Some(&first) = absent.peek() {
        let count = absent.count();
        let message = format!(
            "block_count is {declared}, and {count} of these layers have no tensors, the first of them layer {first}"
        );
        let name = format!("{stack}blk.{first}");
        findings.push(about(&name, None, Code::MissingTensor.finding(message)));
    }
}

/// Tensors that the inventory demands of a layer.
fn incomplete(stack: &str, known: &Inventory, layers: &Layers<'_>, findings: &mut Findings) {
    for alternatives in known.layer() {
        for (layer, parts) in layers {
            let is_there = |name: &str| name.strip_prefix(stack).is_some_and(|part| parts.contains(part));
            for name in lacking(&alternatives, is_there) {
                if let (own, part) = split_stack(&name)
                    && own == stack
                {
                    findings.push(missing(&format!("{stack}blk.{layer}.{part}")));
                }
            }
        }
    }
}

/// One layer that lacks one tensor of those that two layers or more have, being equal otherwise. It may
/// be meant so, but was most likely dropped. What the inventory lists was judged there; tables for
/// rotation and a quantiser's scales need not be in every layer.
fn odd_one_out(stack: &str, known: Option<&Inventory>, layers: &Layers<'_>, findings: &mut Findings) {
    let mut kinds: BTreeMap<BTreeSet<&str>, Vec<u64>> = BTreeMap::new();
    for (layer, parts) in layers {
        let parts =
            parts.iter().copied().filter(|part| !part.ends_with("scale") && !part.starts_with("rope_"));
        kinds.entry(parts.collect()).or_default().push(*layer);
    }
    for (parts, odd) in &kinds {
        let [odd] = odd.as_slice() else { continue };
        let fuller = kinds.iter().find(|(others, like)| {
            like.len() > 1 && others.len() == parts.len() + 1 && parts.is_subset(others)
        });
        let Some((others, _)) = fuller else { continue };
        for part in others.difference(parts).filter(|part| known.is_none_or(|known| !known.lists(part))) {
            findings.push(warning(missing(&format!("{stack}blk.{odd}.{part}"))));
        }
    }
}
