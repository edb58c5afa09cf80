//! The ternary types of ggml: a weight is a step, nothing, or a step less, and the step is the largest
//! magnitude of 256 weights. Codes are the nearest ones, without any search, so what the quantiser
//! gives is checked here at the speed of reading.

use multiversion::multiversion;

use super::decode::{self, Taker, Weights, split};
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

/// Are these blocks what the quantiser gives for a reference's? False for other types. Values of 16
/// bits need not be decoded for that, which is several times as fast.
pub(super) fn is_rounding(
    kind: GgmlType,
    bytes: &[u8],
    (from, reference): (GgmlType, &[u8]),
    values: &mut Vec<f32>,
    scratch: &mut Weights,
) -> bool {
    if matches!(from, GgmlType::F16 | GgmlType::BF16) {
        return of_halves(kind, bytes, from, reference);
    }
    decode::values(from, reference, values, scratch);
    of_values(kind, bytes, values)
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
fn of_values(kind: GgmlType, bytes: &[u8], values: &[f32]) -> bool {
    match kind {
        GgmlType::TQ1_0 => equal::<Fives, 54, _>(values, bytes, nearest),
        GgmlType::TQ2_0 => equal::<Fours, 66, _>(values, bytes, nearest),
        _ => false,
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
fn of_halves(kind: GgmlType, bytes: &[u8], from: GgmlType, values: &[u8]) -> bool {
    let (halves, rest) = values.as_chunks();
    rest.is_empty()
        && match (kind, from) {
            (GgmlType::TQ1_0, GgmlType::F16) => equal::<Fives, 54, _>(halves, bytes, nearest_f16),
            (GgmlType::TQ2_0, GgmlType::F16) => equal::<Fours, 66, _>(halves, bytes, nearest_f16),
            (GgmlType::TQ1_0, GgmlType::BF16) => equal::<Fives, 54, _>(halves, bytes, nearest_bf16),
            (GgmlType::TQ2_0, GgmlType::BF16) => equal::<Fours, 66, _>(halves, bytes, nearest_bf16),
            _ => false,
        }
}

/// Are blocks of the step and the codes that `nearest` gives for each group of weights?
#[inline(always)]
fn equal<T: Codes<SIZE>, const SIZE: usize, V>(
    values: &[V],
    bytes: &[u8],
    nearest: impl Fn(&[V; BLOCK]) -> (f32, [i8; BLOCK]),
) -> bool {
    let ((groups, rest), blocks) = (values.as_chunks::<BLOCK>(), bytes.as_chunks::<SIZE>().0);
    let mut equal = rest.is_empty() && groups.len() == blocks.len();
    for (group, block) in groups.iter().zip(blocks) {
        let (step, codes) = nearest(group);
        let mut odd = 0;
        for (own, code) in codes.iter().zip(T::codes(block)) {
            odd |= own ^ code;
        }
        let usual = step.is_finite() && inverse(step).is_finite();
        equal &= odd == 0 && usual && scale(block) == f32_to_f16(step);
    }
    equal
}

/// The step of a group of weights, which is the largest magnitude, and their codes.
#[inline(always)]
fn nearest(group: &[f32; BLOCK]) -> (f32, [i8; BLOCK]) {
    // As bits, magnitudes are ordered, and what is no number comes last.
    let most = group.iter().fold(0, |most, x| (x.to_bits() & 0x7fff_ffff).max(most));
    let step = f32::from_bits(most);
    let (by, mut codes) = (inverse(step), [0; BLOCK]);
    for (code, x) in codes.iter_mut().zip(group) {
        *code = i8::from(x * by >= 0.5) - i8::from(x * by <= -0.5);
    }
    (step, codes)
}

/// What steps are multiplied with to make one.
#[inline(always)]
fn inverse(step: f32) -> f32 {
    if step == 0.0 { 0.0 } else { 1.0 / step }
}

#[inline(always)]
fn nearest_f16(group: &[[u8; 2]; BLOCK]) -> (f32, [i8; BLOCK]) {
    nearest_half(group, f16_to_f32, f32_to_f16)
}

#[inline(always)]
fn nearest_bf16(group: &[[u8; 2]; BLOCK]) -> (f32, [i8; BLOCK]) {
    nearest_half(group, bf16_to_f32, f32_to_bf16)
}

/// [`nearest`] for patterns of 16 bits, whose order is that of the magnitudes, too.
#[inline(always)]
fn nearest_half(
    group: &[[u8; 2]; BLOCK],
    value: impl Fn(u16) -> f32,
    pattern: impl Fn(f32) -> u16,
) -> (f32, [i8; BLOCK]) {
    let most = group.iter().fold(0, |most, raw| (u16::from_le_bytes(*raw) & 0x7fff).max(most));
    let step = value(most);
    // The least that is rounded up is the pattern nearest to half a step, or the one after it: the
    // one before is too far from it for the product's rounding.
    let half = pattern(0.5 * step);
    let least = half + u16::from(value(half) * inverse(step) < 0.5);
    let mut codes = [0; BLOCK];
    for (code, raw) in codes.iter_mut().zip(group) {
        let bits = u16::from_le_bytes(*raw);
        let sign = (bits.cast_signed() >> 15) | 1;
        *code = if bits & 0x7fff >= least { sign as i8 } else { 0 };
    }
    (step, codes)
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
                let halves =
                    |round: fn(f32) -> u16| values.iter().flat_map(|&x| round(x).to_le_bytes()).collect();
                match from {
                    GgmlType::F16 => halves(f32_to_f16),
                    GgmlType::BF16 => halves(f32_to_bf16),
                    _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
                }
            };
            let of = |values: &[f32], bytes: &[u8], from| {
                let (mut decoded, mut scratch) = (Vec::new(), decode::Weights::default());
                is_rounding(kind, bytes, (from, &raw(values, from)), &mut decoded, &mut scratch)
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
            let float = (GgmlType::F16, &[0; 512][..]);
            let (mut decoded, mut scratch) = (Vec::new(), decode::Weights::default());
            assert!(!is_rounding(GgmlType::Q8_0, &bytes, float, &mut decoded, &mut scratch));
        }
    }

    /// Around half a step, of every step.
    #[test]
    fn patterns_are_rounded_as_values_are() {
        type Halves = [[u8; 2]; BLOCK];
        type Type = (fn(u16) -> f32, fn(f32) -> u16, fn(&Halves) -> (f32, [i8; BLOCK]));
        let types: [Type; 2] =
            [(f16_to_f32, f32_to_f16, nearest_f16), (bf16_to_f32, f32_to_bf16, nearest_bf16)];
        for (value, pattern, of_halves) in types {
            for most in 0..0x8000 {
                let (step, mut halves) = (value(most), [[0; 2]; BLOCK]);
                let near = (0..5).map(|i| (pattern(0.5 * step) + i).saturating_sub(2).min(most));
                let both = near.chain([most]).flat_map(|bits| [bits, bits | 0x8000]);
                halves.iter_mut().zip(both).for_each(|(half, bits)| *half = bits.to_le_bytes());
                let values = halves.map(|raw| value(u16::from_le_bytes(raw)));
                let (found, expected) = (of_halves(&halves), nearest(&values));
                if step.is_finite() && inverse(step).is_finite() {
                    assert_eq!(found, expected, "{most:#x}");
                } else {
                    assert_eq!(found.0.to_bits(), expected.0.to_bits(), "{most:#x}");
                }
            }
        }
    }
}
