//! Safetensors: the header of one file, strictly read.
//!
//! Accepted is what the reference implementation accepts and the specification allows: a
//! bounded JSON object that begins with `{`, unique names, and data ranges that follow one
//! another from 0 to the end of the file without gaps.

mod header;

pub use header::{Dtype, Header, Tensor, read};

#[cfg(test)]
mod tests;
