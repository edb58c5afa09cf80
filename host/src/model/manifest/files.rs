//! Lines that give the SHA-256 of a file. Those about files of the artifact count; if it was a
//! folder that was asked about, so do those about every other file below it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::Path;

use super::place::{Places, absolute, after, path};
use super::{Report, Subject, What};
use crate::digest::sha256_file;
use crate::domain::inspection::FileRecord;
use crate::model::discover::within;

/// Compares, and counts the lines that are about other files.
pub(super) fn check(
    entries: &[(Subject, String)],
    list: &Path,
    places: &Places<'_>,
    report: &mut Report,
) -> usize {
    let listed = entries.iter().filter_map(|(subject, digest)| match subject {
        Subject::File(name) => Some((name, digest)),
        _ => None,
    });
    let listed: Vec<(&String, &String)> = listed.collect();
    let itself = absolute(list);
    let (mut named, mut others, mut read) = (BTreeSet::new(), 0, BTreeMap::new());
    for &(name, expected) in &listed {
        let place = places.of(name).unwrap_or_default();
        let below = places.whole().is_some_and(|whole| after(&place, whole).is_some());
        let found = match places.file(&place) {
            Some(file) => Ok(file.and_then(sha256)),
            None if place == itself => {
                let shown = places.shown(&place);
                report.remarks.push(format!("{shown} is the list, which cannot have its own digest"));
                continue;
            }
            None if below => read.entry(place.clone()).or_insert_with(|| digest(&place, places)).clone(),
            None => {
                others += 1;
                continue;
            }
        };
        match found {
            Ok(found) => {
                let what = (What::File, places.shown(&place));
                report.digest(what, "sha256", Some(expected.clone()), found);
            }
            Err(why) => report.unchecked.push(format!("{name} {why}")),
        }
        named.insert(place);
    }
    // A list of this program's own has all files of the artifact.
    let is_own = |(subject, _): &(Subject, _)| matches!(subject, Subject::Own(..) | Subject::Metadata(..));
    let own = entries.iter().any(is_own);
    let unlisted: Vec<(&String, &FileRecord)> =
        places.present().filter(|(place, _)| !named.contains(*place)).collect();
    match (listed.as_slice(), unlisted.as_slice()) {
        ([], _) => {}
        // A model that is one file may have been renamed since.
        ([(_, expected)], [(place, file)]) if own && named.is_empty() => {
            let what = (What::File, places.shown(place));
            report.digest(what, "sha256", Some((*expected).clone()), sha256(file));
            others = 0;
        }
        _ if named.is_empty() => {
            if own || listed.len() == entries.len() {
                report.unchecked.push("the list names no file of this artifact".to_owned());
            }
        }
        (_, unlisted) => {
            for (place, file) in unlisted {
                let shown = places.shown(place);
                if own {
                    report.digest((What::File, shown), "sha256", None, sha256(file));
                } else {
                    report.unchecked.push(format!("{shown} is not in the list"));
                }
            }
        }
    }
    others
}

fn sha256(file: &FileRecord) -> Option<String> {
    file.sha256.map(|digest| digest.to_string())
}

/// The SHA-256 of a file that is not the artifact's; none if it is not there. Whatever a list
/// names, nothing out of the folder is read.
fn digest(place: &str, places: &Places<'_>) -> Result<Option<String>, String> {
    if place.split('/').any(|part| part == "..") {
        return Err("leads out of the folder".to_owned());
    }
    let target = match path(place).canonicalize() {
        Ok(target) => target,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(format!("cannot be read: {error}")),
    };
    if !within(&path(places.whole().unwrap_or_default()), &target) {
        return Err("is a symbolic link that leads out of the folder".to_owned());
    }
    if !target.is_file() {
        return Err("is no regular file".to_owned());
    }
    let digest = sha256_file(&target, &mut |_, _| {});
    digest.map(|digest| Some(digest.to_string())).map_err(|problem| problem.message)
}
