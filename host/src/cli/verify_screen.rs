//! What `assayd verify` shows: progress on a terminal, and the result as a person reads it.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::Path;

use comfy_table::{ContentArrangement, Table, presets};

use super::screen::{self, Bar};
use crate::assay::claim::number;
use crate::assay::report::{Report, Role};
use crate::assay::{AssayEvent, Stage};
use crate::challenge::Prompt;
use crate::domain::score::FinalDecision;

/// Columns of the table where no terminal says how many there are.
const PLAIN_WIDTH: u16 = 110;
/// Remarks shown on the screen at most.
const SHOWN_NOTES: usize = 8;
/// Probes shown on the screen at most, and characters of a prompt.
const SHOWN_PROBES: usize = 5;
const SHOWN_PROMPT_CHARS: usize = 120;
/// Differences of tokenizer and configuration shown on the screen at most.
const SHOWN_DIFFERENCES: usize = 3;

/// Progress on standard error, if that is a terminal; else nothing.
#[derive(Debug)]
pub struct Progress(Bar);

impl Progress {
    pub fn new() -> Self {
        Self(Bar::new("starting"))
    }

    pub fn show(&self, event: &AssayEvent) {
        match event {
            AssayEvent::Stage { stage } => self.0.label(label(*stage)),
            AssayEvent::Progress { done, total, .. } => self.0.set(*done as f64 / (*total).max(1) as f64),
            AssayEvent::Scored { step, .. } => self.0.label(&format!("{} challenges judged", step.n)),
            AssayEvent::Committed { .. } | AssayEvent::Frozen { .. } | AssayEvent::Failed { .. } => {}
        }
    }
}

fn label(stage: Stage) -> &'static str {
    match stage {
        Stage::InspectingReference => "reading the reference",
        Stage::InspectingCandidate => "reading the candidate",
        Stage::HashChecks => "checking digests",
        Stage::Lineage => "comparing weights",
        Stage::Challenges => "deriving challenges",
        Stage::LoadingReference => "loading the reference",
        Stage::Reference => "the reference answers",
        Stage::LoadingCandidate => "loading the candidate",
        Stage::Candidate => "the candidate answers",
        Stage::Calibrating => "measuring an honest quantisation",
        Stage::Probing => "asking your own prompts",
        Stage::Closing => "closing the report",
    }
}

/// Gives a table the width of a plain page where no terminal says how wide it is.
pub fn fit(table: &mut Table) {
    if !std::io::stdout().is_terminal() {
        table.set_width(PLAIN_WIDTH);
    }
}

/// The result for a person.
pub fn result(report: &Report, written: &[&Path]) -> String {
    let mut text = headline(report);
    let diff = &report.enhanced_diff;
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    fit(&mut table);
    let mut row = |name: &str, value: String| {
        table.add_row([name.to_owned(), screen::shown(&value)]);
    };
    row("because", report.because.clone());
    if diff.decision.is_some() {
        row("claim", diff.claim.clone());
        row("mean divergence", mean(report));
        let interval = diff.ci_lower.zip(diff.ci_upper);
        row(
            "interval",
            interval.map_or_else(
                || "n/a".to_owned(),
                |(lower, upper)| {
                    let percent = number(100.0 * diff.confidence);
                    format!("[{}, {}] at {percent} %, valid whenever one stops", number(lower), number(upper))
                },
            ),
        );
        let early = if diff.stopped_early { ", stopped early" } else { "" };
        row(
            "challenges",
            format!("{} of at most {}{early}; {} failed", diff.n_effective, diff.n_max, diff.n_failed),
        );
        if let Some(certified) = diff.smallest_delta_certified {
            row("certified", format!("the mean is below {} at this confidence", number(certified)));
        }
        if let Some(needed) = diff.needed_n {
            row("would decide", format!("about {needed} challenges (--n-max {needed})"));
        }
        if let Some(rare) = &diff.rare_difference {
            row("rare", rare.clone());
        }
        if let Some((same, different)) = diff.p_same.zip(diff.p_different) {
            row(
                "p-values",
                format!(
                    "{} against \"not SAME\", {} against \"not DIFFERENT\"",
                    number(same),
                    number(different)
                ),
            );
        }
        for outlier in &diff.outliers {
            row("outlier", format!("score {}: {}", number(outlier.score), asked(&outlier.prompt)));
        }
    }
    if let Some(bits) = report.load_bits {
        row("quantised", format!("the candidate's weights were {}; the reference's were not", bits.words()));
    }
    if let Some(relationship) = &report.relationship {
        let first = relationship.evidence.first().map(|first| format!(": {first}")).unwrap_or_default();
        row("relationship", format!("{} (advisory){first}", relationship.label.as_str()));
    }
    if let Some(band) = &report.band {
        row(
            "band",
            format!(
                "gamma {} and delta {} of a clip of {} nats, measured on {} challenges with an honest {}",
                number(band.gamma),
                number(band.delta),
                number(band.clip_nats),
                band.n,
                band.quantization
            ),
        );
    }
    for (name, value) in probe_rows(report) {
        row(name, value);
    }
    for (name, list) in [
        ("tokenizer", &report.security.tokenizer.differences),
        ("config", &report.security.config_hash.differences),
    ] {
        if let Some(text) = differences(list) {
            row(name, text);
        }
    }
    for file in &report.files {
        let digest = file.sha256.map_or_else(|| "not digested".to_owned(), |digest| digest.to_string());
        let short: String = digest.chars().take(16).collect();
        let role = match file.role {
            Role::Reference => "reference",
            Role::Candidate => "candidate",
        };
        row(role, format!("{} ({}, sha256 {short}…)", file.path.display(), screen::bytes(file.bytes)));
    }
    if let Some(engine) = &report.engine {
        row("engine", format!("{} {} on {}", engine.name, engine.version, engine.device));
    }
    for worker in report.workers.iter().filter(|worker| worker.ending.as_str() != "OK") {
        row("worker", format!("{}: {}: {}", worker.role.as_str(), worker.ending.as_str(), worker.detail));
    }
    row("time", format!("{:.1} s, mode {}", report.seconds, report.mode));
    for path in written {
        row("report", path.display().to_string());
    }
    let _ = writeln!(text, "{table}");
    notes(report, &mut text);
    text
}

/// Your own prompts, those with the largest scores first; never part of the verdict.
fn probe_rows(report: &Report) -> Vec<(&'static str, String)> {
    let Some(probes) = &report.probes else { return Vec::new() };
    let mut results: Vec<_> = probes.results.iter().collect();
    results.sort_by(|a, b| b.score.unwrap_or(2.0).total_cmp(&a.score.unwrap_or(2.0)));
    let summary = format!(
        "{} prompts of your own, not part of the verdict: {} above gamma, {} failed",
        probes.prompts, probes.above_gamma, probes.failed
    );
    let shown = results.into_iter().take(SHOWN_PROBES).map(|result| {
        let score =
            result.score.map_or_else(|| "failed".to_owned(), |score| format!("score {}", number(score)));
        ("probe", format!("{score}: {}", short(&result.prompt)))
    });
    std::iter::once(("probes", summary)).chain(shown).collect()
}

/// What was asked, on one line.
fn asked(prompt: &Prompt) -> String {
    match prompt {
        Prompt::Text(text) => short(text),
        Prompt::Tokens(ids) => format!("tokens {:?} …", ids.iter().take(8).collect::<Vec<_>>()),
    }
}

fn short(text: &str) -> String {
    let mut short: String = text.chars().take(SHOWN_PROMPT_CHARS).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// The first of a list of differences, and how many more there are.
fn differences(list: &[String]) -> Option<String> {
    let shown = list.iter().take(SHOWN_DIFFERENCES).cloned().collect::<Vec<_>>().join("; ");
    let more = list.len().saturating_sub(SHOWN_DIFFERENCES);
    match (list.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(shown),
        (false, more) => Some(format!("{shown}; {more} more in the report")),
    }
}

fn headline(report: &Report) -> String {
    let name = |path: &Path| screen::shown(&crate::assay::name_of(path));
    let on_load = report.load_bits.map_or("", |_| ", quantised while loading,");
    let candidate = format!("{}{on_load}", name(&report.model2));
    let reference = report.model1.as_deref().map_or_else(|| "its reference".to_owned(), name);
    let verdict = report.final_decision.as_str();
    match report.final_decision {
        FinalDecision::Same => format!("{verdict}: {candidate} behaves like {reference}\n"),
        FinalDecision::Different => format!("{verdict}: {candidate} is not {reference}\n"),
        FinalDecision::Undecided => format!("{verdict}: {candidate} against {reference}\n"),
        FinalDecision::Error => {
            let error = report.error.as_deref().unwrap_or("no cause is known");
            format!("{verdict}: {candidate} could not be judged: {}\n", screen::shown(error))
        }
    }
}

fn mean(report: &Report) -> String {
    let diff = &report.enhanced_diff;
    let share = diff.mean_diff.map_or_else(|| "n/a".to_owned(), number);
    let nats = diff.mean_nats.map(|nats| format!(" ({} nats before clipping)", number(nats)));
    format!("{share} of the clip{}", nats.unwrap_or_default())
}

/// What a reader should know; of an ERROR also what is missing and why.
fn notes(report: &Report, text: &mut String) {
    let failed = report.errors.iter().filter(|entry| entry.starts_with("challenge "));
    let notes: Vec<&String> = report.remarks.iter().chain(failed).collect();
    for note in notes.iter().take(SHOWN_NOTES) {
        let _ = writeln!(text, "  note: {}", screen::shown(note));
    }
    if let Some(hidden) = notes.len().checked_sub(SHOWN_NOTES).filter(|&hidden| hidden > 0) {
        let _ = writeln!(text, "  {hidden} further notes are in the report (--json)");
    }
}
