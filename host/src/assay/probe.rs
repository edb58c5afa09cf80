//! The user's own prompts: asked after the verdict, reported one by one, never averaged and
//! never judged by. A trigger that no challenge distribution would draw can be asked here.
//!
//! What goes wrong here is a note: the verdict was reached without it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bundle::BundleWriter;
use super::compare::{Comparison, Pair, Scoring};
use super::decision::Statistics;
use super::draft::Draft;
use super::events::{AssayEvent, Stage};
use super::halt::Halt;
use super::judge::Judge;
use super::report::Record;
use super::request::{AssayContext, AssayRequest};
use super::runner::Runner;
use crate::challenge::{Challenge, ChallengeSet, Family, Probes, Prompt};
use crate::domain::score::DecisionParams;
use crate::domain::{Problem, Sha256, budget};

/// What came of the user's prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProbeReport {
    /// Root over the prompts in their order.
    pub commitment: Sha256,
    pub prompts: u64,
    pub failed: u64,
    /// Prompts whose score alone is above gamma.
    pub above_gamma: u64,
    /// One per prompt, in order.
    pub results: Vec<ProbeResult>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProbeResult {
    pub index: u64,
    pub prompt: String,
    /// In [0, 1]; null if it failed.
    pub score: Option<f64>,
    /// The scorer's value before clipping; null for scorers without one.
    pub nats: Option<f64>,
    pub notes: BTreeMap<String, f64>,
    pub failure: Option<String>,
    /// SHA-256 over each side's trace as it was measured.
    pub reference_trace: Option<Sha256>,
    pub candidate_trace: Option<Sha256>,
}

impl ProbeResult {
    fn of(record: &Record) -> Self {
        Self {
            index: record.challenge.index,
            prompt: match &record.challenge.prompt {
                Prompt::Text(text) => text.clone(),
                Prompt::Tokens(_) => String::new(),
            },
            score: record.score,
            nats: record.nats(),
            notes: record.notes.clone(),
            failure: record.failure.clone(),
            reference_trace: record.reference_trace,
            candidate_trace: record.candidate_trace,
        }
    }

    /// What was known before it was scored.
    pub fn unscored(&self) -> Record {
        let prompt = Prompt::Text(self.prompt.clone());
        let challenge = Challenge { index: self.index, family: Family::Probe, prompt };
        Record {
            reference_trace: self.reference_trace,
            candidate_trace: self.candidate_trace,
            ..Record::blank(&challenge, self.failure.clone())
        }
    }
}

/// The prompts of a file: a JSON array of strings, or one per line.
///
/// # Errors
/// Input: it is neither, or is beyond a limit.
pub fn parse(text: &str, name: &str) -> Result<Vec<String>, Problem> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let prompts: Vec<String> = if text.trim_start().starts_with('[') {
        serde_json::from_str(text).map_err(|error| {
            Problem::input(format!("{name} begins like a JSON array and is no array of strings: {error}"))
                .hint("write one prompt per line, or a JSON array of strings")
        })?
    } else {
        text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect()
    };
    check(&prompts)
        .map_err(|problem| Problem { message: format!("{name}: {}", problem.message), ..problem })?;
    if prompts.is_empty() {
        return Err(Problem::input(format!("{name} holds no prompt")));
    }
    Ok(prompts)
}

/// Whether so many prompts of such lengths may be asked.
///
/// # Errors
/// Input, naming the prompt.
pub fn check(prompts: &[String]) -> Result<(), Problem> {
    if prompts.len() > budget::PROBES {
        return Err(Problem::input(format!("{} prompts, at most {}", prompts.len(), budget::PROBES)));
    }
    for (at, prompt) in (1..).zip(prompts) {
        if prompt.is_empty() || prompt.len() > budget::PROBE_BYTES {
            return Err(Problem::input(format!(
                "prompt number {at} has {} bytes, not 1 to {}",
                prompt.len(),
                budget::PROBE_BYTES
            )));
        }
    }
    Ok(())
}

/// Asks both models the user's prompts and scores the answers as challenges are scored.
///
/// # Errors
/// It was cancelled. Anything else that goes wrong becomes a note in `draft`.
pub fn run<P>(
    request: &AssayRequest,
    context: &AssayContext<'_>,
    runner: &dyn Runner,
    draft: &mut Draft,
    judged: &Pair<'_, P>,
    (scorer_params, params): (&str, DecisionParams),
) -> Result<(), Halt> {
    (context.on_event)(AssayEvent::Stage { stage: Stage::Probing });
    let set: ChallengeSet<Probes> = ChallengeSet::probes(&request.probes);
    let quiet = |event: AssayEvent| match event {
        AssayEvent::Progress { done, total, .. } => {
            (context.on_event)(AssayEvent::Progress { stage: Stage::Probing, done, total });
        }
        AssayEvent::Stage { .. }
        | AssayEvent::Committed { .. }
        | AssayEvent::Frozen { .. }
        | AssayEvent::Scored { .. }
        | AssayEvent::Failed { .. } => {}
    };
    let context = context.listened_by(&quiet);
    let params = DecisionParams { n_max: set.challenges.len() as u64, ..params };
    let mut part = Draft::new(request, &params);
    let pair = Pair {
        reference: judged.reference,
        reference_root: judged.reference_root,
        candidate: judged.candidate,
        set: &set,
    };
    let mark = context.bundle.map(BundleWriter::mark);
    let asked = Judge::watching(&context.plugins, params).map_err(Halt::from).and_then(|judge| {
        let scoring =
            Scoring { scorer_params: scorer_params.to_owned(), judge, max_failed_share: f64::INFINITY };
        Comparison::new(request, &context, runner, pair, scoring, &mut part)?.run()
    });
    let records = std::mem::take(&mut part.report.records);
    draft.absorb(part, "probes");
    if let (Some(bundle), Some(mark), true) = (context.bundle, mark, asked.is_err()) {
        bundle.rewind(mark);
    }
    match asked {
        Ok(_) => {
            draft.report.probes = Some(report(&set, &records, params.gamma));
            Ok(())
        }
        Err(halt) if halt.statistics == Statistics::Cancelled => Err(halt),
        Err(halt) => {
            draft.note(format!("probes: {}", halt.error));
            Ok(())
        }
    }
}

/// What the records say.
pub fn report(set: &ChallengeSet<Probes>, records: &[Record], gamma: f64) -> ProbeReport {
    let results: Vec<ProbeResult> = records.iter().map(ProbeResult::of).collect();
    let count = |which: &dyn Fn(&ProbeResult) -> bool| results.iter().filter(|r| which(r)).count() as u64;
    ProbeReport {
        commitment: set.commitment,
        prompts: set.challenges.len() as u64,
        failed: count(&|result| result.score.is_none()),
        above_gamma: count(&|result| result.score.is_some_and(|score| score > gamma)),
        results,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_or_a_json_array() {
        assert_eq!(parse("one\r\n\n  two \n", "f").unwrap(), ["one", "  two "]);
        assert_eq!(parse("\u{feff}[\"a\\nb\", \"c\"]", "f").unwrap(), ["a\nb", "c"]);
        for (bad, named) in [
            ("", "holds no prompt"),
            ("\n \n", "holds no prompt"),
            ("[]", "holds no prompt"),
            ("[1]", "array of strings"),
            ("[\"a\"", "array of strings"),
            ("[\"a\", \"\"]", "number 2"),
        ] {
            let problem = parse(bad, "probes.txt").unwrap_err();
            assert!(
                problem.message.contains(named) && problem.message.contains("probes.txt"),
                "{bad}: {problem}"
            );
            assert_eq!(problem.exit_code(), 4);
        }
        assert!(parse(&"x\n".repeat(budget::PROBES + 1), "f").is_err());
        assert!(parse(&"x".repeat(budget::PROBE_BYTES + 1), "f").is_err());
        assert_eq!(parse(&"x\n".repeat(budget::PROBES), "f").unwrap().len(), budget::PROBES);
    }
}
