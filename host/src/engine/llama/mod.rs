//! The llama.cpp engine: GGUF files and split sets.
//!
//! Invariants: judged runs use an F32 cache and no repacked weights, sequences are grouped in
//! the order given, and logits are computed only where a row is scored. Deliberately absent:
//! prompt-cache reuse between calls, which changes rounding.

use std::path::Path;

use super::rows::{LOGIT_BYTES, TraceBuilder, greedy, not_finite, summarize_rows};
use super::{EngineError, EngineInfo, LoadProgress, LoadSpec, Model, ModelInfo, ScoreItem, TraceSink};
use super::{check_item, check_prompts, check_spec};

mod ffi;

/// Tokens computed at once; llama.cpp's own default.
const MICRO_BATCH: u32 = 512;
/// Tokens per decode call at most; llama.cpp's own default.
const BATCH: u32 = 2048;

/// A model held by llama.cpp.
#[derive(Debug)]
pub struct LlamaModel {
    model: ffi::Model,
    info: ModelInfo,
    spec: LoadSpec,
}

/// Steps computed so far in this process; a worker that still computes keeps it moving.
pub fn ticks() -> u64 {
    ffi::ticks()
}

/// What this build of llama.cpp is and runs on, without loading a model.
pub fn describe() -> Result<EngineInfo, EngineError> {
    ffi::backend().map_err(EngineError::Compute)?;
    Ok(engine_info(0))
}

fn engine_info(gpu_layers: i32) -> EngineInfo {
    let devices = ffi::devices();
    let device = if gpu_layers == 0 { devices.last().cloned() } else { Some(devices.join(", ")) };
    EngineInfo {
        name: "llama.cpp".to_owned(),
        version: ffi::version(),
        build: ffi::system_info(),
        device: device.unwrap_or_else(|| "unknown".to_owned()),
    }
}

impl LlamaModel {
    pub fn load(spec: &LoadSpec, progress: LoadProgress<'_>) -> Result<Self, EngineError> {
        let first = spec.paths.first().map(|path| path.display().to_string()).unwrap_or_default();
        let failed = |reason: String| EngineError::Load {
            path: first.clone(),
            reason: if reason.is_empty() { "llama.cpp gave no reason".to_owned() } else { reason },
        };
        check_spec(spec)?;
        let paths: Vec<&Path> = spec.paths.iter().map(std::path::PathBuf::as_path).collect();
        let params = ffi::ModelParams { gpu_layers: spec.gpu_layers, extra_buffers: spec.extra_buffers };
        let mut model = ffi::Model::load(&paths, params, progress).map_err(&failed)?;
        if !model.is_plain_decoder() {
            return Err(failed("not a left-to-right language model; assayd can only score those".to_owned()));
        }
        if model.vocab_size() == 0 {
            return Err(failed("the vocabulary is empty".to_owned()));
        }
        let info = ModelInfo {
            vocab: model.vocab_size(),
            context_train: model.context_train(),
            bos: model.bos(),
            eos: model.eos(),
            adds_bos: model.adds_bos(),
            description: model.description(),
            size_bytes: model.size_bytes(),
            parameters: model.parameters(),
            engine: engine_info(spec.gpu_layers),
        };
        for path in &spec.adapter {
            let about = |reason: String| EngineError::Load { path: path.display().to_string(), reason };
            model.load_adapter(path).map_err(about)?;
        }
        let loaded = Self { model, info, spec: spec.clone() };
        if let Some(path) = spec.adapter.first() {
            let about = |reason: String| EngineError::Load { path: path.display().to_string(), reason };
            let (without, with) = (loaded.probe(false)?, loaded.probe(true)?);
            super::adapter_works(&without, &with).map_err(about)?;
        }
        Ok(loaded)
    }

    /// Logits after a few tokens spread over the vocabulary, with the adapter or without it.
    fn probe(&self, adapted: bool) -> Result<Vec<f32>, EngineError> {
        let tokens = super::probe_tokens(self.info.vocab as usize);
        let mut context = self.bare_context(tokens.len())?;
        if adapted {
            context.use_adapter(&self.model).map_err(EngineError::Compute)?;
        }
        let entry =
            |(position, &token): (u32, &u32)| ffi::BatchEntry { token, position, sequence: 0, output: true };
        let entries: Vec<ffi::BatchEntry> = (0u32..).zip(&tokens).map(entry).collect();
        context.decode(&entries).map_err(EngineError::Compute)?;
        Ok((0..entries.len()).filter_map(|at| context.logits(at)).flatten().copied().collect())
    }

    /// A context for `spec.parallel` sequences of up to `longest` tokens, with the adapter.
    fn context(&self, longest: usize) -> Result<ffi::Context<'_>, EngineError> {
        let mut context = self.bare_context(longest)?;
        context.use_adapter(&self.model).map_err(EngineError::Compute)?;
        Ok(context)
    }

    fn bare_context(&self, longest: usize) -> Result<ffi::Context<'_>, EngineError> {
        // A multiple of 256 as llama.cpp pads it, so that the shape does not depend on
        // which of two similar sequences happens to be the longest.
        let longest = u32::try_from(longest).unwrap_or(u32::MAX);
        let context = longest.min(self.spec.context).next_multiple_of(256);
        let params = ffi::ContextParams {
            context,
            parallel: self.spec.parallel,
            batch: BATCH.min(context.saturating_mul(self.spec.parallel)),
            micro_batch: MICRO_BATCH,
            outputs: self.rows_per_call(),
            threads: self.spec.threads,
            kv_type: self.spec.kv_type,
        };
        ffi::Context::new(&self.model, params)
            .map_err(|reason| EngineError::Compute(format!("cannot create a context: {reason}")))
    }

    /// Rows of logits that one decode call may leave in memory; contexts are made for as many.
    fn rows_per_call(&self) -> u32 {
        let rows = LOGIT_BYTES / (4 * u64::from(self.info.vocab));
        u32::try_from(rows).unwrap_or(u32::MAX).clamp(16.max(self.spec.parallel), BATCH)
    }
}

impl Model for LlamaModel {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn tokenize(&self, text: &str, add_special: bool) -> Result<Vec<u32>, EngineError> {
        self.model.tokenize(text, add_special).map_err(EngineError::Request)
    }

    fn detokenize(&self, tokens: &[u32]) -> Result<String, EngineError> {
        self.model.detokenize(tokens).map_err(EngineError::Request)
    }

    fn score(&mut self, items: &[ScoreItem], sink: TraceSink<'_>) -> Result<(), EngineError> {
        let longest = items.iter().map(|item| item.tokens.len()).max().unwrap_or(0);
        if items.is_empty() {
            return Ok(());
        }
        let mut context = self.context(longest)?;
        let rows_per_call = self.rows_per_call();
        let parallel = self.spec.parallel as usize;
        for (group_index, group) in items.chunks(parallel).enumerate() {
            context.clear();
            let mut builders = Vec::with_capacity(group.len());
            let mut entries = Vec::new();
            for (sequence, item) in (0u32..).zip(group) {
                let checked = check_item(item, &self.info, self.spec.context);
                let mut builder = TraceBuilder::new(item, self.info.vocab);
                if let Err(reason) = checked {
                    builder.fail(reason);
                } else {
                    // The last token predicts nothing that is scored, so it is not computed.
                    let inputs = item.tokens.split_last().map_or(&[][..], |(_, inputs)| inputs);
                    entries.extend((0u32..).zip(inputs).map(|(position, &token)| ffi::BatchEntry {
                        token,
                        position,
                        sequence,
                        output: position + 1 >= item.scored_from,
                    }));
                }
                builders.push(builder);
            }
            let mut rest = entries.as_slice();
            while !rest.is_empty() {
                let (batch, after) = rest.split_at(call_length(rest, rows_per_call));
                rest = after;
                context.decode(batch).map_err(EngineError::Compute)?;
                let outputs: Vec<(u32, &[f32])> = batch
                    .iter()
                    .enumerate()
                    .filter(|(_, entry)| entry.output)
                    .map(|(index, entry)| (entry.sequence, context.logits(index).unwrap_or_default()))
                    .collect();
                let rows: Vec<&[f32]> = outputs.iter().map(|(_, row)| *row).collect();
                let summaries = summarize_rows(&rows, self.spec.threads as usize);
                for ((sequence, row), summary) in outputs.into_iter().zip(summaries) {
                    if let Some(builder) = builders.get_mut(sequence as usize) {
                        builder.push(row, summary);
                    }
                }
            }
            for (offset, builder) in builders.into_iter().enumerate() {
                sink(group_index * parallel + offset, builder.finish())?;
            }
        }
        Ok(())
    }

    fn generate(
        &mut self,
        prompts: &[Vec<u32>],
        new_tokens: u32,
        progress: LoadProgress<'_>,
    ) -> Result<Vec<Vec<u32>>, EngineError> {
        let longest = check_prompts(prompts, new_tokens, &self.info, self.spec.context)?;
        let mut context = self.context(longest)?;
        let mut continuations = Vec::with_capacity(prompts.len());
        let steps = prompts.len().div_ceil(self.spec.parallel as usize) * new_tokens as usize;
        let mut step = 0usize;
        for group in prompts.chunks(self.spec.parallel as usize) {
            context.clear();
            let mut grown: Vec<Vec<u32>> = vec![Vec::with_capacity(new_tokens as usize); group.len()];
            let mut entries: Vec<ffi::BatchEntry> = Vec::new();
            for (sequence, prompt) in (0u32..).zip(group) {
                let last = prompt.len().saturating_sub(1);
                entries.extend(prompt.iter().enumerate().map(|(position, &token)| ffi::BatchEntry {
                    token,
                    position: position as u32,
                    sequence,
                    output: position == last,
                }));
            }
            for _ in 0..new_tokens {
                let mut next = Vec::with_capacity(group.len());
                let mut rest = entries.as_slice();
                while !rest.is_empty() {
                    let (batch, after) = rest.split_at(call_length(rest, self.rows_per_call()));
                    rest = after;
                    context.decode(batch).map_err(EngineError::Compute)?;
                    for (index, entry) in batch.iter().enumerate().filter(|(_, entry)| entry.output) {
                        let token = context
                            .logits(index)
                            .and_then(|row| greedy(row, |id| self.model.ends_generation(id)))
                            .ok_or_else(not_finite)?;
                        if let Some(sequence) = grown.get_mut(entry.sequence as usize) {
                            sequence.push(token);
                        }
                        next.push(ffi::BatchEntry { token, position: entry.position + 1, ..*entry });
                    }
                }
                entries = next;
                step += 1;
                progress(step as f32 / steps.max(1) as f32);
            }
            continuations.extend(grown);
        }
        Ok(continuations)
    }
}

/// How many entries fit one decode call: bounded in tokens and in rows of logits.
fn call_length(entries: &[ffi::BatchEntry], rows: u32) -> usize {
    let mut outputs = 0;
    for (index, entry) in entries.iter().enumerate() {
        outputs += u32::from(entry.output);
        if index == BATCH as usize || outputs > rows {
            return index;
        }
    }
    entries.len()
}
