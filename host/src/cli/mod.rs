//! One file per command: arguments to a call, a result to the screen and an exit code.

use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::domain::text;
use crate::worker;

pub mod bench;
pub mod bundle;
pub mod compare;
pub mod completions;
pub mod decide;
pub mod demo;
pub mod determinism;
pub mod doctor;
pub mod estimate;
pub mod hash;
pub mod inspect;
pub mod keys;
pub mod lineage;
pub mod logprobs;
mod memory;
pub mod models;
pub mod modes;
pub mod monitor;
mod placement;
pub mod plugin;
pub mod screen;
pub mod serve;
pub mod verify;
mod verify_screen;

const ABOUT: &str = "Judges LLM model files with evidence: is the file whole, is it the model it claims to be, \
                     and what did quantisation do to it?";

const EXIT_CODES: &str = "Exit codes: 0 same, accepted or passed; 1 different, rejected or mismatch; \
                          2 usage or configuration error; 3 undecided; 4 could not be judged.";

#[derive(Debug, Parser)]
#[command(name = "assayd", version, about = ABOUT, after_help = EXIT_CODES, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Args),
    Serve(serve::Args),
    Inspect(inspect::Args),
    Hash(hash::Args),
    Lineage(lineage::Args),
    Verify(Box<verify::Args>),
    Bundle(bundle::Args),
    Keys(keys::Args),
    Logprobs(logprobs::Args),
    Compare(compare::Args),
    Determinism(determinism::Args),
    Bench(bench::Args),
    Decide(decide::Args),
    Estimate(estimate::Args),
    Models(models::Args),
    Monitor(monitor::Args),
    Modes(modes::Args),
    Plugin(plugin::Args),
    Doctor(doctor::Args),
    Completions(completions::Args),
    /// The guarded child process; not for people.
    #[command(name = worker::WORKER_COMMAND, hide = true)]
    Worker,
}

/// Runs the command line and returns the exit code that every command's help lists.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers, not mistakes.
            let code = if error.use_stderr() { 2 } else { 0 };
            // What was typed stands in the message.
            match error.render().to_string() {
                plain if text::page(&plain) == plain => drop(error.print()),
                hostile => drop(std::io::stderr().write_all(text::page(&hostile).as_bytes())),
            }
            return ExitCode::from(code);
        }
    };
    let result = match &cli.command {
        Command::Demo(args) => demo::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Hash(args) => hash::run(args),
        Command::Lineage(args) => lineage::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Bundle(args) => bundle::run(args),
        Command::Keys(args) => keys::run(args),
        Command::Logprobs(args) => logprobs::run(args),
        Command::Compare(args) => compare::run(args),
        Command::Determinism(args) => determinism::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Decide(args) => decide::run(args),
        Command::Estimate(args) => estimate::run(args),
        Command::Models(args) => models::run(args),
        Command::Monitor(args) => monitor::run(args),
        Command::Modes(args) => modes::run(args),
        Command::Plugin(args) => plugin::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Completions(args) => completions::run(args, Cli::command()),
        Command::Worker => {
            return match worker::serve() {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::from(4),
            };
        }
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(problem) => {
            screen::tell("error", &problem.message, problem.hint.as_deref());
            ExitCode::from(problem.exit_code())
        }
    }
}
