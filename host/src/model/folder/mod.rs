//! Weights in safetensors files: one file, or a folder with its configuration, tokenizer
//! and index as Hugging Face lays it out; adapters and MLX folders are such folders, too.

mod adapter;
mod beside;
mod config;
mod contents;
mod index;
mod packed;
mod texts;
mod weights;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::discover::{IgnoreReason, Ignored, discover, is_pickle_extension, leads_out};
use super::finding::{Code, Findings};
use super::foreign;
use super::inspect::{Inspector, Layout, blank, conclude};
use super::safetensors::{self, Header};
use super::scan::{Tensors, Weights};
use super::sniff::sniff;
use super::source::{self, ReadAt as _, SourceFile};
use crate::domain::inspection::{ArtifactKind, FileRecord, Finding, Inspection, Severity, Status};
use crate::domain::{Problem, budget};
pub(super) use config::COSMETIC;
pub use config::Config;
use index::Index;
pub use weights::{loaded_of, parts_wanted, wanted};

/// One opened file of weights.
pub(super) struct Shard {
    pub name: String,
    pub path: PathBuf,
    pub source: SourceFile,
    pub header: Option<Header>,
}

/// Folder of the chat templates that are asked for by name, each in a file of its own.
pub(super) const TEMPLATES: &str = "additional_chat_templates";

/// Ends of the names of files that belong to the model beside its weights.
const SIDE: [&str; 5] = [".json", ".model", ".jinja", "merges.txt", "vocab.txt"];

/// Inspects one safetensors file on its own.
pub(super) fn file(
    inspector: &mut Inspector<'_>,
    path: &Path,
    source: SourceFile,
) -> Result<Inspection, Problem> {
    let mut findings = Findings::default();
    let io = |error: &io::Error| Problem::io("read", path, error);
    inspector.total = source.size();
    let header = safetensors::read(&source, &mut findings).map_err(|error| io(&error))?;
    let shard = Shard { name: String::new(), path: path.to_owned(), source, header };
    let mut inspection = blank(path, ArtifactKind::Safetensors);
    let record = pass(inspector, &shard, &[], &mut findings).map_err(|error| io(&error))?;
    inspection.files.push(record);
    inspector.state_roots(&mut inspection);
    state_weights(&mut inspection, std::slice::from_ref(&shard));
    no_tensors(&inspection, &mut findings);
    if inspection.kind == ArtifactKind::Safetensors && shard.header.is_some() {
        findings.push(Code::ConfigMissing.finding("a file of weights alone; its folder was not looked at"));
    }
    Ok(conclude(inspection, findings))
}

/// Inspects a folder as one artifact.
pub(super) fn folder(inspector: &mut Inspector<'_>, path: &Path) -> Result<Inspection, Problem> {
    let mut findings = Findings::default();
    let mut names = listing(path)?;
    names.extend(named_templates(path)?);
    let adapter = names.contains("adapter_config.json");
    let kind = if adapter { ArtifactKind::Adapter } else { ArtifactKind::Safetensors };
    let mut inspection = blank(path, kind);
    links(path, &names, &mut findings);
    beside::pickles(path, &mut findings);
    let config_name = if adapter { "adapter_config.json" } else { "config.json" };
    let config = read_config(path, config_name, &names, &mut inspection, &mut findings);
    let tokenizer = texts::check(path, &names, config.as_ref(), &mut findings);
    inspection.tokenizer_hash = tokenizer.hash;
    texts::documents(path, &names, &mut findings);
    let index = weights::index(path, &names, &mut findings);
    let mut shards = Vec::new();
    let present = weights::present(&names);
    let loaded = weights::loaded(&names, index.as_ref());
    weights::check(&present, &loaded, index.as_ref(), &mut findings);
    for name in names.iter().filter(|name| name.to_ascii_lowercase().ends_with(".gguf")) {
        let message = format!("{name} is a model of its own, and was not looked at: give its path for that");
        findings.push(Finding { part: Some(name.clone()), ..Code::OtherWeights.finding(message) });
    }
    for name in &present {
        let shard = open(&path.join(name), name, &mut findings)?;
        if loaded.contains(name) {
            inspector.total += shard.source.size();
            shards.push(shard);
        }
    }
    let side = side_files(path, &names, &present, &loaded);
    inspector.total += side.iter().map(|(_, bytes)| bytes).sum::<u64>();
    contents::placed(&shards, index.as_ref(), &mut findings);
    for shard in &shards {
        findings.part = Some(shard.name.clone());
        let record = pass(inspector, shard, &tokenizer.added, &mut findings)
            .map_err(|error| Problem::io("read", &shard.path, &error))?;
        findings.part = None;
        inspection.files.push(record);
    }
    for (file, bytes) in side {
        let mut sha256 = None;
        if inspector.full() {
            let digest = inspector.digest(&file)?;
            let name = file.strip_prefix(path).unwrap_or(&file).to_string_lossy().into_owned();
            inspector.roots.side_file(&name, digest);
            sha256 = Some(digest);
        }
        inspection.files.push(FileRecord { path: file, bytes, sha256 });
    }
    inspector.state_roots(&mut inspection);
    let whole = !findings.has_errors() && shards.iter().all(|shard| shard.header.is_some());
    if whole {
        state_weights(&mut inspection, &shards);
        no_tensors(&inspection, &mut findings);
        if inspection.kind == ArtifactKind::Safetensors && config.as_ref().is_some_and(Config::is_mlx) {
            inspection.kind = ArtifactKind::Mlx;
        }
        if inspection.kind == ArtifactKind::Mlx {
            packed::check(config.as_ref(), &shards, &mut findings);
        }
        if let Some(config) = &config {
            if adapter {
                adapter::check(config, &shards, &mut findings);
            } else {
                contents::against_config(config, &shards, &mut findings);
            }
        }
    }
    if let Some(config) = &config {
        state_config(&mut inspection, config, adapter);
    }
    Ok(conclude(inspection, findings))
}

/// File names of the folder, bounded.
fn listing(path: &Path) -> Result<BTreeSet<String>, Problem> {
    let entries = fs::read_dir(path).map_err(|error| Problem::io("open", path, &error))?;
    let mut names = BTreeSet::new();
    for entry in entries.take(budget::DISCOVER_ENTRIES) {
        let entry = entry.map_err(|error| Problem::io("read", path, &error))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        // Weights that a link stands for and that are not there are missing.
        let dangles = || entry.path().metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        let linked = entry.file_type().is_ok_and(|kind| kind.is_symlink());
        if !(name.ends_with(".safetensors") && linked && dangles()) {
            names.insert(name);
        }
    }
    Ok(names)
}

/// The chat templates that have names, as files of the folder.
pub(super) fn named_templates(path: &Path) -> Result<Vec<String>, Problem> {
    let folder = path.join(TEMPLATES);
    // Links to folders are never followed.
    if !fs::symlink_metadata(&folder).is_ok_and(|metadata| metadata.is_dir()) {
        return Ok(Vec::new());
    }
    let names = listing(&folder)?.into_iter().filter(|name| name.ends_with(".jinja"));
    Ok(names.map(|name| format!("{TEMPLATES}/{name}")).collect())
}

/// Files that are links out of the folder.
fn links(path: &Path, names: &BTreeSet<String>, findings: &mut Findings) {
    for name in names.iter().filter(|name| leads_out(&path.join(name))) {
        let message = format!("{name} is a symbolic link that leads out of the folder");
        findings.push(Finding { part: Some(name.clone()), ..Code::SymlinkEscape.finding(message) });
    }
}

/// What there is to say of a folder whose only files are links out of it.
pub(super) fn linked_away(path: &Path) -> Result<Option<Inspection>, Problem> {
    let found = discover(path)?;
    let away = found.ignored.iter().filter(|ignored| ignored.reason == IgnoreReason::LinkEscapes);
    let name = |link: &Ignored| link.path.strip_prefix(path).ok()?.to_str().map(str::to_owned);
    let names = away.take_while(|_| found.artifacts.is_empty()).filter_map(name).collect();
    let mut inspection = blank(path, ArtifactKind::Unknown);
    let mut findings = Findings::default();
    links(path, &names, &mut findings);
    inspection.findings = findings.finish();
    if inspection.findings.is_empty() {
        return Ok(None);
    }
    inspection.findings.iter_mut().for_each(|finding| finding.severity = Severity::Error);
    inspection.status = Status::Reject;
    Ok(Some(inspection))
}

/// A text file of the folder, if it is there and not larger than `limit`.
fn text(path: &Path, name: &str, limit: u64, findings: &mut Findings) -> Option<String> {
    read(path, name, limit, findings, |file| {
        let mut bytes = vec![0; usize::try_from(file.size()).unwrap_or(0)];
        file.read_at(&mut bytes, 0)?;
        Ok(String::from_utf8(bytes).ok())
    })
}

/// A text file like that, to be read in pieces: as a whole it would take too much memory.
fn long_text(path: &Path, name: &str, limit: u64, findings: &mut Findings) -> Option<SourceFile> {
    read(path, name, limit, findings, |file| Ok(source::is_utf8(&file)?.then_some(file)))
}

/// What `take` makes of a file of at most `limit` bytes; it gives nothing if that is not UTF-8.
fn read<T>(
    path: &Path,
    name: &str,
    limit: u64,
    findings: &mut Findings,
    take: impl FnOnce(SourceFile) -> io::Result<Option<T>>,
) -> Option<T> {
    let mut fail = |code: Code, message: String| {
        findings.push(Finding { part: Some(name.to_owned()), ..code.finding(message) });
    };
    let result = SourceFile::open(&path.join(name)).and_then(|file| {
        let fits = file.size() <= limit;
        Ok(if fits { Some(take(file)?) } else { None })
    });
    match result {
        Err(error) => fail(Code::Unreadable, format!("{name} cannot be read: {error}")),
        Ok(None) => fail(Code::HeaderTooLarge, format!("{name} is larger than {limit} bytes")),
        Ok(Some(None)) => fail(Code::InvalidUtf8, format!("{name} is not valid UTF-8")),
        Ok(Some(text)) => return text,
    }
    None
}

fn read_config(
    path: &Path,
    name: &str,
    names: &BTreeSet<String>,
    inspection: &mut Inspection,
    findings: &mut Findings,
) -> Option<Config> {
    if !names.contains(name) {
        findings.push(Code::ConfigMissing.finding(format!("{name} is missing")));
        return None;
    }
    let text = text(path, name, budget::CONFIG_BYTES, findings)?;
    match Config::parse(&text) {
        Ok(config) => {
            inspection.config_hash = config.hash();
            config.check(name, findings);
            Some(config)
        }
        Err(error) => {
            let finding = Code::BadJson.finding(format!("{name} is not valid JSON: {error}"));
            findings.push(Finding { part: Some(name.to_owned()), ..finding });
            None
        }
    }
}

/// Reads the header of one file of weights, whatever it turns out to be.
fn open(path: &Path, name: &str, findings: &mut Findings) -> Result<Shard, Problem> {
    let io = |error: io::Error| Problem::io("read", path, &error);
    let source = SourceFile::open(path).map_err(io)?;
    findings.part = Some(name.to_owned());
    let header = match foreign::no_part(path, sniff(&source, 0).map_err(io)?) {
        Some(finding) => {
            findings.push(finding);
            None
        }
        None => safetensors::read(&source, findings).map_err(io)?,
    };
    findings.part = None;
    Ok(Shard { name: name.to_owned(), path: path.to_owned(), source, header })
}

fn pass(
    inspector: &mut Inspector<'_>,
    shard: &Shard,
    idle: &[(u64, u64)],
    findings: &mut Findings,
) -> io::Result<FileRecord> {
    let size = shard.source.size();
    let header = shard.header.as_ref();
    let tensors = header.map(|header| header.tensors.as_slice()).unwrap_or_default();
    let weights: Vec<Weights> = tensors
        .iter()
        .filter(|tensor| tensor.offset.checked_add(tensor.bytes).is_some_and(|end| end <= size))
        .map(|tensor| Weights {
            name: tensor.name.clone(),
            kind: tensor.dtype.scanned_as(),
            dtype: tensor.dtype.name,
            shape: tensor.shape.clone(),
            row_bytes: match tensor.shape.as_slice() {
                [rows, _, ..] => tensor.bytes / rows.max(&1),
                _ => tensor.bytes,
            },
            offset: tensor.offset,
            bytes: tensor.bytes,
        })
        .collect();
    let data_offset = header.map_or(size, |header| header.data_offset.min(size));
    if let Some(header) = header {
        inspector.roots.text_metadata(&header.metadata);
    }
    let data = Tensors { weights: &weights, data_offset, idle, members: &[] };
    let layout = Layout { data, tensors: header.map(|_| tensors.len()), in_order: true };
    inspector.pass(&shard.path, &shard.source, &layout, findings)
}

/// Configuration, tokenizer, templates, pickles and other weights belong to the artifact; a full pass
/// digests them, too. Each with its size.
fn side_files(
    path: &Path,
    names: &BTreeSet<String>,
    present: &BTreeSet<String>,
    loaded: &BTreeSet<String>,
) -> Vec<(PathBuf, u64)> {
    let extension =
        |name: &str| name.rsplit_once('.').map(|(_, end)| end.to_ascii_lowercase()).unwrap_or_default();
    let is_side = |name: &&String| {
        SIDE.iter().any(|end| name.ends_with(end))
            || is_pickle_extension(&extension(name))
            || present.contains(*name) && !loaded.contains(*name)
    };
    let sized = |name: &String| {
        let metadata = fs::metadata(path.join(name)).ok().filter(fs::Metadata::is_file)?;
        Some((path.join(name), metadata.len()))
    };
    names.iter().filter(is_side).filter_map(sized).collect()
}

/// Counts and the storage type that most weights have.
fn state_weights(inspection: &mut Inspection, shards: &[Shard]) {
    let tensors =
        || shards.iter().filter_map(|shard| shard.header.as_ref()).flat_map(|header| &header.tensors);
    let mut by_type: BTreeMap<&str, u64> = BTreeMap::new();
    for tensor in tensors() {
        let sum = by_type.entry(tensor.dtype.name).or_default();
        *sum = sum.saturating_add(tensor.elements());
    }
    if !shards.iter().all(|shard| shard.header.is_some()) {
        return;
    }
    inspection.tensors = Some(tensors().count() as u64);
    inspection.parameters = Some(by_type.values().fold(0, |sum, count| sum.saturating_add(*count)));
    inspection.quantization =
        by_type.iter().max_by_key(|(_, count)| **count).map(|(name, _)| (*name).to_owned());
    let mlx = shards
        .iter()
        .filter_map(|shard| shard.header.as_ref())
        .any(|header| header.metadata.get("format").is_some_and(|format| format == "mlx"));
    if mlx && inspection.kind == ArtifactKind::Safetensors {
        inspection.kind = ArtifactKind::Mlx;
    }
}

/// Headers without a tensor are sound, and no model.
fn no_tensors(inspection: &Inspection, findings: &mut Findings) {
    if inspection.tensors == Some(0) {
        findings.push(Code::NotALanguageModel.finding("there are no tensors"));
    }
}

fn state_config(inspection: &mut Inspection, config: &Config, adapter: bool) {
    if adapter {
        return;
    }
    inspection.architecture = config.text("model_type");
    inspection.context_length =
        config.number("max_position_embeddings").or_else(|| config.number("n_positions"));
    if let Some(packed) = config.packed() {
        // Weights are packed several to a stored number: counting those would be wrong.
        inspection.parameters = None;
        inspection.quantization = Some(packed);
    }
}

#[cfg(test)]
mod tests;
