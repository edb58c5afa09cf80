//! Runs every hash check over every artifact and takes the outcomes together: one failure
//! fails, one fault is a fault, and nothing to check against is never a pass.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use super::decision::HashChecks;
use super::draft::name_of;
use crate::digest::Sha256Stream;
use crate::domain::inspection::Inspection;
use crate::domain::{Problem, budget};
use crate::plugin::{DigestRequest, HashTarget, Outcome, PluginKind, PluginSet, TargetFile, TargetManifest};

/// The joint outcome, with notes for the report.
pub fn run<'a>(
    plugins: &PluginSet,
    artifacts: impl Iterator<Item = &'a Inspection>,
) -> (HashChecks, Vec<String>) {
    let mut joint = HashChecks::NotApplicable;
    let mut notes = Vec::new();
    let ids: Vec<String> =
        plugins.list().into_iter().filter(|r| r.kind == PluginKind::HashCheck).map(|r| r.id).collect();
    for artifact in artifacts {
        let target = target_of(artifact);
        for id in &ids {
            let outcome = check(plugins, id, artifact, &target, &mut notes);
            joint = worse(joint, outcome);
        }
    }
    (joint, notes)
}

fn check(
    plugins: &PluginSet,
    id: &str,
    artifact: &Inspection,
    target: &HashTarget,
    notes: &mut Vec<String>,
) -> HashChecks {
    let checked = plugins
        .hash_check(id)
        .and_then(|check| Ok(check.run(target, "", &mut |request| digest(artifact, request))?));
    match checked {
        Err(problem) => {
            notes.push(format!("hash check {id} of {}: {problem}", target.name));
            HashChecks::Fault
        }
        Ok(checked) => {
            notes.extend(
                checked.findings.iter().map(|found| format!("hash check {id}: {}", found.finding.message)),
            );
            match checked.outcome {
                Outcome::Passed => HashChecks::Passed,
                Outcome::Failed => HashChecks::Failed,
                Outcome::NotApplicable => HashChecks::NotApplicable,
            }
        }
    }
}

/// The outcome that weighs more.
fn worse(a: HashChecks, b: HashChecks) -> HashChecks {
    let weight = |outcome: HashChecks| match outcome {
        HashChecks::NotApplicable => 0,
        HashChecks::Passed => 1,
        HashChecks::Failed => 2,
        HashChecks::Fault => 3,
    };
    if weight(b) > weight(a) { b } else { a }
}

fn target_of(artifact: &Inspection) -> HashTarget {
    let files = artifact.files.iter().map(|file| TargetFile {
        name: name_of(&file.path),
        path: file.path.clone(),
        bytes: file.bytes,
    });
    let folder = if artifact.path.is_dir() { Some(artifact.path.as_path()) } else { artifact.path.parent() };
    HashTarget {
        name: name_of(&artifact.path),
        files: files.collect(),
        manifests: folder.map(manifests).unwrap_or_default(),
    }
}

/// Small text files of a folder whose names say that they hold checksums.
fn manifests(folder: &Path) -> Vec<TargetManifest> {
    // A bare file name has the empty path as its parent.
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let speaks_of_checksums = |name: &str| {
        let name = name.to_lowercase();
        ["sha256", "checksum", "manifest"].iter().any(|word| name.contains(word)) && !name.ends_with(".gguf")
    };
    let mut found: Vec<TargetManifest> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok().filter(|name| speaks_of_checksums(name))?;
            let metadata = entry.metadata().ok()?;
            if !metadata.is_file() || metadata.len() > budget::MANIFEST_BYTES {
                return None;
            }
            let mut text = String::new();
            File::open(entry.path()).ok()?.take(budget::MANIFEST_BYTES).read_to_string(&mut text).ok()?;
            Some(TargetManifest { name, text })
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found.truncate(budget::MANIFESTS);
    found
}

/// What a plan asks for; the whole file was digested by the inspection already.
fn digest(artifact: &Inspection, request: &DigestRequest) -> Result<Vec<u8>, Problem> {
    if request.algorithm != "sha256" {
        return Err(Problem::plugin(format!("digest algorithm {} is not offered", request.algorithm)));
    }
    let file = artifact
        .files
        .get(request.file)
        .ok_or_else(|| Problem::plugin(format!("there is no file number {}", request.file)))?;
    if request.ranges.is_empty() {
        let known = file.sha256.map(|digest| digest.0.to_vec());
        return known.ok_or_else(|| Problem::input(format!("{} was not digested", file.path.display())));
    }
    let failed = |error: &std::io::Error| Problem::io("read", &file.path, error);
    let mut source = File::open(&file.path).map_err(|error| failed(&error))?;
    let mut stream = Sha256Stream::new();
    let mut buffer = vec![0; 1 << 20];
    for &(offset, bytes) in &request.ranges {
        source.seek(SeekFrom::Start(offset)).map_err(|error| failed(&error))?;
        let mut left = bytes;
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let room = buffer.get_mut(..want).unwrap_or_default();
            source.read_exact(room).map_err(|error| failed(&error))?;
            stream.update(room);
            left -= want as u64;
        }
    }
    Ok(stream.finish().0.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_fails_and_nothing_is_not_a_pass() {
        use HashChecks::{Failed, Fault, NotApplicable, Passed};
        for (outcomes, joint) in [
            (vec![], NotApplicable),
            (vec![NotApplicable, Passed], Passed),
            (vec![Passed, Failed, Passed], Failed),
            (vec![Fault, Failed], Fault),
            (vec![NotApplicable], NotApplicable),
        ] {
            assert_eq!(outcomes.into_iter().fold(NotApplicable, worse), joint);
        }
    }

    #[test]
    fn only_checksum_files_are_manifests() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["SHA256SUMS", "model.gguf.sha256", "sha256-model.gguf", "notes.txt"] {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        let names: Vec<String> = manifests(folder.path()).into_iter().map(|m| m.name).collect();
        assert_eq!(names, ["SHA256SUMS", "model.gguf.sha256"]);
    }
}
