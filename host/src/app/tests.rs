//! The daemon as a whole, with parts of the tests' own: real sockets, real files, a real
//! database, but a reader of models and an assay that do as the test says.

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
use crate::domain::Problem;
use crate::domain::inspection::{ArtifactKind, Finding, Inspection, Severity};
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
        let text =
            format!("models = [\"models\"]\nstate = \"state\"\nsettle_seconds = 0.3\n{listen}{config}");
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
            assay: Arc::new(move |request, cancel, tell| {
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
        files: Vec::new(),
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

#[test]
fn drop_a_model_in_and_get_a_verdict_once() {
    let house = House::new();
    house.drop_in("cand.gguf", "GOOD");
    house.drop_in("cand-bad.gguf", "BAD");
    house.drop_in("other.gguf", "GOOD");
    house.drop_in("notes.txt", "x");
    let daemon = house.start(RULE);
    let address = daemon.ready.address;
    // Its reference is not there yet: it waits and says so.
    let waiting = wait("its note", || {
        artifact(address, "cand.gguf").filter(|artifact| {
            artifact["note"].as_str().is_some_and(|n| n.contains("waits for its reference"))
        })
    });
    assert_eq!(waiting["status"], "accept");
    house.drop_in("ref.gguf", "GOOD");
    let done = wait("a verdict", || assays(address).into_iter().find(|assay| assay["state"] == "done"));
    assert_eq!(done["decision"], "SAME");
    assert_eq!(done["request"]["mode"], "quick");
    assert_eq!(done["artifact"], artifact(address, "cand.gguf").unwrap()["id"]);
    let report = get(address, done["report"].as_str().unwrap());
    assert_eq!(report.json()["final_decision"], "SAME");

    let bad = inspected(address, "cand-bad.gguf");
    assert_eq!(
        (bad["status"].as_str(), bad["inspection"]["findings"][0]["code"].as_str()),
        (Some("reject"), Some("truncated"))
    );
    assert!(bad["note"].as_str().unwrap().contains("rejected"));
    let other = wait("its note", || artifact(address, "other.gguf").filter(|a| a["note"].is_string()));
    assert!(other["note"].as_str().unwrap().contains("inspected only"));
    let ignored = artifact(address, "notes.txt").unwrap();
    assert_eq!((ignored["state"].as_str(), ignored["note"].as_str()), (Some("ignored"), Some("no model")));
    let models = get(address, "/v1/models").json();
    let names: Vec<&str> =
        models["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(names, ["cand", "other", "ref"], "the rejected one is none");

    // A restart repeats nothing; new bytes do.
    daemon.stop().unwrap();
    let daemon = house.start(RULE);
    let address = daemon.ready.address;
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!((assays(address).len(), house.runs.load(Ordering::SeqCst)), (1, 1));
    house.drop_in("cand.gguf", "GOOD and new");
    wait("the second assay", || Some(assays(address)).filter(|list| list.len() == 2));
    fs::remove_file(house.path("models/other.gguf")).unwrap();
    wait("it to go", || artifact(address, "other.gguf").is_none().then_some(()));
    daemon.stop().unwrap();
}

#[test]
fn a_sidecar_that_comes_later_starts_an_assay_and_a_broken_one_is_shown() {
    let house = House::new();
    house.drop_in("m.gguf", "GOOD");
    fs::write(house.path("trusted.gguf"), "GOOD").unwrap();
    let daemon = house.start("");
    let address = daemon.ready.address;
    inspected(address, "m.gguf");
    house.drop_in("m.gguf.assay.toml", "refrence = \"../trusted.gguf\"");
    wait("the error", || {
        let note = artifact(address, "m.gguf")?["note"].as_str()?.to_owned();
        note.contains("m.gguf.assay.toml:1:1: unknown key `refrence`").then_some(())
    });
    house.drop_in("m.gguf.assay.toml", "reference = \"../trusted.gguf\"");
    let assay = wait("an assay", || assays(address).pop());
    assert_eq!(assay["reference"], house.path("trusted.gguf").to_str().unwrap());
    daemon.stop().unwrap();
}

#[test]
fn what_was_read_of_former_bytes_is_not_taken_for_the_present_ones() {
    let house = House::new();
    house.go.store(false, Ordering::SeqCst);
    house.drop_in("slow.gguf", "GOOD");
    let daemon = house.start("");
    let address = daemon.ready.address;
    let state = |state: &str| {
        wait(state, || artifact(address, "slow.gguf").filter(|artifact| artifact["state"] == state))
    };
    state("inspecting");
    house.drop_in("slow.gguf", "BAD, and longer");
    state("waiting");
    house.go.store(true, Ordering::SeqCst);
    // The result of the good bytes comes now, while the bad ones are there.
    assert_eq!(state("inspected")["status"], "reject");
    let told =
        events(address, &["Last-Event-ID: 0"], |list| list.last().unwrap().kind == "artifact.inspected");
    assert_eq!(told.last().unwrap().data["data"]["status"], "reject", "it was never said to be accepted");
    daemon.stop().unwrap();
}

#[test]
fn requests_that_are_wrong_say_what_is_wrong() {
    let house = House::new();
    house.drop_in("m.gguf", "GOOD");
    let daemon = house.start("");
    let address = daemon.ready.address;
    let none = "00000000-0000-7000-8000-000000000000";
    let huge = format!("{{\"candidate\": \"{}\"}}", "x".repeat(2 << 20));
    let one = &format!("/api/assays/{none}");
    let report = &format!("/api/assays/{none}/report");
    for (method, target, body, status, says) in [
        ("GET", "/nothing", None, 404, "/nothing"),
        ("PUT", "/api/assays", None, 405, "does not take PUT"),
        ("GET", "/health?x=1", None, 400, "`x`"),
        ("GET", "/?x=1", None, 400, "`x`"),
        ("GET", "/v1/models?page=1", None, 400, "`page`"),
        ("GET", "/api/artifacts?stat=inspected", None, 400, "`stat`"),
        ("GET", "/api/artifacts?state=asleep", None, 400, "asleep"),
        ("GET", "/api/artifacts/no-id", None, 404, "no such id"),
        ("GET", "/api/assays?limit=0", None, 400, "limit"),
        ("GET", "/api/assays?limit=many", None, 400, "invalid digit"),
        ("GET", "/api/events?after=x", None, 400, "invalid digit"),
        ("GET", one, None, 404, "assay"),
        ("DELETE", one, None, 404, "assay"),
        ("GET", report, None, 404, "assay"),
        ("POST", "/api/assays", Some("{"), 400, "EOF"),
        ("POST", "/api/assays", Some("{}"), 400, "`candidate`"),
        ("POST", "/api/assays", Some("{\"candidate\": \"m.gguf\", \"temprature\": 1}"), 400, "`temprature`"),
        ("POST", "/api/assays", Some("{\"candidate\": \"m.gguf\", \"mode\": \"hasty\"}"), 400, "hasty"),
        (
            "POST",
            "/api/assays",
            Some("{\"candidate\": \"m.gguf\", \"scorer\": \"nonsense\"}"),
            400,
            "nonsense",
        ),
        ("POST", "/api/assays", Some("{\"candidate\": \"missing.gguf\"}"), 400, "missing.gguf"),
        ("POST", "/api/assays", Some("{\"candidate\": \"../config.toml\"}"), 400, "config.toml"),
        ("POST", "/api/assays?x=1", Some("{\"candidate\": \"m.gguf\"}"), 400, "`x`"),
        ("POST", "/api/assays", Some(&huge), 413, "larger"),
    ] {
        let answer = send(address, method, target, &[], body);
        assert_eq!(answer.status, status, "{method} {target}: {answer:?}");
        assert!(answer.body.contains(says), "{method} {target}: {answer:?}");
        let problem = answer.json();
        if target.starts_with("/v1") {
            assert_eq!(problem["error"]["type"], "invalid_request_error", "{answer:?}");
            assert_eq!(problem["error"]["param"], "page");
        } else {
            assert_eq!(answer.header("content-type"), "application/problem+json", "{answer:?}");
            assert_eq!(problem["status"], status);
        }
    }
    let named = post(address, "/api/assays", &json!({"candidate": "m.gguf", "temprature": 1})).json();
    assert_eq!(named["param"], "temprature");
    let form = send(
        address,
        "POST",
        "/api/assays",
        &["Content-Type: text/plain"],
        Some("{\"candidate\": \"m.gguf\"}"),
    );
    assert_eq!(form.status, 415);
    for headers in [["Host: evil.example"], ["Origin: http://evil.example"], ["Origin: null"]] {
        assert_eq!(send(address, "GET", "/api/assays", &headers, None).status, 403, "{headers:?}");
    }
    assert!(assays(address).is_empty(), "nothing was queued by any of them");
    daemon.stop().unwrap();
}

#[test]
fn assays_are_run_one_by_one_and_can_be_cancelled() {
    let house = House::new();
    house.drop_in("m.gguf", "GOOD");
    house.drop_in("panics.gguf", "GOOD");
    house.go.store(false, Ordering::SeqCst);
    let daemon = house.start("");
    let address = daemon.ready.address;
    let key = "00".repeat(32);
    let first =
        post(address, "/api/assays", &json!({"candidate": "m.gguf", "reference": "m.gguf", "key": key}));
    assert_eq!(first.status, 202);
    let place = first.header("location").to_owned();
    assert_eq!(place, format!("/api/assays/{}", id(&first)));
    assert!(!first.body.contains(&key), "the key is no one's business yet");
    let second = id(&post(address, "/api/assays", &json!({"candidate": "m.gguf"})));
    let third = id(&post(address, "/api/assays", &json!({"candidate": "panics.gguf"})));
    in_state(address, &id(&first), "running");
    wait("progress", || {
        let progress = get(address, &place).json()["progress"].clone();
        (progress == json!({"stage": "candidate", "done": 1, "total": 2, "message": "half <way>"}))
            .then_some(())
    });
    assert_eq!(get(address, &format!("/api/assays/{second}")).json()["state"], "queued");
    assert_eq!(get(address, &format!("{place}/report")).status, 409);
    assert!(get(address, "/").body.contains("<progress value=\"1\" max=\"2\">"));
    let metrics = get(address, "/metrics").body;
    assert!(metrics.contains("\nassayd_queue_depth 2\n"), "{metrics}");

    let cancelled = send(address, "DELETE", &format!("/api/assays/{second}"), &[], None);
    assert_eq!((cancelled.status, cancelled.json()["state"].as_str()), (200, Some("cancelled")));
    assert_eq!(send(address, "DELETE", &format!("/api/assays/{second}"), &[], None).status, 409);
    assert_eq!(send(address, "DELETE", &place, &[], None).status, 202);
    in_state(address, &id(&first), "cancelled");
    assert_eq!(get(address, &format!("{place}/report")).status, 404);
    house.go.store(true, Ordering::SeqCst);
    let failed = in_state(address, &third, "failed");
    assert!(failed["error"].as_str().unwrap().contains("broke off"), "{failed}");
    let fourth = id(&post(address, "/api/assays", &json!({"candidate": house.path("models/m.gguf")})));
    in_state(address, &fourth, "done");
    let metrics = get(address, "/metrics").body;
    for line in [
        "assayd_job_total{kind=\"assay\",outcome=\"same\"} 1",
        "assayd_job_total{kind=\"assay\",outcome=\"cancelled\"} 1",
        "assayd_job_total{kind=\"assay\",outcome=\"failed\"} 1",
        "assayd_queue_depth 0",
        "assayd_http_requests_total{method=\"DELETE\",route=\"/api/assays/{id}\",status=\"202\"} 1",
        "assayd_assay_seconds_count 3",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in {metrics}");
    }
    daemon.stop().unwrap();
}

#[test]
fn a_graceful_stop_puts_the_running_assay_back() {
    let house = House::new();
    house.drop_in("m.gguf", "GOOD");
    house.go.store(false, Ordering::SeqCst);
    let daemon = house.start("");
    let running = id(&post(daemon.ready.address, "/api/assays", &json!({"candidate": "m.gguf"})));
    in_state(daemon.ready.address, &running, "running");
    daemon.stop().unwrap();
    house.go.store(true, Ordering::SeqCst);
    let daemon = house.start("");
    assert_eq!(daemon.ready.unfinished, 1);
    let done = in_state(daemon.ready.address, &running, "done");
    assert_eq!(done["attempts"], 1, "the first start was no failed one");
    assert_eq!(house.runs.load(Ordering::SeqCst), 2);
    daemon.stop().unwrap();
}

#[test]
fn an_assay_that_kills_the_daemon_is_not_started_for_ever() {
    let house = House::new();
    house.drop_in("m.gguf", "GOOD");
    let daemon = house.start("");
    let made = id(&post(daemon.ready.address, "/api/assays", &json!({"candidate": "m.gguf"})));
    in_state(daemon.ready.address, &made, "done");
    daemon.stop().unwrap();
    // What three deaths in a row leave behind.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut store = Store::open(&house.path("state")).await.unwrap();
        let mut assay = store.reader.assay(made.parse().unwrap()).await.unwrap().unwrap();
        assay.state = crate::store::AssayState::Running;
        assay.attempts = 3;
        store.writer.put(&[Change::Assay(&assay, None)]).await.unwrap();
    });
    let daemon = house.start("");
    let failed = in_state(daemon.ready.address, &made, "failed");
    assert!(failed["error"].as_str().unwrap().contains("ended 3 times"), "{failed}");
    assert_eq!(house.runs.load(Ordering::SeqCst), 1);
    daemon.stop().unwrap();
}

#[test]
fn events_are_resumed_without_loss() {
    let house = House::new();
    house.drop_in("m.gguf", "GOOD");
    let daemon = house.start("");
    let address = daemon.ready.address;
    inspected(address, "m.gguf");
    let made = id(&post(address, "/api/assays", &json!({"candidate": "m.gguf"})));
    in_state(address, &made, "done");
    let is_done =
        |list: &[crate::api::testing::Sent]| list.last().is_some_and(|last| last.kind == "assay.done");
    let all = events(address, &["Last-Event-ID: 0"], is_done);
    let kinds: Vec<&str> = all.iter().map(|sent| sent.kind.as_str()).collect();
    let expected = [
        "artifact.waiting",
        "artifact.inspecting",
        "artifact.inspected",
        "assay.queued",
        "assay.running",
        "assay.done",
    ];
    assert_eq!(kinds, expected);
    let numbers: Vec<i64> = all.iter().map(|sent| sent.id.parse().unwrap()).collect();
    assert_eq!(numbers, (1..=6).collect::<Vec<i64>>());
    let rest = events(address, &["Last-Event-ID: 4"], is_done);
    assert_eq!(rest, all[4..]);
    // A number from another life: start anew.
    let reset = events(address, &["Last-Event-ID: 999"], |list| !list.is_empty());
    assert_eq!((reset[0].kind.as_str(), reset[0].id.as_str()), ("reset", "6"));
    // And live.
    let live = std::thread::spawn(move || events(address, &[], is_done));
    std::thread::sleep(Duration::from_millis(300));
    post(address, "/api/assays", &json!({"candidate": "m.gguf"}));
    let live = live.join().unwrap();
    assert_eq!(live[0].id, "7");
    assert!(live.iter().filter(|sent| sent.kind == "assay.progress").all(|sent| sent.id.is_empty()));
    // A stop ends open streams at once.
    let open = std::thread::spawn(move || std::panic::catch_unwind(|| events(address, &[], |_| false)));
    std::thread::sleep(Duration::from_millis(200));
    let began = std::time::Instant::now();
    daemon.stop().unwrap();
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(open.join().unwrap().is_err(), "the stream ended");
}

#[test]
fn the_page_shows_names_as_text_and_allows_nothing_else() {
    let house = House::new();
    house.drop_in("<img src=x onerror=alert(1)>.gguf", "BAD");
    let daemon = house.start("");
    let address = daemon.ready.address;
    inspected(address, "<img src=x onerror=alert(1)>.gguf");
    let page = get(address, "/");
    assert_eq!(page.status, 200);
    for hostile in ["<img", "<script>alert", "<b>llama"] {
        assert!(!page.body.contains(hostile), "{hostile}");
    }
    for shown in ["&#60;img src=x", "rejected", "truncated", "7.24 B"] {
        assert!(page.body.contains(shown), "{shown} in {}", page.body);
    }
    let policy = page.header("content-security-policy");
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert!(
        !page.body.contains("style=") && !page.body.contains("http://"),
        "nothing inline, nothing from elsewhere"
    );
    for (path, media) in
        [("/assets/page.css", "text/css"), ("/assets/page.js", "text/javascript"), ("/docs", "text/html")]
    {
        let answer = get(address, path);
        assert_eq!(answer.status, 200);
        assert!(answer.header("content-type").starts_with(media));
    }
    // A rendered report is a plugin's: it may show itself and nothing more.
    let made = id(&post(address, "/api/assays", &json!({"candidate": house.path("models")})));
    in_state(address, &made, "done");
    let report = get(address, &format!("/api/assays/{made}/report?format=html"));
    assert!(report.header("content-security-policy").contains("sandbox"), "{report:?}");
    assert_eq!(get(address, &format!("/api/assays/{made}/report?format=pdf")).status, 400);
    daemon.stop().unwrap();
}

#[test]
fn an_open_address_wants_the_key_for_everything_but_health() {
    let house = House::new();
    house.drop_in("m.gguf", "GOOD");
    fs::write(house.path("key"), "0123456789abcdef\n").unwrap();
    let daemon = house.start("listen = \"0.0.0.0:0\"\napi_key_file = \"key\"\n");
    let address: SocketAddr = ([127, 0, 0, 1], daemon.ready.address.port()).into();
    assert_eq!(get(address, "/health").status, 200);
    for path in ["/", "/metrics", "/api/artifacts", "/openapi.json", "/nothing"] {
        let refused = get(address, path);
        assert_eq!(refused.status, 401, "{path}");
        assert!(refused.header("www-authenticate").starts_with("Basic"));
        let key = "Authorization: Bearer 0123456789abcdef";
        assert_ne!(send(address, "GET", path, &[key], None).status, 401, "{path}");
    }
    assert_eq!(get(address, "/v1/models").json()["error"]["code"], "invalid_api_key");
    // Others may not have just any file of this machine looked at.
    let key = "Authorization: Bearer 0123456789abcdef";
    let body = json!({"candidate": house.path("key")}).to_string();
    assert_eq!(send(address, "POST", "/api/assays", &[key], Some(&body)).status, 400);
    let body = json!({"candidate": house.path("models/m.gguf")}).to_string();
    assert_eq!(send(address, "POST", "/api/assays", &[key], Some(&body)).status, 202);
    daemon.stop().unwrap();
}

#[test]
fn a_taken_port_and_a_taken_folder_are_told_apart() {
    let house = House::new();
    let daemon = house.start("");
    let again = house.try_start("").unwrap_err();
    assert!(again.message.contains("in use by another assayd"), "{again}");
    let other = House::new();
    let config = format!("listen = \"{}\"\n", daemon.ready.address);
    let taken = other.try_start(&config).unwrap_err();
    assert!(taken.message.contains(&daemon.ready.address.to_string()), "{taken}");
    assert!(taken.hint.unwrap().contains("--listen"));
    daemon.stop().unwrap();
    house.start("").stop().unwrap();
}
