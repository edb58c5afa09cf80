//! What a list says against what an inspection found, difference by difference.

use std::collections::{BTreeMap, BTreeSet};

use super::{Checked, Outcome, Report, Subject, What, base_of};
use crate::digest::HashKind;
use crate::domain::inspection::{Inspection, TensorDigest};

/// A tensor's digest, and its type and shape where the list has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Thing {
    pub digest: String,
    pub form: Option<(String, Vec<u64>)>,
}

/// Tensors with equal bytes among which the other of a swapped pair is looked for.
const OWNERS: usize = 16;

type Things<'a> = BTreeMap<&'a str, Thing>;

/// See [`super::Manifest::check`].
pub(super) fn check(entries: &[(Subject, String)], inspection: &Inspection) -> Report {
    let mut report = Report::default();
    files(entries, inspection, &mut report);
    weights(entries, inspection, &mut report);
    metadata(entries, inspection, &mut report);
    let own: Things<'_> = entries
        .iter()
        .filter_map(|(subject, _)| match subject {
            Subject::Own(name, thing) => Some((name.as_str(), thing.clone())),
            _ => None,
        })
        .collect();
    if !own.is_empty() {
        let found = |tensor: &TensorDigest| {
            Some(Thing {
                digest: tensor.root.to_string(),
                form: Some((tensor.dtype.clone(), tensor.shape.clone())),
            })
        };
        tensors(&own, "tree", inspection, found, &mut report);
    }
    for kind in HashKind::ALL {
        foreign_tensors(kind, entries, inspection, &mut report);
    }
    if report.checked.is_empty() && report.unchecked.is_empty() {
        report.unchecked.push("the list names no file of this artifact".to_owned());
    }
    let changed = |checked: &Checked| checked.outcome != Outcome::Ok;
    if !own.is_empty()
        && report.checked.iter().any(changed)
        && !report.checked.iter().any(|checked| changed(checked) && checked.what != What::File)
    {
        report.remarks.push(
            "every tensor and every metadata entry is as listed: the file is laid out differently".to_owned(),
        );
    }
    report
}

fn files(entries: &[(Subject, String)], inspection: &Inspection, report: &mut Report) {
    let listed: BTreeMap<&str, &String> = entries
        .iter()
        .filter_map(|(subject, digest)| match subject {
            Subject::File(name) => Some((name.as_str(), digest)),
            _ => None,
        })
        .collect();
    if listed.is_empty() {
        return;
    }
    let mut unlisted = Vec::new();
    for file in &inspection.files {
        let name = base_of(&file.path);
        let found = file.sha256.map(|digest| digest.to_string());
        // One list may say two things about one name; both count.
        let mut said =
            entries.iter().filter(|(subject, _)| *subject == Subject::File(name.clone())).peekable();
        if said.peek().is_none() {
            unlisted.push(name.clone());
        }
        for (_, expected) in said {
            report.digest((What::File, &name), "sha256", Some(expected.clone()), found.clone());
        }
    }
    if unlisted.len() < inspection.files.len() {
        report.unchecked.extend(unlisted.iter().map(|name| format!("{name} is not in the list")));
    } else if listed.len() == entries.len() {
        report.unchecked.push("the list names no file of this artifact".to_owned());
    }
}

fn weights(entries: &[(Subject, String)], inspection: &Inspection, report: &mut Report) {
    let trees = &inspection.digests.trees;
    for (subject, expected) in entries {
        let Subject::Weights(kind, name) = subject else { continue };
        let tree = trees.iter().find(|tree| tree.file == *name);
        let tree = tree.or_else(|| trees.first().filter(|_| trees.len() == 1));
        let found = tree.and_then(|tree| tree.weights.get(kind.name())).cloned();
        if tree.is_some() && found.is_none() {
            report.unchecked.push(format!("{name}: its tensors do not lie in the order of its table"));
        } else {
            report.digest((What::Weights, name), kind.name(), Some(expected.clone()), found);
        }
    }
}

fn metadata(entries: &[(Subject, String)], inspection: &Inspection, report: &mut Report) {
    let listed = entries.iter().filter_map(|(subject, digest)| match subject {
        Subject::Metadata(part, key) => Some(((*part, key.as_str()), digest.clone())),
        _ => None,
    });
    let listed: BTreeMap<(u64, &str), String> = listed.collect();
    // A list of tensors of this program's own names the metadata, if there is any.
    if !entries.iter().any(|(subject, _)| matches!(subject, Subject::Own(..) | Subject::Metadata(..))) {
        return;
    }
    let found = inspection.digests.metadata_digests.iter();
    let found: BTreeMap<(u64, &str), String> =
        found.map(|entry| ((entry.part, entry.key.as_str()), entry.sha256.to_string())).collect();
    let places: BTreeSet<(u64, &str)> = listed.keys().chain(found.keys()).copied().collect();
    for place in places {
        let name = if place.0 == 0 { place.1.to_owned() } else { format!("{} of part {}", place.1, place.0) };
        let (expected, found) = (listed.get(&place).cloned(), found.get(&place).cloned());
        report.digest((What::Metadata, &name), "leaf", expected, found);
    }
}

fn foreign_tensors(
    kind: HashKind,
    entries: &[(Subject, String)],
    inspection: &Inspection,
    report: &mut Report,
) {
    let mut listed = Things::new();
    let mut files = BTreeSet::new();
    for (subject, digest) in entries {
        if let Subject::Tensor(of, file, tensor) = subject
            && *of == kind
        {
            files.insert(file.as_str());
            listed.insert(tensor, Thing { digest: digest.clone(), form: None });
        }
    }
    if listed.is_empty() {
        return;
    }
    if files.len() > 1 && files.len() != inspection.digests.trees.len() {
        report.unchecked.push("the list is of the tensors of several files".to_owned());
        return;
    }
    let found =
        |tensor: &TensorDigest| Some(Thing { digest: tensor.others.get(kind.name())?.clone(), form: None });
    tensors(&listed, kind.name(), inspection, found, report);
}

/// Names what became of each tensor.
fn tensors(
    listed: &Things<'_>,
    algorithm: &str,
    inspection: &Inspection,
    thing: impl Fn(&TensorDigest) -> Option<Thing>,
    report: &mut Report,
) {
    let digests = &inspection.digests.tensor_digests;
    let found: Things<'_> =
        digests.iter().filter_map(|tensor| Some((tensor.name.as_str(), thing(tensor)?))).collect();
    // Names that are only on one side, by digest, to find what was renamed.
    let mut strangers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, thing) in found.iter().filter(|(name, _)| !listed.contains_key(*name)) {
        strangers.entry(&thing.digest).or_default().push(name);
    }
    let mut owners: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, thing) in listed {
        owners.entry(&thing.digest).or_default().push(name);
    }
    let mut renamed = BTreeSet::new();
    let mut push = |name: &str, outcome, expected: Option<&Thing>, found: Option<&Thing>, detail| {
        report.checked.push(Checked {
            name: name.to_owned(),
            what: What::Tensor,
            outcome,
            algorithm: algorithm.to_owned(),
            expected: expected.map(|thing| thing.digest.clone()),
            found: found.map(|thing| thing.digest.clone()),
            detail,
        });
    };
    for (&name, expected) in listed {
        let Some(now) = found.get(name) else {
            let other = strangers.get_mut(expected.digest.as_str()).and_then(Vec::pop);
            let outcome = if other.is_some() { Outcome::Renamed } else { Outcome::Missing };
            renamed.extend(other);
            let now = other.and_then(|other| found.get(other));
            push(name, outcome, Some(expected), now, other.map(|other| format!("it is called {other} now")));
            continue;
        };
        let form = |thing: &Thing| {
            thing.form.as_ref().map_or(String::new(), |(dtype, shape)| format!("{dtype} {shape:?}"))
        };
        let reformed =
            (now.form != expected.form).then(|| format!("was {}, is {}", form(expected), form(now)));
        // The tensor whose bytes this one has, if that one has these.
        let candidates = owners.get(now.digest.as_str()).into_iter().flatten().take(OWNERS);
        let swapped = candidates
            .copied()
            .find(|other| found.get(other).is_some_and(|theirs_now| theirs_now.digest == expected.digest));
        let (outcome, detail) = match (now.digest == expected.digest, swapped) {
            (true, _) if reformed.is_some() => (Outcome::Retyped, reformed),
            (true, _) => (Outcome::Ok, None),
            (false, Some(other)) => (Outcome::Swapped, Some(format!("it has the bytes of {other}"))),
            (false, None) => (Outcome::Changed, reformed),
        };
        push(name, outcome, Some(expected), Some(now), detail);
    }
    for (&name, now) in
        found.iter().filter(|(name, _)| !listed.contains_key(*name) && !renamed.contains(*name))
    {
        let owner = owners.get(now.digest.as_str()).and_then(|owners| owners.first());
        let outcome = if owner.is_some() { Outcome::Duplicate } else { Outcome::Extra };
        push(name, outcome, None, Some(now), owner.map(|owner| format!("it has the bytes of {owner}")));
    }
}
