//! The control group that this process lives in: its limits, and whether it may make
//! a group below itself.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// Limits along the path from the root group to ours; the tightest counts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, schemars::JsonSchema)]
pub struct Cgroup {
    /// 1 or 2; null where there are no control groups.
    pub version: Option<u8>,
    /// Path of our group, as the kernel names it.
    pub path: Option<String>,
    pub memory_limit_bytes: Option<u64>,
    pub memory_used_bytes: Option<u64>,
    /// Part of that which is pages of files not in recent use; 0 where it is not known.
    pub memory_cache_bytes: u64,
    pub swap_limit_bytes: Option<u64>,
    /// Cores that the CPU quota amounts to.
    pub cpu_quota_cores: Option<f64>,
    pub processes_limit: Option<u64>,
    /// Whether a worker could be given a memory limit of its own in a group below ours.
    pub memory_delegated: bool,
}

/// Reads the group of this process.
pub fn cgroup() -> Cgroup {
    read(&own_text(), Path::new("/sys/fs/cgroup"))
}

/// The kernel's list of the groups of this process.
pub(super) fn own_text() -> String {
    fs::read_to_string("/proc/self/cgroup").unwrap_or_default()
}

/// The folder of our memory group of that version; `None` where there is none.
pub(super) fn own_dir(own: &str, root: &Path, version: u8) -> Option<PathBuf> {
    let (path, root) = match version {
        2 if root.join("cgroup.controllers").exists() => (unified(own)?, root.to_owned()),
        1 => (memory_v1(own)?, root.join("memory")),
        _ => return None,
    };
    levels(path, &root).into_iter().next().filter(|dir| dir.is_dir())
}

fn unified(own: &str) -> Option<&str> {
    own.lines().find_map(|line| line.strip_prefix("0::"))
}

fn memory_v1(own: &str) -> Option<&str> {
    own.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|name| name == "memory").then_some(path)
    })
}

/// `own` is the text of `/proc/self/cgroup`, `root` where the groups are mounted.
fn read(own: &str, root: &Path) -> Cgroup {
    if let Some(path) = unified(own)
        && root.join("cgroup.controllers").exists()
    {
        return read_v2(path, root);
    }
    memory_v1(own).map_or_else(Cgroup::default, |path| read_v1(path, root))
}

fn read_v2(path: &str, root: &Path) -> Cgroup {
    let levels = levels(path, root);
    let tightest = |file: &str| levels.iter().filter_map(|dir| number(&dir.join(file))).min();
    let own = levels.first();
    let quota = levels
        .iter()
        .filter_map(|dir| fs::read_to_string(dir.join("cpu.max")).ok().and_then(|text| quota(&text)))
        .min_by(f64::total_cmp);
    let delegated = own.is_some_and(|dir| {
        let controllers = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
        controllers.split_whitespace().any(|name| name == "memory")
            && writable(&dir.join("cgroup.subtree_control"))
            && writable(&dir.join("cgroup.procs"))
    });
    Cgroup {
        version: Some(2),
        path: Some(path.to_owned()),
        memory_limit_bytes: tightest("memory.max").into_iter().chain(tightest("memory.high")).min(),
        memory_used_bytes: own.and_then(|dir| number(&dir.join("memory.current"))),
        memory_cache_bytes: own.map_or(0, |dir| cache(dir, "inactive_file")),
        swap_limit_bytes: tightest("memory.swap.max"),
        cpu_quota_cores: quota,
        processes_limit: tightest("pids.max"),
        memory_delegated: delegated,
    }
}

fn read_v1(path: &str, root: &Path) -> Cgroup {
    let levels = levels(path, &root.join("memory"));
    // Version 1 writes "no limit" as a number near 2^63.
    let limit = levels
        .iter()
        .filter_map(|dir| number(&dir.join("memory.limit_in_bytes")))
        .filter(|limit| *limit < 1 << 60)
        .min();
    let own = levels.first();
    Cgroup {
        version: Some(1),
        path: Some(path.to_owned()),
        memory_limit_bytes: limit,
        memory_used_bytes: own.and_then(|dir| number(&dir.join("memory.usage_in_bytes"))),
        memory_cache_bytes: own.map_or(0, |dir| cache(dir, "total_inactive_file")),
        memory_delegated: own.is_some_and(|dir| writable(&dir.join("cgroup.procs"))),
        ..Cgroup::default()
    }
}

/// Our group and those above it, ours first. In a container with its own view, our path
/// may not exist under the mount; then the mount itself is our group.
fn levels(path: &str, root: &Path) -> Vec<PathBuf> {
    let own = root.join(path.trim_start_matches('/'));
    let own = if own.is_dir() { own } else { root.to_owned() };
    own.ancestors().take_while(|dir| dir.starts_with(root)).map(Path::to_owned).collect()
}

pub(super) fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// A line of `memory.stat`; 0 where it is not there, which only makes us more careful.
fn cache(dir: &Path, name: &str) -> u64 {
    let text = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok();
    text.lines().find_map(value).unwrap_or(0)
}

/// "MAX PERIOD" in microseconds, or "max PERIOD".
fn quota(text: &str) -> Option<f64> {
    let mut words = text.split_whitespace();
    let (limit, period): (f64, f64) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    (period > 0.0).then_some(limit / period)
}

fn writable(file: &Path) -> bool {
    rustix::fs::access(file, rustix::fs::Access::WRITE_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn the_tightest_limit_on_the_way_up_counts() {
        let dir = tempfile::tempdir().unwrap();
        write(
            dir.path(),
            &[
                ("cgroup.controllers", "cpu memory"),
                ("a/memory.max", "1000\n"),
                ("a/cpu.max", "150000 100000"),
                ("a/b/memory.max", "max"),
                ("a/b/memory.high", "2000"),
                ("a/b/memory.current", "70"),
                ("a/b/cpu.max", "max 100000"),
                ("a/b/pids.max", "50"),
            ],
        );
        let found = read("0::/a/b\n", dir.path());
        assert_eq!(found.memory_limit_bytes, Some(1000));
        assert_eq!(found.memory_used_bytes, Some(70));
        assert_eq!(found.cpu_quota_cores, Some(1.5));
        assert_eq!(found.processes_limit, Some(50));
        assert!(!found.memory_delegated, "no controllers, nothing to write");
        // A container sees its group as the root.
        write(dir.path(), &[("memory.max", "900"), ("cgroup.subtree_control", ""), ("cgroup.procs", "")]);
        let found = read("0::/not/here\n", dir.path());
        assert_eq!(found.memory_limit_bytes, Some(900));
        assert!(found.memory_delegated);
    }

    #[test]
    fn version_one_and_none() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &[("memory/x/memory.limit_in_bytes", "9223372036854771712")]);
        let own = "5:cpu,cpuacct:/x\n4:memory:/x\n";
        assert_eq!(read(own, dir.path()).memory_limit_bytes, None);
        write(dir.path(), &[("memory/x/memory.limit_in_bytes", "4096")]);
        let found = read(own, dir.path());
        assert_eq!((found.version, found.memory_limit_bytes), (Some(1), Some(4096)));
        assert_eq!(read("", dir.path()), Cgroup::default());
    }
}
