//! How many challenges a verdict takes, by simulation through the real decider plugins, beside
//! the fixed-n rule and the table that the design promises. `make bench` prints it.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a measurement that prints, and stops where it cannot go on"
)]

mod random;

use assayd::assay::judge::{Fold, stopping_step};
use assayd::domain::modes::{MODES, fewest_for_same, grid5_same_at};
use assayd::domain::score::{Decision, DecisionParams};
use assayd::plugin::{Decider, PluginSet};
use random::Random;

/// Streams of scores.
struct Scores(Random);

impl Scores {
    fn uniform(&mut self) -> f64 {
        self.0.below(1 << 53) as f64 / (1_u64 << 53) as f64
    }

    /// Beta(k, n + 1 - k): the k-th smallest of n.
    fn beta(&mut self, k: usize, n: usize) -> f64 {
        let mut all: Vec<f64> = (0..n).map(|_| self.uniform()).collect();
        all.sort_by(f64::total_cmp);
        all[k - 1]
    }
}

#[derive(Clone, Copy)]
enum Truth {
    Constant(f64),
    Beta(usize, usize),
    Sparse(f64),
}

/// A clear case: what is true, the verdict it should get, and the expected number of
/// challenges that `statistics.md` section 4 promises at alpha .01, gamma = delta = .10.
const CASES: [(&str, Truth, Decision, f64); 9] = [
    ("identical", Truth::Constant(0.0), Decision::Same, 51.0),
    ("rounding (.002)", Truth::Constant(0.002), Decision::Same, 52.0),
    ("Q8-like (.01)", Truth::Beta(1, 99), Decision::Same, 56.0),
    ("Q4-like (.05)", Truth::Beta(10, 199), Decision::Same, 100.0),
    ("1.5 gamma, smooth", Truth::Beta(30, 199), Decision::Different, 16.0),
    ("2 gamma, smooth", Truth::Beta(40, 199), Decision::Different, 9.0),
    ("3 gamma, sparse", Truth::Sparse(0.3), Decision::Different, 41.0),
    ("mean .5", Truth::Beta(10, 19), Decision::Different, 4.0),
    ("all different", Truth::Constant(1.0), Decision::Different, 3.0),
];

const RUNS: u64 = 4_000;

/// Share of runs with this verdict, and challenges on average.
fn simulate(decider: &Decider, params: &DecisionParams, truth: Truth, wanted: Decision) -> (f64, f64) {
    // A constant is the same in every run.
    let runs = if matches!(truth, Truth::Constant(_)) { 1 } else { RUNS };
    let (mut right, mut challenges) = (0_u64, 0_u64);
    for run in 0..runs {
        let mut random = Scores(Random(run << 32 ^ 77));
        let mut fold = Fold::start(decider.clone(), params).unwrap();
        let mut seen = 0;
        let stop = loop {
            if seen >= params.n_max {
                break None;
            }
            let some = 8.min(params.n_max - seen);
            seen += some;
            let scores: Vec<f64> = (0..some)
                .map(|_| match truth {
                    Truth::Constant(value) => value,
                    Truth::Beta(k, n) => random.beta(k, n),
                    Truth::Sparse(p) => f64::from(u8::from(random.uniform() < p)),
                })
                .collect();
            if let Some(step) = stopping_step(fold.push(&scores).unwrap(), params.n_max) {
                break Some(*step);
            }
        };
        right += u64::from(stop.is_some_and(|step| step.decision == wanted));
        challenges += stop.map_or(params.n_max, |step| step.n);
    }
    (right as f64 / runs as f64, challenges as f64 / runs as f64)
}

#[test]
#[ignore = "a measurement for `make bench`; takes some minutes"]
fn expected_challenges_to_a_verdict() {
    let plugins = PluginSet::builtin().unwrap();
    let (grid5, fixed) = (plugins.decider("grid5").unwrap(), plugins.decider("fixed-eb").unwrap());
    let params = DecisionParams { alpha: 0.01, gamma: 0.10, delta: 0.10, n_max: 400 };
    let few = DecisionParams { n_max: 32, ..params };
    println!("\nchallenges to a verdict, alpha .01, gamma = delta = .10, {RUNS} runs per cell");
    println!(
        "{:<20} {:>10} {:>8} {:>8} | {:>18} {:>18}",
        "truth", "verdict", "grid5", "promised", "fixed n = 32", "fixed n = 400"
    );
    for (name, truth, wanted, promised) in CASES {
        let (share, n) = simulate(&grid5, &params, truth, wanted);
        let shown = |(share, n): (f64, f64)| format!("{n:.0} ({:.0} % decide)", 100.0 * share);
        println!(
            "{name:<20} {:>10} {n:>8.1} {promised:>8} | {:>18} {:>18}",
            wanted.as_str(),
            shown(simulate(&fixed, &few, truth, wanted)),
            shown(simulate(&fixed, &params, truth, wanted)),
        );
        // The promised numbers are rounded, and the runs have an error of their own.
        assert!(share >= 0.98 && n <= promised * 1.05 + 0.5, "{name}: {share} {n}");
    }
    println!("\nidentical models: mode, SAME at, hard lower bound");
    for mode in MODES {
        let (at, least) =
            (grid5_same_at(&mode.params), fewest_for_same(mode.params.alpha, mode.params.delta));
        let (share, n) = simulate(&grid5, &mode.params, Truth::Constant(0.0), Decision::Same);
        assert_eq!((share, n), (1.0, at as f64), "the closed form and the plugin");
        println!("{:<10} {at:>4} {least:>4}", mode.name.as_str());
    }
}
