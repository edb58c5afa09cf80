//! `assayd modes`: the one table of modes and constants, with the proof that each is feasible.

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::screen;
use crate::assay::constants_digest;
use crate::domain::modes::{Constants, ModeName, ProvenMode, constants, prove_modes};
use crate::domain::{Problem, Sha256};

/// Prints the modes and every constant a verdict depends on.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  assayd modes
  assayd modes --json | jq '.modes[] | {name, delta, fewest_for_same}'

Each row is proven feasible: `fewest` is the hard lower bound ln(1/alpha) / -ln(1 - delta) under which
nobody can say SAME, `SAME at` and `DIFFERENT at` are where the default decider stops on identical and on
entirely different models.")]
pub struct Args {
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// The JSON document.
#[derive(Debug, Serialize)]
struct Document {
    schema: &'static str,
    default_mode: ModeName,
    modes: [Row; 3],
    constants: Constants,
    constants_digest: Sha256,
}

#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    proven: ProvenMode,
    /// Always true: a row that is not stops the program instead.
    feasible: bool,
}

/// Runs the command.
///
/// # Errors
/// Internal: a mode is not feasible, or the output cannot be written.
pub fn run(args: &Args) -> Result<u8, Problem> {
    let proven = prove_modes()?;
    if args.json {
        screen::print_json(&Document {
            schema: "assayd.modes/1",
            default_mode: ModeName::default(),
            modes: proven.map(|proven| Row { proven, feasible: true }),
            constants: constants(),
            constants_digest: constants_digest(),
        })?;
    } else {
        screen::print(&human(&proven))?;
    }
    Ok(0)
}

fn human(proven: &[ProvenMode; 3]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header([
        "mode",
        "confidence",
        "gamma",
        "delta",
        "n up to",
        "fewest for SAME",
        "SAME at",
        "DIFFERENT at",
    ]);
    for row in proven {
        let (params, default) = (&row.mode.params, row.mode.name == ModeName::default());
        table.add_row([
            format!("{}{}", row.mode.name.as_str(), if default { " (default)" } else { "" }),
            format!("{} %", row.confidence * 100.0),
            params.gamma.to_string(),
            params.delta.to_string(),
            params.n_max.to_string(),
            row.fewest_for_same.to_string(),
            row.same_at.to_string(),
            row.different_at.to_string(),
        ]);
    }
    let c = constants();
    format!(
        "{table}\n\
         gamma and delta are shares of the clip of {} nats: SAME says the mean is below delta, DIFFERENT says it is \
         above gamma.\n\
         {} scored positions per challenge, rounds of {}, at most {} % failed challenges, scorer {}, decider {}\n\
         constants {}\n",
        c.clip_nats,
        c.scored_positions,
        c.round,
        c.max_failed_share * 100.0,
        c.default_scorer,
        c.default_decider,
        constants_digest()
    )
}
