//! The IQ types of one to three bits, whose codes stand for points of large grids, four or
//! eight weights each.
//!
//! Which point is chosen is a search that weighs errors, so a weight tells next to nothing about how
//! far its reference must lie from it. Two types keep every sign, whatever the search weighs: there a
//! reference lies on the weight's side of zero. Of the others every allowance is infinite. Values are
//! known, and with them how alike two tensors are.

use multiversion::multiversion;

use super::decode::{ANY_ROOM, NO_ROOM, Run, Taker, Weight, lesser, split};
use super::half::f16_to_f32;
use crate::model::gguf::GgmlType;

/// The points of ggml's grids, 16 bits each, one grid after the other: two bits for each of
/// eight weights, or four for each of four.
const POINTS: &[[u8; 2]] = include_bytes!("grids.bin").as_chunks().0;
/// Where each grid begins.
const IQ2_XXS: usize = 0;
const IQ2_XS: usize = 256;
const IQ2_S: usize = 768;
const IQ3_XXS: usize = 1792;
const IQ3_S: usize = 2048;
const IQ1: usize = 2560;

/// Is this one of the types here?
pub(super) fn is_known(kind: GgmlType) -> bool {
    use GgmlType::*;
    matches!(kind, IQ1_S | IQ1_M | IQ2_XXS | IQ2_XS | IQ2_S | IQ3_XXS | IQ3_S)
}

/// Does every weight have the sign of its reference? The other types keep an even number of signs in
/// eight weights, or none.
pub(super) fn keeps_signs(kind: GgmlType) -> bool {
    matches!(kind, GgmlType::IQ2_S | GgmlType::IQ3_S)
}

/// The sizes of the points of IQ2_S, a byte each.
pub(super) fn iq2_s() -> &'static [u64] {
    TWO.get(IQ2_S..).unwrap_or_default()
}

/// Hands the weights of whole blocks on; none of types that are not known.
#[inline(always)]
pub(super) fn blocks(kind: GgmlType, bytes: &[u8], out: &mut impl Taker) {
    match kind {
        GgmlType::IQ2_XXS => groups::<Iq2Xxs, 66>(bytes, out),
        GgmlType::IQ2_XS => groups::<Iq2Xs, 74>(bytes, out),
        GgmlType::IQ2_S => groups::<Iq2S, 82>(bytes, out),
        GgmlType::IQ3_XXS => groups::<Iq3Xxs, 98>(bytes, out),
        GgmlType::IQ3_S => groups::<Iq3S, 110>(bytes, out),
        GgmlType::IQ1_S => groups::<Iq1S, 50>(bytes, out),
        GgmlType::IQ1_M => groups::<Iq1M, 56>(bytes, out),
        _ => out.begin(0),
    }
}

/// How a type keeps its weights: eight parts of four groups of eight weights. A trait, because what
/// is called through a pointer is not made vector code of.
trait Grid<const SIZE: usize> {
    /// Where the signs of all weights are, a bit each, of a type that [`keeps_signs`].
    const SIGNS: Option<usize> = None;

    /// The scale of a block.
    #[inline(always)]
    fn scale(block: &[u8; SIZE]) -> f32 {
        half(block)
    }
    /// The step between codes, which every two groups share.
    fn step(block: &[u8; SIZE], scale: f32, part: usize, pair: usize) -> f32;
    /// Eight codes, a byte each.
    fn codes(block: &[u8; SIZE], part: usize, group: usize) -> u64;
}

#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
fn groups<T: Grid<SIZE>, const SIZE: usize>(bytes: &[u8], out: &mut impl Taker) {
    let blocks = bytes.as_chunks::<SIZE>().0;
    out.begin(blocks.len() * 256);
    let mut codes = [[0; 8]; 32];
    for block in blocks {
        let (mut steps, mut rooms, scale, most) = ([0.0; 16], [0.0; 16], T::scale(block), out.most());
        for (i, (step, room)) in steps.iter_mut().zip(&mut rooms).enumerate() {
            *step = T::step(block, scale, i / 2, i % 2);
            *room = Sided::room(*step, most);
        }
        read::<T, SIZE>(block, &mut codes);
        let codes = codes.as_flattened().as_chunks().0;
        if T::SIGNS.is_some() {
            out.block::<16, 16, _>(|run| Sided { codes: &codes[run], step: steps[run], room: rooms[run] });
        } else {
            out.block::<16, 16, _>(|run| Points { codes: &codes[run], step: steps[run] });
        }
    }
}

/// The codes of a block. A call, as looking up in tables is slower where compilers make vector code
/// of it.
#[inline(never)]
fn read<T: Grid<SIZE>, const SIZE: usize>(block: &[u8; SIZE], codes: &mut [[u8; 8]; 32]) {
    for (part, codes) in codes.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        for (group, own) in codes.iter_mut().enumerate() {
            *own = T::codes(block, part, group).to_le_bytes();
        }
    }
}

/// A run whose weights may be anything.
struct Points<'a> {
    codes: &'a [u8; 16],
    step: f32,
}

impl Run for Points<'_> {
    const FREE: bool = true;

    #[inline(always)]
    fn weight(&self, place: usize) -> Weight {
        let (value, _) = self.look(place, 0.0);
        Weight { value, below: f32::INFINITY, above: f32::INFINITY, step: self.step.abs() }
    }

    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "a run has as many weights as there are codes")]
    fn look(&self, place: usize, _: f32) -> (f32, u32) {
        (f32::from(self.codes[place].cast_signed()) * self.step, 0)
    }
}

/// A run whose weights are on the same side of zero as their references.
struct Sided<'a> {
    codes: &'a [u8; 16],
    step: f32,
    /// For a glance.
    room: f32,
}

impl Sided<'_> {
    /// How far a weight may be off at a glance; `most` is [`Taker::most`].
    #[inline(always)]
    fn room(step: f32, most: f32) -> f32 {
        if step == 0.0 { NO_ROOM } else { lesser(most, ANY_ROOM) }
    }

    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "a run has as many weights as there are codes")]
    fn value(&self, place: usize) -> f32 {
        f32::from(self.codes[place].cast_signed()) * self.step
    }
}

impl Run for Sided<'_> {
    #[inline(always)]
    fn weight(&self, place: usize) -> Weight {
        let (value, step) = (self.value(place), self.step.abs());
        // A step of nothing says nothing.
        let none = if self.step == 0.0 { f32::INFINITY } else { 0.0 };
        let (inward, outward) = (value.abs() + none, ANY_ROOM + none);
        let (below, above) = if value < 0.0 { (outward, inward) } else { (inward, outward) };
        Weight { value, below, above, step }
    }

    /// Inwards there is room as far as zero.
    #[inline(always)]
    fn look(&self, place: usize, expected: f32) -> (f32, u32) {
        let value = self.value(place);
        let outwards = f32::from_bits(expected.to_bits() ^ (value.to_bits() & 0x8000_0000));
        // Zero is on no side, which is why zero is added.
        (value, (outwards + 0.0).to_bits() | (self.room - (expected - value).abs()).to_bits())
    }
}

/// Are all weights of these blocks on the side of zero of their references, which are 16 bits each?
/// A quick look at patterns, several times as fast as [`Taker`]s: false where it takes a closer one, as if
/// a reference is no number, and for types that have other weights.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub(super) fn on_their_sides(kind: GgmlType, bytes: &[u8], from: GgmlType, reference: &[u8]) -> bool {
    // The patterns of the largest numbers.
    let (f16, bf16) = (0x7bff, 0x7f7f);
    match (kind, from) {
        (GgmlType::IQ2_S, GgmlType::F16) => sides::<Iq2S, 82>(bytes, reference, f16),
        (GgmlType::IQ3_S, GgmlType::F16) => sides::<Iq3S, 110>(bytes, reference, f16),
        (GgmlType::IQ2_S, GgmlType::BF16) => sides::<Iq2S, 82>(bytes, reference, bf16),
        (GgmlType::IQ3_S, GgmlType::BF16) => sides::<Iq3S, 110>(bytes, reference, bf16),
        _ => false,
    }
}

#[inline(always)]
fn sides<T: Grid<SIZE>, const SIZE: usize>(bytes: &[u8], reference: &[u8], largest: u16) -> bool {
    let (blocks, more) = bytes.as_chunks::<SIZE>();
    let (groups, rest) = reference.as_chunks::<512>();
    let Some(place) = T::SIGNS.filter(|_| more.is_empty() && rest.is_empty() && blocks.len() == groups.len())
    else {
        return false;
    };
    let mut odd = [0; 16];
    for (block, group) in blocks.iter().zip(groups) {
        let signs = split::<32>(&block[place..]).0.as_chunks().0;
        // A step below zero turns signs around, and one of nothing says nothing.
        let (mut unusual, scale) = (false, T::scale(block));
        for i in 0..16 {
            let step = T::step(block, scale, i / 2, i % 2);
            unusual |= !(f32::MIN_POSITIVE..f32::INFINITY).contains(&step);
        }
        odd[0] |= if unusual { 0x8000 } else { 0 };
        let runs = group.as_chunks::<2>().0.as_chunks::<16>().0;
        for (run, signs) in runs.iter().zip(signs) {
            let signs = u16::from_le_bytes(*signs);
            for (place, (odd, raw)) in odd.iter_mut().zip(run).enumerate() {
                let bits = u16::from_le_bytes(*raw);
                let size = bits & 0x7fff;
                // The uppermost bit says: on the other side, unless it is zero; no number.
                *odd |= (bits ^ (signs << (15 - place))) & (size + 0x7fff) | largest.wrapping_sub(size);
            }
        }
    }
    odd.iter().fold(0, |all, odd| all | odd) < 0x8000
}

#[inline(always)]
fn half<const SIZE: usize>(block: &[u8; SIZE]) -> f32 {
    f16_to_f32(u16::from_le_bytes(*split::<2>(block).0))
}

/// Points from `first` on, of `weights` weights each, as bytes of a number; `sizes` are what a
/// weight's place stands for.
#[expect(clippy::indexing_slicing, reason = "worked out when it is compiled")]
const fn grid<const COUNT: usize>(first: usize, weights: usize, sizes: [u8; 8]) -> [u64; COUNT] {
    let (mut grid, mut at, bits) = ([0; COUNT], 0, 16 / weights);
    while at < COUNT {
        let (point, mut i) = (u16::from_le_bytes(POINTS[first + at]) as usize, 0);
        while i < weights {
            let place = point >> (bits * i) & ((1 << bits) - 1);
            grid[at] |= (sizes[place] as u64) << (8 * i);
            i += 1;
        }
        at += 1;
    }
    grid
}

static TWO: [u64; 1792] = grid(0, 8, [8, 25, 43, 43, 0, 0, 0, 0]);
pub(super) static THREE_XXS: [u64; 256] = grid(IQ3_XXS, 4, [4, 12, 20, 28, 36, 44, 52, 62]);
pub(super) static THREE_S: [u64; 512] = grid(IQ3_S, 4, [1, 3, 5, 7, 9, 11, 13, 15]);
/// Eighths of a step: less, nothing or more, and one more than that, or one less.
static ONE: [[u64; 2048]; 2] = [
    grid(IQ1, 8, [(-7i8).cast_unsigned(), 1, 9, 17, 0, 0, 0, 0]),
    grid(IQ1, 8, [(-9i8).cast_unsigned(), (-1i8).cast_unsigned(), 7, 15, 0, 0, 0, 0]),
];
/// One in every byte.
const ONES: u64 = 0x0101_0101_0101_0101;
/// All bits of a byte for each bit of a number.
#[expect(clippy::indexing_slicing, reason = "worked out when it is compiled")]
static MASKS: [u64; 256] = {
    let mut masks = [0; 256];
    let mut at = 0;
    while at < 256 {
        let mut i = 0;
        while i < 8 {
            masks[at] |= (0xff * (at as u64 >> i & 1)) << (8 * i);
            i += 1;
        }
        at += 1;
    }
    masks
};

/// Sizes with the signs that the bits of a byte say.
#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
fn signed(sizes: u64, signs: u8) -> u64 {
    let flips = MASKS[usize::from(signs)];
    // All bits turned and one added; no size is zero, so that nothing is carried over.
    (sizes ^ flips).wrapping_add(flips & ONES)
}

/// A point of the two-bit grids; zeros if there is none.
#[inline(always)]
fn two_bits(index: usize, signs: u8) -> u64 {
    signed(TWO.get(index).copied().unwrap_or(0), signs)
}

/// Two points of a three-bit grid, each of four weights.
#[inline(always)]
fn three_bits(grid: &[u64], indices: [usize; 2], signs: u8) -> u64 {
    let [low, high] = indices.map(|index| grid.get(index).copied().unwrap_or(0));
    signed(low | high << 32, signs)
}

/// Seven signs, and an eighth that makes their number even.
#[inline(always)]
fn even(signs: u32) -> u8 {
    let signs = (signs & 127) as u8;
    signs | (signs.count_ones() as u8 & 1) << 7
}

struct Iq2Xxs;

impl Iq2Xxs {
    /// Signs, and a factor in the upper four bits.
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
    fn more(block: &[u8; 66], part: usize) -> u32 {
        u32::from_le_bytes(*split(&block[6 + 8 * part..]).0)
    }
}

impl Grid<66> for Iq2Xxs {
    #[inline(always)]
    fn step(block: &[u8; 66], scale: f32, part: usize, _: usize) -> f32 {
        scale * (0.5 + (Self::more(block, part) >> 28) as f32) * 0.25
    }

    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
    fn codes(block: &[u8; 66], part: usize, group: usize) -> u64 {
        let signs = even(Self::more(block, part) >> (7 * group));
        two_bits(IQ2_XXS + usize::from(block[2 + 8 * part + group]), signs)
    }
}

/// The scale of two groups from four bits.
#[inline(always)]
fn quarter(scale: f32, scales: u8, pair: usize) -> f32 {
    scale * (0.5 + f32::from(scales >> (4 * pair) & 15)) * 0.25
}

struct Iq2Xs;

impl Grid<74> for Iq2Xs {
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
    fn step(block: &[u8; 74], scale: f32, part: usize, pair: usize) -> f32 {
        quarter(scale, block[66 + part], pair)
    }

    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
    fn codes(block: &[u8; 74], part: usize, group: usize) -> u64 {
        let code = u16::from_le_bytes(*split(&block[2 + 8 * part + 2 * group..]).0);
        two_bits(IQ2_XS + usize::from(code & 511), even(u32::from(code >> 9)))
    }
}

struct Iq2S;

impl Grid<82> for Iq2S {
    const SIGNS: Option<usize> = Some(34);

    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
    fn step(block: &[u8; 82], scale: f32, part: usize, pair: usize) -> f32 {
        quarter(scale, block[74 + part], pair)
    }

    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
    fn codes(block: &[u8; 82], part: usize, group: usize) -> u64 {
        let high = usize::from(block[66 + part] >> (2 * group) & 3);
        let index = usize::from(block[2 + 4 * part + group]) | high << 8;
        two_bits(IQ2_S + index, block[34 + 4 * part + group])
    }
}

struct Iq3Xxs;

impl Iq3Xxs {
    /// Signs, and a factor in the upper four bits.
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
    fn more(block: &[u8; 98], part: usize) -> u32 {
        u32::from_le_bytes(*split(&block[66 + 4 * part..]).0)
    }
}

impl Grid<98> for Iq3Xxs {
    #[inline(always)]
    fn step(block: &[u8; 98], scale: f32, part: usize, _: usize) -> f32 {
        scale * (0.5 + (Self::more(block, part) >> 28) as f32) * 0.5
    }

    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
    fn codes(block: &[u8; 98], part: usize, group: usize) -> u64 {
        let index = |i: usize| usize::from(block[2 + 8 * part + 2 * group + i]);
        let signs = even(Self::more(block, part) >> (7 * group));
        three_bits(&THREE_XXS, [index(0), index(1)], signs)
    }
}

struct Iq3S;

impl Grid<110> for Iq3S {
    const SIGNS: Option<usize> = Some(74);

    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
    fn step(block: &[u8; 110], scale: f32, part: usize, _: usize) -> f32 {
        let factor = block[106 + part / 2] >> (4 * (part % 2)) & 15;
        scale * (1.0 + 2.0 * f32::from(factor))
    }

    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
    fn codes(block: &[u8; 110], part: usize, group: usize) -> u64 {
        let index = |i: usize| {
            let ninth = usize::from(block[66 + part] >> (2 * group + i) & 1);
            usize::from(block[2 + 8 * part + 2 * group + i]) | ninth << 8
        };
        three_bits(&THREE_S, [index(0), index(1)], block[74 + 4 * part + group])
    }
}

/// A point of the one-bit grid, and an eighth of a step less or more: in eighths.
#[inline(always)]
fn ternary(index: usize, less: bool) -> u64 {
    let [more, fewer] = &ONE;
    let grid = if less { fewer } else { more };
    grid.get(index).copied().unwrap_or(0)
}

struct Iq1S;

impl Iq1S {
    /// Higher bits of indices, a factor, and whether weights are less.
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
    fn more(block: &[u8; 50], part: usize) -> u16 {
        u16::from_le_bytes(*split(&block[34 + 2 * part..]).0)
    }
}

impl Grid<50> for Iq1S {
    #[inline(always)]
    fn step(block: &[u8; 50], scale: f32, part: usize, _: usize) -> f32 {
        scale * f32::from(2 * (Self::more(block, part) >> 12 & 7) + 1) / 8.0
    }

    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
    fn codes(block: &[u8; 50], part: usize, group: usize) -> u64 {
        let more = Self::more(block, part);
        let index = usize::from(block[2 + 4 * part + group]) | usize::from(more >> (3 * group) & 7) << 8;
        ternary(index, more >> 15 == 1)
    }
}

struct Iq1M;

impl Iq1M {
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
    fn words(block: &[u8; 56]) -> [u16; 4] {
        std::array::from_fn(|i| u16::from_le_bytes([block[48 + 2 * i], block[49 + 2 * i]]))
    }
}

impl Grid<56> for Iq1M {
    /// It is spread over the top four bits of four words.
    #[inline(always)]
    fn scale(block: &[u8; 56]) -> f32 {
        f16_to_f32((0..).zip(Self::words(block)).fold(0, |scale, (i, word)| scale | word >> 12 << (4 * i)))
    }

    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
    fn step(block: &[u8; 56], scale: f32, part: usize, pair: usize) -> f32 {
        let factor = Self::words(block)[part / 2] >> (6 * (part % 2) + 3 * pair) & 7;
        scale * f32::from(2 * factor + 1) / 8.0
    }

    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
    fn codes(block: &[u8; 56], part: usize, group: usize) -> u64 {
        let more = block[32 + 2 * part + group / 2] >> (4 * (group % 2));
        let index = usize::from(block[4 * part + group]) | usize::from(more & 7) << 8;
        ternary(index, more >> 3 & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::decode::{Weights, decode};
    use super::super::half::{bf16_to_f32, f32_to_bf16, f32_to_f16};
    use super::*;

    /// A quick look at patterns is content with what weighing would be, and with nothing else.
    #[test]
    fn sides_by_patterns() {
        let mut state = 3u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32
        };
        type Half = (GgmlType, fn(f32) -> u16, fn(u16) -> f32);
        let halves: [Half; 2] =
            [(GgmlType::F16, f32_to_f16, f16_to_f32), (GgmlType::BF16, f32_to_bf16, bf16_to_f32)];
        for kind in [GgmlType::IQ2_S, GgmlType::IQ3_S] {
            let size = usize::try_from(kind.block_bytes()).unwrap();
            let mut bytes: Vec<u8> = (0..2 * size).map(|_| next() as u8).collect();
            let scales = |bytes: &mut [u8], scale: f32| {
                bytes.chunks_mut(size).for_each(|b| b[..2].copy_from_slice(&f32_to_f16(scale).to_le_bytes()));
            };
            scales(&mut bytes, 0.01);
            let mut weights = Weights::default();
            decode(kind, &bytes, &mut weights);
            for (from, pattern, value) in halves {
                let raw = |values: &[f32]| -> Vec<u8> {
                    values.iter().flat_map(|&x| pattern(x).to_le_bytes()).collect()
                };
                let mut values: Vec<f32> =
                    weights.values.iter().map(|x| x * (next() % 64) as f32 / 32.0).collect();
                let seen = |values: &[f32]| on_their_sides(kind, &bytes, from, &raw(values));
                assert!(seen(&values), "{kind:?} {from:?}");
                for place in 0..values.len() {
                    let (own, weight) = (values[place], weights.get(place).unwrap());
                    for x in [0.0, -0.0, 1e4f32.copysign(weight.value), 0.1 * weight.value] {
                        values[place] = x;
                        assert!(seen(&values), "{kind:?} {from:?} {place} {x} {weight:?}");
                    }
                    let least = value(1).copysign(-weight.value);
                    for x in [least, -weight.value, f32::INFINITY, f32::NAN] {
                        values[place] = x;
                        assert!(!seen(&values), "{kind:?} {from:?} {place} {x} {weight:?}");
                    }
                    values[place] = own;
                }
                assert!(!seen(&values[..256]) && !seen(&values[1..]));
                // Steps that are no numbers, or none, or turn everything around.
                let mut odd = bytes.clone();
                for scale in [0.0, -0.01, f32::NAN, f32::INFINITY] {
                    scales(&mut odd, scale);
                    assert!(!on_their_sides(kind, &odd, from, &raw(&values)), "{kind:?} {scale}");
                    let turned: Vec<f32> = values.iter().map(|x| -x).collect();
                    assert!(!on_their_sides(kind, &odd, from, &raw(&turned)), "{kind:?} {scale}");
                }
                assert!(!on_their_sides(GgmlType::IQ3_XXS, &bytes, from, &raw(&values)));
            }
            assert!(!on_their_sides(kind, &bytes, GgmlType::F32, &[0; 1024]), "four bytes each");
        }
    }
}
