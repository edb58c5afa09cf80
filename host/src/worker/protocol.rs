//! Frames on the two pipes between parent and worker: a little-endian u32 length, then that
//! many bytes of postcard. The first frame of the worker is [`Event::Hello`] with the protocol
//! version; a parent that does not know the version ends the worker.

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::chat::Conversation;
use super::guard::{Confinement, GuardOrder};
use crate::domain::budget;
use crate::domain::footprint::DeviceBytes;
use crate::domain::trace::Trace;
use crate::engine::{
    EngineError, LoadSpec, ModelInfo, QuantizeRows, QuantizeSpec, RunRecord, RunSpec, RunToken, ScoreItem,
};

/// Changes whenever a message changes shape.
pub(super) const PROTOCOL: u32 = 6;

/// What is said of a stream that ends within a frame.
pub(super) const FRAME_CUT_SHORT: &str = "frame cut short";

/// Parent to worker. Each request is answered by zero or more events and then one of
/// [`Event::Done`] and [`Event::Failed`], except where another final event is named.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// Answered by `Guarded`, or `Failed`. Must come first, once.
    Guard(GuardOrder),
    /// Answered by `Progress`... and `Loaded`, or `Failed`. Must come second, once.
    Load(LoadSpec),
    /// A dry run, instead of `Load`; answered by `Estimated`, or `Failed`.
    Estimate(LoadSpec),
    /// Answered by `Tokens`.
    Tokenize { texts: Vec<String>, add_special: bool },
    /// A rendered chat; answered by `Tokens`.
    TokenizeMarked { text: String },
    /// Answered by `Texts`.
    Detokenize { sequences: Vec<Vec<u32>> },
    /// Answered by `Progress`... and `Tokens`.
    Generate { prompts: Vec<Vec<u32>>, new_tokens: u32 },
    /// Answered by `Trace` (several in a row for a whole distribution) or `NoTrace` per item, in
    /// order, and `Done`.
    Score { items: Vec<ScoreItem> },
    /// Write a quantised copy of a model; answered by `Progress`... and `Done`. Needs no `Load`.
    Quantize(QuantizeSpec),
    /// Answered by `Progress`... and `Rows`. Needs no `Load`.
    QuantizeRows(QuantizeRows),
    /// Answered by `Rendered`. Needs no `Load`.
    Render(Conversation),
    /// Free the model and exit; answered by `Done`.
    Exit,
    /// Answered by `Chosen` per token, and `Ran`.
    Run(RunSpec),
}

/// Worker to parent.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Event {
    Hello {
        protocol: u32,
    },
    /// The work goes on; `fraction` is of the current request, if known.
    Progress {
        fraction: Option<f32>,
    },
    Guarded(Confinement),
    Loaded(ModelInfo),
    Estimated(Vec<DeviceBytes>),
    Tokens(Vec<Vec<u32>>),
    Texts(Vec<String>),
    /// Blocks of quantised weights.
    Rows(Vec<u8>),
    /// The text of a conversation, or why its template made none.
    Rendered(Result<String, String>),
    Trace {
        index: u32,
        trace: Box<Trace>,
    },
    NoTrace {
        index: u32,
        reason: String,
    },
    Done,
    Failed(EngineError),
    Ran(RunRecord),
    Chosen(RunToken),
}

/// Writes one frame and flushes it.
pub(super) fn write_frame<T: Serialize>(out: &mut impl Write, message: &T) -> io::Result<()> {
    let body = postcard::to_stdvec(message).map_err(io::Error::other)?;
    let length = u32::try_from(body.len())
        .ok()
        .filter(|_| body.len() <= budget::WORKER_FRAME_BYTES)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "frame too large"))?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(&body)?;
    out.flush()
}

/// Reads one frame; `None` at a clean end of the stream.
pub(super) fn read_frame<T: DeserializeOwned>(input: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0u8; 4];
    match input.read_exact(&mut length) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = u32::from_le_bytes(length) as usize;
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    if length > budget::WORKER_FRAME_BYTES {
        return Err(invalid(format!("frame of {length} bytes")));
    }
    // Grows with what really arrives, so that a lying length costs nothing.
    let mut body = Vec::new();
    input.by_ref().take(length as u64).read_to_end(&mut body)?;
    if body.len() < length {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, FRAME_CUT_SHORT));
    }
    let (message, rest) = postcard::take_from_bytes(&body)
        .map_err(|error| invalid(format!("frame not understood: {error}")))?;
    if !rest.is_empty() {
        return Err(invalid(format!("{} bytes after a frame's message", rest.len())));
    }
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_round_trip_and_bad_ones_are_refused() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &Event::Hello { protocol: 7 }).unwrap();
        write_frame(&mut bytes, &Event::Tokens(vec![vec![1, 2], vec![]])).unwrap();
        let mut input = bytes.as_slice();
        assert!(matches!(read_frame(&mut input).unwrap(), Some(Event::Hello { protocol: 7 })));
        assert!(
            matches!(read_frame(&mut input).unwrap(), Some(Event::Tokens(t)) if t == [vec![1, 2], vec![]])
        );
        assert!(read_frame::<Event>(&mut input).unwrap().is_none());

        for bad in [
            &[255, 255, 255, 255, 0][..],                   // longer than any frame
            &[9, 0, 0, 0, 1],                               // cut short
            &[2, 0, 0, 0, 0xee, 0xee],                      // no such message
            &[8, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0],          // bytes after the message
            &[6, 0, 0, 0, 3, 0xff, 0xff, 0xff, 0xff, 0x0f], // a list of 2^32 - 1 lists
        ] {
            assert!(read_frame::<Event>(&mut &bad[..]).is_err(), "{bad:?}");
        }
    }
}
