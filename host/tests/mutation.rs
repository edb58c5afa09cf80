//! Over two hundred thousand damaged inputs of every reader: no panic, no hang, and no memory
//! beyond a limit that the operating system enforces. Deterministic: the same cases every time.
//!
//! Alone in its own program, because the memory limit is the process's.
#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on must stop"
)]

mod random;

use std::path::Path;
use std::time::{Duration, Instant};

use assayd::model::consistency::{self, Model};
use assayd::model::facts;
use assayd::model::finding::Findings;
use assayd::model::gguf::write::{TensorData, write};
use assayd::model::gguf::{Array, GgmlType, ReadError, Value, read, read_strict};
use assayd::model::imatrix::Imatrix;
use assayd::model::manifest::List;
use assayd::model::sniff::Content;
use assayd::model::{canonical, document, folder, likeness, pickle, safetensors, template};
use random::Random;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const CASES: u32 = 120_000;
/// Cases of each of the other readers.
const OTHER_CASES: u32 = 20_000;
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

fn a_hundred_thousand_damaged_headers() {
    let seed = seed();
    let header = usize::try_from(read_strict(&seed.as_slice()).unwrap().data_offset).unwrap();
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
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    // The cases reach every part of the reader.
    assert!(
        readable > CASES / 100 && faulty > CASES / 100 && refused > CASES / 4,
        "{readable} {faulty} {refused}"
    );
    assert!(codes.len() >= 20, "{codes:?}");
}

/// A header with two tensors.
fn safetensors_seed() -> Vec<u8> {
    let json = r#"{"__metadata__":{"format":"pt"},"a.weight":{"dtype":"F32","shape":[2,4],"data_offsets":[0,32]},"b":{"dtype":"BF16","shape":[3],"data_offsets":[32,38]}}"#;
    [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &[1; 38]].concat()
}

/// A dictionary with one tensor, as torch.save writes it; and a call that should not be there.
fn pickle_seed() -> Vec<u8> {
    let mut bytes =
        b"\x80\x02}q\x00X\x01\x00\x00\x00wq\x01ctorch._utils\n_rebuild_tensor_v2\nq\x02((".to_vec();
    bytes.extend_from_slice(
        b"X\x07\x00\x00\x00storageq\x03ctorch\nFloatStorage\nq\x04X\x01\x00\x00\x000q\x05",
    );
    bytes.extend_from_slice(b"X\x03\x00\x00\x00cpuq\x06K\x04tq\x07QK\x00K\x04\x85q\x08K\x01\x85q\x09\x89");
    bytes.extend_from_slice(b"ccollections\nOrderedDict\nq\n)Rq\x0btq\x0cRq\rs.");
    bytes.extend_from_slice(
        b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x02id\x94\x85\x94R\x94.",
    );
    bytes
}

/// An archive with one stored entry.
fn archive_seed() -> Vec<u8> {
    let data = pickle_seed();
    let length = u32::try_from(data.len()).unwrap().to_le_bytes();
    let name = b"m/data.pkl";
    let common = [&[20, 0, 0, 0, 0, 0][..], &[0; 8], &length, &length, &[10, 0, 0, 0]].concat();
    let local = [b"PK\x03\x04", common.as_slice(), name].concat();
    let central = [b"PK\x01\x02\x14\0", common.as_slice(), &[0; 10], &[0; 4], name].concat();
    let start = u32::try_from(local.len() + data.len()).unwrap().to_le_bytes();
    let size = u32::try_from(central.len()).unwrap().to_le_bytes();
    let end = [b"PK\x05\x06".as_slice(), &[0, 0, 0, 0, 1, 0, 1, 0], &size, &start, &[0, 0]].concat();
    [local, data, central, end].concat()
}

const TEXT: &str = r#"{"model_type":"llama","hidden_size":64,"num_hidden_layers":2,"vocab_size":512,"rope_scaling":{"factor":2.0},
"quantization":{"bits":4},"added_tokens":[{"id":3,"content":"<s>"}],"normalizer":{"type":"NFC"},
"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":[["a","b"],"a b"]},
"chat_template":[{"name":"default","template":"{% for m in messages %}{{ m.content | trim }}{% endfor %}"}]}"#;

const TEMPLATE: &str = "{%- set ns = namespace(x=0) -%}{% macro f(a, b='c') %}{{ a[1:] ~ b }}{% endmacro %}\
{% for m in messages if m.role != 'x' %}{% if 'a' in m['content'] and not loop.last %}{{ f(m.content | trim) }}\
{% elif m.y is defined %}{{ {'a': [1, 2.5e3]}['a'][0] }}{% else %}{% set ns.x = ns.x + 1 %}{% endif %}{% endfor %}\
{# a comment #}{% raw %}{{ raw }}{% endraw %}{{ 'yes' if ns.x > 3 else \"no\" }}";

const DOCUMENT: &str =
    "# A model\n=======\n\n- ```sh\n  run {INSIDE}\n  ```\n\nof {DATE}, $x_{MAX}$, ${HOME}\n";

/// Lines of every list of digests that is not JSON, and a pipeline's manifest.
const LIST: &str = "SHA256 (m.gguf) = 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n\
0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef  m.gguf\n\
\\0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef *m\\n.gguf\n\
xxh64     0123456789abcdef  m.gguf:a.weight\nsha1      0123456789abcdef0123456789abcdef01234567  m.gguf\n";
const MANIFEST: &str = r#"{"formats":[{"type":"gguf","path":"a/m.gguf","size_bytes":12,
"sha256":"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"},{"file_path":"m.gguf","file_size_bytes":3}]}"#;

/// An importance matrix in its older form: two tensors, each with a name, a count, and sums.
fn imatrix_seed() -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for name in ["blk.0.attn_q.weight", "blk.0.ffn_up.weight"] {
        bytes.extend(u32::try_from(name.len()).unwrap().to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend([3u32, 4].iter().flat_map(|number| number.to_le_bytes()));
        bytes.extend([0.5f32, 1.0, 2.0, 4.0].iter().flat_map(|sum| sum.to_le_bytes()));
    }
    bytes
}

fn list(bytes: &[u8]) -> bool {
    let list = List::parse(String::from_utf8_lossy(bytes).into_owned());
    list.as_ref().is_ok_and(|list| list.kinds().len() < 8)
}

fn texts(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let digest = canonical::digest(&text, &["version"]);
    let config = folder::Config::parse(&text);
    if let Ok(config) = &config {
        config.check("config.json", &mut Findings::default());
        config.packed();
        assert!(config.hash().is_some());
    }
    if let Ok(tokenizer) = likeness::Tokenizer::parse(text.as_bytes()) {
        tokenizer.last_trained();
        tokenizer.last_added();
        let settings = serde_json::from_str(&text).ok();
        likeness::tokenizer_hash(tokenizer, settings.as_ref(), settings.as_ref());
    }
    assert!(config.is_err() || digest.is_ok());
    digest.is_ok()
}

fn clean(read: impl FnOnce(&mut Findings)) -> bool {
    let mut findings = Findings::default();
    read(&mut findings);
    findings.finish().is_empty()
}

/// Every reader but that of GGUF; each says whether it found nothing wrong.
fn the_other_readers() {
    type Read = fn(&[u8]) -> bool;
    let readers: [(&str, Vec<u8>, Read); 9] = [
        ("safetensors", safetensors_seed(), |bytes| {
            clean(|findings| {
                let Ok(header) = safetensors::read(&bytes, findings) else { panic!("bytes cannot fail") };
                if let Some(header) = header.filter(|_| !findings.has_errors()) {
                    let end =
                        header.tensors.last().map_or(header.data_offset, |last| last.offset + last.bytes);
                    assert_eq!(end, bytes.len() as u64);
                }
            })
        }),
        ("pickle", pickle_seed(), |bytes| {
            clean(|findings| drop(pickle::check(&bytes, Content::Pickle, findings)))
        }),
        ("archive", archive_seed(), |bytes| {
            clean(|findings| drop(pickle::check(&bytes, Content::Zip, findings)))
        }),
        ("texts", TEXT.as_bytes().to_vec(), texts),
        ("imatrix", imatrix_seed(), |bytes| {
            let read = Imatrix::of_source(Path::new("imatrix.dat"), bytes);
            read.is_ok_and(|read| read.tensors().all(|name| read.of(name).is_ok()))
        }),
        ("list", LIST.as_bytes().to_vec(), list),
        ("manifest", MANIFEST.as_bytes().to_vec(), list),
        ("template", TEMPLATE.as_bytes().to_vec(), |bytes| {
            clean(|findings| template::check("default", &String::from_utf8_lossy(bytes), findings))
        }),
        ("document", DOCUMENT.as_bytes().to_vec(), |bytes| {
            clean(|findings| document::check(&bytes, findings).unwrap_or_default())
        }),
    ];
    for (name, seed, read) in readers {
        let start = Instant::now();
        let mut sound = 0u32;
        for case in 0..OTHER_CASES {
            let mut bytes = seed.clone();
            let length = bytes.len();
            mutate(&mut bytes, length, &mut Random(u64::from(case)));
            sound += u32::from(read(&bytes));
        }
        assert!(start.elapsed() < Duration::from_secs(30), "{name}: {:?}", start.elapsed());
        // Neither does everything pass, nor is everything refused at the first byte.
        assert!(sound < OTHER_CASES / 2, "{name}: {sound}");
        assert!(sound > 0 || matches!(name, "pickle" | "archive"), "{name}: {sound}");
    }
}

#[test]
fn damaged_input_is_read_within_bounds() {
    let used: u64 =
        std::fs::read_to_string("/proc/self/statm").unwrap().split(' ').next().unwrap().parse().unwrap();
    let before = getrlimit(Resource::As);
    let limit = used * 4096 + ROOM_BYTES;
    setrlimit(Resource::As, Rlimit { current: Some(limit), maximum: before.maximum }).unwrap();
    a_hundred_thousand_damaged_headers();
    the_other_readers();
    setrlimit(Resource::As, before).unwrap();
}
