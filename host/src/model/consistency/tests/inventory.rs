//! The table of what architectures must have, and layers that differ from their siblings.

use super::*;
use crate::model::consistency::inventory::{Inventory, full, split_stack};

const TABLE: &str = include_str!("../inventory.txt");

/// All names in the table.
fn architectures() -> Vec<&'static str> {
    let blocks = TABLE.split("\n\n").skip(1);
    blocks.flat_map(|block| block.lines().next().unwrap_or_default().split(' ')).collect()
}

#[test]
fn the_table_is_well_formed() {
    let mut names = architectures();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count, "an architecture is there twice");
    assert!(count > 120, "{count}");
    for name in names {
        let known = Inventory::of(name).unwrap_or_else(|| panic!("{name} cannot be read"));
        let words = known.entries().map(|entry| entry.trim_start_matches('.'));
        let tensors = known.tensors().chain(known.layer()).flatten().flatten();
        for word in words.chain(tensors.map(|tensor| tensor.trim_start_matches('='))) {
            let fine = word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
            assert!(fine && !word.is_empty() && word != "layer", "{name}: {word:?}");
        }
    }
    assert!(
        Inventory::of("novel").is_none() && Inventory::of("").is_none() && Inventory::of("$rms").is_none()
    );
}

/// The first alternative, unless it is one tensor that may be absent; of several, one alone is missed.
fn first(mut need: Vec<Vec<&str>>) -> Vec<&str> {
    let optional = need.iter().any(Vec::is_empty);
    let first = need.swap_remove(0);
    if optional && first.len() == 1 { Vec::new() } else { first }
}

/// A model with two layers that has what its architecture needs, and nothing else.
fn minimal(architecture: &str, known: &Inventory) -> Draft {
    let mut draft =
        draft().of(architecture).set(&format!("{architecture}.attention.layer_norm_epsilon"), 1e-5f32);
    draft.tensors.clear();
    for entry in known.entries() {
        let key = if entry.starts_with('.') { format!("{architecture}{entry}") } else { entry.to_owned() };
        if !draft.metadata.iter().any(|(other, _)| *other == key) {
            draft.metadata.push((key, 1u32.into()));
        }
    }
    for name in known.tensors().flat_map(first) {
        draft.tensors.push((full(name), vec![8]));
    }
    for name in known.layer().flat_map(first) {
        for layer in 0..2 {
            let (stack, part) = split_stack(name);
            draft.tensors.push((format!("{stack}blk.{layer}.{}", full(part)), vec![8]));
        }
    }
    draft
}

/// Every tensor and every entry that an architecture needs is missed when it is gone.
#[test]
fn whatever_is_needed_is_missed() {
    for name in architectures() {
        let known = &Inventory::of(name).unwrap();
        let whole = minimal(name, known);
        let codes = |draft: &Draft| draft.codes().into_iter().collect::<std::collections::BTreeSet<_>>();
        let found = codes(&whole);
        for code in ["missing-tensor", "metadata-missing", "inventory-unknown"] {
            assert!(!found.contains(code), "{name}: {found:?}");
        }
        for (tensor, _) in &whole.tensors {
            let mut less = whole.clone();
            less.tensors.retain(|(other, _)| other != tensor);
            assert!(codes(&less).contains("missing-tensor"), "{name} without {tensor}: {:?}", codes(&less));
        }
        for entry in known.entries() {
            let key = if entry.starts_with('.') { format!("{name}{entry}") } else { entry.to_owned() };
            let found = codes(&whole.clone().unset(&key));
            assert!(found.contains("metadata-missing"), "{name} without {key}: {found:?}");
        }
    }
}

/// Layers of an architecture that is not known, each by its parts.
fn novel(layers: &[&str]) -> Vec<(String, String)> {
    let mut draft = draft().of("novel").set("novel.block_count", u32::try_from(layers.len()).unwrap());
    draft.tensors.retain(|(name, _)| !name.starts_with("blk."));
    for (layer, parts) in layers.iter().enumerate() {
        draft.tensors.extend(parts.split(' ').map(|part| (format!("blk.{layer}.{part}"), vec![8])));
    }
    let missing = draft.findings().into_iter().filter(|finding| finding.code == "missing-tensor");
    missing.map(|finding| (format!("{:?}", finding.severity), finding.tensor.unwrap_or_default())).collect()
}

/// One layer that lacks one tensor which its siblings have is told; layers of another kind are not.
#[test]
fn the_odd_one_out() {
    let lacking = |layers: &[&str]| novel(layers);
    assert_eq!(
        lacking(&["norm q up", "norm q up", "norm up", "norm q up"]),
        [("Warning".to_owned(), "blk.2.q".to_owned())]
    );
    for (what, layers) in [
        ("all alike", &["norm q up"; 4][..]),
        ("two kinds that alternate", &["norm q up", "norm ssm up", "norm q up", "norm ssm up"]),
        ("one layer of another kind", &["norm q up", "norm q up", "norm ssm up", "norm q up"]),
        ("a dense layer first", &["norm q up", "norm q exps gate", "norm q exps gate"]),
        ("keys shared by the last layers", &["norm q k", "norm q k", "norm q", "norm q"]),
        ("only the first has it", &["norm q rel", "norm q", "norm q"]),
        ("no way to tell which of two", &["norm q up", "norm q"]),
        ("a table in some layers", &["norm q rope_freqs.weight", "norm q rope_freqs.weight", "norm q"]),
        ("scales of a quantiser", &["norm q q.scale", "norm q q.scale", "norm q"]),
        ("two tensors less", &["norm q k up", "norm q k up", "norm up"]),
    ] {
        assert_eq!(lacking(layers), [], "{what}");
    }
    // What the inventory leaves open, it leaves open: here the first layer has no norm.
    let mut first = draft().of("modern-bert").set("modern-bert.block_count", 3u32);
    first.tensors = vec![("token_embd.weight".into(), vec![8, 5]), ("output_norm.weight".into(), vec![8])];
    first.tensors.push(("token_embd_norm.weight".into(), vec![8]));
    for layer in 0..3 {
        for part in ["attn_norm", "attn_qkv", "attn_output", "ffn_norm", "ffn_up", "ffn_down"] {
            first.tensors.push((format!("blk.{layer}.{part}.weight"), vec![8]));
        }
    }
    let first = first.set("modern-bert.attention.layer_norm_epsilon", 1e-5f32).without("blk.0.attn_norm");
    assert_eq!(first.codes(), [""; 0]);
}

#[test]
fn encoders_and_decoders_have_stacks_of_their_own() {
    let whole = minimal("t5", &Inventory::of("t5").unwrap());
    assert!(whole.tensors.iter().any(|(name, _)| name == "dec.blk.1.cross_attn_q.weight"));
    let deeper = whole.clone().set("t5.decoder_block_count", 3u32);
    let missing = deeper.findings().into_iter().find(|finding| finding.code == "missing-tensor").unwrap();
    assert_eq!(missing.tensor.as_deref(), Some("dec.blk.2"));
    let shallower = whole.set("t5.decoder_block_count", 1u32);
    let odd = shallower.findings().into_iter().find(|finding| finding.code == "unexpected-tensor").unwrap();
    assert!(odd.tensor.unwrap().starts_with("dec.blk.1."));
}
