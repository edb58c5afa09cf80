//! What a list says against what an inspection found, difference by difference.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::place::Places;
use super::{Checked, Outcome, Report, Subject, What, files, foreign};
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
pub(super) fn check(entries: &[(Subject, String)], list: &Path, inspection: &Inspection) -> Report {
    let mut report = Report::default();
    let places = Places::new(entries, list, inspection);
    let mut others = files::check(entries, list, &places, &mut report);
    metadata(entries, inspection, &mut report);
    let own = entries.iter().filter_map(|(subject, _)| match subject {
        Subject::Own(name, thing) => Some((name.as_str(), thing.clone())),
        _ => None,
    });
    let found = |tensor: &TensorDigest| {
        let form = Some((tensor.dtype.clone(), tensor.shape.clone()));
        Some(Thing { digest: tensor.root.to_string(), form })
    };
    tensors(own, "tree", inspection, found, &mut report);
    others += foreign::check(entries, &places, inspection, &mut report);
    if report.checked.is_empty() && report.unchecked.is_empty() {
        report.unchecked.push("the list names no file of this artifact".to_owned());
    }
    // The digest of a file vouches for all of it, those of tensors only for what was understood.
    let understood = inspection.digests.weights_root.is_some();
    if !understood && report.checked.iter().all(|checked| checked.what != What::File) {
        let why = "not everything of the artifact was read and understood; `assayd inspect` says why";
        report.unchecked.push(why.to_owned());
    }
    if others > 0 {
        let hint =
            if places.whole().is_some() { "" } else { "; name the folder to check all that is listed in it" };
        report.remarks.push(format!("lines about other files: {others}, not looked at{hint}"));
    }
    laid_out(entries, inspection, &mut report);
    report
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

/// A file whose tensors and metadata are all as they were: what else could be different.
fn laid_out(entries: &[(Subject, String)], inspection: &Inspection, report: &mut Report) {
    let digests = &inspection.digests;
    let all_listed = entries.iter().any(|(subject, _)| matches!(subject, Subject::Own(..)));
    let mut changed = report.checked.iter().filter(|checked| checked.outcome != Outcome::Ok);
    if all_listed
        && digests.weights_root.is_some()
        && changed.clone().all(|checked| checked.what == What::File)
    {
        let of_weights = |checked: &&Checked| {
            checked.outcome == Outcome::Changed && digests.trees.iter().any(|tree| tree.file == checked.name)
        };
        let weights = changed.find(of_weights);
        let remark = weights.map(|checked| {
            format!(
                "every tensor and every metadata entry is as listed: what differs in {} is their order, or \
                 belongs to none of them (padding, bytes at the end)",
                checked.name
            )
        });
        report.remarks.extend(remark);
    }
}

/// Names what became of each tensor.
pub(super) fn tensors<'a>(
    said: impl Iterator<Item = (&'a str, Thing)>,
    algorithm: &str,
    inspection: &'a Inspection,
    thing: impl Fn(&TensorDigest) -> Option<Thing>,
    report: &mut Report,
) {
    // What a list says twice counts once, and two things that it says of one tensor count both.
    let (mut listed, mut besides) = (Things::new(), Vec::new());
    for (name, thing) in said {
        match listed.entry(name) {
            Entry::Vacant(entry) => drop(entry.insert(thing)),
            Entry::Occupied(entry) if *entry.get() == thing => {}
            Entry::Occupied(_) => besides.push((name, thing)),
        }
    }
    if listed.is_empty() {
        return;
    }
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
    let torn: BTreeSet<&str> = besides.iter().map(|(name, _)| *name).collect();
    let two_things = |name: &str| torn.contains(name).then(|| "the list says two things of it".to_owned());
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
            (false, None) => (Outcome::Changed, reformed.or_else(|| two_things(name))),
        };
        push(name, outcome, Some(expected), Some(now), detail);
    }
    for (name, expected) in besides {
        let now = found.get(name);
        let outcome = match now {
            Some(now) if *now == expected => Outcome::Ok,
            Some(_) => Outcome::Changed,
            None => Outcome::Missing,
        };
        push(name, outcome, Some(&expected), now, two_things(name));
    }
    for (&name, now) in
        found.iter().filter(|(name, _)| !listed.contains_key(*name) && !renamed.contains(*name))
    {
        let owner = owners.get(now.digest.as_str()).and_then(|owners| owners.first());
        let outcome = if owner.is_some() { Outcome::Duplicate } else { Outcome::Extra };
        push(name, outcome, None, Some(now), owner.map(|owner| format!("it has the bytes of {owner}")));
    }
}
