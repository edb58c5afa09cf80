//! MLX packs several weights into a number and keeps scales beside them: without these, or with other
//! numbers of bits, the weights mean nothing.

use serde_json::Value;

use super::contents::{about, by_name};
use super::{Config, Shard};
use crate::model::finding::{Code, Findings};

/// Bits of a weight, and weights that share a scale.
fn packing(config: &Config, module: &str) -> Option<(u64, u64)> {
    let section = config.get("quantization").or_else(|| config.get("quantization_config"))?;
    let number = |of: &Value, key: &str| of.get(key).and_then(Value::as_u64);
    // A module may have numbers of its own.
    let own = section.get(module).filter(|own| own.is_object());
    let get = |key| own.and_then(|own| number(own, key)).or_else(|| number(section, key));
    Some((get("bits")?, get("group_size")?))
}

/// Every packed tensor has its scales, in shapes that the configuration calls for.
pub(super) fn check(config: Option<&Config>, shards: &[Shard], findings: &mut Findings) {
    let all = by_name(shards);
    for (name, (shard, tensor)) in all.iter().filter(|(_, (_, tensor))| tensor.dtype.name == "U32") {
        let Some(stem) = name.strip_suffix(".weight") else { continue };
        let mut push = |tensor: &str, finding| findings.push(about(&shard.name, tensor, finding));
        let scales = format!("{stem}.scales");
        let Some((_, scale)) = all.get(scales.as_str()) else {
            let message = format!("{name} is packed and has no {scales}");
            push(&scales, Code::MissingTensor.finding(message));
            continue;
        };
        let Some((bits, group)) = config.and_then(|config| packing(config, stem)) else {
            let message = format!("{name} is packed, and config.json does not say how (quantization)");
            push(name, Code::MetadataMissing.finding(message));
            continue;
        };
        let (Some(packed), Some(groups)) = (tensor.shape.last(), scale.shape.last()) else { continue };
        let weights =
            (packed.checked_mul(32), groups.checked_mul(group).and_then(|all| all.checked_mul(bits)));
        if !matches!(weights, (Some(have), Some(want)) if have == want) {
            let message = format!(
                "{name} packs rows of {packed} numbers and has {groups} scales a row, which {bits} bits in groups of {group} do not make"
            );
            push(name, Code::ShapeMismatch.finding(message));
        }
    }
}
