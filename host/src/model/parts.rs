//! Do the parts of a split set belong together, each in its place?

use std::collections::HashMap;

use super::finding::{Code, Findings};
use super::gguf::{Header, Value};
use super::inspect::Opened;
use super::split::PartName;
use crate::domain::inspection::Finding;

fn in_part(part: &str, finding: Finding) -> Finding {
    Finding { part: Some(part.to_owned()), ..finding }
}

/// Checks numbers, counts and duplicates; `opened` has an entry per part, in order.
pub(super) fn check(name: &PartName, opened: &[Option<Opened>], findings: &mut Findings) {
    for part in opened.iter().flatten().filter(|part| part.zeroed) {
        let message = format!("{} begins with zero bytes", part.name);
        findings.push(in_part(&part.name, Code::SplitZeroedPart.finding(message)));
    }
    let headers: Vec<Option<(&str, &Header)>> = opened
        .iter()
        .map(|part| part.as_ref().and_then(|part| Some((part.name.as_str(), part.header.as_ref()?))))
        .collect();
    numbers(name, &headers, findings);
    duplicates(&headers, findings);
    tensor_count(name, &headers, findings);
    architectures(&headers, findings);
}

fn number(header: &Header) -> Option<u64> {
    header.metadata.u64("split.no")
}

fn numbers(name: &PartName, headers: &[Option<(&str, &Header)>], findings: &mut Findings) {
    let numbers: Vec<Option<u64>> =
        headers.iter().map(|part| part.and_then(|(_, header)| number(header))).collect();
    for (place, part) in (0u64..).zip(headers) {
        let Some((part, header)) = part else { continue };
        let Some(own) = number(header) else {
            let message = format!("{part} carries no split.no; it is not a part of a set");
            findings.push(in_part(part, Code::SplitUnmarked.finding(message)));
            continue;
        };
        if own != place {
            let other = usize::try_from(own).ok().and_then(|own| numbers.get(own)).copied().flatten();
            let (code, what) = if other == Some(place) {
                (Code::SplitSwappedParts, ", and that part has the number of this one")
            } else {
                (Code::SplitWrongNumber, "")
            };
            let message = format!("{part} says that it is part {}{what}", own.saturating_add(1));
            findings.push(in_part(part, code.finding(message)));
        }
        match header.metadata.u64("split.count") {
            Some(count) if count == name.count => {}
            Some(count) => {
                let message =
                    format!("{part} says that the set has {count} parts; the names say {}", name.count);
                findings.push(in_part(part, Code::SplitWrongCount.finding(message)));
            }
            None => {
                let message = format!("{part} carries no split.count");
                findings.push(in_part(part, Code::SplitWrongCount.finding(message)));
            }
        }
    }
}

fn duplicates(headers: &[Option<(&str, &Header)>], findings: &mut Findings) {
    let mut seen: HashMap<&str, &str> = HashMap::new();
    for (part, header) in headers.iter().flatten() {
        for tensor in &header.tensors {
            match seen.get(tensor.name.as_str()) {
                Some(first) if first != part => {
                    let message = format!("the tensor {} is in {first} and in {part}", tensor.name);
                    let finding = Code::SplitDuplicateTensor.finding(message);
                    findings.push(Finding { tensor: Some(tensor.name.clone()), ..in_part(part, finding) });
                }
                _ => {
                    seen.insert(&tensor.name, part);
                }
            }
        }
    }
}

fn tensor_count(name: &PartName, headers: &[Option<(&str, &Header)>], findings: &mut Findings) {
    // Runtimes believe the first part.
    if let Some(Some((part, header))) = headers.first()
        && header.metadata.get("split.count").is_some()
        && header.metadata.get("split.tensors.count").is_none()
        && name.count > 1
    {
        let message = format!("{part} carries no split.tensors.count");
        findings.push(in_part(part, Code::SplitTensorCount.finding(message)));
    }
    if headers.iter().any(Option::is_none) {
        return;
    }
    let total: u64 = headers.iter().flatten().map(|(_, header)| header.tensors.len() as u64).sum();
    for (part, header) in headers.iter().flatten() {
        let declared = header.metadata.get("split.tensors.count").and_then(Value::as_integer);
        if declared.is_some_and(|declared| declared != i128::from(total)) {
            let message = format!(
                "{part} says that the set has {} tensors; the parts have {total}",
                declared.unwrap_or_default()
            );
            findings.push(in_part(part, Code::SplitTensorCount.finding(message)));
        }
    }
}

fn architectures(headers: &[Option<(&str, &Header)>], findings: &mut Findings) {
    let list: Vec<(&str, &Header)> = headers.iter().flatten().copied().collect();
    let Some(first) = first(&list) else { return };
    for (part, header) in list {
        for (key, value) in header.metadata.iter() {
            let belongs_to_set = key.starts_with("split.");
            let differs = first.metadata.get(key).is_some_and(|other| other != value);
            if differs && !belongs_to_set {
                let message = format!("{part} has another {key} than the first part");
                findings.push(in_part(part, Code::SplitForeignPart.finding(message)));
            }
        }
    }
}

/// The part that carries the model's metadata: the one numbered 0, else the one with the
/// most entries (a set whose parts were renamed).
pub(super) fn first<'a>(headers: &[(&str, &'a Header)]) -> Option<&'a Header> {
    let richest = headers.iter().map(|(_, header)| *header).max_by_key(|header| header.metadata.len());
    let zero = headers.iter().map(|(_, header)| *header).find(|header| number(header) == Some(0));
    zero.filter(|zero| richest.is_some_and(|richest| zero.metadata.len() >= richest.metadata.len()))
        .or(richest)
}

/// Passes on contradictions; a shape that does not fit and lies in a later part is that
/// part's fault.
pub(super) fn blame(contradictions: &[Finding], first_part: Option<&str>, findings: &mut Findings) {
    for finding in contradictions {
        findings.push(finding.clone());
        if finding.code == Code::ShapeMismatch.name()
            && let Some(part) = finding.part.as_deref()
            && Some(part) != first_part
        {
            let message = format!("{part} is not of this model: {}", finding.message);
            findings.push(in_part(part, Code::SplitForeignPart.finding(message)));
        }
    }
}
