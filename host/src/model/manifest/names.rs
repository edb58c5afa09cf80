//! Files that are called after their digest: blobs of the Hugging Face cache and of ollama.

use std::path::Path;

use super::{Report, What, base_of};
use crate::digest::GitBlob;
use crate::domain::Problem;
use crate::domain::inspection::{Finding, Inspection};
use crate::model::finding::Code;
use crate::model::source::{ReadAt as _, SourceFile};

/// Compares files with what their own names say. Large files of the Hugging Face cache are
/// called after their SHA-256, small ones after the SHA-1 of their git blob, those of ollama
/// `sha256-` and the digest, all in a folder `blobs`.
///
/// # Errors
/// A file cannot be read again.
pub fn check_names(inspection: &Inspection) -> Result<Report, Problem> {
    let mut report = Report::default();
    for file in &inspection.files {
        let Ok(path) = file.path.canonicalize() else { continue };
        let Some((digest, kind)) = of_blob(&path) else { continue };
        let (algorithm, found) = match kind {
            Kind::Sha256 => ("sha256", file.sha256.map(|digest| digest.to_string())),
            Kind::GitBlob => ("git-blob", Some(git_blob(&path)?)),
        };
        // People know it by the name that leads to the blob.
        let known = inspection.name_of(file);
        report.digest((What::File, &known), algorithm, Some(digest), found);
        if let Some(checked) = report.checked.last_mut().filter(|_| known != base_of(&path)) {
            checked.detail = Some(format!("its blob is called {}", base_of(&path)));
        }
    }
    Ok(report)
}

/// Adds what a full pass shows of blobs that are called after another SHA-256 than theirs.
pub fn hold_to_names(inspection: &mut Inspection) {
    for file in &inspection.files {
        let Some(found) = file.sha256.map(|digest| digest.to_string()) else { continue };
        let Some((name, Kind::Sha256)) = file.path.canonicalize().ok().and_then(|path| of_blob(&path)) else {
            continue;
        };
        if found != name {
            let message = format!("the blob is called after the SHA-256 {name} and has {found}");
            let finding = Finding { part: Some(base_of(&file.path)), ..Code::NameDigest.finding(message) };
            inspection.findings.insert(0, finding);
        }
    }
    inspection.status = Inspection::status_of(&inspection.findings);
}

enum Kind {
    Sha256,
    GitBlob,
}

/// The digest in the name of a file, if it is a blob. `path` is canonical.
fn of_blob(path: &Path) -> Option<(String, Kind)> {
    path.parent().filter(|folder| folder.ends_with("blobs"))?;
    let name = base_of(path);
    let digest = name.strip_prefix("sha256-").unwrap_or(&name);
    let is_hex = digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let kind = match digest.len() {
        64 if is_hex => Kind::Sha256,
        40 if is_hex => Kind::GitBlob,
        _ => return None,
    };
    Some((digest.to_owned(), kind))
}

fn git_blob(path: &Path) -> Result<String, Problem> {
    let failed = |error: std::io::Error| Problem::io("read", path, &error);
    let source = SourceFile::open(path).map_err(failed)?;
    let mut stream = GitBlob::new(source.size());
    let mut buffer = vec![0; 1 << 20];
    let mut done = 0;
    while done < source.size() {
        let length = (1 << 20).min(source.size() - done);
        let room = buffer.get_mut(..usize::try_from(length).unwrap_or(0)).unwrap_or_default();
        source.read_at(room, done).map_err(failed)?;
        stream.update(room);
        done += length;
    }
    Ok(stream.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::inspection::{FileRecord, Status};
    use crate::model::inspect::unexamined;

    #[test]
    fn blobs_are_held_to_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = folder.path().join("blobs");
        std::fs::create_dir(&blobs).unwrap();
        let own = crate::digest::sha256(b"x");
        let other = "0".repeat(64);
        for (name, right) in [
            (own.to_string(), true),
            (format!("sha256-{own}"), true),
            (other.clone(), false),
            (format!("sha256-{other}"), false),
            // What is no digest says nothing.
            ("0".repeat(63), true),
            (format!("sha512-{other}"), true),
        ] {
            let path = blobs.join(&name);
            std::fs::write(&path, b"x").unwrap();
            let mut inspection = unexamined(&path);
            inspection.files.push(FileRecord { path, bytes: 1, sha256: Some(own) });
            hold_to_names(&mut inspection);
            assert_eq!(inspection.status == Status::Accept, right, "{name}");
            assert_eq!(inspection.findings.is_empty(), right, "{name}");
        }
    }
}
