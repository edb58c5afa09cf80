//! The parent's side: one call per request, each bounded in silence, with every answer checked.

use std::io::BufReader;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::time::{Duration, Instant};

use super::admit;
use super::answers::{check_trace, fits_run};
use super::chat::Conversation;
use super::ending::{Ending, WorkerEnd};
use super::estimate::Seen;
use super::guard::{Confinement, GuardOrder, Output};
use super::limits::{WorkerLimits, WorkerMemory};
use super::process::Guarded;
use super::protocol::{Event, FRAME_CUT_SHORT, PROTOCOL, Request, read_frame, write_frame};
use super::stamp::{difference, stamps};
use crate::domain::budget;
use crate::domain::footprint::DeviceBytes;
use crate::domain::trace::Trace;
use crate::engine::{
    EngineError, EngineKind, LoadSpec, ModelInfo, QuantizeSpec, RunRecord, RunSpec, RunToken, ScoreItem,
};
use crate::governor::admission::{ADMISSION, Budget, Demand, Guardrail, Ticket};

/// What a worker is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Loading,
    Generating,
    Scoring,
}

/// How far it is, 0 to 1 of the current call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    pub stage: Stage,
    pub fraction: f32,
}

/// What a worker did, once it is gone.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerSummary {
    pub ending: Ending,
    pub load_seconds: f64,
    pub peak_rss_anon_bytes: u64,
    pub peak_rss_file_bytes: u64,
    /// The most of all kinds together, where the kernel says.
    pub peak_rss_bytes: Option<u64>,
    pub memory: WorkerMemory,
    /// What became of a file since it was judged; `None` if nothing.
    pub changed: Option<String>,
}

/// A worker with a loaded model. Dropping it kills it.
#[derive(Debug)]
pub struct Worker {
    process: Guarded,
    requests: Sender<Request>,
    events: Receiver<Result<Event, String>>,
    info: ModelInfo,
    limits: WorkerLimits,
    spec: LoadSpec,
    load_seconds: f64,
    confinement: Confinement,
    /// Last, so that its memory is given back after its process is gone.
    ticket: Option<Ticket<'static>>,
}

impl Worker {
    /// Starts a worker and loads a model in it. Blocks until loaded. Where the limits have a
    /// guardrail and nobody has counted what the load takes, that is done first.
    ///
    /// # Errors
    /// REFUSED with the numbers if it does not fit, else the way the worker ended.
    pub fn start(
        spec: &LoadSpec,
        limits: &WorkerLimits,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, WorkerEnd> {
        let counted = match limits {
            WorkerLimits { guardrail: Guardrail::Off, .. } => None,
            WorkerLimits { demand, .. } if *demand != Demand::default() => None,
            _ => Some(admit::alone(spec, limits)?),
        };
        let limits = counted.as_ref().unwrap_or(limits);
        let mut ticket = admitted(limits)?;
        let started = Instant::now();
        let (mut worker, spec) = Self::guarded(spec, None, &limits.bounded())?;
        worker.ask(Request::Load(spec));
        loop {
            match worker.next()? {
                Event::Progress { fraction } => {
                    if let Some(fraction) = fraction {
                        progress(Progress { stage: Stage::Loading, fraction });
                    }
                }
                Event::Loaded(info) if info.vocab > 0 => {
                    worker.info = info;
                    break;
                }
                other => return Err(worker.not_answered(other)),
            }
        }
        if let Some(what) = difference(&worker.process.stamps) {
            worker.process.kill();
            return Err(WorkerEnd::new(Ending::Refused, what));
        }
        worker.process.loaded();
        ticket.loaded();
        worker.ticket = Some(ticket);
        worker.load_seconds = started.elapsed().as_secs_f64();
        Ok(worker)
    }

    /// Memory by device that a load would take, without loading; and what the worker itself
    /// held at the end of it.
    pub(super) fn estimate(
        spec: &LoadSpec,
        limits: &WorkerLimits,
    ) -> Result<(Vec<DeviceBytes>, Seen), WorkerEnd> {
        let (mut worker, spec) = Self::guarded(spec, None, limits)?;
        worker.ask(Request::Estimate(spec));
        loop {
            match worker.next()? {
                Event::Progress { .. } => {}
                Event::Estimated(devices) => {
                    let memory = worker.process.memory();
                    let gone = || WorkerEnd::new(Ending::Crashed, "it was gone before it was seen");
                    let seen = Seen {
                        enforcement: worker.process.enforcement.clone(),
                        missing: worker.process.missing.clone(),
                        confinement: worker.confinement.clone(),
                        memory: memory.ok_or_else(gone)?,
                    };
                    worker.finish();
                    return Ok((devices, seen));
                }
                other => return Err(worker.not_answered(other)),
            }
        }
    }

    /// Lets a worker of its own write a quantised copy of a model. Blocks until it is written.
    pub fn quantize(spec: &QuantizeSpec, limits: &WorkerLimits) -> Result<(), WorkerEnd> {
        let target = std::path::absolute(&spec.target).unwrap_or_else(|_| spec.target.clone());
        // It has to be there: the worker may write this one file and make none.
        std::fs::File::create(&target).map_err(|error| {
            WorkerEnd::new(Ending::Refused, format!("cannot write {}: {error}", target.display()))
        })?;
        let source = LoadSpec::judged(EngineKind::LlamaCpp, spec.source.clone(), 1, spec.threads);
        let output = Output { path: target.clone(), max_bytes: spec.max_bytes };
        let (mut worker, source) = Self::guarded(&source, Some(output), &limits.bounded())?;
        worker.ask(Request::Quantize(QuantizeSpec { source: source.paths, target, ..spec.clone() }));
        loop {
            match worker.next()? {
                Event::Progress { .. } => {}
                Event::Done => break,
                other => return Err(worker.not_answered(other)),
            }
        }
        worker.finish();
        Ok(())
    }

    /// The text of a conversation, made by a worker of its own that is ended with it.
    pub(super) fn render(
        conversation: &Conversation,
        limits: &WorkerLimits,
    ) -> Result<Result<String, String>, WorkerEnd> {
        let nothing = LoadSpec::judged(EngineKind::Scripted, Vec::new(), 1, 1);
        let (mut worker, _) = Self::guarded(&nothing, None, limits)?;
        worker.ask(Request::Render(conversation.clone()));
        loop {
            match worker.next()? {
                Event::Progress { .. } => {}
                // It runs a program that nobody trusts, so it is not asked to leave.
                Event::Rendered(Ok(text)) if text.len() > budget::CHAT_TEXT_BYTES => {
                    return Err(worker.unexpected("more text than is allowed"));
                }
                Event::Rendered(text) => return Ok(text),
                other => return Err(worker.not_answered(other)),
            }
        }
    }

    /// Starts a worker that has no model yet and is confined to the files of `spec`, whose
    /// paths come back absolute, and to writing `output`.
    pub(super) fn guarded(
        spec: &LoadSpec,
        output: Option<Output>,
        limits: &WorkerLimits,
    ) -> Result<(Self, LoadSpec), WorkerEnd> {
        // The worker stands in another folder.
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let paths: Vec<PathBuf> = spec.paths.iter().map(absolute).collect();
        let adapter: Vec<PathBuf> = spec.adapter.iter().map(absolute).collect();
        let readable: Vec<PathBuf> = paths.iter().chain(&adapter).cloned().collect();
        let stamps = if limits.stamps.is_empty() {
            stamps(readable.iter().map(PathBuf::as_path))
        } else {
            limits.stamps.clone()
        };
        let mut process = Guarded::start(limits, spec.threads, stamps.clone())?;
        let crashed = |what: &str| WorkerEnd::new(Ending::Crashed, what);
        let (mut stdin, stdout) = process.pipes().ok_or_else(|| crashed("no pipes"))?;
        let (requests, queue) = channel::<Request>();
        // A worker that hangs stops reading; writing from a thread keeps our own clock running.
        std::thread::spawn(move || {
            for request in queue {
                if write_frame(&mut stdin, &request).is_err() {
                    return;
                }
            }
        });
        let (sender, events) = sync_channel(16);
        std::thread::spawn(move || {
            let mut stdout = BufReader::new(stdout);
            loop {
                let (event, last) = match read_frame::<Event>(&mut stdout) {
                    Ok(Some(event)) => (Ok(event), false),
                    Ok(None) => return,
                    Err(error) => (Err(error.to_string()), true),
                };
                if sender.send(event).is_err() || last {
                    return;
                }
            }
        });
        let mut worker = Self {
            process,
            requests,
            events,
            info: no_model(),
            limits: limits.clone(),
            spec: spec.clone(),
            load_seconds: 0.0,
            confinement: Confinement::default(),
            ticket: None,
        };
        match worker.next()? {
            Event::Hello { protocol: PROTOCOL } => {}
            _ => return Err(worker.unexpected("a worker of another version")),
        }
        worker.ask(Request::Guard(GuardOrder {
            engine: spec.engine,
            paths: readable,
            stamps,
            confine: limits.confine,
            accelerator: spec.gpu_layers != 0,
            port: spec.remote.as_ref().map(|endpoint| endpoint.address().port()),
            output,
        }));
        match worker.next()? {
            Event::Guarded(confinement) => {
                if confinement.forbids_forks() {
                    worker.process.watch.alone();
                }
                worker.confinement = confinement;
            }
            other => return Err(worker.not_answered(other)),
        }
        Ok((worker, LoadSpec { paths, adapter, ..spec.clone() }))
    }

    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Seconds from starting the process to a loaded model.
    pub fn load_seconds(&self) -> f64 {
        self.load_seconds
    }

    /// Token ids of each text.
    pub fn tokenize(&mut self, texts: &[String], add_special: bool) -> Result<Vec<Vec<u32>>, WorkerEnd> {
        self.ask(Request::Tokenize { texts: texts.to_vec(), add_special });
        let tokens = self.tokens(Stage::Generating, &mut |_| {})?;
        self.checked_tokens(tokens, texts.len(), None)
    }

    /// Token ids of a rendered chat: names of control tokens are those tokens, and nothing is added.
    pub fn tokenize_marked(&mut self, text: &str) -> Result<Vec<u32>, WorkerEnd> {
        self.ask(Request::TokenizeMarked { text: text.to_owned() });
        let tokens = self.tokens(Stage::Generating, &mut |_| {})?;
        Ok(self.checked_tokens(tokens, 1, None)?.pop().unwrap_or_default())
    }

    /// Text of each token sequence.
    pub fn detokenize(&mut self, sequences: &[Vec<u32>]) -> Result<Vec<String>, WorkerEnd> {
        self.ask(Request::Detokenize { sequences: sequences.to_vec() });
        loop {
            match self.next()? {
                // A beat of the heart from before.
                Event::Progress { .. } => {}
                Event::Texts(texts) if texts.len() == sequences.len() => return Ok(texts),
                other => return Err(self.not_answered(other)),
            }
        }
    }

    /// Greedy continuations of exactly `new_tokens` tokens each.
    pub fn generate(
        &mut self,
        prompts: &[Vec<u32>],
        new_tokens: u32,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Vec<u32>>, WorkerEnd> {
        self.ask(Request::Generate { prompts: prompts.to_vec(), new_tokens });
        let tokens = self.tokens(Stage::Generating, progress)?;
        self.checked_tokens(tokens, prompts.len(), Some(new_tokens as usize))
    }

    /// A greedy run under the given conditions; every token is told as it comes.
    pub fn run(&mut self, spec: &RunSpec, each: &mut dyn FnMut(RunToken)) -> Result<RunRecord, WorkerEnd> {
        self.ask(Request::Run(spec.clone()));
        let all = spec.prompts.len().saturating_mul(spec.new_tokens as usize);
        let mut told = 0usize;
        loop {
            match self.next()? {
                Event::Progress { .. } => {}
                Event::Chosen(token)
                    if told < all
                        && token.token < self.info.vocab
                        && (token.sequence as usize) < spec.prompts.len() =>
                {
                    told += 1;
                    each(token);
                }
                Event::Ran(record) if fits_run(&record, spec, self.info.vocab) => return Ok(record),
                Event::Ran(_) => return Err(self.unexpected("a run that was not asked for")),
                other => return Err(self.not_answered(other)),
            }
        }
    }

    /// From now on this ends it.
    pub fn cancelled_by(&mut self, cancel: Arc<AtomicBool>) {
        self.limits.cancel = Some(cancel);
    }

    /// What is loaded, and how.
    pub fn spec(&self) -> &LoadSpec {
        &self.spec
    }

    /// Teacher-forced traces, handed over one by one in order; an item that cannot be scored
    /// gives its reason instead. An item of [`crate::engine::Detail::Whole`] may come in several parts.
    pub fn score(
        &mut self,
        items: &[ScoreItem],
        each: &mut dyn FnMut(usize, Result<Trace, String>),
    ) -> Result<(), WorkerEnd> {
        self.ask(Request::Score { items: items.to_vec() });
        let mut expected = 0usize;
        // Rows of the expected item that were handed over.
        let mut rows = 0usize;
        loop {
            match self.next()? {
                Event::Progress { .. } => {}
                Event::Trace { index, trace } if index as usize == expected => {
                    let Some(item) = items.get(expected) else {
                        return Err(self.unexpected("more traces than items"));
                    };
                    let checked =
                        check_trace(&trace, item, rows, self.info.vocab, self.spec.remote.is_some());
                    rows += trace.rows();
                    let ended = checked.is_err() || rows == item.rows();
                    each(expected, checked.map(|()| *trace));
                    if ended {
                        (expected, rows) = (expected + 1, 0);
                    }
                }
                Event::NoTrace { index, reason } if index as usize == expected && expected < items.len() => {
                    each(expected, Err(reason));
                    (expected, rows) = (expected + 1, 0);
                }
                Event::Done if expected == items.len() => return Ok(()),
                other => return Err(self.not_answered(other)),
            }
        }
    }

    /// Frees the model and ends the worker.
    pub fn finish(mut self) -> WorkerSummary {
        self.process.sample();
        self.ask(Request::Exit);
        let done = loop {
            match self.next() {
                Ok(Event::Progress { .. }) => {}
                Ok(Event::Done) => break true,
                Ok(_) | Err(_) => break false,
            }
        };
        let peak_group_bytes = self.process.group_peak();
        let ended = self.process.reap().is_some_and(|status| status.success());
        WorkerSummary {
            ending: if done && ended { Ending::Ok } else { Ending::Crashed },
            load_seconds: self.load_seconds,
            peak_rss_anon_bytes: self.process.watch.peak_anon.load(Ordering::Relaxed),
            peak_rss_file_bytes: self.process.watch.peak_file.load(Ordering::Relaxed),
            peak_rss_bytes: Some(self.process.watch.peak_all.load(Ordering::Relaxed))
                .filter(|&peak| peak > 0),
            memory: WorkerMemory { peak_group_bytes, ..self.memory() },
            changed: difference(&self.process.stamps),
        }
    }

    /// How it is held, and what it took so far.
    pub fn memory(&self) -> WorkerMemory {
        WorkerMemory {
            limit_bytes: self.limits.memory_bytes,
            enforcement: self.process.enforcement.clone(),
            confinement: self.confinement.clone(),
            missing: self.process.missing.clone(),
            peak_held_bytes: self.process.watch.peak_held(),
            peak_group_bytes: self.process.group_peak(),
            alerts: self.process.watch.alerts(),
        }
    }

    pub(super) fn ask(&self, request: Request) {
        // A writer that is gone means a worker that is gone; the next read says why.
        let _ = self.requests.send(request);
    }

    /// The next event; ends the worker when it is silent for too long or must stop.
    pub(super) fn next(&mut self) -> Result<Event, WorkerEnd> {
        let deadline = Instant::now() + self.limits.stall;
        loop {
            if self.limits.cancel.as_ref().is_some_and(|cancel| cancel.load(Ordering::Relaxed)) {
                self.process.kill();
                return Err(WorkerEnd::new(Ending::Refused, "cancelled"));
            }
            match self.events.recv_timeout(Duration::from_millis(50)) {
                Ok(Ok(event)) => return Ok(event),
                Ok(Err(broken)) => return Err(self.unexpected(&broken)),
                Err(RecvTimeoutError::Disconnected) => return Err(self.process.classify()),
                Err(RecvTimeoutError::Timeout) if Instant::now() >= deadline => {
                    self.process.kill();
                    let silent = self.limits.stall.as_secs_f64();
                    return Err(WorkerEnd::new(Ending::Stalled, format!("no progress for {silent:.0} s")));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn tokens(
        &mut self,
        stage: Stage,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Vec<u32>>, WorkerEnd> {
        loop {
            match self.next()? {
                Event::Progress { fraction } => {
                    if let Some(fraction) = fraction {
                        progress(Progress { stage, fraction });
                    }
                }
                Event::Tokens(tokens) => return Ok(tokens),
                other => return Err(self.not_answered(other)),
            }
        }
    }

    fn checked_tokens(
        &mut self,
        tokens: Vec<Vec<u32>>,
        count: usize,
        length: Option<usize>,
    ) -> Result<Vec<Vec<u32>>, WorkerEnd> {
        let vocab = self.info.vocab;
        let fits = |sequence: &Vec<u32>| {
            length.is_none_or(|length| sequence.len() == length)
                && sequence.iter().all(|&token| token < vocab)
        };
        if tokens.len() == count && tokens.iter().all(fits) {
            Ok(tokens)
        } else {
            Err(self.unexpected("tokens that were not asked for"))
        }
    }

    pub(super) fn not_answered(&mut self, event: Event) -> WorkerEnd {
        match event {
            Event::Failed(error) if self.process.is_refused_memory(&error.to_string()) => {
                self.process.kill();
                self.process.refused_memory(&error.to_string())
            }
            Event::Failed(EngineError::Lost(reason)) => {
                self.process.kill();
                WorkerEnd::new(Ending::RemoteLost, reason)
            }
            Event::Failed(error @ EngineError::Compute(_)) => {
                self.process.kill();
                WorkerEnd::new(Ending::Crashed, error.to_string())
            }
            Event::Failed(error) => {
                self.process.kill();
                WorkerEnd::new(Ending::Refused, error.to_string())
            }
            _ => self.unexpected("an answer that was not asked for"),
        }
    }

    /// A worker that breaks the protocol is ended and believed in nothing.
    fn unexpected(&mut self, what: &str) -> WorkerEnd {
        // A frame cut short by a kill is no lie.
        if self.process.watch.reason().is_some() || what == FRAME_CUT_SHORT {
            return self.process.classify();
        }
        self.process.kill();
        WorkerEnd::new(Ending::Crashed, format!("it broke the protocol: {what}"))
    }
}

/// Waits for the desk: two loads never overlap.
fn admitted(limits: &WorkerLimits) -> Result<Ticket<'static>, WorkerEnd> {
    let room = |promised| {
        let now = Budget::now(limits.caps);
        Budget { bytes: now.bytes.saturating_sub(promised), ..now }
    };
    let cancelled = || limits.cancel.as_ref().is_some_and(|cancel| cancel.load(Ordering::Relaxed));
    ADMISSION.ask(limits.demand, limits.guardrail, &room, &cancelled).map_err(|refusal| match refusal {
        Some(refusal) => WorkerEnd {
            ending: Ending::Refused,
            detail: format!("not loaded: {refusal}"),
            hint: Some(refusal.hint()),
        },
        None => WorkerEnd::new(Ending::Refused, "cancelled"),
    })
}

/// What is known of a model before there is one.
fn no_model() -> ModelInfo {
    ModelInfo {
        vocab: 0,
        context_train: 0,
        bos: None,
        eos: None,
        adds_bos: false,
        description: String::new(),
        size_bytes: 0,
        parameters: 0,
        accelerators: 0,
        engine: crate::engine::EngineInfo {
            name: String::new(),
            version: String::new(),
            build: String::new(),
            device: String::new(),
        },
    }
}
