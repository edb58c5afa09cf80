//! Types whose codes stand for entries of a small table, and the ternary and one-bit ones.
//!
//! Codes are the nearest entry under the scale before it was stored as binary16 (or, for
//! MXFP4, as a power of two), so a reference lies within half the gaps beside an entry; the
//! outermost entries are open outwards, as fitted scales clip there. Deliberately absent: the
//! IQ types of one to three bits, whose codes stand for points of large grids, and NVFP4,
//! whose files keep a second scale in another tensor.

use super::decode::{Weight, split};
use super::half::{f16_half_step, f16_to_f32};
use crate::model::gguf::GgmlType;

/// ggml's `kvalues_iq4nl`.
const NONLINEAR: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0,
];
/// E2M1 numbers, doubled; the sign is the fourth bit.
const E2M1: [f32; 8] = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0];

/// Is this one of the types here?
pub(super) fn is_known(kind: GgmlType) -> bool {
    use GgmlType::*;
    matches!(kind, IQ4_NL | IQ4_XS | MXFP4 | TQ1_0 | TQ2_0 | Q1_0 | Q2_0)
}

/// Why a type cannot be decoded here.
pub(super) fn reason(kind: GgmlType) -> &'static str {
    use GgmlType::*;
    match kind {
        IQ1_S | IQ1_M | IQ2_XXS | IQ2_XS | IQ2_S | IQ3_XXS | IQ3_S => {
            "its codes stand for points of a grid that is not built in"
        }
        NVFP4 => "its second scale lies in another tensor",
        Q8_1 | Q8_K => "it is for intermediate results, not for weights",
        _ => "it holds no weights of a known form",
    }
}

/// Appends the weights of whole blocks; nothing for types that are not known.
pub(super) fn decode(kind: GgmlType, bytes: &[u8], out: &mut Vec<Weight>) {
    let half = |raw: &[u8; 2]| f16_to_f32(u16::from_le_bytes(*raw));
    match kind {
        GgmlType::IQ4_NL => bytes.as_chunks::<18>().0.iter().for_each(|block| {
            let (scale, codes) = split::<2>(block);
            nonlinear(half(scale), f16_half_step(half(scale)), codes, out);
        }),
        GgmlType::IQ4_XS => bytes.as_chunks::<136>().0.iter().for_each(|block| {
            let (scale, rest) = split::<2>(block);
            let (high, rest) = split::<2>(rest);
            let (low, codes) = split::<4>(rest);
            let high = u16::from_le_bytes(*high);
            for (sub, codes) in codes.chunks_exact(16).enumerate() {
                let nibble = low.get(sub / 2).map_or(0, |byte| byte >> (4 * (sub % 2)) & 15);
                let factor = u16::from(nibble) | (high >> (2 * sub) & 3) << 4;
                let factor = f32::from(factor) - 32.0;
                let rounding = f16_half_step(half(scale)) * factor.abs();
                nonlinear(half(scale) * factor, rounding, codes, out);
            }
        }),
        GgmlType::MXFP4 => bytes.as_chunks::<17>().0.iter().for_each(|block| {
            let (&[exponent], codes) = split::<1>(block);
            // Half of two to the power of the exponent less 127.
            let bits = if exponent < 2 { 0x0020_0000 << exponent } else { (u32::from(exponent) - 1) << 23 };
            let scale = f32::from_bits(bits);
            let low = codes.iter().map(|byte| byte & 15);
            low.chain(codes.iter().map(|byte| byte >> 4)).for_each(|code| out.push(e2m1(code, scale)));
        }),
        GgmlType::TQ1_0 => bytes.as_chunks::<54>().0.iter().for_each(|block| {
            let (codes, rest) = block.split_at(48);
            let (last, scale) = split::<4>(rest);
            let scale = half(split::<2>(scale).0);
            let (wide, narrow) = codes.split_at(32);
            for (group, digits) in [(wide, 5), (narrow, 5), (last.as_slice(), 4)] {
                for digit in 0..digits {
                    // A byte is a fraction of 256 in base 3; the digit is what a multiple carries over.
                    let power = 3u8.pow(digit);
                    let digits = group.iter().map(|byte| (u16::from(byte.wrapping_mul(power)) * 3) >> 8);
                    digits.for_each(|digit| out.push(stepped(f32::from(digit) - 1.0, scale)));
                }
            }
        }),
        GgmlType::TQ2_0 => bytes.as_chunks::<66>().0.iter().for_each(|block| {
            let (codes, scale) = block.split_at(64);
            let scale = half(split::<2>(scale).0);
            for group in codes.chunks_exact(32) {
                for place in 0..4 {
                    let codes = group.iter().map(|byte| byte >> (2 * place) & 3);
                    codes.for_each(|code| out.push(stepped(f32::from(code) - 1.0, scale)));
                }
            }
        }),
        GgmlType::Q2_0 => bytes.as_chunks::<18>().0.iter().for_each(|block| {
            let (scale, codes) = split::<2>(block);
            for byte in codes {
                let codes = (0..4).map(|place| byte >> (2 * place) & 3);
                codes.for_each(|code| out.push(stepped(f32::from(code) - 1.0, half(scale))));
            }
        }),
        GgmlType::Q1_0 => bytes.as_chunks::<18>().0.iter().for_each(|block| {
            let (scale, codes) = split::<2>(block);
            let scale = half(scale);
            for byte in codes {
                out.extend((0..8).map(|place| signed(byte >> place & 1 == 1, scale)));
            }
        }),
        _ => {}
    }
}

/// Sixteen bytes of codes: low halves first. `rounding` is how far the scale may be from the
/// one that codes were chosen with.
fn nonlinear(scale: f32, rounding: f32, codes: &[u8], out: &mut Vec<Weight>) {
    let low = codes.iter().map(|byte| byte & 15);
    for code in low.chain(codes.iter().map(|byte| byte >> 4)) {
        let place = usize::from(code);
        let entry = NONLINEAR.get(place).copied().unwrap_or(0.0);
        let before = place.checked_sub(1).and_then(|place| NONLINEAR.get(place));
        out.push(entry_of(entry, before.copied(), NONLINEAR.get(place + 1).copied(), (scale, rounding)));
    }
}

fn e2m1(code: u8, scale: f32) -> Weight {
    let place = usize::from(code & 7);
    let entry = E2M1.get(place).copied().unwrap_or(0.0);
    // The neighbour of the least positive number is on the other side of zero.
    let before = place.checked_sub(1).and_then(|place| E2M1.get(place)).copied().unwrap_or(-1.0);
    let weight = entry_of(entry, Some(before), E2M1.get(place + 1).copied(), (scale, 0.0));
    if code & 8 == 0 {
        return weight;
    }
    Weight { value: -weight.value, below: weight.above, above: weight.below, ..weight }
}

/// The weight that an entry of a table and a scale make, between its neighbours.
fn entry_of(entry: f32, before: Option<f32>, after: Option<f32>, (scale, rounding): (f32, f32)) -> Weight {
    if scale == 0.0 {
        return Weight { value: 0.0, below: f32::INFINITY, above: f32::INFINITY, step: 0.0 };
    }
    // The border between two entries lies halfway, under the scale before it was stored.
    let border = |neighbour: f32| {
        let (gap, place) = ((entry - neighbour).abs() / 2.0, (entry + neighbour).abs() / 2.0);
        gap * scale.abs() + place * rounding + scale.abs() * 1e-3
    };
    let (down, up) = (before.map(border), after.map(border));
    let step = down.unwrap_or(0.0).max(up.unwrap_or(0.0)) * 2.0;
    // Outwards as far again as the whole table reaches.
    let open = 128.0 * step;
    let (down, up) = (down.unwrap_or(open), up.unwrap_or(open));
    let slack = |room: f32| room + (entry * rounding).abs();
    let (below, above) = if scale > 0.0 { (slack(down), slack(up)) } else { (slack(up), slack(down)) };
    Weight { value: entry * scale, below, above, step }
}

/// A multiple of the scale, rounded with the scale before it was stored.
fn stepped(code: f32, scale: f32) -> Weight {
    Weight::coded(code * scale, scale, (code.abs() + 0.5) * f16_half_step(scale))
}

/// Only the sign is kept: anything on that side of zero may be behind it.
fn signed(positive: bool, scale: f32) -> Weight {
    let inward = scale.abs() * (1.0 + 1e-3);
    let (value, below, above) =
        if positive { (scale, inward, f32::INFINITY) } else { (-scale, f32::INFINITY, inward) };
    Weight { value, below, above, step: scale.abs() }
}

#[cfg(test)]
mod tests {
    use super::super::rescale::explained;
    use super::*;

    /// Blocks of every type with what llama.cpp's own dequantiser makes of them: the type, the
    /// bytes, the weights, and the weights they were quantised from. The first two of a type
    /// were quantised by llama.cpp from bell-shaped weights, the second with an importance
    /// matrix; the third is made of random bytes and was quantised from nothing.
    const VECTORS: &[u8] = include_bytes!("vectors.bin");

    struct Vector<'a> {
        kind: GgmlType,
        bytes: &'a [u8],
        weights: Vec<f32>,
        source: Vec<f32>,
    }

    fn vectors() -> Vec<Vector<'static>> {
        fn take<'a>(rest: &mut &'a [u8], length: u32) -> &'a [u8] {
            let (head, tail) = rest.split_at(length as usize);
            *rest = tail;
            head
        }
        fn number(rest: &mut &[u8]) -> u32 {
            u32::from_le_bytes(take(rest, 4).try_into().unwrap())
        }
        fn floats(rest: &mut &[u8]) -> Vec<f32> {
            let count = number(rest);
            take(rest, count * 4).as_chunks().0.iter().map(|raw| f32::from_le_bytes(*raw)).collect()
        }
        let mut rest = VECTORS;
        let mut out = Vec::new();
        while !rest.is_empty() {
            let kind = GgmlType::from_id(number(&mut rest)).unwrap();
            let length = number(&mut rest);
            let bytes = take(&mut rest, length);
            out.push(Vector { kind, bytes, weights: floats(&mut rest), source: floats(&mut rest) });
        }
        out
    }

    #[test]
    fn blocks_decode_as_llama_cpp_decodes_them() {
        let mut seen = Vec::new();
        for Vector { kind, bytes, weights: expected, source } in vectors() {
            let mut weights = Vec::new();
            super::super::decode::decode(kind, bytes, &mut weights);
            assert_eq!(super::super::decode::is_known(kind), !weights.is_empty(), "{kind:?}");
            if weights.is_empty() {
                continue;
            }
            assert_eq!(weights.len(), expected.len(), "{kind:?}");
            for (place, (weight, expected)) in weights.iter().zip(&expected).enumerate() {
                // How products and sums are rounded is not told; no code is as near as that.
                let near = (weight.value - expected).abs() <= 1e-5 * expected.abs().max(weight.step);
                assert!(near, "{kind:?} weight {place}: {} instead of {expected}", weight.value);
            }
            // What llama.cpp quantised is allowed, block by block.
            let block = usize::try_from(kind.block()).unwrap();
            for (number, (weights, source)) in weights.chunks(block).zip(source.chunks(block)).enumerate() {
                let size = usize::try_from(kind.block_bytes()).unwrap();
                let own = &bytes[number * size..(number + 1) * size];
                let near = |weight: &Weight, x: f32| {
                    x - weight.value <= weight.above && weight.value - x <= weight.below
                };
                let allowed = weights.iter().zip(source).all(|(weight, &x)| near(weight, x));
                let searched = || source.try_into().is_ok_and(|source| explained(kind, own, weights, source));
                assert!(allowed || searched(), "{kind:?} block {number}: {source:?} {weights:?}");
            }
            seen.push(kind);
        }
        seen.dedup();
        assert_eq!(seen.len(), 17, "every type but NVFP4: {seen:?}");
    }

    /// What is nearest to an entry is allowed, and what is beyond its neighbours is not.
    #[test]
    fn entries_allow_half_the_gaps_beside_them() {
        let mut block = vec![0u8; 18];
        // Scale -0.5, codes 8 (entry 1) and 0 (entry -127).
        block[..2].copy_from_slice(&[0x00, 0xb8]);
        block[2] = 0x08;
        let mut weights = Vec::new();
        decode(GgmlType::IQ4_NL, &block, &mut weights);
        let [inner, outer] = [weights[0], weights[16]];
        assert_eq!((inner.value, outer.value), (-0.5, 63.5));
        // Between 1 and 13 there are 12: with the sign turned, they lie below.
        assert!((inner.below - 3.0).abs() < 0.01 && (inner.above - 2.75).abs() < 0.01, "{inner:?}");
        assert!(outer.above > 100.0 && outer.below < 6.0, "{outer:?}");
        let minus = e2m1(0b1111, 2.0);
        assert_eq!(minus.value, -24.0);
        assert!(minus.below > 100.0 && minus.above < 4.1, "{minus:?}");
        assert_eq!(signed(false, 1.0).value, -1.0);
    }
}
