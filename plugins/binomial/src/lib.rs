//! Decider `binomial`: for scores that are pass (0) or fail (1), such as those of
//! `exact-text`.
//!
//! Against every failure rate `p` runs the likelihood ratio of a mixture of all rates
//! (Jeffreys' prior, Beta(1/2, 1/2)) over `p` itself (Robbins 1970):
//!
//! ```text
//! E_n(p) = prod_i q_i(x_i) / (p^k (1 - p)^(n - k))        k failures among n scores
//! q_i(1) = (failures before + 1/2) / i                    q_i(0) = (passes before + 1/2) / i
//! ```
//!
//! At the true rate this is a martingale that starts at one, exactly and for every
//! sample size: no approximation, no variance. So `{ p : E_n(p) <= 1 / alpha }` holds the
//! rate at every time at once with probability at least 1 - alpha (Ville). It is an
//! interval around k / n; its ends are found by bisection.
//!
//! The evidence against "the rate is at least delta" is the least `E_n(p)` over
//! `p >= delta`, likewise for gamma. Any score other than 0 and 1 is refused.

use assayd_plugin_sdk::{Decider, DecisionParams, Refusal, Step, Verdict, export_decider};
use serde::{Deserialize, Serialize};

/// Halvings of [0, 1]: ends are exact to the last bit or two.
const HALVINGS: u32 = 60;

/// The running state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Binomial {
    params: DecisionParams,
    verdict: Verdict,
    passed: u64,
    failed: u64,
    /// ln of the mixture's likelihood.
    log_mixture: f64,
}

/// `k ln p`, which is 0 for k = 0 also where p is.
fn times_ln(k: u64, p: f64) -> f64 {
    if k == 0 { 0.0 } else { k as f64 * p.ln() }
}

impl Binomial {
    /// ln E_n(p); infinite for a rate that the scores rule out.
    fn log_e(&self, p: f64) -> f64 {
        let log_likelihood = times_ln(self.failed, p) + times_ln(self.passed, 1.0 - p);
        self.log_mixture - log_likelihood
    }

    fn rate(&self) -> f64 {
        self.failed as f64 / (self.failed + self.passed) as f64
    }

    /// The rate farthest from k / n towards `far` that is not ruled out, rounded outwards.
    fn end(&self, far: f64) -> f64 {
        let threshold = -self.params.alpha.ln();
        if self.log_e(far) <= threshold {
            return far;
        }
        let (mut inside, mut outside) = (self.rate(), far);
        for _ in 0..HALVINGS {
            let middle = inside.midpoint(outside);
            if self.log_e(middle) <= threshold { inside = middle } else { outside = middle }
        }
        outside
    }
}

impl Decider for Binomial {
    fn start(params: &DecisionParams) -> Result<Self, Refusal> {
        Ok(Self { params: *params, verdict: Verdict::default(), passed: 0, failed: 0, log_mixture: 0.0 })
    }

    fn step(&mut self, score: f64) -> Result<Step, Refusal> {
        let so_far = if score == 0.0 {
            &mut self.passed
        } else if score == 1.0 {
            &mut self.failed
        } else {
            return Err(Refusal::InvalidEvidence(format!(
                "binomial takes scores that are 0 (pass) or 1 (fail), not {score}; exact-text gives such scores"
            )));
        };
        let likely = *so_far as f64 + 0.5;
        *so_far += 1;
        self.log_mixture += (likely / (self.passed + self.failed) as f64).ln();

        let DecisionParams { alpha, gamma, delta, .. } = self.params;
        // E_n falls towards k / n and rises beyond, so these are its least values.
        let log_e_same = self.log_e(delta.max(self.rate()));
        let log_e_different = self.log_e(gamma.min(self.rate()));
        if !(log_e_same.is_finite() && log_e_different.is_finite()) {
            return Err(Refusal::Numeric(format!("the evidence is {log_e_same} and {log_e_different}")));
        }
        let threshold = -alpha.ln();
        let decision = self.verdict.hear(log_e_same > threshold, log_e_different > threshold);
        Ok(Step {
            decision,
            interval: Some((self.end(0.0), self.end(1.0))),
            log_e_same: Some(log_e_same),
            log_e_different: Some(log_e_different),
        })
    }
}

export_decider!("binomial", Binomial);

#[cfg(test)]
mod tests;
