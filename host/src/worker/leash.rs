//! The hold on one worker's processes: who they are and how they are ended.
//!
//! Invariants: a signal goes only to a process of ours. The leader is known by a descriptor
//! (pidfd) and stays unreaped until its whole group was told to go, so neither its number nor
//! its group's can belong to anybody else. Nothing is ever looked up by name.

use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Child, ExitStatus};
use std::sync::{Mutex, PoisonError};

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, pidfd_send_signal, waitid,
};

use crate::governor::group::Group;
use crate::governor::memory::descendants;

/// A started process, its group, and everything that descends from it.
#[derive(Debug)]
pub(super) struct Leash {
    leader: Pid,
    id: u32,
    /// `None` on kernels without pidfd; the unreaped number serves then.
    process: Option<OwnedFd>,
    group: Option<Group>,
    /// Once true, numbers may be another's and no signal is sent any more.
    reaped: Mutex<bool>,
}

impl Leash {
    /// Takes hold of a child that was just started as leader of its own group.
    pub(super) fn new(child: &Child, group: Option<Group>) -> Self {
        let leader = Pid::from_child(child);
        let process = pidfd_open(leader, PidfdFlags::empty()).ok();
        Self { leader, id: child.id(), process, group, reaped: Mutex::new(false) }
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }

    pub(super) fn group(&self) -> Option<&Group> {
        self.group.as_ref()
    }

    /// Kills the worker and all that came of it.
    pub(super) fn kill(&self) {
        let reaped = self.reaped.lock().unwrap_or_else(PoisonError::into_inner);
        if !*reaped {
            self.signal();
        }
    }

    /// Takes the exit status if the worker has ended, after telling what is left of its group
    /// to go. `None` while it runs.
    pub(super) fn try_reap(&self, child: &mut Child) -> Option<std::io::Result<ExitStatus>> {
        let mut reaped = self.reaped.lock().unwrap_or_else(PoisonError::into_inner);
        if !*reaped {
            let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
            let id = match &self.process {
                Some(process) => WaitId::PidFd(process.as_fd()),
                None => WaitId::Pid(self.leader),
            };
            match waitid(id, look) {
                Ok(None) => return None,
                Ok(Some(_)) => self.signal(),
                Err(error) => return Some(Err(error.into())),
            }
        }
        let status = child.wait();
        *reaped = true;
        Some(status)
    }

    /// Only while the leader is not reaped.
    fn signal(&self) {
        // Found before their parent is gone: those that left the group are still known by it.
        let strays: Vec<(u32, OwnedFd)> = descendants(self.id)
            .into_iter()
            .filter_map(|id| {
                let pid = Pid::from_raw(i32::try_from(id).ok()?)?;
                Some((id, pidfd_open(pid, PidfdFlags::empty()).ok()?))
            })
            .collect();
        if !strays.is_empty() {
            // A number that was given away in between does not descend from our worker.
            let still = descendants(self.id);
            for (id, process) in strays {
                if still.contains(&id) {
                    let _ = pidfd_send_signal(&process, Signal::KILL);
                }
            }
        }
        if let Some(process) = &self.process {
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
        let _ = kill_process_group(self.leader, Signal::KILL);
        if let Some(group) = &self.group {
            group.kill();
        }
    }
}
