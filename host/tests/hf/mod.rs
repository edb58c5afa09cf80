//! Model folders as Hugging Face lays them out, made from a GGUF file or from random numbers,
//! and the same weights as GGUF: two forms of one model, for tests of engines and adapters.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use assayd::model::gguf::write::{TensorData, write_file};
use assayd::model::gguf::{self, GgmlType, Header, Value};
use assayd::model::source::{ReadAt as _, SourceFile};
use serde_json::json;

/// A matrix or vector: name, shape with the slowest-varying dimension first, values.
#[derive(Debug, Clone)]
pub struct Weight {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// How numbers are stored in a safetensors file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    F32,
    F16,
    BF16,
}

/// The bits of the upper half of a value, to nearest even.
fn bf16(value: f32) -> u16 {
    let bits = u64::from(value.to_bits());
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// Exact for normal numbers that binary16 can hold; the tests round to those first.
fn f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let (sign, exponent) = ((bits >> 16 & 0x8000) as u16, (bits >> 23 & 0xff) as i32 - 112);
    if exponent <= 0 {
        return sign;
    }
    sign | (exponent as u16) << 10 | (bits >> 13 & 0x3ff) as u16
}

impl Stored {
    fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
        }
    }

    pub fn bytes(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Self::F16 => values.iter().flat_map(|&value| f16(value).to_le_bytes()).collect(),
            Self::BF16 => values.iter().flat_map(|&value| bf16(value).to_le_bytes()).collect(),
        }
    }

    /// The values that storing keeps.
    pub fn kept(self, values: &[f32]) -> Vec<f32> {
        let cut = |value: f32, keep: u32| f32::from_bits(value.to_bits() & keep);
        match self {
            Self::F32 => values.to_vec(),
            Self::F16 => values
                .iter()
                .map(|&value| if value.abs() < 6.2e-5 { 0.0 } else { cut(value, 0xffff_e000) })
                .collect(),
            Self::BF16 => values.iter().map(|&value| f32::from_bits(u32::from(bf16(value)) << 16)).collect(),
        }
    }
}

/// Writes one safetensors file.
pub fn write_safetensors(path: &Path, weights: &[Weight], stored: Stored) {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for weight in weights {
        let start = data.len();
        data.extend(stored.bytes(&weight.values));
        header.insert(
            weight.name.clone(),
            json!({"dtype": stored.name(), "shape": weight.shape, "data_offsets": [start, data.len()]}),
        );
    }
    let mut text = serde_json::to_string(&header).unwrap();
    while !text.len().is_multiple_of(8) {
        text.push(' ');
    }
    let mut file = (text.len() as u64).to_le_bytes().to_vec();
    file.extend(text.as_bytes());
    file.extend(data);
    fs::write(path, file).unwrap();
}

/// A GGUF file whose weights are F32, in memory.
#[derive(Debug)]
pub struct Source {
    pub header: Header,
    pub weights: BTreeMap<String, Weight>,
}

impl Source {
    pub fn read(path: &Path) -> Self {
        let file = SourceFile::open(path).unwrap();
        let header = gguf::read_strict(&file).unwrap();
        let weight = |tensor: &gguf::Tensor| {
            assert_eq!(tensor.kind, GgmlType::F32, "{}", tensor.name);
            let mut bytes = vec![0; tensor.bytes as usize];
            file.read_at(&mut bytes, tensor.offset).unwrap();
            let values = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            let shape = tensor.shape.iter().rev().map(|&size| size as usize).collect();
            (tensor.name.clone(), Weight { name: tensor.name.clone(), shape, values })
        };
        let weights = header.tensors.iter().map(weight).collect();
        Self { header, weights }
    }

    pub fn number(&self, key: &str) -> usize {
        self.header.metadata.u64(key).unwrap_or_else(|| panic!("no {key}")) as usize
    }

    /// The tokenizer's entries.
    pub fn tokenizer(&self) -> Vec<(String, Value)> {
        let entries = self.header.metadata.iter().filter(|(key, _)| key.starts_with("tokenizer."));
        entries.map(|(key, value)| (key.to_owned(), value.clone())).collect()
    }

    /// tokenizer.json of the same tokens: merges in the order of the merged token's score.
    pub fn tokenizer_json(&self) -> String {
        let metadata = &self.header.metadata;
        let array = |key: &str| metadata.array(&format!("tokenizer.ggml.{key}")).unwrap();
        let texts: Vec<String> =
            array("tokens").strings().map(|text| String::from_utf8(text.to_vec()).unwrap()).collect();
        let scores: Vec<f64> = array("scores").floats().collect();
        let kinds: Vec<i128> = array("token_type").integers().collect();
        let ids: BTreeMap<&str, usize> =
            texts.iter().enumerate().map(|(id, text)| (text.as_str(), id)).collect();
        let mut merges: Vec<(f64, &str, &str)> = Vec::new();
        for (id, text) in texts.iter().enumerate().filter(|(id, _)| kinds[*id] == 1) {
            for (at, _) in text.char_indices().skip(1) {
                let (left, right) = text.split_at(at);
                if ids.contains_key(left) && ids.contains_key(right) {
                    merges.push((scores[id], left, right));
                }
            }
        }
        merges.sort_by(|a, b| b.0.total_cmp(&a.0));
        let merges: Vec<[&str; 2]> = merges.iter().map(|&(_, left, right)| [left, right]).collect();
        let special: Vec<serde_json::Value> = (0..3)
            .map(|id| {
                json!({"id": id, "content": texts[id], "single_word": false, "lstrip": false,
                       "rstrip": false, "normalized": false, "special": true})
            })
            .collect();
        json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": special,
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": "\u{2581}"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}]},
            "pre_tokenizer": null,
            "post_processor": {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "},
                {"type": "ByteFallback"}, {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
            "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                "vocab": ids, "merges": merges},
        })
        .to_string()
    }
}

/// Rows of a query or key matrix from llama.cpp's order (pairs side by side) to that of
/// Hugging Face (pairs half a head apart).
pub fn halves_from_pairs(weight: &Weight, heads: usize) -> Weight {
    let rows = weight.shape[0];
    let (columns, head) = (weight.values.len() / rows, rows / heads);
    let mut values = Vec::with_capacity(weight.values.len());
    for row in 0..rows {
        let (head_at, within) = (row / head, row % head);
        let from = head_at * head + (within % (head / 2)) * 2 + within / (head / 2);
        values.extend_from_slice(&weight.values[from * columns..(from + 1) * columns]);
    }
    Weight { values, ..weight.clone() }
}

/// The other way round.
pub fn pairs_from_halves(weight: &Weight, heads: usize) -> Weight {
    let rows = weight.shape[0];
    let (columns, head) = (weight.values.len() / rows, rows / heads);
    let mut values = Vec::with_capacity(weight.values.len());
    for row in 0..rows {
        let (head_at, within) = (row / head, row % head);
        let from = head_at * head + (within % 2) * (head / 2) + within / 2;
        values.extend_from_slice(&weight.values[from * columns..(from + 1) * columns]);
    }
    Weight { values, ..weight.clone() }
}

/// llama.cpp's name of a tensor and the one in the folder.
pub const LLAMA_NAMES: [(&str, &str); 9] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// A llama model of a GGUF file as a folder: what a user would have downloaded.
#[derive(Debug, Clone)]
pub struct Folder {
    pub config: serde_json::Value,
    pub tokenizer: String,
    pub weights: Vec<Weight>,
}

impl Folder {
    pub fn of_llama(source: &Source) -> Self {
        let number = |key: &str| source.number(&format!("llama.{key}"));
        let (heads, kv_heads) = (number("attention.head_count"), number("attention.head_count_kv"));
        let mut weights = Vec::new();
        let mut put = |from: &str, to: String, heads: Option<usize>| {
            let weight = source.weights.get(from).unwrap_or_else(|| panic!("no {from}"));
            let weight = heads.map_or_else(|| weight.clone(), |heads| halves_from_pairs(weight, heads));
            weights.push(Weight { name: to, ..weight });
        };
        put("token_embd.weight", "model.embed_tokens.weight".to_owned(), None);
        for layer in 0..number("block_count") {
            for (from, to) in LLAMA_NAMES {
                let heads = match from {
                    "attn_q" => Some(heads),
                    "attn_k" => Some(kv_heads),
                    _ => None,
                };
                put(
                    &format!("blk.{layer}.{from}.weight"),
                    format!("model.layers.{layer}.{to}.weight"),
                    heads,
                );
            }
        }
        put("output_norm.weight", "model.norm.weight".to_owned(), None);
        let tied = !source.weights.contains_key("output.weight");
        if !tied {
            put("output.weight", "lm_head.weight".to_owned(), None);
        }
        let vocab = weights[0].shape[0];
        let real = |key: &str| source.header.metadata.float(&format!("llama.{key}")).unwrap();
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocab,
            "hidden_size": number("embedding_length"), "intermediate_size": number("feed_forward_length"),
            "num_hidden_layers": number("block_count"), "num_attention_heads": heads,
            "num_key_value_heads": kv_heads, "max_position_embeddings": number("context_length"),
            "rms_norm_eps": real("attention.layer_norm_rms_epsilon"), "rope_theta": real("rope.freq_base"),
            "rope_scaling": null, "hidden_act": "silu", "tie_word_embeddings": tied,
            "bos_token_id": 1, "eos_token_id": 2, "attention_bias": false, "mlp_bias": false,
        });
        Self { config, tokenizer: source.tokenizer_json(), weights }
    }

    /// Writes the folder in one file of weights.
    pub fn write(&self, folder: &Path, stored: Stored) -> PathBuf {
        self.write_side(folder);
        write_safetensors(&folder.join("model.safetensors"), &self.weights, stored);
        folder.to_owned()
    }

    /// Writes the folder in two files of weights with an index.
    pub fn write_sharded(&self, folder: &Path, stored: Stored) -> PathBuf {
        self.write_side(folder);
        let (first, second) = self.weights.split_at(self.weights.len() / 2);
        let mut map = serde_json::Map::new();
        for (number, part) in [(1, first), (2, second)] {
            let name = format!("model-0000{number}-of-00002.safetensors");
            write_safetensors(&folder.join(&name), part, stored);
            map.extend(part.iter().map(|weight| (weight.name.clone(), json!(name))));
        }
        let index = json!({"metadata": {}, "weight_map": map});
        fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
        folder.to_owned()
    }

    fn write_side(&self, folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("config.json"), self.config.to_string()).unwrap();
        fs::write(folder.join("tokenizer.json"), &self.tokenizer).unwrap();
    }

    pub fn weight(&mut self, name: &str) -> &mut Weight {
        self.weights.iter_mut().find(|weight| weight.name == name).unwrap_or_else(|| panic!("no {name}"))
    }
}

/// Numbers by chance, the same on every machine (Knuth's MMIX generator).
#[derive(Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// About normal, with this spread.
    pub fn normal(&mut self, spread: f32) -> f32 {
        let mut sum = 0.0;
        for _ in 0..4 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            sum += (self.0 >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
        }
        sum * 3f32.sqrt() * spread
    }

    pub fn weight(&mut self, name: &str, shape: &[usize]) -> Weight {
        let count = shape.iter().product();
        let (middle, spread) = match shape {
            [_] if name.ends_with("bias") => (0.0, 0.3),
            [_] => (1.0, 0.2),
            [_, inputs] => (0.0, 1.2 / (*inputs as f32).sqrt()),
            _ => (0.0, 1.0),
        };
        let values = (0..count).map(|_| middle + self.normal(spread)).collect();
        Weight { name: name.to_owned(), shape: shape.to_vec(), values }
    }
}

/// Writes a GGUF file of F32 weights.
pub fn write_gguf(path: &Path, metadata: &[(String, Value)], weights: &[Weight]) {
    let metadata: Vec<(&str, Value)> =
        metadata.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    let shapes: Vec<Vec<u64>> =
        weights.iter().map(|weight| weight.shape.iter().rev().map(|&size| size as u64).collect()).collect();
    let data: Vec<Vec<u8>> = weights.iter().map(|weight| Stored::F32.bytes(&weight.values)).collect();
    let tensors: Vec<TensorData<'_>> = weights
        .iter()
        .zip(&shapes)
        .zip(&data)
        .map(|((weight, shape), data)| TensorData { name: &weight.name, kind: GgmlType::F32, shape, data })
        .collect();
    write_file(path, &metadata, &tensors).unwrap();
}
