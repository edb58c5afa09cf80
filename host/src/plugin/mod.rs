//! WASM components behind the WIT interfaces: loading, limits, calls, faults.
//!
//! A plugin is called on a thread of its own with a big enough stack, in a fresh store
//! under fuel, a deadline and memory limits, and the store is dropped afterwards, so no
//! call can see or break another. It imports nothing but the interfaces of its world.
//! Everything that comes out is checked before anyone sees it, and every failure is a
//! typed [`PluginFault`], never a number and never a pass.
//!
//! Deliberately absent: WASI, clocks, randomness, files, network, compiled-code caches
//! and reuse of an instance.

mod artifact;
mod bindings;
mod decider;
mod engine;
mod evidence;
mod executor;
mod fault;
mod hash_check;
mod limits;
mod load;
mod lock;
mod pack;
mod report;
mod scaffold;
mod scorer;
mod set;

pub use artifact::{HashTarget, TargetFile, TargetManifest};
pub use decider::Decider;
pub use engine::Usage;
pub use evidence::Evidence;
pub use fault::{FaultClass, LoadError, PluginFault, RefusalKind};
pub use hash_check::{CheckFinding, CheckOutcome, DigestRequest, HashCheck, Outcome};
pub use load::{Blueprint, INTERFACE_VERSION, PluginKind, SectionInfo, inspect};
pub use lock::{LOCK_FILE, Trusted, trust, trusts};
pub use pack::pack;
pub use report::{Rendered, Report};
pub use scaffold::scaffold;
pub use scorer::Scorer;
pub use set::{Described, Origin, PluginRecord, PluginSet, Skipped, read_plugin};
