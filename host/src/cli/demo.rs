//! `assayd demo`: the main job on real input, with nothing but this binary.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

use super::screen::{self, Bar};
use crate::app::config::{self, Overrides};
use crate::app::{self, Parts};
use crate::domain::{Problem, budget};

/// Judge the bundled example models: daemon, folder, verdicts, reports.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  assayd demo
  assayd demo --keep ./demo      keeps the models, the daemon's state and the reports

Starts the daemon on a temporary folder and a free loopback port, drops the example models
in, waits for the verdicts and compares them with what they should be. Exit code 0 only if
every verdict is the expected one.")]
pub struct Args {
    /// Work in this folder and leave everything in it
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// What the examples are and what should come out.
const EXPECTATIONS: &str = include_str!("../../../examples/demo.toml");
/// The example models themselves.
const MODELS: [(&str, &[u8]); 6] = [
    ("reference.gguf", include_bytes!("../../../examples/models/reference.gguf")),
    ("copy.gguf", include_bytes!("../../../examples/models/copy.gguf")),
    ("reference-f16.gguf", include_bytes!("../../../examples/models/reference-f16.gguf")),
    ("reference-q8_0.gguf", include_bytes!("../../../examples/models/reference-q8_0.gguf")),
    ("finetuned.gguf", include_bytes!("../../../examples/models/finetuned.gguf")),
    ("truncated.gguf", include_bytes!("../../../examples/models/truncated.gguf")),
];
/// Longest time from dropping the models to the last verdict.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often the daemon is asked.
const POLL: Duration = Duration::from_millis(200);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expectations {
    model: Vec<Expected>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    file: String,
    reference: String,
    expected: String,
    why: String,
}

/// What came out for one model.
#[derive(Debug, Clone)]
struct Outcome {
    verdict: String,
    reason: String,
    assay: Option<String>,
}

pub fn run(args: &Args) -> Result<u8, Problem> {
    let started = Instant::now();
    let expectations: Expectations = toml::from_str(EXPECTATIONS)
        .map_err(|error| Problem::internal(format!("the bundled expectations are broken: {error}")))?;
    let folder = workplace(args.keep.as_deref())?;
    let watched = folder.join("models");
    let trusted = folder.join("trusted");
    let config = write_configuration(&folder, &watched, &trusted, &expectations)?;
    let overrides = Overrides { config: Some(config), ..Overrides::default() };
    let config = config::load(&overrides, &|_| None)?;
    let parts = Parts::real(&config)?;
    let daemon = app::spawn(config, parts)?;
    let address = format!("http://{}", daemon.ready.address);
    let result = judge(&address, &watched, &expectations);
    let result = result.and_then(|outcomes| {
        let reports = save_reports(&address, &folder, &outcomes)?;
        screen::print(&table(&expectations, &outcomes, &reports))?;
        let right = expectations
            .model
            .iter()
            .all(|model| outcomes.get(&model.file).is_some_and(|outcome| outcome.verdict == model.expected));
        let verdicts =
            if right { "every verdict is the expected one" } else { "NOT every verdict is the expected one" };
        screen::print(&format!(
            "{verdicts}; {:.1} s in all\nreports    {}\ndashboard  {address}\n",
            started.elapsed().as_secs_f64(),
            screen::shown_path(&folder.join("reports"))
        ))?;
        if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
            screen::print("The daemon goes on until you press Enter.\n")?;
            let _ = std::io::stdin().read_line(&mut String::new());
        }
        Ok(u8::from(!right))
    });
    let stopped = daemon.stop();
    if args.keep.is_none() {
        // The reports stay, because their paths were printed.
        for part in [watched, trusted, folder.join("state")] {
            let _ = std::fs::remove_dir_all(part);
        }
    }
    let code = result?;
    stopped?;
    Ok(code)
}

/// The folder to work in: the user's, which must be empty or new, or a fresh temporary one.
fn workplace(keep: Option<&Path>) -> Result<PathBuf, Problem> {
    let folder = match keep {
        Some(folder) => {
            std::fs::create_dir_all(folder).map_err(|error| Problem::io("create", folder, &error))?;
            let mut entries =
                std::fs::read_dir(folder).map_err(|error| Problem::io("list", folder, &error))?;
            if entries.next().is_some() {
                return Err(Problem::usage(format!("{} is not empty", folder.display()))
                    .hint("give --keep a new folder, so that nothing of yours is touched"));
            }
            folder.to_owned()
        }
        None => tempfile::Builder::new()
            .prefix("assayd-demo-")
            .tempdir()
            .map_err(|error| Problem::io("create a folder in", &std::env::temp_dir(), &error))?
            .keep(),
    };
    std::path::absolute(&folder).map_err(|error| Problem::io("resolve", &folder, &error))
}

/// Folders, the trusted reference, and a configuration that names it for each model.
fn write_configuration(
    folder: &Path,
    watched: &Path,
    trusted: &Path,
    expectations: &Expectations,
) -> Result<PathBuf, Problem> {
    for part in [watched, trusted] {
        std::fs::create_dir_all(part).map_err(|error| Problem::io("create", part, &error))?;
    }
    let mut rules = String::new();
    let mut references: Vec<&str> = Vec::new();
    for model in &expectations.model {
        let reference = trusted.join(&model.reference);
        let rule = toml::toml! {
            match = "PLACEHOLDER"
            reference = "PLACEHOLDER"
        };
        let mut rule = rule;
        rule.insert("match".to_owned(), model.file.clone().into());
        rule.insert("reference".to_owned(), reference.display().to_string().into());
        rules.push_str(&format!("\n[[rule]]\n{rule}"));
        if !references.contains(&model.reference.as_str()) {
            write_model(trusted, &model.reference)?;
            references.push(&model.reference);
        }
    }
    let path = folder.join("assayd.toml");
    let text = format!(
        "models = [\"models\"]\nstate = \"state\"\nlisten = \"127.0.0.1:0\"\nsettle_seconds = 1.0\nmode = \"audit\"\n{rules}"
    );
    std::fs::write(&path, text).map_err(|error| Problem::io("write", &path, &error))?;
    Ok(path)
}

fn write_model(folder: &Path, name: &str) -> Result<(), Problem> {
    let (_, bytes) = MODELS
        .iter()
        .find(|(bundled, _)| *bundled == name)
        .ok_or_else(|| Problem::internal(format!("no bundled model is called {name}")))?;
    let path = folder.join(name);
    std::fs::write(&path, bytes).map_err(|error| Problem::io("write", &path, &error))
}

/// Drops the models into the watched folder and waits until each has an outcome.
fn judge(
    address: &str,
    watched: &Path,
    expectations: &Expectations,
) -> Result<BTreeMap<String, Outcome>, Problem> {
    for model in &expectations.model {
        write_model(watched, &model.file)?;
    }
    let bar = Bar::new("judging the example models");
    let deadline = Instant::now() + PATIENCE;
    let mut outcomes = BTreeMap::new();
    while outcomes.len() < expectations.model.len() {
        if Instant::now() > deadline {
            return Err(Problem::machine(format!(
                "only {} of {} models were judged in {} s",
                outcomes.len(),
                expectations.model.len(),
                PATIENCE.as_secs()
            ))
            .hint("see what they wait for with --keep DIR and `assayd serve --config DIR/assayd.toml`"));
        }
        std::thread::sleep(POLL);
        outcomes = look(address)?;
        bar.set(outcomes.len() as f64 / expectations.model.len() as f64);
    }
    Ok(outcomes)
}

/// What the daemon says of each file that it is done with.
fn look(address: &str) -> Result<BTreeMap<String, Outcome>, Problem> {
    let mut outcomes = BTreeMap::new();
    let artifacts = get_json(&format!("{address}/api/artifacts"))?;
    for artifact in list(&artifacts, "artifacts") {
        if text(artifact, "/status") == "reject" {
            let finding = artifact.pointer("/inspection/findings/0");
            let reason = finding.map(|finding| text(finding, "/message")).unwrap_or_default();
            let outcome = Outcome { verdict: "REJECT".to_owned(), reason, assay: None };
            outcomes.insert(text(artifact, "/name"), outcome);
        }
    }
    let assays = get_json(&format!("{address}/api/assays"))?;
    for assay in list(&assays, "assays") {
        let name =
            Path::new(&text(assay, "/candidate")).file_name().map(|name| name.to_string_lossy().into_owned());
        let (Some(name), "done" | "failed" | "cancelled") = (name, text(assay, "/state").as_str()) else {
            continue;
        };
        if outcomes.contains_key(&name) {
            continue;
        }
        let id = text(assay, "/id");
        let verdict = match text(assay, "/decision") {
            decision if decision.is_empty() => "ERROR".to_owned(),
            decision => decision,
        };
        let reason = match text(assay, "/error") {
            error if error.is_empty() => {
                reason_of(&get_json(&format!("{address}/api/assays/{id}/report?format=json"))?)
            }
            error => error,
        };
        outcomes.insert(name, Outcome { verdict, reason, assay: Some(id) });
    }
    Ok(outcomes)
}

/// The numbers behind a verdict, in a few words.
fn reason_of(report: &Value) -> String {
    let number = |pointer: &str| report.pointer(&format!("/enhanced_diff/{pointer}")).and_then(Value::as_f64);
    match (number("mean_diff"), number("n_effective"), number("clip_nats")) {
        (Some(mean), Some(n), Some(clip)) => {
            format!("mean divergence {:.6} of {clip} nats over {n} challenges", mean * clip)
        }
        _ => "n/a".to_owned(),
    }
}

fn save_reports(
    address: &str,
    folder: &Path,
    outcomes: &BTreeMap<String, Outcome>,
) -> Result<BTreeMap<String, PathBuf>, Problem> {
    let reports = folder.join("reports");
    std::fs::create_dir_all(&reports).map_err(|error| Problem::io("create", &reports, &error))?;
    let mut paths = BTreeMap::new();
    for (name, outcome) in outcomes {
        let Some(id) = &outcome.assay else { continue };
        for (format, ending) in [("json", "json"), ("html", "html")] {
            let body = get(&format!("{address}/api/assays/{id}/report?format={format}"))?;
            let path = reports.join(format!("{name}.{ending}"));
            std::fs::write(&path, body).map_err(|error| Problem::io("write", &path, &error))?;
            paths.insert(name.clone(), path);
        }
    }
    Ok(paths)
}

fn table(
    expectations: &Expectations,
    outcomes: &BTreeMap<String, Outcome>,
    reports: &BTreeMap<String, PathBuf>,
) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED);
    table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
    // Elsewhere than on a terminal there is no width to ask for.
    if !std::io::stdout().is_terminal() {
        table.set_width(120);
    }
    table.set_header(["model", "what it is", "expected", "verdict", "why", "report"]);
    for model in &expectations.model {
        let outcome = outcomes.get(&model.file);
        let verdict = outcome.map_or("n/a", |outcome| outcome.verdict.as_str());
        let report = reports.get(&model.file).and_then(|path| path.file_name());
        table.add_row([
            model.file.clone(),
            model.why.clone(),
            model.expected.clone(),
            if verdict == model.expected { verdict.to_owned() } else { format!("{verdict}  (!)") },
            outcome.map_or_else(|| "n/a".to_owned(), |outcome| screen::shown(&outcome.reason)),
            report.map_or_else(|| "n/a".to_owned(), |name| name.to_string_lossy().into_owned()),
        ]);
    }
    format!("{table}\n")
}

fn get_json(url: &str) -> Result<Value, Problem> {
    serde_json::from_str(&get(url)?)
        .map_err(|error| Problem::internal(format!("{url} answered no JSON: {error}")))
}

/// A bounded GET from our own daemon.
fn get(url: &str) -> Result<String, Problem> {
    let failed = |error: ureq::Error| Problem::machine(format!("{url}: {error}"));
    let mut answer = ureq::get(url)
        .config()
        .timeout_global(Some(Duration::from_secs(30)))
        .proxy(None)
        .build()
        .call()
        .map_err(failed)?;
    answer.body_mut().with_config().limit(budget::REPORT_BYTES as u64).read_to_string().map_err(failed)
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_expected_model_and_its_reference_is_bundled() {
        let expectations: Expectations = toml::from_str(EXPECTATIONS).unwrap();
        let bundled: Vec<&str> = MODELS.iter().map(|(name, _)| *name).collect();
        for model in &expectations.model {
            assert!(bundled.contains(&model.file.as_str()), "{}", model.file);
            assert!(bundled.contains(&model.reference.as_str()), "{}", model.reference);
            assert!(["SAME", "DIFFERENT", "REJECT"].contains(&model.expected.as_str()));
        }
        let bytes: usize = MODELS.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(bytes <= 12 << 20, "{bytes} bytes of examples");
    }
}
