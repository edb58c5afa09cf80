//! The K types of ggml: 256 weights in sub-blocks, whose small integer scales share one
//! or two binary16 ones. Decoding only: finding the scales is a search that differs from
//! version to version, but codes are always the nearest ones under the scales stored.

use multiversion::multiversion;

use super::decode::{Scale, Weights, clamped, split};
use super::half::f16_to_f32;
use crate::model::gguf::GgmlType;

const SUPER: usize = 256;

/// The weights of whole super-blocks, instead of what `out` held.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub(super) fn decode(kind: GgmlType, bytes: &[u8], out: &mut Weights) {
    match kind {
        GgmlType::Q2_K => sixteens::<84>(bytes, out, q2),
        GgmlType::Q3_K => sixteens::<110>(bytes, out, q3),
        GgmlType::Q6_K => sixteens::<210>(bytes, out, q6),
        GgmlType::Q4_K => thirty_twos::<144>(bytes, out, false),
        GgmlType::Q5_K => thirty_twos::<176>(bytes, out, true),
        _ => {}
    }
}

#[inline(always)]
fn half(raw: [u8; 2]) -> f32 {
    f16_to_f32(u16::from_le_bytes(raw))
}

/// Blocks in quarters of each half: 32 codes, and a scale for the first and the last 16.
#[inline(always)]
fn sixteens<const SIZE: usize>(
    bytes: &[u8],
    out: &mut Weights,
    quarter: impl Fn(&[u8; SIZE], usize, usize) -> ([i8; 32], [Scale; 2]),
) {
    let blocks = bytes.as_chunks::<SIZE>().0;
    let mut runs = out.runs::<16>(blocks.len() * SUPER);
    for block in blocks {
        for place in 0..8 {
            let (codes, scales) = quarter(block, place / 4, place % 4);
            for (codes, scale) in codes.as_chunks().0.iter().zip(&scales) {
                let Some(run) = runs.next() else { return };
                run.fill(codes, scale);
            }
        }
    }
}

/// 128 weights share 32 bytes, two bits at a time.
#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
fn q2(block: &[u8; 84], part: usize, quarter: usize) -> ([i8; 32], [Scale; 2]) {
    let (scale, least) = (half([block[80], block[81]]), half([block[82], block[83]]));
    let codes = std::array::from_fn(|i| (block[16 + part * 32 + i] >> (2 * quarter) & 3).cast_signed());
    let scales = std::array::from_fn(|sub| {
        let scales = block[part * 8 + quarter * 2 + sub];
        clamped(scale * f32::from(scales & 15), -(least * f32::from(scales >> 4)), 0.0, 3.0)
    });
    (codes, scales)
}

#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
fn q3(block: &[u8; 110], part: usize, quarter: usize) -> ([i8; 32], [Scale; 2]) {
    let scale = half([block[108], block[109]]);
    let scales: &[u8; 12] = block[96..108].first_chunk().unwrap_or(&[0; 12]);
    let codes = std::array::from_fn(|i| {
        let low = block[32 + part * 32 + i] >> (2 * quarter) & 3;
        let high = block[i] >> (part * 4 + quarter) & 1;
        (low | high << 2).cast_signed() - 4
    });
    let scales = std::array::from_fn(|sub| {
        // Low four bits of scales 0 to 7 and 8 to 15 share bytes; two bits each follow.
        let sub = part * 8 + quarter * 2 + sub;
        let low = if sub < 8 { scales[sub] & 15 } else { scales[sub - 8] >> 4 };
        let high = scales[8 + sub % 4] >> (2 * (sub / 4)) & 3;
        clamped(scale * (f32::from(low | high << 4) - 32.0), 0.0, -4.0, 3.0)
    });
    (codes, scales)
}

#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
fn q6(block: &[u8; 210], part: usize, quarter: usize) -> ([i8; 32], [Scale; 2]) {
    let scale = half([block[208], block[209]]);
    let codes = std::array::from_fn(|i| {
        let low = block[part * 64 + quarter % 2 * 32 + i] >> (4 * (quarter / 2)) & 15;
        let high = block[128 + part * 32 + i] >> (2 * quarter) & 3;
        (low | high << 4).cast_signed() - 32
    });
    let scales = std::array::from_fn(|sub| {
        let factor = block[192 + part * 8 + quarter * 2 + sub].cast_signed();
        clamped(scale * f32::from(factor), 0.0, -32.0, 31.0)
    });
    (codes, scales)
}

/// Scale and minimum of sub-block `sub` from 12 bytes of 6-bit numbers.
#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "sub is below 8")]
fn six_bits(scales: &[u8; 12], sub: usize) -> (f32, f32) {
    let (scale, least) = if sub < 4 {
        (scales[sub] & 63, scales[sub + 4] & 63)
    } else {
        (scales[sub + 4] & 15 | scales[sub - 4] >> 6 << 4, scales[sub + 4] >> 4 | scales[sub] >> 6 << 4)
    };
    (f32::from(scale), f32::from(least))
}

/// Q4_K and Q5_K: a scale and a minimum for each 32 weights; 64 share 32 bytes, low halves first.
#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
fn thirty_twos<const SIZE: usize>(bytes: &[u8], out: &mut Weights, five: bool) {
    let blocks = bytes.as_chunks::<SIZE>().0;
    let mut runs = out.runs::<32>(blocks.len() * SUPER);
    for block in blocks {
        let (scale, rest) = split::<2>(block);
        let (least, rest) = split::<2>(rest);
        let (scales, rest) = split::<12>(rest);
        let (fifth, codes) = if five { split::<32>(rest) } else { (&[0; 32], rest) };
        let codes: &[u8; 128] = split(codes).0;
        let (scale, least) = (half(*scale), half(*least));
        for sub in 0..8 {
            let Some(run) = runs.next() else { return };
            let own: [i8; 32] = std::array::from_fn(|i| {
                let code = codes[sub / 2 * 32 + i] >> (4 * (sub % 2)) & 15;
                (code | (fifth[i] >> sub & 1) << 4).cast_signed()
            });
            let (factor, offset) = six_bits(scales, sub);
            let greatest = if five { 31.0 } else { 15.0 };
            run.fill(&own, &clamped(scale * factor, -(least * offset), 0.0, greatest));
        }
    }
}
