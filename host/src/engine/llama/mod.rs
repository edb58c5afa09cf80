//! The llama.cpp engine: GGUF files and split sets.
//!
//! Invariants: judged runs use an F32 cache and no repacked weights, sequences are grouped in
//! the order given, and logits are computed only where a row is scored. Deliberately absent:
//! prompt-cache reuse between calls, which changes rounding.

use std::path::Path;

use super::check_item;
use super::softmax::{RowSummary, bucket_logits, summarize, top_ids};
use super::{
    Detail, EngineError, EngineInfo, LoadProgress, LoadSpec, Model, ModelInfo, ScoreItem, TraceSink,
};
use crate::domain::trace::{COARSE_TOP, Distribution, FULL_VOCAB_LIMIT, Trace};

mod ffi;
mod quantize;

pub use quantize::quantize;

/// Tokens computed at once; llama.cpp's own default.
const MICRO_BATCH: u32 = 512;
/// Tokens per decode call at most; llama.cpp's own default.
const BATCH: u32 = 2048;
/// Bytes of logits that one decode call may leave in memory.
const LOGIT_BYTES: u64 = 128 << 20;
/// Longest context per sequence; hostile metadata may claim any number.
const CONTEXT_MAX: u32 = 131_072;

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
        if spec.context == 0 || spec.context > CONTEXT_MAX || spec.parallel == 0 || spec.threads == 0 {
            return Err(EngineError::Request(format!(
                "context {} (1 to {CONTEXT_MAX}), sequences {} and threads {} must be in range",
                spec.context, spec.parallel, spec.threads
            )));
        }
        let paths: Vec<&Path> = spec.paths.iter().map(std::path::PathBuf::as_path).collect();
        let params = ffi::ModelParams { gpu_layers: spec.gpu_layers, extra_buffers: spec.extra_buffers };
        let model = ffi::Model::load(&paths, params, progress).map_err(&failed)?;
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
        Ok(Self { model, info, spec: spec.clone() })
    }

    /// A context for `spec.parallel` sequences of up to `longest` tokens.
    fn context(&self, longest: usize) -> Result<ffi::Context<'_>, EngineError> {
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

    /// The most likely token that does not end generation.
    fn greedy(&self, logits: &[f32]) -> Option<u32> {
        let mut best: Option<(u32, f32)> = None;
        for (id, &z) in (0u32..).zip(logits) {
            let better = best.is_none_or(|(_, value)| z > value);
            if better && z.is_finite() && !self.model.ends_generation(id) {
                best = Some((id, z));
            }
        }
        best.map(|(id, _)| id)
    }
}

/// Collects the rows of one sequence as they are computed.
struct TraceBuilder<'a> {
    item: &'a ScoreItem,
    trace: Trace,
    failure: Option<String>,
}

impl<'a> TraceBuilder<'a> {
    fn new(item: &'a ScoreItem, vocab: u32) -> Self {
        let distribution = match &item.detail {
            Detail::Summary => Distribution::Summary,
            Detail::Own if vocab <= FULL_VOCAB_LIMIT => Distribution::Full { logits: Vec::new() },
            Detail::Own | Detail::Given { .. } => Distribution::Coarse {
                kept: COARSE_TOP as u32,
                ids: Vec::new(),
                logits: Vec::new(),
                bucket_logits: Vec::new(),
            },
        };
        Self {
            item,
            trace: Trace {
                tokens: item.tokens.clone(),
                scored_from: item.scored_from,
                vocab,
                token_logprobs: Vec::new(),
                log_sum_exp: Vec::new(),
                entropy: Vec::new(),
                argmax: Vec::new(),
                distribution,
            },
            failure: None,
        }
    }

    /// Adds the next row; a row that is not finite makes the whole sequence unscorable.
    fn push(&mut self, logits: &[f32], summary: Option<RowSummary>) {
        if self.failure.is_some() {
            return;
        }
        let row = self.trace.rows();
        let next = self.item.tokens.get(self.item.scored_from as usize + row);
        let chosen = next.and_then(|&token| logits.get(token as usize));
        let (Some(summary), Some(&chosen)) = (summary, chosen) else {
            self.failure = Some(format!("the logits of scored position {row} are not finite"));
            return;
        };
        self.trace.token_logprobs.push(f64::from(chosen) - summary.log_sum_exp);
        self.trace.log_sum_exp.push(summary.log_sum_exp);
        self.trace.entropy.push(summary.entropy);
        self.trace.argmax.push(summary.argmax);
        match &mut self.trace.distribution {
            Distribution::Summary => {}
            Distribution::Full { logits: kept } => kept.extend_from_slice(logits),
            Distribution::Coarse { ids, logits: kept, bucket_logits: buckets, .. } => {
                let row_ids = match &self.item.detail {
                    Detail::Given { ids } => {
                        ids.get(row * COARSE_TOP..(row + 1) * COARSE_TOP).unwrap_or_default().to_vec()
                    }
                    Detail::Summary | Detail::Own => top_ids(logits),
                };
                kept.extend(row_ids.iter().filter_map(|&id| logits.get(id as usize)));
                buckets.extend(bucket_logits(logits, &row_ids, summary.log_sum_exp));
                ids.extend(row_ids);
            }
        }
    }

    fn finish(self) -> Result<Trace, String> {
        match self.failure {
            Some(failure) => Err(failure),
            None => Ok(self.trace),
        }
    }
}

/// Summaries of the output rows of one batch, computed on all worker threads.
fn summarize_rows(rows: &[&[f32]], threads: usize) -> Vec<Option<RowSummary>> {
    let share = rows.len().div_ceil(threads.max(1)).max(1);
    if threads <= 1 || rows.len() <= 1 {
        return rows.iter().map(|row| summarize(row)).collect();
    }
    std::thread::scope(|scope| {
        let handles: Vec<_> = rows
            .chunks(share)
            .map(|chunk| scope.spawn(move || chunk.iter().map(|row| summarize(row)).collect::<Vec<_>>()))
            .collect();
        handles.into_iter().flat_map(|handle| handle.join().unwrap_or_default()).collect()
    })
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
                    builder.failure = Some(reason);
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
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0) + new_tokens as usize;
        let bad =
            |prompt: &&Vec<u32>| prompt.is_empty() || prompt.iter().any(|&token| token >= self.info.vocab);
        if longest > self.spec.context as usize || prompts.iter().any(|prompt| bad(&prompt)) {
            return Err(EngineError::Request(format!(
                "a prompt is empty, has a token outside the vocabulary, or with {new_tokens} new tokens does not fit the context of {}",
                self.spec.context
            )));
        }
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
                        let token =
                            context.logits(index).and_then(|row| self.greedy(row)).ok_or_else(|| {
                                EngineError::Compute(
                                    "the logits of a generated token are not finite".to_owned(),
                                )
                            })?;
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
