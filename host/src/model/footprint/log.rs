//! What accelerators held, as llama.cpp logged it while it loaded a model.
//!
//! Of each accelerator the sizes of its buffers: model (adapters included), key-value cache or
//! recurrent state, scratch, output. Deliberately not counted: memory of the machine (`CPU…`: a
//! mapping is as large as the span of the file that it covers, whatever is on an accelerator;
//! `…_Host`: pinned for copies), memory that was free, and layers that are only named.

use crate::domain::footprint::DeviceBytes;

/// How the line begins with which a model's loading begins; what was logged before is of another.
const BEGINS: &str = ": loaded meta data with ";
/// Devices that are told apart.
const DEVICES: usize = 64;

/// The accelerators of the last model that was loaded, in the order in which they are named;
/// empty if none is.
pub fn accelerators(log: &str) -> Vec<DeviceBytes> {
    let mut devices: Vec<DeviceBytes> = Vec::new();
    for line in log.lines() {
        if line.contains(BEGINS) {
            devices.clear();
        }
        let Some((name, kind, bytes)) = buffer(line) else { continue };
        let at = devices.iter().position(|device| device.name == name).unwrap_or(devices.len());
        if at == devices.len() && at < DEVICES {
            devices.push(DeviceBytes { name: name.to_owned(), ..DeviceBytes::default() });
        }
        let Some(device) = devices.get_mut(at) else { continue };
        match kind {
            "model" | "LoRA" => device.model_bytes = device.model_bytes.saturating_add(bytes),
            "KV" | "RS" => device.kv_bytes = device.kv_bytes.saturating_add(bytes),
            "output" => device.output_bytes = device.output_bytes.saturating_add(bytes),
            // Said again whenever it is made anew.
            "compute" => device.compute_bytes = bytes,
            _ => {}
        }
    }
    devices.retain(|device| device.total_bytes() > 0);
    devices
}

/// Accelerator, kind and bytes of a line such as
/// `load_tensors:        CUDA0 model buffer size =   616.15 MiB`.
fn buffer(line: &str) -> Option<(&str, &str, u64)> {
    let (before, after) = line.split_once(" buffer size = ")?;
    let mut words = before.split_whitespace().rev();
    let (kind, name) = (words.next()?, words.next()?);
    let mib = after.trim().strip_suffix(" MiB")?.trim().parse::<f64>().ok()?;
    if name.ends_with(':') || name.starts_with("CPU") || name.ends_with("_Host") || !(0.0..1e9).contains(&mib)
    {
        return None;
    }
    // What stands behind the device is how it was allocated.
    let device = name.split_once('_').map_or(name, |(device, _)| device);
    Some((device, kind, (mib * f64::from(1 << 20)).round() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: f64 = (1 << 20) as f64;

    /// A log as llama.cpp writes it, of one device or of the model dealt out to two.
    fn log(model: f64, kv: f64, compute: f64, devices: usize) -> String {
        let part = |whole: f64, at: usize| {
            // To hundredths, and the sum is the whole.
            let even = (whole / devices as f64 * 100.0).floor() / 100.0;
            if at + 1 == devices { whole - even * (devices - 1) as f64 } else { even }
        };
        let mut log = String::from(
            "llama_model_load_from_file_impl: using device CUDA0 (NVIDIA GH200 480GB) (0000:dd:00.0) - 92789 MiB free\n\
             llama_model_loader: loaded meta data with 42 key-value pairs and 611 tensors from phi.gguf (version GGUF V3 (latest))\n\
             load_tensors: layer   0 assigned to device CUDA0, is_swa = 0\n\
             load_tensors: layer  32 assigned to device CUDA0, is_swa = 0\n\
             load_tensors: offloaded 33/33 layers to GPU\n\
             load_tensors:   CPU_Mapped model buffer size =  6226.00 MiB\n",
        );
        for (from, kind, whole) in [("load_tensors", "model", model), ("llama_kv_cache", "KV", kv)] {
            for at in 0..devices {
                let device = format!("CUDA{at}");
                log += &format!("{from}: {device:>12} {kind} buffer size = {:8.2} MiB\n", part(whole, at));
            }
        }
        log += "llama_context:  CUDA_Host  output buffer size =     0.12 MiB\n";
        for at in 0..devices {
            // Made twice: only the last is there.
            for size in [part(compute, at) + 7.0, part(compute, at)] {
                log += &format!(
                    "llama_context: {:>10} compute buffer size = {size:8.2} MiB\n",
                    format!("CUDA{at}")
                );
            }
        }
        log + "llama_context:  CUDA_Host compute buffer size =    16.01 MiB\n"
    }

    /// Row 88 of the feature list: the twelve logged runs, to the hundredth of a MiB, on one device
    /// and summed over two.
    #[test]
    fn the_logged_runs_come_to_what_was_logged() {
        for (model, kv, compute, total) in [
            (14516.15, 512.0, 103.01, 15131.16),
            (616.15, 512.0, 240.89, 1369.04),
            (24100.66, 512.0, 103.01, 24715.67),
            (850.65, 512.0, 397.14, 1759.79),
            (42304.49, 512.0, 103.01, 42919.50),
            (1504.48, 512.0, 503.01, 2519.49),
            (6326.58, 896.0, 236.26, 7458.84),
            (535.07, 896.0, 212.00, 1643.07),
            (10231.24, 896.0, 236.26, 11363.50),
            (760.24, 896.0, 243.51, 1899.75),
            (16390.94, 896.0, 236.26, 17523.20),
            (1243.93, 896.0, 243.51, 2383.44),
        ] {
            for devices in [1, 2] {
                let found = accelerators(&log(model, kv, compute, devices));
                assert_eq!(found.len(), devices);
                let sum = |part: fn(&DeviceBytes) -> u64| found.iter().map(part).sum::<u64>() as f64 / MIB;
                for (got, logged) in [
                    (sum(|device| device.model_bytes), model),
                    (sum(|device| device.kv_bytes), kv),
                    (sum(|device| device.compute_bytes), compute),
                    (sum(DeviceBytes::total_bytes), total),
                ] {
                    assert!((got - logged).abs() < 0.005, "{model} on {devices}: {got} and not {logged}");
                }
            }
        }
    }

    #[test]
    fn only_buffers_of_accelerators_of_the_last_model_count() {
        let line =
            |line: &str| buffer(line).map(|(name, kind, bytes)| (name.to_owned(), kind.to_owned(), bytes));
        let mib = |device: &str, kind: &str, mib: u64| Some((device.to_owned(), kind.to_owned(), mib << 20));
        for (text, expected) in [
            ("load_tensors:        CUDA0 model buffer size =   616.00 MiB", mib("CUDA0", "model", 616)),
            (
                "0.01.2 I llama_context:    Vulkan1 compute buffer size =     3.00 MiB\r",
                mib("Vulkan1", "compute", 3),
            ),
            ("load_tensors: MTL0_Private model buffer size =     5.00 MiB", mib("MTL0", "model", 5)),
            ("llama_memory_recurrent:      ROCm0 RS buffer size =     2.00 MiB", mib("ROCm0", "RS", 2)),
            ("llama_adapter_lora_init:      CUDA0 LoRA buffer size =     1.00 MiB", mib("CUDA0", "LoRA", 1)),
            ("load_tensors:   CPU_Mapped model buffer size =  6226.00 MiB", None),
            ("load_tensors:   CPU_REPACK model buffer size =   226.00 MiB", None),
            ("llama_context:        CPU  output buffer size =     0.12 MiB", None),
            ("llama_context:  CUDA_Host compute buffer size =    16.01 MiB", None),
            ("using device CUDA0 (NVIDIA) - 92789 MiB free", None),
            ("load_tensors: layer   0 assigned to device CUDA0, is_swa = 0", None),
            ("load_tensors:        CUDA0 model buffer size =   -1.00 MiB", None),
            ("load_tensors:        CUDA0 model buffer size =   inf MiB", None),
            ("load_tensors:        CUDA0 model buffer size =   9e99 MiB", None),
            ("load_tensors:        CUDA0 model buffer size =   616.15", None),
            ("model buffer size =   616.15 MiB", None),
            (" buffer size = 1 MiB", None),
            ("", None),
        ] {
            assert_eq!(line(text), expected, "{text}");
        }
        // A server that loaded two models: the second's; caches of two kinds of layers add up.
        let two = log(100.0, 50.0, 5.0, 2)
            + &log(10.0, 5.0, 1.0, 1)
            + "llama_kv_cache:      CUDA0 KV buffer size =     2.00 MiB\n";
        let found = accelerators(&two);
        assert_eq!(
            (found.len(), found[0].kv_bytes, found[0].total_bytes()),
            (1, 7 << 20, 18 << 20),
            "{found:?}"
        );
        assert_eq!(accelerators("nothing of the kind\n"), []);
        let many: String = (0..1000).map(|at| format!("x: D{at} model buffer size = 1.00 MiB\n")).collect();
        assert_eq!(accelerators(&many).len(), DEVICES);
    }
}
