//! `assayd plugin new`: a working plugin to start from.

use std::fs;
use std::path::PathBuf;

use crate::cli::screen;
use crate::domain::Problem;
use crate::plugin::{PluginKind, scaffold};

/// Makes the folder of a new plugin: working code, tests, evidence to try it on, and the SDK
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  assayd plugin new scorer my-scorer
  assayd plugin new decider my-decider --dir ~/plugins/my-decider")]
pub struct Args {
    /// What it does
    #[arg(value_enum)]
    kind: PluginKind,
    /// Its id: lower-case letters, digits and dashes
    name: String,
    /// Folder to make; NAME in the current folder if not given
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// The name cannot be used, the folder is there already or cannot be written.
pub fn run(args: &Args) -> Result<u8, Problem> {
    let files = scaffold(args.kind, &args.name)?;
    let root = args.dir.clone().unwrap_or_else(|| PathBuf::from(&args.name));
    if fs::exists(&root).map_err(|error| Problem::io("look at", &root, &error))? {
        return Err(Problem::usage(format!("{} is there already", root.display()))
            .hint("choose another folder with --dir, nothing is overwritten"));
    }
    for (name, text) in &files {
        let path = root.join(name);
        let folder = path.parent().unwrap_or(&root);
        fs::create_dir_all(folder).map_err(|error| Problem::io("create", folder, &error))?;
        fs::write(&path, text.as_bytes()).map_err(|error| Problem::io("write", &path, &error))?;
    }
    screen::print(&format!(
        "made {}, a {} that builds as it is; its README.md says how\n",
        screen::shown_path(&root),
        args.kind.as_str()
    ))?;
    Ok(0)
}
