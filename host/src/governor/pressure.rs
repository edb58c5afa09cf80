//! The kernel's own alarm for memory: a trigger on `/proc/pressure/memory` (PSI), and the
//! averages that it keeps.
//!
//! Invariants: one descriptor per trigger, closed with it. Without PSI, or without the right
//! to set a trigger, waiting is plain sleeping. Deliberately absent: any reaction.

use std::fs::File;
use std::io::Write as _;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

const FILE: &str = "/proc/pressure/memory";

/// 150 ms of waiting for memory within 2 s. An ordinary user may only use windows that are a
/// multiple of 2 s, and the kernel wants the NUL.
const TRIGGER: &[u8] = b"some 150000 2000000\0";

/// An armed trigger, or a plain clock where the kernel has none.
#[derive(Debug)]
pub struct Pressure(Option<File>);

impl Pressure {
    /// Arms the trigger.
    pub fn watch() -> Self {
        let file = File::options().read(true).write(true).open(FILE).ok();
        Self(file.filter(|file| {
            let mut file: &File = file;
            file.write_all(TRIGGER).is_ok()
        }))
    }

    pub fn is_armed(&self) -> bool {
        self.0.is_some()
    }

    /// Waits for `time`, or less when the trigger fires; true if it did.
    pub fn wait(&self, time: Duration) -> bool {
        let Some(file) = &self.0 else {
            std::thread::sleep(time);
            return false;
        };
        let mut fds = [PollFd::new(file, PollFlags::PRI)];
        let timeout = Timespec::try_from(time).ok();
        match poll(&mut fds, timeout.as_ref()) {
            // The kernel gives up on a trigger with an error; then this is a clock too.
            Ok(1..) if fds.iter().any(|fd| fd.revents().contains(PollFlags::ERR)) => {
                std::thread::sleep(time);
                false
            }
            Ok(fired) => fired > 0,
            Err(_) => {
                std::thread::sleep(time);
                false
            }
        }
    }
}

/// Share of time in percent that programs waited for memory.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct PressureNow {
    /// At least one program, over ten seconds and over a minute.
    pub some_avg10: f64,
    pub some_avg60: f64,
    /// All programs at once.
    pub full_avg10: f64,
    pub full_avg60: f64,
}

/// The averages now; `None` where the kernel keeps none.
pub fn pressure_now() -> Option<PressureNow> {
    parse(&std::fs::read_to_string(FILE).ok()?)
}

fn parse(text: &str) -> Option<PressureNow> {
    let value = |kind: &str, name: &str| -> Option<f64> {
        let line = text.lines().find(|line| line.split_whitespace().next() == Some(kind))?;
        line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))?.parse().ok()
    };
    Some(PressureNow {
        some_avg10: value("some", "avg10")?,
        some_avg60: value("some", "avg60")?,
        full_avg10: value("full", "avg10")?,
        full_avg60: value("full", "avg60")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_are_read_and_a_wait_ends() {
        let text = "some avg10=1.50 avg60=0.25 avg300=0.00 total=7\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=5\n";
        let read = parse(text).unwrap();
        assert_eq!((read.some_avg10, read.some_avg60, read.full_avg10), (1.5, 0.25, 0.5));
        assert_eq!(parse("some avg10=x"), None);
        let started = std::time::Instant::now();
        for pressure in [Pressure::watch(), Pressure(None)] {
            pressure.wait(Duration::from_millis(30));
        }
        assert!(started.elapsed() < Duration::from_secs(10));
        // Where the kernel reports pressure and lets us write, the trigger must be taken.
        let writable = File::options().read(true).write(true).open(FILE).is_ok();
        assert_eq!(Pressure::watch().is_armed(), writable);
    }
}
