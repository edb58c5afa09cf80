//! The same weights by another way: rounded twice, under other names, not all of them there.

use super::*;

/// A file of 16 bits in between is how most quantisations are made.
#[test]
fn rounding_by_way_of_16_bits_is_quantization_and_a_change_before_it_is_not() {
    let folder = Folder::new();
    let base = model(21);
    let reference = folder.write("base.gguf", &base, GgmlType::F32);
    let tuned = changed(&base, |t, i, x| if t < 3 && i % 9 == 0 { x * 1.02 } else { x });
    for (between, name) in [(GgmlType::F16, "F16"), (GgmlType::BF16, "BF16")] {
        let short = |model: &Model| {
            changed(model, |t, _, x| match between {
                _ if t == 3 => x,
                GgmlType::F16 => half::f16_to_f32(half::f32_to_f16(x)),
                _ => half::bf16_to_f32(half::f32_to_bf16(x)),
            })
        };
        for kind in BLOCK_TYPES {
            let honest = relate(&folder.write("honest.gguf", &short(&base), kind), &reference);
            assert_eq!(honest.relation, Relation::Quantization, "{name} {kind:?} {:?}", honest.reasons);
            let ways: Vec<&str> =
                honest.tensors.iter().filter_map(|tensor| tensor.by_way_of.as_deref()).collect();
            // Where hardly a block is what the quantiser makes of the reference, no weight is beyond.
            assert!(!ways.is_empty() && ways.iter().all(|way| *way == name), "{kind:?} {ways:?}");
            assert!(honest.reasons.iter().any(|reason| reason.contains("in between")));
            let changed = relate(&folder.write("tuned.gguf", &short(&tuned), kind), &reference);
            assert_eq!(changed.relation, Relation::Derived, "{name} {kind:?}");
            assert!(changed.tensors.iter().all(|tensor| tensor.by_way_of.is_none()));
        }
    }
    // The other way round, a reference of 16 bits has no say in what was lost before.
    let reference = folder.write("short.gguf", &base, GgmlType::BF16);
    let finer = relate(&folder.write("finer.gguf", &base, GgmlType::Q8_0), &reference);
    assert_eq!(finer.relation, Relation::Unknown, "{:?}", finer.reasons);
}

/// Weights that were packed and unpacked again, or packed twice, hold less than their type could.
#[test]
fn what_was_packed_before_is_told_and_a_change_after_it_is_none() {
    let folder = Folder::new();
    // Zeros, of which some come out with the other sign.
    let base = changed(&model(23), |_, i, x| if i % 50 == 7 { 0.0 } else { x });
    let reference = folder.write("base.gguf", &base, GgmlType::F32);
    let floats = [GgmlType::F32, GgmlType::F16, GgmlType::BF16];
    for way in BLOCK_TYPES {
        let packed = |model: &Model| -> Model {
            let again = |values: &Vec<f32>| decoded(way, &encoded(way, values, Arithmetic::Plain)).unwrap();
            (0..4).map(|t| if t == 3 { model[t].clone() } else { again(&model[t]) }).collect()
        };
        for kind in BLOCK_TYPES.into_iter().chain(floats).filter(|kind| *kind != way) {
            let found = relate(&folder.write("twice.gguf", &packed(&base), kind), &reference);
            let size = |kind: GgmlType| kind.block_bytes() * 32 / kind.block();
            let coarse = size(way) < size(kind);
            let expected = if coarse { Relation::Unknown } else { Relation::Quantization };
            assert_eq!(found.relation, expected, "{way:?} {kind:?} {found:?}");
            let said = format!("3 of them were rounded to {} in between", way.name());
            assert!(!coarse || found.reasons.contains(&said), "{way:?} {kind:?} {found:?}");
            for tensor in found.tensors.iter().filter(|tensor| coarse && tensor.name != NAMES[3]) {
                let of_tensor = (tensor.relation, tensor.by_way_of.as_deref());
                assert_eq!(of_tensor, (TensorRelation::Coarse, Some(way.name())));
            }
            if !coarse {
                continue;
            }
            // Behind the first row, which is looked at first.
            let tuned = changed(&packed(&base), |t, i, x| if t == 1 && i > 4000 { x * 1.1 } else { x });
            let found = relate(&folder.write("tuned.gguf", &tuned, kind), &reference);
            assert_eq!(found.relation, Relation::Derived, "{way:?} {kind:?} {found:?}");
            assert_eq!(found.tensors.iter().find(|tensor| tensor.name == NAMES[1]).unwrap().by_way_of, None);
        }
    }
}

/// Rows of heads are interleaved on the way, and chunks do not end where heads do.
#[test]
fn interleaved_rows_are_rounded_in_between_too() {
    const HEADS: usize = 4;
    let (columns, rows) = (96, 4000);
    let values: Vec<f32> = (0..48).flat_map(|seed| weights(300 + seed, false)).take(rows * columns).collect();
    let name = "model.layers.0.self_attn.q_proj.weight".to_owned();
    let folder = Folder::new();
    let shape = vec![rows as u64, columns as u64];
    let reference = safetensors(&folder, "hf", GgmlType::F32, &[(name, shape, values.clone())]);
    let (head, half) = (rows / HEADS, rows / HEADS / 2);
    let moved: Vec<f32> = (0..rows)
        .map(|row| row / head * head + row % 2 * half + row % head / 2)
        .flat_map(|row| &values[row * columns..(row + 1) * columns])
        .map(|&x| half::f16_to_f32(half::f32_to_f16(x)))
        .collect();
    let tensor = ("blk.0.attn_q.weight", GgmlType::Q8_0, vec![columns as u64, rows as u64], moved);
    let found = relate(&gguf(&folder, "llama", &[tensor]), &reference);
    assert_eq!(found.relation, Relation::Quantization, "{found:?}");
    assert_eq!(found.tensors[0].by_way_of.as_deref(), Some("F16"));
}

/// Only the share of blocks speaks against it, and no weight.
#[test]
fn blocks_that_are_not_the_quantisers_are_called_so() {
    let folder = Folder::new();
    let base = model(22);
    let reference = folder.write("base.gguf", &base, GgmlType::F32);
    let other = changed(&base, |_, i, x| if i % 64 == 5 { x * (1.0 + 1e-4) } else { x });
    let found = relate(&folder.write("other.gguf", &other, GgmlType::Q8_0), &reference);
    assert_eq!(found.relation, Relation::Derived);
    let partly =
        found.tensors.iter().filter(|tensor| tensor.weights_beyond == 0 && tensor.exact_blocks < Some(1.0));
    let said = found.reasons.iter().any(|reason| reason.contains("most blocks are what the quantiser gives"));
    assert_eq!(partly.filter(|tensor| tensor.exact_blocks.is_some()).count() > 0, said, "{found:?}");
}

/// Nearly all have other names, and what is left has nothing to say about how much is known.
#[test]
fn what_has_another_name_is_neither_foreign_nor_missing() {
    let folder = Folder::new();
    let base: Vec<Vec<f32>> = (1..=4).map(|seed| weights(seed * 7, false)).collect();
    let small: Vec<f32> = weights(99, false).into_iter().take(2 * COLUMNS).collect();
    let shape = vec![COLUMNS as u64, ROWS as u64];
    let named = |names: [&'static str; 4], extra: &'static str, kind| {
        let matrices = names.into_iter().zip(&base).map(|(name, of)| (name, kind, shape.clone(), of.clone()));
        matrices.chain([(extra, kind, vec![COLUMNS as u64, 2], small.clone())]).collect::<Vec<_>>()
    };
    let write = |file: &str, tensors: &[(&str, GgmlType, Vec<u64>, Vec<f32>)]| {
        let path = folder.0.path().join(file);
        std::fs::rename(gguf(&folder, "llama", tensors), &path).unwrap();
        path
    };
    let own = ["blk.0.ffn_up.weight", "blk.1.ffn_up.weight", "blk.2.ffn_up.weight", "output.weight"];
    let other = ["up.0", "up.1", "up.2", "head"];
    let reference = write("base.gguf", &named(own, "small.weight", GgmlType::F32));
    for (kind, expected) in [(GgmlType::F32, Relation::SameWeights), (GgmlType::Q8_0, Relation::Quantization)]
    {
        let found = relate(&write("renamed.gguf", &named(other, "small.weight", kind)), &reference);
        assert_eq!(found.relation, expected, "{found:?}");
        assert_eq!(found.tensors.len(), 5);
    }
    // One of them is really missing, and is the only one that is said to be.
    let mut fewer = named(other, "small.weight", GgmlType::F32);
    fewer.remove(1);
    let found = relate(&write("fewer.gguf", &fewer), &reference);
    assert_eq!(found.relation, Relation::Derived);
    let missing: Vec<&str> = found
        .tensors
        .iter()
        .filter(|tensor| tensor.relation == TensorRelation::Missing)
        .map(|tensor| tensor.name.as_str())
        .collect();
    assert_eq!(missing, ["blk.1.ffn_up.weight"]);
    // The embedding stands for an output matrix only where there is none under any name.
    let own = ["token_embd.weight", "blk.1.ffn_up.weight", "blk.2.ffn_up.weight", "output.weight"];
    let other = ["token_embd.weight", "up.1", "up.2", "head"];
    let reference = write("base.gguf", &named(own, "small.weight", GgmlType::F32));
    let found = relate(&write("renamed.gguf", &named(other, "small.weight", GgmlType::F32)), &reference);
    assert_eq!(found.relation, Relation::SameWeights, "{found:?}");
}

/// A change of full rank that hardly stands out of the rounding is no adapter.
#[test]
fn a_change_behind_rounding_is_no_adapter() {
    let folder = Folder::new();
    let base = model(23);
    let noise: Vec<Vec<f32>> = (50..53).map(|seed| weights(seed, false)).collect();
    for kind in [GgmlType::BF16, GgmlType::Q8_0] {
        let reference = folder.write("base.gguf", &base, GgmlType::F32);
        for size in [1e-3, 3e-3, 6e-3, 1e-2, 2e-2, 4e-2, 8e-2] {
            let tuned = changed(&base, |t, i, x| if t < 3 { x + size * noise[t][i] } else { x });
            let found = relate(&folder.write("tuned.gguf", &tuned, kind), &reference);
            assert!(
                found.tensors.iter().all(|tensor| tensor.rank.is_none()),
                "{kind:?} {size} {:?}",
                found.reasons
            );
        }
    }
}

#[test]
fn what_is_not_whole_or_of_another_format_is_not_judged() {
    let folder = Folder::new();
    let tensors = [("a.weight".to_owned(), vec![ROWS as u64, COLUMNS as u64], short(70))];
    let whole = hugging_face(&folder, "whole", &tensors);
    let part = hugging_face(&folder, "part", &tensors);
    let refused = |path: &Path| compare(path, &whole, None, &mut |_, _| {}).unwrap_err().to_string();
    std::fs::rename(part.join("model.safetensors"), part.join("model-00001-of-00002.safetensors")).unwrap();
    assert!(refused(&part).contains("model-00002-of-00002.safetensors is missing"));
    let index =
        serde_json::json!({"weight_map": {"a.weight": "model.safetensors", "b.weight": "b.safetensors"}});
    std::fs::write(part.join("model.safetensors.index.json"), index.to_string()).unwrap();
    std::fs::rename(part.join("model-00001-of-00002.safetensors"), part.join("model.safetensors")).unwrap();
    assert!(refused(&part).contains("b.safetensors is missing"));
    std::os::unix::fs::symlink(part.join("nothing"), part.join("b.safetensors")).unwrap();
    assert!(refused(&part).contains("b.safetensors is missing"));
    let other = folder.0.path().join("model.bin");
    std::fs::write(&other, b"\x80\x02}q\x00.").unwrap();
    assert!(refused(&other).contains("is a Python pickle, and neither GGUF nor safetensors"));
}

#[test]
fn zeros_are_equal_and_what_is_no_number_has_no_excess() {
    let folder = Folder::new();
    let mut base = model(24);
    base[0][9] = 0.0;
    let reference = folder.write("base.gguf", &base, GgmlType::F32);
    let mut other = base.clone();
    other[0][9] = -0.0;
    let found = relate(&folder.write("zero.gguf", &other, GgmlType::F32), &reference);
    assert_eq!(found.relation, Relation::SameWeights, "{found:?}");
    for odd in [f32::NAN, f32::INFINITY] {
        other[0][9] = odd;
        let found = relate(&folder.write("odd.gguf", &other, GgmlType::F32), &reference);
        assert_eq!(found.worst_tensor.as_deref(), Some("token_embd.weight"));
        let json = serde_json::to_value(&found).unwrap();
        assert!(json["max_excess_error"].is_null(), "never a number: {json:#}");
    }
}

/// An extended vocabulary, honest and not.
#[test]
fn rows_that_both_have_are_compared() {
    let folder = Folder::new();
    let base = weights(80, false);
    let columns = COLUMNS as u64;
    let write = |file: &str, kind, values: &[f32]| {
        let shape = vec![columns, (values.len() / COLUMNS) as u64];
        let up = ("blk.0.ffn_up.weight", kind, vec![columns, ROWS as u64], base.clone());
        let path = folder.0.path().join(file);
        std::fs::rename(
            gguf(&folder, "llama", &[("token_embd.weight", kind, shape, values.to_vec()), up]),
            &path,
        )
        .unwrap();
        path
    };
    let reference = write("base.gguf", GgmlType::F32, &base);
    let longer = [&base[..], &weights(81, false)[..COLUMNS * 3]].concat();
    let mut other = longer.clone();
    other[77] += 0.5;
    for (kind, values, relation, beyond, said) in [
        (
            GgmlType::F32,
            &longer,
            TensorRelation::Identical,
            false,
            "35×256 instead of 32×256, the rows of both are equal",
        ),
        (
            GgmlType::Q8_0,
            &longer,
            TensorRelation::Requantized,
            false,
            "the rows of both are the reference's rounded",
        ),
        (GgmlType::F32, &other, TensorRelation::Differs, true, "the rows of both differ"),
        (GgmlType::Q8_0, &other, TensorRelation::Differs, true, "the rows of both differ"),
        (
            GgmlType::F32,
            &base[..COLUMNS * 9].to_vec(),
            TensorRelation::Identical,
            false,
            "9×256 instead of 32×256",
        ),
    ] {
        let found = relate(&write("other.gguf", kind, values), &reference);
        assert_eq!(found.relation, Relation::Derived);
        let tensor = found.tensors.iter().find(|tensor| tensor.name == "token_embd.weight").unwrap();
        assert_eq!((tensor.relation, tensor.common_rows), (TensorRelation::ShapeDiffers, Some(relation)));
        assert_eq!(tensor.weights_beyond > 0, beyond);
        assert_eq!(found.worst_tensor.as_deref(), beyond.then_some("token_embd.weight"));
        assert!(found.reasons.iter().any(|reason| reason.contains(said)), "{:?}", found.reasons);
    }
}
