//! Headers made by hand, and what is wrong with them.

use super::*;
use crate::domain::budget;
use crate::domain::inspection::Finding;
use crate::model::finding::Findings;
use crate::model::{InspectOptions, inspect};

fn file(json: &str, data: usize) -> Vec<u8> {
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json.as_bytes());
    bytes.extend(std::iter::repeat_n(1u8, data));
    bytes
}

fn codes(bytes: &[u8]) -> Vec<String> {
    let mut findings = Findings::default();
    read(&bytes, &mut findings).unwrap();
    findings.finish().into_iter().map(|finding| finding.code).collect()
}

fn entry(name: &str, dtype: &str, shape: &str, begin: u64, end: u64) -> String {
    format!("\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":[{begin},{end}]}}")
}

#[test]
fn a_sound_header() {
    let a = entry("a", "F32", "[2,3]", 8, 32);
    let b = entry("b", "BF16", "[4]", 0, 8);
    let json = format!("{{\"__metadata__\":{{\"format\":\"pt\"}},{a},{b}}}   ");
    let bytes = file(&json, 32);
    let mut findings = Findings::default();
    let header = read(&bytes.as_slice(), &mut findings).unwrap().unwrap();
    assert!(findings.finish().is_empty());
    assert_eq!(header.metadata["format"], "pt");
    assert_eq!(header.data_offset, 8 + json.len() as u64);
    let [b, a] = header.tensors.as_slice() else { panic!("two tensors") };
    assert_eq!((b.name.as_str(), b.bytes, b.offset), ("b", 8, header.data_offset));
    assert_eq!((a.elements(), a.offset), (6, header.data_offset + 8));
    assert_eq!(codes(&file("{}", 0)), [""; 0]);
}

#[test]
fn damage_has_its_code() {
    let one = |entry: String| format!("{{{entry}}}");
    let two = |a: String, b: String| format!("{{{a},{b}}}");
    let huge = |length: u64| {
        let mut bytes = file("{}", 0);
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        bytes
    };
    let mut not_utf8 = file("{\"a\":1}", 0);
    not_utf8[10] = 0xff;
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("seven bytes", vec![1; 7], "truncated"),
        ("header of 2^63", huge(1 << 63), "impossible-length"),
        ("header of 1 MB", huge(1 << 20), "truncated"),
        ("leading space", file(" {}", 0), "bad-json"),
        ("not JSON", file("{\"a\":", 0), "bad-json"),
        ("a list", file("[]", 0), "bad-json"),
        ("not UTF-8", not_utf8, "invalid-utf8"),
        ("deep nesting", file(&format!("{{\"a\":{}", "[".repeat(100_000)), 0), "bad-json"),
        (
            "33 dimensions",
            file(&one(entry("a", "U8", &format!("[1{}]", ",1".repeat(32)), 0, 1)), 1),
            "bad-json",
        ),
        ("unknown field", file(&one(entry("a", "U8", "[1],\"x\":1", 0, 1)), 1), "bad-json"),
        (
            "negative offset",
            file("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[-1,0]}}", 1),
            "bad-json",
        ),
        (
            "same name",
            file(&two(entry("a", "U8", "[1]", 0, 1), entry("a", "U8", "[1]", 1, 2)), 2),
            "duplicate-tensor",
        ),
        ("same metadata", file(r#"{"__metadata__":{"format":"pt","format":"tf"}}"#, 0), "duplicate-tensor"),
        ("unknown type", file(&one(entry("a", "X8", "[1]", 0, 1)), 1), "unknown-tensor-type"),
        ("overflow", file(&one(entry("a", "F32", "[4294967296,4294967296]", 0, 0)), 0), "dims-overflow"),
        (
            "overflow of bytes",
            file(&one(entry("a", "F64", "[9223372036854775807]", 0, 0)), 0),
            "dims-overflow",
        ),
        ("half a byte", file(&one(entry("a", "F4", "[3]", 0, 1)), 1), "dims-overflow"),
        ("wrong size", file(&one(entry("a", "F32", "[2]", 0, 4)), 4), "shape-mismatch"),
        ("backwards", file(&one(entry("a", "F32", "[1]", 4, 0)), 4), "shape-mismatch"),
        (
            "overlap",
            file(&two(entry("a", "U8", "[2]", 0, 2), entry("b", "U8", "[2]", 1, 3)), 3),
            "tensor-overlap",
        ),
        (
            "same range",
            file(&two(entry("a", "U8", "[2]", 0, 2), entry("b", "U8", "[2]", 0, 2)), 2),
            "tensor-overlap",
        ),
        ("gap", file(&two(entry("a", "U8", "[1]", 0, 1), entry("b", "U8", "[1]", 2, 3)), 3), "tensor-gap"),
        ("hole at the start", file(&one(entry("b", "U8", "[1]", 2, 3)), 3), "tensor-gap"),
        ("beyond the end", file(&one(entry("b", "U8", "[1]", 200, 201)), 3), "tensor-out-of-range"),
        (
            "2^50 bytes",
            file(&one(entry("a", "U8", "[1125899906842624]", 0, 1 << 50)), 5),
            "tensor-out-of-range",
        ),
        ("cut", file(&one(entry("a", "U8", "[9]", 0, 9)), 5), "truncated"),
        ("trailing", file(&one(entry("a", "U8", "[1]", 0, 1)), 5), "trailing-bytes"),
        ("control character", file(&one(entry("a\\u0000", "U8", "[1]", 0, 1)), 1), "bad-name"),
    ];
    for (what, bytes, code) in cases {
        assert_eq!(codes(&bytes).first().map(String::as_str), Some(code), "{what}: {:?}", codes(&bytes));
    }
}

#[test]
fn a_list_of_tensors_has_an_end() {
    let listed = |count: u64| {
        let entries: Vec<String> = (0..count).map(|at| entry(&at.to_string(), "U8", "[0]", 0, 0)).collect();
        file(&format!("{{{}}}", entries.join(",")), 0)
    };
    assert_eq!(codes(&listed(budget::FILE_TENSORS)), [""; 0]);
    assert_eq!(codes(&listed(budget::FILE_TENSORS + 1)), ["impossible-count"]);
}

/// What every byte of a file gives away.
fn full(bytes: &[u8]) -> Vec<Finding> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, bytes).unwrap();
    inspect(&path, &InspectOptions { full: true }, &mut |_, _| {}).unwrap().findings
}

#[test]
fn a_file_of_no_tensors_or_hardly_any_bytes() {
    let codes = |bytes: &[u8]| -> Vec<String> { full(bytes).into_iter().map(|of| of.code).collect() };
    assert_eq!(codes(&file("{}", 0)), ["not-a-language-model", "config-missing"]);
    let sound = file(&format!("{{{}}}", entry("a", "U8", "[1]", 0, 1)), 1);
    for cut in 1..sound.len() {
        assert_eq!(codes(&sound[..cut]).first().map(String::as_str), Some("truncated"), "{cut}");
    }
}

#[test]
fn odd_values_of_every_float_type_are_found() {
    let cases: [(&str, &[u8], &str); 15] = [
        ("F32", &[0, 0, 0xc0, 0x7f], "nan-weights"),
        ("F32", &[0, 0, 0x80, 0xff], "inf-weights"),
        ("C64", &[0, 0, 0xc0, 0x7f], "nan-weights"),
        ("C64", &[0, 0, 0xc0, 0x7f, 0, 0, 0, 0], "nan-weights"),
        ("F16", &[1, 0x7e], "nan-weights"),
        ("BF16", &[0x80, 0xff], "inf-weights"),
        ("F64", &[0, 0, 0, 0, 0, 0, 0xf0, 0x7f], "inf-weights"),
        ("F8_E4M3", &[0x7f], "nan-weights"),
        ("F8_E4M3", &[0xff], "nan-weights"),
        ("F8_E5M2", &[0x7e], "nan-weights"),
        ("F8_E5M2", &[0x7c], "inf-weights"),
        ("F8_E5M2", &[0xfc], "inf-weights"),
        ("F8_E8M0", &[0xff], "nan-weights"),
        ("F8_E4M3FNUZ", &[0x80], "nan-weights"),
        ("F8_E5M2FNUZ", &[0x80], "nan-weights"),
    ];
    for (dtype, pattern, code) in cases {
        let bytes = 64 * Dtype::from_name(dtype).unwrap().bits / 8;
        let header = format!("{{{}}}", entry("a", dtype, "[64]", 0, bytes));
        let mut made = file(&header, usize::try_from(bytes).unwrap());
        let codes = |made: &[u8]| -> Vec<String> {
            full(made).into_iter().filter(|of| of.tensor.is_some()).map(|of| of.code).collect()
        };
        assert_eq!(codes(&made), [""; 0], "{dtype}");
        let end = made.len();
        made[end - pattern.len()..].copy_from_slice(pattern);
        assert_eq!(codes(&made), [code], "{dtype} {pattern:x?}");
    }
}
