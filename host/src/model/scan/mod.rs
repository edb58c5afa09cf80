//! One pass over every byte of a file: its SHA-256, that of each of its pieces (a tensor is
//! one piece), and what the weights look like.
//!
//! One thread reads and scans, a second hashes pieces, this one hashes the whole; a few
//! buffers of fixed size are shared by them, so memory does not depend on the file. What is
//! found: NaN and infinite weights and block scales, absurd sizes, zero tensors, and holes.

mod kernels;
mod zeros;

use std::io;
use std::sync::{Arc, mpsc};

use super::finding::{Code, Findings};
use super::gguf::{GgmlType, Header};
use super::source::ReadAt;
use crate::digest::Sha256Stream;
use crate::domain::Sha256;
use crate::domain::inspection::Finding;
use zeros::ZeroRuns;

/// Bytes read at a time; blocks never straddle two reads.
const CHUNK_BYTES: u64 = 1 << 20;
/// Buffers on the way between the threads; enough for one to run ahead of another.
const CHUNKS_IN_FLIGHT: usize = 8;

/// A hashed stretch of a file: a tensor, or at most a mebibyte of anything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    pub offset: u64,
    pub bytes: u64,
    pub sha256: Sha256,
}

/// Digests of one file; the pieces are in file order, without gaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scanned {
    pub sha256: Sha256,
    pub pieces: Vec<Piece>,
}

/// A buffer on its way; `last` ends a piece.
struct Chunk {
    bytes: Vec<u8>,
    offset: u64,
    last: bool,
}

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
    /// What to scan it as.
    pub kind: GgmlType,
    /// The storage type as the format names it.
    pub dtype: &'static str,
    /// The slowest-varying dimension first.
    pub shape: Vec<u64>,
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
            dtype: tensor.kind.name(),
            shape: tensor.shape.iter().rev().copied().collect(),
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
    let mut push = |mut offset: u64, end: u64, content: Content<'a>| {
        let most = if matches!(content, Content::Tensor(_)) { u64::MAX } else { CHUNK_BYTES };
        while end > offset {
            let bytes = most.min(end - offset);
            out.push(Stretch { offset, bytes, content: content.clone() });
            offset += bytes;
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
) -> io::Result<Scanned> {
    let plan = stretches(weights, data_offset, source.size());
    let (whole_sender, whole) = mpsc::sync_channel::<Arc<Chunk>>(CHUNKS_IN_FLIGHT);
    let (piece_sender, piecewise) = mpsc::sync_channel::<Arc<Chunk>>(CHUNKS_IN_FLIGHT);
    let (empty_sender, empty) = mpsc::channel::<Vec<u8>>();
    for _ in 0..CHUNKS_IN_FLIGHT {
        // The receiver is alive: it is in this function.
        let _ = empty_sender.send(Vec::new());
    }
    let give_back = empty_sender.clone();
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
                    // The channels close only if the hashing sides have gone.
                    let Ok(mut bytes) = empty.recv() else { return Ok(Vec::new()) };
                    let offset = stretch.offset + done;
                    let length = step.min(stretch.bytes - done);
                    bytes.resize(usize::try_from(length).unwrap_or(0), 0);
                    source.read_at(&mut bytes, offset)?;
                    scanner.see(stretch, offset, &bytes);
                    done += length;
                    let chunk = Arc::new(Chunk { bytes, offset, last: done == stretch.bytes });
                    if piece_sender.send(Arc::clone(&chunk)).is_err() || whole_sender.send(chunk).is_err() {
                        return Ok(Vec::new());
                    }
                }
                scanner.end(stretch);
            }
            Ok(scanner.finish())
        });
        let pieces = scope.spawn(move || hash_pieces(piecewise, &give_back));
        let mut stream = Sha256Stream::new();
        for chunk in whole {
            stream.update(&chunk.bytes);
            progress(chunk.bytes.len() as u64);
            recycle(chunk, &empty_sender);
        }
        let found = reader.join().map_err(|_| io::Error::other("the scanning thread failed"))??;
        let pieces = pieces.join().map_err(|_| io::Error::other("the hashing thread failed"))?;
        found.into_iter().for_each(|finding| findings.push(finding));
        Ok(Scanned { sha256: stream.finish(), pieces })
    })
}

fn hash_pieces(chunks: mpsc::Receiver<Arc<Chunk>>, empty: &mpsc::Sender<Vec<u8>>) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut stream = Sha256Stream::new();
    let mut start = 0;
    for chunk in chunks {
        stream.update(&chunk.bytes);
        if chunk.last {
            let end = chunk.offset + chunk.bytes.len() as u64;
            let sha256 = std::mem::take(&mut stream).finish();
            pieces.push(Piece { offset: start, bytes: end - start, sha256 });
            start = end;
        }
        recycle(chunk, empty);
    }
    pieces
}

/// The last user of a buffer sends it back to the reader.
fn recycle(chunk: Arc<Chunk>, empty: &mpsc::Sender<Vec<u8>>) {
    if let Some(chunk) = Arc::into_inner(chunk) {
        // A reader that is done needs no buffers.
        let _ = empty.send(chunk.bytes);
    }
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

    fn finish(mut self) -> Vec<Finding> {
        let runs = std::mem::take(&mut self.runs).finish();
        zeros::judge(&runs, self.weights, &self.zero_tensors, &mut self.findings);
        self.findings.finish()
    }
}

#[cfg(test)]
mod tests;
