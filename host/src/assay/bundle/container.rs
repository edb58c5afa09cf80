//! The bytes of a bundle: records, their digests, and the seal over all of them.
//!
//! A file is the magic and records. A record is a section (one byte), the body's length (four
//! bytes, little-endian), the body, and SHA-256 over all of that. Sections come in order; the
//! seal is last, is one, and nothing follows it. The seal holds the RFC 6962 root over the
//! digests of the records before it and, if signed, a public key and its signature over
//! [`signed_message`]. Invariants of reading: every length is checked against its section's
//! limit before anything is read; memory is one buffer of fixed size; what is read again later
//! is checked against its digest again.

use std::fs::File;
use std::io::{BufReader, Read, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::digest::sign::SIGNATURE_BYTES;
use crate::digest::{PublicKey, Sha256Stream, SigningKey, merkle_root, sha256_parts};
use crate::domain::{Problem, Sha256, budget};

/// First bytes of every bundle, with the version of the format.
pub const MAGIC: &[u8; 16] = b"assayd-bundle/1\n";
/// Bytes before a record's body: section and length.
const HEADER_BYTES: u64 = 5;
/// Bytes after it: the digest.
const DIGEST_BYTES: u64 = 32;
/// Bytes of an unsigned seal, and of a signed one.
const SEAL_BYTES: [u64; 2] = [32, 32 + 32 + SIGNATURE_BYTES as u64];
/// Bytes read at a time.
const CHUNK: usize = 1 << 18;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Section {
    /// One trace, in postcard form.
    Evidence,
    /// One plugin's component.
    Plugin,
    /// One leaf of the transcript.
    Transcript,
    /// The report as JSON.
    Report,
    /// Root and signature.
    Seal,
}

impl Section {
    const ALL: [Self; 5] = [Self::Evidence, Self::Plugin, Self::Transcript, Self::Report, Self::Seal];

    /// The byte that stands for it: from 1, in order.
    pub fn byte(self) -> u8 {
        self as u8 + 1
    }

    fn of(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|section| section.byte() == byte)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Evidence => "evidence",
            Self::Plugin => "plugin",
            Self::Transcript => "transcript",
            Self::Report => "report",
            Self::Seal => "seal",
        }
    }

    /// Most bytes of a body.
    fn limit(self) -> u64 {
        match self {
            Self::Evidence => budget::BUNDLE_TRACE_BYTES,
            Self::Plugin => budget::PLUGIN_FILE_BYTES,
            Self::Transcript => budget::BUNDLE_LEAF_BYTES,
            Self::Report => budget::STORED_REPORT_BYTES as u64,
            Self::Seal => SEAL_BYTES[1],
        }
    }
}

/// The first place that does not agree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mismatch {
    /// Null before the first record.
    pub section: Option<Section>,
    /// Place of the record in its section, from 0.
    pub record: u64,
    /// First byte of the file that does not agree, or, where only a digest can tell, the first
    /// byte of what the digest is over.
    pub offset: u64,
    /// End of the bytes that are in doubt, exclusive; `offset + 1` where the byte is known.
    pub end: u64,
    /// What does not agree with what.
    pub what: String,
}

/// Why a bundle was not read or not found right.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// It does not agree with itself.
    Mismatch(Mismatch),
    /// It cannot be said whether it does.
    CannotJudge(Problem),
}

impl From<Problem> for Fault {
    fn from(problem: Problem) -> Self {
        Self::CannotJudge(problem)
    }
}

impl From<Mismatch> for Fault {
    fn from(mismatch: Mismatch) -> Self {
        Self::Mismatch(mismatch)
    }
}

/// One record of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub section: Section,
    /// Place in its section, from 0.
    pub record: u64,
    /// Bytes of the file that are its body.
    pub body: Range<u64>,
    pub digest: Sha256,
}

impl Entry {
    /// First byte of the record and the first byte after it.
    pub fn span(&self) -> Range<u64> {
        self.body.start - HEADER_BYTES..self.body.end + DIGEST_BYTES
    }

    /// A place in this record: the byte `at` of its body.
    pub fn byte(&self, at: usize, what: impl Into<String>) -> Mismatch {
        let offset = (self.body.start + at as u64).min(self.span().end - 1);
        self.place(offset..offset + 1, what)
    }

    /// The whole body as the place.
    pub fn whole(&self, what: impl Into<String>) -> Mismatch {
        self.place(self.body.clone(), what)
    }

    fn place(&self, bytes: Range<u64>, what: impl Into<String>) -> Mismatch {
        Mismatch {
            section: Some(self.section),
            record: self.record,
            offset: bytes.start,
            end: bytes.end,
            what: what.into(),
        }
    }
}

/// What a signature is over.
pub fn signed_message(root: &Sha256) -> Vec<u8> {
    [b"assayd/bundle/v1\0", &root.0[..]].concat()
}

/// The seal's body for records with these digests.
pub fn seal_body(digests: &[Sha256], signer: Option<&SigningKey>) -> Vec<u8> {
    let root = root_of(digests);
    let mut body = root.0.to_vec();
    if let Some(signer) = signer {
        body.extend(signer.public().0);
        body.extend(signer.sign(&signed_message(&root)));
    }
    body
}

/// RFC 6962 root over the records' digests.
pub fn root_of(digests: &[Sha256]) -> Sha256 {
    merkle_root(digests.iter().map(|digest| digest.0))
}

/// Writes one record and gives its digest.
///
/// # Errors
/// The disk failed, or the body is longer than any reader takes.
pub fn write_record(out: &mut File, section: Section, body: &[u8]) -> std::io::Result<Sha256> {
    let length = u32::try_from(body.len()).ok().filter(|&length| u64::from(length) <= section.limit());
    let length = length.ok_or_else(|| {
        let (name, limit) = (section.as_str(), section.limit());
        std::io::Error::other(format!("a {name} record of {} bytes, at most {limit} are read", body.len()))
    })?;
    let mut header = vec![section.byte()];
    header.extend(length.to_le_bytes());
    let digest = sha256_parts(&[&header, body]);
    out.write_all(&header)?;
    out.write_all(body)?;
    out.write_all(&digest.0)?;
    Ok(digest)
}

/// A bundle whose records are whole and whose seal is that of its records.
#[derive(Debug)]
pub struct Scanned {
    path: PathBuf,
    file: File,
    /// All records but the seal.
    pub entries: Vec<Entry>,
    pub seal: Entry,
    pub root: Sha256,
    /// Public key and signature, if there is one; not checked yet.
    pub signature: Option<(PublicKey, [u8; SIGNATURE_BYTES])>,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Reads a bundle once, from its first byte to its last.
///
/// # Errors
/// The first place that is wrong; or it cannot be read, or is no bundle.
pub fn scan(path: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Scanned, Fault> {
    let failed = |error: &std::io::Error| Problem::io("read", path, error);
    let file = File::open(path).map_err(|error| failed(&error))?;
    let metadata = file.metadata().map_err(|error| failed(&error))?;
    let name = path.display();
    if !metadata.is_file() {
        return Err(Problem::input(format!("{name} is not a regular file")).into());
    }
    let bytes = metadata.len();
    if bytes > budget::BUNDLE_BYTES {
        let limit = budget::BUNDLE_BYTES;
        return Err(Problem::input(format!("{name} has {bytes} bytes; at most {limit} are read")).into());
    }
    let again = file.try_clone().map_err(|error| failed(&error))?;
    let mut scan = Scan { input: BufReader::with_capacity(CHUNK, file), path, at: 0, bytes };
    scan.magic()?;
    let (mut entries, mut counts): (Vec<Entry>, [u64; 5]) = (Vec::new(), [0; 5]);
    let mut held = 0;
    let seal = loop {
        let entry = scan.record(entries.last(), &mut counts)?;
        progress(scan.at, bytes);
        if entry.section == Section::Seal {
            break entry;
        }
        if matches!(entry.section, Section::Transcript | Section::Report) {
            held += entry.body.end - entry.body.start;
        }
        if entries.len() >= budget::BUNDLE_RECORDS || held > budget::BUNDLE_HELD_BYTES {
            return Err(entry.whole("more records than are read").into());
        }
        entries.push(entry);
    };
    if scan.at != bytes {
        let what = format!("{} bytes follow the seal, which is the last record", bytes - scan.at);
        let place = seal.place(scan.at..bytes, what);
        return Err(place.into());
    }
    let mut scanned = Scanned {
        path: path.to_owned(),
        file: again,
        entries,
        seal,
        root: Sha256([0; 32]),
        signature: None,
        bytes,
    };
    scanned.open_seal()?;
    Ok(scanned)
}

struct Scan<'a> {
    input: BufReader<File>,
    path: &'a Path,
    at: u64,
    bytes: u64,
}

impl Scan<'_> {
    fn read(&mut self, into: &mut [u8]) -> Result<(), Problem> {
        self.input.read_exact(into).map_err(|error| Problem::io("read", self.path, &error))?;
        self.at += into.len() as u64;
        Ok(())
    }

    fn magic(&mut self) -> Result<(), Fault> {
        let mut magic = [0; MAGIC.len()];
        let name = self.path.display();
        if self.bytes < MAGIC.len() as u64 {
            return Err(Problem::input(format!("{name} is not a bundle: it has {} bytes", self.bytes)).into());
        }
        self.read(&mut magic)?;
        let Some(at) = magic.iter().zip(MAGIC).position(|(found, expected)| found != expected) else {
            return Ok(());
        };
        let problem = Problem::input(format!("{name} is not a bundle of this format: byte {at} is wrong"));
        Err(problem.hint("bundles begin with `assayd-bundle/1`; a newer assayd may read others").into())
    }

    /// The next record. `last` is the one before it.
    fn record(&mut self, last: Option<&Entry>, counts: &mut [u64; 5]) -> Result<Entry, Fault> {
        let (start, total) = (self.at, self.bytes);
        let after = last.map_or(Section::Evidence, |entry| entry.section);
        let next = counts.get(after as usize).copied().unwrap_or(0);
        let place = |section: Section, record: u64, bytes: Range<u64>, what: String| {
            let section = Some(section);
            Fault::from(Mismatch { section, record, offset: bytes.start, end: bytes.end, what })
        };
        let ends = |section: Section, record: u64, needs: u64| {
            let what = format!("the file ends at byte {total} and should go on to byte {needs}");
            place(section, record, start..total.max(start + 1), what)
        };
        if total - start < HEADER_BYTES + DIGEST_BYTES {
            return Err(ends(after, next, start + HEADER_BYTES + DIGEST_BYTES));
        }
        let mut header = [0; HEADER_BYTES as usize];
        self.read(&mut header)?;
        let [byte, length @ ..] = header;
        let Some(section) = Section::of(byte).filter(|section| *section >= after) else {
            let what = match Section::of(byte) {
                Some(section) => {
                    format!("a {} record after the {} section", section.as_str(), after.as_str())
                }
                None => format!("no section has the number {byte}"),
            };
            return Err(place(after, next, start..start + 1, what));
        };
        let count = counts.get_mut(section as usize).map_or(0, |count| {
            *count += 1;
            *count - 1
        });
        let length = u64::from(u32::from_le_bytes(length));
        if length > section.limit() {
            let what = format!("a body of {length} bytes; at most {} are allowed", section.limit());
            return Err(place(section, count, start + 1..start + HEADER_BYTES, what));
        }
        let body = start + HEADER_BYTES..start + HEADER_BYTES + length;
        if body.end + DIGEST_BYTES > self.bytes {
            return Err(ends(section, count, body.end + DIGEST_BYTES));
        }
        let mut stream = Sha256Stream::new();
        stream.update(&header);
        let (mut buffer, mut rest) = (vec![0; CHUNK.min(usize::try_from(length).unwrap_or(CHUNK))], length);
        while rest > 0 {
            let want = buffer.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
            let piece = buffer.get_mut(..want).unwrap_or_default();
            self.read(piece)?;
            stream.update(piece);
            rest -= want as u64;
        }
        let mut stored = [0; DIGEST_BYTES as usize];
        self.read(&mut stored)?;
        let digest = stream.finish();
        if digest.0 != stored {
            return Err(place(
                section,
                count,
                start..self.at,
                "the record is not what its digest says".to_owned(),
            ));
        }
        Ok(Entry { section, record: count, body, digest })
    }
}

impl Scanned {
    /// The records of a section.
    pub fn section(&self, section: Section) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.section == section)
    }

    /// A record's body, checked against its digest once more.
    ///
    /// # Errors
    /// It cannot be read, or changed meanwhile.
    pub fn body(&mut self, entry: &Entry) -> Result<Vec<u8>, Problem> {
        let failed = |error: &std::io::Error| Problem::io("read", &self.path, error);
        let length = entry.body.end - entry.body.start;
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        self.file.seek(SeekFrom::Start(entry.body.start)).map_err(|error| failed(&error))?;
        self.file.read_exact(&mut bytes).map_err(|error| failed(&error))?;
        let mut header = vec![entry.section.byte()];
        header.extend(u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
        if sha256_parts(&[&header, &bytes]) != entry.digest {
            return Err(Problem::input(format!("{} changed while it was read", self.path.display())));
        }
        Ok(bytes)
    }

    fn open_seal(&mut self) -> Result<(), Fault> {
        let seal = self.seal.clone();
        let body = self.body(&seal)?;
        if !SEAL_BYTES.contains(&(body.len() as u64)) {
            return Err(seal.whole(format!("a seal of {} bytes", body.len())).into());
        }
        let digests: Vec<Sha256> = self.entries.iter().map(|entry| entry.digest).collect();
        self.root = root_of(&digests);
        let (root, rest) = body.split_at_checked(32).unwrap_or_default();
        if let Some(at) = first_difference(root, &self.root.0) {
            let what = format!("the seal is for other records; theirs have the root {}", self.root);
            return Err(seal.byte(at, what).into());
        }
        if let Some((key, signature)) = rest.split_at_checked(32)
            && let (Ok(key), Ok(signature)) = (key.try_into(), signature.try_into())
        {
            self.signature = Some((PublicKey(key), signature));
        }
        Ok(())
    }

    /// Whether the signature is its key's for this root; the place of the signature if not.
    ///
    /// # Errors
    /// There is a signature and it is wrong.
    pub fn check_signature(&self) -> Result<Option<PublicKey>, Mismatch> {
        let Some((key, signature)) = &self.signature else { return Ok(None) };
        if key.verify(&signed_message(&self.root), signature) {
            return Ok(Some(*key));
        }
        let start = self.seal.body.start + 32;
        Err(self.seal.place(start..self.seal.body.end, format!("the signature is not that of {key}")))
    }
}

/// First place where two byte sequences differ, also by length.
pub fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    a.iter().zip(b).position(|(a, b)| a != b).or((a.len() != b.len()).then_some(a.len().min(b.len())))
}
