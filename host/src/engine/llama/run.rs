//! Greedy continuation under conditions that are set one by one.
//!
//! The conditions (sequences side by side, tokens computed at once, a prompt taken from the
//! cache) change the shape of the computation and nothing else. Tokens are timed when they
//! are known. Deliberately absent: randomness; a seed is accepted because a greedy choice
//! must not depend on it.

use std::time::Instant;

use super::{LlamaModel, call_length, ffi};
use crate::engine::rows::greedy;
use crate::engine::softmax::summarize;
use crate::engine::text::RunText;
use crate::engine::{
    EngineError, Honoured, RunRecord, RunSequence, RunSink, RunSpec, RunToken, check_prompts,
};

/// Sequences side by side at most; llama.cpp's own limit is 256.
const PARALLEL_MAX: u32 = 64;

/// Runs all prompts, group by group.
pub(super) fn run(engine: &LlamaModel, spec: &RunSpec, each: RunSink<'_>) -> Result<RunRecord, EngineError> {
    let longest = check_prompts(&spec.prompts, spec.new_tokens, &engine.info, engine.spec.context)?;
    if spec.parallel == 0 || spec.parallel > PARALLEL_MAX || spec.micro_batch == 0 {
        return Err(EngineError::Request(format!(
            "{} prompts side by side (1 to {PARALLEL_MAX}) and {} tokens at once must be in range",
            spec.parallel, spec.micro_batch
        )));
    }
    let mut context = engine.context(longest, spec.parallel, spec.micro_batch)?;
    let mut sequences = Vec::with_capacity(spec.prompts.len());
    for group in spec.prompts.chunks(spec.parallel as usize) {
        context.clear();
        let first = u32::try_from(sequences.len()).unwrap_or(u32::MAX);
        let mut run = Group {
            engine,
            context: &mut context,
            spec,
            sequences: vec![RunSequence::default(); group.len()],
            texts: group.iter().map(|prompt| RunText::new(spec, prompt)).collect(),
            first,
            each: &mut *each,
        };
        run.all(group)?;
        sequences.extend(run.sequences);
    }
    let honoured = Honoured { parallel: true, micro_batch: true, prompt_cache: true, seed: true };
    Ok(RunRecord { sequences, honoured })
}

/// Prompts that are evaluated side by side.
struct Group<'a, 'model> {
    engine: &'a LlamaModel,
    context: &'a mut ffi::Context<'model>,
    spec: &'a RunSpec,
    sequences: Vec<RunSequence>,
    texts: Vec<RunText<'a>>,
    /// Number of the first prompt among all.
    first: u32,
    each: RunSink<'a>,
}

impl Group<'_, '_> {
    fn all(&mut self, prompts: &[Vec<u32>]) -> Result<(), EngineError> {
        let mut entries: Vec<ffi::BatchEntry> = Vec::new();
        for (sequence, prompt) in (0u32..).zip(prompts) {
            let last = prompt.len().saturating_sub(1);
            entries.extend((0u32..).zip(prompt).map(|(position, &token)| ffi::BatchEntry {
                token,
                position,
                sequence,
                output: position as usize == last,
            }));
        }
        if self.spec.prompt_cache {
            let (last, cached) = entries.into_iter().partition(|entry| entry.output);
            entries = last;
            self.decode(&cached, Instant::now())?;
        }
        let started = Instant::now();
        for _ in 0..self.spec.new_tokens {
            entries = self.decode(&entries, started)?;
            if entries.is_empty() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Evaluates entries, takes down a token for each that wants one, and returns those tokens
    /// as the next entries.
    fn decode(
        &mut self,
        entries: &[ffi::BatchEntry],
        started: Instant,
    ) -> Result<Vec<ffi::BatchEntry>, EngineError> {
        let mut next = Vec::new();
        let mut rest = entries;
        while !rest.is_empty() {
            let (batch, after) = rest.split_at(call_length(rest, self.engine.rows_per_call()));
            rest = after;
            self.context.decode(batch).map_err(EngineError::Compute)?;
            for (index, entry) in batch.iter().enumerate().filter(|(_, entry)| entry.output) {
                let row = self.context.logits(index).unwrap_or_default();
                let (token, ends) = greedy(row, |id| self.engine.model.ends_generation(id))?;
                let Some(sequence) = self.sequences.get_mut(entry.sequence as usize) else { continue };
                if ends && self.spec.stop_at_end {
                    sequence.ended = true;
                    continue;
                }
                if self.spec.logprobs {
                    let chosen = row.get(token as usize).copied().unwrap_or(f32::NAN);
                    let summary = summarize(row)
                        .ok_or_else(|| EngineError::Compute("a logit is not finite".to_owned()))?;
                    sequence.logprobs.push(f64::from(chosen) - summary.log_sum_exp);
                }
                sequence.tokens.push(token);
                sequence.seconds.push(started.elapsed().as_secs_f64());
                let Some(text) = self.texts.get_mut(entry.sequence as usize) else { continue };
                let model = &self.engine.model;
                let (piece, stop) = text.push(token, &|ids| model.detokenize(ids))?;
                (self.each)(RunToken { sequence: self.first + entry.sequence, token, piece });
                if stop {
                    sequence.ended = true;
                    continue;
                }
                next.push(ffi::BatchEntry { token, position: entry.position + 1, ..*entry });
            }
        }
        Ok(next)
    }
}
