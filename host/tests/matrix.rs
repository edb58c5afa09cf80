//! Every pair of the small real models beside the repository in audit mode, against the truth.
//!
//! The truth of a pair is the mean clipped divergence over many fresh challenges, scored to
//! the end without stopping; for the pairs with the base model also the divergences that
//! `ground_truth.json` states for other text. No SAME may stand where the truth is above
//! delta, no DIFFERENT where it is below gamma.

#![expect(clippy::unwrap_used, reason = "a measurement that prints, and stops where it cannot go on")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use assayd::assay::pipeline::run_with;
use assayd::assay::report::Report;
use assayd::assay::runner::WorkerRunner;
use assayd::assay::{AssayContext, AssayRequest, KeyText};
use assayd::governor::admission::Caps;
use assayd::plugin::PluginSet;
use assayd::worker::{GiveUp, Policy, WorkerLimits};
use serde_json::Value;

/// Challenges behind a pair's true mean.
const MANY: u64 = 160;

/// Compiled once for all pairs.
static PLUGINS: LazyLock<Arc<PluginSet>> = LazyLock::new(|| Arc::new(PluginSet::builtin().unwrap()));

fn verify(place: &Path, candidate: &Path, reference: &Path, change: impl Fn(&mut AssayRequest)) -> Report {
    let mut request = AssayRequest::new(candidate, Some(reference.to_owned()));
    request.threads = Some(1);
    change(&mut request);
    let context = AssayContext {
        plugins: Arc::clone(&PLUGINS),
        cache_dir: place.join("cache"),
        cancel: Arc::default(),
        on_event: &|_| {},
        bundle: None,
    };
    let program = Some(PathBuf::from(env!("CARGO_BIN_EXE_assayd")));
    let policy =
        Policy { guardrail: request.guardrail, caps: Caps::default(), force: true, give_up: GiveUp::NOTHING };
    run_with(
        &request,
        &context,
        &WorkerRunner::new(WorkerLimits { program, ..WorkerLimits::default() }, policy),
    )
}

fn mean(list: &[f64]) -> f64 {
    list.iter().sum::<f64>() / list.len() as f64
}

#[test]
#[ignore = "runs some 600 assays of real models: a quarter of an hour"]
fn no_verdict_contradicts_the_truth() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/models");
    if !models.is_dir() {
        writeln!(std::io::stderr(), "SKIPPED matrix: {} is not there", models.display()).unwrap();
        return;
    }
    let truths: Value =
        serde_json::from_slice(&std::fs::read(models.join("ground_truth.json")).unwrap()).unwrap();
    let mut names: Vec<PathBuf> =
        std::fs::read_dir(models.join("gguf")).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let place = tempfile::tempdir().unwrap();
    let (mut rows, mut wrong) = (Vec::new(), Vec::new());
    for reference in &names {
        for candidate in &names {
            let name = |path: &Path| path.file_stem().unwrap().to_string_lossy().into_owned();
            let (reference_name, candidate_name) = (name(reference), name(candidate));
            let report = verify(place.path(), candidate, reference, |request| {
                request.key = Some(KeyText("5c".repeat(32)));
            });
            let verdict = report.final_decision.as_str().to_owned();
            let n = report.enhanced_diff.n_effective;
            let label = report.relationship.as_ref().map_or("-", |relationship| relationship.label.as_str());
            // A rule that decides at the last score only: every challenge is asked.
            let fresh = verify(place.path(), candidate, reference, |request| {
                request.key = Some(KeyText("c5".repeat(32)));
                (request.decider, request.n_max) = ("fixed-eb".to_owned(), Some(MANY));
            });
            let scores: Vec<f64> = fresh.records.iter().filter_map(|record| record.score).collect();
            let truth = (!scores.is_empty()).then(|| mean(&scores));
            let stated = truths["models"][&candidate_name]["vs_base"]["kl_per_sequence"]
                .as_array()
                .filter(|_| reference_name == "base-f32")
                .map(|list| {
                    mean(&list.iter().map(|kl| (kl.as_f64().unwrap() / 0.1).min(1.0)).collect::<Vec<_>>())
                });
            let contradicts = |truth: Option<f64>| match verdict.as_str() {
                "SAME" => truth.is_none_or(|truth| truth > 0.20),
                // Other tokenizers are DIFFERENT without any score.
                "DIFFERENT" => truth.is_some_and(|truth| truth < 0.05),
                _ => false,
            };
            let shown =
                |truth: Option<f64>| truth.map_or_else(|| "-".to_owned(), |truth| format!("{truth:.4}"));
            let row = format!(
                "{reference_name:<22} {candidate_name:<22} {verdict:<10} {n:>4} {:>8} {:>8} {label}",
                shown(truth),
                shown(stated)
            );
            println!("{row}");
            if contradicts(truth) || (stated.is_some() && contradicts(stated)) {
                wrong.push(row.clone());
            }
            rows.push((verdict, n));
        }
    }
    for verdict in ["SAME", "DIFFERENT", "UNDECIDED", "ERROR"] {
        let ns: Vec<f64> = rows.iter().filter(|(v, _)| v == verdict).map(|(_, n)| *n as f64).collect();
        println!(
            "{verdict}: {} pairs, {:.1} challenges on average",
            ns.len(),
            if ns.is_empty() { 0.0 } else { mean(&ns) }
        );
    }
    assert!(wrong.is_empty(), "verdicts against the truth:\n{}", wrong.join("\n"));
}
