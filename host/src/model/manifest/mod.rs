//! Lists of digests and what they say about an artifact: `sha256sum` (text, binary, escaped
//! and `--tag` lines), `llama-gguf-hash` (every kind it knows), this program's own lists,
//! manifests of ollama, `manifest.json` of quantising pipelines, Git LFS pointers, and files that
//! are called after their digest.
//!
//! A line that is not understood, a digest that cannot be computed and a list that names
//! nothing of the artifact mean "could not be checked", never "fine". Signed lists are in
//! `signature`.

mod compare;
mod files;
mod foreign;
mod formats;
mod names;
mod own;
mod parse;
mod place;
mod registry;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::inspect::files_of;
use super::source::{ReadAt as _, SourceFile};
use crate::digest::HashKind;
use crate::domain::inspection::Inspection;
use crate::domain::{Problem, budget};
use compare::Thing;
pub use formats::Formats;
pub use names::{check_names, hold_to_names};
pub use own::write as write_list;
pub use registry::Registry;

/// What a list holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum List {
    Digests(Manifest),
    Registry(Registry),
    Formats(Formats),
    /// A signed list: the text of a sigstore bundle.
    Signature(String),
}

impl List {
    /// Reads a list from a file.
    ///
    /// # Errors
    /// It cannot be read, is too large, or has a line that is not understood.
    pub fn read(path: &Path) -> Result<Self, Problem> {
        let io = |error: &std::io::Error| Problem::io("read", path, error);
        let bad = |why: String| {
            Problem::input(format!("{}: {why}", path.display()))
                .hint("`assayd hash --help` names the lists that are understood")
        };
        let file = SourceFile::open(path).map_err(|error| io(&error))?;
        if file.size() > budget::SIGNATURE_BYTES {
            return Err(bad(format!("a list of digests has at most {} bytes", budget::SIGNATURE_BYTES)));
        }
        let mut bytes = vec![0; usize::try_from(file.size()).unwrap_or(0)];
        file.read_at(&mut bytes, 0).map_err(|error| io(&error))?;
        let text = String::from_utf8(bytes).map_err(|_| bad("it is not text".to_owned()))?;
        Self::parse(text).map_err(bad)
    }

    /// Reads a list; the error says what is not understood.
    ///
    /// # Errors
    /// The text is none of the lists that are known.
    pub fn parse(text: String) -> Result<Self, String> {
        // Windows likes to begin a text with a mark.
        let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
        if text.trim_start().starts_with('{') {
            let document: serde_json::Value =
                serde_json::from_str(&text).map_err(|error| format!("it is not valid JSON: {error}"))?;
            let media = document.get("mediaType").and_then(serde_json::Value::as_str).unwrap_or_default();
            if media.starts_with("application/vnd.dev.sigstore.bundle") {
                return Ok(Self::Signature(text));
            }
            if let Some(formats) = Formats::parse(&document) {
                return formats.map(Self::Formats);
            }
            return Registry::ollama(&document).map(Self::Registry);
        }
        if text.starts_with("version https://git-lfs.github.com/spec/v1") {
            return Registry::lfs(&text).map(Self::Registry);
        }
        Manifest::parse(&text).map(Self::Digests)
    }

    /// Digests that a pass has to compute besides.
    pub fn kinds(&self) -> Vec<HashKind> {
        match self {
            Self::Digests(manifest) => manifest.kinds(),
            Self::Registry(_) | Self::Formats(_) | Self::Signature(_) => Vec::new(),
        }
    }
}

/// What a digest is over.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    /// SHA-256 of a file, by its name as [`place::name`] has it.
    File(String),
    /// A tensor of a file, or all tensor data of it one after the other: `FILE[:TENSOR]`.
    Kind(HashKind, String),
    /// A tensor's tree, with its type and shape, as this program's own lists have it.
    Own(String, Thing),
    /// The leaf of a metadata entry of a part.
    Metadata(u64, String),
}

/// A list of digests, read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    entries: Vec<(Subject, String)>,
}

/// How one thing compares with the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Ok,
    Changed,
    /// Listed, and not in the artifact.
    Missing,
    /// In the artifact, and not listed.
    Extra,
    /// The bytes are there under another name.
    Renamed,
    /// The bytes are as listed, under another type or shape.
    Retyped,
    /// It has the bytes of another one, which has its own.
    Swapped,
    /// Not listed, with the bytes of one that is; or there more than once.
    Duplicate,
}

/// What was compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    File,
    Tensor,
    /// The data of all tensors.
    Weights,
    Metadata,
    /// The signature of the list itself.
    Signature,
}

/// One thing compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    pub name: String,
    pub what: What,
    pub outcome: Outcome,
    /// Kind of the digests.
    pub algorithm: String,
    pub expected: Option<String>,
    pub found: Option<String>,
    /// Such as the other name, or the other type.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<String>,
}

/// The whole comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub checked: Vec<Checked>,
    /// Why something could not be checked.
    pub unchecked: Vec<String>,
    /// What else is worth knowing.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub remarks: Vec<String>,
}

impl Report {
    /// Is something not as listed?
    pub fn differs(&self) -> bool {
        self.checked.iter().any(|checked| checked.outcome != Outcome::Ok)
    }

    /// 1 for a difference, 4 if not all could be checked, else 0.
    pub fn exit_code(&self) -> u8 {
        match (self.differs(), self.unchecked.is_empty() && !self.checked.is_empty()) {
            (true, _) => 1,
            (false, false) => 4,
            (false, true) => 0,
        }
    }

    /// Compares two digests of one thing.
    pub fn digest(
        &mut self,
        (what, name): (What, &str),
        algorithm: &str,
        expected: Option<String>,
        found: Option<String>,
    ) {
        let outcome = match (&expected, &found) {
            (Some(expected), Some(found)) if expected == found => Outcome::Ok,
            (Some(_), Some(_)) => Outcome::Changed,
            (None, _) => Outcome::Extra,
            (Some(_), None) => Outcome::Missing,
        };
        let (name, algorithm) = (name.to_owned(), algorithm.to_owned());
        self.checked.push(Checked { name, what, outcome, algorithm, expected, found, detail: None });
    }

    /// A name that the artifact has more than once.
    fn duplicate(&mut self, what: What, name: &str, algorithm: &str) {
        self.digest((what, name), algorithm, None, None);
        if let Some(checked) = self.checked.last_mut() {
            checked.outcome = Outcome::Duplicate;
            checked.detail = Some("it is there more than once".to_owned());
        }
    }
}

impl Manifest {
    /// Kinds of digests it has besides SHA-256 of files and the trees of its own lists.
    fn kinds(&self) -> Vec<HashKind> {
        let kind = |(subject, _): &(Subject, String)| match subject {
            Subject::Kind(kind, _) => Some(*kind),
            Subject::File(_) | Subject::Own(..) | Subject::Metadata(..) => None,
        };
        self.entries.iter().filter_map(kind).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Has it nothing but the SHA-256 of files, so that no model needs to be understood for it?
    pub fn is_of_files(&self) -> bool {
        self.entries.iter().all(|(subject, _)| matches!(subject, Subject::File(_)))
    }

    /// Compares a full inspection, made with [`List::kinds`], with the list, which was read
    /// from `list`. Where that is of one file's tensors, the file may have been renamed since.
    pub fn check(&self, list: &Path, inspection: &Inspection) -> Report {
        compare::check(&self.entries, list, inspection)
    }
}

/// The last part of a path in a list.
fn base(name: &str) -> String {
    name.rsplit(['/', '\\']).next().unwrap_or(name).to_owned()
}

/// Parts of a split set that are not there.
fn absent_parts(inspection: &Inspection) -> Vec<PathBuf> {
    let first = inspection.files.first().map_or(&inspection.path, |file| &file.path);
    let present = |part: &PathBuf| inspection.files.iter().any(|file| file.path == *part);
    files_of(first).into_iter().filter(|part| !present(part)).collect()
}

fn base_of(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
