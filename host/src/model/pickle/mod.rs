//! Pickle checkpoints, looked at without running them.
//!
//! The opcodes are followed on an abstract stack that knows only texts, and every function
//! that loading would import is listed. Allowed are the few that rebuild tensors; anything
//! else rejects the file. Deliberately absent: reading the tensors, and any decompression
//! (PyTorch stores its archives uncompressed).

mod archive;
mod imports;
mod walk;

use std::io;
use std::path::Path;

use super::finding::{Code, Findings};
use super::inspect::Inspector;
use super::sniff::Content;
use super::source::{Cursor, ReadAt, SourceFile};
use crate::domain::Problem;
use crate::domain::budget;
use crate::domain::inspection::{ArtifactKind, Finding, Inspection};

/// Pickles that follow one another in PyTorch's old format.
const PICKLES_IN_A_ROW: usize = 8;

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
        let message = format!("the name says {claim} and the content is {}", content.name());
        findings.push(Code::DisguisedFormat.finding(message));
    }
    if !check(source, content, &mut findings).map_err(|error| io(&error))? {
        return Ok(None);
    }
    if !findings.has_errors() {
        findings.push(Code::PickleFormat.finding("only functions that rebuild tensors are called"));
    }
    inspector.headless(path, source, ArtifactKind::Pickle, findings).map(Some)
}

/// Follows every pickle of a source whose first bytes are `content`; false if it holds none.
///
/// # Errors
/// The source cannot be read.
pub fn check(source: &dyn ReadAt, content: Content, findings: &mut Findings) -> io::Result<bool> {
    if content == Content::Zip {
        archive::look(source, findings)
    } else {
        bare(source, content == Content::Pickle, findings)
    }
}

/// A file of pickles without an archive. `certain` says that it began as one.
fn bare(source: &dyn ReadAt, certain: bool, findings: &mut Findings) -> io::Result<bool> {
    let mut at = 0;
    for number in 0..PICKLES_IN_A_ROW {
        let end = at + budget::PICKLE_BYTES.min(source.size() - at);
        let seen = walk::walk(&mut Cursor::new(source, at, end))?;
        let proper = seen.broken.is_none();
        if number == 0 && !certain && !(proper && seen.opcodes > 1 || !seen.imports.is_empty()) {
            return Ok(false);
        }
        report(&seen, None, findings);
        // In the old format five pickles come before the raw numbers.
        let mut next = [0; 2];
        let another =
            Cursor::new(source, seen.end, source.size()).fill(&mut next)? && matches!(next, [0x80, 2..=5]);
        if !proper || !another {
            break;
        }
        at = seen.end;
    }
    Ok(true)
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
