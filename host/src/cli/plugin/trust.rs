//! `assayd plugin trust`: the digest of a file goes into the lock of its folder.

use std::path::{Path, PathBuf};

use crate::cli::screen;
use crate::digest::sha256;
use crate::domain::Problem;
use crate::plugin::{LOCK_FILE, Trusted, inspect, read_plugin, trust};

/// Lets assayd use a plugin file of a plugin folder, as it is now
///
/// Writes the file's SHA-256 to plugins.lock beside it. A folder's plugins are used only if they
/// stand there; a file that changes afterwards is not used until it is trusted again.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  assayd plugin trust plugins/my-scorer.wasm

Exit codes: 0 trusted, 1 the file is no plugin, 4 a file that cannot be read or written.")]
pub struct Args {
    /// The component, in its plugin folder and called ID.wasm
    file: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// The file cannot be read, or the lock not written.
pub fn run(args: &Args) -> Result<u8, Problem> {
    let bytes = read_plugin(&args.file)?;
    let blueprint = match inspect(&bytes) {
        Ok(blueprint) => blueprint,
        Err(error) => return Ok(super::refuse(&args.file, &error)),
    };
    let stem = args.file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let id = blueprint.info.map_or_else(|| stem.to_owned(), |info| info.id);
    let folder = args.file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let entry = Trusted { id, kind: blueprint.kind, sha256: sha256(&bytes) };
    let said = format!("{} {} with sha256 {}", entry.kind.as_str(), screen::shown(&entry.id), entry.sha256);
    trust(folder, entry)?;
    screen::print(&format!("trusted in {}: {said}\n", screen::shown_path(&folder.join(LOCK_FILE))))?;
    Ok(0)
}
