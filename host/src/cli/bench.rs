//! `assayd bench`: speed and memory of a model.

use std::path::PathBuf;

use super::memory::MemoryArgs;
use super::placement::PlacementArgs;
use super::screen::{self, Bar};
use crate::domain::Problem;
use crate::engine::KvType;
use crate::measure::bench::{self, Bench, Plan, Spread};
use crate::measure::beside::{Baseline, Beside, Saved, Speeds};

/// Measures how fast a model runs and what memory it takes, over runs in processes of their own.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  assayd bench model.gguf
  assayd bench model.gguf --runs 5 --threads 8 --json
  assayd bench moe.gguf --gpu-layers -1 --json > before.json
  assayd bench moe.gguf --gpu-layers -1 --cpu-moe --baseline before.json     what it costs and what it saves

Prefill is a prompt of random tokens up to its first new token; decode the continuation of a short text, ended
where the model ends it; load runs from the start of the process. The table has llama-bench's columns. The first
run also fills the whole context, and memory is what was taken then.
--baseline adds a table of two rows: the speed penalty (speed before over speed now) of prefill and decode, and the
memory saved on all accelerators (as the engine counts it) and on this machine (peak, resident). It is worked out from
the two records alone; what is missing in either is n/a. Records of other models, prompts or contexts are refused.")]
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
    /// Compare with an earlier record of the same model: what this command printed with --json
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
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
        load_bits: args.placement.load_bits,
        baseline: args.baseline.as_deref().map(Baseline::read).transpose()?,
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

/// The earlier record and this one, a row each.
fn comparison(beside: &Beside) -> String {
    use std::fmt::Write as _;
    let speed = |value: Option<f64>| value.map_or_else(|| NONE.to_owned(), |value| format!("{value:.2}"));
    let size = |bytes: Option<u64>| bytes.map_or_else(|| NONE.to_owned(), screen::bytes);
    let penalty = |speeds: &Speeds| speeds.penalty.map_or_else(|| NONE.to_owned(), |x| format!("{x:.2}x"));
    let saved = |memory: &Saved| {
        let Some(bytes) = memory.saved_bytes else { return NONE.to_owned() };
        let sign = if bytes < 0 { "-" } else { "" };
        let share = memory.saved_share.map(|share| format!(" ({:.1} %)", 100.0 * share));
        format!("{sign}{}{}", screen::bytes(bytes.unsigned_abs()), share.unwrap_or_default())
    };
    let Beside { path, prefill, decode, device_memory, host_memory, changed } = beside;
    let mut text = String::from(
        "| run | prefill t/s | penalty | decode t/s | penalty | accelerators | saved | machine, peak | saved |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    let _ = writeln!(
        text,
        "| before | {} | | {} | | {} | | {} | |",
        speed(prefill.before_tokens_per_second),
        speed(decode.before_tokens_per_second),
        size(device_memory.before_bytes),
        size(host_memory.before_bytes)
    );
    let _ = writeln!(
        text,
        "| now | {} | {} | {} | {} | {} | {} | {} | {} |",
        speed(prefill.now_tokens_per_second),
        penalty(prefill),
        speed(decode.now_tokens_per_second),
        penalty(decode),
        size(device_memory.now_bytes),
        saved(device_memory),
        size(host_memory.now_bytes),
        saved(host_memory)
    );
    let same = if changed.is_empty() { "; the settings are the same" } else { "" };
    let _ = writeln!(text, "  before: {}{same}", screen::shown_path(path));
    for line in changed {
        let _ = writeln!(text, "  {}", screen::shown(line));
    }
    text
}

/// What is not known.
const NONE: &str = "n/a";

/// llama-bench's columns, as a Markdown table that merges with its own, then what it does not have.
fn table(found: &Bench) -> String {
    use std::fmt::Write as _;
    let speed = |spread: Spread| match (spread.mean, spread.sd) {
        (Some(mean), Some(sd)) => format!("{mean:.2} ± {sd:.2}"),
        (Some(mean), None) => format!("{mean:.2}"),
        _ => NONE.to_owned(),
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
        _ => NONE.to_owned(),
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
    let known = |bytes: Option<u64>| bytes.map_or_else(|| NONE.to_owned(), screen::bytes);
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
    if let Some(bits) = found.load_bits {
        let _ = writeln!(text, "the weights were {}", bits.words());
    }
    let _ = writeln!(text, "{} {} on {}", found.engine.name, found.engine.version, found.engine.device);
    for warning in &found.warnings {
        let _ = writeln!(text, "  note: {}", screen::shown(warning));
    }
    if let Some(beside) = &found.baseline {
        let _ = write!(text, "\n{}", comparison(beside));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The logged sums of one mixture of experts, whole and with its experts on the CPU, with
    /// speeds made up; and what is missing.
    #[test]
    fn the_comparison_is_a_table_that_merges_and_never_guesses() {
        let speeds = |before: Option<f64>, now: Option<f64>| Speeds {
            before_tokens_per_second: before,
            now_tokens_per_second: now,
            penalty: before.zip(now).map(|(before, now)| before / now),
        };
        let beside = Beside {
            path: "before.json".into(),
            prefill: speeds(Some(1024.0), Some(256.0)),
            decode: speeds(Some(60.0), Some(25.0)),
            device_memory: Saved {
                before_bytes: Some(24_716 << 20),
                now_bytes: Some(1_760 << 20),
                saved_bytes: Some(22_956 << 20),
                saved_share: Some(22_956.0 / 24_716.0),
            },
            host_memory: Saved {
                before_bytes: Some(1 << 30),
                now_bytes: Some(3 << 30),
                saved_bytes: Some(-(2 << 30)),
                saved_share: Some(-2.0),
            },
            changed: vec!["cpu_experts: 0 -> -1".to_owned()],
        };
        insta::assert_snapshot!(comparison(&beside), @"
        | run | prefill t/s | penalty | decode t/s | penalty | accelerators | saved | machine, peak | saved |
        | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
        | before | 1024.00 | | 60.00 | | 24.14 GiB | | 1.00 GiB | |
        | now | 256.00 | 4.00x | 25.00 | 2.40x | 1.72 GiB | 22.42 GiB (92.9 %) | 3.00 GiB | -2.00 GiB (-200.0 %) |
          before: before.json
          cpu_experts: 0 -> -1
        ");
        let none = Saved { before_bytes: None, now_bytes: Some(7), saved_bytes: None, saved_share: None };
        let beside = Beside {
            path: "a\u{1b}b.json".into(),
            prefill: speeds(None, Some(256.0)),
            decode: speeds(Some(60.0), None),
            device_memory: none,
            host_memory: none,
            changed: Vec::new(),
        };
        insta::assert_snapshot!(comparison(&beside), @"
        | run | prefill t/s | penalty | decode t/s | penalty | accelerators | saved | machine, peak | saved |
        | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
        | before | n/a | | 60.00 | | n/a | | n/a | |
        | now | 256.00 | n/a | n/a | n/a | 7 B | n/a | 7 B | n/a |
          before: a�b.json; the settings are the same
        ");
    }
}
