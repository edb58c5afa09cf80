//! How fast a model runs and what memory it takes, over runs in processes of their own.
//!
//! A run loads the model, computes the prompt once to warm up, then times a long prompt to its
//! first token (prefill) and a continuation of a short text (decode), token by token on the
//! engine's side; what the model ends early counts as what it is. The first run also fills the
//! whole context, so that the peak of memory is one that really happens. Outputs are looked at
//! for loops, echoes and emptiness. A number that is not known is null with a reason in
//! `warnings`. Deliberately absent: any claim that a spread over repeated identical outputs
//! says something about quality.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::beside::{Baseline, Beside};
use super::prompts::{prompts, raw, text};
use super::sanity;
use crate::digest::Sha256Stream;
use crate::domain::footprint::Footprint;
use crate::domain::inspection::Inspection;
use crate::domain::moments::Moments;
use crate::domain::{Problem, Sha256, budget};
use crate::engine::{
    ALL_LAYERS, EngineInfo, KvType, LoadBits, LoadSpec, ModelInfo, RunSequence, RunSpec, default_threads,
    engine_for,
};
use crate::model::source::{ReadAt as _, SourceFile};
use crate::model::{InspectOptions, inspect};
use crate::worker::{Worker, WorkerLimits, WorkerSummary, dry_run};

/// Names the shape of [`Bench`].
pub const SCHEMA: &str = "assayd.bench/1";

/// Tokens of the timed prompt and of the timed continuation; llama-bench's defaults.
const PROMPT_TOKENS: u32 = 512;
const NEW_TOKENS: u32 = 128;

/// What is measured.
#[derive(Debug, Clone)]
pub struct Plan {
    pub runs: u32,
    /// Tokens of the prompt whose prefill is timed; 512 or what fits, if not given.
    pub prompt_tokens: Option<u32>,
    /// New tokens of the decode that is timed, at most; 128 or what fits, if not given.
    pub new_tokens: Option<u32>,
    /// Tokens of the context that is filled; what the model was trained for at most.
    pub context: u32,
    pub threads: Option<u32>,
    pub kv_type: KvType,
    pub gpu_layers: i32,
    /// Layers whose experts stay in the machine's own memory.
    pub cpu_experts: u32,
    /// Weights are made this narrow while they are loaded.
    pub load_bits: Option<LoadBits>,
    pub limits: WorkerLimits,
    /// An earlier record of the same model, to compare with.
    pub baseline: Option<Baseline>,
}

/// Which model was measured: records are compared only where this is equal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Subject {
    /// Of all files together.
    pub file_bytes: u64,
    /// Over some blocks of each file, at even distances: tells models apart without reading all.
    pub sample_sha256: Sha256,
    pub parameters: Option<u64>,
    pub quantization: Option<String>,
}

/// Blocks of a file that tell it from others, and their bytes.
const SAMPLE_BLOCKS: u64 = 256;
const SAMPLE_BYTES: u64 = 4 << 10;

impl Subject {
    fn of(inspection: &Inspection) -> Result<Self, Problem> {
        let mut sample = Sha256Stream::new();
        for file in &inspection.files {
            let sampled = SourceFile::open(&file.path).and_then(|source| {
                let size = source.size();
                let mut block = vec![0; usize::try_from(SAMPLE_BYTES.min(size)).unwrap_or(0)];
                let last = size - block.len() as u64;
                for number in 0..SAMPLE_BLOCKS {
                    let at = u128::from(last) * u128::from(number) / u128::from(SAMPLE_BLOCKS - 1);
                    source.read_at(&mut block, u64::try_from(at).unwrap_or(last))?;
                    sample.update(&block);
                }
                Ok(())
            });
            sampled.map_err(|error| Problem::io("read", &file.path, &error))?;
        }
        Ok(Self {
            file_bytes: inspection.files.iter().map(|file| file.bytes).fold(0, u64::saturating_add),
            sample_sha256: sample.finish(),
            parameters: inspection.parameters,
            quantization: inspection.quantization.clone(),
        })
    }
}

/// The result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bench {
    pub schema: String,
    pub model: PathBuf,
    /// Null for what has no files.
    pub subject: Option<Subject>,
    pub description: String,
    pub size_bytes: u64,
    pub parameters: u64,
    pub runs: u32,
    /// From starting the process to a loaded model.
    pub load_seconds: Spread,
    /// From the long prompt to its first token.
    pub ttft_seconds: Spread,
    pub prefill_tokens_per_second: Spread,
    pub decode_tokens_per_second: Spread,
    pub prompt_tokens: u32,
    /// New tokens asked for.
    pub new_tokens_asked: u32,
    /// New tokens of each run, ended early or not.
    pub new_tokens: Vec<usize>,
    pub context: u32,
    pub threads: u32,
    pub kv_type: KvType,
    /// Whether layers were to be placed on an accelerator.
    pub gpu: bool,
    /// Layers that were to be placed there; -1 for all.
    pub gpu_layers: i32,
    /// Layers whose experts were kept on the CPU all the same; -1 for all.
    pub cpu_experts: i64,
    /// Null: the weights as the files hold them.
    pub load_bits: Option<LoadBits>,
    pub memory: Memory,
    /// Distinct outputs: identical ones are one observation, however often they are made.
    pub effective_runs: usize,
    pub warnings: Vec<String>,
    /// What the first run wrote.
    pub output: String,
    pub engine: EngineInfo,
    /// What changed since an earlier record; null unless one was given.
    pub baseline: Option<Beside>,
}

/// Mean and standard deviation over runs; null where there are too few.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    pub mean: Option<f64>,
    pub sd: Option<f64>,
    pub n: u64,
}

impl Spread {
    fn of(values: impl IntoIterator<Item = Option<f64>>) -> Self {
        let moments = Moments::of(values.into_iter().flatten());
        Self { mean: moments.mean(), sd: moments.std(), n: moments.n() }
    }
}

/// Memory after the context was filled; the kinds are never added up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    pub devices: Vec<DeviceMemory>,
    pub predicted_bytes: Option<u64>,
    /// Resident memory at its highest, as the kernel counted it.
    pub peak_bytes: Option<u64>,
    pub rss_anon_bytes: u64,
    pub rss_file_bytes: u64,
}

/// Memory by kind on one device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceMemory {
    pub name: String,
    pub model_bytes: Option<u64>,
    pub kv_bytes: Option<u64>,
    pub compute_bytes: Option<u64>,
    pub output_bytes: Option<u64>,
}

/// Receives what is being done, and how far the whole is, 0 to 1.
pub type Report<'a> = &'a mut dyn FnMut(&str, f64);

/// One run.
#[derive(Debug, Clone)]
struct Sample {
    load_seconds: f64,
    speed: Speed,
    tokens: Vec<u32>,
    summary: WorkerSummary,
    flags: Vec<String>,
    output: String,
}

/// The times of one run, from when its tokens were there.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Speed {
    ttft_seconds: Option<f64>,
    prefill: Option<f64>,
    decode: Option<f64>,
}

impl Speed {
    /// `prefill` is the run with the long prompt, `decode` the one with the short text. The
    /// first token of a decode belongs to its prompt, so n tokens are n - 1 steps.
    fn of(prompt_tokens: usize, prefill: &RunSequence, decode: &RunSequence) -> Self {
        let ttft_seconds = prefill.seconds.first().copied();
        let positive = |seconds: &f64| *seconds > 0.0;
        let steps = decode.seconds.len().saturating_sub(1);
        let span = decode.seconds.first().zip(decode.seconds.last()).map(|(first, last)| last - first);
        Self {
            ttft_seconds,
            prefill: ttft_seconds.filter(positive).map(|seconds| prompt_tokens as f64 / seconds),
            decode: span.filter(positive).map(|seconds| steps as f64 / seconds),
        }
    }
}

/// What the engine counted, or the little that the model says of itself.
fn devices(predicted: Option<&Footprint>, info: &ModelInfo) -> Vec<DeviceMemory> {
    let Some(footprint) = predicted else {
        return vec![DeviceMemory {
            name: info.engine.device.clone(),
            model_bytes: Some(info.size_bytes),
            kv_bytes: None,
            compute_bytes: None,
            output_bytes: None,
        }];
    };
    let counted = footprint.devices.iter().map(|device| DeviceMemory {
        name: device.name.clone(),
        model_bytes: Some(device.model_bytes),
        kv_bytes: Some(device.kv_bytes),
        compute_bytes: Some(device.compute_bytes),
        output_bytes: Some(device.output_bytes),
    });
    counted.collect()
}

/// Measures a model file.
///
/// # Errors
/// Usage: no room for the prompt or the new tokens. Otherwise: the model cannot be run, or a
/// run failed.
pub fn bench(path: &Path, plan: &Plan, report: Report<'_>) -> Result<Bench, Problem> {
    report("reading the model", 0.0);
    let inspection = inspect(path, &InspectOptions::default(), &mut |_, _| {})?;
    let (engine, paths) = engine_for(&inspection)?;
    LoadBits::check(plan.load_bits, engine)?;
    let trained = inspection.context_length.and_then(|n| u32::try_from(n).ok()).unwrap_or(u32::MAX);
    let context = plan.context.min(trained);
    let spec = LoadSpec {
        engine,
        paths,
        context,
        parallel: 1,
        threads: plan.threads.unwrap_or_else(|| default_threads(&inspection)),
        kv_type: plan.kv_type,
        // As people run models; judged runs leave it off.
        extra_buffers: true,
        gpu_layers: plan.gpu_layers,
        cpu_experts: plan.cpu_experts,
        load_bits: plan.load_bits,
        adapter: Vec::new(),
        remote: None,
    };
    let has_tokenizer = inspection.tokenizer_hash.is_some();
    let subject = Some(Subject::of(&inspection)?);
    if let Some(baseline) = &plan.baseline {
        let tokens = Tokens::of(plan, context)?;
        baseline.check(subject.as_ref(), [tokens.prompt, tokens.new, context])?;
    }
    let found = bench_spec(&spec, has_tokenizer, plan, report)?;
    let baseline = plan.baseline.as_ref().map(|baseline| baseline.beside(&found));
    Ok(Bench { model: path.to_owned(), subject, baseline, ..found })
}

/// As [`bench()`], of what `spec` loads.
///
/// # Errors
/// As [`bench()`].
pub fn bench_spec(
    spec: &LoadSpec,
    has_tokenizer: bool,
    plan: &Plan,
    report: Report<'_>,
) -> Result<Bench, Problem> {
    let tokens = Tokens::of(plan, spec.context)?;
    let mut samples = Vec::new();
    let mut about = None;
    for run in 0..plan.runs {
        let done = f64::from(run) / f64::from(plan.runs);
        let mut say = |what: &str| report(&format!("run {} of {}: {what}", run + 1, plan.runs), done);
        let (sample, info) = one_run(spec, has_tokenizer, &plan.limits, tokens, run == 0, &mut say)?;
        samples.push(sample);
        about.get_or_insert(info);
    }
    let (Some(info), Some(first)) = (about, samples.first()) else {
        return Err(Problem::internal("no run was made"));
    };
    let outputs: BTreeSet<&[u32]> = samples.iter().map(|sample| sample.tokens.as_slice()).collect();
    let effective_runs = outputs.len();
    let mut warnings: Vec<String> = Vec::new();
    if effective_runs == 1 && samples.len() > 1 {
        warnings.push("deterministic: one effective run (every run wrote the same)".to_owned());
    }
    for flag in samples.iter().flat_map(|sample| &sample.flags) {
        if !warnings.contains(flag) {
            warnings.push(flag.clone());
        }
    }
    let speeds = || samples.iter().map(|sample| sample.speed);
    let decode_tokens_per_second = Spread::of(speeds().map(|speed| speed.decode));
    if decode_tokens_per_second.n < u64::from(plan.runs) {
        warnings.push("decode_tokens_per_second: a run ended before its second token".to_owned());
    }
    let predicted = match dry_run(spec, &plan.limits) {
        Ok((footprint, _)) => Some(footprint),
        Err(end) => {
            warnings.push(format!("memory.predicted_bytes, memory.devices: {}", end.detail));
            None
        }
    };
    Ok(Bench {
        schema: SCHEMA.to_owned(),
        subject: None,
        model: spec.paths.first().cloned().unwrap_or_default(),
        description: info.description.clone(),
        size_bytes: info.size_bytes,
        parameters: info.parameters,
        runs: plan.runs,
        load_seconds: Spread::of(samples.iter().map(|sample| Some(sample.load_seconds))),
        ttft_seconds: Spread::of(speeds().map(|speed| speed.ttft_seconds)),
        prefill_tokens_per_second: Spread::of(speeds().map(|speed| speed.prefill)),
        decode_tokens_per_second,
        prompt_tokens: tokens.prompt,
        new_tokens_asked: tokens.new,
        new_tokens: samples.iter().map(|sample| sample.tokens.len()).collect(),
        context: spec.context,
        threads: spec.threads,
        kv_type: spec.kv_type,
        gpu: spec.gpu_layers != 0,
        gpu_layers: spec.gpu_layers,
        cpu_experts: if spec.cpu_experts == ALL_LAYERS { -1 } else { i64::from(spec.cpu_experts) },
        load_bits: spec.load_bits,
        memory: Memory {
            devices: devices(predicted.as_ref(), &info),
            // As the peak is counted: with the pages of the model's files and of the libraries.
            predicted_bytes: predicted.as_ref().map(|footprint| {
                let pages = footprint.mapped_bytes().saturating_add(footprint.library_bytes);
                footprint.held_bytes().saturating_add(pages)
            }),
            peak_bytes: first.summary.peak_rss_bytes,
            rss_anon_bytes: first.summary.peak_rss_anon_bytes,
            rss_file_bytes: first.summary.peak_rss_file_bytes,
        },
        effective_runs,
        warnings,
        output: first.output.clone(),
        engine: info.engine,
        baseline: None,
    })
}

/// Lengths of the timed parts.
#[derive(Debug, Clone, Copy)]
struct Tokens {
    prompt: u32,
    new: u32,
}

impl Tokens {
    fn of(plan: &Plan, context: u32) -> Result<Self, Problem> {
        let room = context.saturating_sub(1);
        let tokens = Self {
            prompt: plan.prompt_tokens.unwrap_or_else(|| PROMPT_TOKENS.min(room)),
            new: plan.new_tokens.unwrap_or_else(|| NEW_TOKENS.min(room)),
        };
        if plan.runs == 0 || tokens.prompt == 0 || tokens.new < 2 || tokens.prompt.max(tokens.new) > room {
            return Err(Problem::usage(format!(
                "{} prompt tokens and {} new ones do not fit a context of {context}, or there is nothing to measure",
                tokens.prompt, tokens.new
            ))
            .hint("ask for fewer with --prompt-tokens and --new-tokens"));
        }
        Ok(tokens)
    }
}

/// One process: load, warm up, prefill, decode, and the whole context if `fill`.
fn one_run(
    spec: &LoadSpec,
    has_tokenizer: bool,
    limits: &WorkerLimits,
    tokens: Tokens,
    fill: bool,
    say: &mut dyn FnMut(&str),
) -> Result<(Sample, crate::engine::ModelInfo), Problem> {
    say("loading");
    let mut worker = Worker::start(spec, limits, &mut |_| {})?;
    let info = worker.info().clone();
    let short = prompts(&mut worker, has_tokenizer, spec.context.saturating_sub(tokens.new) as usize)?;
    let short = short.into_iter().next().unwrap_or_default();
    let mut long = raw(info.vocab, 1, tokens.prompt as usize);
    if let (Some(first), Some(bos)) = (long.first_mut(), info.bos) {
        *first = bos;
    }
    let run = |prompt: Vec<u32>, new_tokens: u32| RunSpec {
        stop_at_end: new_tokens > 1,
        ..RunSpec::plain(&[prompt], new_tokens, 1)
    };
    let mut made = |worker: &mut Worker, what: &str, spec: &RunSpec| {
        say(what);
        let record = worker.run(spec, &mut |_| {})?;
        let sequence = record.sequences.into_iter().next().unwrap_or_default();
        if sequence.seconds.len() == sequence.tokens.len() {
            Ok(sequence)
        } else {
            Err(Problem::input("this engine does not say when its tokens were there, so it cannot be timed"))
        }
    };
    made(&mut worker, "warming up", &run(long.clone(), 1))?;
    let prefill = made(&mut worker, "prompt", &run(long.clone(), 1))?;
    let decode = made(&mut worker, "new tokens", &run(short.clone(), tokens.new))?;
    if fill {
        let whole = raw(info.vocab, 2, spec.context.saturating_sub(1) as usize);
        made(&mut worker, "filling the context", &run(whole, 1))?;
    }
    let output = text(&mut worker, has_tokenizer, &decode.tokens)?;
    let load_seconds = worker.load_seconds();
    let summary = worker.finish();
    let sample = Sample {
        load_seconds,
        speed: Speed::of(tokens.prompt as usize, &prefill, &decode),
        flags: sanity::flags(&short, &decode.tokens, &output),
        output: output.chars().take(budget::BENCH_OUTPUT_CHARS).collect(),
        tokens: decode.tokens,
        summary,
    };
    Ok((sample, info))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(seconds: &[f64]) -> RunSequence {
        RunSequence {
            tokens: vec![5; seconds.len()],
            ended: true,
            logprobs: Vec::new(),
            seconds: seconds.to_vec(),
        }
    }

    /// A clock that is made up gives exact values.
    #[test]
    fn speeds_follow_from_the_times_of_tokens() {
        let prefill = sequence(&[0.25]);
        // Ended after three tokens: two steps of 10 ms, whatever was asked for.
        let speed = Speed::of(512, &prefill, &sequence(&[0.125, 0.135, 0.145]));
        assert_eq!((speed.ttft_seconds, speed.prefill), (Some(0.25), Some(2048.0)));
        assert!((speed.decode.unwrap() - 100.0).abs() < 1e-9);
        for short in [&[][..], &[0.5]] {
            assert_eq!(Speed::of(512, &prefill, &sequence(short)).decode, None, "no step, no speed");
        }
        assert_eq!(Speed::of(512, &sequence(&[]), &sequence(&[])).prefill, None);
    }

    #[test]
    fn spreads_need_two_values() {
        let all = Spread::of([Some(1.0), None, Some(3.0)]);
        assert_eq!((all.mean, all.n), (Some(2.0), 2));
        assert!((all.sd.unwrap() - 2.0f64.sqrt()).abs() < 1e-15);
        assert_eq!(Spread::of([Some(1.0)]), Spread { mean: Some(1.0), sd: None, n: 1 });
        assert_eq!(Spread::of([None]), Spread { mean: None, sd: None, n: 0 });
    }
}
