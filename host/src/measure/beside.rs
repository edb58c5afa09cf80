//! Two records of one model beside one another: what a placement costs in speed and saves in
//! memory.
//!
//! Invariants: everything follows from the two records alone; what is missing in either is null;
//! records of other models, prompts or contexts are an error, because their difference would say
//! nothing of the placement. Deliberately absent: any typical value to fall back on.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bench::{Bench, DeviceMemory, SCHEMA, Subject};
use crate::domain::{Problem, budget};

/// A record that another is to be compared with.
#[derive(Debug, Clone, PartialEq)]
pub struct Baseline {
    pub path: PathBuf,
    pub record: Bench,
}

/// What changed from the earlier record to this one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Beside {
    /// The earlier record.
    pub path: PathBuf,
    pub prefill: Speeds,
    pub decode: Speeds,
    /// On all accelerators together, as the engine counted it.
    pub device_memory: Saved,
    /// Of the machine, resident at its peak, as the kernel counted it: pages of files included.
    pub host_memory: Saved,
    /// Settings that differ, `name: before -> now`.
    pub changed: Vec<String>,
}

/// A speed, before and now.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Speeds {
    pub before_tokens_per_second: Option<f64>,
    pub now_tokens_per_second: Option<f64>,
    /// Before over now: at 2 it takes twice as long.
    pub penalty: Option<f64>,
}

/// Memory, before and now.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    pub before_bytes: Option<u64>,
    pub now_bytes: Option<u64>,
    /// Below 0 where it takes more now.
    pub saved_bytes: Option<i64>,
    /// Of what it took before.
    pub saved_share: Option<f64>,
}

impl Speeds {
    fn of(before: Option<f64>, now: Option<f64>) -> Self {
        let speed = |value: Option<f64>| value.filter(|value| value.is_finite() && *value > 0.0);
        let (before, now) = (speed(before), speed(now));
        let penalty = before.zip(now).map(|(before, now)| before / now);
        Self { before_tokens_per_second: before, now_tokens_per_second: now, penalty }
    }
}

impl Saved {
    fn of(before: Option<u64>, now: Option<u64>) -> Self {
        let difference = before.zip(now).map(|(before, now)| i128::from(before) - i128::from(now));
        let saved_bytes = difference.and_then(|bytes| i64::try_from(bytes).ok());
        let whole = before.filter(|before| *before > 0);
        let saved_share = saved_bytes.zip(whole).map(|(saved, before)| saved as f64 / before as f64);
        Self { before_bytes: before, now_bytes: now, saved_bytes, saved_share }
    }
}

/// The machine's own memory among the devices of a record.
const HOST: &str = "CPU";

/// Sum over the accelerators; `None` if there is none, or a kind of one is not known.
fn on_accelerators(devices: &[DeviceMemory]) -> Option<u64> {
    let accelerators = devices.iter().filter(|device| device.name != HOST);
    let kinds = accelerators
        .flat_map(|device| [device.model_bytes, device.kv_bytes, device.compute_bytes, device.output_bytes]);
    kinds.reduce(|sum, kind| Some(sum?.saturating_add(kind?))).flatten()
}

/// As above, of two records: one that has no accelerator takes nothing of the other's, if it says
/// so itself by telling every kind of its own memory.
fn device_memory(before: &[DeviceMemory], now: &[DeviceMemory]) -> Saved {
    let counted = |devices: &[DeviceMemory]| {
        let known = |device: &DeviceMemory| device.kv_bytes.is_some() && device.model_bytes.is_some();
        let none = !devices.is_empty() && devices.iter().all(|device| device.name == HOST && known(device));
        on_accelerators(devices).or(none.then_some(0))
    };
    match (counted(before), counted(now)) {
        (Some(0), Some(0)) => Saved::of(None, None),
        (before, now) => Saved::of(before, now),
    }
}

impl Baseline {
    /// Reads what `assayd bench --json` printed.
    ///
    /// # Errors
    /// Usage: the file cannot be read, or is no such record.
    pub fn read(path: &Path) -> Result<Self, Problem> {
        let name = path.display();
        let mut text = String::new();
        let file =
            std::fs::File::open(path).map_err(|error| Problem::usage(format!("open {name}: {error}")))?;
        let most = budget::BENCH_RECORD_BYTES;
        let read = file.take(most + 1).read_to_string(&mut text);
        read.map_err(|error| Problem::usage(format!("read {name}: {error}")))?;
        let bad = |why: String| {
            Problem::usage(format!("{name} is no record to compare with: {why}"))
                .hint("make one with: assayd bench MODEL --json > before.json")
        };
        if text.len() as u64 > most {
            return Err(bad(format!("it has more than {most} bytes")));
        }
        let value: Value = serde_json::from_str(&text).map_err(|error| bad(format!("not JSON: {error}")))?;
        match value.get("schema").and_then(Value::as_str) {
            Some(SCHEMA) => {}
            Some(other) => return Err(bad(format!("its schema is {other}, not {SCHEMA}"))),
            None => return Err(bad(format!("it does not say that its schema is {SCHEMA}"))),
        }
        let record = serde_json::from_value(value).map_err(|error| bad(error.to_string()))?;
        Ok(Self { path: path.to_owned(), record })
    }

    /// Is the record about what is to be measured now? Asked before anything is run.
    ///
    /// # Errors
    /// Usage: it is of another model, prompt or context.
    pub fn check(&self, subject: Option<&Subject>, tokens: [u32; 3]) -> Result<(), Problem> {
        let record = &self.record;
        let refused = |what: String, remedy: &str| {
            Err(Problem::usage(format!("{} is of {what}", self.path.display())).hint(remedy.to_owned()))
        };
        match (record.subject.as_ref(), subject) {
            (Some(before), Some(now)) if before == now => {}
            (None, _) | (_, None) => {
                return refused(
                    "a model that it does not describe".to_owned(),
                    "measure it again, with --json",
                );
            }
            (Some(before), Some(now)) => {
                let differences = changed(before, now, &SUBJECT).join("; ");
                return refused(
                    format!("another model ({}; {differences})", record.model.display()),
                    "compare records of the same files under other settings",
                );
            }
        }
        let before = [record.prompt_tokens, record.new_tokens_asked, record.context];
        if before == tokens {
            return Ok(());
        }
        let ([prompt, new, context], [here, new_here, context_here]) = (before, tokens);
        refused(
            format!(
                "other prompts: {prompt} tokens, {new} new ones and a context of {context}; here they are {here}, \
                 {new_here} and {context_here}",
            ),
            &format!("say --prompt-tokens {prompt} --new-tokens {new} --ctx {context}"),
        )
    }

    /// What changed from it to `now`.
    pub fn beside(&self, now: &Bench) -> Beside {
        let before = &self.record;
        Beside {
            path: self.path.clone(),
            prefill: Speeds::of(before.prefill_tokens_per_second.mean, now.prefill_tokens_per_second.mean),
            decode: Speeds::of(before.decode_tokens_per_second.mean, now.decode_tokens_per_second.mean),
            device_memory: device_memory(&before.memory.devices, &now.memory.devices),
            host_memory: Saved::of(before.memory.peak_bytes, now.memory.peak_bytes),
            changed: changed(before, now, &SETTINGS),
        }
    }
}

/// What two records of one model may differ in.
const SETTINGS: [&str; 6] = ["threads", "kv_type", "gpu_layers", "cpu_experts", "load_bits", "engine"];
const SUBJECT: [&str; 4] = ["file_bytes", "parameters", "quantization", "sample_sha256"];

/// Fields that differ, in words.
fn changed(before: &impl Serialize, now: &impl Serialize, fields: &[&str]) -> Vec<String> {
    let [before, now] =
        [serde_json::to_value(before), serde_json::to_value(now)].map(Result::unwrap_or_default);
    let field = |value: &Value, name: &str| value.get(name).cloned().unwrap_or_default();
    let pairs = fields.iter().map(|name| (name, field(&before, name), field(&now, name)));
    pairs.filter(|(_, before, now)| before != now).map(|(name, a, b)| format!("{name}: {a} -> {b}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, kinds: [Option<u64>; 4]) -> DeviceMemory {
        let [model_bytes, kv_bytes, compute_bytes, output_bytes] = kinds;
        DeviceMemory { name: name.to_owned(), model_bytes, kv_bytes, compute_bytes, output_bytes }
    }

    /// What is missing, zero or no number gives no ratio; nothing is made up.
    #[test]
    fn penalties_and_savings_follow_from_both_records_or_are_null() {
        for (before, now, penalty) in [
            (Some(60.0), Some(20.0), Some(3.0)),
            (Some(20.0), Some(40.0), Some(0.5)),
            (None, Some(20.0), None),
            (Some(20.0), None, None),
            (Some(0.0), Some(20.0), None),
            (Some(20.0), Some(0.0), None),
            (Some(-1.0), Some(20.0), None),
            (Some(f64::NAN), Some(20.0), None),
            (Some(20.0), Some(f64::INFINITY), None),
        ] {
            assert_eq!(Speeds::of(before, now).penalty, penalty, "{before:?} {now:?}");
        }
        for (before, now, bytes, share) in [
            (Some(1000), Some(90), Some(910), Some(0.91)),
            (Some(100), Some(150), Some(-50), Some(-0.5)),
            (Some(0), Some(0), Some(0), None),
            (None, Some(1), None, None),
            (Some(1), None, None, None),
            (Some(u64::MAX), Some(0), None, None),
        ] {
            let saved = Saved::of(before, now);
            assert_eq!((saved.saved_bytes, saved.saved_share), (bytes, share), "{before:?} {now:?}");
        }
    }

    /// The logged sums of a run on one accelerator and with its experts on the CPU, over all
    /// devices but the machine itself.
    #[test]
    fn accelerators_are_summed_and_what_is_not_known_is_not_nothing() {
        let all = |kinds: [u64; 4]| kinds.map(Some);
        let cpu = device("CPU", all([5, 0, 7, 0]));
        let before =
            [cpu.clone(), device("CUDA0", all([100, 20, 3, 0])), device("CUDA1", all([50, 10, 3, 0]))];
        let after = [cpu.clone(), device("CUDA0", all([10, 20, 6, 0])), device("CUDA1", all([5, 10, 6, 0]))];
        let unknown = [cpu.clone(), device("CUDA0", [Some(100), None, Some(3), Some(0)])];
        let untold = [device("CPU", [Some(100), None, None, None])];
        let alone = std::slice::from_ref(&cpu);
        for (before, now, expected) in [
            (&before[..], &after[..], (Some(186), Some(57), Some(129))),
            (&before[..], alone, (Some(186), Some(0), Some(186))),
            (&before[..], &unknown[..], (Some(186), None, None)),
            (&before[..], &untold[..], (Some(186), None, None)),
            (&before[..], &[][..], (Some(186), None, None)),
            (alone, alone, (None, None, None)),
        ] {
            let saved = device_memory(before, now);
            assert_eq!(
                (saved.before_bytes, saved.now_bytes, saved.saved_bytes),
                expected,
                "{before:?} {now:?}"
            );
        }
    }

    #[test]
    fn a_record_is_refused_with_what_is_wrong_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("before.json");
        for (text, word) in [
            ("", "not JSON"),
            ("llama_perf_context_print: load time", "not JSON"),
            ("{}", "assayd.bench/1"),
            (r#"{"schema": "assayd.report/1"}"#, "assayd.report/1"),
            (r#"{"schema": "assayd.bench/1"}"#, "missing field"),
            (r#"{"schema": "assayd.bench/1", "model": 7}"#, "invalid type"),
        ] {
            std::fs::write(&path, text).unwrap();
            let problem = Baseline::read(&path).unwrap_err();
            assert!(problem.message.contains(word) && problem.message.contains("before.json"), "{problem}");
            assert_eq!((problem.exit_code(), problem.hint.is_some()), (2, true));
        }
        std::fs::write(&path, " ".repeat(budget::BENCH_RECORD_BYTES as usize + 1)).unwrap();
        assert!(Baseline::read(&path).unwrap_err().message.contains("more than"));
        assert_eq!(Baseline::read(&folder.path().join("none.json")).unwrap_err().exit_code(), 2);
    }
}
