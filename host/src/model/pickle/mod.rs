//! Pickle checkpoints, looked at without running them.
//!
//! The opcodes are followed on an abstract stack that knows only texts, and every function
//! that loading would import is listed. Allowed are the few that rebuild tensors; anything
//! else rejects the file. Deliberately absent: reading the tensors, and any decompression
//! (PyTorch stores its archives uncompressed).

mod archive;
mod imports;
mod storage;
mod walk;
mod zip;

use std::io;
use std::path::Path;

use super::finding::{Code, Findings};
use super::foreign;
use super::inspect::Inspector;
use super::scan::Member;
use super::sniff::Content;
use super::source::{Cursor, ReadAt, SourceFile};
use crate::domain::Problem;
use crate::domain::budget;
use crate::domain::inspection::{ArtifactKind, Finding, Inspection};

/// The number that the first pickle in PyTorch's old format is, within so many bytes.
const OLD: &[u8] = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.";
const OLD_WITHIN: u64 = 32;
/// Pickles in that format; raw numbers follow.
const OLD_PICKLES: usize = 5;
/// Pickles in a row that are looked at in any other.
const PICKLES: usize = 8;

/// Inspects a file that is a pickle, or an archive; `claim` is the format its name promises
/// instead. `None` if an archive holds no pickle, or the bytes are no pickle after all.
pub(super) fn file(
    inspector: &mut Inspector<'_>,
    path: &Path,
    source: &SourceFile,
    content: Content,
    claim: Option<&str>,
) -> Result<Option<Inspection>, Problem> {
    let io = |error: &io::Error| Problem::io("read", path, error);
    let mut findings = Findings::default();
    if let Some(claim) = claim {
        findings.push(foreign::disguised(claim, content));
    }
    let Some(members) = check(source, content, &mut findings).map_err(|error| io(&error))? else {
        return Ok(None);
    };
    if !findings.has_errors() {
        findings.push(Code::PickleFormat.finding("only functions that rebuild tensors are called"));
    }
    inspector.headless(path, source, (ArtifactKind::Pickle, &members), findings).map(Some)
}

/// Follows every pickle of a source whose first bytes are `content`; `None` if it holds none, else
/// what of the file has a checksum.
///
/// # Errors
/// The source cannot be read.
pub fn check(
    source: &dyn ReadAt,
    content: Content,
    findings: &mut Findings,
) -> io::Result<Option<Vec<Member>>> {
    if content == Content::Zip {
        archive::look(source, findings)
    } else {
        Ok(bare(source, content == Content::Pickle, findings)?.then(Vec::new))
    }
}

/// A file of pickles without an archive; false if it is none. `certain` says that it began as one.
fn bare(source: &dyn ReadAt, certain: bool, findings: &mut Findings) -> io::Result<bool> {
    let head = Cursor::new(source, 0, OLD_WITHIN).bytes(source.size().min(OLD_WITHIN))?;
    let old = head.is_some_and(|head| head.windows(OLD.len()).any(|window| window == OLD));
    let mut at = 0;
    let mut numbers = Some(0u64);
    // Has it imported anything, or did it begin as a pickle?
    let mut known = certain;
    for number in 1..=if old { OLD_PICKLES } else { PICKLES } {
        let end = at + budget::PICKLE_BYTES.min(source.size() - at);
        let seen = walk::walk(&mut Cursor::new(source, at, end))?;
        let proper = seen.broken.is_none();
        let mut magic = [0; 2];
        let begins = Cursor::new(source, at, u64::MAX).fill(&mut magic)? && matches!(magic, [0x80, 2..=5]);
        // Old pickles begin with anything, and some raw numbers can be followed.
        let simple = proper && seen.opcodes > 1 && numbers == Some(0);
        if !(number == 1 && certain || begins || simple || seen.has_names()) {
            break;
        }
        known |= begins || seen.has_names();
        report(&seen, None, findings);
        if !proper {
            return archive::appended(source, findings).map(|()| true);
        }
        // Each storage is there with the count of its numbers before it.
        let add = |sum: u64, bytes: &Option<u64>| sum.checked_add((*bytes)?)?.checked_add(8);
        numbers = numbers.and_then(|sum| seen.storages.values().try_fold(sum, add));
        at = seen.end;
        if at >= source.size() {
            known = true;
            break;
        }
    }
    if !known {
        return Ok(false);
    }
    behind(source, at, numbers, findings)?;
    Ok(true)
}

/// What follows the last pickle, which ends at `at`: `numbers` bytes of tensors, if that is known.
fn behind(source: &dyn ReadAt, at: u64, numbers: Option<u64>, findings: &mut Findings) -> io::Result<()> {
    let size = source.size();
    if let Some(numbers) = numbers {
        let end = at.saturating_add(numbers);
        if end > size {
            let message = format!("the file has {size} of {end} bytes; numbers of tensors are missing");
            findings.push(Finding { offset: Some(size), ..Code::Truncated.finding(message) });
        } else if end < size {
            // Behind the tensors there may be a pickle again, for a reader that looks there.
            if archive::trailing(source, end, "pickle", findings)? == Content::Pickle {
                report(
                    &walk::walk(&mut Cursor::new(source, end, end + budget::PICKLE_BYTES))?,
                    None,
                    findings,
                );
            }
        }
    }
    archive::appended(source, findings)
}

/// Turns what a walk saw into findings. `entry` is the name within an archive.
fn report(seen: &walk::Seen, entry: Option<&str>, findings: &mut Findings) {
    let place = entry.map(|name| format!(" in {name}")).unwrap_or_default();
    let mut push = |code: Code, offset: u64, message: String| {
        findings.push(Finding { offset: Some(offset), ..code.finding(message) });
    };
    for (import, offset) in &seen.imports {
        match imports::judge(import) {
            imports::Verdict::Harmless => {}
            imports::Verdict::Dangerous => {
                push(Code::PickleCodeExecution, *offset, format!("loading it would call {import}{place}"));
            }
            imports::Verdict::Unknown => {
                push(Code::PickleUnknownImport, *offset, format!("loading it would import {import}{place}"));
            }
        }
    }
    if let Some(why) = seen.broken {
        push(Code::PickleBroken, seen.end, format!("the pickle{place} cannot be followed: {why}"));
    }
}

#[cfg(test)]
mod tests;
