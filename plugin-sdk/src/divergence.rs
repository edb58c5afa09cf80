//! A divergence per row, averaged over the rows, clipped and brought to [0, 1].

use crate::{Cells, Distribution, Refusal, Result, Score, Trial};

/// A divergence is never negative; rounding may take it this far below zero, not further.
const ROUNDING: f64 = 1e-9;

/// A divergence of every row of one trial, in the divergence's own unit.
#[derive(Debug, Clone, PartialEq)]
pub struct Divergence {
    /// One value per row, zero or more; infinite where one side has probability zero.
    pub rows: Vec<f64>,
    /// The distributions were coarsened, so every value is a lower bound.
    pub coarse: bool,
}

impl Divergence {
    /// Computes `of` for the cells of every row.
    ///
    /// # Errors
    /// What [`Trial::aligned_rows`] and [`Trial::cells`] say; [`Refusal::Numeric`] if a
    /// value is not a number or is below zero by more than rounding.
    pub fn of_rows(trial: &Trial<'_>, of: impl Fn(&Cells) -> f64) -> Result<Self> {
        let rows = trial.aligned_rows()?;
        let coarse = match trial.distribution()? {
            Distribution::Full => false,
            Distribution::Coarse => true,
            Distribution::Summary => {
                return Err(Refusal::Unsupported("the distributions were not captured".into()));
            }
        };
        let (reference, candidate) = (trial.reference.log_sum_exp(), trial.candidate.log_sum_exp());
        let (rows_usize, lengths) = (usize::try_from(rows).ok(), (reference.len(), candidate.len()));
        if rows_usize != Some(lengths.0) || rows_usize != Some(lengths.1) {
            return Err(Refusal::InvalidEvidence("there is not one log-sum-exp per row".into()));
        }
        let values = (0..rows).zip(reference.into_iter().zip(candidate)).map(|(row, log_sum_exp)| {
            let value = of(&trial.cells(row, log_sum_exp)?);
            if value.is_nan() || value < -ROUNDING {
                return Err(Refusal::Numeric(format!("row {row} has a divergence of {value}")));
            }
            Ok(value.max(0.0))
        });
        Ok(Self { rows: values.collect::<Result<_>>()?, coarse })
    }

    /// The mean over the rows; infinite if any row is.
    pub fn mean(&self) -> f64 {
        self.rows.iter().sum::<f64>() / self.rows.len() as f64
    }

    /// `min(mean, clip) / clip` with notes `mean_NAME`, `max_NAME` (left out if infinite),
    /// `rows`, `coarse` (1 or 0) and, if there are any, `infinite_rows`.
    ///
    /// # Errors
    /// [`Refusal::InvalidParams`] unless `clip` is a positive number.
    pub fn clipped(&self, name: &str, clip: f64) -> Result<Score> {
        if !(clip.is_finite() && clip > 0.0) {
            return Err(Refusal::InvalidParams(format!("the clip must be a positive number, not {clip}")));
        }
        let mean = self.mean();
        let mut score = Score::new((mean / clip).min(1.0));
        if mean.is_finite() {
            let max = self.rows.iter().copied().fold(0.0, f64::max);
            score = score.note(&format!("mean_{name}"), mean).note(&format!("max_{name}"), max);
        } else {
            let infinite = self.rows.iter().filter(|value| value.is_infinite()).count();
            score = score.note("infinite_rows", infinite as f64);
        }
        Ok(score.note("rows", self.rows.len() as f64).note("coarse", f64::from(u8::from(self.coarse))))
    }
}

/// `p ln(p / q)` summed over the cells, in nats: KL(p ‖ q). A cell with p = 0 adds nothing;
/// one with q = 0 and p > 0 makes it infinite.
pub fn kl_nats(ln_p: &[f64], ln_q: &[f64]) -> f64 {
    let term = |(&ln_p, &ln_q): (&f64, &f64)| {
        if ln_p == f64::NEG_INFINITY { 0.0 } else { ln_p.exp() * (ln_p - ln_q) }
    };
    ln_p.iter().zip(ln_q).map(term).sum()
}
