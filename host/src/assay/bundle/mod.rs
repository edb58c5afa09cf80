//! The bundle: one file with everything needed to recompute a verdict where no model is.
//!
//! The container is a plain sequence of length-prefixed records, each followed by its SHA-256,
//! in five sections: traces, plugins, transcript, report, seal ([`container`];
//! `host/docs/bundle.md` writes it down byte by byte). Not zip or tar: both leave bytes that no
//! digest covers (padding, a second directory, comments) and more than one way to read the
//! same file; here every byte belongs to exactly one record and is covered by that record's
//! digest, so a damaged byte is found and its record named without guessing. It is written in
//! one pass while the assay runs and read in one pass with fixed memory. Not compressed:
//! logits hardly compress, and a decompressor is one more thing hostile bytes would reach;
//! equal traces (a copy's) are stored once instead.
//!
//! Verification recomputes the transcript from the key, the traces and the plugins inside, and
//! compares it byte by byte with the one in the file. Invariants: whatever is wrong names its
//! place; nothing that cannot be recomputed is called verified; a plugin that nobody here
//! trusts never makes a pass. Deliberately absent: the models. What a model does, and what the
//! inspection of its files said, is attested by the signature and cannot be recomputed without it.

pub mod container;
mod recompute;
pub mod verify;
pub mod write;

#[cfg(test)]
mod tests;

pub use container::{Mismatch, Section};
pub use verify::{Outcome, Signature, SignedBy, Standing, Trust, Verification, verify};
pub use write::{BundleWriter, Sealed};
