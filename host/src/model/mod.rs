//! Reading model files: what an artifact is, whether it is whole and safe, and what its
//! headers say. Pure Rust, bounded, without an engine, a network or a clock.

mod cache;
pub mod canonical;
pub mod consistency;
pub mod discover;
pub mod document;
pub mod facts;
pub mod finding;
pub mod folder;
pub mod footprint;
mod foreign;
pub mod fuzzy;
pub mod gguf;
pub mod imatrix;
pub mod inspect;
pub mod likeness;
pub mod lineage;
pub mod manifest;
mod ollama;
mod parts;
pub mod pickle;
mod roots;
pub mod safetensors;
pub mod scan;
pub mod signature;
pub mod sniff;
pub mod source;
pub mod split;
pub mod template;

pub use cache::usable as cache_usable;
pub use discover::{Artifact, Discovery, IgnoreReason, Ignored, discover};
pub use inspect::{Hashing, InspectOptions, inspect, inspect_with};
