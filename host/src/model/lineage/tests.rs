//! Whole comparisons of small files made here: honest roundings, and changes before them.

mod detours;
mod renumbered;

use std::path::PathBuf;

use super::quantize::{Arithmetic, BLOCK, block};
use super::*;
use crate::model::gguf::GgmlType;
use crate::model::gguf::write::{TensorData, write_file};

const NAMES: [&str; 4] =
    ["token_embd.weight", "blk.0.ffn_up.weight", "blk.0.attn_v.weight", "blk.0.attn_norm.weight"];
const COLUMNS: usize = 256;
const ROWS: usize = 32;

/// Weights that look trained: bell-shaped, another set for every seed.
fn weights(seed: u64, norm: bool) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / 16_777_216.0 - 0.5
    };
    let count = if norm { COLUMNS } else { COLUMNS * ROWS };
    (0..count).map(|_| (0..4).map(|_| next()).sum::<f32>() * 0.1 + if norm { 1.0 } else { 0.0 }).collect()
}

type Model = Vec<Vec<f32>>;

fn model(seed: u64) -> Model {
    (0..4).map(|i| weights(seed * 100 + i, i == 3)).collect()
}

fn changed(model: &Model, by: impl Fn(usize, usize, f32) -> f32) -> Model {
    let tensor = |(t, list): (usize, &Vec<f32>)| list.iter().enumerate().map(|(i, &x)| by(t, i, x)).collect();
    model.iter().enumerate().map(tensor).collect()
}

fn encoded(kind: GgmlType, values: &[f32], how: Arithmetic) -> Vec<u8> {
    let mut out = Vec::new();
    match kind {
        GgmlType::F32 => out.extend(values.iter().flat_map(|x| x.to_le_bytes())),
        GgmlType::F16 => out.extend(values.iter().flat_map(|&x| half::f32_to_f16(x).to_le_bytes())),
        GgmlType::BF16 => out.extend(values.iter().flat_map(|&x| half::f32_to_bf16(x).to_le_bytes())),
        _ => values.as_chunks::<BLOCK>().0.iter().for_each(|group| block(kind, group, how, &mut out)),
    }
    out
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Writes matrices as `kind` and the norm as F32.
    fn write(&self, name: &str, model: &Model, kind: GgmlType) -> PathBuf {
        self.write_with(name, model, |t, values| {
            let kind = if t == 3 { GgmlType::F32 } else { kind };
            (kind, encoded(kind, values, Arithmetic::Plain))
        })
    }

    fn write_with(
        &self,
        name: &str,
        model: &Model,
        data: impl Fn(usize, &[f32]) -> (GgmlType, Vec<u8>),
    ) -> PathBuf {
        let path = self.0.path().join(name);
        let data: Vec<(GgmlType, Vec<u8>)> =
            model.iter().enumerate().map(|(t, values)| data(t, values)).collect();
        let tensors: Vec<TensorData<'_>> = NAMES
            .iter()
            .zip(&data)
            .enumerate()
            .map(|(t, (name, (kind, data)))| TensorData {
                name,
                kind: *kind,
                shape: if t == 3 { &[COLUMNS as u64] } else { &[COLUMNS as u64, ROWS as u64] },
                data,
            })
            .collect();
        write_file(&path, &[("general.name", name.into())], &tensors).unwrap();
        path
    }
}

fn relate(candidate: &Path, reference: &Path) -> Lineage {
    compare(candidate, reference, None, &mut |_, _| {}).unwrap()
}

const BLOCK_TYPES: [GgmlType; 5] =
    [GgmlType::Q4_0, GgmlType::Q4_1, GgmlType::Q5_0, GgmlType::Q5_1, GgmlType::Q8_0];

#[test]
fn honest_rounding_is_quantization_and_a_change_before_it_is_not() {
    let folder = Folder::new();
    let base = model(1);
    let reference = folder.write("base.gguf", &base, GgmlType::F32);
    let light = changed(&base, |_, i, x| if i % 3 == 0 { x + 3e-4 * ((i % 7) as f32 - 3.0) } else { x });
    // As a merged adapter does: one matrix, and no norm.
    let merged = changed(&base, |t, i, x| if t == 2 { x + 2e-4 * ((i % 5) as f32 - 2.0) } else { x });
    for kind in BLOCK_TYPES.into_iter().chain([GgmlType::F16, GgmlType::BF16]) {
        let honest = relate(&folder.write("honest.gguf", &base, kind), &reference);
        assert_eq!(honest.relation, Relation::Quantization, "{kind:?} {honest:?}");
        assert_eq!((honest.tensors_compared, honest.tensors_identical), (4, 1));
        assert_eq!((honest.max_excess_error, honest.worst_tensor), (Some(0.0), None));
        let tuned = relate(&folder.write("tuned.gguf", &light, kind), &reference);
        assert_eq!(tuned.relation, Relation::Derived, "{kind:?}");
        let merged = relate(&folder.write("merged.gguf", &merged, kind), &reference);
        assert_eq!(merged.relation, Relation::Derived, "{kind:?}");
        let differing: Vec<&str> = merged
            .tensors
            .iter()
            .filter(|tensor| tensor.relation == TensorRelation::Differs)
            .map(|tensor| tensor.name.as_str())
            .collect();
        assert_eq!(differing, ["blk.0.attn_v.weight"], "{kind:?}");
        assert!(merged.reasons[0].contains("blk.0.attn_v.weight"));
        let other = relate(&folder.write("other.gguf", &model(2), kind), &reference);
        assert_eq!(other.relation, Relation::Unrelated, "{kind:?}");
    }
}

/// Every weight is a near tie: how products are rounded decides its code.
#[test]
fn compilers_that_fuse_are_honest_too() {
    let folder = Folder::new();
    let ties = |steps: f32| -> Model {
        let weight = |i: usize| match i % BLOCK {
            0 => 0.7 + (i / BLOCK) as f32 * 1e-3,
            // Between two codes of the block.
            place => (place as f32 % steps - 0.5) * (0.7 + (i / BLOCK) as f32 * 1e-3) / steps,
        };
        (0..4).map(|t| (0..if t == 3 { COLUMNS } else { COLUMNS * ROWS }).map(weight).collect()).collect()
    };
    for (kind, steps) in [(GgmlType::Q4_0, 8.0), (GgmlType::Q5_0, 16.0), (GgmlType::Q8_0, 127.0)] {
        let base = ties(steps);
        let reference = folder.write("base.gguf", &base, GgmlType::F32);
        for how in [Arithmetic::Plain, Arithmetic::Fused, Arithmetic::Double] {
            let path = folder.write_with("q.gguf", &base, |_, values| (kind, encoded(kind, values, how)));
            let lineage = relate(&path, &reference);
            assert_eq!(lineage.relation, Relation::Quantization, "{kind:?} {how:?}");
            let exact = |tensor: &TensorLineage| tensor.relation == TensorRelation::Requantized;
            assert!(lineage.tensors.iter().all(exact), "{kind:?} {how:?} {lineage:?}");
        }
    }
}

/// A change so small that no weight leaves the room that rounding gives it: but a few blocks
/// are no longer what rounding the reference gives, while most are.
#[test]
fn blocks_of_two_origins_are_a_change() {
    let folder = Folder::new();
    let base = model(8);
    let reference = folder.write("base.gguf", &base, GgmlType::F32);
    let tiny = changed(&base, |t, i, x| if t == 2 { x + 1e-5 * ((i % 3) as f32 - 1.0) } else { x });
    let lineage = relate(&folder.write("q4.gguf", &tiny, GgmlType::Q4_0), &reference);
    assert_eq!(lineage.relation, Relation::Derived, "{lineage:?}");
    let differing = lineage.tensors.iter().find(|tensor| tensor.relation == TensorRelation::Differs).unwrap();
    assert_eq!((differing.name.as_str(), differing.weights_beyond), ("blk.0.attn_v.weight", 0));
}

/// As quantisers that weigh errors do: try scales around the usual one, round with the best,
/// and store the one that fits the codes by least squares.
fn weighed(values: &[f32]) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, group) in values.as_chunks::<BLOCK>().0.iter().enumerate() {
        let extreme = group.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap();
        let importance = |i: usize| 1.0 + ((i * 31 + number * 17) % 23) as f32;
        let mut best = (f32::MIN, 0.0, [0u8; BLOCK]);
        for trial in -9..=9 {
            let inverse = -(8.0 + 0.1 * trial as f32) / extreme;
            let codes = group.map(|x| (x * inverse).round().clamp(-8.0, 7.0));
            let sum = |f: &dyn Fn(usize, f32, f32) -> f32| -> f32 {
                group.iter().zip(codes).enumerate().map(|(i, (&x, q))| importance(i) * f(i, x, q)).sum()
            };
            let (xq, qq) = (sum(&|_, x, q| x * q), sum(&|_, _, q| q * q));
            if xq * xq / qq > best.0 {
                best = (xq * xq / qq, xq / qq, codes.map(|q| (q + 8.0) as u8));
            }
        }
        out.extend(half::f32_to_f16(best.1).to_le_bytes());
        out.extend((0..16).map(|i| best.2[i] | best.2[i + 16] << 4));
    }
    out
}

#[test]
fn a_quantiser_that_weighs_errors_is_honest_and_its_fine_tune_is_not() {
    let folder = Folder::new();
    let base = model(4);
    let reference = folder.write("base.gguf", &base, GgmlType::F32);
    let write = |name, model: &Model| {
        folder.write_with(name, model, |t, values| {
            if t == 3 {
                (GgmlType::F32, encoded(GgmlType::F32, values, Arithmetic::Plain))
            } else {
                (GgmlType::Q4_0, weighed(values))
            }
        })
    };
    let honest = relate(&write("honest.gguf", &base), &reference);
    assert_eq!(honest.relation, Relation::Quantization, "{:?}", honest.reasons);
    assert!(honest.tensors.iter().any(|tensor| tensor.relation == TensorRelation::WithinRounding));
    let tuned = changed(&base, |t, i, x| if t == 1 { x + 6e-3 * ((i % 7) as f32 - 3.0) } else { x });
    let tuned = relate(&write("tuned.gguf", &tuned), &reference);
    assert_eq!(tuned.relation, Relation::Derived);
    assert_eq!(tuned.worst_tensor.as_deref(), Some("blk.0.ffn_up.weight"));
}

#[test]
fn equal_weights_in_other_clothes() {
    let folder = Folder::new();
    let halves = changed(&model(5), |_, _, x| half::bf16_to_f32(half::f32_to_bf16(x)));
    let reference = folder.write("a.gguf", &halves, GgmlType::BF16);
    assert_eq!(relate(&reference, &reference).relation, Relation::Identical);
    let renamed = folder.write("b.gguf", &halves, GgmlType::BF16);
    assert_eq!(relate(&renamed, &reference).relation, Relation::SameWeights, "metadata differ");
    let wide = folder.write("wide.gguf", &halves, GgmlType::F32);
    let lineage = relate(&wide, &reference);
    assert_eq!((lineage.relation, lineage.tensors_identical), (Relation::SameWeights, 4));
    assert_eq!(relate(&reference, &wide).relation, Relation::SameWeights, "nothing was lost");
    let mut order: Vec<usize> = (0..ROWS).collect();
    order.swap(3, 17);
    let moved = changed(&halves, |t, i, x| match t {
        1 => halves[1][order[i / COLUMNS] * COLUMNS + i % COLUMNS],
        _ => x,
    });
    let moved = relate(&folder.write("moved.gguf", &moved, GgmlType::BF16), &reference);
    assert_eq!(moved.relation, Relation::Derived, "only one of three matrices was reordered");
}

#[test]
fn a_rounded_reference_accuses_nobody() {
    let folder = Folder::new();
    let base = model(6);
    let full = folder.write("full.gguf", &base, GgmlType::F32);
    let half = folder.write("half.gguf", &base, GgmlType::BF16);
    let quantized = folder.write("q8.gguf", &base, GgmlType::Q8_0);
    for (candidate, reference) in [(&full, &half), (&full, &quantized), (&quantized, &half)] {
        let lineage = relate(candidate, reference);
        assert_eq!(lineage.relation, Relation::Unknown, "{candidate:?} {reference:?} {:?}", lineage.reasons);
    }
    let tuned = changed(&base, |_, i, x| x + 0.01 * ((i % 7) as f32 - 3.0));
    assert_eq!(relate(&folder.write("t.gguf", &tuned, GgmlType::Q8_0), &half).relation, Relation::Derived);
}

#[test]
fn what_cannot_be_decoded_is_unknown_and_what_is_no_model_is_refused() {
    let folder = Folder::new();
    let base = model(7);
    let reference = folder.write("base.gguf", &base, GgmlType::F32);
    let opaque = folder.write_with("fp.gguf", &base, |t, values| match t {
        3 => (GgmlType::F32, encoded(GgmlType::F32, values, Arithmetic::Plain)),
        _ => (GgmlType::Q8_K, vec![0; 292 * ROWS]),
    });
    let unknown = relate(&opaque, &reference);
    assert_eq!(unknown.relation, Relation::Unknown);
    assert!(unknown.reasons.iter().any(|reason| reason.contains("Q8_K cannot be judged")), "{unknown:?}");
    // Codes of a grid: what is unrelated is told, and nothing else.
    let grid = folder.write_with("iq.gguf", &base, |t, values| match t {
        3 => (GgmlType::F32, encoded(GgmlType::F32, values, Arithmetic::Plain)),
        _ => (GgmlType::IQ2_XXS, vec![0x11; 66 * ROWS]),
    });
    assert_eq!(relate(&grid, &reference).relation, Relation::Unrelated);
    let mut near = Vec::new();
    decode::values(GgmlType::IQ2_XXS, &[0x11; 66 * ROWS], &mut near, &mut Weights::default());
    let near = changed(&base, |t, i, x| if t == 3 { x } else { near[i] });
    let near = folder.write("near.gguf", &near, GgmlType::F32);
    let lineage = relate(&grid, &near);
    assert_eq!(lineage.relation, Relation::Unknown, "equal values are no evidence of rounding");
    assert!(lineage.reasons.iter().any(|reason| reason.contains("IQ2_XXS cannot be judged")), "{lineage:?}");
    // All steps are zero: everything is open, and nothing is shown.
    let empty = folder.write_with("k.gguf", &base, |t, values| match t {
        3 => (GgmlType::F32, encoded(GgmlType::F32, values, Arithmetic::Plain)),
        _ => (GgmlType::Q4_K, vec![0; 144 * ROWS]),
    });
    assert!(matches!(relate(&empty, &reference).relation, Relation::Unknown | Relation::Unrelated));
    let bytes = std::fs::read(&reference).unwrap();
    let cut = folder.0.path().join("cut.gguf");
    std::fs::write(&cut, &bytes[..bytes.len() - 100]).unwrap();
    assert_eq!(compare(&cut, &reference, None, &mut |_, _| {}).unwrap_err().exit_code(), 4);
    assert!(compare(&folder.0.path().join("no.gguf"), &reference, None, &mut |_, _| {}).is_err());
}

/// Of a type whose weights say nothing one by one a part is read, and what it says is of all.
#[test]
fn a_part_of_a_grid_stands_for_the_whole() {
    let folder = Folder::new();
    let rows = 3000;
    let codes: Vec<u8> = (0..66 * rows).map(|i| (i * 37 % 251) as u8 & 0x3b).collect();
    let mut near = Vec::new();
    decode::values(GgmlType::IQ2_XXS, &codes, &mut near, &mut Weights::default());
    let far: Vec<f32> = (0..).flat_map(|seed| weights(seed, false)).take(near.len()).collect();
    let write = |file: &str, kind, data: &[u8]| {
        let path = folder.0.path().join(file);
        let (name, shape) = ("blk.0.ffn_up.weight", &[COLUMNS as u64, rows as u64][..]);
        write_file(&path, &[], &[TensorData { name, kind, shape, data }]).unwrap();
        path
    };
    let candidate = write("grid.gguf", GgmlType::IQ2_XXS, &codes);
    for (values, expected) in [(&near, Relation::Unknown), (&far, Relation::Unrelated)] {
        let raw: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let reference = write("reference.gguf", GgmlType::F32, &raw);
        let mut told = Vec::new();
        let found = compare(&candidate, &reference, None, &mut |done, all| told.push((done, all))).unwrap();
        assert_eq!(found.relation, expected, "{found:?}");
        let all = codes.len() as u64;
        assert_eq!(told.last(), Some(&(all, all)));
    }
}

/// A quantiser that gives blocks of its own, or a reason why there are none.
struct Fake(Result<Vec<u8>, String>);

impl Quantizer for Fake {
    fn rows(
        &mut self,
        kind: GgmlType,
        _columns: u64,
        values: Vec<f32>,
        importance: Option<&[f32]>,
    ) -> Result<Vec<u8>, String> {
        assert!(importance.is_none());
        let bytes = usize::try_from(kind.bytes(values.len() as u64).unwrap()).unwrap();
        self.0.clone().map(|own| own.into_iter().cycle().take(bytes).collect())
    }
}

#[test]
fn a_quantiser_that_fails_is_named_and_adds_nothing() {
    let folder = Folder::new();
    let base = model(12);
    let reference = folder.write("base.gguf", &base, GgmlType::F32);
    let block =
        |n: usize| -> Vec<u8> { (0..144).map(|i| if i < 4 { 0x2c } else { (i * n) as u8 }).collect() };
    let candidate = folder.write_with("k.gguf", &base, |t, values| match t {
        3 => (GgmlType::F32, encoded(GgmlType::F32, values, Arithmetic::Plain)),
        _ => (GgmlType::Q4_K, (0..ROWS).flat_map(block).collect()),
    });
    let mut values = base.clone();
    for values in values.iter_mut().take(3) {
        let codes: Vec<u8> = (0..ROWS).flat_map(block).collect();
        decode::values(GgmlType::Q4_K, &codes, values, &mut Weights::default());
    }
    let near = folder.write("near.gguf", &values, GgmlType::F32);
    let look = |reference: &Path, own: Result<Vec<u8>, String>| {
        let mut fake = Fake(own);
        let again = Requantize { quantizer: &mut fake, extent: Extent::Sample, importance: None };
        compare(&candidate, reference, Some(again), &mut |_, _| {}).unwrap()
    };
    let failed = look(&near, Err("it is gone".to_owned()));
    assert_eq!(failed.relation, Relation::Quantization);
    assert!(failed.reasons.last().unwrap().contains("could not be quantised again"), "{failed:?}");
    assert!(failed.tensors.iter().all(|tensor| tensor.requantized_blocks.is_none()));
    // The candidate has no error at all, and the quantiser some: it is no coarser.
    let other = look(&near, Ok(block(1)));
    assert_eq!(other.relation, Relation::Quantization);
    assert!(other.tensors.iter().any(|tensor| tensor.error_ratio == Some(0.0)), "{other:?}");
    // What is contradicted is not quantised again.
    let derived = look(&reference, Err("it is gone".to_owned()));
    assert_ne!(derived.relation, Relation::Quantization);
    assert!(!derived.reasons.iter().any(|reason| reason.contains("again")), "{derived:?}");
}

/// Weights of NVFP4 are judged, unless a second scale in another tensor makes them others.
#[test]
fn a_scale_in_another_tensor_is_not_overlooked() {
    let folder = Folder::new();
    let blocks = COLUMNS * ROWS / 64;
    let block =
        |n: usize| [[0x38; 4].as_slice(), &std::array::from_fn::<u8, 32, _>(|i| (i * 7 + n) as u8)].concat();
    let codes: Vec<u8> = (0..blocks).flat_map(block).collect();
    let mut values = Vec::new();
    decode::values(GgmlType::NVFP4, &codes, &mut values, &mut Weights::default());
    let source: Vec<u8> = values.iter().flat_map(|x| (x * 1.001 + 0.01).to_le_bytes()).collect();
    let one = 1f32.to_le_bytes();
    let write = |file: &str, tensors: &[(&str, GgmlType, &[u64], &[u8])]| {
        let path = folder.0.path().join(file);
        let tensors: Vec<TensorData<'_>> =
            tensors.iter().map(|&(name, kind, shape, data)| TensorData { name, kind, shape, data }).collect();
        write_file(&path, &[("general.name", "m".into())], &tensors).unwrap();
        path
    };
    let (name, shape) = ("blk.0.ffn_up.weight", &[COLUMNS as u64, ROWS as u64][..]);
    let reference = write("reference.gguf", &[(name, GgmlType::F32, shape, &source)]);
    let own = (name, GgmlType::NVFP4, shape, codes.as_slice());
    assert_eq!(relate(&write("own.gguf", &[own]), &reference).relation, Relation::Quantization);
    let scaled = write("scaled.gguf", &[own, ("blk.0.ffn_up.scale", GgmlType::F32, &[1], &one)]);
    let scaled = relate(&scaled, &reference);
    assert_eq!(scaled.relation, Relation::Unknown);
    assert!(scaled.reasons.iter().any(|reason| reason.contains("NVFP4 cannot be judged")), "{scaled:?}");
}

/// A change that is the product of two thin matrices, in one of the matrices.
fn with_adapter(base: &Model, rank: usize, size: f32) -> Model {
    let thin = |seed: u64, count: usize| -> Vec<f32> {
        weights(seed, false).into_iter().cycle().skip(seed as usize * 37).take(count).collect()
    };
    let (b, a) = (thin(77, ROWS * rank), thin(78, rank * COLUMNS));
    changed(base, |t, i, x| match t {
        2 => {
            let (row, column) = (i / COLUMNS, i % COLUMNS);
            let change: f32 = (0..rank).map(|k| b[row * rank + k] * a[k * COLUMNS + column]).sum();
            x + size * change
        }
        _ => x,
    })
}

#[test]
fn a_merged_adapter_is_told_by_its_rank() {
    let folder = Folder::new();
    let base = model(9);
    let reference = folder.write("base.gguf", &base, GgmlType::F32);
    for (rank, kind, size) in [
        (4, GgmlType::F32, 0.5),
        (8, GgmlType::F32, 0.5),
        (4, GgmlType::F16, 5.0),
        (4, GgmlType::Q8_0, 0.5),
        (4, GgmlType::Q8_0, 20.0),
        (4, GgmlType::Q4_0, 5.0),
    ] {
        let lineage =
            relate(&folder.write("merged.gguf", &with_adapter(&base, rank, size), kind), &reference);
        assert_eq!(lineage.relation, Relation::Derived);
        let ranks: Vec<(&str, u64)> =
            lineage.tensors.iter().filter_map(|tensor| Some((tensor.name.as_str(), tensor.rank?))).collect();
        assert_eq!(ranks, [("blk.0.attn_v.weight", rank as u64)], "{kind:?} {:?}", lineage.reasons);
        assert!(lineage.reasons.iter().any(|reason| reason.contains("LoRA") && reason.contains("attn_v")));
    }
    // A fine-tune changes weights one by one.
    let tuned = changed(&base, |t, i, x| if t < 3 { x + 1e-3 * weights(t as u64 + 50, false)[i] } else { x });
    let lineage = relate(&folder.write("tuned.gguf", &tuned, GgmlType::F32), &reference);
    assert_eq!(lineage.relation, Relation::Derived);
    assert!(lineage.tensors.iter().all(|tensor| tensor.rank.is_none()), "{:?}", lineage.reasons);
    assert!(!lineage.reasons.iter().any(|reason| reason.contains("LoRA")));
}

/// Writes a model whose tensors stand under other names: `names[t]` for tensor `t`.
fn under_names(folder: &Folder, file: &str, model: &Model, names: [&str; 4], kind: GgmlType) -> PathBuf {
    let path = folder.0.path().join(file);
    let coded = |t: usize| {
        let kind = if t == 3 { GgmlType::F32 } else { kind };
        (kind, encoded(kind, &model[t], Arithmetic::Plain))
    };
    let data: Vec<(GgmlType, Vec<u8>)> = (0..4).map(coded).collect();
    let shape = |t| if t == 3 { &[COLUMNS as u64][..] } else { &[COLUMNS as u64, ROWS as u64] };
    let tensors: Vec<TensorData<'_>> = (0..4)
        .map(|t| TensorData { name: names[t], kind: data[t].0, shape: shape(t), data: &data[t].1 })
        .collect();
    write_file(&path, &[], &tensors).unwrap();
    path
}

#[test]
fn weights_under_other_names_are_found() {
    let folder = Folder::new();
    let base = model(11);
    let reference = folder.write("base.gguf", &base, GgmlType::F32);
    let [a, b, c, d] = NAMES;
    // Two matrices exchanged: another function.
    for kind in [GgmlType::F32, GgmlType::Q8_0, GgmlType::Q4_0] {
        let swapped = relate(&under_names(&folder, "s.gguf", &base, [a, c, b, d], kind), &reference);
        assert_eq!(swapped.relation, Relation::Derived, "{kind:?}");
        let from = |name: &str| {
            swapped.tensors.iter().find(|tensor| tensor.name == name).unwrap().moved_from.clone()
        };
        assert_eq!((from(b).as_deref(), from(c).as_deref(), from(a)), (Some(c), Some(b), None), "{kind:?}");
        assert!(swapped.reasons[0].contains("in other places"), "{:?}", swapped.reasons);
    }
    // New names for all: the same weights, or their rounding.
    let new = ["w.0", "w.1", "w.2", "w.3"];
    let renamed = relate(&under_names(&folder, "r.gguf", &base, new, GgmlType::F32), &reference);
    assert_eq!(renamed.relation, Relation::SameWeights, "{:?}", renamed.reasons);
    assert!(renamed.reasons[0].contains("have other names"), "{:?}", renamed.reasons);
    let rounded = relate(&under_names(&folder, "q.gguf", &base, new, GgmlType::Q8_0), &reference);
    assert_eq!(rounded.relation, Relation::Quantization, "{:?}", rounded.reasons);
    // New names, and one of the matrices changed.
    let mut other = base.clone();
    other[1] = weights(999, false);
    let tuned = relate(&under_names(&folder, "t.gguf", &other, new, GgmlType::F32), &reference);
    assert_eq!(tuned.relation, Relation::Derived, "{:?}", tuned.reasons);
    // One matrix in two places.
    let mut doubled = base.clone();
    doubled[1] = base[2].clone();
    let doubled = relate(&folder.write("d.gguf", &doubled, GgmlType::F32), &reference);
    assert_eq!(doubled.relation, Relation::Derived, "{:?}", doubled.reasons);
}

/// A folder as Hugging Face lays it out: a file of BF16 tensors with its header, and a configuration.
fn hugging_face(folder: &Folder, name: &str, tensors: &[(String, Vec<u64>, Vec<f32>)]) -> PathBuf {
    safetensors(folder, name, GgmlType::BF16, tensors)
}

fn safetensors(
    folder: &Folder,
    name: &str,
    kind: GgmlType,
    tensors: &[(String, Vec<u64>, Vec<f32>)],
) -> PathBuf {
    let path = folder.0.path().join(name);
    std::fs::create_dir_all(&path).unwrap();
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, shape, values) in tensors {
        let start = data.len();
        data.extend(encoded(kind, values, Arithmetic::Plain));
        let place = [start, data.len()];
        let entry = serde_json::json!({"dtype": kind.name(), "shape": shape, "data_offsets": place});
        header.insert(name.clone(), entry);
    }
    let header = serde_json::Value::Object(header).to_string();
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    std::fs::write(path.join("model.safetensors"), bytes).unwrap();
    std::fs::write(path.join("config.json"), r#"{"model_type": "x", "num_attention_heads": 4}"#).unwrap();
    path
}

fn gguf(folder: &Folder, architecture: &str, tensors: &[(&str, GgmlType, Vec<u64>, Vec<f32>)]) -> PathBuf {
    let path = folder.0.path().join("candidate.gguf");
    let coded = |(_, kind, _, values): &(&str, GgmlType, Vec<u64>, Vec<f32>)| {
        encoded(*kind, values, Arithmetic::Plain)
    };
    let data: Vec<Vec<u8>> = tensors.iter().map(coded).collect();
    let list: Vec<TensorData<'_>> = tensors
        .iter()
        .zip(&data)
        .map(|((name, kind, shape, _), data)| TensorData { name, kind: *kind, shape, data })
        .collect();
    write_file(&path, &[("general.architecture", architecture.into())], &list).unwrap();
    path
}

/// Numbers that BF16 has.
fn short(seed: u64) -> Vec<f32> {
    weights(seed, false).into_iter().map(|x| half::bf16_to_f32(half::f32_to_bf16(x))).collect()
}

#[test]
fn experts_of_a_folder_are_one_tensor_of_gguf() {
    let folder = Folder::new();
    let (columns, rows) = (COLUMNS as u64, ROWS as u64);
    let experts: Vec<Vec<f32>> = (30..33).map(short).collect();
    let up = |number: usize| {
        let name = format!("model.layers.0.mlp.experts.{number}.up_proj.weight");
        (name, vec![rows, columns], experts[number].clone())
    };
    let router = short(40);
    let gate = ("model.layers.0.mlp.gate.weight".to_owned(), vec![rows, columns], router.clone());
    let reference = hugging_face(&folder, "hf", &[up(0), gate.clone(), up(1), up(2)]);
    let look = |experts: Vec<f32>, reference: &Path| {
        let candidate = gguf(
            &folder,
            "qwen3moe",
            &[
                ("blk.0.ffn_gate_inp.weight", GgmlType::F32, vec![columns, rows], router.clone()),
                ("blk.0.ffn_up_exps.weight", GgmlType::Q8_0, vec![columns, rows, 3], experts),
            ],
        );
        relate(&candidate, reference)
    };
    let honest = look(experts.concat(), &reference);
    assert_eq!(honest.relation, Relation::Quantization, "{honest:?}");
    assert_eq!(honest.tensors[1].relation, TensorRelation::Requantized);
    let mut other = experts.concat();
    other[2 * COLUMNS * ROWS + 77] += 0.1;
    let derived = look(other, &reference);
    assert_eq!(derived.relation, Relation::Derived, "{derived:?}");
    assert_eq!(derived.worst_tensor.as_deref(), Some("blk.0.ffn_up_exps.weight"));
    // One is missing: nothing is made up.
    let reference = hugging_face(&folder, "part", &[up(0), gate, up(2)]);
    let unknown = look(experts.concat(), &reference);
    assert_eq!(unknown.relation, Relation::Unknown, "{unknown:?}");
    assert!(unknown.reasons[0].contains("how 2 tensors of the safetensors side stand"), "{unknown:?}");
}

#[test]
fn norms_that_are_stored_less_one_are_read_with_it() {
    let folder = Folder::new();
    let norm: Vec<f32> = short(50).into_iter().take(COLUMNS).collect();
    let matrix = short(51);
    let shape = vec![ROWS as u64, COLUMNS as u64];
    let tensors = [
        ("model.layers.0.input_layernorm.weight".to_owned(), vec![COLUMNS as u64], norm.clone()),
        ("model.layers.0.mlp.up_proj.weight".to_owned(), shape.clone(), matrix.clone()),
    ];
    let reference = hugging_face(&folder, "hf", &tensors);
    let swapped: Vec<u64> = shape.iter().rev().copied().collect();
    for (by, expected) in [(1.0, Relation::SameWeights), (0.0, Relation::Derived)] {
        let norm = norm.iter().map(|x| x + by).collect();
        let candidate = gguf(
            &folder,
            "gemma3",
            &[
                ("blk.0.attn_norm.weight", GgmlType::F32, vec![COLUMNS as u64], norm),
                ("blk.0.ffn_up.weight", GgmlType::BF16, swapped.clone(), matrix.clone()),
            ],
        );
        let found = relate(&candidate, &reference);
        assert_eq!(found.relation, expected, "{found:?}");
    }
}

/// Of a family that is not known, tensors may stand anywhere, in any order: nobody is accused.
#[test]
fn what_is_not_known_of_a_family_is_no_contradiction() {
    let folder = Folder::new();
    let shape = vec![ROWS as u64, COLUMNS as u64];
    let (matrix, other) = (short(60), short(61));
    let name = |part: &str| format!("model.layers.0.{part}.weight");
    let own = (name("mlp.up_proj"), shape.clone(), matrix.clone());
    let tower = ("visual.blocks.0.norm1.weight".to_owned(), shape.clone(), other.clone());
    let swapped: Vec<u64> = shape.iter().rev().copied().collect();
    let up = ("blk.0.ffn_up.weight", GgmlType::Q8_0, swapped.clone(), matrix);
    let foreign = ("blk.0.ssm_in.weight", GgmlType::Q8_0, swapped, other.iter().rev().copied().collect());
    for (architecture, reference, candidate, expected) in [
        ("qwen3", vec![own.clone()], vec![up.clone()], Relation::Quantization),
        ("qwen3", vec![own.clone()], vec![up.clone(), foreign.clone()], Relation::Derived),
        ("qwen3", vec![own.clone(), tower], vec![up.clone()], Relation::Unknown),
        // By their contents, tensors are found under any name; others may have been changed on the way.
        ("bloom", vec![own.clone()], vec![up.clone()], Relation::Quantization),
        ("bloom", vec![own], vec![up, foreign], Relation::Unknown),
    ] {
        let reference = hugging_face(&folder, "hf", &reference);
        let found = relate(&gguf(&folder, architecture, &candidate), &reference);
        assert_eq!(found.relation, expected, "{architecture} {found:?}");
    }
}

/// How alike tensors are is told by a part of them, but signs are looked at everywhere.
#[test]
fn a_sign_that_is_kept_counts_wherever_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (columns, rows) = (1024, 300);
    for (kind, from) in [
        (GgmlType::IQ3_S, GgmlType::F16),
        (GgmlType::IQ2_S, GgmlType::BF16),
        (GgmlType::IQ3_S, GgmlType::F32),
    ] {
        let size = usize::try_from(kind.block_bytes()).unwrap();
        let mut bytes: Vec<u8> = (0..columns * rows / 256 * size).map(|i| (i * i % 251) as u8).collect();
        bytes.chunks_mut(size).for_each(|block| block[..2].copy_from_slice(&[0, 0x20]));
        let mut values = decoded(kind, &bytes).unwrap();
        values.iter_mut().enumerate().for_each(|(i, x)| *x *= 0.7 + (i % 5) as f32 * 0.15);
        let write = |name: &str, kind: GgmlType, data: &[u8]| {
            let path = folder.path().join(name);
            let shape = &[columns as u64, rows as u64];
            let tensor = TensorData { name: "blk.0.ffn_up.weight", kind, shape, data };
            write_file(&path, &[("general.name", name.into())], &[tensor]).unwrap();
            path
        };
        let candidate = write("candidate.gguf", kind, &bytes);
        let mut against = |wrong: &[usize]| {
            wrong.iter().for_each(|&place| values[place] *= -1.0);
            let reference = write("reference.gguf", from, &encoded(from, &values, Arithmetic::Plain));
            wrong.iter().for_each(|&place| values[place] *= -1.0);
            relate(&candidate, &reference).tensors.remove(0)
        };
        let honest = against(&[]);
        assert_eq!((honest.relation, honest.weights_beyond), (TensorRelation::Unknown, 0), "{honest:?}");
        assert!(honest.correlation > Some(0.97), "{honest:?}");
        // In what is always compared, behind it, and in the last, which is no whole chunk.
        for wrong in [&[5][..], &[70_000, 70_001, 262_143], &[262_144, 307_199]] {
            let tensor = against(wrong);
            assert_eq!(tensor.weights_beyond, wrong.len() as u64, "{kind:?} {from:?} {wrong:?} {tensor:?}");
            assert_eq!(tensor.relation, TensorRelation::Differs);
        }
    }
}
