//! One pass over every byte of a file: its SHA-256, and what the weights look like.
//!
//! A second thread reads and scans, this one hashes; three buffers of fixed size travel
//! between them, so memory does not depend on the file. What is found: NaN and infinite
//! weights and block scales, absurd sizes, tensors that are zero, and holes.

mod kernels;
mod zeros;

use std::io;
use std::sync::mpsc;

use super::finding::{Code, Findings};
use super::gguf::{GgmlType, Header};
use super::source::ReadAt;
use crate::digest::Sha256Stream;
use crate::domain::Sha256;
use crate::domain::inspection::Finding;
use zeros::ZeroRuns;

/// Bytes read at a time; blocks never straddle two reads.
const CHUNK_BYTES: u64 = 1 << 20;
/// Buffers on the way between the two threads.
const CHUNKS_IN_FLIGHT: usize = 3;

/// A stretch of the file, in file order and without gaps.
#[derive(Debug, Clone)]
struct Stretch<'a> {
    offset: u64,
    bytes: u64,
    content: Content<'a>,
}

#[derive(Debug, Clone)]
enum Content<'a> {
    /// Header or bytes behind the last tensor: hashed only.
    Other,
    /// Between tensors; must be zero.
    Padding,
    Tensor(&'a Weights),
}

/// Where a tensor's bytes are and how to read them.
#[derive(Debug, Clone)]
pub struct Weights {
    pub name: String,
    pub kind: GgmlType,
    /// Bytes of one row.
    pub row_bytes: u64,
    pub offset: u64,
    pub bytes: u64,
}

/// The weights of a header that lie within `size` bytes, in file order.
pub fn weights_of(header: &Header, size: u64) -> Vec<Weights> {
    let mut list: Vec<Weights> = header
        .tensors
        .iter()
        .filter(|tensor| tensor.offset.checked_add(tensor.bytes).is_some_and(|end| end <= size))
        .map(|tensor| Weights {
            name: tensor.name.clone(),
            kind: tensor.kind,
            row_bytes: tensor.kind.bytes(tensor.columns()).unwrap_or(tensor.bytes),
            offset: tensor.offset,
            bytes: tensor.bytes,
        })
        .collect();
    list.sort_by_key(|weights| weights.offset);
    list
}

/// Cuts the file into stretches. Overlapping tensors (reported elsewhere) are skipped.
fn stretches<'a>(weights: &'a [Weights], data_offset: u64, size: u64) -> Vec<Stretch<'a>> {
    let mut out = Vec::new();
    let mut at = 0;
    let mut push = |offset: u64, end: u64, content: Content<'a>| {
        if end > offset {
            out.push(Stretch { offset, bytes: end - offset, content });
        }
    };
    let first = weights.first().map_or(size, |weights| weights.offset.min(data_offset));
    push(0, first, Content::Other);
    at += first;
    for tensor in weights {
        if tensor.offset < at {
            continue;
        }
        push(at, tensor.offset, Content::Padding);
        at = tensor.offset + tensor.bytes;
        push(tensor.offset, at, Content::Tensor(tensor));
    }
    push(at, size, Content::Other);
    out
}

/// Reads the whole source once. `progress` gets the bytes newly done.
///
/// # Errors
/// The source cannot be read, or ends earlier than its size says.
pub fn scan(
    source: &(dyn ReadAt + Sync),
    weights: &[Weights],
    data_offset: u64,
    findings: &mut Findings,
    progress: &mut dyn FnMut(u64),
) -> io::Result<Sha256> {
    let plan = stretches(weights, data_offset, source.size());
    let (full_sender, full) = mpsc::sync_channel::<Vec<u8>>(CHUNKS_IN_FLIGHT);
    let (empty_sender, empty) = mpsc::channel::<Vec<u8>>();
    for _ in 0..CHUNKS_IN_FLIGHT {
        // The receiver is alive: it is in this function.
        let _ = empty_sender.send(Vec::new());
    }
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || -> io::Result<Vec<Finding>> {
            let mut scanner = Scanner::new(weights);
            for stretch in &plan {
                scanner.begin(stretch);
                let step = match stretch.content {
                    Content::Tensor(tensor) => CHUNK_BYTES - CHUNK_BYTES % tensor.kind.block_bytes().max(1),
                    Content::Other | Content::Padding => CHUNK_BYTES,
                };
                let mut done = 0;
                while done < stretch.bytes {
                    // Both channels close only if the hashing side has gone.
                    let Ok(mut buffer) = empty.recv() else { return Ok(Vec::new()) };
                    let length = step.min(stretch.bytes - done);
                    buffer.resize(usize::try_from(length).unwrap_or(0), 0);
                    source.read_at(&mut buffer, stretch.offset + done)?;
                    scanner.see(stretch, stretch.offset + done, &buffer);
                    done += length;
                    if full_sender.send(buffer).is_err() {
                        return Ok(Vec::new());
                    }
                }
                scanner.end(stretch);
            }
            Ok(scanner.finish())
        });
        let mut stream = Sha256Stream::new();
        for buffer in full {
            stream.update(&buffer);
            progress(buffer.len() as u64);
            let _ = empty_sender.send(buffer);
        }
        let found = reader.join().map_err(|_| io::Error::other("the scanning thread failed"))??;
        found.into_iter().for_each(|finding| findings.push(finding));
        Ok(stream.finish())
    })
}

/// What was seen so far.
struct Scanner<'a> {
    weights: &'a [Weights],
    findings: Findings,
    counts: kernels::Counts,
    zero_so_far: bool,
    runs: ZeroRuns,
    zero_tensors: Vec<&'a Weights>,
    padding_reported: bool,
}

impl<'a> Scanner<'a> {
    fn new(weights: &'a [Weights]) -> Self {
        Self {
            weights,
            findings: Findings::default(),
            counts: kernels::Counts::default(),
            zero_so_far: true,
            runs: ZeroRuns::default(),
            zero_tensors: Vec::new(),
            padding_reported: false,
        }
    }

    fn begin(&mut self, _: &Stretch<'_>) {
        self.counts = kernels::Counts::default();
        self.zero_so_far = true;
    }

    fn see(&mut self, stretch: &Stretch<'_>, offset: u64, bytes: &[u8]) {
        match stretch.content {
            Content::Other => {}
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
            Content::Tensor(tensor) => {
                let zero = self.runs.see(offset, bytes);
                self.zero_so_far &= zero;
                if !zero {
                    kernels::look(tensor.kind, bytes, offset, &mut self.counts);
                }
            }
        }
    }

    fn end(&mut self, stretch: &Stretch<'a>) {
        let Content::Tensor(tensor) = stretch.content else { return };
        if self.zero_so_far {
            self.zero_tensors.push(tensor);
        }
        let what = if tensor.kind.block() == 1 { "weights" } else { "block scales" };
        let counts = &self.counts;
        for (code, count, adjective) in [
            (Code::NanWeights, &counts.nan, "not numbers"),
            (Code::InfWeights, &counts.inf, "infinite"),
            (Code::AbsurdWeights, &counts.absurd, "larger than 1e6"),
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

    fn finish(mut self) -> Vec<Finding> {
        let runs = std::mem::take(&mut self.runs).finish();
        zeros::judge(&runs, self.weights, &self.zero_tensors, &mut self.findings);
        self.findings.finish()
    }
}

#[cfg(test)]
mod tests;
