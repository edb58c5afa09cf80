//! Folders to settled artifacts.
//!
//! A thread lists the watched folders whenever the system reports a change and every
//! `rescan` besides (network file systems report nothing), and says of every artifact when
//! it has become quiet. What an artifact is (one file, a split set, a folder) is told by the
//! `discover` function that the owner hands in. Deliberately absent: opening model files,
//! and any memory across restarts; both belong to the owner.

mod names;
mod settle;
mod watcher;

use std::path::PathBuf;
use std::time::Duration;

pub use names::{SIDECAR_SUFFIX, sidecar_of, unfinished};
pub use settle::{FileStamp, Settled, Settler, WatchEvent};
pub use watcher::Watcher;

/// One artifact in a folder, as `discover` sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The file, the first part of a split set, or the model folder.
    pub path: PathBuf,
    /// All files that belong to it and are there.
    pub files: Vec<PathBuf>,
    /// Names of files that belong to it and are not there.
    pub missing: Vec<String>,
}

/// What one look at a folder found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    pub found: Vec<Found>,
    /// Files left alone, each with the reason.
    pub ignored: Vec<(PathBuf, String)>,
}

/// What to watch, and how patiently.
#[derive(Debug, Clone)]
pub struct WatchOptions {
    pub folders: Vec<PathBuf>,
    /// Size and time of every file must stay the same for so long.
    pub settle: Duration,
    /// Time between two looks when no change is reported.
    pub rescan: Duration,
}
