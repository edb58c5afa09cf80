//! Where the experts of a mixture lie, as commands that place layers are told.

use crate::engine::ALL_LAYERS;

/// Options for mixtures of experts. A token uses a few experts only, so they are what an
/// accelerator misses least; router and shared experts stay where their layer is.
#[derive(Debug, Clone, clap::Args)]
pub struct ExpertArgs {
    /// Keep the experts of all layers on the CPU
    #[arg(long, conflicts_with = "n_cpu_moe")]
    cpu_moe: bool,
    /// Keep the experts of the first N layers on the CPU
    #[arg(long, value_name = "N")]
    n_cpu_moe: Option<u32>,
}

impl ExpertArgs {
    /// Layers whose experts stay on the CPU.
    pub fn layers(&self) -> u32 {
        if self.cpu_moe { ALL_LAYERS } else { self.n_cpu_moe.unwrap_or(0) }
    }
}
