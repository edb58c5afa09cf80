//! The ternary types of ggml: a weight is a step, nothing, or a step less, and the step is the largest
//! magnitude of 256 weights. Codes are the nearest ones, without any search, so what the quantiser
//! gives is checked here at the speed of reading.

use multiversion::multiversion;

use super::decode::{Taker, split};
use super::half::{f16_to_f32, f32_to_f16};
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

/// Are these blocks what the quantiser gives for the values? False for other types.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub(super) fn is_rounding(kind: GgmlType, values: &[f32], bytes: &[u8]) -> bool {
    match kind {
        GgmlType::TQ1_0 => equal::<Fives, 54>(values, bytes),
        GgmlType::TQ2_0 => equal::<Fours, 66>(values, bytes),
        _ => false,
    }
}

#[inline(always)]
fn equal<T: Codes<SIZE>, const SIZE: usize>(values: &[f32], bytes: &[u8]) -> bool {
    let ((groups, rest), blocks) = (values.as_chunks::<BLOCK>(), bytes.as_chunks::<SIZE>().0);
    let mut equal = rest.is_empty() && groups.len() == blocks.len();
    for (group, block) in groups.iter().zip(blocks) {
        // As bits, magnitudes are ordered, and what is no number comes last.
        let mut most = 0;
        for x in group {
            most = most.max(x.to_bits() & 0x7fff_ffff);
        }
        let step = f32::from_bits(most);
        let by = if step == 0.0 { 0.0 } else { 1.0 / step };
        let mut odd = 0;
        for (x, code) in group.iter().zip(T::codes(block)) {
            odd |= code ^ (i8::from(x * by >= 0.5) - i8::from(x * by <= -0.5));
        }
        equal &= odd == 0 && step.is_finite() && scale(block) == f32_to_f16(step);
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
            let again = |values: &[f32], bytes: &[u8]| is_rounding(kind, values, bytes);
            assert!(again(&values, &bytes), "{kind:?}");
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
            assert!(!is_rounding(GgmlType::Q8_0, &values, &bytes));
        }
    }
}
