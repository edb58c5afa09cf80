//! Which files of a plugin folder may be used: those whose SHA-256 stands in the folder's
//! `plugins.lock`. Other bytes never reach the compiler, which is the most expensive thing
//! that hostile bytes could reach, and are listed as not used.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::load::PluginKind;
use crate::domain::budget::PLUGIN_LOCK_BYTES;
use crate::domain::{Problem, Sha256};

/// Name of the lock in a plugin folder.
pub const LOCK_FILE: &str = "plugins.lock";

/// What stands above the entries.
const HEADER: &str = "# Plugins of this folder that assayd may use. A changed file is a new one: look at it, then\n\
                      # run `assayd plugin trust FILE`. Deleting an entry takes the trust back.\n\n";

/// One trusted file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trusted {
    pub id: String,
    pub kind: PluginKind,
    pub sha256: Sha256,
}

/// The whole lock file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lock {
    #[serde(default)]
    plugin: Vec<Trusted>,
}

impl Lock {
    /// The lock of a folder; one without a lock trusts nothing.
    ///
    /// # Errors
    /// The file is there but cannot be read or understood.
    pub(super) fn of(folder: &Path) -> Result<Self, Problem> {
        let path = folder.join(LOCK_FILE);
        let mut text = String::new();
        let read =
            fs::File::open(&path).and_then(|file| file.take(PLUGIN_LOCK_BYTES + 1).read_to_string(&mut text));
        match read {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Problem::io("read", &path, &error)),
            Ok(_) => {}
        }
        let broken = |why: String| {
            Problem::usage(format!("{}: {why}", path.display()))
                .hint("repair or delete it, then trust the plugins again: assayd plugin trust FILE")
        };
        if text.len() as u64 > PLUGIN_LOCK_BYTES {
            return Err(broken(format!("more than {PLUGIN_LOCK_BYTES} bytes")));
        }
        toml::from_str(&text).map_err(|error| broken(error.message().to_owned()))
    }

    pub(super) fn trusts(&self, sha256: &Sha256) -> bool {
        self.plugin.iter().any(|trusted| trusted.sha256 == *sha256)
    }
}

/// Whether the lock of a folder names this digest.
///
/// # Errors
/// The lock is there but cannot be read or understood.
pub fn trusts(folder: &Path, sha256: &Sha256) -> Result<bool, Problem> {
    Ok(Lock::of(folder)?.trusts(sha256))
}

/// Adds a plugin to a folder's lock, in place of an earlier one of the same kind and id.
/// The new lock replaces the old one at once or not at all.
///
/// # Errors
/// The lock cannot be read or written.
pub fn trust(folder: &Path, entry: Trusted) -> Result<(), Problem> {
    let path = folder.join(LOCK_FILE);
    let mut lock = Lock::of(folder)?;
    lock.plugin.retain(|other| (other.kind, &other.id) != (entry.kind, &entry.id));
    lock.plugin.push(entry);
    lock.plugin.sort_by(|a, b| (a.kind, &a.id).cmp(&(b.kind, &b.id)));
    let text = toml::to_string(&lock)
        .map_err(|error| Problem::internal(format!("cannot write {LOCK_FILE}: {error}")))?;
    let written = tempfile::NamedTempFile::new_in(folder).and_then(|mut file| {
        file.write_all(HEADER.as_bytes())?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(&path).map_err(|error| error.error)
    });
    written.map(|_| ()).map_err(|error| Problem::io("write", &path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, byte: u8) -> Trusted {
        Trusted { id: id.into(), kind: PluginKind::Scorer, sha256: Sha256([byte; 32]) }
    }

    #[test]
    fn trust_is_kept_replaced_and_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!Lock::of(folder.path()).unwrap().trusts(&Sha256([1; 32])));
        trust(folder.path(), entry("a", 1)).unwrap();
        trust(folder.path(), entry("b", 2)).unwrap();
        trust(folder.path(), entry("a", 3)).unwrap();
        let lock = Lock::of(folder.path()).unwrap();
        assert_eq!([1, 2, 3].map(|byte| lock.trusts(&Sha256([byte; 32]))), [false, true, true]);
        fs::remove_file(folder.path().join(LOCK_FILE)).unwrap();
        assert_eq!(Lock::of(folder.path()).unwrap(), Lock::default());
    }

    #[test]
    fn a_lock_that_cannot_be_understood_trusts_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LOCK_FILE);
        let long = format!("#{}", "x".repeat(usize::try_from(PLUGIN_LOCK_BYTES).unwrap()));
        let half = "[[plugin]]\nid = \"a\"\nkind = \"scorer\"\nsha256 = \"00\"";
        for text in ["[[plugin]", half, "[[plugins]]", long.as_str()] {
            fs::write(&path, text).unwrap();
            assert!(Lock::of(folder.path()).is_err(), "{text:.40}");
            assert!(trust(folder.path(), entry("a", 1)).is_err());
        }
    }
}
