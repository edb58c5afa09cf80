//! Runs of zero bytes: where they are, and whether they can be innocent.
//!
//! Innocent are tensors that are zero as a whole, and whole rows of zeros (unused tokens).
//! A run that begins or ends inside a row is a hole that a download left.

use serde::{Deserialize, Serialize};

use super::Weights;
use crate::domain::inspection::Finding;
use crate::model::finding::{Code, Findings};

/// Shorter runs are not reported.
pub const MIN_RUN_BYTES: u64 = 64 << 10;
/// Runs are found by whole pieces of this size and then measured to the byte.
const PIECE_BYTES: usize = 4096;
/// Values beside a run may happen to begin or end with some zero bytes.
const CHANCE_BYTES: u64 = 16;
/// Runs kept; more are not needed to call a file damaged.
const MAX_RUNS: usize = 1000;

/// Finds runs in bytes that come in order and without gaps.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ZeroRuns {
    /// Start of the zeros that reach up to the current position.
    start: Option<u64>,
    end: u64,
    runs: Vec<(u64, u64)>,
}

impl ZeroRuns {
    /// Looks at the next bytes; true if all of them are zero.
    pub fn see(&mut self, offset: u64, bytes: &[u8]) -> bool {
        if offset != self.end {
            self.close(self.end);
        }
        let mut all_zero = true;
        let mut at = offset;
        for piece in bytes.chunks(PIECE_BYTES) {
            let next = at + piece.len() as u64;
            if let Some(leading) = first_nonzero(piece) {
                all_zero = false;
                self.close(at + leading as u64);
                let trailing = piece.iter().rev().take_while(|&&byte| byte == 0).count() as u64;
                self.start = (trailing > 0).then_some(next - trailing);
            } else {
                self.start.get_or_insert(at);
            }
            at = next;
        }
        self.end = at;
        all_zero
    }

    fn close(&mut self, end: u64) {
        if let Some(start) = self.start.take()
            && end - start >= MIN_RUN_BYTES
            && self.runs.len() < MAX_RUNS
        {
            self.runs.push((start, end));
        }
    }

    /// All runs as (start, end).
    pub fn finish(mut self) -> Vec<(u64, u64)> {
        self.close(self.end);
        self.runs
    }
}

fn first_nonzero(bytes: &[u8]) -> Option<usize> {
    let (words, rest) = bytes.as_chunks::<64>();
    for (i, word) in words.iter().enumerate() {
        if word.iter().fold(0, |sum, byte| sum | byte) != 0 {
            return word.iter().position(|&byte| byte != 0).map(|place| i * 64 + place);
        }
    }
    rest.iter().position(|&byte| byte != 0).map(|place| words.len() * 64 + place)
}

/// Turns runs and zero tensors into findings. `weights` is in file order.
pub fn judge(runs: &[(u64, u64)], weights: &[Weights], zero_tensors: &[&Weights], findings: &mut Findings) {
    let data_end = weights.iter().map(|tensor| tensor.offset + tensor.bytes).max().unwrap_or(0);
    let mut explained: Vec<(u64, u64)> = Vec::new();
    for &(start, end) in runs {
        let touched: Vec<&Weights> = weights
            .iter()
            .filter(|tensor| covers(start, end, tensor) || overlap(start, end, tensor) > CHANCE_BYTES)
            .collect();
        let whole = touched.iter().filter(|tensor| covers(start, end, tensor)).count();
        let length = end - start;
        let first = touched.first().map(|tensor| tensor.name.clone());
        let place = |code: Code, message: String| Finding {
            tensor: first.clone(),
            offset: Some(start),
            ..code.finding(message)
        };
        let innocent =
            touched.iter().all(|tensor| covers(start, end, tensor) || whole_rows(start, end, tensor));
        if end >= data_end && (whole > 1 || !innocent) {
            let message =
                format!("the last {length} bytes of the weights are zero, from byte {start} to the end");
            findings.push(place(Code::ZeroedTail, message));
            explained.push((start, end));
        } else if !innocent {
            let message = format!("{length} bytes of the weights are zero, from byte {start} to byte {end}");
            findings.push(place(Code::ZeroRun, message));
            explained.push((start, end));
        } else {
            for tensor in touched.iter().filter(|tensor| !covers(start, end, tensor)) {
                let rows = overlap(start, end, tensor) / tensor.row_bytes.max(1);
                let message = format!("{rows} whole rows of {} are zero", tensor.name);
                findings.push(Finding {
                    tensor: Some(tensor.name.clone()),
                    offset: Some(tensor.offset.max(start)),
                    ..Code::ZeroRows.finding(message)
                });
            }
        }
    }
    for tensor in zero_tensors {
        if !explained.iter().any(|&(start, end)| covers(start, end, tensor)) {
            findings.push(Finding {
                tensor: Some(tensor.name.clone()),
                offset: Some(tensor.offset),
                ..Code::ZeroTensor.finding(format!("all weights of {} are zero", tensor.name))
            });
        }
    }
}

/// Bytes that a run and a tensor have in common.
fn overlap(start: u64, end: u64, tensor: &Weights) -> u64 {
    (tensor.offset + tensor.bytes).min(end).saturating_sub(tensor.offset.max(start))
}

fn covers(start: u64, end: u64, tensor: &Weights) -> bool {
    start <= tensor.offset && tensor.offset + tensor.bytes <= end
}

/// Does the part of the run within the tensor begin and end with a row, give or take
/// zeros that values beside it happen to have?
fn whole_rows(start: u64, end: u64, tensor: &Weights) -> bool {
    let row = tensor.row_bytes.max(1);
    if row >= tensor.bytes {
        return false;
    }
    let inner_start = start.max(tensor.offset) - tensor.offset;
    let inner_end = end.min(tensor.offset + tensor.bytes) - tensor.offset;
    let first_row = inner_start.next_multiple_of(row);
    let last_row = inner_end - inner_end % row;
    first_row < last_row && first_row - inner_start <= CHANCE_BYTES && inner_end - last_row <= CHANCE_BYTES
}
