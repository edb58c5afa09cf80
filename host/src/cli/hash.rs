//! `assayd hash`: digests of files, tensors and trees in one pass, and lists checked.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;

use super::screen;
use crate::domain::inspection::{ArtifactKind, Digests, FileRecord, Inspection, Status};
use crate::domain::{Problem, ProblemKind};
use crate::model::manifest::{self, Manifest, Outcome, Report};
use crate::model::{self, InspectOptions};

/// Prints and checks digests of model files, tensor by tensor
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  assayd hash model.gguf                          a line per file, per tensor and per root
  assayd hash model.gguf > model.hashes           such a list can be checked later, by
  assayd hash model.gguf --check model.hashes     which names every tensor that changed
  assayd hash model.gguf --check SHA256SUMS       lists of sha256sum and llama-gguf-hash are understood

Files of the Hugging Face cache and of ollama are called after their digest; that is checked, too.

Exit codes: 0 as listed, 1 something changed, is missing or extra, 4 something could not be checked.")]
pub struct Args {
    /// A model file, any part of a split set, or a folder that is one model
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// A list of digests to compare with
    #[arg(long, value_name = "FILE")]
    pub check: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Serialize)]
struct Output<'a> {
    path: &'a PathBuf,
    kind: ArtifactKind,
    status: Status,
    files: &'a [FileRecord],
    merkle_root: Option<crate::domain::Sha256>,
    #[serde(flatten)]
    digests: &'a Digests,
    /// Null without `--check`.
    check: Option<&'a Report>,
    /// Files whose names are digests.
    names: &'a Report,
}

/// Runs the command.
///
/// # Errors
/// The model or the list cannot be read, or the output cannot be written.
pub fn run(args: &Args) -> Result<u8, Problem> {
    let manifest = args.check.as_deref().map(Manifest::read).transpose()?;
    let bar = screen::Bar::new("hashing");
    let inspection = model::inspect(&args.path, &InspectOptions { full: true }, &mut |done, total| {
        bar.set(done as f64 / total.max(1) as f64);
    })?;
    drop(bar);
    if let Some(file) = inspection.files.iter().find(|file| file.sha256.is_none()) {
        return Err(Problem::new(
            ProblemKind::Input,
            format!("{} could not be read to its end", file.path.display()),
        )
        .hint("wait until whatever writes the file is done"));
    }
    let check = manifest.map(|manifest| manifest.check(&inspection)).transpose()?;
    let names = manifest::check_names(&inspection);
    if args.json {
        screen::print_json(&Output {
            path: &inspection.path,
            kind: inspection.kind,
            status: inspection.status,
            files: &inspection.files,
            merkle_root: inspection.merkle_root,
            digests: &inspection.digests,
            check: check.as_ref(),
            names: &names,
        })?;
    } else {
        let mut out = String::new();
        match &check {
            Some(check) => verdict(&mut out, check),
            None => list(&mut out, &inspection),
        }
        verdict(&mut out, &names);
        screen::print(&out)?;
    }
    let named = if names.differs() { 1 } else { 0 };
    Ok(check.map_or(named, |check| if named == 1 { 1 } else { check.exit_code() }))
}

/// Lines that `sha256sum --check` and `--check` of this command both take: what is no file's
/// digest stands behind a comment sign or in the form of llama-gguf-hash.
fn list(out: &mut String, inspection: &Inspection) {
    for file in &inspection.files {
        if let Some(sha256) = file.sha256 {
            let _ = writeln!(out, "{sha256}  {}", clean(&file.path.display().to_string()));
        }
    }
    let artifact = inspection.path.file_name().unwrap_or(inspection.path.as_os_str()).to_string_lossy();
    for tensor in &inspection.digests.tensor_digests {
        let _ = writeln!(out, "sha256    {}  {}:{}", tensor.sha256, clean(&artifact), clean(&tensor.name));
    }
    let digests = &inspection.digests;
    for (name, root) in [
        ("file_root", digests.file_root),
        ("content_root", digests.content_root),
        ("weights_root", digests.weights_root),
    ] {
        let root = root.map_or_else(|| "none: the artifact is not whole".to_owned(), |root| root.to_string());
        let _ = writeln!(out, "# {name:<12} {root}");
    }
}

fn verdict(out: &mut String, report: &Report) {
    let mut fine = 0;
    for checked in &report.checked {
        let what = if checked.tensor { "tensor" } else { "file" };
        let outcome = match checked.outcome {
            Outcome::Ok => {
                fine += 1;
                continue;
            }
            Outcome::Changed => "CHANGED",
            Outcome::Missing => "MISSING",
            Outcome::Extra => "EXTRA",
        };
        let _ = writeln!(out, "{outcome}  {what} {}", clean(&checked.name));
    }
    for why in &report.unchecked {
        let _ = writeln!(out, "NOT CHECKED  {}", clean(why));
    }
    if !report.checked.is_empty() {
        let _ = writeln!(out, "{fine} of {} as expected", report.checked.len());
    }
}

/// Names come from hostile files: nothing of them may steer a terminal.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
