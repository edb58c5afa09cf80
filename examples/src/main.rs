//! Makes the model files that the demo, the tests and the benchmark judge.

mod file;
mod grammar;
mod models;
mod net;
mod quant;
mod random;
mod rng;
mod tokenizer;
mod train;

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result};
use assayd::model::gguf::GgmlType;
use clap::{Parser, Subcommand, ValueEnum};

/// Makes the example models of assayd, and random models for benchmarks.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Trains the example models from the checked-in text and a fixed seed (some minutes)
    Models {
        /// Where they go
        #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/models"))]
        out: PathBuf,
    },
    /// Writes a llama-architecture model with random weights, for measuring speed
    Random {
        /// About how many parameters: 50M to 2B
        #[arg(long, default_value = "250M", value_parser = parameters)]
        params: u64,
        /// Type of the matrices
        #[arg(long = "type", default_value = "q8_0")]
        kind: Kind,
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// The file to write
        out: PathBuf,
    },
    /// Log-probabilities of given tokens by candle, to check other engines against
    Logprobs {
        model: PathBuf,
        /// A JSON array of arrays of token ids
        #[arg(long)]
        tokens: PathBuf,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    F32,
    F16,
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "q4_0")]
    Q4_0,
}

impl From<Kind> for GgmlType {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::F32 => Self::F32,
            Kind::F16 => Self::F16,
            Kind::Q8_0 => Self::Q8_0,
            Kind::Q4_0 => Self::Q4_0,
        }
    }
}

/// `250M`, `1B`, `0.5B` or a plain number.
fn parameters(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.strip_suffix(['M', 'm']) {
        Some(digits) => (digits, 1e6),
        None => text.strip_suffix(['B', 'b']).map_or((text, 1.0), |digits| (digits, 1e9)),
    };
    let number: f64 = digits.parse().map_err(|_| format!("{text} is not a number such as 250M or 1B"))?;
    Ok((number * unit) as u64)
}

/// Progress goes to standard error; a closed one is nobody's concern.
fn say(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Models { out } => models::make(&out),
        Command::Random { params, kind, seed, out } => {
            let config = random::write(&out, params, kind.into(), seed)?;
            say(format!(
                "{}: {} parameters, width {}, {} layers",
                out.display(),
                config.parameters(),
                config.width,
                config.layers
            ));
            Ok(())
        }
        Command::Logprobs { model, tokens } => {
            let text = std::fs::read_to_string(&tokens)
                .with_context(|| format!("cannot read {}", tokens.display()))?;
            let sequences: Vec<Vec<u32>> = serde_json::from_str(&text)
                .with_context(|| format!("{} is not an array of arrays of token ids", tokens.display()))?;
            let net = file::read_net(&model)?;
            let rows = sequences.iter().map(|s| net.logprobs(s)).collect::<Result<Vec<_>>>()?;
            let mut out = std::io::stdout().lock();
            serde_json::to_writer(&mut out, &rows)?;
            writeln!(out)?;
            Ok(())
        }
    }
}
