//! What a full pass over a file found, kept for the next time, and the state of one that
//! was broken off.
//!
//! An entry is of one content as far as the file system can tell: path, device, inode, size,
//! and the times of the last change, together with everything else that the result depends
//! on. A file that changed less than [`SETTLED_SECONDS`] before its entry was written could
//! change again within the same tick of the clock, so such an entry is not used. An entry begins
//! with its own digest, so that one that a disk damaged is none. Who can write to the folder can
//! put anything there all the same: it belongs to the user alone. Judgements that others rely on
//! (`verify`, the daemon) are made without it.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::scan::{Scanned, Shelf, Tensors, Wanted};
use crate::digest::sha256_parts;
use crate::domain::inspection::Finding;
use crate::domain::{Sha256, budget};

/// Entries of another version mean nothing.
const VERSION: &str = concat!("assayd-pass-3-", env!("CARGO_PKG_VERSION"));
/// Time between the last change of a file and its entry.
const SETTLED_SECONDS: i64 = 2;

/// The entry of one pass over one file.
#[derive(Debug)]
pub(super) struct Kept {
    folder: PathBuf,
    name: String,
    /// When the file changed last, in seconds.
    changed: i64,
    /// Take nothing from the cache, only add to it.
    pub fresh: bool,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    scanned: Scanned,
    findings: Vec<Finding>,
}

impl Kept {
    /// `stamp` is the file's, `tensors` what its header says. `None` if the path cannot be
    /// made out.
    pub fn new(
        folder: &Path,
        path: &Path,
        stamp: [u64; 7],
        tensors: Tensors<'_>,
        wanted: Wanted<'_>,
    ) -> Option<Self> {
        let path = path.canonicalize().ok()?;
        let layout = serde_json::to_vec(&(stamp, tensors, wanted.others, wanted.prove)).ok()?;
        let length = (path.as_os_str().len() as u64).to_be_bytes();
        let key = sha256_parts(&[VERSION.as_bytes(), &length, path.as_os_str().as_bytes(), &layout]);
        let [_, _, _, modified, _, changed, _] = stamp.map(|number| i64::from_ne_bytes(number.to_ne_bytes()));
        Some(Self {
            folder: folder.to_owned(),
            name: key.to_string(),
            changed: modified.max(changed),
            fresh: false,
        })
    }

    fn path(&self, ending: &str) -> PathBuf {
        self.folder.join(format!("{}.{ending}", self.name))
    }

    /// What was found the last time, if the file cannot have changed since.
    pub fn load(&self) -> Option<(Scanned, Vec<Finding>)> {
        if self.fresh {
            return None;
        }
        if fs::metadata(self.path("json")).ok()?.mtime() < self.changed.saturating_add(SETTLED_SECONDS) {
            return None;
        }
        let Entry { scanned, findings } = serde_json::from_str(&self.read("json")?).ok()?;
        Some((scanned, findings))
    }

    /// Keeps what was found; a cache that cannot be written is no error.
    pub fn store(&self, scanned: &Scanned, findings: &[Finding]) {
        let entry = Entry { scanned: scanned.clone(), findings: findings.to_vec() };
        if let Ok(text) = serde_json::to_string(&entry) {
            let _ = self.write("json", &text);
        }
        let _ = fs::remove_file(self.path("part"));
    }

    fn write(&self, ending: &str, text: &str) -> io::Result<()> {
        make(&self.folder)?;
        prune(&self.folder)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        writeln!(file, "{}", self.digest(ending, text))?;
        file.write_all(text.as_bytes())?;
        file.persist(self.path(ending))?;
        Ok(())
    }

    /// What was written, if it still is what it was.
    fn read(&self, ending: &str) -> Option<String> {
        let mut text = String::new();
        File::open(self.path(ending)).ok()?.take(budget::PASS_ENTRY_BYTES).read_to_string(&mut text).ok()?;
        let (digest, text) = text.split_once('\n')?;
        (digest.parse() == Ok(self.digest(ending, text))).then(|| text.to_owned())
    }

    /// Of an entry under its name: one that came under another's is damaged, too.
    fn digest(&self, ending: &str, text: &str) -> Sha256 {
        sha256_parts(&[self.name.as_bytes(), ending.as_bytes(), text.as_bytes()])
    }
}

impl Shelf for Kept {
    fn take_up(&mut self) -> Option<String> {
        if self.fresh { None } else { self.read("part") }
    }

    fn put_down(&mut self, state: &str) {
        let _ = self.write("part", state);
    }
}

fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Can passes be kept in this folder?
///
/// # Errors
/// What stands in the way.
pub fn usable(folder: &Path) -> io::Result<()> {
    make(folder)?;
    tempfile::tempfile_in(folder).map(drop)
}

/// Makes room for one more entry: the oldest go.
fn prune(folder: &Path) -> io::Result<()> {
    let mut entries: Vec<(i64, PathBuf)> = fs::read_dir(folder)?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((entry.metadata().ok()?.mtime(), entry.path()))
        })
        .collect();
    if entries.len() < budget::PASS_ENTRIES {
        return Ok(());
    }
    entries.sort();
    let surplus = entries.len() + 1 - budget::PASS_ENTRIES;
    entries.iter().take(surplus).try_for_each(|(_, path)| fs::remove_file(path))
}
