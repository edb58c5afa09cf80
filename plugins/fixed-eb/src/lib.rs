//! Decider `fixed-eb`: the empirical Bernstein bound of Maurer and Pontil (2009, theorem
//! 4) at a number of scores fixed beforehand, `n_max`. For comparison with the others: it
//! is the rule that auditors often use, with the right constants.
//!
//! ```text
//! half width = sqrt(2 V ln(2/a) / n) + 7 ln(2/a) / (3 (n - 1))      one side at a = alpha / 2
//! ```
//!
//! with `V` the sample variance (n - 1 in the denominator). The bound holds at one n only.
//! So there is no interval and no decision before `n_max` scores, whatever they show: looking
//! at every score and stopping at the first good one would break the claim. What comes
//! after changes nothing.

use assayd_plugin_sdk::{Decider, DecisionParams, Refusal, Step, Verdict, export_decider};
use serde::{Deserialize, Serialize};

/// The running state: Welford's mean and sum of squares.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FixedEb {
    params: DecisionParams,
    verdict: Verdict,
    n: u64,
    mean: f64,
    squares: f64,
}

/// Half width of the bound for one side at level `a`.
fn half_width(variance: f64, n: f64, a: f64) -> f64 {
    let log = (2.0 / a).ln();
    (2.0 * variance * log / n).sqrt() + 7.0 * log / (3.0 * (n - 1.0))
}

impl Decider for FixedEb {
    fn start(params: &DecisionParams) -> Result<Self, Refusal> {
        if params.n_max < 2 {
            return Err(Refusal::InvalidParams("fixed-eb needs an n_max of at least 2".into()));
        }
        Ok(Self { params: *params, verdict: Verdict::default(), n: 0, mean: 0.0, squares: 0.0 })
    }

    fn step(&mut self, score: f64) -> Result<Step, Refusal> {
        let DecisionParams { alpha, gamma, delta, n_max } = self.params;
        if self.n < n_max {
            self.n += 1;
            let off = score - self.mean;
            self.mean += off / self.n as f64;
            self.squares += off * (score - self.mean);
        }
        if self.n < n_max {
            let decision = self.verdict.hear(false, false);
            return Ok(Step { decision, interval: None, log_e_same: None, log_e_different: None });
        }
        let n = n_max as f64;
        let width = half_width(self.squares / (n - 1.0), n, alpha / 2.0);
        let (lower, upper) = ((self.mean - width).clamp(0.0, 1.0), (self.mean + width).clamp(0.0, 1.0));
        if lower.is_nan() || upper.is_nan() {
            return Err(Refusal::Numeric(format!("the interval is {lower} to {upper}")));
        }
        let decision = self.verdict.hear(upper < delta, lower > gamma);
        Ok(Step { decision, interval: Some((lower, upper)), log_e_same: None, log_e_different: None })
    }
}

export_decider!("fixed-eb", FixedEb);

#[cfg(test)]
mod tests;
