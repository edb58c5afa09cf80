//! `assayd bundle`: a verdict's evidence in one file, checked without any model.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Subcommand;
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::json;

use super::keys::KeysArg;
use super::screen::{self, Bar};
use super::verify_screen;
use crate::assay::bundle::container::{Fault, scan};
use crate::assay::bundle::verify::{Progress, transcript_and_report};
use crate::assay::bundle::{Mismatch, Outcome, Section, Signature, SignedBy, Trust, Verification, verify};
use crate::domain::{Problem, Sha256};
use crate::plugin::PluginSet;

/// Checks and shows bundles: files with everything that a verdict rests on
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Verify(VerifyArgs),
    Show(ShowArgs),
}

/// Recomputes the verdict of a bundle offline and checks every digest and the signature
///
/// The challenges are derived from the revealed key, the traces inside are scored by the scorer
/// inside, in the same sandbox as ever, the decider inside is replayed, and the verdict made by the
/// same table. The first byte that does not agree is named.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  assayd verify new.gguf --reference trusted.gguf --bundle verdict.bundle
  assayd bundle verify verdict.bundle
  assayd bundle verify verdict.bundle --signed-by alice --json

A bundle shows that its verdict follows from its evidence. That the evidence is what those models
really did rests on whoever signed it: run the assay again with the revealed --key if you have them.
Exit codes: 0 verified, 1 something does not agree or is not signed as demanded, 2 usage,
4 cannot be judged (no bundle, made by another format, an unknown plugin, or no verdict in it).")]
struct VerifyArgs {
    /// The bundle
    file: PathBuf,
    /// Refuse a bundle that neither a pinned key nor your own signed
    #[arg(long)]
    require_signed: bool,
    /// Refuse a bundle that the key pinned under NAME did not sign
    #[arg(long, value_name = "NAME")]
    signed_by: Option<String>,
    /// Trust the plugins in the lock of this plugin folder
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
    /// Trust the plugin with this digest; may be given several times
    #[arg(long, value_name = "SHA256")]
    trust_plugin: Vec<Sha256>,
    #[command(flatten)]
    keys: KeysArg,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Shows what is in a bundle, its digests checked and nothing recomputed
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  assayd bundle show verdict.bundle
  assayd bundle show verdict.bundle --report > report.json

Exit codes: 0 shown, 1 a digest does not agree, 4 no bundle.")]
struct ShowArgs {
    /// The bundle
    file: PathBuf,
    /// Print the report inside, as it was written
    #[arg(long, conflicts_with = "json")]
    report: bool,
    /// Print one JSON document: what is inside, without the bodies
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// Usage: keys or plugins that cannot be used.
pub fn run(args: &Args) -> Result<u8, Problem> {
    match &args.command {
        Command::Verify(args) => run_verify(args),
        Command::Show(args) => show(args),
    }
}

fn run_verify(args: &VerifyArgs) -> Result<u8, Problem> {
    let trust = Trust {
        must_be_signed: args.require_signed,
        signed_by: args.signed_by.clone(),
        plugin_folder: args.plugins.clone(),
        plugins: args.trust_plugin.clone(),
        ..args.keys.trust()?
    };
    if let Some(name) = &trust.signed_by
        && !trust.pinned.iter().any(|pinned| pinned.name == *name)
    {
        return Err(Problem::usage(format!("no key is pinned as {name:?}"))
            .hint(format!("pin it first: assayd keys pin {name} KEY")));
    }
    let builtin = PluginSet::builtin()?;
    let bar = Bar::new("reading the bundle");
    let mut scoring = false;
    let found = verify(&args.file, &trust, &builtin, &mut |progress| match progress {
        Progress::Reading(done, total) => bar.set(done as f64 / total.max(1) as f64),
        Progress::Scoring(done, total) => {
            if !std::mem::replace(&mut scoring, true) {
                bar.label("scoring once more");
            }
            bar.set(done as f64 / total.max(1) as f64);
        }
    });
    drop(bar);
    if args.json {
        screen::print_json(&found)?;
    } else {
        screen::print(&human(&found))?;
    }
    Ok(found.outcome.exit_code())
}

/// The place of a mismatch as a person reads it.
fn place(mismatch: &Mismatch) -> String {
    let bytes = if mismatch.end == mismatch.offset + 1 {
        format!("byte {}", mismatch.offset)
    } else {
        format!("bytes {} to {}", mismatch.offset, mismatch.end.saturating_sub(1))
    };
    match mismatch.section {
        Some(section) => format!("{bytes} ({} record {})", section.as_str(), mismatch.record),
        None => bytes,
    }
}

fn signed(signature: &Signature) -> String {
    let key = signature.key.map(|key| key.to_string()).unwrap_or_default();
    match signature.by {
        SignedBy::NotChecked => "not looked at".to_owned(),
        SignedBy::Nobody => "nobody signed it: it agrees with itself, and anyone can have made it".to_owned(),
        SignedBy::Unknown => format!("signed by a key that is not known here: {key}"),
        SignedBy::Pinned => {
            format!("signed by {}, pinned: {key}", signature.name.as_deref().unwrap_or("n/a"))
        }
        SignedBy::Own => format!("signed by your own key: {key}"),
    }
}

fn human(found: &Verification) -> String {
    let name = screen::shown_path(&found.path);
    let mut text = String::new();
    let verdict = found.verdict.map_or("n/a", |verdict| verdict.as_str());
    let _ = match found.outcome {
        Outcome::Verified => writeln!(text, "VERIFIED: {name}: {verdict}"),
        Outcome::Mismatch => writeln!(text, "MISMATCH: {name}"),
        Outcome::CannotBeJudged => writeln!(text, "CANNOT BE JUDGED: {name}"),
    };
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    verify_screen::fit(&mut table);
    let mut row = |name: &str, value: String| {
        table.add_row([name.to_owned(), screen::shown(&value)]);
    };
    if let Some(mismatch) = &found.mismatch {
        row("first difference", place(mismatch));
        row("", mismatch.what.clone());
    }
    if let Some(reason) = &found.reason {
        row("because", reason.clone());
    }
    if let Some(claim) = &found.claim {
        row("claim", claim.clone());
    }
    for check in &found.checks {
        row(check.name, check.found.clone());
    }
    row("signature", signed(&found.signature));
    for plugin in &found.plugins {
        let digest: String = plugin.sha256.to_string().chars().take(16).collect();
        row(&plugin.kind, format!("{} (sha256 {digest}…) is {}", plugin.id, plugin.standing.words()));
    }
    for remark in &found.remarks {
        row("remark", remark.clone());
    }
    if let (Some(root), Some(bytes)) = (found.root, found.bytes) {
        row("root", format!("{root} over {}", screen::bytes(bytes)));
    }
    let _ = writeln!(text, "{table}");
    if let Some(hint) = &found.hint {
        let _ = writeln!(text, "hint: {}", screen::shown(hint));
    }
    text
}

fn show(args: &ShowArgs) -> Result<u8, Problem> {
    let read = scan(&args.file, &mut |_, _| {}).and_then(|mut bundle| {
        let (_, report) = transcript_and_report(&mut bundle)?;
        Ok((bundle, report))
    });
    let (mut bundle, report) = match read {
        Ok(read) => read,
        Err(Fault::CannotJudge(problem)) => return Err(problem),
        Err(Fault::Mismatch(mismatch)) => {
            screen::complain(
                &format!("{}: {}: {}", args.file.display(), place(&mismatch), mismatch.what),
                "get the file again; `assayd bundle verify` says more",
            );
            return Ok(1);
        }
    };
    if args.report {
        let entry = bundle.section(Section::Report).next().cloned();
        let entry = entry.ok_or_else(|| Problem::input("there is no report inside"))?;
        let json = bundle.body(&entry)?;
        screen::print_document(&String::from_utf8_lossy(&json))?;
        return Ok(0);
    }
    let signer = bundle.signature.map(|(key, _)| key);
    let count = |section| bundle.section(section).count();
    let bytes = |section| bundle.section(section).map(|entry| entry.body.end - entry.body.start).sum::<u64>();
    let sections = [Section::Evidence, Section::Plugin, Section::Transcript, Section::Report];
    if args.json {
        let sections = sections
            .map(|section| json!({"section": section, "records": count(section), "bytes": bytes(section)}));
        let document = json!({
            "path": args.file, "bytes": bundle.bytes, "root": bundle.root, "signed_with": signer,
            "sections": sections, "final_decision": report.final_decision, "model1": report.model1,
            "model2": report.model2, "started_at": report.started_at, "plugins": report.plugins,
            "provenance": report.provenance,
        });
        screen::print_json(&document)?;
        return Ok(0);
    }
    let mut text = verify_screen::result(&report, &[]);
    let _ = writeln!(text, "{}: {}", screen::shown_path(&args.file), screen::bytes(bundle.bytes));
    for section in sections {
        let (name, count) = (section.as_str(), count(section));
        let _ = writeln!(text, "  {name:<11} {count:>6} records  {:>11}", screen::bytes(bytes(section)));
    }
    let _ = match signer {
        Some(key) => writeln!(text, "  signed with {key}"),
        None => writeln!(text, "  not signed"),
    };
    text.push_str("Nothing was recomputed; that is what `assayd bundle verify` does.\n");
    screen::print(&text)?;
    Ok(0)
}
