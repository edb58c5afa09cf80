//! Small models over vocabularies as large as one likes, made when a test needs them: one
//! layer, 32 dimensions, random weights. A second model may be the first with some noise.

use std::path::Path;

use assayd::model::gguf::write::{TensorData, write_file};
use assayd::model::gguf::{Array, GgmlType, Value};

const WIDTH: u64 = 32;
const FFN: u64 = 64;

/// Numbers with mean 0 and deviation 1, near enough (Irwin and Hall's sum of twelve).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        let mut sum = -6.0;
        for _ in 0..12 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            sum += (self.0 >> 40) as f32 / (1u64 << 24) as f32;
        }
        sum
    }

    fn bytes(&mut self, n: u64, scale: f32, noise: &mut Option<(Self, f32)>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(n as usize * 4);
        for _ in 0..n {
            let mut value = scale * self.next();
            if let Some((random, amount)) = noise {
                value += scale * *amount * random.next();
            }
            bytes.extend(value.to_le_bytes());
        }
        bytes
    }
}

/// Writes a model of `vocab` tokens. `noise` is added to every weight, as a share of its scale.
pub fn write(path: &Path, vocab: u32, noise: f32) {
    let mut pieces: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).into();
    pieces.extend((0..=255u8).map(|byte| format!("<0x{byte:02X}>")));
    let mut kinds = vec![2, 3, 3];
    kinds.extend([6; 256]);
    for word in pieces.len() as u32..vocab {
        pieces.push(format!("\u{2581}w{word}"));
        kinds.push(1);
    }
    let scores: Vec<f32> = (0..vocab).map(|id| -(id as f32)).collect();
    let metadata = [
        ("general.architecture", Value::from("llama")),
        ("general.name", "wide".into()),
        ("general.file_type", Value::U32(0)),
        ("llama.vocab_size", Value::U32(vocab)),
        ("llama.context_length", Value::U32(2048)),
        ("llama.embedding_length", Value::U32(WIDTH as u32)),
        ("llama.block_count", Value::U32(1)),
        ("llama.feed_forward_length", Value::U32(FFN as u32)),
        ("llama.attention.head_count", Value::U32(2)),
        ("llama.attention.head_count_kv", Value::U32(2)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.dimension_count", Value::U32(16)),
        ("llama.rope.freq_base", Value::F32(10_000.0)),
        ("tokenizer.ggml.model", "llama".into()),
        ("tokenizer.ggml.pre", "default".into()),
        ("tokenizer.ggml.tokens", Array::of_strings(&pieces).into()),
        ("tokenizer.ggml.scores", Array::of_f32(&scores).into()),
        ("tokenizer.ggml.token_type", Array::of_i32(&kinds).into()),
        ("tokenizer.ggml.bos_token_id", Value::U32(1)),
        ("tokenizer.ggml.eos_token_id", Value::U32(2)),
        ("tokenizer.ggml.unknown_token_id", Value::U32(0)),
        ("tokenizer.ggml.add_bos_token", true.into()),
        ("tokenizer.ggml.add_eos_token", false.into()),
    ];
    let v = u64::from(vocab);
    let shapes: [(&str, Vec<u64>, f32); 12] = [
        ("token_embd.weight", vec![WIDTH, v], 1.0),
        ("blk.0.attn_norm.weight", vec![WIDTH], 0.0),
        ("blk.0.attn_q.weight", vec![WIDTH, WIDTH], 0.2),
        ("blk.0.attn_k.weight", vec![WIDTH, WIDTH], 0.2),
        ("blk.0.attn_v.weight", vec![WIDTH, WIDTH], 0.2),
        ("blk.0.attn_output.weight", vec![WIDTH, WIDTH], 0.2),
        ("blk.0.ffn_norm.weight", vec![WIDTH], 0.0),
        ("blk.0.ffn_gate.weight", vec![WIDTH, FFN], 0.2),
        ("blk.0.ffn_up.weight", vec![WIDTH, FFN], 0.2),
        ("blk.0.ffn_down.weight", vec![FFN, WIDTH], 0.2),
        ("output_norm.weight", vec![WIDTH], 0.0),
        // Logits of deviation 3: likely tokens, and a tail that matters.
        ("output.weight", vec![WIDTH, v], 0.53),
    ];
    let mut random = Random(7);
    let mut noise = (noise > 0.0).then_some((Random(11), noise));
    let data: Vec<Vec<u8>> = shapes
        .iter()
        .map(|(_, shape, scale)| {
            let n = shape.iter().product();
            // Norms are 1.
            if *scale == 0.0 {
                1f32.to_le_bytes().repeat(n as usize)
            } else {
                random.bytes(n, *scale, &mut noise)
            }
        })
        .collect();
    let tensors: Vec<TensorData<'_>> = shapes
        .iter()
        .zip(&data)
        .map(|((name, shape, _), data)| TensorData { name, kind: GgmlType::F32, shape, data })
        .collect();
    write_file(path, &metadata, &tensors).unwrap();
}
