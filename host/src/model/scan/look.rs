//! What is found by looking at the bytes: NaN and infinite weights and block scales, absurd
//! sizes, zero tensors and holes, padding that is not zero.

use serde::{Deserialize, Serialize};

use super::kernels::{self, Counts, Kind};
use super::members::Checksums;
use super::zeros::{self, ZeroRuns};
use super::{Content, Tensors, Weights};
use crate::domain::inspection::Finding;
use crate::model::finding::{Code, Findings};

/// What was seen so far.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Scanner {
    findings: Findings,
    counts: Counts,
    /// Bytes of a block whose rest is in the next chunk.
    carry: Vec<u8>,
    some_not_zero: bool,
    runs: ZeroRuns,
    zero_tensors: Vec<usize>,
    padding_reported: bool,
    checksums: Checksums,
}

impl Scanner {
    /// The next bytes, from `offset` of the file; `last` of their stretch.
    pub fn see(&mut self, tensors: Tensors<'_>, content: Content, offset: u64, bytes: &[u8], last: bool) {
        match content {
            Content::Other => self.checksums.see(tensors.members, offset, bytes, &mut self.findings),
            Content::Padding => {
                if let Some(place) = bytes.iter().position(|&byte| byte != 0)
                    && !self.padding_reported
                {
                    self.padding_reported = true;
                    let message = "bytes between tensors are not zero".to_owned();
                    let offset = Some(offset + place as u64);
                    self.findings.push(Finding { offset, ..Code::NonzeroPadding.finding(message) });
                }
                self.runs.see(offset, bytes);
            }
            Content::Tensor(place) => {
                let Some(tensor) = tensors.weights.get(place) else { return };
                self.some_not_zero |= !self.runs.see(offset, bytes);
                self.blocks(tensor.kind, bytes, offset);
                if last {
                    self.end(place, tensor);
                }
            }
        }
    }

    /// Looks at whole blocks; one that a chunk cuts is put together first.
    fn blocks(&mut self, kind: Kind, bytes: &[u8], offset: u64) {
        let block = usize::try_from(kind.block_bytes()).unwrap_or(1).max(1);
        let missing = if self.carry.is_empty() { 0 } else { (block - self.carry.len()).min(bytes.len()) };
        let (head, rest) = bytes.split_at_checked(missing).unwrap_or((bytes, &[]));
        if !head.is_empty() {
            let began = offset - self.carry.len() as u64;
            self.carry.extend_from_slice(head);
            if self.carry.len() == block {
                kernels::look(kind, &self.carry, began, &mut self.counts);
                self.carry.clear();
            }
        }
        let (whole, tail) = rest.split_at_checked(rest.len() - rest.len() % block).unwrap_or((rest, &[]));
        kernels::look(kind, whole, offset + missing as u64, &mut self.counts);
        self.carry.extend_from_slice(tail);
    }

    fn end(&mut self, place: usize, tensor: &Weights) {
        self.carry.clear();
        if !std::mem::take(&mut self.some_not_zero) {
            self.zero_tensors.push(place);
        }
        let what = if tensor.kind.block() == 1 { "weights" } else { "block scales" };
        let counts = std::mem::take(&mut self.counts);
        for (code, count, adjective) in [
            (Code::NanWeights, &counts.nan, "not numbers"),
            (Code::InfWeights, &counts.inf, "infinite"),
            (
                Code::AbsurdWeights,
                &counts.absurd,
                if tensor.kind.block() == 1 { "larger than 1e6" } else { "larger than 4096" },
            ),
        ] {
            if let Some(first) = count.first {
                let message = format!("{} {what} of {} are {adjective}", count.count, tensor.name);
                self.findings.push(Finding {
                    tensor: Some(tensor.name.clone()),
                    offset: Some(first),
                    ..code.finding(message)
                });
            }
        }
    }

    pub fn finish(mut self, tensors: Tensors<'_>) -> Vec<Finding> {
        let zero_tensors: Vec<&Weights> =
            self.zero_tensors.iter().filter_map(|&place| tensors.weights.get(place)).collect();
        zeros::judge(&self.runs.finish(), tensors, &zero_tensors, &mut self.findings);
        self.findings.finish()
    }
}
