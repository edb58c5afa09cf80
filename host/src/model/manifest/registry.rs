//! Manifests of ollama (the layers of a model in Docker's format) and Git LFS pointers: what
//! a registry says that a blob's digest and size are.

use std::path::Path;

use serde_json::Value;

use super::{Report, What, base_of};
use crate::digest::sha256_file;
use crate::domain::inspection::Inspection;
use crate::domain::{Problem, Sha256};

/// The layer that is a model, in ollama's manifests.
const MODEL_LAYER: &str = "application/vnd.ollama.image.model";
/// Layers of a manifest that are looked at.
const LAYERS: usize = 1_000;

/// What a registry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    blobs: Vec<Blob>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Blob {
    kind: String,
    sha256: Sha256,
    bytes: u64,
}

impl Registry {
    pub(super) fn ollama(document: &Value) -> Result<Self, String> {
        let layers = document.get("layers").and_then(Value::as_array);
        let layers = layers
            .ok_or("it is JSON, and neither a manifest of ollama or of formats nor a sigstore bundle")?;
        if layers.len() > LAYERS {
            return Err(format!("it has more than {LAYERS} layers"));
        }
        let blob = |layer: &Value| {
            Some(Blob {
                kind: layer.get("mediaType")?.as_str()?.to_owned(),
                sha256: layer.get("digest")?.as_str()?.strip_prefix("sha256:")?.parse().ok()?,
                bytes: layer.get("size")?.as_u64()?,
            })
        };
        let blobs: Option<Vec<Blob>> = layers.iter().chain(document.get("config")).map(blob).collect();
        let blobs = blobs.ok_or("a layer has no media type, digest and size")?;
        if !blobs.iter().any(|blob| blob.kind == MODEL_LAYER) {
            return Err("none of its layers is a model".to_owned());
        }
        Ok(Self { blobs })
    }

    pub(super) fn lfs(text: &str) -> Result<Self, String> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        let sha256 = field("oid sha256:").and_then(|digest| digest.trim().parse().ok());
        let bytes = field("size ").and_then(|size| size.trim().parse().ok());
        let (Some(sha256), Some(bytes)) = (sha256, bytes) else {
            return Err("the Git LFS pointer has no oid sha256 and size".to_owned());
        };
        Ok(Self { blobs: vec![Blob { kind: MODEL_LAYER.to_owned(), sha256, bytes }] })
    }

    /// Compares the artifact's files with the model layers, and the other layers with the
    /// blobs that lie beside the file, if it is in ollama's folder of blobs.
    ///
    /// # Errors
    /// A blob cannot be read.
    pub fn check(&self, inspection: &Inspection) -> Result<Report, Problem> {
        let mut report = Report::default();
        let models: Vec<&Blob> = self.blobs.iter().filter(|blob| blob.kind == MODEL_LAYER).collect();
        for file in &inspection.files {
            let found = file.sha256.map(|digest| digest.to_string());
            let fits = |blob: &&&Blob| Some(blob.sha256) == file.sha256 && blob.bytes == file.bytes;
            let expected = models.iter().find(fits).or(models.first());
            let expected = expected.map(|blob| {
                if blob.bytes == file.bytes {
                    blob.sha256.to_string()
                } else {
                    format!("{} of {} bytes", blob.sha256, blob.bytes)
                }
            });
            report.digest((What::File, &base_of(&file.path)), "sha256", expected, found);
        }
        let folder = inspection.files.first().and_then(|file| file.path.canonicalize().ok());
        let folder = folder.as_deref().and_then(Path::parent).filter(|folder| folder.ends_with("blobs"));
        for blob in self.blobs.iter().filter(|blob| blob.kind != MODEL_LAYER) {
            let Some(folder) = folder else {
                report.remarks.push(format!("{} was not looked for: no folder of blobs", blob.kind));
                continue;
            };
            let path = folder.join(format!("sha256-{}", blob.sha256));
            let found = match path.exists() {
                true => Some(sha256_file(&path, &mut |_, _| {})?.to_string()),
                false => None,
            };
            report.digest((What::File, &blob.kind), "sha256", Some(blob.sha256.to_string()), found);
        }
        Ok(report)
    }
}
