//! Reader and writer against each other, and the reader against hand-made damage.

use super::write::{TensorData, WriteError, write};
use super::*;
use crate::model::finding::Code;

fn sample_metadata() -> Vec<(&'static str, Value)> {
    vec![
        ("general.architecture", "llama".into()),
        ("llama.block_count", 1u32.into()),
        ("llama.rope.freq_base", 10_000f32.into()),
        ("tokenizer.ggml.tokens", Array::of_strings(["<s>", "a", "é"]).into()),
        ("tokenizer.ggml.scores", Array::of_f32(&[0.0, -1.5, 2.0]).into()),
        ("tokenizer.ggml.token_type", Array::of_i32(&[3, 1, 1]).into()),
        ("flag", true.into()),
        ("wide", Value::I64(-5)),
    ]
}

/// Numbers of every kind, by themselves and in arrays, bit by bit as the format has them.
#[test]
fn numbers_of_every_kind() {
    /// Kind, bytes of one item, and its value as an integer and as a float.
    type Kind = (u32, &'static [u8], Option<i128>, Option<f64>);
    let kinds: [Kind; 11] = [
        (0, &[0xfe], Some(254), None),
        (1, &[0xfe], Some(-2), None),
        (2, &[0xfe, 0xff], Some(65534), None),
        (3, &[0xfe, 0xff], Some(-2), None),
        (4, &[0xfe, 0xff, 0xff, 0xff], Some(4_294_967_294), None),
        (5, &[0xfe, 0xff, 0xff, 0xff], Some(-2), None),
        (6, &[0, 0, 0x20, 0xc0], None, Some(-2.5)),
        (7, &[1], Some(1), None),
        (10, &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], Some(18_446_744_073_709_551_614), None),
        (11, &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], Some(-2), None),
        (12, &[0, 0, 0, 0, 0, 0, 0x04, 0xc0], None, Some(-2.5)),
    ];
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let mut bytes = [&b"GGUF\x03\0\0\0"[..], &0u64.to_le_bytes(), &22u64.to_le_bytes()].concat();
    for (kind, item, ..) in kinds {
        bytes.extend([text(&format!("one.{kind}")), kind.to_le_bytes().to_vec(), item.to_vec()].concat());
        bytes.extend([text(&format!("many.{kind}")), 9u32.to_le_bytes().to_vec()].concat());
        bytes.extend([&kind.to_le_bytes()[..], &2u64.to_le_bytes(), item, item].concat());
    }
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    let header = read_strict(&bytes.as_slice()).unwrap();
    for (kind, _, integer, float) in kinds {
        let one = header.metadata.get(&format!("one.{kind}")).unwrap();
        let many = header.metadata.array(&format!("many.{kind}")).unwrap();
        if let Some(integer) = integer {
            // A truth value is one only in an array.
            assert!(kind == 7 || one.as_integer() == Some(integer), "{kind}");
            assert_eq!(many.integers().collect::<Vec<_>>(), [integer; 2], "{kind}");
        }
        if let Some(float) = float {
            assert_eq!(one.as_float(), Some(float), "{kind}");
            assert_eq!(many.floats().collect::<Vec<_>>(), [float; 2], "{kind}");
        }
    }
    assert_eq!(header.metadata.get("one.7"), Some(&Value::Bool(true)));
}

fn sample() -> Vec<u8> {
    let weights: Vec<u8> = (0..48u8).collect();
    let blocks = [7u8; 34];
    let mut out = Vec::new();
    let tensors = [
        TensorData { name: "a.weight", kind: GgmlType::F32, shape: &[4, 3], data: &weights },
        TensorData { name: "b.weight", kind: GgmlType::Q8_0, shape: &[32], data: &blocks },
        TensorData { name: "c.weight", kind: GgmlType::F16, shape: &[2, 2, 2], data: &weights[..16] },
    ];
    write(&mut out, &sample_metadata(), &tensors).unwrap();
    out
}

/// Position of `needle` in `bytes`; it must be there once.
fn find(bytes: &[u8], needle: &[u8]) -> usize {
    let mut hits = bytes.windows(needle.len()).enumerate().filter(|(_, window)| *window == needle);
    let (at, _) = hits.next().expect("needle");
    assert!(hits.next().is_none(), "needle twice");
    at
}

fn codes(bytes: &[u8]) -> Vec<Code> {
    match read(&bytes) {
        Ok((_, faults)) => faults.into_iter().map(|fault| fault.code).collect(),
        Err(ReadError::Fault(fault)) => vec![fault.code],
        Err(ReadError::Io(error)) => panic!("{error}"),
    }
}

#[test]
fn what_is_written_is_read() {
    let bytes = sample();
    let header = read_strict(&bytes.as_slice()).unwrap();
    assert_eq!(header.version, 3);
    assert_eq!(header.alignment, 32);
    assert!(header.metadata.iter().eq(sample_metadata().iter().map(|(key, value)| (*key, value))));
    assert_eq!(
        header.metadata.array("tokenizer.ggml.tokens").unwrap().strings().last(),
        Some("é".as_bytes())
    );
    assert_eq!(
        header.metadata.array("tokenizer.ggml.token_type").unwrap().integers().collect::<Vec<_>>(),
        [3, 1, 1]
    );
    assert_eq!(header.metadata.array("tokenizer.ggml.scores").unwrap().floats().sum::<f64>(), 0.5);
    assert_eq!(header.metadata.hparam("block_count").and_then(Value::as_u64), Some(1));
    let [a, b, c] = header.tensors.as_slice() else { panic!("three tensors") };
    assert_eq!((a.shape.as_slice(), a.bytes, a.offset), (&[4, 3][..], 48, header.data_offset));
    assert_eq!((b.kind, b.bytes, b.offset), (GgmlType::Q8_0, 34, header.data_offset + 64));
    assert_eq!((c.elements(), c.bytes, c.offset), (8, 16, header.data_offset + 128));
    assert_eq!(bytes[usize::try_from(b.offset).unwrap()..][..34], [7; 34]);
    assert_eq!(bytes.len() as u64, (header.data_end).next_multiple_of(32));
    assert_eq!(header.elements(), 12 + 32 + 8);
}

#[test]
fn other_alignments_version_2_and_missing_final_padding_are_fine() {
    for alignment in [8u32, 64, 4096] {
        let mut metadata = sample_metadata();
        metadata.push(("general.alignment", alignment.into()));
        let mut bytes = Vec::new();
        let data = [1u8; 20];
        let tensor = |name| TensorData { name, kind: GgmlType::F32, shape: &[5], data: &data };
        write(&mut bytes, &metadata, &[tensor("a"), tensor("b")]).unwrap();
        let header = read_strict(&bytes.as_slice()).unwrap();
        assert_eq!(header.alignment, u64::from(alignment));
        bytes.truncate(usize::try_from(header.data_end).unwrap());
        assert_eq!(read_strict(&bytes.as_slice()).unwrap(), header);
    }
    let mut bytes = sample();
    bytes[4] = 2;
    assert_eq!(read_strict(&bytes.as_slice()).unwrap().version, 2);
}

#[test]
fn an_empty_model_is_readable() {
    let mut bytes = Vec::new();
    write(&mut bytes, &[], &[]).unwrap();
    let header = read_strict(&bytes.as_slice()).unwrap();
    assert!(header.tensors.is_empty() && header.metadata.is_empty());
}

#[test]
fn the_writer_refuses_what_the_reader_would() {
    let data = [0u8; 64];
    let long = "n".repeat(64);
    let tensor = |name, kind, shape, length| TensorData { name, kind, shape, data: &data[..length] };
    let refuse =
        |metadata: &[(&str, Value)], tensors: &[TensorData<'_>]| write(&mut Vec::new(), metadata, tensors);
    assert!(matches!(refuse(&[], &[tensor("a", GgmlType::F32, &[3], 13)]), Err(WriteError::Size { .. })));
    assert!(matches!(
        refuse(&[], &[tensor("a", GgmlType::Q8_0, &[16, 2], 34)]),
        Err(WriteError::Size { .. })
    ));
    assert!(matches!(
        refuse(&[], &[tensor("a", GgmlType::F32, &[1 << 63, 4], 0)]),
        Err(WriteError::Size { .. })
    ));
    assert!(matches!(refuse(&[], &[tensor("", GgmlType::F32, &[1], 4)]), Err(WriteError::Name(_))));
    assert!(matches!(refuse(&[], &[tensor(&long, GgmlType::F32, &[1], 4)]), Err(WriteError::Name(_))));
    assert!(matches!(refuse(&[], &[tensor("a", GgmlType::F32, &[1], 4); 2]), Err(WriteError::Name(_))));
    assert!(matches!(refuse(&[], &[tensor("a", GgmlType::F32, &[], 4)]), Err(WriteError::Shape(_))));
    assert!(matches!(refuse(&[], &[tensor("a", GgmlType::F32, &[0], 0)]), Err(WriteError::Shape(_))));
    let key = ("general.alignment", Value::U32(33));
    assert!(matches!(refuse(&[key], &[]), Err(WriteError::Alignment)));
    assert!(matches!(refuse(&[("k", 1u32.into()), ("k", 2u32.into())], &[]), Err(WriteError::Name(_))));
}

/// Sets the bytes at `at` after `needle`'s end.
fn patched(needle: &[u8], skip: usize, with: &[u8]) -> Vec<u8> {
    let mut bytes = sample();
    let at = find(&bytes, needle) + needle.len() + skip;
    bytes[at..at + with.len()].copy_from_slice(with);
    bytes
}

#[test]
fn damage_has_its_code() {
    let huge = (1u64 << 62).to_le_bytes();
    // After a tensor name: u32 dimension count, u64 each dimension, u32 type, u64 offset.
    let cases: Vec<(&str, Vec<u8>, Code)> = vec![
        ("empty", vec![], Code::Empty),
        ("two bytes", b"GG".to_vec(), Code::Truncated),
        ("zeros", vec![0; 64], Code::ZeroedHeader),
        ("magic", b"GGUXxxxxxxxxxxxxx".to_vec(), Code::BadMagic),
        ("reversed magic", b"FUGGxxxxxxxxxxxxx".to_vec(), Code::BigEndian),
        ("version 1", patched(b"GGUF", 0, &[1, 0, 0, 0]), Code::UnsupportedVersion),
        ("version 99", patched(b"GGUF", 0, &[99, 0, 0, 0]), Code::UnsupportedVersion),
        ("big-endian version", patched(b"GGUF", 0, &[0, 0, 0, 3]), Code::BigEndian),
        ("tensor count", patched(b"GGUF", 4, &huge), Code::ImpossibleCount),
        ("tensor count, all ones", patched(b"GGUF", 4, &[255; 8]), Code::ImpossibleCount),
        ("entry count", patched(b"GGUF", 12, &huge), Code::ImpossibleCount),
        ("one tensor less", patched(b"GGUF", 4, &[2]), Code::UndeclaredTensor),
        ("string length", patched(b"general.architecture", 4, &huge), Code::ImpossibleLength),
        ("string beyond the end", patched(b"general.architecture", 4, &[0, 0, 1]), Code::Truncated),
        ("array length", patched(b"tokenizer.ggml.scores", 8, &huge), Code::ImpossibleLength),
        ("array beyond the end", patched(b"tokenizer.ggml.scores", 8, &[0, 0, 1]), Code::Truncated),
        ("array of arrays", patched(b"tokenizer.ggml.scores", 4, &[9]), Code::BadMetadataType),
        ("unknown value type", patched(b"llama.block_count", 0, &[13]), Code::BadMetadataType),
        ("bool of 2", patched(b"flag", 4, &[2]), Code::BadMetadataType),
        ("key not UTF-8", patched(b"llama.block_coun", 0, &[0xff]), Code::InvalidUtf8),
        ("key with NUL", patched(b"llama.block_coun", 0, &[0]), Code::BadName),
        ("text not UTF-8", patched(b"general.architecture", 12, &[0xff]), Code::InvalidUtf8),
        ("name with NUL", patched(b"a.weigh", 0, &[0]), Code::BadName),
        ("nine dimensions", patched(b"a.weight", 0, &[9]), Code::BadDimensions),
        ("dimension 0", patched(b"a.weight", 4, &[0]), Code::BadDimensions),
        ("dimension 2^63", patched(b"a.weight", 4, &(1u64 << 63).to_le_bytes()), Code::DimsOverflow),
        ("dimensions 2^62 each", patched(b"a.weight", 4, &[huge, huge].concat()), Code::DimsOverflow),
        ("removed type", patched(b"a.weight", 20, &[4]), Code::UnknownTensorType),
        ("unknown type", patched(b"a.weight", 20, &[99]), Code::UnknownTensorType),
        ("half a block", patched(b"b.weight", 4, &[31]), Code::BadDimensions),
        ("unaligned", patched(b"b.weight", 16, &[65]), Code::TensorUnaligned),
        ("overlap", patched(b"b.weight", 16, &[32]), Code::TensorOverlap),
        ("gap", patched(b"c.weight", 32, &[160]), Code::TensorOutOfRange),
        ("2^42 bytes", patched(b"c.weight", 4, &(1u64 << 39).to_le_bytes()), Code::Truncated),
        ("2^61 bytes", patched(b"c.weight", 4, &(1u64 << 58).to_le_bytes()), Code::TensorOutOfRange),
    ];
    for (what, bytes, code) in &cases {
        assert_eq!(codes(bytes).first(), Some(code), "{what}: {:?}", codes(bytes));
    }
    let mut twice = sample();
    let at = find(&twice, b"b.weight");
    twice[at] = b'a';
    assert_eq!(codes(&twice), [Code::DuplicateTensor]);
    let mut key_twice = sample();
    let at = find(&key_twice, b"wide");
    key_twice[at..at + 4].copy_from_slice(b"flag");
    assert_eq!(codes(&key_twice), [Code::DuplicateKey]);
}

/// Wherever a download ends, the file was cut short: nothing that it says is absurd.
#[test]
fn a_file_cut_anywhere_is_truncated() {
    let bytes = sample();
    let end = read_strict(&bytes.as_slice()).unwrap().data_end;
    for cut in 1..usize::try_from(end).unwrap() {
        assert_eq!(codes(&bytes[..cut]), [Code::Truncated], "{cut}");
    }
}

#[test]
fn alignment_is_checked() {
    for (value, code) in [
        (Value::U32(0), Code::BadAlignment),
        (Value::U32(1), Code::BadAlignment),
        (Value::U32(48), Code::BadAlignment),
        (Value::U32(1 << 30), Code::BadAlignment),
        (Value::U64(32), Code::MetadataWrongType),
    ] {
        let mut bytes = Vec::new();
        write(&mut bytes, &[("general.alignmenT", value)], &[]).unwrap();
        let at = find(&bytes, b"general.alignmenT");
        bytes[at..at + 17].copy_from_slice(b"general.alignment");
        assert_eq!(codes(&bytes), [code]);
    }
}

#[test]
fn every_cut_is_noticed() {
    let whole = sample();
    let needed = usize::try_from(read_strict(&whole.as_slice()).unwrap().data_end).unwrap();
    for length in 1..needed {
        let found = codes(&whole[..length]);
        assert!(
            found.iter().any(|code| matches!(code, Code::Truncated | Code::ImpossibleCount)),
            "cut at {length}: {found:?}"
        );
    }
}

#[test]
fn a_gap_is_not_an_overlap() {
    let data = [1u8; 32];
    let tensor = |name| TensorData { name, kind: GgmlType::F32, shape: &[8], data: &data };
    let mut bytes = Vec::new();
    write(&mut bytes, &[], &[tensor("first"), tensor("second")]).unwrap();
    let at = find(&bytes, b"second") + 6 + 4 + 8 + 4;
    bytes[at] = 64;
    bytes.extend_from_slice(&[0; 32]);
    assert_eq!(codes(&bytes), [Code::TensorGap]);
}
