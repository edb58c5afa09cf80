//! Decider `prpl-eb`: the predictable plug-in empirical Bernstein confidence sequence of
//! Waudby-Smith and Ramdas (JRSS-B 2024, theorem 2), two-sided at alpha, each side at
//! `a = alpha / 2`.
//!
//! ```text
//! b_t   = min( sqrt(2 ln(1/a) / (t ln(1 + t) s_(t-1))), 1/2 )     s_t = (1/4 + sum (x_i - m_i)^2) / (t + 1)
//! lower = sum b_i x_i / sum b_i - (ln(1/a) + sum v_i psi(b_i)) / sum b_i
//! v_i   = (x_i - mean of the scores before i)^2                   psi(b) = -ln(1 - b) - b
//! ```
//!
//! with `m_t = (1/2 + sum_(i<=t) x_i) / (t + 1)` and the mean of no scores taken as 0. The
//! upper end is one minus the lower end for `1 - x`. It holds the mean at every time at
//! once with probability at least 1 - alpha, if all scores have the same conditional mean.
//! The state is seven numbers. The interval after `n` scores is that of `n` scores; it is not
//! intersected with those before.

use assayd_plugin_sdk::{Decider, DecisionParams, Refusal, Step, Verdict, export_decider};
use serde::{Deserialize, Serialize};

/// The largest bet.
const TRUNCATION: f64 = 0.5;

/// The running state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PrplEb {
    params: DecisionParams,
    verdict: Verdict,
    n: u64,
    sum: f64,
    /// Squared distances to the regularised means, for the bets.
    squares: f64,
    bets: f64,
    bets_by_scores: f64,
    /// `v psi(b)` for the scores, and for one minus the scores.
    spread: [f64; 2],
}

impl PrplEb {
    fn interval(&self) -> (f64, f64) {
        let [below, above] = self.spread.map(|spread| ((2.0 / self.params.alpha).ln() + spread) / self.bets);
        let center = self.bets_by_scores / self.bets;
        ((center - below).clamp(0.0, 1.0), (center + above).clamp(0.0, 1.0))
    }

    fn push(&mut self, score: f64) {
        self.n += 1;
        let t = self.n as f64;
        let variance = (0.25 + self.squares) / t;
        let bet = (2.0 * (2.0 / self.params.alpha).ln() / (t * t.ln_1p() * variance)).sqrt().min(TRUNCATION);
        let psi = -(-bet).ln_1p() - bet;
        // The mean of no scores counts as 0 on either side.
        let distances = if self.n == 1 { [score, 1.0 - score] } else { [score - self.sum / (t - 1.0); 2] };
        for (spread, distance) in self.spread.iter_mut().zip(distances) {
            *spread += distance * distance * psi;
        }
        self.bets += bet;
        self.bets_by_scores += bet * score;
        self.sum += score;
        let mean = (0.5 + self.sum) / (t + 1.0);
        self.squares += (score - mean) * (score - mean);
    }
}

impl Decider for PrplEb {
    fn start(params: &DecisionParams) -> Result<Self, Refusal> {
        Ok(Self {
            params: *params,
            verdict: Verdict::default(),
            n: 0,
            sum: 0.0,
            squares: 0.0,
            bets: 0.0,
            bets_by_scores: 0.0,
            spread: [0.0; 2],
        })
    }

    fn step(&mut self, score: f64) -> Result<Step, Refusal> {
        self.push(score);
        let (lower, upper) = self.interval();
        if lower.is_nan() || upper.is_nan() {
            return Err(Refusal::Numeric(format!("the interval is {lower} to {upper}")));
        }
        let decision = self.verdict.hear(upper < self.params.delta, lower > self.params.gamma);
        Ok(Step { decision, interval: Some((lower, upper)), log_e_same: None, log_e_different: None })
    }
}

export_decider!("prpl-eb", PrplEb);

#[cfg(test)]
mod tests;
