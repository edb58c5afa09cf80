//! Pickles that come with a model. No runtime that was asked for the weights loads them, but people
//! do, and loading them runs what is in them.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::domain::budget;
use crate::domain::inspection::{Finding, Severity};
use crate::model::discover::{is_pickle_extension, leads_out};
use crate::model::finding::{Code, Findings};
use crate::model::pickle;
use crate::model::sniff::sniff;
use crate::model::source::SourceFile;

/// Looks at every pickle in the folder and below. What is called like one and is none says nothing.
pub(super) fn pickles(folder: &Path, findings: &mut Findings) {
    let mut found = Vec::new();
    let mut entries = budget::DISCOVER_ENTRIES;
    below(folder, 0, &mut entries, &mut found);
    found.sort();
    let left = found.split_off(found.len().min(budget::PICKLES_BESIDE));
    for path in found {
        let name = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned();
        for finding in look(&path) {
            findings.push(Finding { part: Some(name.clone()), ..finding });
        }
    }
    if !left.is_empty() {
        let message = format!("{} more pickles are beside the model and were not looked at", left.len());
        findings.push(Code::NotExamined.finding(message));
    }
    if entries == 0 {
        findings.push(Code::NotExamined.finding("the folder holds too many files to look for pickles"));
    }
}

/// Files that are called like pickles, in folders without a link or a dot.
fn below(folder: &Path, depth: usize, entries: &mut usize, found: &mut Vec<PathBuf>) {
    // What cannot be read by this program is told by discovery.
    let Ok(listing) = fs::read_dir(folder) else { return };
    for entry in listing.flatten() {
        let Some(left) = entries.checked_sub(1) else { return };
        *entries = left;
        let (name, path) = (entry.file_name(), entry.path());
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let extension = path.extension().map(OsStr::to_ascii_lowercase).unwrap_or_default();
        if is_folder && depth < budget::DISCOVER_DEPTH {
            below(&path, depth + 1, entries, found);
        } else if extension.to_str().is_some_and(is_pickle_extension) && path.is_file() && !leads_out(&path) {
            found.push(path);
        }
    }
}

/// What is wrong with one file, if it is a pickle.
fn look(path: &Path) -> Vec<Finding> {
    let mut findings = Findings::default();
    let checked = SourceFile::open(path).and_then(|source| {
        let content = sniff(&source, 0)?;
        pickle::check(&source, content, &mut findings)
    });
    match checked {
        Ok(None) => return Vec::new(),
        Ok(Some(_)) => {}
        Err(error) => findings.push(Code::Unreadable.finding(format!("it cannot be read: {error}"))),
    }
    let mut found = findings.finish();
    for finding in found.iter_mut().filter(|finding| finding.code == Code::PickleUnknownImport.name()) {
        // Settings of a training import their own classes; nobody needs them to load the model.
        finding.severity = Severity::Warning;
    }
    if !found.iter().any(|finding| finding.severity == Severity::Error) {
        found.push(Code::PickleFormat.finding("a pickle is beside the weights"));
    }
    found
}
