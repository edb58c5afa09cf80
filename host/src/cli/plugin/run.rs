//! `assayd plugin run`: one call to a plugin, with what came out and what it took.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::assay::digest;
use crate::cli::screen;
use crate::domain::Problem;
use crate::domain::budget::PLUGIN_EVIDENCE_BYTES;
use crate::domain::score::DecisionParams;
use crate::domain::trace::Trace;
use crate::plugin::{
    Evidence, HashTarget, PluginKind, PluginSet, TargetFile, TargetManifest, Usage, read_plugin,
};

/// Calls a plugin once on evidence from a file, and tells the result, fuel, memory and log
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  assayd plugin run scorer my-scorer.wasm --evidence examples/evidence.json
  assayd plugin run scorer kl --evidence examples/evidence.json --params '{\"clip_nats\":0.5}'
  assayd plugin run decider hedged --evidence scores.json --json

Evidence: for a scorer {challenge, reference, candidate} with two traces; for a decider {params, scores};
for a hash check {name, files, manifests} with paths relative to the evidence file; for a report the
report document. assayd plugin new writes an example of each.

Exit codes: 0 an answer came, 4 the plugin gave none or a file cannot be read.")]
pub struct Args {
    /// What the plugin does
    #[arg(value_enum)]
    kind: PluginKind,
    /// Id of a plugin, or a component file
    plugin: String,
    /// JSON file with what the plugin is to judge
    #[arg(long, value_name = "FILE")]
    evidence: PathBuf,
    /// JSON parameters; the plugin's defaults if not given
    #[arg(long, value_name = "JSON", default_value = "")]
    params: String,
    /// A folder whose trusted *.wasm files add to the built-in plugins or replace them
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScorerEvidence {
    challenge: String,
    reference: Trace,
    candidate: Trace,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeciderEvidence {
    params: DecisionParams,
    scores: Vec<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HashEvidence {
    name: String,
    files: Vec<PathBuf>,
    #[serde(default)]
    manifests: Vec<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// The plugin is not there, gave no answer, or the evidence cannot be read.
pub fn run(args: &Args) -> Result<u8, Problem> {
    let mut set = PluginSet::with_folder(args.plugins.as_deref())?;
    let mut id = args.plugin.clone();
    let path = Path::new(&args.plugin);
    if path.extension().is_some_and(|end| end == "wasm") || args.plugin.contains(std::path::MAIN_SEPARATOR) {
        let (with_it, described) = match set.and_file(path, read_plugin(path)?) {
            Ok(loaded) => loaded,
            Err(error) => {
                return Err(Problem::plugin(format!("{}: {error}", path.display())).hint(error.hint()));
            }
        };
        if described.record.kind != args.kind {
            let kind = described.record.kind.as_str();
            return Err(Problem::usage(format!("{} is a {kind}", path.display()))
                .hint(format!("assayd plugin run {kind} {} ...", args.plugin)));
        }
        (set, id) = (with_it, described.record.id);
    }
    let record = set.record(args.kind, &id)?;
    let text = read_text(&args.evidence)?;
    let (result, usage) = call(&set, args, &id, &text)?;
    if args.json {
        let usage = json!({"fuel": usage.fuel, "memory_bytes": usage.memory_bytes, "log": usage.log});
        screen::print_json(&json!({"plugin": record, "result": result, "usage": usage}))?;
        return Ok(0);
    }
    let pretty = serde_json::to_string_pretty(&result)
        .map_err(|error| Problem::internal(format!("cannot write JSON: {error}")))?;
    let log: String = usage.log.iter().map(|line| format!("log: {}\n", screen::shown(line))).collect();
    screen::print(&format!(
        "{} {} {} ({})\n{pretty}\n{log}took {} fuel and {} bytes of memory\n",
        record.kind.as_str(),
        screen::shown(&record.id),
        screen::shown(&record.version),
        record.sha256,
        usage.fuel,
        usage.memory_bytes
    ))?;
    Ok(0)
}

/// The call, its result as JSON, and what it took.
fn call(set: &PluginSet, args: &Args, id: &str, text: &str) -> Result<(Value, Usage), Problem> {
    let params = args.params.as_str();
    Ok(match args.kind {
        PluginKind::Scorer => {
            let ScorerEvidence { challenge, reference, candidate } = parse(text, &args.evidence)?;
            let scorer = set.scorer(id)?;
            let evidence =
                Evidence { challenge, reference: Arc::new(reference), candidate: Arc::new(candidate) };
            let score = scorer.score(&evidence, params)?;
            let notes: serde_json::Map<_, _> =
                score.notes.into_iter().map(|(name, value)| (name, json!(value))).collect();
            (json!({"value": score.value, "notes": notes}), scorer.used())
        }
        PluginKind::Decider => {
            let DeciderEvidence { params, scores } = parse(text, &args.evidence)?;
            let decider = set.decider(id)?;
            let (state, steps) = decider.step(&decider.start(&params)?, &scores)?;
            (json!({"steps": steps, "state_bytes": state.len()}), decider.used())
        }
        PluginKind::HashCheck => {
            let evidence: HashEvidence = parse(text, &args.evidence)?;
            let target = target(&evidence, args.evidence.parent().unwrap_or(Path::new("")))?;
            let check = set.hash_check(id)?;
            let outcome = check.run(&target, params, &mut |request| digest(&target, None, request))?;
            let findings: Vec<_> = outcome.findings.iter().map(|found| json!(found.finding)).collect();
            (json!({"outcome": outcome.outcome, "findings": findings}), check.used())
        }
        PluginKind::Report => {
            let format = set.report(id)?;
            let files = format.render(text, params)?;
            let shown = files.into_iter().map(|file| {
                let bytes = file.body.len();
                let body = String::from_utf8_lossy(&file.body).into_owned();
                json!({"file_name": file.file_name, "media_type": file.media_type, "bytes": bytes, "body": body})
            });
            (json!({"files": shown.collect::<Vec<_>>()}), format.used())
        }
    })
}

fn read_text(path: &Path) -> Result<String, Problem> {
    let mut text = String::new();
    let limit = PLUGIN_EVIDENCE_BYTES;
    let read = File::open(path).and_then(|file| file.take(limit + 1).read_to_string(&mut text));
    read.map_err(|error| Problem::io("read", path, &error))?;
    if text.len() as u64 > limit {
        return Err(Problem::input(format!("{} has more than {limit} bytes", path.display())));
    }
    Ok(text)
}

fn parse<T: for<'a> Deserialize<'a>>(text: &str, path: &Path) -> Result<T, Problem> {
    serde_json::from_str(text).map_err(|error| {
        Problem::input(format!("{}: {error}", path.display()))
            .hint("assayd plugin new KIND NAME writes an example of the evidence of each kind")
    })
}

fn target(evidence: &HashEvidence, folder: &Path) -> Result<HashTarget, Problem> {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let file = |path: &PathBuf| {
        let path = folder.join(path);
        let metadata = path.metadata().map_err(|error| Problem::io("read", &path, &error))?;
        Ok(TargetFile { name: name(&path), bytes: metadata.len(), path })
    };
    let manifest = |path: &PathBuf| {
        let path = folder.join(path);
        Ok(TargetManifest { name: name(&path), text: read_text(&path)? })
    };
    Ok(HashTarget {
        name: evidence.name.clone(),
        files: evidence.files.iter().map(file).collect::<Result<_, Problem>>()?,
        manifests: evidence.manifests.iter().map(manifest).collect::<Result<_, Problem>>()?,
    })
}
