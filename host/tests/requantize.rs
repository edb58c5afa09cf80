//! `assayd lineage` with llama.cpp's quantiser in a worker, through the real binary: candidates that
//! it made are recognised in every type, with and without an importance matrix, and nothing else is.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on must stop"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use assayd::domain::half;
use assayd::engine::{QuantizeRows, quantize_rows};
use assayd::model::gguf::GgmlType;
use assayd::model::gguf::write::{TensorData, write_file};

const COLUMNS: usize = 512;
const ROWS: usize = 32;
const EXPERTS: usize = 2;

const REFERENCE_TYPES: [GgmlType; 5] =
    [GgmlType::Q4_0, GgmlType::Q4_1, GgmlType::Q5_0, GgmlType::Q5_1, GgmlType::Q8_0];
const SEARCHED: [GgmlType; 7] = [
    GgmlType::Q2_K,
    GgmlType::Q3_K,
    GgmlType::Q4_K,
    GgmlType::Q5_K,
    GgmlType::Q6_K,
    GgmlType::IQ4_NL,
    GgmlType::IQ4_XS,
];
const SMALL: [GgmlType; 6] =
    [GgmlType::MXFP4, GgmlType::NVFP4, GgmlType::TQ1_0, GgmlType::TQ2_0, GgmlType::Q1_0, GgmlType::Q2_0];
/// What is known of an importance-weighted quantisation: without its importance matrix, and with it.
const WEIGHED: [(GgmlType, &str); 3] =
    [(GgmlType::IQ3_S, "quantization"), (GgmlType::IQ3_XXS, "unknown"), (GgmlType::IQ2_XXS, "unknown")];
/// The quantiser takes seconds to make its tables for these.
const WEIGHED_SLOWLY: [(GgmlType, &str); 4] = [
    (GgmlType::IQ2_S, "quantization"),
    (GgmlType::IQ2_XS, "unknown"),
    (GgmlType::IQ1_S, "unknown"),
    (GgmlType::IQ1_M, "unknown"),
];

/// Bell-shaped numbers from -0.2 to 0.2, another list for every seed.
fn bell(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / 16_777_216.0 - 0.5
    };
    (0..count).map(|_| (0..4).map(|_| next()).sum::<f32>() * 0.1).collect()
}

/// A matrix and a matrix of experts.
fn weights() -> [Vec<f32>; 2] {
    [bell(1, COLUMNS * ROWS), bell(2, COLUMNS * ROWS * EXPERTS)]
}

const NAMES: [&str; 2] = ["blk.0.attn_q.weight", "blk.0.ffn_up_exps.weight"];

fn shape(place: usize) -> Vec<u64> {
    let mut shape = vec![COLUMNS as u64, ROWS as u64];
    shape.extend((place == 1).then_some(EXPERTS as u64));
    shape
}

/// Importances that differ by orders of magnitude, expert after expert.
fn importance(place: usize) -> Vec<f32> {
    let count = COLUMNS * if place == 1 { EXPERTS } else { 1 };
    bell(50 + place as u64, count).iter().map(|x| (x * 30.0).exp()).collect()
}

fn raw(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn f32s<'a>(name: &'a str, shape: &'a [u64], data: &'a [u8]) -> TensorData<'a> {
    TensorData { name, kind: GgmlType::F32, shape, data }
}

/// What llama.cpp's quantiser gives.
fn honest(kind: GgmlType, values: &[f32], importance: Option<&[f32]>) -> Vec<u8> {
    let all = importance.map(|list| list.chunks(COLUMNS));
    let experts = all.map_or_else(|| vec![None], |list| list.map(Some).collect());
    let part = values.len() / experts.len();
    let blocks = values.chunks(part).zip(experts).map(|(values, importance)| {
        quantize_rows(&QuantizeRows {
            kind: kind.id(),
            columns: COLUMNS as u64,
            values: values.to_vec(),
            importance: importance.map(<[f32]>::to_vec),
            threads: 1,
        })
        .unwrap()
    });
    blocks.collect::<Vec<_>>().concat()
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write("reference.gguf", &weights().map(|values| (GgmlType::F32, raw(&values))));
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, data: &[(GgmlType, Vec<u8>); 2]) -> PathBuf {
        let shapes = [shape(0), shape(1)];
        let norm = raw(&[1.0; COLUMNS]);
        let mut tensors: Vec<TensorData<'_>> = data
            .iter()
            .enumerate()
            .map(|(i, (kind, data))| TensorData { name: NAMES[i], kind: *kind, shape: &shapes[i], data })
            .collect();
        let columns = [COLUMNS as u64];
        tensors.push(TensorData {
            name: "output_norm.weight",
            kind: GgmlType::F32,
            shape: &columns,
            data: &norm,
        });
        let path = self.path(name);
        write_file(&path, &[("general.architecture", "llama".into())], &tensors).unwrap();
        path
    }

    /// Both matrices as the quantiser gives them, with importances or without.
    fn honest(&self, kind: GgmlType, weighed: bool) -> PathBuf {
        self.write("candidate.gguf", &self.coded(kind, &weights(), weighed))
    }

    fn coded(&self, kind: GgmlType, values: &[Vec<f32>; 2], weighed: bool) -> [(GgmlType, Vec<u8>); 2] {
        [0, 1].map(|i| {
            let importance = weighed.then(|| importance(i));
            (kind, honest(kind, &values[i], importance.as_deref()))
        })
    }

    /// The importances in the form of GGUF: sums over as many inputs as are counted.
    fn imatrix(&self) -> PathBuf {
        let path = self.path("imatrix.gguf");
        // A power of two, so that the quotient is what went in.
        let sums = [0, 1].map(|i| raw(&importance(i).iter().map(|x| x * 8.0).collect::<Vec<_>>()));
        let counts = [raw(&[8.0]), raw(&[8.0; EXPERTS])];
        let names = NAMES.map(|name| [format!("{name}.counts"), format!("{name}.in_sum2")]);
        let wide = [[COLUMNS as u64, 1], [COLUMNS as u64, EXPERTS as u64]];
        let narrow = [[1, 1], [1, EXPERTS as u64]];
        let tensors: Vec<TensorData<'_>> = (0..2)
            .flat_map(|i| {
                [f32s(&names[i][0], &narrow[i], &counts[i]), f32s(&names[i][1], &wide[i], &sums[i])]
            })
            .collect();
        write_file(&path, &[("general.type", "imatrix".into())], &tensors).unwrap();
        path
    }

    fn lineage(&self, options: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_assayd"))
            .arg("lineage")
            .arg(self.path("candidate.gguf"))
            .arg("--reference")
            .arg(self.path("reference.gguf"))
            .args(options)
            .output()
            .unwrap()
    }

    fn relation(&self, options: &[&str]) -> (String, serde_json::Value) {
        let output = self.lineage(&[&["--json"], options].concat());
        let document: serde_json::Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        (document["relation"].as_str().unwrap().to_owned(), document)
    }
}

fn matrices(document: &serde_json::Value) -> Vec<&serde_json::Value> {
    let tensors = document["tensors"].as_array().unwrap().iter();
    tensors.filter(|tensor| tensor["name"] != "output_norm.weight").collect()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Types that need no importance matrix: each block is found to be what the quantiser gives.
#[test]
fn what_the_quantiser_made_is_recognised_byte_for_byte() {
    let folder = Folder::new();
    let grids = [GgmlType::IQ3_S, GgmlType::IQ3_XXS];
    for kind in [&REFERENCE_TYPES[..], &SEARCHED, &SMALL, &grids].concat() {
        let candidate = folder.honest(kind, false);
        let (relation, document) = folder.relation(&[]);
        assert_eq!(relation, "quantization", "{kind:?}: {}", document["reasons"]);
        for tensor in matrices(&document) {
            let found = (&tensor["relation"], &tensor["exact_blocks"]);
            assert_eq!(found, (&"requantized".into(), &1.0.into()), "{kind:?}");
            // Some need no quantiser but our own arithmetic.
            let ours = REFERENCE_TYPES.contains(&kind) || [GgmlType::TQ1_0, GgmlType::TQ2_0].contains(&kind);
            assert_eq!(tensor["requantized_blocks"].is_null(), ours, "{kind:?} {tensor}");
        }
        // A block of another place: its codes are good ones, but of other weights.
        let mut bytes = std::fs::read(&candidate).unwrap();
        let size = usize::try_from(kind.block_bytes()).unwrap();
        let at = bytes.len() - raw(&[0.0; COLUMNS]).len() - 40 * size;
        bytes.copy_within(at..at + size, at - 8 * size);
        std::fs::write(&candidate, bytes).unwrap();
        let (relation, document) = folder.relation(&[]);
        assert_ne!(relation, "quantization", "{kind:?}: {}", document["reasons"]);
    }
}

/// An importance-weighted candidate: what is said of it, without its importance matrix and with it.
fn weighed(folder: &Folder, imatrix: &Path, (kind, expected): (GgmlType, &str)) {
    folder.honest(kind, true);
    let (relation, document) = folder.relation(&[]);
    assert_eq!(relation, expected, "{kind:?}: {}", document["reasons"]);
    let exact = matrices(&document).iter().filter(|tensor| tensor["exact_blocks"] == 1.0).count();
    assert_eq!(exact, 0, "{kind:?}");
    let (relation, document) = folder.relation(&["--imatrix", text(imatrix)]);
    assert_eq!(relation, "quantization", "{kind:?}: {}", document["reasons"]);
    for tensor in matrices(&document) {
        assert_eq!(tensor["relation"], "requantized", "{kind:?} {tensor}");
    }
}

/// Types of two bits and more are judged by their weights even if the importance matrix is not
/// given, and so is IQ3_S.
#[test]
fn an_importance_matrix_is_no_contradiction_and_tells_when_it_is_given() {
    let folder = Folder::new();
    let imatrix = folder.imatrix();
    let judged = [&REFERENCE_TYPES[..4], &SEARCHED].concat();
    for case in judged.into_iter().map(|kind| (kind, "quantization")).chain(WEIGHED) {
        weighed(&folder, &imatrix, case);
    }
    folder.honest(GgmlType::IQ2_XXS, true);
    let output = folder.lineage(&[]);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stdout).contains("--imatrix FILE"), "{output:?}");
    // Of another model, and none at all.
    let narrow = folder.path("narrow.gguf");
    let (counts, sums) = (raw(&[8.0]), raw(&[1.0; 64]));
    let [counts_name, sums_name] = ["counts", "in_sum2"].map(|end| format!("{}.{end}", NAMES[0]));
    let tensors = [f32s(&counts_name, &[1], &counts), f32s(&sums_name, &[64], &sums)];
    write_file(&narrow, &[], &tensors).unwrap();
    let (relation, document) = folder.relation(&["--imatrix", text(&narrow)]);
    assert_eq!(relation, "unknown");
    assert!(document["reasons"].to_string().contains("64 numbers for 512 columns"), "{document}");
    let output = folder.lineage(&["--imatrix", text(&folder.path("candidate.gguf"))]);
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not an importance matrix"), "{output:?}");
}

#[test]
#[ignore = "the quantiser makes tables for half a minute"]
fn an_importance_matrix_tells_of_types_that_take_long() {
    let folder = Folder::new();
    let imatrix = folder.imatrix();
    for case in WEIGHED_SLOWLY {
        weighed(&folder, &imatrix, case);
    }
}

/// The weights with noise of so many times their size.
fn noisy(size: f32) -> [Vec<f32>; 2] {
    let mut values = weights();
    for (number, values) in (90..).zip(&mut values) {
        let noise = bell(number, values.len());
        values.iter_mut().zip(noise).for_each(|(x, noise)| *x += size * noise);
    }
    values
}

/// A fine-tune keeps neither signs nor bytes, whatever importance it was quantised with.
#[test]
fn a_fine_tune_is_not_taken_for_a_quantisation() {
    let folder = Folder::new();
    let imatrix = folder.imatrix();
    let check = |kind: GgmlType, size: f32, weighed: bool, expected: &str| {
        folder.write("candidate.gguf", &folder.coded(kind, &noisy(size), weighed));
        let (relation, document) = folder.relation(&["--imatrix", text(&imatrix)]);
        assert_eq!(relation, expected, "{kind:?} {size} {weighed}: {}", document["reasons"]);
        document
    };
    for kind in SEARCHED.into_iter().chain(REFERENCE_TYPES).chain([GgmlType::IQ3_S]) {
        for weighed in [true, false] {
            check(kind, 0.02, weighed, "derived");
        }
    }
    // Where weights say nothing one by one, nothing is said of a light one; a heavy one shows in
    // the errors.
    check(GgmlType::IQ2_XXS, 0.02, true, "unknown");
    check(GgmlType::IQ3_XXS, 0.02, false, "unknown");
    for kind in [GgmlType::IQ2_XXS, GgmlType::IQ3_XXS] {
        let document = check(kind, 0.7, true, "derived");
        assert!(matrices(&document).iter().all(|tensor| tensor["error_ratio"].as_f64() > Some(2.0)));
    }
}

/// Steps twice as wide as they need be: every weight is within half a step, and yet it is no honest
/// quantisation.
#[test]
fn needlessly_coarse_steps_are_told() {
    let folder = Folder::new();
    let wide = weights().map(|values| {
        let mut bytes = Vec::new();
        for block in values.as_chunks::<32>().0 {
            let most = block.iter().fold(0f32, |most, x| most.max(x.abs()));
            let step = half::f32_to_f16(most / 63.0);
            bytes.extend(step.to_le_bytes());
            bytes.extend(block.map(|x| ((x / half::f16_to_f32(step)).round() as i8).cast_unsigned()));
        }
        (GgmlType::Q8_0, bytes)
    });
    folder.write("candidate.gguf", &wide);
    let output = folder.lineage(&[]);
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{printed}");
    assert!(printed.contains("2 of 3 tensors are rounded more coarsely than their type needs"), "{printed}");
    let (_, document) = folder.relation(&[]);
    for tensor in matrices(&document) {
        assert_eq!((&tensor["relation"], &tensor["weights_beyond"]), (&"coarse".into(), &0.into()));
        assert!(tensor["error_ratio"].as_f64().is_some_and(|ratio| (3.0..5.0).contains(&ratio)), "{tensor}");
    }
}

const TALL: usize = 5000;

impl Folder {
    /// A model of one matrix, of which only some rows are looked at.
    fn tall(&self, name: &str, kind: GgmlType, data: &[u8]) {
        let shape = [COLUMNS as u64, TALL as u64];
        let tensor = TensorData { name: "token_embd.weight", kind, shape: &shape, data };
        write_file(&self.path(name), &[("general.architecture", "llama".into())], &[tensor]).unwrap();
    }
}

/// Of a large model some rows of every tensor are looked at, unless all are asked for.
#[test]
fn of_a_large_model_a_sample_is_enough_where_weights_speak() {
    let folder = Folder::new();
    let values = bell(7, COLUMNS * TALL);
    let write = |name: &str, kind: GgmlType, data: &[u8]| folder.tall(name, kind, data);
    write("reference.gguf", GgmlType::F32, &raw(&values));
    write("candidate.gguf", GgmlType::Q4_K, &honest(GgmlType::Q4_K, &values, None));
    let (relation, document) = folder.relation(&[]);
    assert_eq!(relation, "quantization", "{}", document["reasons"]);
    let tensor = &document["tensors"][0];
    assert_eq!((&tensor["relation"], &tensor["exact_blocks"]), (&"within-rounding".into(), &1.0.into()));
    let (looked_at, all) = (tensor["requantized_blocks"].as_u64().unwrap(), (COLUMNS * TALL / 256) as u64);
    assert!(looked_at >= 4 && looked_at < all / 10, "{looked_at} of {all}");
    assert!(document["reasons"].to_string().contains("some rows of each"), "{document}");

    write("candidate.gguf", GgmlType::IQ3_XXS, &honest(GgmlType::IQ3_XXS, &values, None));
    let output = folder.lineage(&[]);
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{printed}");
    assert!(printed.contains("hint: `--requantize all`"), "{printed}");
    let (relation, document) = folder.relation(&["--requantize", "all"]);
    assert_eq!(relation, "quantization", "{}", document["reasons"]);
    let tensor = &document["tensors"][0];
    assert_eq!(
        (&tensor["relation"], tensor["requantized_blocks"].as_u64()),
        (&"requantized".into(), Some(all))
    );
}

/// Where one weight of a block counts more than all others the scale is made for it alone, far from that
/// which the codes were rounded with. That is seldom: where it is not, somebody changed scales.
#[test]
fn importances_of_many_orders_of_magnitude_are_no_contradiction() {
    let folder = Folder::new();
    let values = bell(7, COLUMNS * TALL);
    folder.tall("reference.gguf", GgmlType::F32, &raw(&values));
    let importances: Vec<f32> = bell(50, COLUMNS).iter().map(|x| (x * 52.0).exp()).collect();
    for kind in &REFERENCE_TYPES[..4] {
        let mut bytes = honest(*kind, &values, Some(&importances));
        folder.tall("candidate.gguf", *kind, &bytes);
        let (relation, document) = folder.relation(&[]);
        assert_eq!(relation, "quantization", "{kind:?} {document}");
        let size = usize::try_from(kind.block_bytes()).unwrap();
        for block in bytes.chunks_mut(size).step_by(10) {
            let scale = half::f16_to_f32(u16::from_le_bytes([block[0], block[1]]));
            block[..2].copy_from_slice(&half::f32_to_f16(scale * 1.3).to_le_bytes());
        }
        folder.tall("candidate.gguf", *kind, &bytes);
        let (relation, document) = folder.relation(&[]);
        assert_eq!(relation, "derived", "{kind:?} {document}");
        let tensor = &document["tensors"][0];
        assert!(tensor["weights_beyond"].as_u64() > Some(10_000), "{kind:?} {tensor}");
        assert!(tensor["excess_error"].as_f64() > Some(0.0), "{kind:?} {tensor}");
    }
    for kind in SEARCHED.into_iter().chain([GgmlType::IQ2_S, GgmlType::IQ3_S]) {
        folder.tall("candidate.gguf", kind, &honest(kind, &values, Some(&importances)));
        let (relation, document) = folder.relation(&[]);
        assert_eq!(relation, "quantization", "{kind:?} {document}");
        let tensor = &document["tensors"][0];
        let [error, allowed] = ["max_abs_error", "allowed_error"].map(|key| tensor[key].as_f64());
        assert!(error > Some(0.0) && error <= allowed, "{kind:?} {tensor}");
    }
}

/// The quantiser takes long to make its tables for some types: what is as near as points can be needs no
/// comparison with it, with an importance matrix or without. It is asked before anybody is accused.
#[test]
fn quantisers_with_tables_are_asked_only_about_what_is_far_off() {
    let folder = Folder::new();
    let values = bell(7, COLUMNS * TALL);
    folder.tall("reference.gguf", GgmlType::F32, &raw(&values));
    let mut importances = importance(0);
    importances.truncate(COLUMNS);
    // Weights of other sizes and the same signs.
    let sizes = bell(8, values.len());
    let other: Vec<f32> =
        sizes.iter().zip(&values).map(|(size, x)| (1.0 + 10.0 * size).max(0.05) * x).collect();
    for (kind, most, expected) in [
        (GgmlType::IQ2_S, 2.0, ("quantization", "within-rounding")),
        (GgmlType::IQ3_S, 2.5, ("quantization", "within-rounding")),
        (GgmlType::IQ3_XXS, 3.5, ("unknown", "unknown")),
    ] {
        for weighed in [None, Some(&importances[..])] {
            folder.tall("candidate.gguf", kind, &honest(kind, &values, weighed));
            let (relation, document) = folder.relation(&[]);
            let tensor = &document["tensors"][0];
            assert_eq!((relation.as_str(), tensor["relation"].as_str().unwrap()), expected, "{document}");
            assert!(tensor["requantized_blocks"].is_null() && tensor["exact_blocks"].is_null(), "{tensor}");
            let ratio = tensor["error_ratio"].as_f64();
            assert!(ratio.is_some_and(|ratio| (1.0..most).contains(&ratio)), "{kind:?} {tensor}");
        }
        folder.tall("candidate.gguf", kind, &honest(kind, &other, None));
        let (relation, document) = folder.relation(&[]);
        assert_eq!(relation, "derived", "{kind:?} {}", document["reasons"]);
        let tensor = &document["tensors"][0];
        assert_eq!((&tensor["relation"], &tensor["exact_blocks"]), (&"differs".into(), &0.0.into()));
        assert!(tensor["requantized_blocks"].as_u64() >= Some(256), "{tensor}");
        assert!(tensor["error_ratio"].as_f64() > Some(2.0), "{tensor}");
    }
}
