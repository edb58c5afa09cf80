//! ZIP archives as PyTorch writes them: stored entries, one of them `…/data.pkl`, and a
//! storage of numbers in each `…/data/KEY`.

use std::collections::HashMap;
use std::io;

use super::walk::{self, Seen};
use super::{report, zip};
use crate::domain::budget;
use crate::domain::inspection::Finding;
use crate::model::finding::{Code, Findings};
use crate::model::scan::Member;
use crate::model::sniff::{Content, sniff};
use crate::model::source::{Cursor, ReadAt};

/// What a pickle with the tensors of a checkpoint is called within its archive, and the
/// folders beside it: its numbers, and a program in TorchScript.
const MAIN: &str = "data.pkl";
const STORAGES: &str = "data/";
const PROGRAM: &str = "code/";

/// Looks at every entry; `None` if the archive holds no pickle, else the entries whose bytes
/// have a checksum.
pub(super) fn look(source: &dyn ReadAt, findings: &mut Findings) -> io::Result<Option<Vec<Member>>> {
    let directory = match zip::directory(source)? {
        Ok(found) => found,
        Err(why) => {
            findings.push(Code::ArchiveInconsistent.finding(why));
            return Ok(Some(Vec::new()));
        }
    };
    if directory.before > 0 {
        let message =
            format!("{} bytes stand before the archive that its directory tells of", directory.before);
        findings.push(Finding { offset: Some(0), ..Code::ArchiveInconsistent.finding(message) });
    }
    if directory.end < source.size() {
        trailing(source, directory.end, "archive", findings)?;
    }
    entries(source, &directory, findings)
}

/// Looks at an archive at the end of a file that begins as something else.
pub(super) fn appended(source: &dyn ReadAt, findings: &mut Findings) -> io::Result<()> {
    let Some(directory) = zip::directory(source)?.ok().filter(|directory| !directory.entries.is_empty())
    else {
        return Ok(());
    };
    let message = "a ZIP archive follows the pickle: what is loaded depends on the reader";
    let offset = Some(directory.before);
    findings.push(Finding { offset, ..Code::ArchiveInconsistent.finding(message) });
    entries(source, &directory, findings).map(drop)
}

/// Names the bytes from `at` on.
pub(super) fn trailing(
    source: &dyn ReadAt,
    at: u64,
    after: &str,
    findings: &mut Findings,
) -> io::Result<Content> {
    let (bytes, content) = (source.size() - at, sniff(source, at)?);
    let message = format!("{bytes} bytes follow the {after}; they look like {}", content.name());
    findings.push(Finding { offset: Some(at), ..Code::TrailingBytes.finding(message) });
    Ok(content)
}

fn entries(
    source: &dyn ReadAt,
    directory: &zip::Directory,
    findings: &mut Findings,
) -> io::Result<Option<Vec<Member>>> {
    let mut pickles = false;
    let mut sizes = HashMap::new();
    let mut main = Vec::new();
    let mut ranges = Vec::new();
    let mut members = Vec::new();
    for entry in &directory.entries {
        let mut push = |code: Code, message: String| {
            findings.push(Finding { offset: Some(entry.offset), ..code.finding(message) });
        };
        let name = &entry.name;
        let climbs = name.starts_with('/') || name.contains('\\') || name.split('/').any(|part| part == "..");
        if climbs {
            push(Code::PathTraversal, format!("the archive holds an entry named {name:?}"));
        }
        if sizes.insert(name.as_str(), entry.size).is_some() {
            push(Code::ArchiveInconsistent, format!("the archive holds {name:?} twice"));
        }
        let named = [".pkl", ".pickle"].iter().any(|end| name.to_ascii_lowercase().ends_with(end));
        pickles |= named;
        let zip::Local { data, crc32 } = match zip::local(source, entry, directory)? {
            Ok(local) => local,
            Err(why) => {
                push(Code::ArchiveInconsistent, format!("{name:?}: {why}"));
                pickles = true;
                continue;
            }
        };
        ranges.push((entry.offset, data + entry.size));
        if crc32.is_some_and(|crc32| crc32 != entry.crc32) {
            let message = format!("{name:?}: local header and directory give different checksums");
            push(Code::ArchiveInconsistent, message);
        }
        if entry.crc32 != 0 {
            members.push(Member { name: name.clone(), offset: data, bytes: entry.size, crc32: entry.crc32 });
        }
        let mut head = [0; 2];
        let magic =
            Cursor::new(source, data, data + entry.size).fill(&mut head)? && matches!(head, [0x80, 2..=5]);
        if !(named || magic) {
            continue;
        }
        let end = data + entry.size.min(budget::PICKLE_BYTES);
        let mut seen = walk::walk(&mut Cursor::new(source, data, end))?;
        if !named {
            // Raw numbers may begin like a pickle; only what runs code counts.
            if seen.imports.is_empty() {
                continue;
            }
            seen.broken = None;
        }
        pickles = true;
        report(&seen, Some(name), findings);
        if let Some(folder) = name.strip_suffix(MAIN) {
            main.push((folder, seen));
        }
    }
    for (folder, seen) in &main {
        storages(folder, seen, &sizes, findings);
        program(folder, directory, findings);
    }
    ranges.sort_unstable();
    if ranges.iter().zip(ranges.iter().skip(1)).any(|(first, second)| second.0 < first.1) {
        findings.push(Code::ArchiveInconsistent.finding("entries of the archive overlap"));
        // Their bytes would be read again and again.
        members.clear();
    }
    members.sort_by_key(|member| member.offset);
    Ok(pickles.then_some(members))
}

/// Are the numbers of every tensor there?
fn storages(folder: &str, seen: &Seen, sizes: &HashMap<&str, u64>, findings: &mut Findings) {
    for (key, bytes) in &seen.storages {
        let Some(bytes) = bytes.filter(|&bytes| bytes > 0) else { continue };
        let name = format!("{folder}{STORAGES}{key}");
        let message = match sizes.get(name.as_str()) {
            Some(&size) if size >= bytes => continue,
            Some(size) => format!("{name} has {size} bytes; by {folder}{MAIN} it has {bytes}"),
            None => format!("{name} is missing; by {folder}{MAIN} it has {bytes} bytes"),
        };
        findings.push(Code::MissingStorage.finding(message));
    }
}

/// Is there a TorchScript program? Loading it runs the methods with which its objects are set up.
fn program(folder: &str, directory: &zip::Directory, findings: &mut Findings) {
    let programs = format!("{folder}{PROGRAM}");
    if let Some(entry) = directory.entries.iter().find(|entry| entry.name.starts_with(&programs)) {
        let message = format!("loading it would run a TorchScript program ({})", entry.name);
        let finding = Code::PickleCodeExecution.finding(message);
        findings.push(Finding { offset: Some(entry.offset), ..finding });
    }
}
