//! The one task that owns the state.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use super::config::Config;
use super::inspector::{Inspected, Inspector};
use super::jobs::Job;
use super::keys::DrawnKey;
use super::parts::{Ended, Parts};
use super::turn::Turn;
use crate::api::{Api, Command, Live, Metrics, Progress};
use crate::domain::{Problem, budget};
use crate::store::{Artifact, Assay, Change, Reader, StateLock, Store, StoreError, Writer};
use crate::watch::WatchEvent;

/// What the threads tell.
#[derive(Debug)]
pub enum News {
    Watch(WatchEvent),
    Inspected(Box<Inspected>),
    Progress(Uuid, Progress),
    Ended(Uuid, Result<Ended, Problem>),
}

/// All state. Methods are in the files of their subjects: `artifacts`, `jobs`, `requests`.
#[derive(Debug)]
pub struct Supervisor {
    pub(super) config: Config,
    pub(super) parts: Parts,
    lock: StateLock,
    writer: Writer,
    pub(super) reader: Reader,
    pub(super) live: Arc<Live>,
    pub(super) metrics: Arc<Metrics>,
    /// Whether paths outside the watched folders may be asked for.
    pub(super) any_path: bool,
    writable: Arc<AtomicBool>,
    pub(super) inspector: Inspector,
    pub(super) news: mpsc::Sender<News>,
    pub(super) turn: Arc<Turn>,
    /// Everything on record, by path.
    pub(super) artifacts: BTreeMap<PathBuf, Artifact>,
    /// Sidecars seen beside artifacts.
    pub(super) sidecars: BTreeMap<PathBuf, PathBuf>,
    /// Inspected artifacts that wait for something before they can be compared.
    pub(super) undecided: BTreeSet<PathBuf>,
    /// Paths that the first look has shown; None after it.
    pub(super) shown: Option<BTreeSet<PathBuf>>,
    pub(super) queue: VecDeque<Assay>,
    pub(super) running: Option<Job>,
    /// Keys of queued assays, by assay: one shared with an earlier assay, or the own of before a restart.
    pub(super) keys: BTreeMap<Uuid, DrawnKey>,
    /// Changes that could not be written yet, by id, newest state only.
    unwritten_artifacts: BTreeMap<Uuid, Artifact>,
    unwritten_assays: BTreeMap<Uuid, (Assay, Option<String>)>,
}

impl Supervisor {
    pub fn new(
        config: Config,
        parts: Parts,
        store: Store,
        api: &Api,
        inspector: Inspector,
        news: mpsc::Sender<News>,
        turn: Arc<Turn>,
    ) -> Self {
        Self {
            any_path: config.listen.ip().is_loopback(),
            config,
            parts,
            lock: store.lock,
            writer: store.writer,
            reader: store.reader,
            live: api.live.clone(),
            metrics: api.metrics.clone(),
            writable: api.writable.clone(),
            inspector,
            news,
            turn,
            artifacts: BTreeMap::new(),
            sidecars: BTreeMap::new(),
            undecided: BTreeSet::new(),
            shown: Some(BTreeSet::new()),
            queue: VecDeque::new(),
            running: None,
            keys: BTreeMap::new(),
            unwritten_artifacts: BTreeMap::new(),
            unwritten_assays: BTreeMap::new(),
        }
    }

    /// Takes up what is on record. Returns the numbers of artifacts and of unfinished assays.
    pub async fn resume(&mut self) -> Result<(usize, usize), Problem> {
        let place = self.config.state.join("assayd.db");
        let lost = |error: StoreError| error.at(&place);
        for artifact in self.reader.artifacts().await.map_err(lost)? {
            self.artifacts.insert(artifact.path.clone(), artifact);
        }
        let unfinished = self.reader.unfinished().await.map_err(lost)?;
        let count = unfinished.len();
        for (assay, key) in self.reader.keys().await.map_err(lost)? {
            match DrawnKey::from_json(&key) {
                Ok(key) => drop(self.keys.insert(assay, key)),
                Err(problem) => tracing::warn!(%assay, "a fresh key is drawn: {}", problem.message),
            }
        }
        self.requeue(unfinished).await;
        let present =
            self.artifacts.values().filter(|artifact| artifact.state != crate::store::ArtifactState::Gone);
        Ok((present.count(), count))
    }

    /// Works until told to stop; then ends the running assay, which is queued again.
    pub async fn work(
        mut self,
        mut heard: mpsc::Receiver<News>,
        mut asked: mpsc::Receiver<Command>,
        mut stopping: watch::Receiver<bool>,
    ) -> StateLock {
        let mut tick = tokio::time::interval(budget::WRITE_RETRY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.start_next().await;
            tokio::select! {
                _ = stopping.wait_for(|stopping| *stopping) => break,
                news = heard.recv() => match news {
                    Some(news) => self.hear(news).await,
                    None => break,
                },
                command = asked.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => break,
                },
                _ = tick.tick() => {
                    self.catch_up().await;
                    self.decide_waiting().await;
                }
            }
        }
        self.stop(heard).await
    }

    async fn hear(&mut self, news: News) {
        match news {
            News::Watch(event) => self.seen(event).await,
            News::Inspected(inspected) => self.inspected(*inspected).await,
            News::Progress(assay, progress) => self.progressed(assay, progress),
            News::Ended(assay, result) => self.ended(assay, result, false).await,
        }
    }

    async fn stop(mut self, mut heard: mpsc::Receiver<News>) -> StateLock {
        if let Some(job) = &self.running {
            job.cancel.store(true, Ordering::Relaxed);
        }
        let deadline = tokio::time::Instant::now() + budget::STOP_GRACE;
        while self.running.is_some() {
            match tokio::time::timeout_at(deadline, heard.recv()).await {
                Ok(Some(News::Ended(assay, result))) => self.ended(assay, result, true).await,
                Ok(Some(_)) => {}
                // It stays on record as running, and is queued again at the next start.
                Ok(None) | Err(_) => break,
            }
        }
        drop(heard);
        self.catch_up().await;
        if let Err(error) = self.writer.close().await {
            tracing::warn!(%error, "the state database was not closed cleanly; nothing is lost");
        }
        self.lock
    }

    /// Writes a change that a client waits for: an error means that it did not happen.
    pub(super) async fn write(&mut self, changes: &[Change<'_>]) -> Result<(), Problem> {
        let place = self.config.state.join("assayd.db");
        if !self.catch_up().await {
            return Err(StoreError::Full.at(&place));
        }
        let result = self.writer.put(changes).await;
        self.note(result.as_ref().err());
        result.map_err(|error| error.at(&place))
    }

    /// Writes a change that happened, whatever becomes of the writing: what cannot be
    /// written now is kept and written later.
    pub(super) async fn record(&mut self, artifact: Artifact) {
        self.artifacts.insert(artifact.path.clone(), artifact.clone());
        self.unwritten_artifacts.insert(artifact.id, artifact);
        self.catch_up().await;
    }

    /// The same for an assay and its report.
    pub(super) async fn record_assay(&mut self, assay: Assay, report: Option<String>) {
        self.unwritten_assays.insert(assay.id, (assay, report));
        self.catch_up().await;
    }

    /// Whether everything that happened is on disk.
    pub(super) fn is_caught_up(&self) -> bool {
        self.unwritten_artifacts.is_empty() && self.unwritten_assays.is_empty()
    }

    /// Tries to write what could not be written; true when nothing is left.
    async fn catch_up(&mut self) -> bool {
        while let Some((id, artifact)) = self.unwritten_artifacts.first_key_value() {
            let id = *id;
            let result = self.writer.put(&[Change::Artifact(artifact)]).await;
            self.note(result.as_ref().err());
            if result.is_err() {
                return false;
            }
            self.unwritten_artifacts.remove(&id);
        }
        while let Some((id, (assay, report))) = self.unwritten_assays.first_key_value() {
            let id = *id;
            let result = self.writer.put(&[Change::Assay(assay, report.as_deref())]).await;
            self.note(result.as_ref().err());
            if result.is_err() {
                return false;
            }
            self.unwritten_assays.remove(&id);
        }
        true
    }

    fn note(&self, failed: Option<&StoreError>) {
        let was = self.writable.swap(failed.is_none(), Ordering::Relaxed);
        match failed {
            Some(error) if was => {
                tracing::error!(state = %self.config.state.display(), %error,
                    "the state folder cannot be written; it is tried again, and nothing new starts meanwhile");
            }
            None if !was => tracing::info!("the state folder can be written again"),
            _ => {}
        }
    }

    /// Tells listeners of something of the moment.
    pub(super) fn tell(&self, kind: &str, subject: Uuid, data: serde_json::Value) {
        self.writer.tell(kind, subject, data);
    }
}
