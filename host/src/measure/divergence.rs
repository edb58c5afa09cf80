//! How two models' predictions differ, position by position, and in sum.
//!
//! With `p` the reference's and `q` the candidate's distribution and `y` the next token:
//! KL = sum p (ln p - ln q), delta p = q(y) - p(y), top 1 says whether argmax p = argmax q. Standard
//! errors of means are sqrt((mean of squares - mean^2) / (n - 1)), the ratio of perplexities
//! is exp of the mean difference of the negative log-likelihoods and its error follows from
//! the paired differences, the error of the root mean square is half the error of the mean
//! square by the root (llama.cpp, `tools/perplexity`). Unlike there, no log-probability is
//! clamped or stored in 16 bits, and no token is passed over.
//!
//! Positions of one sequence are not independent, so an error by sequence, with sequences as
//! the unit, stands beside each error of a mean.

use serde::Serialize;

use crate::domain::moments::{Moments, clustered_stderr, quantile, quantile_stderr};

/// One position scored by both models.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Position {
    /// KL(reference ‖ candidate) in nats.
    pub kl: f64,
    /// ln p of the next token.
    pub reference_logprob: f64,
    pub candidate_logprob: f64,
    pub same_top: bool,
}

/// KL(reference ‖ candidate) in nats of one row of logits each, with the logarithm of the sum
/// of their exponentials. Equal rows give exactly 0; rounding below 0 is cut off.
pub fn kl<T: Copy + Into<f64>>(
    reference: &[T],
    reference_lse: f64,
    candidate: &[T],
    candidate_lse: f64,
) -> f64 {
    let shift = candidate_lse - reference_lse;
    let terms = reference.iter().zip(candidate).map(|(&z, &w)| {
        let (z, w): (f64, f64) = (z.into(), w.into());
        (z - reference_lse).exp() * (z - w + shift)
    });
    terms.sum::<f64>().max(0.0)
}

/// A mean and its standard errors; an error is null where it is not defined.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Errors {
    /// With positions as the unit.
    pub stderr: Option<f64>,
    /// With sequences as the unit; null for a single sequence.
    pub stderr_by_sequence: Option<f64>,
}

/// Distribution of the KL divergence over positions, in nats.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KlSummary {
    pub mean: f64,
    #[serde(flatten)]
    pub errors: Errors,
    pub median: f64,
    pub median_stderr: Option<f64>,
    pub p99: f64,
    pub p99_stderr: Option<f64>,
    pub p999: f64,
    pub p999_stderr: Option<f64>,
    pub max: f64,
}

/// Candidate's minus reference's probability of the next token.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeltaP {
    pub mean: f64,
    #[serde(flatten)]
    pub errors: Errors,
    pub rms: f64,
    /// Null where the root mean square is 0.
    pub rms_stderr: Option<f64>,
}

/// What the positions come to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// In nats per token.
    pub mean_nll_reference: f64,
    pub mean_nll_reference_stderr: Option<f64>,
    pub mean_nll_candidate: f64,
    pub mean_nll_candidate_stderr: Option<f64>,
    pub perplexity_reference: f64,
    pub perplexity_reference_stderr: Option<f64>,
    pub perplexity_candidate: f64,
    pub perplexity_candidate_stderr: Option<f64>,
    /// Candidate's by reference's.
    pub perplexity_ratio: f64,
    pub perplexity_ratio_stderr: Option<f64>,
    /// Mean difference of the negative log-likelihoods, candidate's minus reference's.
    pub log_perplexity_ratio: f64,
    pub log_perplexity_ratio_errors: Errors,
    pub kl: KlSummary,
    /// Share of positions with one and the same most likely token.
    pub top1_agreement: f64,
    pub top1_agreement_stderr: Option<f64>,
    pub delta_p: DeltaP,
    pub positions: usize,
}

/// Sums up positions, given in order, of sequences with `sizes` positions each. `None` without
/// any.
pub fn summarize(positions: &[Position], sizes: &[usize]) -> Option<Summary> {
    let column = |value: fn(&Position) -> f64| positions.iter().map(value).collect::<Vec<f64>>();
    let mean = |values: &[f64]| {
        let moments = Moments::of(values.iter().copied());
        let errors = Errors { stderr: moments.stderr(), stderr_by_sequence: clustered_stderr(values, sizes) };
        moments.mean().map(|mean| (mean, errors))
    };
    let (nll_reference, nll_reference_errors) = mean(&column(|p| -p.reference_logprob))?;
    let (nll_candidate, nll_candidate_errors) = mean(&column(|p| -p.candidate_logprob))?;
    let (log_ratio, log_ratio_errors) = mean(&column(|p| p.reference_logprob - p.candidate_logprob))?;
    let (top1, top1_errors) = mean(&column(|p| f64::from(u8::from(p.same_top))))?;
    let delta = column(|p| p.candidate_logprob.exp() - p.reference_logprob.exp());
    let (delta_mean, delta_errors) = mean(&delta)?;
    let squares: Vec<f64> = delta.iter().map(|d| d * d).collect();
    let (square, square_errors) = mean(&squares)?;
    let rms = square.sqrt();
    let mut divergences = column(|p| p.kl);
    let (kl_mean, kl_errors) = mean(&divergences)?;
    divergences.sort_unstable_by(f64::total_cmp);
    let at = |f: f64| quantile(&divergences, f);
    let by = |perplexity: f64, error: Option<f64>| error.map(|error| perplexity * error);
    let (perplexity_reference, perplexity_candidate) = (nll_reference.exp(), nll_candidate.exp());
    Some(Summary {
        mean_nll_reference: nll_reference,
        mean_nll_reference_stderr: nll_reference_errors.stderr,
        mean_nll_candidate: nll_candidate,
        mean_nll_candidate_stderr: nll_candidate_errors.stderr,
        perplexity_reference,
        perplexity_reference_stderr: by(perplexity_reference, nll_reference_errors.stderr),
        perplexity_candidate,
        perplexity_candidate_stderr: by(perplexity_candidate, nll_candidate_errors.stderr),
        perplexity_ratio: log_ratio.exp(),
        perplexity_ratio_stderr: by(log_ratio.exp(), log_ratio_errors.stderr),
        log_perplexity_ratio: log_ratio,
        log_perplexity_ratio_errors: log_ratio_errors,
        kl: KlSummary {
            mean: kl_mean,
            errors: kl_errors,
            median: at(0.5)?,
            median_stderr: quantile_stderr(&divergences, 0.5),
            p99: at(0.99)?,
            p99_stderr: quantile_stderr(&divergences, 0.99),
            p999: at(0.999)?,
            p999_stderr: quantile_stderr(&divergences, 0.999),
            max: at(1.0)?,
        },
        top1_agreement: top1,
        top1_agreement_stderr: top1_errors.stderr,
        delta_p: DeltaP {
            mean: delta_mean,
            errors: delta_errors,
            rms,
            rms_stderr: square_errors.stderr.filter(|_| rms > 0.0).map(|error| 0.5 / rms * error),
        },
        positions: positions.len(),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::Value;

    use super::*;

    fn lse(row: &[f64]) -> f64 {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        max + row.iter().map(|z| (z - max).exp()).sum::<f64>().ln()
    }

    fn argmax(row: &[f64]) -> usize {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        row.iter().position(|&z| z == max).unwrap()
    }

    fn position(reference: &[f64], candidate: &[f64], next: usize) -> Position {
        let (a, b) = (lse(reference), lse(candidate));
        Position {
            kl: kl(reference, a, candidate, b),
            reference_logprob: reference[next] - a,
            candidate_logprob: candidate[next] - b,
            same_top: argmax(reference) == argmax(candidate),
        }
    }

    fn close(got: f64, want: f64, what: &str) {
        assert!((got - want).abs() < 1e-9, "{what}: {got} instead of {want}");
    }

    /// Two positions over two tokens, by hand. Any constant may be added to a row of logits.
    /// 1: p = (3/4, 1/4), q = (1/2, 1/2), next token 0: KL = 3/4 ln 3/2 + 1/4 ln 1/2.
    /// 2: p = (1/2, 1/2), q = (1/4, 3/4), next token 1: KL = 1/2 ln 2 + 1/2 ln 2/3.
    #[test]
    fn two_positions_by_hand() {
        let ln = |values: [f64; 2]| values.map(|x| x.ln() + 7.0);
        let positions = [
            position(&ln([0.75, 0.25]), &ln([0.5, 0.5]), 0),
            position(&ln([0.5, 0.5]), &ln([0.25, 0.75]), 1),
        ];
        let got = summarize(&positions, &[1, 1]).unwrap();
        let (first, second) = (0.130_812_035_941_136_9, 0.143_841_036_225_890_4);
        close(got.kl.mean, (first + second) / 2.0, "mean");
        // Of two values: half their distance, whatever the unit.
        close(got.kl.errors.stderr.unwrap(), (second - first) / 2.0, "error");
        close(got.kl.errors.stderr_by_sequence.unwrap(), (second - first) / 2.0, "error by sequence");
        close(got.kl.median, (first + second) / 2.0, "median");
        close(got.kl.p99, 0.01 * first + 0.99 * second, "99 %");
        close(got.kl.max, second, "max");
        // NLL: reference ln 4/3 and ln 2, candidate ln 2 and ln 4/3.
        close(got.mean_nll_reference, (8.0f64 / 3.0).ln() / 2.0, "nll");
        close(got.perplexity_candidate, (8.0f64 / 3.0).sqrt(), "perplexity");
        close(got.perplexity_ratio, 1.0, "ratio");
        // Differences ln 3/2 and -ln 3/2: error ln 3/2.
        close(got.log_perplexity_ratio_errors.stderr.unwrap(), 1.5f64.ln(), "error of the ratio");
        // Delta p: -1/4 and 1/4.
        close(got.delta_p.mean, 0.0, "delta p");
        close(got.delta_p.errors.stderr.unwrap(), 0.25, "its error");
        close(got.delta_p.rms, 0.25, "rms");
        close(got.delta_p.rms_stderr.unwrap(), 0.0, "its error");
        // q prefers token 0 on the tie of position 1, as p does; on 2 they differ.
        close(got.top1_agreement, 0.5, "top 1");
        close(got.top1_agreement_stderr.unwrap(), 0.5, "its error");
        assert_eq!(got.positions, 2);
        assert!(summarize(&[], &[]).is_none());
    }

    #[test]
    fn equal_rows_differ_by_nothing_at_all() {
        let row: Vec<f32> = (0..1000u16).map(|i| f32::from(i % 37) * 0.731 - 9.0).collect();
        let sum = lse(&row.iter().map(|&z| f64::from(z)).collect::<Vec<_>>());
        assert_eq!(kl(&row, sum, &row, sum), 0.0);
        let equal = Position { kl: 0.0, reference_logprob: -1.0, candidate_logprob: -1.0, same_top: true };
        let got = summarize(&[equal; 3], &[3]).unwrap();
        assert_eq!((got.delta_p.rms, got.delta_p.rms_stderr), (0.0, None));
        assert_eq!((got.perplexity_ratio, got.top1_agreement), (1.0, 1.0));
        assert_eq!(got.kl.errors, Errors { stderr: Some(0.0), stderr_by_sequence: None });
    }

    /// Vectors made elsewhere, in f64, with llama.cpp's formulas and without its shortcuts.
    #[test]
    fn published_vectors() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/reference/kld-vectors.json");
        let Ok(text) = std::fs::read_to_string(&path) else {
            eprintln!("{} is not here; nothing to compare with", path.display());
            return;
        };
        let file: Value = serde_json::from_str(&text).unwrap();
        let rows = |value: &Value| serde_json::from_value::<Vec<Vec<f64>>>(value.clone()).unwrap();
        let cases = file["cases"].as_array().unwrap();
        assert!(!cases.is_empty());
        for case in cases {
            let (base, other) = (rows(&case["base_logits"]), rows(&case["q_logits"]));
            let next: Vec<usize> = serde_json::from_value(case["next_token"].clone()).unwrap();
            let positions: Vec<Position> =
                base.iter().zip(&other).zip(next).map(|((a, b), next)| position(a, b, next)).collect();
            let got = summarize(&positions, &[positions.len()]).unwrap();
            let want = &case["expected"];
            let value = |key: &str| want[key].as_f64().unwrap();
            let part = |key: &str, at: usize| want[key][at].as_f64();
            close(got.kl.max, value("max_kld"), "max");
            close(got.kl.p999, value("p99.9_kld"), "99.9 %");
            close(got.kl.p99, value("p99_kld"), "99 %");
            close(got.kl.median, value("median_kld"), "median");
            close(got.perplexity_reference, value("ppl_base"), "perplexity of the base");
            close(got.perplexity_candidate, value("ppl_q"), "perplexity of the other");
            for (what, pair, key) in [
                ("mean", (got.kl.mean, got.kl.errors.stderr), "mean_kld"),
                (
                    "log ratio",
                    (got.log_perplexity_ratio, got.log_perplexity_ratio_errors.stderr),
                    "ln_ppl_ratio",
                ),
                ("ratio", (got.perplexity_ratio, got.perplexity_ratio_stderr), "ppl_ratio"),
                ("delta p", (got.delta_p.mean, got.delta_p.errors.stderr), "mean_dp"),
                ("rms", (got.delta_p.rms, got.delta_p.rms_stderr), "rms_dp"),
                ("top 1", (got.top1_agreement, got.top1_agreement_stderr), "same_top"),
            ] {
                close(pair.0, part(key, 0).unwrap(), what);
                assert_eq!(pair.1.is_some(), part(key, 1).is_some(), "{what}");
                if let (Some(got), Some(want)) = (pair.1, part(key, 1)) {
                    close(got, want, what);
                }
            }
        }
    }
}
