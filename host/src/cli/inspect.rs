//! `assayd inspect`: what can be said about model files without running them.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};

use super::screen;
use crate::domain::inspection::{Finding, Inspection, Severity, Status};
use crate::domain::{Problem, ProblemKind};
use crate::model::finding::Code;
use crate::model::{self, Hashing, InspectOptions};

/// Says what model files are and what is wrong with them, without running them
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  assayd inspect model.gguf                     headers only, under a second for any size
  assayd inspect --full model.gguf              reads every byte: digests, NaN and zero scans
  assayd inspect big-00001-of-00003.gguf        any part names the whole split set
  assayd inspect ~/models --explain             every artifact of a folder, and what was ignored
  assayd inspect README.md                      merge markers and open placeholders in a document
  assayd inspect --json *.gguf                  a list of inspections for programs

Exit codes: 0 nothing rejected, 1 something is rejected, 4 something could not be read.")]
pub struct Args {
    /// Model files, parts of split sets, folders, or documents (*.md)
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Also read every byte: SHA-256, NaN, infinite and zero weights, holes, padding
    #[arg(long)]
    pub full: bool,
    /// Say what each finding means and what to do, and why files in folders were ignored
    #[arg(long)]
    pub explain: bool,
    /// With --full, read every byte, whatever is known from the last time
    #[arg(long, requires = "full")]
    pub rehash: bool,
    /// Folder where full passes are kept
    #[arg(long, value_name = "DIR", env = "ASSAYD_CACHE")]
    pub cache: Option<PathBuf>,
    /// Print one JSON list, an object per artifact, in order
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// The output cannot be written.
pub fn run(args: &Args) -> Result<u8, Problem> {
    let mut inspections = Vec::new();
    let mut ignored = Vec::new();
    let mut failed = false;
    let cache = args.full.then(|| screen::passes_folder(args.cache.as_deref()));
    for path in &args.paths {
        match expand(path, &mut ignored) {
            Ok(targets) => {
                for target in targets {
                    inspections.push(one(&target, args, cache.as_deref()).unwrap_or_else(|problem| {
                        failed = true;
                        complain(&problem);
                        model::inspect::unreadable(&target, &problem)
                    }));
                }
            }
            Err(problem) => {
                failed = true;
                complain(&problem);
                inspections.push(model::inspect::unreadable(path, &problem));
            }
        }
    }
    if args.json {
        screen::print_json(&inspections)?;
    } else {
        screen::print(&human(&inspections, &ignored, args.explain))?;
    }
    let rejected = inspections.iter().any(|inspection| inspection.status == Status::Reject);
    Ok(match (failed, rejected) {
        (true, _) => Problem::input("").exit_code(),
        (false, true) => 1,
        (false, false) => 0,
    })
}

/// A folder that is not one artifact stands for all the artifacts in it.
fn expand(path: &Path, ignored: &mut Vec<model::Ignored>) -> Result<Vec<PathBuf>, Problem> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let found = model::discover(path)?;
    ignored.extend(found.ignored);
    match found.artifacts.as_slice() {
        [] => Err(Problem::new(ProblemKind::Input, format!("{} holds no model", path.display())).hint(
            "models are *.gguf, *.safetensors with their config.json, or PyTorch *.bin and *.pt files; --explain says why each file was ignored",
        )),
        // The folder is laid out as an artifact itself, or holds just one.
        artifacts if artifacts.len() == 1 || artifacts.iter().any(|artifact| artifact.path == path) => {
            Ok(vec![path.to_owned()])
        }
        several => Ok(several.iter().map(|artifact| artifact.path.clone()).collect()),
    }
}

fn one(path: &Path, args: &Args, cache: Option<&Path>) -> Result<Inspection, Problem> {
    let full = args.full;
    let hashing = Hashing { cache, rehash: args.rehash, ..Hashing::default() };
    let bar =
        if full && std::io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
    if let Ok(style) =
        ProgressStyle::with_template("{wide_msg} {bytes}/{total_bytes} {bytes_per_sec} {bar:20} {eta}")
    {
        bar.set_style(style);
    }
    bar.set_message(screen::shown_path(path));
    let result = model::inspect_with(path, &InspectOptions { full }, hashing, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    result
}

fn complain(problem: &Problem) {
    screen::tell("assayd", &problem.message, problem.hint.as_deref());
}

fn human(inspections: &[Inspection], ignored: &[model::Ignored], explain: bool) -> String {
    let mut out = String::new();
    for inspection in inspections {
        describe(&mut out, inspection, explain);
        out.push('\n');
    }
    if explain && !ignored.is_empty() {
        out.push_str("Ignored:\n");
        for file in ignored {
            let _ = writeln!(out, "  {}: {}", screen::shown_path(&file.path), file.reason.explanation());
        }
        out.push('\n');
    }
    let of = |status| inspections.iter().filter(|inspection| inspection.status == status).count();
    let (accepted, warned, rejected) = (of(Status::Accept), of(Status::Warn), of(Status::Reject));
    if inspections.len() > 1 {
        let _ = writeln!(out, "{accepted} accepted, {warned} with warnings, {rejected} rejected");
    }
    out
}

fn describe(out: &mut String, inspection: &Inspection, explain: bool) {
    let status = match inspection.status {
        Status::Accept => "ACCEPT",
        Status::Warn => "WARN",
        Status::Reject => "REJECT",
    };
    let _ = writeln!(out, "{status}  {}", screen::shown_path(&inspection.path));
    let kind = serde_json::to_value(inspection.kind).ok();
    let kind = kind.as_ref().and_then(serde_json::Value::as_str).unwrap_or("unknown");
    let version = inspection.format_version.map(|version| format!(" version {version}")).unwrap_or_default();
    let mut fact = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = writeln!(out, "  {name:<15} {}", screen::shown(&value));
        }
    };
    fact("kind", Some(format!("{kind}{version}")));
    fact("architecture", inspection.architecture.clone());
    fact("parameters", inspection.parameters.map(grouped));
    fact("quantization", inspection.quantization.clone());
    fact("context length", inspection.context_length.map(grouped));
    fact("tensors", inspection.tensors.map(grouped));
    fact("config hash", inspection.config_hash.map(|hash| hash.to_string()));
    fact("tokenizer hash", inspection.tokenizer_hash.map(|hash| hash.to_string()));
    fact("merkle root", inspection.merkle_root.map(|hash| hash.to_string()));
    let fuzzy = inspection.digests.fuzzy.as_ref();
    fact(
        "fuzzy hash",
        fuzzy.and_then(|fuzzy| Some(format!("{} ({})", fuzzy.digest.as_ref()?, fuzzy.algorithm))),
    );
    for file in &inspection.files {
        let name = file.path.file_name().unwrap_or(file.path.as_os_str()).to_string_lossy();
        let digest = file.sha256.map(|hash| format!(", sha256 {hash}")).unwrap_or_default();
        fact("file", Some(format!("{name}, {} bytes{digest}", grouped(file.bytes))));
    }
    for finding in &inspection.findings {
        describe_finding(out, finding, explain);
    }
}

fn describe_finding(out: &mut String, finding: &Finding, explain: bool) {
    let severity = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Info => "info",
    };
    let mut place = String::new();
    if let Some(part) = &finding.part {
        let _ = write!(place, " in {part}");
    }
    if let Some(offset) = finding.offset {
        let _ = write!(place, " at byte {}", grouped(offset));
    }
    let _ = writeln!(
        out,
        "  {severity}: {} [{}]{}",
        screen::shown(&finding.message),
        finding.code,
        screen::shown(&place)
    );
    let Some(code) = Code::from_name(&finding.code) else { return };
    if explain {
        let _ = writeln!(out, "    what it means: {}", code.meaning());
    }
    if explain || finding.severity != Severity::Info {
        let _ = writeln!(out, "    what to do:    {}", code.remedy());
    }
}

/// A number with its thousands set apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (8_190_735_360, "8,190,735,360")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn hostile_names_cannot_steer_a_terminal() {
        let finding = Finding {
            tensor: Some("x".into()),
            ..Code::BadName.finding("the tensor name \u{1b}[2Jevil\u{7}\n")
        };
        let mut out = String::new();
        describe_finding(&mut out, &finding, true);
        assert!(!out.contains('\u{1b}') && !out.contains('\u{7}'));
        assert!(out.contains("bad-name") && out.contains("what to do"));
    }
}
