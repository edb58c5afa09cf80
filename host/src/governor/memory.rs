//! Memory of one process, read from `/proc`, and its place in the queue when there is none left.

use std::fmt::Write as _;

/// Resident memory of a process in bytes, by kind. The kinds are never added up: file pages
/// of a mapped model are reclaimable and shared, anonymous ones are not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProcessMemory {
    pub rss_anon_bytes: u64,
    pub rss_file_bytes: u64,
    /// The most that all kinds together ever were, where the kernel says.
    pub peak_rss_bytes: Option<u64>,
}

/// Reads the memory of a process; `None` when it is gone.
pub fn process_memory(pid: u32) -> Option<ProcessMemory> {
    let mut path = String::new();
    write!(path, "/proc/{pid}/status").ok()?;
    parse(&std::fs::read_to_string(path).ok()?)
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

fn parse(status: &str) -> Option<ProcessMemory> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    };
    Some(ProcessMemory {
        rss_anon_bytes: field("RssAnon:")?,
        rss_file_bytes: field("RssFile:")?,
        peak_rss_bytes: field("VmHWM:"),
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
        let status =
            "Name:\tx\nVmHWM:\t  40 kB\nVmRSS:\t  30 kB\nRssAnon:\t     10 kB\nRssFile:\t     20 kB\n";
        let want =
            ProcessMemory { rss_anon_bytes: 10_240, rss_file_bytes: 20_480, peak_rss_bytes: Some(40_960) };
        assert_eq!(parse(status), Some(want));
        // A zombie has no memory lines.
        assert_eq!(parse("Name:\tx\nState:\tZ (zombie)\n"), None);
        assert!(process_memory(std::process::id()).unwrap().rss_anon_bytes > 0);
    }
}
