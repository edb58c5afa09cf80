//! Blocks whose codes were rounded with other parameters than the stored ones.
//!
//! Quantisers that weigh errors search: they round with one scale (and minimum) and store the
//! one that fits the codes best. Such codes are still a rounding of the weights, and of no
//! other weights: that is what is asked here.

use super::decode::Weights;
use super::half::f16_to_f32;
use super::quantize::BLOCK;
use crate::model::gguf::GgmlType;

/// How far the stored scale may be from the one that codes were rounded with.
const SCALE_SEARCH: f32 = 0.15;
/// Rounding of this arithmetic, in steps.
const SLACK: f32 = 1e-4;

/// Is there a scale near the stored one (and, for types with one, a minimum) under which the
/// reference rounds to exactly the codes of this block?
pub(super) fn explained(kind: GgmlType, bytes: &[u8], weights: &Weights, reference: &[f32; BLOCK]) -> bool {
    match kind {
        GgmlType::Q4_0 => by_scale(8.0, weights, reference),
        GgmlType::Q5_0 => by_scale(16.0, weights, reference),
        GgmlType::Q4_1 => by_range(15.0, bytes, weights, reference),
        GgmlType::Q5_1 => by_range(31.0, bytes, weights, reference),
        _ => false,
    }
}

fn by_scale(half: f32, weights: &Weights, reference: &[f32; BLOCK]) -> bool {
    if weights.steps.contains(&0.0) {
        return false;
    }
    // Every code q of a weight x bounds the inverse scale t: q - 0.5 <= x t <= q + 0.5.
    let (mut least, mut most) = (1.0 - SCALE_SEARCH, 1.0 + SCALE_SEARCH);
    for (weight, &x) in weights.iter().zip(reference) {
        // Both in steps of the stored scale, whose sign cancels.
        let (code, x) = (weight.value / weight.step, x / weight.step);
        let outermost = code.abs() >= half - 1.0 - 0.25;
        let (code, x) = if code < 0.0 { (-code, -x) } else { (code, x) };
        let (low, high) = (code - 0.5, if outermost { f32::INFINITY } else { code + 0.5 });
        if code < 0.25 {
            most = most.min((0.5 + SLACK) / x.abs());
        } else if x <= 0.0 {
            return false;
        } else {
            least = least.max((low - SLACK) / x);
            most = most.min((high + SLACK) / x);
        }
    }
    least <= most
}

/// Every code q of a weight x bounds the minimum u for an inverse scale t, both in steps:
/// q - 0.5 <= x t - u <= q + 0.5, the outermost codes on one side only. The room that is left
/// for u is concave in t, so that its largest value is found by narrowing.
fn by_range(most: f32, bytes: &[u8], weights: &Weights, reference: &[f32; BLOCK]) -> bool {
    let Some([a, b]) = bytes.get(2..4) else { return false };
    let least = f16_to_f32(u16::from_le_bytes([*a, *b]));
    if weights.steps.contains(&0.0) {
        return false;
    }
    let room = |t: f32| {
        let (mut low, mut high) = (f32::NEG_INFINITY, f32::INFINITY);
        for (weight, &x) in weights.iter().zip(reference) {
            let code = ((weight.value - least) / weight.step).round();
            let place = x / weight.step * t - code;
            if code > 0.0 {
                high = high.min(place + 0.5);
            }
            if code < most {
                low = low.max(place - 0.5);
            }
        }
        high - low
    };
    let (mut from, mut to) = (1.0 - SCALE_SEARCH, 1.0 + SCALE_SEARCH);
    for _ in 0..40 {
        let (a, b) = (from + (to - from) / 3.0, to - (to - from) / 3.0);
        if room(a) < room(b) { from = a } else { to = b }
    }
    room((from + to) / 2.0) >= -2.0 * SLACK
}
