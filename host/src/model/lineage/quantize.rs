//! The reference algorithms of ggml's 32-weight block types, written from their definition:
//! the scale comes from the extreme weights, codes are rounded with the scale before it is
//! stored as binary16, and the stored one is what readers multiply with.
//!
//! Whether a compiler fuses the multiplication and addition decides some ties, so that
//! equal software gives different codes on different machines; [`Arithmetic`] has them all.

use super::half::f32_to_f16;
use crate::model::gguf::GgmlType;

/// Weights of a block.
pub(super) const BLOCK: usize = 32;

/// How `x * scale + offset` is rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arithmetic {
    /// After the product and after the sum.
    Plain,
    /// Once.
    Fused,
    /// In double precision, and the inverse scale of Q8_0 as 127 over the extreme weight.
    Double,
}

pub(super) const ARITHMETICS: [Arithmetic; 3] = [Arithmetic::Plain, Arithmetic::Fused, Arithmetic::Double];

impl Arithmetic {
    fn multiply_add(self, x: f32, scale: f32, offset: f32) -> f32 {
        match self {
            Self::Plain => x * scale + offset,
            Self::Fused => x.mul_add(scale, offset),
            Self::Double => (f64::from(x) * f64::from(scale) + f64::from(offset)) as f32,
        }
    }
}

/// Is there a reference algorithm for this type here?
pub(super) fn has_reference(kind: GgmlType) -> bool {
    matches!(kind, GgmlType::Q4_0 | GgmlType::Q4_1 | GgmlType::Q5_0 | GgmlType::Q5_1 | GgmlType::Q8_0)
}

/// Appends the block that `weights` become; nothing if the type has no reference here.
pub(super) fn block(kind: GgmlType, weights: &[f32; BLOCK], how: Arithmetic, out: &mut Vec<u8>) {
    match kind {
        GgmlType::Q4_0 => symmetric(weights, 8.0, how, out, nibbles),
        GgmlType::Q5_0 => symmetric(weights, 16.0, how, out, |codes, out| {
            out.extend_from_slice(&fifth_bits(codes).to_le_bytes());
            nibbles(codes, out);
        }),
        GgmlType::Q4_1 => ranged(weights, 15.0, how, out, nibbles),
        GgmlType::Q5_1 => ranged(weights, 31.0, how, out, |codes, out| {
            out.extend_from_slice(&fifth_bits(codes).to_le_bytes());
            nibbles(codes, out);
        }),
        GgmlType::Q8_0 => bytes(weights, how, out),
        _ => {}
    }
}

fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// Codes below 32 never lose bits; a hostile NaN becomes 0.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, then is capped")]
fn code(value: f32, most: f32) -> u8 {
    (value.min(most)) as u8
}

/// Codes around `half`, the weight of the largest magnitude becoming exactly code 0.
fn symmetric(
    weights: &[f32; BLOCK],
    half: f32,
    how: Arithmetic,
    out: &mut Vec<u8>,
    pack: impl Fn(&[u8; BLOCK], &mut Vec<u8>),
) {
    let (mut magnitude, mut extreme) = (0.0, 0.0);
    for &weight in weights {
        if weight.abs() > magnitude {
            magnitude = weight.abs();
            extreme = weight;
        }
    }
    let scale = extreme / -half;
    let by = inverse(scale);
    let codes = weights.map(|x| code(how.multiply_add(x, by, half + 0.5), 2.0 * half - 1.0));
    out.extend_from_slice(&f32_to_f16(scale).to_le_bytes());
    pack(&codes, out);
}

/// Codes from 0 for the least weight to `most` for the greatest.
fn ranged(
    weights: &[f32; BLOCK],
    most: f32,
    how: Arithmetic,
    out: &mut Vec<u8>,
    pack: impl Fn(&[u8; BLOCK], &mut Vec<u8>),
) {
    let (least, greatest) =
        weights.iter().fold((f32::MAX, f32::MIN), |(least, greatest), &x| (least.min(x), greatest.max(x)));
    let scale = (greatest - least) / most;
    let by = inverse(scale);
    let codes = weights.map(|x| code(how.multiply_add(x - least, by, 0.5), most));
    out.extend_from_slice(&f32_to_f16(scale).to_le_bytes());
    out.extend_from_slice(&f32_to_f16(least).to_le_bytes());
    pack(&codes, out);
}

#[expect(clippy::cast_possible_truncation, reason = "rounded numbers of at most 127; casts saturate")]
fn bytes(weights: &[f32; BLOCK], how: Arithmetic, out: &mut Vec<u8>) {
    let magnitude = weights.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    let scale = magnitude / 127.0;
    let by = match how {
        Arithmetic::Double if magnitude != 0.0 => 127.0 / magnitude,
        _ => inverse(scale),
    };
    out.extend_from_slice(&f32_to_f16(scale).to_le_bytes());
    match how {
        Arithmetic::Double => out.extend(weights.map(|x| (x * by).round_ties_even() as i8 as u8)),
        _ => out.extend(weights.map(|x| (x * by).round() as i8 as u8)),
    }
}

/// The low four bits: weight i beside weight i + 16.
fn nibbles(codes: &[u8; BLOCK], out: &mut Vec<u8>) {
    let (low, high) = codes.split_at(BLOCK / 2);
    out.extend(low.iter().zip(high).map(|(low, high)| low & 15 | (high & 15) << 4));
}

fn fifth_bits(codes: &[u8; BLOCK]) -> u32 {
    (0..).zip(codes).fold(0, |bits, (place, code)| bits | u32::from(code >> 4 & 1) << place)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks whose codes can be worked out by hand.
    #[test]
    fn hand_made_blocks() {
        let quantized = |kind, weights: &[f32; BLOCK]| {
            let mut out = Vec::new();
            block(kind, weights, Arithmetic::Plain, &mut out);
            out
        };
        let mut ramp: [f32; BLOCK] = std::array::from_fn(|i| (i % 16) as f32 - 8.0);
        let pairs = |i: usize| (i % 16) as u8 * 0x11;
        let expected: Vec<u8> = [0x00, 0x3c].into_iter().chain((0..16).map(pairs)).collect();
        assert_eq!(quantized(GgmlType::Q4_0, &ramp), expected, "scale 1, code is weight + 8");
        let expected: Vec<u8> = [0x00, 0x3c, 0x00, 0xc8].into_iter().chain((0..16).map(pairs)).collect();
        assert_eq!(quantized(GgmlType::Q4_1, &ramp), expected, "scale 1, minimum -8");
        let bytes: Vec<u8> = ramp.iter().map(|x| (x * 127.0 / 8.0).round() as i8 as u8).collect();
        assert_eq!(quantized(GgmlType::Q8_0, &ramp)[2..], bytes);
        ramp = std::array::from_fn(|i| i as f32 - 16.0);
        let low: Vec<u8> = (0..16u8).map(|i| i | i << 4).collect();
        let expected: Vec<u8> = [0x00, 0x3c, 0, 0, 0xff, 0xff].into_iter().chain(low.clone()).collect();
        assert_eq!(quantized(GgmlType::Q5_0, &ramp), expected, "the upper half has the fifth bit");
        let expected: Vec<u8> = [0x00, 0x3c, 0x00, 0xcc, 0, 0, 0xff, 0xff].into_iter().chain(low).collect();
        assert_eq!(quantized(GgmlType::Q5_1, &ramp), expected);
        let zero = [0.0; BLOCK];
        assert_eq!(quantized(GgmlType::Q8_0, &zero), [0; 34]);
        assert_eq!(quantized(GgmlType::Q4_0, &zero)[2..], [0x88; 16]);
    }
}
