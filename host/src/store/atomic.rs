//! Files that are there whole or not at all, and are on the disk when they are there.
//!
//! A file is written beside its place under a name of its own, fsynced, renamed, and then its
//! folder is fsynced; whatever breaks off before leaves the old file, or none.

use std::fs::{File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::domain::{Problem, ProblemKind};

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// As the user's umask says.
    Usual,
    /// The owner alone, whatever the umask.
    Owner,
}

/// A file that is being written and is not there yet. Dropping it leaves nothing behind.
#[derive(Debug)]
pub struct NewFile {
    file: NamedTempFile,
    path: PathBuf,
}

impl NewFile {
    /// Begins a file that will be at `path`.
    ///
    /// # Errors
    /// The folder is not there or cannot be written.
    pub fn create(path: &Path, readers: Readers) -> Result<Self, Problem> {
        let mode = match readers {
            Readers::Usual => 0o666,
            Readers::Owner => 0o600,
        };
        let file = tempfile::Builder::new()
            .prefix(".assayd-")
            .suffix(".tmp")
            .permissions(Permissions::from_mode(mode))
            .tempfile_in(folder_of(path))
            .map_err(|error| Problem::io("write", path, &error))?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Where it will be.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What to write to.
    pub fn file(&mut self) -> &mut File {
        self.file.as_file_mut()
    }

    /// Puts the file in its place, over what was there.
    ///
    /// # Errors
    /// The disk is full or failed; nothing changed.
    pub fn commit(self) -> Result<(), Problem> {
        let Self { file, path } = self;
        let done = file
            .as_file()
            .sync_all()
            .and_then(|()| file.persist(&path).map_err(|error| error.error))
            .and_then(|_| sync_folder(&path));
        done.map_err(|error| Problem::io("write", &path, &error))
    }

    /// Puts the file in its place unless something is there.
    ///
    /// # Errors
    /// Conflict: something is there. Else as [`Self::commit`].
    pub fn commit_new(self) -> Result<(), Problem> {
        let Self { file, path } = self;
        let done = file
            .as_file()
            .sync_all()
            .and_then(|()| file.persist_noclobber(&path).map_err(|error| error.error))
            .and_then(|_| sync_folder(&path));
        done.map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                Problem::new(ProblemKind::Conflict, format!("{} is there already", path.display()))
            }
            _ => Problem::io("write", &path, &error),
        })
    }
}

/// Writes a whole file in place of what was there.
///
/// # Errors
/// It cannot be written; nothing changed.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Problem> {
    let mut new = NewFile::create(path, Readers::Usual)?;
    new.file().write_all(bytes).map_err(|error| Problem::io("write", path, &error))?;
    new.commit()
}

/// The folder of a path; a bare name is in the working folder.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        let mut half = NewFile::create(&path, Readers::Usual).unwrap();
        half.file().write_all(b"hal").unwrap();
        drop(half);
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        let mut second = NewFile::create(&path, Readers::Owner).unwrap();
        second.file().write_all(b"three").unwrap();
        assert_eq!(second.commit_new().unwrap_err().kind, ProblemKind::Conflict);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no remains");
        assert!(write(&folder.path().join("none/b"), b"").is_err());
    }

    #[test]
    fn a_secret_is_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let new = NewFile::create(&path, Readers::Owner).unwrap();
        new.commit_new().unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}
