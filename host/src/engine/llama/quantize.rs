//! llama.cpp's quantiser: for whole files, with the type of every tensor given by name, and for
//! rows of weights.
//!
//! The overrides are regular expressions that the quantiser tries in turn for every tensor,
//! so the names with the most frequent type share one last expression that fits all.
//! Deliberately absent for files: importance matrices; a type that needs one is refused by llama.cpp.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::path::Path;

use super::ffi;
use crate::engine::{EngineError, QuantizeRows, QuantizeSpec};
use crate::model::gguf::GgmlType;

/// Writes a copy of `spec.source` whose tensors have the given types.
///
/// # Errors
/// A path or a name cannot be handed to C, or llama.cpp fails, with what it said.
pub fn quantize(spec: &QuantizeSpec) -> Result<(), EngineError> {
    let bad = |what: &str| EngineError::Request(format!("cannot quantise: {what}"));
    let first = spec.source.first().ok_or_else(|| bad("there is no file"))?;
    let text = |path: &Path| {
        CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| bad("a path has a NUL byte"))
    };
    let (source, target) = (text(first)?, text(&spec.target)?);
    let overrides = overrides(&spec.types)
        .into_iter()
        .map(|(pattern, id)| CString::new(pattern).map(|pattern| (pattern, id)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| bad("a tensor name has a NUL byte"))?;
    ffi::quantize::file(&source, &target, &overrides, spec.threads).map_err(|reason| {
        EngineError::Compute(format!("llama.cpp cannot quantise {}: {reason}", first.display()))
    })
}

/// The rows in their block type, in equal parts on `threads` threads.
///
/// # Errors
/// The type has no quantiser, the lengths do not fit, or a weight is not a number.
pub fn quantize_rows(spec: &QuantizeRows) -> Result<Vec<u8>, EngineError> {
    let bad = |what: &str| EngineError::Request(format!("cannot quantise rows: {what}"));
    let kind = GgmlType::from_id(spec.kind).filter(|kind| kind.has_quantizer());
    let kind = kind.ok_or_else(|| bad("there is no quantiser for this type"))?;
    let columns = usize::try_from(spec.columns).ok().filter(|columns| *columns > 0);
    let columns = columns.ok_or_else(|| bad("there are no columns"))?;
    let importance = spec.importance.as_deref();
    // Searches over what is not a number end the process.
    if !spec.values.iter().chain(importance.unwrap_or_default()).all(|x| x.is_finite()) {
        return Err(bad("a weight is not a number"));
    }
    let rows = spec.values.len().div_ceil(columns);
    let part = rows.div_ceil((spec.threads as usize).max(1)).max(1) * columns;
    let quantized = |values| ffi::quantize::rows(kind.id(), columns, values, importance);
    let mut parts = spec.values.chunks(part);
    let Some(first) = parts.next() else { return Ok(Vec::new()) };
    std::thread::scope(|scope| {
        let others: Vec<_> = parts.map(|values| scope.spawn(move || quantized(values))).collect();
        let mut bytes = quantized(first).map_err(|reason| bad(&reason))?;
        for part in others {
            let part =
                part.join().unwrap_or_else(|_| Err("a thread of the quantiser ended early".to_owned()));
            bytes.extend(part.map_err(|reason| bad(&reason))?);
        }
        Ok(bytes)
    })
}

/// One expression per tensor, but for those of the most frequent type: one for all of them, last.
fn overrides(types: &[(String, u32)]) -> Vec<(String, u32)> {
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    for (_, id) in types {
        *counts.entry(*id).or_default() += 1;
    }
    let Some((&most, _)) = counts.iter().max_by_key(|(_, count)| **count) else { return Vec::new() };
    let others = types.iter().filter(|(_, id)| *id != most);
    let mut list: Vec<(String, u32)> =
        others.map(|(name, id)| (format!("^{}$", escape(name)), *id)).collect();
    list.push((".*".to_owned(), most));
    list
}

/// The name as an expression that fits nothing else.
fn escape(name: &str) -> String {
    name.chars()
        .flat_map(|c| {
            let special = r"\^$.|?*+()[]{}".contains(c);
            special.then_some('\\').into_iter().chain([c])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_asked_for_by_name_but_the_most_frequent() {
        let types = [("a.weight", 8), ("b[0].weight", 1), ("c.weight", 8), ("d", 8)];
        let types: Vec<(String, u32)> = types.map(|(name, id)| (name.to_owned(), id)).to_vec();
        assert_eq!(overrides(&types), [(r"^b\[0\]\.weight$".to_owned(), 1), (".*".to_owned(), 8)]);
        assert!(overrides(&[]).is_empty());
    }
}
