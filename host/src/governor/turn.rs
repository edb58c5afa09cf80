//! Whose turn it is to load, among all processes of this user on the machine.
//!
//! Two that look at the same free memory and then both load would take it twice. The right to
//! load is a lock on a file, which the kernel takes back from whoever ends. Deliberately absent:
//! other users (their file would be theirs to hold for ever), and a promise of memory between
//! processes (what another one has loaded is seen as memory that is gone).

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The turn; dropping it passes it on. Where no file can be locked nobody is waited for.
#[derive(Debug)]
pub(super) struct Turn {
    _lock: Option<File>,
}

/// The file of this user: in the folder for such files, or in the one for temporary files.
pub(super) fn of_this_user() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| Path::new(folder).is_absolute()) {
        Some(folder) => Path::new(&folder).join("assayd.loading"),
        None => std::env::temp_dir().join(format!("assayd-{}.loading", rustix::process::geteuid().as_raw())),
    }
}

impl Turn {
    /// One that nobody else asks for.
    pub(super) fn free() -> Self {
        Self { _lock: None }
    }

    /// Takes it if nobody has it.
    pub(super) fn try_take(path: &Path) -> Option<Self> {
        let Some(file) = own_file(path) else { return Some(Self::free()) };
        match file.try_lock() {
            Ok(()) => Some(Self { _lock: Some(file) }),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Error(_)) => Some(Self::free()),
        }
    }
}

/// The file, made if it is not there; `None` if it is not this user's alone to lock.
fn own_file(path: &Path) -> Option<File> {
    let no_link = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(no_link.bits()).ok()?;
    let mut options = OpenOptions::new();
    let file =
        options.write(true).create(true).truncate(false).mode(0o600).custom_flags(flags).open(path).ok()?;
    let found = file.metadata().ok()?;
    let own = found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o077 == 0;
    (own && found.is_file()).then_some(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_it_at_a_time_and_what_is_not_ours_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("loading");
        let first = Turn::try_take(&path).unwrap();
        assert!(first._lock.is_some() && Turn::try_take(&path).is_none());
        drop(first);
        assert!(Turn::try_take(&path).unwrap()._lock.is_some());
        // Anybody could hold it, or it leads elsewhere, or it cannot be made.
        let (open, link) = (folder.path().join("open"), folder.path().join("link"));
        std::fs::write(&open, b"").unwrap();
        std::fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        for other in [open, link, folder.path().join("nowhere/loading"), folder.path().to_owned()] {
            assert!(Turn::try_take(&other).unwrap()._lock.is_none(), "{}", other.display());
        }
    }
}
