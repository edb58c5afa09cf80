use assayd_plugin_sdk::Decision;
use assayd_plugin_sdk::testing::{
    AUDIT, COVERED, SHORT, Stream, covers, grouping_changes_no_bit, holds_its_error_at_worst, interval_is,
    stop, varied,
};

use super::*;

/// Five times eight scores; the ends were computed by another program.
#[test]
fn golden_intervals() {
    let params = DecisionParams { alpha: 0.05, ..AUDIT };
    let scores = SHORT.repeat(5);
    for (n, expected) in
        [(8, (0.0, 1.0)), (24, (0.0, 0.953_835_460_024_023)), (40, (0.0, 0.711_750_236_578_097))]
    {
        interval_is::<Stitched>(&params, &scores[..n], expected);
    }
}

#[test]
fn grouping_of_scores_changes_no_bit_and_the_state_stays_small() {
    grouping_changes_no_bit::<Stitched>(&AUDIT, &varied(200), 100);
}

/// Stopping times computed apart from this code.
#[test]
fn identical_and_opposite_models_are_told_apart_in_every_mode() {
    for (params, same, different) in [
        (DecisionParams { alpha: 0.025, gamma: 0.05, delta: 0.25, n_max: 64 }, (Decision::Same, 57), 15),
        (AUDIT, (Decision::Same, 82), 18),
        (DecisionParams { alpha: 0.001, gamma: 0.02, delta: 0.10, n_max: 400 }, (Decision::Same, 220), 23),
    ] {
        let n = usize::try_from(params.n_max).unwrap();
        assert_eq!(stop::<Stitched>(&params, &vec![0.0; n]).unwrap(), same, "{params:?}");
        let on_ones = stop::<Stitched>(&params, &vec![1.0; n]).unwrap();
        assert_eq!(on_ones, (Decision::Different, different), "{params:?}");
    }
}

/// By hand: the scores 1, 0, 1 are predicted as 1/2, 3/4, 1/2, each before it is seen, so
/// V = 1/4 + 9/16 + 1/4.
#[test]
fn predictions_come_before_the_scores() {
    let mut decider = Stitched::start(&AUDIT).unwrap();
    for score in [1.0, 0.0, 1.0] {
        decider.step(score).unwrap();
    }
    assert!((decider.squares - 17.0 / 16.0).abs() < 1e-12, "{decider:?}");
}

/// Values of the boundary computed apart from this code.
#[test]
fn boundary_by_other_means() {
    for (v, alpha, v_min, range, expected) in
        [(1.0, 0.025, 1.0, 1.0, 12.440_254_796_854_66), (1.0, 0.025, 10.0, 3.0, 37.569_394_108_174_25)]
    {
        assert!((boundary(v, alpha, v_min, range) - expected).abs() < 1e-9);
    }
}

/// Where betting intervals fail: the mean jumps to and fro.
const DRIFT: Stream = Stream::Drifting(0.02, 0.6);

fn misses(runs: u32, n_max: u64) {
    covers::<Stitched>(
        &DecisionParams { alpha: 0.05, n_max, ..AUDIT },
        &[&COVERED[..], &[DRIFT]].concat(),
        runs,
        21,
    );
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
    holds_its_error_at_worst::<Stitched>(&params, 0.1, 1_000, 22);
}

/// The published vectors, where they lie beside the checkout.
#[test]
fn published_vectors() {
    let Some(vectors) = assayd_plugin_sdk::testing::published_vectors("stitched") else { return };
    let rows = vectors["boundaries"]["values"].as_array().unwrap();
    assert!(rows.len() > 10);
    for row in rows {
        let [v, alpha, one, ten] = ["v", "alpha", "poly_stitching_vmin1_c1", "poly_stitching_vmin10_c3"]
            .map(|key| row[key].as_f64().unwrap());
        assert!((boundary(v, alpha, 1.0, 1.0) - one).abs() < 1e-6, "{row}");
        assert!((boundary(v, alpha, 10.0, 3.0) - ten).abs() < 1e-6, "{row}");
    }
}
