//! llama.cpp's quantiser for rows of weights, in a worker of its own that has no model and no file.
//!
//! It is started when it is first asked: most comparisons of weights never need it. One that
//! ended is not started again, and what it was asked for stays unknown.

use super::ending::WorkerEnd;
use super::limits::WorkerLimits;
use super::parent::Worker;
use super::protocol::{Event, Request};
use crate::domain::budget;
use crate::engine::{EngineKind, LoadSpec, QuantizeRows};
use crate::model::gguf::GgmlType;
use crate::model::lineage::Quantizer;

/// Rows in, blocks out.
#[derive(Debug)]
pub struct RowQuantizer {
    limits: WorkerLimits,
    threads: u32,
    worker: Option<Worker>,
    /// Why there is none any more.
    ended: Option<String>,
}

impl RowQuantizer {
    /// `limits` hold but for memory, of which it needs little. Rows are rounded on all cores.
    pub fn new(limits: &WorkerLimits) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = u32::try_from(threads).unwrap_or(1);
        let limits = WorkerLimits {
            memory_bytes: Some(budget::ROW_QUANTIZER_BYTES),
            stamps: Vec::new(),
            ..limits.clone()
        };
        Self { limits, threads, worker: None, ended: None }
    }

    /// The blocks, which take `bytes`. A worker that fails is gone.
    fn ask(&mut self, rows: QuantizeRows, bytes: u64) -> Result<Vec<u8>, WorkerEnd> {
        let mut worker = match self.worker.take() {
            Some(worker) => worker,
            // Nothing but the quantiser, which needs no kernels.
            None => {
                let nothing = LoadSpec::judged(EngineKind::Scripted, Vec::new(), 1, self.threads);
                Worker::guarded(&nothing, None, &self.limits)?.0
            }
        };
        worker.ask(Request::QuantizeRows(rows));
        loop {
            match worker.next()? {
                Event::Progress { .. } => {}
                Event::Rows(blocks) if blocks.len() as u64 == bytes => {
                    self.worker = Some(worker);
                    return Ok(blocks);
                }
                other => return Err(worker.not_answered(other)),
            }
        }
    }
}

impl Quantizer for RowQuantizer {
    fn rows(
        &mut self,
        kind: GgmlType,
        columns: u64,
        values: Vec<f32>,
        importance: Option<&[f32]>,
    ) -> Result<Vec<u8>, String> {
        if let Some(why) = &self.ended {
            return Err(why.clone());
        }
        let bytes = kind.bytes(values.len() as u64).ok_or("the weights are not whole blocks")?;
        let importance = importance.map(<[f32]>::to_vec);
        let rows = QuantizeRows { kind: kind.id(), columns, values, importance, threads: self.threads };
        self.ask(rows, bytes).map_err(|end| self.ended.insert(end.to_string()).clone())
    }
}
