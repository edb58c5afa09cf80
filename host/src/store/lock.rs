//! One daemon per state folder.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::domain::{Problem, ProblemKind};

/// An exclusive lock on a state folder, released by the kernel when the process ends
/// in whatever way, so that a killed daemon leaves nothing to clean up.
#[derive(Debug)]
pub struct StateLock {
    _file: File,
}

impl StateLock {
    /// Makes the folder if needed and locks it.
    pub fn take(dir: &Path) -> Result<Self, Problem> {
        let choose = "make it writable, or choose another state folder with --state DIR";
        std::fs::create_dir_all(dir)
            .map_err(|error| with_hint(Problem::io("make the state folder", dir, &error), choose))?;
        let path = dir.join("lock");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|error| with_hint(Problem::io("write", &path, &error), choose))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                // The number is only a help for the reader; without it the error stands.
                let _ = (&mut file).take(32).read_to_string(&mut holder);
                let holder = match holder.trim() {
                    "" => String::new(),
                    pid => format!(" (process {pid})"),
                };
                return Err(Problem::new(
                    ProblemKind::Conflict,
                    format!("the state folder {} is in use by another assayd{holder}", dir.display()),
                )
                .hint("stop that one, or give this one its own folder with --state DIR"));
            }
            Err(error) => return Err(Problem::io("lock", &path, &error.into())),
        }
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(|error| with_hint(Problem::io("write", &path, &error), choose))?;
        Ok(Self { _file: file })
    }
}

/// Adds `hint` where the error has none that is more precise.
fn with_hint(problem: Problem, hint: &str) -> Problem {
    if problem.hint.is_some() && !problem.message.contains("denied") {
        return problem;
    }
    problem.hint(hint)
}
