//! Over a hundred thousand damaged headers: no panic, no hang, and no memory beyond a
//! limit that the operating system enforces. Deterministic: the same cases every time.
//!
//! Alone in its own program, because the memory limit is the process's.
#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test that cannot go on must stop")]

use std::time::{Duration, Instant};

use assayd::model::consistency::{self, Model};
use assayd::model::facts;
use assayd::model::finding::Findings;
use assayd::model::gguf::write::{TensorData, write};
use assayd::model::gguf::{Array, GgmlType, ReadError, Value, read, read_strict};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const CASES: u32 = 120_000;
/// Memory that the whole run may take on top of what the program has at its start.
const ROOM_BYTES: u64 = 64 << 20;

/// Numbers that have broken loaders before.
const NASTY: [u64; 22] = [
    0,
    1,
    2,
    7,
    31,
    33,
    255,
    256,
    65_535,
    65_536,
    1 << 24,
    (1 << 24) + 1,
    1 << 30,
    1 << 31,
    u32::MAX as u64,
    1 << 32,
    1 << 40,
    1 << 59,
    1 << 62,
    1 << 63,
    u64::MAX - 31,
    u64::MAX,
];

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).unwrap()
    }
}

/// A small file with every kind of value and several tensor types.
fn seed() -> Vec<u8> {
    let metadata: Vec<(&str, Value)> = vec![
        ("general.architecture", "llama".into()),
        ("general.alignment", 32u32.into()),
        ("general.file_type", 7u32.into()),
        ("llama.block_count", 1u32.into()),
        ("llama.context_length", 16u32.into()),
        ("llama.embedding_length", 32u32.into()),
        ("llama.feed_forward_length", Array::of_i32(&[32]).into()),
        ("llama.attention.head_count", 2u32.into()),
        ("llama.attention.layer_norm_rms_epsilon", 1e-5f32.into()),
        ("tokenizer.ggml.model", "llama".into()),
        ("tokenizer.ggml.tokens", Array::of_strings(["a", "b", "c"]).into()),
        ("tokenizer.ggml.scores", Array::of_f32(&[0.0, 1.0, 2.0]).into()),
        ("tokenizer.ggml.bos_token_id", 1u32.into()),
        ("split.count", Value::U16(1)),
        ("a", Value::U8(1)),
        ("b", Value::I8(-1)),
        ("c", Value::I64(1)),
        ("d", Value::F64(1.0)),
        ("e", true.into()),
    ];
    let data = [1u8; 4096];
    let tensor = |name, kind: GgmlType, shape: &'static [u64]| {
        let bytes = kind.bytes(shape.iter().product()).unwrap();
        TensorData { name, kind, shape, data: &data[..usize::try_from(bytes).unwrap()] }
    };
    let tensors = [
        tensor("token_embd.weight", GgmlType::F32, &[32, 3]),
        tensor("blk.0.attn_q.weight", GgmlType::Q8_0, &[32, 32]),
        tensor("blk.0.attn_norm.weight", GgmlType::F16, &[32]),
        tensor("blk.0.ffn_up.weight", GgmlType::Q4_K, &[256, 2]),
    ];
    let mut bytes = Vec::new();
    write(&mut bytes, &metadata, &tensors).unwrap();
    bytes
}

fn mutate(bytes: &mut Vec<u8>, header: usize, random: &mut Random) {
    for _ in 0..1 + random.below(4) {
        let at = random.below(header.min(bytes.len()));
        let nasty = NASTY[random.below(NASTY.len())];
        let room = bytes.len() - at;
        match random.below(8) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 if room >= 8 => bytes[at..at + 8].copy_from_slice(&nasty.to_le_bytes()),
            3 if room >= 4 => bytes[at..at + 4].copy_from_slice(&(nasty as u32).to_le_bytes()),
            4 => bytes.truncate(at + 1),
            5 => {
                let length = random.below(24).min(room);
                let piece = bytes[at..at + length].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, piece);
            }
            6 => {
                let length = random.below(24).min(room);
                bytes.drain(at..at + length);
            }
            _ if room >= 2 => bytes.swap(at, at + 1),
            _ => {}
        }
        if bytes.is_empty() {
            return;
        }
    }
}

#[test]
fn a_hundred_thousand_damaged_headers() {
    let seed = seed();
    let header = usize::try_from(read_strict(&seed.as_slice()).unwrap().data_offset).unwrap();
    let used: u64 =
        std::fs::read_to_string("/proc/self/statm").unwrap().split(' ').next().unwrap().parse().unwrap();
    let before = getrlimit(Resource::As);
    let limit = used * 4096 + ROOM_BYTES;
    setrlimit(Resource::As, Rlimit { current: Some(limit), maximum: before.maximum }).unwrap();

    let start = Instant::now();
    let (mut readable, mut faulty, mut refused) = (0u32, 0u32, 0u32);
    let mut codes = std::collections::BTreeSet::new();
    for case in 0..CASES {
        let mut bytes = seed.clone();
        mutate(&mut bytes, header, &mut Random(u64::from(case)));
        let size = bytes.len() as u64;
        match read(&bytes.as_slice()) {
            Ok((found, faults)) => {
                let clean = !faults
                    .iter()
                    .any(|fault| fault.code.severity() == assayd::domain::inspection::Severity::Error);
                codes.extend(faults.iter().map(|fault| fault.code));
                if clean {
                    readable += 1;
                    // What is accepted is within the file, in order, aligned and unique.
                    let mut end = found.data_offset;
                    let mut names = std::collections::HashSet::new();
                    for tensor in &found.tensors {
                        assert_eq!(tensor.offset, end.next_multiple_of(found.alignment), "case {case}");
                        end = tensor.offset + tensor.bytes;
                        assert!(end <= size && names.insert(&tensor.name), "case {case}");
                    }
                } else {
                    faulty += 1;
                }
                let model = Model::single(&found);
                let mut findings = Findings::default();
                consistency::check(&model, &mut findings);
                facts::quantization(&model);
                facts::config_hash(&found.metadata);
                facts::tokenizer_hash(&found.metadata);
                facts::parameters(&model);
            }
            Err(ReadError::Fault(fault)) => {
                refused += 1;
                codes.insert(fault.code);
                assert!(fault.offset <= size, "case {case}: {fault}");
            }
            Err(ReadError::Io(error)) => panic!("case {case}: {error}"),
        }
    }
    setrlimit(Resource::As, before).unwrap();
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    // The cases reach every part of the reader.
    assert!(
        readable > CASES / 100 && faulty > CASES / 100 && refused > CASES / 4,
        "{readable} {faulty} {refused}"
    );
    assert!(codes.len() >= 20, "{codes:?}");
}
