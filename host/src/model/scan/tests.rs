//! The pass over a small file with known damage at known places.

use super::*;
use crate::digest::sha256;
use crate::domain::inspection::Severity;
use crate::model::gguf::read_strict;
use crate::model::gguf::write::{TensorData, write};

/// A matrix of 256 rows of 1024 floats, a vector, and Q8_0 blocks.
struct Sample {
    bytes: Vec<u8>,
    header: Header,
}

const ROW: usize = 4096;

fn sample() -> Sample {
    let matrix: Vec<u8> = (0..256 * 1024u32).flat_map(|i| ((i % 977) as f32 - 488.5).to_le_bytes()).collect();
    let vector: Vec<u8> = (0..1024).flat_map(|i| (i as f32 + 0.5).to_le_bytes()).collect();
    let blocks: Vec<u8> = (0..4096).flat_map(|_| [0x00, 0x3c].into_iter().chain(1..=32)).collect();
    let mut bytes = Vec::new();
    let tensors = [
        TensorData { name: "matrix", kind: GgmlType::F32, shape: &[1024, 256], data: &matrix },
        TensorData { name: "vector", kind: GgmlType::F32, shape: &[1024], data: &vector },
        TensorData { name: "blocks", kind: GgmlType::Q8_0, shape: &[1024, 128], data: &blocks },
    ];
    write(&mut bytes, &[], &tensors).unwrap();
    let header = read_strict(&bytes.as_slice()).unwrap();
    Sample { bytes, header }
}

impl Sample {
    fn start(&self, name: &str) -> usize {
        usize::try_from(self.header.tensor(name).unwrap().offset).unwrap()
    }

    fn put(mut self, name: &str, offset: usize, bytes: &[u8]) -> Self {
        let at = self.start(name) + offset;
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn zero(mut self, name: &str, offset: usize, length: usize) -> Self {
        let at = self.start(name) + offset;
        self.bytes[at..at + length].fill(0);
        self
    }

    /// (code, tensor, offset within that tensor) of every finding.
    fn found(&self) -> Vec<(String, String, i64)> {
        let mut findings = Findings::default();
        let mut done = 0;
        let size = self.bytes.len() as u64;
        let weights = weights_of(&self.header, size);
        let scanned =
            scan(&self.bytes.as_slice(), &weights, self.header.data_offset, &mut findings, &mut |n| {
                done += n
            })
            .unwrap();
        assert_eq!(scanned.sha256, sha256(&self.bytes));
        let mut at = 0;
        for piece in &scanned.pieces {
            assert_eq!(piece.offset, at);
            let start = usize::try_from(at).unwrap();
            let end = start + usize::try_from(piece.bytes).unwrap();
            assert_eq!(piece.sha256, sha256(&self.bytes[start..end]), "piece at {at}");
            at += piece.bytes;
        }
        assert_eq!(at, size, "pieces cover the file");
        for tensor in &self.header.tensors {
            assert!(scanned.pieces.iter().any(|p| (p.offset, p.bytes) == (tensor.offset, tensor.bytes)));
        }
        assert_eq!(done, size);
        let list = findings.finish().into_iter();
        list.map(|finding| {
            let tensor = finding.tensor.unwrap_or_default();
            let start = self.header.tensor(&tensor).map_or(0, |tensor| tensor.offset);
            let offset = i64::try_from(finding.offset.unwrap()).unwrap() - i64::try_from(start).unwrap();
            assert_ne!(finding.severity, Severity::Info);
            (finding.code, tensor, offset)
        })
        .collect()
    }
}

#[test]
fn damage_is_found_at_its_place() {
    type Place<'a> = (&'a str, &'a str, i64);
    let cases: Vec<(&str, Sample, Vec<Place<'_>>)> = vec![
        ("nothing", sample(), vec![]),
        ("NaN", sample().put("matrix", 8, &f32::NAN.to_le_bytes()), vec![("nan-weights", "matrix", 8)]),
        (
            "Inf",
            sample().put("vector", 4092, &f32::INFINITY.to_le_bytes()),
            vec![("inf-weights", "vector", 4092)],
        ),
        (
            "an exponent bit",
            sample().put("matrix", 400, &(-5.3e37f32).to_le_bytes()),
            vec![("absurd-weights", "matrix", 400)],
        ),
        ("NaN scale", sample().put("blocks", 34 * 7, &[1, 0x7e]), vec![("nan-weights", "blocks", 238)]),
        (
            "infinite scale",
            sample().put("blocks", 34 * 4095, &[0, 0xfc]),
            vec![("inf-weights", "blocks", 34 * 4095)],
        ),
        ("codes are no scales", sample().put("blocks", 34 * 7 + 2, &[0, 0x7e]), vec![]),
        ("zero vector", sample().zero("vector", 0, 4096), vec![("zero-tensor", "vector", 0)]),
        ("zero matrix", sample().zero("matrix", 0, 256 * ROW), vec![("zero-tensor", "matrix", 0)]),
        (
            "zero rows",
            sample().zero("matrix", 40 * ROW, 16 * ROW),
            vec![("zero-rows", "matrix", 40 * ROW as i64)],
        ),
        (
            "a hole",
            sample().zero("matrix", 40 * ROW + 100, 17 * ROW),
            vec![("zero-run", "matrix", 40 * ROW as i64 + 100)],
        ),
        ("a short hole", sample().zero("matrix", 40 * ROW + 100, 15 * ROW), vec![]),
        (
            "a hole over a border",
            sample().zero("matrix", 200 * ROW + 100, 56 * ROW - 100).zero("vector", 0, 2000),
            vec![("zero-run", "matrix", 200 * ROW as i64 + 100)],
        ),
        (
            "tail",
            sample().zero("blocks", 34 * 1000 + 5, 34 * 3096 - 5),
            vec![("zeroed-tail", "blocks", 34 * 1000 + 5)],
        ),
        (
            "last two tensors",
            sample().zero("vector", 0, 4096).zero("blocks", 0, 34 * 4096),
            vec![("zeroed-tail", "vector", 0)],
        ),
    ];
    for (what, sample, expected) in cases {
        let found = sample.found();
        let found: Vec<Place<'_>> = found.iter().map(|(a, b, c)| (a.as_str(), b.as_str(), *c)).collect();
        assert_eq!(found, expected, "{what}");
    }
}

#[test]
fn padding_must_be_zero() {
    let data = [1u8; 20];
    let tensor = |name| TensorData { name, kind: GgmlType::F32, shape: &[5], data: &data };
    let mut bytes = Vec::new();
    write(&mut bytes, &[], &[tensor("a"), tensor("b")]).unwrap();
    let header = read_strict(&bytes.as_slice()).unwrap();
    let at = header.data_offset + 25;
    bytes[usize::try_from(at).unwrap()] = 1;
    let found = Sample { bytes, header }.found();
    assert_eq!(found, [("nonzero-padding".to_owned(), String::new(), i64::try_from(at).unwrap())]);
}

#[test]
fn scales_of_every_block_type_are_seen() {
    use GgmlType::*;
    // Where a NaN must be noticed in a block.
    let cases: [(GgmlType, usize, &[u8]); 27] = [
        (F64, 0, &[0, 0, 0, 0, 0, 0, 0xf8, 0x7f]),
        (BF16, 0, &[0xc0, 0x7f]),
        (F16, 0, &[0, 0x7e]),
        (Q4_0, 0, &[0, 0x7e]),
        (Q4_1, 2, &[0, 0x7e]),
        (Q5_0, 0, &[0, 0x7e]),
        (Q5_1, 2, &[0, 0x7e]),
        (Q8_1, 2, &[0, 0x7e]),
        (Q2_K, 82, &[0, 0x7e]),
        (Q3_K, 108, &[0, 0x7e]),
        (Q4_K, 2, &[0, 0x7e]),
        (Q5_K, 0, &[0, 0x7e]),
        (Q6_K, 208, &[0, 0x7e]),
        (Q8_K, 0, &[0, 0, 0xc0, 0x7f]),
        (IQ2_XXS, 0, &[0, 0x7e]),
        (IQ2_XS, 0, &[0, 0x7e]),
        (IQ3_XXS, 0, &[0, 0x7e]),
        (IQ1_S, 0, &[0, 0x7e]),
        (IQ4_NL, 0, &[0, 0x7e]),
        (IQ3_S, 0, &[0, 0x7e]),
        (IQ4_XS, 0, &[0, 0x7e]),
        (IQ1_M, 48, &[0, 0x00, 0, 0x00, 0, 0xe0, 0, 0x70]),
        (TQ1_0, 52, &[0, 0x7e]),
        (TQ2_0, 64, &[0, 0x7e]),
        (MXFP4, 0, &[0xff]),
        (NVFP4, 3, &[0x7f]),
        (Q1_0, 0, &[0, 0x7e]),
    ];
    for (kind, place, pattern) in cases {
        let size = usize::try_from(kind.block_bytes()).unwrap();
        let mut blocks = vec![1u8; size * 3];
        let mut counts = kernels::Counts::default();
        kernels::look(kind, &blocks, 1000, &mut counts);
        assert_eq!(counts, kernels::Counts::default(), "{kind:?} clean");
        blocks[size + place..size + place + pattern.len()].copy_from_slice(pattern);
        kernels::look(kind, &blocks, 1000, &mut counts);
        assert_eq!((counts.nan.count, counts.inf.count), (1, 0), "{kind:?}");
        assert_eq!(counts.nan.first, Some(1000 + (size + place) as u64), "{kind:?}");
    }
}

#[test]
fn a_source_that_ends_early_is_an_error() {
    struct Short;
    impl ReadAt for Short {
        fn size(&self) -> u64 {
            5 << 20
        }
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
            buffer.fill(1);
            if offset > 2 << 20 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
        }
    }
    let error = scan(&Short, &[], 0, &mut Findings::default(), &mut |_| {}).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}
