//! The plugins there are: those built into the binary, and those of a folder, which add
//! to them or take their place.
//!
//! A set never changes; reading a folder again makes a new one, and a job keeps the set
//! it started with. Building a set reads names only. A component is compiled when it is
//! first asked for, once, so that a daemon is ready at once.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use serde::{Deserialize, Serialize};
use wasmtime::Store;
use wasmtime::component::Instance;

use super::bindings::assay::plugin::types::PluginInfo;
use super::decider::Decider;
use super::engine::{CallState, Exports, Loaded, Runtime, Usage};
use super::fault::{FaultClass, LoadError, PluginFault};
use super::hash_check::HashCheck;
use super::load::{PluginKind, SectionInfo, inspect, is_id, load};
use super::lock::Lock;
use super::report::Report;
use super::scorer::Scorer;
use crate::digest::sha256;
use crate::domain::budget::{PLUGIN_FILE_BYTES, PLUGIN_FOLDER_FILES, PluginLimits};
use crate::domain::{Problem, ProblemKind, Sha256};

mod builtin {
    //! Components of `plugins/`, packed by the build script.
    include!(concat!(env!("OUT_DIR"), "/builtin.rs"));
}

/// Where a plugin comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Part of this binary.
    Builtin,
    /// A file of the plugin folder.
    File(PathBuf),
}

/// What is known of a plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginRecord {
    pub id: String,
    pub kind: PluginKind,
    pub version: String,
    pub sha256: Sha256,
    pub origin: Origin,
    pub summary: String,
    /// Version of `assay:plugin` it was built against.
    pub interface: String,
}

/// A file of the plugin folder that is not used, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    pub path: PathBuf,
    pub sha256: Option<Sha256>,
    pub why: String,
    pub hint: Option<String>,
}

#[derive(Debug)]
struct Slot {
    kind: PluginKind,
    id: String,
    interface: String,
    sha256: Sha256,
    origin: Origin,
    /// What its custom section says; without one it has to be asked.
    info: Option<SectionInfo>,
    bytes: Cow<'static, [u8]>,
    loaded: OnceLock<Result<Known, LoadError>>,
}

#[derive(Debug, Clone)]
struct Known {
    loaded: Arc<Loaded>,
    version: String,
    summary: String,
    params_schema: String,
    probe: Usage,
}

/// What a plugin said when it was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    pub record: PluginRecord,
    /// JSON Schema of its parameters as text; empty if it takes none.
    pub params_schema: String,
    /// What its first call took.
    pub probe: Usage,
}

impl Slot {
    fn new(bytes: Cow<'static, [u8]>, origin: Origin, fallback_id: &str) -> Result<Self, LoadError> {
        let blueprint = inspect(&bytes)?;
        let id = blueprint.info.as_ref().map_or(fallback_id, |info| &info.id).to_owned();
        Ok(Self {
            kind: blueprint.kind,
            id,
            interface: blueprint.interface,
            sha256: sha256(&bytes),
            origin,
            info: blueprint.info,
            bytes,
            loaded: OnceLock::new(),
        })
    }

    fn label(&self) -> String {
        format!("{} {}", self.kind.as_str(), self.id)
    }

    fn known(&self, runtime: &Arc<Runtime>) -> Result<&Known, PluginFault> {
        let known = self.loaded.get_or_init(|| {
            let (loaded, info, probe) = load(runtime, self.kind, &self.id, &self.bytes)?;
            let PluginInfo { version, summary, params_schema, .. } = info;
            Ok(Known { loaded, version, summary, params_schema, probe })
        });
        known.as_ref().map_err(|error| PluginFault {
            plugin: self.label(),
            call: "loading",
            class: FaultClass::NotLoadable(error.clone()),
            log: Box::default(),
        })
    }

    fn record(&self, runtime: &Arc<Runtime>) -> PluginRecord {
        let (version, summary) = match (&self.info, self.loaded.get()) {
            (Some(info), _) => (info.version.clone(), info.summary.clone()),
            (None, _) => match self.known(runtime) {
                Ok(known) => (known.version.clone(), known.summary.clone()),
                Err(fault) => ("n/a".into(), fault.class.to_string()),
            },
        };
        PluginRecord {
            id: self.id.clone(),
            kind: self.kind,
            version,
            sha256: self.sha256,
            origin: self.origin.clone(),
            summary,
            interface: self.interface.clone(),
        }
    }
}

/// A loaded plugin and the means to call it.
#[derive(Debug)]
pub(super) struct Ready {
    runtime: Arc<Runtime>,
    loaded: Arc<Loaded>,
    label: String,
    used: Mutex<Usage>,
}

impl Ready {
    pub(super) fn call<R: Send + 'static>(
        &self,
        call: &'static str,
        limits: PluginLimits,
        body: impl FnOnce(&mut Store<CallState>, &Instance, &Exports) -> wasmtime::Result<Result<R, FaultClass>>
        + Send
        + 'static,
    ) -> Result<(R, Usage), PluginFault> {
        let answer = self.runtime.call(&self.loaded, &self.label, call, limits, body);
        if let Ok((_, usage)) = &answer {
            let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
            used.fuel = used.fuel.saturating_add(usage.fuel);
            used.memory_bytes = used.memory_bytes.max(usage.memory_bytes);
            used.log.clone_from(&usage.log);
        }
        answer
    }

    /// Fuel of all answered calls, most memory of one, and the log of the last.
    pub(super) fn used(&self) -> Usage {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn fault(&self, call: &'static str, class: FaultClass) -> PluginFault {
        PluginFault { plugin: self.label.clone(), call, class, log: Box::default() }
    }
}

/// All plugins that may be used.
#[derive(Debug)]
pub struct PluginSet {
    runtime: Arc<Runtime>,
    /// Sorted by kind and id, each once.
    slots: Vec<Arc<Slot>>,
    skipped: Vec<Skipped>,
}

impl PluginSet {
    /// The plugins of this binary.
    ///
    /// # Errors
    /// No threads to be had, or a mistake of ours.
    pub fn builtin() -> Result<Self, Problem> {
        Self::with_folder(None)
    }

    /// The plugins of this binary and of a folder, where a file `*.wasm` adds to them or
    /// replaces the one of the same kind and id. Only files that the folder's lock trusts are
    /// used; the others and unusable ones are in [`Self::skipped`].
    ///
    /// # Errors
    /// The folder cannot be read, or as [`Self::builtin`].
    pub fn with_folder(folder: Option<&Path>) -> Result<Self, Problem> {
        Self::build(Arc::new(Runtime::start()?), folder)
    }

    /// The same plugins and what the folder holds now, as a new set on the same threads.
    ///
    /// # Errors
    /// As [`Self::with_folder`].
    pub fn again(&self, folder: Option<&Path>) -> Result<Self, Problem> {
        Self::build(Arc::clone(&self.runtime), folder)
    }

    fn build(runtime: Arc<Runtime>, folder: Option<&Path>) -> Result<Self, Problem> {
        let mut set = Self { runtime, slots: Vec::new(), skipped: Vec::new() };
        for (name, bytes) in builtin::BUILTIN {
            let slot = Slot::new(Cow::Borrowed(*bytes), Origin::Builtin, name);
            set.insert(slot.map_err(|error| Problem::internal(format!("the built-in {name}: {error}")))?);
        }
        if let Some(folder) = folder {
            set.read_folder(folder)?;
        }
        Ok(set)
    }

    /// This set with one more plugin, loaded at once: the file of a user who means just it,
    /// so no lock is asked.
    ///
    /// # Errors
    /// Why it cannot be loaded.
    pub fn and_file(mut self, path: &Path, bytes: Vec<u8>) -> Result<(Self, Described), LoadError> {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let slot = Slot::new(Cow::Owned(bytes), Origin::File(path.to_owned()), stem)?;
        let known = slot.known(&self.runtime).map_err(|fault| match fault.class {
            FaultClass::NotLoadable(error) => error,
            _ => LoadError::ProbeFailed(Box::new(fault)),
        })?;
        let (params_schema, probe) = (known.params_schema.clone(), known.probe.clone());
        let described = Described { record: slot.record(&self.runtime), params_schema, probe };
        self.insert(slot);
        Ok((self, described))
    }

    /// Exactly these components (id, the file they come from, bytes) as a new set on the same
    /// threads, without a built-in one beside them: what brings its own plugins is judged with
    /// those or not at all. No lock is asked; the caller says what it thinks of them. What is in this
    /// set byte for byte, and says its id itself, is compiled once for both.
    ///
    /// # Errors
    /// Why one cannot be a plugin.
    pub fn only(&self, plugins: Vec<(String, PathBuf, Vec<u8>)>) -> Result<Self, LoadError> {
        let mut set = Self { runtime: Arc::clone(&self.runtime), slots: Vec::new(), skipped: Vec::new() };
        for (id, path, bytes) in plugins {
            let digest = sha256(&bytes);
            match self.slots.iter().find(|slot| slot.info.is_some() && slot.sha256 == digest) {
                Some(slot) => set.share(Arc::clone(slot)),
                None => set.insert(Slot::new(Cow::Owned(bytes), Origin::File(path), &id)?),
            }
        }
        Ok(set)
    }

    /// A plugin's component.
    ///
    /// # Errors
    /// There is no such plugin.
    pub fn bytes(&self, kind: PluginKind, id: &str) -> Result<&[u8], Problem> {
        Ok(&self.slot(kind, id)?.bytes)
    }

    fn insert(&mut self, slot: Slot) {
        self.share(Arc::new(slot));
    }

    fn share(&mut self, slot: Arc<Slot>) {
        match self.slots.binary_search_by(|other| (other.kind, &other.id).cmp(&(slot.kind, &slot.id))) {
            Ok(at) => {
                if let Some(place) = self.slots.get_mut(at) {
                    *place = slot;
                }
            }
            Err(at) => self.slots.insert(at, slot),
        }
    }

    fn read_folder(&mut self, folder: &Path) -> Result<(), Problem> {
        let failed = |error: std::io::Error| Problem::io("read the plugin folder", folder, &error);
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|extension| extension == "wasm") {
                paths.push(path);
            }
        }
        let lock = Lock::of(folder)?;
        paths.sort();
        for path in paths.split_off(paths.len().min(PLUGIN_FOLDER_FILES)) {
            let why = format!("only the first {PLUGIN_FOLDER_FILES} files of a plugin folder are read");
            self.skipped.push(Skipped { path, sha256: None, why, hint: None });
        }
        for path in paths {
            match read_bounded(&path) {
                Err(error) => {
                    let why = error.to_string();
                    self.skipped.push(Skipped { path, sha256: None, why, hint: None });
                }
                Ok(bytes) => self.take(path, bytes, &lock),
            }
        }
        Ok(())
    }

    fn take(&mut self, path: PathBuf, bytes: Vec<u8>, lock: &Lock) {
        let digest = sha256(&bytes);
        let stem = path.file_stem().and_then(|stem| stem.to_str()).filter(|stem| is_id(stem));
        let Some(stem) = stem.map(str::to_owned) else {
            let why = "the file name without .wasm is its id: lower-case letters, digits and dashes".into();
            self.skipped.push(Skipped { path, sha256: Some(digest), why, hint: None });
            return;
        };
        let slot = if lock.trusts(&digest) {
            Slot::new(Cow::Owned(bytes), Origin::File(path.clone()), &stem)
        } else {
            Err(LoadError::NotPinned(digest))
        };
        match slot {
            Ok(slot) => self.insert(slot),
            Err(error) => {
                let hint = Some(error.hint().to_owned());
                self.skipped.push(Skipped { path, sha256: Some(digest), why: error.to_string(), hint });
            }
        }
    }

    /// Every plugin, by kind and id. Only plugins without the SDK's custom section are
    /// compiled for this.
    pub fn list(&self) -> Vec<PluginRecord> {
        self.slots.iter().map(|slot| slot.record(&self.runtime)).collect()
    }

    /// Files of the folder that are not used.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// What is known of one plugin.
    ///
    /// # Errors
    /// There is no such plugin.
    pub fn record(&self, kind: PluginKind, id: &str) -> Result<PluginRecord, Problem> {
        Ok(self.slot(kind, id)?.record(&self.runtime))
    }

    /// Compiles several plugins at once, on several threads.
    ///
    /// # Errors
    /// The first that is unknown or cannot be loaded.
    pub fn prepare(&self, wanted: &[(PluginKind, &str)]) -> Result<(), Problem> {
        let slots: Vec<&Arc<Slot>> =
            wanted.iter().map(|(kind, id)| self.slot(*kind, id)).collect::<Result<_, _>>()?;
        thread::scope(|scope| {
            let loading: Vec<_> =
                slots.iter().map(|slot| scope.spawn(|| slot.known(&self.runtime).map(|_| ()))).collect();
            for thread in loading {
                thread.join().map_err(|_| Problem::internal("loading a plugin failed"))??;
            }
            Ok(())
        })
    }

    /// The scorer of this id.
    ///
    /// # Errors
    /// There is none, or it cannot be loaded.
    pub fn scorer(&self, id: &str) -> Result<Scorer, Problem> {
        self.ready(PluginKind::Scorer, id).map(Scorer)
    }

    /// The decider of this id.
    ///
    /// # Errors
    /// There is none, or it cannot be loaded.
    pub fn decider(&self, id: &str) -> Result<Decider, Problem> {
        self.ready(PluginKind::Decider, id).map(Decider)
    }

    /// The hash check of this id.
    ///
    /// # Errors
    /// There is none, or it cannot be loaded.
    pub fn hash_check(&self, id: &str) -> Result<HashCheck, Problem> {
        self.ready(PluginKind::HashCheck, id).map(HashCheck)
    }

    /// The report format of this id.
    ///
    /// # Errors
    /// There is none, or it cannot be loaded.
    pub fn report(&self, id: &str) -> Result<Report, Problem> {
        self.ready(PluginKind::Report, id).map(Report)
    }

    fn slot(&self, kind: PluginKind, id: &str) -> Result<&Arc<Slot>, Problem> {
        self.slots.iter().find(|slot| slot.kind == kind && slot.id == id).ok_or_else(|| {
            let there: Vec<&str> =
                self.slots.iter().filter(|slot| slot.kind == kind).map(|slot| slot.id.as_str()).collect();
            Problem::new(ProblemKind::Usage, format!("there is no {} called {id:?}", kind.as_str()))
                .hint(format!("choose one of: {}", there.join(", ")))
        })
    }

    fn ready(&self, kind: PluginKind, id: &str) -> Result<Arc<Ready>, Problem> {
        let slot = self.slot(kind, id)?;
        let loaded = Arc::clone(&slot.known(&self.runtime)?.loaded);
        let (runtime, label) = (Arc::clone(&self.runtime), slot.label());
        Ok(Arc::new(Ready { runtime, loaded, label, used: Mutex::default() }))
    }
}

/// A whole regular file, refused if it is larger than a plugin may be.
///
/// # Errors
/// It cannot be read or is no file that a plugin could be.
pub fn read_plugin(path: &Path) -> Result<Vec<u8>, Problem> {
    read_bounded(path).map_err(|error| Problem::io("read", path, &error))
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let metadata = path.metadata()?;
    if !metadata.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(PLUGIN_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > PLUGIN_FILE_BYTES {
        return Err(std::io::Error::other(format!(
            "more than the {PLUGIN_FILE_BYTES} bytes a plugin may have"
        )));
    }
    Ok(bytes)
}
