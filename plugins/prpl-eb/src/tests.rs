use assayd_plugin_sdk::Decision;
use assayd_plugin_sdk::testing::{
    AUDIT, COVERED, SHORT, covers, grouping_changes_no_bit, holds_its_error_at_worst, interval_is,
    published_cases, steps, stop, varied,
};

use super::*;

/// Five times eight scores; the ends were computed by another program.
#[test]
fn golden_intervals() {
    let params = DecisionParams { alpha: 0.05, ..AUDIT };
    let scores = SHORT.repeat(5);
    for (n, expected) in
        [(8, (0.0, 1.0)), (24, (0.0, 0.605_127_160_281_177)), (40, (0.0, 0.473_074_283_555_433))]
    {
        interval_is::<PrplEb>(&params, &scores[..n], expected);
    }
}

#[test]
fn grouping_of_scores_changes_no_bit_and_the_state_stays_small() {
    grouping_changes_no_bit::<PrplEb>(&AUDIT, &varied(200), 100);
}

/// Published: with scores of zero, alpha 0.01 and bets of at most a half.
#[test]
fn zeros_decide_at_the_published_times() {
    for (band, n) in [(0.1, 110), (0.05, 220), (0.01, 1099)] {
        let params = DecisionParams { gamma: band, delta: band, n_max: 2000, ..AUDIT };
        assert_eq!(stop::<PrplEb>(&params, &[0.0; 2000]).unwrap(), (Decision::Same, n));
    }
}

/// By hand after the scores 1/2, 0 at alpha = 2/e: ln(1/a) = 1, both bets are truncated to
/// 1/2, psi = ln 2 - 1/2, the center is 1/4, and both distances are 1/2 on either side.
#[test]
fn two_scores_by_hand() {
    let alpha = 2.0 * (-1.0_f64).exp();
    let params = DecisionParams { alpha, gamma: 0.05, delta: 0.2, n_max: 9 };
    let mut decider = PrplEb::start(&params).unwrap();
    decider.push(0.5);
    decider.push(0.0);
    assert!((decider.bets - 1.0).abs() < 1e-12 && (decider.bets_by_scores - 0.25).abs() < 1e-12);
    let spread = 0.5 * (2.0_f64.ln() - 0.5);
    assert!(decider.spread.iter().all(|value| (value - spread).abs() < 1e-12), "{decider:?}");
    assert_eq!(decider.interval(), (0.0, 1.0));
}

#[test]
fn verdicts_use_the_near_end_and_stay() {
    let zeros_then_ones = [vec![0.0; 150], vec![1.0; 50]].concat();
    let (steps, _) = steps::<PrplEb>(&AUDIT, &zeros_then_ones, 200).unwrap();
    let first = steps.iter().position(|step| step.interval.unwrap().1 < AUDIT.delta).unwrap();
    assert!(steps[..first].iter().all(|step| step.decision == Decision::Undecided));
    assert!(steps[first..].iter().all(|step| step.decision == Decision::Same));
    let (steps, _) = assayd_plugin_sdk::testing::steps::<PrplEb>(&AUDIT, &[1.0; 100], 100).unwrap();
    let first = steps.iter().position(|step| step.interval.unwrap().0 > AUDIT.gamma).unwrap();
    assert!(steps[..first].iter().all(|step| step.decision == Decision::Undecided));
    assert!(steps[first..].iter().all(|step| step.decision == Decision::Different));
}

fn misses(runs: u32, n_max: u64) {
    covers::<PrplEb>(&DecisionParams { alpha: 0.05, n_max, ..AUDIT }, &COVERED, runs, 21);
}

#[test]
fn the_interval_holds_the_mean_at_every_time() {
    misses(1_000, 400);
}

#[test]
#[ignore = "10,000 streams of 1,000 scores take half a minute; the short test above always runs"]
fn the_interval_holds_the_mean_at_every_time_in_10_000_runs() {
    misses(10_000, 1_000);
}

#[test]
fn false_verdicts_are_as_rare_as_claimed() {
    let params = DecisionParams { alpha: 0.05, n_max: 400, ..AUDIT };
    holds_its_error_at_worst::<PrplEb>(&params, 0.1, 1_000, 22);
}

/// The published vectors, where they lie beside the checkout.
#[test]
fn published_vectors() {
    let Some(vectors) = assayd_plugin_sdk::testing::published_vectors("prpl-eb") else { return };
    let mut compared = 0;
    for (case, scores) in published_cases(&vectors) {
        for expected in case["expected"].as_array().unwrap() {
            let alpha = expected["alpha"].as_f64().unwrap();
            let (two_sided, _) = steps::<PrplEb>(&DecisionParams { alpha, ..AUDIT }, &scores, 100).unwrap();
            // Each side has half of alpha, so the one-sided bounds are those of twice alpha.
            let (one_sided, _) =
                steps::<PrplEb>(&DecisionParams { alpha: 2.0 * alpha, ..AUDIT }, &scores, 100).unwrap();
            for row in expected["rows"].as_array().unwrap() {
                let t = usize::try_from(row["t"].as_u64().unwrap()).unwrap();
                let (lower, upper) = two_sided[t - 1].interval.unwrap();
                let (lower_alone, upper_alone) = one_sided[t - 1].interval.unwrap();
                for (ours, theirs) in [
                    (lower, &row["prpl_eb"][0]),
                    (upper, &row["prpl_eb"][1]),
                    (lower_alone, &row["prpl_eb_lower_1sided"]),
                    (upper_alone, &row["prpl_eb_upper_1sided"]),
                ] {
                    let theirs = theirs.as_f64().unwrap();
                    assert!((ours - theirs).abs() < 1e-6, "{} {alpha} {t}: {ours} {theirs}", case["id"]);
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 1000, "{compared}");
}
