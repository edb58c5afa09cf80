//! `assayd logprobs`: teacher-forced log-probabilities of given tokens.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::memory::MemoryArgs;
use super::placement::PlacementArgs;
use super::screen::{self, Bar};
use crate::domain::{Problem, budget};
use crate::engine::{self, Detail, EngineInfo, EngineKind, KvType, LoadBits, LoadSpec, ScoreItem, remote};
use crate::model::{self, InspectOptions};
use crate::worker::Worker;

/// Log-probability of every given token after the tokens before it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  assayd logprobs model.gguf --tokens tokens.json
  echo '[[1, 403, 407, 261]]' > t.json && assayd logprobs model.gguf --tokens t.json --json

FILE holds a JSON array of arrays of token ids. They are taken as they are: no BOS is added.
The key-value cache is F32 unless --kv-type says otherwise; F16 alone moves results by up to 0.04.")]
pub struct Args {
    /// GGUF file, any part of a split set, a safetensors folder, or an endpoint (https://HOST/v1#MODEL or http://)
    model: PathBuf,
    /// JSON array of arrays of token ids
    #[arg(long, value_name = "FILE")]
    tokens: PathBuf,
    /// Score only from this position on (position 1 is the first that has something before it)
    #[arg(long, value_name = "POSITION", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    from: u32,
    /// Number format of the key-value cache
    #[arg(long, value_enum, default_value_t)]
    kv_type: KvType,
    /// Sequences evaluated side by side
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    parallel: u32,
    /// Threads [default: all cores, one for a small model]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
    #[command(flatten)]
    placement: PlacementArgs,
    #[command(flatten)]
    memory: MemoryArgs,
    /// Do not repack weights for this CPU: slower, and the same numbers on every machine of its kind
    #[arg(long)]
    portable: bool,
    /// LoRA adapter to put over the model: a GGUF file over GGUF, a PEFT folder over safetensors
    #[arg(long, value_name = "PATH")]
    adapter: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Output {
    model: PathBuf,
    sequences: Vec<Sequence>,
    /// Mean over all scored positions, in nats.
    mean_nll: f64,
    perplexity: f64,
    positions: usize,
    engine: EngineInfo,
    /// Null: the weights as the files hold them.
    load_bits: Option<LoadBits>,
    timings: Timings,
}

#[derive(Debug, Serialize)]
struct Sequence {
    tokens: Vec<u32>,
    logprobs: Vec<f64>,
    /// Mean over the sequence's scored positions, in nats.
    nll: f64,
    perplexity: f64,
}

#[derive(Debug, Serialize)]
struct Timings {
    load_seconds: f64,
    score_seconds: f64,
    /// Tokens evaluated per second of `score_seconds`.
    tokens_per_second: f64,
}

/// The token file: an array of arrays, or an object that names them.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum TokenFile {
    Plain(Vec<Vec<u32>>),
    Named { sequences: Vec<NamedSequence> },
}

#[derive(Debug, Deserialize)]
struct NamedSequence {
    #[serde(alias = "tokens")]
    ids: Vec<u32>,
}

/// Reads token sequences; each must have a token at position `from`, which is 1 or more, so that
/// there is one to predict.
pub fn read_tokens(path: &Path, from: u32) -> Result<Vec<Vec<u32>>, Problem> {
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| Problem::io("open", path, &error))?;
    file.take(budget::TOKEN_FILE_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(|error| Problem::io("read", path, &error))?;
    if text.len() as u64 > budget::TOKEN_FILE_BYTES {
        return Err(Problem::usage(format!(
            "{} is larger than {}",
            path.display(),
            screen::bytes(budget::TOKEN_FILE_BYTES)
        ))
        .hint("split it and score the parts one after the other"));
    }
    let bad = |what: String| {
        Problem::usage(format!("{}: {what}", path.display()))
            .hint("the file must be a JSON array of arrays of token ids, such as [[1, 403, 407]]")
    };
    let sequences = match serde_json::from_str(&text).map_err(|error| bad(error.to_string()))? {
        TokenFile::Plain(sequences) => sequences,
        TokenFile::Named { sequences } => sequences.into_iter().map(|sequence| sequence.ids).collect(),
    };
    if sequences.is_empty() {
        return Err(bad("there are no sequences in it".to_owned()));
    }
    match sequences.iter().position(|sequence| sequence.len() <= from as usize) {
        Some(index) => Err(bad(format!(
            "sequence {index} ends before position {from}, so nothing of it can be predicted"
        ))),
        None => Ok(sequences),
    }
}

/// What is loaded, and how: files, or a model behind an endpoint.
fn spec(args: &Args, context: u32) -> Result<LoadSpec, Problem> {
    if remote::is_url(&args.model) {
        LoadBits::check(args.placement.load_bits, EngineKind::Remote)?;
        if args.adapter.is_some() || args.kv_type != KvType::default() || args.placement.gpu_layers != 0 {
            return Err(Problem::usage(
                "--adapter, --kv-type and --gpu-layers are for files, and the model is an endpoint",
            ));
        }
        let endpoint = remote::Endpoint::find(&args.model, &|name| std::env::var(name).ok())?;
        return Ok(LoadSpec::remote(endpoint, context));
    }
    let inspection = model::inspect(&args.model, &InspectOptions::default(), &mut |_, _| {})?;
    let (engine, paths) = engine::engine_for(&inspection)?;
    LoadBits::check(args.placement.load_bits, engine)?;
    let adapter = match &args.adapter {
        Some(path) => {
            engine::adapter_for(&model::inspect(path, &InspectOptions::default(), &mut |_, _| {})?, engine)?
        }
        None => Vec::new(),
    };
    let threads = args.threads.unwrap_or_else(|| engine::default_threads(&inspection));
    Ok(args.placement.place(LoadSpec {
        kv_type: args.kv_type,
        extra_buffers: !args.portable,
        adapter,
        ..LoadSpec::judged(engine, paths, context, threads)
    }))
}

pub fn run(args: &Args) -> Result<u8, Problem> {
    let sequences = read_tokens(&args.tokens, args.from)?;
    let longest = sequences.iter().map(Vec::len).max().unwrap_or(0);
    let context = u32::try_from(longest).unwrap_or(u32::MAX);
    let parallel = args.parallel.min(u32::try_from(sequences.len()).unwrap_or(u32::MAX));
    let spec = LoadSpec { parallel, ..spec(args, context)? };
    let bar = Bar::new("loading");
    let mut worker =
        Worker::start(&spec, &args.memory.limits(), &mut |progress| bar.set(f64::from(progress.fraction)))?;
    bar.label("scoring");
    let items: Vec<ScoreItem> = sequences
        .iter()
        .map(|tokens| ScoreItem { tokens: tokens.clone(), scored_from: args.from, detail: Detail::Summary })
        .collect();
    let started = Instant::now();
    let mut scored = Vec::with_capacity(items.len());
    let mut failure = None;
    worker.score(&items, &mut |index, result| {
        bar.set((index + 1) as f64 / items.len() as f64);
        match result {
            Ok(trace) => scored.push(trace),
            Err(reason) => failure = failure.take().or(Some((index, reason))),
        }
    })?;
    let score_seconds = started.elapsed().as_secs_f64();
    if let Some((index, reason)) = failure {
        return Err(Problem::input(format!("{}: sequence {index}: {reason}", args.model.display())));
    }
    let evaluated: usize = sequences.iter().map(Vec::len).sum();
    let positions: usize = scored.iter().map(|trace| trace.rows()).sum();
    let total: f64 = scored.iter().flat_map(|trace| &trace.token_logprobs).sum();
    let mean_nll = -total / positions as f64;
    let output = Output {
        model: args.model.clone(),
        sequences: scored
            .into_iter()
            .map(|trace| {
                let nll = -trace.token_logprobs.iter().sum::<f64>() / trace.rows() as f64;
                Sequence { tokens: trace.tokens, logprobs: trace.token_logprobs, nll, perplexity: nll.exp() }
            })
            .collect(),
        mean_nll,
        perplexity: mean_nll.exp(),
        positions,
        engine: worker.info().engine.clone(),
        load_bits: spec.load_bits,
        timings: Timings {
            load_seconds: worker.load_seconds(),
            score_seconds,
            tokens_per_second: evaluated as f64 / score_seconds,
        },
    };
    worker.finish();
    drop(bar);
    if args.json {
        screen::print_json(&output)?;
    } else {
        screen::print(&table(&output))?;
    }
    Ok(0)
}

fn table(output: &Output) -> String {
    use std::fmt::Write as _;
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED);
    table.set_header(["sequence", "tokens", "scored", "mean NLL (nats)", "perplexity"]);
    for (index, sequence) in output.sequences.iter().enumerate() {
        table.add_row([
            index.to_string(),
            sequence.tokens.len().to_string(),
            sequence.logprobs.len().to_string(),
            format!("{:.6}", sequence.nll),
            format!("{:.3}", sequence.perplexity),
        ]);
    }
    let mut text = format!("{table}\n");
    let _ = writeln!(
        text,
        "mean NLL {:.6} nats, perplexity {:.4} over {} positions of {}",
        output.mean_nll,
        output.perplexity,
        output.positions,
        screen::shown_path(&output.model)
    );
    let _ = writeln!(
        text,
        "loaded in {:.2} s, {:.0} tokens/s on {} ({} {})",
        output.timings.load_seconds,
        output.timings.tokens_per_second,
        output.engine.device,
        output.engine.name,
        output.engine.version
    );
    if let Some(bits) = output.load_bits {
        let _ = writeln!(text, "the weights were {}", bits.words());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_files_are_read_or_refused_with_the_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.json");
        for (text, expected) in [
            ("[[1,2,3],[4,5]]", Ok(vec![vec![1, 2, 3], vec![4, 5]])),
            (r#"{"sequences":[{"ids":[1,2]}]}"#, Ok(vec![vec![1, 2]])),
            ("[]", Err("no sequences")),
            ("[[1]]", Err("sequence 0")),
            ("[[1,-2]]", Err("t.json")),
            ("[[1,2]", Err("t.json")),
        ] {
            std::fs::write(&path, text).unwrap();
            match (read_tokens(&path, 1), expected) {
                (Ok(got), Ok(want)) => assert_eq!(got, want),
                (Err(problem), Err(part)) => assert!(problem.message.contains(part), "{}", problem.message),
                (got, want) => panic!("{text}: {got:?} instead of {want:?}"),
            }
        }
    }
}
