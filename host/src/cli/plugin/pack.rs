//! `assayd plugin pack`: what the compiler wrote becomes a component.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cli::screen;
use crate::digest::sha256;
use crate::domain::Problem;
use crate::plugin::{inspect, pack, read_plugin};

/// Turns the .wasm that cargo wrote for wasm32-unknown-unknown into a plugin
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  assayd plugin pack target/wasm32-unknown-unknown/release/my_scorer.wasm      writes my-scorer.wasm here
  assayd plugin pack my_scorer.wasm --out plugins/my-scorer.wasm

Exit codes: 0 packed, 1 not a plugin module, 4 a file that cannot be read or written.")]
pub struct Args {
    /// The core module
    file: PathBuf,
    /// Where to write the component; ID.wasm in the current folder if not given
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// A file cannot be read or written.
pub fn run(args: &Args) -> Result<u8, Problem> {
    let module = read_plugin(&args.file)?;
    let packed = pack(&module).and_then(|component| Ok((inspect(&component)?, component)));
    let (blueprint, component) = match packed {
        Ok(packed) => packed,
        Err(error) => return Ok(super::refuse(&args.file, &error)),
    };
    let id = match blueprint.info {
        Some(info) => info.id,
        None => {
            let stem = args.file.file_stem().and_then(|stem| stem.to_str()).unwrap_or("plugin");
            stem.replace('_', "-")
        }
    };
    let out = args.out.clone().unwrap_or_else(|| Path::new(&format!("{id}.wasm")).to_owned());
    fs::write(&out, &component).map_err(|error| Problem::io("write", &out, &error))?;
    screen::print(&format!(
        "{}: {} {}, {} bytes, sha256 {}\n",
        screen::shown_path(&out),
        blueprint.kind.as_str(),
        screen::shown(&id),
        component.len(),
        sha256(&component)
    ))?;
    Ok(0)
}
