//! The rooms of the host that read hostile bytes, compiled for fuzzing.
//!
//! Sources are taken in by path: the targets test the very files that the host is built of,
//! and nothing here needs the inference engine.

#[path = "../../src/digest/mod.rs"]
pub mod digest;
#[path = "../../src/domain/mod.rs"]
pub mod domain;
/// Only what reading files asks of the machine.
#[path = "../../src/governor"]
pub mod governor {
    pub mod cgroup;
    pub mod memory;
}
#[path = "../../src/model/mod.rs"]
pub mod model;

/// The container of bundles, without what is in it.
#[path = "../../src/assay/bundle/container.rs"]
pub mod bundle;

/// What a worker does with a chat template.
#[path = "../../src/worker/chat/render/mod.rs"]
pub mod render;
