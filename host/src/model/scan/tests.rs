//! The pass over a small file with known damage at known places.

use super::*;
use crate::digest::merkle::{leaf_hash, verify_inclusion};
use crate::digest::{merkle_root, sha256};
use crate::domain::inspection::Severity;
use crate::model::gguf::write::{TensorData, write};
use crate::model::gguf::{GgmlType, read_strict};

/// A matrix of 256 rows of 1024 floats, a vector, and Q8_0 blocks.
struct Sample {
    bytes: Vec<u8>,
    header: Header,
}

const ROW: usize = 4096;
const ROWS: usize = 256;

fn sample() -> Sample {
    let matrix: Vec<u8> =
        (0..ROWS as u32 * 1024).flat_map(|i| ((i % 977) as f32 - 488.5).to_le_bytes()).collect();
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

/// The file, cut as the documentation says.
fn chunks<'a>(bytes: &'a [u8], weights: &[Weights], data_offset: u64) -> Vec<&'a [u8]> {
    let mut borders = vec![0, weights[0].offset.min(data_offset) as usize];
    borders.extend(weights.iter().flat_map(|w| [w.offset as usize, (w.offset + w.bytes) as usize]));
    borders.push(bytes.len());
    borders.windows(2).flat_map(|pair| bytes[pair[0]..pair[1]].chunks(CHUNK_BYTES as usize)).collect()
}

impl Sample {
    fn tensors<'a>(&self, weights: &'a [Weights]) -> Tensors<'a> {
        Tensors { weights, data_offset: self.header.data_offset, ..Tensors::default() }
    }

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

    /// Compares the trees with what the definition gives over the bytes in memory.
    fn trees(&self, weights: &[Weights], scanned: &Scanned) {
        assert_eq!(scanned.sha256, sha256(&self.bytes));
        let all = chunks(&self.bytes, weights, self.header.data_offset);
        assert_eq!((scanned.root, scanned.leaves), (merkle_root(all.iter()), all.len() as u64));
        assert_eq!(all.concat(), self.bytes, "chunks cover the file");
        for (tensor, hashed) in weights.iter().zip(&scanned.tensors) {
            let bytes = &self.bytes[tensor.offset as usize..(tensor.offset + tensor.bytes) as usize];
            let root = merkle_root(bytes.chunks(CHUNK_BYTES as usize));
            assert_eq!(hashed.as_ref().unwrap().root, root, "{}", tensor.name);
        }
    }

    /// (code, tensor, offset within that tensor) of every finding.
    fn found(&self) -> Vec<(String, String, i64)> {
        let mut findings = Findings::default();
        let mut done = 0;
        let size = self.bytes.len() as u64;
        let weights = weights_of(&self.header, size);
        let scanned = scan(
            &self.bytes.as_slice(),
            self.tensors(&weights),
            Wanted::default(),
            None,
            &mut findings,
            &mut |n| done += n,
        )
        .unwrap();
        self.trees(&weights, &scanned);
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
            "a hole of whole rows",
            sample().zero("matrix", 40 * ROW, 16 * ROW),
            vec![("zero-run", "matrix", 40 * ROW as i64)],
        ),
        (
            "a hole",
            sample().zero("matrix", 40 * ROW + 100, 17 * ROW),
            vec![("zero-run", "matrix", 40 * ROW as i64 + 100)],
        ),
        ("a short hole", sample().zero("matrix", 40 * ROW + 100, 15 * ROW), vec![]),
        ("a shorter one", sample().zero("blocks", 34 * 70, 8600), vec![]),
        (
            "a part of a small matrix",
            sample().zero("blocks", 34 * 70, 8800),
            vec![("zero-run", "blocks", 34 * 70)],
        ),
        ("zeros of a vector", sample().zero("vector", 0, 4000), vec![]),
        (
            "a short tail",
            sample().zero("blocks", 34 * 3800, 34 * 296),
            vec![("zeroed-tail", "blocks", 34 * 3800)],
        ),
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
    let found = Sample { bytes: bytes.clone(), header: header.clone() }.found();
    assert_eq!(found, [("nonzero-padding".to_owned(), String::new(), i64::try_from(at).unwrap())]);
    // Before the first tensor and behind the last it is seen without a full pass.
    bytes[usize::try_from(at).unwrap()] = 0;
    assert!(header.table_end < header.data_offset, "{header:?}");
    let file = tempfile::NamedTempFile::with_suffix(".gguf").unwrap();
    for at in [header.table_end, header.data_offset - 1, header.data_end, header.data_end + 11] {
        let mut bytes = bytes.clone();
        bytes[usize::try_from(at).unwrap()] = 1;
        std::fs::write(file.path(), &bytes).unwrap();
        let inspection =
            crate::model::inspect(file.path(), &crate::model::InspectOptions::default(), &mut |_, _| {})
                .unwrap();
        let padding = inspection.findings.iter().find(|finding| finding.code == "nonzero-padding").unwrap();
        assert_eq!(padding.offset, Some(at));
    }
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
        kernels::look(Kind::Ggml(kind), &blocks, 1000, &mut counts);
        assert_eq!(counts, kernels::Counts::default(), "{kind:?} clean");
        blocks[size + place..size + place + pattern.len()].copy_from_slice(pattern);
        kernels::look(Kind::Ggml(kind), &blocks, 1000, &mut counts);
        assert_eq!((counts.nan.count, counts.inf.count), (1, 0), "{kind:?}");
        assert_eq!(counts.nan.first, Some(1000 + (size + place) as u64), "{kind:?}");
    }
}

/// A power of two that no block of weights needs, as for the scales of other types.
#[test]
fn large_scales_of_one_byte_are_absurd() {
    for (scale, absurd) in [(127, 0), (139, 0), (140, 1), (254, 1)] {
        let mut block = vec![1u8; usize::try_from(GgmlType::MXFP4.block_bytes()).unwrap()];
        block[0] = scale;
        let mut counts = kernels::Counts::default();
        kernels::look(Kind::Ggml(GgmlType::MXFP4), &block, 0, &mut counts);
        assert_eq!((counts.absurd.count, counts.nan.count), (absurd, 0), "{scale}");
    }
}

#[test]
fn of_floats_of_one_byte_every_pattern_is_known() {
    let cases: [(Float8, &[u8], &[u8]); 4] = [
        (Float8::E4M3, &[0x7f, 0xff], &[]),
        (Float8::E5M2, &[0x7d, 0x7e, 0x7f, 0xfd, 0xfe, 0xff], &[0x7c, 0xfc]),
        (Float8::E8M0, &[0xff], &[]),
        (Float8::Fnuz, &[0x80], &[]),
    ];
    for (kind, nan, infinite) in cases {
        // Beyond the first group that is looked at in one go.
        let bytes: Vec<u8> = std::iter::repeat_n(1, 5000).chain(0..=u8::MAX).collect();
        let mut counts = kernels::Counts::default();
        kernels::look(Kind::Float8(kind), &bytes, 7, &mut counts);
        let expected = |patterns: &[u8]| kernels::Count {
            count: patterns.len() as u64,
            first: patterns.first().map(|&pattern| 5007 + u64::from(pattern)),
        };
        assert_eq!((counts.nan, counts.inf), (expected(nan), expected(infinite)), "{kind:?}");
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
    let error =
        scan(&Short, Tensors::default(), Wanted::default(), None, &mut Findings::default(), &mut |_| {})
            .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

/// A matrix of quantised blocks of 34 bytes, longer than a chunk, and what is wrong with it.
fn blocks(bad: &[usize]) -> Sample {
    let mut data: Vec<u8> = (0..40_960).flat_map(|_| [0x00, 0x3c].into_iter().chain(1..=32)).collect();
    for &block in bad {
        data[34 * block + 1] = 0x7e;
    }
    let mut bytes = Vec::new();
    let tensors = [TensorData { name: "blocks", kind: GgmlType::Q8_0, shape: &[1024, 1280], data: &data }];
    write(&mut bytes, &[], &tensors).unwrap();
    let header = read_strict(&bytes.as_slice()).unwrap();
    Sample { bytes, header }
}

#[test]
fn a_block_that_a_chunk_cuts_is_seen() {
    // The first chunk ends within this block.
    let cut = CHUNK_BYTES as usize / 34;
    assert_ne!(CHUNK_BYTES % 34, 0);
    for bad in [vec![], vec![cut], vec![cut - 1, cut, cut + 1]] {
        let expected: Vec<_> = bad
            .first()
            .into_iter()
            .map(|&b| ("nan-weights".to_owned(), "blocks".to_owned(), 34 * b as i64))
            .collect();
        assert_eq!(blocks(&bad).found(), expected, "{bad:?}");
    }
}

#[derive(Default)]
struct Memory(Vec<String>);

impl Shelf for Memory {
    fn take_up(&mut self) -> Option<String> {
        self.0.last().cloned()
    }
    fn put_down(&mut self, state: &str) {
        self.0.push(state.to_owned());
    }
}

/// A source that cannot be read before some offset.
struct From<'a>(&'a [u8], u64);

impl ReadAt for From<'_> {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if offset < self.1 { Err(io::ErrorKind::Other.into()) } else { self.0.read_at(buffer, offset) }
    }
}

#[test]
fn a_pass_that_was_broken_off_goes_on_and_finds_the_same() {
    let sample = blocks(&[7, 30_000, 40_000]);
    let weights = weights_of(&sample.header, sample.bytes.len() as u64);
    let data_offset = sample.header.data_offset;
    let wanted = Wanted { prove: Some(data_offset + 5), ..Wanted::default() };
    let go = |source: &(dyn ReadAt + Sync), shelf: Option<&mut dyn Shelf>| {
        let (mut findings, mut done) = (Findings::default(), 0);
        let scanned = scan_in(
            // Every chunk is a segment.
            1,
            source,
            sample.tensors(&weights),
            wanted,
            shelf,
            &mut findings,
            &mut |n| done += n,
        );
        scanned.map(|scanned| (scanned, findings.finish(), done))
    };
    let plain = go(&sample.bytes.as_slice(), None).unwrap();
    let mut shelf = Memory::default();
    assert_eq!(go(&sample.bytes.as_slice(), Some(&mut shelf)).unwrap(), plain, "keeping changes nothing");
    assert!(shelf.0.len() >= 2, "{}", shelf.0.len());
    for kept in shelf.0.drain(..).collect::<Vec<_>>() {
        let at = serde_json::from_str::<State>(&kept).unwrap().done;
        assert!(at > 0);
        let later = From(&sample.bytes, at);
        assert!(go(&later, None).is_err(), "all is read again without the state");
        assert_eq!(go(&later, Some(&mut Memory(vec![kept]))).unwrap(), plain, "from {at}");
    }
    for nonsense in ["", "{}", "[]", "{\"next\":{\"stretch\":99,\"done\":0}}"] {
        let mut shelf = Memory(vec![nonsense.to_owned()]);
        assert_eq!(go(&sample.bytes.as_slice(), Some(&mut shelf)).unwrap(), plain, "{nonsense}");
    }
}

#[test]
fn every_chunk_can_be_proven() {
    let sample = sample();
    let weights = weights_of(&sample.header, sample.bytes.len() as u64);
    let all = chunks(&sample.bytes, &weights, sample.header.data_offset);
    let mut at = 0;
    for chunk in &all {
        for byte in [at, at + chunk.len() as u64 - 1] {
            let wanted = Wanted { prove: Some(byte), ..Wanted::default() };
            let (source, tensors) = (sample.bytes.as_slice(), sample.tensors(&weights));
            let scanned =
                scan(&source, tensors, wanted, None, &mut Findings::default(), &mut |_| {}).unwrap();
            let proof = scanned.proof.unwrap();
            assert_eq!((proof.offset, proof.bytes), (at, chunk.len() as u64));
            assert_eq!(proof.leaf_hash, leaf_hash(chunk));
            assert!(verify_inclusion(proof.leaf_hash, proof.leaf, proof.leaves, &proof.path, scanned.root));
        }
        at += chunk.len() as u64;
    }
    let beyond = Wanted { prove: Some(at), ..Wanted::default() };
    let (source, tensors) = (sample.bytes.as_slice(), sample.tensors(&weights));
    let scanned = scan(&source, tensors, beyond, None, &mut Findings::default(), &mut |_| {});
    assert_eq!(scanned.unwrap().proof, None);
}

#[test]
fn digests_of_other_kinds() {
    let sample = sample();
    let weights = weights_of(&sample.header, sample.bytes.len() as u64);
    let wanted = Wanted { others: &HashKind::ALL, ..Wanted::default() };
    let (source, tensors) = (sample.bytes.as_slice(), sample.tensors(&weights));
    let scanned = scan(&source, tensors, wanted, None, &mut Findings::default(), &mut |_| {}).unwrap();
    let of = |kind: HashKind, bytes: &[u8]| {
        let mut stream = crate::digest::AnyStream::new(kind);
        stream.update(bytes);
        stream.finish()
    };
    let mut joined = Vec::new();
    for (tensor, hashed) in weights.iter().zip(&scanned.tensors) {
        let bytes = &sample.bytes[tensor.offset as usize..(tensor.offset + tensor.bytes) as usize];
        joined.extend_from_slice(bytes);
        let others = &hashed.as_ref().unwrap().others;
        assert_eq!(others.len(), 4, "a UUID is of whole models: {others:?}");
        for kind in [HashKind::Xxh64, HashKind::Xxh3, HashKind::Sha1, HashKind::Sha256] {
            assert_eq!(others[kind.name()], of(kind, bytes), "{} {}", kind.name(), tensor.name);
        }
    }
    for kind in HashKind::ALL {
        assert_eq!(scanned.weights[kind.name()], of(kind, &joined));
    }
}

/// The buffers go round for ever, whoever is done with them last.
#[test]
fn no_buffer_is_lost() {
    let data = [1u8; 4];
    let names: Vec<String> = (0..3000).map(|number| format!("t{number}")).collect();
    let tensors: Vec<TensorData<'_>> =
        names.iter().map(|name| TensorData { name, kind: GgmlType::F32, shape: &[1], data: &data }).collect();
    let mut bytes = Vec::new();
    write(&mut bytes, &[], &tensors).unwrap();
    let header = read_strict(&bytes.as_slice()).unwrap();
    assert_eq!(Sample { bytes, header }.found(), []);
}
