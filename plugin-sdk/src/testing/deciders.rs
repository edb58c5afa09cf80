//! Whole runs of deciders, and checks that any decider must pass.

use serde_json::Value;

use super::streams::{Stream, allowed, rates, worst_nulls};
use crate::run_decider::{begin, fold};
use crate::{Decider, Decision, DecisionParams, Result, Step};

/// All steps, with the scores given `chunk` at a time through saved states, and the size
/// in bytes of the largest state.
///
/// # Errors
/// What the decider says.
pub fn steps<D: Decider>(
    params: &DecisionParams,
    scores: &[f64],
    chunk: usize,
) -> Result<(Vec<Step>, usize)> {
    let (mut state, mut all) = (begin::<D>(params)?, Vec::new());
    let mut largest = state.len();
    for scores in scores.chunks(chunk) {
        let (next, steps) = fold::<D>(&state, scores)?;
        state = next;
        largest = largest.max(state.len());
        all.extend(steps.into_iter().map(|(_, step)| step));
    }
    Ok((all, largest))
}

/// The first decision and the number of scores up to it; UNDECIDED and all of them if
/// there is none.
///
/// # Errors
/// What the decider says.
pub fn stop<D: Decider>(params: &DecisionParams, scores: &[f64]) -> Result<(Decision, usize)> {
    let (steps, _) = steps::<D>(params, scores, scores.len().max(1))?;
    let decided = (1..).zip(&steps).find(|(_, step)| step.decision != Decision::Undecided);
    Ok(decided.map_or((Decision::Undecided, scores.len()), |(n, step)| (step.decision, n)))
}

/// What the audit mode demands.
pub const AUDIT: DecisionParams = DecisionParams { alpha: 0.01, gamma: 0.05, delta: 0.2, n_max: 200 };

/// Eight scores that are exact in binary, for golden values.
pub const SHORT: [f64; 8] = [0.0, 0.0625, 1.0, 0.25, 0.0, 0.5, 0.0, 0.031_25];

/// Scores that repeat no pattern soon.
pub fn varied(n: u32) -> Vec<f64> {
    (0..n).map(|i| f64::from(i * 7919 % 101) / 100.0).collect()
}

/// A decider gives the same bits however its scores are grouped, and its saved state never
/// takes more than `bytes`.
///
/// # Panics
/// They differ, or the state is larger.
#[track_caller]
pub fn grouping_changes_no_bit<D: Decider>(params: &DecisionParams, scores: &[f64], bytes: usize) {
    let run = |chunk: usize| steps::<D>(params, scores, chunk);
    let whole = run(scores.len().max(1));
    let sound = |(steps, largest): &(Vec<Step>, usize)| steps.len() == scores.len() && *largest <= bytes;
    assert!(whole.as_ref().is_ok_and(sound), "{whole:?}");
    let whole = whole.map(|(steps, _)| steps);
    for chunk in [1, 7, 64] {
        assert_eq!(run(chunk).map(|(steps, _)| steps), whole, "{chunk} at a time");
    }
}

/// The interval after the last of `scores` is the expected one, to 1e-6.
///
/// # Panics
/// It is another one, or there is none.
#[track_caller]
pub fn interval_is<D: Decider>(params: &DecisionParams, scores: &[f64], expected: (f64, f64)) {
    let steps = steps::<D>(params, scores, 16).map(|(steps, _)| steps).unwrap_or_default();
    let found = steps.last().and_then(|step| step.interval);
    let close =
        |(lower, upper): (f64, f64)| (lower - expected.0).abs() < 1e-6 && (upper - expected.1).abs() < 1e-6;
    assert!(found.is_some_and(close), "after {} scores: {found:?}, not {expected:?}", scores.len());
}

/// The interval of `D` holds the mean of each stream at every time, but for alpha of the
/// runs and what chance adds. Gives the largest share of misses.
///
/// # Panics
/// It misses more often.
#[track_caller]
pub fn covers<D: Decider>(params: &DecisionParams, streams: &[Stream], runs: u32, seed: u64) -> f64 {
    let mut worst = 0.0_f64;
    for &stream in streams {
        let rates = rates::<D>(params, stream, runs, seed);
        let held = rates.as_ref().is_ok_and(|rates| rates.missed <= allowed(params.alpha, runs));
        assert!(held, "{stream:?}: {rates:?}");
        worst = worst.max(rates.map_or(1.0, |rates| rates.missed));
        say(&format!(
            "{} on {stream:?}: misses {worst:.4} of {runs} runs at most so far, alpha {}",
            std::any::type_name::<D>(),
            params.alpha
        ));
    }
    worst
}

/// With gamma and delta both at the stream's mean, neither SAME nor DIFFERENT is said more
/// often than alpha and what chance adds. Gives the two shares.
///
/// # Panics
/// One of them is.
#[track_caller]
pub fn holds_its_error<D: Decider>(
    params: &DecisionParams,
    stream: Stream,
    runs: u32,
    seed: u64,
) -> (f64, f64) {
    let mean = stream.mean(1);
    let params = DecisionParams { gamma: mean, delta: mean, ..*params };
    let rates = rates::<D>(&params, stream, runs, seed);
    let limit = allowed(params.alpha, runs);
    let held = rates.as_ref().is_ok_and(|rates| rates.same.max(rates.different) <= limit);
    assert!(held, "{stream:?}: {rates:?}");
    let (same, different) = rates.map_or((1.0, 1.0), |rates| (rates.same, rates.different));
    say(&format!(
        "{} on {stream:?}: false SAME {same:.4}, false DIFFERENT {different:.4} of {runs} runs, alpha {}",
        std::any::type_name::<D>(),
        params.alpha
    ));
    (same, different)
}

/// [`holds_its_error`] on the worst streams with mean `null`.
///
/// # Panics
/// It does not on one of them.
#[track_caller]
pub fn holds_its_error_at_worst<D: Decider>(params: &DecisionParams, null: f64, runs: u32, seed: u64) {
    for stream in worst_nulls(null) {
        holds_its_error::<D>(params, stream, runs, seed);
    }
}

/// The published vectors that lie beside the checkout. Where they do not, this says so on
/// standard error, past the capture of the test harness, and the test has nothing to compare.
pub fn published_vectors(test: &str) -> Option<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/reference/statistics-vectors.json");
    match std::fs::read_to_string(path) {
        // What is there and damaged is no reason to skip: nothing in it will be found.
        Ok(text) => Some(serde_json::from_str(&text).unwrap_or_default()),
        Err(error) => {
            say(&format!("SKIPPED {test}: the published vectors are not there ({path}: {error})"));
            None
        }
    }
}

/// The cases of the published vectors with their scores.
pub fn published_cases(vectors: &Value) -> Vec<(&Value, Vec<f64>)> {
    let cases = vectors.get("cases").and_then(Value::as_array);
    let scores = |case: &Value| -> Vec<f64> {
        let list = case.get("x").and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_f64).collect()
    };
    cases.into_iter().flatten().map(|case| (case, scores(case))).collect()
}

/// A line on standard error that the test harness does not hold back.
fn say(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{line}");
}
