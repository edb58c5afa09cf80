//! The reference algorithms of ggml's 32-weight block types, written from their definition:
//! the scale comes from the extreme weights, codes are rounded with the scale before it is
//! stored as binary16, and the stored one is what readers multiply with.
//!
//! Whether a compiler fuses the multiplication and addition decides some ties, so that
//! equal software gives different codes on different machines; [`Arithmetic`] has them all.

use multiversion::multiversion;

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

/// How many of the first blocks of `bytes` are exactly what the plain arithmetic makes of
/// `weights`, 32 for each block, and how many of those are all zeros: a fast path, which
/// leaves what is seldom to the others.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2", "x86_64+sse4.1"))]
pub(super) fn plain_blocks(kind: GgmlType, weights: &[[f32; BLOCK]], bytes: &[u8]) -> (usize, usize) {
    match kind {
        GgmlType::Q4_0 => plain_symmetric::<18>(weights, bytes.as_chunks().0, 8.0),
        GgmlType::Q5_0 => plain_symmetric::<22>(weights, bytes.as_chunks().0, 16.0),
        GgmlType::Q4_1 => plain_ranged::<20>(weights, bytes.as_chunks().0, 15.0),
        GgmlType::Q5_1 => plain_ranged::<24>(weights, bytes.as_chunks().0, 31.0),
        GgmlType::Q8_0 => plain_q8_0(weights, bytes.as_chunks().0),
        _ => (0, 0),
    }
}

/// How many of the first blocks have another scale than their weights give, in any arithmetic: those blocks
/// are not what it makes of them, either. What is seldom, and not told by the scale, is not counted.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2", "x86_64+sse4.1"))]
pub(super) fn foreign_blocks(kind: GgmlType, weights: &[[f32; BLOCK]], bytes: &[u8]) -> usize {
    let size = usize::try_from(kind.block_bytes()).unwrap_or(1);
    let foreign = |(weights, block): &(&[f32; BLOCK], &[u8])| !has_scale(kind, weights, block);
    weights.iter().zip(bytes.chunks_exact(size)).take_while(foreign).count()
}

#[inline(always)]
fn has_scale(kind: GgmlType, weights: &[f32; BLOCK], block: &[u8]) -> bool {
    let (least, greatest) = extent(weights);
    let extreme = if greatest > -least { greatest } else { least };
    let scale = match kind {
        GgmlType::Q4_0 | GgmlType::Q5_0 if greatest == -least => return true,
        GgmlType::Q4_0 => extreme / -8.0,
        GgmlType::Q5_0 => extreme / -16.0,
        GgmlType::Q4_1 => (greatest - least) / 15.0,
        GgmlType::Q5_1 => (greatest - least) / 31.0,
        GgmlType::Q8_0 => extreme.abs() / 127.0,
        _ => return true,
    };
    let unusual = scale == 0.0 || !(scale.is_finite() && least.is_finite() && greatest.is_finite());
    unusual || block.first_chunk() == Some(&f32_to_f16(scale).to_le_bytes())
}

/// Least and greatest; not numbers if one weight is none. As integers, of which compilers compare
/// many at once: the order of numbers is that of their patterns, negative ones turned around.
#[inline(always)]
pub(super) fn extent(weights: &[f32; BLOCK]) -> (f32, f32) {
    let turned = |bits: i32| bits ^ ((bits >> 31).cast_unsigned() >> 1).cast_signed();
    let (mut least, mut greatest) = (i32::MAX, i32::MIN);
    for &x in weights {
        let place = turned(x.to_bits().cast_signed());
        (least, greatest) = (least.min(place), greatest.max(place));
    }
    let number = |place: i32| f32::from_bits(turned(place).cast_unsigned());
    (number(least), number(greatest))
}

#[inline(always)]
fn plain_q8_0(weights: &[[f32; BLOCK]], blocks: &[[u8; 34]]) -> (usize, usize) {
    let mut zeros = 0;
    for (place, (weights, block)) in weights.iter().zip(blocks).enumerate() {
        let Some((stored, codes)) = block.split_first_chunk::<2>() else { return (place, zeros) };
        let (least, greatest) = extent(weights);
        let magnitude = if greatest > -least { greatest } else { -least };
        let scale = magnitude / 127.0;
        if f32_to_f16(scale).to_le_bytes() != *stored {
            return (place, zeros);
        }
        let by = inverse(scale);
        let mut equal = true;
        for (&x, &code) in weights.iter().zip(codes) {
            let product = x * by;
            // Rounded half away from zero: the largest number below one half is added.
            let rounded = (product + 0.499_999_97_f32.copysign(product)).trunc();
            equal &= rounded == f32::from(code.cast_signed());
        }
        if !equal {
            return (place, zeros);
        }
        zeros += usize::from(least == 0.0 && greatest == 0.0);
    }
    (weights.len().min(blocks.len()), zeros)
}

#[inline(always)]
fn plain_symmetric<const SIZE: usize>(
    weights: &[[f32; BLOCK]],
    blocks: &[[u8; SIZE]],
    half: f32,
) -> (usize, usize) {
    let mut zeros = 0;
    for (place, (weights, block)) in weights.iter().zip(blocks).enumerate() {
        let Some((stored, codes)) = block.split_first_chunk::<2>() else { return (place, zeros) };
        let (least, greatest) = extent(weights);
        // Of two extremes of one size the first counts; that is rare enough for the other way.
        if greatest == -least && greatest != 0.0 {
            return (place, zeros);
        }
        let extreme = if greatest > -least { greatest } else { least };
        let scale = extreme / -half;
        if f32_to_f16(scale).to_le_bytes() != *stored
            || !equal_codes(weights, codes, 0.0, inverse(scale), half + 0.5, 2.0 * half - 1.0)
        {
            return (place, zeros);
        }
        zeros += usize::from(least == 0.0 && greatest == 0.0);
    }
    (weights.len().min(blocks.len()), zeros)
}

#[inline(always)]
fn plain_ranged<const SIZE: usize>(
    weights: &[[f32; BLOCK]],
    blocks: &[[u8; SIZE]],
    most: f32,
) -> (usize, usize) {
    for (place, (weights, block)) in weights.iter().zip(blocks).enumerate() {
        let (Some((stored, rest)), (least, greatest)) = (block.split_first_chunk::<2>(), extent(weights))
        else {
            return (place, 0);
        };
        let Some((offset, codes)) = rest.split_first_chunk::<2>() else { return (place, 0) };
        let scale = (greatest - least) / most;
        // Of which sign a zero is depends on the order of the weights.
        if least == 0.0
            || f32_to_f16(scale).to_le_bytes() != *stored
            || f32_to_f16(least).to_le_bytes() != *offset
            || !equal_codes(weights, codes, least, inverse(scale), 0.5, most)
        {
            return (place, 0);
        }
    }
    (weights.len().min(blocks.len()), 0)
}

/// Are these the codes (with the fifth bits before them, if there is room for more than halves
/// of bytes) of the weights less `least`, times `by`, plus `add`, of which the greatest is `most`?
#[inline(always)]
fn equal_codes(weights: &[f32; BLOCK], codes: &[u8], least: f32, by: f32, add: f32, most: f32) -> bool {
    let (fifth, codes) = match codes.split_last_chunk::<{ BLOCK / 2 }>() {
        Some((fifth, codes)) => (fifth.first_chunk().map_or(0, |bits| u32::from_le_bytes(*bits)), codes),
        None => return false,
    };
    let code_of = |x: f32| {
        let code = ((x - least) * by + add).trunc();
        // What is not a number equals no code.
        if most < code { most } else { code }
    };
    let mut equal = true;
    let (low, high) = weights.split_at(BLOCK / 2);
    for (place, ((&a, &b), &code)) in (0..16).zip(low.iter().zip(high).zip(codes)) {
        let fifths = [fifth >> place & 1, fifth >> (place + 16) & 1];
        equal &= code_of(a) == ((u32::from(code) & 15) | fifths[0] << 4) as f32;
        equal &= code_of(b) == (u32::from(code >> 4) | fifths[1] << 4) as f32;
    }
    equal
}

#[inline(always)]
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

    /// The fast path agrees with the reference algorithm on every block, and with no other.
    #[test]
    fn plain_blocks_are_those_of_the_plain_arithmetic() {
        let mut state = 9u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / 8_388_608.0 - 1.0
        };
        for kind in [GgmlType::Q4_0, GgmlType::Q4_1, GgmlType::Q5_0, GgmlType::Q5_1, GgmlType::Q8_0] {
            let (mut whole, mut other) = (0, 0);
            for round in 0..20_000 {
                let size = 10f32.powi(round % 9 - 7);
                let mut weights: [f32; BLOCK] = std::array::from_fn(|_| next() * size);
                match round % 11 {
                    // Near ties, zeros, and what is not a number.
                    0 => weights = std::array::from_fn(|i| (i as f32 - 15.5) * size / 2.0),
                    1 => weights = [0.0; BLOCK],
                    2 => weights[7] = f32::NAN.copysign(if round % 2 == 0 { 1.0 } else { -1.0 }),
                    3 => weights[30] = f32::INFINITY,
                    _ => {}
                }
                let mut bytes = Vec::new();
                block(kind, &weights, Arithmetic::Plain, &mut bytes);
                let (fast, zeros) = plain_blocks(kind, &[weights], &bytes);
                assert_eq!(zeros, usize::from(fast == 1 && weights == [0.0; BLOCK]));
                whole += fast;
                let (least, greatest) = extent(&weights);
                if round % 11 > 3 && greatest != -least {
                    assert_eq!(fast, 1, "{kind:?} {weights:?}");
                }
                if weights[7].is_nan() {
                    // A scale that is no number, and the codes that such weights are capped to.
                    for scale in [0x7e, 0xfe] {
                        let mut capped = vec![0xff; bytes.len()];
                        (capped[0], capped[1]) = (0x00, scale);
                        assert_eq!(plain_blocks(kind, &[weights], &capped).0, 0, "{kind:?} {weights:?}");
                    }
                }
                for how in ARITHMETICS {
                    let mut bytes = Vec::new();
                    block(kind, &weights, how, &mut bytes);
                    assert!(has_scale(kind, &weights, &bytes), "{kind:?} {how:?} {weights:?}");
                    // Another scale by far.
                    bytes[1] ^= 0x40;
                    other += usize::from(!has_scale(kind, &weights, &bytes));
                }
                let place = 2 + (round as usize) % (bytes.len() - 2);
                bytes[place] ^= 1 << (round % 8);
                assert_eq!(plain_blocks(kind, &[weights], &bytes).0, 0, "{kind:?} {weights:?}");
            }
            assert!(whole > 12_000 && other > 36_000, "{whole} {other}");
        }
    }

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
