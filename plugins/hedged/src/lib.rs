//! Decider `hedged`: the hedged-capital betting confidence sequence of Waudby-Smith and
//! Ramdas (JRSS-B 2024, theorem 3), two-sided at alpha.
//!
//! ```text
//! K+(m) = prod_i (1 + min(b_i, c / m)       * (x_i - m))     a bet that the mean is above m
//! K-(m) = prod_i (1 - min(b_i, c / (1 - m)) * (x_i - m))     a bet that it is below
//! interval = { m : K+(m) / 2 <= 1 / alpha  and  K-(m) / 2 <= 1 / alpha }
//! ```
//!
//! with `c = 1/2` and the bet `b_i` from the variance seen before score `i` (`Bets`).
//! At the true mean both capitals are nonnegative martingales, so by Ville's inequality
//! the interval holds it at every time at once with probability at least 1 - alpha, if all
//! scores have the same conditional mean. K+ falls and K- rises in m, so the set is an
//! interval, and its ends are found by bracketing and not on a grid.
//!
//! SAME once `K-(delta) / 2 > 1 / alpha`, which is: the upper end is below delta.
//! DIFFERENT once the lower end is above gamma. Every score is kept, because the ends
//! depend on each; [`CAPACITY`] of them at most.

use assayd_plugin_sdk::{Decider, DecisionParams, Refusal, Step, Verdict, export_decider};
use serde::{Deserialize, Serialize};

/// Scores that fit in the state (8 bytes each, of 64 KiB).
pub const CAPACITY: usize = 4096;
/// Share of the capital that one bet may lose.
const TRUNCATION: f64 = 0.5;
/// Share of the capital bet on either side.
const HALF: f64 = 0.5;
/// Ends are this close to the exact ones, and outside of them.
const TOLERANCE: f64 = 1e-12;

/// The running state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hedged {
    params: DecisionParams,
    scores: Vec<f64>,
    verdict: Verdict,
    /// What follows from the scores is not saved but found again.
    #[serde(skip)]
    bets: Bets,
}

/// `b_t = sqrt(2 ln(2 / alpha) / (t ln(1 + t) s_(t-1)))` with the variance estimate
/// `s_t = (1/4 + sum_(i<=t) (x_i - m_i)^2) / (t + 1)`, `m_t = (1/2 + sum_(i<=t) x_i) / (t + 1)`.
#[derive(Debug, Clone, Default)]
struct Bets {
    sum: f64,
    squares: f64,
    /// One per score.
    bets: Vec<f64>,
}

impl Bets {
    fn push(&mut self, score: f64, alpha: f64) {
        let t = self.bets.len() as f64 + 1.0;
        let variance = (0.25 + self.squares) / t;
        self.bets.push((2.0 * (2.0 / alpha).ln() / (t * t.ln_1p() * variance)).sqrt());
        self.sum += score;
        let mean = (0.5 + self.sum) / (t + 1.0);
        self.squares += (score - mean) * (score - mean);
    }
}

/// Which way a bet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Above,
    Below,
}

impl Hedged {
    /// ln K+(m) or ln K-(m).
    fn log_capital(&self, side: Side, m: f64) -> f64 {
        let (sign, room) = match side {
            Side::Above => (1.0, m),
            Side::Below => (-1.0, 1.0 - m),
        };
        // No limit where nothing can be lost.
        let most = if room > 0.0 { TRUNCATION / room } else { f64::INFINITY };
        let (mut log, mut product) = (0.0, 1.0_f64);
        for (score, bet) in self.scores.iter().zip(&self.bets.bets) {
            product *= 1.0 + bet.min(most) * sign * (score - m);
            // One factor is at least a half and far below 1e100: no overflow on the way.
            if !(1e-200..=1e200).contains(&product) {
                log += product.ln();
                product = 1.0;
            }
        }
        log + product.ln()
    }

    /// The end of the interval on this side.
    fn end(&self, side: Side) -> f64 {
        let threshold = -(HALF * self.params.alpha).ln();
        // Distance from the far end of [0, 1], so that the capital falls on both sides.
        let place = |distance: f64| match side {
            Side::Above => distance,
            Side::Below => 1.0 - distance,
        };
        let excess = |distance: f64| self.log_capital(side, place(distance)) - threshold;
        place(last_positive(excess))
    }
}

/// Where a falling function on [0, 1] stops being positive, approached from below: 0 if it
/// never is. Every third probe halves the bracket, the others follow the secant (Illinois).
fn last_positive(f: impl Fn(f64) -> f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    let (mut at_low, mut at_high) = (f(low), f(high));
    if at_low <= 0.0 {
        return 0.0;
    }
    if at_high > 0.0 {
        return 1.0;
    }
    let mut round = 0_u32;
    while high - low > TOLERANCE {
        round += 1;
        let secant = low + (high - low) * at_low / (at_low - at_high);
        let between = secant.clamp(low + TOLERANCE / 2.0, high - TOLERANCE / 2.0);
        let probe =
            if round.is_multiple_of(3) || between.is_nan() { low + (high - low) / 2.0 } else { between };
        let value = f(probe);
        if value > 0.0 {
            (low, at_low, at_high) = (probe, value, at_high / 2.0);
        } else {
            (high, at_high, at_low) = (probe, value, at_low / 2.0);
        }
    }
    low
}

impl Decider for Hedged {
    fn start(params: &DecisionParams) -> Result<Self, Refusal> {
        if params.n_max > CAPACITY as u64 {
            return Err(Refusal::InvalidParams(format!(
                "hedged keeps every score and takes at most {CAPACITY}, not {}",
                params.n_max
            )));
        }
        let (verdict, bets) = (Verdict::default(), Bets::default());
        Ok(Self { params: *params, scores: Vec::new(), verdict, bets })
    }

    fn step(&mut self, score: f64) -> Result<Step, Refusal> {
        if self.scores.len() >= CAPACITY {
            return Err(Refusal::Unsupported(format!("hedged takes at most {CAPACITY} scores")));
        }
        let DecisionParams { alpha, gamma, delta, .. } = self.params;
        for &earlier in self.scores.get(self.bets.bets.len()..).unwrap_or_default() {
            self.bets.push(earlier, alpha);
        }
        self.scores.push(score);
        self.bets.push(score, alpha);

        let log_e_same = HALF.ln() + self.log_capital(Side::Below, delta);
        let log_e_different = HALF.ln() + self.log_capital(Side::Above, gamma);
        if !(log_e_same.is_finite() && log_e_different.is_finite()) {
            return Err(Refusal::Numeric(format!("the evidence is {log_e_same} and {log_e_different}")));
        }
        let threshold = -alpha.ln();
        let decision = self.verdict.hear(log_e_same > threshold, log_e_different > threshold);
        let (lower, upper) = (self.end(Side::Above), self.end(Side::Below));
        Ok(Step {
            decision,
            // Scores whose mean changes can leave no single mean that fits them all.
            interval: (lower <= upper).then_some((lower, upper)),
            log_e_same: Some(log_e_same),
            log_e_different: Some(log_e_different),
        })
    }
}

export_decider!("hedged", Hedged);

#[cfg(test)]
mod tests;
