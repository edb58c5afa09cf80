//! Which file it is and in which state: so that the file that was judged is the file that was
//! loaded.
//!
//! Device and inode say which file a name means; size and both times say whether anything was
//! written to it. The time of the last change of the inode cannot be set back by its owner.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A file as it was at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    pub path: PathBuf,
    pub device: u64,
    pub inode: u64,
    pub bytes: u64,
    /// Nanoseconds since 1970 of the last write and of the last change of the inode.
    pub written: i128,
    pub changed: i128,
}

impl Stamp {
    /// # Errors
    /// The file cannot be looked at.
    pub fn of(path: &Path) -> std::io::Result<Self> {
        let data = std::fs::metadata(path)?;
        let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        Ok(Self {
            path: path.to_owned(),
            device: data.dev(),
            inode: data.ino(),
            bytes: data.len(),
            written: nanoseconds(data.mtime(), data.mtime_nsec()),
            changed: nanoseconds(data.ctime(), data.ctime_nsec()),
        })
    }

    /// What is different now; `None` if nothing is.
    pub fn difference(&self) -> Option<String> {
        let path = self.path.display();
        let now = match Self::of(&self.path) {
            Ok(now) => now,
            Err(error) => return Some(format!("{path} is not there any more: {error}")),
        };
        if (now.device, now.inode) != (self.device, self.inode) {
            return Some(format!("{path} is another file than the one that was judged"));
        }
        if now.bytes < self.bytes {
            return Some(format!("{path} shrank from {} to {} bytes", self.bytes, now.bytes));
        }
        if now.bytes > self.bytes {
            return Some(format!("{path} grew from {} to {} bytes", self.bytes, now.bytes));
        }
        (now != *self).then(|| format!("{path} was written to while it was judged"))
    }
}

/// Stamps of files, by absolute paths; those that cannot be looked at are left for their reader to complain about.
pub fn stamps<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Vec<Stamp> {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    paths.into_iter().filter_map(|path| Stamp::of(&absolute(path)).ok()).collect()
}

/// The first difference of all.
pub fn difference(stamps: &[Stamp]) -> Option<String> {
    stamps.iter().find_map(Stamp::difference)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_change_a_file_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let fresh = || {
            std::fs::write(&path, b"12345678").unwrap();
            let stamp = Stamp::of(&path).unwrap();
            assert_eq!(stamp.difference(), None);
            // The clock that stamps files ticks every few milliseconds.
            std::thread::sleep(std::time::Duration::from_millis(30));
            stamp
        };
        let stamp = fresh();
        std::fs::write(&path, b"1234").unwrap();
        assert!(stamp.difference().unwrap().contains("shrank from 8 to 4"));
        let stamp = fresh();
        std::fs::write(&path, b"123456789").unwrap();
        assert!(stamp.difference().unwrap().contains("grew"));
        let stamp = fresh();
        std::fs::write(&path, b"87654321").unwrap();
        assert!(stamp.difference().unwrap().contains("written to"));
        let stamp = fresh();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        assert!(stamp.difference().is_some(), "a time set back is a change too");
        let stamp = fresh();
        std::fs::write(dir.path().join("b"), b"12345678").unwrap();
        std::fs::rename(dir.path().join("b"), &path).unwrap();
        assert!(stamp.difference().unwrap().contains("another file"));
        std::fs::remove_file(&path).unwrap();
        assert!(difference(&[stamp]).unwrap().contains("not there"));
    }
}
