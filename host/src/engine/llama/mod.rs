//! The llama.cpp engine: GGUF files and split sets.
//!
//! Invariants: judged runs use an F32 cache and no repacked weights, sequences are grouped in
//! the order given, and logits are computed only where a row is scored. Deliberately absent:
//! prompt-cache reuse between calls, which changes rounding.

use std::path::Path;

use super::rows::{LOGIT_BYTES, TraceBuilder, summarize_rows};
use super::{
    EngineError, EngineInfo, LoadProgress, LoadSpec, MICRO_BATCH, Model, ModelInfo, RunRecord, RunSink,
    RunSpec, ScoreItem, TraceSink,
};
use super::{check_item, check_spec};
use crate::domain::footprint::DeviceBytes;

mod experts;
mod ffi;
mod quantize;
mod run;

pub use quantize::{quantize, quantize_rows};

/// Tokens per decode call at most; llama.cpp's own default.
const BATCH: u32 = 2048;
/// The buffer type of weights that are used as they lie in the file.
const MAPPED: &str = "CPU";

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

/// Starts the back end in a worker; from then on its errors are printed, too, so that the last
/// of them outlives a crash.
pub fn prepare() -> Result<(), EngineError> {
    ffi::print_errors();
    ffi::backend().map_err(EngineError::Compute).map(|_| ())
}

/// Memory by device, from a model and a context without weights.
pub fn estimate(spec: &LoadSpec) -> Result<Vec<DeviceBytes>, EngineError> {
    let dry = LlamaModel::open(spec, true, &mut |_| {})?;
    let context = dry.context(spec.context as usize, spec.parallel, MICRO_BATCH)?;
    let buffers = context.breakdown().map_err(EngineError::Compute)?;
    // Rows of logits live outside of all buffers that are accounted for, on the host.
    let rows = u64::from(dry.rows_per_call().min(context.batch()));
    // An adapter lies beside the weights, as large as its file.
    let size = |path: &std::path::PathBuf| std::fs::metadata(path).map_or(0, |data| data.len());
    let mut host = DeviceBytes {
        name: "CPU".to_owned(),
        model_bytes: spec.adapter.iter().map(size).sum(),
        output_bytes: rows * u64::from(dry.info.vocab) * 4,
        ..DeviceBytes::default()
    };
    let mut devices: Vec<DeviceBytes> = Vec::new();
    for buffer in buffers {
        let device = if buffer.host {
            &mut host
        } else if let Some(at) = devices.iter().position(|device| device.name == buffer.name) {
            match devices.get_mut(at) {
                Some(device) => device,
                None => continue,
            }
        } else {
            devices.push(DeviceBytes {
                name: buffer.name.clone(),
                free_bytes: Some(buffer.free),
                ..DeviceBytes::default()
            });
            match devices.last_mut() {
                Some(device) => device,
                None => continue,
            }
        };
        device.model_bytes += buffer.model;
        device.kv_bytes += buffer.context;
        device.compute_bytes += buffer.compute;
        // What stays as it is in the file is mapped; what is repacked is a copy.
        if buffer.name == MAPPED {
            device.mapped_bytes += buffer.model;
        }
    }
    devices.insert(0, host);
    // Kept until the process ends, so that whoever looks at it sees what they hold.
    std::mem::forget(context);
    std::mem::forget(dry);
    Ok(devices)
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
        Self::open(spec, false, progress)
    }

    /// Loads, or only counts what loading would take.
    fn open(spec: &LoadSpec, dry: bool, progress: LoadProgress<'_>) -> Result<Self, EngineError> {
        let first = spec.paths.first().map(|path| path.display().to_string()).unwrap_or_default();
        let failed = |reason: String| EngineError::Load {
            path: first.clone(),
            reason: if reason.is_empty() { "llama.cpp gave no reason".to_owned() } else { reason },
        };
        check_spec(spec)?;
        let paths: Vec<&Path> = spec.paths.iter().map(std::path::PathBuf::as_path).collect();
        let cpu_patterns = experts::patterns(spec.cpu_experts);
        let params = ffi::ModelParams {
            gpu_layers: spec.gpu_layers,
            extra_buffers: spec.extra_buffers,
            cpu_patterns: &cpu_patterns,
            dry,
        };
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
            accelerators: ffi::accelerators(),
            engine: engine_info(spec.gpu_layers),
        };
        if dry {
            // Weights that were only counted cannot be computed with.
            return Ok(Self { model, info, spec: spec.clone() });
        }
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
        let mut context = self.bare_context(tokens.len(), 1, MICRO_BATCH)?;
        if adapted {
            context.use_adapter(&self.model).map_err(EngineError::Compute)?;
        }
        let entry =
            |(position, &token): (u32, &u32)| ffi::BatchEntry { token, position, sequence: 0, output: true };
        let entries: Vec<ffi::BatchEntry> = (0u32..).zip(&tokens).map(entry).collect();
        context.decode(&entries).map_err(EngineError::Compute)?;
        Ok((0..entries.len()).filter_map(|at| context.logits(at)).flatten().copied().collect())
    }

    /// A context for `parallel` sequences of up to `longest` tokens, with the adapter.
    fn context(
        &self,
        longest: usize,
        parallel: u32,
        micro_batch: u32,
    ) -> Result<ffi::Context<'_>, EngineError> {
        let mut context = self.bare_context(longest, parallel, micro_batch)?;
        context.use_adapter(&self.model).map_err(EngineError::Compute)?;
        Ok(context)
    }

    fn bare_context(
        &self,
        longest: usize,
        parallel: u32,
        micro_batch: u32,
    ) -> Result<ffi::Context<'_>, EngineError> {
        // A multiple of 256 as llama.cpp pads it, so that the shape does not depend on
        // which of two similar sequences happens to be the longest.
        let longest = u32::try_from(longest).unwrap_or(u32::MAX);
        let context = longest.min(self.spec.context).next_multiple_of(256);
        let params = ffi::ContextParams {
            context,
            parallel,
            batch: BATCH.min(context.saturating_mul(parallel)),
            micro_batch,
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
        self.model.tokenize(text, add_special, false).map_err(EngineError::Request)
    }

    fn tokenize_marked(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        self.model.tokenize(text, false, true).map_err(EngineError::Request)
    }

    fn detokenize(&self, tokens: &[u32]) -> Result<String, EngineError> {
        self.model.detokenize(tokens).map_err(EngineError::Request)
    }

    fn score(&mut self, items: &[ScoreItem], sink: TraceSink<'_>) -> Result<(), EngineError> {
        let longest = items.iter().map(|item| item.tokens.len()).max().unwrap_or(0);
        if items.is_empty() {
            return Ok(());
        }
        let mut context = self.context(longest, self.spec.parallel, MICRO_BATCH)?;
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
            // Rows come sequence after sequence, so one builder is at work at a time.
            let mut builders = builders.into_iter().enumerate();
            let mut current = builders.next();
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
                    while let Some((at, done)) = current.take_if(|(at, _)| *at < sequence as usize) {
                        done.finish().map_or(Ok(()), |trace| sink(group_index * parallel + at, trace))?;
                        current = builders.next();
                    }
                    if let Some((at, builder)) = &mut current {
                        builder.push(row, summary);
                        if let Some(part) = builder.part() {
                            sink(group_index * parallel + *at, Ok(part))?;
                        }
                    }
                }
            }
            for (at, builder) in current.into_iter().chain(builders) {
                builder.finish().map_or(Ok(()), |trace| sink(group_index * parallel + at, trace))?;
            }
        }
        Ok(())
    }

    fn run(&mut self, spec: &RunSpec, each: RunSink<'_>) -> Result<RunRecord, EngineError> {
        run::run(self, spec, each)
    }

    fn parallel(&self) -> u32 {
        self.spec.parallel
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
