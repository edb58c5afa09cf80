//! What coarsened traces leave out, and how much higher the scores could be without that.
//!
//! A coarse trace keeps the reference's likeliest tokens and sums the rest into buckets, so a
//! divergence over it is a lower bound (data processing inequality). With `P_b`, `Q_b` the
//! buckets' probabilities and `p|b`, `q|b` the distributions within them, what is missing is
//!
//! - of KL(p ‖ q): sum P_b KL(p|b ‖ q|b), which is (sum over the rest of p ln p) - (sum P_b ln
//!   P_b) - (sum over the rest of p ln q) + (sum P_b ln Q_b). The first two sums are known,
//!   from the row's entropy and from the buckets; the third is at least sum P_b ln q_b with
//!   q_b the smallest probability in the bucket.
//! - of the total variation distance: at most sum min(P_b, Q_b).
//! - of the Jensen-Shannon divergence in bits: at most sum (P_b + Q_b) / 2, because it is at
//!   most 1 bit within a bucket.
//!
//! The other first-party scorers look at tokens that every trace has.

use super::claim::number;
use super::report::{Coverage, CoverageKind};
use crate::domain::moments::Moments;
use crate::domain::trace::{COARSE_BUCKETS, COARSE_TOP, Distribution, Trace};

/// Kept and summed logits are f32: allowed for rounding, in nats per unit of probability.
const ROUNDING: f64 = 1e-5;

/// What is known of the scored challenges so far.
#[derive(Debug, Default)]
pub struct Tally {
    kind: Option<CoverageKind>,
    /// Whether each score could be higher, and the highest it could be if that is known.
    scores: Vec<(bool, Option<f64>)>,
    rest: Moments,
}

impl Tally {
    /// Takes down a scored challenge, by the reference's trace.
    pub fn note(&mut self, reference: &Trace, score: f64, left_out: Option<f64>) {
        let coarse = matches!(reference.distribution, Distribution::Coarse { .. });
        self.kind = Some(match &reference.distribution {
            Distribution::Coarse { .. } => CoverageKind::Coarse,
            Distribution::Half { .. } => CoverageKind::Half,
            Distribution::Full { .. } | Distribution::Summary | Distribution::Tokens => CoverageKind::Full,
        });
        rows(reference).for_each(|row| self.rest.push(row.buckets().map(f64::exp).sum()));
        let lower_bound = coarse && left_out != Some(0.0);
        self.scores.push((lower_bound, left_out.map(|more| (score + more).min(1.0))));
    }

    /// What the first `counted` scores are of.
    pub fn coverage(&self, counted: usize) -> Option<Coverage> {
        let scores = self.scores.get(..counted)?;
        let highest: Option<Vec<f64>> = scores.iter().map(|(_, highest)| *highest).collect();
        Some(Coverage {
            kind: self.kind?,
            lower_bound: scores.iter().any(|(lower_bound, _)| *lower_bound),
            mean_at_most: highest.and_then(|highest| Moments::of(highest).mean()),
            rest_mass: self.rest.mean().unwrap_or(0.0),
        })
    }
}

/// How much higher the score of a pair of traces could be if nothing were left out; `None`
/// for a scorer of which that is not known. `clip_nats` is what a score of 1 means, for
/// scorers whose value is in nats.
pub fn left_out(scorer: &str, clip_nats: f64, reference: &Trace, candidate: &Trace) -> Option<f64> {
    if !matches!(reference.distribution, Distribution::Coarse { .. }) {
        return Some(0.0);
    }
    let mean = |of: fn(&Row<'_>, &Row<'_>) -> f64| {
        Moments::of(rows(reference).zip(rows(candidate)).map(|(p, q)| of(&p, &q))).mean()
    };
    match scorer {
        "kl" => mean(kl).map(|nats| nats / clip_nats),
        "symmetric-kl" => mean(|p, q| 0.5 * (kl(p, q) + kl(q, p))).map(|nats| nats / clip_nats),
        "tv" => mean(|p, q| p.buckets().zip(q.buckets()).map(|(p, q)| p.min(q).exp()).sum()),
        "js" => mean(|p, q| p.buckets().chain(q.buckets()).map(|ln| 0.5 * ln.exp()).sum()),
        "delta-ce" | "top1" | "exact-text" => Some(0.0),
        _ => None,
    }
}

/// What a claim about lower bounds does not say.
pub fn caveat(coverage: &Coverage) -> Option<String> {
    let bound = coverage.mean_at_most.map_or_else(
        || "how much higher is not known for this scorer".to_owned(),
        |most| format!("over whole distributions the mean score is at most {}", number(most)),
    );
    coverage.lower_bound.then(|| {
        format!(
            " (of distributions coarsened to the reference's {COARSE_TOP} likeliest tokens and {COARSE_BUCKETS} \
             buckets, so each score is a lower bound; {bound}; --exact scores whole distributions)"
        )
    })
}

/// One row of a coarse trace.
struct Row<'a> {
    log_sum_exp: f64,
    entropy: f64,
    kept: &'a [f32],
    buckets: &'a [f32],
    least: &'a [f32],
}

impl Row<'_> {
    /// ln of each bucket's probability.
    fn buckets(&self) -> impl Iterator<Item = f64> {
        self.buckets.iter().map(|&z| f64::from(z) - self.log_sum_exp)
    }

    /// Sum of p ln p over what is not kept one by one.
    fn rest_p_ln_p(&self) -> f64 {
        let kept: f64 = self.kept.iter().map(|&z| f64::from(z) - self.log_sum_exp).map(x_ln_x).sum();
        -self.entropy - kept
    }
}

/// x ln x, from ln x.
fn x_ln_x(ln: f64) -> f64 {
    if ln == f64::NEG_INFINITY { 0.0 } else { ln.exp() * ln }
}

/// The most that KL(p ‖ q) can be above its coarsened value, in nats.
fn kl(p: &Row<'_>, q: &Row<'_>) -> f64 {
    let least = q.least.iter().map(|&z| f64::from(z) - q.log_sum_exp);
    let apart: f64 = p
        .buckets()
        .zip(q.buckets().zip(least))
        .filter(|(p, (q, least))| p.is_finite() && q.is_finite() && least.is_finite())
        .map(|(p, (q, least))| p.exp() * (q - least))
        .sum();
    let within = p.rest_p_ln_p() - p.buckets().map(x_ln_x).sum::<f64>();
    let mass: f64 = p.buckets().map(f64::exp).sum();
    (apart + within + ROUNDING * mass).max(0.0)
}

/// The rows of a coarse trace; none of another one.
fn rows(trace: &Trace) -> impl Iterator<Item = Row<'_>> {
    let (logits, buckets, least) = match &trace.distribution {
        Distribution::Coarse { logits, bucket_logits, bucket_least, .. } => {
            (logits.as_slice(), bucket_logits.as_slice(), bucket_least.as_slice())
        }
        _ => Default::default(),
    };
    let cells = logits
        .chunks_exact(COARSE_TOP)
        .zip(buckets.chunks_exact(COARSE_BUCKETS).zip(least.chunks_exact(COARSE_BUCKETS)));
    cells.zip(trace.log_sum_exp.iter().zip(&trace.entropy)).map(
        |((kept, (buckets, least)), (&log_sum_exp, &entropy))| Row {
            log_sum_exp,
            entropy,
            kept,
            buckets,
            least,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::modes::CLIP_NATS;
    use crate::engine::softmax::{buckets, summarize, top_ids};

    /// Logits that fall off with the token's rank, and how far the second model is from them.
    fn logits(vocab: u64, seed: u64, noise: f32) -> Vec<f32> {
        let random = |x: u64| {
            let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let x = (x ^ (x >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((x ^ (x >> 32)) & 0xffff) as f32 / 65_536.0 - 0.5
        };
        (0..vocab)
            .map(|id| 6.0 * random(id ^ seed << 40) + noise * random(id ^ seed << 40 ^ 0x5555 << 20))
            .collect()
    }

    fn trace(all: &[Vec<f32>], ids: &[Vec<u32>]) -> Trace {
        let (mut logits, mut bucket_logits, mut bucket_least) = (Vec::new(), Vec::new(), Vec::new());
        let (mut log_sum_exp, mut entropy) = (Vec::new(), Vec::new());
        for (row, ids) in all.iter().zip(ids) {
            let summary = summarize(row).unwrap();
            let rest = buckets(row, ids, summary.log_sum_exp);
            logits.extend(ids.iter().map(|&id| row[id as usize]));
            bucket_logits.extend(rest.logits);
            bucket_least.extend(rest.least);
            log_sum_exp.push(summary.log_sum_exp);
            entropy.push(summary.entropy);
        }
        Trace {
            tokens: vec![0; all.len() + 1],
            scored_from: 1,
            vocab: all[0].len() as u32,
            token_logprobs: vec![-1.0; all.len()],
            argmax: vec![0; all.len()],
            log_sum_exp,
            entropy,
            distribution: Distribution::Coarse {
                kept: COARSE_TOP as u32,
                ids: ids.concat(),
                logits,
                bucket_logits,
                bucket_least,
            },
        }
    }

    /// ln p of all cells of a row, whole or coarse.
    fn whole(row: &[f32]) -> Vec<f64> {
        let sum = summarize(row).unwrap().log_sum_exp;
        row.iter().map(|&z| f64::from(z) - sum).collect()
    }

    fn coarse(trace: &Trace, at: usize) -> Vec<f64> {
        let row = rows(trace).nth(at).unwrap();
        row.kept.iter().map(|&z| f64::from(z) - row.log_sum_exp).chain(row.buckets()).collect()
    }

    /// The truth lies between the coarse value and that value plus the bound, for every measure.
    #[test]
    fn the_truth_is_between_the_coarse_value_and_its_bound() {
        let kl = |p: &[f64], q: &[f64]| {
            p.iter().zip(q).filter(|(p, _)| p.is_finite()).map(|(p, q)| p.exp() * (p - q)).sum::<f64>()
        };
        let tv =
            |p: &[f64], q: &[f64]| 0.5 * p.iter().zip(q).map(|(p, q)| (p.exp() - q.exp()).abs()).sum::<f64>();
        let js = |p: &[f64], q: &[f64]| {
            let middle: Vec<f64> =
                p.iter().zip(q).map(|(p, q)| f64::midpoint(p.exp(), q.exp()).ln()).collect();
            0.5 * (kl(p, &middle) + kl(q, &middle)) / std::f64::consts::LN_2
        };
        for noise in [0.0f32, 0.1, 1.0, 6.0] {
            let reference: Vec<Vec<f32>> = (0..3).map(|row| logits(20_000, row, 0.0)).collect();
            let candidate: Vec<Vec<f32>> = (0..3).map(|row| logits(20_000, row, noise)).collect();
            let ids: Vec<Vec<u32>> = reference.iter().map(|row| top_ids(row)).collect();
            let (p, q) = (trace(&reference, &ids), trace(&candidate, &ids));
            let mean = |of: &dyn Fn(usize) -> f64| (0..3).map(of).sum::<f64>() / 3.0;
            for (scorer, unit, of) in [
                ("kl", CLIP_NATS, &kl as &dyn Fn(&[f64], &[f64]) -> f64),
                ("symmetric-kl", CLIP_NATS, &|p: &[f64], q: &[f64]| 0.5 * (kl(p, q) + kl(q, p))),
                ("tv", 1.0, &tv),
                ("js", 1.0, &js),
            ] {
                let truth = mean(&|at| of(&whole(&reference[at]), &whole(&candidate[at]))) / unit;
                let seen = mean(&|at| of(&coarse(&p, at), &coarse(&q, at))) / unit;
                let more = left_out(scorer, CLIP_NATS, &p, &q).unwrap();
                assert!(
                    truth >= seen - 1e-5 && truth <= seen + more + 1e-9,
                    "{scorer} {noise}: {seen} {truth} {more}"
                );
                assert!(noise < 1.0 || truth > seen + 1e-3, "{scorer}: nothing was left out");
            }
        }
        let same = trace(&[logits(9000, 1, 0.0)], &[(0..256).collect()]);
        assert_eq!(left_out("top1", CLIP_NATS, &same, &same), Some(0.0));
        assert_eq!(left_out("somebody's", CLIP_NATS, &same, &same), None);
    }

    #[test]
    fn the_mean_counts_what_was_counted() {
        let row = logits(9000, 1, 0.0);
        let reference = trace(std::slice::from_ref(&row), &[top_ids(&row)]);
        let mut tally = Tally::default();
        assert_eq!(tally.coverage(0), None, "nothing was scored");
        tally.note(&reference, 0.5, Some(0.25));
        tally.note(&reference, 0.9, Some(0.25));
        tally.note(&reference, 0.0, None);
        let two = tally.coverage(2).unwrap();
        assert_eq!((two.kind, two.lower_bound, two.mean_at_most), (CoverageKind::Coarse, true, Some(0.875)));
        assert!(two.rest_mass > 0.0 && two.rest_mass < 1.0);
        assert_eq!(tally.coverage(3).unwrap().mean_at_most, None);
        assert!(caveat(&two).unwrap().contains("at most 0.875"));
        let full = Trace { distribution: Distribution::Full { logits: row }, ..reference };
        let mut tally = Tally::default();
        tally.note(&full, 0.5, left_out("kl", CLIP_NATS, &full, &full));
        let full = tally.coverage(1).unwrap();
        assert_eq!((full.kind, full.lower_bound, full.mean_at_most), (CoverageKind::Full, false, Some(0.5)));
        assert_eq!(caveat(&full), None);
    }
}
