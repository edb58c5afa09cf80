//! What a list says against what an inspection found, difference by difference.

use std::collections::{BTreeMap, BTreeSet};

use super::{Checked, Outcome, Report, Subject, What, base_of};
use crate::digest::HashKind;
use crate::domain::inspection::{Finding, Inspection, TensorDigest};
use crate::model::finding::Code;

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
    let has_own = !own.is_empty();
    if has_own {
        let found = |tensor: &TensorDigest| {
            Some(Thing {
                digest: tensor.root.to_string(),
                form: Some((tensor.dtype.clone(), tensor.shape.clone())),
            })
        };
        tensors(own, "tree", inspection, found, &mut report);
    }
    for kind in HashKind::ALL {
        foreign_tensors(kind, entries, inspection, &mut report);
    }
    if report.checked.is_empty() && report.unchecked.is_empty() {
        report.unchecked.push("the list names no file of this artifact".to_owned());
    }
    // The digest of a file vouches for all of it, those of tensors only for what was understood.
    let understood = inspection.digests.weights_root.is_some();
    if !understood && report.checked.iter().all(|checked| checked.what != What::File) {
        let why = "not everything of the artifact was read and understood; `assayd inspect` says why";
        report.unchecked.push(why.to_owned());
    }
    let changed = |checked: &Checked| checked.outcome != Outcome::Ok;
    if has_own
        && understood
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
        Subject::Metadata(part, key) => Some(((*part, key.as_str()), digest.as_str())),
        _ => None,
    });
    // What a list says twice counts once, and two things that it says of one entry count both.
    let listed: BTreeSet<((u64, &str), &str)> = listed.collect();
    // A list of tensors of this program's own names the metadata, if there is any.
    if !entries.iter().any(|(subject, _)| matches!(subject, Subject::Own(..) | Subject::Metadata(..))) {
        return;
    }
    let mut found: BTreeMap<(u64, &str), Vec<String>> = BTreeMap::new();
    for entry in &inspection.digests.metadata_digests {
        found.entry((entry.part, &entry.key)).or_default().push(entry.sha256.to_string());
    }
    let name = |(part, key): (u64, &str)| {
        if part == 0 { key.to_owned() } else { format!("{key} of part {part}") }
    };
    for &(place, expected) in &listed {
        let now = found.get(&place).map(Vec::as_slice).unwrap_or_default();
        if now.len() < 2 {
            let expected = Some(expected.to_owned());
            report.digest((What::Metadata, &name(place)), "leaf", expected, now.first().cloned());
        }
    }
    let known: BTreeSet<(u64, &str)> = listed.iter().map(|(place, _)| *place).collect();
    for (place, now) in found {
        if now.len() > 1 {
            report.duplicate(What::Metadata, &name(place), "leaf");
        } else if !known.contains(&place) {
            report.digest((What::Metadata, &name(place)), "leaf", None, now.into_iter().next());
        }
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
    tensors(listed, kind.name(), inspection, found, report);
}

/// Names what became of each tensor.
fn tensors(
    mut listed: Things<'_>,
    algorithm: &str,
    inspection: &Inspection,
    thing: impl Fn(&TensorDigest) -> Option<Thing>,
    report: &mut Report,
) {
    let mut found = Things::new();
    // One that lies where another does has no digest of its own.
    let named_twice = |finding: &&Finding| finding.code == Code::DuplicateTensor.name();
    let findings = inspection.findings.iter().filter(named_twice);
    let mut twice: BTreeSet<&str> = findings.filter_map(|finding| finding.tensor.as_deref()).collect();
    for tensor in &inspection.digests.tensor_digests {
        if let Some(thing) = thing(tensor)
            && found.insert(&tensor.name, thing).is_some()
        {
            twice.insert(tensor.name.as_str());
        }
    }
    // Whichever of two tensors of one name is as listed: nobody knows which one counts.
    for name in twice {
        found.remove(name);
        listed.remove(name);
        report.duplicate(What::Tensor, name, algorithm);
    }
    // Names that are only on one side, by digest, to find what was renamed.
    let mut strangers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, thing) in found.iter().filter(|(name, _)| !listed.contains_key(*name)) {
        strangers.entry(&thing.digest).or_default().push(name);
    }
    let mut owners: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, thing) in &listed {
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
    for (&name, expected) in &listed {
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
