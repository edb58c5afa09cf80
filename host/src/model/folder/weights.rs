//! Which files of a folder are the model's weights, and which are others beside them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::index::{self, INDEX, Index};
use crate::domain::inspection::{Finding, Severity};
use crate::model::finding::{Code, Findings};
use crate::model::split::PartName;

/// Names that loaders ask for first.
const WHOLE: [&str; 2] = ["model.safetensors", "adapter_model.safetensors"];

/// All files of weights among `names`.
pub(super) fn present(names: &BTreeSet<String>) -> BTreeSet<String> {
    names.iter().filter(|name| name.to_ascii_lowercase().ends_with(".safetensors")).cloned().collect()
}

/// Those that loaders take: what the index lists with all the parts of such a set, or the file that
/// has the usual name. Without either, everything that is no second copy: a variant (`x.fp16.safetensors`
/// beside `x.safetensors`), or Mistral's `consolidated`.
pub(super) fn loaded(present: &BTreeSet<String>, index: Option<&Index>) -> BTreeSet<String> {
    let listed: BTreeSet<&str> = index.into_iter().flat_map(BTreeMap::values).map(String::as_str).collect();
    if present.iter().any(|name| listed.contains(name.as_str())) {
        let set = |name: &str| PartName::parse(name).map(|part| (part.stem, part.count));
        let sets: BTreeSet<(String, u64)> = listed.iter().filter_map(|name| set(name)).collect();
        let belongs = |name: &&String| {
            listed.contains(name.as_str()) || set(name).is_some_and(|set| sets.contains(&set))
        };
        return present.iter().filter(belongs).cloned().collect();
    }
    if let Some(whole) = WHOLE.into_iter().find(|name| present.contains(*name)) {
        return BTreeSet::from([whole.to_owned()]);
    }
    let is_variant = |name: &str| {
        let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
        stem.rsplit_once('.').is_some_and(|(plain, _)| present.contains(&format!("{plain}.safetensors")))
    };
    let plain: BTreeSet<String> = present
        .iter()
        .filter(|name| !is_variant(name) && !name.starts_with("consolidated"))
        .cloned()
        .collect();
    if plain.is_empty() { present.clone() } else { plain }
}

/// The files of weights that loaders take of a folder, whose files are `paths`.
pub fn loaded_of(paths: &[PathBuf]) -> Vec<&Path> {
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let names: BTreeSet<String> = paths.iter().map(name).collect();
    let folder = paths.first().and_then(|path| path.parent()).unwrap_or(Path::new("."));
    // What is wrong with the index is for an inspection to say.
    let index = index::read(folder, &names, &mut Findings::default());
    let loaded = loaded(&present(&names), index.as_ref());
    paths.iter().filter(|path| loaded.contains(&name(path))).map(PathBuf::as_path).collect()
}

/// What is wrong with the names: files that lead elsewhere or are not there, and others that a loader
/// might take instead.
pub(super) fn check(
    present: &BTreeSet<String>,
    loaded: &BTreeSet<String>,
    index: Option<&Index>,
    findings: &mut Findings,
) {
    let mut missing = BTreeSet::new();
    let listed: BTreeSet<&String> = index.into_iter().flat_map(BTreeMap::values).collect();
    for name in &listed {
        if name.contains(['/', '\\', '\0']) || *name == ".." || name.is_empty() {
            findings.push(Code::PathTraversal.finding(format!("the index names the file {name:?}")));
        } else if !present.contains(*name) {
            missing.insert((*name).clone());
        }
    }
    for part in loaded.iter().filter_map(|name| PartName::parse(name)) {
        missing
            .extend((1..=part.count).map(|number| part.part(number)).filter(|name| !present.contains(name)));
    }
    for name in &missing {
        let finding = Code::ShardMissing.finding(format!("{name} is missing"));
        findings.push(Finding { part: Some(name.clone()), ..finding });
    }
    if present.is_empty() && missing.is_empty() && !findings.has(Code::PathTraversal) {
        findings.push(Code::ShardMissing.finding("there is no file of weights"));
    }
    for name in present.difference(loaded) {
        let rival = WHOLE.contains(&name.as_str());
        let message = match loaded.first() {
            Some(_) if rival => {
                format!("{name} is there beside the files of {INDEX}, and some runtimes load it instead")
            }
            first => format!(
                "{name} is beside the weights that runtimes load ({}); only its header was looked at",
                first.map_or("none", String::as_str)
            ),
        };
        let finding = Code::OtherWeights.finding(message);
        let severity = if rival { Severity::Warning } else { finding.severity };
        findings.push(Finding { part: Some(name.clone()), severity, ..finding });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_loaders_take() {
        let files =
            |names: &[&str]| names.iter().map(|name| format!("{name}.safetensors")).collect::<BTreeSet<_>>();
        let parts = ["m-00001-of-00002", "m-00002-of-00002"];
        for (present, listed, expected) in [
            (&["model", "model.fp16", "x"][..], &[][..], &["model"][..]),
            (&["unet", "unet.fp16", "vae"], &[], &["unet", "vae"]),
            (&["consolidated"], &[], &["consolidated"]),
            (&["consolidated", parts[0], parts[1]], &[], &parts),
            (&[parts[0], parts[1], "model", "consolidated"], &parts, &parts),
            // A part that the index forgot belongs to the set.
            (&parts, &parts[..1], &parts),
            (&["adapter_model", "x"], &[], &["adapter_model"]),
            (&["model"], &parts, &["model"]),
            (&[], &[], &[]),
        ] {
            let index = (0..).zip(files(listed)).map(|(at, file): (i32, _)| (at.to_string(), file)).collect();
            let index = Some(index).filter(|_: &Index| !listed.is_empty());
            assert_eq!(loaded(&files(present), index.as_ref()), files(expected), "{present:?}");
        }
    }
}
