//! The ladder of memory enforcement, and which rung is asked for.
//!
//! From the top: a control group of version 2, one of version 1, RLIMIT_DATA together with the
//! first place in the kernel's queue of victims, and below all of them a watchdog that is
//! always there. Deliberately absent: RLIMIT_AS, which counts mapped files and so refuses
//! models that fit, and RLIMIT_RSS, which the kernel ignores.

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::group::{Group, GroupRoot};

/// How a worker is held to its memory limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ValueEnum, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Enforcement {
    /// Everything that this machine has.
    #[default]
    Auto,
    /// A control group of version 2, or no worker at all.
    CgroupV2,
    /// A control group of version 1, or no worker at all.
    CgroupV1,
    /// RLIMIT_DATA and the watchdog.
    Rlimit,
    /// The watchdog alone.
    Watchdog,
}

/// Memory beyond the limit that RLIMIT_DATA leaves: what a worker maps and hardly touches, such
/// as the stacks of its own threads.
const DATA_SLACK_BYTES: u64 = 32 << 20;
/// The same for each compute thread: a stack of 8 MiB and its heap.
const DATA_SLACK_PER_THREAD_BYTES: u64 = 10 << 20;

/// The rungs chosen for one worker.
#[derive(Debug)]
pub struct Rungs {
    pub group: Option<Group>,
    /// RLIMIT_DATA in bytes.
    pub data_bytes: Option<u64>,
    /// Why a rung that was wanted is not there; for people.
    pub missing: Vec<String>,
}

impl Enforcement {
    /// Sets up what is asked for. Without a limit there is nothing to set up: the watchdog then
    /// looks after the machine alone.
    ///
    /// # Errors
    /// A rung that was named is not there; in words.
    pub fn set_up(self, root: &GroupRoot, limit: Option<u64>, threads: u32) -> Result<Rungs, String> {
        let Some(limit) = limit else {
            return Ok(Rungs { group: None, data_bytes: None, missing: Vec::new() });
        };
        let threads = u64::from(threads);
        let data = limit.saturating_add(DATA_SLACK_BYTES + threads * DATA_SLACK_PER_THREAD_BYTES);
        let mut missing = Vec::new();
        let group = match self {
            Self::Auto => {
                let mut found = None;
                for version in [2, 1] {
                    match Group::make(root, version, limit) {
                        Ok(group) => {
                            found = Some(group);
                            break;
                        }
                        Err(reason) => missing.push(format!("cgroup v{version}: {reason}")),
                    }
                }
                found
            }
            Self::CgroupV2 => Some(Group::make(root, 2, limit)?),
            Self::CgroupV1 => Some(Group::make(root, 1, limit)?),
            Self::Rlimit | Self::Watchdog => None,
        };
        if group.is_some() {
            missing.clear();
        }
        let data_bytes = matches!(self, Self::Auto | Self::Rlimit).then_some(data);
        Ok(Rungs { group, data_bytes, missing })
    }
}

/// What would hold a worker on this machine, found out by setting it up once; and why what is
/// missing is missing.
pub fn strongest() -> (String, Vec<String>) {
    match Enforcement::Auto.set_up(&GroupRoot::here(), Some(1 << 30), 1) {
        Ok(rungs) => (rungs.names(), rungs.missing),
        Err(reason) => ("watchdog".to_owned(), vec![reason]),
    }
}

impl Rungs {
    /// As reports name them, such as `cgroup-v1+rlimit+watchdog`.
    pub fn names(&self) -> String {
        let group = self.group.as_ref().map(|group| format!("cgroup-v{}", group.version()));
        let data = self.data_bytes.map(|_| "rlimit".to_owned());
        let all: Vec<String> = group.into_iter().chain(data).chain(["watchdog".to_owned()]).collect();
        all.join("+")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_is_there_or_refused_and_auto_takes_what_there_is() {
        let dir = tempfile::tempdir().unwrap();
        let nothing = GroupRoot::at(dir.path().to_owned(), "0::/\n".to_owned());
        let limit = Some(300 << 20);
        for (choice, names) in [
            (Enforcement::Auto, "rlimit+watchdog"),
            (Enforcement::Rlimit, "rlimit+watchdog"),
            (Enforcement::Watchdog, "watchdog"),
        ] {
            let rungs = choice.set_up(&nothing, limit, 1).unwrap();
            assert_eq!(rungs.names(), names, "{choice:?}");
            assert_eq!(rungs.missing.len(), if choice == Enforcement::Auto { 2 } else { 0 });
            let over = rungs.data_bytes.map(|data| data - (300 << 20));
            assert!(over.is_none_or(|over| over < 64 << 20), "{over:?}");
        }
        for choice in [Enforcement::CgroupV2, Enforcement::CgroupV1] {
            let reason = choice.set_up(&nothing, limit, 1).unwrap_err();
            assert!(reason.contains("no memory control group"), "{reason}");
        }
        assert_eq!(Enforcement::CgroupV2.set_up(&nothing, None, 1).unwrap().names(), "watchdog");
    }
}
