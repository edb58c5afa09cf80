//! The bundles of judged assays: one file each in the state folder, within the space they may take.
//!
//! A bundle is on the disk before the assay is told to be done, and an assay whose bundle could
//! not be kept says so in its report. Invariants: ids order files by time, so the oldest go
//! first; what an earlier daemon left half-written is removed at the start.

use std::path::PathBuf;
use std::sync::Once;

use uuid::Uuid;

use super::config::Config;
use crate::api::bundle_path;
use crate::assay::Report;
use crate::assay::bundle::BundleWriter;
use crate::digest::SigningKey;
use crate::domain::Problem;
use crate::plugin::PluginSet;
use crate::store::keyring::Keyring;

/// The folder, and what new files of it are signed with.
#[derive(Debug)]
pub struct Bundles {
    folder: PathBuf,
    /// Most bytes of all files together.
    limit: u64,
    signer: Option<SigningKey>,
    swept: Once,
}

impl Bundles {
    /// The folder of a configuration; `None` if it keeps none.
    ///
    /// # Errors
    /// The local key cannot be used.
    pub fn open(config: &Config) -> Result<Option<Self>, Problem> {
        if config.bundles == 0 {
            return Ok(None);
        }
        let signer = Keyring::of_user(|name| std::env::var_os(name)).own()?;
        Ok(Some(Self { folder: config.bundle_folder(), limit: config.bundles, signer, swept: Once::new() }))
    }

    /// Makes the folder and removes what is half-written in it. Only for who holds the state folder.
    fn sweep(&self) {
        if let Err(error) = std::fs::create_dir_all(&self.folder) {
            tracing::warn!(folder = %self.folder.display(), %error, "bundles cannot be kept");
        }
        for (path, _) in self.files() {
            if path.extension().is_some_and(|extension| extension == "tmp") {
                let _ = std::fs::remove_file(path);
            }
        }
    }

    /// Runs an assay that keeps its evidence. A verdict without its bundle is still a verdict,
    /// and its report says that the bundle could not be kept; without a comparison there is none.
    pub fn around(
        &self,
        assay: Uuid,
        plugins: &PluginSet,
        run: impl FnOnce(Option<&BundleWriter>) -> Report,
    ) -> Report {
        // Now, not at the start: by now this daemon holds the folder.
        self.swept.call_once(|| self.sweep());
        let begun = BundleWriter::create(&bundle_path(&self.folder, assay), self.limit);
        let mut report = run(begun.as_ref().ok());
        if !report.success || report.model1.is_none() {
            return report;
        }
        let kept = begun.and_then(|bundle| bundle.finish(&report, plugins, self.signer.as_ref()));
        if let Err(problem) = kept {
            tracing::warn!(%assay, %problem, "a bundle was not kept");
            report.remarks.push(format!("bundle: not kept: {problem}"));
        }
        self.make_room();
        report
    }

    /// Removes the oldest until all fit.
    pub fn make_room(&self) {
        let mut files = self.files();
        files.retain(|(path, _)| path.extension().is_some_and(|extension| extension == "bundle"));
        files.sort();
        let mut total: u64 = files.iter().map(|(_, bytes)| bytes).sum();
        for (path, bytes) in files {
            if total <= self.limit {
                return;
            }
            match std::fs::remove_file(&path) {
                Ok(()) => total = total.saturating_sub(bytes),
                Err(error) => tracing::warn!(path = %path.display(), %error, "an old bundle stays"),
            }
        }
    }

    fn files(&self) -> Vec<(PathBuf, u64)> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?.len()))).collect()
    }
}

impl Config {
    /// Where bundles are kept.
    pub fn bundle_folder(&self) -> PathBuf {
        self.state.join("bundles")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first() {
        let folder = tempfile::tempdir().unwrap();
        let bundles =
            Bundles { folder: folder.path().to_owned(), limit: 25, signer: None, swept: Once::new() };
        let ids: Vec<Uuid> = (0..3).map(|_| Uuid::now_v7()).collect();
        for id in &ids {
            std::fs::write(bundle_path(folder.path(), *id), [0; 10]).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(3));
        }
        bundles.make_room();
        let there: Vec<bool> = ids.iter().map(|id| bundle_path(folder.path(), *id).exists()).collect();
        assert_eq!(there, [false, true, true]);
        std::fs::write(folder.path().join(".assayd-x.tmp"), b"half").unwrap();
        bundles.sweep();
        assert_eq!(bundles.files().len(), 2);
    }
}
