//! A deterministic fake model, described by a JSON file: for tests of everything above engines.
//!
//! Its logits are a hash of a seed, the last three tokens and the candidate token, so two
//! scripts with one seed agree exactly, a small `noise` makes them differ a little everywhere,
//! and `gross_share` makes them differ grossly on a share of the sequences. `faults` makes the
//! worker end in the ways that real engines end. Never loaded unless named by kind.

use std::io::Read as _;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::check_item;
use super::softmax::summarize;
use super::{
    Detail, EngineError, EngineInfo, Honoured, LoadProgress, LoadSpec, Model, ModelInfo, RunRecord,
    RunSequence, RunSink, RunSpec, RunToken, ScoreItem, TraceSink,
};
use crate::domain::trace::{Distribution, FULL_VOCAB_LIMIT, Trace};

/// Bytes of a script file.
const SCRIPT_BYTES: u64 = 64 << 10;

/// The script file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Script {
    /// Must be `assayd.scripted/1`.
    schema: String,
    vocab: u32,
    seed: u64,
    #[serde(default = "default_context")]
    context_train: u32,
    /// Spread of the logits; larger is more certain.
    #[serde(default = "default_scale")]
    scale: f32,
    /// Added difference to every logit, with its own seed.
    #[serde(default)]
    noise: f32,
    #[serde(default)]
    noise_seed: u64,
    /// Share of sequences on which the model is another one.
    #[serde(default)]
    gross_share: f64,
    #[serde(default)]
    faults: Faults,
}

/// Ways to misbehave on purpose.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Faults {
    /// Abort the process while loading.
    abort_on_load: bool,
    /// Sleep for ever while loading.
    hang_on_load: bool,
    /// Abort the process at this item of a scoring request.
    abort_on_item: Option<usize>,
    /// Sleep for ever at this item of a scoring request.
    hang_on_item: Option<usize>,
    /// Report these items as not scorable.
    fail_items: Vec<usize>,
    /// Take this much memory while loading, at 1 GB/s.
    allocate_bytes: u64,
    /// End by this signal while loading: 11 for a segmentation fault, 7 for a bus error.
    signal_on_load: Option<i32>,
    /// Start a process that sleeps, and another one that leaves the group, then sleep for ever.
    fork_on_load: bool,
    /// Send this many progress reports at once while loading.
    flood_progress: u64,
    /// Complain like the engine's assertions, then abort.
    assert_on_load: bool,
    /// Try what a worker must not be able to do; the description tells what was let through.
    /// The path is of a file that is not the model's.
    escape: Option<std::path::PathBuf>,
    /// Write this much to standard error while loading.
    flood_stderr_bytes: u64,
    /// Let the fourth token of a run depend on these of its conditions.
    sensitive_to: Vec<Condition>,
    /// End every run after so many tokens.
    end_after: Option<usize>,
    /// Take this long over a prompt, and over each further token.
    prompt_ms: u64,
    token_ms: u64,
}

/// What a run may wrongly depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Condition {
    Seed,
    Threads,
    Process,
    Parallel,
    MicroBatch,
    PromptCache,
}

fn default_context() -> u32 {
    512
}

fn default_scale() -> f32 {
    6.0
}

/// A model that follows a script.
#[derive(Debug)]
pub struct ScriptedModel {
    script: Script,
    info: ModelInfo,
    context: u32,
    threads: u32,
}

/// Index of the token that a fault changes.
const CHANGED_TOKEN: usize = 3;

fn mix(mut x: u64) -> u64 {
    // splitmix64 (Steele, Lea and Flood 2014).
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn unit(x: u64) -> f32 {
    (mix(x) >> 40) as f32 / (1u64 << 24) as f32
}

impl ScriptedModel {
    pub fn load(spec: &LoadSpec, progress: LoadProgress<'_>) -> Result<Self, EngineError> {
        let path = spec.paths.first().cloned().unwrap_or_default();
        let failed = |reason: String| EngineError::Load { path: path.display().to_string(), reason };
        let mut text = String::new();
        std::fs::File::open(&path)
            .and_then(|file| file.take(SCRIPT_BYTES).read_to_string(&mut text))
            .map_err(|error| failed(error.to_string()))?;
        let script: Script = serde_json::from_str(&text).map_err(|error| failed(error.to_string()))?;
        if script.schema != "assayd.scripted/1" || script.vocab < 2 || script.vocab > FULL_VOCAB_LIMIT {
            return Err(failed(
                "not a script of schema assayd.scripted/1 with a small vocabulary".to_owned(),
            ));
        }
        misbehave_on_load(&script.faults, progress);
        let escaped = script.faults.escape.as_deref().map(escape).unwrap_or_default();
        let info = ModelInfo {
            vocab: script.vocab,
            context_train: script.context_train,
            bos: Some(0),
            eos: Some(1),
            adds_bos: true,
            description: ["scripted"].into_iter().chain(escaped).collect::<Vec<_>>().join("; "),
            size_bytes: text.len() as u64,
            parameters: 0,
            accelerators: 0,
            engine: EngineInfo {
                name: "scripted".to_owned(),
                version: "1".to_owned(),
                build: "none".to_owned(),
                device: "none".to_owned(),
            },
        };
        Ok(Self { script, info, context: spec.context, threads: spec.threads })
    }

    fn logits(&self, tokens: &[u32]) -> Vec<f32> {
        let mut history = 0u64;
        for &token in tokens.iter().rev().take(3) {
            history = mix(history ^ u64::from(token));
        }
        let first = tokens.iter().take(8).fold(0u64, |state, &token| mix(state ^ u64::from(token)));
        let gross = f64::from(unit(first ^ 0x0067_726f_7373)) < self.script.gross_share;
        let seed = if gross { self.script.seed ^ 0xffff } else { self.script.seed };
        (0..u64::from(self.script.vocab))
            .map(|id| {
                let base = unit(seed ^ history ^ mix(id)) * self.script.scale;
                base + self.script.noise * (unit(self.script.noise_seed ^ history ^ mix(id ^ 0x5eed)) - 0.5)
            })
            .collect()
    }
}

impl ScriptedModel {
    /// The most likely token; 0 and 1 begin and end a text and are never generated.
    fn best(&self, tokens: &[u32]) -> u32 {
        let logits = self.logits(tokens);
        let best = (0u32..).zip(&logits).skip(2).reduce(|a, b| if b.1 > a.1 { b } else { a });
        best.map_or(2, |(id, _)| id)
    }

    /// The state of the conditions that the script is sensitive to, if there are any.
    fn condition(&self, spec: &RunSpec) -> Option<u64> {
        let value = |condition: &Condition| match condition {
            Condition::Seed => spec.seed,
            Condition::Threads => u64::from(self.threads),
            Condition::Process => u64::from(std::process::id()),
            Condition::Parallel => u64::from(spec.parallel),
            Condition::MicroBatch => u64::from(spec.micro_batch),
            Condition::PromptCache => u64::from(spec.prompt_cache),
        };
        self.script.faults.sensitive_to.iter().map(value).reduce(|a, b| mix(a) ^ b)
    }
}

fn misbehave_on_load(faults: &Faults, progress: LoadProgress<'_>) {
    use std::io::Write as _;
    for _ in 0..faults.flood_progress {
        progress(0.5);
    }
    if faults.flood_stderr_bytes > 0 {
        let line = [b'x'; 4096];
        for _ in 0..faults.flood_stderr_bytes / 4096 {
            let _ = std::io::stderr().write_all(&line);
        }
    }
    if faults.allocate_bytes > 0 {
        allocate(faults.allocate_bytes);
    }
    if faults.fork_on_load {
        for program in [&["sleep", "6113"][..], &["setsid", "sleep", "6113"]] {
            if let [name, arguments @ ..] = program {
                let _ = std::process::Command::new(name).args(arguments).spawn();
            }
        }
        hang();
    }
    if let Some(signal) = faults.signal_on_load.and_then(rustix::process::Signal::from_named_raw) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
        hang();
    }
    if faults.assert_on_load {
        let _ = std::io::stderr()
            .write_all(b"scripted.c:7: GGML_ASSERT(n > 0) failed\nlater\nlater\nlater\nlater\n");
        std::process::abort();
    }
    if faults.abort_on_load {
        std::process::abort();
    }
    if faults.hang_on_load {
        hang();
    }
}

/// Touches memory at 1 GB/s, a block of 4 MiB at a time.
fn allocate(bytes: u64) {
    const BLOCK: usize = 4 << 20;
    let started = std::time::Instant::now();
    let mut held: Vec<Vec<u8>> = Vec::new();
    for block in 1..=bytes / BLOCK as u64 {
        held.push(vec![1u8; BLOCK]);
        let due = Duration::from_nanos(block * BLOCK as u64);
        std::thread::sleep(due.saturating_sub(started.elapsed()));
    }
    std::hint::black_box(&held);
}

/// Tries what a worker must not be able to do, and names what was let through.
fn escape(outside: &std::path::Path) -> Vec<&'static str> {
    use rustix::process::{Resource, Rlimit, getppid, getrlimit, setrlimit, test_kill_process};
    let beside = outside.with_extension("written");
    let refused = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionRefused;
    let data = getrlimit(Resource::Data).current;
    let attempts = [
        ("read another file", std::fs::File::open(outside).is_ok()),
        ("wrote a file", std::fs::write(&beside, "x").is_ok()),
        ("listed a folder", std::fs::read_dir("/").is_ok()),
        // Nobody listens there: being refused by the other side is having got through.
        (
            "used the network",
            std::net::TcpStream::connect(("127.0.0.1", 9)).err().is_none_or(|e| refused(&e)),
        ),
        ("started a program", std::process::Command::new("/bin/true").status().is_ok()),
        ("signalled its parent", getppid().is_some_and(|pid| test_kill_process(pid).is_ok())),
        ("set a limit", setrlimit(Resource::Data, Rlimit { current: data, maximum: data }).is_ok()),
    ];
    attempts.into_iter().filter_map(|(what, through)| through.then_some(what)).collect()
}

fn hang() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

impl Model for ScriptedModel {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn tokenize(&self, text: &str, add_special: bool) -> Result<Vec<u32>, EngineError> {
        let bytes = text.bytes().map(|byte| 2 + u32::from(byte) % (self.script.vocab - 2).max(1));
        Ok(add_special.then_some(0).into_iter().chain(bytes).collect())
    }

    fn tokenize_marked(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        self.tokenize(text, false)
    }

    fn detokenize(&self, tokens: &[u32]) -> Result<String, EngineError> {
        Ok(tokens.iter().map(|token| format!("<{token}>")).collect())
    }

    fn score(&mut self, items: &[ScoreItem], sink: TraceSink<'_>) -> Result<(), EngineError> {
        for (index, item) in items.iter().enumerate() {
            let faults = &self.script.faults;
            if faults.abort_on_item == Some(index) {
                std::process::abort();
            }
            if faults.hang_on_item == Some(index) {
                hang();
            }
            if faults.fail_items.contains(&index) {
                sink(index, Err("scripted failure".to_owned()))?;
                continue;
            }
            if let Err(reason) = check_item(item, &self.info, self.context) {
                sink(index, Err(reason))?;
                continue;
            }
            let mut trace = Trace {
                tokens: item.tokens.clone(),
                scored_from: item.scored_from,
                vocab: self.script.vocab,
                token_logprobs: Vec::new(),
                log_sum_exp: Vec::new(),
                entropy: Vec::new(),
                argmax: Vec::new(),
                distribution: Distribution::Summary,
            };
            let mut kept = Vec::new();
            for (t, &next) in item.tokens.iter().enumerate().skip(item.scored_from as usize) {
                let logits = self.logits(item.tokens.get(..t).unwrap_or_default());
                let summary = summarize(&logits)
                    .ok_or_else(|| EngineError::Compute("scripted logits are not finite".to_owned()))?;
                let chosen = logits.get(next as usize).copied().unwrap_or(f32::NAN);
                trace.token_logprobs.push(f64::from(chosen) - summary.log_sum_exp);
                trace.log_sum_exp.push(summary.log_sum_exp);
                trace.entropy.push(summary.entropy);
                trace.argmax.push(summary.argmax);
                kept.extend(logits);
            }
            if item.detail != Detail::Summary {
                trace.distribution = Distribution::Full { logits: kept };
            }
            sink(index, Ok(trace))?;
        }
        Ok(())
    }

    fn run(&mut self, spec: &RunSpec, each: RunSink<'_>) -> Result<RunRecord, EngineError> {
        let faults = &self.script.faults;
        let all = spec.new_tokens as usize;
        let length = faults.end_after.filter(|_| spec.stop_at_end).map_or(all, |n| n.min(all));
        let changed = self.condition(spec);
        let sequences = (0u32..).zip(&spec.prompts).map(|(number, prompt)| {
            let started = Instant::now();
            std::thread::sleep(Duration::from_millis(faults.prompt_ms));
            let mut tokens = prompt.clone();
            let mut sequence = RunSequence { ended: length < all, ..RunSequence::default() };
            for index in 0..length {
                if index > 0 {
                    std::thread::sleep(Duration::from_millis(faults.token_ms));
                }
                let token = match changed.filter(|_| index == CHANGED_TOKEN) {
                    Some(state) => 2 + (mix(state) % u64::from(self.script.vocab - 2).max(1)) as u32,
                    None => self.best(&tokens),
                };
                tokens.push(token);
                each(RunToken { sequence: number, token, piece: format!("<{token}>") });
                sequence.seconds.push(started.elapsed().as_secs_f64());
            }
            sequence.tokens = tokens.split_off(prompt.len());
            sequence
        });
        let honoured = Honoured { parallel: true, micro_batch: true, prompt_cache: true, seed: true };
        Ok(RunRecord { sequences: sequences.collect(), honoured })
    }

    fn parallel(&self) -> u32 {
        1
    }
}
