//! What a worker may do, narrowed by itself before it reads a byte of a model.
//!
//! Invariants: after [`confine`], every file but the model's own is out of reach, files cannot
//! be written (but for the one output of a quantiser), there is no network (but one port for
//! a remote model), no other process can be signalled, and no program started.
//! Landlock's rules hold for the very files that were opened here, so a name that is pointed to
//! another file later opens nothing. The system calls are a list of what is allowed; anything
//! else fails as if the kernel had no such call, which libraries are written to survive. What
//! the kernel lacks is reported and never taken for granted. Deliberately absent: any way back.

use std::collections::BTreeMap;
use std::path::PathBuf;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, NetPort, PathBeneath,
    PathFd, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus, Scope,
};
use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use serde::{Deserialize, Serialize};

use super::stamp::Stamp;
use crate::engine::EngineKind;

/// What the parent wants, before anything else.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct GuardOrder {
    pub(super) engine: EngineKind,
    /// Files that may be read, and folders that may be read as a whole.
    pub(super) paths: Vec<PathBuf>,
    /// What the files were when they were judged.
    pub(super) stamps: Vec<Stamp>,
    pub(super) confine: bool,
    /// An accelerator's driver talks to devices in ways that no list foresees.
    pub(super) accelerator: bool,
    /// The one TCP port that may be connected to, if any.
    pub(super) port: Option<u16>,
    /// The one file that may be written; it is there already.
    pub(super) output: Option<Output>,
}

/// A file that a worker may write, and how much of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Output {
    pub(super) path: PathBuf,
    pub(super) max_bytes: u64,
}

/// What was achieved; the reasons are for people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// `landlock`, `seccomp`; in this order.
    pub in_force: Vec<String>,
    pub missing: Vec<String>,
}

impl Confinement {
    /// As reports name it: `landlock+seccomp`, or `none`.
    pub fn names(&self) -> String {
        if self.in_force.is_empty() { "none".to_owned() } else { self.in_force.join("+") }
    }

    /// Whether the worker is known to be unable to start other processes.
    pub(super) fn forbids_forks(&self) -> bool {
        self.in_force.iter().any(|name| name == "seccomp")
    }
}

/// Limits that a worker puts on itself before it touches a model. Each is best effort: what
/// the machine refuses is the parent's watchdog to make up for.
pub(super) fn guard_self() {
    // Ends with its parent; the second look closes the race with a parent already gone.
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let _ = rustix::thread::set_no_new_privs(true);
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let _ = rustix::process::setrlimit(Resource::Core, none);
    let _ = rustix::process::nice(10);
    // First to go when the machine runs out of memory. Before the next line, which makes
    // these files root's.
    crate::governor::memory::go_first();
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// Narrows the file system and the network of this thread and of all threads it will start.
/// To be called while it is the only one.
///
/// # Errors
/// A file is not the one that was judged.
pub(super) fn confine_files(order: &GuardOrder, done: &mut Confinement) -> Result<(), String> {
    let opened = open(order)?;
    let output = order.output.as_ref().and_then(|output| PathFd::new(&output.path).ok());
    if let Some(output) = &order.output {
        // A write beyond it ends the process: the file cannot fill the disk.
        let most = Rlimit { current: Some(output.max_bytes), maximum: Some(output.max_bytes) };
        let _ = rustix::process::setrlimit(Resource::Fsize, most);
    }
    if !order.confine {
        done.missing.push("not asked for".to_owned());
        return Ok(());
    }
    if order.accelerator {
        done.missing.push("an accelerator's driver needs its devices".to_owned());
        return Ok(());
    }
    match landlock(opened, output, order.port) {
        Ok(()) => done.in_force.push("landlock".to_owned()),
        Err(reason) => done.missing.push(format!("landlock: {reason}")),
    }
    Ok(())
}

/// Narrows the system calls of all threads.
pub(super) fn confine_calls(order: &GuardOrder, done: &mut Confinement) {
    if !order.confine || order.accelerator {
        return;
    }
    match filter(order.port.is_some())
        .and_then(|program| seccompiler::apply_filter_all_threads(&program).map_err(|e| e.to_string()))
    {
        Ok(()) => done.in_force.push("seccomp".to_owned()),
        Err(reason) => done.missing.push(format!("seccomp: {reason}")),
    }
}

/// Takes hold of every path, and checks that it is the file that was judged.
fn open(order: &GuardOrder) -> Result<Vec<(PathFd, bool)>, String> {
    let mut opened = Vec::with_capacity(order.paths.len());
    for path in &order.paths {
        // What is not there is for the engine to complain about.
        let Ok(file) = PathFd::new(path) else { continue };
        let Ok(found) = rustix::fs::fstat(&file) else { continue };
        let expected = order.stamps.iter().find(|stamp| stamp.path == *path);
        if expected.is_some_and(|stamp| (found.st_dev, found.st_ino) != (stamp.device, stamp.inode)) {
            return Err(format!("{} is another file than the one that was judged", path.display()));
        }
        let folder = rustix::fs::FileType::from_raw_mode(found.st_mode) == rustix::fs::FileType::Directory;
        opened.push((file, folder));
    }
    Ok(opened)
}

/// Everything that Landlock can forbid as far as this kernel goes, but reading `opened` and
/// writing `output`.
fn landlock(opened: Vec<(PathFd, bool)>, output: Option<PathFd>, port: Option<u16>) -> Result<(), String> {
    let words = |error: &dyn std::fmt::Display| error.to_string();
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V6))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(ABI::V6)))
        .and_then(|rules| rules.scope(Scope::from_all(ABI::V6)))
        .and_then(Ruleset::create)
        .map_err(|error| words(&error))?;
    for (file, folder) in opened {
        let mut access: BitFlags<AccessFs> = AccessFs::ReadFile.into();
        if folder {
            access |= AccessFs::ReadDir;
        }
        rules = rules.add_rule(PathBeneath::new(file, access)).map_err(|error| words(&error))?;
    }
    if let Some(file) = output {
        let access = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate;
        rules = rules.add_rule(PathBeneath::new(file, access)).map_err(|error| words(&error))?;
    }
    if let Some(port) = port {
        let rule = NetPort::new(port, AccessNet::ConnectTcp);
        rules = rules.add_rule(rule).map_err(|error| words(&error))?;
    }
    match rules.restrict_self().map_err(|error| words(&error))?.ruleset {
        RulesetStatus::NotEnforced => Err("this kernel has none, or it is switched off".to_owned()),
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
    }
}

/// Calls that computing on mapped files with threads needs, whatever their arguments.
const ALLOWED: &[i64] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_readlinkat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_fadvise64,
    libc::SYS_readahead,
    // What it may open is Landlock's to say; a plain `open` is not needed by any current libc.
    libc::SYS_openat,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_msync,
    libc::SYS_mlock,
    libc::SYS_munlock,
    libc::SYS_brk,
    libc::SYS_membarrier,
    libc::SYS_get_mempolicy,
    libc::SYS_mbind,
    libc::SYS_set_mempolicy,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_rseq,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_set_tid_address,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_getcpu,
    libc::SYS_getpriority,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrusage,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_getrandom,
    libc::SYS_ppoll,
    libc::SYS_getrlimit,
];

/// What a TCP connection needs besides; Landlock says to which port.
const NETWORK: &[i64] = &[
    libc::SYS_connect,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_setsockopt,
    libc::SYS_getsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_shutdown,
];

/// Older forms of calls that only this architecture still has.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[i64] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_poll,
    libc::SYS_dup2,
    libc::SYS_arch_prctl,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[i64] = &[];

/// The list as a program for the kernel.
fn filter(network: bool) -> Result<BpfProgram, String> {
    let words = |error: &dyn std::fmt::Display| error.to_string();
    let network_calls = if network { NETWORK } else { &[] };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().chain(ALLOWED_HERE).chain(network_calls).map(|number| (*number, Vec::new())).collect();
    let mut only = |number: i64, argument: u8, operation: SeccompCmpOp, value: u64| -> Result<(), String> {
        // Pointers and flags are compared whole; numbers that C calls `int` by their lower half.
        let whole = [libc::SYS_clone, libc::SYS_prlimit64].contains(&number);
        let length = if whole { SeccompCmpArgLen::Qword } else { SeccompCmpArgLen::Dword };
        let condition =
            SeccompCondition::new(argument, length, operation, value).map_err(|error| words(&error))?;
        let rule = SeccompRule::new(vec![condition]).map_err(|error| words(&error))?;
        rules.entry(number).or_default().push(rule);
        Ok(())
    };
    // Threads, but no processes. `clone3` hides its flags in memory; told that there is none,
    // the C library uses `clone`.
    let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
    only(libc::SYS_clone, 0, SeccompCmpOp::MaskedEq(thread), thread)?;
    // Signals to itself: an abort must look like one.
    let me = u64::from(std::process::id());
    for number in [libc::SYS_tgkill, libc::SYS_kill, libc::SYS_rt_sigqueueinfo, libc::SYS_rt_tgsigqueueinfo] {
        only(number, 0, SeccompCmpOp::Eq, me)?;
    }
    // Names of threads.
    for option in [libc::PR_SET_NAME, libc::PR_GET_NAME] {
        only(libc::SYS_prctl, 0, SeccompCmpOp::Eq, u64::from(option.unsigned_abs()))?;
    }
    // Limits may be read, not set.
    only(libc::SYS_prlimit64, 2, SeccompCmpOp::Eq, 0)?;
    // Asking whether something is a terminal.
    only(libc::SYS_ioctl, 1, SeccompCmpOp::Eq, libc::TCGETS)?;
    if network {
        // Sockets of the internet only, and whether they wait.
        for family in [libc::AF_INET, libc::AF_INET6] {
            only(libc::SYS_socket, 0, SeccompCmpOp::Eq, u64::from(family.unsigned_abs()))?;
        }
        only(libc::SYS_ioctl, 1, SeccompCmpOp::Eq, libc::FIONBIO)?;
    }
    let architecture = std::env::consts::ARCH
        .try_into()
        .map_err(|_| format!("no filter for the architecture {}", std::env::consts::ARCH))?;
    let absent = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let filter = SeccompFilter::new(rules, absent, SeccompAction::Allow, architecture);
    filter
        .map_err(|error| words(&error))?
        .try_into()
        .map_err(|error: seccompiler::BackendError| words(&error))
}
