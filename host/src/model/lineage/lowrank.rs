//! Is the difference between two matrices one of low rank? A merged adapter is: its change
//! is the product of two thin matrices, on top of which there is nothing but rounding.
//!
//! Looks at a sample of rows and columns, whose rank is that of the whole (unless all of the
//! change lies outside of it, which claims nothing). Singular values come from the Gram matrix
//! of the sample; those above what rounding alone would give are counted. Cost per matrix: at
//! most 192 rows read and some ten million operations. Rounding hides what is smaller than
//! itself: behind block types the rank is that of what stands out, which may be less than all.

use std::sync::atomic::{AtomicUsize, Ordering};

use multiversion::multiversion;

use super::decode::{Weight, Weights, decode, is_known};
use super::side::{Entry, Side};
use super::{Pair, TensorRelation, threads};
use crate::domain::Problem;
use crate::model::gguf::GgmlType;

/// Rows and columns of the sample.
const SAMPLE: usize = 192;
/// Matrices narrower than this have no rank worth the name.
const LEAST: usize = 16;
/// Slack for rounding errors that are not all of one size.
const SLACK: f64 = 1.5;
/// An importance matrix makes them larger. Of a change that only partly stands out more would be left.
const REST_SLACK: f64 = 1.2;
/// A change of a few single weights is of low rank, too, and is no adapter.
const LEAST_SPREAD: f64 = 0.01;

/// The cosine of two matrices that have nothing in common is nearer to 0 than this.
const FOREIGN: f64 = 0.1;

/// Adapters change matrices in one way: where more than these of all that differ do so otherwise, those
/// of low rank do by chance.
pub(super) fn are_most(low: usize, all: usize) -> bool {
    low * 4 >= all * 3
}

/// Finds the ranks of the matrices that differ if most are low; no more than are needed to tell.
pub(super) fn find(
    sides: (&Side, &Side),
    common: &[(&str, &Entry, &Entry)],
    pairs: &mut [Pair],
) -> Result<(), Problem> {
    let differs = |pair: &Pair| pair.relation == TensorRelation::Differs && pair.matrix;
    let all = pairs.iter().filter(|pair| differs(pair)).count();
    // What has nothing in common differs by a matrix of full rank.
    let near: Vec<(usize, &Entry, &Entry)> = (0..)
        .zip(pairs.iter().zip(common))
        .filter(|(_, (pair, _))| differs(pair) && pair.seen.correlation().is_some_and(|of| of > FOREIGN))
        .map(|(place, (_, &(_, ours, theirs)))| (place, ours, theirs))
        .collect();
    let (next, low) = (AtomicUsize::new(0), AtomicUsize::new(near.len()));
    let may_be = || are_most(low.load(Ordering::Relaxed), all);
    let work = || -> Result<Vec<(usize, u64)>, Problem> {
        let mut found = Vec::new();
        while may_be()
            && let Some(&(place, ours, theirs)) = near.get(next.fetch_add(1, Ordering::Relaxed))
        {
            match rank(sides, (ours, theirs))? {
                Some(rank) => found.push((place, rank)),
                None => _ = low.fetch_sub(1, Ordering::Relaxed),
            }
        }
        Ok(found)
    };
    let found: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads().min(near.len())).map(|_| scope.spawn(work)).collect();
        let ended = || Problem::internal("a comparing thread ended early");
        workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| Err(ended()))).collect()
    });
    for (place, rank) in found.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten() {
        if let Some(pair) = pairs.get_mut(place).filter(|_| may_be()) {
            pair.rank = Some(rank);
        }
    }
    Ok(())
}

/// The rank of candidate less reference; `None` if it is not low, or cannot be told from rounding.
fn rank(sides: (&Side, &Side), entries: (&Entry, &Entry)) -> Result<Option<u64>, Problem> {
    let (candidate, reference) = entries;
    let ([rows, columns], Some(kind), Some(from)) =
        (candidate.shape.as_slice(), candidate.kind, reference.kind)
    else {
        return Ok(None);
    };
    let (Ok(rows), Ok(columns)) = (usize::try_from(*rows), usize::try_from(*columns)) else {
        return Ok(None);
    };
    if rows.min(columns) < LEAST || !is_known(kind) || !is_known(from) {
        return Ok(None);
    }
    let (height, width) = (rows.min(SAMPLE), columns.min(SAMPLE));
    let mut sample =
        Sample { height, width, differences: Vec::new(), rows: vec![0.0; height], columns: vec![0.0; width] };
    let mut ours = Row::default();
    let mut theirs = Row::default();
    for line in 0..height {
        let row = line * rows / height;
        ours.read(sides.0, candidate, kind, row, columns)?;
        theirs.read(sides.1, reference, from, row, columns)?;
        for place in 0..width {
            let column = place * columns / width;
            let (Some(a), Some(b)) = (ours.weights.get(column), theirs.weights.get(column)) else {
                return Ok(None);
            };
            sample.differences.push(f64::from(a.value) - f64::from(b.value));
            let noise = rounding(&a, kind)
                + if kind == from && from == GgmlType::F32 { 0.0 } else { rounding(&b, from) };
            if let (Some(row), Some(column)) = (sample.rows.get_mut(line), sample.columns.get_mut(place)) {
                (*row, *column) = (*row + noise, *column + noise);
            }
        }
    }
    Ok(sample.rank())
}

/// Variance of the rounding error of a weight.
fn rounding(weight: &Weight, kind: GgmlType) -> f64 {
    let value = f64::from(weight.value);
    match kind {
        GgmlType::F64 => 0.0,
        // Sums of products in single precision are a few units off.
        GgmlType::F32 => (value * 2f64.powi(-22)).powi(2) / 3.0,
        _ if weight.step > 0.0 => f64::from(weight.step).powi(2) / 12.0,
        _ if weight.below.is_finite() => f64::from(weight.below).powi(2) / 3.0,
        _ => value.powi(2),
    }
}

#[derive(Default)]
struct Row {
    bytes: Vec<u8>,
    weights: Weights,
}

impl Row {
    fn read(
        &mut self,
        side: &Side,
        entry: &Entry,
        kind: GgmlType,
        row: usize,
        columns: usize,
    ) -> Result<(), Problem> {
        let internal = || Problem::internal("a row of a matrix is not whole blocks");
        let length = kind.bytes(columns as u64).ok_or_else(internal)?;
        self.bytes.resize(usize::try_from(length).map_err(|_| internal())?, 0);
        side.read(entry, row as u64 * length, &mut self.bytes)?;
        decode(kind, &self.bytes, &mut self.weights);
        Ok(())
    }
}

/// Differences of some rows and columns, row by row.
struct Sample {
    height: usize,
    width: usize,
    differences: Vec<f64>,
    /// Sums of the variances of the rounding errors, of every row and of every column.
    rows: Vec<f64>,
    columns: Vec<f64>,
}

impl Sample {
    fn rank(&self) -> Option<u64> {
        let power: f64 = self.differences.iter().map(|x| x * x).sum();
        let fourth: f64 = self.differences.iter().map(|x| x.powi(4)).sum();
        let count = self.differences.len() as f64;
        let noise: f64 = self.rows.iter().sum();
        if !(power.is_finite() && fourth > 0.0) || power * power / fourth < LEAST_SPREAD * count {
            return None;
        }
        let mut gram = Gram::of(self);
        let values = gram.eigenvalues()?;
        // The largest singular value of a matrix of independent errors of any sizes (Bandeira and
        // van Handel, 2016); of one size, that of Marchenko and Pastur.
        let largest = |sums: &[f64]| sums.iter().copied().fold(0.0, f64::max).sqrt();
        let edge = SLACK * (largest(&self.rows) + largest(&self.columns)).powi(2);
        // What is left of exact zeros by this arithmetic.
        let edge = edge.max(power * 1e-13);
        let rank = values.iter().filter(|&&value| value > edge).count();
        let rest: f64 = values.iter().filter(|&&value| value <= edge).sum();
        let size = self.height.min(self.width);
        // Behind rounding a change of full rank can have some values that stand out.
        let least = values.iter().copied().filter(|&value| value <= edge).fold(0.0, f64::max);
        let most = values.iter().copied().fold(0.0, f64::max);
        let clean = rest <= power * 1e-11;
        // What stands out takes as much of the rounding with it.
        let share = rank as f64 / size as f64;
        let low = rank >= 1
            && rank * if clean { 4 } else { 6 } <= 3 * size
            && rest <= REST_SLACK * noise * (1.0 - share) + power * 1e-11
            && most >= SLACK * least * bulk(share);
        low.then_some(rank as u64)
    }
}

/// Of a square matrix of independent changes, how many times the eigenvalue below which all but this
/// `share` lie the largest is: the quarter circle law (Marchenko and Pastur, 1967).
fn bulk(share: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..40 {
        let x: f64 = (low + high) / 2.0;
        let above = 1.0 - (x * (1.0 - x * x).sqrt() + x.asin()) * std::f64::consts::FRAC_2_PI;
        if above > share { low = x } else { high = x }
    }
    1.0 / (high * high)
}

/// A symmetric matrix.
struct Gram {
    size: usize,
    cells: Vec<f64>,
}

#[expect(clippy::indexing_slicing, reason = "every index is below the size that the cells were made for")]
impl Gram {
    /// The products of all rows with all rows, or of columns with columns, whichever are fewer.
    fn of(sample: &Sample) -> Self {
        let (height, width) = (sample.height, sample.width);
        let at = |row: usize, column: usize| sample.differences[row * width + column];
        let lines: Vec<Vec<f64>> = if height <= width {
            (0..height).map(|row| (0..width).map(|column| at(row, column)).collect()).collect()
        } else {
            (0..width).map(|column| (0..height).map(|row| at(row, column)).collect()).collect()
        };
        let size = lines.len();
        let mut cells = vec![0.0; size * size];
        for i in 0..size {
            for j in 0..=i {
                let product = dot(&lines[i], &lines[j]);
                cells[i * size + j] = product;
                cells[j * size + i] = product;
            }
        }
        Self { size, cells }
    }

    /// All eigenvalues: Householder's reduction to three diagonals, then QL with implicit
    /// shifts (Wilkinson and Reinsch, 1971). `None` if it does not converge.
    fn eigenvalues(&mut self) -> Option<Vec<f64>> {
        let (mut diagonal, mut beside) = self.tridiagonal();
        let n = self.size;
        // Of a matrix of low rank nearly all is zero up to rounding: relative to the largest.
        let largest = diagonal.iter().chain(&beside).fold(0.0f64, |most, x| most.max(x.abs()));
        let negligible = f64::EPSILON * largest;
        for l in 0..n {
            for round in 0.. {
                let m = (l..n - 1).find(|&m| beside[m].abs() <= negligible).unwrap_or(n - 1);
                if m == l {
                    break;
                }
                if round == 50 {
                    return None;
                }
                let mut g = (diagonal[l + 1] - diagonal[l]) / (2.0 * beside[l]);
                let mut r = g.hypot(1.0);
                g = diagonal[m] - diagonal[l] + beside[l] / (g + r.copysign(g));
                let (mut s, mut c, mut p) = (1.0, 1.0, 0.0);
                let mut early = false;
                for i in (l..m).rev() {
                    let (f, b) = (s * beside[i], c * beside[i]);
                    r = f.hypot(g);
                    beside[i + 1] = r;
                    if r == 0.0 {
                        diagonal[i + 1] -= p;
                        beside[m] = 0.0;
                        early = true;
                        break;
                    }
                    s = f / r;
                    c = g / r;
                    g = diagonal[i + 1] - p;
                    r = (diagonal[i] - g) * s + 2.0 * c * b;
                    p = s * r;
                    diagonal[i + 1] = g + p;
                    g = c * r - b;
                }
                if !early {
                    diagonal[l] -= p;
                    beside[l] = g;
                    beside[m] = 0.0;
                }
            }
        }
        Some(diagonal)
    }

    /// The diagonal, and what stands beside it.
    fn tridiagonal(&mut self) -> (Vec<f64>, Vec<f64>) {
        let n = self.size;
        let a = &mut self.cells;
        let mut beside = vec![0.0; n];
        for k in 0..n.saturating_sub(2) {
            let length: f64 = (k + 1..n).map(|i| a[i * n + k] * a[i * n + k]).sum::<f64>().sqrt();
            if length == 0.0 {
                continue;
            }
            let alpha = -length.copysign(a[(k + 1) * n + k]);
            let mut v: Vec<f64> = (k + 1..n).map(|i| a[i * n + k]).collect();
            v[0] -= alpha;
            let norm = dot(&v, &v);
            beside[k] = alpha;
            if norm == 0.0 {
                continue;
            }
            // Both sides at once: A - v wT - w vT.
            let row = |i: usize| i * n + k + 1..(i + 1) * n;
            let mut w: Vec<f64> = (k + 1..n).map(|i| 2.0 / norm * dot(&a[row(i)], &v)).collect();
            let half = dot(&v, &w) / norm;
            w.iter_mut().zip(&v).for_each(|(w, v)| *w -= half * v);
            for (i, (own_v, own_w)) in (k + 1..n).zip(v.iter().zip(&w)) {
                reduce(&mut a[row(i)], (*own_v, &w), (*own_w, &v));
            }
        }
        if n >= 2 {
            beside[n - 2] = a[(n - 1) * n + n - 2];
        }
        ((0..n).map(|i| a[i * n + i]).collect(), beside)
    }
}

/// The sum of products of two lists of one length; several sums at a time, as vector code needs it.
#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2"))]
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    let mut sums = [0.0; 16];
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f64>()
}

/// Takes two lists, each times a number, off a row.
#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2"))]
fn reduce(row: &mut [f64], (x, xs): (f64, &[f64]), (y, ys): (f64, &[f64])) {
    for ((cell, a), b) in row.iter_mut().zip(xs).zip(ys) {
        *cell -= x * a + y * b;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bell(seed: u64) -> impl FnMut() -> f64 {
        let mut state = seed | 1;
        move || {
            (0..6)
                .map(|_| {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (state >> 40) as f64 / 16_777_216.0 - 0.5
                })
                .sum::<f64>()
                * 1.4
        }
    }

    /// A sample whose rounding errors all have one variance.
    fn sample(height: usize, width: usize, differences: Vec<f64>, variance: f64) -> Sample {
        let sums = |count: usize, of: usize| vec![variance * of as f64; count];
        Sample { height, width, differences, rows: sums(height, width), columns: sums(width, height) }
    }

    #[test]
    fn eigenvalues_are_those_of_the_matrix() {
        // Second differences: 2 - 2 cos(k pi / (n + 1)).
        let n = 9;
        let mut cells = vec![0.0; n * n];
        for i in 0..n {
            cells[i * n + i] = 2.0;
            if i > 0 {
                cells[i * n + i - 1] = -1.0;
                cells[(i - 1) * n + i] = -1.0;
            }
        }
        let mut found = Gram { size: n, cells }.eigenvalues().unwrap();
        found.sort_by(f64::total_cmp);
        for (k, value) in (1..).zip(&found) {
            let expected = 2.0 - 2.0 * (f64::from(k) * std::f64::consts::PI / 10.0).cos();
            assert!((value - expected).abs() < 1e-12, "{value} {expected}");
        }
        let mut next = bell(3);
        let lines: Vec<f64> = (0..40 * 25).map(|_| next()).collect();
        let power: f64 = lines.iter().map(|x| x * x).sum();
        let sample = sample(40, 25, lines, 0.0);
        let sum: f64 = Gram::of(&sample).eigenvalues().unwrap().iter().sum();
        assert!((sum - power).abs() < 1e-9 * power);
    }

    /// A product of thin matrices with noise on it: its rank, until the noise is too large.
    #[test]
    fn ranks_are_counted_above_the_noise() {
        let mut next = bell(7);
        for (rank, noise, expected) in [
            (1usize, 0.0, Some(1)),
            (8, 0.0, Some(8)),
            (64, 0.0, Some(64)),
            (8, 0.05, Some(8)),
            (16, 0.2, Some(16)),
            (8, 30.0, None),
            (96, 0.0, None),
        ] {
            let (height, width) = (150, 120);
            let mut thin = |count: usize| -> Vec<f64> { (0..count).map(|_| next()).collect() };
            let (b, a) = (thin(height * rank), thin(rank * width));
            let errors = thin(height * width);
            let cell = |i: usize| {
                let (row, column) = (i / width, i % width);
                (0..rank).map(|k| b[row * rank + k] * a[k * width + column]).sum::<f64>() + noise * errors[i]
            };
            let differences: Vec<f64> = (0..height * width).map(cell).collect();
            let sample = sample(height, width, differences, noise * noise);
            assert_eq!(sample.rank(), expected, "rank {rank}, noise {noise}");
        }
        // One weight alone is no adapter, and neither is a change everywhere.
        let mut differences = vec![0.0; 10_000];
        differences[55] = 1.0;
        assert_eq!(sample(100, 100, differences, 0.0).rank(), None);
        let differences: Vec<f64> = (0..10_000).map(|_| next()).collect();
        assert_eq!(sample(100, 100, differences, 0.0).rank(), None);
    }

    /// Some columns are changed more than others, and all by more than they were rounded: a fifth of the
    /// values stands out, and what is left is more than rounding.
    #[test]
    fn changes_of_several_sizes_are_no_rank() {
        let mut next = bell(13);
        let (height, width) = (192, 192);
        let sizes: Vec<f64> = (0..width).map(|_| 1.85 * next()).collect();
        let differences: Vec<f64> = (0..height * width).map(|i| sizes[i % width] * next() + next()).collect();
        let sample = sample(height, width, differences, 1.0);
        let standing_out =
            Gram::of(&sample).eigenvalues().unwrap().iter().filter(|&&x| x > 6.0 * 192.0).count();
        assert!((20..60).contains(&standing_out), "{standing_out}");
        assert_eq!(sample.rank(), None);
    }

    /// Three rows are rounded thirty times as coarsely as the others: that is no adapter, and
    /// does not hide one that stands out.
    #[test]
    fn rounding_of_several_sizes_is_no_rank() {
        let mut next = bell(11);
        let (height, width) = (120, 150);
        let coarse = |row: usize| if row % 40 == 7 { 30.0 } else { 1.0 };
        let noisy = |rank: usize, next: &mut dyn FnMut() -> f64| {
            let mut thin = |count: usize| -> Vec<f64> { (0..count).map(|_| next()).collect() };
            let (b, a, errors) = (thin(height * rank), thin(rank * width), thin(height * width));
            let cell = |i: usize| {
                let (row, column) = (i / width, i % width);
                let change = (0..rank).map(|k| b[row * rank + k] * a[k * width + column]).sum::<f64>();
                60.0 * change + coarse(row) * errors[i]
            };
            let rows: Vec<f64> = (0..height).map(|row| coarse(row).powi(2) * width as f64).collect();
            let columns = vec![(0..height).map(|row| coarse(row).powi(2)).sum(); width];
            Sample { height, width, differences: (0..height * width).map(cell).collect(), rows, columns }
        };
        assert_eq!(noisy(0, &mut next).rank(), None);
        assert_eq!(noisy(4, &mut next).rank(), Some(4));
    }
}
