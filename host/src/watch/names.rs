//! What a file's name says: unfinished downloads and sidecars.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A sidecar of `NAME` is called `NAME` and this.
pub const SIDECAR_SUFFIX: &str = ".assay.toml";

/// Endings that downloaders and copiers give to files they are still writing.
const UNFINISHED: [&str; 10] = [
    ".part",
    ".partial",
    ".incomplete",
    ".tmp",
    ".temp",
    ".crdownload",
    ".download",
    ".aria2",
    ".filepart",
    ".!ut",
];

/// Whether the name says that the file is still being written; such files are left alone
/// until they are renamed. A leading dot counts: rsync and browsers write hidden files.
pub fn unfinished(path: &Path) -> bool {
    let Some(name) = path.file_name() else { return false };
    let name = name.to_string_lossy().to_lowercase();
    name.starts_with('.') || name.ends_with('~') || UNFINISHED.iter().any(|ending| name.ends_with(ending))
}

/// The places where the sidecar of an artifact may lie, the most precise first:
/// `model.gguf.assay.toml`, then `model.assay.toml`.
pub fn sidecar_of(artifact: &Path) -> Vec<PathBuf> {
    let named = |stem: &std::ffi::OsStr| {
        let mut name = OsString::from(stem);
        name.push(SIDECAR_SUFFIX);
        artifact.with_file_name(name)
    };
    let full = artifact.file_name().map(named);
    let short = artifact.file_stem().filter(|stem| Some(*stem) != artifact.file_name()).map(named);
    full.into_iter().chain(short).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_names() {
        for name in ["a.gguf.part", "a.GGUF.Incomplete", "x.tmp", ".a.gguf.Xy12", "a.gguf.crdownload", "a~"] {
            assert!(unfinished(Path::new("/m").join(name).as_path()), "{name}");
        }
        for name in ["a.gguf", "partial.gguf", "a.tmp.gguf", "part", "a.part.gguf"] {
            assert!(!unfinished(Path::new("/m").join(name).as_path()), "{name}");
        }
        assert!(!unfinished(Path::new("/tmp/.hidden/a.gguf")), "only the file's own name counts");
    }

    #[test]
    fn sidecars_by_full_name_then_stem() {
        let places = sidecar_of(Path::new("/m/a.b.gguf"));
        assert_eq!(places, [PathBuf::from("/m/a.b.gguf.assay.toml"), PathBuf::from("/m/a.b.assay.toml")]);
        assert_eq!(sidecar_of(Path::new("/m/folder")), [PathBuf::from("/m/folder.assay.toml")]);
    }
}
