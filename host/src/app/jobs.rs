//! Assays: one at a time, each on a thread of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::parts::Ended;
use super::supervisor::{News, Supervisor};
use crate::api::Progress;
use crate::domain::{Problem, budget};
use crate::store::{Assay, AssayState, Change};

/// Least time between two reports of progress of one stage.
const PROGRESS: Duration = Duration::from_millis(150);

/// The assay that runs.
#[derive(Debug)]
pub struct Job {
    pub assay: Assay,
    pub cancel: Arc<AtomicBool>,
    /// Somebody asked for the end; otherwise only the daemon's own end does.
    pub cancelled: bool,
    pub began: Instant,
}

impl Supervisor {
    /// Queues what was unfinished when the daemon ended, in whatever way it did.
    pub(super) async fn requeue(&mut self, unfinished: Vec<Assay>) {
        for mut assay in unfinished {
            if assay.state == AssayState::Queued {
                self.queue.push_back(assay);
                continue;
            }
            if assay.attempts >= budget::ASSAY_ATTEMPTS {
                assay.state = AssayState::Failed;
                assay.finished_at = Some(Timestamp::now());
                assay.error = Some(format!(
                    "the daemon ended {} times while this assay ran; it is not started again",
                    assay.attempts
                ));
            } else {
                assay.state = AssayState::Queued;
                assay.started_at = None;
                self.queue.push_back(assay.clone());
            }
            self.record_assay(assay, None).await;
        }
    }

    /// Starts the next assay if none runs and all that happened is on disk.
    pub(super) async fn start_next(&mut self) {
        if self.running.is_some() || !self.is_caught_up() {
            return;
        }
        let Some(mut assay) = self.queue.front().cloned() else { return };
        assay.state = AssayState::Running;
        assay.attempts += 1;
        assay.started_at = Some(Timestamp::now());
        // On record before it runs, so that a death under it is counted, and its key with it. If
        // it cannot be written it stays in the queue, and the next tick tries again.
        let given = self.with_key(&assay);
        let kept = match &given {
            Ok((_, Some(key))) => key.to_json().ok(),
            _ => None,
        };
        let mut changes = vec![Change::Assay(&assay, None)];
        changes.extend(kept.as_deref().map(|key| Change::Key(&assay, key)));
        if self.write(&changes).await.is_err() {
            if let Ok((_, Some(key))) = given {
                self.keys.insert(assay.id, key);
            }
            return;
        }
        self.queue.pop_front();
        let cancel = Arc::new(AtomicBool::new(false));
        let job = Job { assay, cancel, cancelled: false, began: Instant::now() };
        let started = given.and_then(|(request, _)| self.start(&job, request));
        let id = job.assay.id;
        self.live.set(id, Progress { stage: "starting".to_owned(), ..Progress::default() });
        self.running = Some(job);
        if let Err(problem) = started {
            self.ended(id, Err(problem), false).await;
        }
    }

    fn start(&self, job: &Job, request: Value) -> Result<(), Problem> {
        let run = self.parts.assay.clone();
        let news = self.news.clone();
        let (cancel, turn) = (job.cancel.clone(), Arc::clone(&self.turn));
        let id = job.assay.id;
        let thread = std::thread::Builder::new().name("assay".to_owned()).spawn(move || {
            let last = std::cell::RefCell::new(None::<(String, Instant)>);
            let tell = |progress: Progress| {
                let mut last = last.borrow_mut();
                let soon = last
                    .as_ref()
                    .is_some_and(|(stage, at)| *stage == progress.stage && at.elapsed() < PROGRESS);
                if !soon {
                    *last = Some((progress.stage.clone(), Instant::now()));
                    // A supervisor that is behind needs fewer of these, not a thread that waits.
                    let _ = news.try_send(News::Progress(id, progress));
                }
            };
            // Cancelled while it waited: the assay sees that by itself.
            let _turn = turn.take(&cancel);
            let work = std::panic::AssertUnwindSafe(|| run(id, &request, cancel, &tell));
            let result = std::panic::catch_unwind(work)
                .unwrap_or_else(|_| Err(Problem::internal("the assay broke off")));
            let _ = news.blocking_send(News::Ended(id, result));
        });
        thread.map(drop).map_err(|error| Problem::machine(format!("cannot start a thread: {error}")))
    }

    pub(super) fn progressed(&self, assay: Uuid, progress: Progress) {
        let runs = self.running.as_ref().is_some_and(|job| job.assay.id == assay);
        if runs {
            self.tell("assay.progress", assay, json!({"id": assay, "progress": progress}));
            self.live.set(assay, progress);
        }
    }

    /// The assay's thread has ended. `stopping` is true while the daemon ends.
    pub(super) async fn ended(&mut self, id: Uuid, result: Result<Ended, Problem>, stopping: bool) {
        let Some(job) = self.running.take_if(|job| job.assay.id == id) else { return };
        self.live.clear(id);
        let mut assay = job.assay;
        let interrupted = stopping && job.cancel.load(Ordering::Relaxed);
        assay.finished_at = Some(Timestamp::now());
        let report = match result {
            _ if job.cancelled => {
                assay.state = AssayState::Cancelled;
                None
            }
            // Broken off by our own end, and not by its own: it starts again, and this start
            // was no failed attempt. A verdict that came in time counts.
            Err(_) if interrupted => return self.put_back(assay).await,
            Ok(ended) if interrupted && ended.decision == "ERROR" => return self.put_back(assay).await,
            Ok(ended) if ended.report.len() > budget::STORED_REPORT_BYTES => {
                assay.state = AssayState::Failed;
                assay.error =
                    Some(format!("its report is larger than {} bytes", budget::STORED_REPORT_BYTES));
                None
            }
            Ok(ended) => {
                assay.state = AssayState::Done;
                assay.decision = Some(ended.decision);
                assay.error = ended.error;
                Some(ended.report)
            }
            Err(problem) => {
                assay.state = AssayState::Failed;
                assay.error = Some(match problem.hint {
                    Some(hint) => format!("{}; {hint}", problem.message),
                    None => problem.message,
                });
                None
            }
        };
        let outcome = assay.decision.as_deref().unwrap_or(assay.state.as_str()).to_lowercase();
        tracing::info!(candidate = %assay.candidate.display(), outcome, "assay ended");
        self.metrics.job("assay", &outcome, job.began.elapsed());
        self.record_assay(assay, report).await;
    }

    async fn put_back(&mut self, mut assay: Assay) {
        assay.state = AssayState::Queued;
        assay.attempts -= 1;
        assay.started_at = None;
        assay.finished_at = None;
        self.record_assay(assay, None).await;
    }
}
