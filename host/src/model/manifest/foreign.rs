//! Lines of `llama-gguf-hash`: digests of tensors, and of all the tensors of a file.

use std::collections::BTreeSet;

use super::compare::{Thing, tensors};
use super::place::{Places, name, readings};
use super::{Report, Subject, What};
use crate::digest::HashKind;
use crate::domain::inspection::{Inspection, TensorDigest};

/// What a line says.
struct Line<'a> {
    kind: HashKind,
    digest: &'a String,
    file: String,
    /// None for a digest of all of the file's tensors.
    tensor: Option<&'a str>,
    /// Is that file one of the artifact's?
    ours: bool,
}

/// Compares, and counts the lines that are about other files.
pub(super) fn check(
    entries: &[(Subject, String)],
    places: &Places<'_>,
    inspection: &Inspection,
    report: &mut Report,
) -> usize {
    let digests = &inspection.digests;
    let names: BTreeSet<&str> = digests.tensor_digests.iter().map(|tensor| tensor.name.as_str()).collect();
    let lines = entries.iter().filter_map(|(subject, digest)| match subject {
        Subject::Kind(kind, text) => {
            let (file, tensor) = read(*kind, text, places, &names);
            let ours = places.is_own(&file);
            Some(Line { kind: *kind, digest, file, tensor, ours })
        }
        _ => None,
    });
    let (whole, of_tensors): (Vec<Line<'_>>, Vec<Line<'_>>) = lines.partition(|line| line.tensor.is_none());
    let files = digests.trees.len();
    let all = whole.len() + of_tensors.len();
    let (whole, of_tensors) = (own(whole, files, report), own(of_tensors, files, report));
    for line in &whole {
        let last = line.file.rsplit('/').next();
        let tree = digests.trees.iter().find(|tree| line.ours && Some(&*tree.file) == last);
        let tree = tree.or_else(|| digests.trees.first().filter(|_| files == 1));
        let found = tree.and_then(|tree| tree.weights.get(line.kind.name())).cloned();
        let shown = &line.file;
        if tree.is_some() && found.is_none() {
            report.unchecked.push(format!("{shown}: its tensors do not lie in the order of its table"));
        } else {
            report.digest((What::Weights, shown), line.kind.name(), Some(line.digest.clone()), found);
        }
    }
    for kind in HashKind::ALL {
        let said = of_tensors.iter().filter(|line| line.kind == kind);
        let said =
            said.filter_map(|line| Some((line.tensor?, Thing { digest: line.digest.clone(), form: None })));
        let thing = |tensor: &TensorDigest| {
            Some(Thing { digest: tensor.others.get(kind.name())?.clone(), form: None })
        };
        tensors(said, kind.name(), inspection, thing, report);
    }
    all - whole.len() - of_tensors.len()
}

/// Where the name of the file ends and that of the tensor begins: where the file is one of the
/// artifact's, else where the tensor is, else at the last colon.
fn read<'a>(
    kind: HashKind,
    text: &'a str,
    places: &Places<'_>,
    tensors: &BTreeSet<&str>,
) -> (String, Option<&'a str>) {
    // There is no UUID of a tensor.
    let all = || readings(text).filter(|(_, tensor)| kind != HashKind::Uuid || tensor.is_none());
    let found = all().find(|(file, _)| places.is_own(file));
    let found = found.or_else(|| all().find(|(_, tensor)| tensor.is_some_and(|name| tensors.contains(name))));
    let found = found.or_else(|| all().find(|(_, tensor)| tensor.is_some()));
    found.unwrap_or_else(|| (name(text, false), None))
}

/// The lines about the artifact: those with the names of its files, else all of them if there are
/// as many names as files, which may have been renamed since.
fn own<'a>(mut lines: Vec<Line<'a>>, files: usize, report: &mut Report) -> Vec<Line<'a>> {
    if lines.iter().any(|line| line.ours) {
        lines.retain(|line| line.ours);
        return lines;
    }
    let named: BTreeSet<&String> = lines.iter().map(|line| &line.file).collect();
    if named.len() > 1 && named.len() != files {
        report.unchecked.push("the list is of several files, none of which is the artifact's".to_owned());
        return Vec::new();
    }
    lines
}
