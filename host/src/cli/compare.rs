//! `assayd compare`: what quantisation did to a model, on given tokens.

use std::path::PathBuf;

use super::logprobs::read_tokens;
use super::memory::MemoryArgs;
use super::screen::{self, Bar, cache_folder};
use crate::domain::Problem;
use crate::engine::{KvType, LoadBits};
use crate::measure::compare::{self, Comparison, Request};

/// Measures how far a candidate's predictions are from a reference's, on given tokens.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  assayd compare model-q4_k_m.gguf --reference model-f16.gguf --tokens wiki.json
  assayd compare model-q8_0.gguf --reference model-f32.gguf --tokens t.json --from 256 --json
  assayd compare model --reference model --tokens t.json --load-bits 8     what would 8 bits do to this folder?

FILE holds a JSON array of arrays of token ids. They are taken as they are: no BOS is added.
KL is KL(reference || candidate) in nats, over the whole vocabulary at every position. The reference's
distributions go to a temporary file (positions x vocabulary x 4 bytes), so the two models are never in
memory together. This measures; `assayd verify` judges.")]
pub struct Args {
    /// Model whose damage is measured
    #[arg(value_name = "CANDIDATE")]
    candidate: PathBuf,
    /// Model it is measured against
    #[arg(long, value_name = "REF")]
    reference: PathBuf,
    /// JSON array of arrays of token ids
    #[arg(long, value_name = "FILE")]
    tokens: PathBuf,
    /// Score only from this position on (position 1 is the first that has something before it)
    #[arg(long, value_name = "POSITION", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    from: u32,
    /// Number format of the key-value cache
    #[arg(long, value_enum, default_value_t)]
    kv_type: KvType,
    /// Quantise the candidate's weights to 8 bits while loading (safetensors folders)
    #[arg(long, value_name = "8")]
    load_bits: Option<LoadBits>,
    /// Threads [default: all cores, one for a small model]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
    #[command(flatten)]
    memory: MemoryArgs,
    /// Folder of the temporary file [default: assayd's cache folder]
    #[arg(long, value_name = "DIR")]
    temp: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// Usage: bad tokens, or too many. Anything else: the models could not be compared.
pub fn run(args: &Args) -> Result<u8, Problem> {
    let sequences = read_tokens(&args.tokens, args.from)?;
    let temp = args.temp.clone().unwrap_or_else(cache_folder);
    let request = Request {
        candidate: &args.candidate,
        reference: &args.reference,
        sequences: &sequences,
        from: args.from,
        threads: args.threads,
        kv_type: args.kv_type,
        load_bits: args.load_bits,
        temp: &temp,
        limits: args.memory.limits(),
    };
    let bar = Bar::new("starting");
    let comparison = compare::compare(&request, &mut |what, fraction| {
        bar.say(what);
        bar.set(fraction);
    })?;
    drop(bar);
    if args.json {
        screen::print_json(&comparison)?;
    } else {
        screen::print(&table(&comparison))?;
    }
    Ok(0)
}

fn table(comparison: &Comparison) -> String {
    use std::fmt::Write as _;
    let summary = &comparison.summary;
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED);
    table.set_header(["", "value", "± standard error", "± by sequence", "unit"]);
    let mut row = |name: &str, value: f64, error: Option<f64>, by_sequence: Option<f64>, unit: &str| {
        table.add_row([
            name.to_owned(),
            format!("{value:.6}"),
            error.map_or_else(|| "n/a".to_owned(), |error| format!("{error:.6}")),
            by_sequence.map(|error| format!("{error:.6}")).unwrap_or_default(),
            unit.to_owned(),
        ]);
    };
    let (kl, delta, ratio) = (&summary.kl, &summary.delta_p, &summary.log_perplexity_ratio_errors);
    row("mean NLL, reference", summary.mean_nll_reference, summary.mean_nll_reference_stderr, None, "nats");
    row("mean NLL, candidate", summary.mean_nll_candidate, summary.mean_nll_candidate_stderr, None, "nats");
    row("perplexity, reference", summary.perplexity_reference, summary.perplexity_reference_stderr, None, "");
    row("perplexity, candidate", summary.perplexity_candidate, summary.perplexity_candidate_stderr, None, "");
    row(
        "perplexity ratio",
        summary.perplexity_ratio,
        summary.perplexity_ratio_stderr,
        ratio.stderr_by_sequence.map(|error| error * summary.perplexity_ratio),
        "",
    );
    row("KL mean", kl.mean, kl.errors.stderr, kl.errors.stderr_by_sequence, "nats");
    row("KL median", kl.median, kl.median_stderr, None, "nats");
    row("KL 99 %", kl.p99, kl.p99_stderr, None, "nats");
    row("KL 99.9 %", kl.p999, kl.p999_stderr, None, "nats");
    row("KL max", kl.max, None, None, "nats");
    let percent = |value: Option<f64>| value.map(|value| 100.0 * value);
    row(
        "same top token",
        100.0 * summary.top1_agreement,
        percent(summary.top1_agreement_stderr),
        None,
        "% of positions",
    );
    row(
        "delta p mean",
        100.0 * delta.mean,
        percent(delta.errors.stderr),
        percent(delta.errors.stderr_by_sequence),
        "% points",
    );
    row("delta p RMS", 100.0 * delta.rms, percent(delta.rms_stderr), None, "% points");
    let mut text = format!("{table}\n");
    let _ = writeln!(
        text,
        "{} against {}: {} positions of {} sequences, KL(reference || candidate)",
        screen::shown_path(&comparison.candidate),
        screen::shown_path(&comparison.reference),
        summary.positions,
        comparison.sequences
    );
    if let Some(bits) = comparison.load_bits {
        let _ = writeln!(text, "the candidate's weights were {}; the reference's were not", bits.words());
    }
    let timings = &comparison.timings;
    let _ = writeln!(
        text,
        "loaded in {:.2} s and {:.2} s, scored in {:.2} s and {:.2} s on {} ({} {})",
        timings.load_reference_seconds,
        timings.load_candidate_seconds,
        timings.score_reference_seconds,
        timings.score_candidate_seconds,
        comparison.engine.device,
        comparison.engine.name,
        comparison.engine.version
    );
    for warning in &comparison.warnings {
        let _ = writeln!(text, "  note: {}", screen::shown(warning));
    }
    text
}
