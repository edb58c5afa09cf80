//! Blocks back to weights, and how far a reference weight may be from each.
//!
//! For a block type the allowance is half a step for the code, plus what the binary16
//! rounding of the stored scale and minimum adds (codes were chosen with the unrounded
//! ones), plus a whole step at the one code that stands for two (the extreme of the
//! symmetric types, where the code beyond it does not exist). K types choose their codes
//! with the stored scales, and clamp at both ends.
//!
//! Everything is written as loops over short arrays of one length, which compilers turn into
//! vector code: a file is compared as fast as it is read.

use multiversion::multiversion;

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

/// Weights in a row, a list for each of what a [`Weight`] has.
#[derive(Debug, Default)]
pub(super) struct Weights {
    pub values: Vec<f32>,
    pub below: Vec<f32>,
    pub above: Vec<f32>,
    pub steps: Vec<f32>,
    /// Those written so far of a decoding.
    written: usize,
}

impl Weights {
    fn resize(&mut self, count: usize) {
        for list in [&mut self.values, &mut self.below, &mut self.above, &mut self.steps] {
            list.resize(count, 0.0);
        }
    }

    pub fn get(&self, place: usize) -> Option<Weight> {
        let (value, step) = (*self.values.get(place)?, *self.steps.get(place)?);
        Some(Weight { value, below: *self.below.get(place)?, above: *self.above.get(place)?, step })
    }

    pub fn iter(&self) -> impl Iterator<Item = Weight> {
        let rooms = self.below.iter().zip(&self.above);
        let all = self.values.iter().zip(rooms).zip(&self.steps);
        all.map(|((&value, (&below, &above)), &step)| Weight { value, below, above, step })
    }

    /// Says of some weights that their references may be anything.
    pub fn open(&mut self, range: std::ops::Range<usize>) {
        for list in [&mut self.below, &mut self.above] {
            list.get_mut(range.clone()).unwrap_or_default().fill(f32::INFINITY);
        }
    }

    /// The places of the next `N` weights; `None` beyond the room that was made.
    #[inline(always)]
    fn next<const N: usize>(&mut self) -> Option<[&mut [f32; N]; 4]> {
        let from = self.written;
        self.written += N;
        let lists = [&mut self.values, &mut self.below, &mut self.above, &mut self.steps];
        let [values, below, above, steps] = lists.map(|list| list.get_mut(from..)?.first_chunk_mut());
        Some([values?, below?, above?, steps?])
    }
}

/// Weights in a row that share a scale, by their places.
pub(super) trait Run {
    /// Whether nothing can ever be said about a weight of such runs: its rooms have no end.
    const FREE: bool = false;
    /// Whether every weight is looked at closely, as a quick look says nothing.
    const CLOSE: bool = false;

    fn weight(&self, place: usize) -> Weight;
    /// What a glance needs of a weight: its value, and a number whose uppermost bit says that
    /// `expected` is outside of a room that is quickly worked out: never larger than that of
    /// [`Self::weight`], nor, if this has an end, than [`Taker::most`]. What lies outside is weighed
    /// with that of [`Self::weight`]. The bit may be any if the value or `expected` is no number.
    fn look(&self, place: usize, expected: f32) -> (f32, u32);
}

/// The size of rooms that nothing lies in.
pub(super) const NO_ROOM: f32 = -1.0;
/// The size of rooms outwards where a scale that was made for one weight, as it counts more than all
/// others, is too small for these by any factor.
pub(super) const ANY_ROOM: f32 = f32::MAX;

/// Of this number the uppermost bit says that an error is beyond a room below or above.
#[inline(always)]
pub(super) fn outside(error: f32, [below, above]: [f32; 2]) -> u32 {
    // Differences are exact enough: they are less than nothing only beyond.
    (above - error).to_bits() | (below + error).to_bits()
}

impl<W: Fn(usize) -> Weight> Run for W {
    const CLOSE: bool = true;

    #[inline(always)]
    fn weight(&self, place: usize) -> Weight {
        self(place)
    }

    #[inline(always)]
    fn look(&self, place: usize, _: f32) -> (f32, u32) {
        (self(place).value, u32::MAX)
    }
}

/// Who takes weights as they are decoded: [`Weights`] writes them down, a glance compares them at
/// once.
pub(super) trait Taker {
    /// So many weights will come.
    fn begin(&mut self, count: usize);
    /// How far off a weight may be before somebody else is to look.
    fn most(&self) -> f32;
    /// A block of `RUNS` runs of `N` weights each; `run` makes them by their numbers.
    fn block<const RUNS: usize, const N: usize, R: Run>(&mut self, run: impl Fn(usize) -> R);
    /// `N` weights of one scale by their codes.
    #[inline(always)]
    fn codes<const N: usize>(&mut self, codes: &[i8; N], scale: &Scale) {
        let room = lesser(self.most(), 0.5 * scale.step.abs());
        self.block::<1, N, _>(|_| Scaled { codes, scale, room });
    }
}

impl Taker for Weights {
    #[inline(always)]
    fn begin(&mut self, count: usize) {
        self.resize(count);
        self.written = 0;
    }

    fn most(&self) -> f32 {
        f32::INFINITY
    }

    #[inline(always)]
    fn block<const RUNS: usize, const N: usize, R: Run>(&mut self, run: impl Fn(usize) -> R) {
        for number in 0..RUNS {
            let run = run(number);
            let Some([values, below, above, steps]) = self.next::<N>() else { return };
            let places = values.iter_mut().zip(below.iter_mut().zip(above)).zip(steps);
            for (place, ((value, (below, above)), step)) in places.enumerate() {
                let weight = run.weight(place);
                (*value, *below, *above, *step) = (weight.value, weight.below, weight.above, weight.step);
            }
        }
    }
}

/// What the codes of a run stand for: `code * step + offset`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Scale {
    pub step: f32,
    pub offset: f32,
    /// How far step and offset may be from those that the codes were chosen with.
    pub rounding: f32,
    pub offset_rounding: f32,
    /// The greatest code, where it stands for what lies beyond it, too, and how far beyond.
    pub end: (f32, f32),
}

/// Rounding of the arithmetic itself, relative to the value and to the step.
const VALUE_SLACK: f32 = 4.0 * f32::EPSILON;
const STEP_SLACK: f32 = 1e-3;

impl Scale {
    /// The weight of a code that is a multiple of the step.
    #[inline(always)]
    pub fn weight(&self, code: i8) -> Weight {
        let step = self.step.abs();
        let room = step * (0.5 + STEP_SLACK) + 0.5 * self.rounding + self.offset_rounding;
        let (greatest, after) = self.end;
        let code = f32::from(code);
        let value = code * self.step + self.offset;
        let room = room + code.abs() * self.rounding + value.abs() * VALUE_SLACK;
        let up = room + if code == greatest { after } else { 0.0 };
        let (below, above) = if self.step < 0.0 { (up, room) } else { (room, up) };
        Weight { value, below, above, step }
    }
}

/// A run of one [`Scale`].
struct Scaled<'a, const N: usize> {
    codes: &'a [i8; N],
    scale: &'a Scale,
    /// For a glance.
    room: f32,
}

impl<const N: usize> Run for Scaled<'_, N> {
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "a run has as many weights as there are codes")]
    fn weight(&self, place: usize) -> Weight {
        self.scale.weight(self.codes[place])
    }

    #[inline(always)]
    fn look(&self, place: usize, expected: f32) -> (f32, u32) {
        let value = self.weight(place).value;
        (value, (self.room - (expected - value).abs()).to_bits())
    }
}

/// The scales of the `RUNS` sub-blocks of a K type, `code * step + offset`. Codes were chosen
/// with the very scales that are stored. The least and the greatest are open outwards: a search that
/// weighs errors makes steps that are far too small for weights it counts little. A step of zero says
/// nothing.
#[derive(Debug)]
pub(super) struct Clamped<const RUNS: usize> {
    steps: [f32; RUNS],
    offsets: [f32; RUNS],
    rooms: [f32; RUNS],
    /// The codes that are open below and above.
    ends: [[f32; RUNS]; 2],
    /// Rooms of codes that are not open and of those that are, for a glance.
    quick: [[f32; RUNS]; 2],
}

impl<const RUNS: usize> Clamped<RUNS> {
    /// `ends` are the least and the greatest code, `most` is [`Taker::most`].
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "every list has as many numbers as there are runs")]
    pub fn new(steps: [f32; RUNS], offsets: [f32; RUNS], ends: [f32; 2], most: f32) -> Self {
        let mut rooms = [0.0; RUNS];
        let (mut open, mut quick) = ([[0.0; RUNS]; 2], [[0.0; RUNS]; 2]);
        for run in 0..RUNS {
            let step = steps[run];
            let none = if step == 0.0 { f32::INFINITY } else { 0.0 };
            rooms[run] = step.abs() * (0.5 + STEP_SLACK) + none;
            (open[0][run], open[1][run]) = if step < 0.0 { (ends[1], ends[0]) } else { (ends[0], ends[1]) };
            (quick[0][run], quick[1][run]) = if step == 0.0 {
                (NO_ROOM, NO_ROOM)
            } else {
                (lesser(most, rooms[run]), lesser(most, ANY_ROOM))
            };
        }
        Self { steps, offsets, rooms, ends: open, quick }
    }

    /// The weights of a run by their codes.
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "callers name one of the runs")]
    pub fn run<'a, const N: usize>(&self, run: usize, codes: &'a [i8; N]) -> ClampedRun<'a, N> {
        ClampedRun {
            codes,
            step: self.steps[run],
            offset: self.offsets[run],
            room: self.rooms[run],
            ends: self.ends.each_ref().map(|ends| ends[run]),
            quick: self.quick.each_ref().map(|rooms| rooms[run]),
        }
    }
}

/// The lesser number, by one instruction, unlike `f32::min`; the second if one is none.
#[inline(always)]
pub(super) fn lesser(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

/// The greater number in the same way.
#[inline(always)]
pub(super) fn greater(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// A run of [`Clamped`].
pub(super) struct ClampedRun<'a, const N: usize> {
    codes: &'a [i8; N],
    step: f32,
    offset: f32,
    room: f32,
    ends: [f32; 2],
    quick: [f32; 2],
}

impl<const N: usize> ClampedRun<'_, N> {
    /// A code, and its value.
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "a run has as many weights as there are codes")]
    fn code(&self, place: usize) -> (f32, f32) {
        let code = f32::from(self.codes[place]);
        (code, code * self.step + self.offset)
    }
}

impl<const N: usize> Run for ClampedRun<'_, N> {
    #[inline(always)]
    fn weight(&self, place: usize) -> Weight {
        let (code, value) = self.code(place);
        let room = self.room + value.abs() * VALUE_SLACK;
        let [below, above] = self.ends.map(|end| room + if code == end { ANY_ROOM } else { 0.0 });
        Weight { value, below, above, step: self.step.abs() }
    }

    /// Without the slack for rounding.
    #[inline(always)]
    fn look(&self, place: usize, expected: f32) -> (f32, u32) {
        let (code, value) = self.code(place);
        let [inner, outer] = self.quick;
        (value, outside(expected - value, self.ends.map(|end| if code == end { outer } else { inner })))
    }
}

/// Can this type be decoded?
pub(super) fn is_known(kind: GgmlType) -> bool {
    use GgmlType::*;
    matches!(
        kind,
        F32 | F16 | BF16 | F64 | Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | Q2_K | Q3_K | Q4_K | Q5_K | Q6_K
    ) || super::tables::is_known(kind)
        || super::ternary::is_known(kind)
        || super::grids::is_known(kind)
}

/// The weights of whole blocks, instead of what `out` held; none for types that are not known.
pub(super) fn decode(kind: GgmlType, bytes: &[u8], out: &mut Weights) {
    match kind {
        GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 | GgmlType::F64 => floats(kind, bytes, out),
        _ => write_down(kind, bytes, out),
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
fn write_down(kind: GgmlType, bytes: &[u8], out: &mut Weights) {
    blocks(kind, bytes, out);
}

/// Hands the weights of whole blocks on; none of floats and of types not known.
#[inline(always)]
pub(super) fn blocks(kind: GgmlType, bytes: &[u8], out: &mut impl Taker) {
    use GgmlType::*;
    match kind {
        Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 => simple(kind, bytes, out),
        Q2_K | Q3_K | Q4_K | Q5_K | Q6_K => super::kquants::blocks(kind, bytes, out),
        TQ1_0 | TQ2_0 => super::ternary::blocks(kind, bytes, out),
        _ if super::grids::is_known(kind) => super::grids::blocks(kind, bytes, out),
        _ => super::tables::blocks(kind, bytes, out),
    }
}

/// The values alone, which floats have without further ado.
pub(super) fn values(kind: GgmlType, bytes: &[u8], out: &mut Vec<f32>, scratch: &mut Weights) {
    if matches!(kind, GgmlType::F32 | GgmlType::F16 | GgmlType::BF16) {
        float_values(kind, bytes, out);
    } else {
        decode(kind, bytes, scratch);
        std::mem::swap(out, &mut scratch.values);
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
fn float_values(kind: GgmlType, bytes: &[u8], out: &mut Vec<f32>) {
    let (words, halves) = (bytes.as_chunks().0, bytes.as_chunks().0);
    out.resize(if kind == GgmlType::F32 { words.len() } else { halves.len() }, 0.0);
    match kind {
        GgmlType::F32 => out.iter_mut().zip(words).for_each(|(x, raw)| *x = f32::from_le_bytes(*raw)),
        GgmlType::F16 => {
            out.iter_mut().zip(halves).for_each(|(x, raw)| *x = f16_to_f32(u16::from_le_bytes(*raw)));
        }
        _ => out.iter_mut().zip(halves).for_each(|(x, raw)| *x = bf16_to_f32(u16::from_le_bytes(*raw))),
    }
}

/// A float stands for everything that rounds to it.
fn floats(kind: GgmlType, bytes: &[u8], out: &mut Weights) {
    if kind == GgmlType::F64 {
        out.values.clear();
        out.values.extend(bytes.as_chunks().0.iter().map(|raw| f64::from_le_bytes(*raw) as f32));
    } else {
        float_values(kind, bytes, &mut out.values);
    }
    let count = out.values.len();
    out.resize(count);
    out.steps.fill(0.0);
    rooms(kind, &out.values, &mut out.below);
    out.above.copy_from_slice(&out.below);
}

/// How far what was rounded to floats of this type may have been from them.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub(super) fn rooms(kind: GgmlType, values: &[f32], out: &mut Vec<f32>) {
    out.resize(values.len(), 0.0);
    for (&value, room) in values.iter().zip(out) {
        *room = match kind {
            GgmlType::F16 => f16_half_step(value) + value.abs() * VALUE_SLACK,
            GgmlType::BF16 => bf16_half_step(value) + value.abs() * VALUE_SLACK,
            _ => 0.0,
        };
    }
}

/// The types whose blocks are 32 weights of one scale.
#[inline(always)]
fn simple(kind: GgmlType, bytes: &[u8], out: &mut impl Taker) {
    let half = |raw: &[u8; 2]| f16_to_f32(u16::from_le_bytes(*raw));
    match kind {
        GgmlType::Q4_0 => {
            let blocks = bytes.as_chunks::<18>().0;
            out.begin(blocks.len() * 32);
            for block in blocks {
                let (scale, codes) = split::<2>(block);
                out.codes(&nibbles(codes, 0, 8), &symmetric(half(scale), 7.0));
            }
        }
        GgmlType::Q5_0 => {
            let blocks = bytes.as_chunks::<22>().0;
            out.begin(blocks.len() * 32);
            for block in blocks {
                let (scale, rest) = split::<2>(block);
                let (fifth, codes) = split::<4>(rest);
                let codes = nibbles(codes, u32::from_le_bytes(*fifth), 16);
                out.codes(&codes, &symmetric(half(scale), 15.0));
            }
        }
        GgmlType::Q4_1 => {
            let blocks = bytes.as_chunks::<20>().0;
            out.begin(blocks.len() * 32);
            for block in blocks {
                let (scale, rest) = split::<2>(block);
                let (least, codes) = split::<2>(rest);
                out.codes(&nibbles(codes, 0, 0), &ranged(half(scale), half(least)));
            }
        }
        GgmlType::Q5_1 => {
            let blocks = bytes.as_chunks::<24>().0;
            out.begin(blocks.len() * 32);
            for block in blocks {
                let (scale, rest) = split::<2>(block);
                let (least, rest) = split::<2>(rest);
                let (fifth, codes) = split::<4>(rest);
                let codes = nibbles(codes, u32::from_le_bytes(*fifth), 0);
                out.codes(&codes, &ranged(half(scale), half(least)));
            }
        }
        _ => {
            let blocks = bytes.as_chunks::<34>().0;
            out.begin(blocks.len() * 32);
            for block in blocks {
                let (scale, codes) = split::<2>(block);
                let step = half(scale);
                let scale = Scale { step, rounding: f16_half_step(step), ..Scale::default() };
                out.codes(&split::<32>(codes).0.map(u8::cast_signed), &scale);
            }
        }
    }
}

/// The first `N` bytes and the rest. Callers pass arrays that are long enough.
#[inline(always)]
pub(super) fn split<const N: usize>(bytes: &[u8]) -> (&[u8; N], &[u8]) {
    bytes.split_first_chunk().unwrap_or((&[0; N], &[]))
}

/// Weight i is the low half of byte i, weight i + 16 the high half; `fifth` has a bit each.
#[inline(always)]
fn nibbles(bytes: &[u8], fifth: u32, zero: i8) -> [i8; 32] {
    let mut codes = [0; 32];
    let (low, high) = codes.split_at_mut(16);
    for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
        (*low, *high) = ((byte & 15).cast_signed() - zero, (byte >> 4).cast_signed() - zero);
    }
    if fifth != 0 {
        for (place, code) in (0..).zip(&mut codes) {
            *code += if fifth >> place & 1 == 1 { 16 } else { 0 };
        }
    }
    codes
}

/// A weight as large as the extreme one and of the other sign ends at the greatest code, too.
#[inline(always)]
fn symmetric(step: f32, greatest: f32) -> Scale {
    let rounding = f16_half_step(step);
    Scale { step, rounding, end: (greatest, step.abs() * 0.5 + rounding), ..Scale::default() }
}

#[inline(always)]
fn ranged(step: f32, offset: f32) -> Scale {
    let (rounding, offset_rounding) = (f16_half_step(step), f16_half_step(offset));
    Scale { step, offset, rounding, offset_rounding, ..Scale::default() }
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
                    let (mut bytes, mut decoded) = (Vec::new(), Weights::default());
                    block(kind, &weights, how, &mut bytes);
                    assert_eq!(bytes.len() as u64, kind.block_bytes());
                    decode(kind, &bytes, &mut decoded);
                    assert_eq!(decoded.values.len(), BLOCK);
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
