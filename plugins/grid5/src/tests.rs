use assayd_plugin_sdk::Decision;
use assayd_plugin_sdk::run_decider::{begin, fold};
use assayd_plugin_sdk::testing::{
    COVERED, SHORT, Stream, allowed, grouping_changes_no_bit, holds_its_error, published_cases,
    published_vectors, rates, stop, varied, worst_nulls,
};

use super::*;

fn steps(params: &DecisionParams, scores: &[f64], chunk: usize) -> Vec<Step> {
    assayd_plugin_sdk::testing::steps::<Grid5>(params, scores, chunk).unwrap().0
}

fn params(alpha: f64, gamma: f64, delta: f64) -> DecisionParams {
    DecisionParams { alpha, gamma, delta, n_max: 1000 }
}

type Golden = ((f64, f64), [(f64, f64); 8]);

/// `(gamma, delta)` and `(ln E_same, ln E_different)` after each score of the test below.
const GOLDEN: [Golden; 2] = [
    (
        (0.05, 0.2),
        [
            (0.149281702715754, -1.03282454813011),
            (0.258773600984487, -0.96921034800629),
            (-0.923603839217251, 0.84859444089187),
            (-0.941122579973182, 1.79037487328401),
            (-0.874556577881035, 1.17229224506068),
            (-0.987391272579116, 2.63210188362362),
            (-0.922684886195127, 2.08757123827178),
            (-0.866057216128865, 1.93052003016531),
        ],
    ),
    (
        (0.1, 0.1),
        [
            (0.0691113829827053, -1.03282454813011),
            (0.096161963398304, -1.13654393302769),
            (-0.992997237907091, 0.0342726986254638),
            (-1.03874912535212, 0.449782834352328),
            (-1.01009212706834, -0.0350330347988476),
            (-1.13573183131297, 0.773768212006081),
            (-1.10869907414441, 0.322678202230177),
            (-1.08975857810018, 0.0722672551488802),
        ],
    ),
];

/// Expected values are products of exact fractions, computed apart from this code.
#[test]
fn golden_log_evidence() {
    for ((gamma, delta), expected) in GOLDEN {
        for chunk in [1, 3, 8] {
            let steps = steps(&params(0.01, gamma, delta), &SHORT, chunk);
            for (step, (same, different)) in steps.iter().zip(expected) {
                assert!((step.log_e_same.unwrap() - same).abs() < 1e-12, "{step:?} {same}");
                assert!((step.log_e_different.unwrap() - different).abs() < 1e-12, "{step:?} {different}");
                assert_eq!(step.interval, None);
            }
        }
    }
}

#[test]
fn identical_and_opposite_models_stop_where_the_design_says() {
    let zeros = vec![0.0; 1000];
    let ones = vec![1.0; 1000];
    // Hard lower bounds for SAME are 13, 21 and 66; at most 1.25 times that.
    for (params, same, different) in [
        (params(0.025, 0.05, 0.25), 16, 2),
        (params(0.01, 0.05, 0.20), 24, 2),
        (params(0.001, 0.02, 0.10), 73, 2),
        (params(0.01, 0.10, 0.10), 51, 3),
    ] {
        assert_eq!(stop::<Grid5>(&params, &zeros).unwrap(), (Decision::Same, same), "{params:?}");
        assert_eq!(stop::<Grid5>(&params, &ones).unwrap(), (Decision::Different, different), "{params:?}");
        let bound = (1.0 / params.alpha).ln() / -(1.0 - params.delta).ln();
        assert!(same as f64 <= 1.25 * bound.ceil());
    }
}

#[test]
fn grouping_of_scores_changes_no_bit() {
    let (params, scores) = (params(0.01, 0.05, 0.2), varied(200));
    // Ten logarithms and the parameters.
    grouping_changes_no_bit::<Grid5>(&params, &scores, 200);
    let state = |chunk| {
        scores
            .chunks(chunk)
            .fold(begin::<Grid5>(&params).unwrap(), |state, scores| fold::<Grid5>(&state, scores).unwrap().0)
    };
    assert_eq!(state(1), state(200));
}

#[test]
fn a_decision_stays_and_both_at_once_is_undecided_for_good() {
    let mut scores = vec![0.0; 60];
    scores.extend(vec![1.0; 200]);
    let steps_of_turn = steps(&params(0.01, 0.05, 0.2), &scores, 1);
    assert!(steps_of_turn[24..].iter().all(|step| step.decision == Decision::Same));

    let mut between = vec![0.2];
    between.extend(vec![1.0; 50]);
    let steps = steps(&params(0.5, 0.01, 0.9), &between, 51);
    let threshold = 2.0_f64.ln();
    assert!(steps[0].log_e_same.unwrap() > threshold && steps[0].log_e_different.unwrap() > threshold);
    assert!(steps.iter().all(|step| step.decision == Decision::Undecided));
}

#[test]
fn what_is_not_a_score_or_a_state_is_an_error() {
    let state = begin::<Grid5>(&params(0.01, 0.05, 0.2)).unwrap();
    for bad in [f64::NAN, -1e-12, 1.0 + 1e-12, f64::INFINITY] {
        let outcome = fold::<Grid5>(&state, &[0.5, bad]);
        assert!(matches!(outcome, Err(Refusal::InvalidEvidence(_))), "{bad}");
    }
    let longer = [state.as_slice(), &[0]].concat();
    for bad in [&[][..], &[1, 2, 3][..], &longer[..]] {
        assert!(fold::<Grid5>(bad, &[0.5]).is_err());
    }
    for text in [
        "",
        "{}",
        r#"{"alpha":0,"gamma":0.05,"delta":0.2,"n_max":9}"#,
        r#"{"alpha":0.01,"gamma":0.3,"delta":0.2,"n_max":9}"#,
        r#"{"alpha":0.01,"gamma":0.05,"delta":1,"n_max":9}"#,
        r#"{"alpha":0.01,"gamma":0.05,"delta":0.2,"n_max":0}"#,
        r#"{"alpha":0.01,"gamma":0.05,"delta":0.2,"n_max":9,"theta":1}"#,
    ] {
        assert!(matches!(DecisionParams::parse(text), Err(Refusal::InvalidParams(_))), "{text}");
    }
}

/// The published vectors, where they lie beside the checkout.
#[test]
fn published_evidence_and_verdicts() {
    let Some(vectors) = published_vectors("grid5") else { return };
    let mut compared = 0;
    for (case, scores) in published_cases(&vectors) {
        for expected in case["grid5"].as_array().unwrap() {
            let (gamma, delta) = (expected["gamma"].as_f64().unwrap(), expected["delta"].as_f64().unwrap());
            let steps = steps(&params(0.01, gamma, delta), &scores, 16);
            for row in expected["rows"].as_array().unwrap() {
                let step = steps[row["t"].as_u64().unwrap() as usize - 1];
                for (ours, theirs) in
                    [(step.log_e_same, &row["log_E_same"]), (step.log_e_different, &row["log_E_diff"])]
                {
                    assert!((ours.unwrap() - theirs.as_f64().unwrap()).abs() < 1e-6);
                    compared += 1;
                }
            }
            for verdict in expected["decisions"].as_array().unwrap() {
                let asked = params(verdict["alpha"].as_f64().unwrap(), gamma, delta);
                let (decision, n) = stop::<Grid5>(&asked, &scores).unwrap();
                let name = format!("{decision:?}").to_uppercase();
                assert_eq!(Some(name.as_str()), verdict["verdict"].as_str(), "{} {gamma}", case["id"]);
                assert_eq!(Some(n as u64), verdict["n"].as_u64(), "{} {gamma}", case["id"]);
                compared += 1;
            }
        }
    }
    assert!(compared > 1000);
}

/// Runs on streams whose mean is exactly gamma or delta, looked at after every score. The
/// Bernoulli streams are models that differ grossly on a share gamma or delta of the prompts
/// and agree on the rest.
fn errors_at_the_bands(runs: u32) {
    for params in [
        params(0.025, 0.05, 0.25),
        params(0.01, 0.05, 0.20),
        params(0.001, 0.02, 0.10),
        params(0.01, 0.10, 0.10),
    ] {
        let params = DecisionParams { n_max: 400, ..params };
        let limit = allowed(params.alpha, runs);
        let just_below = Stream::Bernoulli(0.98 * params.gamma);
        for stream in worst_nulls(params.gamma).into_iter().chain([just_below]) {
            let rates = rates::<Grid5>(&params, stream, runs, 1).unwrap();
            assert!(rates.different <= limit, "{params:?} {stream:?}: {rates:?}");
            say(&params, stream, "DIFFERENT", rates.different, runs);
        }
        for stream in worst_nulls(params.delta) {
            let rates = rates::<Grid5>(&params, stream, runs, 2).unwrap();
            assert!(rates.same <= limit, "{params:?} {stream:?}: {rates:?}");
            say(&params, stream, "SAME", rates.same, runs);
        }
    }
}

fn say(params: &DecisionParams, stream: Stream, what: &str, share: f64, runs: u32) {
    let DecisionParams { alpha, gamma, delta, .. } = params;
    println!("alpha {alpha} gamma {gamma} delta {delta} {stream:?}: {what} {share:.5} of {runs}");
}

#[test]
fn false_verdicts_are_as_rare_as_claimed() {
    errors_at_the_bands(1_000);
}

#[test]
#[ignore = "20,000 runs per stream take half a minute; the short test above always runs"]
fn false_verdicts_are_as_rare_as_claimed_in_20_000_runs() {
    errors_at_the_bands(20_000);
}

/// Without a zone between the bands, on every stream that the intervals are tested on.
fn errors_on_every_stream(runs: u32, n_max: u64) {
    for stream in COVERED {
        holds_its_error::<Grid5>(&DecisionParams { n_max, ..params(0.05, 0.1, 0.1) }, stream, runs, 4);
    }
}

#[test]
fn the_error_holds_on_every_stream() {
    errors_on_every_stream(1_000, 400);
}

#[test]
#[ignore = "10,000 streams of 1,000 scores take half a minute; the short test above always runs"]
fn the_error_holds_on_every_stream_in_10_000_runs() {
    errors_on_every_stream(10_000, 1_000);
}

/// Expected numbers of scores to a verdict (simulated apart from this code) on clear cases.
#[test]
fn clear_cases_need_few_scores() {
    let params = DecisionParams { n_max: 400, ..params(0.01, 0.10, 0.10) };
    for (stream, decision, scores) in [
        (Stream::Bernoulli(0.0), Decision::Same, 51.5),
        (Stream::Beta { k: 1, n: 99 }, Decision::Same, 56.5),
        (Stream::Beta { k: 10, n: 199 }, Decision::Same, 100.5),
        (Stream::Beta { k: 30, n: 199 }, Decision::Different, 16.5),
        (Stream::Beta { k: 40, n: 199 }, Decision::Different, 9.5),
        (Stream::Bernoulli(0.3), Decision::Different, 41.5),
        (Stream::Beta { k: 10, n: 19 }, Decision::Different, 4.5),
    ] {
        let rates = rates::<Grid5>(&params, stream, 500, 3).unwrap();
        let share = if decision == Decision::Same { rates.same } else { rates.different };
        assert!(share >= 0.99 && rates.scores <= scores, "{stream:?}: {rates:?}");
    }
}
