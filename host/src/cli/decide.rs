//! `assayd decide`: a decider over scores that the user brings.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use comfy_table::{Table, presets};
use serde::Serialize;

use super::screen;
use crate::assay::claim::number;
use crate::assay::judge::{replay, stopping_step};
use crate::domain::modes::{DEFAULT_DECIDER, ModeName};
use crate::domain::score::{Decision, DecisionParams, FinalDecision, Step, complement};
use crate::domain::{Problem, budget};
use crate::plugin::PluginSet;

/// Steps shown on the screen at most; `--json` has all of them.
const SHOWN_STEPS: usize = 20;

/// Runs a decider over a JSON array of scores in [0, 1].
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  assayd decide scores.json
  echo '[0, 0, 0.02, 0.01]' | assayd decide - --delta 0.7 --confidence 0.9
  assayd decide scores.json --decider hedged --gamma 0.1 --delta 0.1 --json | jq '.steps[-1]'

Exit codes: 0 SAME, 1 DIFFERENT, 3 UNDECIDED, 2 a demand that cannot be met, 4 scores that cannot be read.")]
pub struct Args {
    /// File with a JSON array of numbers, or - for standard input
    #[arg(value_name = "SCORES")]
    pub scores: PathBuf,
    /// Decider plugin
    #[arg(long, value_name = "ID", default_value = DEFAULT_DECIDER)]
    pub decider: String,
    /// Mode whose values are used where none is given
    #[arg(long, value_enum, default_value = "audit")]
    pub mode: ModeName,
    /// 1 - alpha, such as 0.99
    #[arg(long, value_name = "C")]
    pub confidence: Option<f64>,
    /// DIFFERENT means: the mean is above this
    #[arg(long, value_name = "G")]
    pub gamma: Option<f64>,
    /// SAME means: the mean is below this
    #[arg(long, value_name = "D")]
    pub delta: Option<f64>,
    /// Set gamma to delta, so that every mean is on one side
    #[arg(long, conflicts_with = "gamma")]
    pub strict_band: bool,
    /// Scores after which no decision counts any more; the number of scores if not given
    #[arg(long, value_name = "N")]
    pub n_max: Option<u64>,
    /// Folder of plugins that add to the built-in ones
    #[arg(long, value_name = "DIR")]
    pub plugins: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// The JSON document.
#[derive(Debug, Serialize)]
struct Document {
    decision: Decision,
    /// The stopping point; all scores if there was no decision.
    n: u64,
    decider: String,
    confidence: f64,
    gamma: f64,
    delta: f64,
    n_max: u64,
    /// One per score given, also after the decision.
    steps: Vec<Step>,
}

/// Runs the command.
///
/// # Errors
/// Usage: a demand that cannot be met. Input: no scores. Plugin: the decider failed.
pub fn run(args: &Args) -> Result<u8, Problem> {
    // What is wrong with the demand is said before a file is opened.
    if args.n_max.is_some() {
        DecisionParams::resolve(args.mode, args.confidence, gamma(args), args.delta, args.n_max)?;
    }
    let scores = read_scores(&args.scores)?;
    let params = params_for(args, scores.len() as u64)?;
    let decider = PluginSet::with_folder(args.plugins.as_deref())?.decider(&args.decider)?;
    let steps = replay(&decider, &params, &scores)?;
    let stop = stopping_step(&steps, params.n_max);
    let document = Document {
        decision: stop.map_or(Decision::Undecided, |step| step.decision),
        n: stop.map_or(scores.len() as u64, |step| step.n),
        decider: args.decider.clone(),
        confidence: complement(params.alpha),
        gamma: params.gamma,
        delta: params.delta,
        n_max: params.n_max,
        steps,
    };
    if args.json {
        screen::print_json(&document)?;
    } else {
        screen::print(&human(&document))?;
    }
    Ok(match document.decision {
        Decision::Same => FinalDecision::Same,
        Decision::Different => FinalDecision::Different,
        Decision::Undecided => FinalDecision::Undecided,
    }
    .exit_code())
}

/// The gamma that is asked for: delta itself for a strict band.
fn gamma(args: &Args) -> Option<f64> {
    if args.strict_band { Some(args.delta.unwrap_or(args.mode.mode().params.delta)) } else { args.gamma }
}

/// Without `--n-max` there is no demand on the number of scores, only the scores there are.
fn params_for(args: &Args, scores: u64) -> Result<DecisionParams, Problem> {
    if args.n_max.is_some() {
        return DecisionParams::resolve(args.mode, args.confidence, gamma(args), args.delta, args.n_max);
    }
    let base = args.mode.mode().params;
    let params = DecisionParams {
        alpha: args.confidence.map_or(base.alpha, complement),
        gamma: gamma(args).unwrap_or(base.gamma),
        delta: args.delta.unwrap_or(base.delta),
        n_max: scores.max(1),
    };
    params.check_ranges()?;
    params.check_order()?;
    Ok(params)
}

fn read_scores(path: &Path) -> Result<Vec<f64>, Problem> {
    let mut text = String::new();
    let limit = budget::SCORES_FILE_BYTES;
    let read = if path == Path::new("-") {
        std::io::stdin().take(limit + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(limit + 1).read_to_string(&mut text))
    };
    read.map_err(|error| Problem::io("read scores from", path, &error))?;
    let name = path.display();
    if text.len() as u64 > limit {
        return Err(Problem::input(format!("{name} has more than {limit} bytes")));
    }
    let scores: Vec<f64> = serde_json::from_str(&text)
        .map_err(|error| Problem::input(format!("{name} is not a JSON array of numbers: {error}")))?;
    if scores.len() as u64 > budget::CHALLENGES {
        return Err(Problem::input(format!("{name} has more than {} scores", budget::CHALLENGES)));
    }
    match scores.iter().position(|score| !(0.0..=1.0).contains(score)) {
        None => Ok(scores),
        Some(at) => Err(Problem::input(format!("{name}: score number {} is not between 0 and 1", at + 1))
            .hint("divide by the largest possible value first; nothing is clipped silently")),
    }
}

fn human(document: &Document) -> String {
    let mut text = format!(
        "{} after {} of {} scores ({}, confidence {}, gamma {}, delta {})\n",
        document.decision.as_str(),
        document.n,
        document.steps.len(),
        document.decider,
        document.confidence,
        document.gamma,
        document.delta
    );
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["n", "lower", "upper", "ln E same", "ln E different", "decision"]);
    let shown = |value: Option<f64>| value.map_or_else(|| "n/a".to_owned(), number);
    let around = usize::try_from(document.n).unwrap_or(usize::MAX).saturating_sub(SHOWN_STEPS / 2);
    let skip = around.min(document.steps.len().saturating_sub(SHOWN_STEPS));
    for step in document.steps.iter().skip(skip).take(SHOWN_STEPS) {
        table.add_row([
            step.n.to_string(),
            shown(step.lower),
            shown(step.upper),
            shown(step.log_e_same),
            shown(step.log_e_different),
            step.decision.as_str().to_owned(),
        ]);
    }
    let _ = writeln!(text, "{table}");
    if document.steps.len() > SHOWN_STEPS {
        let _ = writeln!(text, "{} steps in all; --json prints them", document.steps.len());
    }
    text
}
