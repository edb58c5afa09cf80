//! Which tensors are experts, as expressions that llama.cpp matches names against.

use std::ffi::CString;

use crate::engine::ALL_LAYERS;

/// Upstream's own expression: also experts whose gate and up are one tensor, and those in chunks.
const EXPERTS: &str = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps";
/// No model has as many layers; from here on all of them are meant.
const LAYERS_MAX: u32 = 1_024;

/// Expressions for the experts of the first `layers` layers.
pub(super) fn patterns(layers: u32) -> Vec<CString> {
    let texts: Vec<String> = match layers {
        0 => Vec::new(),
        LAYERS_MAX..=ALL_LAYERS => vec![EXPERTS.to_owned()],
        layers => (0..layers).map(|layer| format!(r"blk\.{layer}{EXPERTS}")).collect(),
    };
    texts.into_iter().filter_map(|text| CString::new(text).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_expression_per_layer_or_one_for_all() {
        assert!(patterns(0).is_empty());
        assert_eq!(patterns(2)[1].to_str().unwrap(), r"blk\.1\.ffn_(up|down|gate|gate_up)_(ch|)exps");
        assert_eq!((patterns(2).len(), patterns(ALL_LAYERS).len(), patterns(5000).len()), (2, 1, 1));
    }
}
