//! The one table of modes and constants. Printed by `assayd modes`, hashed into every report.
//!
//! Also the arithmetic that tells a demand that can be met from one that nobody can meet,
//! so that an impossible request is refused before a model is loaded, and so that every
//! row of the table is proven feasible at start-up.

use serde::{Deserialize, Serialize};

use super::Problem;
use super::score::{DecisionParams, complement};
use super::trace::{COARSE_BUCKETS, COARSE_TOP, FULL_VOCAB_LIMIT};

/// Name of a row of [`MODES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ModeName {
    Quick,
    #[default]
    Audit,
    Extended,
}

/// A row of the table: the default demand on a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Mode {
    pub name: ModeName,
    #[serde(flatten)]
    pub params: DecisionParams,
}

/// The modes (`statistics.md` section 4, "Suggested presets").
pub const MODES: [Mode; 3] = [
    Mode {
        name: ModeName::Quick,
        params: DecisionParams { alpha: 0.025, gamma: 0.05, delta: 0.25, n_max: 64 },
    },
    Mode {
        name: ModeName::Audit,
        params: DecisionParams { alpha: 0.01, gamma: 0.05, delta: 0.20, n_max: 200 },
    },
    Mode {
        name: ModeName::Extended,
        params: DecisionParams { alpha: 0.001, gamma: 0.02, delta: 0.10, n_max: 400 },
    },
];

impl ModeName {
    pub fn mode(self) -> Mode {
        let [quick, audit, extended] = MODES;
        match self {
            Self::Quick => quick,
            Self::Audit => audit,
            Self::Extended => extended,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Audit => "audit",
            Self::Extended => "extended",
        }
    }
}

/// A per-challenge divergence is clipped at this many nats and divided by it.
pub const CLIP_NATS: f64 = 0.1;
/// Scored positions per challenge.
pub const SCORED_POSITIONS: u32 = 64;
/// Challenges judged between two looks at the decider's answer; validity does not depend on it.
pub const ROUND: u64 = 8;
/// Share of failed challenges above which the assay ends as ERROR.
pub const MAX_FAILED_SHARE: f64 = 0.1;
/// Challenges from which `--band auto` chooses the clip, and those on which it then measures
/// the band. None of them is a judging challenge.
pub const PILOT_CHALLENGES: u64 = 8;
pub const CALIBRATION_CHALLENGES: u64 = 64;
/// Clips in nats that `--band auto` chooses from: the first that is at least ...
pub const CLIP_LADDER: [f64; 7] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// ... this many times the divergence of an honest quantisation (`statistics.md`: the range
/// of a score is to be 10 to 20 times gamma).
pub const CLIP_FACTOR: f64 = 10.0;
/// The scorer and the decider used unless the caller names others.
pub const DEFAULT_SCORER: &str = "kl";
pub const DEFAULT_DECIDER: &str = "grid5";
/// Tokens of context per judged sequence: the longest prompt at a byte a token, and the continuation.
pub const JUDGED_CONTEXT: u32 = 512;
/// Sequences in one batch of judged runs. Part of the table because batch shape moves logits.
pub const JUDGED_PARALLEL: u32 = 4;
/// Bets of the default decider: fractions of the largest safe bet, and their weights
/// (`statistics.md` section 4, GRID-5).
pub const GRID5_BETS: [(f64, f64); 5] = [(0.99, 0.5), (0.5, 0.2), (0.25, 0.15), (0.1, 0.1), (0.03, 0.05)];

/// Everything a verdict depends on besides its inputs, as it is hashed and printed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Constants {
    pub modes: [Mode; 3],
    pub clip_nats: f64,
    pub scored_positions: u32,
    pub round: u64,
    pub max_failed_share: f64,
    pub pilot_challenges: u64,
    pub calibration_challenges: u64,
    pub clip_ladder: [f64; 7],
    pub clip_factor: f64,
    pub judged_context: u32,
    pub judged_parallel: u32,
    pub full_vocab_limit: u32,
    pub coarse_top: usize,
    pub coarse_buckets: usize,
    pub default_scorer: &'static str,
    pub default_decider: &'static str,
    pub grid5_bets: [(f64, f64); 5],
}

/// The table.
pub fn constants() -> Constants {
    Constants {
        modes: MODES,
        clip_nats: CLIP_NATS,
        scored_positions: SCORED_POSITIONS,
        round: ROUND,
        max_failed_share: MAX_FAILED_SHARE,
        pilot_challenges: PILOT_CHALLENGES,
        calibration_challenges: CALIBRATION_CHALLENGES,
        clip_ladder: CLIP_LADDER,
        clip_factor: CLIP_FACTOR,
        judged_context: JUDGED_CONTEXT,
        judged_parallel: JUDGED_PARALLEL,
        full_vocab_limit: FULL_VOCAB_LIMIT,
        coarse_top: COARSE_TOP,
        coarse_buckets: COARSE_BUCKETS,
        default_scorer: DEFAULT_SCORER,
        default_decider: DEFAULT_DECIDER,
        grid5_bets: GRID5_BETS,
    }
}

/// Fewest scores after which anyone can say SAME: `ln(1/alpha) / -ln(1-delta)`, rounded up.
/// A stream of ones with probability delta gives so many zeros with probability alpha.
pub fn fewest_for_same(alpha: f64, delta: f64) -> u64 {
    to_count((1.0 / alpha).ln() / -(-delta).ln_1p())
}

/// Fewest scores after which anyone can say DIFFERENT: `ln(1/alpha) / ln(1/gamma)`, rounded up.
pub fn fewest_for_different(alpha: f64, gamma: f64) -> u64 {
    to_count((1.0 / alpha).ln() / (1.0 / gamma).ln())
}

/// Smallest delta that anyone can certify with `n` scores: `1 - alpha^(1/n)`.
pub fn attainable_delta(alpha: f64, n: u64) -> f64 {
    -(alpha.ln() / n as f64).exp_m1()
}

/// A bound on a count, rounded up with a hair of tolerance for the logarithms.
fn to_count(bound: f64) -> u64 {
    (bound - 1e-9).ceil().max(1.0) as u64
}

/// Score at which the default decider says SAME of identical models, in closed form.
pub fn grid5_same_at(params: &DecisionParams) -> u64 {
    first_crossing(params, |bet| (bet * params.delta / (1.0 - params.delta)).ln_1p())
}

/// Score at which the default decider says DIFFERENT when every score is 1.
pub fn grid5_different_at(params: &DecisionParams) -> u64 {
    first_crossing(params, |bet| (bet * (1.0 - params.gamma) / params.gamma).ln_1p())
}

/// Smallest n with `sum of weight * exp(n * gain(bet)) >= 1/alpha`; the sum grows with n.
fn first_crossing(params: &DecisionParams, gain: impl Fn(f64) -> f64) -> u64 {
    let evidence =
        |n: u64| GRID5_BETS.iter().map(|&(bet, weight)| weight * (n as f64 * gain(bet)).exp()).sum::<f64>();
    let enough = |n: u64| evidence(n) >= 1.0 / params.alpha;
    let mut high = 1;
    while !enough(high) && high < 1 << 40 {
        high *= 2;
    }
    let mut low = high / 2;
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if enough(middle) { high = middle } else { low = middle }
    }
    high
}

impl DecisionParams {
    /// A mode with what the caller wants otherwise. `confidence` is `1 - alpha`.
    ///
    /// # Errors
    /// Usage: a value out of range, gamma above delta, or a demand that no method can meet.
    pub fn resolve(
        mode: ModeName,
        confidence: Option<f64>,
        gamma: Option<f64>,
        delta: Option<f64>,
        n_max: Option<u64>,
    ) -> Result<Self, Problem> {
        let base = mode.mode().params;
        let params = Self {
            alpha: confidence.map_or(base.alpha, complement),
            gamma: gamma.unwrap_or(base.gamma),
            delta: delta.unwrap_or(base.delta),
            n_max: n_max.unwrap_or(base.n_max),
        };
        params.check_ranges()?;
        params.check_attainable()?;
        params.check_order()?;
        Ok(params)
    }

    /// Every value is a number of its range.
    ///
    /// # Errors
    /// Usage, naming the argument.
    pub fn check_ranges(&self) -> Result<(), Problem> {
        let inside = |value: f64| value > 0.0 && value < 1.0;
        if !inside(self.alpha) {
            return Err(Problem::usage(format!("confidence {} is not between 0 and 1", 1.0 - self.alpha))
                .hint("write 99 % as --confidence 0.99"));
        }
        for (name, value) in [("gamma", self.gamma), ("delta", self.delta)] {
            if !inside(value) {
                return Err(Problem::usage(format!("{name} {value} is not between 0 and 1"))
                    .hint("gamma and delta are shares of the clip, like the scores"));
            }
        }
        if !(1..=super::budget::CHALLENGES).contains(&self.n_max) {
            return Err(Problem::usage(format!(
                "n-max {} is not between 1 and {}",
                self.n_max,
                super::budget::CHALLENGES
            )));
        }
        Ok(())
    }

    /// SAME and DIFFERENT must not both be true of one mean.
    ///
    /// # Errors
    /// Usage: gamma is above delta.
    pub fn check_order(&self) -> Result<(), Problem> {
        if self.gamma > self.delta {
            return Err(Problem::usage(format!("gamma {} is above delta {}", self.gamma, self.delta))
                .hint("DIFFERENT means above gamma, SAME means below delta: give --gamma at most --delta"));
        }
        Ok(())
    }

    /// Whether anyone could say SAME within `n_max` scores.
    ///
    /// # Errors
    /// Usage, with the delta that is attainable and the n that would do.
    pub fn check_attainable(&self) -> Result<(), Problem> {
        let needed = fewest_for_same(self.alpha, self.delta);
        if needed <= self.n_max {
            return Ok(());
        }
        let percent = 100.0 * (1.0 - self.alpha);
        Err(Problem::usage(format!(
            "impossible request: with n-max {} at confidence {} no method can certify delta {}; \
             the smallest attainable delta is {:.3}",
            self.n_max,
            trim(percent, "%"),
            self.delta,
            attainable_delta(self.alpha, self.n_max)
        ))
        .hint(format!(
            "raise --n-max to at least {needed} (the default decider needs {}), or raise --delta",
            grid5_same_at(self)
        )))
    }
}

fn trim(value: f64, unit: &str) -> String {
    let text = format!("{value:.4}");
    format!("{} {unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

/// A mode with the proof that its verdicts can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ProvenMode {
    #[serde(flatten)]
    pub mode: Mode,
    pub confidence: f64,
    /// No method can say SAME with fewer scores.
    pub fewest_for_same: u64,
    /// The default decider says SAME of identical models at this score.
    pub same_at: u64,
    /// The default decider says DIFFERENT at this score when every score is 1.
    pub different_at: u64,
}

/// Proves every row of [`MODES`]; run at start-up.
///
/// # Errors
/// Internal: a row whose verdicts cannot be reached.
pub fn prove_modes() -> Result<[ProvenMode; 3], Problem> {
    let proven = MODES.map(|mode| ProvenMode {
        mode,
        confidence: complement(mode.params.alpha),
        fewest_for_same: fewest_for_same(mode.params.alpha, mode.params.delta),
        same_at: grid5_same_at(&mode.params),
        different_at: grid5_different_at(&mode.params),
    });
    for row in &proven {
        let (params, name) = (&row.mode.params, row.mode.name.as_str());
        params.check_ranges().and_then(|()| params.check_attainable()).and_then(|()| params.check_order())?;
        if row.same_at > params.n_max || row.different_at > params.n_max {
            return Err(Problem::internal(format!("mode {name} cannot reach its verdicts")));
        }
    }
    Ok(proven)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(alpha: f64, gamma: f64, delta: f64, n_max: u64) -> DecisionParams {
        DecisionParams { alpha, gamma, delta, n_max }
    }

    /// The values of `statistics.md`, "Hard lower bound".
    #[test]
    fn hard_lower_bound() {
        for (alpha, delta, n) in [(0.01, 0.10, 44), (0.025, 0.15, 23), (0.001, 0.08, 83), (0.001, 0.05, 135)]
        {
            assert_eq!(fewest_for_same(alpha, delta), n);
            assert!(attainable_delta(alpha, n) <= delta && attainable_delta(alpha, n - 1) > delta);
        }
    }

    /// The values of `statistics.md` section 4: what the default decider needs on zeros.
    #[test]
    fn default_decider_on_identical_models() {
        for (alpha, delta, n) in
            [(0.01, 0.10, 51), (0.025, 0.25, 16), (0.01, 0.30, 15), (0.01, 0.20, 24), (0.001, 0.30, 22)]
        {
            assert_eq!(grid5_same_at(&params(alpha, 0.01, delta, 1)), n, "{alpha} {delta}");
        }
        assert_eq!(grid5_different_at(&params(0.01, 0.10, 0.2, 1)), 3);
    }

    #[test]
    fn every_mode_is_feasible_and_near_the_bound() {
        for row in prove_modes().unwrap() {
            assert!(row.same_at as f64 <= 1.25 * row.fewest_for_same as f64, "{row:?}");
        }
    }

    #[test]
    fn an_impossible_request_is_refused_with_what_is_attainable() {
        let problem =
            DecisionParams::resolve(ModeName::Audit, Some(0.999), None, Some(0.05), Some(32)).unwrap_err();
        assert_eq!(problem.exit_code(), 2);
        assert!(problem.message.contains("0.194"), "{}", problem.message);
        assert!(problem.hint.unwrap().contains("135"));
    }

    #[test]
    fn resolving() {
        let resolve = DecisionParams::resolve;
        assert_eq!(resolve(ModeName::Quick, None, None, None, None).unwrap(), params(0.025, 0.05, 0.25, 64));
        assert_eq!(
            resolve(ModeName::Audit, Some(0.99), Some(0.1), Some(0.1), Some(60)).unwrap(),
            params(0.01, 0.1, 0.1, 60)
        );
        let refused = [
            resolve(ModeName::Audit, Some(99.0), None, None, None),
            resolve(ModeName::Audit, Some(1.0), None, None, None),
            resolve(ModeName::Audit, Some(f64::NAN), None, None, None),
            resolve(ModeName::Audit, None, Some(0.3), None, None),
            resolve(ModeName::Audit, None, Some(0.0), None, None),
            resolve(ModeName::Audit, None, None, Some(1.0), None),
            resolve(ModeName::Audit, None, None, None, Some(0)),
            resolve(ModeName::Audit, None, None, None, Some(u64::MAX)),
        ];
        for result in refused {
            assert_eq!(result.unwrap_err().exit_code(), 2);
        }
    }
}
