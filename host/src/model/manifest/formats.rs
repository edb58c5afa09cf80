//! `manifest.json` of a quantising pipeline: the files it wrote, one per format. Written as a list
//! whose items have `type`, `path`, `sha256` and `size_bytes`; older ones call these `format`,
//! `file_path` and `file_size_bytes` and have no digest, or are an object of formats with `file`.
//!
//! A size alone proves nothing: a file without a digest is never "as listed", at most not checked.

use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use super::{Report, What, absent_parts, base, base_of};
use crate::domain::Sha256;
use crate::domain::inspection::Inspection;

/// Files of a manifest that are looked at.
const FILES: usize = 1_000;

/// The files of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Formats {
    files: Vec<Listed>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Listed {
    path: String,
    sha256: Option<Sha256>,
    bytes: Option<u64>,
}

impl Formats {
    /// `None` if the document is no such manifest.
    pub(super) fn parse(document: &Value) -> Option<Result<Self, String>> {
        let items: Vec<&Value> = match document.get("formats")? {
            Value::Array(list) => list.iter().take(FILES + 1).collect(),
            Value::Object(map) => map.values().take(FILES + 1).collect(),
            _ => return Some(Err("its formats are neither a list nor an object".to_owned())),
        };
        if items.is_empty() || items.len() > FILES {
            return Some(Err(format!("it must list 1 to {FILES} formats")));
        }
        Some(items.into_iter().enumerate().map(|(place, item)| listed(place, item)).collect())
    }

    /// Compares the artifact's files with those of the same name.
    pub fn check(&self, inspection: &Inspection) -> Report {
        let mut report = Report::default();
        let mut unlisted = Vec::new();
        for file in &inspection.files {
            let name = base_of(&file.path);
            let named: Vec<&Listed> = self.files.iter().filter(|listed| base(&listed.path) == name).collect();
            let size_fits = |listed: &Listed| listed.bytes.is_none_or(|bytes| bytes == file.bytes);
            let fits = |listed: &&&Listed| listed.sha256 == file.sha256 && size_fits(listed);
            // Formats of one name differ in their folders, which files lose when they are copied.
            let Some(listed) = named.iter().find(fits).or(named.first()) else {
                unlisted.push(format!("{name} is not in the manifest"));
                continue;
            };
            let size = listed.bytes.filter(|_| !size_fits(listed));
            let found = file.sha256.map(|digest| digest.to_string());
            match (listed.sha256, size) {
                (sha256, Some(bytes)) => {
                    let digest = sha256.map_or_else(|| "a file".to_owned(), |digest| digest.to_string());
                    let expected = Some(format!("{digest} of {bytes} bytes"));
                    report.digest((What::File, &name), "sha256", expected, found);
                }
                (Some(digest), None) => {
                    report.digest((What::File, &name), "sha256", Some(digest.to_string()), found);
                }
                (None, None) => report.unchecked.push(format!("the manifest has no sha256 of {name}")),
            }
        }
        let listed = |part: &PathBuf| self.files.iter().find(|listed| base(&listed.path) == base_of(part));
        for (part, listed) in absent_parts(inspection).iter().filter_map(|part| Some((part, listed(part)?))) {
            let digest = listed.sha256.map_or_else(|| "a file".to_owned(), |digest| digest.to_string());
            report.digest((What::File, &base_of(part)), "sha256", Some(digest), None);
        }
        if unlisted.len() == inspection.files.len() {
            unlisted = vec!["the manifest names no file of this artifact".to_owned()];
        }
        report.unchecked.append(&mut unlisted);
        report
    }
}

impl FromIterator<Listed> for Formats {
    fn from_iter<I: IntoIterator<Item = Listed>>(files: I) -> Self {
        Self { files: files.into_iter().collect() }
    }
}

fn listed(place: usize, item: &Value) -> Result<Listed, String> {
    let bad = |what: &str| format!("formats[{place}] {what}");
    let first =
        |keys: [&str; 3]| keys.into_iter().find_map(|key| item.get(key)).filter(|value| !value.is_null());
    let path = first(["path", "file_path", "file"]).and_then(Value::as_str);
    let path = path.ok_or_else(|| bad("has no path"))?;
    // A careless reader would open it.
    let within =
        Path::new(path).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if path.is_empty() || !within || path.contains(['\\', '\0']) {
        return Err(bad(&format!("names a path outside of its folder: {path:?}")));
    }
    let sha256 = item.get("sha256").filter(|value| !value.is_null());
    let sha256 = sha256.map(|digest| digest.as_str().and_then(|digest| digest.parse().ok()));
    if sha256 == Some(None) {
        return Err(bad("has a sha256 that is none"));
    }
    let bytes = first(["size_bytes", "file_size_bytes", "bytes"]).map(Value::as_u64);
    if bytes == Some(None) {
        return Err(bad("has a size that is no number of bytes"));
    }
    Ok(Listed { path: path.to_owned(), sha256: sha256.flatten(), bytes: bytes.flatten() })
}
