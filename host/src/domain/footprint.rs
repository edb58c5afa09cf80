//! How much memory a model takes, by device and by what for.

use serde::{Deserialize, Serialize};

/// Memory on one device, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceBytes {
    /// `CPU`, or the name the engine has for an accelerator.
    pub name: String,
    pub model_bytes: u64,
    /// Key-value cache, or state of recurrent layers.
    pub kv_bytes: u64,
    /// Scratch of the compute graphs.
    pub compute_bytes: u64,
    /// Rows of logits.
    pub output_bytes: u64,
    /// Part of `model_bytes` that is mapped from the file, and so comes back by itself when
    /// memory is short.
    pub mapped_bytes: u64,
    /// What an accelerator says is free on it now; `None` of the machine's own memory.
    pub free_bytes: Option<u64>,
}

impl DeviceBytes {
    pub fn total_bytes(&self) -> u64 {
        let parts = [self.model_bytes, self.kv_bytes, self.compute_bytes, self.output_bytes];
        parts.into_iter().fold(0, u64::saturating_add)
    }
}

/// What running a model takes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footprint {
    /// The machine's own memory (`CPU`) first.
    pub devices: Vec<DeviceBytes>,
    /// What the process itself takes besides: libraries, vocabulary, tables of cells, graphs.
    pub process_bytes: u64,
    /// Pages of programs and libraries, which are mapped and not counted in `process_bytes`.
    pub library_bytes: u64,
}

impl Footprint {
    /// All devices and the process.
    pub fn total_bytes(&self) -> u64 {
        self.devices.iter().map(DeviceBytes::total_bytes).fold(self.process_bytes, u64::saturating_add)
    }

    /// What only the end of the process gives back to the machine: what limits are about.
    pub fn held_bytes(&self) -> u64 {
        let held = |device: &DeviceBytes| device.total_bytes().saturating_sub(device.mapped_bytes);
        self.devices.first().map_or(0, held).saturating_add(self.process_bytes)
    }

    /// File pages of the machine that it will want to keep.
    pub fn mapped_bytes(&self) -> u64 {
        self.devices.first().map_or(0, |device| device.mapped_bytes)
    }
}
