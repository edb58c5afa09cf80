//! `assayd lineage`: how the weights of two artifacts relate, without running a model.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::screen;
use crate::assay::round_trip::{RoundTrip, round_trip};
use crate::domain::Problem;
use crate::model::gguf::GgmlType;
use crate::model::imatrix::Imatrix;
use crate::model::likeness::{self, Likeness};
use crate::model::lineage::{self, Extent, Lineage, Relation, Requantize, TensorLineage, TensorRelation};
use crate::worker::{RowQuantizer, WorkerLimits};

/// Says how the weights of two models relate, tensor by tensor, without running them
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  assayd lineage model-Q8_0.gguf --reference model-F32.gguf   is it a quantisation of it, and nothing else?
  assayd lineage model.gguf --reference ~/hf/model            against a Hugging Face folder
  assayd lineage a.gguf --reference b.gguf --round-trip       and try both tokenizers on a small corpus
  assayd lineage model-IQ2_M.gguf --reference model-F16.gguf --requantize all --imatrix imatrix.gguf
                                                              types of few bits: is every block what the quantiser gives?
  assayd lineage a.gguf --reference b.gguf --json             for programs

Exit codes: 0 identical, same weights or a quantisation; 1 derived or unrelated;
3 the evidence does not suffice; 4 something could not be read.")]
pub struct Args {
    /// The model in question: a GGUF file, any part of a split set, a safetensors file or a folder
    #[arg(value_name = "CANDIDATE")]
    pub candidate: PathBuf,
    /// The model it is compared with
    #[arg(long, value_name = "REF")]
    pub reference: PathBuf,
    /// How much of a large model llama.cpp's quantiser rounds again, in a worker, to compare bytes
    /// and errors; small models are always done as a whole
    #[arg(long, value_name = "EXTENT", value_enum, default_value_t)]
    pub requantize: Extent,
    /// The importance matrix that the candidate was quantised with, as `llama-imatrix` writes it
    #[arg(long, value_name = "FILE")]
    pub imatrix: Option<PathBuf>,
    /// Also try both tokenizers on a small corpus, each in a worker (GGUF only)
    #[arg(long)]
    pub round_trip: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// What `--json` prints.
#[derive(Debug, serde::Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    lineage: &'a Lineage,
    /// What is said around the weights.
    likeness: &'a Likeness,
    #[serde(skip_serializing_if = "Option::is_none")]
    round_trip: Option<&'a RoundTrip>,
}

/// Differences of tokenizer, chat templates and configuration listed for people.
const LISTED_DIFFERENCES: usize = 6;

/// Tensors listed for people; JSON has them all.
const LISTED: usize = 12;

/// Runs the command.
///
/// # Errors
/// A model cannot be read, or the output cannot be written.
pub fn run(args: &Args) -> Result<u8, Problem> {
    let imatrix = args.imatrix.as_deref().map(Imatrix::open).transpose()?;
    let mut quantizer = RowQuantizer::new(&WorkerLimits::default());
    let again =
        Requantize { quantizer: &mut quantizer, extent: args.requantize, importance: imatrix.as_ref() };
    let bar = screen::Bar::new("comparing tensors");
    let lineage = lineage::compare(&args.candidate, &args.reference, Some(again), &mut |done, total| {
        bar.set(done as f64 / total.max(1) as f64);
    })?;
    drop(bar);
    let tried = match args.round_trip {
        true => Some(round_trip(&args.candidate, &args.reference, &WorkerLimits::default())?),
        false => None,
    };
    let likeness = likeness::compare(&args.candidate, &args.reference)
        .unwrap_or_else(|problem| Likeness { unknown: vec![problem.to_string()], ..Likeness::default() });
    if args.json {
        screen::print_json(&Document { lineage: &lineage, likeness: &likeness, round_trip: tried.as_ref() })?;
    } else {
        screen::print(
            &(human(&lineage) + &around(&likeness) + &tries(tried.as_ref()) + hint(&lineage, args)),
        )?;
    }
    Ok(match lineage.relation {
        Relation::Identical | Relation::SameWeights | Relation::Quantization => 0,
        Relation::Derived | Relation::Unrelated => 1,
        Relation::Unknown => 3,
    })
}

fn human(lineage: &Lineage) -> String {
    let relation = match lineage.relation {
        Relation::Identical => "IDENTICAL: every byte of the weights and of the headers is equal",
        Relation::SameWeights => "SAME WEIGHTS: every weight is equal",
        Relation::Quantization => "QUANTIZATION: the reference's weights, rounded, and nothing else",
        Relation::Derived => "DERIVED: the reference's weights were changed",
        Relation::Unrelated => "UNRELATED: the weights have nothing in common",
        Relation::Unknown => "UNKNOWN: the evidence does not suffice",
    };
    let mut out = format!("{relation}\n");
    for reason in &lineage.reasons {
        let _ = writeln!(out, "  {}", screen::shown(reason));
    }
    let _ = writeln!(
        out,
        "  {} tensors compared, {} with equal weights",
        lineage.tensors_compared, lineage.tensors_identical
    );
    if let (Some(excess), Some(worst)) = (lineage.max_excess_error, &lineage.worst_tensor) {
        let worst = screen::shown(worst);
        let _ = match excess.is_finite() {
            true => {
                writeln!(out, "  largest error beyond rounding {excess:.3e}, relatively worst tensor {worst}")
            }
            false => writeln!(out, "  {worst} has NaN or infinity where the other has a number"),
        };
    }
    let blamed: Vec<&TensorLineage> = lineage
        .tensors
        .iter()
        .filter(|tensor| {
            use TensorRelation::{Differs, Extra, Missing, Moved, Permuted, ShapeDiffers, Unknown};
            matches!(tensor.relation, Differs | Extra | Missing | Moved | Permuted | ShapeDiffers | Unknown)
        })
        .collect();
    for tensor in blamed.iter().take(LISTED) {
        let _ = writeln!(out, "  {}", line(tensor));
    }
    if blamed.len() > LISTED {
        let _ = writeln!(out, "  … and {} more; --json lists them all", blamed.len() - LISTED);
    }
    out
}

/// What would tell more about types whose weights say nothing one by one.
fn hint(lineage: &Lineage, args: &Args) -> &'static str {
    let quantised = |tensor: &&TensorLineage| {
        let kind = tensor.candidate_type.as_deref().and_then(GgmlType::from_name);
        tensor.relation == TensorRelation::Unknown && kind.is_some_and(GgmlType::has_quantizer)
    };
    let mut open = lineage.tensors.iter().filter(quantised).peekable();
    if lineage.relation != Relation::Unknown || open.peek().is_none() {
        return "";
    }
    // Rows that were looked at came out as they are, or as near as points of their grid.
    let may_come_out = |tensor: &TensorLineage| {
        tensor.exact_blocks.map_or(tensor.error_ratio.is_some(), |share| share > 0.95)
    };
    if open.all(may_come_out) {
        return "hint: `--requantize all` looks at every row, not at some, and can tell; it is slow\n";
    }
    match args.imatrix {
        None => "hint: give the importance matrix that the candidate was quantised with (--imatrix FILE)\n",
        Some(_) => "",
    }
}

/// What differs around the weights.
fn around(likeness: &Likeness) -> String {
    let mut out = String::new();
    for (name, list) in [
        ("tokenizer", &likeness.tokenizer),
        ("chat template", &likeness.templates),
        ("config", &likeness.config),
        ("generation", &likeness.generation),
    ] {
        for difference in list.iter().take(LISTED_DIFFERENCES) {
            let _ = writeln!(out, "  {name} differs: {}", screen::shown(&difference.to_string()));
        }
        if let Some(more) = list.len().checked_sub(LISTED_DIFFERENCES).filter(|&more| more > 0) {
            let _ = writeln!(out, "  {name}: {more} more differences; --json lists them");
        }
    }
    if likeness.compatible() == Some(true) {
        out.push_str("  the tokenizers are equal\n");
    }
    for unknown in &likeness.unknown {
        let _ = writeln!(out, "  not compared: {}", screen::shown(unknown));
    }
    out
}

/// What the tokenizers did with the corpus.
fn tries(tried: Option<&RoundTrip>) -> String {
    let Some(tried) = tried else { return String::new() };
    let mut out = format!(
        "  round trip: {} of {} texts become the same tokens; {} come back unchanged from the candidate, {} from the reference\n",
        tried.equal, tried.texts, tried.lossless_candidate, tried.lossless_reference
    );
    for text in &tried.differing {
        let _ = writeln!(out, "    other tokens: {}", screen::shown(&format!("{text:?}")));
    }
    out
}

fn line(tensor: &TensorLineage) -> String {
    let relation = serde_json::to_value(tensor.relation).unwrap_or_default();
    let relation = relation.as_str().unwrap_or_default();
    let of = |kind: &Option<String>| kind.clone().unwrap_or_else(|| "-".to_owned());
    let mut out = format!(
        "{}  {} -> {}  {relation}",
        screen::shown(&tensor.name),
        of(&tensor.reference_type),
        of(&tensor.candidate_type)
    );
    if let Some([ours, theirs]) = &tensor.shapes {
        let _ = write!(out, " ({ours:?} instead of {theirs:?})");
    }
    if let Some(from) = &tensor.moved_from {
        let _ = write!(out, " from {}", screen::shown(from));
    }
    if let Some(rank) = tensor.rank {
        let _ = write!(out, " by a matrix of rank {rank}");
    }
    if let Some(error) = tensor.max_abs_error {
        let _ = write!(out, ", error {error:.3e}");
        if let Some(allowed) = tensor.allowed_error.filter(|&allowed| allowed < f32::MAX.into()) {
            let _ = write!(out, " where {allowed:.3e} is allowed");
        }
    }
    if tensor.weights_beyond > 0 {
        let _ = write!(out, ", {} weights beyond", tensor.weights_beyond);
    }
    if let Some(share) = tensor.exact_blocks.filter(|_| tensor.relation == TensorRelation::Differs) {
        let _ = write!(out, ", {:.1} % of the blocks as rounding gives them", 100.0 * share);
    }
    out
}
