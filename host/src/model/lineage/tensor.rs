//! Two tensors of one name and shape: what is the candidate's to the reference's?
//!
//! Both are read once, in chunks. What is equal, or is exactly what rounding the reference
//! gives, needs no further look; the rest is decoded and compared weight by weight.

use super::TensorRelation;
use super::decode::{Weight, decode, is_known};
use super::half::{f32_to_bf16, f32_to_f16};
use super::quantize::{ARITHMETICS, BLOCK, block, has_reference, plain_blocks};
use super::rescale::explained;
use super::side::{Entry, Side};
use crate::domain::Problem;
use crate::model::gguf::GgmlType;

/// Weights compared at a time: whole blocks of every type, and as many as stay in a processor's second cache.
const CHUNK_WEIGHTS: u64 = 1 << 16;
/// A reference quantiser reproduces (nearly) every block, one that searches for scales
/// hardly any. A share in between is neither: some blocks come from other weights.
const FEW_BLOCKS: f64 = 0.1;
const NEARLY_ALL_BLOCKS: f64 = 0.999;
/// Fewer blocks than this have no meaningful share.
const ENOUGH_BLOCKS: u64 = 64;

/// What was seen of a pair of tensors.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    pub elements: u64,
    /// Some byte differs, or the types do.
    bytes_differ: bool,
    /// Some value differs.
    values_differ: bool,
    /// Chunks that differ, and those where the reference is a rounding of the candidate.
    differing: u64,
    finer: u64,
    /// Blocks of a type with a reference algorithm, all-zero ones left out.
    blocks: u64,
    exact_blocks: u64,
    /// Weights that were compared one by one, and those about which nothing can be said.
    compared: u64,
    unchecked: u64,
    /// Those of them whose codes are a rounding under another scale than the stored one.
    rescaled: u64,
    /// Weights further off than their allowance.
    pub beyond: u64,
    /// Weights further off even if the reference was rounded, too, from something finer.
    beyond_both: u64,
    /// The reference is of a type that rounds, and another than the candidate's.
    reference_rounds: bool,
    pub max_error: f64,
    /// The allowance where the error is largest.
    pub allowed: f64,
    /// How far beyond the allowance.
    pub excess: f64,
    /// The same in quantisation steps, where there are any.
    pub excess_steps: f64,
    reference_power: f64,
    candidate_power: f64,
    product: f64,
}

impl Seen {
    /// Cosine of the angle between the weights that are not exactly equal or rounded.
    pub fn correlation(&self) -> Option<f64> {
        let power = self.reference_power * self.candidate_power;
        (power > 0.0).then(|| self.product / power.sqrt())
    }

    /// Root mean square of the reference's weights that were compared one by one.
    pub fn scale(&self) -> f64 {
        (self.reference_power / (self.compared.max(1) as f64)).sqrt()
    }

    /// How many of the weights have something to do with the reference's.
    pub fn related(&self) -> u64 {
        let alike = self.correlation().is_some_and(|correlation| correlation >= 0.5);
        if alike { self.elements } else { self.elements.saturating_sub(self.compared) }
    }

    /// Share of blocks that the reference algorithm reproduces.
    pub fn exact_share(&self) -> Option<f64> {
        (self.blocks > 0).then(|| self.exact_blocks as f64 / self.blocks as f64)
    }

    fn relation(&self, candidate: GgmlType) -> TensorRelation {
        if !self.bytes_differ {
            return TensorRelation::Identical;
        }
        if !self.values_differ {
            return TensorRelation::SameValues;
        }
        if self.differing > 0 && self.finer == self.differing {
            return TensorRelation::Finer;
        }
        if self.beyond > 0 {
            let both = self.reference_rounds && self.beyond_both == 0;
            return if both { TensorRelation::CommonOrigin } else { TensorRelation::Differs };
        }
        if self.compared == 0 {
            return if has_reference(candidate) {
                TensorRelation::Requantized
            } else {
                TensorRelation::Rounded
            };
        }
        if has_reference(candidate)
            && self.blocks >= ENOUGH_BLOCKS
            && self.exact_share().is_some_and(|share| share > FEW_BLOCKS && share < NEARLY_ALL_BLOCKS)
        {
            let both = self.reference_rounds;
            return if both { TensorRelation::CommonOrigin } else { TensorRelation::Differs };
        }
        if (self.unchecked - self.rescaled) * 2 > self.elements {
            return TensorRelation::Unknown;
        }
        TensorRelation::WithinRounding
    }

    /// `room` is how far the reference itself may be from what it was rounded from.
    fn weigh(&mut self, candidate: &Weight, reference: f32, room: f32) {
        let (value, expected) = (f64::from(candidate.value), f64::from(reference));
        self.compared += 1;
        let error = expected - value;
        if !error.is_finite() {
            let same = candidate.value.to_bits() == reference.to_bits();
            self.beyond += u64::from(!same);
            self.beyond_both += u64::from(!same);
            return;
        }
        self.reference_power += expected * expected;
        self.candidate_power += value * value;
        self.product += value * expected;
        let allowed = f64::from(if error >= 0.0 { candidate.above } else { candidate.below });
        if allowed.is_infinite() {
            self.unchecked += 1;
            return;
        }
        let error = error.abs();
        if error > self.max_error {
            (self.max_error, self.allowed) = (error, allowed);
        }
        let excess = error - allowed;
        if excess > 0.0 {
            self.beyond += 1;
            self.beyond_both += u64::from(excess > f64::from(room));
            self.excess = self.excess.max(excess);
            if candidate.step > 0.0 {
                self.excess_steps = self.excess_steps.max(excess / f64::from(candidate.step));
            }
        }
    }
}

/// Buffers that are used again for every chunk and tensor.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    candidate: Vec<u8>,
    reference: Vec<u8>,
    values: Vec<f32>,
    other: Vec<f32>,
    rooms: Vec<f32>,
    encoded: Vec<u8>,
    weights: Vec<Weight>,
}

/// Compares tensors of equal shape. `progress` gets bytes of the candidate newly done.
pub(super) fn compare(
    sides: (&Side, &Side),
    entries: (&Entry, &Entry),
    buffers: &mut Buffers,
    progress: &dyn Fn(u64),
) -> Result<(TensorRelation, Seen), Problem> {
    let (candidate, reference) = entries;
    let rounds = !matches!(reference.kind, Some(GgmlType::F32 | GgmlType::F64));
    let same_type = candidate.dtype == reference.dtype;
    let mut seen =
        Seen { elements: candidate.elements(), reference_rounds: rounds && !same_type, ..Seen::default() };
    let (Some(kind), Some(from)) = (candidate.kind, reference.kind) else {
        return bytes_only(sides, entries, same_type, seen, buffers, progress);
    };
    let moved = candidate.heads.is_some() || reference.heads.is_some();
    let columns = candidate.columns();
    let step = if moved && candidate.shape.len() > 1 {
        (CHUNK_WEIGHTS / columns).max(1) * columns
    } else {
        CHUNK_WEIGHTS
    };
    let mut done = 0;
    while done < seen.elements {
        let count = step.min(seen.elements - done);
        let length = fill(sides.0, candidate, kind, done, count, &mut buffers.candidate)?;
        fill(sides.1, reference, from, done, count, &mut buffers.reference)?;
        done += count;
        if !same_type || buffers.candidate != buffers.reference {
            if !is_known(kind) || !is_known(from) {
                return Ok((TensorRelation::Unknown, seen));
            }
            chunk(kind, from, buffers, &mut seen);
        } else if has_reference(kind) {
            let blocks = count / BLOCK as u64;
            seen.blocks += blocks;
            seen.exact_blocks += blocks;
        }
        progress(length);
    }
    Ok((seen.relation(kind), seen))
}

/// Reads `count` weights from the weight `start` on; returns the bytes they take.
fn fill(
    side: &Side,
    entry: &Entry,
    kind: GgmlType,
    start: u64,
    count: u64,
    buffer: &mut Vec<u8>,
) -> Result<u64, Problem> {
    let size = |weights: u64| {
        kind.bytes(weights).ok_or_else(|| Problem::internal("a chunk of a tensor is not whole blocks"))
    };
    let length = size(count)?;
    buffer.resize(usize::try_from(length).unwrap_or(0), 0);
    side.read(entry, size(start)?, buffer)?;
    Ok(length)
}

/// Types whose values are not understood can only be equal or not.
fn bytes_only(
    sides: (&Side, &Side),
    entries: (&Entry, &Entry),
    same_type: bool,
    mut seen: Seen,
    buffers: &mut Buffers,
    progress: &dyn Fn(u64),
) -> Result<(TensorRelation, Seen), Problem> {
    let (candidate, reference) = entries;
    if !same_type || candidate.bytes != reference.bytes {
        return Ok((TensorRelation::Unknown, seen));
    }
    let mut done = 0;
    while done < candidate.bytes {
        let length = (1 << 20).min(candidate.bytes - done);
        for (side, entry, buffer) in
            [(sides.0, candidate, &mut buffers.candidate), (sides.1, reference, &mut buffers.reference)]
        {
            buffer.resize(usize::try_from(length).unwrap_or(0), 0);
            side.read(entry, done, buffer)?;
        }
        seen.bytes_differ |= buffers.candidate != buffers.reference;
        done += length;
        progress(length);
    }
    Ok((if seen.bytes_differ { TensorRelation::Differs } else { TensorRelation::Identical }, seen))
}

/// A chunk whose bytes or types differ.
fn chunk(kind: GgmlType, from: GgmlType, buffers: &mut Buffers, seen: &mut Seen) {
    seen.bytes_differ = true;
    let Buffers { candidate, reference, values, other, rooms, encoded, weights } = buffers;
    decoded(from, reference, values, weights);
    rooms.clear();
    if seen.reference_rounds {
        rooms.extend(weights.iter().map(|weight| weight.below.max(weight.above)));
    }
    let beyond = seen.beyond;
    let compared = seen.compared;
    if has_reference(kind) {
        seen.values_differ = true;
        blocks(kind, candidate, (values, rooms), encoded, weights, seen);
    } else if encode_floats(kind, values, encoded) && encoded == candidate {
        let lossless =
            matches!((kind, from), (GgmlType::F64, _) | (GgmlType::F32, GgmlType::F16 | GgmlType::BF16));
        if !lossless {
            decoded(kind, candidate, other, weights);
            seen.values_differ |= values != other;
        }
    } else {
        seen.values_differ = true;
        weights.clear();
        decode(kind, candidate, weights);
        let pairs = values.iter().zip(rooms.iter().chain(std::iter::repeat(&0.0)));
        weights.iter().zip(pairs).for_each(|(weight, (&value, &room))| seen.weigh(weight, value, room));
    }
    if seen.compared > compared {
        seen.differing += 1;
        if seen.beyond > beyond && coarser(from, kind) {
            decoded(kind, candidate, other, weights);
            seen.finer += u64::from(is_rounding(from, other, reference, encoded));
        }
    }
}

/// Does `a` hold fewer bits per weight than the float type `b`?
fn coarser(a: GgmlType, b: GgmlType) -> bool {
    b.block() == 1 && a.block_bytes() * b.block() < b.block_bytes() * a.block()
}

/// Is `bytes` what rounding `values` to `kind` gives?
fn is_rounding(kind: GgmlType, values: &[f32], bytes: &[u8], encoded: &mut Vec<u8>) -> bool {
    if !has_reference(kind) {
        return encode_floats(kind, values, encoded) && encoded == bytes;
    }
    let size = usize::try_from(kind.block_bytes()).unwrap_or(1);
    let (groups, _) = values.as_chunks::<BLOCK>();
    groups.iter().zip(bytes.chunks_exact(size)).all(|(group, bytes)| reproduced(kind, group, bytes, encoded))
}

fn reproduced(kind: GgmlType, values: &[f32; BLOCK], bytes: &[u8], encoded: &mut Vec<u8>) -> bool {
    ARITHMETICS.iter().any(|&how| {
        encoded.clear();
        block(kind, values, how, encoded);
        encoded == bytes
    })
}

/// Blocks of a type with a reference algorithm: reproduce them, and look at the others.
fn blocks(
    kind: GgmlType,
    bytes: &[u8],
    (values, rooms): (&[f32], &[f32]),
    encoded: &mut Vec<u8>,
    weights: &mut Vec<Weight>,
    seen: &mut Seen,
) {
    let size = usize::try_from(kind.block_bytes()).unwrap_or(1);
    let (mut groups, _) = values.as_chunks::<BLOCK>();
    let (mut bytes, mut rooms) = (bytes, rooms);
    while !groups.is_empty() {
        let plain = plain_blocks(kind, groups, bytes);
        let zeros = groups.iter().take(plain).filter(|group| group.iter().all(|&value| value == 0.0)).count();
        seen.blocks += (plain - zeros) as u64;
        seen.exact_blocks += (plain - zeros) as u64;
        groups = groups.get(plain..).unwrap_or_default();
        bytes = bytes.get(plain * size..).unwrap_or_default();
        rooms = rooms.get(plain * BLOCK..).unwrap_or_default();
        // One that is not plain, and on from there.
        let (Some((group, others)), Some((own, after))) =
            (groups.split_first(), bytes.split_at_checked(size))
        else {
            return;
        };
        let (own_rooms, further) = rooms.split_at_checked(BLOCK).unwrap_or_default();
        (groups, bytes, rooms) = (others, after, further);
        let exact = reproduced(kind, group, own, encoded);
        if exact && group.iter().all(|&value| value == 0.0) {
            continue;
        }
        seen.blocks += 1;
        if exact {
            seen.exact_blocks += 1;
        } else {
            weights.clear();
            decode(kind, own, weights);
            if explained(kind, own, weights, group) {
                weights.iter_mut().for_each(|weight| {
                    (weight.below, weight.above) = (f32::INFINITY, f32::INFINITY);
                });
                seen.rescaled += BLOCK as u64;
            }
            let pairs = group.iter().zip(own_rooms.iter().chain(std::iter::repeat(&0.0)));
            weights.iter().zip(pairs).for_each(|(weight, (&value, &room))| seen.weigh(weight, value, room));
        }
    }
}

fn decoded(kind: GgmlType, bytes: &[u8], values: &mut Vec<f32>, weights: &mut Vec<Weight>) {
    values.clear();
    if kind == GgmlType::F32 {
        values.extend(bytes.as_chunks().0.iter().map(|raw| f32::from_le_bytes(*raw)));
    } else {
        weights.clear();
        decode(kind, bytes, weights);
        values.extend(weights.iter().map(|weight| weight.value));
    }
}

/// Encodes values as a float type; false if it is none.
fn encode_floats(kind: GgmlType, values: &[f32], out: &mut Vec<u8>) -> bool {
    out.clear();
    match kind {
        GgmlType::F32 => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        GgmlType::F64 => out.extend(values.iter().flat_map(|&value| f64::from(value).to_le_bytes())),
        GgmlType::F16 => out.extend(values.iter().flat_map(|&value| f32_to_f16(value).to_le_bytes())),
        GgmlType::BF16 => out.extend(values.iter().flat_map(|&value| f32_to_bf16(value).to_le_bytes())),
        _ => return false,
    }
    true
}
