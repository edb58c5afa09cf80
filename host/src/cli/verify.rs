//! `assayd verify`: the whole assay of a candidate against a reference, without a daemon.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde_json::Value;

use super::keys::SigningArgs;
use super::memory::MemoryArgs;
use super::placement::PlacementArgs;
use super::screen;
use super::verify_screen::{Progress, result};
use crate::assay::band::BandChoice;
use crate::assay::bundle::{BundleWriter, Sealed};
use crate::assay::probe;
use crate::assay::report::Report;
use crate::assay::{AssayContext, AssayRequest, KeyText};
use crate::domain::modes::{DEFAULT_DECIDER, DEFAULT_SCORER, ModeName, prove_modes};
use crate::domain::{Problem, ProblemKind, budget};
use crate::governor::Enforcement;
use crate::plugin::{PluginKind, PluginSet};
use crate::store::atomic;

/// Judges whether a candidate is the same model as a reference.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  assayd verify model-q8_0.gguf --reference model-f16.gguf
  assayd verify new.gguf --reference trusted.gguf --mode extended --report html=verdict.html
  assayd verify new.gguf --reference trusted.gguf --key @challenge.key --json > report.json
  assayd verify new.gguf --reference trusted.gguf --bundle verdict.bundle
  assayd verify new.gguf --reference trusted.gguf --gamma 0.1 --delta 0.1 --n-max 400
  assayd verify model-Q4_K_M.gguf --reference model-f16.gguf --band auto     is it an honest Q4_K_M?
  assayd verify model --reference model --load-bits 8                        how far is it at 8 bits from itself?
  assayd verify new.gguf --reference trusted.gguf --probe my-prompts.txt
  assayd verify new.gguf --reference trusted.gguf --hash-check allow-list=@allowed.json   {\"digests\": [\"<sha256>\", ...]}
  assayd verify http://127.0.0.1:8000/v1#qwen --reference qwen.gguf --scorer delta-ce     is it what they serve?

An endpoint must tell log-probabilities of a prompt (vLLM's prompt_logprobs, or echo with logprobs) and offer
/tokenize; its key is in ASSAYD_REMOTE_KEY, or in the file that ASSAYD_REMOTE_KEY_FILE names.
ASSAYD_REMOTE_CA_FILE names certificates (PEM) of authorities to trust instead of the public ones.
SAME claims that the mean clipped divergence is below delta, DIFFERENT that it is above gamma, each wrong with
probability at most 1 - confidence; `assayd modes` prints what the modes demand.
With --load-bits 8 the candidate (a safetensors folder) is quantised while it is loaded, tensor by tensor, and the
reference is taken as it is: the verdict is then about the quantised model, and every report says so.
Exit codes: 0 SAME, 1 DIFFERENT, 3 UNDECIDED, 4 could not be judged, 2 usage.")]
pub struct Args {
    /// Model that is judged: files, or an endpoint (https://HOST/v1#MODEL or http://, scored with --scorer delta-ce)
    #[arg(value_name = "CANDIDATE")]
    pub candidate: PathBuf,
    /// Model that is trusted
    #[arg(long, value_name = "REF")]
    pub reference: PathBuf,
    /// LoRA adapter to put over the candidate: a GGUF file over GGUF, a PEFT folder over safetensors
    #[arg(long, value_name = "PATH")]
    pub adapter: Option<PathBuf>,
    /// How much is demanded of the verdict
    #[arg(long, value_enum, default_value = "audit")]
    pub mode: ModeName,
    /// Scorer plugin
    #[arg(long, value_name = "ID", default_value = DEFAULT_SCORER)]
    pub scorer: String,
    /// Decider plugin
    #[arg(long, value_name = "ID", default_value = DEFAULT_DECIDER)]
    pub decider: String,
    /// Challenge key to reproduce a run: hexadecimal, or @FILE that holds it; random if not given
    #[arg(long, value_name = "HEX|@FILE")]
    pub key: Option<String>,
    /// Most challenges
    #[arg(long, value_name = "N")]
    pub n_max: Option<u64>,
    /// 1 - alpha, such as 0.99
    #[arg(long, value_name = "C")]
    pub confidence: Option<f64>,
    /// DIFFERENT means: the mean score is above this
    #[arg(long, value_name = "G")]
    pub gamma: Option<f64>,
    /// SAME means: the mean score is below this
    #[arg(long, value_name = "D")]
    pub delta: Option<f64>,
    /// Set gamma to delta, so that every mean is on one side
    #[arg(long, conflicts_with = "gamma")]
    pub strict_band: bool,
    /// Where gamma and delta come from: the mode, or (auto) an honest quantisation of the reference
    #[arg(long, value_enum, default_value = "mode")]
    pub band: BandChoice,
    /// Your own prompts, asked and reported apart from the verdict: a JSON array, or one per line
    #[arg(long, value_name = "FILE")]
    pub probe: Option<PathBuf>,
    /// Hold the candidate to a digest, root or list of your own: parameters of a hash check as JSON
    #[arg(long, value_name = "ID=JSON|ID=@FILE")]
    pub hash_check: Vec<String>,
    #[command(flatten)]
    memory: MemoryArgs,
    /// How workers are held to their memory limit; a rung that is named must be there
    #[arg(long, value_enum, default_value = "auto", env = "ASSAYD_ENFORCEMENT")]
    pub enforcement: Enforcement,
    /// Keep whole distributions whatever the vocabulary, in 16 bits; without it, above 8192 tokens the
    /// scores are lower bounds, which the report says and bounds
    #[arg(long)]
    pub exact: bool,
    /// Threads of a worker [default: all cores, one for a small model]
    #[arg(long, value_name = "N")]
    pub threads: Option<u32>,
    #[command(flatten)]
    placement: PlacementArgs,
    /// Write the report; FORMAT is json or a report plugin such as html, markdown or card
    #[arg(long, value_name = "FORMAT=PATH")]
    pub report: Vec<String>,
    /// Write everything that is needed to recompute the verdict offline: `assayd bundle verify PATH`
    #[arg(long, value_name = "PATH")]
    pub bundle: Option<PathBuf>,
    #[command(flatten)]
    pub signing: SigningArgs,
    /// Folder of plugins that add to the built-in ones
    #[arg(long, value_name = "DIR")]
    pub plugins: Option<PathBuf>,
    /// Folder of the reference trace cache
    #[arg(long, value_name = "DIR", env = "ASSAYD_CACHE")]
    pub cache: Option<PathBuf>,
    /// Print the report as one JSON document
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// Usage: the request cannot be met. Anything that goes wrong later is in the report, and
/// the exit code is that of ERROR.
pub fn run(args: &Args) -> Result<u8, Problem> {
    prove_modes()?;
    let request = request(args)?;
    let plugins = Arc::new(PluginSet::with_folder(args.plugins.as_deref())?);
    request.check(&plugins)?;
    let outputs = outputs(&args.report, &plugins)?;
    let signer = args.bundle.as_ref().map(|_| args.signing.signer()).transpose()?.flatten();
    let bundle =
        args.bundle.as_deref().map(|path| BundleWriter::create(path, budget::BUNDLE_BYTES)).transpose()?;
    let progress = Progress::new();
    let context = AssayContext {
        plugins: Arc::clone(&plugins),
        cache_dir: args.cache.clone().unwrap_or_else(screen::cache_folder),
        bundle: bundle.as_ref(),
        cancel: Arc::new(AtomicBool::new(false)),
        on_event: &|event| progress.show(&event),
    };
    let report = crate::assay::run(&request, &context);
    drop(context);
    drop(progress);
    let sealed = bundle.map(|bundle| bundle.finish(&report, &plugins, signer.as_ref()));
    for output in &outputs {
        output.write(&report, &plugins)?;
    }
    if args.json {
        screen::print_json(&report)?;
    } else {
        let mut written: Vec<&Path> = outputs.iter().map(|output| output.path.as_path()).collect();
        written.extend(args.bundle.as_deref().filter(|_| matches!(sealed, Some(Ok(_)))));
        screen::print(&result(&report, &written))?;
        if let Some(Ok(sealed)) = &sealed {
            screen::print(&said(sealed))?;
        }
    }
    // The verdict was told; whoever asked for its evidence must not take it for complete.
    sealed.transpose()?;
    Ok(report.final_decision.exit_code())
}

/// A line about a bundle that was written.
fn said(sealed: &Sealed) -> String {
    let signed = match &sealed.signed_by {
        Some(key) => format!("signed by {key}"),
        None => "not signed (make a key with: assayd keys new)".to_owned(),
    };
    format!("bundle: {}, {signed}\n", screen::bytes(sealed.bytes))
}

fn to_json(report: &Report) -> Result<String, Problem> {
    serde_json::to_string_pretty(report)
        .map_err(|error| Problem::internal(format!("the report has no JSON form: {error}")))
}

fn request(args: &Args) -> Result<AssayRequest, Problem> {
    let delta = args.delta.unwrap_or(args.mode.mode().params.delta);
    Ok(AssayRequest {
        adapter: args.adapter.clone(),
        mode: args.mode,
        scorer: args.scorer.clone(),
        decider: args.decider.clone(),
        key: args.key.as_deref().map(key_text).transpose()?,
        n_max: args.n_max,
        confidence: args.confidence,
        gamma: if args.strict_band { Some(delta) } else { args.gamma },
        delta: args.delta,
        band: args.band,
        probes: args.probe.as_deref().map(probes).transpose()?.unwrap_or_default(),
        hash_checks: hash_checks(&args.hash_check)?,
        threads: args.threads,
        gpu_layers: args.placement.gpu_layers,
        cpu_experts: args.placement.cpu_experts(),
        load_bits: args.placement.load_bits,
        max_memory_bytes: args.memory.caps().max_memory_bytes,
        min_free_bytes: args.memory.caps().min_free_bytes,
        force: args.memory.force,
        guardrail: args.memory.guardrail,
        enforcement: args.enforcement,
        exact: args.exact,
        ..AssayRequest::new(&args.candidate, Some(args.reference.clone()))
    })
}

/// `HEX`, or the content of `@FILE`.
fn key_text(text: &str) -> Result<KeyText, Problem> {
    let Some(path) = text.strip_prefix('@') else { return Ok(KeyText(text.to_owned())) };
    read_text(Path::new(path), "read the key file", budget::KEY_FILE_BYTES).map(KeyText)
}

/// The user's own prompts.
fn probes(path: &Path) -> Result<Vec<String>, Problem> {
    let text = read_text(path, "read the prompts", budget::PROBE_FILE_BYTES + 1)?;
    let name = path.display().to_string();
    if text.len() as u64 > budget::PROBE_FILE_BYTES {
        return Err(Problem::usage(format!("{name} has more than {} bytes", budget::PROBE_FILE_BYTES)));
    }
    probe::parse(&text, &name).map_err(|problem| Problem { kind: ProblemKind::Usage, ..problem })
}

/// Parameters by plugin id.
fn hash_checks(arguments: &[String]) -> Result<BTreeMap<String, Value>, Problem> {
    let mut all = BTreeMap::new();
    for argument in arguments {
        let bad = |why: &str| {
            Problem::usage(format!("--hash-check {argument}: {why}"))
                .hint(r#"for example --hash-check 'root-pin={"weights_root": "<64 digits>"}'"#)
        };
        let (id, text) = argument.split_once('=').ok_or_else(|| bad("not ID=JSON or ID=@FILE"))?;
        let text = match text.strip_prefix('@') {
            // One byte more than allowed, so that a longer one is seen to be.
            Some(path) => {
                read_text(Path::new(path), "read the parameters", budget::HASH_PARAMS_BYTES as u64 + 1)?
            }
            None => text.to_owned(),
        };
        let params = serde_json::from_str(&text).map_err(|error| bad(&format!("not JSON: {error}")))?;
        if all.insert(id.to_owned(), params).is_some() {
            return Err(bad("this hash check is named twice"));
        }
    }
    Ok(all)
}

/// At most so many bytes of a file that an argument names; what is wrong with it is usage.
fn read_text(path: &Path, doing: &str, most: u64) -> Result<String, Problem> {
    let mut content = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(most).read_to_string(&mut content))
        .map_err(|error| Problem { kind: ProblemKind::Usage, ..Problem::io(doing, path, &error) })?;
    Ok(content)
}

/// One `--report FORMAT=PATH`.
#[derive(Debug)]
struct Output {
    format: String,
    path: PathBuf,
}

fn outputs(arguments: &[String], plugins: &PluginSet) -> Result<Vec<Output>, Problem> {
    arguments
        .iter()
        .map(|argument| {
            let (format, path) = argument
                .split_once('=')
                .filter(|(format, path)| !format.is_empty() && !path.is_empty())
                .ok_or_else(|| {
                    Problem::usage(format!("--report {argument} is not FORMAT=PATH"))
                        .hint("for example --report html=verdict.html or --report json=report.json")
                })?;
            if format != "json" {
                plugins.record(PluginKind::Report, format)?;
            }
            Ok(Output { format: format.to_owned(), path: PathBuf::from(path) })
        })
        .collect()
}

impl Output {
    fn write(&self, report: &Report, plugins: &PluginSet) -> Result<(), Problem> {
        let json = to_json(report)?;
        if self.format == "json" {
            return atomic::write(&self.path, json.as_bytes());
        }
        let rendered = plugins.report(&self.format)?.render(&json, "")?;
        match rendered.as_slice() {
            [one] => atomic::write(&self.path, &one.body),
            several => {
                std::fs::create_dir_all(&self.path)
                    .map_err(|error| Problem::io("make the folder", &self.path, &error))?;
                several
                    .iter()
                    .try_for_each(|file| atomic::write(&self.path.join(&file.file_name), &file.body))
            }
        }
    }
}
