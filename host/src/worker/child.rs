//! The worker's side: guard itself, then answer requests until told to exit.

use std::io::{BufReader, BufWriter, Write};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, channel, sync_channel};
use std::time::Duration;

use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal};

use super::protocol::{Event, PROTOCOL, Request, read_frame, write_frame};
use crate::engine::{self, EngineError, Model};

/// How often a worker that computes says so.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// Runs the worker on standard input and output until it is told to exit.
///
/// Standard output is moved away first and replaced by standard error, so that nothing a
/// native library prints can get between two frames.
pub fn serve() -> Result<(), std::io::Error> {
    guard_self();
    let output = rustix::io::dup(rustix::stdio::stdout())?;
    rustix::stdio::dup2_stdout(rustix::stdio::stderr())?;
    let (events, queue) = sync_channel::<Event>(64);
    let writer = std::thread::Builder::new().name("worker-out".to_owned()).spawn(move || {
        let mut output = BufWriter::new(std::fs::File::from(output));
        for event in queue {
            // Nobody is left to tell when the parent is gone.
            if write_frame(&mut output, &event).is_err() {
                return;
            }
        }
        let _ = output.flush();
    })?;
    let (stop_heart, heart_stopped) = channel::<()>();
    let beats = events.clone();
    let heart = std::thread::Builder::new().name("worker-heart".to_owned()).spawn(move || {
        let mut last = engine::llama::ticks();
        while heart_stopped.recv_timeout(HEARTBEAT) == Err(RecvTimeoutError::Timeout) {
            let now = engine::llama::ticks();
            // Only real progress counts: a worker that hangs must fall silent.
            if now != last {
                last = now;
                let _ = beats.try_send(Event::Progress { fraction: None });
            }
        }
    })?;
    let _ = events.send(Event::Hello { protocol: PROTOCOL });
    let mut input = BufReader::new(std::io::stdin());
    let mut model: Option<Box<dyn Model>> = None;
    while let Some(request) = read_frame::<Request>(&mut input)? {
        if matches!(request, Request::Exit) {
            drop(model.take());
            let _ = events.send(Event::Done);
            break;
        }
        if let Err(error) = answer(request, &mut model, &events) {
            let _ = events.send(Event::Failed(error));
        }
    }
    drop(stop_heart);
    drop(events);
    let _ = heart.join();
    let _ = writer.join();
    Ok(())
}

/// Limits that a worker puts on itself before it touches a model. Each is best effort: what
/// the machine refuses is the parent's watchdog to make up for.
fn guard_self() {
    // Ends with its parent; the second look closes the race with a parent already gone.
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let _ = rustix::thread::set_no_new_privs(true);
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let _ = rustix::process::setrlimit(Resource::Core, none);
    let _ = rustix::process::nice(10);
    // First to go when the machine runs out of memory. Before the next line, which makes
    // these files root's.
    crate::governor::memory::go_first();
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

fn answer(
    request: Request,
    model: &mut Option<Box<dyn Model>>,
    events: &SyncSender<Event>,
) -> Result<(), EngineError> {
    let gone = |_| EngineError::Compute("the parent is gone".to_owned());
    let mut progress = |fraction: f32| {
        let _ = events.try_send(Event::Progress { fraction: Some(fraction) });
    };
    if let Request::Load(spec) = &request {
        if model.is_some() {
            return Err(EngineError::Request("a worker serves one model".to_owned()));
        }
        let loaded = engine::load(spec, &mut progress)?;
        let info = loaded.info().clone();
        *model = Some(loaded);
        return events.send(Event::Loaded(info)).map_err(gone);
    }
    if let Request::Quantize(spec) = &request {
        // A write beyond it ends the process: the file cannot fill the disk.
        let most = Rlimit { current: Some(spec.max_bytes), maximum: Some(spec.max_bytes) };
        let _ = rustix::process::setrlimit(Resource::Fsize, most);
        engine::quantize(spec)?;
        return events.send(Event::Done).map_err(gone);
    }
    let model = model.as_mut().ok_or_else(|| EngineError::Request("no model is loaded".to_owned()))?;
    match request {
        Request::Load(_) | Request::Quantize(_) | Request::Exit => Ok(()),
        Request::Tokenize { texts, add_special } => {
            let tokens =
                texts.iter().map(|text| model.tokenize(text, add_special)).collect::<Result<_, _>>()?;
            events.send(Event::Tokens(tokens)).map_err(gone)
        }
        Request::Detokenize { sequences } => {
            let texts = sequences.iter().map(|tokens| model.detokenize(tokens)).collect::<Result<_, _>>()?;
            events.send(Event::Texts(texts)).map_err(gone)
        }
        Request::Generate { prompts, new_tokens } => {
            let tokens = model.generate(&prompts, new_tokens, &mut progress)?;
            events.send(Event::Tokens(tokens)).map_err(gone)
        }
        Request::Run(spec) => {
            let record = model.run(&spec, &mut progress)?;
            events.send(Event::Ran(record)).map_err(gone)
        }
        Request::Score { items } => {
            model.score(&items, &mut |index, result| {
                let index = u32::try_from(index).unwrap_or(u32::MAX);
                let event = match result {
                    Ok(trace) => Event::Trace { index, trace: Box::new(trace) },
                    Err(reason) => Event::NoTrace { index, reason },
                };
                events.send(event).map_err(gone)
            })?;
            events.send(Event::Done).map_err(gone)
        }
    }
}
