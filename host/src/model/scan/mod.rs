//! One pass over every byte of a file: its SHA-256, an RFC 6962 tree over it and one over
//! each tensor, and what the weights look like.
//!
//! The file is cut at the borders of its tensors, and what lies between two borders into
//! chunks of [`CHUNK_BYTES`] counted from its start. A chunk is a leaf: the tree over all of
//! them is the file's, that over a tensor's own is the tensor's. So a byte is hashed twice,
//! once in order and once as part of a chunk, and never more unless digests of other kinds
//! are asked for.
//!
//! One thread reads and scans, a second hashes chunks, this one hashes the whole; a few
//! buffers of fixed size are shared by them, so memory does not depend on the file. Every
//! `SEGMENT_BYTES` the threads meet, and the state can be put down to go on later.

mod hashing;
mod kernels;
mod look;
mod members;
mod segment;
pub mod tokens;
mod zeros;

use std::io;

use serde::{Deserialize, Serialize};

use super::finding::Findings;
use super::gguf::Header;
use super::source::ReadAt;
use crate::digest::{HashKind, Sha256Stream};
use crate::domain::Sha256;
use crate::domain::inspection::ChunkProof;
use hashing::{Hashing, Others};
pub use hashing::{OtherDigests, TensorHash};
pub use kernels::{Float8, Kind};
use look::Scanner;
pub use members::Member;

/// Bytes of a leaf; the last chunk before a border is shorter.
pub const CHUNK_BYTES: u64 = 1 << 20;
/// Bytes after which the state of the pass can be kept.
const SEGMENT_BYTES: u64 = 2 << 30;

/// What a pass found out about one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scanned {
    pub sha256: Sha256,
    /// Of the tree over the file's chunks.
    pub root: Sha256,
    pub leaves: u64,
    /// One per tensor of the list that was given, in its order; none for a tensor that
    /// overlaps the one before it.
    pub tensors: Vec<Option<TensorHash>>,
    /// Digests of the wanted kinds over the data of all tensors in file order.
    pub weights: OtherDigests,
    pub proof: Option<ChunkProof>,
}

/// What else a pass should do.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted<'a> {
    /// Further kinds of digests, of each tensor and of all weights.
    pub others: &'a [HashKind],
    /// A byte whose chunk is to be proven.
    pub prove: Option<u64>,
    /// Leave nothing in the page cache.
    pub forget: bool,
}

/// Where the state of an unfinished pass is kept.
pub trait Shelf {
    /// The state that was kept last, if it is of this very pass.
    fn take_up(&mut self) -> Option<String>;
    /// Keeps a state instead of the one before. What cannot be kept is lost, and no harm done.
    fn put_down(&mut self, state: &str);
}

/// A stretch of the file, in file order and without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stretch {
    offset: u64,
    bytes: u64,
    content: Content,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    /// Header or bytes behind the last tensor: hashed only.
    Other,
    /// Between tensors; must be zero.
    Padding,
    /// Which of the weights.
    Tensor(usize),
}

/// Where a tensor's bytes are and how to read them.
#[derive(Debug, Clone, Serialize)]
pub struct Weights {
    pub name: String,
    /// What to scan it as.
    #[serde(skip)]
    pub kind: Kind,
    /// The storage type as the format names it.
    pub dtype: &'static str,
    /// The slowest-varying dimension first.
    pub shape: Vec<u64>,
    /// Bytes of one row.
    pub row_bytes: u64,
    pub offset: u64,
    pub bytes: u64,
}

/// What is in a file.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Tensors<'a> {
    /// Those that lie within the file, in file order.
    pub weights: &'a [Weights],
    pub data_offset: u64,
    /// Tokens whose rows may be zero.
    pub idle: &'a [(u64, u64)],
    /// Of an archive instead: bytes with a checksum, one behind the other.
    pub members: &'a [Member],
}

/// The weights of a header that lie within `size` bytes, in file order.
pub fn weights_of(header: &Header, size: u64) -> Vec<Weights> {
    let mut list: Vec<Weights> = header
        .tensors
        .iter()
        .filter(|tensor| tensor.offset.checked_add(tensor.bytes).is_some_and(|end| end <= size))
        .map(|tensor| Weights {
            name: tensor.name.clone(),
            kind: Kind::Ggml(tensor.kind),
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

/// Cuts the file at the borders of its tensors. Overlapping tensors (reported elsewhere)
/// are skipped.
fn stretches(weights: &[Weights], data_offset: u64, size: u64) -> Vec<Stretch> {
    let mut out = Vec::new();
    let mut push = |offset: u64, end: u64, content: Content| {
        if end > offset {
            out.push(Stretch { offset, bytes: end - offset, content });
        }
    };
    let mut at = weights.first().map_or(size, |weights| weights.offset.min(data_offset));
    push(0, at, Content::Other);
    for (place, tensor) in weights.iter().enumerate() {
        if tensor.offset < at {
            continue;
        }
        push(at, tensor.offset, Content::Padding);
        at = tensor.offset + tensor.bytes;
        push(tensor.offset, at, Content::Tensor(place));
    }
    push(at, size, Content::Other);
    out
}

/// The chunk that a byte lies in: number, offset and length.
fn chunk_of(plan: &[Stretch], byte: u64) -> Option<(u64, u64, u64)> {
    let mut before = 0;
    for stretch in plan {
        if byte < stretch.offset + stretch.bytes {
            let within = (byte.checked_sub(stretch.offset)?) / CHUNK_BYTES;
            let start = within * CHUNK_BYTES;
            return Some((before + within, stretch.offset + start, CHUNK_BYTES.min(stretch.bytes - start)));
        }
        before += stretch.bytes.div_ceil(CHUNK_BYTES);
    }
    None
}

/// Leaves of the file's tree.
fn leaves(plan: &[Stretch]) -> u64 {
    plan.iter().map(|stretch| stretch.bytes.div_ceil(CHUNK_BYTES)).sum()
}

/// The next chunk to read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    stretch: usize,
    /// Bytes of that stretch already done.
    done: u64,
}

/// Everything a pass knows between two segments.
#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    next: Place,
    /// Bytes done.
    done: u64,
    whole: Sha256Stream,
    hashing: Hashing,
    scanner: Scanner,
}

/// Reads the whole source once. `progress` gets the bytes newly done. A pass with digests of
/// other kinds is not kept on the shelf: their states cannot be written down.
///
/// # Errors
/// The source cannot be read, or ends earlier than its size says.
pub fn scan(
    source: &(dyn ReadAt + Sync),
    tensors: Tensors<'_>,
    wanted: Wanted<'_>,
    shelf: Option<&mut dyn Shelf>,
    findings: &mut Findings,
    progress: &mut dyn FnMut(u64),
) -> io::Result<Scanned> {
    scan_in(SEGMENT_BYTES, source, tensors, wanted, shelf, findings, progress)
}

/// Tests alone choose the length of a segment.
fn scan_in(
    segment_bytes: u64,
    source: &(dyn ReadAt + Sync),
    tensors: Tensors<'_>,
    wanted: Wanted<'_>,
    shelf: Option<&mut dyn Shelf>,
    findings: &mut Findings,
    progress: &mut dyn FnMut(u64),
) -> io::Result<Scanned> {
    let weights = tensors.weights;
    let plan = stretches(weights, tensors.data_offset, source.size());
    let target = wanted.prove.and_then(|byte| chunk_of(&plan, byte));
    let mut others = (!wanted.others.is_empty()).then(|| Others::new(wanted.others));
    let mut shelf = shelf.filter(|_| others.is_none());
    let kept = shelf.as_mut().and_then(|shelf| shelf.take_up());
    let fitting =
        |state: &State| state.next.stretch < plan.len() && state.hashing.proves(target.map(|t| t.0));
    let kept = kept.and_then(|text| serde_json::from_str::<State>(&text).ok()).filter(fitting);
    let mut state = kept.unwrap_or_else(|| State {
        hashing: Hashing::new(target.map(|(leaf, ..)| leaf), leaves(&plan)),
        ..State::default()
    });
    progress(state.done);
    source.sequential();
    let job = segment::Job { source, tensors, plan: &plan, forget: wanted.forget, bytes: segment_bytes };
    while job.run(&mut state, others.as_mut(), progress)? {
        if let Some(shelf) = &mut shelf
            && let Ok(text) = serde_json::to_string(&state)
        {
            shelf.put_down(&text);
        }
    }
    let State { whole, mut hashing, scanner, .. } = state;
    scanner.finish(tensors).into_iter().for_each(|finding| findings.push(finding));
    let (root, leaves) = (hashing.tree.root(), hashing.tree.leaves());
    let proof = target.and_then(|(leaf, offset, bytes)| {
        let (leaf_hash, path) = hashing.proof()?;
        Some(ChunkProof { offset, bytes, leaf, leaves, leaf_hash, path, root })
    });
    let (mut hashes, weights_digests) = (vec![None; weights.len()], others.as_mut().map(Others::weights));
    for (place, root) in hashing.tensors {
        let digests = others.as_mut().map(|others| others.of(place)).unwrap_or_default();
        if let Some(slot) = hashes.get_mut(place) {
            *slot = Some(TensorHash { root, others: digests });
        }
    }
    // A tensor without bytes has no chunks.
    for (slot, _) in
        hashes.iter_mut().zip(weights).filter(|(slot, weights)| slot.is_none() && weights.bytes == 0)
    {
        *slot = Some(TensorHash { root: crate::digest::sha256(&[]), others: Others::empty(wanted.others) });
    }
    Ok(Scanned {
        sha256: whole.finish(),
        root,
        leaves,
        tensors: hashes,
        weights: weights_digests.unwrap_or_default(),
        proof,
    })
}

#[cfg(test)]
mod tests;
