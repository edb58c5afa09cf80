//! The least error that a block of IQ2_S can have, whoever chose its codes.
//!
//! ggml's quantiser looks for points among the neighbours of rounded weights, and makes tables of these
//! first, which takes seconds for the 1,024 points of IQ2_S, in every process anew. How large its errors
//! are at least can be told without. All signs are kept, so that eight sizes x become a point p times
//! a step s that two groups share: the error |x₁ − s·p₁|² + |x₂ − s·p₂|² is least for
//! s = (x₁·p₁ + x₂·p₂) / (|p₁|² + |p₂|²), where it is |x₁|² + |x₂|² − (x₁·p₁ + x₂·p₂)² / (|p₁|² + |p₂|²).
//! Of points of one length only that with the largest product matters, and there are but a few lengths.
//! The quantiser's own errors have 1.2 to 1.4 times that power on normal weights: it minds importances,
//! even where none are given, and rounds steps to four bits.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use multiversion::multiversion;

use super::grids;

/// What a weight's size may be, in steps.
const CODES: [u8; 3] = [8, 25, 43];
/// Ways in which four weights can have these.
const WAYS: usize = 81;
/// Pairs of groups in a block, which are looked at side by side.
const PAIRS: usize = 16;
/// A number for every pair.
type Lanes = [f32; PAIRS];

/// Points of one length.
struct Sphere {
    power: f32,
    /// The numbers of the ways in which their first and their last four weights have codes.
    points: Vec<[u8; 2]>,
}

static SPHERES: LazyLock<Vec<Sphere>> = LazyLock::new(|| {
    let mut spheres: BTreeMap<u16, Vec<[u8; 2]>> = BTreeMap::new();
    for point in grids::iq2_s().iter().map(|point| point.to_le_bytes()) {
        let digit =
            |size: &u8| CODES.iter().zip(0..).find_map(|(code, digit)| (code == size).then_some(digit));
        let way = |sizes: &[u8]| sizes.iter().rev().fold(0, |way, size| 3 * way + digit(size).unwrap_or(0));
        let (first, last) = point.split_at(4);
        let power = point.iter().map(|&size| u16::from(size).pow(2)).sum();
        spheres.entry(power).or_default().push([way(first), way(last)]);
    }
    spheres.into_iter().map(|(power, points)| Sphere { power: power.into(), points }).collect()
});

/// The power of the errors that IQ2_S leaves of 256 weights at least. Not a number if one weight is none.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
#[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
pub(super) fn least_error(weights: &[f32; 256]) -> f64 {
    let most = weights.iter().fold(0f32, |most, x| most.max(x.abs()));
    if most == 0.0 {
        return 0.0;
    }
    let mut sizes = [[0.0; PAIRS]; 16];
    let mut power = [0.0; PAIRS];
    for (pair, weights) in weights.as_chunks::<16>().0.iter().enumerate() {
        for (sizes, x) in sizes.iter_mut().zip(weights) {
            // No number's square is too large or too small so.
            sizes[pair] = x.abs() / most;
            power[pair] += sizes[pair] * sizes[pair];
        }
    }
    let halves = sizes.as_chunks::<8>().0;
    let [products, others] = [largest(&halves[0]), largest(&halves[1])];
    let mut saved: Lanes = [0.0; PAIRS];
    for (sphere, product) in SPHERES.iter().zip(&products) {
        for (other, second) in SPHERES.iter().zip(&others) {
            let share = 1.0 / (sphere.power + other.power);
            for (pair, saved) in saved.iter_mut().enumerate() {
                let sum = product[pair] + second[pair];
                *saved = saved.max(sum * sum * share);
            }
        }
    }
    let left: f32 = power.iter().zip(saved).map(|(power, saved)| (power - saved).clamp(0.0, f32::MAX)).sum();
    f64::from(left) * f64::from(most).powi(2)
}

/// The largest product that a point of each sphere has with a group, for all pairs.
#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "there are fewer ways than sums of them")]
fn largest(group: &[Lanes; 8]) -> Vec<Lanes> {
    let fours = group.as_chunks::<4>().0;
    let [first, last] = [sums(&fours[0]), sums(&fours[1])];
    let sphere = |sphere: &Sphere| {
        let mut most: Lanes = [0.0; PAIRS];
        for &[a, b] in &sphere.points {
            for ((most, a), b) in most.iter_mut().zip(&first[usize::from(a)]).zip(&last[usize::from(b)]) {
                *most = most.max(a + b);
            }
        }
        most
    };
    SPHERES.iter().map(sphere).collect()
}

/// The products of four weights with every way to give them codes.
#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
fn sums(sizes: &[Lanes; 4]) -> [Lanes; WAYS] {
    let mut sums = [[0.0; PAIRS]; WAYS];
    let mut ways = 1;
    for size in sizes {
        for digit in (0..CODES.len()).rev() {
            for way in 0..ways {
                for pair in 0..PAIRS {
                    sums[digit * ways + way][pair] = sums[way][pair] + size[pair] * f32::from(CODES[digit]);
                }
            }
        }
        ways *= CODES.len();
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

    /// Blocks have no error, and none that are a bit off are nearer than the least.
    #[test]
    fn no_block_is_nearer_than_the_least() {
        let mut next = random();
        let mut bytes: Vec<u8> = (0..40 * 82).map(|_| next() as u8).collect();
        bytes.chunks_mut(82).for_each(|block| block[..2].copy_from_slice(&[0x00, 0x24]));
        let (mut values, mut scratch) = (Vec::new(), Weights::default());
        decode::values(GgmlType::IQ2_S, &bytes, &mut values, &mut scratch);
        for block in values.as_chunks::<256>().0 {
            let all = power(block, &[0.0; 256]);
            assert!(least_error(block) < 1e-5 * all);
            for size in [0.01, 0.1, 0.5] {
                let off = block.map(|x| x * (1.0 + size * ((next() % 3) as f32 - 1.0)));
                let (least, own) = (least_error(&off), power(block, &off));
                assert!(least <= own + 1e-5 * all, "{size}: {least} {own}");
                assert!(size > 0.1 || least > 0.3 * own, "{size}: {least} {own}");
            }
        }
    }

    /// The same as trying every pair of points.
    #[test]
    fn it_is_the_least_of_all_points() {
        let mut next = random();
        let weights: [f32; 256] = std::array::from_fn(|_| (next() as f32 / 1e9 - 1.0).powi(3));
        let mut expected = 0.0;
        for pair in weights.as_chunks::<16>().0 {
            // For each step the best points by themselves; steps finely divided.
            let most = pair.iter().fold(0f32, |most, x| most.max(x.abs()));
            let error = |step: f32| -> f64 {
                let group = |group: &[f32]| {
                    let error = |point: u64| {
                        let point = point.to_le_bytes().map(|size| step * f32::from(size));
                        power(&point, &group.iter().map(|x| x.abs()).collect::<Vec<_>>())
                    };
                    grids::iq2_s().iter().map(|&point| error(point)).fold(f64::INFINITY, f64::min)
                };
                pair.chunks(8).map(group).sum()
            };
            expected += (1..120).map(|i| error(most * i as f32 / 2400.0)).fold(f64::INFINITY, f64::min);
        }
        let least = least_error(&weights);
        assert!(least <= expected && least > 0.98 * expected, "{least} {expected}");
    }

    #[test]
    fn sizes_do_not_matter() {
        let mut next = random();
        let weights: [f32; 256] = std::array::from_fn(|_| next() as f32 / 1e9 - 1.0);
        let expected = least_error(&weights);
        for scale in [-1.0, 1e-37, 1e37] {
            let scaled = least_error(&weights.map(|x| x * scale)) / f64::from(scale).powi(2);
            assert!((scaled / expected - 1.0).abs() < 1e-4, "{scaled} {expected}");
        }
        assert_eq!(least_error(&[0.0; 256]), 0.0);
        let mut odd = weights;
        odd[17] = f32::NAN;
        assert!(least_error(&odd).is_nan());
    }
}
