//! `assayd determinism`: does greedy generation repeat?

use std::path::PathBuf;

use super::memory::MemoryArgs;
use super::screen::{self, Bar};
use crate::domain::Problem;
use crate::measure::determinism::{self, Axis, Decision, Determinism};

/// Repeats greedy generation while only what must not matter changes: seeds, batch sizes, threads, restarts.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  assayd determinism model.gguf
  assayd determinism model.gguf --new-tokens 128 --json

Every run is compared with the first one, token by token. FULLY_DETERMINISTIC: all runs gave the same tokens;
MOSTLY_DETERMINISTIC: at least four in five; NON_DETERMINISTIC: fewer. Axes that cannot be varied here are
listed as such and do not count.
Exit codes: 0 fully deterministic, 1 not, 4 could not be run, 2 usage.")]
pub struct Args {
    /// Model file
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// New tokens per prompt
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    new_tokens: u32,
    /// Threads of the baseline [default: all cores, one for a small model]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
    #[command(flatten)]
    memory: MemoryArgs,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// The model cannot be run, or a run failed.
pub fn run(args: &Args) -> Result<u8, Problem> {
    let limits = args.memory.limits();
    let bar = Bar::new("starting");
    let found =
        determinism::examine(&args.model, args.new_tokens, args.threads, limits, &mut |what, fraction| {
            bar.say(what);
            bar.set(fraction);
        })?;
    drop(bar);
    if args.json {
        screen::print_json(&found)?;
    } else {
        screen::print(&table(&found))?;
    }
    Ok(u8::from(found.decision != Decision::FullyDeterministic))
}

fn table(found: &Determinism) -> String {
    use std::fmt::Write as _;
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED);
    table.set_header(["axis", "values (baseline first)", "same tokens", "log-prob moved by (nats)", "note"]);
    for axis in &found.axes {
        let values: Vec<String> = axis.values.iter().map(ToString::to_string).collect();
        let identical = match axis.identical {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "n/a",
        };
        let moved = axis.max_logprob_difference.map_or_else(|| "n/a".to_owned(), |x| format!("{x:.1e}"));
        table.add_row([
            axis.axis.to_owned(),
            values.join(", "),
            identical.to_owned(),
            moved,
            screen::shown(&note(axis)),
        ]);
    }
    let decision = match found.decision {
        Decision::FullyDeterministic => "FULLY_DETERMINISTIC",
        Decision::MostlyDeterministic => "MOSTLY_DETERMINISTIC",
        Decision::NonDeterministic => "NON_DETERMINISTIC",
    };
    let mut text = format!("{decision}: {}\n  {}\n{table}\n", screen::shown_path(&found.model), found.claim);
    let _ = writeln!(
        text,
        "{} prompts, up to {} new tokens each, on {} ({} {})",
        found.prompts, found.new_tokens, found.engine.device, found.engine.name, found.engine.version
    );
    text
}

fn note(axis: &Axis) -> String {
    let Some(divergence) = &axis.first_divergence else { return axis.reason.clone().unwrap_or_default() };
    let token = |id: Option<u32>, text: &Option<String>| match (id, text) {
        (Some(id), Some(text)) => format!("{id} {text:?}"),
        (Some(id), None) => id.to_string(),
        (None, _) => "the end".to_owned(),
    };
    format!(
        "at {}: prompt {}, token {}: {} instead of {}",
        divergence.value,
        divergence.prompt,
        divergence.token_index,
        token(divergence.got, &divergence.got_text),
        token(divergence.expected, &divergence.expected_text)
    )
}
