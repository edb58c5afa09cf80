//! This program's own lists. `sha256sum --check` takes them, too: everything but the lines
//! of files begins with a comment sign.
//!
//! ```text
//! DIGEST  model.gguf
//! #metadata DIGEST PART "key"
//! #tensor DIGEST TYPE [SHAPE] "name"
//! # anything else
//! ```
//! The digest of a tensor is the root over its chunks, that of a metadata entry its leaf's.

use std::fmt::Write as _;

use super::Subject;
use super::compare::Thing;
use crate::domain::Sha256;
use crate::domain::inspection::Inspection;

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

/// A name that is one line and steers no terminal.
fn quoted(name: &str) -> String {
    let text = serde_json::Value::from(name).to_string();
    // JSON leaves DEL and the control characters above 127 as they are.
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if c.is_control() {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
        out
    })
}

/// The list of an inspection. Control characters in paths are replaced.
pub fn write(inspection: &Inspection) -> String {
    let mut out = String::new();
    for file in &inspection.files {
        if let Some(sha256) = file.sha256 {
            let path = file.path.display().to_string();
            let path: String = path.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
            let _ = writeln!(out, "{sha256}  {path}");
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
    out
}
