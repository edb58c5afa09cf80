//! A challenge answered by both models, as a resource that the host owns and a scorer
//! borrows for one call.

use std::sync::Arc;

use wasmtime::component::Resource;

use super::bindings::assay::plugin::evidence as wit;
use super::engine::CallState;
use super::fault::Unserved;
use crate::domain::budget::PLUGIN_READ_VALUES;
use crate::domain::half::f16_to_f32;
use crate::domain::trace::{COARSE_BUCKETS, Distribution, Trace};

/// One challenge answered by both models.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// The challenge's name.
    pub challenge: String,
    pub reference: Arc<Trace>,
    pub candidate: Arc<Trace>,
}

impl Evidence {
    /// Captured logits of both sides, which is what a scorer's work grows with.
    pub(super) fn values(&self) -> u64 {
        let count = |trace: &Trace| match &trace.distribution {
            Distribution::Summary | Distribution::Tokens => trace.rows(),
            Distribution::Full { logits } => logits.len(),
            Distribution::Half { bytes } => bytes.len() / 2,
            Distribution::Coarse { ids, bucket_logits, .. } => ids.len() + bucket_logits.len(),
        };
        (count(&self.reference) as u64).saturating_add(count(&self.candidate) as u64)
    }
}

/// The resource behind `trial`.
#[derive(Debug)]
pub struct Trial(pub(super) Evidence);

impl Trial {
    fn side(&self, side: wit::Side) -> &Trace {
        match side {
            wit::Side::Reference => &self.0.reference,
            wit::Side::Candidate => &self.0.candidate,
        }
    }
}

impl CallState {
    fn trace(&self, trial: &Resource<Trial>, side: wit::Side) -> wasmtime::Result<&Trace> {
        Ok(self.table.get(trial)?.side(side))
    }
}

/// Elements `row * width + offset ..` of a table of rows, at most `width - offset` of them.
fn part<T: Copy>(all: &[T], row: u32, width: u32, offset: u32, len: u32) -> Option<Vec<T>> {
    let start = u64::from(row).checked_mul(width.into())?.checked_add(offset.into())?;
    let end = start.checked_add(len.into())?;
    all.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?).map(<[T]>::to_vec)
}

/// A row of a trace that is shorter than it says.
fn inconsistent() -> wasmtime::Error {
    Unserved("the trace holds fewer values than its rows need".into()).into()
}

fn count(trace: &Trace) -> u32 {
    u32::try_from(trace.rows()).unwrap_or(u32::MAX)
}

impl wit::Host for CallState {}

impl wit::HostTrial for CallState {
    fn challenge(&mut self, trial: Resource<Trial>) -> wasmtime::Result<String> {
        Ok(self.table.get(&trial)?.0.challenge.clone())
    }

    fn vocab(&mut self, trial: Resource<Trial>, side: wit::Side) -> wasmtime::Result<u32> {
        Ok(self.trace(&trial, side)?.vocab)
    }

    fn scored_from(&mut self, trial: Resource<Trial>, side: wit::Side) -> wasmtime::Result<u32> {
        Ok(self.trace(&trial, side)?.scored_from)
    }

    fn rows(&mut self, trial: Resource<Trial>, side: wit::Side) -> wasmtime::Result<u32> {
        Ok(count(self.trace(&trial, side)?))
    }

    fn tokens(&mut self, trial: Resource<Trial>, side: wit::Side) -> wasmtime::Result<Vec<u32>> {
        Ok(self.trace(&trial, side)?.tokens.clone())
    }

    fn token_logprobs(&mut self, trial: Resource<Trial>, side: wit::Side) -> wasmtime::Result<Vec<f64>> {
        Ok(self.trace(&trial, side)?.token_logprobs.clone())
    }

    fn log_sum_exp(&mut self, trial: Resource<Trial>, side: wit::Side) -> wasmtime::Result<Vec<f64>> {
        Ok(self.trace(&trial, side)?.log_sum_exp.clone())
    }

    fn entropy(&mut self, trial: Resource<Trial>, side: wit::Side) -> wasmtime::Result<Vec<f64>> {
        Ok(self.trace(&trial, side)?.entropy.clone())
    }

    fn argmax(&mut self, trial: Resource<Trial>, side: wit::Side) -> wasmtime::Result<Vec<u32>> {
        Ok(self.trace(&trial, side)?.argmax.clone())
    }

    fn coverage(&mut self, trial: Resource<Trial>, side: wit::Side) -> wasmtime::Result<wit::Coverage> {
        Ok(match self.trace(&trial, side)?.distribution {
            Distribution::Summary | Distribution::Tokens => wit::Coverage::Summary,
            Distribution::Full { .. } | Distribution::Half { .. } => wit::Coverage::Full,
            Distribution::Coarse { .. } => wit::Coverage::Coarse,
        })
    }

    fn logits(
        &mut self,
        trial: Resource<Trial>,
        side: wit::Side,
        row: u32,
        offset: u32,
        len: u32,
    ) -> wasmtime::Result<Result<Vec<f32>, wit::RangeError>> {
        let trace = self.trace(&trial, side)?;
        if !matches!(trace.distribution, Distribution::Full { .. } | Distribution::Half { .. }) {
            return Ok(Err(wit::RangeError::NotCaptured));
        }
        if row >= count(trace) {
            return Ok(Err(wit::RangeError::NoSuchRow(count(trace))));
        }
        if len > PLUGIN_READ_VALUES {
            return Ok(Err(wit::RangeError::TooLong(PLUGIN_READ_VALUES)));
        }
        if offset.checked_add(len).is_none_or(|end| end > trace.vocab) {
            return Ok(Err(wit::RangeError::OutOfRange(trace.vocab)));
        }
        let values = match &trace.distribution {
            Distribution::Full { logits } => part(logits, row, trace.vocab, offset, len),
            Distribution::Half { bytes } => {
                let (halves, _) = bytes.as_chunks::<2>();
                let halves = part(halves, row, trace.vocab, offset, len);
                halves.map(|halves| halves.into_iter().map(|h| f16_to_f32(u16::from_le_bytes(h))).collect())
            }
            Distribution::Summary | Distribution::Tokens | Distribution::Coarse { .. } => None,
        };
        values.map(Ok).ok_or_else(inconsistent)
    }

    fn kept_ids(
        &mut self,
        trial: Resource<Trial>,
        side: wit::Side,
        row: u32,
    ) -> wasmtime::Result<Result<Vec<u32>, wit::RangeError>> {
        let trace = self.trace(&trial, side)?;
        match &trace.distribution {
            Distribution::Coarse { kept, ids, .. } => whole_row(trace, ids, row, *kept),
            _ => Ok(Err(wit::RangeError::NotCaptured)),
        }
    }

    fn kept_logits(
        &mut self,
        trial: Resource<Trial>,
        side: wit::Side,
        row: u32,
    ) -> wasmtime::Result<Result<Vec<f32>, wit::RangeError>> {
        let trace = self.trace(&trial, side)?;
        match &trace.distribution {
            Distribution::Coarse { kept, logits, .. } => whole_row(trace, logits, row, *kept),
            _ => Ok(Err(wit::RangeError::NotCaptured)),
        }
    }

    fn bucket_logits(
        &mut self,
        trial: Resource<Trial>,
        side: wit::Side,
        row: u32,
    ) -> wasmtime::Result<Result<Vec<f32>, wit::RangeError>> {
        let trace = self.trace(&trial, side)?;
        match &trace.distribution {
            Distribution::Coarse { bucket_logits, .. } => {
                whole_row(trace, bucket_logits, row, COARSE_BUCKETS as u32)
            }
            _ => Ok(Err(wit::RangeError::NotCaptured)),
        }
    }

    fn drop(&mut self, trial: Resource<Trial>) -> wasmtime::Result<()> {
        self.table.delete(trial)?;
        Ok(())
    }
}

fn whole_row<T: Copy>(
    trace: &Trace,
    values: &[T],
    row: u32,
    width: u32,
) -> wasmtime::Result<Result<Vec<T>, wit::RangeError>> {
    if row >= count(trace) {
        return Ok(Err(wit::RangeError::NoSuchRow(count(trace))));
    }
    part(values, row, width, 0, width).map(Ok).ok_or_else(inconsistent)
}
