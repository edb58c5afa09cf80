//! `assayd plugin`: the life of a plugin.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use comfy_table::{Table, presets};

use super::screen;
use crate::domain::Problem;
use crate::plugin::{LoadError, Origin, PluginRecord, PluginSet, Skipped};

mod check;
mod new;
mod pack;
mod run;
mod trust;

/// Makes, checks, lists and trusts plugins: what scores, decides, checks digests and renders reports
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    New(new::Args),
    Pack(pack::Args),
    Check(check::Args),
    Run(run::Args),
    Trust(trust::Args),
    /// Lists the plugins that may be used
    #[command(after_help = "\
Examples:
  assayd plugin list                            the plugins of this binary
  assayd plugin list --plugins ./my-plugins     and the trusted ones of a folder, which may replace them")]
    List {
        /// A folder whose trusted *.wasm files add to the built-in plugins or replace them
        #[arg(long, value_name = "DIR")]
        plugins: Option<PathBuf>,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command.
///
/// # Errors
/// What a person has to know.
pub fn run(args: &Args) -> Result<u8, Problem> {
    match &args.command {
        Command::New(args) => new::run(args),
        Command::Pack(args) => pack::run(args),
        Command::Check(args) => check::run(args),
        Command::Run(args) => run::run(args),
        Command::Trust(args) => trust::run(args),
        Command::List { plugins, json } => list(plugins.as_deref(), *json),
    }
}

/// Says why a file is refused, and what to do; the exit code of "rejected".
fn refuse(path: &Path, error: &LoadError) -> u8 {
    screen::complain(&format!("{}: {error}", path.display()), error.hint());
    1
}

fn list(folder: Option<&Path>, json: bool) -> Result<u8, Problem> {
    let set = PluginSet::with_folder(folder)?;
    let (plugins, skipped) = (set.list(), set.skipped());
    if json {
        screen::print_json(&document(&plugins, skipped))?;
        return Ok(0);
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["kind", "id", "version", "sha256", "from", "what it does"]);
    for plugin in plugins {
        let from = match &plugin.origin {
            Origin::Builtin => "assayd".to_owned(),
            Origin::File(path) => screen::shown_path(path),
        };
        let digest: String = plugin.sha256.to_string().chars().take(12).collect();
        let kind = plugin.kind.as_str().to_owned();
        let [id, version, summary] =
            [plugin.id, plugin.version, plugin.summary].map(|text| screen::shown(&text));
        table.add_row([kind, id, version, digest, from, summary]);
    }
    let mut text = format!("{table}\n");
    for file in skipped {
        let _ = writeln!(text, "not used: {}: {}", screen::shown_path(&file.path), screen::shown(&file.why));
        if let Some(hint) = &file.hint {
            let _ = writeln!(text, "  hint: {}", screen::shown(hint));
        }
    }
    screen::print(&text)?;
    Ok(0)
}

fn document(plugins: &[PluginRecord], skipped: &[Skipped]) -> serde_json::Value {
    let skip = |file: &Skipped| serde_json::json!({"path": file.path, "sha256": file.sha256, "why": file.why, "hint": file.hint});
    serde_json::json!({"plugins": plugins, "skipped": skipped.iter().map(skip).collect::<Vec<_>>()})
}
