//! Two tensors of one name and shape: what is the candidate's to the reference's?
//!
//! Both are read once, in chunks. What is equal, or is exactly what rounding the reference
//! gives, needs no further look; the rest is decoded and compared weight by weight.

use super::TensorRelation;
use multiversion::multiversion;

use super::decode::{self, Weights, decode, is_known};
use super::grids;
use super::half::{f32_to_bf16, f32_to_f16};
use super::quantize::{ARITHMETICS, BLOCK, block, foreign_blocks, has_reference, plain_blocks};
use super::rescale::open_explained;
use super::side::{Entry, Side};
use super::ternary;
use super::weigh::Tally;
use crate::domain::Problem;
use crate::model::gguf::GgmlType;

/// Weights read at a time: whole blocks of every type, and as many of 16 bits as stay in a
/// processor's second cache.
const CHUNK_WEIGHTS: u64 = 1 << 18;
/// Of a type whose weights say nothing one by one, so many of each of those are looked at.
const SAMPLED_WEIGHTS: u64 = 1 << 16;
/// Weights compared at a time: as many as stay, decoded, in its first.
const TILE_WEIGHTS: u64 = 1 << 11;
/// A reference quantiser reproduces (nearly) every block, one that searches for scales
/// hardly any. A share in between is neither: some blocks come from other weights.
const FEW_BLOCKS: f64 = 0.1;
const NEARLY_ALL_BLOCKS: f64 = 0.999;
/// Weights whose cosine is less have nothing to do with each other. Even one bit keeps 0.8.
const ALIKE: f64 = 0.5;
/// Fewer blocks than this have no meaningful share.
const ENOUGH_BLOCKS: u64 = 64;
/// No more of the weights than this are in blocks that only a scale far from the stored one explains.
/// Measured on normal weights with importances whose logarithms have a standard deviation of 3: 1.5 % of a
/// tensor of Q4_0, less than 0.1 % of one of the other types.
const FAR_SHARE: f64 = 0.05;

/// What was seen of a pair of tensors.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    pub elements: u64,
    /// Some byte differs, or the types do.
    bytes_differ: bool,
    /// Some value differs.
    values_differ: bool,
    /// Tiles that differ, and those where the reference is a rounding of the candidate.
    differing: u64,
    finer: u64,
    /// Blocks of a type with a reference algorithm, all-zero ones left out; and of ternary types, as
    /// many together as are compared at a time.
    blocks: u64,
    exact_blocks: u64,
    /// Weights that were compared one by one.
    pub tally: Tally,
    /// Those of them whose codes are a rounding under another scale than the stored one.
    rescaled: u64,
    /// Those of these where that is far from it, as the stored one has it.
    far: Tally,
    /// The reference is of a type that rounds, and another than the candidate's.
    reference_rounds: bool,
    /// Only some of the weights were looked at.
    sampled: bool,
}

impl Seen {
    /// Cosine of the angle between the weights that are not exactly equal or rounded.
    pub fn correlation(&self) -> Option<f64> {
        let power = self.tally.reference_power * self.tally.candidate_power;
        (power > 0.0).then(|| self.tally.product / power.sqrt())
    }

    /// Root mean square of the reference's weights that were compared one by one.
    pub fn scale(&self) -> f64 {
        (self.tally.reference_power / (self.tally.compared.max(1) as f64)).sqrt()
    }

    /// How many of the weights have something to do with the reference's.
    pub fn related(&self) -> u64 {
        let alike = self.correlation().is_some_and(|correlation| correlation >= ALIKE);
        let compared = if self.sampled { self.elements } else { self.tally.compared };
        if alike { self.elements } else { self.elements.saturating_sub(compared) }
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
        if self.tally.beyond > 0 {
            let both = self.reference_rounds && self.tally.beyond_both == 0;
            return if both { TensorRelation::CommonOrigin } else { TensorRelation::Differs };
        }
        if self.tally.compared == 0 {
            let blocks = candidate.block() > 1;
            return if blocks { TensorRelation::Requantized } else { TensorRelation::Rounded };
        }
        if has_reference(candidate)
            && self.blocks >= ENOUGH_BLOCKS
            && self.exact_share().is_some_and(|share| share > FEW_BLOCKS && share < NEARLY_ALL_BLOCKS)
        {
            let both = self.reference_rounds;
            return if both { TensorRelation::CommonOrigin } else { TensorRelation::Differs };
        }
        // A point of a grid says nothing of its weights, or on which side of zero they are.
        if (self.tally.unchecked - self.rescaled) * 2 > self.elements || grids::is_known(candidate) {
            let foreign = self.correlation().is_some_and(|correlation| correlation < ALIKE);
            return if foreign { TensorRelation::Differs } else { TensorRelation::Unknown };
        }
        TensorRelation::WithinRounding
    }

    /// Weighs weights against those of the reference from the place `start` on. How far these
    /// may be off themselves counts, and is looked for, only where a weight is beyond.
    fn weigh(&mut self, weights: &Weights, start: usize, reference: &mut Reference<'_>) {
        let Some(values) = reference.values.get(start..start + weights.values.len()) else { return };
        let before = self.tally;
        // Where a weight was beyond, others will be.
        if self.reference_rounds && before.beyond > 0 {
            self.tally.weigh(weights, values, reference.rooms(start));
            return;
        }
        self.tally.weigh(weights, values, &[]);
        if self.reference_rounds && self.tally.beyond > 0 {
            self.tally = before;
            self.tally.weigh(weights, values, reference.rooms(start));
        }
    }

    /// Weighs those that only a far scale explains once more, by the stored one.
    fn weigh_far(&mut self, weights: &Weights, start: usize, reference: &mut Reference<'_>) {
        let Some(values) = reference.values.get(start..start + weights.values.len()) else { return };
        let rooms = if self.reference_rounds { reference.rooms(start) } else { &[] };
        self.far.weigh(weights, values, rooms);
    }

    /// Does not leave weights to a far scale if there are many of them.
    fn settle(&mut self) {
        if self.far.compared as f64 > FAR_SHARE * self.elements as f64 {
            self.rescaled = self.rescaled.saturating_sub(self.far.compared);
            self.tally.close(&self.far);
            self.far = Tally::default();
        }
    }

    /// Blocks of which every byte is equal.
    fn equal(&mut self, kind: GgmlType, weights: u64) {
        if has_reference(kind) {
            self.blocks += weights / BLOCK as u64;
            self.exact_blocks += weights / BLOCK as u64;
        }
    }
}

/// Buffers that are used again for every chunk and tensor.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    candidate: Vec<u8>,
    reference: Vec<u8>,
    work: Work,
}

/// Those for one tile.
#[derive(Debug, Default)]
struct Work {
    values: Vec<f32>,
    other: Vec<f32>,
    rooms: Vec<f32>,
    encoded: Vec<u8>,
    weights: Weights,
    scratch: Weights,
}

/// A tile of the reference.
struct Reference<'a> {
    kind: GgmlType,
    bytes: &'a [u8],
    values: &'a [f32],
    /// Empty until somebody asks.
    rooms: &'a mut Vec<f32>,
    scratch: &'a mut Weights,
}

impl Reference<'_> {
    /// How far the values from the place `start` on may be from what they were rounded from.
    fn rooms(&mut self, start: usize) -> &[f32] {
        match self.kind {
            _ if !self.rooms.is_empty() => {}
            GgmlType::F16 | GgmlType::BF16 => decode::rooms(self.kind, self.values, self.rooms),
            kind => {
                decode(kind, self.bytes, self.scratch);
                self.rooms.extend(self.scratch.iter().map(|weight| weight.below.max(weight.above)));
            }
        }
        self.rooms.get(start..).unwrap_or_default()
    }
}

/// Compares tensors of equal shape. `progress` gets bytes of the candidate newly done.
pub(super) fn compare(
    sides: (&Side, &Side),
    entries: (&Entry, &Entry),
    buffers: &mut Buffers,
    progress: &dyn Fn(u64),
) -> Result<(TensorRelation, Seen), Problem> {
    compare_while(|_| true, sides, entries, buffers, progress)
}

/// The same, ended early where what was seen so far is not `wanted`.
pub(super) fn compare_while(
    wanted: impl Fn(TensorRelation) -> bool,
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
    // How alike tensors are is all that such a candidate says, and a part of its weights says it; but
    // the sides of zero where it keeps them.
    seen.sampled = grids::is_known(kind) && !same_type && !moved;
    let keeps_signs = grids::keeps_signs(kind);
    let mut done = 0;
    while done < seen.elements {
        let whole = step.min(seen.elements - done);
        let count = if seen.sampled && !keeps_signs { whole.min(SAMPLED_WEIGHTS) } else { whole };
        fill(sides.0, candidate, kind, done, count, &mut buffers.candidate)?;
        fill(sides.1, reference, from, done, count, &mut buffers.reference)?;
        done += whole;
        if same_type && buffers.candidate == buffers.reference {
            seen.equal(kind, count);
        } else if is_known(kind) && is_known(from) {
            let Buffers { candidate, reference, work } = &mut *buffers;
            for (number, (ours, theirs)) in (0..).zip(tiles(kind, candidate).zip(tiles(from, reference))) {
                let beyond_sample = seen.sampled && number >= SAMPLED_WEIGHTS / TILE_WEIGHTS;
                if beyond_sample && grids::on_their_sides(kind, ours, from, theirs) {
                    continue;
                }
                if same_type && ours == theirs {
                    seen.equal(kind, ours.len() as u64 / kind.block_bytes().max(1) * kind.block());
                } else {
                    tile((kind, ours), (from, theirs), work, &mut seen);
                }
            }
        } else {
            return Ok((TensorRelation::Unknown, seen));
        }
        progress(kind.bytes(whole).unwrap_or(0));
        if !wanted(seen.relation(kind)) {
            break;
        }
    }
    seen.settle();
    Ok((seen.relation(kind), seen))
}

/// Reads `count` weights from the weight `start` on.
fn fill(
    side: &Side,
    entry: &Entry,
    kind: GgmlType,
    start: u64,
    count: u64,
    buffer: &mut Vec<u8>,
) -> Result<(), Problem> {
    let size = |weights: u64| {
        kind.bytes(weights).ok_or_else(|| Problem::internal("a chunk of a tensor is not whole blocks"))
    };
    let length = size(count)?;
    buffer.resize(usize::try_from(length).unwrap_or(0), 0);
    side.read(entry, size(start)?, buffer)
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

fn tiles(kind: GgmlType, bytes: &[u8]) -> std::slice::Chunks<'_, u8> {
    // Every block is a part of a tile.
    let length = kind.bytes(TILE_WEIGHTS).and_then(|length| usize::try_from(length).ok());
    bytes.chunks(length.unwrap_or(1).max(1))
}

/// A tile whose bytes or types differ: type and bytes of the candidate, and of the reference.
fn tile(
    (kind, candidate): (GgmlType, &[u8]),
    (from, reference): (GgmlType, &[u8]),
    work: &mut Work,
    seen: &mut Seen,
) {
    seen.bytes_differ = true;
    let Work { values, other, rooms, encoded, weights, scratch } = work;
    let mut exact = ternary::is_rounding_of_halves(kind, candidate, from, reference);
    if !exact {
        decode::values(from, reference, values, scratch);
        exact = ternary::is_rounding(kind, candidate, values);
    }
    if ternary::is_known(kind) {
        let groups = candidate.len() as u64 / kind.block_bytes();
        seen.blocks += groups;
        if exact {
            seen.values_differ = true;
            seen.exact_blocks += groups;
            return;
        }
    }
    rooms.clear();
    let before = seen.tally;
    if has_reference(kind) {
        seen.values_differ = true;
        let mut reference = Reference { kind: from, bytes: reference, values, rooms, scratch };
        blocks(kind, candidate, &mut reference, encoded, weights, seen);
    } else if rounds_to(kind, values, candidate) {
        let lossless =
            matches!((kind, from), (GgmlType::F64, _) | (GgmlType::F32, GgmlType::F16 | GgmlType::BF16));
        if !lossless {
            decode::values(kind, candidate, other, scratch);
            seen.values_differ |= values != other;
        }
    } else if kind.block() == 1 && same_values(kind, candidate, values, other, scratch) {
        // Zeros of different signs.
    } else {
        seen.values_differ = true;
        // Where a weight was beyond, others will be.
        if seen.tally.beyond > 0 || !seen.tally.glance(kind, candidate, values) {
            decode(kind, candidate, weights);
            seen.weigh(weights, 0, &mut Reference { kind: from, bytes: reference, values, rooms, scratch });
        }
    }
    if seen.tally.compared > before.compared {
        seen.differing += 1;
        if seen.tally.beyond > before.beyond && kind.block() == 1 && coarser(from, kind) {
            decode::values(kind, candidate, other, scratch);
            seen.finer += u64::from(is_rounding(from, other, reference, encoded));
        }
    }
}

fn same_values(
    kind: GgmlType,
    bytes: &[u8],
    values: &[f32],
    decoded: &mut Vec<f32>,
    scratch: &mut Weights,
) -> bool {
    decode::values(kind, bytes, decoded, scratch);
    decoded == values
}

/// Does `a` hold fewer bits per weight than `b`?
pub(super) fn coarser(a: GgmlType, b: GgmlType) -> bool {
    a.block_bytes() * b.block() < b.block_bytes() * a.block()
}

/// Is `bytes` what rounding `values` to `kind` gives?
fn is_rounding(kind: GgmlType, values: &[f32], bytes: &[u8], encoded: &mut Vec<u8>) -> bool {
    if !has_reference(kind) {
        return rounds_to(kind, values, bytes);
    }
    let size = usize::try_from(kind.block_bytes()).unwrap_or(1);
    let (groups, _) = values.as_chunks::<BLOCK>();
    groups.iter().zip(bytes.chunks_exact(size)).all(|(group, bytes)| reproduced(kind, group, bytes, encoded))
}

fn reproduced(kind: GgmlType, values: &[f32; BLOCK], bytes: &[u8], encoded: &mut Vec<u8>) -> bool {
    for how in ARITHMETICS {
        encoded.clear();
        block(kind, values, how, encoded);
        // The scale comes first, and is the same in every arithmetic.
        if encoded == bytes || encoded.first_chunk::<2>() != bytes.first_chunk() {
            return encoded == bytes;
        }
    }
    false
}

/// Blocks of a type with a reference algorithm: reproduce them, and look at the others, as many at once
/// as stand in a row.
fn blocks(
    kind: GgmlType,
    bytes: &[u8],
    reference: &mut Reference<'_>,
    encoded: &mut Vec<u8>,
    weights: &mut Weights,
    seen: &mut Seen,
) {
    let size = usize::try_from(kind.block_bytes()).unwrap_or(1);
    let (groups, _) = reference.values.as_chunks::<BLOCK>();
    let mut at = 0;
    while let (Some(rest @ [_, ..]), Some(own)) = (groups.get(at..), bytes.get(at * size..)) {
        let (plain, zeros) = plain_blocks(kind, rest, own);
        seen.blocks += (plain - zeros) as u64;
        seen.exact_blocks += (plain - zeros) as u64;
        let start = at + plain;
        at = start;
        let exact = loop {
            let (rest, own) =
                (groups.get(at..).unwrap_or_default(), bytes.get(at * size..).unwrap_or_default());
            at += foreign_blocks(kind, rest, own);
            let (Some(group), Some(own)) = (groups.get(at), bytes.get(at * size..(at + 1) * size)) else {
                break None;
            };
            if at > start && plain_blocks(kind, std::slice::from_ref(group), own).0 == 1 {
                break None;
            }
            if reproduced(kind, group, own, encoded) {
                break Some(group);
            }
            at += 1;
        };
        if let (Some(own), Some(groups)) = (bytes.get(start * size..at * size), groups.get(start..at)) {
            seen.blocks += groups.len() as u64;
            decode(kind, own, weights);
            let explained = open_explained(kind, own, weights, groups);
            seen.rescaled += (explained.blocks * BLOCK) as u64;
            seen.weigh(weights, start * BLOCK, reference);
            for place in explained.far {
                let Some(own) = own.get(place * size..(place + 1) * size) else { continue };
                decode(kind, own, weights);
                seen.weigh_far(weights, (start + place) * BLOCK, reference);
            }
        }
        if let Some(group) = exact {
            at += 1;
            let counts = u64::from(group.iter().any(|&value| value != 0.0));
            seen.blocks += counts;
            seen.exact_blocks += counts;
        }
    }
}

/// Bits that differ between patterns of 16 bits that are not both zero.
#[inline(always)]
fn differing(a: u16, b: u16) -> u16 {
    if (a | b) & 0x7fff == 0 { 0 } else { a ^ b }
}

/// Is `bytes` what rounding `values` to this float type gives? False if it is none. Of 16 bits, zeros may
/// have another sign.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
fn rounds_to(kind: GgmlType, values: &[f32], bytes: &[u8]) -> bool {
    let halves = values.iter().zip(bytes.as_chunks().0);
    match kind {
        GgmlType::F32 => values.iter().zip(bytes.as_chunks().0).all(|(x, raw)| x.to_le_bytes() == *raw),
        GgmlType::F64 => {
            values.iter().zip(bytes.as_chunks().0).all(|(&x, raw)| f64::from(x).to_le_bytes() == *raw)
        }
        // Without a way out in between, so that many are done at once.
        GgmlType::F16 => {
            halves.fold(0, |odd, (&x, raw)| odd | differing(f32_to_f16(x), u16::from_le_bytes(*raw))) == 0
        }
        GgmlType::BF16 => {
            halves.fold(0, |odd, (&x, raw)| odd | differing(f32_to_bf16(x), u16::from_le_bytes(*raw))) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks in a row count what they count one by one, whatever stands beside them.
    #[test]
    fn blocks_in_a_row_are_as_one_by_one() {
        let mut state = 11u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f32 / (1u64 << 30) as f32 - 1.0
        };
        for kind in [GgmlType::Q4_0, GgmlType::Q4_1, GgmlType::Q5_0, GgmlType::Q5_1, GgmlType::Q8_0] {
            let (mut bytes, mut raw, mut encoded) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..TILE_WEIGHTS as usize / BLOCK {
                let mut values: [f32; BLOCK] = std::array::from_fn(|_| next());
                encoded.clear();
                match next() {
                    x if x < -0.9 => values = [0.0; BLOCK],
                    // Between two codes, where arithmetics differ.
                    x if x < -0.6 => {
                        values = std::array::from_fn(|i| {
                            (i as f32 - 8.5) / if kind == GgmlType::Q8_0 { 127.0 } else { 8.0 }
                        })
                    }
                    _ => {}
                }
                let how = ARITHMETICS[(next().abs() * 2.9) as usize];
                block(kind, &values, how, &mut encoded);
                let far = match next() {
                    x if x < 0.2 => 0.0,
                    x if x < 0.5 => 0.01,
                    _ => 0.3,
                };
                raw.extend(values.iter().flat_map(|x| (x + far * next()).to_le_bytes()));
                bytes.extend_from_slice(&encoded);
            }
            let look = |parts: Vec<(&[u8], &[u8])>| {
                let (mut work, mut seen) = (Work::default(), Seen::default());
                for (own, raw) in parts {
                    tile((kind, own), (GgmlType::F32, raw), &mut work, &mut seen);
                }
                let Seen { blocks, exact_blocks, rescaled, tally, .. } = seen;
                let counts = [blocks, exact_blocks, rescaled, tally.compared, tally.unchecked, tally.beyond];
                (counts, tally.max_error, tally.excess)
            };
            let size = usize::try_from(kind.block_bytes()).unwrap();
            let all = look(vec![(&bytes, &raw)]);
            assert_eq!(all, look(bytes.chunks(size).zip(raw.chunks(4 * BLOCK)).collect()), "{kind:?}");
            let [blocks, exact, rescaled, compared, _, beyond] = all.0;
            assert!(exact > 5 && blocks > exact + 20 && beyond > 100, "{kind:?} {all:?}");
            assert_eq!(compared, (blocks - exact) * BLOCK as u64);
            assert!(kind == GgmlType::Q8_0 || rescaled > 0, "{kind:?} {all:?}");
        }
    }
}
