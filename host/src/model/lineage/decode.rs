//! Blocks back to weights, and how far a reference weight may be from each.
//!
//! For a block type the allowance is half a step for the code, plus what the binary16
//! rounding of the stored scale and minimum adds (codes were chosen with the unrounded
//! ones), plus a whole step at the one code that stands for two (the extreme of the
//! symmetric types, where the code beyond it does not exist). K types choose their codes
//! with the stored scales, and clamp at both ends.

use super::half::{bf16_half_step, bf16_to_f32, f16_half_step, f16_to_f32};
use crate::model::gguf::GgmlType;

/// One weight and the room around it in which its reference must lie.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Weight {
    pub value: f32,
    /// How much smaller and larger the reference may be; infinite where nothing can be said.
    pub below: f32,
    pub above: f32,
    /// Size of a quantisation step; 0 for floats.
    pub step: f32,
}

/// Rounding of the arithmetic itself, relative to the value and to the step.
const VALUE_SLACK: f32 = 4.0 * f32::EPSILON;
const STEP_SLACK: f32 = 1e-3;

impl Weight {
    /// A float that stands for everything that rounds to it.
    fn float(value: f32, half_step: f32) -> Self {
        let room = if half_step == 0.0 { 0.0 } else { half_step + value.abs() * VALUE_SLACK };
        Self { value, below: room, above: room, step: 0.0 }
    }

    /// A code's value; `extra` is what else the allowance holds.
    pub(super) fn coded(value: f32, step: f32, extra: f32) -> Self {
        let step = step.abs();
        let room = step * (0.5 + STEP_SLACK) + extra + value.abs() * VALUE_SLACK;
        Self { value, below: room, above: room, step }
    }
}

/// Can this type be decoded?
pub(super) fn is_known(kind: GgmlType) -> bool {
    use GgmlType::*;
    matches!(
        kind,
        F32 | F16 | BF16 | F64 | Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | Q2_K | Q3_K | Q4_K | Q5_K | Q6_K
    ) || super::tables::is_known(kind)
}

/// Appends the weights of whole blocks; nothing for types that are not known.
pub(super) fn decode(kind: GgmlType, bytes: &[u8], out: &mut Vec<Weight>) {
    use GgmlType::*;
    let half = |raw: &[u8; 2]| f16_to_f32(u16::from_le_bytes(*raw));
    match kind {
        F32 => out.extend(bytes.as_chunks().0.iter().map(|raw| Weight::float(f32::from_le_bytes(*raw), 0.0))),
        F64 => {
            out.extend(
                bytes.as_chunks().0.iter().map(|raw| Weight::float(f64::from_le_bytes(*raw) as f32, 0.0)),
            );
        }
        F16 => out.extend(bytes.as_chunks().0.iter().map(half).map(|x| Weight::float(x, f16_half_step(x)))),
        BF16 => out.extend(bytes.as_chunks().0.iter().map(|raw| {
            let x = bf16_to_f32(u16::from_le_bytes(*raw));
            Weight::float(x, bf16_half_step(x))
        })),
        Q4_0 => bytes.as_chunks::<18>().0.iter().for_each(|block| {
            let (scale, codes) = split::<2>(block);
            symmetric(half(scale), nibbles(codes, 0), 8.0, out);
        }),
        Q5_0 => bytes.as_chunks::<22>().0.iter().for_each(|block| {
            let (scale, rest) = split::<2>(block);
            let (fifth, codes) = split::<4>(rest);
            symmetric(half(scale), nibbles(codes, u32::from_le_bytes(*fifth)), 16.0, out);
        }),
        Q4_1 => bytes.as_chunks::<20>().0.iter().for_each(|block| {
            let (scale, rest) = split::<2>(block);
            let (least, codes) = split::<2>(rest);
            ranged(half(scale), half(least), nibbles(codes, 0), out);
        }),
        Q5_1 => bytes.as_chunks::<24>().0.iter().for_each(|block| {
            let (scale, rest) = split::<2>(block);
            let (least, rest) = split::<2>(rest);
            let (fifth, codes) = split::<4>(rest);
            ranged(half(scale), half(least), nibbles(codes, u32::from_le_bytes(*fifth)), out);
        }),
        Q8_0 => bytes.as_chunks::<34>().0.iter().for_each(|block| {
            let (scale, codes) = split::<2>(block);
            let scale = half(scale);
            out.extend(codes.iter().map(|&code| {
                let code = f32::from(code.cast_signed());
                Weight::coded(code * scale, scale, (code.abs() + 0.5) * f16_half_step(scale))
            }));
        }),
        Q2_K | Q3_K | Q4_K | Q5_K | Q6_K => super::kquants::decode(kind, bytes, out),
        _ => super::tables::decode(kind, bytes, out),
    }
}

/// The first `N` bytes and the rest. Callers pass arrays that are long enough.
pub(super) fn split<const N: usize>(bytes: &[u8]) -> (&[u8; N], &[u8]) {
    bytes.split_first_chunk().unwrap_or((&[0; N], &[]))
}

/// Weight i is the low half of byte i, weight i + 16 the high half; `fifth` has a bit each.
fn nibbles(bytes: &[u8], fifth: u32) -> impl Iterator<Item = f32> {
    let low = bytes.iter().map(|byte| byte & 15);
    let high = bytes.iter().map(|byte| byte >> 4);
    (0..)
        .zip(low.chain(high))
        .map(move |(place, code)| f32::from(code) + if fifth >> place & 1 == 1 { 16.0 } else { 0.0 })
}

fn symmetric(scale: f32, codes: impl Iterator<Item = f32>, half: f32, out: &mut Vec<Weight>) {
    let rounding = f16_half_step(scale);
    out.extend(codes.map(|code| {
        let code = code - half;
        let mut weight = Weight::coded(code * scale, scale, (code.abs() + 0.5) * rounding);
        if code == half - 1.0 {
            // A weight as large as the extreme one and of the other sign ends here, too.
            let outward = if scale > 0.0 { &mut weight.above } else { &mut weight.below };
            *outward += scale.abs() * 0.5 + rounding;
        }
        weight
    }));
}

fn ranged(scale: f32, least: f32, codes: impl Iterator<Item = f32>, out: &mut Vec<Weight>) {
    let (rounding, offset) = (f16_half_step(scale), f16_half_step(least));
    out.extend(
        codes.map(|code| Weight::coded(code * scale + least, scale, (code + 0.5) * rounding + offset)),
    );
}

/// The weight of a K type: clamped codes leave the outward side open for as many steps as
/// there are codes, and a step of zero says nothing.
pub(super) fn clamped(value: f32, step: f32, place: Clamp, codes: f32) -> Weight {
    let mut weight = Weight::coded(value, step, 0.0);
    if step == 0.0 {
        (weight.below, weight.above) = (f32::INFINITY, f32::INFINITY);
        return weight;
    }
    let upward = step > 0.0;
    match place {
        Clamp::Inside => {}
        Clamp::Top if upward => weight.above = codes * step.abs(),
        Clamp::Bottom if !upward => weight.above = codes * step.abs(),
        Clamp::Top | Clamp::Bottom => weight.below = codes * step.abs(),
    }
    weight
}

/// Where a code is among the codes of its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clamp {
    Bottom,
    Inside,
    Top,
}

/// The place of `code` among `0..=most`.
pub(super) fn place(code: u8, most: u8) -> Clamp {
    match code {
        0 => Clamp::Bottom,
        code if code == most => Clamp::Top,
        _ => Clamp::Inside,
    }
}

#[cfg(test)]
mod tests {
    use super::super::quantize::{ARITHMETICS, BLOCK, block};
    use super::*;

    /// Honest blocks, whatever the weights, are inside their allowance, and moving a weight
    /// by two steps is not.
    #[test]
    fn honest_rounding_is_allowed_and_little_more() {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / 8_388_608.0 - 1.0).powi(3)
        };
        use GgmlType::*;
        for kind in [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0] {
            for round in 0..2000 {
                let size = 10f32.powi(round % 7 - 5);
                let weights: [f32; BLOCK] = std::array::from_fn(|_| next() * size);
                for how in ARITHMETICS {
                    let (mut bytes, mut decoded) = (Vec::new(), Vec::new());
                    block(kind, &weights, how, &mut bytes);
                    assert_eq!(bytes.len() as u64, kind.block_bytes());
                    decode(kind, &bytes, &mut decoded);
                    assert_eq!(decoded.len(), BLOCK);
                    for (decoded, &x) in decoded.iter().zip(&weights) {
                        let far = x - decoded.value;
                        assert!(far <= decoded.above && -far <= decoded.below, "{kind:?} {x} {decoded:?}");
                        // Scales of small weights are subnormal: there the rounding is coarse.
                        let most = decoded.above.max(decoded.below);
                        assert!(size < 0.05 || most < decoded.step * 1.2, "{kind:?} {decoded:?}");
                    }
                }
            }
        }
    }
}
