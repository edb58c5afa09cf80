//! Digests: the only home of hash functions over files.
//!
//! Streaming with buffers of fixed size; whatever the file, memory stays the same.

mod file;

pub use file::{Sha256Stream, sha256, sha256_file};
