//! The daemon as a whole, with parts of the tests' own: real sockets, real files, a real
//! database, but a reader of models and an assay that do as the test says.

mod flow;
mod http;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::config::{Overrides, load};
use super::*;
use crate::api::testing::{Answer, events, get, post, send, wait};
use crate::api::{Progress, Rendered};
use crate::digest::sha256_parts;
use crate::domain::Problem;
use crate::domain::inspection::{ArtifactKind, FileRecord, Finding, Inspection, Severity};
use crate::store::{Change, Store};
use crate::watch::{Found, Listing};

/// Folders of a daemon, and what its assay does.
struct House {
    dir: TempDir,
    /// The assay runs until this is true.
    go: Arc<AtomicBool>,
    runs: Arc<AtomicUsize>,
}

impl House {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("models")).unwrap();
        Self { dir, go: Arc::new(AtomicBool::new(true)), runs: Arc::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    fn drop_in(&self, name: &str, content: &str) {
        fs::write(self.path("models").join(name), content).unwrap();
    }

    fn start(&self, config: &str) -> Running {
        self.try_start(config).unwrap()
    }

    fn try_start(&self, config: &str) -> Result<Running, Problem> {
        let file = self.path("config.toml");
        let listen = if config.contains("listen =") { "" } else { "listen = \"127.0.0.1:0\"\n" };
        let measure = if config.contains("measure =") { "" } else { "measure = false\n" };
        let text = format!(
            "models = [\"models\"]\nstate = \"state\"\nsettle_seconds = 0.3\n{listen}{measure}{config}"
        );
        fs::write(&file, text).unwrap();
        let config = load(&Overrides { config: Some(file), ..Overrides::default() }, &|_| None)?;
        spawn(config, self.parts())
    }

    fn parts(&self) -> Parts {
        let (go, runs, finish) = (self.go.clone(), self.runs.clone(), self.go.clone());
        Parts {
            discover: Arc::new(list),
            inspect: Arc::new(move |path, progress| {
                progress(1, 2);
                let inspection = read(path);
                while path.ends_with("slow.gguf") && !finish.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(5));
                }
                inspection
            }),
            check: Arc::new(|request: Value| match request["scorer"].as_str() {
                Some("nonsense") => Err(Problem::usage("there is no scorer called nonsense")),
                _ => Ok(request),
            }),
            assay: Arc::new(move |_, request, cancel, tell| {
                runs.fetch_add(1, Ordering::SeqCst);
                let message = Some("half <way>".to_owned());
                tell(Progress { stage: "candidate".to_owned(), done: 1, total: 2, message });
                while !go.load(Ordering::SeqCst) && !cancel.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(5));
                }
                if cancel.load(Ordering::SeqCst) {
                    return Err(Problem::machine("cancelled"));
                }
                if request["candidate"].as_str().unwrap().contains("panics") {
                    panic!("as the test wants it");
                }
                let report =
                    json!({"schema": "assayd.report/1", "final_decision": "SAME", "request": request});
                Ok(Ended { report: report.to_string(), decision: "SAME".to_owned(), error: None })
            }),
            render: Arc::new(|format, report| match format {
                "html" => {
                    Ok(Rendered { media_type: "text/html".to_owned(), body: report.as_bytes().to_vec() })
                }
                _ => Err(Problem::usage(format!("there is no report format {format}"))),
            }),
            list_plugins: Arc::new(|| json!([{"id": "kl"}])),
        }
    }
}

fn list(folder: &Path) -> Result<Listing, Problem> {
    let mut listing = Listing::default();
    let entries = fs::read_dir(folder).map_err(|error| Problem::io("list", folder, &error))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.extension().is_some_and(|extension| extension == "gguf") {
            listing.found.push(Found { path: path.clone(), files: vec![path], missing: Vec::new() });
        } else {
            listing.ignored.push((path, "no model".to_owned()));
        }
    }
    Ok(listing)
}

fn read(path: &Path) -> Result<Inspection, Problem> {
    let text = fs::read_to_string(path).map_err(|error| Problem::io("read", path, &error))?;
    let mut findings = Vec::new();
    if text.contains("BAD") {
        findings.push(Finding {
            code: "truncated".to_owned(),
            severity: Severity::Error,
            message: "<script>alert(1)</script>".to_owned(),
            part: None,
            tensor: None,
            offset: None,
        });
    }
    Ok(Inspection {
        path: path.to_owned(),
        kind: ArtifactKind::Gguf,
        status: Inspection::status_of(&findings),
        findings,
        format_version: Some(3),
        architecture: Some("<b>llama</b>".to_owned()),
        parameters: Some(7_240_000_000),
        quantization: None,
        context_length: None,
        tensors: None,
        files: vec![FileRecord {
            path: path.to_owned(),
            bytes: text.len() as u64,
            sha256: Some(sha256_parts(&[text.as_bytes()])),
        }],
        merkle_root: None,
        digests: Default::default(),
        config_hash: None,
        tokenizer_hash: None,
    })
}

const RULE: &str = "[[rule]]\nmatch = \"cand*.gguf\"\nreference = \"models/ref.gguf\"\nmode = \"quick\"\n";

fn artifact(address: SocketAddr, name: &str) -> Option<Value> {
    let list = get(address, "/api/artifacts").json();
    list["artifacts"].as_array().unwrap().iter().find(|artifact| artifact["name"] == name).cloned()
}

fn inspected(address: SocketAddr, name: &str) -> Value {
    wait(name, || artifact(address, name).filter(|artifact| artifact["state"] == "inspected"))
}

fn assays(address: SocketAddr) -> Vec<Value> {
    get(address, "/api/assays").json()["assays"].as_array().unwrap().clone()
}

fn in_state(address: SocketAddr, id: &str, state: &str) -> Value {
    wait(state, || {
        Some(get(address, &format!("/api/assays/{id}")).json()).filter(|assay| assay["state"] == state)
    })
}

fn id(answer: &Answer) -> String {
    answer.json()["id"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}
