//! Where the layers of a model and its experts lie, and how narrow its weights are, as commands
//! are told.

use crate::engine::{ALL_LAYERS, LoadBits, LoadSpec};

/// Options for accelerators. Of a mixture of experts a token uses a few only, so they are what an
/// accelerator misses least; router and shared experts stay where their layer is.
#[derive(Debug, Clone, clap::Args)]
pub struct PlacementArgs {
    /// Layers on an accelerator; -1 for all
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-1..))]
    pub gpu_layers: i32,
    /// Keep the experts of all layers on the CPU
    #[arg(long, conflicts_with = "n_cpu_moe")]
    cpu_moe: bool,
    /// Keep the experts of the first N layers on the CPU
    #[arg(long, value_name = "N")]
    n_cpu_moe: Option<u32>,
    /// Quantise the weights of a safetensors folder to 8 bits while loading (of `verify` the candidate's, never the reference's)
    #[arg(long, value_name = "8")]
    pub load_bits: Option<LoadBits>,
}

impl PlacementArgs {
    /// Layers whose experts stay on the CPU.
    pub fn cpu_experts(&self) -> u32 {
        if self.cpu_moe { ALL_LAYERS } else { self.n_cpu_moe.unwrap_or(0) }
    }

    /// The same load, placed like this and as narrow.
    pub fn place(&self, spec: LoadSpec) -> LoadSpec {
        LoadSpec {
            gpu_layers: self.gpu_layers,
            cpu_experts: self.cpu_experts(),
            load_bits: self.load_bits,
            ..spec
        }
    }
}
