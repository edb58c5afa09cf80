//! Blocks whose codes were rounded with other parameters than the stored ones.
//!
//! Quantisers that weigh errors search: they round with one scale (and minimum) and store the
//! one that fits the codes best. Such codes are still a rounding of the weights, and of no
//! other weights: that is what is asked here.

use multiversion::multiversion;

use super::decode::{Weights, greater, lesser};
use super::half::f16_to_f32;
use super::quantize::{BLOCK, extent};
use crate::model::gguf::GgmlType;

/// How far the stored scale usually is from the one that codes were rounded with.
const NEAR: [f32; 2] = [0.85, 1.15];
/// How far it can be: if one weight of code 1 counts more than all others, the scale becomes this weight,
/// half of a step less or more; and two weights of adjacent codes may be two steps from each other.
const FAR: [f32; 2] = [0.5, 1.5];
const FAR_WITH_MINIMUM: [f32; 2] = [0.02, 2.0];
/// Rounding of this arithmetic, in steps.
const SLACK: f32 = 1e-4;
/// Scales that are tried at most; each halves what is left near the stored one, or in all, or more.
const SEARCH: usize = 24;

/// Blocks whose codes are exactly what the reference rounds to under another scale than the stored one
/// (and, for types with one, another minimum).
#[derive(Debug, Default, PartialEq)]
pub(super) struct Explained {
    /// How many there are.
    pub blocks: usize,
    /// The places of those whose scale is far from the stored one. Where one weight counts more than all
    /// others that happens, but seldom.
    pub far: Vec<usize>,
}

/// Opens the rooms of explained blocks of which some weights lie outside of them.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub(super) fn open_explained(
    kind: GgmlType,
    bytes: &[u8],
    weights: &mut Weights,
    reference: &[[f32; BLOCK]],
) -> Explained {
    let mut found = Explained::default();
    if !matches!(kind, GgmlType::Q4_0 | GgmlType::Q5_0 | GgmlType::Q4_1 | GgmlType::Q5_1) {
        return found;
    }
    let size = usize::try_from(kind.block_bytes()).unwrap_or(1);
    for (place, (bytes, reference)) in bytes.chunks_exact(size).zip(reference).enumerate() {
        let range = place * BLOCK..(place + 1) * BLOCK;
        let lists = [&weights.values, &weights.below, &weights.above];
        let [Some(values), Some(below), Some(above)] =
            lists.map(|list| list.get(range.clone()).and_then(|list| list.first_chunk()))
        else {
            break;
        };
        let step = weights.steps.get(range.start).copied().unwrap_or(0.0);
        if are_inside(values, [below, above], reference) {
            continue;
        }
        if let Some(fit) = explained(kind, bytes, step, values, reference) {
            weights.open(range);
            found.blocks += 1;
            found.far.extend((fit == Fit::Far).then_some(place));
        }
    }
    found
}

/// Is every weight of the reference in its room?
#[inline(always)]
fn are_inside(values: &[f32; BLOCK], rooms: [&[f32; BLOCK]; 2], reference: &[f32; BLOCK]) -> bool {
    let [below, above] = rooms;
    let mut inside = true;
    for ((value, x), (below, above)) in values.iter().zip(reference).zip(below.iter().zip(above)) {
        inside &= (x - value <= *above) & (value - x <= *below);
    }
    inside
}

/// Where the scale is that explains a block, beside the stored one.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fit {
    Near,
    Far,
}

/// A scale (and, for types with one, a minimum) under which the reference rounds to exactly the codes of
/// this block.
#[inline(always)]
fn explained(
    kind: GgmlType,
    bytes: &[u8],
    step: f32,
    values: &[f32; BLOCK],
    reference: &[f32; BLOCK],
) -> Option<Fit> {
    if step == 0.0 {
        return None;
    }
    let offset = bytes.get(2..4).and_then(|raw| raw.first_chunk());
    let offset = offset.map_or(0.0, |raw| f16_to_f32(u16::from_le_bytes(*raw)));
    match kind {
        GgmlType::Q4_0 => by_scale(8.0, step, values, reference),
        GgmlType::Q5_0 => by_scale(16.0, step, values, reference),
        GgmlType::Q4_1 => by_range(15.0, step, offset, values, reference),
        GgmlType::Q5_1 => by_range(31.0, step, offset, values, reference),
        _ => None,
    }
}

/// Every code q of a weight x bounds the inverse scale t: q - 0.5 <= x t <= q + 0.5.
#[inline(always)]
fn by_scale(half: f32, step: f32, values: &[f32; BLOCK], reference: &[f32; BLOCK]) -> Option<Fit> {
    let (mut least, mut most) = ([FAR[0]; BLOCK], [FAR[1]; BLOCK]);
    let by = 1.0 / step;
    for ((&value, &x), (least, most)) in values.iter().zip(reference).zip(least.iter_mut().zip(&mut most)) {
        // Both in steps of the stored scale, whose sign cancels.
        let (code, x) = (value * by, x * by);
        let (code, x) = if code < 0.0 { (-code, -x) } else { (code, x) };
        let outermost = code >= half - 1.0 - 0.25;
        // Once, as dividing takes longer than all else.
        let inverse = 1.0 / x;
        let high = if outermost { f32::INFINITY } else { (code + 0.5 + SLACK) * inverse };
        let (low, high) = if code < 0.25 {
            (0.0, (0.5 + SLACK) * inverse.abs())
        } else if x > 0.0 {
            ((code - 0.5 - SLACK) * inverse, high)
        } else {
            // Of the other sign.
            (f32::INFINITY, high)
        };
        (*least, *most) = (greater(low, *least), lesser(high, *most));
    }
    let (least, most) = (extent(&least).1, extent(&most).0);
    let fit = if least <= NEAR[1] && most >= NEAR[0] { Fit::Near } else { Fit::Far };
    (least <= most).then_some(fit)
}

#[inline(always)]
fn array(of: impl Fn(usize) -> f32) -> [f32; BLOCK] {
    std::array::from_fn(of)
}

/// Every code q of a weight x bounds the minimum u for an inverse scale t, both in steps:
/// q - 0.5 <= x t - u <= q + 0.5, the outermost codes on one side only. The room that is left
/// for u is concave in t: where there is not enough, its slope says on which side there may be.
#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
fn by_range(
    most: f32,
    step: f32,
    least: f32,
    values: &[f32; BLOCK],
    reference: &[f32; BLOCK],
) -> Option<Fit> {
    let (mut places, mut ends) = ([0.0; BLOCK], [[0.0; BLOCK]; 2]);
    let [lows, highs] = &mut ends;
    let by = 1.0 / step;
    for (((value, x), place), (low, high)) in
        values.iter().zip(reference).zip(&mut places).zip(lows.iter_mut().zip(highs))
    {
        // Never negative, and a number of steps up to rounding.
        let code = ((value - least) * by + 0.5).floor();
        *place = x * by;
        *low = if code < most { -0.5 - code } else { f32::NEG_INFINITY };
        *high = if code > 0.0 { 0.5 - code } else { f32::INFINITY };
    }
    let [lows, highs] = &ends;
    let [mut from, mut to] = FAR_WITH_MINIMUM;
    for _ in 0..SEARCH {
        // Near the stored one as long as it may be there.
        let (near_from, near_to) = (greater(from, NEAR[0]), lesser(to, NEAR[1]));
        let (fit, t) = if near_from <= near_to {
            (Fit::Near, (near_from + near_to) / 2.0)
        } else {
            (Fit::Far, (from + to) / 2.0)
        };
        let places_at = |ends: &[f32; BLOCK]| array(|i| places[i] * t + ends[i]);
        let (own_lows, own_highs) = (places_at(lows), places_at(highs));
        let (low, high) = (extent(&own_lows).1, extent(&own_highs).0);
        let slope_of = |own: &[f32; BLOCK], end: f32| {
            extent(&array(|i| if own[i] == end { places[i] } else { f32::NEG_INFINITY })).1
        };
        let slope = slope_of(&own_highs, high) - slope_of(&own_lows, low);
        let missing = -2.0 * SLACK - (high - low);
        if missing <= 0.0 {
            return Some(fit);
        }
        // A tangent lies above what is concave.
        let end = t + missing / slope;
        (from, to) = if slope > 0.0 { (end, to) } else { (from, end) };
        if from > to || slope == 0.0 || !end.is_finite() {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::decode::decode;
    use super::super::quantize::{Arithmetic, block};
    use super::*;

    /// Codes that were rounded with another scale and minimum than those that are stored are found to
    /// be, and none that no scale gives: as trying very many scales tells.
    #[test]
    fn searched_blocks_are_told_from_others() {
        let mut state = 17u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f32 / (1u64 << 30) as f32 - 1.0
        };
        for (kind, codes, minimum) in [
            (GgmlType::Q4_0, 8.0, false),
            (GgmlType::Q5_0, 16.0, false),
            (GgmlType::Q4_1, 15.0, true),
            (GgmlType::Q5_1, 31.0, true),
        ] {
            let mut found = [0; 3];
            for round in 0..400 {
                let values: [f32; BLOCK] = std::array::from_fn(|_| next());
                let (mut bytes, mut weights) = (Vec::new(), Weights::default());
                block(kind, &values, Arithmetic::Plain, &mut bytes);
                decode(kind, &bytes, &mut weights);
                // The reference is stretched and, if there is a minimum, moved against its codes.
                let stretch = 1.0 + if round % 4 < 2 { 0.2 } else { 0.4 } * next();
                let off = if round % 2 == 0 { 0.0 } else { next() };
                let step = weights.steps[0];
                let moved = if minimum { step * next() } else { 0.0 };
                let mut reference = values.map(|x| x * stretch + moved);
                reference[7] += off * step;
                let values = weights.values.first_chunk().unwrap();
                let told = explained(kind, &bytes, step, values, &reference);
                let least = if minimum { f16_to_f32(u16::from_le_bytes([bytes[2], bytes[3]])) } else { 0.0 };
                let room = |t: f32| {
                    let (mut low, mut high) = (f32::NEG_INFINITY, f32::INFINITY);
                    for (value, x) in weights.values.iter().zip(reference) {
                        let code = ((value - least) / step).round();
                        let place = x / step * t - code;
                        // Of symmetric types the outermost codes of both signs may stand for more.
                        let outermost = !minimum && code.abs() > codes - 1.25;
                        let (first, last) = if minimum { (0.0, codes) } else { (-codes, codes) };
                        let bounded = [
                            code > first && !(outermost && code < 0.0),
                            code < last && !(outermost && code > 0.0),
                        ];
                        high = if bounded[0] { high.min(place + 0.5) } else { high };
                        low = if bounded[1] { low.max(place - 0.5) } else { low };
                    }
                    if minimum { high - low } else { high.min(-low) }
                };
                let best = |[from, to]: [f32; 2]| {
                    let steps = (0..=4000).map(|i| from + (to - from) * i as f32 / 4000.0);
                    steps.map(room).fold(f32::NEG_INFINITY, f32::max)
                };
                let [near, all] = [NEAR, if minimum { FAR_WITH_MINIMUM } else { FAR }].map(best);
                // Too near to tell by such steps.
                if near.abs() < 5e-3 || all.abs() < 5e-3 {
                    continue;
                }
                let expected = match (near > 0.0, all > 0.0) {
                    (true, _) => Some(Fit::Near),
                    (_, true) => Some(Fit::Far),
                    _ => None,
                };
                assert_eq!(told, expected, "{kind:?} {round} {near} {all}");
                let counts = [Some(Fit::Near), Some(Fit::Far), None];
                counts.iter().zip(&mut found).for_each(|(of, count)| *count += usize::from(*of == told));
            }
            assert!(found.iter().all(|&count| count > 20), "{kind:?} {found:?}");
        }
    }
}
