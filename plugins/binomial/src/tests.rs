use assayd_plugin_sdk::Decision;
use assayd_plugin_sdk::testing::{
    AUDIT, Stream, allowed, covers, grouping_changes_no_bit, interval_is, rates, stop, varied,
};

use super::*;

/// Passes and fails that repeat no pattern soon.
fn passes(n: u32) -> Vec<f64> {
    varied(n).into_iter().map(|score| f64::from(u8::from(score < 0.195))).collect()
}

/// The ends were computed by another program.
#[test]
fn golden_intervals() {
    let (params, scores) = (DecisionParams { alpha: 0.05, ..AUDIT }, passes(40));
    for (n, expected) in [
        (8, (0.012_774_029_571_647, 0.745_485_314_320_859)),
        (24, (0.037_827_256_618_540, 0.516_348_551_540_652)),
        (40, (0.054_315_471_191_159, 0.439_193_201_565_572)),
    ] {
        interval_is::<Binomial>(&params, &scores[..n], expected);
    }
}

#[test]
fn grouping_of_scores_changes_no_bit_and_the_state_stays_small() {
    grouping_changes_no_bit::<Binomial>(&AUDIT, &passes(200), 100);
}

/// Stopping times computed apart from this code.
#[test]
fn identical_and_opposite_models_are_told_apart_in_every_mode() {
    for (params, same, different) in [
        (DecisionParams { alpha: 0.025, gamma: 0.05, delta: 0.25, n_max: 64 }, (Decision::Same, 21), 2),
        (AUDIT, (Decision::Same, 31), 2),
        (DecisionParams { alpha: 0.001, gamma: 0.02, delta: 0.10, n_max: 400 }, (Decision::Same, 93), 3),
    ] {
        let n = usize::try_from(params.n_max).unwrap();
        assert_eq!(stop::<Binomial>(&params, &vec![0.0; n]).unwrap(), same, "{params:?}");
        let on_ones = stop::<Binomial>(&params, &vec![1.0; n]).unwrap();
        assert_eq!(on_ones, (Decision::Different, different), "{params:?}");
    }
}

/// By hand: pass, fail, pass has mixture likelihood 1/2 * 1/4 * 1/2 = 1/16.
#[test]
fn three_scores_by_hand() {
    let mut decider = Binomial::start(&AUDIT).unwrap();
    let steps = [0.0, 1.0, 0.0].map(|score| decider.step(score).unwrap());
    assert!((decider.log_mixture - (1.0_f64 / 16.0).ln()).abs() < 1e-12);
    assert!((decider.log_e(0.2) - (1.0_f64 / 16.0 / (0.2 * 0.64)).ln()).abs() < 1e-12);
    // Beyond the observed rate the least evidence is at that rate.
    assert!((steps[2].log_e_same.unwrap() - (1.0_f64 / 16.0 / (4.0 / 27.0)).ln()).abs() < 1e-12);
    assert!((steps[2].log_e_different.unwrap() - (1.0_f64 / 16.0 / (0.05 * 0.9025)).ln()).abs() < 1e-12);
}

#[test]
fn ends_are_where_the_evidence_is_one_over_alpha() {
    let mut decider = Binomial::start(&AUDIT).unwrap();
    for score in passes(200) {
        let (lower, upper) = decider.step(score).unwrap().interval.unwrap();
        for end in [lower, upper] {
            let exact = (decider.log_e(end) - 100.0_f64.ln()).abs() < 1e-6;
            assert!(exact || end == 0.0 || end == 1.0, "{end}");
        }
        assert!(lower <= decider.rate() && decider.rate() <= upper);
    }
}

#[test]
fn only_pass_and_fail_are_scores() {
    for score in [0.5, 1e-9, 1.0 - 1e-9] {
        let outcome = Binomial::start(&AUDIT).unwrap().step(score);
        assert!(matches!(outcome, Err(Refusal::InvalidEvidence(_))), "{score}");
    }
}

fn misses(runs: u32, n_max: u64) {
    let params = DecisionParams { alpha: 0.05, n_max, ..AUDIT };
    covers::<Binomial>(&params, &[0.01, 0.1, 0.5].map(Stream::Bernoulli), runs, 21);
}

#[test]
fn the_interval_holds_the_mean_at_every_time() {
    misses(300, 300);
}

#[test]
#[ignore = "10,000 streams of 1,000 scores take a minute or two; the short test above always runs"]
fn the_interval_holds_the_mean_at_every_time_in_10_000_runs() {
    misses(10_000, 1_000);
}

#[test]
fn false_verdicts_are_as_rare_as_claimed() {
    let params = DecisionParams { alpha: 0.05, gamma: 0.1, delta: 0.1, n_max: 400 };
    let rates = rates::<Binomial>(&params, Stream::Bernoulli(0.1), 300, 22).unwrap();
    assert!(rates.same.max(rates.different) <= allowed(params.alpha, 300), "{rates:?}");
}
