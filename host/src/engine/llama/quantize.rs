//! llama.cpp's quantiser with the type of every tensor given by name.
//!
//! The overrides are regular expressions that the quantiser tries in turn for every tensor,
//! so the names with the most frequent type share one last expression that fits all.
//! Deliberately absent: importance matrices; a type that needs one is refused by llama.cpp.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::path::Path;

use super::ffi;
use crate::engine::{EngineError, QuantizeSpec};

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
    ffi::quantize(&source, &target, &overrides, spec.threads).map_err(|reason| {
        EngineError::Compute(format!("llama.cpp cannot quantise {}: {reason}", first.display()))
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
