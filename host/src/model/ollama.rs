//! Ollama's store: manifests, which name their blobs by digest.
//!
//! `manifests/HOST/NAMESPACE/MODEL/TAG` is JSON as container registries have it; each of its layers
//! is `blobs/sha256-HEX` beside `manifests`, and one of them holds the weights.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::domain::budget;

/// Media type of the layer with the weights.
const WEIGHTS: &str = "application/vnd.ollama.image.model";

#[derive(Deserialize)]
struct Manifest {
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
struct Layer {
    #[serde(rename = "mediaType")]
    media_type: String,
    digest: String,
}

/// A digest as a manifest has it; anything else could lead out of the store.
fn blob_name(digest: &str) -> Option<String> {
    let hex = digest.strip_prefix("sha256:")?;
    let hex = Some(hex).filter(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    Some(format!("sha256-{}", hex.to_ascii_lowercase()))
}

/// Is this the name of a blob that is still being downloaded?
pub(super) fn is_partial(name: &str) -> bool {
    name.strip_prefix("sha256-").and_then(|rest| rest.split_once('-')).is_some_and(|(_, rest)| {
        rest == "partial" || rest.strip_prefix("partial-").is_some_and(|part| part.parse::<u32>().is_ok())
    })
}

/// Where the weights of a manifest are, whether they are there or not. `None` if the file is no
/// manifest of a store.
pub(super) fn weights(path: &Path) -> Option<PathBuf> {
    let store = path.ancestors().skip(1).find(|folder| folder.ends_with("manifests"))?.parent()?;
    let blobs = Some(store.join("blobs")).filter(|blobs| blobs.is_dir())?;
    let mut text = Vec::new();
    File::open(path).ok()?.take(budget::CONFIG_BYTES).read_to_end(&mut text).ok()?;
    let manifest: Manifest = serde_json::from_slice(&text).ok()?;
    let layer = manifest.layers.iter().find(|layer| layer.media_type == WEIGHTS)?;
    Some(blobs.join(blob_name(&layer.digest)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_and_names() {
        let store = tempfile::tempdir().unwrap();
        let manifest = store.path().join("manifests/registry/library/m/latest");
        std::fs::create_dir_all(manifest.parent().unwrap()).unwrap();
        let write = |media: &str, digest: &str| {
            let layer = serde_json::json!({"mediaType": media, "digest": digest, "size": 1});
            std::fs::write(&manifest, serde_json::json!({"layers": [layer]}).to_string()).unwrap();
        };
        let hex = "0a".repeat(32);
        write(WEIGHTS, &format!("sha256:{hex}"));
        assert_eq!(weights(&manifest), None, "there is no store");
        let blobs = store.path().join("blobs");
        std::fs::create_dir(&blobs).unwrap();
        assert_eq!(weights(&manifest), Some(blobs.join(format!("sha256-{hex}"))));
        for digest in ["sha256:../../../../etc/passwd", "sha256:0a", "md5:0a", ""] {
            write(WEIGHTS, digest);
            assert_eq!(weights(&manifest), None, "{digest}");
        }
        write("application/vnd.ollama.image.template", &format!("sha256:{hex}"));
        assert_eq!(weights(&manifest), None);
        for (name, partial) in [
            ("sha256-0a-partial", true),
            ("sha256-0a-partial-12", true),
            ("sha256-0a-partial-x", false),
            ("sha256-0a", false),
            ("0a-partial", false),
        ] {
            assert_eq!(is_partial(name), partial, "{name}");
        }
    }
}
