//! `assayd models`: the models in folders, and whether they fit into memory here.

use std::path::PathBuf;

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::estimate::usual_context;
use super::memory::CapsArgs;
use super::screen::{self, Bar};
use crate::app::config::{self, Overrides};
use crate::domain::Problem;
use crate::domain::inspection::{ArtifactKind, Status};
use crate::domain::size::ByteSize;
use crate::engine::{KvType, shape};
use crate::governor::admission::{Budget, Fit};
use crate::model::footprint::count;
use crate::model::{self, InspectOptions};
use crate::worker::demand_of;

/// Lists the models in folders with what they are and whether they fit into memory here:
/// green with a margin, yellow without one, red not at all.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  assayd models
  assayd models /data/models --ctx 8192
  assayd models --max-memory 8GiB --json | jq '.models[] | select(.fit == \"green\") | .path'

Numbers come from headers by formula; `assayd estimate` asks the engine itself.
Exit code 0 when the folders could be read, whatever is in them.")]
pub struct Args {
    /// Folders or files [default: the watched folders of the configuration]
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Configuration file whose folders are looked at, as for `serve`
    #[arg(long, value_name = "F")]
    config: Option<PathBuf>,
    /// Tokens per sequence [default: what each was trained for, at most 4096]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=131_072))]
    ctx: Option<u32>,
    /// Number format of the key-value cache
    #[arg(long, value_enum, default_value = "f16")]
    kv_type: KvType,
    #[command(flatten)]
    caps: CapsArgs,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// The JSON document.
#[derive(Debug, Serialize)]
struct Output {
    available_bytes: u64,
    /// The limit that decides: `max-memory`, `available` or `group`.
    limiting: &'static str,
    models: Vec<Entry>,
    ignored: usize,
}

/// One artifact; what is not known is null.
#[derive(Debug, Serialize)]
struct Entry {
    #[serde(serialize_with = "crate::domain::text::path_as_json")]
    path: PathBuf,
    kind: Option<ArtifactKind>,
    status: Option<Status>,
    architecture: Option<String>,
    parameters: Option<u64>,
    quantization: Option<String>,
    context: Option<u32>,
    bytes: u64,
    held_bytes: Option<u64>,
    mapped_bytes: Option<u64>,
    fit: Option<Fit>,
    limiting: Option<&'static str>,
    /// Why a value is null, or why it is rejected.
    note: Option<String>,
}

pub fn run(args: &Args) -> Result<u8, Problem> {
    let folders = if args.paths.is_empty() {
        let overrides = Overrides { config: args.config.clone(), ..Overrides::default() };
        config::load(&overrides, &|name| std::env::var(name).ok())?.models
    } else {
        args.paths.clone()
    };
    let caps = args.caps.caps();
    let budget = Budget::now(caps);
    let (mut paths, mut ignored) = (Vec::new(), 0);
    for folder in &folders {
        if folder.is_file() {
            paths.push(folder.clone());
            continue;
        }
        let found = model::discover(folder)?;
        ignored += found.ignored.len();
        paths.extend(found.artifacts.into_iter().map(|artifact| artifact.path));
    }
    let bar = Bar::new("reading headers");
    let mut models = Vec::with_capacity(paths.len());
    for (done, path) in paths.iter().enumerate() {
        bar.set(done as f64 / paths.len() as f64);
        models.push(entry(args, path, budget));
    }
    drop(bar);
    let output =
        Output { available_bytes: budget.bytes, limiting: budget.limiting.as_str(), models, ignored };
    if args.json {
        screen::print_json(&output)?;
    } else {
        screen::print(&table(&output))?;
    }
    Ok(0)
}

fn entry(args: &Args, path: &std::path::Path, budget: Budget) -> Entry {
    let mut entry = Entry {
        path: path.to_owned(),
        kind: None,
        status: None,
        architecture: None,
        parameters: None,
        quantization: None,
        context: None,
        bytes: 0,
        held_bytes: None,
        mapped_bytes: None,
        fit: None,
        limiting: None,
        note: None,
    };
    let inspection = match model::inspect(path, &InspectOptions::default(), &mut |_, _| {}) {
        Ok(inspection) => inspection,
        Err(problem) => {
            entry.note = Some(problem.message);
            return entry;
        }
    };
    entry.kind = Some(inspection.kind);
    entry.status = Some(inspection.status);
    entry.architecture.clone_from(&inspection.architecture);
    entry.parameters = inspection.parameters;
    entry.quantization.clone_from(&inspection.quantization);
    entry.bytes = inspection.files.iter().map(|file| file.bytes).fold(0, u64::saturating_add);
    if inspection.status == Status::Reject {
        entry.note = inspection.findings.first().map(|finding| finding.message.clone());
        return entry;
    }
    if !matches!(inspection.kind, ArtifactKind::Gguf | ArtifactKind::GgufSplit) {
        entry.note = Some("memory is counted for GGUF files only".to_owned());
        return entry;
    }
    let context = args.ctx.unwrap_or_else(|| usual_context(inspection.context_length));
    let first = inspection.files.first().map_or(path, |file| file.path.as_path());
    match count(first, shape(context, 1, args.kv_type)) {
        Ok(counted) => {
            let demand = demand_of(&counted.footprint());
            entry.context = Some(context);
            entry.held_bytes = Some(demand.held_bytes);
            entry.mapped_bytes = Some(demand.mapped_bytes);
            entry.fit = Some(Fit::of(demand, budget));
            entry.limiting = Some(budget.limiting.as_str());
        }
        Err(problem) => entry.note = Some(problem.message),
    }
    entry
}

fn table(output: &Output) -> String {
    let size =
        |bytes: Option<u64>| bytes.map_or_else(|| "n/a".to_owned(), |bytes| ByteSize(bytes).to_string());
    let text = |value: &Option<String>| value.as_deref().map_or_else(|| "n/a".to_owned(), screen::shown);
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["model", "architecture", "type", "parameters", "files", "memory", "context", "fit"]);
    for model in &output.models {
        let memory =
            model.held_bytes.zip(model.mapped_bytes).map(|(held, mapped)| held.saturating_add(mapped));
        let fit = match (model.fit, &model.note) {
            (Some(fit), _) => fit.as_str().to_owned(),
            (None, note) => text(note),
        };
        table.add_row([
            screen::shown_path(&model.path),
            text(&model.architecture),
            text(&model.quantization),
            model.parameters.map_or_else(|| "n/a".to_owned(), |count| count.to_string()),
            size(Some(model.bytes)),
            size(memory),
            model.context.map_or_else(|| "n/a".to_owned(), |context| context.to_string()),
            fit,
        ]);
    }
    format!(
        "{table}\n{} models; {} available, and the limit that decides is {}; {} other files\n",
        output.models.len(),
        ByteSize(output.available_bytes),
        output.limiting,
        output.ignored
    )
}
