//! Writing a bundle: traces as they come, the rest when the report is done, and the name last.

use std::collections::HashMap;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::container::{MAGIC, Section, root_of, seal_body, write_record};
use crate::assay::report::Report;
use crate::assay::transcript;
use crate::digest::{PublicKey, SigningKey};
use crate::domain::{Problem, Sha256, budget};
use crate::plugin::{PluginKind, PluginSet};
use crate::store::atomic::{NewFile, Readers};

/// A finished bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    pub root: Sha256,
    pub bytes: u64,
    pub signed_by: Option<PublicKey>,
}

/// A bundle that is being written. Nothing is at its path until [`Self::finish`].
#[derive(Debug)]
pub struct BundleWriter {
    state: Mutex<State>,
    /// Most bytes of the file.
    limit: u64,
}

#[derive(Debug)]
struct State {
    file: NewFile,
    digests: Vec<Sha256>,
    /// The record of each trace.
    traces: HashMap<Sha256, usize>,
    bytes: u64,
    /// The first thing that went wrong; from then on nothing is written.
    failed: Option<Problem>,
}

impl BundleWriter {
    /// Begins a bundle that will be at `path` and have at most `limit` bytes.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn create(path: &Path, limit: u64) -> Result<Self, Problem> {
        let mut file = NewFile::create(path, Readers::Usual)?;
        file.file().write_all(MAGIC).map_err(|error| Problem::io("write", path, &error))?;
        let state = State {
            file,
            digests: Vec::new(),
            traces: HashMap::new(),
            bytes: MAGIC.len() as u64,
            failed: None,
        };
        Ok(Self { state: Mutex::new(state), limit: limit.min(budget::BUNDLE_BYTES) })
    }

    /// Keeps a trace, once however often it comes. What goes wrong is told by [`Self::finish`]:
    /// an assay does not stop for it.
    pub fn trace(&self, digest: &Sha256, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.failed.is_none() && !state.traces.contains_key(digest) {
            let record = state.digests.len();
            state.traces.insert(*digest, record);
            state.failed = state.put(Section::Evidence, bytes, self.limit).err();
        }
    }

    /// Where it is now, to come back to.
    pub fn mark(&self) -> Mark {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        Mark { bytes: state.bytes, records: state.digests.len() }
    }

    /// Forgets the traces that came after `mark`: of an attempt that counts for nothing.
    pub fn rewind(&self, mark: Mark) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.failed.is_none() {
            state.failed = state.rewind(mark).err();
        }
    }

    /// Adds plugins, transcript and report, seals and signs it, and puts it in its place.
    ///
    /// # Errors
    /// Anything on the way failed; then there is no bundle, nor half of one.
    pub fn finish(
        self,
        report: &Report,
        plugins: &PluginSet,
        signer: Option<&SigningKey>,
    ) -> Result<Sealed, Problem> {
        let limit = self.limit;
        let mut state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(problem) = state.failed.take() {
            return Err(problem);
        }
        for plugin in &report.plugins {
            let kind = PluginKind::ALL.into_iter().find(|kind| kind.as_str() == plugin.kind);
            if let Some(kind @ (PluginKind::Scorer | PluginKind::Decider)) = kind {
                state.put(Section::Plugin, plugins.bytes(kind, &plugin.id)?, limit)?;
            }
        }
        for leaf in transcript::leaves(report)? {
            state.put(Section::Transcript, &leaf, limit)?;
        }
        let json = serde_json::to_vec(report)
            .map_err(|error| Problem::internal(format!("the report has no JSON form: {error}")))?;
        state.put(Section::Report, &json, limit)?;
        let root = root_of(&state.digests);
        let seal = seal_body(&state.digests, signer);
        state.put(Section::Seal, &seal, limit)?;
        let State { file, bytes, .. } = state;
        file.commit()?;
        Ok(Sealed { root, bytes, signed_by: signer.map(SigningKey::public) })
    }
}

/// A place in a bundle that is being written.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    bytes: u64,
    records: usize,
}

impl State {
    fn rewind(&mut self, mark: Mark) -> Result<(), Problem> {
        self.traces.retain(|_, record| *record < mark.records);
        self.digests.truncate(mark.records);
        self.bytes = mark.bytes;
        let path = self.file.path().to_owned();
        let file = self.file.file();
        let cut = file.set_len(mark.bytes).and_then(|()| file.seek(SeekFrom::End(0)));
        cut.map(|_| ()).map_err(|error| Problem::io("write the bundle", &path, &error))
    }

    fn put(&mut self, section: Section, body: &[u8], limit: u64) -> Result<(), Problem> {
        // Section, length and digest around the body.
        self.bytes = self.bytes.saturating_add(body.len() as u64 + 37);
        let path = self.file.path().to_owned();
        if self.bytes > limit {
            return Err(Problem::machine(format!(
                "the bundle {} would have more than the {limit} bytes it may have",
                path.display()
            )));
        }
        if self.digests.len() >= budget::BUNDLE_RECORDS {
            return Err(Problem::machine(format!("the bundle {} has too many records", path.display())));
        }
        let digest = write_record(self.file.file(), section, body)
            .map_err(|error| Problem::io("write the bundle", &path, &error))?;
        self.digests.push(digest);
        Ok(())
    }
}
