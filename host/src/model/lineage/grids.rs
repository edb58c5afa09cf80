//! The IQ types of one to three bits, whose codes stand for points of large grids, four or
//! eight weights each.
//!
//! Which point is chosen is a search that weighs errors, so a weight tells next to nothing about how
//! far its reference must lie from it. Two types keep every sign, whatever the search weighs: there a
//! reference lies on the weight's side of zero. Of the others every allowance is infinite. Values are
//! known, and with them how alike two tensors are.

use super::decode::{NO_ROOM, Run, Taker, Weight, least, split};
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

/// Eight codes, a byte each, and the step between codes, which every two groups share.
struct Group {
    codes: u64,
    step: f32,
}

/// How a type keeps its groups. A trait, because what is called through a pointer is not made
/// vector code of.
trait Grid<const SIZE: usize> {
    /// See [`keeps_signs`].
    const SIGNS: bool = false;

    /// The scale of a block.
    #[inline(always)]
    fn scale(block: &[u8; SIZE]) -> f32 {
        half(block)
    }
    fn group(block: &[u8; SIZE], scale: f32, part: usize, group: usize) -> Group;
}

/// A block is eight parts of four groups of eight weights.
#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
fn groups<T: Grid<SIZE>, const SIZE: usize>(bytes: &[u8], out: &mut impl Taker) {
    let blocks = bytes.as_chunks::<SIZE>().0;
    out.begin(blocks.len() * 256);
    for block in blocks {
        let (mut codes, mut steps, scale) = ([[[0; 8]; 4]; 8], [0.0; 16], T::scale(block));
        for (part, own) in codes.iter_mut().enumerate() {
            for (group, own) in own.iter_mut().enumerate() {
                let Group { codes, step } = T::group(block, scale, part, group);
                *own = codes.to_le_bytes();
                steps[2 * part + group / 2] = step;
            }
        }
        let codes = codes.as_flattened().as_flattened().as_chunks().0;
        if T::SIGNS {
            let most = out.most();
            out.block::<16, 16, _>(|run| Sided { codes: &codes[run], step: steps[run], most });
        } else {
            out.block::<16, 16, _>(|run| Points { codes: &codes[run], step: steps[run] });
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
        let [value, below, above] = [self.quick(place)[0], f32::INFINITY, f32::INFINITY];
        Weight { value, below, above, step: self.step.abs() }
    }

    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "a run has as many weights as there are codes")]
    fn quick(&self, place: usize) -> [f32; 3] {
        [f32::from(self.codes[place].cast_signed()) * self.step, f32::MAX, f32::MAX]
    }
}

/// A run whose weights are on the same side of zero as their references.
struct Sided<'a> {
    codes: &'a [u8; 16],
    step: f32,
    /// For a glance.
    most: f32,
}

/// How far outwards a reference may be, in steps: a scale that was chosen for other weights may be
/// far too small.
const OUTWARD: f32 = 1024.0;

impl Sided<'_> {
    /// The value, and how far below and above it the reference may be.
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "a run has as many weights as there are codes")]
    fn rooms(&self, place: usize) -> [f32; 3] {
        let value = f32::from(self.codes[place].cast_signed()) * self.step;
        let (inward, outward) = (value.abs(), OUTWARD * self.step.abs());
        let [below, above] = if value < 0.0 { [outward, inward] } else { [inward, outward] };
        [value, below, above]
    }
}

impl Run for Sided<'_> {
    #[inline(always)]
    fn weight(&self, place: usize) -> Weight {
        let [value, below, above] = self.rooms(place);
        // A step of nothing says nothing.
        let none = if self.step == 0.0 { f32::INFINITY } else { 0.0 };
        Weight { value, below: below + none, above: above + none, step: self.step.abs() }
    }

    #[inline(always)]
    fn quick(&self, place: usize) -> [f32; 3] {
        let [value, below, above] = self.rooms(place);
        let room = |room: f32| if self.step == 0.0 { NO_ROOM } else { least(self.most, room) };
        [value, room(below), room(above)]
    }
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
static THREE_XXS: [u64; 256] = grid(IQ3_XXS, 4, [4, 12, 20, 28, 36, 44, 52, 62]);
static THREE_S: [u64; 512] = grid(IQ3_S, 4, [1, 3, 5, 7, 9, 11, 13, 15]);
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
fn signed(sizes: u64, signs: u8, step: f32) -> Group {
    let flips = MASKS[usize::from(signs)];
    // All bits turned and one added; no size is zero, so that nothing is carried over.
    Group { codes: (sizes ^ flips).wrapping_add(flips & ONES), step }
}

/// A point of the two-bit grids; zeros if there is none.
#[inline(always)]
fn two_bits(index: usize, signs: u8, step: f32) -> Group {
    signed(TWO.get(index).copied().unwrap_or(0), signs, step)
}

/// Two points of a three-bit grid, each of four weights.
#[inline(always)]
fn three_bits(grid: &[u64], indices: [usize; 2], signs: u8, step: f32) -> Group {
    let [low, high] = indices.map(|index| grid.get(index).copied().unwrap_or(0));
    signed(low | high << 32, signs, step)
}

/// Seven signs, and an eighth that makes their number even.
#[inline(always)]
fn even(signs: u32) -> u8 {
    let signs = (signs & 127) as u8;
    signs | (signs.count_ones() as u8 & 1) << 7
}

struct Iq2Xxs;

impl Grid<66> for Iq2Xxs {
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
    fn group(block: &[u8; 66], scale: f32, part: usize, group: usize) -> Group {
        let own: &[u8; 8] = split(&block[2 + 8 * part..]).0;
        let more = u32::from_le_bytes([own[4], own[5], own[6], own[7]]);
        let step = scale * (0.5 + (more >> 28) as f32) * 0.25;
        two_bits(IQ2_XXS + usize::from(own[group]), even(more >> (7 * group)), step)
    }
}

/// The scale of a group from four bits: the first two groups have the lower half.
#[inline(always)]
fn quarter(scale: f32, scales: u8, group: usize) -> f32 {
    scale * (0.5 + f32::from(scales >> (4 * (group / 2)) & 15)) * 0.25
}

struct Iq2Xs;

impl Grid<74> for Iq2Xs {
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
    fn group(block: &[u8; 74], scale: f32, part: usize, group: usize) -> Group {
        let code = u16::from_le_bytes(*split(&block[2 + 8 * part + 2 * group..]).0);
        let step = quarter(scale, block[66 + part], group);
        two_bits(IQ2_XS + usize::from(code & 511), even(u32::from(code >> 9)), step)
    }
}

struct Iq2S;

impl Grid<82> for Iq2S {
    const SIGNS: bool = true;

    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
    fn group(block: &[u8; 82], scale: f32, part: usize, group: usize) -> Group {
        let high = usize::from(block[66 + part] >> (2 * group) & 3);
        let index = usize::from(block[2 + 4 * part + group]) | high << 8;
        let step = quarter(scale, block[74 + part], group);
        two_bits(IQ2_S + index, block[34 + 4 * part + group], step)
    }
}

struct Iq3Xxs;

impl Grid<98> for Iq3Xxs {
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
    fn group(block: &[u8; 98], scale: f32, part: usize, group: usize) -> Group {
        let index = |i: usize| usize::from(block[2 + 8 * part + 2 * group + i]);
        let more = u32::from_le_bytes(*split(&block[66 + 4 * part..]).0);
        let step = scale * (0.5 + (more >> 28) as f32) * 0.5;
        three_bits(&THREE_XXS, [index(0), index(1)], even(more >> (7 * group)), step)
    }
}

struct Iq3S;

impl Grid<110> for Iq3S {
    const SIGNS: bool = true;

    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
    fn group(block: &[u8; 110], scale: f32, part: usize, group: usize) -> Group {
        let index = |i: usize| {
            let ninth = usize::from(block[66 + part] >> (2 * group + i) & 1);
            usize::from(block[2 + 8 * part + 2 * group + i]) | ninth << 8
        };
        let factor = block[106 + part / 2] >> (4 * (part % 2)) & 15;
        let step = scale * (1.0 + 2.0 * f32::from(factor));
        three_bits(&THREE_S, [index(0), index(1)], block[74 + 4 * part + group], step)
    }
}

/// A point of the one-bit grid, and an eighth of a step less or more.
#[inline(always)]
fn ternary(index: usize, step: f32, less: bool) -> Group {
    let [more, fewer] = &ONE;
    let grid = if less { fewer } else { more };
    Group { codes: grid.get(index).copied().unwrap_or(0), step: step / 8.0 }
}

struct Iq1S;

impl Grid<50> for Iq1S {
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
    fn group(block: &[u8; 50], scale: f32, part: usize, group: usize) -> Group {
        let more = u16::from_le_bytes(*split(&block[34 + 2 * part..]).0);
        let step = scale * f32::from(2 * (more >> 12 & 7) + 1);
        let index = usize::from(block[2 + 4 * part + group]) | usize::from(more >> (3 * group) & 7) << 8;
        ternary(index, step, more >> 15 == 1)
    }
}

#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
fn words(block: &[u8; 56]) -> [u16; 4] {
    std::array::from_fn(|i| u16::from_le_bytes([block[48 + 2 * i], block[49 + 2 * i]]))
}

/// A scale that is spread over the top four bits of four words.
#[inline(always)]
fn spread(block: &[u8; 56]) -> f32 {
    f16_to_f32((0..).zip(words(block)).fold(0, |scale, (i, word)| scale | word >> 12 << (4 * i)))
}

struct Iq1M;

impl Grid<56> for Iq1M {
    #[inline(always)]
    fn scale(block: &[u8; 56]) -> f32 {
        spread(block)
    }

    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
    fn group(block: &[u8; 56], scale: f32, part: usize, group: usize) -> Group {
        let words = words(block);
        let factor = words[part / 2] >> (6 * (part % 2) + 3 * (group / 2)) & 7;
        let step = scale * f32::from(2 * factor + 1);
        let more = block[32 + 2 * part + group / 2] >> (4 * (group % 2));
        let index = usize::from(block[4 * part + group]) | usize::from(more & 7) << 8;
        ternary(index, step, more >> 3 & 1 == 1)
    }
}
