//! What was signed: names and digests of a model's files, against the files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::digest::{Sha256Stream, sha256_file, sha256_range};
use crate::domain::digest::from_hex;
use crate::domain::inspection::Inspection;
use crate::domain::{Problem, budget};
use crate::model::manifest::{Report, What};

const STATEMENT: &str = "https://in-toto.io/Statement/v1";
const PREDICATE: &str = "https://model_signing/signature/v1.0";

#[derive(Deserialize)]
struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    subject: Vec<Subject>,
    predicate: Predicate,
}

#[derive(Deserialize)]
struct Subject {
    digest: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Predicate {
    serialization: Serialization,
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Serialization {
    method: String,
    #[serde(default)]
    allow_symlinks: bool,
    #[serde(default)]
    ignore_paths: Vec<String>,
    /// Bytes; a JSON number that signers write with a point.
    shard_size: Option<f64>,
}

impl Serialization {
    /// Bytes of a shard; `None` where files are signed whole.
    fn shards(&self) -> Result<Option<u64>, String> {
        match (self.method.as_str(), self.shard_size) {
            ("files", _) => Ok(None),
            // Whole numbers up to 2^53 are exact.
            ("shards", Some(size))
                if size.fract() == 0.0 && (1.0..=9_007_199_254_740_992.0).contains(&size) =>
            {
                Ok(Some(size as u64))
            }
            ("shards", _) => Err("the signature is of shards, and does not say how long they are".to_owned()),
            (other, _) => Err(format!("the signature lists {other}, neither files nor shards")),
        }
    }
}

#[derive(Deserialize)]
struct Resource {
    name: String,
    algorithm: String,
    digest: String,
}

impl Resource {
    /// The file, and which of its bytes where it is a shard: `FILE:FROM:TO`.
    fn place(&self, shards: Option<u64>) -> Result<(&str, Option<Range<u64>>), String> {
        let Some(size) = shards else { return Ok((&self.name, None)) };
        let mut parts = self.name.rsplitn(3, ':');
        let mut number = || parts.next()?.parse::<u64>().ok();
        let (end, start) = (number(), number());
        match (parts.next(), start, end) {
            (Some(file), Some(start), Some(end)) if start <= end && end - start <= size => {
                Ok((file, Some(start..end)))
            }
            _ => Err(format!("{:?} does not name a shard of up to {size} bytes", self.name)),
        }
    }
}

/// Compares the artifact with a statement whose signature is valid.
///
/// # Errors
/// A file cannot be read.
pub(super) fn check(
    payload: &[u8],
    signature: &Path,
    inspection: &Inspection,
    report: &mut Report,
) -> Result<(), Problem> {
    let statement: Statement = match serde_json::from_slice(payload) {
        Ok(statement) => statement,
        Err(error) => {
            report.unchecked.push(format!("what was signed is no statement about a model: {error}"));
            return Ok(());
        }
    };
    let shards = match supported(&statement) {
        Ok(shards) => shards,
        Err(why) => {
            report.unchecked.push(why);
            return Ok(());
        }
    };
    let Predicate { serialization, resources } = statement.predicate;
    // The subject's digest is over the digests of all files, in their order.
    let mut stream = Sha256Stream::new();
    resources
        .iter()
        .filter_map(|resource| from_hex(&resource.digest))
        .for_each(|bytes| stream.update(&bytes));
    let subject = statement.subject.first().and_then(|subject| subject.digest.get("sha256")).cloned();
    report.digest((What::File, "all files together"), "sha256", subject, Some(stream.finish().to_string()));

    let whole = inspection.path.is_dir();
    let root = if whole { Some(inspection.path.as_path()) } else { inspection.path.parent() };
    let root = root.filter(|root| !root.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut listed = BTreeSet::new();
    // Files that are signed in shards, and how far their shards reach.
    let mut signed: BTreeMap<PathBuf, (&str, u64)> = BTreeMap::new();
    let mut others = BTreeSet::new();
    for resource in &resources {
        let (name, bytes) = match resource.place(shards) {
            Ok(place) => place,
            Err(why) => {
                report.unchecked.push(why);
                continue;
            }
        };
        let path = if name == "." { inspection.path.clone() } else { root.join(name) };
        let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        if name != "." && !plain {
            report.unchecked.push(format!("the signature names {name:?}, which leads out of the folder"));
            continue;
        }
        if !whole && !inspection.files.iter().any(|file| same(&file.path, &path)) {
            others.insert(name);
            continue;
        }
        listed.insert(path.clone());
        let known = inspection.files.iter().find(|file| same(&file.path, &path)).and_then(|file| file.sha256);
        let found = match (bytes, known) {
            (Some(bytes), _) => {
                let (_, end) = signed.entry(path.clone()).or_insert((name, 0));
                if bytes.start != *end {
                    report.unchecked.push(format!(
                        "the signature goes on with byte {} of {name:?} after byte {end}: shards follow one another",
                        bytes.start
                    ));
                    continue;
                }
                *end = bytes.end;
                if path.is_file() {
                    sha256_range(&path, bytes)?.map(|digest| digest.to_string())
                } else {
                    None
                }
            }
            (None, Some(digest)) => Some(digest.to_string()),
            (None, None) if path.is_file() => Some(sha256_file(&path, &mut |_, _| {})?.to_string()),
            (None, None) => None,
        };
        let expected = Some(resource.digest.to_ascii_lowercase());
        report.digest((What::File, &resource.name), "sha256", expected, found);
    }
    // Nobody vouches for what follows the last shard.
    for (path, (name, end)) in signed.iter().filter(|(path, _)| path.is_file()) {
        let size = fs::metadata(path).map_err(|error| Problem::io("read", path, &error))?.len();
        if size > *end {
            report.digest((What::File, name), "bytes", Some(end.to_string()), Some(size.to_string()));
        }
    }
    if !others.is_empty() {
        report.remarks.push(format!(
            "{} more signed files were not looked at; name the folder to check all of them",
            others.len()
        ));
    }
    let present = if whole {
        folder(root, &serialization, signature, report)?
    } else {
        inspection.files.iter().map(|file| file.path.clone()).collect()
    };
    for path in present.iter().filter(|path| !listed.iter().any(|listed| same(listed, path))) {
        let name = path.strip_prefix(root).unwrap_or(path).display().to_string();
        report.digest((What::File, &name), "sha256", None, Some("not signed".to_owned()));
    }
    Ok(())
}

/// Bytes of the shards that were signed, if it is not whole files; or what is not supported.
fn supported(statement: &Statement) -> Result<Option<u64>, String> {
    if statement.kind != STATEMENT || statement.predicate_type != PREDICATE {
        return Err(format!("what was signed is of the type {}", statement.predicate_type));
    }
    if statement.subject.len() != 1 {
        return Err("the signature has not exactly one subject".to_owned());
    }
    let Predicate { serialization, resources } = &statement.predicate;
    let shards = serialization.shards()?;
    let sharded = shards.map(|size| format!("sha256-sharded-{size}"));
    let other = |resource: &&Resource| {
        let known = resource.algorithm == "sha256" || sharded.as_ref() == Some(&resource.algorithm);
        !known || from_hex(&resource.digest).is_none_or(|bytes| bytes.len() != 32)
    };
    match resources.iter().find(other) {
        Some(resource) => {
            Err(format!("the digest of {} is {}, not sha256", resource.name, resource.algorithm))
        }
        None => Ok(shards),
    }
}

fn same(a: &Path, b: &Path) -> bool {
    let plain =
        |path: &Path| path.components().filter(|part| *part != Component::CurDir).collect::<PathBuf>();
    plain(a) == plain(b)
}

/// What a signature says to ignore, as a path below the folder, whatever the folder is called and
/// however it was named. What is no such path ignores nothing: the empty one would be everything.
fn within(path: &str) -> Option<PathBuf> {
    let mut out = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(part) => out.push(part),
            Component::CurDir => {}
            _ => return None,
        }
    }
    (!out.as_os_str().is_empty()).then_some(out)
}

/// The files of a folder, but for those that the signature says to ignore and itself.
fn folder(
    root: &Path,
    rules: &Serialization,
    signature: &Path,
    report: &mut Report,
) -> Result<Vec<PathBuf>, Problem> {
    let own = signature.canonicalize().ok();
    let ignorable: Vec<PathBuf> = rules.ignore_paths.iter().filter_map(|path| within(path)).collect();
    let ignored = |path: &Path| {
        let place = path.strip_prefix(root).unwrap_or(path);
        own.is_some() && path.canonicalize().ok() == own
            || ignorable.iter().any(|ignored| place.starts_with(ignored))
    };
    let (mut found, mut folders, mut seen) = (Vec::new(), vec![(root.to_owned(), 0)], 0);
    while let Some((folder, depth)) = folders.pop() {
        let failed = |error: std::io::Error| Problem::io("read", &folder, &error);
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let path = entry.path();
            seen += 1;
            if seen > budget::DISCOVER_ENTRIES || depth > budget::DISCOVER_DEPTH {
                report.unchecked.push("the folder holds too much to look at".to_owned());
                return Ok(found);
            }
            if ignored(&path) {
                continue;
            }
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_symlink() && !rules.allow_symlinks {
                report.unchecked.push(format!("{} is a symbolic link, which was not signed", path.display()));
            }
            if path.is_dir() && !kind.is_symlink() {
                folders.push((path, depth + 1));
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
