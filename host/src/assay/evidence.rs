//! A trace as bytes: what its digest is over, and what a bundle carries of it.

use super::report::TraceSummary;
use crate::digest::sha256_parts;
use crate::domain::Sha256;
use crate::domain::trace::Trace;

/// The one byte form of a trace (postcard).
pub fn trace_bytes(trace: &Trace) -> Vec<u8> {
    // A trace has a postcard form whatever it holds; were that to change, an empty digest
    // would make every trace alike and the copy test would see it.
    postcard::to_stdvec(trace).unwrap_or_default()
}

/// The digest that records name a trace by, over its bytes.
pub fn trace_digest(bytes: &[u8]) -> Sha256 {
    sha256_parts(&[b"assayd/trace/v1\0", bytes])
}

/// The trace of these bytes; `None` if they are none or there is more behind it.
pub fn trace_of(bytes: &[u8]) -> Option<Trace> {
    postcard::take_from_bytes::<Trace>(bytes).ok().filter(|(_, rest)| rest.is_empty()).map(|(trace, _)| trace)
}

/// What a record says of a trace besides its digest. A mean that is not finite is `None`.
pub fn summary(trace: &Trace) -> TraceSummary {
    let rows = trace.rows() as u64;
    let mean = |values: &[f64]| {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        mean.is_finite().then_some(mean)
    };
    TraceSummary {
        rows,
        nll_nats: mean(&trace.token_logprobs).map(|mean| 0.0 - mean),
        entropy_nats: mean(&trace.entropy),
    }
}
