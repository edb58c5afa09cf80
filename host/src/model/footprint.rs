//! What a model will take, by formula from its headers: a cross-check of the engine's own dry
//! run, and what there is where no engine can be asked.
//!
//! Sources: llama.cpp's `llama-kv-cache.cpp`, `llama-kv-cache-iswa.cpp`,
//! `llama-memory-recurrent.cpp` and `llama-hparams.cpp`, as pinned. The cache is exact for the
//! families below; scratch memory has no closed form and is an estimate of its largest terms.
//! Invariants: every product is checked or saturates; absurd values are clamped before they are
//! multiplied. Where layers go when there are several devices is [`place`]'s.

pub mod log;
pub mod place;

use std::path::Path;

use super::gguf::{GgmlType, Header, Metadata, Value, read_strict};
use super::source::SourceFile;
use super::split;
use crate::domain::Problem;
use crate::domain::footprint::{DeviceBytes, Footprint};

/// How the model is to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Tokens per sequence.
    pub context: u64,
    /// Sequences side by side, each with a cache of its own.
    pub parallel: u64,
    /// Tokens computed at once.
    pub micro_batch: u64,
    /// Rows of logits kept at once.
    pub outputs: u64,
    /// Format of the cache.
    pub kv: GgmlType,
    /// Whether attention is computed without a matrix of scores.
    pub flash: bool,
}

/// Bytes by formula.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    pub model_bytes: u64,
    /// Part of it that is experts, of which a token uses a few.
    pub expert_bytes: u64,
    /// What computing one token reads: bandwidth over this bounds the speed.
    pub active_bytes: u64,
    pub kv_bytes: u64,
    /// State of recurrent layers, which does not grow with the context.
    pub state_bytes: u64,
    /// The table of cells, in the machine's own memory.
    pub cell_bytes: u64,
    /// Rows of logits, in the machine's own memory.
    pub output_bytes: u64,
    /// Scratch, roughly.
    pub compute_bytes: u64,
    /// Tokens, merges and their indices.
    pub vocabulary_bytes: u64,
}

impl Counted {
    /// As one device without an accelerator, with the weights mapped.
    pub fn footprint(&self) -> Footprint {
        let cpu = DeviceBytes {
            name: "CPU".to_owned(),
            model_bytes: self.model_bytes,
            kv_bytes: self.kv_bytes.saturating_add(self.state_bytes),
            compute_bytes: self.compute_bytes,
            output_bytes: self.output_bytes,
            mapped_bytes: self.model_bytes,
            free_bytes: None,
        };
        let process = [PROCESS_BYTES, self.cell_bytes, self.vocabulary_bytes];
        Footprint {
            devices: vec![cpu],
            process_bytes: process.into_iter().fold(0, u64::saturating_add),
            library_bytes: 0,
        }
    }
}

/// What a worker holds before it knows of a model, as measured.
const PROCESS_BYTES: u64 = 8 << 20;
/// Bytes of one cell of the table, as measured: 10 million cells took 510 MB.
const CELL_BYTES: u64 = 51;
/// Cells come in multiples of this.
const CELL_PAD: u64 = 256;
/// Larger contexts than any; hostile headers claim anything.
const CONTEXT_MAX: u64 = 1 << 24;
/// Widths and counts above this are nonsense, and their products would mean nothing.
const WIDTH_MAX: u64 = 1 << 24;
/// As llama.cpp has room for.
const LAYERS_MAX: u64 = 512;

/// Counts the model at `path`, all parts of it.
///
/// # Errors
/// A part cannot be read, or is no GGUF file.
pub fn count(path: &Path, shape: Shape) -> Result<Counted, Problem> {
    Ok(of_headers(&headers(path)?, shape))
}

/// The headers of all parts.
fn headers(path: &Path) -> Result<Vec<Header>, Problem> {
    let paths = split::of_path(path).map_or_else(|| vec![path.to_owned()], |name| name.paths(path));
    let mut headers = Vec::with_capacity(paths.len());
    for part in &paths {
        let source = SourceFile::open(part).map_err(|error| Problem::io("open", part, &error))?;
        let header =
            read_strict(&source).map_err(|error| Problem::input(format!("{}: {error}", part.display())))?;
        headers.push(header);
    }
    Ok(headers)
}

/// As [`count`], of headers already read; the first has the metadata.
pub fn of_headers(headers: &[Header], shape: Shape) -> Counted {
    let Some(first) = headers.first() else { return Counted::default() };
    let facts = Facts::read(&first.metadata);
    let tensors = || headers.iter().flat_map(|header| &header.tensors);
    let sum = |wanted: &dyn Fn(&str) -> bool| {
        let sizes = tensors().filter(|tensor| wanted(&tensor.name)).map(|tensor| tensor.bytes);
        sizes.fold(0, u64::saturating_add)
    };
    let model_bytes = sum(&|_| true);
    let expert_bytes = sum(&is_expert);
    let used = facts.experts_used.min(facts.experts.max(1));
    let idle = match facts.experts {
        0 => 0,
        experts => u128::from(expert_bytes) * u128::from(experts.saturating_sub(used)) / u128::from(experts),
    };
    let shape = shape.clamped();
    let vocabulary = vocabulary(&first.metadata);
    let text = ["tokenizer.ggml.tokens", "tokenizer.ggml.merges"]
        .into_iter()
        .filter_map(|key| first.metadata.array(key))
        .map(|array| (array.raw().len() as u64).saturating_add(array.len().saturating_mul(INDEX_BYTES)))
        .fold(0, u64::saturating_add);
    Counted {
        model_bytes,
        expert_bytes,
        active_bytes: model_bytes.saturating_sub(u64::try_from(idle).unwrap_or(u64::MAX)),
        kv_bytes: facts.kv_bytes(shape),
        state_bytes: facts.state_bytes(shape),
        cell_bytes: facts.cells(shape).saturating_mul(CELL_BYTES),
        output_bytes: shape.outputs.saturating_mul(vocabulary.saturating_mul(4)),
        compute_bytes: facts.compute_bytes(shape, vocabulary),
        vocabulary_bytes: text,
    }
}

impl Shape {
    /// As the engine rounds it, and no further than anything real.
    fn clamped(self) -> Self {
        let context = self.context.clamp(1, CONTEXT_MAX).next_multiple_of(CELL_PAD);
        Self { context, parallel: self.parallel.clamp(1, 1 << 16), ..self }
    }
}

/// Tokens of the vocabulary.
fn vocabulary(metadata: &Metadata) -> u64 {
    metadata.array("tokenizer.ggml.tokens").map_or(0, super::gguf::Array::len)
}

/// What llama.cpp keeps for one token or merge besides its text: two maps and a record.
const INDEX_BYTES: u64 = 160;

/// llama.cpp's pattern for tensors of experts, the fused ones included:
/// `\.ffn_(up|down|gate|gate_up)_(ch|)exps`.
pub fn is_expert(name: &str) -> bool {
    let kinds = ["up", "down", "gate", "gate_up"];
    name.split_once(".ffn_").is_some_and(|(_, rest)| {
        kinds.iter().any(|kind| {
            let after = rest.strip_prefix(kind).and_then(|rest| rest.strip_prefix('_'));
            after.is_some_and(|rest| rest.starts_with("exps") || rest.starts_with("chexps"))
        })
    })
}

/// Numbers of the metadata that decide about memory, clamped.
#[derive(Debug, Clone, Default)]
struct Facts {
    embedding: u64,
    feed_forward: u64,
    heads: u64,
    /// Per layer.
    heads_kv: Vec<u64>,
    key: u64,
    value: u64,
    key_window: u64,
    value_window: u64,
    /// Compressed keys serve as values, too.
    latent: bool,
    window: u64,
    /// Layers that see only the window.
    windowed: Vec<bool>,
    /// Layers from here on use the cache of earlier ones.
    owning: u64,
    experts: u64,
    experts_used: u64,
    recurrent: Vec<bool>,
    /// f32 values of the convolution and of the state, per recurrent layer and sequence.
    convolution: u64,
    state: u64,
}

impl Facts {
    fn read(metadata: &Metadata) -> Self {
        let number =
            |key: &str| metadata.hparam(key).and_then(Value::as_u64).map(|value| value.min(WIDTH_MAX));
        let or = |key: &str, default: u64| number(key).unwrap_or(default);
        let architecture = metadata.architecture().unwrap_or_default();
        let layers = or("block_count", 0).min(LAYERS_MAX);
        let per_layer = |key: &str, default: u64| -> Vec<u64> {
            match metadata.hparam(key) {
                Some(Value::Array(array)) => {
                    let values =
                        array.integers().map(|value| u64::try_from(value).unwrap_or(0).min(WIDTH_MAX));
                    let mut values: Vec<u64> = values.take(layers as usize).collect();
                    values.resize(layers as usize, 0);
                    values
                }
                Some(value) => vec![value.as_u64().unwrap_or(default).min(WIDTH_MAX); layers as usize],
                None => vec![default; layers as usize],
            }
        };
        let embedding = or("embedding_length", 0);
        let all_heads = per_layer("attention.head_count", 0);
        let heads = all_heads.iter().copied().max().unwrap_or(0);
        let heads_kv = match metadata.hparam("attention.head_count_kv") {
            Some(_) => per_layer("attention.head_count_kv", heads),
            None => all_heads,
        };
        let head = embedding.checked_div(heads).unwrap_or(0);
        let (key, value) = (or("attention.key_length", head), or("attention.value_length", head));
        let latent = number("attention.key_length_mla").is_some_and(|length| length > 0)
            && number("attention.value_length_mla").is_some_and(|length| length > 0);
        let window = or("attention.sliding_window", 0);
        let recurrent = recurrent_layers(metadata, architecture, layers, &heads_kv);
        let (convolution, state) = recurrent_sizes(metadata, embedding);
        Self {
            embedding,
            feed_forward: per_layer("feed_forward_length", 0).into_iter().max().unwrap_or(0),
            heads,
            heads_kv,
            key,
            value,
            key_window: or("attention.key_length_swa", key),
            value_window: or("attention.value_length_swa", value),
            latent,
            window,
            windowed: windowed_layers(metadata, architecture, layers, window),
            owning: layers.saturating_sub(or("attention.shared_kv_layers", 0)),
            experts: or("expert_count", 0),
            experts_used: or("expert_used_count", 0),
            recurrent,
            convolution,
            state,
        }
    }

    /// Cells of a layer's cache for one sequence.
    fn cells_of(&self, layer: usize, shape: Shape) -> u64 {
        if self.windowed.get(layer).copied().unwrap_or(false) {
            let seen = self.window.saturating_add(shape.micro_batch);
            return shape.context.min(seen).next_multiple_of(CELL_PAD);
        }
        shape.context
    }

    fn kv_bytes(&self, shape: Shape) -> u64 {
        (0..self.heads_kv.len()).map(|layer| self.kv_of(layer, shape)).fold(0, u64::saturating_add)
    }

    /// The cache of one layer.
    fn kv_of(&self, layer: usize, shape: Shape) -> u64 {
        let heads = self.heads_kv.get(layer).copied().unwrap_or(0);
        if layer as u64 >= self.owning || self.is_recurrent(layer) {
            return 0;
        }
        let windowed = self.windowed.get(layer).copied().unwrap_or(false);
        let (key, value) =
            if windowed { (self.key_window, self.value_window) } else { (self.key, self.value) };
        let value = if self.latent { 0 } else { value };
        let cells = self.cells_of(layer, shape).saturating_mul(shape.parallel);
        let row = |width: u64| row_bytes(shape.kv, width.saturating_mul(heads)).saturating_mul(cells);
        row(key).saturating_add(row(value))
    }

    fn is_recurrent(&self, layer: usize) -> bool {
        self.recurrent.get(layer).copied().unwrap_or(false)
    }

    fn state_bytes(&self, shape: Shape) -> u64 {
        (0..self.recurrent.len()).map(|layer| self.state_of(layer, shape)).fold(0, u64::saturating_add)
    }

    /// The state of one layer.
    fn state_of(&self, layer: usize, shape: Shape) -> u64 {
        let each = self.convolution.saturating_add(self.state).saturating_mul(4);
        if self.is_recurrent(layer) { each.saturating_mul(shape.parallel) } else { 0 }
    }

    /// Cells of all tables: one for the plain layers, one for the windowed ones.
    fn cells(&self, shape: Shape) -> u64 {
        let windowed = self.windowed.iter().position(|windowed| *windowed);
        let plain = self.windowed.iter().position(|windowed| !*windowed);
        let of = |layer: Option<usize>| layer.map_or(0, |layer| self.cells_of(layer, shape));
        of(windowed).saturating_add(of(plain)).saturating_mul(shape.parallel)
    }

    /// The largest terms: activations of a micro-batch, scores and mask of attention, logits.
    fn compute_bytes(&self, shape: Shape, vocabulary: u64) -> u64 {
        let batch = shape.micro_batch.min(shape.context.saturating_mul(shape.parallel));
        let wide = self.embedding.saturating_mul(4).max(self.feed_forward.saturating_mul(2));
        let activations = batch.saturating_mul(wide).saturating_mul(4);
        let scores = if shape.flash { 0 } else { self.heads };
        let attention =
            shape.context.saturating_mul(batch).saturating_mul(scores.saturating_add(1)).saturating_mul(4);
        let logits = shape.outputs.min(batch).saturating_mul(vocabulary).saturating_mul(4);
        activations.saturating_add(attention).saturating_add(logits)
    }
}

/// Bytes of a row; part of a block counts as a whole one.
fn row_bytes(kind: GgmlType, width: u64) -> u64 {
    width.div_ceil(kind.block()).saturating_mul(kind.block_bytes())
}

/// Layers with a sliding window: `il % period < period - 1`, or as listed.
fn windowed_layers(metadata: &Metadata, architecture: &str, layers: u64, window: u64) -> Vec<bool> {
    let none = vec![false; layers as usize];
    if window == 0 {
        return none;
    }
    if let Some(Value::Array(array)) = metadata.hparam("attention.sliding_window_pattern") {
        let mut listed: Vec<bool> = array.integers().map(|value| value != 0).take(layers as usize).collect();
        listed.resize(layers as usize, false);
        return listed;
    }
    let given = metadata.hparam("attention.sliding_window_pattern").and_then(Value::as_u64);
    let period = match (given, architecture) {
        (Some(period), _) => period,
        (None, "gemma2" | "gpt-oss") => 2,
        (None, "cohere2" | "olmo2" | "exaone4") => 4,
        (None, "gemma3") => 6,
        (None, "gemma3n") => 5,
        // Others have the number and do not use it, or are not known: the whole context is safe.
        (None, _) => return none,
    };
    (0..layers).map(|layer| period > 0 && layer % period < period - 1).collect()
}

fn recurrent_layers(metadata: &Metadata, architecture: &str, layers: u64, heads_kv: &[u64]) -> Vec<bool> {
    let has = |key: &str| metadata.hparam(key).and_then(Value::as_u64).is_some_and(|value| value > 0);
    if !has("ssm.inner_size") && !has("wkv.head_size") {
        return vec![false; layers as usize];
    }
    if let Some(every) =
        metadata.hparam("full_attention_interval").and_then(Value::as_u64).filter(|every| *every > 0)
    {
        return (0..layers).map(|layer| (layer + 1) % every != 0).collect();
    }
    match architecture {
        "falcon-h1" => vec![true; layers as usize],
        "mamba" | "mamba2" => vec![true; layers as usize],
        name if name.contains("rwkv") => vec![true; layers as usize],
        // Hybrids say with no heads that a layer has no attention.
        _ => heads_kv.iter().map(|heads| *heads == 0).collect(),
    }
}

/// f32 values per recurrent layer: of the convolution (or token shift), and of the state.
fn recurrent_sizes(metadata: &Metadata, embedding: u64) -> (u64, u64) {
    let number = |key: &str| metadata.hparam(key).and_then(Value::as_u64).unwrap_or(0).min(WIDTH_MAX);
    let head = number("wkv.head_size");
    if head > 0 {
        let shifts = metadata.hparam("token_shift_count").and_then(Value::as_u64).unwrap_or(2).min(WIDTH_MAX);
        return (shifts.saturating_mul(embedding), embedding.saturating_mul(head));
    }
    let (kernel, inner) = (number("ssm.conv_kernel"), number("ssm.inner_size"));
    let (state, groups) = (number("ssm.state_size"), number("ssm.group_count"));
    let width = inner.saturating_add(groups.saturating_mul(state).saturating_mul(2));
    (kernel.saturating_sub(1).saturating_mul(width), state.saturating_mul(inner))
}

#[cfg(test)]
mod tests;
