//! The model that is served: one worker, on a thread of its own, that answers one order after
//! the other and is ended when nobody asks for long or an assay's turn comes.
//!
//! Invariants: never beside an assay's models; only files as they were inspected; loaded as for
//! a judged run (F32 cache, weights as they lie in the file), through the same admission and
//! limits; its chat template is rendered in a worker apart. Deliberately absent: a second model
//! in memory.

use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::config::Config;
use super::turn::{Taken, Turn};
use crate::api::{ApiError, Order, Orders, Served, Task, Told, busy, told};
use crate::domain::modes::JUDGED_PARALLEL;
use crate::domain::{Problem, ProblemKind, budget};
use crate::engine::{LoadSpec, default_threads, engine_for};
use crate::governor::admission::Caps;
use crate::measure::chat;
use crate::measure::complete::{self, Ask, Failure, Prompt};
use crate::model::likeness;
use crate::store::{Artifact, Stamp};
use crate::worker::{Ending, GiveUp, Policy, Worker, WorkerEnd, WorkerLimits, plan, stamps};

/// How often a model that nobody asks is looked at: whether an assay wants its turn.
const LOOK: Duration = Duration::from_millis(50);

/// A shorter context and fewer sequences at once still serve; the format of the cache would
/// change the numbers.
const GIVE_UP: GiveUp = GiveUp { context_min: 256, parallel: true, ..GiveUp::NOTHING };

/// A loaded model, and the turn that it takes.
struct Loaded {
    artifact: Uuid,
    stamps: Vec<Stamp>,
    worker: Worker,
    /// The chat template, once somebody wanted to chat.
    template: Option<Option<String>>,
    used: Instant,
    _turn: Taken,
}

struct Serving {
    policy: Policy,
    limits: WorkerLimits,
    threads: Option<u32>,
    turn: Arc<Turn>,
    loaded: Option<Loaded>,
}

/// Starts the thread; it ends when nobody can send orders any more.
///
/// # Errors
/// The thread cannot be started.
pub fn start(config: &Config, turn: Arc<Turn>) -> Result<Orders, Problem> {
    let (orders, queue) = sync_channel(budget::COMPLETIONS_WAITING);
    let caps = Caps {
        max_memory_bytes: config.max_memory.map(|size| size.0),
        min_free_bytes: config.min_free.map(|size| size.0),
    };
    let guardrail = config.guardrail.unwrap_or_default();
    let serving = Serving {
        policy: Policy { guardrail, caps, force: false, give_up: GIVE_UP },
        limits: WorkerLimits {
            enforcement: config.enforcement.unwrap_or_default(),
            ..WorkerLimits::default()
        },
        threads: config.threads,
        turn,
        loaded: None,
    };
    std::thread::Builder::new()
        .name("serving".to_owned())
        .spawn(move || serving.work(&queue))
        .map_err(|error| Problem::machine(format!("cannot start a thread: {error}")))?;
    Ok(orders)
}

impl Serving {
    fn work(mut self, queue: &Receiver<Order>) {
        loop {
            // With nothing in memory there is nothing to give up for an assay.
            let next = match self.loaded {
                Some(_) => queue.recv_timeout(LOOK),
                None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match next {
                Ok(order) if order.cancel.load(Ordering::Relaxed) => {}
                Ok(order) => {
                    if let Err(error) = self.answer(&order) {
                        let _ = order.tell.send(Told::Failed(error));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let idle = |loaded: &Loaded| loaded.used.elapsed() >= budget::SERVED_IDLE;
            if self.turn.is_wanted() || self.loaded.as_ref().is_some_and(idle) {
                self.unload();
            }
        }
        self.unload();
    }

    /// Ends the model; its turn goes with it.
    fn unload(&mut self) {
        if let Some(Loaded { worker, .. }) = self.loaded.take() {
            worker.finish();
        }
    }

    fn answer(&mut self, order: &Order) -> Result<(), ApiError> {
        let mut loaded = self.load(&order.model, &order.cancel)?;
        loaded.worker.cancelled_by(Arc::clone(&order.cancel));
        match self.done(&mut loaded, order) {
            Ok(told) => {
                let _ = order.tell.send(told);
            }
            // A worker that ended is not kept.
            Err(Failure::Ended(end)) => return Err(told(ended(end))),
            Err(Failure::Ask { param, why }) => {
                let _ = order.tell.send(Told::Failed(ApiError::bad(Some(param), why)));
            }
            Err(Failure::Model(why)) => {
                let _ = order.tell.send(Told::Failed(told(Problem::input(why))));
            }
        }
        loaded.used = Instant::now();
        self.loaded = Some(loaded);
        Ok(())
    }

    /// The model of an order: the one that is loaded, or in its place the other.
    fn load(&mut self, model: &Served, cancel: &Arc<AtomicBool>) -> Result<Loaded, ApiError> {
        let artifact = &model.artifact;
        let same = |loaded: &Loaded| loaded.artifact == artifact.id && loaded.stamps == artifact.stamps;
        if let Some(loaded) = self.loaded.take_if(|loaded| same(loaded)) {
            return Ok(loaded);
        }
        self.unload();
        let Some(turn) = self.turn.try_take() else {
            return Err(busy("an assay has its models in memory; one at a time"));
        };
        let Some(inspection) = &artifact.inspection else {
            return Err(told(Problem::new(ProblemKind::Conflict, "this model is not inspected any more")));
        };
        let (engine, paths) = engine_for(inspection).map_err(told)?;
        let trained = inspection.context_length.and_then(|n| u32::try_from(n).ok());
        let context = trained.map_or(budget::SERVED_CONTEXT, |n| n.min(budget::SERVED_CONTEXT));
        let threads = self.threads.unwrap_or_else(|| default_threads(inspection));
        let spec = LoadSpec {
            parallel: JUDGED_PARALLEL,
            ..LoadSpec::judged(engine, paths.clone(), context, threads)
        };
        if let Some(changed) = artifact.stamps.iter().find(|stamp| !still(stamp)) {
            let why = format!("{} changed after it was inspected", changed.path.display());
            return Err(told(
                Problem::new(ProblemKind::Conflict, why).hint("try again when it is inspected"),
            ));
        }
        let limits = WorkerLimits {
            stamps: stamps(paths.iter().map(std::path::PathBuf::as_path)),
            cancel: Some(Arc::clone(cancel)),
            ..self.limits.clone()
        };
        let failed = |end| told(ended(end));
        let plan = plan(&[spec], &limits, &self.policy).map_err(failed)?;
        let limits = plan.limits(limits, &self.policy);
        let Some(spec) = plan.specs.first() else { return Err(busy("nothing was planned")) };
        let worker = Worker::start(spec, &limits, &mut |_| {}).map_err(failed)?;
        tracing::info!(model = model.id, context = spec.context, "loaded to be served");
        let stamps = artifact.stamps.clone();
        Ok(Loaded {
            artifact: artifact.id,
            stamps,
            worker,
            template: None,
            used: Instant::now(),
            _turn: turn,
        })
    }

    /// Does what an order says.
    fn done(&self, loaded: &mut Loaded, order: &Order) -> Result<Told, Failure> {
        let mut piece = |prompt, text: &str| {
            let _ = order.tell.send(Told::Piece { prompt, text: text.to_owned() });
        };
        let worker = &mut loaded.worker;
        let context = worker.spec().context;
        Ok(match &order.task {
            Task::Complete(ask) => Told::Choices(complete::complete(worker, ask, &mut piece)?),
            Task::Chat { messages, ask, new_tokens } => {
                let template = match &mut loaded.template {
                    Some(template) => template,
                    unread => unread.insert(template(&order.model.artifact)?),
                };
                let limits = WorkerLimits { cancel: Some(Arc::clone(&order.cancel)), ..self.limits.clone() };
                let prompt = chat::prompt(worker, template.as_deref(), messages, &limits)?;
                let left = context.saturating_sub(u32::try_from(prompt.len()).unwrap_or(u32::MAX));
                let new_tokens = new_tokens.unwrap_or(left.clamp(1, budget::CHAT_NEW_TOKENS));
                let ask = Ask { prompts: vec![Prompt::Tokens(prompt)], new_tokens, ..ask.clone() };
                let answered = complete::complete(worker, &ask, &mut piece);
                Told::Choices(answered.map_err(|failure| match failure {
                    Failure::Ask { param: "prompt", why } => Failure::Ask { param: "messages", why },
                    other => other,
                })?)
            }
            Task::Tokenize { text, add_special } => {
                let made = worker.tokenize(std::slice::from_ref(text), *add_special)?;
                Told::Tokens { tokens: made.into_iter().next().unwrap_or_default(), context }
            }
            Task::Detokenize(tokens) => {
                if let Some(token) = tokens.iter().find(|&&token| token >= worker.info().vocab) {
                    let why = format!("token {token} is not in the vocabulary of {}", worker.info().vocab);
                    return Err(Failure::Ask { param: "tokens", why });
                }
                let text = worker.detokenize(std::slice::from_ref(tokens))?.into_iter().next();
                Told::Text(text.unwrap_or_default())
            }
            Task::Describe => {
                let [bos, eos] = chat::ends(worker)?;
                Told::Tokenizer { bos, eos, adds_bos: worker.info().adds_bos, context }
            }
        })
    }
}

/// The chat template of an artifact whose files are as they were when it was inspected.
fn template(artifact: &Artifact) -> Result<Option<String>, Failure> {
    let read = likeness::templates(&artifact.path).map_err(|problem| Failure::Model(problem.to_string()));
    if !artifact.stamps.iter().all(still) {
        return Err(Failure::Model("its files changed after they were inspected".to_owned()));
    }
    Ok(read?.remove("default"))
}

/// Whether a file is as it was when it was inspected.
fn still(stamp: &Stamp) -> bool {
    let Ok(now) = std::fs::metadata(&stamp.path) else { return false };
    let modified = i128::from(now.mtime()) * 1_000_000_000 + i128::from(now.mtime_nsec());
    (now.len(), now.ino(), modified) == (stamp.bytes, stamp.inode, stamp.modified_ns)
}

/// The end of a worker as a client is told: a lack of memory passes, a broken model does not.
fn ended(end: WorkerEnd) -> Problem {
    let memory = end.ending == Ending::Refused && end.detail.starts_with("not loaded");
    let kind = match end.ending {
        Ending::Refused if memory => Some(ProblemKind::Machine),
        Ending::Crashed => Some(ProblemKind::Internal),
        _ => None,
    };
    let problem = Problem::from(end);
    Problem { kind: kind.unwrap_or(problem.kind), ..problem }
}
