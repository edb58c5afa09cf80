//! Log-softmax in f64 from f32 logits, and the coarsening of large vocabularies.
//!
//! `ln p_i = z_i - L`, `L = m + ln sum_i exp(z_i - m)` with `m = max z` (the usual shifted
//! log-sum-exp, Blanchard, Higham and Higham 2021, eq. 1.3), entropy `H = L - sum_i p_i z_i`.
//! The sums run in a fixed order, so a row gives the same bits on every call.

use multiversion::multiversion;

use crate::domain::half::{f16_to_f32, f32_to_f16};
use crate::domain::trace::{COARSE_BUCKETS, COARSE_TOP, bucket_of};

/// What is kept of every row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowSummary {
    pub log_sum_exp: f64,
    pub entropy: f64,
    pub argmax: u32,
}

/// Width of the independent partial sums; a multiple of every vector width in use.
const LANES: usize = 16;

/// exp(x) for x <= 0 by Cody-Waite reduction and a degree-11 Taylor polynomial on
/// |r| <= ln2/2: relative error below 1e-14. Written without branches so that it vectorises.
#[inline(always)]
fn exp_nonpositive(x: f64) -> f64 {
    const LOG2_E: f64 = std::f64::consts::LOG2_E;
    const LN2_HIGH: f64 = 6.931_471_803_691_238e-1;
    const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    /// 1.5 * 2^52: adding it rounds to the nearest integer, which then sits in the low bits.
    const ROUNDER: f64 = 6_755_399_441_055_744.0;
    let x = x.max(-708.0);
    let shifted = x * LOG2_E + ROUNDER;
    let k = shifted - ROUNDER;
    let r = (x - k * LN2_HIGH) - k * LN2_LOW;
    let mut p = 1.0 / 39_916_800.0;
    p = p * r + 1.0 / 3_628_800.0;
    p = p * r + 1.0 / 362_880.0;
    p = p * r + 1.0 / 40_320.0;
    p = p * r + 1.0 / 5_040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    // 2^k built from the integer that the rounder left in the low bits.
    let scale = f64::from_bits(shifted.to_bits().wrapping_add(1023).wrapping_shl(52));
    p * scale
}

/// Sums exp(z - max) and exp(z - max) * (z - max) over one row.
///
/// The partial sums are independent lanes in a fixed order, so each instruction set gives
/// the same bits: no fused multiply-add is used, and lanes are added up in one order.
#[multiversion(targets("x86_64+avx512f+avx512dq", "x86_64+avx2"))]
fn exp_sums(logits: &[f32], max: f32) -> (f64, f64) {
    let max = f64::from(max);
    let mut sums = [0.0f64; LANES];
    let mut weighted = [0.0f64; LANES];
    let (chunks, rest) = logits.as_chunks::<LANES>();
    for chunk in chunks {
        for ((sum, weight), &z) in sums.iter_mut().zip(&mut weighted).zip(chunk) {
            let x = f64::from(z) - max;
            let e = exp_nonpositive(x);
            *sum += e;
            *weight += e * x.max(-708.0);
        }
    }
    for ((sum, weight), &z) in sums.iter_mut().zip(&mut weighted).zip(rest) {
        let x = f64::from(z) - max;
        let e = exp_nonpositive(x);
        *sum += e;
        *weight += e * x.max(-708.0);
    }
    (sums.iter().sum(), weighted.iter().sum())
}

/// Largest value; NaN anywhere gives NaN.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
fn largest(logits: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut poison = [0.0f32; LANES];
    let (chunks, rest) = logits.as_chunks::<LANES>();
    for chunk in chunks {
        for ((lane, bad), &z) in lanes.iter_mut().zip(&mut poison).zip(chunk) {
            *lane = if z > *lane { z } else { *lane };
            // z * 0 is 0 for finite z and NaN for NaN and for infinities of either sign;
            // a logit of -inf is as much a fault as NaN.
            *bad += z * 0.0;
        }
    }
    let mut max = f32::NEG_INFINITY;
    for &lane in &lanes {
        max = if lane > max { lane } else { max };
    }
    let mut bad: f32 = poison.iter().sum();
    for &z in rest {
        max = if z > max { z } else { max };
        bad += z * 0.0;
    }
    max + bad
}

/// Summary of one row of logits, or `None` when a logit is not finite (or there are none).
pub fn summarize(logits: &[f32]) -> Option<RowSummary> {
    let max = largest(logits);
    if !max.is_finite() {
        return None;
    }
    let argmax = logits.iter().position(|&z| z == max)?;
    let (sum, weighted) = exp_sums(logits, max);
    let log_sum = sum.ln();
    // H = ln sum - (sum of e*x)/sum, with x measured from the maximum; never below 0.
    let entropy = (log_sum - weighted / sum).max(0.0);
    Some(RowSummary { log_sum_exp: f64::from(max) + log_sum, entropy, argmax: u32::try_from(argmax).ok()? })
}

/// The ids of the [`COARSE_TOP`] largest logits, largest first, lowest id first on ties.
pub fn top_ids(logits: &[f32]) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..u32::try_from(logits.len()).unwrap_or(u32::MAX)).collect();
    let logit = |id: u32| logits.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY);
    let order = |a: &u32, b: &u32| logit(*b).total_cmp(&logit(*a)).then(a.cmp(b));
    if ids.len() > COARSE_TOP {
        ids.select_nth_unstable_by(COARSE_TOP - 1, order);
        ids.truncate(COARSE_TOP);
    }
    ids.sort_unstable_by(order);
    ids
}

/// The tokens of a row that are not kept one by one, by bucket.
#[derive(Debug, Clone, PartialEq)]
pub struct Buckets {
    /// ln of the sum of exp(logit); `-inf` if empty.
    pub logits: Vec<f32>,
    /// The smallest logit; `inf` if empty.
    pub least: Vec<f32>,
}

/// The buckets over the tokens that are not in `ids`. `log_sum_exp` is the row's own, used as
/// the common shift.
pub fn buckets(logits: &[f32], ids: &[u32], log_sum_exp: f64) -> Buckets {
    let mut kept: Vec<u32> = ids.to_vec();
    kept.sort_unstable();
    let mut kept = kept.into_iter().peekable();
    let mut sums = [0.0f64; COARSE_BUCKETS];
    let mut least = [f32::INFINITY; COARSE_BUCKETS];
    for (id, &z) in (0u32..).zip(logits) {
        while kept.peek().is_some_and(|&k| k < id) {
            kept.next();
        }
        if kept.peek() == Some(&id) {
            continue;
        }
        let bucket = bucket_of(id);
        if let (Some(sum), Some(least)) = (sums.get_mut(bucket), least.get_mut(bucket)) {
            *sum += (f64::from(z) - log_sum_exp).exp();
            *least = least.min(z);
        }
    }
    let logits = sums.iter().map(|&sum| (sum.ln() + log_sum_exp) as f32).collect();
    Buckets { logits, least: least.to_vec() }
}

/// The logarithms of a row's probabilities as binary16, and the log-sum-exp of what is stored.
/// What rounding moves is small where it matters: ln p of a likely token is near 0, where
/// binary16 is fine.
pub fn half_row(logits: &[f32], log_sum_exp: f64) -> Option<(Vec<u8>, f64)> {
    let halves: Vec<u16> = logits.iter().map(|&z| f32_to_f16((f64::from(z) - log_sum_exp) as f32)).collect();
    let stored: Vec<f32> = halves.iter().map(|&half| f16_to_f32(half)).collect();
    let sum = summarize(&stored)?.log_sum_exp;
    Some((halves.iter().flat_map(|half| half.to_le_bytes()).collect(), sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pseudo_random_row(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                ((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 40.0
            })
            .collect()
    }

    #[test]
    fn exp_is_accurate_over_its_range() {
        for i in 0..=70_000 {
            let x = -f64::from(i) * 0.01;
            let (got, want) = (exp_nonpositive(x), x.exp());
            assert!((got - want).abs() <= 2e-14 * want, "{x}: {got} {want}");
        }
        assert_eq!(exp_nonpositive(0.0), 1.0);
    }

    #[test]
    fn summary_matches_the_plain_formula() {
        for n in [1, 2, 15, 16, 17, 512, 32_000] {
            let row = pseudo_random_row(n, n as u64);
            let got = summarize(&row).unwrap();
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let lse =
                f64::from(max) + row.iter().map(|&z| (f64::from(z) - f64::from(max)).exp()).sum::<f64>().ln();
            let entropy: f64 = row.iter().map(|&z| (f64::from(z) - lse).exp() * (lse - f64::from(z))).sum();
            assert!((got.log_sum_exp - lse).abs() < 1e-12, "{n}");
            assert!((got.entropy - entropy).abs() < 1e-10, "{n}: {} {entropy}", got.entropy);
            assert_eq!(row[got.argmax as usize], max);
        }
    }

    #[test]
    fn ties_take_the_lowest_id_and_non_finite_rows_have_no_summary() {
        assert_eq!(summarize(&[1.0, 3.0, 3.0]).unwrap().argmax, 1);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 7, 16, 20] {
                let mut row = vec![0.5f32; 21];
                row[at] = bad;
                assert_eq!(summarize(&row), None, "{bad} at {at}");
            }
        }
        assert_eq!(summarize(&[]), None);
    }

    #[test]
    fn kept_tokens_and_buckets_hold_all_the_mass() {
        let row = pseudo_random_row(20_000, 3);
        let summary = summarize(&row).unwrap();
        let ids = top_ids(&row);
        assert_eq!(ids.len(), COARSE_TOP);
        assert_eq!(ids[0], summary.argmax);
        let kept: f64 = ids.iter().map(|&i| (f64::from(row[i as usize]) - summary.log_sum_exp).exp()).sum();
        let buckets = buckets(&row, &ids, summary.log_sum_exp);
        assert!(buckets.least.iter().zip(&buckets.logits).all(|(least, all)| least <= all));
        let rest: f64 = buckets.logits.iter().map(|&z| (f64::from(z) - summary.log_sum_exp).exp()).sum();
        assert!((kept + rest - 1.0).abs() < 1e-6, "{kept} + {rest}");
    }

    #[test]
    fn a_row_in_binary16_is_still_a_distribution_and_a_close_one() {
        let row = pseudo_random_row(32_000, 5);
        let exact = summarize(&row).unwrap();
        let (bytes, sum) = half_row(&row, exact.log_sum_exp).unwrap();
        assert_eq!(bytes.len(), 64_000);
        let (pairs, _) = bytes.as_chunks::<2>();
        let stored: Vec<f64> =
            pairs.iter().map(|pair| f64::from(f16_to_f32(u16::from_le_bytes(*pair))) - sum).collect();
        assert!((stored.iter().map(|lp| lp.exp()).sum::<f64>() - 1.0).abs() < 1e-12);
        let kl: f64 = row
            .iter()
            .zip(&stored)
            .map(|(&z, q)| (f64::from(z) - exact.log_sum_exp, q))
            .map(|(p, q)| p.exp() * (p - q))
            .sum();
        // Between 8 and 16 nats below certainty the step is 2^-7: half its mean squared rounding.
        let expected = (1.0f64 / 128.0).powi(2) / 12.0 / 2.0;
        assert!((0.0..1.2 * expected).contains(&kl), "{kl}");
        assert!(half_row(&[f32::NAN, 1.0], 0.0).is_none());
    }
}
