//! What the watcher sees and the inspector reads, to artifacts and to the assays that rules
//! and sidecars ask for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use uuid::Uuid;

use super::config::Chosen;
use super::inspector::{Inspected, Order};
use super::supervisor::Supervisor;
use crate::domain::inspection::Status;
use crate::domain::{Problem, budget};
use crate::engine::engine_for;
use crate::store::{Artifact, ArtifactState, Change, Stamp};
use crate::watch::{FileStamp, Settled, WatchEvent};

const NO_REFERENCE: &str =
    "inspected and measured only: no rule and no sidecar names a reference to compare it with";
const NOT_MEASURED: &str =
    "inspected only: no rule and no sidecar names a reference for it, and `measure` is off";
const NOT_RUN: &str =
    "inspected only: no rule and no sidecar names a reference for it, and no engine runs it";
const REFERENCE: &str = "the reference that a rule compares others with";
const REJECTED: &str = "not compared: it was rejected by its inspection";

/// What is to be done with an inspected artifact.
enum Choice {
    /// Nothing; the reason.
    Leave(String),
    /// Nothing yet; what is awaited.
    Wait(String),
    Compare(Chosen),
    /// There is nothing to compare it with.
    Measure,
}

impl Supervisor {
    pub(super) async fn seen(&mut self, event: WatchEvent) {
        if let (Some(shown), Some(path)) = (self.shown.as_mut(), path_of(&event)) {
            shown.insert(path.to_owned());
        }
        match event {
            WatchEvent::Waiting { path, files, why } => self.waits(path, &stamps(files), why).await,
            WatchEvent::Settled(settled) => self.settled(settled).await,
            WatchEvent::Ignored { path, why } => {
                self.change(path, ArtifactState::Ignored, Some(why)).await;
            }
            WatchEvent::Gone { path } => self.gone(path).await,
            WatchEvent::Trouble { folder, why } => {
                tracing::warn!(folder = %folder.display(), why, "a watched folder cannot be listed");
            }
            WatchEvent::Looked { troubled } => self.looked(&troubled).await,
        }
    }

    async fn waits(&mut self, path: PathBuf, now: &[Stamp], why: String) {
        // Known from before and unchanged (a restart, or a new sidecar): nothing is awaited.
        let known = self.artifacts.get(&path).is_some_and(|artifact| {
            let read = matches!(artifact.state, ArtifactState::Inspected | ArtifactState::Inspecting);
            read && artifact.stamps == now
        });
        if !known {
            self.change(path, ArtifactState::Waiting, Some(why)).await;
        }
    }

    async fn settled(&mut self, settled: Settled) {
        let path = settled.path;
        match settled.sidecar {
            Some(sidecar) => self.sidecars.insert(path.clone(), sidecar.path),
            None => self.sidecars.remove(&path),
        };
        let now = stamps(settled.files);
        let known = self.artifacts.get(&path);
        if known.is_some_and(|known| known.state == ArtifactState::Inspected && known.stamps == now) {
            return self.decide(&path, false).await;
        }
        let artifact = Artifact {
            state: ArtifactState::Inspecting,
            note: None,
            stamps: now.clone(),
            inspection: None,
            reference: None,
            updated_at: Timestamp::now(),
            ..known.cloned().unwrap_or_else(|| new(path.clone()))
        };
        tracing::info!(path = %path.display(), "settled; inspecting");
        let order = Order { artifact: artifact.id, path, stamps: now };
        self.record(artifact).await;
        self.inspector.order(order);
    }

    pub(super) async fn inspected(&mut self, inspected: Inspected) {
        let Inspected { order, result, took } = inspected;
        let current = self.artifacts.get(&order.path);
        let Some(artifact) = current.filter(|artifact| {
            artifact.state == ArtifactState::Inspecting && artifact.stamps == order.stamps
        }) else {
            // It changed or went while it was read; the result is of bytes that are no more.
            return;
        };
        let mut artifact = Artifact { updated_at: Timestamp::now(), ..artifact.clone() };
        match result {
            Ok(inspection) => {
                let outcome = match inspection.status {
                    Status::Accept => "accept",
                    Status::Warn => "warn",
                    Status::Reject => "reject",
                };
                self.metrics.job("inspection", outcome, took);
                tracing::info!(path = %order.path.display(), outcome, "inspected");
                artifact.state = ArtifactState::Inspected;
                artifact.inspection = Some(inspection);
            }
            Err(problem) => {
                self.metrics.job("inspection", "error", took);
                tracing::warn!(path = %order.path.display(), %problem, "could not be inspected");
                artifact.state = ArtifactState::Failed;
                artifact.note = Some(problem.message);
            }
        }
        if artifact.state == ArtifactState::Inspected {
            // What becomes of it is written together with what was found.
            self.artifacts.insert(order.path.clone(), artifact);
            self.decide(&order.path, true).await;
        } else {
            self.record(artifact).await;
        }
    }

    /// Looks again at those that wait for their reference or for a place in the queue.
    pub(super) async fn decide_waiting(&mut self) {
        for path in std::mem::take(&mut self.undecided) {
            self.decide(&path, false).await;
        }
    }

    /// Queues the assay that a rule or the sidecar asks for, once; or says why there is none.
    /// A `fresh` artifact is not on record yet, and is written in any case.
    async fn decide(&mut self, path: &Path, fresh: bool) {
        self.undecided.remove(path);
        let Some(artifact) = self.artifacts.get(path).cloned() else { return };
        if artifact.state != ArtifactState::Inspected {
            return;
        }
        let (reference, note) = match self.choice(&artifact) {
            Choice::Leave(why) => (None, Some(why)),
            Choice::Wait(why) => {
                self.undecided.insert(path.to_owned());
                (None, Some(why))
            }
            Choice::Compare(chosen) => match self.queue_for(&artifact, Some(&chosen)).await {
                Ok(true) => return,
                // It had this assay already.
                Ok(false) => (artifact.reference.clone(), artifact.note.clone()),
                Err(problem) => {
                    self.undecided.insert(path.to_owned());
                    (Some(chosen.reference), Some(format!("not queued yet: {problem}")))
                }
            },
            Choice::Measure => match self.queue_for(&artifact, None).await {
                Ok(true) => return,
                Ok(false) => (None, Some(NO_REFERENCE.to_owned())),
                Err(problem) => {
                    self.undecided.insert(path.to_owned());
                    (None, Some(format!("not queued yet: {problem}")))
                }
            },
        };
        if fresh || artifact.note != note || artifact.reference != reference {
            self.record(Artifact { reference, note, updated_at: Timestamp::now(), ..artifact }).await;
        }
    }

    fn choice(&self, artifact: &Artifact) -> Choice {
        let sidecar = self.sidecars.get(&artifact.path).map(PathBuf::as_path);
        let accepted = artifact
            .inspection
            .as_ref()
            .filter(|inspection| matches!(inspection.status, Status::Accept | Status::Warn));
        let chosen = match self.config.rules.choose(&artifact.path, &self.config.models, sidecar) {
            Ok(Some(chosen)) => chosen,
            Ok(None) if self.is_reference(&artifact.path) => return Choice::Leave(REFERENCE.to_owned()),
            Ok(None) => {
                return match accepted.map(engine_for) {
                    None => Choice::Leave(REJECTED.to_owned()),
                    Some(_) if !self.config.measure => Choice::Leave(NOT_MEASURED.to_owned()),
                    Some(Ok(_)) => Choice::Measure,
                    Some(Err(_)) => Choice::Leave(NOT_RUN.to_owned()),
                };
            }
            Err(problem) => return Choice::Leave(with_hint(&problem)),
        };
        if accepted.is_none() {
            return Choice::Leave(REJECTED.to_owned());
        }
        let Ok(reference) = chosen.reference.canonicalize() else {
            let missing = chosen.reference.display();
            return Choice::Wait(format!("waits for its reference {missing}, which {} names", chosen.by));
        };
        if reference == artifact.path {
            return Choice::Leave(REFERENCE.to_owned());
        }
        // A reference in a watched folder must have settled and passed itself.
        if let Some(watched) = self.artifacts.get(&reference) {
            let status = watched.inspection.as_ref().map(|inspection| inspection.status);
            match (watched.state, status) {
                (ArtifactState::Inspected, Some(Status::Accept | Status::Warn)) => {}
                (ArtifactState::Waiting | ArtifactState::Inspecting, _) => {
                    let why = format!("waits until its reference {} is inspected", reference.display());
                    return Choice::Wait(why);
                }
                _ => {
                    let why =
                        format!("waits for a better reference: {} was not accepted", reference.display());
                    return Choice::Wait(why);
                }
            }
        }
        Choice::Compare(Chosen { reference, ..chosen })
    }

    fn is_reference(&self, path: &Path) -> bool {
        self.config.rules.references().any(|named| named.canonicalize().is_ok_and(|named| named == path))
    }

    /// False if just this was queued before; true if the artifact and its assay were written.
    async fn queue_for(&mut self, artifact: &Artifact, chosen: Option<&Chosen>) -> Result<bool, Problem> {
        let mode = chosen.and_then(|chosen| chosen.mode).unwrap_or(self.config.mode);
        let reference = chosen.map(|chosen| chosen.reference.as_path());
        let hash_checks = chosen.map(|chosen| chosen.hash_checks.clone()).unwrap_or_default();
        // Other bytes on either side, another reference, mode or hash check: another assay.
        let mut key = match reference {
            None => format!("{:?} measured", artifact.stamps),
            Some(reference) => {
                let meta = std::fs::metadata(reference)
                    .map_err(|error| Problem::io("look at the reference", reference, &error))?;
                let (bytes, modified) = (meta.len(), meta.modified().ok());
                let shown = reference.display();
                format!("{:?} {shown} {bytes} {modified:?} {}", artifact.stamps, mode.as_str())
            }
        };
        for (id, params) in self.config.hash_checks.iter().chain(&hash_checks) {
            key.push_str(&format!(" {id} {params}"));
        }
        if artifact.assayed_for.as_ref() == Some(&key) {
            return Ok(false);
        }
        let assay = self.automatic(&artifact.path, reference, mode, hash_checks, artifact.id)?;
        let note = chosen.map_or_else(
            || NO_REFERENCE.to_owned(),
            |chosen| format!("compared with {}, as {} says", chosen.reference.display(), chosen.by),
        );
        let artifact = Artifact {
            reference: reference.map(Path::to_owned),
            note: Some(note),
            assayed_for: Some(key),
            updated_at: Timestamp::now(),
            ..artifact.clone()
        };
        // Both or neither: a death in between would repeat the assay, or lose it.
        self.write(&[Change::Assay(&assay, None), Change::Artifact(&artifact)]).await?;
        self.artifacts.insert(artifact.path.clone(), artifact);
        self.queue.push_back(assay);
        Ok(true)
    }

    async fn gone(&mut self, path: PathBuf) {
        self.sidecars.remove(&path);
        self.undecided.remove(&path);
        if self.artifacts.contains_key(&path) {
            self.change(path, ArtifactState::Gone, None).await;
            self.forget_oldest().await;
        }
    }

    /// What was on record and in none of the events of the first look is there no more.
    async fn looked(&mut self, troubled: &[PathBuf]) {
        let shown: BTreeSet<PathBuf> = self.shown.take().unwrap_or_default();
        let gone: Vec<PathBuf> = self
            .artifacts
            .values()
            .filter(|artifact| artifact.state != ArtifactState::Gone)
            .map(|artifact| &artifact.path)
            .filter(|path| !shown.contains(*path))
            .filter(|path| !troubled.iter().any(|folder| path.starts_with(folder)))
            .cloned()
            .collect();
        for path in gone {
            self.gone(path).await;
        }
        let there = self.artifacts.values().filter(|artifact| artifact.state != ArtifactState::Gone);
        tracing::info!(artifacts = there.count(), "looked at the watched folders");
    }

    async fn forget_oldest(&mut self) {
        let gone = || self.artifacts.values().filter(|artifact| artifact.state == ArtifactState::Gone);
        if gone().count() <= budget::KEPT_GONE {
            return;
        }
        let oldest = gone().min_by_key(|artifact| artifact.updated_at).cloned();
        if let Some(oldest) = oldest
            && self.write(&[Change::Forget(&oldest)]).await.is_ok()
        {
            self.artifacts.remove(&oldest.path);
        }
    }

    /// Puts an artifact into a state without bytes, unless it is in it already.
    async fn change(&mut self, path: PathBuf, state: ArtifactState, note: Option<String>) {
        let known = self.artifacts.get(&path);
        if known.is_some_and(|known| known.state == state && known.note == note) {
            return;
        }
        let artifact = Artifact {
            state,
            note,
            stamps: Vec::new(),
            inspection: None,
            reference: None,
            updated_at: Timestamp::now(),
            ..known.cloned().unwrap_or_else(|| new(path))
        };
        self.record(artifact).await;
    }
}

fn path_of(event: &WatchEvent) -> Option<&Path> {
    match event {
        WatchEvent::Waiting { path, .. }
        | WatchEvent::Ignored { path, .. }
        | WatchEvent::Settled(Settled { path, .. }) => Some(path),
        WatchEvent::Gone { .. } | WatchEvent::Trouble { .. } | WatchEvent::Looked { .. } => None,
    }
}

fn new(path: PathBuf) -> Artifact {
    let now = Timestamp::now();
    Artifact {
        id: Uuid::now_v7(),
        path,
        state: ArtifactState::Waiting,
        note: None,
        stamps: Vec::new(),
        inspection: None,
        reference: None,
        assayed_for: None,
        found_at: now,
        updated_at: now,
    }
}

fn stamps(files: Vec<FileStamp>) -> Vec<Stamp> {
    files
        .into_iter()
        .map(|file| Stamp {
            path: file.path,
            bytes: file.bytes,
            modified_ns: file.modified_ns,
            inode: file.inode,
        })
        .collect()
}

fn with_hint(problem: &Problem) -> String {
    match &problem.hint {
        Some(hint) => format!("{}; {hint}", problem.message),
        None => problem.message.clone(),
    }
}
