//! Where a model is computed: on the CPU, or whole on the accelerator that this build has kernels
//! for. Layers are not shared out: what fits a device only in part is for llama.cpp.

use std::path::Path;

use candle_core::{Device, DeviceLocation};

use crate::domain::footprint::DeviceBytes;
use crate::engine::LoadSpec;

/// What NVIDIA's driver shows where there is a card, on Linux itself and on Linux within Windows.
const DRIVER: [&str; 2] = ["/dev/nvidiactl", "/dev/dxg"];

/// Whether this build has kernels for an accelerator, and the machine a driver for one.
pub fn accelerated() -> bool {
    candle_core::utils::cuda_is_available() && DRIVER.iter().any(|path| Path::new(path).exists())
}

/// Whether `spec` asks for the accelerator.
///
/// # Errors
/// It asks for what cannot be had: some of the layers, 8 bits there, or a device where there is none.
pub(super) fn is_asked(spec: &LoadSpec, layers: usize) -> Result<bool, String> {
    may_be_asked(spec, layers, accelerated())
}

fn may_be_asked(spec: &LoadSpec, layers: usize, accelerated: bool) -> Result<bool, String> {
    match spec.gpu_layers {
        0 => Ok(false),
        _ if !accelerated => Err(
            "safetensors models run on the CPU here: an accelerator needs a build with the feature `cuda`, \
                 a card and its driver"
                .to_owned(),
        ),
        _ if spec.load_bits.is_some() => Err("what is quantised on load runs on the CPU only".to_owned()),
        // As in llama.cpp the output counts as a layer.
        some if usize::try_from(some).is_ok_and(|some| some <= layers) => Err(format!(
            "safetensors models run on an accelerator as a whole or not at all: --gpu-layers -1, not {some} of {layers}"
        )),
        _ => Ok(true),
    }
}

/// The CPU, or the first accelerator.
///
/// # Errors
/// There is none, or its driver says no.
pub(super) fn open(accelerator: bool) -> Result<Device, String> {
    if !accelerator {
        return Ok(Device::Cpu);
    }
    Device::new_cuda(0).map_err(|error| format!("no accelerator can be used: {error}"))
}

/// As llama.cpp names devices.
pub(super) fn name(device: &Device) -> String {
    match device.location() {
        DeviceLocation::Cpu => "CPU".to_owned(),
        DeviceLocation::Cuda { gpu_id } => format!("CUDA{gpu_id}"),
        DeviceLocation::Metal { gpu_id } => format!("Metal{gpu_id}"),
    }
}

/// Bytes of a model where it is computed, and beside it on the CPU what weights pass through
/// (`passing`) and what logits come back to. What is free on a device candle does not tell.
pub(super) fn placed(whole: DeviceBytes, passing: u64, accelerator: bool) -> Vec<DeviceBytes> {
    if !accelerator {
        return vec![DeviceBytes { name: "CPU".to_owned(), ..whole }];
    }
    let cpu = DeviceBytes {
        name: "CPU".to_owned(),
        compute_bytes: passing,
        output_bytes: whole.output_bytes,
        ..DeviceBytes::default()
    };
    vec![cpu, DeviceBytes { name: "CUDA0".to_owned(), ..whole }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{EngineKind, LoadBits};

    #[test]
    fn a_model_lies_whole_on_one_device_or_is_refused() {
        let spec = |gpu_layers, load_bits| LoadSpec {
            gpu_layers,
            load_bits,
            ..LoadSpec::judged(EngineKind::Candle, Vec::new(), 256, 1)
        };
        let bits = Some(LoadBits::Eight);
        for (asked, load_bits, built, answer) in [
            (0, None, false, Ok(false)),
            (0, bits, true, Ok(false)),
            (-1, None, true, Ok(true)),
            (5, None, true, Ok(true)),
            (4, None, true, Err("as a whole or not at all: --gpu-layers -1, not 4 of 4")),
            (1, None, true, Err("not 1 of 4")),
            (-1, bits, true, Err("quantised on load")),
            (-1, None, false, Err("the feature `cuda`")),
        ] {
            let found = may_be_asked(&spec(asked, load_bits), 4, built);
            let as_expected = match (&found, answer) {
                (Ok(found), Ok(expected)) => *found == expected,
                (Err(found), Err(words)) => found.contains(words),
                _ => false,
            };
            assert!(as_expected, "{asked}: {found:?}, not {answer:?}");
        }
    }

    #[test]
    fn what_is_on_an_accelerator_is_not_on_the_cpu() {
        let whole = DeviceBytes {
            model_bytes: 100,
            kv_bytes: 20,
            compute_bytes: 7,
            output_bytes: 3,
            ..DeviceBytes::default()
        };
        let alone = placed(whole.clone(), 50, false);
        assert_eq!((alone.len(), alone[0].name.as_str(), alone[0].total_bytes()), (1, "CPU", 130));
        let both = placed(whole, 50, true);
        assert_eq!((both[0].name.as_str(), both[0].total_bytes()), ("CPU", 53));
        assert_eq!((both[1].name.as_str(), both[1].total_bytes(), both[1].free_bytes), ("CUDA0", 130, None));
        assert_eq!(name(&open(false).unwrap()), "CPU");
    }
}
