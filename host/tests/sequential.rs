//! A reference and then a candidate take no more memory together than the larger of them alone.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on must stop")]

use std::collections::HashMap;
use std::process::Stdio;
use std::time::Duration;

use place::command;

#[expect(dead_code, reason = "each test file uses a part of it")]
mod place;
mod processes;
mod wide;

/// Resident KiB of the children of a process, by their number.
fn children(of: u32) -> HashMap<u32, u64> {
    let numbers = processes::children(of).into_iter();
    numbers.filter_map(|pid| Some((pid, processes::kib(pid, "VmRSS:")?))).collect()
}

#[test]
fn two_models_one_after_the_other_take_no_more_than_the_larger_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (reference, candidate) = (folder.path().join("a.gguf"), folder.path().join("b.gguf"));
    wide::write(&reference, 20_000, 0.0);
    wide::write(&candidate, 20_000, 0.5);
    let weights = std::fs::metadata(&reference).unwrap().len() >> 10;
    let arguments = ["--mode", "quick", "--threads", "2", "--reference"];
    let mut child = command(env!("CARGO_BIN_EXE_assayd"), folder.path())
        .arg("verify")
        .arg(&candidate)
        .args(arguments)
        .arg(&reference)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (mut alone, mut together): (HashMap<u32, u64>, u64) = (HashMap::new(), 0);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        let now = children(child.id());
        together = together.max(now.values().sum());
        for (pid, kib) in now {
            let peak = alone.entry(pid).or_default();
            *peak = kib.max(*peak);
        }
        std::thread::sleep(Duration::from_millis(3));
    };
    assert!(matches!(status.code(), Some(0 | 1 | 3)), "{status}");
    let loaded = alone.values().filter(|&&kib| kib > weights).count();
    assert!(loaded >= 2, "both were loaded, each in a worker of its own: {alone:?}, weights {weights}");
    let larger = *alone.values().max().unwrap();
    assert!(together <= larger + larger / 10, "{together} KiB together, {larger} alone");
}
