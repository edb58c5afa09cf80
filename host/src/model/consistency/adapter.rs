//! Low-rank adapters: what llama.cpp demands of one, before it has a model to put it on.

use std::collections::BTreeMap;

use super::tensors::{EMBEDDING, missing};
use super::{Model, about};
use crate::model::finding::{Code, Findings};
use crate::model::gguf::Tensor;

/// The two tensors of a pair, by their endings.
const SIDES: [&str; 2] = [".lora_a", ".lora_b"];

pub(super) fn check(model: &Model<'_>, findings: &mut Findings) {
    let metadata = model.metadata;
    for key in ["general.architecture", "adapter.type", "adapter.lora.alpha"] {
        if metadata.get(key).is_none() {
            findings.push(Code::MetadataMissing.finding(format!("{key} is missing")));
        }
    }
    if let Some(kind) = metadata.str("adapter.type").filter(|kind| *kind != "lora") {
        let message = format!("adapter.type is {kind:?}; runtimes know only \"lora\"");
        findings.push(Code::MetadataAbsurd.finding(message));
    }
    if let Some(alpha) = metadata.float("adapter.lora.alpha")
        && !(alpha.is_finite() && alpha > 0.0)
    {
        findings.push(Code::MetadataAbsurd.finding(format!("adapter.lora.alpha is {alpha}")));
    }
    findings.part = None;
    let mut pairs: BTreeMap<&str, [Option<&Tensor>; 2]> = BTreeMap::new();
    for (tensor, part) in model.placed() {
        let name = tensor.name.as_str();
        let [a, b] = SIDES.map(|side| name.strip_suffix(side));
        match (a, b) {
            (Some(of), _) => pairs.entry(of).or_default()[0] = Some(tensor),
            (_, Some(of)) => pairs.entry(of).or_default()[1] = Some(tensor),
            // Runtimes pass these over.
            _ if name.ends_with("_norm.weight") => {}
            _ => {
                let message = format!("{name} is not of a low-rank adapter");
                findings.push(about(name, part, Code::UnknownTensor.finding(message)));
            }
        }
    }
    if pairs.is_empty() {
        findings.push(Code::MissingTensor.finding("the adapter holds no pair of low-rank tensors"));
    }
    for (of, pair) in pairs {
        let [Some(a), Some(b)] = pair else {
            let absent = SIDES.iter().zip(pair).filter(|(_, tensor)| tensor.is_none());
            absent.for_each(|(side, _)| findings.push(missing(&format!("{of}{side}"))));
            continue;
        };
        // The embedding is looked up by row, so its A is the other way round.
        let rank = a.dimension(if of == EMBEDDING { 0 } else { 1 });
        if rank != b.dimension(0) {
            let message = format!("{} has the rank {rank} and {} has {}", a.name, b.name, b.dimension(0));
            findings.push(about(&b.name, None, Code::ShapeMismatch.finding(message)));
        }
    }
}
