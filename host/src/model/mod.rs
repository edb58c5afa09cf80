//! Reading model files: what an artifact is, whether it is whole and safe, and what its
//! headers say. Pure Rust, bounded, without an engine, a network or a clock.

pub mod canonical;
pub mod consistency;
pub mod discover;
pub mod facts;
pub mod finding;
mod folder;
pub mod gguf;
pub mod inspect;
pub mod lineage;
pub mod manifest;
mod parts;
mod pickle;
mod roots;
pub mod safetensors;
pub mod scan;
pub mod sniff;
pub mod source;
pub mod split;
pub mod vocabulary;

pub use discover::{Artifact, Discovery, IgnoreReason, Ignored, discover};
pub use inspect::{InspectOptions, inspect};
