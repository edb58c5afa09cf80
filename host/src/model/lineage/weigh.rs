//! Weights against what they should have been rounded from.
//!
//! Sixteen at a time, without a branch, so that compilers make vector code of it: this is what a
//! comparison spends its time with. A single error is that of two numbers in single precision,
//! some 10^-7 of itself, far below the slack of every allowance; sums are in single precision
//! over some hundred weights, and in double over all. A product is added without being rounded in
//! between, on every machine alike.

use multiversion::multiversion;

use super::decode::{Run, Taker, Weight, Weights, blocks, lesser};
use crate::model::gguf::GgmlType;

const LANES: usize = 16;

/// What was found of weights that were compared one by one.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Tally {
    pub compared: u64,
    /// Those about which nothing can be said.
    pub unchecked: u64,
    /// Weights further off than their allowance.
    pub beyond: u64,
    /// Weights further off even if the reference was rounded, too, from something finer.
    pub beyond_both: u64,
    pub max_error: f32,
    /// The allowance where the error is largest.
    pub allowed: f32,
    /// How far beyond the allowance; without end where one of the two is no number.
    pub excess: f32,
    /// The same in quantisation steps, where there are any.
    pub excess_steps: f32,
    pub reference_power: f64,
    pub candidate_power: f64,
    pub product: f64,
}

impl Tally {
    /// Weighs the candidate's `weights` against the reference's `values`. `rooms` is how far
    /// those may be from what they were rounded from themselves; empty if they were not.
    pub fn weigh(&mut self, weights: &Weights, values: &[f32], rooms: &[f32]) {
        let lanes = lanes(Lanes::new(self), weights, values, rooms);
        self.compared += values.len() as u64;
        let sum = |counts: [u32; LANES]| counts.iter().map(|&count| u64::from(count)).sum::<u64>();
        self.unchecked += sum(lanes.unchecked);
        self.beyond += sum(lanes.beyond);
        self.beyond_both += sum(lanes.beyond_both);
        for (&error, &allowed) in lanes.max_error.iter().zip(&lanes.allowed) {
            if error > self.max_error {
                (self.max_error, self.allowed) = (error, allowed);
            }
        }
        self.excess = lanes.excess.into_iter().fold(self.excess, f32::max);
        self.excess_steps = lanes.excess_steps.into_iter().fold(self.excess_steps, f32::max);
        self.add_powers(lanes.sums.powers().unwrap_or_else(|| exact_sums(weights, values)));
    }

    /// The same for whole blocks of a type, without writing their weights down. False, and nothing
    /// done, if one is beyond its allowance or further off than all before: that is for
    /// [`Self::weigh`], and seldom.
    pub fn glance(&mut self, kind: GgmlType, bytes: &[u8], values: &[f32]) -> bool {
        let (values, rest) = values.as_chunks();
        let found = glance(self.max_error, kind, bytes, values).filter(|_| rest.is_empty());
        let Some((sums, open)) = found else { return false };
        let Some(powers) = sums.powers() else { return false };
        self.compared += (values.len() * LANES) as u64;
        self.unchecked += open;
        self.add_powers(powers);
        true
    }

    /// Takes in what was found of weights that were weighed before as if nothing could be said about them.
    pub fn close(&mut self, found: &Self) {
        self.unchecked = self.unchecked.saturating_sub(found.compared);
        self.beyond += found.beyond;
        self.beyond_both += found.beyond_both;
        if found.max_error > self.max_error {
            (self.max_error, self.allowed) = (found.max_error, found.allowed);
        }
        self.excess = self.excess.max(found.excess);
        self.excess_steps = self.excess_steps.max(found.excess_steps);
    }

    fn add_powers(&mut self, [reference, candidate, product]: [f64; 3]) {
        self.reference_power += reference;
        self.candidate_power += candidate;
        self.product += product;
    }
}

/// Powers of reference and candidate, and their product, of weights of unusual sizes.
fn exact_sums(weights: &Weights, values: &[f32]) -> [f64; 3] {
    let pairs = weights.values.iter().zip(values).filter(|(a, b)| (**a - **b).is_finite());
    pairs.fold([0.0; 3], |[reference, candidate, product], (&x, &y)| {
        let (x, y) = (f64::from(x), f64::from(y));
        [reference + y * y, candidate + x * x, product + x * y]
    })
}

/// What is added up of every weight, for every sixteenth each.
#[derive(Default, Clone, Copy)]
struct Sums {
    reference_power: [f32; LANES],
    candidate_power: [f32; LANES],
    product: [f32; LANES],
}

/// A [`Tally`] of every sixteenth weight each.
#[derive(Default)]
struct Lanes {
    sums: Sums,
    unchecked: [u32; LANES],
    beyond: [u32; LANES],
    beyond_both: [u32; LANES],
    max_error: [f32; LANES],
    allowed: [f32; LANES],
    excess: [f32; LANES],
    excess_steps: [f32; LANES],
}

impl Sums {
    /// Powers of reference and candidate, and their product; `None` if they are of a size that
    /// single precision is not for.
    fn powers(&self) -> Option<[f64; 3]> {
        let sum = |list: [f32; LANES]| list.iter().map(|&x| f64::from(x)).sum::<f64>();
        let sums = [self.reference_power, self.candidate_power, self.product].map(sum);
        sums.iter().take(2).all(|power| (1e-24..1e30).contains(power)).then_some(sums)
    }

    /// Adds a weight to lane `i`.
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "callers name one of the lanes")]
    fn add(&mut self, i: usize, value: f32, expected: f32) {
        self.candidate_power[i] = value.mul_add(value, self.candidate_power[i]);
        self.reference_power[i] = expected.mul_add(expected, self.reference_power[i]);
        self.product[i] = value.mul_add(expected, self.product[i]);
    }
}

/// The room on the side of an error. A call with both, as compilers would look up either where it lies.
#[inline(always)]
fn room(error: f32, below: f32, above: f32) -> f32 {
    if error < 0.0 { below } else { above }
}

/// Whether a weight is where it must be and no further off than `most`, and whether nothing can
/// be said about it.
#[inline(always)]
fn judge(value: f32, [below, above]: [f32; 2], expected: f32, most: f32) -> (bool, bool) {
    let error = expected - value;
    let allowed = room(error, below, above);
    let open = allowed == f32::INFINITY;
    // An allowance that is not a number is no larger than `most`, and allows nothing.
    (error.abs() <= if open { f32::MAX } else { lesser(most, allowed) }, open)
}

impl Lanes {
    fn new(tally: &Tally) -> Self {
        Self { max_error: [tally.max_error; LANES], allowed: [tally.allowed; LANES], ..Self::default() }
    }

    /// Adds sixteen weights. What is seldom is left to [`Self::add_unusual`].
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "every array has as many elements as there are lanes")]
    fn add(&mut self, [own, below, above, steps, values, rooms]: [&[f32; LANES]; 6]) {
        let mut unusual = false;
        for i in 0..LANES {
            // What is not a number has no part in sums.
            let finite = (values[i] - own[i]).abs() < f32::INFINITY;
            let (value, expected) = if finite { (own[i], values[i]) } else { (0.0, 0.0) };
            self.sums.add(i, value, expected);
            let error = expected - value;
            let allowed = room(error, below[i], above[i]);
            let open = allowed == f32::INFINITY;
            let excess = error.abs() - allowed;
            self.unchecked[i] += u32::from(finite & open);
            self.beyond[i] += u32::from(finite & (excess > 0.0));
            self.beyond_both[i] += u32::from(finite & (excess > 0.0) & (excess > rooms[i]));
            // An allowance that is not a number allows nothing, and is larger than nothing.
            let larger = (error.abs() > self.max_error[i]) & !open | allowed.is_nan();
            let farther = (excess > self.excess[i]) | (excess > self.excess_steps[i] * steps[i]);
            unusual |= !finite | larger | farther & (excess > 0.0);
        }
        if unusual {
            self.add_unusual([own, below, above, steps, values]);
        }
    }

    /// What is larger than all before, and what is no number.
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "every array has as many elements as there are lanes")]
    fn add_unusual(&mut self, [own, below, above, steps, values]: [&[f32; LANES]; 5]) {
        for i in 0..LANES {
            let (value, expected) = (own[i], values[i]);
            let error = expected - value;
            let size = error.abs();
            let finite = size < f32::INFINITY;
            // What is not a number is right only if it is the same.
            let odd = !finite & (value.to_bits() != expected.to_bits());
            let allowed = room(error, below[i], above[i]);
            let counts = finite & (allowed != f32::INFINITY);
            let excess = size - allowed;
            // An allowance that is not a number allows nothing.
            let uncounted = u32::from(counts & excess.is_nan() | odd);
            self.beyond[i] += uncounted;
            self.beyond_both[i] += uncounted;
            let over = counts & ((excess > 0.0) | excess.is_nan());
            let larger = counts & (size > self.max_error[i]);
            self.max_error[i] = if larger { size } else { self.max_error[i] };
            self.allowed[i] = if larger { allowed } else { self.allowed[i] };
            let excess = if odd { f32::INFINITY } else { excess };
            self.excess[i] = if (over | odd) & (excess > self.excess[i]) { excess } else { self.excess[i] };
            let in_steps = excess / steps[i];
            let farther = over & (steps[i] > 0.0) & (in_steps > self.excess_steps[i]);
            self.excess_steps[i] = if farther { in_steps } else { self.excess_steps[i] };
        }
    }
}

/// Fewer weights than there are lanes, and zeros.
#[inline(always)]
fn whole(rest: &[f32]) -> [f32; LANES] {
    let mut all = [0.0; LANES];
    all.iter_mut().zip(rest).for_each(|(x, &value)| *x = value);
    all
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn lanes(mut lanes: Lanes, weights: &Weights, values: &[f32], rooms: &[f32]) -> Lanes {
    let all = [&weights.values, &weights.below, &weights.above, &weights.steps, values, rooms];
    let all = all.map(<[f32]>::as_chunks::<LANES>);
    let [own, below, above, steps, values, rooms] = all.map(|(whole, _)| whole);
    let mut rooms = rooms.iter();
    for ((((own, below), above), steps), values) in own.iter().zip(below).zip(above).zip(steps).zip(values) {
        lanes.add([own, below, above, steps, values, rooms.next().unwrap_or(&[0.0; LANES])]);
    }
    // Nothing against nothing is no error.
    lanes.add(all.map(|(_, rest)| whole(rest)).each_ref());
    lanes
}

/// The greatest number whose uppermost bit is not set.
const INSIDE: u32 = u32::MAX >> 1;

/// Weights that are compared as they are decoded.
struct Glance<'a> {
    sums: Sums,
    /// Those still to be compared with.
    values: &'a [[f32; LANES]],
    most: f32,
    /// Weights about which nothing can be said.
    open: u64,
    /// Other weights came than there are values, or one is beyond its allowance, further off than
    /// `most`, or not a number.
    unusual: bool,
}

impl Taker for Glance<'_> {
    /// Other weights than there are to compare with are for somebody else.
    #[inline(always)]
    fn begin(&mut self, count: usize) {
        self.unusual |= count != self.values.len() * LANES;
    }

    #[inline(always)]
    fn most(&self) -> f32 {
        self.most
    }

    #[inline(always)]
    fn block<const RUNS: usize, const N: usize, R: Run>(&mut self, run: impl Fn(usize) -> R) {
        const { assert!(N.is_multiple_of(LANES)) };
        let Some((own, rest)) = self.values.split_at_checked(RUNS * N / LANES) else {
            self.unusual = true;
            return;
        };
        self.values = rest;
        // A copy, and no way out in between, so that it stays in registers.
        let (mut sums, mut odd) = (self.sums, [0; LANES]);
        for (number, own) in own.chunks_exact(N / LANES).enumerate() {
            let run = run(number);
            for (part, values) in own.iter().enumerate() {
                for (i, (&expected, odd)) in values.iter().zip(&mut odd).enumerate() {
                    let (value, outside) = run.look(part * LANES + i, expected);
                    sums.add(i, value, expected);
                    *odd |= outside;
                }
            }
        }
        self.sums = sums;
        self.open += if R::FREE { (RUNS * N) as u64 } else { 0 };
        if R::CLOSE {
            for (number, own) in own.chunks_exact(N / LANES).enumerate() {
                self.closely(&run(number), own);
            }
        } else if odd.iter().fold(0, |all, odd| all | odd) > INSIDE {
            for (number, own) in own.chunks_exact(N / LANES).enumerate() {
                let run = run(number);
                let places = own.as_flattened().iter().enumerate();
                if places.fold(0, |odd, (place, &x)| odd | run.look(place, x).1) > INSIDE {
                    self.seldom(&run, own);
                }
            }
        }
    }
}

impl Glance<'_> {
    /// Looks closely at the weights of a run where a quick look says nothing of some. A call, so that
    /// the quick look's loop stays small.
    #[cold]
    #[inline(never)]
    fn seldom(&mut self, run: &impl Run, values: &[[f32; LANES]]) {
        self.closely(run, values);
    }

    #[inline(always)]
    fn closely(&mut self, run: &impl Run, values: &[[f32; LANES]]) {
        for (part, values) in values.iter().enumerate() {
            let (mut all_inside, mut open) = (true, 0);
            for (i, &expected) in values.iter().enumerate() {
                let Weight { value, below, above, .. } = run.weight(part * LANES + i);
                let (inside, free) = judge(value, [below, above], expected, self.most);
                all_inside &= inside;
                open += u32::from(free);
            }
            self.unusual |= !all_inside;
            self.open += u64::from(open);
        }
    }
}

/// The sums, and how many weights there are about which nothing can be said, if nothing is unusual.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn glance(most: f32, kind: GgmlType, bytes: &[u8], values: &[[f32; LANES]]) -> Option<(Sums, u64)> {
    let mut glance = Glance { sums: Sums::default(), values, most, open: 0, unusual: false };
    blocks(kind, bytes, &mut glance);
    (!glance.unusual).then_some((glance.sums, glance.open))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One weight after the other, in double precision, as the words above say.
    fn slowly(weights: &Weights, values: &[f32], rooms: &[f32]) -> Tally {
        let mut tally = Tally { compared: values.len() as u64, ..Tally::default() };
        for (place, (weight, &expected)) in weights.iter().zip(values).enumerate() {
            let error = f64::from(expected) - f64::from(weight.value);
            if !error.is_finite() {
                let odd = u64::from(weight.value.to_bits() != expected.to_bits());
                (tally.beyond, tally.beyond_both) = (tally.beyond + odd, tally.beyond_both + odd);
                tally.excess = if odd == 0 { tally.excess } else { f32::INFINITY };
                continue;
            }
            tally.reference_power += f64::from(expected).powi(2);
            tally.candidate_power += f64::from(weight.value).powi(2);
            tally.product += f64::from(expected) * f64::from(weight.value);
            let allowed = if error < 0.0 { weight.below } else { weight.above };
            if allowed.is_infinite() {
                tally.unchecked += 1;
                continue;
            }
            let excess = error.abs() - f64::from(allowed);
            if error.abs() as f32 > tally.max_error {
                (tally.max_error, tally.allowed) = (error.abs() as f32, allowed);
            }
            if excess > 0.0 {
                tally.beyond += 1;
                tally.beyond_both += u64::from(excess > f64::from(rooms.get(place).copied().unwrap_or(0.0)));
                tally.excess = tally.excess.max(excess as f32);
                let steps = excess / f64::from(weight.step);
                tally.excess_steps =
                    tally.excess_steps.max(if weight.step > 0.0 { steps as f32 } else { 0.0 });
            }
        }
        tally
    }

    /// A glance gives up just beyond either border of a weight, and where it is off more than all before.
    fn borders(kind: GgmlType, bytes: &[u8], weights: &Weights, place: usize) {
        let weight = weights.get(place).unwrap();
        for (room, side) in [(weight.above, 1.0), (weight.below, -1.0)] {
            if !room.is_finite() {
                continue;
            }
            let glanced = |max_error: f32, error: f32| {
                let mut values = weights.values.clone();
                values[place] += side * error;
                Tally { max_error, ..Tally::default() }.glance(kind, bytes, &values)
            };
            assert!(glanced(f32::MAX, 0.0) && glanced(room, 0.4 * weight.step), "{kind:?} {weight:?}");
            // What is added to a large weight is rounded.
            let rounding = weight.value.abs() * f32::EPSILON;
            assert!(!glanced(f32::MAX, 1.001 * room + rounding), "{kind:?} {weight:?}");
            assert!(!glanced(0.5 * room, 0.6 * room + rounding), "{kind:?} {weight:?}");
        }
    }

    /// A glance finds the very numbers that weighing finds, or gives up and leaves them as they
    /// were; it gives up for every weight that is beyond, and hardly ever else.
    #[test]
    fn a_glance_is_as_weighing() {
        use GgmlType::*;
        let mut state = 7u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32
        };
        let kinds = [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K];
        let tables = [IQ4_NL, IQ4_XS, MXFP4, NVFP4, TQ1_0, TQ2_0, Q1_0, Q2_0];
        let grids = [IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S];
        for kind in kinds.into_iter().chain(tables).chain(grids) {
            let size = usize::try_from(kind.bytes(1024).unwrap()).unwrap();
            for round in 0..60 {
                // Of any bytes, some scales are no numbers or too large: those are for weighing.
                let mask = if round % 3 == 0 { 0xff } else { 0x3b };
                let mut bytes: Vec<u8> = (0..size).map(|_| next() as u8 & mask).collect();
                if kind == MXFP4 {
                    bytes.chunks_mut(17).for_each(|block| block[0] = block[0] % 8 + 120);
                }
                let (mut weights, mut expected) = (Weights::default(), Tally::default());
                super::super::decode::decode(kind, &bytes, &mut weights);
                let mut values: Vec<f32> = (weights.iter())
                    .map(|of| {
                        of.value + (next() as f32 / 2f32.powi(31) - 0.5) * of.above.min(of.below).min(of.step)
                    })
                    .collect();
                (expected.max_error, expected.allowed) = (f32::MAX, 1.0);
                let mut tally = expected;
                expected.weigh(&weights, &values, &[]);
                let glanced = tally.glance(kind, &bytes, &values);
                assert!(glanced || round % 3 == 0, "{kind:?}: {expected:?}");
                assert!(!glanced || tally == expected, "{kind:?}: {tally:?} {expected:?}");
                // One beyond, wherever it is; and weights that are not whole lanes.
                let place = next() as usize % values.len();
                let before = tally;
                for wrong in [values[place] + 1e9, values[place] - 1e9, f32::NAN] {
                    let right = std::mem::replace(&mut values[place], wrong);
                    let weight = weights.get(place).unwrap();
                    let room = if wrong > right { weight.above } else { weight.below };
                    let inside = (wrong - weight.value).abs() <= room;
                    assert!(inside || !tally.glance(kind, &bytes, &values), "{kind:?} {wrong} {weight:?}");
                    tally = before;
                    values[place] = right;
                }
                if round % 3 > 0 {
                    borders(kind, &bytes, &weights, next() as usize % values.len());
                }
                assert!(!tally.glance(kind, &bytes, &values[1..]) && tally == before);
                let more = [values.as_slice(), &values[..LANES]].concat();
                assert!(!tally.glance(kind, &bytes, &more) && tally == before);
            }
        }
        // What is further off than all before is for weighing, too.
        let (mut tally, mut weights) = (Tally::default(), Weights::default());
        let bytes = [0x35; 144];
        super::super::decode::decode(Q4_K, &bytes, &mut weights);
        let off: Vec<f32> = weights.values.iter().map(|value| value * 1.001).collect();
        assert!(!tally.glance(Q4_K, &bytes, &off));
        tally.weigh(&weights, &off, &[]);
        assert!(tally.max_error > 0.0 && tally.glance(Q4_K, &bytes, &off) && tally.compared == 512);
    }

    /// Whatever was further off before.
    #[test]
    fn an_allowance_that_is_no_number_allows_nothing() {
        let one = |x: f32| vec![x; LANES];
        let mut weights = Weights::default();
        (weights.values, weights.steps) = (one(1.0), one(1.0));
        (weights.below, weights.above) = (one(f32::NAN), one(f32::NAN));
        let mut tally = Tally { max_error: 9.0, ..Tally::default() };
        tally.weigh(&weights, &one(1.0), &[]);
        assert_eq!((tally.compared, tally.beyond), (16, 16));
    }

    /// Among weights that are where they must be, too.
    #[test]
    fn one_that_is_no_number_is_beyond() {
        let mut weights = Weights::default();
        let lists = [&mut weights.values, &mut weights.below, &mut weights.above, &mut weights.steps];
        for (list, of) in lists.into_iter().zip([1.0, 0.0, 0.0, 1.0]) {
            list.resize(LANES, of);
        }
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let (mut tally, mut values) = (Tally::default(), weights.values.clone());
            values[3] = odd;
            tally.weigh(&weights, &values, &[]);
            assert_eq!((tally.compared, tally.beyond, tally.reference_power), (16, 1, 15.0));
        }
    }

    #[test]
    fn many_at_once_are_as_one_by_one() {
        let mut state = 5u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / 8_388_608.0 - 1.0
        };
        let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0];
        for round in 0..400usize {
            // Lengths with and without a rest; sizes whose squares are no longer numbers.
            let count = round % 70;
            let size = [1.0, 1e-3, 1e-22, 1e25][round % 4];
            let mut weights = Weights::default();
            let (mut values, mut rooms) = (Vec::new(), Vec::new());
            for _ in 0..count {
                let mut value = next() * size;
                let mut expected = value + next() * size * 0.1;
                if next() > 0.95 {
                    value = odd[count % 5];
                    expected = if next() > 0.0 { value } else { expected };
                }
                let open = next() > 0.8;
                let room = |by: f32| if open { f32::INFINITY } else { by.abs() * size * 0.15 };
                weights.values.push(value);
                weights.below.push(room(next()));
                weights.above.push(room(next()));
                weights.steps.push(if next() > 0.0 { size * 0.1 } else { 0.0 });
                values.push(expected);
                rooms.push(next().abs() * size * 0.05);
            }
            let rooms = if round % 3 == 0 { Vec::new() } else { rooms };
            let expected = slowly(&weights, &values, &rooms);
            let mut tally = Tally::default();
            tally.weigh(&weights, &values, &rooms);
            let near = |a: f64, b: f64| (a - b).abs() <= 1e-5 * (a.abs() + b.abs());
            let counts = |t: &Tally| (t.compared, t.unchecked, t.beyond, t.beyond_both);
            assert_eq!(counts(&tally), counts(&expected), "round {round}");
            for (own, true_one) in [
                (tally.max_error.into(), expected.max_error.into()),
                (tally.allowed.into(), expected.allowed.into()),
                (tally.reference_power, expected.reference_power),
                (tally.candidate_power, expected.candidate_power),
            ] {
                assert!(near(own, true_one), "round {round}: {own} {true_one}");
            }
            let power = (expected.reference_power * expected.candidate_power).sqrt();
            assert!((tally.product - expected.product).abs() <= 1e-5 * power, "round {round}");
            for (own, true_one) in
                [(tally.excess, expected.excess), (tally.excess_steps, expected.excess_steps)]
            {
                assert!(
                    own == true_one || (own - true_one).abs() <= 1e-3 * true_one.max(size * 0.01),
                    "round {round}: {own} {true_one}"
                );
            }
        }
    }
}
