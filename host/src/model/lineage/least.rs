//! The least error that a block of some types can have, whoever chose its codes.
//!
//! ggml's quantisers of IQ2_S, IQ3_S and IQ3_XXS look for points among the neighbours of rounded weights,
//! and make tables of these first, in every process anew: that takes longer than comparing a small model.
//! How large their errors are at least can be told without. All signs are kept, so that a group of sizes x
//! becomes a point p times a step s that some groups share: their errors |x − s·p|² are least together for
//! s = Σ x·p / Σ |p|², where they are Σ |x|² − (Σ x·p)² / Σ |p|². Which points are best for a step near
//! that, each group's product alone tells: of points of one length only that with the largest matters.
//!
//! The quantisers' own errors have more than that power, because they mind importances even where none
//! are given, round steps to four bits, and keep an even number of signs (IQ3_XXS).

use std::collections::BTreeMap;
use std::sync::LazyLock;

use multiversion::multiversion;

use super::decode::greater;
use super::grids;
use crate::model::gguf::GgmlType;

/// Weights of a block.
const BLOCK: usize = 256;
/// Steps that are tried, from the shortest to the longest by one factor, which is 1.07 or less. Points are
/// chosen for one that is off by half of that at most, and get the step that is best for them: what is
/// missed of the least error is a hundredth or two.
const STEPS: usize = 64;
/// The shortest, as a share of that which makes the largest code of the largest weight: what is clamped
/// more costs more than all others can gain. The longest makes the smallest code of it.
const SHORTEST: f32 = 0.25;

/// Points of one length.
struct Sphere {
    power: f32,
    /// The numbers of the ways in which the first and the last half of their weights have codes.
    points: Vec<[u8; 2]>,
}

/// What a block can be made of: points of twice `HALF` weights, of `CODES` sizes.
struct Grid<const CODES: usize, const HALF: usize> {
    sizes: [u8; CODES],
    spheres: Vec<Sphere>,
    /// Of a group whose largest weight is 1.
    steps: [f32; STEPS],
}

static IQ2_S: LazyLock<Grid<3, 4>> = LazyLock::new(|| Grid::new(grids::iq2_s()));
static IQ3_S: LazyLock<Grid<8, 2>> = LazyLock::new(|| Grid::new(&grids::THREE_S));
static IQ3_XXS: LazyLock<Grid<8, 2>> = LazyLock::new(|| Grid::new(&grids::THREE_XXS));

impl<const CODES: usize, const HALF: usize> Grid<CODES, HALF> {
    /// Of points with a byte for each weight.
    fn new(points: &[u64]) -> Self {
        let points = points.iter().map(|point| point.to_le_bytes()).map(|sizes| {
            let mut own = [[0; HALF]; 2];
            own.as_flattened_mut().iter_mut().zip(sizes).for_each(|(own, size)| *own = size);
            own
        });
        let mut all: Vec<u8> = points.clone().flat_map(|point| point.into_iter().flatten()).collect();
        all.sort_unstable();
        all.dedup();
        let mut sizes = [0; CODES];
        sizes.iter_mut().zip(&all).for_each(|(size, own)| *size = *own);
        let digit = |size: &u8| (0..).zip(&sizes).find_map(|(digit, own)| (own == size).then_some(digit));
        let way = |half: [u8; HALF]| {
            half.iter().rev().fold(0, |way, size| CODES as u8 * way + digit(size).unwrap_or(0))
        };
        let mut spheres: BTreeMap<u16, Vec<[u8; 2]>> = BTreeMap::new();
        for point in points {
            let power = point.as_flattened().iter().map(|&size| u16::from(size).pow(2)).sum();
            spheres.entry(power).or_default().push(point.map(way));
        }
        let spheres = spheres.into_iter().map(|(power, points)| Sphere { power: power.into(), points });
        let [least, most] = [all.first(), all.last()].map(|size| f32::from(size.copied().unwrap_or(1)));
        let (shortest, longest) = (SHORTEST / most, 1.0 / least);
        let step = |number| shortest * (longest / shortest).powf(number as f32 / (STEPS - 1) as f32);
        Self { sizes, spheres: spheres.collect(), steps: std::array::from_fn(step) }
    }
}

/// Whether there is a [`least_error`] of this type.
pub(super) fn is_known(kind: GgmlType) -> bool {
    matches!(kind, GgmlType::IQ2_S | GgmlType::IQ3_S | GgmlType::IQ3_XXS)
}

/// The power of the errors that a type leaves of 256 weights at least, to two hundredths. Not a number if a
/// weight is none, or of a type that [`is_known`] does not know.
pub(super) fn least_error(kind: GgmlType, weights: &[f32; BLOCK]) -> f64 {
    match kind {
        GgmlType::IQ2_S => two_bits(weights),
        GgmlType::IQ3_S => three_bits(&IQ3_S, weights),
        GgmlType::IQ3_XXS => three_bits(&IQ3_XXS, weights),
        _ => f64::NAN,
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2+fma"))]
fn two_bits(weights: &[f32; BLOCK]) -> f64 {
    least::<3, 4, 81, 32>(&IQ2_S, 2, weights)
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2+fma"))]
fn three_bits(grid: &Grid<8, 2>, weights: &[f32; BLOCK]) -> f64 {
    least::<8, 2, 64, 64>(grid, 8, weights)
}

/// `GROUPS` are in a block, of which so many as are `shared` have one step. `WAYS` is in how many ways half
/// a group can have codes.
#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "ways and groups are fewer than the lengths of fixed arrays")]
fn least<const CODES: usize, const HALF: usize, const WAYS: usize, const GROUPS: usize>(
    grid: &Grid<CODES, HALF>,
    shared: usize,
    weights: &[f32; BLOCK],
) -> f64 {
    const { assert!(GROUPS * 2 * HALF == BLOCK && WAYS == CODES.pow(HALF as u32)) };
    let most = weights.iter().fold(0f32, |most, x| most.max(x.abs()));
    if most == 0.0 {
        return 0.0;
    }
    // No number's square is too large or too small so.
    let sizes = weights.map(|x| x.abs() / most);
    let [first, last] = [0, HALF].map(|start| {
        let of = |place| std::array::from_fn(|group| sizes[group * 2 * HALF + start + place]);
        sums::<CODES, HALF, WAYS, GROUPS>(&grid.sizes, &std::array::from_fn(of))
    });
    // The largest product that a point of each sphere has with each group.
    let largest = |sphere: &Sphere| {
        let mut most = [0.0; GROUPS];
        for &[a, b] in &sphere.points {
            for ((most, a), b) in most.iter_mut().zip(&first[usize::from(a)]).zip(&last[usize::from(b)]) {
                *most = greater(*most, a + b);
            }
        }
        (sphere.power, most)
    };
    let spheres: Vec<(f32, [f32; GROUPS])> = grid.spheres.iter().map(largest).collect();
    let mut left = 0.0;
    for (number, sizes) in sizes.chunks_exact(shared * 2 * HALF).enumerate() {
        let groups = number * shared..(number + 1) * shared;
        let most = sizes.iter().fold(0.0, |most, &x| greater(most, x));
        let steps = grid.steps.map(|step| step * most);
        let mut gains = [0f32; STEPS];
        for group in groups.clone() {
            let mut best = [f32::NEG_INFINITY; STEPS];
            for (power, products) in &spheres {
                let product = 2.0 * products[group];
                for (best, step) in best.iter_mut().zip(&steps) {
                    *best = greater(*best, product - step * power);
                }
            }
            gains.iter_mut().zip(best).for_each(|(gain, best)| *gain += best);
        }
        let saved = |(gain, step): (f32, f32)| (gain * step, step);
        let pairs = gains.into_iter().zip(steps).map(saved);
        let (_, step) = pairs.fold((0.0, 0.0), |most, own| if own.0 > most.0 { own } else { most });
        let (mut product, mut power) = (0.0, 0.0);
        for group in groups {
            let gain = |(power, products): &(f32, [f32; GROUPS])| {
                (2.0 * products[group] - step * power, products[group], *power)
            };
            let none = (f32::NEG_INFINITY, 0.0, 0.0);
            let best =
                spheres.iter().map(gain).fold(none, |most, own| if own.0 > most.0 { own } else { most });
            (product, power) = (product + best.1, power + best.2);
        }
        left += (sizes.iter().map(|x| x * x).sum::<f32>() - product * product / power).clamp(0.0, f32::MAX);
    }
    f64::from(left) * f64::from(most).powi(2)
}

/// The products of half a group with every way to give it codes, for all groups side by side.
#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
fn sums<const CODES: usize, const HALF: usize, const WAYS: usize, const GROUPS: usize>(
    codes: &[u8; CODES],
    sizes: &[[f32; GROUPS]; HALF],
) -> [[f32; GROUPS]; WAYS] {
    let mut sums = [[0.0; GROUPS]; WAYS];
    let mut ways = 1;
    for size in sizes {
        for digit in (0..CODES).rev() {
            for way in 0..ways {
                let code = f32::from(codes[digit]);
                sums[digit * ways + way] = std::array::from_fn(|group| sums[way][group] + size[group] * code);
            }
        }
        ways *= CODES;
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::super::decode::{self, Weights};
    use super::*;
    use crate::model::gguf::GgmlType;

    fn random() -> impl FnMut() -> u32 {
        let mut state = 1u64;
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32
        }
    }

    fn power(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum()
    }

    /// What is known, the bytes of a block, the power of its points and how many weights have a step.
    fn all() -> [(GgmlType, usize, Vec<Vec<u8>>, usize); 3] {
        let points = |list: &[u64], weights: usize| {
            list.iter().map(|point| point.to_le_bytes()[..weights].to_vec()).collect::<Vec<_>>()
        };
        [
            (GgmlType::IQ2_S, 82, points(grids::iq2_s(), 8), 16),
            (GgmlType::IQ3_S, 110, points(&grids::THREE_S, 4), 32),
            (GgmlType::IQ3_XXS, 98, points(&grids::THREE_XXS, 4), 32),
        ]
    }

    /// Blocks have no error, and none that are a bit off are nearer than the least.
    #[test]
    fn no_block_is_nearer_than_the_least() {
        let mut next = random();
        for (kind, size, ..) in all() {
            let mut bytes: Vec<u8> = (0..40 * size).map(|_| next() as u8).collect();
            bytes.chunks_mut(size).for_each(|block| block[..2].copy_from_slice(&[0x00, 0x24]));
            let (mut values, mut scratch) = (Vec::new(), Weights::default());
            decode::values(kind, &bytes, &mut values, &mut scratch);
            for block in values.as_chunks().0 {
                let all = power(block, &[0.0; BLOCK]);
                assert!(least_error(kind, block) < 1e-5 * all, "{kind:?}");
                for size in [0.01, 0.1, 0.5] {
                    let off = block.map(|x| x * (1.0 + size * ((next() % 3) as f32 - 1.0)));
                    let (least, own) = (least_error(kind, &off), power(block, &off));
                    assert!(least <= 1.02 * own + 1e-5 * all, "{kind:?} {size}: {least} {own}");
                    assert!(size > 0.01 || least > 0.3 * own, "{kind:?} {size}: {least} {own}");
                }
            }
        }
    }

    /// The same as trying all points for steps finely divided.
    #[test]
    fn it_is_the_least_of_all_points() {
        let mut next = random();
        // Sizes of most kinds, some blocks with a weight far out.
        let weights: [f32; BLOCK] = std::array::from_fn(|i| {
            let x = next() as f32 / 1e9 - 1.0;
            if i < 96 { x } else { x.powi(if i < 192 { 3 } else { 7 }) }
        });
        for (kind, _, points, shared) in all() {
            let largest = f32::from(*points.iter().flatten().max().unwrap());
            let mut expected = 0.0;
            for part in weights.chunks(shared) {
                let most = part.iter().fold(0f32, |most, x| most.max(x.abs()));
                let error = |step: f32| -> f64 {
                    let group = |group: &[f32]| {
                        let error = |point: &Vec<u8>| -> f64 {
                            let off = |(x, &size): (&f32, &u8)| x.abs() - step * f32::from(size);
                            group.iter().zip(point).map(off).map(|off| f64::from(off * off)).sum()
                        };
                        points.iter().map(error).fold(f64::INFINITY, f64::min)
                    };
                    part.chunks(points[0].len()).map(group).sum()
                };
                let steps = (1..=150).map(|i| most / largest * 0.02 * i as f32);
                expected += steps.map(error).fold(f64::INFINITY, f64::min);
            }
            let least = least_error(kind, &weights);
            assert!((0.98..1.02).contains(&(least / expected)), "{kind:?} {least} {expected}");
        }
    }

    #[test]
    fn sizes_do_not_matter() {
        let mut next = random();
        let weights: [f32; BLOCK] = std::array::from_fn(|_| next() as f32 / 1e9 - 1.0);
        for (kind, ..) in all() {
            let expected = least_error(kind, &weights);
            for scale in [-1.0, 1e-37, 1e37] {
                let scaled = least_error(kind, &weights.map(|x| x * scale)) / f64::from(scale).powi(2);
                assert!((scaled / expected - 1.0).abs() < 1e-4, "{kind:?} {scaled} {expected}");
            }
            assert_eq!(least_error(kind, &[0.0; BLOCK]), 0.0);
            for odd in [f32::NAN, f32::INFINITY] {
                let mut weights = weights;
                weights[17] = odd;
                assert!(least_error(kind, &weights).is_nan(), "{kind:?} {odd}");
            }
        }
        assert!(least_error(GgmlType::Q4_K, &weights).is_nan() && !is_known(GgmlType::Q4_K));
    }
}
