//! `assayd doctor`: what this machine offers and lacks.

use std::path::PathBuf;

use comfy_table::{ContentArrangement, Table, presets};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::screen;
use crate::app::Parts;
use crate::app::config::{self, Config, Overrides};
use crate::domain::size::ByteSize;
use crate::domain::{Problem, schema_of};
use crate::engine::{EngineInfo, llama};
use crate::governor::machine::{Disk, disk};
use crate::governor::{Machine, ladder, resident_bytes};
use crate::worker;

/// Says what this machine offers and lacks: cores, memory and its limits, sandboxing, disk,
/// graphics cards, engine and plugins.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  assayd doctor
  assayd doctor --json | jq .enforcement
  assayd doctor --config assayd.toml

Exit code 0 when assayd can work here, whatever is lacking; 2 for a broken configuration.")]
pub struct Args {
    /// Configuration file whose folders are looked at, as for `serve`
    #[arg(long, value_name = "F")]
    pub config: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// The JSON document.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(title = "assayd doctor")]
struct Report {
    assayd_version: &'static str,
    #[serde(flatten)]
    machine: Machine,
    /// What holds a worker to its memory limit here, tried out: `cgroup-v2` or `cgroup-v1`,
    /// `rlimit`, `watchdog`.
    enforcement: String,
    /// Why a rung of the ladder is missing.
    enforcement_missing: Vec<String>,
    /// What a worker is kept from here, by a worker that tried.
    confinement: String,
    confinement_missing: Vec<String>,
    /// Memory that jobs can count on now.
    usable_memory_bytes: u64,
    state: PathBuf,
    models: Vec<PathBuf>,
    disks: Vec<Disk>,
    engine: Option<EngineInfo>,
    plugins: Value,
    /// Memory of this very process.
    resident_bytes: Option<u64>,
    findings: Vec<Finding>,
}

/// Something to know, and what to do about it.
#[derive(Debug, Serialize, JsonSchema)]
struct Finding {
    /// `ok`, `note` or `lack`.
    level: &'static str,
    what: String,
    remedy: Option<String>,
}

/// Disk space below which results and caches are at risk.
const LITTLE_DISK: u64 = 1 << 30;
/// Memory below which hardly a model can be loaded.
const LITTLE_MEMORY: u64 = 1 << 30;

/// The published JSON schema of the document.
pub fn schema() -> String {
    schema_of::<Report>()
}

pub fn run(args: &Args) -> Result<u8, Problem> {
    let overrides = Overrides { config: args.config.clone(), ..Overrides::default() };
    let config = config::load(&overrides, &|name| std::env::var(name).ok())?;
    let parts = Parts::real(&config)?;
    let report = report(&config, &parts);
    if args.json {
        screen::print_json(&report)?
    } else {
        screen::print(&(table(&report) + "\n"))?
    }
    Ok(0)
}

fn report(config: &Config, parts: &Parts) -> Report {
    let machine = Machine::read();
    let folders = std::iter::once(&config.state).chain(&config.models);
    let disks: Vec<Disk> = folders.filter_map(|folder| disk(folder)).collect();
    let plugins = (parts.list_plugins)();
    let engine = engine();
    let (enforcement, enforcement_missing) = ladder::strongest();
    let confined = worker::try_confinement();
    let mut findings = findings(&machine, engine.as_ref(), &disks, &plugins);
    let not_held = enforcement_missing.iter().take(usize::from(!enforcement.starts_with("cgroup")) * 8);
    findings.extend(not_held.map(|reason| Finding { level: "note", what: reason.clone(), remedy: None }));
    if let Err(end) = &confined {
        findings.push(Finding {
            level: "lack",
            what: format!("no worker can be started: {}", end.detail),
            remedy: end.hint.clone(),
        });
    }
    let confined = confined.unwrap_or_default();
    Report {
        assayd_version: env!("CARGO_PKG_VERSION"),
        enforcement,
        enforcement_missing,
        confinement: confined.names(),
        confinement_missing: confined.missing,
        usable_memory_bytes: machine.usable_memory_bytes(),
        state: config.state.clone(),
        models: config.models.clone(),
        disks,
        engine,
        plugins,
        resident_bytes: resident_bytes(),
        findings,
        machine,
    }
}

/// Null where it cannot start; a finding says so.
fn engine() -> Option<EngineInfo> {
    llama::describe().ok()
}

fn findings(machine: &Machine, engine: Option<&EngineInfo>, disks: &[Disk], plugins: &Value) -> Vec<Finding> {
    let mut list = Vec::new();
    let mut add = |level, what: String, remedy: Option<&str>| {
        list.push(Finding { level, what, remedy: remedy.map(str::to_owned) });
    };
    if !machine.cgroup.memory_delegated {
        add(
            "note",
            "no control group can be made for workers; limits are held without".to_owned(),
            Some("start assayd in a delegated group, such as systemd-run --user --scope -p Delegate=yes"),
        );
    }
    match machine.landlock_abi {
        None => add(
            "lack",
            "Landlock is not there: a worker's access to files cannot be narrowed".to_owned(),
            Some("use a kernel from 5.13 on with landlock in its list of security modules (lsm=)"),
        ),
        Some(abi) if abi < 4 => add(
            "note",
            format!("Landlock's ABI {abi} cannot forbid a worker the network"),
            Some("use a kernel from 6.7 on"),
        ),
        Some(_) => {}
    }
    if !machine.seccomp_filter {
        add("lack", "the kernel cannot filter system calls".to_owned(), None);
    }
    if !machine.psi {
        add(
            "note",
            "the kernel does not report memory pressure".to_owned(),
            Some("boot with psi=1 if early warning matters"),
        );
    }
    let fast = ["avx2", "asimddp", "avx512f"];
    if !machine.cpu.features.iter().any(|feature| fast.contains(&feature.as_str())) {
        add("note", "the processor has no fast kernels (AVX2, NEON dot product): slow".to_owned(), None);
    }
    if machine.usable_memory_bytes() < LITTLE_MEMORY {
        let free = ByteSize(machine.usable_memory_bytes());
        add(
            "lack",
            format!("only {free} of memory can be used"),
            Some("free some, or raise the group's limit"),
        );
    }
    for disk in disks.iter().filter(|disk| disk.free_bytes < LITTLE_DISK) {
        let free = ByteSize(disk.free_bytes);
        add("lack", format!("only {free} free for {}", disk.path.display()), Some("free some disk space"));
    }
    if engine.is_none() {
        add("lack", "the engine llama.cpp cannot start, so no model can be run".to_owned(), None);
    }
    if plugins.as_array().is_none_or(Vec::is_empty) {
        add("lack", "there are no plugins, so nothing can be judged".to_owned(), None);
    }
    if list.is_empty() {
        list.push(Finding { level: "ok", what: "nothing is lacking".to_owned(), remedy: None });
    }
    list
}

fn table(report: &Report) -> String {
    let machine = &report.machine;
    let size =
        |bytes: Option<u64>| bytes.map_or_else(|| "n/a".to_owned(), |bytes| ByteSize(bytes).to_string());
    let number = |number: Option<usize>| number.map_or_else(|| "n/a".to_owned(), |number| number.to_string());
    let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let mut rows: Vec<(&str, String)> = vec![
        ("kernel", machine.kernel.clone().unwrap_or_else(|| "n/a".to_owned())),
        (
            "processor",
            format!(
                "{}: {} cores usable, {} logical, {} physical",
                machine.cpu.model.as_deref().unwrap_or("n/a"),
                number(machine.cpu.usable_cores),
                machine.cpu.logical_cores,
                number(machine.cpu.physical_cores),
            ),
        ),
        ("instructions", machine.cpu.features.join(" ")),
        (
            "memory",
            format!(
                "{} available of {}; swap {} of {}",
                ByteSize(machine.memory.available_bytes),
                ByteSize(machine.memory.total_bytes),
                ByteSize(machine.memory.swap_free_bytes),
                ByteSize(machine.memory.swap_total_bytes),
            ),
        ),
        (
            "control group",
            match machine.cgroup.version {
                None => "none".to_owned(),
                Some(version) => format!(
                    "v{version}, memory limit {}, CPU quota {}, groups below it {}",
                    machine
                        .cgroup
                        .memory_limit_bytes
                        .map_or_else(|| "none".to_owned(), |bytes| ByteSize(bytes).to_string()),
                    machine
                        .cgroup
                        .cpu_quota_cores
                        .map_or_else(|| "none".to_owned(), |cores| format!("{cores:.2} cores")),
                    if machine.cgroup.memory_delegated { "allowed" } else { "not allowed" },
                ),
            },
        ),
        ("usable memory", ByteSize(report.usable_memory_bytes).to_string()),
        ("memory enforcement", report.enforcement.clone()),
        ("workers are kept in by", report.confinement.clone()),
        ("memory pressure (PSI)", yes(machine.psi)),
        ("Landlock ABI", machine.landlock_abi.map_or_else(|| "none".to_owned(), |abi| abi.to_string())),
        ("system call filter", yes(machine.seccomp_filter)),
    ];
    for disk in &report.disks {
        let room = format!("{} free of {}", ByteSize(disk.free_bytes), ByteSize(disk.total_bytes));
        rows.push(("disk", format!("{}: {room}", disk.path.display())));
    }
    if machine.gpus.is_empty() {
        rows.push(("graphics card", "none".to_owned()));
    }
    for gpu in &machine.gpus {
        let name = gpu.name.as_deref().unwrap_or("unnamed");
        rows.push(("graphics card", format!("{} {name}, memory {}", gpu.vendor, size(gpu.memory_bytes))));
    }
    rows.push(match &report.engine {
        None => ("engine", "none".to_owned()),
        Some(engine) => ("engine", format!("{} {}, {}", engine.name, engine.version, engine.device)),
    });
    for plugin in report.plugins.as_array().into_iter().flatten() {
        rows.push((
            "plugin",
            format!("{} ({})", named(plugin, "id", "version"), named(plugin, "kind", "origin")),
        ));
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    let mut before = "";
    for (name, value) in rows {
        // A name that repeats is said once.
        table.add_row([if name == before { "" } else { name }, &screen::shown(&value)]);
        before = name;
    }
    let mut text = table.trim_fmt();
    text.push_str("\n\n");
    for finding in &report.findings {
        text.push_str(&format!("{}: {}\n", finding.level, finding.what));
        if let Some(remedy) = &finding.remedy {
            text.push_str(&format!("      {remedy}\n"));
        }
    }
    text.truncate(text.trim_end().len());
    text
}

/// Two text fields of a JSON object, side by side.
fn named(value: &Value, first: &str, second: &str) -> String {
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or("n/a").to_owned();
    format!("{} {}", text(first), text(second))
}
