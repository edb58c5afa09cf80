//! Networks and their tokenizers as GGUF files, and back: written by the host's own
//! writer, read by candle's reader, so that each checks the other.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};
use assayd::model::gguf::{
    Array, GgmlType, Value,
    write::{TensorData, write_file},
};
use candle_core::{Device, quantized::gguf_file};

use crate::{
    net::{Config, Net},
    quant,
    tokenizer::{BOS, EOS},
};

/// The lists of a vocabulary, an entry per token id.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vocabulary<'a> {
    pub(crate) pieces: &'a [String],
    pub(crate) scores: &'a [f32],
    pub(crate) kinds: &'a [i32],
}

/// One tensor as it lies in the file; the shape is rows, then columns.
#[derive(Debug)]
pub(crate) struct Tensor<'a> {
    pub(crate) name: String,
    pub(crate) kind: GgmlType,
    pub(crate) shape: Vec<usize>,
    pub(crate) data: &'a [u8],
}

/// Vectors stay F32, as llama.cpp's own converter leaves them.
pub(crate) fn kind_for(shape: &[usize], wanted: GgmlType) -> GgmlType {
    if shape.len() < 2 { GgmlType::F32 } else { wanted }
}

/// Writes a model file.
pub(crate) fn write(
    path: &Path,
    name: &str,
    config: &Config,
    vocabulary: Vocabulary<'_>,
    kind: GgmlType,
    tensors: &[Tensor<'_>],
) -> Result<()> {
    // llama.cpp's numbers for "mostly of this type".
    let file_type: u32 = match kind {
        GgmlType::F16 => 1,
        GgmlType::Q4_0 => 2,
        GgmlType::Q8_0 => 7,
        _ => 0,
    };
    let number = |n: usize| u32::try_from(n).map(Value::U32).context("a number above 32 bits");
    let metadata = [
        ("general.architecture", Value::from("llama")),
        ("general.name", name.into()),
        ("general.license", "Apache-2.0".into()),
        ("general.file_type", file_type.into()),
        ("general.quantization_version", 2.into()),
        ("llama.vocab_size", number(config.vocab)?),
        ("llama.context_length", number(config.context)?),
        ("llama.embedding_length", number(config.width)?),
        ("llama.block_count", number(config.layers)?),
        ("llama.feed_forward_length", number(config.ffn)?),
        ("llama.attention.head_count", number(config.heads)?),
        ("llama.attention.head_count_kv", number(config.kv_heads)?),
        ("llama.attention.layer_norm_rms_epsilon", (config.eps as f32).into()),
        ("llama.rope.dimension_count", number(config.head_dim())?),
        ("llama.rope.freq_base", (config.rope_base as f32).into()),
        ("tokenizer.ggml.model", "llama".into()),
        ("tokenizer.ggml.pre", "default".into()),
        ("tokenizer.ggml.tokens", Array::of_strings(vocabulary.pieces).into()),
        ("tokenizer.ggml.scores", Array::of_f32(vocabulary.scores).into()),
        ("tokenizer.ggml.token_type", Array::of_i32(vocabulary.kinds).into()),
        ("tokenizer.ggml.bos_token_id", BOS.into()),
        ("tokenizer.ggml.eos_token_id", EOS.into()),
        ("tokenizer.ggml.unknown_token_id", 0.into()),
        ("tokenizer.ggml.add_bos_token", true.into()),
        ("tokenizer.ggml.add_eos_token", false.into()),
        ("tokenizer.ggml.add_space_prefix", true.into()),
    ];
    let shapes: Vec<Vec<u64>> =
        tensors.iter().map(|t| t.shape.iter().rev().map(|&n| n as u64).collect()).collect();
    let data: Vec<TensorData<'_>> = tensors
        .iter()
        .zip(&shapes)
        .map(|(t, shape)| TensorData { name: &t.name, kind: t.kind, shape, data: t.data })
        .collect();
    write_file(path, &metadata, &data).with_context(|| format!("cannot write {}", path.display()))
}

/// Writes `net` with its matrices as `kind`.
pub(crate) fn write_net(
    path: &Path,
    name: &str,
    net: &Net,
    vocabulary: Vocabulary<'_>,
    kind: GgmlType,
) -> Result<()> {
    let weights = net.weights()?;
    let mut encoded = Vec::new();
    // The order of the network, not the alphabet's.
    for (name, shape) in net.config.shapes() {
        let (_, values) = weights.get(&name).with_context(|| format!("no weight {name}"))?;
        let kind = kind_for(&shape, kind);
        let data = quant::encode(values, kind).with_context(|| format!("cannot write {}", kind.name()))?;
        encoded.push((name, kind, shape, data));
    }
    let tensors: Vec<Tensor<'_>> = encoded
        .iter()
        .map(|(name, kind, shape, data)| Tensor {
            name: name.clone(),
            kind: *kind,
            shape: shape.clone(),
            data,
        })
        .collect();
    write(path, name, &net.config, vocabulary, kind, &tensors)
}

/// Reads a llama-architecture model file of any type that candle knows, as f32.
pub(crate) fn read_net(path: &Path) -> Result<Net> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let content = gguf_file::Content::read(&mut file)
        .with_context(|| format!("{} is not a model that candle can read", path.display()))?;
    let entry = |key: &str| content.metadata.get(key).with_context(|| format!("no {key}"));
    let number = |key: &str| -> Result<usize> { Ok(entry(key)?.to_u32()? as usize) };
    let embeddings = content.tensor_infos.get("token_embd.weight").context("no token_embd.weight")?;
    let config = Config {
        vocab: embeddings.shape.dims().first().copied().context("token_embd.weight has no shape")?,
        width: number("llama.embedding_length")?,
        layers: number("llama.block_count")?,
        heads: number("llama.attention.head_count")?,
        kv_heads: number("llama.attention.head_count_kv")?,
        ffn: number("llama.feed_forward_length")?,
        context: number("llama.context_length")?,
        rope_base: match content.metadata.get("llama.rope.freq_base") {
            Some(value) => f64::from(value.to_f32()?),
            None => 10_000.0,
        },
        eps: f64::from(entry("llama.attention.layer_norm_rms_epsilon")?.to_f32()?),
    };
    let mut weights = BTreeMap::new();
    for (name, shape) in config.shapes() {
        // A model without an output matrix uses its embeddings for it.
        let tied = name == "output.weight" && !content.tensor_infos.contains_key(&name);
        let source = if tied { "token_embd.weight" } else { &name };
        let tensor = content.tensor(&mut file, source, &Device::Cpu)?.dequantize(&Device::Cpu)?;
        weights.insert(name, (shape, tensor.flatten_all()?.to_vec1()?));
    }
    Net::from_weights(config, weights)
}
