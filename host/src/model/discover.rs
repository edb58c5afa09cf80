//! Finding artifacts in a folder tree, and saying why everything else was left alone.
//!
//! Bounded in depth and entries. Symbolic links to files count if they stay within the
//! tree, or lead from a snapshot of Hugging Face's cache to the blobs of the same repository;
//! links to folders are never followed. Decides by layout and names, and the first bytes of what
//! has no telling name, so that it can run often; `inspect` looks at content.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::finding::Findings;
use super::folder::{TEMPLATES, parts_wanted};
use super::sniff::{Content, sniff};
use super::source::SourceFile;
use super::split::PartName;
use super::{document, ollama, pickle};
use crate::domain::budget;
use crate::domain::inspection::ArtifactKind;
use crate::domain::{Problem, ProblemKind};

/// One thing that can be inspected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Artifact {
    /// What to give to [`super::inspect()`]: a file, the first present part of a split set, or
    /// a folder.
    pub path: PathBuf,
    /// By layout; an inspection may come to another.
    pub kind: ArtifactKind,
    /// All files that belong to it, sorted.
    pub files: Vec<PathBuf>,
    /// Names of the parts or shards that are not there (yet).
    pub missing: Vec<String>,
    /// Size of all files together.
    pub bytes: u64,
}

/// Why a file or folder was left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum IgnoreReason {
    Unfinished,
    Hidden,
    NotAModel,
    Manifest,
    LinkEscapes,
    LinkBroken,
    LinkToFolder,
    TooDeep,
    TooMany,
    Unreadable,
    NotAFile,
}

impl IgnoreReason {
    /// A sentence for people.
    pub fn explanation(self) -> &'static str {
        match self {
            Self::Unfinished => "its name, or a file beside it, says that it is still being downloaded",
            Self::Hidden => "its name begins with a dot",
            Self::NotAModel => "it is not of a model format",
            Self::Manifest => "it is the manifest of a model whose weights are a blob of the same store",
            Self::LinkEscapes => "it is a symbolic link that leads out of the folder",
            Self::LinkBroken => "it is a symbolic link to nothing",
            Self::LinkToFolder => "it is a symbolic link to a folder, and those are not followed",
            Self::TooDeep => "it is nested too deep",
            Self::TooMany => "the folder holds too many files; the rest was not looked at",
            Self::Unreadable => "it cannot be read",
            Self::NotAFile => "it is neither a file nor a folder",
        }
    }
}

/// Something left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ignored {
    pub path: PathBuf,
    pub reason: IgnoreReason,
}

/// What a folder holds; both lists are sorted by path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Discovery {
    pub artifacts: Vec<Artifact>,
    pub ignored: Vec<Ignored>,
}

/// Name endings of downloads that are not done.
const UNFINISHED: [&str; 9] = [
    ".part",
    ".partial",
    ".incomplete",
    ".tmp",
    ".temp",
    ".download",
    ".downloadinprogress",
    ".crdownload",
    ".aria2",
];

/// Is this the name of a download that is not done?
pub fn is_unfinished(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    UNFINISHED.iter().any(|ending| lower.ends_with(ending)) || ollama::is_partial(&lower)
}

/// Is this lower-case extension one that pickle checkpoints have?
pub fn is_pickle_extension(extension: &str) -> bool {
    ["bin", "pt", "pth", "ckpt", "pkl", "pickle"].contains(&extension)
}

/// Looks through `root`.
///
/// # Errors
/// `root` itself cannot be read or is not a folder. Anything unreadable below is listed
/// as ignored.
pub fn discover(root: &Path) -> Result<Discovery, Problem> {
    let canonical = root.canonicalize().map_err(|error| Problem::io("open", root, &error))?;
    if !canonical.is_dir() {
        return Err(Problem::new(ProblemKind::Input, format!("{} is not a folder", root.display())));
    }
    let mut search = Search {
        canonical,
        entries_left: budget::DISCOVER_ENTRIES,
        names_left: budget::PARTS_WANTED,
        escaped: BTreeSet::new(),
        out: Discovery::default(),
    };
    search.folder(root, 0);
    let mut out = search.out;
    out.artifacts.sort_by(|a, b| (&a.path, a.kind as u8).cmp(&(&b.path, b.kind as u8)));
    out.ignored.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(out)
}

/// Does a file belong to a folder? Both are free of links. Hugging Face's cache links from a snapshot
/// to the blobs beside it; that is its layout.
pub(super) fn within(folder: &Path, file: &Path) -> bool {
    file.starts_with(folder) || blobs_of(folder).is_some_and(|blobs| file.starts_with(blobs))
}

/// Is this a symbolic link that leads out of the folder that it is in?
pub(super) fn leads_out(path: &Path) -> bool {
    let linked = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
    let folder = || match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.canonicalize(),
        _ => Path::new(".").canonicalize(),
    };
    let within = || Ok::<_, std::io::Error>(within(&folder()?, &path.canonicalize()?));
    // A link to nothing leads nowhere; opening it fails.
    linked && !within().unwrap_or(true)
}

/// Where the files of a snapshot in Hugging Face's cache are: `REPOSITORY/blobs` for a folder that
/// is, or lies in, `REPOSITORY/snapshots/COMMIT`. `folder` is canonical.
fn blobs_of(folder: &Path) -> Option<PathBuf> {
    folder.ancestors().find_map(|snapshot| {
        let snapshots = snapshot.parent().filter(|parent| parent.ends_with("snapshots"))?;
        Some(snapshots.parent()?.join("blobs"))
    })
}

struct Search {
    canonical: PathBuf,
    entries_left: usize,
    /// How many names of missing parts may still be listed.
    names_left: usize,
    /// Links that lead out of the folder.
    escaped: BTreeSet<PathBuf>,
    out: Discovery,
}

/// A usable file of a folder.
struct Entry {
    name: String,
    path: PathBuf,
    bytes: u64,
}

impl Search {
    fn ignore(&mut self, path: PathBuf, reason: IgnoreReason) {
        self.out.ignored.push(Ignored { path, reason });
    }

    /// What of these names is listed: all, or one of each set where there are too many sets.
    fn missing(&mut self, names: impl Iterator<Item = String>) -> Vec<String> {
        let names: Vec<String> = names.take(self.names_left.max(1)).collect();
        self.names_left -= names.len().min(self.names_left);
        names
    }

    fn folder(&mut self, folder: &Path, depth: usize) {
        let files = self.files(folder, depth);
        self.group(folder, files);
    }

    /// The files of one folder; what lies in folders below is looked through at once.
    fn files(&mut self, folder: &Path, depth: usize) -> Vec<Entry> {
        let Ok(listing) = fs::read_dir(folder) else {
            self.ignore(folder.to_owned(), IgnoreReason::Unreadable);
            return Vec::new();
        };
        let mut paths = Vec::new();
        for entry in listing {
            let Ok(entry) = entry else {
                self.ignore(folder.to_owned(), IgnoreReason::Unreadable);
                break;
            };
            let Some(left) = self.entries_left.checked_sub(1) else {
                self.ignore(folder.to_owned(), IgnoreReason::TooMany);
                break;
            };
            self.entries_left = left;
            paths.push(entry.path());
        }
        paths.sort();
        let mut files = Vec::new();
        for path in paths {
            let name = path.file_name().map(OsStr::to_string_lossy).unwrap_or_default().into_owned();
            if name.starts_with('.') {
                self.ignore(path, IgnoreReason::Hidden);
                continue;
            }
            match self.classify(&path) {
                Err(reason) => {
                    if reason == IgnoreReason::LinkEscapes {
                        self.escaped.insert(path.clone());
                    }
                    self.ignore(path, reason);
                }
                Ok(None) if depth >= budget::DISCOVER_DEPTH => self.ignore(path, IgnoreReason::TooDeep),
                // Named templates belong to the model in the folder above them.
                Ok(None) if name == TEMPLATES => {
                    let is_template = |entry: &Entry| entry.name.ends_with(".jinja");
                    let (templates, others) = self.files(&path, depth + 1).into_iter().partition(is_template);
                    self.group(&path, others);
                    let named = |of: Entry| Entry { name: format!("{TEMPLATES}/{}", of.name), ..of };
                    files.extend(Vec::into_iter(templates).map(named));
                }
                Ok(None) => self.folder(&path, depth + 1),
                Ok(Some(bytes)) => files.push(Entry { name, path, bytes }),
            }
        }
        files
    }

    /// The size of a file, `None` for a folder, or why neither will do.
    fn classify(&self, path: &Path) -> Result<Option<u64>, IgnoreReason> {
        let own = fs::symlink_metadata(path).map_err(|_| IgnoreReason::Unreadable)?;
        if !own.is_symlink() {
            return match (own.is_file(), own.is_dir()) {
                (true, _) => Ok(Some(own.len())),
                (_, true) => Ok(None),
                _ => Err(IgnoreReason::NotAFile),
            };
        }
        let target = path.canonicalize().map_err(|_| IgnoreReason::LinkBroken)?;
        let metadata = fs::metadata(&target).map_err(|_| IgnoreReason::LinkBroken)?;
        if !within(&self.canonical, &target) {
            return Err(IgnoreReason::LinkEscapes);
        }
        match (metadata.is_file(), metadata.is_dir()) {
            (true, _) => Ok(Some(metadata.len())),
            (_, true) => Err(IgnoreReason::LinkToFolder),
            _ => Err(IgnoreReason::NotAFile),
        }
    }

    /// Turns the files of one folder into artifacts.
    fn group(&mut self, folder: &Path, files: Vec<Entry>) {
        let names: BTreeSet<String> = files.iter().map(|file| file.name.clone()).collect();
        let mut sets: BTreeMap<(String, u64), Vec<Entry>> = BTreeMap::new();
        let (mut hf, mut side, mut pickles) = (Vec::new(), Vec::new(), Vec::new());
        for file in files {
            let unfinished = is_unfinished(&file.name) || names.contains(&format!("{}.aria2", file.name));
            if unfinished {
                self.ignore(file.path, IgnoreReason::Unfinished);
                continue;
            }
            let extension =
                file.name.rsplit_once('.').map(|(_, end)| end.to_ascii_lowercase()).unwrap_or_default();
            match extension.as_str() {
                "gguf" => match PartName::parse(&file.name) {
                    Some(part) => sets.entry((part.stem.clone(), part.count)).or_default().push(file),
                    None => self.single(file, ArtifactKind::Gguf),
                },
                "safetensors" => hf.push(file),
                end if is_pickle_extension(end) => pickles.push(file),
                "json" | "model" | "txt" | "jinja" => side.push(file),
                _ if document::is_document(&file.name) => side.push(file),
                _ if file.name.starts_with("sha256-") && holds_gguf(&file.path) => {
                    self.single(file, ArtifactKind::Gguf)
                }
                _ => match ollama::weights(&file.path) {
                    Some(blob) => self.manifest(file.path, blob),
                    None => self.ignore(file.path, IgnoreReason::NotAModel),
                },
            }
        }
        for parts in sets.into_values() {
            self.set(parts);
        }
        self.safetensors(folder, hf, (side, pickles), &names);
    }

    /// A blob is found where it lies; one that is not there is a model that is not complete.
    fn manifest(&mut self, path: PathBuf, blob: PathBuf) {
        let known = self.out.artifacts.iter().any(|artifact| artifact.path == blob);
        if !known && !blob.exists() {
            let name = blob.file_name().map(OsStr::to_string_lossy).unwrap_or_default().into_owned();
            let missing = Artifact {
                path: blob,
                kind: ArtifactKind::Gguf,
                files: Vec::new(),
                missing: vec![name],
                bytes: 0,
            };
            self.out.artifacts.push(missing);
        }
        self.ignore(path, IgnoreReason::Manifest);
    }

    fn single(&mut self, file: Entry, kind: ArtifactKind) {
        self.out.artifacts.push(Artifact {
            path: file.path.clone(),
            kind,
            files: vec![file.path],
            missing: Vec::new(),
            bytes: file.bytes,
        });
    }

    fn set(&mut self, parts: Vec<Entry>) {
        let Some(first) = parts.first() else { return };
        let Some(name) = PartName::parse(&first.name) else { return };
        let present = parts.iter().map(|part| part.name.clone()).collect();
        let missing = self.missing(name.missing(&present));
        self.out.artifacts.push(Artifact {
            path: first.path.clone(),
            kind: ArtifactKind::GgufSplit,
            missing,
            bytes: parts.iter().map(|part| part.bytes).sum(),
            files: parts.into_iter().map(|part| part.path).collect(),
        });
    }

    /// Weights with a config beside them are one artifact, the folder, with the texts and pickles
    /// there; without, each file is one.
    fn safetensors(
        &mut self,
        folder: &Path,
        weights: Vec<Entry>,
        (side, pickles): (Vec<Entry>, Vec<Entry>),
        names: &BTreeSet<String>,
    ) {
        // One that is a way out does not make another thing of the folder.
        let has = |name: &str| names.contains(name) || self.escaped.contains(&folder.join(name));
        let index = has("model.safetensors.index.json");
        let kind = if has("adapter_config.json") { ArtifactKind::Adapter } else { ArtifactKind::Safetensors };
        let config = has("config.json") || has("adapter_config.json");
        if !(index || config && !weights.is_empty()) {
            for file in weights {
                self.single(file, ArtifactKind::Safetensors);
            }
            for file in pickles {
                if is_checkpoint(&file) {
                    self.single(file, ArtifactKind::Pickle);
                } else {
                    self.ignore(file.path, IgnoreReason::NotAModel);
                }
            }
            for file in side {
                self.ignore(file.path, IgnoreReason::NotAModel);
            }
            return;
        }
        let mut files: Vec<Entry> = weights.into_iter().chain(side).chain(pickles).collect();
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let usable = files.iter().map(|file| file.name.clone()).collect();
        let missing = self.missing(parts_wanted(folder, &usable).into_iter());
        self.out.artifacts.push(Artifact {
            path: folder.to_owned(),
            kind,
            missing,
            bytes: files.iter().map(|file| file.bytes).sum(),
            files: files.into_iter().map(|file| file.path).collect(),
        });
    }
}

/// Files called .bin may be anything. What is called like weights, or is damaged, or brought by a
/// failed download, is to be told of.
fn is_checkpoint(file: &Entry) -> bool {
    let weights = ["pytorch_model", "model", "adapter_model", "consolidated"];
    if weights.iter().any(|name| file.name.starts_with(name)) {
        return true;
    }
    let known = SourceFile::open(&file.path).and_then(|source| match sniff(&source, 0)? {
        Content::Unknown => Ok(pickle::check(&source, Content::Unknown, &mut Findings::default())?.is_some()),
        _ => Ok(true),
    });
    known.unwrap_or(true)
}

/// Files of ollama's store have no extension.
fn holds_gguf(path: &Path) -> bool {
    SourceFile::open(path).and_then(|source| sniff(&source, 0)).is_ok_and(|content| content == Content::Gguf)
}

#[cfg(test)]
mod tests;
