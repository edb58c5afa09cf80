//! Inspection of whole artifacts: damage made here, and the corpus beside the project
//! where it is present.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must stop")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use assayd::domain::inspection::{ArtifactKind, Inspection, Severity, Status};
use assayd::model::gguf::write::{TensorData, write};
use assayd::model::gguf::{Array, GgmlType, Value};
use assayd::model::{InspectOptions, inspect};

fn look(path: &Path, full: bool) -> Inspection {
    inspect(path, &InspectOptions { full }, &mut |_, _| {}).unwrap()
}

fn codes(inspection: &Inspection) -> BTreeSet<&str> {
    inspection.findings.iter().map(|finding| finding.code.as_str()).collect()
}

/// Metadata of a small consistent model of `layers` layers, 64 wide, 16 tokens.
fn metadata(layers: u32) -> Vec<(&'static str, Value)> {
    let tokens: Vec<String> = (0..16).map(|i| format!("t{i}")).collect();
    vec![
        ("general.architecture", "llama".into()),
        ("general.name", "sample-13b-Q4_0".into()),
        ("general.file_type", 0u32.into()),
        ("llama.context_length", 64u32.into()),
        ("llama.embedding_length", 64u32.into()),
        ("llama.block_count", layers.into()),
        ("llama.feed_forward_length", 128u32.into()),
        ("llama.attention.head_count", 4u32.into()),
        ("llama.attention.layer_norm_rms_epsilon", 1e-5f32.into()),
        ("tokenizer.ggml.model", "llama".into()),
        ("tokenizer.ggml.tokens", Array::of_strings(tokens).into()),
    ]
}

/// Names and shapes to go with [`metadata`].
fn tensors(layers: u32) -> Vec<(String, Vec<u64>)> {
    let mut list: Vec<(String, Vec<u64>)> =
        vec![("token_embd.weight".into(), vec![64, 16]), ("output_norm.weight".into(), vec![64])];
    for layer in 0..layers {
        let parts: [(&str, &[u64]); 9] = [
            ("attn_norm", &[64]),
            ("attn_q", &[64, 64]),
            ("attn_k", &[64, 64]),
            ("attn_v", &[64, 64]),
            ("attn_output", &[64, 64]),
            ("ffn_norm", &[64]),
            ("ffn_gate", &[64, 128]),
            ("ffn_up", &[64, 128]),
            ("ffn_down", &[128, 64]),
        ];
        list.extend(parts.map(|(part, shape)| (format!("blk.{layer}.{part}.weight"), shape.to_vec())));
    }
    list
}

/// Floats that are different, small and never zero.
fn weights(shape: &[u64]) -> Vec<u8> {
    let count = shape.iter().product::<u64>();
    (0..count).flat_map(|i| ((i % 1013) as f32 / 512.0 + 0.001).to_le_bytes()).collect()
}

fn write_to(path: &Path, metadata: &[(&str, Value)], tensors: &[(String, Vec<u64>)]) {
    let data: Vec<Vec<u8>> = tensors.iter().map(|(_, shape)| weights(shape)).collect();
    let list: Vec<TensorData<'_>> = tensors
        .iter()
        .zip(&data)
        .map(|((name, shape), data)| TensorData { name, kind: GgmlType::F32, shape, data })
        .collect();
    let mut bytes = Vec::new();
    write(&mut bytes, metadata, &list).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn facts_come_from_the_header_and_not_from_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("llama-13b.Q4_K_M.gguf");
    write_to(&path, &metadata(2), &tensors(2));
    let inspection = look(&path, false);
    assert_eq!(inspection.status, Status::Accept, "{:?}", inspection.findings);
    assert_eq!(inspection.kind, ArtifactKind::Gguf);
    assert_eq!(inspection.architecture.as_deref(), Some("llama"));
    assert_eq!(inspection.quantization.as_deref(), Some("F32"));
    assert_eq!(inspection.parameters, Some(16 * 64 + 64 + 2 * (2 * 64 + 4 * 64 * 64 + 3 * 64 * 128)));
    assert_eq!(inspection.context_length, Some(64));
    assert_eq!(inspection.tensors, Some(20));
    assert!(inspection.config_hash.is_some() && inspection.tokenizer_hash.is_some());
    assert_eq!(inspection.files[0].sha256, None, "nothing was read");
    assert!(look(&path, true).files[0].sha256.is_some());
}

#[test]
fn hashes_of_config_and_tokenizer_ignore_what_is_cosmetic() {
    let folder = tempfile::tempdir().unwrap();
    type Entries = Vec<(&'static str, Value)>;
    let hashes = |change: &dyn Fn(&mut Entries)| {
        let path = folder.path().join("m.gguf");
        let mut metadata = metadata(1);
        change(&mut metadata);
        write_to(&path, &metadata, &tensors(1));
        let inspection = look(&path, false);
        (inspection.config_hash.unwrap(), inspection.tokenizer_hash.unwrap())
    };
    let set = |key: &'static str, value: Value| {
        move |metadata: &mut Entries| {
            metadata.retain(|(other, _)| *other != key);
            metadata.push((key, value.clone()));
        }
    };
    let (config, tokenizer) = hashes(&|_| {});
    let same: Vec<(&'static str, Value)> = vec![
        ("general.name", "another name".into()),
        ("general.file_type", 7u32.into()),
        ("llama.attention.head_count_kv", 4u32.into()),
        ("llama.rope.freq_base", 10_000f32.into()),
        ("llama.rope.dimension_count", 16u32.into()),
        ("llama.vocab_size", 16u32.into()),
        ("tokenizer.ggml.padding_token_id", u32::MAX.into()),
        ("tokenizer.ggml.add_bos_token", true.into()),
        ("tokenizer.ggml.add_space_prefix", true.into()),
        ("llama.context_length", 64u32.into()),
    ];
    for (key, value) in same {
        assert_eq!(hashes(&set(key, value)), (config, tokenizer), "{key}");
    }
    let other_config: Vec<(&'static str, Value)> = vec![
        ("llama.embedding_length", 128u32.into()),
        ("llama.rope.freq_base", 500_000f32.into()),
        ("llama.attention.layer_norm_rms_epsilon", 1e-6f32.into()),
        ("llama.attention.head_count", 8u32.into()),
    ];
    for (key, value) in other_config {
        let (other, same) = hashes(&set(key, value));
        assert_ne!(other, config, "{key}");
        assert_eq!(same, tokenizer, "{key}");
    }
    let mut swapped: Vec<String> = (0..16).map(|i| format!("t{i}")).collect();
    swapped.swap(3, 4);
    let (same, other) = hashes(&set("tokenizer.ggml.tokens", Array::of_strings(swapped).into()));
    assert_eq!(same, config);
    assert_ne!(other, tokenizer, "two tokens swapped");
    let merges = |list: &[&str]| hashes(&set("tokenizer.ggml.merges", Array::of_strings(list).into())).1;
    assert_ne!(merges(&["t1 t2", "t3 t4"]), merges(&["t3 t4", "t1 t2"]), "two merges swapped");
    assert_ne!(merges(&["t1 t2"]), tokenizer, "a merge added");
    for (key, value) in [
        ("tokenizer.ggml.scores", Array::of_f32(&[0.5; 16]).into()),
        ("tokenizer.ggml.bos_token_id", 9u32.into()),
        ("tokenizer.ggml.pre", "llama-bpe".into()),
        ("tokenizer.ggml.add_bos_token", false.into()),
        ("tokenizer.ggml.add_eos_token", true.into()),
        ("tokenizer.ggml.add_space_prefix", false.into()),
        ("tokenizer.ggml.remove_extra_whitespaces", true.into()),
        ("tokenizer.ggml.precompiled_charsmap", Array::of_i32(&[1, 2, 3]).into()),
    ] {
        assert_ne!(hashes(&set(key, value)).1, tokenizer, "{key}");
    }
}

/// A set of four parts in a folder of its own.
struct Set {
    folder: tempfile::TempDir,
}

impl Set {
    fn new() -> Self {
        let set = Self { folder: tempfile::tempdir().unwrap() };
        let all = tensors(4);
        for (number, part) in (0u16..).zip(all.chunks(all.len().div_ceil(4))) {
            set.write(number, 4, all.len(), part);
        }
        set
    }

    fn write(&self, number: u16, count: u16, total: usize, part: &[(String, Vec<u64>)]) {
        write_to(&self.part(number + 1), &Self::entries(number, count, total), part);
    }

    fn entries(number: u16, count: u16, total: usize) -> Vec<(&'static str, Value)> {
        let mut entries =
            if number == 0 { metadata(4) } else { vec![("general.architecture", "llama".into())] };
        entries.push(("split.no", Value::U16(number)));
        entries.push(("split.count", Value::U16(count)));
        entries.push(("split.tensors.count", Value::I32(i32::try_from(total).unwrap())));
        entries
    }

    fn part(&self, number: u16) -> PathBuf {
        self.folder.path().join(format!("m-{number:05}-of-00004.gguf"))
    }

    /// (code, part number) of the errors.
    fn errors(&self) -> BTreeSet<(String, u16)> {
        let path = (1..=4).map(|number| self.part(number)).find(|path| path.exists()).unwrap();
        let inspection = look(&path, false);
        assert_eq!(inspection.kind, ArtifactKind::GgufSplit);
        let errors = inspection.findings.iter().filter(|finding| finding.severity == Severity::Error);
        errors
            .map(|finding| {
                let part = finding.part.as_deref().unwrap_or("m-00000-of-00000.gguf");
                (finding.code.clone(), part[2..7].parse().unwrap())
            })
            .collect()
    }
}

fn expect(set: &Set, what: &str, code: &str, part: u16) {
    let errors = set.errors();
    assert!(errors.contains(&(code.to_owned(), part)), "{what}: {errors:?}");
}

#[test]
fn a_split_set_is_one_artifact_and_any_part_names_it() {
    let set = Set::new();
    for number in 1..=4 {
        let inspection = look(&set.part(number), true);
        assert_eq!(inspection.status, Status::Accept, "{:?}", inspection.findings);
        assert_eq!(inspection.files.len(), 4);
        assert_eq!(inspection.tensors, Some(38));
        assert_eq!(inspection.architecture.as_deref(), Some("llama"));
        assert!(inspection.files.iter().all(|file| file.sha256.is_some()));
    }
    assert_eq!(look(set.folder.path(), false).tensors, Some(38), "the folder names it, too");
}

#[test]
fn each_damage_to_a_split_set_has_its_own_code_and_names_the_part() {
    let zeroed = Set::new();
    let length = fs::metadata(zeroed.part(1)).unwrap().len();
    fs::write(zeroed.part(1), vec![0u8; usize::try_from(length).unwrap()]).unwrap();
    expect(&zeroed, "zeroed", "split-zeroed-part", 1);

    let swapped = Set::new();
    fs::rename(swapped.part(2), swapped.folder.path().join("x")).unwrap();
    fs::rename(swapped.part(3), swapped.part(2)).unwrap();
    fs::rename(swapped.folder.path().join("x"), swapped.part(3)).unwrap();
    expect(&swapped, "swapped", "split-swapped-parts", 2);
    expect(&swapped, "swapped", "split-swapped-parts", 3);

    let first_swapped = Set::new();
    fs::rename(first_swapped.part(1), first_swapped.folder.path().join("x")).unwrap();
    fs::rename(first_swapped.part(4), first_swapped.part(1)).unwrap();
    fs::rename(first_swapped.folder.path().join("x"), first_swapped.part(4)).unwrap();
    expect(&first_swapped, "first swapped", "split-swapped-parts", 1);

    let dropped = Set::new();
    fs::remove_file(dropped.part(3)).unwrap();
    expect(&dropped, "dropped", "split-missing-part", 3);
    fs::remove_file(dropped.part(1)).unwrap();
    expect(&dropped, "dropped", "split-missing-part", 1);

    let truncated = Set::new();
    let length = fs::metadata(truncated.part(4)).unwrap().len();
    fs::File::options().write(true).open(truncated.part(4)).unwrap().set_len(length - 100).unwrap();
    expect(&truncated, "truncated", "truncated", 4);

    let all = tensors(4);
    let chunk = all.len().div_ceil(4);
    let part = |number: usize| all.chunks(chunk).nth(number).unwrap().to_vec();

    let count = Set::new();
    count.write(1, 5, all.len(), &part(1));
    expect(&count, "count", "split-wrong-count", 2);

    let number = Set::new();
    number.write(2, 4, all.len(), &part(2));
    fs::copy(number.part(3), number.part(2)).unwrap();
    expect(&number, "number", "split-wrong-number", 2);

    let duplicate = Set::new();
    let mut more = part(2);
    more.push(all[0].clone());
    duplicate.write(2, 4, all.len() + 1, &more);
    expect(&duplicate, "duplicate", "split-duplicate-tensor", 3);

    let lacking = Set::new();
    lacking.write(2, 4, all.len(), &part(2)[1..]);
    expect(&lacking, "total", "split-tensor-count", 1);
    assert!(lacking.errors().iter().any(|(code, _)| code == "missing-tensor"));
    let too_few = Set::new();
    too_few.write(1, 4, all.len() - 1, &part(1));
    expect(&too_few, "total", "split-tensor-count", 2);

    let foreign = Set::new();
    let mut wider = part(3);
    wider.iter_mut().for_each(|(_, shape)| shape.iter_mut().for_each(|dimension| *dimension *= 2));
    foreign.write(3, 4, all.len(), &wider);
    expect(&foreign, "foreign", "split-foreign-part", 4);

    let unmarked = Set::new();
    write_to(&unmarked.part(2), &[("general.architecture", "llama".into())], &part(1));
    expect(&unmarked, "unmarked", "split-unmarked", 2);

    let renamed = Set::new();
    fs::rename(renamed.part(1), renamed.folder.path().join("renamed.gguf")).unwrap();
    let inspection = look(&renamed.folder.path().join("renamed.gguf"), false);
    assert!(codes(&inspection).contains("split-unmarked"));
}

/// Runtimes read the entries about the set of every part, and abort on some of other types.
#[test]
fn a_wrong_entry_is_told_with_the_part_it_is_in() {
    let all = tensors(4);
    let cases: [(u16, &str, Option<Value>, &[&str]); 11] = [
        (0, "split.no", Some(Value::I32(0)), &["metadata-wrong-type"]),
        (2, "split.no", Some(Value::I32(2)), &["metadata-wrong-type"]),
        (2, "split.no", None, &["split-unmarked"]),
        (0, "split.count", Some(Value::U32(4)), &["metadata-wrong-type"]),
        (3, "split.count", Some(Value::U32(4)), &["metadata-wrong-type"]),
        (1, "split.tensors.count", Some(Value::U32(38)), &["metadata-wrong-type"]),
        (0, "split.tensors.count", None, &["split-tensor-count"]),
        (1, "split.tensors.count", None, &[]),
        (0, "llama.block_count", Some(Value::I32(4)), &["metadata-wrong-type"]),
        (0, "llama.attention.head_count", Some(0u32.into()), &["metadata-absurd"]),
        (0, "tokenizer.ggml.model", None, &["metadata-missing"]),
    ];
    for (number, key, value, expected) in cases {
        let set = Set::new();
        let mut entries = Set::entries(number, 4, all.len());
        entries.retain(|(other, _)| *other != key);
        entries.extend(value.map(|value| (key, value)));
        let part = all.chunks(all.len().div_ceil(4)).nth(number.into()).unwrap();
        write_to(&set.part(number + 1), &entries, part);
        let expected = expected.iter().map(|code| ((*code).to_owned(), number + 1)).collect();
        assert_eq!(set.errors(), expected, "{key} of part {number}");
    }
}

#[test]
fn a_name_that_no_part_can_have_is_no_way_around_the_rules() {
    let folder = tempfile::tempdir().unwrap();
    for (name, expected) in [
        ("m-00001-of-00001.gguf", &["split-unmarked"][..]),
        ("m-00001-of-99999.gguf", &["split-unmarked"]),
        ("m-00003-of-00002.gguf", &["split-unmarked"]),
        ("m-00000-of-00002.gguf", &["split-unmarked"]),
        ("m-0001-of-0002.gguf", &[]),
    ] {
        let path = folder.path().join(name);
        write_to(&path, &metadata(1), &tensors(1));
        assert_eq!(codes(&look(&path, false)), expected.iter().copied().collect(), "{name}");
    }
}

#[test]
fn a_hole_in_a_part_is_found_with_its_offset() {
    let set = Set::new();
    let wide = vec![("wide".to_owned(), vec![1000u64, 1024])];
    set.write(3, 4, 31, &wide);
    let file = fs::File::options().write(true).open(set.part(4)).unwrap();
    let hole = 2_000_001;
    file.write_all_at(&vec![0u8; 1 << 20], hole).unwrap();
    let inspection = look(&set.part(1), true);
    let finding = inspection.findings.iter().find(|finding| finding.code == "zero-run").expect("the hole");
    assert_eq!(finding.tensor.as_deref(), Some("wide"));
    assert_eq!(finding.part.as_deref(), set.part(4).file_name().and_then(|name| name.to_str()));
    // Values beside the hole may end in zero bytes.
    assert!(finding.offset.unwrap().abs_diff(hole) < 4);

    let genuine = tempfile::tempdir().unwrap();
    let path = genuine.path().join("zero.gguf");
    let data = vec![0u8; 4 << 20];
    let zero = TensorData { name: "zero", kind: GgmlType::F32, shape: &[1024, 1024], data: &data };
    let other = TensorData { name: "other", kind: GgmlType::F32, shape: &[2], data: &[1; 8] };
    let mut bytes = Vec::new();
    write(&mut bytes, &[("general.type", "imatrix".into())], &[zero, other]).unwrap();
    fs::write(&path, bytes).unwrap();
    let inspection = look(&path, true);
    assert_eq!(inspection.status, Status::Warn, "{:?}", inspection.findings);
    assert!(codes(&inspection).contains("zero-tensor"));
}

#[test]
fn one_bit_far_into_the_file_changes_the_digest() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    write_to(&path, &[("general.type", "imatrix".into())], &[("big".to_owned(), vec![1024, 3072])]);
    let before = look(&path, true).files[0].sha256.unwrap();
    let file = fs::File::options().write(true).read(true).open(&path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 11_000_000).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 11_000_000).unwrap();
    let after = look(&path, true).files[0].sha256.unwrap();
    assert_ne!(before, after);
    assert_eq!(after, assayd::digest::sha256_file(&path, &mut |_, _| {}).unwrap());
}

#[test]
fn headers_of_a_file_of_40_gigabytes_take_under_a_second() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("huge.gguf");
    write_to(&path, &[("general.type", "imatrix".into())], &[("huge-tensor".to_owned(), vec![32])]);
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(11).position(|window| window == b"huge-tensor").unwrap() + 11 + 4;
    let elements = 10_000_000_000u64;
    bytes[at..at + 8].copy_from_slice(&elements.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_len(bytes.len() as u64 - 128 + elements * 4).unwrap();
    let start = Instant::now();
    let inspection = look(&path, false);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(inspection.parameters, Some(elements));
    assert_ne!(inspection.status, Status::Reject, "{:?}", inspection.findings);
    assert!(fs::metadata(&path).unwrap().len() > 40_000_000_000);
}

#[test]
fn disguises_and_failed_downloads_are_named() {
    let folder = tempfile::tempdir().unwrap();
    // What is disguised is also looked into, and these are all cut short.
    let cases: [(&str, &[u8], &str); 9] = [
        ("a.gguf", b"", "empty"),
        ("b.gguf", &[0; 4096], "zeroed-header"),
        ("c.gguf", b"\x80\x04\x95\x1d\0\0\0\0\0\0\0\x8c\x05posix", "disguised-format pickle-broken"),
        ("d.gguf", b"PK\x03\x04xxxxxxxxxxxxxxxxxxxx", "disguised-format archive-inconsistent"),
        ("e.gguf", b"<!DOCTYPE html><html><body>403</body></html>", "html-page"),
        ("f.gguf", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "lfs-pointer"),
        ("g.gguf", b"GGUX\x03\0\0\0rest of it", "bad-magic"),
        ("h.gguf", b"\x7fELF\x02\x01\x01", "disguised-format"),
        ("i.safetensors", b"PK\x03\x04xxxxxxxxxxxxxxxxxxxx", "disguised-format archive-inconsistent"),
    ];
    for (name, bytes, expected) in cases {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        for full in [false, true] {
            let inspection = look(&path, full);
            assert_eq!(inspection.status, Status::Reject, "{name}");
            assert_eq!(codes(&inspection), expected.split(' ').collect(), "{name}");
        }
    }
    let inspect = |path: &Path| inspect(path, &InspectOptions::default(), &mut |_, _| {});
    assert!(inspect(&folder.path().join("none.gguf")).is_err());
    assert!(inspect(folder.path()).is_err(), "a folder of several artifacts");
}

/// What a subject of the manifest may come out as: statuses, and the findings' codes that
/// must be among those reported.
fn expected(path: &str, expect: Option<&str>, full: bool) -> (&'static [Status], &'static [&'static str]) {
    const REJECT: &[Status] = &[Status::Reject];
    const WARN: &[Status] = &[Status::Warn];
    const ACCEPT: &[Status] = &[Status::Accept];
    match (path, full) {
        ("malformed/truncated-tail.gguf", _) => (REJECT, &["truncated"]),
        ("malformed/empty.gguf", _) => (REJECT, &["empty"]),
        ("malformed/bad-magic.gguf", _) => (REJECT, &["bad-magic"]),
        ("malformed/lying-n-tensors.gguf", _) => (REJECT, &["impossible-count"]),
        ("malformed/huge-string-length.gguf", _) => (REJECT, &["impossible-length"]),
        ("malformed/overlapping-offsets.gguf", _) => (REJECT, &["tensor-overlap"]),
        ("malformed/unaligned-offset.gguf", _) => (REJECT, &["tensor-unaligned"]),
        ("malformed/dims-overflow.gguf", _) => (REJECT, &["dims-overflow"]),
        ("malformed/duplicate-tensor-name.gguf", _) => (REJECT, &["duplicate-tensor"]),
        ("malformed/block-count-6.gguf", _) => (REJECT, &["missing-tensor"]),
        ("malformed/zip-appended.gguf", _) => (WARN, &["trailing-bytes"]),
        ("malformed/nan-weight.gguf", true) => (REJECT, &["nan-weights"]),
        ("malformed/bitflip-exponent.gguf", true) => (WARN, &["absurd-weights"]),
        ("malformed/nan-weight.gguf" | "malformed/bitflip-exponent.gguf", false) => (ACCEPT, &[]),
        ("malformed/st-overlong-header.safetensors", _) => (REJECT, &["impossible-length"]),
        ("malformed/st-overlap.safetensors", _) => (REJECT, &["tensor-overlap"]),
        ("malformed/st-truncated.safetensors", _) => (REJECT, &["truncated"]),
        ("malformed/st-duplicate-key.safetensors", _) => (REJECT, &["duplicate-tensor"]),
        ("malformed/index-traversal", _) => (REJECT, &["path-traversal"]),
        ("pickle/pytorch_model-clean.bin", _) => (WARN, &["pickle-format"]),
        ("pickle/pytorch_model-os-system.bin", _) => (REJECT, &["pickle-code-execution"]),
        ("split/part1-zeroed", _) => (REJECT, &["split-zeroed-part"]),
        ("split/part2-missing", _) => (REJECT, &["split-missing-part"]),
        _ if expect == Some("reject") || expect == Some("reject without executing") => (REJECT, &[]),
        _ => (ACCEPT, &[]),
    }
}

#[test]
fn the_corpus_gets_what_its_manifest_expects() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/models");
    let Ok(text) = fs::read_to_string(root.join("manifest.json")) else {
        // The corpus is not part of the project.
        return;
    };
    let manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for subject in manifest["subjects"].as_array().unwrap() {
        let path = subject["path"].as_str().unwrap();
        for full in [false, true] {
            let (statuses, wanted) = expected(path, subject["expect"].as_str(), full);
            let inspection = look(&root.join(path), full);
            let codes = codes(&inspection);
            seen += 1;
            if !statuses.contains(&inspection.status) || !wanted.iter().all(|code| codes.contains(code)) {
                wrong.push(format!("{path} full={full}: {:?} {codes:?}", inspection.status));
            }
            if full && let (Some(digest), [file]) = (subject["sha256"].as_str(), inspection.files.as_slice())
            {
                let got = file.sha256.map(|hash| hash.to_string());
                assert!(got.is_none() || got.as_deref() == Some(digest), "{path}");
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(seen > 60, "{seen}");
}
