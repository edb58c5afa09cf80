//! Runs every hash check over every artifact and takes the outcomes together: one failure
//! fails, one fault is a fault, and nothing to check against is never a pass.
//!
//! Parameters that the user gives are about the candidate: its pinned root, the digests that
//! are allowed. A check that was given some and has nothing to say is a fault, too: somebody
//! relies on it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::decision::HashChecks;
use super::draft::name_of;
use super::report::{FuzzyHash, HashCheckReport};
use crate::digest::{Sha256Stream, TlshStream, sha256 as sha256_of, tlsh_distance, tlsh_similarity};
use crate::domain::inspection::Inspection;
use crate::domain::{Problem, budget};
use crate::model::source::{ReadAt as _, SourceFile};
use crate::model::{InspectOptions, fuzzy as model_fuzzy, inspect, manifest};
use crate::plugin::{
    DigestRequest, HashTarget, Origin, Outcome, PluginKind, PluginRecord, PluginSet, TargetFile,
    TargetManifest,
};

/// Parameters by plugin id.
type Given = BTreeMap<String, serde_json::Value>;

/// Are these parameters of hash checks that there are, and does each understand its own?
///
/// # Errors
/// Usage: there is no such hash check, or what it says of its parameters.
pub fn check(plugins: &PluginSet, given: &Given) -> Result<(), Problem> {
    for (id, params) in given {
        plugins.record(PluginKind::HashCheck, id)?;
        if !params.is_object() {
            let example = r#"for example {"weights_root": "..."} for root-pin"#;
            return Err(Problem::usage(format!("the parameters of the hash check {id} are not a table"))
                .hint(example));
        }
        let text = params.to_string();
        if text.len() > budget::HASH_PARAMS_BYTES {
            let most = budget::HASH_PARAMS_BYTES;
            return Err(Problem::usage(format!("the parameters of {id} are longer than {most} bytes")));
        }
        let wrong = |why: &dyn std::fmt::Display| Problem::usage(format!("hash check {id}: {why}"));
        plugins.hash_check(id)?.check_params(&text).map_err(|fault| match fault.hint() {
            Some(hint) => wrong(&fault).hint(hint),
            None => wrong(&fault),
        })?;
    }
    Ok(())
}

/// What came of all hash checks, with notes for people.
#[derive(Debug)]
pub struct Checked {
    pub joint: HashChecks,
    /// Checks that had something to say, or were given parameters.
    pub results: Vec<HashCheckReport>,
    pub notes: Vec<String>,
}

/// Runs every check over the candidate, with the parameters that are `given`, and over the
/// reference without any.
pub fn run(
    plugins: &PluginSet,
    reference: Option<&Inspection>,
    candidate: &Inspection,
    given: &Given,
) -> Checked {
    let mut all = Checked { joint: HashChecks::NotApplicable, results: Vec::new(), notes: Vec::new() };
    let checks: Vec<PluginRecord> =
        plugins.list().into_iter().filter(|check| check.kind == PluginKind::HashCheck).collect();
    let nothing = Given::new();
    for (artifact, given) in
        reference.map(|reference| (reference, &nothing)).into_iter().chain([(candidate, given)])
    {
        let target = target_of(artifact);
        for check in &checks {
            let (id, params) = (&check.id, given.get(&check.id).map(ToString::to_string));
            if target.manifests.is_empty() && only_reads_manifests(check, given) {
                continue;
            }
            let (outcome, said) = judged(plugins, id, artifact, &target, params.as_deref());
            all.joint = worse(all.joint, outcome);
            if params.is_none() && said.is_empty() && outcome == HashChecks::NotApplicable {
                continue;
            }
            all.notes.extend(said.iter().map(|said| format!("hash check {id} of {}: {said}", target.name)));
            if params.is_some() && outcome == HashChecks::Passed {
                all.notes.push(format!("hash check {id} of {}: passed", target.name));
            }
            all.results.push(HashCheckReport {
                plugin: id.clone(),
                artifact: target.name.clone(),
                params_sha256: params.map(|params| sha256_of(params.as_bytes())),
                outcome,
                said,
            });
        }
    }
    all
}

/// The checks of this binary know of nothing that an artifact could be compared with but the parameters
/// `given` and manifests, and are not even compiled where there are none; a user's own may bring its
/// list.
pub fn only_reads_manifests(check: &PluginRecord, given: &Given) -> bool {
    let builtin = check.kind == PluginKind::HashCheck && check.origin == Origin::Builtin;
    builtin && !given.contains_key(&check.id)
}

/// The outcome of one check of one artifact, and what it says.
fn judged(
    plugins: &PluginSet,
    id: &str,
    artifact: &Inspection,
    target: &HashTarget,
    params: Option<&str>,
) -> (HashChecks, Vec<String>) {
    let mut digests = |request: &DigestRequest| digest(target, Some(artifact), request);
    let checked = plugins
        .hash_check(id)
        .and_then(|check| Ok(check.run(target, params.unwrap_or_default(), &mut digests)?));
    let checked = match checked {
        Ok(checked) => checked,
        Err(problem) => return (HashChecks::Fault, vec![problem.to_string()]),
    };
    let mut said: Vec<String> = checked.findings.into_iter().map(|found| found.finding.message).collect();
    let outcome = match checked.outcome {
        Outcome::Passed => HashChecks::Passed,
        Outcome::Failed => HashChecks::Failed,
        Outcome::NotApplicable if params.is_some() => {
            said.push("it was given parameters, and they give it nothing to judge".to_owned());
            HashChecks::Fault
        }
        Outcome::NotApplicable => HashChecks::NotApplicable,
    };
    (outcome, said)
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
        name: artifact.name_of(file),
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
        ["sha256", "checksum", "manifest", ".hashes"].iter().any(|word| name.contains(word))
            && !name.ends_with(".gguf")
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

/// How near the samples of the weights are. It is told, and decides nothing.
pub fn fuzzy(reference: &Inspection, candidate: &Inspection) -> FuzzyHash {
    let samples = reference.digests.fuzzy.as_ref().zip(candidate.digests.fuzzy.as_ref());
    let alike = samples.filter(|(reference, candidate)| reference.algorithm == candidate.algorithm);
    let distance = alike.and_then(|(reference, candidate)| {
        tlsh_distance(reference.digest.as_deref()?, candidate.digest.as_deref()?)
    });
    FuzzyHash {
        algorithm: alike.map(|(reference, _)| reference.algorithm.clone()),
        distance,
        similarity: distance.map(tlsh_similarity),
        matches: distance.map(|distance| distance <= model_fuzzy::ALIKE),
    }
}

/// What a plan asks for, with what a full inspection found, if there was one. The digests
/// that are offered:
///
/// - `sha256` over ranges or the whole file: 32 bytes.
/// - `tlsh` over ranges of at most [`budget::TLSH_BYTES`]: the digest's 72 characters, or
///   nothing where there is none.
/// - `file-root`, `content-root`, `weights-root` of the artifact: 32 bytes, or nothing if it
///   is not whole.
/// - `list`: what `assayd hash` writes about the artifact, without the files.
///
/// # Errors
/// The request is for something else, or a file cannot be read.
pub fn digest(
    target: &HashTarget,
    artifact: Option<&Inspection>,
    request: &DigestRequest,
) -> Result<Vec<u8>, Problem> {
    let file = target
        .files
        .get(request.file)
        .ok_or_else(|| Problem::plugin(format!("there is no file number {}", request.file)))?;
    match (request.algorithm.as_str(), request.ranges.as_slice()) {
        ("sha256", []) => {
            let known = artifact.and_then(|artifact| artifact.files.get(request.file)?.sha256);
            match known {
                Some(digest) => Ok(digest.0.to_vec()),
                None => sha256(&file.path, &[(0, file.bytes)]),
            }
        }
        ("sha256", ranges) => sha256(&file.path, ranges),
        ("tlsh", ranges) => {
            let whole = [(0, file.bytes)];
            let ranges = if ranges.is_empty() { &whole[..] } else { ranges };
            let bytes = ranges.iter().fold(0u64, |sum, range| sum.saturating_add(range.1));
            if bytes > budget::TLSH_BYTES {
                let most = budget::TLSH_BYTES;
                return Err(Problem::plugin(format!(
                    "a fuzzy digest is over at most {most} bytes, not {bytes}"
                )));
            }
            let mut stream = TlshStream::default();
            stretches(&file.path, ranges, &mut |bytes| stream.update(bytes))?;
            Ok(stream.finish().unwrap_or_default().into_bytes())
        }
        (root @ ("file-root" | "content-root" | "weights-root" | "list"), []) => {
            let own;
            let artifact = match (artifact, target.files.as_slice()) {
                (Some(artifact), _) => artifact,
                (None, [only]) => {
                    own = inspect(&only.path, &InspectOptions { full: true }, &mut |_, _| {})?;
                    &own
                }
                (None, _) => return Err(Problem::plugin(format!("{root} is of one file here"))),
            };
            let digests = &artifact.digests;
            let of = match root {
                "file-root" => digests.file_root,
                "content-root" => digests.content_root,
                "weights-root" => digests.weights_root,
                _ => return list(artifact),
            };
            Ok(of.map(|root| root.0.to_vec()).unwrap_or_default())
        }
        (other, _) => Err(Problem::plugin(format!("digest algorithm {other} is not offered"))),
    }
}

fn list(artifact: &Inspection) -> Result<Vec<u8>, Problem> {
    let text = manifest::write_list(artifact);
    if text.len() > budget::HASH_LIST_BYTES {
        return Err(Problem::plugin(format!("{} has too many tensors to list", artifact.path.display())));
    }
    Ok(text.into_bytes())
}

fn sha256(path: &Path, ranges: &[(u64, u64)]) -> Result<Vec<u8>, Problem> {
    let mut stream = Sha256Stream::new();
    stretches(path, ranges, &mut |bytes| stream.update(bytes))?;
    Ok(stream.finish().0.to_vec())
}

fn stretches(path: &Path, ranges: &[(u64, u64)], each: &mut dyn FnMut(&[u8])) -> Result<(), Problem> {
    let failed = |error: &std::io::Error| Problem::io("read", path, error);
    let source = SourceFile::open(path).map_err(|error| failed(&error))?;
    let mut buffer = vec![0; 1 << 20];
    for &(offset, bytes) in ranges {
        let mut done = 0;
        while done < bytes {
            let length = (1 << 20).min(bytes - done);
            let room = buffer.get_mut(..usize::try_from(length).unwrap_or(0)).unwrap_or_default();
            source.read_at(room, offset.saturating_add(done)).map_err(|error| failed(&error))?;
            each(room);
            done += length;
        }
    }
    Ok(())
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
    fn what_is_passed_over_would_say_nothing() {
        let plugins = PluginSet::builtin().unwrap();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models/reference.gguf");
        let artifact = inspect(&path, &InspectOptions { full: true }, &mut |_, _| {}).unwrap();
        let target = HashTarget { manifests: Vec::new(), ..target_of(&artifact) };
        let passed_over = |check: &PluginRecord| only_reads_manifests(check, &Given::new());
        let passed_over: Vec<String> =
            plugins.list().into_iter().filter(passed_over).map(|check| check.id).collect();
        assert!(passed_over.len() >= 5, "{passed_over:?}");
        for id in passed_over {
            let (outcome, said) = judged(&plugins, &id, &artifact, &target, None);
            assert_eq!((outcome, said), (HashChecks::NotApplicable, vec![]), "{id}");
        }
        let bytes = plugins.bytes(PluginKind::HashCheck, "root-pin").unwrap().to_vec();
        let (_, users) = plugins.and_file(Path::new("root-pin.wasm"), bytes).unwrap();
        assert!(
            !only_reads_manifests(&users.record, &Given::new()),
            "a user's own is asked, whatever its name"
        );
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

    /// A manifest names a file that lies in a folder below by its way there.
    #[test]
    fn files_go_by_their_names_within_the_artifact() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("additional_chat_templates")).unwrap();
        for name in ["config.json", "model.safetensors", "additional_chat_templates/rag.jinja"] {
            std::fs::write(folder.path().join(name), "{}").unwrap();
        }
        let artifact = inspect(folder.path(), &InspectOptions::default(), &mut |_, _| {}).unwrap();
        let names: Vec<String> = target_of(&artifact).files.into_iter().map(|file| file.name).collect();
        assert_eq!(names, ["model.safetensors", "additional_chat_templates/rag.jinja", "config.json"]);
    }

    fn request(algorithm: &str, ranges: &[(u64, u64)]) -> DigestRequest {
        DigestRequest { file: 0, algorithm: algorithm.into(), ranges: ranges.to_vec() }
    }

    #[test]
    fn digests_that_are_offered() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models/reference.gguf");
        let artifact = inspect(&path, &InspectOptions { full: true }, &mut |_, _| {}).unwrap();
        let target = target_of(&artifact);
        let bytes = std::fs::read(&path).unwrap();
        let ask = |algorithm: &str, ranges: &[(u64, u64)]| {
            let with = digest(&target, Some(&artifact), &request(algorithm, ranges));
            let without = digest(&target, None, &request(algorithm, ranges));
            assert_eq!(with.is_ok(), without.is_ok(), "{algorithm}");
            assert_eq!(
                with.as_ref().ok(),
                without.as_ref().ok(),
                "{algorithm}: with and without an inspection"
            );
            with
        };
        assert_eq!(ask("sha256", &[]).unwrap(), crate::digest::sha256(&bytes).0);
        let joined = [&bytes[7..19], &bytes[1000..3000]].concat();
        assert_eq!(ask("sha256", &[(7, 12), (1000, 2000)]).unwrap(), crate::digest::sha256(&joined).0);
        assert_eq!(ask("weights-root", &[]).unwrap(), artifact.digests.weights_root.unwrap().0);
        assert_eq!(ask("file-root", &[]).unwrap(), artifact.digests.file_root.unwrap().0);
        assert_eq!(ask("content-root", &[]).unwrap(), artifact.digests.content_root.unwrap().0);
        assert!(String::from_utf8(ask("list", &[]).unwrap()).unwrap().contains("#tensor "));
        let mut stream = TlshStream::default();
        stream.update(&bytes);
        assert_eq!(ask("tlsh", &[]).unwrap(), stream.finish().unwrap().into_bytes());
        assert_eq!(ask("tlsh", &[(0, 10)]).unwrap(), b"", "too short");
        for (algorithm, ranges) in
            [("md5", &[][..]), ("list", &[(0, 1)]), ("sha256", &[(bytes.len() as u64, 1)])]
        {
            assert!(ask(algorithm, ranges).is_err(), "{algorithm}");
        }
        assert!(ask("tlsh", &[(0, budget::TLSH_BYTES + 1)]).is_err());
    }
}
