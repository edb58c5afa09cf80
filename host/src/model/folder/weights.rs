//! Which files of a folder are the model's weights, and which are others beside them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::index::{self, INDEX, Index};
use crate::domain::budget;
use crate::domain::inspection::{Finding, Severity};
use crate::model::finding::{Code, Findings};
use crate::model::split::PartName;

/// Names that loaders ask for first.
const WHOLE: [&str; 2] = ["model.safetensors", ADAPTER];
const ADAPTER: &str = "adapter_model.safetensors";

/// Is it an adapter that the folder is about, whether its base is there or not?
fn is_adapter(names: &BTreeSet<String>) -> bool {
    names.contains("adapter_config.json") && names.contains(ADAPTER)
}

/// The index of the model's weights, if there is one that can be read. That of a base beside its
/// adapter is of other weights.
pub(super) fn index(path: &Path, names: &BTreeSet<String>, findings: &mut Findings) -> Option<Index> {
    if is_adapter(names) { None } else { index::read(path, names, findings) }
}

/// All files of weights among `names`.
pub(super) fn present(names: &BTreeSet<String>) -> BTreeSet<String> {
    names.iter().filter(|name| name.to_ascii_lowercase().ends_with(".safetensors")).cloned().collect()
}

/// Those that loaders take: the adapter, or what the index lists with all the parts of such a set, or
/// the file that has the usual name. Without any, everything that is no second copy: a variant
/// (`x.fp16.safetensors` beside `x.safetensors`), or Mistral's `consolidated`.
pub(super) fn loaded(names: &BTreeSet<String>, index: Option<&Index>) -> BTreeSet<String> {
    if is_adapter(names) {
        return BTreeSet::from([ADAPTER.to_owned()]);
    }
    let present = present(names);
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
    if plain.is_empty() { present } else { plain }
}

/// The files of weights that loaders take of a folder, whose files are `paths`.
pub fn loaded_of(paths: &[PathBuf]) -> Vec<&Path> {
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let names: BTreeSet<String> = paths.iter().map(name).collect();
    // Templates may lie in a folder below.
    let folder = paths.iter().find(|path| path.ends_with(INDEX)).and_then(|path| path.parent());
    // What is wrong with the index is for an inspection to say.
    let index = folder.and_then(|folder| index(folder, &names, &mut Findings::default()));
    let loaded = loaded(&names, index.as_ref());
    paths.iter().filter(|path| loaded.contains(&name(path))).map(PathBuf::as_path).collect()
}

/// Parts of numbered sets among `loaded` that are not there, the first [`budget::PARTS_WANTED`] of them.
fn missing_parts(loaded: &BTreeSet<String>) -> BTreeSet<String> {
    // One part stands for its set, in which the same are missing from all.
    let sets: BTreeMap<String, PartName> =
        loaded.iter().filter_map(|name| PartName::parse(name)).map(|part| (part.part(1), part)).collect();
    sets.values().flat_map(|part| part.missing(loaded)).take(budget::PARTS_WANTED).collect()
}

/// The parts that a folder with the files `names` still wants. Reads the index only where a set has
/// gaps: it tells whether the set counts.
pub fn parts_wanted(folder: &Path, names: &BTreeSet<String>) -> BTreeSet<String> {
    if missing_parts(&present(names)).is_empty() {
        return BTreeSet::new();
    }
    // What is wrong with the index is for an inspection to say.
    let index = index(folder, names, &mut Findings::default());
    missing_parts(&loaded(names, index.as_ref()))
}

/// Of a folder with the files `names`, the files of weights that loaders take, and those that the index
/// lists, or that belong to a numbered set, and that are not there.
pub fn wanted(folder: &Path, names: &BTreeSet<String>) -> (BTreeSet<String>, BTreeSet<String>) {
    let index = index(folder, names, &mut Findings::default());
    let loaded = loaded(names, index.as_ref());
    let absent = not_there(&present(names), &loaded, index.as_ref());
    (loaded, absent)
}

fn not_there(
    present: &BTreeSet<String>,
    loaded: &BTreeSet<String>,
    index: Option<&Index>,
) -> BTreeSet<String> {
    let listed = index.into_iter().flat_map(BTreeMap::values);
    let here = listed.filter(|name| !leads_elsewhere(name) && !present.contains(*name));
    missing_parts(loaded).into_iter().chain(here.cloned()).collect()
}

fn leads_elsewhere(name: &str) -> bool {
    name.contains(['/', '\\', '\0']) || name == ".." || name.is_empty()
}

/// What is wrong with the names: files that lead elsewhere or are not there, and others that a loader
/// might take instead.
pub(super) fn check(
    present: &BTreeSet<String>,
    loaded: &BTreeSet<String>,
    index: Option<&Index>,
    findings: &mut Findings,
) {
    let listed: BTreeSet<&String> = index.into_iter().flat_map(BTreeMap::values).collect();
    for name in listed.iter().filter(|name| leads_elsewhere(name)) {
        findings.push(Code::PathTraversal.finding(format!("the index names the file {name:?}")));
    }
    let missing = not_there(present, loaded, index);
    for name in &missing {
        let finding = Code::ShardMissing.finding(format!("{name} is missing"));
        findings.push(Finding { part: Some(name.clone()), ..finding });
    }
    if present.is_empty() && missing.is_empty() && !findings.has(Code::PathTraversal) {
        findings.push(Code::ShardMissing.finding("there is no file of weights"));
    }
    for name in present.difference(loaded) {
        let rival = index.is_some() && WHOLE.contains(&name.as_str());
        let message = if rival {
            format!("{name} is there beside the files of {INDEX}, and some runtimes load it instead")
        } else {
            let first = loaded.first().map(String::as_str).unwrap_or_default();
            format!(
                "{name} is beside the weights that runtimes load ({first}); only its header was looked at"
            )
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
            (&["model", "adapter_model"], &[], &["model"]),
            (&[], &[], &[]),
        ] {
            let index = (0..).zip(files(listed)).map(|(at, file): (i32, _)| (at.to_string(), file)).collect();
            let index = Some(index).filter(|_: &Index| !listed.is_empty());
            assert_eq!(loaded(&files(present), index.as_ref()), files(expected), "{present:?}");
        }
        let mut names = files(&["model", "adapter_model", "x"]);
        names.insert("adapter_config.json".to_owned());
        assert_eq!(loaded(&names, None), files(&["adapter_model"]));
    }

    #[test]
    fn names_in_the_index_that_lead_elsewhere() {
        for (name, code) in [("..", "path-traversal"), ("a/b", "path-traversal"), ("b", "shard-missing")] {
            let index = Index::from([("a".to_owned(), name.to_owned())]);
            let mut findings = Findings::default();
            check(&BTreeSet::new(), &BTreeSet::new(), Some(&index), &mut findings);
            let codes: Vec<String> = findings.finish().into_iter().map(|finding| finding.code).collect();
            assert_eq!(codes, [code], "{name}");
        }
        let (none, mut findings) = (BTreeSet::new(), Findings::default());
        check(&none, &none, None, &mut findings);
        assert_eq!(findings.finish()[0].code, "shard-missing", "nothing at all");
    }

    /// The index counts, whatever file comes first.
    #[test]
    fn what_engines_are_given() {
        let folder = tempfile::tempdir().unwrap();
        let map = serde_json::json!({"weight_map": {"a": "m-00001-of-00001.safetensors"}});
        std::fs::write(folder.path().join(INDEX), map.to_string()).unwrap();
        let path = |name: &str| folder.path().join(name);
        let templates = path("additional_chat_templates/rag.jinja");
        let paths = [templates, path("m-00001-of-00001.safetensors"), path("model.safetensors"), path(INDEX)];
        assert_eq!(loaded_of(&paths), [path("m-00001-of-00001.safetensors")]);
        assert_eq!(loaded_of(&paths[..3]), [path("model.safetensors")]);
        assert_eq!(loaded_of(&[]), Vec::<&Path>::new());
    }
}
