//! This program's own lists. `sha256sum --check` takes them, too: everything but the lines
//! of files begins with a comment sign, or is as `llama-gguf-hash` has it.
//!
//! ```text
//! DIGEST  model.gguf
//! #metadata DIGEST PART "key"
//! #tensor DIGEST TYPE [SHAPE] "name"
//! xxh64     DIGEST  model.gguf:tensor
//! # anything else
//! ```
//! The digest of a tensor is the root over its chunks, that of a metadata entry its leaf's. Names
//! with what nobody sees (it could steer a terminal) are quoted, in lines of their own:
//! `#file DIGEST "name"` and `#digest KIND DIGEST "file:tensor"`.

use std::fmt::Write as _;

use super::compare::Thing;
use super::{Subject, base_of, place};
use crate::digest::HashKind;
use crate::domain::inspection::{FileRecord, Inspection};
use crate::domain::{Sha256, text};

/// What a line is.
pub(super) enum Line {
    Entry((Subject, String)),
    Comment,
    Bad,
    Other,
}

pub(super) fn line(line: &str) -> Line {
    let entry = |entry: Option<_>| entry.map_or(Line::Bad, Line::Entry);
    if let Some(rest) = line.strip_prefix("#tensor ") {
        entry(tensor(rest))
    } else if let Some(rest) = line.strip_prefix("#metadata ") {
        entry(metadata(rest))
    } else if let Some(rest) = line.strip_prefix("#file ") {
        entry(file(rest))
    } else if let Some(rest) = line.strip_prefix("#digest ") {
        entry(other(rest))
    } else if line.is_empty() || line.starts_with('#') {
        Line::Comment
    } else {
        Line::Other
    }
}

fn digest(text: &str) -> Option<String> {
    text.parse::<Sha256>().ok().map(|digest| digest.to_string())
}

fn tensor(rest: &str) -> Option<(Subject, String)> {
    let (root, rest) = rest.split_once(' ')?;
    let (dtype, rest) = rest.split_once(' ')?;
    let (shape, name) = rest.split_once("] ")?;
    let shape = shape.strip_prefix('[')?.split(',').filter(|text| !text.is_empty());
    let shape = shape.map(|text| text.parse().ok()).collect::<Option<Vec<u64>>>()?;
    let name = serde_json::from_str(name).ok()?;
    let root = digest(root)?;
    let thing = Thing { digest: root.clone(), form: Some((dtype.to_owned(), shape)) };
    Some((Subject::Own(name, thing), root))
}

fn metadata(rest: &str) -> Option<(Subject, String)> {
    let (leaf, rest) = rest.split_once(' ')?;
    let (part, key) = rest.split_once(' ')?;
    Some((Subject::Metadata(part.parse().ok()?, serde_json::from_str(key).ok()?), digest(leaf)?))
}

fn file(rest: &str) -> Option<(Subject, String)> {
    let (sha256, name) = rest.split_once(' ')?;
    let name: String = serde_json::from_str(name).ok()?;
    Some((Subject::File(place::name(&name, true)), digest(sha256)?))
}

fn other(rest: &str) -> Option<(Subject, String)> {
    let (kind, rest) = rest.split_once(' ')?;
    let (digest, name) = rest.split_once(' ')?;
    let kind = HashKind::from_name(kind).filter(|kind| kind.fits(digest))?;
    Some((Subject::Kind(kind, serde_json::from_str(name).ok()?), digest.to_owned()))
}

/// A name that is one line and hides nothing.
fn quoted(name: &str) -> String {
    text::escaped(&serde_json::Value::from(name).to_string())
}

/// The list of an inspection.
pub fn write(inspection: &Inspection) -> String {
    let mut out = String::new();
    let path = |file: &FileRecord| file.path.display().to_string();
    for file in &inspection.files {
        if let Some(sha256) = file.sha256 {
            put_file(&mut out, sha256, &path(file));
        }
    }
    let digests = &inspection.digests;
    for entry in &digests.metadata_digests {
        let _ = writeln!(out, "#metadata {} {} {}", entry.sha256, entry.part, quoted(&entry.key));
    }
    for tensor in &digests.tensor_digests {
        let shape: Vec<String> = tensor.shape.iter().map(u64::to_string).collect();
        let (root, dtype, shape) = (tensor.root, &tensor.dtype, shape.join(","));
        let _ = writeln!(out, "#tensor {root} {dtype} [{shape}] {}", quoted(&tensor.name));
    }
    for tensor in &digests.tensor_digests {
        let name = format!("{}:{}", inspection.path.display(), tensor.name);
        tensor.others.iter().for_each(|(kind, digest)| put_other(&mut out, kind, digest, &name));
    }
    for tree in &digests.trees {
        let file = inspection.files.iter().find(|file| base_of(&file.path) == tree.file);
        let name = file.map_or_else(|| tree.file.clone(), path);
        tree.weights.iter().for_each(|(kind, digest)| put_other(&mut out, kind, digest, &name));
    }
    out
}

/// As coreutils write it: a leading backslash says that the name has others.
fn put_file(out: &mut String, sha256: Sha256, name: &str) {
    let escaped = name.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r");
    let _ = if text::is_plain(&escaped) {
        let sign = if escaped == name { "" } else { "\\" };
        writeln!(out, "{sign}{sha256}  {escaped}")
    } else {
        writeln!(out, "#file {sha256} {}", quoted(name))
    };
}

fn put_other(out: &mut String, kind: &str, digest: &str, name: &str) {
    let _ = if text::is_plain(name) {
        writeln!(out, "{kind:<8}  {digest}  {name}")
    } else {
        writeln!(out, "#digest {kind} {digest} {}", quoted(name))
    };
}
