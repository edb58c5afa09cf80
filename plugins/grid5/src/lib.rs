//! Decider `grid5`: two mixtures of five betting e-processes each.
//!
//! ```text
//! E_same      = sum_j w_j prod_i (1 + c_j / (1 - delta) * (delta - x_i))    against "mean >= delta"
//! E_different = sum_j w_j prod_i (1 + c_j / gamma       * (x_i - gamma))    against "mean <= gamma"
//! ```
//!
//! Every factor is at least `1 - c_j > 0` and has conditional mean at most one under its
//! null hypothesis, so each product and their mixture are nonnegative supermartingales,
//! and Ville's inequality bounds the chance that one ever reaches `1 / alpha` by alpha
//! (Waudby-Smith and Ramdas 2024; statistics of the null need no independence). The
//! verdict is the first crossing of `ln(1 / alpha)`; if both cross with the same score
//! the mean lies between and the decision stays UNDECIDED. No variance is estimated and
//! no score is kept: the state is ten running logarithms.

use assayd_plugin_sdk::{Decider, DecisionParams, Refusal, Step, Verdict, export_decider};
use serde::{Deserialize, Serialize};

/// Bets as shares of the largest allowed one, and their weights.
const GRID: [(f64, f64); 5] = [(0.99, 0.5), (0.5, 0.2), (0.25, 0.15), (0.1, 0.1), (0.03, 0.05)];

/// The running state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Grid5 {
    params: DecisionParams,
    log_same: [f64; 5],
    log_different: [f64; 5],
    verdict: Verdict,
}

/// ln of the sum of `w_j exp(l_j)`.
fn log_mixture(logs: &[f64; 5]) -> f64 {
    let terms = || logs.iter().zip(GRID).map(|(log, (_, weight))| log + weight.ln());
    let max = terms().fold(f64::NEG_INFINITY, f64::max);
    max + terms().map(|term| (term - max).exp()).sum::<f64>().ln()
}

impl Decider for Grid5 {
    fn start(params: &DecisionParams) -> Result<Self, Refusal> {
        Ok(Self { params: *params, log_same: [0.0; 5], log_different: [0.0; 5], verdict: Verdict::default() })
    }

    fn step(&mut self, score: f64) -> Result<Step, Refusal> {
        let DecisionParams { alpha, gamma, delta, .. } = self.params;
        for (log, (share, _)) in self.log_same.iter_mut().zip(GRID) {
            *log += (share / (1.0 - delta) * (delta - score)).ln_1p();
        }
        for (log, (share, _)) in self.log_different.iter_mut().zip(GRID) {
            *log += (share / gamma * (score - gamma)).ln_1p();
        }
        let (same, different) = (log_mixture(&self.log_same), log_mixture(&self.log_different));
        if !(same.is_finite() && different.is_finite()) {
            return Err(Refusal::Numeric(format!("the evidence is {same} and {different}")));
        }
        let threshold = -alpha.ln();
        let decision = self.verdict.hear(same >= threshold, different >= threshold);
        Ok(Step { decision, interval: None, log_e_same: Some(same), log_e_different: Some(different) })
    }
}

export_decider!("grid5", Grid5);

#[cfg(test)]
mod tests;
