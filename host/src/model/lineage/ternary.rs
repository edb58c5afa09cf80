//! The ternary types of ggml: a weight is a step, nothing, or a step less, and the step is the largest
//! magnitude of 256 weights. Codes are the nearest ones, without any search, so what the quantiser
//! gives is checked here at the speed of reading.

use multiversion::multiversion;

use super::decode::{Taker, split};
use super::half::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use super::tables::stepped;
use crate::model::gguf::GgmlType;

/// Weights of a block.
const BLOCK: usize = 256;

/// Is this one of the types here?
pub(super) fn is_known(kind: GgmlType) -> bool {
    matches!(kind, GgmlType::TQ1_0 | GgmlType::TQ2_0)
}

/// Hands the weights of whole blocks on; none of types that are not known.
#[inline(always)]
pub(super) fn blocks(kind: GgmlType, bytes: &[u8], out: &mut impl Taker) {
    match kind {
        GgmlType::TQ1_0 => hand_on::<Fives, 54>(bytes, out),
        GgmlType::TQ2_0 => hand_on::<Fours, 66>(bytes, out),
        _ => out.begin(0),
    }
}

/// How a type keeps its codes. A trait, because what is called through a pointer is not made vector
/// code of.
trait Codes<const SIZE: usize> {
    fn codes(block: &[u8; SIZE]) -> [i8; BLOCK];
}

#[inline(always)]
fn hand_on<T: Codes<SIZE>, const SIZE: usize>(bytes: &[u8], out: &mut impl Taker) {
    let blocks = bytes.as_chunks::<SIZE>().0;
    out.begin(blocks.len() * BLOCK);
    for block in blocks {
        out.codes(&T::codes(block), &stepped(f16_to_f32(scale(block))));
    }
}

/// Are these blocks what the quantiser gives for such values? False for other types.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub(super) fn is_rounding(kind: GgmlType, bytes: &[u8], values: &[f32]) -> bool {
    match kind {
        GgmlType::TQ1_0 => equal::<Fives, 54, Single>(values, bytes),
        GgmlType::TQ2_0 => equal::<Fours, 66, Single>(values, bytes),
        _ => false,
    }
}

/// The same of values of 16 bits, as they are, which is several times as fast as decoding them. False
/// for values of another type.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub(super) fn is_rounding_of_halves(kind: GgmlType, bytes: &[u8], from: GgmlType, values: &[u8]) -> bool {
    let (halves, rest) = values.as_chunks();
    rest.is_empty()
        && match (kind, from) {
            (GgmlType::TQ1_0, GgmlType::F16) => equal::<Fives, 54, Half<false>>(halves, bytes),
            (GgmlType::TQ2_0, GgmlType::F16) => equal::<Fours, 66, Half<false>>(halves, bytes),
            (GgmlType::TQ1_0, GgmlType::BF16) => equal::<Fives, 54, Half<true>>(halves, bytes),
            (GgmlType::TQ2_0, GgmlType::BF16) => equal::<Fours, 66, Half<true>>(halves, bytes),
            _ => false,
        }
}

/// A type of floats, and how weights of it are rounded. A trait, because what is called through a
/// pointer is not made vector code of.
trait Float {
    type Raw: Copy;
    /// What a weight is compared with to round it.
    type Bound: Copy + Default;
    /// The largest magnitude. As bits, magnitudes are ordered, and what is no number comes last.
    fn step(group: &[Self::Raw; BLOCK]) -> f32;
    fn bound(step: f32) -> Self::Bound;
    fn code(raw: Self::Raw, bound: Self::Bound) -> i8;
}

/// What steps are multiplied with to make one.
#[inline(always)]
fn inverse(step: f32) -> f32 {
    if step == 0.0 { 0.0 } else { 1.0 / step }
}

struct Single;

impl Float for Single {
    type Raw = f32;
    type Bound = f32;

    #[inline(always)]
    fn step(group: &[f32; BLOCK]) -> f32 {
        f32::from_bits(group.iter().fold(0, |most, x| (x.to_bits() & 0x7fff_ffff).max(most)))
    }

    #[inline(always)]
    fn bound(step: f32) -> f32 {
        inverse(step)
    }

    #[inline(always)]
    fn code(x: f32, by: f32) -> i8 {
        i8::from(x * by >= 0.5) - i8::from(x * by <= -0.5)
    }
}

/// binary16, or bfloat16.
struct Half<const BRAIN: bool>;

impl<const BRAIN: bool> Half<BRAIN> {
    #[inline(always)]
    fn value(bits: u16) -> f32 {
        if BRAIN { bf16_to_f32(bits) } else { f16_to_f32(bits) }
    }

    #[inline(always)]
    fn pattern(value: f32) -> u16 {
        if BRAIN { f32_to_bf16(value) } else { f32_to_f16(value) }
    }
}

impl<const BRAIN: bool> Float for Half<BRAIN> {
    type Raw = [u8; 2];
    /// The least pattern that is rounded up.
    type Bound = u16;

    #[inline(always)]
    fn step(group: &[[u8; 2]; BLOCK]) -> f32 {
        Self::value(group.iter().fold(0, |most, raw| (u16::from_le_bytes(*raw) & 0x7fff).max(most)))
    }

    /// The pattern nearest to half a step, or the one after it: the one before is too far from half a
    /// step for the product's rounding.
    #[inline(always)]
    fn bound(step: f32) -> u16 {
        let half = Self::pattern(0.5 * step);
        half + u16::from(Self::value(half) * inverse(step) < 0.5)
    }

    #[inline(always)]
    fn code(raw: [u8; 2], least: u16) -> i8 {
        let bits = u16::from_le_bytes(raw);
        let sign = (bits.cast_signed() >> 15) | 1;
        if bits & 0x7fff >= least { sign as i8 } else { 0 }
    }
}

/// Are blocks of the steps and the codes of the values? Several at a time, so that what is done once
/// for a block is vector code, too.
#[inline(always)]
fn equal<T: Codes<SIZE>, const SIZE: usize, F: Float>(values: &[F::Raw], bytes: &[u8]) -> bool {
    let ((groups, rest), blocks) = (values.as_chunks::<BLOCK>(), bytes.as_chunks::<SIZE>().0);
    let mut equal = rest.is_empty() && groups.len() == blocks.len();
    for (groups, blocks) in groups.chunks(8).zip(blocks.chunks(8)) {
        let (mut steps, mut bounds, mut scales) = ([0.0; 8], [F::Bound::default(); 8], [0; 8]);
        for (step, group) in steps.iter_mut().zip(groups) {
            *step = F::step(group);
        }
        for ((step, bound), scale) in steps.iter().zip(&mut bounds).zip(&mut scales) {
            (*bound, *scale) = (F::bound(*step), f32_to_f16(*step));
            equal &= step.is_finite() & inverse(*step).is_finite();
        }
        for (((group, block), bound), own) in groups.iter().zip(blocks).zip(bounds).zip(scales) {
            let mut odd = 0;
            for (raw, code) in group.iter().zip(T::codes(block)) {
                odd |= F::code(*raw, bound) ^ code;
            }
            equal &= odd == 0 && scale(block) == own;
        }
    }
    equal
}

/// The step, after the codes.
#[inline(always)]
fn scale<const SIZE: usize>(block: &[u8; SIZE]) -> u16 {
    block.last_chunk().map_or(0, |raw| u16::from_le_bytes(*raw))
}

/// TQ1_0: five weights in a byte, and four in the last.
struct Fives;

impl Codes<54> for Fives {
    #[inline(always)]
    fn codes(block: &[u8; 54]) -> [i8; BLOCK] {
        let (wide, rest) = split::<32>(block);
        let (narrow, rest) = split::<16>(rest);
        let mut codes = [0; BLOCK];
        let (first, others) = codes.split_at_mut(5 * 32);
        let (second, third) = others.split_at_mut(5 * 16);
        digits(wide, first);
        digits(narrow, second);
        digits(split::<4>(rest).0, third);
        codes
    }
}

/// Codes of bytes that are fractions of 256 in base 3: a digit of every byte, then the next. It is
/// what three times the fraction carries over.
#[inline(always)]
fn digits<const N: usize>(bytes: &[u8; N], out: &mut [i8]) {
    let mut bytes = *bytes;
    for codes in out.as_chunks_mut::<N>().0 {
        for (code, byte) in codes.iter_mut().zip(&mut bytes) {
            *code = ((u16::from(*byte) * 3) >> 8) as i8 - 1;
            *byte = byte.wrapping_mul(3);
        }
    }
}

/// TQ2_0: four weights in a byte.
struct Fours;

impl Codes<66> for Fours {
    #[inline(always)]
    fn codes(block: &[u8; 66]) -> [i8; BLOCK] {
        let mut codes = [0; BLOCK];
        for (place, own) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let group = block.get(place / 4 * 32..).unwrap_or_default();
            for (code, byte) in own.iter_mut().zip(group) {
                *code = (byte >> (place % 4 * 2) & 3).cast_signed() - 1;
            }
        }
        codes
    }
}

#[cfg(test)]
mod tests {
    use super::super::decode;
    use super::*;

    /// Blocks whose codes and scale are known, and every change of one of them.
    #[test]
    fn the_nearest_codes_under_the_largest_magnitude_and_no_others() {
        for kind in [GgmlType::TQ1_0, GgmlType::TQ2_0] {
            let size = usize::try_from(kind.block_bytes()).unwrap();
            // Digits of three; and pairs of bits, of which the fourth pattern stands for no weight.
            let codes = (0..2 * size - 4).map(|i| if kind == GgmlType::TQ1_0 { i as u8 * 5 } else { 0x64 });
            let mut bytes: Vec<u8> = codes.collect();
            for (at, scale) in [(size - 2, 0x3800), (2 * size - 2, 0x2e66u16)] {
                bytes.splice(at..at, scale.to_le_bytes());
            }
            let mut values = Vec::new();
            decode::values(kind, &bytes, &mut values, &mut decode::Weights::default());
            // The largest stays, others move by less than half a step.
            for (i, block) in values.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
                let step = [0.5, f16_to_f32(0x2e66)][i];
                let largest = block.iter().position(|x| x.abs() == step).unwrap();
                for (place, x) in block.iter_mut().enumerate().filter(|(place, _)| *place != largest) {
                    *x *= 0.99;
                    *x += step * 0.48 * (place as f32 / 256.0 - 0.5);
                    *x = x.clamp(-step, step);
                }
            }
            let raw = |values: &[f32], from| -> Vec<u8> {
                let pattern = if from == GgmlType::BF16 { f32_to_bf16 } else { f32_to_f16 };
                values.iter().flat_map(|&x| pattern(x).to_le_bytes()).collect()
            };
            let of = |values: &[f32], bytes: &[u8], from| match from {
                GgmlType::F32 => is_rounding(kind, bytes, values),
                _ => is_rounding_of_halves(kind, bytes, from, &raw(values, from)),
            };
            let again = |values: &[f32], bytes: &[u8]| {
                let [f32s, f16s] = [GgmlType::F32, GgmlType::F16].map(|from| of(values, bytes, from));
                assert_eq!(f32s, f16s, "{kind:?}");
                f32s
            };
            assert!(again(&values, &bytes), "{kind:?}");
            // A step of so few bits as the first block's only.
            let of_bf16 = |values, bytes| of(values, bytes, GgmlType::BF16);
            assert!(of_bf16(&values[..BLOCK], &bytes[..size]) && !of_bf16(&values, &bytes), "{kind:?}");
            for at in 0..bytes.len() {
                let mut other = bytes.clone();
                other[at] =
                    if kind == GgmlType::TQ1_0 { other[at].wrapping_add(77) } else { other[at] ^ 0x55 };
                assert!(!again(&values, &other), "{kind:?} {at}");
            }
            for odd in [f32::NAN, f32::INFINITY, 0.6] {
                let mut other = values.clone();
                other[300] = odd;
                assert!(!again(&other, &bytes), "{kind:?} {odd}");
            }
            assert!(!again(&values[..BLOCK], &bytes) && !again(&values[1..], &bytes), "{kind:?}");
            let nothing = if kind == GgmlType::TQ1_0 { 0x80 } else { 0x55 };
            let empty = [vec![nothing; size - 2], vec![0; 2]].concat();
            assert!(again(&[0.0; BLOCK], &empty), "{kind:?}");
            assert!(!is_rounding(GgmlType::Q8_0, &bytes, &values));
            assert!(!is_rounding_of_halves(GgmlType::Q8_0, &empty, GgmlType::F16, &[0; 512]));
            assert!(!is_rounding_of_halves(kind, &empty, GgmlType::F32, &[0; 512]), "four bytes each");
        }
    }

    /// Around half a step, of every step.
    #[test]
    fn patterns_are_rounded_as_values_are() {
        fn nearest<F: Float>(group: &[F::Raw; BLOCK]) -> (f32, [i8; BLOCK]) {
            let (step, mut codes) = (F::step(group), [0; BLOCK]);
            codes.iter_mut().zip(group).for_each(|(code, raw)| *code = F::code(*raw, F::bound(step)));
            (step, codes)
        }
        type Halves = [[u8; 2]; BLOCK];
        type Type = (fn(u16) -> f32, fn(f32) -> u16, fn(&Halves) -> (f32, [i8; BLOCK]));
        let types: [Type; 2] = [
            (f16_to_f32, f32_to_f16, nearest::<Half<false>>),
            (bf16_to_f32, f32_to_bf16, nearest::<Half<true>>),
        ];
        for (value, pattern, of_halves) in types {
            for most in 0..0x8000 {
                let (step, mut halves) = (value(most), [[0; 2]; BLOCK]);
                let near = (0..5).map(|i| (pattern(0.5 * step) + i).saturating_sub(2).min(most));
                let both = near.chain([most]).flat_map(|bits| [bits, bits | 0x8000]);
                halves.iter_mut().zip(both).for_each(|(half, bits)| *half = bits.to_le_bytes());
                let values = halves.map(|raw| value(u16::from_le_bytes(raw)));
                let (found, expected) = (of_halves(&halves), nearest::<Single>(&values));
                if step.is_finite() && inverse(step).is_finite() {
                    assert_eq!(found, expected, "{most:#x}");
                } else {
                    assert_eq!(found.0.to_bits(), expected.0.to_bits(), "{most:#x}");
                }
            }
        }
    }
}
