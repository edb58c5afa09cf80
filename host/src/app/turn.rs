//! Whose turn it is to have models in memory: the assay's, or that of the model that is served.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// How often one that waits looks again.
const LOOK: Duration = Duration::from_millis(20);

/// One turn at a time.
#[derive(Debug, Default)]
pub struct Turn {
    taken: AtomicBool,
    waiting: AtomicUsize,
}

/// The turn, until it is dropped.
#[derive(Debug)]
pub struct Taken(Arc<Turn>);

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.taken.store(false, Ordering::Release);
    }
}

impl Turn {
    /// Takes it if nobody has it or waits for it.
    pub fn try_take(self: &Arc<Self>) -> Option<Taken> {
        if self.is_wanted() { None } else { self.grab() }
    }

    fn grab(self: &Arc<Self>) -> Option<Taken> {
        self.taken
            .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
            .ok()
            .map(|_| Taken(Arc::clone(self)))
    }

    /// Waits for it; `None` if told to give up.
    pub fn take(self: &Arc<Self>, give_up: &AtomicBool) -> Option<Taken> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let taken = loop {
            if let Some(taken) = self.grab() {
                break Some(taken);
            }
            if give_up.load(Ordering::Relaxed) {
                break None;
            }
            std::thread::sleep(LOOK);
        };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        taken
    }

    /// Whether somebody waits for it.
    pub fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_it_and_who_waits_comes_before_who_only_looks() {
        let turn = Arc::new(Turn::default());
        let first = turn.try_take().unwrap();
        assert!(turn.try_take().is_none());
        let give_up = AtomicBool::new(true);
        assert!(turn.take(&give_up).is_none() && !turn.is_wanted(), "one that gave up does not wait");
        let waits = std::thread::spawn({
            let turn = Arc::clone(&turn);
            move || turn.take(&AtomicBool::new(false)).is_some()
        });
        while !turn.is_wanted() {
            std::thread::yield_now();
        }
        drop(first);
        assert!(waits.join().unwrap());
        while turn.try_take().is_none() {
            std::thread::yield_now();
        }
    }
}
