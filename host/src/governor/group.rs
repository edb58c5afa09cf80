//! Control groups for workers: one group per worker below our own, with a memory limit.
//!
//! Invariants: only groups named `PREFIX` are ever made, written to or removed, and the only
//! processes ever moved are our own worker and, where version 2 demands an inner group without
//! processes, ourselves. A group is emptied and removed when its owner drops it. Groups of a
//! daemon that died are removed when the next one is made. Both versions are driven through a
//! root that tests replace. Deliberately absent: CPU and I/O limits.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::cgroup;

/// Names of groups that are ours to remove start with this, then the process id of their maker.
const PREFIX: &str = "assayd-";
/// Where the maker itself moves when version 2 wants its group empty.
const SUPERVISOR: &str = "assayd-supervisor";
/// How long a group may take to become empty after its processes were killed.
const EMPTY_GRACE: Duration = Duration::from_secs(2);

/// Distinguishes the groups of one process.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// Where groups are, and which one is ours.
#[derive(Debug, Clone)]
pub struct GroupRoot {
    root: PathBuf,
    /// The text of `/proc/self/cgroup`.
    own: String,
}

impl GroupRoot {
    /// The control groups of this machine.
    pub fn here() -> Self {
        Self { root: PathBuf::from("/sys/fs/cgroup"), own: cgroup::own_text() }
    }

    /// A made-up tree, for tests and other mount points.
    pub fn at(root: PathBuf, own: String) -> Self {
        Self { root, own }
    }
}

/// A group with a memory limit.
#[derive(Debug)]
pub struct Group {
    dir: PathBuf,
    version: u8,
}

impl Group {
    /// Makes a group of `version` below ours that may hold `limit` bytes.
    ///
    /// # Errors
    /// In words: why there can be none here.
    pub fn make(at: &GroupRoot, version: u8, limit: u64) -> Result<Self, String> {
        let own = cgroup::own_dir(&at.own, &at.root, version)
            .ok_or_else(|| format!("this process is in no memory control group of version {version}"))?;
        sweep(&own);
        if version == 2 {
            enable(&own)?;
        }
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let dir = own.join(format!("{PREFIX}{}-{number}", std::process::id()));
        fs::create_dir(&dir).map_err(|error| format!("cannot make {}: {error}", dir.display()))?;
        // From here on, dropping it removes the folder.
        let group = Self { dir, version };
        let limit = limit.to_string();
        if version == 2 {
            group.set("memory.max", &limit)?;
            // Without these a group is only weaker: it may swap, or lose one process at a time.
            let _ = group.set("memory.swap.max", "0");
            let _ = group.set("memory.oom.group", "1");
        } else {
            group.set("memory.limit_in_bytes", &limit)?;
            let _ = group.set("memory.memsw.limit_in_bytes", &limit);
            let _ = group.set("memory.swappiness", "0");
        }
        Ok(group)
    }

    /// Moves a process in. What it took before stays with its old group.
    ///
    /// # Errors
    /// In words: why it stayed where it was.
    pub fn add(&self, pid: u32) -> Result<(), String> {
        self.set("cgroup.procs", &pid.to_string())
    }

    pub fn version(&self) -> u8 {
        self.version
    }

    /// Times that the kernel killed a process in here for memory; `None` where it does not count.
    pub fn oom_kills(&self) -> Option<u64> {
        let file = if self.version == 2 { "memory.events" } else { "memory.oom_control" };
        let text = fs::read_to_string(self.dir.join(file)).ok()?;
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
    }

    /// Most memory it ever held, file pages included.
    pub fn peak_bytes(&self) -> Option<u64> {
        let file = if self.version == 2 { "memory.peak" } else { "memory.max_usage_in_bytes" };
        cgroup::number(&self.dir.join(file))
    }

    /// Kills every process in the group.
    pub fn kill(&self) {
        if self.version == 2 && self.set("cgroup.kill", "1").is_ok() {
            return;
        }
        for id in self.members() {
            let Some(pid) = Pid::from_raw(id) else { continue };
            let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            // A number that was given away since it was listed is not in the group any more.
            if self.members().contains(&id) {
                let _ = pidfd_send_signal(&process, Signal::KILL);
            }
        }
    }

    fn members(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.dir.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.trim().parse().ok()).filter(|id| *id > 1).collect()
    }

    fn set(&self, file: &str, value: &str) -> Result<(), String> {
        write(&self.dir.join(file), value)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let deadline = Instant::now() + EMPTY_GRACE;
        loop {
            match fs::remove_dir(&self.dir) {
                Err(error) if error.kind() == ErrorKind::ResourceBusy && Instant::now() < deadline => {
                    self.kill();
                    std::thread::sleep(Duration::from_millis(2));
                }
                _ => return,
            }
        }
    }
}

/// Lets groups below `own` have memory limits.
fn enable(own: &Path) -> Result<(), String> {
    let file = own.join("cgroup.subtree_control");
    let on = |text: String| text.split_whitespace().any(|name| name == "memory");
    if on(fs::read_to_string(&file).unwrap_or_default()) {
        return Ok(());
    }
    let first = match write(&file, "+memory") {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    // A group that hands out memory may hold no process itself: step into one below it.
    let inner = own.join(SUPERVISOR);
    let me = std::process::id().to_string();
    let moved = fs::create_dir(&inner)
        .or_else(|error| if error.kind() == ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })
        .map_err(|error| error.to_string())
        .and_then(|()| write(&inner.join("cgroup.procs"), &me));
    if moved.is_err() {
        let _ = fs::remove_dir(&inner);
        return Err(first);
    }
    write(&file, "+memory").inspect_err(|_| {
        // Other processes are in our group: leave everything as it was.
        let _ = write(&own.join("cgroup.procs"), &me);
        let _ = fs::remove_dir(&inner);
    })
}

/// Removes empty groups whose maker is gone.
fn sweep(own: &Path) {
    for entry in fs::read_dir(own).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let maker =
            name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next()?.parse::<u32>().ok());
        let gone = maker.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
        if gone {
            // Fails as long as a process is in it.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Writes a control file, which must be there.
fn write(file: &Path, value: &str) -> Result<(), String> {
    use std::io::Write as _;
    File::options()
        .write(true)
        .open(file)
        .and_then(|mut open| open.write_all(value.as_bytes()))
        .map_err(|error| format!("cannot write {value} to {}: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree that a thread plays the kernel of: control files appear in every new folder.
    fn fake(version: u8) -> (tempfile::TempDir, GroupRoot) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_owned();
        let own = if version == 2 { root.join("a") } else { root.join("memory/a") };
        fs::create_dir_all(&own).unwrap();
        let text = if version == 2 {
            fs::write(root.join("cgroup.controllers"), "memory").unwrap();
            for (name, text) in
                [("cgroup.controllers", "memory"), ("cgroup.subtree_control", ""), ("cgroup.procs", "")]
            {
                fs::write(own.join(name), text).unwrap();
            }
            "0::/a\n"
        } else {
            "4:memory:/a\n0::/\n"
        };
        (dir, GroupRoot::at(root, text.to_owned()))
    }

    #[test]
    fn a_tree_without_groups_gives_reasons() {
        let (_dir, root) = fake(2);
        let none = Group::make(&root, 1, 1 << 30).unwrap_err();
        assert!(none.contains("no memory control group"), "{none}");
        // A plain folder has no control files: the kernel makes them, and nobody else may.
        let reason = Group::make(&root, 2, 1 << 30).unwrap_err();
        assert!(reason.contains("memory.max"), "{reason}");
        let left: Vec<_> =
            fs::read_dir(root.root.join("a")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| !name.to_string_lossy().starts_with(PREFIX)), "{left:?}");
    }

    #[test]
    fn the_files_of_a_group_are_written_and_read() {
        for version in [1u8, 2] {
            let dir = tempfile::tempdir().unwrap();
            let files =
                ["memory.max", "memory.limit_in_bytes", "cgroup.procs", "memory.swap.max", "cgroup.kill"];
            files.iter().for_each(|file| fs::write(dir.path().join(file), "").unwrap());
            let group = Group { dir: dir.path().to_owned(), version };
            assert_eq!((group.oom_kills(), group.peak_bytes()), (None, None), "unknown is not zero");
            fs::write(dir.path().join("memory.events"), "low 0\noom 3\noom_kill 2\noom_group_kill 1\n")
                .unwrap();
            fs::write(dir.path().join("memory.oom_control"), "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
                .unwrap();
            fs::write(dir.path().join("memory.peak"), "4096\n").unwrap();
            fs::write(dir.path().join("memory.max_usage_in_bytes"), "4096\n").unwrap();
            assert_eq!((group.oom_kills(), group.peak_bytes()), (Some(2), Some(4096)));
            group.add(4_000_000).unwrap();
            assert_eq!(fs::read_to_string(dir.path().join("cgroup.procs")).unwrap(), "4000000");
            assert_eq!(group.members(), [4_000_000]);
            group.kill();
            if version == 2 {
                assert_eq!(fs::read_to_string(dir.path().join("cgroup.kill")).unwrap(), "1");
            }
            std::mem::forget(group);
        }
    }

    #[test]
    fn version_two_is_switched_on_and_we_step_aside_only_where_we_must() {
        let (_dir, root) = fake(2);
        let own = root.root.join("a");
        enable(&own).unwrap();
        assert_eq!(fs::read_to_string(own.join("cgroup.subtree_control")).unwrap(), "+memory");
        assert!(!own.join(SUPERVISOR).exists());
        // Where it cannot be switched on, everything is as before.
        fs::remove_file(own.join("cgroup.subtree_control")).unwrap();
        assert!(enable(&own).unwrap_err().contains("+memory"));
        assert!(!own.join(SUPERVISOR).exists());
    }

    #[test]
    fn groups_of_the_dead_are_swept_and_others_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mine = format!("{PREFIX}{}-0", std::process::id());
        let names = [format!("{PREFIX}4194999-0"), mine.clone(), SUPERVISOR.to_owned(), "user-1".to_owned()];
        names.iter().for_each(|name| fs::create_dir(dir.path().join(name)).unwrap());
        sweep(dir.path());
        let there: Vec<bool> = names.iter().map(|name| dir.path().join(name).exists()).collect();
        assert_eq!(there, [false, true, true, true]);
    }
}
