//! Models of any size with nothing in them: the llama architecture with every weight alike.

use std::path::Path;

use assayd::model::gguf::write::{TensorData, write_file, write_hollow};
use assayd::model::gguf::{Array, GgmlType, Value};

/// Widths and counts of a model.
#[derive(Debug, Clone, Copy)]
pub struct Blank {
    pub layers: u32,
    pub width: u64,
    pub feed_forward: u64,
    pub heads: u32,
    pub heads_kv: u32,
    pub vocabulary: u64,
    pub kind: GgmlType,
    /// A mixture of so many experts instead of one feed-forward part, of which two are used.
    pub experts: Option<Experts>,
}

#[derive(Debug, Clone, Copy)]
pub struct Experts {
    pub count: u64,
    /// Gate and up are one tensor; such models have a shared expert, too.
    pub fused: bool,
}

type Tensors = Vec<(String, GgmlType, Vec<u64>)>;

/// Names, formats and shapes.
fn tensors(model: Blank) -> Tensors {
    let Blank { layers, width, feed_forward, heads, heads_kv, vocabulary, kind, experts } = model;
    let kv = width / u64::from(heads) * u64::from(heads_kv);
    let mut tensors: Tensors = vec![
        ("token_embd.weight".to_owned(), kind, vec![width, vocabulary]),
        ("output_norm.weight".to_owned(), GgmlType::F32, vec![width]),
        ("output.weight".to_owned(), kind, vec![width, vocabulary]),
    ];
    for layer in 0..layers {
        let mut matrices: Vec<(&str, Vec<u64>)> = vec![
            ("attn_q", vec![width, width]),
            ("attn_k", vec![width, kv]),
            ("attn_v", vec![width, kv]),
            ("attn_output", vec![width, width]),
        ];
        let whole = |ending: &'static [&'static str; 3]| {
            let [gate, up, down] = *ending;
            [
                (gate, vec![width, feed_forward]),
                (up, vec![width, feed_forward]),
                (down, vec![feed_forward, width]),
            ]
        };
        match experts {
            None => matrices.extend(whole(&["ffn_gate", "ffn_up", "ffn_down"])),
            Some(Experts { count, fused }) => {
                tensors.push((format!("blk.{layer}.ffn_gate_inp.weight"), GgmlType::F32, vec![width, count]));
                matrices.push(("ffn_down_exps", vec![feed_forward, width, count]));
                if fused {
                    matrices.push(("ffn_gate_up_exps", vec![width, 2 * feed_forward, count]));
                    matrices.extend(whole(&["ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"]));
                } else {
                    matrices.push(("ffn_gate_exps", vec![width, feed_forward, count]));
                    matrices.push(("ffn_up_exps", vec![width, feed_forward, count]));
                }
            }
        }
        for name in ["attn_norm", "ffn_norm"] {
            tensors.push((format!("blk.{layer}.{name}.weight"), GgmlType::F32, vec![width]));
        }
        for (name, shape) in matrices {
            tensors.push((format!("blk.{layer}.{name}.weight"), kind, shape));
        }
    }
    tensors
}

/// Writes the model; it computes, and every token is as likely as any other.
pub fn write(path: &Path, model: Blank) {
    let (tensors, kind) = (tensors(model), model.kind);
    let bytes = |kind: GgmlType, shape: &[u64]| kind.bytes(shape.iter().product()).unwrap() as usize;
    let filled = |wanted: GgmlType| {
        let of_kind = tensors.iter().filter(|(_, kind, _)| *kind == wanted);
        let largest = of_kind.map(|(_, kind, shape)| bytes(*kind, shape)).max().unwrap_or(0);
        // 0.01 as f32 and as f16; eight bits are 32 ones with a scale of 0.01.
        let pattern = match wanted {
            GgmlType::F32 => 0.01f32.to_le_bytes().to_vec(),
            GgmlType::F16 => vec![0x1f, 0x21],
            GgmlType::Q8_0 => [vec![0x1f, 0x21], vec![1; 32]].concat(),
            other => panic!("no pattern for {}", other.name()),
        };
        pattern.into_iter().cycle().take(largest).collect::<Vec<u8>>()
    };
    let (norms, weights) = (filled(GgmlType::F32), filled(kind));
    let data: Vec<TensorData<'_>> = tensors
        .iter()
        .map(|(name, kind, shape)| {
            let source = if *kind == GgmlType::F32 { &norms } else { &weights };
            TensorData { name, kind: *kind, shape, data: &source[..bytes(*kind, shape)] }
        })
        .collect();
    let metadata = metadata(model);
    write_file(path, &borrowed(&metadata), &data).unwrap();
}

/// Writes the model with zeros for weights, which take no room on the disk.
pub fn write_empty(path: &Path, model: Blank) {
    let (tensors, metadata) = (tensors(model), metadata(model));
    let list: Vec<(&str, GgmlType, &[u64])> =
        tensors.iter().map(|(name, kind, shape)| (name.as_str(), *kind, shape.as_slice())).collect();
    write_hollow(path, &borrowed(&metadata), &list).unwrap();
}

fn borrowed(metadata: &[(String, Value)]) -> Vec<(&str, Value)> {
    metadata.iter().map(|(key, value)| (key.as_str(), value.clone())).collect()
}

fn metadata(model: Blank) -> Vec<(String, Value)> {
    let Blank { layers, width, feed_forward, heads, heads_kv, vocabulary, experts, .. } = model;
    let fused = experts.is_some_and(|experts| experts.fused);
    let arch = if fused { "deepseek2-ocr" } else { "llama" };
    let head = width / u64::from(heads);
    let number = |value: u64| Value::U32(u32::try_from(value).unwrap());
    let tokens = (0..vocabulary).map(|token| match token {
        0 => "<unk>".to_owned(),
        1 => "<s>".to_owned(),
        2 => "</s>".to_owned(),
        token if token < 259 => format!("<0x{:02X}>", token - 3),
        token => format!("\u{2581}word{token}"),
    });
    let scores: Vec<f32> = (0..vocabulary).map(|token| -(token as f32)).collect();
    // Unknown, control, byte, normal: as llama.cpp numbers them.
    let kind_of = |token| match token {
        0 => 2,
        1 | 2 => 3,
        token if token < 259 => 6,
        _ => 1,
    };
    let kinds: Vec<i32> = (0..vocabulary).map(kind_of).collect();
    let own = |key: &str| format!("{arch}.{key}");
    let mut metadata: Vec<(String, Value)> = vec![
        ("general.architecture".to_owned(), Value::String(arch.to_owned())),
        ("general.name".to_owned(), Value::String("blank".to_owned())),
        (own("block_count"), Value::U32(layers)),
        (own("context_length"), Value::U32(8192)),
        (own("embedding_length"), number(width)),
        (own("feed_forward_length"), number(feed_forward)),
        (own("attention.head_count"), Value::U32(heads)),
        (own("attention.head_count_kv"), Value::U32(heads_kv)),
        (own("attention.layer_norm_rms_epsilon"), Value::F32(1e-5)),
        (own("rope.dimension_count"), number(head)),
        ("tokenizer.ggml.model".to_owned(), Value::String("llama".to_owned())),
        ("tokenizer.ggml.tokens".to_owned(), Value::Array(Array::of_strings(tokens))),
        ("tokenizer.ggml.scores".to_owned(), Value::Array(Array::of_f32(&scores))),
        ("tokenizer.ggml.token_type".to_owned(), Value::Array(Array::of_i32(&kinds))),
        ("tokenizer.ggml.bos_token_id".to_owned(), Value::U32(1)),
        ("tokenizer.ggml.eos_token_id".to_owned(), Value::U32(2)),
    ];
    if let Some(experts) = experts {
        metadata.extend([
            (own("expert_count"), number(experts.count)),
            (own("expert_used_count"), Value::U32(2)),
            (own("expert_feed_forward_length"), number(feed_forward)),
        ]);
        metadata.extend(fused.then(|| (own("expert_shared_count"), Value::U32(1))));
    }
    metadata
}
