//! Two mixtures of experts whose runs were logged: Phi-3.5-MoE and DeepSeek-MoE 16B, each in three
//! mixes, whole on one accelerator and with the experts on the CPU (`CUDA0 model buffer size` and
//! `CUDA0 KV buffer size` of llama.cpp, 4096 tokens). The headers are made here, with the formats
//! that llama.cpp's quantiser chooses; there are no weights.

use super::super::place::{self, Load};
use super::*;

const CONTEXT: u64 = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mix {
    Q2K,
    Q4KM,
    Q8,
}

/// Architecture and widths; a tensor is its name and shape.
struct Model {
    architecture: &'static str,
    numbers: Vec<(&'static str, u32)>,
    layers: u64,
    /// Heads that share a head of the cache.
    shared: u64,
    tensors: Vec<(String, Vec<u64>)>,
}

fn phi() -> Model {
    const WIDTH: u64 = 4096;
    let mut tensors = Vec::new();
    let mut put = |name: &str, shape: &[u64]| tensors.push((name.to_owned(), shape.to_vec()));
    put("token_embd.weight", &[WIDTH, 32_064]);
    put("output.weight", &[WIDTH, 32_064]);
    put("output.bias", &[32_064]);
    put("output_norm.weight", &[WIDTH]);
    put("output_norm.bias", &[WIDTH]);
    put("rope_factors_long.weight", &[64]);
    put("rope_factors_short.weight", &[64]);
    for layer in 0..32 {
        let mut put = |name: &str, shape: &[u64]| put(&format!("blk.{layer}.{name}"), shape);
        for (name, outputs) in [("q", WIDTH), ("k", 1024), ("v", 1024), ("output", WIDTH)] {
            put(&format!("attn_{name}.weight"), &[WIDTH, outputs]);
            put(&format!("attn_{name}.bias"), &[outputs]);
        }
        for name in ["attn_norm", "ffn_norm"] {
            put(&format!("{name}.weight"), &[WIDTH]);
            put(&format!("{name}.bias"), &[WIDTH]);
        }
        put("ffn_gate_inp.weight", &[WIDTH, 16]);
        put("ffn_gate_exps.weight", &[WIDTH, 6400, 16]);
        put("ffn_up_exps.weight", &[WIDTH, 6400, 16]);
        put("ffn_down_exps.weight", &[6400, WIDTH, 16]);
    }
    let numbers = vec![
        ("block_count", 32),
        ("embedding_length", 4096),
        ("attention.head_count", 32),
        ("attention.head_count_kv", 8),
        ("expert_count", 16),
        ("expert_used_count", 2),
    ];
    Model { architecture: "phimoe", numbers, layers: 32, shared: 4, tensors }
}

fn deepseek() -> Model {
    const WIDTH: u64 = 2048;
    let mut tensors = Vec::new();
    let mut put = |name: &str, shape: &[u64]| tensors.push((name.to_owned(), shape.to_vec()));
    put("token_embd.weight", &[WIDTH, 102_400]);
    put("output.weight", &[WIDTH, 102_400]);
    put("output_norm.weight", &[WIDTH]);
    for layer in 0..28 {
        let mut put = |name: &str, shape: &[u64]| put(&format!("blk.{layer}.{name}.weight"), shape);
        for name in ["attn_q", "attn_k", "attn_v", "attn_output"] {
            put(name, &[WIDTH, WIDTH]);
        }
        put("attn_norm", &[WIDTH]);
        put("ffn_norm", &[WIDTH]);
        let mut feed_forward = |ending: &str, inner: u64, experts: &[u64]| {
            put(&format!("ffn_gate{ending}"), &[&[WIDTH, inner][..], experts].concat());
            put(&format!("ffn_up{ending}"), &[&[WIDTH, inner][..], experts].concat());
            put(&format!("ffn_down{ending}"), &[&[inner, WIDTH][..], experts].concat());
        };
        // The first layer has no experts.
        if layer == 0 {
            feed_forward("", 10_944, &[]);
            continue;
        }
        feed_forward("_exps", 1408, &[64]);
        feed_forward("_shexp", 2816, &[]);
        put("ffn_gate_inp", &[WIDTH, 64]);
    }
    let numbers = vec![
        ("block_count", 28),
        ("embedding_length", 2048),
        ("attention.head_count", 16),
        ("attention.head_count_kv", 16),
        ("expert_count", 64),
        ("expert_used_count", 6),
    ];
    Model { architecture: "deepseek", numbers, layers: 28, shared: 1, tensors }
}

/// The format that the quantiser of the pinned llama.cpp chooses: matrices only, and of them not
/// the routers; the output matrix, values and second feed-forward matrices get more bits, the
/// latter two in the Q4_K mix in the first and last eighth and every third layer between; rows
/// that are not made of blocks of 256 get a format with blocks of 32.
fn format(model: &Model, mix: Mix, name: &str, shape: &[u64]) -> GgmlType {
    use GgmlType::{F32, Q2_K, Q3_K, Q4_0, Q4_K, Q5_0, Q6_K, Q8_0};
    if shape.len() < 2 || name.contains("ffn_gate_inp") {
        return F32;
    }
    let layer = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse::<u64>().ok());
    let (layer, eighth) = (layer.unwrap_or(0), model.layers / 8);
    let more = layer < eighth || layer >= 7 * model.layers / 8 || (layer - eighth) % 3 == 2;
    let sensitive = name.contains("attn_v") || name.contains("ffn_down");
    let wanted = match mix {
        Mix::Q8 => Q8_0,
        _ if name == "output.weight" => Q6_K,
        Mix::Q4KM if sensitive && more => Q6_K,
        Mix::Q4KM => Q4_K,
        Mix::Q2K if name.contains("attn_v") && model.shared >= 4 => Q4_K,
        Mix::Q2K if sensitive || name.contains("attn_output") => Q3_K,
        Mix::Q2K => Q2_K,
    };
    match wanted {
        wanted if shape[0].is_multiple_of(wanted.block()) => wanted,
        Q6_K => Q8_0,
        Q4_K => Q5_0,
        _ => Q4_0,
    }
}

/// What is to be placed of a model of which there is only the header.
fn load(folder: &Path, model: &Model, mix: Mix) -> (Load, Counted) {
    let own = |key: &str| format!("{}.{key}", model.architecture);
    let mut metadata = vec![("general.architecture".to_owned(), model.architecture.into())];
    metadata.extend(model.numbers.iter().map(|(key, value)| (own(key), Value::U32(*value))));
    let metadata: Vec<(&str, Value)> =
        metadata.iter().map(|(key, value): &(String, Value)| (key.as_str(), value.clone())).collect();
    let tensors: Vec<(&str, GgmlType, &[u64])> = model
        .tensors
        .iter()
        .map(|(name, shape)| (name.as_str(), format(model, mix, name, shape), shape.as_slice()))
        .collect();
    let path = folder.join(format!("{}-{mix:?}.gguf", model.architecture));
    write::write_hollow(&path, &metadata, &tensors).unwrap();
    let shape = shape(CONTEXT, GgmlType::F16);
    (place::load(&path, shape).unwrap(), count(&path, shape).unwrap())
}

/// Row 87 of the feature list, and closer than it asks: what accelerators hold of the model, all
/// of it and without experts, is what was logged.
#[test]
fn buffers_of_logged_runs_follow_from_the_headers() {
    let folder = tempfile::tempdir().unwrap();
    for (model, mix, whole, offload, cache) in [
        (phi(), Mix::Q2K, 14_516.15, 616.15, 512),
        (phi(), Mix::Q4KM, 24_100.66, 850.65, 512),
        (phi(), Mix::Q8, 42_304.49, 1_504.48, 512),
        (deepseek(), Mix::Q2K, 6_326.58, 535.07, 896),
        (deepseek(), Mix::Q4KM, 10_231.24, 760.24, 896),
        (deepseek(), Mix::Q8, 16_390.94, 1_243.93, 896),
    ] {
        let (load, counted) = load(folder.path(), &model, mix);
        assert_eq!(counted.kv_bytes, cache * MIB, "{} {mix:?}", model.architecture);
        let dense: u64 = load.layers.iter().map(|layer| layer.dense).sum();
        let experts: u64 = load.layers.iter().map(|layer| layer.experts).sum();
        assert_eq!(experts, counted.expert_bytes);
        let without = dense - counted.kv_bytes + load.output;
        for (bytes, logged) in [(without, offload), (without + experts, whole)] {
            let mib = bytes as f64 / MIB as f64;
            println!("{} {mix:?}: {mib:.2} MiB, logged {logged}", model.architecture);
            assert!((mib / logged - 1.0).abs() < 1e-4, "{} {mix:?}: {mib} and {logged}", model.architecture);
        }
        // The plan for an accelerator that has just room for that holds no expert on it.
        let room = without + counted.kv_bytes + load.scratch;
        let plan = load.place(&[room]);
        let layers = load.layers.len();
        assert_eq!((plan.gpu_layers, plan.used_bytes[0]), (layers + 1, room));
        assert!(load.layers[plan.cpu_experts..].iter().all(|layer| layer.experts == 0), "{plan:?}");
    }
}
