use assayd_plugin_sdk::Decision;
use assayd_plugin_sdk::testing::{
    AUDIT, COVERED, SHORT, allowed, grouping_changes_no_bit, interval_is, published_cases, rates, steps,
    stop, varied,
};

use super::*;

/// Five times eight scores; the ends were computed by another program.
#[test]
fn golden_intervals() {
    let params = DecisionParams { alpha: 0.05, ..AUDIT };
    let scores = SHORT.repeat(5);
    for (n, expected) in
        [(8, (0.0, 1.0)), (24, (0.0, 0.881_197_656_047_558)), (40, (0.0, 0.650_973_258_090_377))]
    {
        let params = DecisionParams { n_max: n as u64, ..params };
        interval_is::<FixedEb>(&params, &scores[..n], expected);
    }
}

#[test]
fn grouping_of_scores_changes_no_bit_and_the_state_stays_small() {
    grouping_changes_no_bit::<FixedEb>(&AUDIT, &varied(200), 100);
}

#[test]
fn nothing_is_decided_before_the_last_score_nor_changed_after_it() {
    for (score, decision) in [(0.0, Decision::Same), (1.0, Decision::Different)] {
        let (steps, _) = steps::<FixedEb>(&AUDIT, &[score; 300], 300).unwrap();
        let (before, after) = steps.split_at(199);
        assert!(before.iter().all(|step| step.decision == Decision::Undecided && step.interval.is_none()));
        assert!(after.iter().all(|step| *step == after[0] && step.decision == decision));
    }
    let mut late = vec![0.0; 200];
    late.extend([1.0; 100]);
    assert_eq!(stop::<FixedEb>(&AUDIT, &late).unwrap(), (Decision::Same, 200));
    let (steps, _) = steps::<FixedEb>(&AUDIT, &late, 300).unwrap();
    assert!(steps[199..].iter().all(|step| step.interval == steps[199].interval));
    let one = DecisionParams { n_max: 1, ..AUDIT };
    assert!(matches!(FixedEb::start(&one), Err(Refusal::InvalidParams(_))));
}

/// By hand: scores 0, 1/2, 1/2, 1 have mean 1/2 and variance 1/6; at alpha = 4/e^3 the
/// logarithm is 3, so the half width is sqrt(2 / 6 * 3 / 4) + 7 * 3 / 9, above one half.
#[test]
fn four_scores_by_hand() {
    assert!((half_width(1.0 / 6.0, 4.0, 2.0 * (-3.0_f64).exp()) - (0.5 + 7.0 / 3.0)).abs() < 1e-12);
    let params = DecisionParams { alpha: 4.0 * (-3.0_f64).exp(), n_max: 4, ..AUDIT };
    let mut decider = FixedEb::start(&params).unwrap();
    let last = [0.0, 0.5, 0.5, 1.0].map(|score| decider.step(score).unwrap())[3];
    assert!((decider.mean - 0.5).abs() < 1e-12 && (decider.squares - 0.5).abs() < 1e-12);
    assert_eq!(last.interval, Some((0.0, 1.0)));
}

/// The bound holds at its one n; constants that are too small show here.
#[test]
fn the_interval_holds_the_mean_at_n_max() {
    for stream in COVERED {
        let params = DecisionParams { alpha: 0.05, n_max: 200, ..AUDIT };
        let rates = rates::<FixedEb>(&params, stream, 1_000, 31).unwrap();
        assert!(rates.missed <= allowed(params.alpha, 1_000), "{stream:?}: {rates:?}");
    }
}

/// The published vectors, where they lie beside the checkout.
#[test]
fn published_vectors() {
    let Some(vectors) = assayd_plugin_sdk::testing::published_vectors("fixed-eb") else { return };
    let mut compared = 0;
    for (case, scores) in published_cases(&vectors) {
        for expected in case["expected"].as_array().unwrap() {
            let alpha = expected["alpha"].as_f64().unwrap();
            for row in expected["rows"].as_array().unwrap() {
                let Some(theirs) = row["maurer_pontil_halfwidth"].as_f64() else { continue };
                let n = row["t"].as_u64().unwrap();
                let mut decider = FixedEb::start(&DecisionParams { n_max: n, ..AUDIT }).unwrap();
                for &score in scores.iter().take(usize::try_from(n).unwrap()) {
                    decider.step(score).unwrap();
                }
                let ours = half_width(decider.squares / (n as f64 - 1.0), n as f64, alpha);
                assert!((ours - theirs).abs() < 1e-6, "{} {n}", case["id"]);
                compared += 1;
            }
        }
    }
    assert!(compared > 300, "{compared}");
}
