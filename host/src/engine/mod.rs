//! Model runtimes behind one trait.
//!
//! An engine turns the files of one artifact into a [`Model`] that can tokenize, score
//! given tokens and continue greedily. Engines run only inside a worker process and know
//! nothing of scores, verdicts or plugins. Deliberately absent: sampling with randomness
//! (every judged continuation is greedy) and any retry.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::domain::Problem;
use crate::domain::footprint::DeviceBytes;
use crate::domain::inspection::{ArtifactKind, Inspection, Severity, Status};
use crate::domain::trace::Trace;
use crate::model::footprint::Shape;
use crate::model::gguf::GgmlType;

mod bits;
pub mod candle;
pub mod llama;
pub mod remote;
mod rows;
mod run;
pub mod scripted;
pub mod softmax;
pub mod text;

pub use bits::LoadBits;
pub use run::{Honoured, RunRecord, RunSequence, RunSink, RunSpec, RunToken};
use run::{MICRO_BATCH, check_prompts};

/// Which runtime loads the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineKind {
    /// llama.cpp: GGUF files and split sets.
    LlamaCpp,
    /// candle: folders of safetensors, computed in F32.
    Candle,
    /// An OpenAI-compatible endpoint that tells log-probabilities of a prompt.
    Remote,
    /// A deterministic fake described by a JSON file, for tests of everything above engines.
    Scripted,
}

impl EngineKind {
    /// Whether it can place layers held like this on an accelerator, if there is one.
    pub fn accelerates(self, load_bits: Option<LoadBits>) -> bool {
        match self {
            Self::LlamaCpp => true,
            Self::Candle => load_bits.is_none() && candle::accelerated(),
            Self::Remote | Self::Scripted => false,
        }
    }
}

/// Number format of the key-value cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum KvType {
    /// What everything that judges uses: F16 alone moves log-probabilities by up to 0.04.
    #[default]
    F32,
    F16,
    #[serde(rename = "q8_0")]
    #[value(name = "q8_0")]
    Q8_0,
}

/// What to load and how. Everything here can change results, so all of it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LoadSpec {
    pub engine: EngineKind,
    /// The files of one artifact; the parts of a split set in order.
    pub paths: Vec<PathBuf>,
    /// Tokens per sequence.
    pub context: u32,
    /// Sequences evaluated side by side. Part of the result: kernels may round
    /// differently for other batch shapes.
    pub parallel: u32,
    pub threads: u32,
    pub kv_type: KvType,
    /// Let the engine repack weights for this CPU: faster, but the numbers then depend
    /// on the machine, so judged runs leave it off.
    pub extra_buffers: bool,
    /// Layers to place on an accelerator; 0 keeps everything on the CPU, -1 moves all.
    pub gpu_layers: i32,
    /// Layers, from the first on, whose experts stay in the machine's own memory all the same;
    /// [`ALL_LAYERS`] for all.
    pub cpu_experts: u32,
    /// Weights are made this narrow while they are loaded; `None` as the files hold them.
    pub load_bits: Option<LoadBits>,
    /// The files of a LoRA adapter that is put over the model; empty for none.
    pub adapter: Vec<PathBuf>,
    /// Where a remote model is; it has no files.
    pub remote: Option<remote::Endpoint>,
}

impl LoadSpec {
    /// The settings of a judged run on the CPU: F32 cache, no repacking.
    pub fn judged(engine: EngineKind, paths: Vec<PathBuf>, context: u32, threads: u32) -> Self {
        Self {
            engine,
            paths,
            context,
            parallel: 4,
            threads,
            kv_type: KvType::F32,
            extra_buffers: false,
            gpu_layers: 0,
            cpu_experts: 0,
            load_bits: None,
            adapter: Vec::new(),
            remote: None,
        }
    }

    /// How it is run, for formulas.
    pub fn shape(&self) -> Shape {
        shape(self.context, self.parallel, self.kv_type)
    }

    /// A model behind an endpoint; the context is the most tokens that it is sent at once.
    pub fn remote(endpoint: remote::Endpoint, context: u32) -> Self {
        Self { remote: Some(endpoint), ..Self::judged(EngineKind::Remote, Vec::new(), context, 1) }
    }
}

/// How a plain run is shaped: for formulas that go by headers alone.
pub fn shape(context: u32, parallel: u32, kv_type: KvType) -> Shape {
    let kv = match kv_type {
        KvType::F32 => GgmlType::F32,
        KvType::F16 => GgmlType::F16,
        KvType::Q8_0 => GgmlType::Q8_0,
    };
    Shape {
        context: u64::from(context),
        parallel: u64::from(parallel),
        micro_batch: u64::from(MICRO_BATCH),
        outputs: u64::from(parallel),
        kv,
        flash: kv_type != KvType::F32,
    }
}

/// See [`LoadSpec::cpu_experts`].
pub const ALL_LAYERS: u32 = u32::MAX;

/// Which engine build produced a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct EngineInfo {
    pub name: String,
    pub version: String,
    /// Build facts that can change numbers, such as the CPU kernels in use.
    pub build: String,
    pub device: String,
}

/// What a loaded model says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// [`remote::UNKNOWN_VOCAB`] if it is not told.
    pub vocab: u32,
    /// Context length the model was trained for, in tokens.
    pub context_train: u32,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub adds_bos: bool,
    pub description: String,
    pub size_bytes: u64,
    pub parameters: u64,
    /// Devices beside the CPU that it could be placed on.
    pub accelerators: u32,
    pub engine: EngineInfo,
}

/// How much of each distribution to keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Detail {
    /// Per-row summaries only.
    Summary,
    /// The whole distribution for vocabularies up to
    /// [`FULL_VOCAB_LIMIT`](crate::domain::trace::FULL_VOCAB_LIMIT), else this model's own
    /// most likely tokens and buckets.
    Own,
    /// A coarsening over given ids: `rows *` [`COARSE_TOP`](crate::domain::trace::COARSE_TOP),
    /// taken from the reference's trace so that both are coarsened alike.
    Given { ids: Vec<u32> },
    /// Every logit of every row whatever the vocabulary, handed over in parts: an item is
    /// answered by one or more traces of consecutive rows.
    Whole,
    /// The whole distribution in one trace: as [`Own`](Self::Own) for a small vocabulary, in
    /// binary16 for a larger one.
    Exact,
}

/// One sequence to score: row `i` predicts `tokens[scored_from + i]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScoreItem {
    pub tokens: Vec<u32>,
    /// At least 1: the first token has nothing before it.
    pub scored_from: u32,
    pub detail: Detail,
}

impl ScoreItem {
    /// Rows that its trace has.
    pub fn rows(&self) -> usize {
        self.tokens.len().saturating_sub(self.scored_from as usize)
    }
}

/// Why an engine could not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum EngineError {
    /// The files cannot be loaded by this engine.
    #[error("cannot load {path}: {reason}")]
    Load { path: String, reason: String },
    /// The request does not fit the model (token out of range, sequence too long).
    #[error("{0}")]
    Request(String),
    /// The engine failed while computing.
    #[error("engine failed: {0}")]
    Compute(String),
    /// A remote engine cannot be reached, or not any more.
    #[error("the endpoint is not there: {0}")]
    Lost(String),
}

/// Receives the load progress, 0 to 1.
pub type LoadProgress<'a> = &'a mut dyn FnMut(f32);
/// Receives each item's trace (or its parts, see [`Detail::Whole`]) or the reason it could not be
/// scored, by index, in order.
pub type TraceSink<'a> = &'a mut dyn FnMut(usize, Result<Trace, String>) -> Result<(), EngineError>;

/// A loaded model. One worker owns one of these and drops it before exiting.
pub trait Model {
    fn info(&self) -> &ModelInfo;

    /// Token ids of a text; `add_special` adds what the model's tokenizer adds by itself (BOS).
    fn tokenize(&self, text: &str, add_special: bool) -> Result<Vec<u32>, EngineError>;

    /// Token ids of a rendered chat: names of control tokens in it are those tokens, and nothing
    /// is added.
    fn tokenize_marked(&self, text: &str) -> Result<Vec<u32>, EngineError>;

    /// Text of token ids; bytes that are not UTF-8 become U+FFFD.
    fn detokenize(&self, tokens: &[u32]) -> Result<String, EngineError>;

    /// Teacher-forced traces of `items`, in order. Sequences are evaluated side by side in
    /// groups of `LoadSpec::parallel`, so callers that compare runs bit by bit must pass the
    /// same items in the same groups.
    fn score(&mut self, items: &[ScoreItem], sink: TraceSink<'_>) -> Result<(), EngineError>;

    /// A greedy run under the given conditions; those that the engine cannot take it passes
    /// over, and says so.
    fn run(&mut self, spec: &RunSpec, each: RunSink<'_>) -> Result<RunRecord, EngineError>;

    /// Prompts that [`Self::generate`] continues side by side.
    fn parallel(&self) -> u32;

    /// Greedy continuations of exactly `new_tokens` tokens each: the most likely token that
    /// does not end generation, lowest id on ties.
    fn generate(
        &mut self,
        prompts: &[Vec<u32>],
        new_tokens: u32,
        progress: LoadProgress<'_>,
    ) -> Result<Vec<Vec<u32>>, EngineError> {
        let all = (prompts.len() * new_tokens as usize).max(1);
        let mut done = 0usize;
        let record = self.run(&RunSpec::plain(prompts, new_tokens, self.parallel()), &mut |_| {
            done += 1;
            progress(done as f32 / all as f32);
        })?;
        Ok(record.sequences.into_iter().map(|sequence| sequence.tokens).collect())
    }
}

/// Loads the files of `spec` with the engine it names.
pub fn load(spec: &LoadSpec, progress: LoadProgress<'_>) -> Result<Box<dyn Model>, EngineError> {
    may_load(spec)?;
    match spec.engine {
        EngineKind::LlamaCpp => Ok(Box::new(llama::LlamaModel::load(spec, progress)?)),
        EngineKind::Candle => Ok(Box::new(candle::CandleModel::load(spec, progress)?)),
        EngineKind::Remote => Ok(Box::new(remote::RemoteModel::load(spec)?)),
        EngineKind::Scripted => Ok(Box::new(scripted::ScriptedModel::load(spec, progress)?)),
    }
}

/// No engine passes over a width of the weights that it does not have.
fn may_load(spec: &LoadSpec) -> Result<(), EngineError> {
    LoadBits::check(spec.load_bits, spec.engine).map_err(|problem| EngineError::Request(problem.message))
}

/// Loads what an engine computes with, its kernels and their libraries, but no model: after
/// this a worker may lose its access to every other file.
pub fn prepare(engine: EngineKind) -> Result<(), EngineError> {
    match engine {
        EngineKind::LlamaCpp => llama::prepare(),
        EngineKind::Candle | EngineKind::Remote | EngineKind::Scripted => Ok(()),
    }
}

/// Memory by device that running `spec` takes with the context filled, from a dry run that
/// reads headers and allocates nothing large. The machine's own memory comes first.
pub fn estimate(spec: &LoadSpec) -> Result<Vec<DeviceBytes>, EngineError> {
    may_load(spec)?;
    match spec.engine {
        EngineKind::LlamaCpp => llama::estimate(spec),
        EngineKind::Candle => candle::estimate(spec),
        EngineKind::Remote | EngineKind::Scripted => {
            Ok(vec![DeviceBytes { name: "CPU".to_owned(), ..DeviceBytes::default() }])
        }
    }
}

/// Steps that the engines of this process have computed; a worker that still computes keeps
/// it moving.
pub fn ticks() -> u64 {
    llama::ticks().wrapping_add(candle::ticks()).wrapping_add(remote::ticks())
}

/// A copy of a model with other tensor types, made by llama.cpp's own quantiser.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuantizeSpec {
    /// The model's files; the parts of a split set in order.
    pub source: Vec<PathBuf>,
    pub target: PathBuf,
    /// Names of tensors and the ids (as in GGUF files) of the types they are to have. The
    /// quantiser leaves vectors, norms and the like as they are, whatever is asked.
    pub types: Vec<(String, u32)>,
    pub threads: u32,
    /// Most bytes that the target may take.
    pub max_bytes: u64,
}

/// Writes the copy that `spec` describes.
///
/// # Errors
/// The source cannot be read, or the quantiser cannot make one of the types.
pub fn quantize(spec: &QuantizeSpec) -> Result<(), EngineError> {
    llama::quantize(spec)
}

/// Rows of weights that llama.cpp's quantiser is to round to a block type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuantizeRows {
    /// The type's id, as in GGUF files.
    pub kind: u32,
    /// Weights of a row; whole blocks of the type.
    pub columns: u64,
    pub values: Vec<f32>,
    /// How much the error of a column counts (an importance matrix), the same in every row.
    pub importance: Option<Vec<f32>>,
    pub threads: u32,
}

/// The blocks of all rows, one row after the other.
///
/// # Errors
/// The type has no quantiser, or needs an importance that is not given; lengths do not fit; a
/// weight is not a number.
pub fn quantize_rows(spec: &QuantizeRows) -> Result<Vec<u8>, EngineError> {
    llama::quantize_rows(spec)
}

/// Files below this size are run on one thread: their layers are over before a second thread
/// has woken up.
const SMALL_MODEL_BYTES: u64 = 32 << 20;

/// Threads to run an artifact with when nobody said: all cores, or one for a small model.
pub fn default_threads(inspection: &Inspection) -> u32 {
    let bytes: u64 = inspection.files.iter().map(|file| file.bytes).sum();
    if bytes < SMALL_MODEL_BYTES {
        return 1;
    }
    std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1))
}

/// The engine that runs an artifact, and its files in order. Decided by what the inspection
/// found, never by a name.
///
/// # Errors
/// The inspection rejected the artifact, or no engine here runs its kind.
pub fn engine_for(inspection: &Inspection) -> Result<(EngineKind, Vec<PathBuf>), Problem> {
    let path = inspection.path.display();
    accepted(inspection)?;
    match inspection.kind {
        ArtifactKind::Gguf | ArtifactKind::GgufSplit => {
            Ok((EngineKind::LlamaCpp, inspection.files.iter().map(|file| file.path.clone()).collect()))
        }
        ArtifactKind::Safetensors
            if inspection.files.iter().any(|file| file.path.ends_with("config.json")) =>
        {
            Ok((EngineKind::Candle, inspection.files.iter().map(|file| file.path.clone()).collect()))
        }
        ArtifactKind::Safetensors => {
            Err(Problem::input(format!("{path}: there is no config.json beside these weights"))
                .hint("name the folder that holds config.json, the weights and tokenizer.json"))
        }
        ArtifactKind::Adapter => Err(Problem::input(format!("{path} is an adapter and no model"))
            .hint("name the base model, and the adapter with --adapter")),
        _ => Err(Problem::input(format!("{path}: no engine here can run this kind of file")).hint(
            "GGUF files, split sets and safetensors folders can be run; convert the model to one of them",
        )),
    }
}

/// The files of an adapter for a model that `engine` runs.
///
/// # Errors
/// The inspection rejected it, it is no adapter, or it is of the other form.
pub fn adapter_for(inspection: &Inspection, engine: EngineKind) -> Result<Vec<PathBuf>, Problem> {
    let path = inspection.path.display();
    accepted(inspection)?;
    if inspection.kind != ArtifactKind::Adapter {
        return Err(Problem::input(format!("{path} is not a LoRA adapter")).hint(
            "an adapter is a folder with adapter_config.json, or a GGUF file whose general.type is adapter",
        ));
    }
    let peft = inspection.files.iter().any(|file| file.path.ends_with("adapter_config.json"));
    match (engine, peft) {
        (EngineKind::LlamaCpp, false) | (EngineKind::Candle, true) => {
            Ok(inspection.files.iter().map(|file| file.path.clone()).collect())
        }
        (EngineKind::LlamaCpp, true) => {
            Err(Problem::input(format!("{path} is an adapter in PEFT form, and the base model is GGUF"))
                .hint("use the safetensors folder of the base, or convert the adapter to GGUF"))
        }
        (EngineKind::Candle, false) => Err(Problem::input(format!(
            "{path} is an adapter in GGUF form, and the base model is safetensors"
        ))
        .hint("use the GGUF file of the base, or the adapter in PEFT form")),
        (EngineKind::Remote | EngineKind::Scripted, _) => {
            Err(Problem::input("a remote or scripted model takes no adapter"))
        }
    }
}

/// A rejected artifact reaches no engine.
fn accepted(inspection: &Inspection) -> Result<(), Problem> {
    let path = inspection.path.display();
    if let (Status::Reject, first) = (inspection.status, inspection.findings.iter().find(is_error)) {
        let why = first.map_or("its inspection failed", |finding| finding.message.as_str());
        return Err(Problem::input(format!("{path} is rejected and will not be loaded: {why}"))
            .hint(format!("see all findings and what to do: assayd inspect --explain {path}")));
    }
    Ok(())
}

fn is_error(finding: &&crate::domain::inspection::Finding) -> bool {
    finding.severity == Severity::Error
}

/// How many tokens an adapter is tried with.
const PROBE: usize = 8;

/// Tokens to try an adapter with: a few, spread over the vocabulary.
fn probe_tokens(vocab: usize) -> Vec<u32> {
    (0..PROBE).filter_map(|at| u32::try_from(vocab.saturating_sub(1) * (at + 1) / PROBE).ok()).collect()
}

/// Does an adapter change the logits of a model at all?
///
/// # Errors
/// It does not, or what comes out is not finite.
fn adapter_works(without: &[f32], with: &[f32]) -> Result<(), String> {
    if with.is_empty() || with.len() != without.len() || !with.iter().all(|z| z.is_finite()) {
        return Err("with the adapter the model gives no finite logits".to_owned());
    }
    if without.iter().zip(with).all(|(without, with)| without.to_bits() == with.to_bits()) {
        return Err(
            "the adapter changes nothing: with it and without it every logit is the same, bit for bit"
                .to_owned(),
        );
    }
    Ok(())
}

/// Longest context per sequence; hostile metadata may claim any number.
const CONTEXT_MAX: u32 = 131_072;

/// Are the numbers of a spec in range?
fn check_spec(spec: &LoadSpec) -> Result<(), EngineError> {
    if spec.context == 0 || spec.context > CONTEXT_MAX || spec.parallel == 0 || spec.threads == 0 {
        return Err(EngineError::Request(format!(
            "context {} (1 to {CONTEXT_MAX}), sequences {} and threads {} must be in range",
            spec.context, spec.parallel, spec.threads
        )));
    }
    Ok(())
}

/// Checks an item against a model: every token in the vocabulary, a scored part, room in the context.
pub(crate) fn check_item(item: &ScoreItem, info: &ModelInfo, context: u32) -> Result<(), String> {
    let length = item.tokens.len();
    if length > context as usize {
        return Err(format!("sequence of {length} tokens does not fit the context of {context}"));
    }
    if item.scored_from == 0 || item.scored_from as usize >= length {
        return Err(format!(
            "nothing to score: the sequence has {length} tokens and scoring starts at {}",
            item.scored_from
        ));
    }
    if let Some(token) = item.tokens.iter().find(|&&token| token >= info.vocab) {
        return Err(format!("token {token} is not in the vocabulary of {}", info.vocab));
    }
    if let Detail::Given { ids } = &item.detail {
        let rows = length - item.scored_from as usize;
        if ids.len() != rows * crate::domain::trace::COARSE_TOP {
            return Err(format!("{} ids given for {rows} rows", ids.len()));
        }
        if ids.iter().any(|&id| id >= info.vocab) {
            return Err("a given id is not in the vocabulary".to_owned());
        }
    }
    Ok(())
}
