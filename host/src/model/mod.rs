//! Reading model files: what an artifact is, whether it is whole and safe, and what its
//! headers say. Pure Rust, bounded, without an engine, a network or a clock.

pub mod finding;
pub mod gguf;
pub mod source;
