//! `assayd plugin check`: everything the daemon does before it uses a plugin.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::json;

use crate::cli::screen;
use crate::domain::Problem;
use crate::plugin::{PluginSet, inspect, read_plugin};

/// Loads a plugin as the daemon would, asks it to describe itself, and tells its limits
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  assayd plugin check my-scorer.wasm
  assayd plugin check my-scorer.wasm --json | jq .limits

Exit codes: 0 it can be used, 1 it is refused, 4 the file cannot be read.")]
pub struct Args {
    /// The component
    file: PathBuf,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// The file cannot be read.
pub fn run(args: &Args) -> Result<u8, Problem> {
    let bytes = read_plugin(&args.file)?;
    let loaded = inspect(&bytes).and_then(|blueprint| {
        let set =
            PluginSet::builtin().map_err(|problem| crate::plugin::LoadError::Compile(problem.to_string()))?;
        Ok((blueprint, set.and_file(&args.file, bytes)?.1))
    });
    let (blueprint, described) = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            if args.json {
                screen::print_json(&json!({"ok": false, "error": error.to_string(), "hint": error.hint()}))?;
                return Ok(1);
            }
            return Ok(super::refuse(&args.file, &error));
        }
    };
    let (record, limits) = (&described.record, described.record.kind.limits());
    if args.json {
        let schema: serde_json::Value = serde_json::from_str(&described.params_schema).unwrap_or_default();
        screen::print_json(&json!({
            "ok": true,
            "plugin": record,
            "imports": blueprint.imports,
            "params_schema": schema,
            "describe": {"fuel": described.probe.fuel, "memory_bytes": described.probe.memory_bytes},
            "limits": {
                "fuel": limits.fuel,
                "deadline_seconds": limits.deadline.as_secs_f64(),
                "memory_bytes": limits.memory_bytes,
                "transfer_bytes": limits.transfer_bytes,
            },
        }))?;
        return Ok(0);
    }
    let mut text = String::new();
    let schema = if described.params_schema.is_empty() { "none" } else { &described.params_schema };
    let imports = if blueprint.imports.is_empty() { "nothing".into() } else { blueprint.imports.join(", ") };
    for (label, value) in [
        ("plugin", format!("{} {} {}", record.kind.as_str(), record.id, record.version)),
        ("summary", record.summary.clone()),
        ("sha256", record.sha256.to_string()),
        ("interface", format!("assay:plugin@{}", record.interface)),
        ("imports", imports),
        ("parameters", schema.to_owned()),
        (
            "limits of a call",
            format!(
                "{} fuel, {} s, {} MiB of memory, {} MiB handed over",
                limits.fuel,
                limits.deadline.as_secs_f64(),
                limits.memory_bytes >> 20,
                limits.transfer_bytes >> 20
            ),
        ),
        (
            "describe took",
            format!("{} fuel, {} bytes of memory", described.probe.fuel, described.probe.memory_bytes),
        ),
    ] {
        let _ = writeln!(text, "{label:<17} {}", screen::shown(&value));
    }
    screen::print(&text)?;
    Ok(0)
}
