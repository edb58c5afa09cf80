//! Lists of digests that others wrote: `sha256sum` (text, binary and `--tag` lines) and
//! `llama-gguf-hash`, read strictly and checked against a full inspection.
//!
//! A line that is not understood, a digest of another kind and a list that names nothing of
//! the artifact mean "could not be checked", never "fine".

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::gguf;
use super::source::{ReadAt as _, SourceFile};
use crate::digest::Sha256Stream;
use crate::domain::inspection::Inspection;
use crate::domain::{Problem, Sha256, budget};

/// What a digest is over.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    File(String),
    /// (file, tensor)
    Tensor(String, String),
    /// All tensor data of a file, one after the other.
    Weights(String),
}

/// The list, read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    entries: Vec<(Subject, Sha256)>,
    /// Kinds of digests that cannot be checked here.
    unsupported: BTreeSet<String>,
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
}

/// One thing compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    pub name: String,
    /// Whether it is a tensor; otherwise it is a file, or the weights of one.
    pub tensor: bool,
    pub outcome: Outcome,
    pub expected: Option<Sha256>,
    pub found: Option<Sha256>,
}

/// The whole comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub checked: Vec<Checked>,
    /// Why something could not be checked.
    pub unchecked: Vec<String>,
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
}

/// Kinds of `llama-gguf-hash` that are not checked here.
const OTHER_KINDS: [&str; 4] = ["xxh64", "xxh3", "sha1", "uuid"];

impl Manifest {
    /// Reads a list from a file.
    ///
    /// # Errors
    /// It cannot be read, is too large, or has a line that is not understood.
    pub fn read(path: &Path) -> Result<Self, Problem> {
        let io = |error: &std::io::Error| Problem::io("read", path, error);
        let file = SourceFile::open(path).map_err(|error| io(&error))?;
        let bad = |why: String| Problem::input(format!("{}: {why}", path.display()));
        if file.size() > budget::MANIFEST_BYTES {
            return Err(bad(format!("a list of digests has at most {} bytes", budget::MANIFEST_BYTES)));
        }
        let mut bytes = vec![0; usize::try_from(file.size()).unwrap_or(0)];
        file.read_at(&mut bytes, 0).map_err(|error| io(&error))?;
        let text = String::from_utf8(bytes).map_err(|_| bad("it is not text".to_owned()))?;
        Self::parse(&text).map_err(bad)
    }

    /// Reads a list; the error says which line is not understood.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut manifest = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if !manifest.line(line) {
                return Err(format!("line {number} is neither of sha256sum nor of llama-gguf-hash"));
            }
        }
        if manifest.entries.is_empty() && manifest.unsupported.is_empty() {
            return Err("it lists nothing".to_owned());
        }
        Ok(manifest)
    }

    fn line(&mut self, line: &str) -> bool {
        // SHA256 (name) = digest
        if let Some((name, digest)) = line.strip_prefix("SHA256 (").and_then(|rest| rest.rsplit_once(") = "))
        {
            return self.push(Subject::File(base(name)), digest);
        }
        let Some((first, rest)) = line.split_once(' ') else { return false };
        // digest, a space, a space or a star, and the name; names with line breaks are escaped
        // with a backslash before the digest, and those are not understood.
        if first.len() == 64 {
            let name = rest.strip_prefix('*').or_else(|| rest.strip_prefix(' '));
            return name.is_some_and(|name| !name.is_empty() && self.push(Subject::File(base(name)), first));
        }
        // kind, blanks, digest, blanks, file and perhaps a colon and a tensor
        let Some((digest, name)) = rest.trim_start().split_once(' ') else { return false };
        let name = name.trim_start();
        if OTHER_KINDS.contains(&first) {
            self.unsupported.insert(first.to_owned());
            return true;
        }
        let subject = match name.rsplit_once(':') {
            Some((file, tensor)) => Subject::Tensor(base(file), tensor.to_owned()),
            None => Subject::Weights(base(name)),
        };
        first == "sha256" && !name.is_empty() && self.push(subject, digest)
    }

    fn push(&mut self, subject: Subject, digest: &str) -> bool {
        let digest = digest.to_ascii_lowercase().parse();
        digest.is_ok_and(|digest| {
            self.entries.push((subject, digest));
            true
        })
    }

    /// Compares a full inspection with the list. Files go by their last name; where the list
    /// is of one file's tensors, that file may have been renamed since.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn check(&self, inspection: &Inspection) -> Result<Report, Problem> {
        let mut report = Report::default();
        for kind in &self.unsupported {
            report.unchecked.push(format!("digests of the kind {kind} are not supported; list sha256 ones"));
        }
        let files: BTreeMap<String, _> =
            inspection.files.iter().map(|file| (base_of(&file.path), file)).collect();
        let mut expected = BTreeMap::new();
        let mut tensor_files = BTreeSet::new();
        for (subject, digest) in &self.entries {
            match subject {
                Subject::File(name) => {
                    if let Some(file) = files.get(name) {
                        report.push(name, false, Some(*digest), file.sha256);
                    }
                }
                Subject::Tensor(file, tensor) => {
                    tensor_files.insert(file.as_str());
                    expected.insert(tensor.as_str(), *digest);
                }
                Subject::Weights(name) => {
                    let file = files.get(name).or_else(|| files.values().next().filter(|_| files.len() == 1));
                    let found = match file {
                        Some(file) => weights_digest(&file.path)?,
                        None => None,
                    };
                    report.push(&format!("{name} (weights)"), false, Some(*digest), found);
                }
            }
        }
        if tensor_files.len() > 1 && tensor_files.len() != files.len() {
            report.unchecked.push("the list is of the tensors of several files".to_owned());
        } else if !expected.is_empty() {
            let mut found: BTreeMap<&str, Sha256> =
                inspection.digests.tensor_digests.iter().map(|t| (t.name.as_str(), t.sha256)).collect();
            for (name, digest) in expected {
                report.push(name, true, Some(digest), found.remove(name));
            }
            for (name, digest) in found {
                report.push(name, true, None, Some(digest));
            }
        }
        if report.checked.is_empty() && report.unchecked.is_empty() {
            report.unchecked.push("the list names no file of this artifact".to_owned());
        }
        Ok(report)
    }
}

impl Report {
    fn push(&mut self, name: &str, tensor: bool, expected: Option<Sha256>, found: Option<Sha256>) {
        let outcome = match (expected, found) {
            (Some(expected), Some(found)) if expected == found => Outcome::Ok,
            (Some(_), Some(_)) => Outcome::Changed,
            (None, _) => Outcome::Extra,
            (Some(_), None) => Outcome::Missing,
        };
        self.checked.push(Checked { name: name.to_owned(), tensor, outcome, expected, found });
    }
}

/// Compares files with what their own names say: blobs of the Hugging Face cache are called
/// after their SHA-256, those of ollama `sha256-` and the digest, both in a folder `blobs`.
pub fn check_names(inspection: &Inspection) -> Report {
    let mut report = Report::default();
    for file in &inspection.files {
        let Ok(path) = file.path.canonicalize() else { continue };
        if path.parent().is_none_or(|folder| !folder.ends_with("blobs")) {
            continue;
        }
        let name = base_of(&path);
        let digest = name.strip_prefix("sha256-").unwrap_or(&name);
        match digest.parse() {
            Ok(expected) => report.push(&name, false, Some(expected), file.sha256),
            Err(_) if name.len() == 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                report.unchecked.push(format!("{name} is named after a SHA-1 of git, which is not checked"));
            }
            Err(_) => {}
        }
    }
    report
}

/// SHA-256 over the data of all tensors of a GGUF file in the order of its table.
fn weights_digest(path: &Path) -> Result<Option<Sha256>, Problem> {
    let io = |error: &std::io::Error| Problem::io("read", path, error);
    let source = SourceFile::open(path).map_err(|error| io(&error))?;
    let Ok(header) = gguf::read_strict(&source) else { return Ok(None) };
    let mut stream = Sha256Stream::new();
    let mut buffer = Vec::new();
    for tensor in &header.tensors {
        let mut done = 0;
        while done < tensor.bytes {
            let length = (1 << 20).min(tensor.bytes - done);
            buffer.resize(usize::try_from(length).unwrap_or(0), 0);
            source.read_at(&mut buffer, tensor.offset + done).map_err(|error| io(&error))?;
            stream.update(&buffer);
            done += length;
        }
    }
    Ok(Some(stream.finish()))
}

/// The last part of a path in a list.
fn base(name: &str) -> String {
    name.rsplit(['/', '\\']).next().unwrap_or(name).to_owned()
}

fn base_of(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let digest = "ab".repeat(32);
        let parsed: Sha256 = digest.parse().unwrap();
        let cases = [
            (format!("{digest}  a/b c.gguf"), Subject::File("b c.gguf".into())),
            (format!("{digest} *b.gguf"), Subject::File("b.gguf".into())),
            (format!("{}  b.gguf", digest.to_uppercase()), Subject::File("b.gguf".into())),
            (format!("SHA256 (b.gguf) = {digest}"), Subject::File("b.gguf".into())),
            (
                format!("sha256    {digest}  b.gguf:blk.0.w"),
                Subject::Tensor("b.gguf".into(), "blk.0.w".into()),
            ),
            (format!("sha256    {digest}  b.gguf"), Subject::Weights("b.gguf".into())),
        ];
        for (line, subject) in cases {
            assert_eq!(Manifest::parse(&line).unwrap().entries, [(subject, parsed)], "{line}");
        }
        let other = Manifest::parse("xxh64     b75c5e0a2b7c1d3f  b.gguf:blk.0.w").unwrap();
        assert_eq!(other.unsupported.iter().collect::<Vec<_>>(), ["xxh64"]);
        for bad in [
            String::new(),
            "# nothing".into(),
            digest.clone(),
            format!("{digest}  "),
            format!("{}  b.gguf", &digest[1..]),
            format!("\\{digest}  b\\n.gguf"),
            format!("md5  {digest}  b.gguf"),
            format!("{digest}  b.gguf\nnonsense here"),
        ] {
            assert!(Manifest::parse(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_was_not_checked_is_no_pass() {
        let mut report = Report::default();
        assert_eq!(report.exit_code(), 4, "nothing compared");
        report.push("a", true, Some(Sha256([1; 32])), Some(Sha256([1; 32])));
        assert_eq!(report.exit_code(), 0);
        report.unchecked.push("x".into());
        assert_eq!(report.exit_code(), 4);
        report.push("b", true, None, Some(Sha256([1; 32])));
        assert_eq!(report.exit_code(), 1, "an extra tensor is a difference");
    }
}
