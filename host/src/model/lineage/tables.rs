//! Types whose codes stand for entries of a small table, and the ternary and one-bit ones.
//!
//! Codes are the nearest entry under the scale before it was stored as binary16 (or, for
//! MXFP4, as a power of two), so a reference lies within half the gaps beside an entry; the
//! outermost entries are open outwards, as fitted scales clip there. Deliberately absent:
//! NVFP4, whose files keep a second scale in another tensor.

use multiversion::multiversion;

use super::decode::{Scale, Weight, Weights, split};
use super::half::{f16_half_step, f16_to_f32};
use crate::model::gguf::GgmlType;

/// ggml's `kvalues_iq4nl`.
const NONLINEAR: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0,
];
/// E2M1 numbers, doubled, in rising order.
const E2M1: [f32; 15] = [-12.0, -8.0, -6.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0];

/// Is this one of the types here?
pub(super) fn is_known(kind: GgmlType) -> bool {
    use GgmlType::*;
    matches!(kind, IQ4_NL | IQ4_XS | MXFP4 | TQ1_0 | TQ2_0 | Q1_0 | Q2_0)
}

/// Why weights of a type cannot be judged one by one.
pub(super) fn reason(kind: GgmlType) -> &'static str {
    use GgmlType::*;
    match kind {
        _ if super::grids::is_known(kind) => {
            "its codes are points of a grid that quantisers search, so a weight may come from any other"
        }
        NVFP4 => "its second scale lies in another tensor",
        Q8_1 | Q8_K => "it is for intermediate results, not for weights",
        _ => "it holds no weights of a known form",
    }
}

/// The weights of whole blocks, instead of what `out` held; none for types that are not known.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub(super) fn decode(kind: GgmlType, bytes: &[u8], out: &mut Weights) {
    let half = |raw: &[u8; 2]| f16_to_f32(u16::from_le_bytes(*raw));
    match kind {
        GgmlType::IQ4_NL => {
            let blocks = bytes.as_chunks::<18>().0;
            for (block, run) in blocks.iter().zip(out.runs(blocks.len() * 32)) {
                let (scale, codes) = split::<2>(block);
                let scale = half(scale);
                run.pick(&nibbles(codes), &entries(&NONLINEAR, scale, f16_half_step(scale)));
            }
        }
        GgmlType::IQ4_XS => {
            let blocks = bytes.as_chunks::<136>().0;
            let mut runs = out.runs(blocks.len() * 256);
            for block in blocks {
                let (scale, rest) = split::<2>(block);
                let (high, rest) = split::<2>(rest);
                let (low, codes) = split::<4>(rest);
                let (scale, high) = (half(scale), u16::from_le_bytes(*high));
                for (sub, codes) in codes.as_chunks::<16>().0.iter().enumerate() {
                    let Some(run) = runs.next() else { return };
                    let nibble = low.get(sub / 2).map_or(0, |byte| byte >> (4 * (sub % 2)) & 15);
                    let factor = u16::from(nibble) | (high >> (2 * sub) & 3) << 4;
                    let factor = f32::from(factor) - 32.0;
                    let rounding = f16_half_step(scale) * factor.abs();
                    run.pick(&nibbles(codes), &entries(&NONLINEAR, scale * factor, rounding));
                }
            }
        }
        GgmlType::MXFP4 => {
            let blocks = bytes.as_chunks::<17>().0;
            for (block, run) in blocks.iter().zip(out.runs(blocks.len() * 32)) {
                let (&[exponent], codes) = split::<1>(block);
                // Half of two to the power of the exponent less 127.
                let bits =
                    if exponent < 2 { 0x0020_0000 << exponent } else { (u32::from(exponent) - 1) << 23 };
                run.pick(&nibbles(codes), &e2m1(f32::from_bits(bits)));
            }
        }
        GgmlType::TQ1_0 => {
            let blocks = bytes.as_chunks::<54>().0;
            for (block, run) in blocks.iter().zip(out.runs(blocks.len() * 256)) {
                let (codes, rest) = block.split_at(48);
                let (last, scale) = split::<4>(rest);
                let (wide, narrow) = codes.split_at(32);
                let mut own = [0; 256];
                let mut rest = own.iter_mut();
                for (group, digits) in [(wide, 5), (narrow, 5), (last.as_slice(), 4)] {
                    for digit in 0..digits {
                        // A byte is a fraction of 256 in base 3; the digit is what a multiple carries over.
                        let power = 3u8.pow(digit);
                        for (byte, code) in group.iter().zip(&mut rest) {
                            *code = ((u16::from(byte.wrapping_mul(power)) * 3) >> 8) as i8 - 1;
                        }
                    }
                }
                run.fill(&own, &stepped(half(split::<2>(scale).0)));
            }
        }
        GgmlType::TQ2_0 => {
            let blocks = bytes.as_chunks::<66>().0;
            for (block, run) in blocks.iter().zip(out.runs(blocks.len() * 256)) {
                let (codes, scale) = block.split_at(64);
                let mut own = [0; 256];
                for (place, own) in own.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                    let group = codes.get(place / 4 * 32..).unwrap_or_default();
                    for (code, byte) in own.iter_mut().zip(group) {
                        *code = (byte >> (place % 4 * 2) & 3).cast_signed() - 1;
                    }
                }
                run.fill(&own, &stepped(half(split::<2>(scale).0)));
            }
        }
        GgmlType::Q2_0 => {
            let blocks = bytes.as_chunks::<18>().0;
            for (block, run) in blocks.iter().zip(out.runs(blocks.len() * 64)) {
                let (scale, codes) = split::<2>(block);
                let mut own = [0; 64];
                for (own, byte) in own.as_chunks_mut::<4>().0.iter_mut().zip(codes) {
                    *own = [0, 2, 4, 6].map(|place| (byte >> place & 3).cast_signed() - 1);
                }
                run.fill(&own, &stepped(half(scale)));
            }
        }
        GgmlType::Q1_0 => {
            let blocks = bytes.as_chunks::<18>().0;
            for (block, run) in blocks.iter().zip(out.runs(blocks.len() * 128)) {
                let (scale, codes) = split::<2>(block);
                let mut own = [0; 128];
                for (own, byte) in own.as_chunks_mut::<8>().0.iter_mut().zip(codes) {
                    *own = [0, 1, 2, 3, 4, 5, 6, 7].map(|place| byte >> place & 1);
                }
                run.pick(&own, &signs(half(scale)));
            }
        }
        _ => out.clear(),
    }
}

/// Sixteen bytes of codes: low halves first.
#[inline(always)]
fn nibbles(bytes: &[u8]) -> [u8; 32] {
    let mut codes = [0; 32];
    let (low, high) = codes.split_at_mut(16);
    for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
        (*low, *high) = (byte & 15, byte >> 4);
    }
    codes
}

/// The weights that the entries of a rising table and a scale make, each between its
/// neighbours. `rounding` is how far the scale may be from the one that codes were chosen with.
#[inline(always)]
fn entries(table: &[f32], scale: f32, rounding: f32) -> [Weight; 16] {
    let mut all = [Weight { below: f32::INFINITY, above: f32::INFINITY, ..Weight::default() }; 16];
    if scale == 0.0 {
        return all;
    }
    for (place, (weight, &entry)) in all.iter_mut().zip(table).enumerate() {
        // The border between two entries lies halfway, under the scale before it was stored.
        let border = |neighbour: Option<&f32>| {
            let neighbour = neighbour?;
            let (gap, place) = ((entry - neighbour).abs() / 2.0, (entry + neighbour).abs() / 2.0);
            Some(gap * scale.abs() + place * rounding + scale.abs() * 1e-3)
        };
        let down = border(place.checked_sub(1).and_then(|place| table.get(place)));
        let up = border(table.get(place + 1));
        let step = down.unwrap_or(0.0).max(up.unwrap_or(0.0)) * 2.0;
        // Outwards as far again as the whole table reaches.
        let open = 128.0 * step;
        let slack = (entry * rounding).abs();
        let (down, up) = (down.unwrap_or(open) + slack, up.unwrap_or(open) + slack);
        let (below, above) = if scale > 0.0 { (down, up) } else { (up, down) };
        *weight = Weight { value: entry * scale, below, above, step };
    }
    all
}

/// E2M1 numbers times a scale, by their codes: the fourth bit is the sign.
#[inline(always)]
fn e2m1(scale: f32) -> [Weight; 16] {
    let rising = entries(&E2M1, scale, 0.0);
    std::array::from_fn(|code| {
        let place = if code < 8 { 7 + code } else { 15 - code };
        rising.get(place).copied().unwrap_or_default()
    })
}

/// Multiples of the scale, rounded with the scale before it was stored.
#[inline(always)]
fn stepped(step: f32) -> Scale {
    Scale { step, rounding: f16_half_step(step), ..Scale::default() }
}

/// Only the sign is kept: anything on that side of zero may be behind it.
#[inline(always)]
fn signs(scale: f32) -> [Weight; 16] {
    let inward = scale.abs() * (1.0 + 1e-3);
    let mut all = [Weight::default(); 16];
    let step = scale.abs();
    all[0] = Weight { value: -scale, below: f32::INFINITY, above: inward, step };
    all[1] = Weight { value: scale, below: inward, above: f32::INFINITY, step };
    all
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
            let mut all = Weights::default();
            super::super::decode::decode(kind, bytes, &mut all);
            let weights: Vec<Weight> = all.iter().collect();
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
                let mut searched = || {
                    super::super::decode::decode(kind, own, &mut all);
                    source.try_into().is_ok_and(|source| explained(kind, own, &all, source))
                };
                assert!(allowed || searched(), "{kind:?} block {number}: {source:?} {weights:?}");
            }
            seen.push(kind);
        }
        seen.dedup();
        assert_eq!(seen.len(), 24, "every type but NVFP4: {seen:?}");
    }

    /// What is nearest to an entry is allowed, and what is beyond its neighbours is not.
    #[test]
    fn entries_allow_half_the_gaps_beside_them() {
        let mut block = vec![0u8; 18];
        // Scale -0.5, codes 8 (entry 1) and 0 (entry -127).
        block[..2].copy_from_slice(&[0x00, 0xb8]);
        block[2] = 0x08;
        let mut weights = Weights::default();
        decode(GgmlType::IQ4_NL, &block, &mut weights);
        let weights: Vec<Weight> = weights.iter().collect();
        let [inner, outer] = [weights[0], weights[16]];
        assert_eq!((inner.value, outer.value), (-0.5, 63.5));
        // Between 1 and 13 there are 12: with the sign turned, they lie below.
        assert!((inner.below - 3.0).abs() < 0.01 && (inner.above - 2.75).abs() < 0.01, "{inner:?}");
        assert!(outer.above > 100.0 && outer.below < 6.0, "{outer:?}");
        let minus = e2m1(2.0)[0b1111];
        assert_eq!(minus.value, -24.0);
        assert!(minus.below > 100.0 && minus.above < 4.1, "{minus:?}");
        assert_eq!(signs(1.0)[0].value, -1.0);
    }
}
