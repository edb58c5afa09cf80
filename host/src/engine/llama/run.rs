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
use crate::engine::{EngineError, Honoured, LoadProgress, RunRecord, RunSequence, RunSpec, check_prompts};

/// Sequences side by side at most; llama.cpp's own limit is 256.
const PARALLEL_MAX: u32 = 64;

/// Runs all prompts, group by group.
pub(super) fn run(
    engine: &LlamaModel,
    spec: &RunSpec,
    progress: LoadProgress<'_>,
) -> Result<RunRecord, EngineError> {
    let longest = check_prompts(&spec.prompts, spec.new_tokens, &engine.info, engine.spec.context)?;
    if spec.parallel == 0 || spec.parallel > PARALLEL_MAX || spec.micro_batch == 0 {
        return Err(EngineError::Request(format!(
            "{} prompts side by side (1 to {PARALLEL_MAX}) and {} tokens at once must be in range",
            spec.parallel, spec.micro_batch
        )));
    }
    let mut context = engine.context(longest, spec.parallel, spec.micro_batch)?;
    let groups = spec.prompts.chunks(spec.parallel as usize);
    let steps = groups.len() * spec.new_tokens as usize;
    let mut sequences = Vec::with_capacity(spec.prompts.len());
    for (index, group) in groups.enumerate() {
        context.clear();
        let mut run = Group {
            engine,
            context: &mut context,
            spec,
            sequences: vec![RunSequence::default(); group.len()],
        };
        run.all(group, &mut |step| {
            progress((index * spec.new_tokens as usize + step) as f32 / steps.max(1) as f32);
        })?;
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
}

impl Group<'_, '_> {
    fn all(&mut self, prompts: &[Vec<u32>], progress: &mut dyn FnMut(usize)) -> Result<(), EngineError> {
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
        for step in 0..self.spec.new_tokens as usize {
            entries = self.decode(&entries, started)?;
            progress(step + 1);
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
                next.push(ffi::BatchEntry { token, position: entry.position + 1, ..*entry });
            }
        }
        Ok(next)
    }
}
