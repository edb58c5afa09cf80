//! The formulas against numbers that others measured or documented.

use super::super::gguf::{Array, GgmlType, Value, read_strict, write};
use super::*;

mod logged;

const MIB: u64 = 1 << 20;

/// A header with metadata `{architecture}.key` and no tensors of note.
fn header(architecture: &str, entries: &[(&str, Value)]) -> Header {
    let mut metadata = vec![("general.architecture".to_owned(), Value::String(architecture.to_owned()))];
    metadata.extend(entries.iter().map(|(key, value)| (format!("{architecture}.{key}"), value.clone())));
    let metadata: Vec<(&str, Value)> =
        metadata.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    let data = [0u8; 128];
    let tensor = write::TensorData { name: "a", kind: GgmlType::F32, shape: &[32], data: &data };
    let mut bytes = Vec::new();
    write::write(&mut bytes, &metadata, &[tensor]).unwrap();
    read_strict(&bytes.as_slice()).unwrap()
}

fn shape(context: u64, kv: GgmlType) -> Shape {
    Shape { context, parallel: 1, micro_batch: 512, outputs: 1, kv, flash: true }
}

fn kv(header: &Header, shape: Shape) -> u64 {
    of_headers(std::slice::from_ref(header), shape).kv_bytes
}

fn u(value: u32) -> Value {
    Value::U32(value)
}

/// The two models whose caches are on record: DeepSeek-MoE 16B and Phi-3.5-MoE at 4096 tokens.
#[test]
fn documented_caches_are_exact() {
    let deepseek = header(
        "deepseek",
        &[
            ("block_count", u(28)),
            ("embedding_length", u(2048)),
            ("attention.head_count", u(16)),
            ("attention.head_count_kv", u(16)),
        ],
    );
    assert_eq!(kv(&deepseek, shape(4096, GgmlType::F16)), 896 * MIB);
    let phi = header(
        "phimoe",
        &[
            ("block_count", u(32)),
            ("embedding_length", u(4096)),
            ("attention.head_count", u(32)),
            ("attention.head_count_kv", u(8)),
        ],
    );
    assert_eq!(kv(&phi, shape(4096, GgmlType::F16)), 512 * MIB);
    // Eight bits and a scale of two bytes for each 32 values.
    assert_eq!(kv(&phi, shape(4096, GgmlType::Q8_0)), 512 * MIB * 34 / 64);
    assert_eq!(kv(&phi, Shape { parallel: 3, ..shape(4096, GgmlType::F16) }), 3 * 512 * MIB);
    // stories260K: 5 layers, 4 of 8 heads, width 64.
    let stories = header(
        "llama",
        &[
            ("block_count", u(5)),
            ("embedding_length", u(64)),
            ("attention.head_count", u(8)),
            ("attention.head_count_kv", u(4)),
        ],
    );
    assert_eq!(kv(&stories, shape(4096, GgmlType::F16)), 2_621_440);
    assert_eq!(kv(&stories, shape(4000, GgmlType::F16)), 2_621_440, "cells come in multiples of 256");
}

#[test]
fn latent_windowed_shared_per_layer_and_recurrent_caches() {
    // DeepSeek-V2-Lite: one head of 512 + 64, no values; 27 layers.
    let latent = header(
        "deepseek2",
        &[
            ("block_count", u(27)),
            ("embedding_length", u(2048)),
            ("attention.head_count", u(16)),
            ("attention.head_count_kv", u(1)),
            ("attention.key_length", u(576)),
            ("attention.value_length", u(512)),
            ("attention.key_length_mla", u(192)),
            ("attention.value_length_mla", u(128)),
        ],
    );
    assert_eq!(kv(&latent, shape(4096, GgmlType::F16)), 27 * 4096 * 576 * 2);
    // Gemma 3: five of six layers see 1024 tokens and the micro-batch.
    let windowed = header(
        "gemma3",
        &[
            ("block_count", u(12)),
            ("embedding_length", u(1024)),
            ("attention.head_count", u(4)),
            ("attention.head_count_kv", u(1)),
            ("attention.key_length", u(256)),
            ("attention.value_length", u(256)),
            ("attention.sliding_window", u(1024)),
        ],
    );
    let row = 2 * 256 * 2;
    assert_eq!(kv(&windowed, shape(8192, GgmlType::F16)), row * (2 * 8192 + 10 * 1536));
    assert_eq!(kv(&windowed, shape(1024, GgmlType::F16)), row * 12 * 1024, "never more than the context");
    // Heads per layer; a layer without any is recurrent in a hybrid.
    let hybrid = header(
        "jamba",
        &[
            ("block_count", u(4)),
            ("embedding_length", u(512)),
            ("attention.head_count", u(8)),
            ("attention.head_count_kv", Value::Array(Array::of_u32(&[0, 2, 0, 2]))),
            ("ssm.conv_kernel", u(4)),
            ("ssm.inner_size", u(1024)),
            ("ssm.state_size", u(16)),
            ("ssm.group_count", u(0)),
        ],
    );
    let counted = of_headers(std::slice::from_ref(&hybrid), shape(4096, GgmlType::F16));
    assert_eq!(counted.kv_bytes, 2 * 4096 * 2 * 64 * 2 * 2);
    assert_eq!(counted.state_bytes, 2 * 4 * (3 * 1024 + 16 * 1024));
    let longer = of_headers(std::slice::from_ref(&hybrid), shape(8192, GgmlType::F16));
    assert_eq!(longer.state_bytes, counted.state_bytes, "a state does not grow with the context");
}

#[test]
fn experts_are_found_also_when_fused() {
    for name in ["blk.0.ffn_up_exps.weight", "blk.11.ffn_gate_up_exps.weight", "blk.3.ffn_down_chexps.weight"]
    {
        assert!(is_expert(name), "{name}");
    }
    for name in ["blk.0.ffn_up.weight", "blk.0.ffn_gate_inp.weight", "blk.0.ffn_up_shexp.weight", "exps"] {
        assert!(!is_expert(name), "{name}");
    }
}

#[test]
fn absurd_headers_give_numbers_and_no_overflow() {
    let absurd = header(
        "llama",
        &[
            ("block_count", u(u32::MAX)),
            ("embedding_length", u(u32::MAX)),
            ("attention.head_count", u(u32::MAX)),
            ("attention.head_count_kv", Value::Array(Array::of_u32(&[u32::MAX; 900]))),
            ("expert_count", u(u32::MAX)),
            ("expert_used_count", u(u32::MAX)),
            ("context_length", u(1_000_000_000)),
        ],
    );
    let shape = Shape {
        context: u64::MAX,
        parallel: u64::MAX,
        micro_batch: u64::MAX,
        outputs: u64::MAX,
        kv: GgmlType::Q8_0,
        flash: false,
    };
    let counted = of_headers(&[absurd, header("", &[])], shape);
    assert!(counted.kv_bytes > 1 << 40 && counted.footprint().total_bytes() >= counted.kv_bytes);
    let nothing = of_headers(&[header("llama", &[])], shape);
    assert_eq!((nothing.kv_bytes, nothing.state_bytes), (0, 0));
}
