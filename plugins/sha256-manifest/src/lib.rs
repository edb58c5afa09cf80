//! Hash check `sha256-manifest`: do the files have the SHA-256 that was published?
//!
//! Reads the manifests beside the artifact (and one given as a parameter): lines of
//! `sha256sum` (plain, binary and escaped), BSD lines `SHA256 (name) = digest`, and a
//! bare digest in `NAME.sha256`. Passed means that every file is listed and agrees; one
//! disagreement fails; a file that no manifest lists, or no manifest at all, is not
//! applicable, which never counts as passed.

mod manifest;

use assayd_plugin_sdk::{
    Check, DigestRequest, Finding, HashCheck, Model, Outcome, Refusal, Severity, export_hash_check,
};
use serde::Deserialize;

/// Parameters, all optional.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// The text of a manifest that the user trusts, besides those beside the artifact.
    pub manifest: Option<String>,
}

/// The check.
#[derive(Debug)]
pub struct Sha256Manifest;

/// What some manifest says about a file of the model.
struct Claim {
    file: usize,
    manifest: String,
    digest: [u8; 32],
}

/// Claims about the model's files in the order of the files, and complaints about lines
/// that could not be read.
fn claims(model: &Model, params: &Params) -> (Vec<Claim>, Vec<Finding>) {
    let given = params.manifest.as_deref().map(|text| ("the given manifest", text));
    let beside = model.manifests.iter().map(|m| (m.name.as_str(), m.text.as_str()));
    let (mut claims, mut findings) = (Vec::new(), Vec::new());
    for (name, text) in given.into_iter().chain(beside) {
        let parsed = manifest::parse(name, text);
        if let Some(line) = parsed.unreadable.first() {
            findings.push(Finding {
                code: "manifest-unreadable".into(),
                severity: Severity::Warning,
                message: format!(
                    "{name}: {} lines are no checksums, the first is line {line}",
                    parsed.unreadable.len()
                ),
                file: None,
            });
        }
        for entry in parsed.entries {
            let file = model.files.iter().position(|file| file.name == entry.name);
            if let Some(file) = file {
                claims.push(Claim { file, manifest: name.into(), digest: entry.digest });
            }
        }
    }
    claims.sort_by_key(|claim| claim.file);
    (claims, findings)
}

/// The files that some manifest speaks about, each once, ascending.
fn claimed_files(claims: &[Claim]) -> Vec<usize> {
    let mut files: Vec<usize> = claims.iter().map(|claim| claim.file).collect();
    files.dedup();
    files
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl HashCheck for Sha256Manifest {
    type Params = Params;

    fn plan(model: &Model, params: &Params) -> Result<Vec<DigestRequest>, Refusal> {
        let (claims, _) = claims(model, params);
        let request = |file| DigestRequest { file, algorithm: "sha256".into(), ranges: Vec::new() };
        Ok(claimed_files(&claims).into_iter().map(request).collect())
    }

    fn judge(model: &Model, digests: &[Vec<u8>], params: &Params) -> Result<Check, Refusal> {
        let (claims, mut findings) = claims(model, params);
        let files = claimed_files(&claims);
        if files.len() != digests.len() {
            return Err(Refusal::InvalidEvidence(format!(
                "{} digests for {} requests",
                digests.len(),
                files.len()
            )));
        }
        let mut failed = false;
        for (file, digest) in files.iter().zip(digests) {
            for claim in claims.iter().filter(|claim| claim.file == *file) {
                if digest.as_slice() != claim.digest {
                    failed = true;
                    findings.push(Finding {
                        code: "digest-mismatch".into(),
                        severity: Severity::Error,
                        message: format!(
                            "{} says sha256 {}, but the file has {}",
                            claim.manifest,
                            hex(&claim.digest),
                            hex(digest)
                        ),
                        file: Some(*file),
                    });
                }
            }
        }
        let unlisted: Vec<usize> = (0..model.files.len()).filter(|file| !files.contains(file)).collect();
        if !files.is_empty() {
            findings.extend(unlisted.iter().map(|&file| Finding {
                code: "digest-not-listed".into(),
                severity: Severity::Warning,
                message: "no manifest lists this file".into(),
                file: Some(file),
            }));
        }
        let outcome = match (failed, files.is_empty() || !unlisted.is_empty()) {
            (true, _) => Outcome::Failed,
            (false, true) => Outcome::NotApplicable,
            (false, false) => Outcome::Passed,
        };
        Ok(Check { outcome, findings })
    }
}

export_hash_check!(
    "sha256-manifest",
    Sha256Manifest,
    r#"{"type":"object","additionalProperties":false,"properties":{"manifest":{"type":["string","null"]}}}"#
);

#[cfg(test)]
mod tests {
    use assayd_plugin_sdk::{File, Manifest};

    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn check(files: &[&str], manifests: &[(&str, String)], digests: &[u8]) -> Check {
        let model = Model {
            name: "m".into(),
            files: files.iter().map(|name| File { name: (*name).into(), bytes: 9 }).collect(),
            manifests: manifests
                .iter()
                .map(|(name, text)| Manifest { name: (*name).into(), text: text.clone() })
                .collect(),
        };
        let plan = Sha256Manifest::plan(&model, &Params::default()).unwrap();
        assert_eq!(plan.len(), digests.len(), "{plan:?}");
        assert!(plan.iter().all(|request| request.algorithm == "sha256" && request.ranges.is_empty()));
        let digests: Vec<Vec<u8>> = digests.iter().map(|byte| vec![*byte; 32]).collect();
        Sha256Manifest::judge(&model, &digests, &Params::default()).unwrap()
    }

    fn codes(check: &Check) -> Vec<&str> {
        check.findings.iter().map(|finding| finding.code.as_str()).collect()
    }

    #[test]
    fn outcomes() {
        let sums = |text: String| [("SHA256SUMS", text)];
        let both = sums(format!("{A}  a.gguf\n{B} *./b.gguf\n{B}  elsewhere.bin\n"));
        let check_both = |digests: &[u8]| check(&["a.gguf", "b.gguf"], &both, digests);
        assert_eq!(check_both(&[0xaa, 0xbb]), Check { outcome: Outcome::Passed, findings: vec![] });
        let failed = check_both(&[0xaa, 0xaa]);
        assert_eq!((failed.outcome, codes(&failed)), (Outcome::Failed, vec!["digest-mismatch"]));
        assert_eq!(failed.findings[0].file, Some(1));

        let partly = check(&["a.gguf", "b.gguf"], &sums(format!("{A}  a.gguf\n")), &[0xaa]);
        assert_eq!((partly.outcome, codes(&partly)), (Outcome::NotApplicable, vec!["digest-not-listed"]));
        let partly_wrong = check(&["a.gguf", "b.gguf"], &sums(format!("{A}  a.gguf\n")), &[0xbb]);
        assert_eq!(partly_wrong.outcome, Outcome::Failed);

        let none = check(&["a.gguf"], &[], &[]);
        assert_eq!(none, Check { outcome: Outcome::NotApplicable, findings: vec![] });
        let garbage = check(&["a.gguf"], &sums("hello\nworld\n".into()), &[]);
        assert_eq!((garbage.outcome, codes(&garbage)), (Outcome::NotApplicable, vec!["manifest-unreadable"]));

        let contradiction = [("SHA256SUMS", format!("{A}  a.gguf")), ("a.gguf.sha256", B.to_owned())];
        assert_eq!(check(&["a.gguf"], &contradiction, &[0xaa]).outcome, Outcome::Failed);
    }

    #[test]
    fn a_missing_digest_is_an_error() {
        let model = Model {
            files: vec![File { name: "a".into(), bytes: 1 }],
            manifests: vec![Manifest { name: "a.sha256".into(), text: A.into() }],
            ..Model::default()
        };
        assert!(Sha256Manifest::judge(&model, &[], &Params::default()).is_err());
        let given = Params { manifest: Some(format!("{A}  a")) };
        let nothing_beside = Model { manifests: vec![], ..model };
        assert_eq!(Sha256Manifest::plan(&nothing_beside, &given).unwrap().len(), 1);
    }
}
