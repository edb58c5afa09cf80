//! `assayd estimate`: what a model would take, before anything is loaded.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use comfy_table::{Table, presets};
use serde::Serialize;

use super::memory::CapsArgs;
use super::placement::PlacementArgs;
use super::screen;
use crate::domain::footprint::{DeviceBytes, Footprint};
use crate::domain::size::ByteSize;
use crate::domain::{Problem, budget};
use crate::engine::{self, EngineKind, KvType, LoadBits, LoadSpec};
use crate::governor::admission::{Budget, Fit, Guardrail};
use crate::model::footprint::log;
use crate::model::footprint::place::{self, Placement};
use crate::model::footprint::{Counted, count};
use crate::model::{self, InspectOptions};
use crate::worker::{WorkerLimits, demand_of, dry_run, on_accelerators};

/// Says what a model would take, by device and by what for, and which limit that would break.
/// Nothing is loaded: a limited worker reads the header and counts.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  assayd estimate model.gguf
  assayd estimate model.gguf --ctx 8192 --kv-type q8_0
  assayd estimate model.gguf --max-memory 8GiB --json | jq .fits
  assayd estimate moe.gguf --gpu-layers -1 --n-cpu-moe 12     experts of 12 layers stay on the CPU
  assayd estimate moe.gguf --vram 24GiB,8GiB                  what fits two accelerators
  assayd estimate moe.gguf --gpu-layers -1 --cpu-moe --logged server.log     beside what llama.cpp said it took
  assayd estimate model --load-bits 8                         a safetensors folder, quantised while loading

Judged runs use a cache of f32; servers usually use f16, which is the default here.
Exit codes: 0 it fits, 1 it does not, 4 it could not be estimated, 2 usage.")]
pub struct Args {
    /// Model
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Tokens per sequence [default: what it was trained for, at most 4096]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=131_072))]
    ctx: Option<u32>,
    /// Number format of the key-value cache
    #[arg(long, value_enum, default_value = "f16")]
    kv_type: KvType,
    /// Sequences side by side
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    parallel: u32,
    /// Threads [default: all cores, one for a small model]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
    #[command(flatten)]
    placement: PlacementArgs,
    /// Memory of each accelerator, such as 24GiB,8GiB: says which layers and experts would fit, by
    /// formula from the header; the accelerators need not be here
    #[arg(long, value_name = "SIZE,...", value_delimiter = ',', conflicts_with = "gpu_layers")]
    vram: Vec<ByteSize>,
    /// Show beside it what accelerators held by a log of llama.cpp (its last model): model, cache, scratch
    #[arg(long, value_name = "LOG")]
    logged: Option<PathBuf>,
    #[command(flatten)]
    caps: CapsArgs,
    /// How careful to be
    #[arg(long, value_enum, default_value = "balanced")]
    guardrail: Guardrail,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// The JSON document.
#[derive(Debug, Serialize)]
struct Output {
    #[serde(serialize_with = "crate::domain::text::path_as_json")]
    model: PathBuf,
    context: u32,
    parallel: u32,
    kv_type: KvType,
    /// Null: the weights as the files hold them.
    load_bits: Option<LoadBits>,
    devices: Vec<Device>,
    /// All devices and the process.
    total_bytes: u64,
    /// What only the end of the process gives back.
    held_bytes: u64,
    /// Pages of the model's files: they come back by themselves.
    mapped_bytes: u64,
    /// What the process takes besides: vocabulary, tables of cells, graphs.
    process_bytes: u64,
    /// What can be had now.
    available_bytes: u64,
    fits: bool,
    fit: Fit,
    /// The limit that decides: `max-memory`, `available`, `group` or `accelerator`.
    limiting: &'static str,
    guardrail: Guardrail,
    /// What must be there for it to start.
    needed_bytes: u64,
    /// `dry-run`, or `formula` where the engine cannot count.
    method: &'static str,
    formula: Option<Formula>,
    /// Null unless `--vram` asks for it.
    placement: Option<Placed>,
    /// What accelerators held by the log that `--logged` names; null without it.
    logged: Option<Vec<Device>>,
    /// How the counting worker was held.
    enforcement: String,
}

#[derive(Debug, Serialize)]
struct Device {
    name: String,
    model_bytes: u64,
    kv_bytes: u64,
    compute_bytes: u64,
    output_bytes: u64,
    total_bytes: u64,
    /// What is free on it now; null of the machine's own memory.
    free_bytes: Option<u64>,
}

/// What fits accelerators with given memory.
#[derive(Debug, Serialize)]
struct Placed {
    #[serde(flatten)]
    placement: Placement,
    budget_bytes: Vec<u64>,
}

/// The same by formula from the header alone, as a cross-check.
#[derive(Debug, Serialize)]
struct Formula {
    model_bytes: u64,
    kv_bytes: u64,
    cell_bytes: u64,
    expert_bytes: u64,
    active_bytes: u64,
    compute_bytes: u64,
}

/// Context taken when nobody says.
const USUAL_CONTEXT: u32 = 4096;

/// The context to take for a model that was trained for `trained` tokens.
pub fn usual_context(trained: Option<u64>) -> u32 {
    let trained = trained.and_then(|length| u32::try_from(length).ok()).unwrap_or(USUAL_CONTEXT);
    trained.clamp(1, USUAL_CONTEXT)
}

pub fn run(args: &Args) -> Result<u8, Problem> {
    let inspection = model::inspect(&args.model, &InspectOptions::default(), &mut |_, _| {})?;
    let (engine, paths) = engine::engine_for(&inspection)?;
    LoadBits::check(args.placement.load_bits, engine)?;
    let context = args.ctx.unwrap_or_else(|| usual_context(inspection.context_length));
    let threads = args.threads.unwrap_or_else(|| engine::default_threads(&inspection));
    let spec = args.placement.place(LoadSpec {
        kv_type: args.kv_type,
        parallel: args.parallel,
        ..LoadSpec::judged(engine, paths, context, threads)
    });
    let formula = match (engine, spec.paths.first()) {
        (EngineKind::LlamaCpp, Some(first)) => count(first, spec.shape()).ok(),
        _ => None,
    };
    let placement = match (args.vram.is_empty(), engine, spec.paths.first()) {
        (true, _, _) => None,
        (false, EngineKind::LlamaCpp, Some(first)) => {
            let load = place::load(first, spec.shape())?;
            let budget_bytes: Vec<u64> = args.vram.iter().map(|size| size.0).collect();
            Some(Placed { placement: load.place(&budget_bytes), budget_bytes })
        }
        _ => return Err(Problem::usage("--vram is for GGUF models: layers of others are not placed")),
    };
    let logged = args.logged.as_deref().map(read_log).transpose()?;
    let (footprint, seen) = dry_run(&spec, &WorkerLimits::default())?;
    let budget = Budget::now(args.caps.caps());
    let output =
        Output { logged, ..output(args, context, &footprint, budget, formula, placement, seen.enforcement) };
    if args.json {
        screen::print_json(&output)?;
    } else {
        screen::print(&table(&output))?;
    }
    Ok(u8::from(!output.fits))
}

fn output(
    args: &Args,
    context: u32,
    footprint: &Footprint,
    budget: Budget,
    formula: Option<Counted>,
    placement: Option<Placed>,
    enforcement: String,
) -> Output {
    let demand = demand_of(footprint);
    // The machine itself, unless only an accelerator is too full.
    let fits = |demand, budget: Budget| args.guardrail.needed_bytes(demand) <= budget.bytes;
    let full = on_accelerators(footprint).find(|(_, demand, free)| !fits(*demand, *free));
    let (deciding, budget) = match full {
        Some((_, there, free)) if fits(demand, budget) => (there, free),
        _ => (demand, budget),
    };
    let needed_bytes = args.guardrail.needed_bytes(deciding);
    Output {
        model: args.model.clone(),
        context,
        parallel: args.parallel,
        kv_type: args.kv_type,
        load_bits: args.placement.load_bits,
        devices: footprint.devices.iter().map(Device::of).collect(),
        total_bytes: footprint.total_bytes(),
        held_bytes: demand.held_bytes,
        mapped_bytes: demand.mapped_bytes,
        process_bytes: footprint.process_bytes,
        available_bytes: budget.bytes,
        fits: needed_bytes <= budget.bytes,
        fit: Fit::of(deciding, budget),
        limiting: budget.limiting.as_str(),
        guardrail: args.guardrail,
        needed_bytes,
        method: "dry-run",
        formula: formula.map(|counted| Formula {
            model_bytes: counted.model_bytes,
            kv_bytes: counted.kv_bytes.saturating_add(counted.state_bytes),
            cell_bytes: counted.cell_bytes,
            expert_bytes: counted.expert_bytes,
            active_bytes: counted.active_bytes,
            compute_bytes: counted.compute_bytes,
        }),
        placement,
        logged: None,
        enforcement,
    }
}

impl Device {
    fn of(device: &DeviceBytes) -> Self {
        Self {
            name: device.name.clone(),
            model_bytes: device.model_bytes,
            kv_bytes: device.kv_bytes,
            compute_bytes: device.compute_bytes,
            output_bytes: device.output_bytes,
            total_bytes: device.total_bytes(),
            free_bytes: device.free_bytes,
        }
    }
}

/// What accelerators held by a log.
fn read_log(path: &Path) -> Result<Vec<Device>, Problem> {
    let (name, most) = (path.display(), budget::ENGINE_LOG_BYTES);
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(most + 1).read_to_end(&mut bytes));
    read.map_err(|error| Problem::usage(format!("read {name}: {error}")))?;
    if bytes.len() as u64 > most {
        return Err(Problem::usage(format!("{name} has more than {most} bytes"))
            .hint("cut out the part from where the model is loaded"));
    }
    let found = log::accelerators(&String::from_utf8_lossy(&bytes));
    if found.is_empty() {
        return Err(Problem::usage(format!("{name} tells of no buffer on an accelerator")).hint(
            "llama.cpp logs lines such as `load_tensors: CUDA0 model buffer size = 616.15 MiB` on standard error",
        ));
    }
    Ok(found.iter().map(Device::of).collect())
}

/// What was logged of each accelerator, beside what was counted here for one of that name, and of
/// all together; empty if nobody asked.
fn logged(output: &Output) -> String {
    let Some(devices) = &output.logged else { return String::new() };
    let mut text = String::new();
    for device in devices {
        let counted = output.devices.iter().find(|counted| counted.name == device.name);
        let counted =
            counted.map_or_else(|| "n/a".to_owned(), |counted| ByteSize(counted.total_bytes).to_string());
        let [model, kv, compute, output, total] = [
            device.model_bytes,
            device.kv_bytes,
            device.compute_bytes,
            device.output_bytes,
            device.total_bytes,
        ]
        .map(|bytes| ByteSize(bytes).to_string());
        text.push_str(&format!(
            "logged on {}: model {model}, KV cache {kv}, compute {compute}, output {output}: {total} (counted here: {counted})\n",
            screen::shown(&device.name)
        ));
    }
    let all = devices.iter().map(|device| device.total_bytes).fold(0, u64::saturating_add);
    text + &format!("logged on all accelerators: {}\n", ByteSize(all))
}

/// What to pass on so that it fits; empty if nobody asked.
fn placed(placement: Option<&Placed>) -> String {
    let Some(placed) = placement else { return String::new() };
    let Placement { gpu_layers, cpu_experts, split, used_bytes } = &placed.placement;
    let split: Vec<String> = split.iter().map(usize::to_string).collect();
    let devices = used_bytes.iter().zip(&placed.budget_bytes);
    let devices: Vec<String> =
        devices.map(|(used, budget)| format!("{} of {}", ByteSize(*used), ByteSize(*budget))).collect();
    format!(
        "fits: --gpu-layers {gpu_layers} --n-cpu-moe {cpu_experts} --tensor-split {} ({})\n",
        split.join(","),
        devices.join(", "),
    )
}

fn table(output: &Output) -> String {
    let size = |bytes: u64| ByteSize(bytes).to_string();
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["device", "model", "KV cache", "compute", "output", "total"]);
    for device in &output.devices {
        table.add_row([
            screen::shown(&device.name),
            size(device.model_bytes),
            size(device.kv_bytes),
            size(device.compute_bytes),
            size(device.output_bytes),
            size(device.total_bytes),
        ]);
    }
    let verdict = if output.fits { "fits" } else { "does not fit" };
    let kv = serde_json::to_value(output.kv_type).ok();
    format!(
        "{table}\nthe process itself {}; {} in all, of which {} are pages of the model's files\n\
         {verdict} ({}): {} needed at guardrail {}, {} available (limit: {})\n\
         for {} tokens, {} sequence(s), a cache of {}{}\n{}{}",
        size(output.process_bytes),
        size(output.total_bytes),
        size(output.mapped_bytes),
        output.fit.as_str(),
        size(output.needed_bytes),
        output.guardrail.as_str(),
        size(output.available_bytes),
        output.limiting,
        output.context,
        output.parallel,
        kv.as_ref().and_then(serde_json::Value::as_str).unwrap_or("n/a"),
        output.load_bits.map(|bits| format!("; weights {}", bits.words())).unwrap_or_default(),
        placed(output.placement.as_ref()),
        logged(output),
    )
}
