//! The candle engine: safetensors folders as Hugging Face lays them out, computed in F32.
//!
//! One generic decoder, described by the folder's `config.json`; what is not understood is
//! refused, never guessed. Each sequence is computed alone, so its numbers do not depend on
//! what is scored beside it. Matrices can be rounded to 8 bits as they are read; everything else
//! is F32. On an accelerator a model lies as a whole. Deliberately absent: memory mapping, layers
//! shared out over devices, and code from the model's folder.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::rows::{LOGIT_BYTES, TraceBuilder, greedy, summarize_rows};
use super::softmax::summarize;
use super::text::RunText;
use super::{
    EngineError, EngineInfo, Honoured, KvType, LoadBits, LoadProgress, LoadSpec, Model, ModelInfo, RunRecord,
    RunSequence, RunSink, RunSpec, RunToken, ScoreItem, TraceSink,
};
use super::{check_item, check_prompts, check_spec};
use candle_core::Device;

use crate::domain::budget;
use crate::domain::footprint::DeviceBytes;
use crate::domain::trace::Trace;

mod adapter;
mod config;
mod decoder;
mod device;
mod layout;
mod matrix;
mod rope;
mod tokens;
mod weights;

pub use device::accelerated;

use adapter::Adapter;
use config::{Config, Family};
use decoder::{CHUNK, Cache, Decoder, Origin};
use layout::{Layout, Slot};
use matrix::{SLAB, eight_bytes};
use tokens::Tokens;
use weights::{Weights, text_file};

/// The release of candle that this is built with; a test compares it with Cargo.lock.
const CANDLE: &str = "0.11.1";

/// A model held by candle.
#[derive(Debug)]
pub struct CandleModel {
    config: Config,
    decoder: Decoder,
    tokens: Tokens,
    /// Tokens that end generation.
    ends: Vec<u32>,
    info: ModelInfo,
    spec: LoadSpec,
}

/// Layers computed so far in this process; only its changes mean anything.
pub fn ticks() -> u64 {
    decoder::TICKS.load(Ordering::Relaxed)
}

/// Memory that running `spec` takes, from the headers alone: weights as they are held, the cache
/// of one sequence, and the working memory of one chunk, or of loading where that is more.
///
/// # Errors
/// As for loading, as far as headers tell.
pub fn estimate(spec: &LoadSpec) -> Result<Vec<DeviceBytes>, EngineError> {
    let Parts { config, layout, .. } = Parts::open(spec).map_err(|reason| load_error(spec, reason))?;
    let accelerator = device::is_asked(spec, config.layers).map_err(EngineError::Request)?;
    let product = |sizes: &[usize]| sizes.iter().fold(4u64, |all, &size| all.saturating_mul(size as u64));
    let context = spec.context as usize;
    let heads = config.heads * config.head_dim;
    let scores = product(&[config.heads, CHUNK.min(context), context]);
    let rows = product(&[CHUNK, 4 * config.width + 2 * heads + 3 * config.ffn]);
    let (mut held, mut most, mut passing) = (0u64, 0u64, 0u64);
    for place in layout.all() {
        // Read as it is stored, and widened: 8 bytes a value for a moment, however it is stored.
        let (kept, read) = match (spec.load_bits, place.matrix()) {
            (Some(LoadBits::Eight), Some([rows, columns])) => {
                let kept = eight_bytes(rows, columns);
                let slab = if place.transposed { product(&place.shape) } else { 4 * SLAB as u64 };
                (kept, kept.saturating_add(product(&place.shape).min(slab).saturating_mul(2)))
            }
            _ => (product(&place.shape), product(&place.shape).saturating_mul(2)),
        };
        most = most.max(held.saturating_add(read));
        passing = passing.max(read);
        held = held.saturating_add(kept);
    }
    // Loading takes from the CPU what only passes through it.
    let loading = if accelerator { 0 } else { most.saturating_sub(held) };
    let whole = DeviceBytes {
        model_bytes: held,
        kv_bytes: product(&[2, config.layers, config.kv_heads, config.head_dim, context]),
        compute_bytes: loading.max(scores.saturating_mul(3).saturating_add(rows)),
        output_bytes: product(&[2, rows_per_step(config.vocab), config.vocab]),
        ..DeviceBytes::default()
    };
    Ok(device::placed(whole, passing, accelerator))
}

/// What the headers of a folder say, checked against one another.
struct Parts {
    config: Config,
    layout: Layout,
    weights: Weights,
}

impl Parts {
    fn open(spec: &LoadSpec) -> Result<Self, String> {
        let text = text_file(&spec.paths, "config.json", budget::CONFIG_BYTES)?;
        let config = Config::parse(&text.ok_or("there is no config.json")?)?;
        if config.rope.is_none() && spec.context as usize > config.context {
            return Err(format!(
                "the model has {} learned positions and a context of {} was asked for",
                config.context, spec.context
            ));
        }
        let layout = Layout::of(&config);
        let prefix = if config.family == Family::Gpt2 { "transformer." } else { "" };
        let weights = Weights::open(&spec.paths, prefix)?;
        weights.check(&layout)?;
        Ok(Self { config, layout, weights })
    }
}

fn load_error(spec: &LoadSpec, reason: String) -> EngineError {
    let folder = spec.paths.first().and_then(|path| path.parent());
    EngineError::Load { path: folder.map(|path| path.display().to_string()).unwrap_or_default(), reason }
}

/// Rows of logits computed at once.
fn rows_per_step(vocab: usize) -> usize {
    usize::try_from(LOGIT_BYTES / (4 * vocab.max(1) as u64)).unwrap_or(1).clamp(16, CHUNK)
}

fn engine_info(device: &Device) -> EngineInfo {
    let mut features: Vec<&str> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    for (name, there) in [
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
    ] {
        if there {
            features.push(name);
        }
    }
    EngineInfo {
        name: "candle".to_owned(),
        version: CANDLE.to_owned(),
        build: format!("F32, {} {}", std::env::consts::ARCH, features.join(" ")).trim().to_owned(),
        device: device::name(device),
    }
}

impl CandleModel {
    /// Loads the folder whose files `spec` lists, with its adapter if there is one. An adapter
    /// that changes nothing is refused: the logits of a few tokens are computed with and
    /// without it.
    ///
    /// # Errors
    /// The architecture is not supported, tensors are missing, too many or of another shape,
    /// a file cannot be read, or the adapter does not fit or does nothing.
    pub fn load(spec: &LoadSpec, progress: LoadProgress<'_>) -> Result<Self, EngineError> {
        check_spec(spec)?;
        if spec.kv_type != KvType::F32 {
            return Err(EngineError::Request("safetensors models run with an F32 cache only".to_owned()));
        }
        Self::open(spec, progress).map_err(|reason| load_error(spec, reason))
    }

    fn open(spec: &LoadSpec, progress: LoadProgress<'_>) -> Result<Self, String> {
        let Parts { config, layout, weights } = Parts::open(spec)?;
        let device = device::open(device::is_asked(spec, config.layers)?)?;
        let context = spec.context as usize;
        if config.tied {
            let embedding = layout.whole.iter().find(|place| place.slot == Slot::Embedding);
            weights.check_tied(embedding.map_or("", |place| place.name.as_str()))?;
        }
        let from = Origin { weights: &weights, adapter: None, bits: spec.load_bits, device: &device };
        let mut decoder = Decoder::load(&config, &layout, from, context, progress)?;
        if !spec.adapter.is_empty() {
            let adapter = Adapter::open(&spec.adapter, &layout)?;
            let without = probe(&decoder, &config)?;
            drop(decoder);
            let from = Origin { adapter: Some(&adapter), ..from };
            decoder = Decoder::load(&config, &layout, from, context, progress)?;
            super::adapter_works(&without, &probe(&decoder, &config)?)?;
        }
        let tokens = Tokens::open(&spec.paths, config.bos)?;
        let mut ends = config.eos.clone();
        if let Some(text) = text_file(&spec.paths, "generation_config.json", budget::CONFIG_BYTES)? {
            ends.extend(generation_ends(&text)?);
        }
        let (parameters, size_bytes) = weights.size();
        let info = ModelInfo {
            vocab: u32::try_from(config.vocab).map_err(|error| error.to_string())?,
            context_train: u32::try_from(config.context).unwrap_or(u32::MAX),
            bos: config.bos,
            eos: config.eos.first().copied(),
            adds_bos: tokens.adds_bos,
            description: format!("{} {} layers", config.model_type, config.layers),
            size_bytes,
            parameters,
            accelerators: u32::from(accelerated()),
            engine: engine_info(&device),
        };
        Ok(Self { config, decoder, tokens, ends, info, spec: spec.clone() })
    }

    /// Computes one sequence and hands its scored rows to the builder; parts go to `each`.
    fn trace(
        &self,
        item: &ScoreItem,
        builder: &mut TraceBuilder<'_>,
        each: &mut dyn FnMut(Trace) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        // The last token predicts nothing that is scored, so it is not computed.
        let inputs = item.tokens.split_last().map_or(&[][..], |(_, inputs)| inputs);
        let mut cache = self.decoder.cache(inputs.len());
        let first = (item.scored_from as usize).saturating_sub(1);
        let mut start = 0;
        for chunk in inputs.chunks(CHUNK) {
            let hidden = self.decoder.forward(chunk, &mut cache).map_err(compute)?;
            let end = start + chunk.len();
            let mut row = first.max(start);
            while row < end {
                let count = rows_per_step(self.config.vocab).min(end - row);
                let part = hidden.narrow(0, row - start, count).map_err(compute)?;
                let logits = self.decoder.logits(&part).map_err(compute)?;
                let rows: Vec<&[f32]> = logits.chunks_exact(self.config.vocab).collect();
                let summaries = summarize_rows(&rows, self.spec.threads as usize);
                for (row, summary) in rows.iter().zip(summaries) {
                    builder.push(row, summary);
                    builder.part().map_or(Ok(()), &mut *each)?;
                }
                row += count;
            }
            start = end;
        }
        Ok(())
    }

    /// Logits after the last of these tokens, computed in chunks.
    fn last_logits(&self, tokens: &[u32], chunk: usize, cache: &mut Cache) -> Result<Vec<f32>, EngineError> {
        let mut last = None;
        for part in tokens.chunks(chunk) {
            last = Some(self.decoder.forward(part, cache).map_err(compute)?);
        }
        let Some(hidden) = last else { return Ok(Vec::new()) };
        let rows = hidden.dim(0).map_err(compute)?;
        let row = hidden.narrow(0, rows.saturating_sub(1), 1).map_err(compute)?;
        self.decoder.logits(&row).map_err(compute)
    }

    /// Continues one prompt.
    fn continued(
        &self,
        prompt: &[u32],
        spec: &RunSpec,
        each: &mut dyn FnMut(u32, String),
    ) -> Result<RunSequence, EngineError> {
        let chunk = (spec.micro_batch as usize).clamp(1, CHUNK);
        let mut cache = self.decoder.cache(prompt.len() + spec.new_tokens as usize);
        let mut out = RunSequence::default();
        let mut fed = prompt;
        if spec.prompt_cache
            && let Some((last, before)) = prompt.split_last()
        {
            self.last_logits(before, chunk, &mut cache)?;
            fed = std::slice::from_ref(last);
        }
        let mut text = RunText::new(spec, prompt);
        let started = Instant::now();
        let mut next;
        for _ in 0..spec.new_tokens {
            let logits = self.last_logits(fed, chunk, &mut cache)?;
            let (token, ends) = greedy(&logits, |id| self.ends.contains(&id))?;
            if ends && spec.stop_at_end {
                out.ended = true;
                break;
            }
            if spec.logprobs {
                let chosen = logits.get(token as usize).copied().unwrap_or(f32::NAN);
                let summary = summarize(&logits)
                    .ok_or_else(|| EngineError::Compute("a logit is not finite".to_owned()))?;
                out.logprobs.push(f64::from(chosen) - summary.log_sum_exp);
            }
            out.tokens.push(token);
            out.seconds.push(started.elapsed().as_secs_f64());
            let (piece, stop) = text.push(token, &|ids| self.tokens.decode(ids))?;
            each(token, piece);
            if stop {
                out.ended = true;
                break;
            }
            next = [token];
            fed = &next;
        }
        Ok(out)
    }
}

fn compute(error: candle_core::Error) -> EngineError {
    EngineError::Compute(error.to_string())
}

/// Logits after a few tokens spread over the vocabulary.
fn probe(decoder: &Decoder, config: &Config) -> Result<Vec<f32>, String> {
    let tokens = super::probe_tokens(config.vocab);
    let mut cache = decoder.cache(tokens.len());
    let hidden = decoder.forward(&tokens, &mut cache).map_err(|error| error.to_string())?;
    decoder.logits(&hidden).map_err(|error| error.to_string())
}

/// Tokens that end generation by generation_config.json.
fn generation_ends(text: &str) -> Result<Vec<u32>, String> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Ends {
        One(u32),
        Many(Vec<u32>),
    }
    #[derive(serde::Deserialize)]
    struct Generation {
        eos_token_id: Option<Ends>,
    }
    let parsed: Generation =
        serde_json::from_str(text).map_err(|error| format!("generation_config.json: {error}"))?;
    Ok(match parsed.eos_token_id {
        None => Vec::new(),
        Some(Ends::One(id)) => vec![id],
        Some(Ends::Many(ids)) => ids,
    })
}

impl Model for CandleModel {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn tokenize(&self, text: &str, add_special: bool) -> Result<Vec<u32>, EngineError> {
        self.tokens.encode(text, add_special).map_err(EngineError::Request)
    }

    fn tokenize_marked(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        self.tokens.encode_marked(text).map_err(EngineError::Request)
    }

    fn detokenize(&self, tokens: &[u32]) -> Result<String, EngineError> {
        self.tokens.decode(tokens).map_err(EngineError::Request)
    }

    fn score(&mut self, items: &[ScoreItem], sink: TraceSink<'_>) -> Result<(), EngineError> {
        for (index, item) in items.iter().enumerate() {
            let mut builder = TraceBuilder::new(item, self.info.vocab);
            match check_item(item, &self.info, self.spec.context) {
                Ok(()) => self.trace(item, &mut builder, &mut |part| sink(index, Ok(part)))?,
                Err(reason) => builder.fail(reason),
            }
            builder.finish().map_or(Ok(()), |trace| sink(index, trace))?;
        }
        Ok(())
    }

    /// Prompts are continued one after the other, whatever `parallel` says.
    fn run(&mut self, spec: &RunSpec, each: RunSink<'_>) -> Result<RunRecord, EngineError> {
        check_prompts(&spec.prompts, spec.new_tokens, &self.info, self.spec.context)?;
        let prompts = (0u32..).zip(&spec.prompts);
        let sequences: Result<Vec<RunSequence>, EngineError> = prompts
            .map(|(sequence, prompt)| {
                self.continued(prompt, spec, &mut |token, piece| each(RunToken { sequence, token, piece }))
            })
            .collect();
        let honoured = Honoured { parallel: false, micro_batch: true, prompt_cache: true, seed: true };
        Ok(RunRecord { sequences: sequences?, honoured })
    }

    fn parallel(&self) -> u32 {
        1
    }
}

#[cfg(test)]
mod tests;
