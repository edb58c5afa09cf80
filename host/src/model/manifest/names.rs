//! Files that are called after their digest: blobs of the Hugging Face cache and of ollama.

use std::path::Path;

use super::{Report, What, base_of};
use crate::digest::GitBlob;
use crate::domain::Problem;
use crate::domain::inspection::Inspection;
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
        if path.parent().is_none_or(|folder| !folder.ends_with("blobs")) {
            continue;
        }
        let name = base_of(&path);
        let digest = name.strip_prefix("sha256-").unwrap_or(&name);
        let is_hex = digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let (algorithm, found) = match digest.len() {
            64 if is_hex => ("sha256", file.sha256.map(|digest| digest.to_string())),
            40 if is_hex => ("git-blob", Some(git_blob(&path)?)),
            _ => continue,
        };
        // People know it by the name that leads to the blob.
        let known = inspection.name_of(file);
        report.digest((What::File, &known), algorithm, Some(digest.to_owned()), found);
        if let Some(checked) = report.checked.last_mut().filter(|_| known != name) {
            checked.detail = Some(format!("its blob is called {name}"));
        }
    }
    Ok(report)
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
