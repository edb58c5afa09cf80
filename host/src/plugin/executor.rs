//! The threads that run plugin code: few, named, with a stack that a guest cannot
//! overflow, behind a bounded queue. Async code never runs a guest.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::domain::budget::{PLUGIN_QUEUE, PLUGIN_STACK_BYTES, PLUGIN_THREADS};

type Job = Box<dyn FnOnce() + Send>;

/// Why a job gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// The queue is full.
    Busy,
    /// There are no threads, or the job panicked.
    Broken,
}

/// A fixed pool of threads; they end when it is dropped.
#[derive(Debug)]
pub(super) struct Executor {
    queue: SyncSender<Job>,
}

impl Executor {
    pub(super) fn start() -> std::io::Result<Self> {
        let (queue, jobs) = sync_channel::<Job>(PLUGIN_QUEUE);
        let jobs = Arc::new(Mutex::new(jobs));
        let count = thread::available_parallelism().map_or(1, usize::from).min(PLUGIN_THREADS);
        for number in 0..count {
            let jobs = Arc::clone(&jobs);
            thread::Builder::new()
                .name(format!("plugin-{number}"))
                .stack_size(PLUGIN_STACK_BYTES)
                .spawn(move || work(&jobs))?;
        }
        Ok(Self { queue })
    }

    /// Runs `job` on a plugin thread and waits for its answer.
    pub(super) fn run<R: Send + 'static>(
        &self,
        job: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, NoAnswer> {
        let (answer, wait) = sync_channel(1);
        let job: Job = Box::new(move || {
            // Nobody waits any more if this fails, and then nobody misses it.
            let _ = answer.send(job());
        });
        self.queue.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => NoAnswer::Busy,
            TrySendError::Disconnected(_) => NoAnswer::Broken,
        })?;
        wait.recv().map_err(|_| NoAnswer::Broken)
    }
}

fn work(jobs: &Mutex<Receiver<Job>>) {
    loop {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        // A panic of ours must not cost the pool a thread; the caller hears of it because
        // the answer's channel closes.
        let _ = catch_unwind(AssertUnwindSafe(job));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_back_and_a_panic_is_survived() {
        let executor = Executor::start().unwrap();
        assert_eq!(executor.run(|| 7), Ok(7));
        for _ in 0..2 * PLUGIN_THREADS {
            assert_eq!(executor.run(|| -> u8 { panic!("on purpose") }), Err(NoAnswer::Broken));
        }
        assert_eq!(executor.run(|| 8), Ok(8));
    }

    #[test]
    fn a_full_queue_refuses() {
        let executor = Arc::new(Executor::start().unwrap());
        let (open, gate) = sync_channel::<()>(0);
        let gate = Arc::new(Mutex::new(gate));
        let waiting: Vec<_> = (0..PLUGIN_QUEUE + 2 * PLUGIN_THREADS)
            .map(|_| {
                let (executor, gate) = (Arc::clone(&executor), Arc::clone(&gate));
                thread::spawn(move || executor.run(move || gate.lock().unwrap().recv().is_ok()))
            })
            .collect();
        // Everything that fits is in; the rest was refused. Closing the gate frees them.
        thread::sleep(std::time::Duration::from_millis(300));
        drop(open);
        let outcomes: Vec<_> = waiting.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(outcomes.contains(&Err(NoAnswer::Busy)));
        assert!(outcomes.iter().filter(|outcome| outcome.is_ok()).count() >= PLUGIN_QUEUE);
    }
}
