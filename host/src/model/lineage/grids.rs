//! The IQ types of one to three bits, whose codes stand for points of large grids, four or
//! eight weights each.
//!
//! Which point is chosen is a search that weighs errors, so a weight tells next to nothing
//! about where its reference must lie: every allowance is infinite. Values are known, and with
//! them how alike two tensors are.

use super::decode::{Taker, Weight, split};
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
/// What IQ1 types add to their points, or take away.
const DELTA: f32 = 0.125;

/// Is this one of the types here?
pub(super) fn is_known(kind: GgmlType) -> bool {
    use GgmlType::*;
    matches!(kind, IQ1_S | IQ1_M | IQ2_XXS | IQ2_XS | IQ2_S | IQ3_XXS | IQ3_S)
}

/// Hands the weights of whole blocks on; none of types that are not known.
#[inline(always)]
pub(super) fn blocks(kind: GgmlType, bytes: &[u8], out: &mut impl Taker) {
    match kind {
        GgmlType::IQ2_XXS => groups::<66>(bytes, out, iq2_xxs),
        GgmlType::IQ2_XS => groups::<74>(bytes, out, iq2_xs),
        GgmlType::IQ2_S => groups::<82>(bytes, out, iq2_s),
        GgmlType::IQ3_XXS => groups::<98>(bytes, out, iq3_xxs),
        GgmlType::IQ3_S => groups::<110>(bytes, out, iq3_s),
        GgmlType::IQ1_S => groups::<50>(bytes, out, iq1_s),
        GgmlType::IQ1_M => groups::<56>(bytes, out, iq1_m),
        _ => out.begin(0),
    }
}

/// Eight codes, the step between codes, and what is added.
type Eight = ([i8; 8], f32, f32);

/// A block is eight parts of four groups of eight weights.
#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
fn groups<const SIZE: usize>(
    bytes: &[u8],
    out: &mut impl Taker,
    group: impl Fn(&[u8; SIZE], usize, usize) -> Eight,
) {
    let blocks = bytes.as_chunks::<SIZE>().0;
    out.begin(blocks.len() * 256);
    for block in blocks {
        let (mut codes, mut steps, mut offsets) = ([[0; 8]; 32], [[0.0; 8]; 32], [[0.0; 8]; 32]);
        for place in 0..32 {
            let (own, step, offset) = group(block, place / 4, place % 4);
            (codes[place], steps[place], offsets[place]) = (own, [step; 8], [offset; 8]);
        }
        let (codes, steps, offsets) = (codes.as_flattened(), steps.as_flattened(), offsets.as_flattened());
        out.block::<1, 256, _>(|_| {
            |place| {
                let (value, step) =
                    (f32::from(codes[place]) * steps[place] + offsets[place], steps[place].abs());
                Weight { value, below: f32::INFINITY, above: f32::INFINITY, step }
            }
        });
    }
}

#[inline(always)]
fn half(block: &[u8]) -> f32 {
    f16_to_f32(u16::from_le_bytes(*split::<2>(block).0))
}

#[inline(always)]
fn point(grid: usize, index: usize) -> u16 {
    POINTS.get(grid + index).map_or(0, |raw| u16::from_le_bytes(*raw))
}

/// A point of the two-bit grids, with the signs that the bits of a byte say.
#[inline(always)]
fn two_bits(grid: usize, index: usize, signs: u8) -> [i8; 8] {
    let point = point(grid, index);
    std::array::from_fn(|i| {
        let size = match point >> (2 * i) & 3 {
            0 => 8,
            1 => 25,
            _ => 43,
        };
        if signs >> i & 1 == 1 { -size } else { size }
    })
}

/// Two points of the three-bit grids, each of four weights; `size` is what a place stands for.
#[inline(always)]
fn three_bits(grid: usize, indices: [usize; 2], signs: u8, size: impl Fn(i8) -> i8) -> [i8; 8] {
    let points = indices.map(|index| point(grid, index));
    std::array::from_fn(|i| {
        let place = points.get(i / 4).map_or(0, |point| point >> (4 * (i % 4)) & 7);
        let size = size(place as i8);
        if signs >> i & 1 == 1 { -size } else { size }
    })
}

/// Seven signs, and an eighth that makes their number even.
#[inline(always)]
fn even(signs: u32) -> u8 {
    let signs = (signs & 127) as u8;
    signs | (signs.count_ones() as u8 & 1) << 7
}

#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
fn iq2_xxs(block: &[u8; 66], part: usize, group: usize) -> Eight {
    let own: &[u8; 8] = split(&block[2 + 8 * part..]).0;
    let more = u32::from_le_bytes([own[4], own[5], own[6], own[7]]);
    let step = half(block) * (0.5 + (more >> 28) as f32) * 0.25;
    (two_bits(IQ2_XXS, own[group].into(), even(more >> (7 * group))), step, 0.0)
}

/// The scale of a group from four bits: the first two groups have the lower half.
#[inline(always)]
fn quarter(block: &[u8], scales: u8, group: usize) -> f32 {
    half(block) * (0.5 + f32::from(scales >> (4 * (group / 2)) & 15)) * 0.25
}

#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
fn iq2_xs(block: &[u8; 74], part: usize, group: usize) -> Eight {
    let code = u16::from_le_bytes(*split(&block[2 + 8 * part + 2 * group..]).0);
    let codes = two_bits(IQ2_XS, usize::from(code & 511), even(u32::from(code >> 9)));
    (codes, quarter(block, block[66 + part], group), 0.0)
}

#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
fn iq2_s(block: &[u8; 82], part: usize, group: usize) -> Eight {
    let high = usize::from(block[66 + part] >> (2 * group) & 3);
    let index = usize::from(block[2 + 4 * part + group]) | high << 8;
    let codes = two_bits(IQ2_S, index, block[34 + 4 * part + group]);
    (codes, quarter(block, block[74 + part], group), 0.0)
}

#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
fn iq3_xxs(block: &[u8; 98], part: usize, group: usize) -> Eight {
    let indices = [0, 1].map(|i| usize::from(block[2 + 8 * part + 2 * group + i]));
    let more = u32::from_le_bytes(*split(&block[66 + 4 * part..]).0);
    let step = half(block) * (0.5 + (more >> 28) as f32) * 0.5;
    let size = |place| 8 * place + if place == 7 { 6 } else { 4 };
    (three_bits(IQ3_XXS, indices, even(more >> (7 * group)), size), step, 0.0)
}

#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
fn iq3_s(block: &[u8; 110], part: usize, group: usize) -> Eight {
    let indices = [0, 1].map(|i| {
        let ninth = usize::from(block[66 + part] >> (2 * group + i) & 1);
        usize::from(block[2 + 8 * part + 2 * group + i]) | ninth << 8
    });
    let factor = block[106 + part / 2] >> (4 * (part % 2)) & 15;
    let codes = three_bits(IQ3_S, indices, block[74 + 4 * part + group], |place| 2 * place + 1);
    (codes, half(block) * (1.0 + 2.0 * f32::from(factor)), 0.0)
}

/// A point of the one-bit grid: less, nothing or more.
#[inline(always)]
fn ternary(index: usize, step: f32, less: bool) -> Eight {
    let point = point(IQ1, index);
    let codes = std::array::from_fn(|i| (point >> (2 * i) & 3) as i8 - 1);
    (codes, step, if less { -step * DELTA } else { step * DELTA })
}

#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
fn iq1_s(block: &[u8; 50], part: usize, group: usize) -> Eight {
    let more = u16::from_le_bytes(*split(&block[34 + 2 * part..]).0);
    let step = half(block) * f32::from(2 * (more >> 12 & 7) + 1);
    let index = usize::from(block[2 + 4 * part + group]) | usize::from(more >> (3 * group) & 7) << 8;
    ternary(index, step, more >> 15 == 1)
}

#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
fn iq1_m(block: &[u8; 56], part: usize, group: usize) -> Eight {
    // The scale is spread over the top four bits of four words.
    let words: [u16; 4] = std::array::from_fn(|i| u16::from_le_bytes([block[48 + 2 * i], block[49 + 2 * i]]));
    let scale = (0..).zip(words).fold(0, |scale, (i, word)| scale | word >> 12 << (4 * i));
    let factor = words[part / 2] >> (6 * (part % 2) + 3 * (group / 2)) & 7;
    let step = f16_to_f32(scale) * f32::from(2 * factor + 1);
    let more = block[32 + 2 * part + group / 2] >> (4 * (group % 2));
    let index = usize::from(block[4 * part + group]) | usize::from(more & 7) << 8;
    ternary(index, step, more >> 3 & 1 == 1)
}
