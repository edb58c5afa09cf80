//! `assayd bench`: speed and memory of a model.

use std::path::PathBuf;

use super::memory::MemoryArgs;
use super::placement::PlacementArgs;
use super::screen::{self, Bar};
use crate::domain::Problem;
use crate::engine::KvType;
use crate::measure::bench::{self, Bench, Plan, Spread};

/// Measures how fast a model runs and what memory it takes, over runs in processes of their own.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  assayd bench model.gguf
  assayd bench model.gguf --runs 5 --threads 8 --json

Prefill is a prompt of random tokens up to its first new token; decode the continuation of a short text, ended
where the model ends it; load runs from the start of the process. The table has llama-bench's columns. The first
run also fills the whole context, and memory is what was taken then.")]
pub struct Args {
    /// Model file
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Runs, each in a process of its own
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Threads [default: all cores, one for a small model]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
    /// Tokens of the prompt whose prefill is timed [default: 512, or what fits]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    prompt_tokens: Option<u32>,
    /// New tokens that are timed, at most [default: 128, or what fits]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    new_tokens: Option<u32>,
    /// Tokens of the context that is filled; what the model was trained for at most
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(4..))]
    ctx: u32,
    /// Number format of the key-value cache; llama-bench's default
    #[arg(long, value_enum, default_value = "f16")]
    kv_type: KvType,
    #[command(flatten)]
    placement: PlacementArgs,
    #[command(flatten)]
    memory: MemoryArgs,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// Usage: what is asked for does not fit. Otherwise: the model cannot be run.
pub fn run(args: &Args) -> Result<u8, Problem> {
    let plan = Plan {
        runs: args.runs,
        prompt_tokens: args.prompt_tokens,
        new_tokens: args.new_tokens,
        context: args.ctx,
        threads: args.threads,
        kv_type: args.kv_type,
        gpu_layers: args.placement.gpu_layers,
        cpu_experts: args.placement.cpu_experts(),
        limits: args.memory.limits(),
    };
    let bar = Bar::new("starting");
    let found = bench::bench(&args.model, &plan, &mut |what, fraction| {
        bar.say(what);
        bar.set(fraction);
    })?;
    drop(bar);
    if args.json {
        screen::print_json(&found)?;
    } else {
        screen::print(&table(&found))?;
    }
    Ok(0)
}

/// llama-bench's columns, as a Markdown table that merges with its own, then what it does not have.
fn table(found: &Bench) -> String {
    use std::fmt::Write as _;
    let speed = |spread: Spread| match (spread.mean, spread.sd) {
        (Some(mean), Some(sd)) => format!("{mean:.2} ± {sd:.2}"),
        (Some(mean), None) => format!("{mean:.2}"),
        _ => "n/a".to_owned(),
    };
    let gib = |bytes: u64| format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30));
    let rows = [
        (format!("pp{}", found.prompt_tokens), speed(found.prefill_tokens_per_second)),
        (format!("tg{}", found.new_tokens.first().unwrap_or(&0)), speed(found.decode_tokens_per_second)),
    ];
    let mut text = String::from("| model | size | params | backend | threads | test | t/s |\n");
    text.push_str("| --- | ---: | ---: | --- | ---: | ---: | ---: |\n");
    let backend = if found.gpu { "GPU" } else { "CPU" };
    for (test, speed) in rows {
        let _ = writeln!(
            text,
            "| {} | {} | {:.2} M | {backend} | {} | {test} | {speed} |",
            found.description,
            gib(found.size_bytes),
            found.parameters as f64 / 1e6,
            found.threads
        );
    }
    let seconds = |spread: Spread| match (spread.mean, spread.sd) {
        (Some(mean), Some(sd)) => format!("{:.1} ± {:.1} ms", 1e3 * mean, 1e3 * sd),
        (Some(mean), None) => format!("{:.1} ms", 1e3 * mean),
        _ => "n/a".to_owned(),
    };
    let _ = writeln!(
        text,
        "\nload {}, time to first token {} ({} prompt tokens), over {} run{} in processes of their own",
        seconds(found.load_seconds),
        seconds(found.ttft_seconds),
        found.prompt_tokens,
        found.runs,
        if found.runs == 1 { "" } else { "s" }
    );
    let memory = &found.memory;
    let known = |bytes: Option<u64>| bytes.map_or_else(|| "n/a".to_owned(), screen::bytes);
    let _ = writeln!(
        text,
        "memory with a full context of {} tokens: peak {} resident (anonymous at most {}, file pages at most {}), \
         predicted {}",
        found.context,
        known(memory.peak_bytes),
        screen::bytes(memory.rss_anon_bytes),
        screen::bytes(memory.rss_file_bytes),
        known(memory.predicted_bytes)
    );
    for device in &memory.devices {
        let _ = writeln!(
            text,
            "  {}: model {}, key-value cache {}, compute {}, output {}",
            device.name,
            known(device.model_bytes),
            known(device.kv_bytes),
            known(device.compute_bytes),
            known(device.output_bytes)
        );
    }
    let _ = writeln!(text, "{} {} on {}", found.engine.name, found.engine.version, found.engine.device);
    for warning in &found.warnings {
        let _ = writeln!(text, "  note: {warning}");
    }
    text
}
