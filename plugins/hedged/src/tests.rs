use assayd_plugin_sdk::Decision;
use assayd_plugin_sdk::run_decider::{begin, fold};
use assayd_plugin_sdk::testing::{
    AUDIT, COVERED, SHORT, Stream, covers, grouping_changes_no_bit, holds_its_error_at_worst, interval_is,
    published_cases, rates, steps, stop, varied,
};

use super::*;

fn params(alpha: f64, gamma: f64, delta: f64, n_max: u64) -> DecisionParams {
    DecisionParams { alpha, gamma, delta, n_max }
}

fn fed(params: &DecisionParams, scores: &[f64]) -> Hedged {
    let mut hedged = Hedged::start(params).unwrap();
    for &score in scores {
        hedged.scores.push(score);
        hedged.bets.push(score, params.alpha);
    }
    hedged
}

/// By hand: before any score b_1 = sqrt(2 ln 200 / (ln 2 / 4)), truncated to c / m = 2 and
/// to c / (1 - m) = 2/3, so K+(1/4) = 1 + 2 * 3/4 and K-(1/4) = 1 - 2/3 * 3/4 after a 1.
#[test]
fn one_score_by_hand() {
    let hedged = fed(&AUDIT, &[1.0]);
    let bet = (2.0 * 200.0_f64.ln() / (2.0_f64.ln() * 0.25)).sqrt();
    assert!((hedged.bets.bets[0] - bet).abs() < 1e-12);
    assert!((hedged.log_capital(Side::Above, 0.25) - 2.5_f64.ln()).abs() < 1e-12);
    assert!((hedged.log_capital(Side::Below, 0.25) - 0.5_f64.ln()).abs() < 1e-12);
    // The mean after it is 3/4, so s_1 = (1/4 + 1/16) / 2.
    let next = fed(&AUDIT, &[1.0, 0.0]).bets.bets[1];
    assert!((next - (2.0 * 200.0_f64.ln() / (2.0 * 3.0_f64.ln() * 5.0 / 32.0)).sqrt()).abs() < 1e-12);
    // At m = 0 nothing can be lost and the bet is not truncated.
    assert!((hedged.log_capital(Side::Above, 0.0) - bet.ln_1p()).abs() < 1e-12);
}

#[test]
fn ends_are_where_the_capital_is_two_over_alpha() {
    let scores: Vec<f64> = varied(300).into_iter().map(|score| score / 2.5).collect();
    for n in [3, 30, 300] {
        let hedged = fed(&AUDIT, &scores[..n]);
        for side in [Side::Above, Side::Below] {
            let end = hedged.end(side);
            let (outside, inside) = match side {
                Side::Above => (end - 1e-9, end + 1e-9),
                Side::Below => (end + 1e-9, end - 1e-9),
            };
            let inside = hedged.log_capital(side, inside);
            assert!(inside <= 200.0_f64.ln(), "{n} {side:?}");
            if (1e-6..=1.0 - 1e-6).contains(&end) {
                assert!(hedged.log_capital(side, outside) > 200.0_f64.ln(), "{n} {side:?}");
            }
        }
    }
}

#[test]
fn bracketing_finds_the_end_of_steep_flat_and_broken_functions() {
    for (end, f) in [
        (0.25, Box::new(|x: f64| 0.25 - x) as Box<dyn Fn(f64) -> f64>),
        (1e-7, Box::new(|x: f64| (1e-7 / x.max(1e-300)).ln())),
        (0.7, Box::new(|x: f64| if x < 0.7 { 1e-9 } else { -1e9 })),
        (0.3, Box::new(|x: f64| (0.3 - x).powi(9))),
        (0.5, Box::new(|x: f64| if x < 0.5 { f64::INFINITY } else { f64::NEG_INFINITY })),
    ] {
        let found = last_positive(&f);
        assert!(found <= end && end - found <= 2.0 * TOLERANCE, "{found} for {end}");
    }
    assert_eq!(last_positive(|_| 0.0), 0.0);
    assert_eq!(last_positive(|_| 1.0), 1.0);
}

/// Stopping times computed apart from this code.
#[test]
fn identical_and_opposite_models_are_told_apart_in_every_mode() {
    for (params, same, different) in [
        (params(0.025, 0.05, 0.25, 64), 29, 3),
        (params(0.01, 0.05, 0.20, 200), 45, 3),
        (params(0.001, 0.02, 0.10, 400), 141, 4),
    ] {
        let n = usize::try_from(params.n_max).unwrap();
        assert_eq!(stop::<Hedged>(&params, &vec![0.0; n]).unwrap(), (Decision::Same, same), "{params:?}");
        let on_ones = stop::<Hedged>(&params, &vec![1.0; n]).unwrap();
        assert_eq!(on_ones, (Decision::Different, different), "{params:?}");
    }
}

#[test]
fn the_verdict_is_where_the_interval_leaves_the_bands() {
    for mean in [0.01, 0.05, 0.1, 0.2, 0.4] {
        let mut random = assayd_plugin_sdk::testing::Random::new(5);
        let scores: Vec<f64> = (1..=200).map(|n| Stream::Bernoulli(mean).draw(&mut random, n, 0.0)).collect();
        let (steps, _) = steps::<Hedged>(&AUDIT, &scores, 200).unwrap();
        let first = steps.iter().position(|step| {
            let (lower, upper) = step.interval.unwrap();
            lower > AUDIT.gamma || upper < AUDIT.delta
        });
        let decided = steps.iter().position(|step| step.decision != Decision::Undecided);
        assert_eq!(decided, first, "{mean}");
        if let Some(at) = decided {
            assert!(steps[at..].iter().all(|step| step.decision == steps[at].decision), "it stays");
        }
    }
}

/// Five times eight scores; the ends were computed by another program.
#[test]
fn golden_intervals() {
    let params = DecisionParams { alpha: 0.05, ..AUDIT };
    let scores = SHORT.repeat(5);
    for (n, expected) in [
        (8, (0.0, 0.684_563_361_810_021)),
        (24, (0.070_549_326_559_737, 0.468_829_489_784_093)),
        (40, (0.101_734_311_306_139, 0.407_031_896_963_538)),
    ] {
        interval_is::<Hedged>(&params, &scores[..n], expected);
    }
}

#[test]
fn grouping_of_scores_changes_no_bit_and_the_state_is_bounded() {
    grouping_changes_no_bit::<Hedged>(&AUDIT, &varied(200), 200 * 8 + 64);
    const { assert!(CAPACITY * 8 + 64 < 64 << 10) };
    let too_many = DecisionParams { n_max: CAPACITY as u64 + 1, ..AUDIT };
    assert!(matches!(begin::<Hedged>(&too_many), Err(Refusal::InvalidParams(_))));
    let mut full = fed(&AUDIT, &vec![0.5; CAPACITY]);
    assert!(matches!(full.step(0.5), Err(Refusal::Unsupported(_))));
}

#[test]
fn what_is_not_a_score_is_an_error() {
    let state = begin::<Hedged>(&AUDIT).unwrap();
    for bad in [f64::NAN, -1e-12, 1.0 + 1e-12] {
        assert!(matches!(fold::<Hedged>(&state, &[0.5, bad]), Err(Refusal::InvalidEvidence(_))), "{bad}");
    }
    assert!(fold::<Hedged>(&[], &[0.5]).is_err());
}

/// Whether the interval of `Hedged` holds one mean, without its ends: the two capitals at
/// that mean, score by score. Gamma and delta are that mean.
#[derive(Debug, Serialize, Deserialize)]
struct AtMean {
    params: DecisionParams,
    log_above: f64,
    log_below: f64,
    #[serde(skip)]
    bets: Bets,
}

impl Decider for AtMean {
    fn start(params: &DecisionParams) -> Result<Self, Refusal> {
        Ok(Self { params: *params, log_above: 0.0, log_below: 0.0, bets: Bets::default() })
    }

    fn step(&mut self, score: f64) -> Result<Step, Refusal> {
        let (mean, alpha) = (self.params.gamma, self.params.alpha);
        self.bets.push(score, alpha);
        let bet = self.bets.bets[self.bets.bets.len() - 1];
        self.log_above += (bet.min(TRUNCATION / mean) * (score - mean)).ln_1p();
        self.log_below += (-bet.min(TRUNCATION / (1.0 - mean)) * (score - mean)).ln_1p();
        let outside = self.log_above.max(self.log_below) > -(HALF * alpha).ln();
        Ok(Step {
            decision: Decision::Undecided,
            interval: Some(if outside { (2.0, 2.0) } else { (0.0, 1.0) }),
            log_e_same: None,
            log_e_different: None,
        })
    }
}

fn at_mean(stream: Stream, n_max: u64) -> DecisionParams {
    let mean = stream.mean(1);
    DecisionParams { alpha: 0.05, gamma: mean, delta: mean, n_max }
}

/// The same runs, once with the ends of the interval and once by the capital at the mean.
#[test]
fn the_interval_holds_the_mean_at_every_time() {
    for stream in COVERED {
        let params = at_mean(stream, 150);
        let missed = covers::<Hedged>(&params, &[stream], 300, 11);
        assert_eq!(rates::<AtMean>(&params, stream, 300, 11).unwrap().missed, missed, "{stream:?}");
    }
}

#[test]
#[ignore = "10,000 streams of 1,000 scores take some seconds; the short test above always runs"]
fn the_interval_holds_the_mean_at_every_time_in_10_000_runs() {
    for stream in COVERED {
        covers::<AtMean>(&at_mean(stream, 1_000), &[stream], 10_000, 11);
    }
}

#[test]
fn false_verdicts_are_as_rare_as_claimed() {
    holds_its_error_at_worst::<Hedged>(&params(0.05, 0.1, 0.1, 150), 0.1, 300, 12);
}

/// The published vectors, where they lie beside the checkout.
#[test]
fn published_vectors() {
    let Some(vectors) = assayd_plugin_sdk::testing::published_vectors("hedged") else { return };
    let mut compared = 0;
    for (case, scores) in published_cases(&vectors) {
        for expected in case["expected"].as_array().unwrap() {
            let alpha = expected["alpha"].as_f64().unwrap();
            for row in expected["rows"].as_array().unwrap() {
                let t = usize::try_from(row["t"].as_u64().unwrap()).unwrap();
                let hedged = fed(&params(alpha, 0.05, 0.2, 1000), &scores[..t]);
                let [lower, upper] = [0, 1].map(|i| row["hedged_exact"][i].as_f64().unwrap());
                let id = format!("{} {alpha} {t}", case["id"]);
                assert!((hedged.end(Side::Above) - lower).abs() < 1e-6, "{id}");
                assert!((hedged.end(Side::Below) - upper).abs() < 1e-6, "{id}");
                let bet = row["lambda"].as_f64().unwrap();
                assert!((hedged.bets.bets[t - 1] - bet).abs() < 1e-6 * bet.max(1.0), "{id}");
                for (side, key) in [(Side::Above, "log_K_plus"), (Side::Below, "log_K_minus")] {
                    for (m, log) in row[key].as_object().unwrap() {
                        let (Ok(m), Some(log)) = (m.parse::<f64>(), log.as_f64()) else { continue };
                        assert!((hedged.log_capital(side, m) - log).abs() < 1e-6, "{id} {key} {m}");
                        compared += 1;
                    }
                }
                compared += 3;
            }
        }
    }
    assert!(compared > 2000, "{compared}");
}
