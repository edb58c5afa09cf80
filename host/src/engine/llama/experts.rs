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
        // Names against the expressions, by grep: llama.cpp searches for the same syntax.
        let matched = |layers: u32| {
            let names = [
                "blk.0.ffn_gate_exps.weight",
                "blk.0.ffn_up_exps.weight",
                "blk.1.ffn_down_exps.weight",
                "blk.1.ffn_gate_up_exps.weight",
                "blk.1.ffn_down_chexps.weight",
                "blk.10.ffn_gate_up_exps.weight",
                "blk.1.ffn_gate_inp.weight",
                "blk.1.ffn_up_shexp.weight",
                "blk.1.ffn_gate.weight",
                "blk.1.attn_q.weight",
            ];
            let matches = |pattern: &CString, name: &str| {
                let mut grep = std::process::Command::new("grep");
                grep.args(["-qE", "--", pattern.to_str().unwrap()]).stdin(std::process::Stdio::piped());
                let mut grep = grep.spawn().unwrap();
                std::io::Write::write_all(&mut grep.stdin.take().unwrap(), name.as_bytes()).unwrap();
                grep.wait().unwrap().success()
            };
            let patterns = patterns(layers);
            names.iter().filter(|name| patterns.iter().any(|pattern| matches(pattern, name))).count()
        };
        assert_eq!(matched(1), 2, "gate and up of layer 0");
        assert_eq!(matched(2), 5, "with layer 1 its fused and chunked ones, and not layer 10's");
        assert_eq!(matched(ALL_LAYERS), 6, "all, and no router, no shared expert, nothing dense");
        assert_eq!((patterns(2).len(), patterns(ALL_LAYERS).len(), patterns(5000).len()), (2, 1, 1));
    }
}
