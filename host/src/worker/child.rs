//! The worker's side: guard itself, then answer requests until told to exit.

use std::io::{BufReader, BufWriter, Write};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, channel, sync_channel};
use std::time::Duration;

use super::chat;
use super::guard::{Confinement, confine_calls, confine_files, guard_self};
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
    let mut output = std::fs::File::from(rustix::io::dup(rustix::stdio::stdout())?);
    rustix::stdio::dup2_stdout(rustix::stdio::stderr())?;
    write_frame(&mut output, &Event::Hello { protocol: PROTOCOL })?;
    let mut input = BufReader::new(std::io::stdin());
    // Still the only thread: what is forbidden from here on is forbidden to all that follow.
    let mut confined = Confinement::default();
    let order = match read_frame::<Request>(&mut input)? {
        Some(Request::Guard(order)) => order,
        Some(_) => return Err(std::io::Error::other("the first request must be a guard order")),
        None => return Ok(()),
    };
    // Kernels and their libraries are loaded while files can still be opened.
    let ready = engine::prepare(order.engine)
        .and_then(|()| confine_files(&order, &mut confined).map_err(EngineError::Request));
    if let Err(error) = ready {
        return write_frame(&mut output, &Event::Failed(error));
    }
    let (events, queue) = sync_channel::<Event>(64);
    let writer = std::thread::Builder::new().name("worker-out".to_owned()).spawn(move || {
        let mut output = BufWriter::new(output);
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
        let mut last = engine::ticks();
        while heart_stopped.recv_timeout(HEARTBEAT) == Err(RecvTimeoutError::Timeout) {
            let now = engine::ticks();
            // Only real progress counts: a worker that hangs must fall silent.
            if now != last {
                last = now;
                let _ = beats.try_send(Event::Progress { fraction: None });
            }
        }
    })?;
    confine_calls(&order, &mut confined);
    let _ = events.send(Event::Guarded(confined));
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
        engine::quantize(spec)?;
        return events.send(Event::Done).map_err(gone);
    }
    if let Request::QuantizeRows(spec) = &request {
        let rows = engine::quantize_rows(spec)?;
        return events.send(Event::Rows(rows)).map_err(gone);
    }
    if let Request::Estimate(spec) = &request {
        let devices = engine::estimate(spec)?;
        return events.send(Event::Estimated(devices)).map_err(gone);
    }
    if let Request::Render(conversation) = &request {
        return events.send(Event::Rendered(chat::rendered(conversation))).map_err(gone);
    }
    let model = model.as_mut().ok_or_else(|| EngineError::Request("no model is loaded".to_owned()))?;
    match request {
        Request::Guard(_)
        | Request::Load(_)
        | Request::Estimate(_)
        | Request::Quantize(_)
        | Request::QuantizeRows(_)
        | Request::Render(_)
        | Request::Exit => Ok(()),
        Request::Tokenize { texts, add_special } => {
            let tokens =
                texts.iter().map(|text| model.tokenize(text, add_special)).collect::<Result<_, _>>()?;
            events.send(Event::Tokens(tokens)).map_err(gone)
        }
        Request::TokenizeMarked { text } => {
            events.send(Event::Tokens(vec![model.tokenize_marked(&text)?])).map_err(gone)
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
            let record = model.run(&spec, &mut |token| {
                let _ = events.send(Event::Chosen(token));
            })?;
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
