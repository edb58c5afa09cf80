//! Memory of processes and of the machine, read from `/proc`, and a process's place in the
//! queue when there is none left.
//!
//! Purpose: the numbers that the watchdog acts on. Invariants: what cannot be read is `None`,
//! never 0; kinds of memory are never added up, except where the sum is what is limited.
//! Deliberately absent: any decision.

use std::fmt::Write as _;

use crate::domain::budget;

/// Resident memory of a process in bytes, by kind. The kinds are never added up: file pages
/// of a mapped model are reclaimable and shared, anonymous ones are not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProcessMemory {
    pub rss_anon_bytes: u64,
    pub rss_file_bytes: u64,
    /// Shared memory without a file: as scarce as the anonymous kind.
    pub rss_shmem_bytes: u64,
    /// The most that all kinds together ever were, where the kernel says.
    pub peak_rss_bytes: Option<u64>,
}

impl ProcessMemory {
    /// The least that anonymous memory must have been at the peak of all kinds together, for
    /// peaks between two looks; `file_bytes` is the most that pages of files ever were.
    pub fn peak_anon_bytes(&self, file_bytes: u64) -> u64 {
        let others = file_bytes.max(self.rss_file_bytes).saturating_add(self.rss_shmem_bytes);
        self.peak_rss_bytes.unwrap_or(0).saturating_sub(others).max(self.rss_anon_bytes)
    }

    /// What only killing the process gives back: the memory that limits are about.
    pub fn held_bytes(&self) -> u64 {
        self.rss_anon_bytes.saturating_add(self.rss_shmem_bytes)
    }
}

/// Reads the memory of a process; `None` when it is gone.
pub fn process_memory(pid: u32) -> Option<ProcessMemory> {
    let mut path = String::new();
    write!(path, "/proc/{pid}/status").ok()?;
    parse(&std::fs::read_to_string(path).ok()?)
}

/// Processes that descend from `pid`, up to a bound.
pub fn descendants(pid: u32) -> Vec<u32> {
    let (mut found, mut queue) = (Vec::new(), vec![pid]);
    while let Some(parent) = queue.pop() {
        for child in children(parent) {
            // A number seen twice, or one more than anybody watches, is not followed.
            if child != pid && found.len() < budget::WATCHED_PROCESSES && !found.contains(&child) {
                found.push(child);
                queue.push(child);
            }
        }
    }
    found
}

/// Memory of the processes that descend from `pid`, all added up. For workers that could not
/// be kept from forking. A process that leaves while it is looked for counts as nothing.
pub fn descendants_memory(pid: u32) -> ProcessMemory {
    let mut sum = ProcessMemory::default();
    for memory in descendants(pid).into_iter().filter_map(process_memory) {
        sum.rss_anon_bytes = sum.rss_anon_bytes.saturating_add(memory.rss_anon_bytes);
        sum.rss_file_bytes = sum.rss_file_bytes.saturating_add(memory.rss_file_bytes);
        sum.rss_shmem_bytes = sum.rss_shmem_bytes.saturating_add(memory.rss_shmem_bytes);
    }
    sum
}

/// Children of all threads of a process.
fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// Memory of the whole machine, as the kernel sees it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineMemory {
    pub total_bytes: u64,
    /// What can be taken without swapping.
    pub available_bytes: u64,
}

impl MachineMemory {
    /// Share of the memory that is taken, in percent, rounded down.
    pub fn used_percent(&self) -> u8 {
        let used = self.total_bytes.saturating_sub(self.available_bytes);
        let percent = u128::from(used) * 100 / u128::from(self.total_bytes.max(1));
        u8::try_from(percent).unwrap_or(100).min(100)
    }
}

/// Reads the machine's memory; `None` where the kernel does not say.
pub fn machine_memory() -> Option<MachineMemory> {
    parse_machine(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

fn parse_machine(text: &str) -> Option<MachineMemory> {
    Some(MachineMemory {
        total_bytes: kib_line(text, "MemTotal:")?,
        available_bytes: kib_line(text, "MemAvailable:")?,
    })
}

/// Memory that this process may fill at most, page cache included: the machine's, or its
/// group's if that is less.
pub fn room_bytes() -> u64 {
    let machine = rustix::system::sysinfo();
    let total = machine.totalram.saturating_mul(machine.mem_unit.into());
    super::cgroup::cgroup().memory_limit_bytes.map_or(total, |limit| limit.min(total))
}

/// Makes this process the first to go when the machine runs out of memory. A process that
/// may not say so stays where it was, which only costs its parent.
pub fn go_first() {
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
}

/// A line such as `RssAnon:  12 kB`, in bytes.
fn kib_line(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

fn parse(status: &str) -> Option<ProcessMemory> {
    Some(ProcessMemory {
        rss_anon_bytes: kib_line(status, "RssAnon:")?,
        rss_file_bytes: kib_line(status, "RssFile:")?,
        rss_shmem_bytes: kib_line(status, "RssShmem:")?,
        peak_rss_bytes: kib_line(status, "VmHWM:"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room() {
        assert!(room_bytes() > 1 << 20);
    }

    #[test]
    fn reads_the_kinds_and_refuses_what_is_not_there() {
        let status = "Name:\tx\nVmHWM:\t 60 kB\nVmRSS:\t 37 kB\nRssAnon:\t 10 kB\nRssFile:\t 20 kB\nRssShmem:\t 7 kB\n";
        let read = parse(status).unwrap();
        assert_eq!((read.rss_anon_bytes, read.rss_file_bytes, read.rss_shmem_bytes), (10_240, 20_480, 7_168));
        assert_eq!((read.held_bytes(), read.peak_anon_bytes(0)), (17_408, 33 * 1024));
        // A zombie has no memory lines.
        assert_eq!(parse("Name:\tx\nState:\tZ (zombie)\n"), None);
        assert!(process_memory(std::process::id()).unwrap().rss_anon_bytes > 0);
    }

    #[test]
    fn the_machine_has_memory_and_children_are_found() {
        let text = "MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:  249 kB\n";
        let read = parse_machine(text).unwrap();
        assert_eq!((read.total_bytes, read.available_bytes, read.used_percent()), (1_024_000, 254_976, 75));
        assert_eq!(parse_machine("MemTotal: 5 kB\n"), None, "unknown is not zero");
        let real = machine_memory().unwrap();
        assert!(real.available_bytes <= real.total_bytes && real.used_percent() <= 100);
        let mut child = std::process::Command::new("/bin/sh").args(["-c", "sleep 60; :"]).spawn().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while children(child.id()).is_empty() {
            assert!(std::time::Instant::now() < deadline, "the grandchild was never seen");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let grandchild = children(child.id())[0];
        assert!(descendants_memory(std::process::id()).held_bytes() > 0);
        let pid = rustix::process::Pid::from_raw(i32::try_from(grandchild).unwrap()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
}
