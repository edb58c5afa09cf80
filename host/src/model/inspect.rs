//! From a path to an [`Inspection`]: what it is, what is wrong with it, what it says.
//!
//! Without `full` only headers are read, so the time does not depend on the size. Errors
//! of the machine (no such file, no permission) are a [`Problem`]; anything wrong with the
//! bytes is a finding.

use std::io;
use std::path::{Path, PathBuf};

use super::cache::Kept;
use super::consistency::{self, Model, Part};
use super::discover::{self, Artifact, discover};
use super::finding::{Code, Findings};
use super::fuzzy::{self, Sampler};
use super::gguf::{self, Header, ReadError, Value};
use super::roots::Roots;
use super::scan::{self, Member, Scanned, Shelf, Tensors, Wanted, tokens};
use super::sniff::{Content, sniff};
use super::source::{ReadAt, SourceFile};
use super::split::{self, PartName};
use super::{document, facts, folder, foreign, manifest, parts, pickle};
use crate::digest::{HashKind, sha256_file};
use crate::domain::inspection::{ArtifactKind, Digests, FileRecord, Finding, Inspection, Severity, Status};
use crate::domain::{Problem, ProblemKind, Sha256, text};
use crate::governor::memory;

/// How deep to look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InspectOptions {
    /// Read every byte: digests, NaN and zero scans, padding.
    pub full: bool,
}

/// What a full pass does besides.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hashing<'a> {
    /// Further kinds of digests, of each tensor and of all weights of a file.
    pub others: &'a [HashKind],
    /// A byte of the first file whose chunk is to be proven.
    pub prove: Option<u64>,
    /// Where passes are kept; with none, every byte is read.
    pub cache: Option<&'a Path>,
    /// Read every byte although the cache knows better.
    pub rehash: bool,
}

/// Files above this share of memory are not left in the page cache.
const CACHED_SHARE: u64 = 4;

/// Inspects a file, a split set (any part names it), or a folder that is one artifact.
/// `progress` gets (bytes done, bytes in all) of a full pass.
///
/// # Errors
/// The path cannot be read, or is a folder without exactly one artifact.
pub fn inspect(
    path: &Path,
    options: &InspectOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Inspection, Problem> {
    inspect_with(path, options, Hashing::default(), progress)
}

/// As [`inspect`], with more to say about the full pass.
///
/// # Errors
/// The path cannot be read, or is a folder without exactly one artifact.
pub fn inspect_with(
    path: &Path,
    options: &InspectOptions,
    hashing: Hashing<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Inspection, Problem> {
    let metadata = std::fs::metadata(path).map_err(|error| missing_part_or(path, &error))?;
    let target = match metadata.is_dir().then(|| the_artifact(path)) {
        None => path.to_owned(),
        Some(Ok(artifact)) => artifact.path,
        Some(Err(problem)) => return folder::linked_away(path)?.ok_or(problem),
    };
    let mut inspector = Inspector::new(*options, hashing, progress);
    let mut inspection = match split::of_path(&target) {
        _ if target.is_dir() => folder::folder(&mut inspector, &target)?,
        Some(name) => inspector.split_set(&target, &name)?,
        None => inspector.file(&target)?,
    };
    manifest::hold_to_names(&mut inspection);
    path.clone_into(&mut inspection.path);
    Ok(inspection)
}

/// A missing part may still name a set whose other parts are there.
fn missing_part_or(path: &Path, error: &io::Error) -> Problem {
    let problem = Problem::io("open", path, error);
    match split::of_path(path) {
        Some(name) if name.paths(path).iter().any(|part| part.exists()) => {
            problem.hint("other parts of this split set are there; give one of them to see what is missing")
        }
        _ => problem,
    }
}

/// The one artifact of a folder: itself, if it is laid out as one, else the only one in it.
pub(super) fn the_artifact(folder: &Path) -> Result<Artifact, Problem> {
    let mut artifacts = discover(folder)?.artifacts;
    if let Some(own) = artifacts.iter().position(|artifact| artifact.path == folder) {
        return Ok(artifacts.swap_remove(own));
    }
    match (artifacts.pop(), artifacts.len()) {
        (Some(artifact), 0) => Ok(artifact),
        (None, _) => Err(Problem::input(format!("{} holds no model", folder.display()))
            .hint("`assayd inspect --explain` on the folder says why each file was ignored")),
        (Some(_), others) => Err(Problem::new(
            ProblemKind::Usage,
            format!("{} holds {} artifacts", folder.display(), others + 1),
        )
        .hint("name one of them")),
    }
}

/// An inspection that knows nothing yet.
pub(super) fn blank(path: &Path, kind: ArtifactKind) -> Inspection {
    Inspection {
        path: path.to_owned(),
        kind,
        status: Status::Accept,
        findings: Vec::new(),
        format_version: None,
        architecture: None,
        parameters: None,
        quantization: None,
        context_length: None,
        tensors: None,
        files: Vec::new(),
        merkle_root: None,
        digests: Digests::default(),
        config_hash: None,
        tokenizer_hash: None,
    }
}

/// A path that was not looked at; only its files' digests are to be compared.
pub fn unexamined(path: &Path) -> Inspection {
    blank(path, ArtifactKind::Unknown)
}

/// The inspection of a path about which nothing can be known, rejected for that reason.
pub fn unreadable(path: &Path, problem: &Problem) -> Inspection {
    let mut inspection = blank(path, ArtifactKind::Unknown);
    inspection.findings = vec![Code::Unreadable.finding(problem.message.clone())];
    inspection.status = Status::Reject;
    inspection
}

/// The state of one inspection.
pub(super) struct Inspector<'a> {
    options: InspectOptions,
    hashing: Hashing<'a>,
    progress: &'a mut dyn FnMut(u64, u64),
    done: u64,
    sampler: Sampler,
    /// Bytes of all files of the artifact.
    pub total: u64,
    /// What the full pass has hashed.
    pub roots: Roots,
}

/// One opened part: its header, unless something stops the reading.
pub(super) struct Opened {
    pub name: String,
    pub source: SourceFile,
    pub header: Option<Header>,
    pub zeroed: bool,
}

impl<'a> Inspector<'a> {
    pub fn new(options: InspectOptions, hashing: Hashing<'a>, progress: &'a mut dyn FnMut(u64, u64)) -> Self {
        let (sampler, roots) = (Sampler::default(), Roots::default());
        Self { options, hashing, progress, done: 0, sampler, total: 0, roots }
    }

    fn file(&mut self, path: &Path) -> Result<Inspection, Problem> {
        let io = |error: &io::Error| Problem::io("read", path, error);
        let source = SourceFile::open(path).map_err(|error| io(&error))?;
        let content = sniff(&source, 0).map_err(|error| io(&error))?;
        let named = |what: &str| path.extension().is_some_and(|end| end.eq_ignore_ascii_case(what));
        let named_gguf = named("gguf");
        // Of the length of its header alone nobody can tell that it is one.
        let begun = content == Content::Unknown && source.size() <= 8 && named("safetensors");
        if content == Content::Safetensors && !named_gguf || begun {
            return folder::file(self, path, source);
        }
        if content != Content::Gguf && !(named_gguf && matches!(content, Content::Unknown | Content::Zeros)) {
            return self.foreign(path, source, content);
        }
        let mut findings = Findings::default();
        self.total = source.size();
        if let Some(promise) = foreign::broken_promise(path, content).filter(|_| content == Content::Gguf) {
            findings.push(foreign::disguised(promise, content));
        }
        let opened = read_part(source, String::new(), &mut findings).map_err(|error| io(&error))?;
        if let Some(header) = &opened.header {
            let marked = header.metadata.u64("split.count").is_some_and(|count| count > 1);
            for (is_so, message) in [
                (marked, "the metadata says that this is a part of a split set; its name does not"),
                (split::is_impossible(path), "the name is that of a part, and no split set has such a part"),
            ] {
                if is_so {
                    findings.push(Code::SplitUnmarked.finding(message));
                }
            }
            consistency::check(&Model::single(header), &mut findings);
        }
        let idle = opened.header.as_ref().map(|header| tokens::idle(&header.metadata)).unwrap_or_default();
        let record = self.finish_part(path, &opened, &idle, &mut findings).map_err(|error| io(&error))?;
        let mut inspection = blank(path, ArtifactKind::Gguf);
        inspection.files.push(record);
        if let Some(header) = &opened.header {
            if header.metadata.str("general.type") == Some("adapter") {
                inspection.kind = ArtifactKind::Adapter;
            }
            inspection.format_version = Some(header.version);
            state_facts(&mut inspection, &Model::single(header), &mut findings);
            self.roots.gguf_metadata(0, header);
        }
        self.state_roots(&mut inspection);
        Ok(conclude(inspection, findings))
    }

    /// Is every byte to be read?
    pub fn full(&self) -> bool {
        self.options.full
    }

    /// The digest of a file that holds no weights of the model.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn digest(&mut self, path: &Path) -> Result<Sha256, Problem> {
        let (before, all) = (self.done, self.total);
        let (progress, done) = (&mut *self.progress, &mut self.done);
        sha256_file(path, &mut |bytes, _| {
            *done = before + bytes;
            progress(*done, all);
        })
    }

    /// States the roots and digests of a full pass.
    pub fn state_roots(&mut self, inspection: &mut Inspection) {
        if self.options.full {
            self.roots.fuzzy = Some(std::mem::take(&mut self.sampler).finish());
            inspection.digests = std::mem::take(&mut self.roots).finish();
            inspection.merkle_root = inspection.digests.weights_root;
        }
    }

    /// A file that is not GGUF, whatever its name.
    fn foreign(&mut self, path: &Path, source: SourceFile, content: Content) -> Result<Inspection, Problem> {
        let extension =
            path.extension().map(|end| end.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
        let named_document =
            path.file_name().is_some_and(|name| document::is_document(&name.to_string_lossy()));
        let kind = match content {
            Content::Safetensors => ArtifactKind::Safetensors,
            _ => ArtifactKind::Unknown,
        };
        let promise = foreign::broken_promise(path, content);
        // A document may begin with a link or with HTML.
        if named_document && matches!(content, Content::Unknown | Content::Json | Content::Html) {
            return self.document(path, &source);
        }
        // Old pickles begin with anything.
        let maybe_old = content == Content::Unknown && discover::is_pickle_extension(&extension);
        if (matches!(content, Content::Pickle | Content::Zip) || maybe_old)
            && let Some(inspection) = pickle::file(self, path, &source, content, promise)?
        {
            return Ok(inspection);
        }
        let mut findings = Findings::default();
        findings.push(foreign::finding(content, promise));
        self.headless(path, &source, (kind, &[]), findings)
    }

    /// A file without a header that says where its tensors are: all of it is one stretch. Of
    /// `members` the file has checksums.
    pub fn headless(
        &mut self,
        path: &Path,
        source: &SourceFile,
        (kind, members): (ArtifactKind, &[Member]),
        mut findings: Findings,
    ) -> Result<Inspection, Problem> {
        self.total = source.size();
        let mut layout = Layout::none(source.size());
        layout.data.members = members;
        let record = self.pass(path, source, &layout, &mut findings);
        let mut inspection = blank(path, kind);
        inspection.files.push(record.map_err(|error| Problem::io("read", path, &error))?);
        self.state_roots(&mut inspection);
        Ok(conclude(inspection, findings))
    }

    /// A README or a model card, which is no model: what shows that it is unfinished.
    fn document(&mut self, path: &Path, source: &SourceFile) -> Result<Inspection, Problem> {
        let io = |error: &io::Error| Problem::io("read", path, error);
        let mut findings = Findings::default();
        document::check(source, &mut findings).map_err(|error| io(&error))?;
        findings.push(Code::NotALanguageModel.finding("the file is a document, not a model"));
        self.headless(path, source, (ArtifactKind::Unknown, &[]), findings)
    }

    fn split_set(&mut self, path: &Path, name: &PartName) -> Result<Inspection, Problem> {
        let mut findings = Findings::default();
        let mut opened: Vec<Option<Opened>> = Vec::new();
        let paths = name.paths(path);
        for (number, part_path) in (1..).zip(&paths) {
            let part = name.part(number);
            let source = match SourceFile::open(part_path) {
                Ok(source) => source,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let message = format!("part {number} of {} is missing: {part}", name.count);
                    let finding = Code::SplitMissingPart.finding(message);
                    findings.push(Finding { part: Some(part), ..finding });
                    opened.push(None);
                    continue;
                }
                Err(error) => return Err(Problem::io("read", part_path, &error)),
            };
            self.total += source.size();
            findings.part = Some(part.clone());
            if discover::leads_out(part_path) {
                let message = format!("{part} is a symbolic link that leads out of the folder");
                findings.push(Code::SymlinkEscape.finding(message));
            }
            let content = sniff(&source, 0).map_err(|error| Problem::io("read", part_path, &error))?;
            let read = match foreign::no_part(part_path, content).filter(|_| content != Content::Zeros) {
                Some(finding) => {
                    findings.push(finding);
                    Ok(Opened { name: part, source, header: None, zeroed: false })
                }
                None => read_part(source, part, &mut findings),
            };
            opened.push(Some(read.map_err(|error| Problem::io("read", part_path, &error))?));
            findings.part = None;
        }
        parts::check(name, &opened, &mut findings);
        let headers: Vec<(&str, &Header)> = opened
            .iter()
            .flatten()
            .filter_map(|part| Some((part.name.as_str(), part.header.as_ref()?)))
            .collect();
        let first = parts::first(&headers);
        let idle = first.map(|first| tokens::idle(&first.metadata)).unwrap_or_default();
        let mut inspection = blank(path, ArtifactKind::GgufSplit);
        for (part_path, part) in paths.iter().zip(&opened) {
            let Some(part) = part else { continue };
            findings.part = Some(part.name.clone());
            let record = self.finish_part(part_path, part, &idle, &mut findings);
            inspection.files.push(record.map_err(|error| Problem::io("read", part_path, &error))?);
            findings.part = None;
        }
        for (number, part) in (0..).zip(&opened) {
            match part.as_ref().and_then(|part| part.header.as_ref()) {
                Some(header) => self.roots.gguf_metadata(number, header),
                None => self.roots.incomplete(),
            }
        }
        self.state_roots(&mut inspection);
        if let Some(first) = first {
            let parts: Vec<Part<'_>> = headers
                .iter()
                .map(|(name, header)| Part {
                    name: Some(name),
                    metadata: &header.metadata,
                    tensors: &header.tensors,
                })
                .collect();
            let model = Model { metadata: &first.metadata, parts };
            inspection.format_version = Some(first.version);
            let whole = headers.len() == opened.len();
            if whole {
                let mut contradictions = Findings::default();
                consistency::check(&model, &mut contradictions);
                parts::blame(&contradictions.finish(), headers.first().map(|(name, _)| *name), &mut findings);
            }
            state_facts(&mut inspection, &model, &mut findings);
            if !whole {
                // Counts over some of the parts would be wrong numbers.
                inspection.parameters = None;
                inspection.tensors = None;
                inspection.quantization = None;
            }
        }
        Ok(conclude(inspection, findings))
    }

    /// What needs the bytes behind the header: trailing bytes, and the full pass. `idle` are the
    /// model's tokens that no text becomes.
    fn finish_part(
        &mut self,
        path: &Path,
        part: &Opened,
        idle: &[(u64, u64)],
        findings: &mut Findings,
    ) -> io::Result<FileRecord> {
        let size = part.source.size();
        let Some(header) = &part.header else {
            return self.pass(path, &part.source, &Layout::none(size), findings);
        };
        gguf::around(&part.source, header, findings)?;
        let (weights, data_offset) = (scan::weights_of(header, size), header.data_offset.min(size));
        let layout = Layout {
            data: Tensors { weights: &weights, data_offset, idle, members: &[] },
            tensors: Some(header.tensors.len()),
            in_order: header.tensors.is_sorted_by_key(|tensor| tensor.offset),
        };
        self.pass(path, &part.source, &layout, findings)
    }

    /// The full pass over one file, if it was asked for.
    pub fn pass(
        &mut self,
        path: &Path,
        source: &SourceFile,
        layout: &Layout<'_>,
        findings: &mut Findings,
    ) -> io::Result<FileRecord> {
        let size = source.size();
        let mut sha256 = None;
        if self.options.full {
            let stamp = source.stamp()?;
            match self.scan(path, source, stamp, layout, findings) {
                Ok(scanned) => {
                    sha256 = Some(scanned.sha256);
                    let weights = layout.data.weights;
                    self.sampler.file(source, weights)?;
                    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
                    self.roots.byte_samples.push(fuzzy::of_bytes(&name, source)?);
                    self.roots.file((&name, size), scanned, weights, layout.tensors, layout.in_order);
                }
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    findings.push(Code::FileChanged.finding("the file became shorter while it was read"));
                }
                Err(error) => return Err(error),
            }
            let (_, content) = stamp.split_at(2);
            if source.stamp()?.get(2..5) != content.get(..3) {
                findings.push(Code::FileChanged.finding("the file changed while it was read"));
                sha256 = None;
            }
        } else if source.size_now()? != size {
            findings.push(Code::FileChanged.finding("the size of the file changed while it was read"));
        }
        if sha256.is_none() {
            self.roots.spoiled();
        }
        Ok(FileRecord { path: path.to_owned(), bytes: size, sha256 })
    }

    /// Every byte of the file, or what is known of it from the last time.
    fn scan(
        &mut self,
        path: &Path,
        source: &SourceFile,
        stamp: [u64; 7],
        layout: &Layout<'_>,
        findings: &mut Findings,
    ) -> io::Result<Scanned> {
        let size = source.size();
        // Of several files, the proof is about the first.
        let prove = self.hashing.prove.take();
        let forget = size > memory::room_bytes() / CACHED_SHARE;
        let wanted = Wanted { others: self.hashing.others, prove, forget };
        let mut kept =
            self.hashing.cache.and_then(|folder| Kept::new(folder, path, stamp, layout.data, wanted));
        if let Some(kept) = &mut kept {
            kept.fresh = self.hashing.rehash;
            if let Some((scanned, found)) = kept.load() {
                self.roots.from_cache += 1;
                self.done += size;
                (self.progress)(self.done, self.total);
                found.into_iter().for_each(|finding| findings.push(finding));
                return Ok(scanned);
            }
        }
        let (done, total) = (&mut self.done, self.total);
        let progress = &mut *self.progress;
        let mut seen = Findings::default();
        seen.part.clone_from(&findings.part);
        let shelf = kept.as_mut().map(|kept| kept as &mut dyn Shelf);
        let mut tell = |bytes| {
            *done += bytes;
            progress(*done, total);
        };
        let scanned = scan::scan(source, layout.data, wanted, shelf, &mut seen, &mut tell)?;
        let seen = seen.finish();
        if let Some(kept) = &kept
            && source.stamp()? == stamp
        {
            kept.store(&scanned, &seen);
        }
        seen.into_iter().for_each(|finding| findings.push(finding));
        Ok(scanned)
    }
}

/// Where the weights of a file are.
pub(super) struct Layout<'a> {
    pub data: Tensors<'a>,
    /// Tensors that the header declares; `None` if there is no readable header.
    pub tensors: Option<usize>,
    /// Whether the table lists them in that order.
    pub in_order: bool,
}

impl Layout<'_> {
    /// No weights in a file of `size` bytes.
    pub fn none(size: u64) -> Self {
        Self { data: Tensors { data_offset: size, ..Tensors::default() }, tensors: None, in_order: true }
    }
}

/// Reads the header of one file; everything wrong with it goes to `findings`.
fn read_part(source: SourceFile, name: String, findings: &mut Findings) -> io::Result<Opened> {
    let mut zeroed = false;
    let header = match gguf::read(&source) {
        Ok((header, faults)) => {
            faults.into_iter().for_each(|fault| findings.push(fault.into()));
            Some(header)
        }
        Err(ReadError::Fault(fault)) => {
            zeroed = fault.code == Code::ZeroedHeader;
            findings.push(fault.into());
            None
        }
        Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            findings.push(Code::FileChanged.finding("the file became shorter while it was read"));
            None
        }
        Err(ReadError::Io(error)) => return Err(error),
    };
    Ok(Opened { name, source, header, zeroed })
}

fn state_facts(inspection: &mut Inspection, model: &Model<'_>, findings: &mut Findings) {
    let metadata = model.metadata;
    inspection.architecture = metadata.architecture().map(str::to_owned);
    inspection.parameters = Some(facts::parameters(model));
    inspection.tensors = Some(model.tensors().count() as u64);
    inspection.context_length = metadata.hparam("context_length").and_then(Value::as_u64);
    inspection.config_hash = facts::config_hash(metadata);
    inspection.tokenizer_hash = facts::tokenizer_hash(metadata);
    if let Some(quantization) = facts::quantization(model) {
        if let Some(label) = quantization.contradicted_label {
            let message = format!("general.file_type says {label}; most weights are {}", quantization.name);
            findings.push(Code::FileTypeMismatch.finding(message));
        }
        inspection.quantization = Some(quantization.name);
    }
}

/// Sets findings and status.
pub(super) fn conclude(mut inspection: Inspection, findings: Findings) -> Inspection {
    let mut list = findings.finish();
    list.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    inspection.status = Inspection::status_of(&list);
    inspection.findings = list;
    inspection.architecture = inspection.architecture.map(text::bounded);
    inspection.quantization = inspection.quantization.map(text::bounded);
    inspection
}

/// The files that a runtime has to be given, first part first.
pub fn files_of(path: &Path) -> Vec<PathBuf> {
    split::of_path(path).map_or_else(|| vec![path.to_owned()], |name| name.paths(path))
}

/// Does any finding reject?
pub fn rejects(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.severity == Severity::Error)
}
