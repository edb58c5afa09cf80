//! Types whose codes stand for entries of a small table, and those of one and two bits.
//!
//! Codes are the nearest entry under the scale before it was stored as binary16 (or, for
//! MXFP4, as a power of two), so a reference lies within half the gaps beside an entry; the
//! outermost entries are open outwards, as fitted scales clip there. Where a file of NVFP4 keeps
//! a second scale in another tensor, `side` leaves the weights alone.

use super::decode::{ANY_ROOM, NO_ROOM, Run, Scale, Taker, Weight, lesser, outside, split};
use super::half::{f16_half_step, f16_to_f32};
use crate::model::gguf::GgmlType;

/// A table by code: every entry, and how far those below and above it are; nothing is beyond the
/// outermost.
struct Table {
    entries: [i8; 16],
    gaps: [[i8; 16]; 2],
}

/// The gap beside an outermost entry.
const OUTWARD: i8 = i8::MAX;

impl Table {
    /// `places` says where among the `rising` entries each code's is.
    #[expect(clippy::indexing_slicing, reason = "worked out when it is compiled")]
    const fn new<const N: usize>(rising: [i8; N], places: [usize; 16]) -> Self {
        let mut table = Self { entries: [0; 16], gaps: [[OUTWARD; 16]; 2] };
        let mut code = 0;
        while code < 16 {
            let place = places[code];
            table.entries[code] = rising[place];
            if place > 0 {
                table.gaps[0][code] = rising[place] - rising[place - 1];
            }
            if place + 1 < N {
                table.gaps[1][code] = rising[place + 1] - rising[place];
            }
            code += 1;
        }
        table
    }
}

/// ggml's `kvalues_iq4nl`.
const NONLINEAR: Table = Table::new(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113],
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
);
/// E2M1 numbers, doubled; the fourth bit of a code is the sign.
const E2M1: Table = Table::new(
    [-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12],
    [7, 8, 9, 10, 11, 12, 13, 14, 7, 6, 5, 4, 3, 2, 1, 0],
);

/// Is this one of the types here?
pub(super) fn is_known(kind: GgmlType) -> bool {
    use GgmlType::*;
    matches!(kind, IQ4_NL | IQ4_XS | MXFP4 | NVFP4 | Q1_0 | Q2_0)
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

/// Hands the weights of whole blocks on; none of types that are not known.
#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
pub(super) fn blocks(kind: GgmlType, bytes: &[u8], out: &mut impl Taker) {
    let half = |raw: &[u8; 2]| f16_to_f32(u16::from_le_bytes(*raw));
    match kind {
        GgmlType::IQ4_NL => thirty_twos::<18>(bytes, out, &NONLINEAR, |block| {
            let (scale, codes) = split::<2>(block);
            let scale = half(scale);
            ((scale, f16_half_step(scale)), *split(codes).0)
        }),
        GgmlType::IQ4_XS => {
            let blocks = bytes.as_chunks::<136>().0;
            out.begin(blocks.len() * 256);
            for block in blocks {
                let (scale, rest) = split::<2>(block);
                let (high, rest) = split::<2>(rest);
                let (low, codes) = split::<4>(rest);
                let (scale, high) = (half(scale), u16::from_le_bytes(*high));
                let mut near = [Near::<32>::NONE; 8];
                for (near, codes) in near.iter_mut().zip(codes.as_chunks().0) {
                    *near = Near::new(&NONLINEAR, &nibbles::<16, 32>(codes));
                }
                let mut scales = [(0.0, 0.0); 8];
                for (sub, own) in scales.iter_mut().enumerate() {
                    let factor =
                        u16::from(low[sub / 2] >> (4 * (sub % 2)) & 15) | (high >> (2 * sub) & 3) << 4;
                    let factor = f32::from(factor) - 32.0;
                    *own = (scale * factor, f16_half_step(scale) * factor.abs());
                }
                nearest(&near, &scales, out);
            }
        }
        GgmlType::MXFP4 => thirty_twos::<17>(bytes, out, &E2M1, |block| {
            let (&[exponent], codes) = split::<1>(block);
            // Half of two to the power of the exponent less 127.
            let bits = if exponent < 2 { 0x0020_0000 << exponent } else { (u32::from(exponent) - 1) << 23 };
            ((f32::from_bits(bits), 0.0), *split(codes).0)
        }),
        GgmlType::NVFP4 => {
            let blocks = bytes.as_chunks::<36>().0;
            out.begin(blocks.len() * 64);
            for block in blocks {
                let (scales, codes) = split::<4>(block);
                let mut near = [Near::<16>::NONE; 4];
                for (near, codes) in near.iter_mut().zip(codes.as_chunks().0) {
                    *near = Near::new(&E2M1, &nibbles::<8, 16>(codes));
                }
                nearest(&near, &scales.map(|scale| (ue4m3(scale), 0.0)), out);
            }
        }
        GgmlType::Q2_0 => {
            let blocks = bytes.as_chunks::<18>().0;
            out.begin(blocks.len() * 64);
            for block in blocks {
                let (scale, codes) = split::<2>(block);
                let mut own = [0; 64];
                for (own, byte) in own.as_chunks_mut::<4>().0.iter_mut().zip(codes) {
                    *own = [0, 2, 4, 6].map(|place| (byte >> place & 3).cast_signed() - 1);
                }
                out.codes(&own, &stepped(half(scale)));
            }
        }
        GgmlType::Q1_0 => {
            let blocks = bytes.as_chunks::<18>().0;
            out.begin(blocks.len() * 128);
            for block in blocks {
                let (scale, codes) = split::<2>(block);
                let mut own = [0; 128];
                for (own, byte) in own.as_chunks_mut::<8>().0.iter_mut().zip(codes) {
                    *own = [0, 1, 2, 3, 4, 5, 6, 7].map(|place| byte >> place & 1);
                }
                let signs = signs(half(scale));
                out.block::<1, 128, _>(|_| |place: usize| if own[place] == 1 { signs[1] } else { signs[0] });
            }
        }
        _ => out.begin(0),
    }
}

/// Blocks of 32 weights, of each of which `read` tells the scale, how far that may be from the one
/// that codes were chosen with, and the codes. Eight at a time, as that is faster.
#[inline(always)]
fn thirty_twos<const SIZE: usize>(
    bytes: &[u8],
    out: &mut impl Taker,
    table: &Table,
    read: impl Fn(&[u8; SIZE]) -> ((f32, f32), [u8; 16]),
) {
    let blocks = bytes.as_chunks::<SIZE>().0;
    out.begin(blocks.len() * 32);
    let (eights, rest) = blocks.as_chunks::<8>();
    for eight in eights {
        together(eight, out, table, &read);
    }
    for block in rest {
        together(&[*block], out, table, &read);
    }
}

#[inline(always)]
fn together<const RUNS: usize, const SIZE: usize>(
    blocks: &[[u8; SIZE]; RUNS],
    out: &mut impl Taker,
    table: &Table,
    read: &impl Fn(&[u8; SIZE]) -> ((f32, f32), [u8; 16]),
) {
    let (mut near, mut scales) = ([Near::<32>::NONE; RUNS], [(0.0, 0.0); RUNS]);
    for ((near, scale), block) in near.iter_mut().zip(&mut scales).zip(blocks) {
        let codes;
        (*scale, codes) = read(block);
        *near = Near::new(table, &nibbles(&codes));
    }
    nearest(&near, &scales, out);
}

/// Codes of half a byte: low halves first.
#[inline(always)]
fn nibbles<const BYTES: usize, const N: usize>(bytes: &[u8; BYTES]) -> [u8; N] {
    let mut codes = [0; N];
    let (low, high) = codes.split_at_mut(BYTES);
    for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
        (*low, *high) = (byte & 15, byte >> 4);
    }
    codes
}

/// The entries that codes stand for, and the gaps below and above them.
#[derive(Clone, Copy)]
struct Near<const N: usize> {
    entries: [i8; N],
    gaps: [[i8; N]; 2],
}

impl<const N: usize> Near<N> {
    const NONE: Self = Self { entries: [0; N], gaps: [[0; N]; 2] };

    #[inline(always)]
    fn new(table: &Table, codes: &[u8; N]) -> Self {
        let [lower, upper] = &table.gaps;
        Self { entries: look_up(&table.entries, codes), gaps: [look_up(lower, codes), look_up(upper, codes)] }
    }
}

/// A choice for each bit of a code, of which compilers make vector code, unlike of an index.
#[inline(always)]
fn look_up<const N: usize>(table: &[i8; 16], codes: &[u8; N]) -> [i8; N] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *table;
    let mut found = [0; N];
    for (found, code) in found.iter_mut().zip(codes) {
        let one = |even: i8, odd: i8| if code & 1 == 0 { even } else { odd };
        let two = |low: i8, high: i8| if code & 2 == 0 { low } else { high };
        let four = |low: i8, high: i8| if code & 4 == 0 { low } else { high };
        let low = four(two(one(a, b), one(c, d)), two(one(e, f), one(g, h)));
        let high = four(two(one(i, j), one(k, l)), two(one(m, n), one(o, p)));
        *found = if code & 8 == 0 { low } else { high };
    }
    found
}

/// The weights that entries and scales make. Of every run there is its scale and how far that may
/// be from the one that codes were chosen with.
#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "there are as many scales as runs")]
fn nearest<const RUNS: usize, const N: usize>(
    near: &[Near<N>; RUNS],
    scales: &[(f32, f32); RUNS],
    out: &mut impl Taker,
) {
    let most = out.most();
    out.block::<RUNS, N, _>(|run| {
        let (scale, rounding) = scales[run];
        let Near { entries, gaps: [lower, upper] } = &near[run];
        // A negative scale turns the entries around.
        let (lower, upper) = if scale < 0.0 { (upper, lower) } else { (lower, upper) };
        // A border is at least as far from zero as twice its entry less the gap is, halved.
        let half = if scale == 0.0 { NO_ROOM } else { 0.5 * (scale.abs() - rounding) };
        Nearest { entries, lower, upper, scale, rounding, half, slack: half * 1.98 * SLACK, most }
    });
}

/// A run of entries, each between its neighbours.
struct Nearest<'a, const N: usize> {
    entries: &'a [i8; N],
    lower: &'a [i8; N],
    upper: &'a [i8; N],
    scale: f32,
    rounding: f32,
    /// For a glance: half the scale less its rounding, and some less than the slack.
    half: f32,
    slack: f32,
    most: f32,
}

/// Rounding of the arithmetic itself, relative to the scale.
const SLACK: f32 = 1e-3;

impl<const N: usize> Run for Nearest<'_, N> {
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "a run has as many weights as there are entries")]
    fn weight(&self, place: usize) -> Weight {
        // A scale of nothing says nothing.
        if self.scale == 0.0 {
            return Weight { value: 0.0, below: f32::INFINITY, above: f32::INFINITY, step: 0.0 };
        }
        let size = self.scale.abs();
        let entry = f32::from(self.entries[place]);
        let twice = if self.scale < 0.0 { -2.0 } else { 2.0 } * entry;
        let (lower, upper) = (f32::from(self.lower[place]), f32::from(self.upper[place]));
        // The border between two entries lies halfway, under the scale before it was stored.
        let border = |gap: f32, sum: f32| 0.5 * (gap * size + sum.abs() * self.rounding) + size * SLACK;
        let (down, up) = (border(lower, twice - lower), border(upper, twice + upper));
        let [least, greatest] = [self.lower, self.upper].map(|gaps| gaps[place] == OUTWARD);
        let step = if greatest | !least & (down > up) { down } else { up } * 2.0;
        let (down, up) = (if least { ANY_ROOM } else { down }, if greatest { ANY_ROOM } else { up });
        let slack = (entry * self.rounding).abs();
        Weight { value: entry * self.scale, below: down + slack, above: up + slack, step }
    }

    /// Half the gaps, and the scale's rounding as far as it moves the entry, and the border at least.
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "a run has as many weights as there are entries")]
    fn look(&self, place: usize, expected: f32) -> (f32, u32) {
        let entry = f32::from(self.entries[place]);
        let both = entry.abs().mul_add(2.0 * self.rounding, self.slack);
        let room = |gap: i8| lesser(self.most, f32::from(gap).mul_add(self.half, both));
        let value = entry * self.scale;
        (value, outside(expected - value, [room(self.lower[place]), room(self.upper[place])]))
    }
}

/// A scale of NVFP4: an E4M3 number without a sign, halved as the entries are doubled.
#[inline(always)]
fn ue4m3(bits: u8) -> f32 {
    let (exponent, mantissa) = (u32::from(bits >> 3 & 15), u32::from(bits & 7));
    let subnormal = f32::from(bits & 7) / 512.0;
    let normal = f32::from_bits((exponent + 120) << 23 | mantissa << 20);
    // The pattern that is not a number counts as nothing, as in ggml.
    0.5 * if bits == 0x7f {
        0.0
    } else if exponent == 0 {
        subnormal
    } else {
        normal
    }
}

/// Multiples of the scale, rounded with the scale before it was stored.
#[inline(always)]
pub(super) fn stepped(step: f32) -> Scale {
    Scale { step, rounding: f16_half_step(step), ..Scale::default() }
}

/// Only the sign is kept: anything on that side of zero may be behind it.
#[inline(always)]
fn signs(scale: f32) -> [Weight; 2] {
    let (inward, step) = (scale.abs() * (1.0 + 1e-3), scale.abs());
    let less = Weight { value: -scale, below: f32::INFINITY, above: inward, step };
    [less, Weight { value: scale, below: inward, above: f32::INFINITY, step }]
}

#[cfg(test)]
mod tests {
    use super::super::decode::{Weights, decode};
    use super::super::rescale::open_explained;
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
            decode(kind, bytes, &mut all);
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
                    decode(kind, own, &mut all);
                    open_explained(kind, own, &mut all, source.as_chunks().0).blocks == 1
                };
                assert!(allowed || searched(), "{kind:?} block {number}: {source:?} {weights:?}");
            }
            seen.push(kind);
        }
        seen.dedup();
        assert_eq!(seen.len(), 25, "every type: {seen:?}");
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
        let [inner, outer] = [weights.get(0).unwrap(), weights.get(16).unwrap()];
        assert_eq!((inner.value, outer.value), (-0.5, 63.5));
        // Between 1 and 13 there are 12: with the sign turned, they lie below.
        assert!((inner.below - 3.0).abs() < 0.01 && (inner.above - 2.75).abs() < 0.01, "{inner:?}");
        assert!(outer.above > 100.0 && outer.below < 6.0, "{outer:?}");
        // Exponent 129: a scale of 4, half of it for numbers that are doubled.
        let mut block = vec![0u8; 17];
        (block[0], block[1]) = (129, 0x0f);
        decode(GgmlType::MXFP4, &block, &mut weights);
        let minus = weights.get(0).unwrap();
        assert_eq!(minus.value, -24.0);
        assert!(minus.below > 100.0 && minus.above < 4.1, "{minus:?}");
        assert_eq!(signs(1.0)[0].value, -1.0);
        // A scale of nothing says nothing.
        for kind in [GgmlType::IQ4_NL, GgmlType::IQ4_XS, GgmlType::Q2_K, GgmlType::Q4_K] {
            let zeros = vec![0; usize::try_from(kind.block_bytes()).unwrap()];
            decode(kind, &zeros, &mut weights);
            let open =
                |w: Weight| (w.value, w.step, w.below, w.above) == (0.0, 0.0, f32::INFINITY, f32::INFINITY);
            assert!(weights.iter().all(open), "{kind:?} {:?}", weights.get(0));
        }
    }
}
