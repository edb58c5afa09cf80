//! What this machine offers: processors, memory, disk, sandboxing, graphics cards.
//! Read-only; what cannot be read is null, never a guess.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

use super::cgroup::{Cgroup, cgroup};

/// One look at the machine.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
pub struct Machine {
    pub kernel: Option<String>,
    pub cpu: Cpu,
    pub memory: Memory,
    pub cgroup: Cgroup,
    /// Whether the kernel reports memory pressure (`/proc/pressure/memory`).
    pub psi: bool,
    /// Landlock's ABI version; null where the kernel has none or does not enable it.
    pub landlock_abi: Option<u32>,
    /// Whether the kernel can filter system calls of a process.
    pub seccomp_filter: bool,
    pub gpus: Vec<Gpu>,
}

#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
pub struct Cpu {
    pub model: Option<String>,
    /// Cores that this process may use (affinity and CPU quota counted).
    pub usable_cores: Option<usize>,
    pub logical_cores: usize,
    pub physical_cores: Option<usize>,
    /// Those instruction sets that inference kernels use.
    pub features: Vec<String>,
}

/// Zeros where the system does not say: a job can count on nothing then.
#[derive(Debug, Clone, Default, PartialEq, Serialize, schemars::JsonSchema)]
pub struct Memory {
    pub total_bytes: u64,
    /// What the kernel thinks can be taken without swapping.
    pub available_bytes: u64,
    pub swap_total_bytes: u64,
    pub swap_free_bytes: u64,
}

/// A graphics card, as the kernel lists it; no driver is loaded to ask.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, schemars::JsonSchema)]
pub struct Gpu {
    pub vendor: String,
    pub name: Option<String>,
    /// Dedicated memory, where the kernel says.
    pub memory_bytes: Option<u64>,
}

/// Room on the file system that holds a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Disk {
    pub path: PathBuf,
    pub total_bytes: u64,
    /// What an ordinary user may still write.
    pub free_bytes: u64,
}

impl Machine {
    /// Looks.
    pub fn read() -> Self {
        let wanted = RefreshKind::nothing()
            .with_memory(MemoryRefreshKind::everything())
            .with_cpu(CpuRefreshKind::nothing());
        let system = System::new_with_specifics(wanted).ok();
        Self {
            kernel: System::kernel_version().ok(),
            cpu: cpu(system.as_ref()),
            memory: memory_of(system.as_ref()),
            cgroup: cgroup(),
            psi: fs::read_to_string("/proc/pressure/memory").is_ok(),
            landlock_abi: landlock_abi(),
            seccomp_filter: fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail")
                .is_ok_and(|actions| actions.contains("kill_process")),
            gpus: gpus(Path::new("/proc/driver/nvidia/gpus"), Path::new("/sys/class/drm")),
        }
    }

    /// Memory that jobs can count on now: the machine's, or the group's if that is less.
    pub fn usable_memory_bytes(&self) -> u64 {
        let group = self.cgroup.memory_limit_bytes.map(|limit| {
            // Unknown use counts as none: the limit itself is still an upper bound.
            let used = self.cgroup.memory_used_bytes.unwrap_or(0);
            limit.saturating_sub(used.saturating_sub(self.cgroup.memory_cache_bytes))
        });
        self.memory.available_bytes.min(group.unwrap_or(u64::MAX))
    }
}

/// Memory of the machine now.
pub fn memory_now() -> Memory {
    let wanted = RefreshKind::nothing().with_memory(MemoryRefreshKind::everything());
    memory_of(System::new_with_specifics(wanted).ok().as_ref())
}

fn memory_of(system: Option<&System>) -> Memory {
    system.map_or_else(Memory::default, |system| Memory {
        total_bytes: system.total_memory(),
        available_bytes: system.available_memory(),
        swap_total_bytes: system.total_swap(),
        swap_free_bytes: system.free_swap(),
    })
}

/// Anonymous and file-backed memory of this process that is resident now.
pub fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

/// Room for new files in `dir`, or in the nearest folder above it that exists.
pub fn disk(dir: &Path) -> Option<Disk> {
    let there = dir.ancestors().find(|dir| dir.exists())?;
    let stat = rustix::fs::statvfs(there).ok()?;
    Some(Disk {
        path: dir.to_owned(),
        total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
    })
}

/// Instruction sets that llama.cpp has kernels for, as `/proc/cpuinfo` spells them.
const FEATURES: [&str; 17] = [
    "sse4_2",
    "avx",
    "avx2",
    "f16c",
    "fma",
    "bmi2",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "asimdhp",
    "i8mm",
    "sve",
];

fn cpu(system: Option<&System>) -> Cpu {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags: BTreeSet<&str> = info
        .lines()
        .find(|line| line.starts_with("flags") || line.starts_with("Features"))
        .and_then(|line| line.split_once(':'))
        .map(|(_, flags)| flags.split_whitespace().collect())
        .unwrap_or_default();
    let cpus = system.map_or(&[][..], System::cpus);
    let model = cpus.first().map(|cpu| cpu.brand().trim().to_owned());
    Cpu {
        model: model.filter(|name| !name.is_empty()),
        usable_cores: std::thread::available_parallelism().ok().map(usize::from),
        logical_cores: cpus.len(),
        physical_cores: System::physical_core_count().ok(),
        features: FEATURES
            .iter()
            .filter(|name| flags.contains(*name))
            .map(|name| (*name).to_owned())
            .collect(),
    }
}

/// Asks the kernel for the newest ABI that it accepts, without restricting anything: a
/// ruleset is made and dropped.
fn landlock_abi() -> Option<u32> {
    use landlock::{
        ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _, Scope,
    };
    let accepted = |abi: ABI| {
        let rules = Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::from_all(abi));
        let rules = match abi {
            ABI::V1 | ABI::V2 | ABI::V3 => rules,
            _ => rules.and_then(|rules| rules.handle_access(AccessNet::from_all(abi))),
        };
        let rules = match abi {
            ABI::V6 => rules.and_then(|rules| rules.scope(Scope::from_all(abi))),
            _ => rules,
        };
        rules.and_then(Ruleset::create).is_ok()
    };
    let abis = [(6, ABI::V6), (5, ABI::V5), (4, ABI::V4), (3, ABI::V3), (2, ABI::V2), (1, ABI::V1)];
    abis.into_iter().find(|(_, abi)| accepted(*abi)).map(|(number, _)| number)
}

fn gpus(nvidia: &Path, drm: &Path) -> Vec<Gpu> {
    let mut found = Vec::new();
    for entry in fs::read_dir(nvidia).into_iter().flatten().flatten() {
        let text = fs::read_to_string(entry.path().join("information")).unwrap_or_default();
        let name =
            text.lines().find_map(|line| line.strip_prefix("Model:")).map(|name| name.trim().to_owned());
        found.push(Gpu { vendor: "NVIDIA".to_owned(), name, memory_bytes: None });
    }
    let driver_lists_nvidia = !found.is_empty();
    for entry in fs::read_dir(drm).into_iter().flatten().flatten() {
        let file = entry.file_name();
        let name = file.to_string_lossy();
        // card0, not card0-HDMI-A-1.
        if !name.strip_prefix("card").is_some_and(|n| n.chars().all(|c| c.is_ascii_digit())) {
            continue;
        }
        let device = entry.path().join("device");
        let vendor = fs::read_to_string(device.join("vendor")).unwrap_or_default();
        let vendor = match vendor.trim() {
            "0x10de" if driver_lists_nvidia => continue,
            "0x10de" => "NVIDIA",
            "0x1002" => "AMD",
            "0x8086" => "Intel",
            // Virtual displays compute nothing.
            _ => continue,
        };
        let memory = fs::read_to_string(device.join("mem_info_vram_total")).ok();
        found.push(Gpu {
            vendor: vendor.to_owned(),
            name: None,
            memory_bytes: memory.and_then(|text| text.trim().parse().ok()),
        });
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_processor_memory_and_a_disk() {
        let machine = Machine::read();
        assert!(machine.cpu.usable_cores.unwrap() >= 1);
        assert!(machine.memory.total_bytes >= machine.memory.available_bytes);
        assert!(machine.memory.total_bytes > 1 << 20);
        assert!(machine.usable_memory_bytes() <= machine.memory.available_bytes);
        assert!(resident_bytes().unwrap() > 1 << 20);
        let disk = disk(Path::new("/tmp/assayd-not-there/deeper")).unwrap();
        assert!(disk.total_bytes >= disk.free_bytes && disk.total_bytes > 0);
    }

    #[test]
    fn cards_are_listed_once_and_displays_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("nvidia/0000:01:00.0/information", "Model: \t\t NVIDIA H100\nIRQ: 1\n");
        write("drm/card0/device/vendor", "0x10de\n");
        write("drm/card1/device/vendor", "0x1002\n");
        write("drm/card1/device/mem_info_vram_total", "17163091968\n");
        write("drm/card1-DP-1/device/vendor", "0x1002\n");
        write("drm/card2/device/vendor", "0x1af4\n");
        let found = gpus(&dir.path().join("nvidia"), &dir.path().join("drm"));
        let words: Vec<_> = found.iter().map(|gpu| (gpu.vendor.as_str(), gpu.name.as_deref())).collect();
        assert_eq!(words, [("AMD", None), ("NVIDIA", Some("NVIDIA H100"))]);
        assert_eq!(found[0].memory_bytes, Some(17_163_091_968));
    }
}
