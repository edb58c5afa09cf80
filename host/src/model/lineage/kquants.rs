//! The K types of ggml: 256 weights in sub-blocks, whose small integer scales share one
//! or two binary16 ones. Decoding only: finding the scales is a search that differs from
//! version to version, but codes are always the nearest ones under the scales stored.

use super::decode::{Clamped, Taker, split};
use super::half::f16_to_f32;
use crate::model::gguf::GgmlType;

const SUPER: usize = 256;

/// Hands the weights of whole super-blocks on.
#[inline(always)]
pub(super) fn blocks(kind: GgmlType, bytes: &[u8], out: &mut impl Taker) {
    match kind {
        GgmlType::Q2_K => sixteens::<Q2, 84>(bytes, out),
        GgmlType::Q3_K => sixteens::<Q3, 110>(bytes, out),
        GgmlType::Q6_K => sixteens::<Q6, 210>(bytes, out),
        GgmlType::Q4_K => thirty_twos::<144>(bytes, out, false),
        _ => thirty_twos::<176>(bytes, out, true),
    }
}

#[inline(always)]
fn half(raw: [u8; 2]) -> f32 {
    f16_to_f32(u16::from_le_bytes(raw))
}

/// A type with a scale for each 16 weights, whose codes take turns in the bits of 32 bytes. A
/// trait, because what is called through a pointer is not made vector code of.
trait Sixteens<const SIZE: usize> {
    const LEAST: f32;
    const GREATEST: f32;
    /// Steps and offsets of the sub-blocks.
    fn scales(block: &[u8; SIZE]) -> ([f32; 16], [f32; 16]);
    /// Code `i` of an eighth of the block.
    fn code(block: &[u8; SIZE], eighth: usize, i: usize) -> i8;
}

#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
fn sixteens<T: Sixteens<SIZE>, const SIZE: usize>(bytes: &[u8], out: &mut impl Taker) {
    let blocks = bytes.as_chunks::<SIZE>().0;
    out.begin(blocks.len() * SUPER);
    for block in blocks {
        let (steps, offsets) = T::scales(block);
        let scales = Clamped::new(steps, offsets, [T::LEAST, T::GREATEST], out.most());
        let mut codes = [[0; 32]; 8];
        for (eighth, codes) in codes.iter_mut().enumerate() {
            for (i, code) in codes.iter_mut().enumerate() {
                *code = T::code(block, eighth, i);
            }
        }
        let codes = codes.as_flattened().as_chunks::<16>().0;
        out.block::<16, 16, _>(|sub| scales.run(sub, &codes[sub]));
    }
}

struct Q2;
struct Q3;
struct Q6;

impl Sixteens<84> for Q2 {
    const LEAST: f32 = 0.0;
    const GREATEST: f32 = 3.0;

    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
    fn scales(block: &[u8; 84]) -> ([f32; 16], [f32; 16]) {
        let (scale, least) = (half([block[80], block[81]]), half([block[82], block[83]]));
        let (mut steps, mut offsets) = ([0.0; 16], [0.0; 16]);
        for sub in 0..16 {
            steps[sub] = scale * f32::from(block[sub] & 15);
            offsets[sub] = -(least * f32::from(block[sub] >> 4));
        }
        (steps, offsets)
    }

    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
    fn code(block: &[u8; 84], eighth: usize, i: usize) -> i8 {
        (block[16 + eighth / 4 * 32 + i] >> (2 * (eighth % 4)) & 3).cast_signed()
    }
}

impl Sixteens<110> for Q3 {
    const LEAST: f32 = -4.0;
    const GREATEST: f32 = 3.0;

    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
    fn scales(block: &[u8; 110]) -> ([f32; 16], [f32; 16]) {
        let scale = half([block[108], block[109]]);
        let scales: &[u8; 12] = block[96..108].first_chunk().unwrap_or(&[0; 12]);
        let mut steps = [0.0; 16];
        // Low four bits of scales 0 to 7 and 8 to 15 share bytes; two bits each follow.
        let mut codes = [0; 16];
        for i in 0..8 {
            (codes[i], codes[8 + i]) = (scales[i] & 15, scales[i] >> 4);
        }
        for (quarter, codes) in codes.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            for (code, high) in codes.iter_mut().zip(&scales[8..]) {
                *code |= (high >> (2 * quarter) & 3) << 4;
            }
        }
        for (step, code) in steps.iter_mut().zip(codes) {
            *step = scale * (f32::from(code) - 32.0);
        }
        (steps, [0.0; 16])
    }

    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
    fn code(block: &[u8; 110], eighth: usize, i: usize) -> i8 {
        let low = block[32 + eighth / 4 * 32 + i] >> (2 * (eighth % 4)) & 3;
        let high = block[i] >> eighth & 1;
        (low | high << 2).cast_signed() - 4
    }
}

impl Sixteens<210> for Q6 {
    const LEAST: f32 = -32.0;
    const GREATEST: f32 = 31.0;

    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
    fn scales(block: &[u8; 210]) -> ([f32; 16], [f32; 16]) {
        let scale = half([block[208], block[209]]);
        let mut steps = [0.0; 16];
        for (sub, step) in steps.iter_mut().enumerate() {
            *step = scale * f32::from(block[192 + sub].cast_signed());
        }
        (steps, [0.0; 16])
    }

    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
    fn code(block: &[u8; 210], eighth: usize, i: usize) -> i8 {
        let low = block[eighth / 4 * 64 + eighth % 2 * 32 + i] >> (4 * (eighth % 4 / 2)) & 15;
        let high = block[128 + eighth / 4 * 32 + i] >> (2 * (eighth % 4)) & 3;
        (low | high << 4).cast_signed() - 32
    }
}

/// Scales and minimums of the sub-blocks from 12 bytes of 6-bit numbers.
#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
fn six_bits(scales: &[u8; 12]) -> [[u8; 8]; 2] {
    let mut codes = [[0; 8]; 2];
    for i in 0..4 {
        let (scale, least, rest) = (scales[i], scales[4 + i], scales[8 + i]);
        (codes[0][i], codes[0][4 + i]) = (scale & 63, rest & 15 | scale >> 6 << 4);
        (codes[1][i], codes[1][4 + i]) = (least & 63, rest >> 4 | least >> 6 << 4);
    }
    codes
}

/// Q4_K and Q5_K: a scale and a minimum for each 32 weights; 64 share 32 bytes, low halves first.
#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
fn thirty_twos<const SIZE: usize>(bytes: &[u8], out: &mut impl Taker, five: bool) {
    let blocks = bytes.as_chunks::<SIZE>().0;
    out.begin(blocks.len() * SUPER);
    for block in blocks {
        let (scale, rest) = split::<2>(block);
        let (least, rest) = split::<2>(rest);
        let (scales, rest) = split::<12>(rest);
        let (fifth, codes) = if five { split::<32>(rest) } else { (&[0; 32], rest) };
        let codes: &[u8; 128] = split(codes).0;
        let (scale, least) = (half(*scale), half(*least));
        let mut own = [[0; 32]; 8];
        for (sub, own) in own.iter_mut().enumerate() {
            for (i, own) in own.iter_mut().enumerate() {
                let code = codes[sub / 2 * 32 + i] >> (4 * (sub % 2)) & 15;
                *own = (code | (fifth[i] >> sub & 1) << 4).cast_signed();
            }
        }
        let [steps, offsets] = six_bits(scales);
        let (steps, offsets) =
            (steps.map(|code| scale * f32::from(code)), offsets.map(|code| -(least * f32::from(code))));
        let scales = Clamped::new(steps, offsets, [0.0, if five { 31.0 } else { 15.0 }], out.most());
        out.block::<8, 32, _>(|sub| scales.run(sub, &own[sub]));
    }
}
