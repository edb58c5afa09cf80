//! LoRA adapters in PEFT form, merged into the weights as they are read:
//! `W + scale * B A` (Hu et al. 2021, section 4.1), `scale = alpha / r`, or `alpha / sqrt(r)`
//! for rank-stabilised adapters. Variants that change more than this sum are errors.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use candle_core::Tensor;
use serde_json::{Map, Value};

use super::layout::{Layout, Place};
use super::weights::{Weights, list, text_file};
use crate::domain::budget;

/// How PEFT begins the name of every module.
const PREFIX: &str = "base_model.model.";

/// An opened adapter that fits a layout.
#[derive(Debug)]
pub(super) struct Adapter {
    weights: Weights,
    scale: f64,
    /// Names of the A and B tensors, by the name of the tensor they change.
    pairs: BTreeMap<String, (String, String)>,
}

impl Adapter {
    /// # Errors
    /// The adapter is of an unsupported kind, or does not fit the base model.
    pub fn open(paths: &[PathBuf], layout: &Layout) -> Result<Self, String> {
        let text = text_file(paths, "adapter_config.json", budget::CONFIG_BYTES)?
            .ok_or("the adapter has no adapter_config.json")?;
        let scale = scale(&text)?;
        let weights = Weights::open(paths, PREFIX)?;
        let mut pairs: BTreeMap<String, (Option<String>, Option<String>)> = BTreeMap::new();
        let mut foreign = Vec::new();
        for name in weights.names() {
            let plain = name.strip_suffix(".weight").unwrap_or(name);
            let plain = plain.strip_suffix(".default").unwrap_or(plain);
            if let Some(module) = plain.strip_suffix(".lora_A") {
                pairs.entry(format!("{module}.weight")).or_default().0 = Some(name.to_owned());
            } else if let Some(module) = plain.strip_suffix(".lora_B") {
                pairs.entry(format!("{module}.weight")).or_default().1 = Some(name.to_owned());
            } else {
                foreign.push(name);
            }
        }
        if !foreign.is_empty() {
            return Err(format!("the adapter has tensors that are no LoRA matrices: {}", list(&foreign)));
        }
        let known: BTreeSet<&str> = layout.all().map(|place| place.name.as_str()).collect();
        let bare = |name: &str| name.strip_prefix("transformer.").unwrap_or(name).to_owned();
        let mut whole = BTreeMap::new();
        for (target, pair) in pairs {
            let target = if known.contains(target.as_str()) { target } else { bare(&target) };
            if !known.contains(target.as_str()) {
                return Err(format!("the adapter is for another model: the base has no {target}"));
            }
            let (Some(a), Some(b)) = pair else {
                return Err(format!("the adapter has only one of the two matrices for {target}"));
            };
            whole.insert(target, (a, b));
        }
        if whole.is_empty() {
            return Err("the adapter has no LoRA matrices".to_owned());
        }
        let adapter = Self { weights, scale, pairs: whole };
        layout.all().try_for_each(|place| adapter.check(place))?;
        Ok(adapter)
    }

    /// Do both matrices fit the tensor they change?
    fn check(&self, place: &Place) -> Result<(), String> {
        let Some((a, b)) = self.pairs.get(&place.name) else { return Ok(()) };
        let (a, b) = (self.weights.shape(a).unwrap_or_default(), self.weights.shape(b).unwrap_or_default());
        let (inputs, outputs) = match (place.shape.as_slice(), place.transposed) {
            ([outputs, inputs], false) | ([inputs, outputs], true) => (*inputs, *outputs),
            _ => return Err(format!("the adapter changes {}, which is no matrix", place.name)),
        };
        match (a.as_slice(), b.as_slice()) {
            ([rank, columns], [rows, other]) if rank == other && *columns == inputs && *rows == outputs => {
                Ok(())
            }
            _ => Err(format!(
                "the adapter is for another model: {} is {outputs} by {inputs}, its matrices are {b:?} and {a:?}",
                place.name
            )),
        }
    }

    /// Whether it has a part to add to this tensor.
    pub fn changes(&self, place: &Place) -> bool {
        self.pairs.contains_key(&place.name)
    }

    /// The tensor with the adapter's part added; `base` has the output dimension first.
    pub fn apply(&self, place: &Place, base: Tensor) -> Result<Tensor, String> {
        let Some((a, b)) = self.pairs.get(&place.name) else { return Ok(base) };
        let (a, b) = (self.weights.read_named(a)?, self.weights.read_named(b)?);
        let merged = b.matmul(&a).and_then(|delta| base + (delta * self.scale)?);
        merged.map_err(|error| format!("{} with the adapter: {error}", place.name))
    }
}

/// The factor before `B A`, if the configuration describes plain LoRA.
fn scale(text: &str) -> Result<f64, String> {
    let config: Map<String, Value> =
        serde_json::from_str(text).map_err(|error| format!("adapter_config.json: {error}"))?;
    let get = |key: &str| config.get(key).filter(|value| !value.is_null());
    let kind = get("peft_type").and_then(Value::as_str).unwrap_or("");
    if kind != "LORA" {
        return Err(format!("adapters of the kind {kind:?} are not supported; LORA is"));
    }
    for (key, what) in [
        ("use_dora", "DoRA"),
        ("megatron_config", "Megatron"),
        ("modules_to_save", "modules_to_save"),
        ("trainable_token_indices", "trained tokens"),
        ("use_qalora", "QALoRA"),
        ("arrow_config", "Arrow"),
    ] {
        let set = |value: &Value| match value {
            Value::Bool(value) => *value,
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
            _ => true,
        };
        if get(key).is_some_and(set) {
            return Err(format!("adapters with {what} are not supported"));
        }
    }
    for key in ["rank_pattern", "alpha_pattern"] {
        if get(key).and_then(Value::as_object).is_some_and(|pattern| !pattern.is_empty()) {
            return Err(format!("adapters with a {key} are not supported"));
        }
    }
    if let Some(bias) = get("bias").and_then(Value::as_str).filter(|bias| *bias != "none") {
        return Err(format!("adapters that train biases ({bias}) are not supported"));
    }
    let number = |key: &str| {
        get(key)
            .and_then(Value::as_f64)
            .filter(|value| value.is_finite())
            .ok_or(format!("adapter_config.json has no {key}"))
    };
    let (rank, alpha) = (number("r")?, number("lora_alpha")?);
    if rank < 1.0 {
        return Err(format!("the rank is {rank}"));
    }
    let stabilised = get("use_rslora").and_then(Value::as_bool).unwrap_or(false);
    Ok(alpha / if stabilised { rank.sqrt() } else { rank })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_is_alpha_over_rank_and_other_kinds_are_refused() {
        let config = |more: &str| format!(r#"{{"peft_type":"LORA","r":16,"lora_alpha":8{more}}}"#);
        assert_eq!(scale(&config("")), Ok(0.5));
        assert_eq!(scale(&config(r#","use_rslora":true,"bias":"none","use_dora":false"#)), Ok(2.0));
        for (more, word) in [
            (r#","use_dora":true"#, "DoRA"),
            (r#","bias":"all""#, "biases"),
            (r#","rank_pattern":{"q_proj":4}"#, "rank_pattern"),
            (r#","modules_to_save":["lm_head"]"#, "modules_to_save"),
        ] {
            let error = scale(&config(more)).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
        assert!(scale(r#"{"peft_type":"IA3","r":1,"lora_alpha":1}"#).unwrap_err().contains("IA3"));
        assert!(scale(r#"{"peft_type":"LORA","lora_alpha":1}"#).unwrap_err().contains("no r"));
    }
}
