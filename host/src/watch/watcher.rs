//! The thread that looks.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use notify::{RecursiveMode, Watcher as _};

use super::settle::{Look, Sight};
use super::{FileStamp, Found, Listing, Settler, WatchEvent, WatchOptions, sidecar_of};
use crate::domain::Problem;

/// Least time between two looks: a download reports a change with every block it writes.
const PAUSE: Duration = Duration::from_millis(200);

/// Watches until it is dropped.
pub struct Watcher {
    /// Ends the thread when it goes away. `Option` so that it can go first.
    poke: Option<SyncSender<Poke>>,
    thread: Option<JoinHandle<()>>,
    _system: Option<notify::RecommendedWatcher>,
}

enum Poke {
    Changed,
    Stop,
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher").finish_non_exhaustive()
    }
}

impl Watcher {
    /// Starts to watch. `discover` lists one folder; `hear` is called on the watching thread,
    /// and returns false when nobody listens any more.
    pub fn start(
        options: WatchOptions,
        discover: impl Fn(&Path) -> Result<Listing, Problem> + Send + 'static,
        mut hear: impl FnMut(WatchEvent) -> bool + Send + 'static,
    ) -> Result<Self, Problem> {
        // Room for one: a poke says only that something changed, and two say no more.
        let (poke, poked) = sync_channel(1);
        let system = watch_system(&options.folders, poke.clone());
        let thread = std::thread::Builder::new()
            .name("watch".to_owned())
            .spawn(move || {
                let mut settler = Settler::new(options.settle);
                loop {
                    let began = Instant::now();
                    let look = look(&options.folders, &discover);
                    for event in settler.look(began, Instant::now(), look) {
                        if !hear(event) {
                            return;
                        }
                    }
                    let due = settler.next_due().map_or(options.rescan, |due| {
                        due.saturating_duration_since(Instant::now()).min(options.rescan)
                    });
                    match poked.recv_timeout(due.max(PAUSE)) {
                        // Let the changes that come in a bunch pass as one.
                        Ok(Poke::Changed) => std::thread::sleep(PAUSE),
                        Err(RecvTimeoutError::Timeout) => {}
                        Ok(Poke::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                    }
                }
            })
            .map_err(|error| Problem::machine(format!("cannot start the watching thread: {error}")))?;
        Ok(Self { poke: Some(poke), thread: Some(thread), _system: system })
    }

    /// Asks for a look soon.
    pub fn poke(&self) {
        if let Some(poke) = &self.poke {
            let _ = poke.try_send(Poke::Changed);
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self._system = None;
        if let Some(poke) = self.poke.take() {
            // Full means that the thread is about to look; it is only not waited for then.
            if poke.send(Poke::Stop).is_ok()
                && let Some(thread) = self.thread.take()
            {
                let _ = thread.join();
            }
        }
    }
}

/// Change reports of the operating system. None where it has none to give (too many
/// watches, a file system without them): the rescan still finds everything, only later.
fn watch_system(folders: &[PathBuf], poke: SyncSender<Poke>) -> Option<notify::RecommendedWatcher> {
    let hear = move |event: notify::Result<notify::Event>| {
        // Reading is no change, and our own reading would otherwise wake us for ever.
        if event.is_ok_and(|event| event.kind.is_access()) {
            return;
        }
        if let Err(TrySendError::Disconnected(_)) = poke.try_send(Poke::Changed) {
            tracing::debug!("a change after the end of watching");
        }
    };
    let mut watcher = notify::recommended_watcher(hear)
        .inspect_err(|error| tracing::warn!(%error, "no change reports; only rescans will find files"))
        .ok()?;
    for folder in folders {
        if let Err(error) = watcher.watch(folder, RecursiveMode::Recursive) {
            tracing::warn!(folder = %folder.display(), %error,
                "no change reports for this folder; only rescans will find files there");
        }
    }
    Some(watcher)
}

fn look(folders: &[PathBuf], discover: &impl Fn(&Path) -> Result<Listing, Problem>) -> Look {
    let mut look = Look::default();
    for folder in folders {
        match discover(folder) {
            Ok(listing) => {
                look.ignored.extend(listing.ignored);
                for found in listing.found {
                    match sight(found) {
                        Ok(Some(sight)) => look.sights.push(sight),
                        Ok(None) => {}
                        Err(refused) => look.ignored.push(refused),
                    }
                }
            }
            Err(problem) => look.troubles.push((folder.clone(), problem.message)),
        }
    }
    look
}

/// The files of an artifact as they are now. None when one vanished under the look: the
/// next look tells what is left. Err for what cannot be taken at all, with the reason.
fn sight(found: Found) -> Result<Option<Sight>, (PathBuf, String)> {
    if found.path.to_str().is_none() {
        return Err((found.path, "its name is not UTF-8; rename it".to_owned()));
    }
    let mut files = Vec::with_capacity(found.files.len());
    for path in found.files {
        match stamp(&path) {
            Ok(Some(stamp)) => files.push(stamp),
            Ok(None) => return Ok(None),
            Err(why) => return Err((found.path, why)),
        }
    }
    let sidecar = sidecar_of(&found.path).iter().find_map(|path| stamp(path).ok().flatten());
    Ok(Some(Sight { path: found.path, files, missing: found.missing, sidecar }))
}

fn stamp(path: &Path) -> Result<Option<FileStamp>, String> {
    match std::fs::metadata(path) {
        Ok(meta) => Ok(Some(FileStamp {
            path: path.to_owned(),
            bytes: meta.len(),
            modified_ns: i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
            inode: meta.ino(),
        })),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("it cannot be looked at: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::mpsc;

    use super::*;

    fn list(dir: &Path) -> Result<Listing, Problem> {
        let mut listing = Listing::default();
        let entries = std::fs::read_dir(dir).map_err(|error| Problem::io("list", dir, &error))?;
        for path in entries.flatten().map(|entry| entry.path()) {
            listing.found.push(Found { path: path.clone(), files: vec![path], missing: Vec::new() });
        }
        Ok(listing)
    }

    #[test]
    fn a_real_file_is_taken_after_its_last_write_and_missed_when_it_goes() {
        let dir = tempfile::tempdir().unwrap();
        let (say, heard) = mpsc::channel();
        // Much longer than the pauses between writes, which a loaded machine stretches.
        let settle = Duration::from_millis(2000);
        let options = WatchOptions {
            folders: vec![dir.path().to_owned()],
            settle,
            // Long: only the system's change reports can be as quick as this test wants.
            rescan: Duration::from_secs(60),
        };
        let watcher = Watcher::start(options, list, move |event| say.send(event).is_ok()).unwrap();
        // The file comes after the first look.
        std::thread::sleep(Duration::from_millis(300));
        let path = dir.path().join("m.gguf");
        let mut file = std::fs::File::create(&path).unwrap();
        let mut last_write = Instant::now();
        for _ in 0..6 {
            file.write_all(b"block").unwrap();
            file.flush().unwrap();
            last_write = Instant::now();
            std::thread::sleep(Duration::from_millis(200));
        }
        let next = |seconds| heard.recv_timeout(Duration::from_secs(seconds)).unwrap();
        assert_eq!(next(5), WatchEvent::Looked { troubled: Vec::new() });
        assert!(matches!(next(5), WatchEvent::Waiting { .. }));
        let WatchEvent::Settled(settled) = next(10) else { panic!("not settled") };
        assert_eq!(settled.files[0].bytes, 30, "taken with every block");
        assert!(last_write.elapsed() >= settle);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(next(5), WatchEvent::Gone { path });
        drop(watcher);
        assert!(heard.recv().is_err(), "the thread ended");
    }
}
