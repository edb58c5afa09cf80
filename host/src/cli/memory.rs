//! How much memory loads may take, as commands are told.

use crate::domain::size::ByteSize;
use crate::governor::admission::{Caps, Guardrail};
use crate::worker::WorkerLimits;

/// What a person sets.
#[derive(Debug, Clone, clap::Args)]
pub struct CapsArgs {
    /// Most memory of a worker, such as 8GiB; one that takes more is ended
    #[arg(long, value_name = "SIZE")]
    max_memory: Option<ByteSize>,
    /// Memory that must stay free on the machine, such as 2GiB
    #[arg(long, value_name = "SIZE")]
    min_free: Option<ByteSize>,
}

impl CapsArgs {
    pub fn caps(&self) -> Caps {
        Caps {
            max_memory_bytes: self.max_memory.map(|size| size.0),
            min_free_bytes: self.min_free.map(|size| size.0),
        }
    }
}

/// The same for commands that load: what a model would take is counted before.
#[derive(Debug, Clone, clap::Args)]
pub struct MemoryArgs {
    #[command(flatten)]
    caps: CapsArgs,
    /// How careful to be with the memory estimate
    #[arg(long, value_enum, default_value = "balanced")]
    pub guardrail: Guardrail,
    /// Go on although the memory does not suffice by estimate
    #[arg(long)]
    pub force: bool,
}

impl MemoryArgs {
    pub fn caps(&self) -> Caps {
        self.caps.caps()
    }

    /// For workers that are started without a plan.
    pub fn limits(&self) -> WorkerLimits {
        let caps = self.caps();
        WorkerLimits {
            memory_bytes: caps.max_memory_bytes,
            min_free_bytes: caps.min_free_bytes,
            guardrail: if self.force { Guardrail::Off } else { self.guardrail },
            caps,
            ..WorkerLimits::default()
        }
    }
}
