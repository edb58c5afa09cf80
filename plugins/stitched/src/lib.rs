//! Decider `stitched`: the empirical Bernstein confidence sequence of Howard, Ramdas,
//! McAuliffe and Sekhon (Annals of Statistics 2021) with a polynomial stitched boundary,
//! two-sided at alpha, each side at `a = alpha / 2`.
//!
//! ```text
//! |mean of the scores - mean of their conditional means| < u(V_t) / t     V_t = sum (x_i - p_i)^2
//! u(v) = sqrt(k1^2 v' l + (k2 c l)^2) + k2 c l                            v' = max(v, v_min)
//! l    = s ln ln(eta v' / v_min) + ln(zeta(s) / (ln eta)^s) + ln(1/a)
//! k1   = (eta^(1/4) + eta^(-1/4)) / sqrt 2      k2 = (sqrt eta + 1) / 2
//! ```
//!
//! with `c = 1` (the range of the scores), `eta = 2`, `s = 1.4`, `v_min = 1`, and
//! the prediction `p_i = (1/2 + sum of the scores before i) / i`. Unlike the betting
//! intervals it covers the running average of the conditional means, so it holds for scores
//! whose mean drifts, such as challenges in a fixed order. The state is three numbers.

use assayd_plugin_sdk::{Decider, DecisionParams, Refusal, Step, Verdict, export_decider};
use serde::{Deserialize, Serialize};

const ETA: f64 = 2.0;
const S: f64 = 1.4;
/// Riemann's zeta function at [`S`].
const ZETA_S: f64 = 3.1055472779776;
/// Intrinsic time before which the boundary is flat.
const V_MIN: f64 = 1.0;
/// Range of the scores.
const RANGE: f64 = 1.0;

/// The running state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stitched {
    params: DecisionParams,
    verdict: Verdict,
    n: u64,
    sum: f64,
    squares: f64,
}

/// `u(v)` of the module's formula at one-sided level `alpha`.
fn boundary(v: f64, alpha: f64, v_min: f64, range: f64) -> f64 {
    let v = v.max(v_min);
    let l = S * (ETA * v / v_min).ln().ln() + (ZETA_S / ETA.ln().powf(S)).ln() - alpha.ln();
    let k1 = (ETA.powf(0.25) + ETA.powf(-0.25)) / std::f64::consts::SQRT_2;
    let linear = (ETA.sqrt() + 1.0) / 2.0 * range * l;
    (k1 * k1 * v * l + linear * linear).sqrt() + linear
}

impl Decider for Stitched {
    fn start(params: &DecisionParams) -> Result<Self, Refusal> {
        Ok(Self { params: *params, verdict: Verdict::default(), n: 0, sum: 0.0, squares: 0.0 })
    }

    fn step(&mut self, score: f64) -> Result<Step, Refusal> {
        self.n += 1;
        let n = self.n as f64;
        let prediction = (0.5 + self.sum) / n;
        self.squares += (score - prediction) * (score - prediction);
        self.sum += score;
        let (mean, width) = (self.sum / n, boundary(self.squares, self.params.alpha / 2.0, V_MIN, RANGE) / n);
        let (lower, upper) = ((mean - width).clamp(0.0, 1.0), (mean + width).clamp(0.0, 1.0));
        if lower.is_nan() || upper.is_nan() {
            return Err(Refusal::Numeric(format!("the interval is {lower} to {upper}")));
        }
        let decision = self.verdict.hear(upper < self.params.delta, lower > self.params.gamma);
        Ok(Step { decision, interval: Some((lower, upper)), log_e_same: None, log_e_different: None })
    }
}

export_decider!("stitched", Stitched);

#[cfg(test)]
mod tests;
