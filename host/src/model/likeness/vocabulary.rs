//! The lists of two tokenizers, entry by entry.

use std::collections::BTreeSet;

use compact_str::CompactString;

use super::facts::Facts;
use super::{Difference, difference, quoted};

/// Entries that are named; the others are counted.
const LISTED: usize = 8;

/// Compares the lists of two sides that speak of them in the same words.
pub(super) fn compare(candidate: &Facts, reference: &Facts, out: &mut Vec<Difference>) {
    let token = |token: &Option<CompactString>| token.as_deref().map(quoted);
    lists("tokens", [&candidate.tokens, &reference.tokens], PartialEq::eq, token, out);
    let bits = |a: &f64, b: &f64| a.to_bits() == b.to_bits();
    lists("scores", [&candidate.scores, &reference.scores], bits, |score| Some(score.to_string()), out);
    let kind = |kind: &i128| Some(kind.to_string());
    lists("token_type", [&candidate.kinds, &reference.kinds], PartialEq::eq, kind, out);
    let merge = |merge: &CompactString| Some(quoted(merge));
    lists("merges", [&candidate.merges, &reference.merges], PartialEq::eq, merge, out);
    let ids: BTreeSet<u64> = candidate.added.keys().chain(reference.added.keys()).copied().collect();
    let flags = |facts: &Facts, id| facts.added.get(&id).map(ToString::to_string);
    let pairs = ids.into_iter().map(|id| (id, flags(reference, id), flags(candidate, id)));
    listed("added_tokens", pairs.filter(|(_, theirs, ours)| theirs != ours), out);
}

/// A list that is not there is as good as an empty one.
fn lists<T>(
    key: &str,
    [ours, theirs]: [&Option<Vec<T>>; 2],
    equal: impl Fn(&T, &T) -> bool,
    show: impl Fn(&T) -> Option<String>,
    out: &mut Vec<Difference>,
) {
    let [ours, theirs] = [ours, theirs].map(|list| list.as_deref().unwrap_or_default());
    let pairs = (0..).zip(ours.iter().zip(theirs)).filter(|(_, (a, b))| !equal(a, b));
    listed(key, pairs.map(|(place, (a, b))| (place, show(b), show(a))), out);
    if ours.len() != theirs.len() {
        let name = format!("{key} (number)");
        out.push(difference(name, Some(theirs.len().to_string()), Some(ours.len().to_string())));
    }
}

/// Names the first of the changed entries and counts the rest.
fn listed(
    key: &str,
    changed: impl Iterator<Item = (u64, Option<String>, Option<String>)>,
    out: &mut Vec<Difference>,
) {
    let mut more = 0u64;
    for (number, (place, reference, candidate)) in changed.enumerate() {
        if number < LISTED {
            out.push(difference(format!("{key}[{place}]"), reference, candidate));
        } else {
            more += 1;
        }
    }
    if more > 0 {
        out.push(difference(format!("{key}, {more} more"), None, None));
    }
}
