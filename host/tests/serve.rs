//! `assayd serve` through the real binary and real sockets.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot go on must stop"
)]

#[path = "serve/chat.rs"]
mod chat;
#[path = "serve/completions.rs"]
mod completions;
#[path = "serve/folders.rs"]
mod folders;
#[path = "../src/api/testing.rs"]
mod http;
#[path = "serve/remote.rs"]
mod remote;
#[path = "serve/resume.rs"]
mod resume;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use assayd::challenge::{Challenge, ChallengeSet, Judging, Key, Plan, Prompt};
use assayd::engine::{EngineKind, LoadSpec};
use assayd::worker::{Worker, WorkerLimits};
use http::{Sent, events, get, post, send, wait};
use serde_json::{Value, json};

/// A daemon that is killed when the test ends.
struct Daemon {
    child: Child,
    address: SocketAddr,
    greeting: String,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    fn stop(mut self) -> i32 {
        signal(self.child.id(), "TERM");
        let ended = wait("the end", || self.child.try_wait().unwrap());
        ended.code().unwrap_or(-1)
    }
}

fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success());
}

fn command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_assayd"));
    command.current_dir(dir).env("HOME", dir).env_remove("XDG_CONFIG_HOME").env_remove("XDG_STATE_HOME");
    command.env_remove("XDG_DATA_HOME").env("ASSAYD_LOG", "info");
    command
}

/// A folder with `models/` and a configuration that settles quickly.
fn house(config: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("models")).unwrap();
    let text = format!(
        "listen = \"127.0.0.1:0\"\nstate = \"state\"\nmodels = [\"models\"]\nsettle_seconds = 1.5\n{config}"
    );
    fs::write(dir.path().join("assayd.toml"), text).unwrap();
    dir
}

fn start(dir: &Path) -> Daemon {
    start_as(dir, command(dir).args(["serve", "--config", "assayd.toml"]))
}

fn start_as(dir: &Path, command: &mut Command) -> Daemon {
    let log = fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
    let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut greeting = String::new();
    while let Some(Ok(line)) = lines.next() {
        greeting.push_str(&line);
        greeting.push('\n');
        if line.contains("Ctrl-C") {
            break;
        }
    }
    let said = greeting.split("http://").nth(1).and_then(|rest| rest.split_whitespace().next());
    let Some(address) = said else { panic!("{greeting}\n{}", fs::read_to_string(dir.join("log")).unwrap()) };
    Daemon { child, address: address.parse().unwrap(), greeting }
}

fn fails(dir: &Path, args: &[&str]) -> (i32, String) {
    let Output { status, stderr, .. } = command(dir).args(args).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stderr).unwrap())
}

fn artifact(address: SocketAddr, name: &str) -> Option<Value> {
    let list = get(address, "/api/artifacts").json();
    let list = list.get("artifacts").unwrap().as_array().unwrap();
    list.iter().find(|artifact| artifact.get("name").unwrap() == name).cloned()
}

fn inspected(address: SocketAddr, name: &str) -> Value {
    wait(name, || artifact(address, name).filter(|artifact| artifact.get("state").unwrap() == "inspected"))
}

/// The head of a GGUF file of version 3 that promises more than it holds.
fn truncated_gguf() -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend(5u64.to_le_bytes());
    bytes.extend(7u64.to_le_bytes());
    bytes
}

#[test]
fn bad_files_are_shown_as_what_they_are_and_a_growing_one_is_left_until_it_settles() {
    let dir = house("");
    let models = dir.path().join("models");
    let daemon = start(dir.path());
    let address = daemon.address;
    assert_eq!(get(address, "/health").json()["status"], "ok");
    assert!(daemon.greeting.contains("watches") && daemon.greeting.contains("models"), "{}", daemon.greeting);

    fs::write(models.join("cut.gguf"), truncated_gguf()).unwrap();
    fs::write(models.join("empty.gguf"), b"").unwrap();
    fs::write(models.join("foreign.gguf"), b"#!/bin/sh\nexit 0\n".repeat(40)).unwrap();
    fs::write(models.join("later.gguf.part"), truncated_gguf()).unwrap();
    fs::write(models.join("set-00002-of-00003.gguf"), truncated_gguf()).unwrap();
    for name in ["cut.gguf", "empty.gguf", "foreign.gguf"] {
        let found = inspected(address, name);
        assert_eq!(found["status"], "reject", "{found}");
        assert!(!found["inspection"]["findings"].as_array().unwrap().is_empty());
        assert!(found["note"].is_string(), "it says why it is not compared");
    }
    let part = artifact(address, "later.gguf.part").unwrap();
    assert_eq!(part["state"], "ignored", "{part}");
    let set = artifact(address, "set-00002-of-00003.gguf").unwrap();
    assert_eq!(set["state"], "waiting", "{set}");
    let note = set["note"].as_str().unwrap();
    assert!(note.contains("set-00001-of-00003.gguf") && note.contains("set-00003-of-00003.gguf"), "{note}");

    // Written in pieces for longer than the settling time, with shorter pauses.
    let path = models.join("growing.gguf");
    let mut file = fs::File::create(&path).unwrap();
    for _ in 0..8 {
        file.write_all(&[7; 1000]).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        if let Some(growing) = artifact(address, "growing.gguf") {
            assert_eq!(growing["state"], "waiting", "{growing}");
        }
    }
    drop(file);
    let grown = inspected(address, "growing.gguf");
    assert_eq!(grown["bytes"], 8000, "taken when it was whole");
    fs::remove_file(&path).unwrap();
    wait("it to go", || artifact(address, "growing.gguf").is_none().then_some(()));

    let page = get(address, "/").body;
    assert!(page.contains("cut.gguf") && page.contains("rejected"));
    assert_eq!(get(address, "/v1/models").json()["data"], json!([]));
    let metrics = get(address, "/metrics").body;
    assert!(metrics.contains("assayd_job_total{kind=\"inspection\",outcome=\"reject\"} 4"), "{metrics}");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn what_was_told_survives_a_kill() {
    let dir = house("");
    let models = dir.path().join("models");
    fs::write(models.join("cut.gguf"), truncated_gguf()).unwrap();
    let mut daemon = start(dir.path());
    let first = inspected(daemon.address, "cut.gguf");
    let queued: Vec<String> = (0..5)
        .map(|_| {
            let body = json!({"candidate": "cut.gguf", "reference": "cut.gguf", "mode": "quick"});
            let answer = post(daemon.address, "/api/assays", &body);
            assert_eq!(answer.status, 202, "{answer:?}");
            assert!(answer.header("location").starts_with("/api/assays/"), "{answer:?}");
            answer.json()["id"].as_str().unwrap().to_owned()
        })
        .collect();
    let seen = |list: &[Sent]| list.iter().filter(|sent| sent.kind == "assay.queued").count() == 5;
    let told: Vec<Sent> = events(daemon.address, &["Last-Event-ID: 0"], seen);
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    let daemon = start(dir.path());
    let retold = events(daemon.address, &["Last-Event-ID: 0"], |list| list.len() == told.len());
    let stored = |list: Vec<Sent>| list.into_iter().filter(|sent| !sent.id.is_empty()).collect::<Vec<_>>();
    assert_eq!(stored(retold), stored(told), "every event that was told is still on record");
    for id in &queued {
        wait("the end of an assay", || {
            let assay = get(daemon.address, &format!("/api/assays/{id}")).json();
            ["done", "failed"].contains(&assay["state"].as_str()?).then_some(())
        });
    }
    let again = inspected(daemon.address, "cut.gguf");
    assert_eq!(again["id"], first["id"]);
    assert_eq!(again["inspection"], first["inspection"], "nothing had to be read again");
    assert_eq!(daemon.stop(), 0);
}

/// A limit on the size of files stands for the full disk: writes fail at the same place, and
/// it can be lifted from outside.
#[test]
fn a_full_disk_loses_nothing_and_is_told() {
    let dir = house("");
    let models = dir.path().join("models");
    let mut limited = Command::new("sh");
    let limit = "trap '' XFSZ; ulimit -S -f 256; exec \"$0\" serve --config assayd.toml";
    limited.current_dir(dir.path()).args(["-c", limit, env!("CARGO_BIN_EXE_assayd")]);
    let mut daemon = start_as(dir.path(), &mut limited);
    let address = daemon.address;
    for number in 0..40 {
        fs::write(models.join(format!("cut-{number}.gguf")), truncated_gguf()).unwrap();
    }
    let ill =
        wait("the disk to be full", || Some(get(address, "/health")).filter(|health| health.status == 503));
    assert_eq!(ill.json()["status"], "degraded", "{ill:?}");
    assert!(get(address, "/").body.contains("cannot be written"));
    let body = json!({"candidate": "cut-1.gguf"});
    let refused = post(address, "/api/assays", &body);
    assert_eq!(refused.status, 503, "nothing is promised that cannot be kept: {refused:?}");
    let told = get(address, "/api/artifacts").json();
    let lift = ["--pid", &daemon.child.id().to_string(), "--fsize=unlimited"];
    assert!(Command::new("prlimit").args(lift).status().unwrap().success());
    wait("it to be well again", || (get(address, "/health").status == 200).then_some(()));
    for number in 0..40 {
        inspected(address, &format!("cut-{number}.gguf"));
    }
    assert!(told["artifacts"].as_array().unwrap().len() < 40, "the disk was full in the middle of it");
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    assert_eq!(on_record(dir.path()), 40, "what was told is on disk");
}

/// The bundle of a judged assay is served from disk, whole, and verifies; the oldest go when
/// the space is used up; an assay without a verdict has none.
#[test]
fn a_judged_assay_keeps_its_bundle_within_the_space_there_is() {
    let dir = house("bundles = \"6MiB\"\n");
    let models = dir.path().join("models");
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("examples/models");
    for name in ["reference", "finetuned", "truncated"] {
        let name = format!("{name}.gguf");
        fs::copy(examples.join(&name), models.join(&name)).unwrap();
    }
    let daemon = start(dir.path());
    let address = daemon.address;
    let judged = |candidate: &str| {
        let body = json!({"candidate": candidate, "reference": "reference.gguf", "mode": "quick"});
        let made = post(address, "/api/assays", &body);
        assert_eq!(made.status, 202, "{made:?}");
        let id = made.json()["id"].as_str().unwrap().to_owned();
        wait("the verdict", || {
            let assay = get(address, &format!("/api/assays/{id}")).json();
            (assay["state"] == "done").then_some(())
        });
        id
    };
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(judged("finetuned.gguf"));
    }
    let bundle = |id: &str| {
        let (head, body) = raw(address, &format!("/api/assays/{id}/bundle"));
        (head.split(' ').nth(1).unwrap().to_owned(), head, body)
    };
    // Each takes some 2.6 MiB: two fit.
    assert_eq!(bundle(&ids[0]).0, "404");
    for id in &ids[1..] {
        let (status, head, body) = bundle(id);
        assert_eq!(status, "200", "{head}");
        assert!(head.to_lowercase().contains(&format!("content-length: {}", body.len())), "{head}");
        fs::write(dir.path().join("b"), &body).unwrap();
        let verified = command(dir.path()).args(["bundle", "verify", "b", "--json"]).output().unwrap();
        let found: Value = serde_json::from_slice(&verified.stdout).unwrap();
        assert_eq!(verified.status.code(), Some(0), "{found:#}");
        let report = get(address, &format!("/api/assays/{id}/report")).json();
        assert_eq!(
            (&found["verdict"], &found["n"]),
            (&report["final_decision"], &report["enhanced_diff"]["n_effective"])
        );
        assert_eq!(found["transcript_root"], report["provenance"]["transcript_root"]);
    }
    assert_eq!(bundle(&judged("truncated.gguf")).0, "404");
    assert_eq!(bundle("00000000-0000-7000-8000-000000000000").0, "404");
    assert_eq!(get(address, &format!("/api/assays/{}/bundle?x=1", ids[2])).status, 400);
    let kept = fs::read_dir(dir.path().join("state/bundles")).unwrap().count();
    assert_eq!(kept, 2, "and nothing half-written");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn candidates_are_held_to_what_the_configuration_a_sidecar_and_a_request_pin() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models");
    let digest = |name: &str| assayd::digest::sha256(&fs::read(examples.join(name)).unwrap()).to_string();
    let (good, bad) = (digest("reference-q8_0.gguf"), digest("finetuned.gguf"));
    let dir = house(&format!(
        "mode = \"quick\"\nmeasure = false\n[hash_checks.allow-list]\ndigests = [\"{good}\"]\n\
         [[rule]]\nmatch = \"ruled*.gguf\"\nreference = \"trusted.gguf\"\n"
    ));
    let models = dir.path().join("models");
    fs::copy(examples.join("reference.gguf"), dir.path().join("trusted.gguf")).unwrap();
    let daemon = start(dir.path());
    let address = daemon.address;
    for (name, root) in [("sided.gguf", "11".repeat(32)), ("wrong.gguf", "00".to_owned())] {
        let pin =
            format!("reference = \"../trusted.gguf\"\n[hash_checks.root-pin]\nweights_root = \"{root}\"\n");
        fs::write(models.join(format!("{name}.assay.toml")), pin).unwrap();
        fs::copy(examples.join("reference-q8_0.gguf"), models.join(name)).unwrap();
    }
    fs::copy(examples.join("reference-q8_0.gguf"), models.join("ruled.gguf")).unwrap();
    fs::copy(examples.join("finetuned.gguf"), models.join("ruled-bad.gguf")).unwrap();
    let done = |count: usize| {
        wait("the reports", || {
            let list = get(address, "/api/assays").json()["assays"].as_array().unwrap().clone();
            (list.len() == count && list.iter().all(|assay| assay["state"] == "done")).then_some(list)
        })
    };
    let judged: std::collections::BTreeMap<String, (String, Value)> = done(3)
        .iter()
        .map(|assay| {
            let name = assay["candidate"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
            let report = get(address, assay["report"].as_str().unwrap()).json();
            (name, (assay["decision"].as_str().unwrap().to_owned(), report))
        })
        .collect();
    let of = |name: &str| {
        let (decision, report) = &judged[name];
        let results = report["security"]["hash_checks"].as_array().unwrap();
        let list: Vec<(&str, &str)> = results
            .iter()
            .map(|result| (result["plugin"].as_str().unwrap(), result["outcome"].as_str().unwrap()))
            .collect();
        (decision.as_str(), list)
    };
    assert_eq!(of("ruled.gguf"), ("SAME", vec![("allow-list", "Passed")]));
    assert_eq!(of("ruled-bad.gguf"), ("ERROR", vec![("allow-list", "Failed")]));
    assert_eq!(of("sided.gguf"), ("ERROR", vec![("allow-list", "Passed"), ("root-pin", "Failed")]));
    let note = wait("a note", || {
        let note = artifact(address, "wrong.gguf")?["note"].as_str()?.to_owned();
        note.contains("root-pin").then_some(note)
    });
    assert!(note.contains("64 hexadecimal digits"), "{note}");

    let ask = |checks: Value| {
        let body = json!({"candidate": "ruled.gguf", "reference": "ruled.gguf", "hash_checks": checks});
        post(address, "/api/assays", &body)
    };
    for (checks, why) in [
        (json!({"allow-list": {"digests": [bad]}}), "already says"),
        (json!({"nothing": {}}), "nothing"),
        (json!({"root-pin": {"root": "x"}}), "unknown field"),
        (json!({"root-pin": 3}), "not a table"),
    ] {
        let answer = ask(checks);
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(answer.body.contains(why), "{answer:?}");
    }
    assert_eq!(ask(json!({"root-pin": {"file_root": "22".repeat(32)}})).status, 202);
    let list = done(4);
    assert_eq!(list.iter().filter(|assay| assay["decision"] == "ERROR").count(), 3);
    assert_eq!(daemon.stop(), 0);

    fs::write(dir.path().join("odd.toml"), "[hash_checks.allow-list]\nallowed = []\n").unwrap();
    let (code, text) = fails(dir.path(), &["serve", "--config", "odd.toml", "--listen", "127.0.0.1:0"]);
    assert!(code == 2 && text.contains("allow-list") && text.contains("allowed"), "{code}: {text}");
}

/// Head and body of an answer that is not text.
fn raw(address: SocketAddr, target: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(stream, "GET {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    (String::from_utf8(bytes[..end].to_vec()).unwrap(), bytes[end..].to_vec())
}

/// Artifacts that a new daemon finds on record before it has looked at a file.
fn on_record(dir: &Path) -> usize {
    let daemon = start(dir);
    let line = daemon.greeting.lines().find(|line| line.contains("on record")).unwrap();
    line.split_whitespace().nth(2).unwrap().parse().unwrap()
}

#[test]
fn a_port_or_a_folder_in_use_and_a_broken_configuration_are_clear_errors() {
    let dir = house("");
    let daemon = start(dir.path());
    let (code, text) = fails(dir.path(), &["serve", "--config", "assayd.toml"]);
    assert_eq!(code, 2, "{text}");
    assert!(
        text.contains("in use by another assayd") && text.contains(&daemon.child.id().to_string()),
        "{text}"
    );

    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap().to_string();
    let (code, text) =
        fails(dir.path(), &["serve", "--config", "assayd.toml", "--listen", &address, "--state", "other"]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains(&address) && text.contains("--listen"), "{text}");

    fs::write(dir.path().join("broken.toml"), "# mine\nlisten = \"127.0.0.1:0\"\nsetle_seconds = 3\n")
        .unwrap();
    let (code, text) = fails(dir.path(), &["serve", "--config", "broken.toml"]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("broken.toml:3") && text.contains("did you mean `settle_seconds`"), "{text}");

    let (code, text) = fails(dir.path(), &["serve", "--models", "nowhere", "--state", "s3"]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("nowhere") && text.contains("mkdir"), "{text}");
    let (code, text) =
        fails(dir.path(), &["serve", "--config", "assayd.toml", "--state", "assayd.toml/state"]);
    assert_ne!(code, 0);
    assert!(text.contains("assayd.toml/state") && text.contains("--state"), "{text}");
    let (code, text) = fails(dir.path(), &["serve", "--listen", "0.0.0.0:0", "--state", "s4"]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("API key"), "{text}");
    assert_eq!(get(daemon.address, "/health").status, 200, "the first one is not disturbed");
}

#[test]
fn hostile_clients_are_answered_or_dropped() {
    let dir = house("");
    let daemon = start(dir.path());
    let address = daemon.address;
    let raw = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    assert!(raw(b"\x16\x03\x01\x02\x00nonsense\r\n\r\n").contains("400"));
    assert!(raw(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").contains("400"), "no Host");
    let long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(200_000));
    assert!(!raw(long.as_bytes()).contains("200 OK"));
    // Half a head, then silence: dropped, and meanwhile everybody else is served.
    let began = Instant::now();
    let slow = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
        stream.write_all(b"GET / HTT").unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    });
    for _ in 0..50 {
        assert_eq!(get(address, "/health").status, 200);
    }
    assert!(!slow.is_finished());
    slow.join().unwrap();
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    let huge = "x".repeat(3 << 20);
    assert_eq!(send(address, "POST", "/api/assays", &[], Some(&huge)).status, 413);
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn it_is_ready_at_once_and_small_when_idle() {
    let dir = house("");
    let began = Instant::now();
    let daemon = start(dir.path());
    assert_eq!(get(daemon.address, "/health").status, 200);
    let ready = began.elapsed();
    // All plugins are listed, which is what an idle daemon with a page open does.
    assert!(!get(daemon.address, "/api/plugins").json()["plugins"].as_array().unwrap().is_empty());
    get(daemon.address, "/");
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    println!("ready after {ready:?}, {kib} KiB resident");
    assert!(kib < 80 << 10, "{kib} KiB resident");
    assert!(ready < Duration::from_secs(5), "ready after {ready:?}; on an idle machine it is well below 1 s");
    signal(daemon.child.id(), "INT");
    let mut daemon = daemon;
    assert!(wait("the end", || daemon.child.try_wait().unwrap()).success(), "Ctrl-C is a graceful stop");
}

#[test]
fn doctor_says_what_there_is() {
    let dir = house("");
    let output = command(dir.path()).args(["doctor", "--json", "--config", "assayd.toml"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["cpu"]["usable_cores"].as_u64().unwrap() >= 1);
    assert!(report["memory"]["total_bytes"].as_u64().unwrap() > 0);
    assert!(report["enforcement"].as_str().unwrap().ends_with("watchdog"), "{report}");
    assert!(report["confinement"].is_string(), "{report}");
    assert_eq!(report["engine"]["name"], "llama.cpp");
    let plugins = report["plugins"].as_array().unwrap();
    assert!(plugins.iter().any(|plugin| plugin["id"] == "kl"), "{plugins:?}");
    assert!(!report["findings"].as_array().unwrap().is_empty());
    let text = command(dir.path()).args(["doctor", "--config", "assayd.toml"]).output().unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    for word in ["processor", "memory", "Landlock ABI", "enforcement", "disk", "engine", "kl"] {
        assert!(text.contains(word), "{word} is not in {text}");
    }
}

/// Drops the example models in: one without a reference is measured, and of those that wait
/// together only the first makes the reference answer.
#[test]
fn a_model_alone_is_measured_and_those_that_wait_together_share_the_references_answers() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models");
    let rule = "[[rule]]\nmatch = \"cand-*.gguf\"\nreference = \"trusted.gguf\"\nmode = \"quick\"\n";
    let dir = house(rule);
    fs::copy(examples.join("reference.gguf"), dir.path().join("trusted.gguf")).unwrap();
    let daemon = start(dir.path());
    let address = daemon.address;
    for (from, to) in [
        ("reference.gguf", "alone.gguf"),
        ("reference.gguf", "cand-0.gguf"),
        ("reference-f16.gguf", "cand-1.gguf"),
        ("reference-q8_0.gguf", "cand-2.gguf"),
        ("finetuned.gguf", "cand-3.gguf"),
    ] {
        fs::copy(examples.join(from), dir.path().join("models").join(to)).unwrap();
    }
    let done = wait("five reports", || {
        let list = get(address, "/api/assays").json();
        let list = list["assays"].as_array().unwrap().clone();
        (list.len() == 5 && list.iter().all(|assay| assay["state"] == "done")).then_some(list)
    });
    let report = |assay: &Value| get(address, assay["report"].as_str().unwrap()).json();
    let (mut commitments, mut reference_runs) = (std::collections::BTreeSet::new(), 0);
    for assay in &done {
        let report = report(assay);
        if assay["reference"].is_null() {
            assert_eq!(assay["decision"], "UNDECIDED");
            let measured = &report["measurement"];
            let perplexity = measured["perplexity"].as_f64().unwrap();
            let (mean_nll, positions) = predicted_apart(&examples.join("reference.gguf"));
            assert_eq!(measured["positions"], positions, "{measured}");
            assert!(
                (measured["mean_nll"].as_f64().unwrap() - mean_nll).abs() < 1e-5,
                "{mean_nll} {measured}"
            );
            assert!((perplexity - mean_nll.exp()).abs() < 1e-4 * perplexity, "{measured}");
            assert!(measured["generate_tokens_per_second"].as_f64().unwrap() > 0.0);
            let note = artifact(address, "alone.gguf").unwrap()["note"].as_str().unwrap().to_owned();
            assert!(note.contains("measured only"), "{note}");
            let card = get(address, &format!("{}?format=card", assay["report"].as_str().unwrap()));
            assert_eq!(card.status, 200);
            assert!(card.body.contains("# alone.gguf: UNDECIDED"), "{}", card.body);
            continue;
        }
        let expected =
            if report["model2"].as_str().unwrap().ends_with("3.gguf") { "DIFFERENT" } else { "SAME" };
        assert_eq!(report["final_decision"], expected, "{report}");
        commitments.insert(report["challenges"]["commitment"].as_str().unwrap().to_owned());
        let workers = report["workers"].as_array().unwrap();
        reference_runs += workers.iter().filter(|worker| worker["role"] == "reference").count();
    }
    // The first to be inspected starts alone; which others wait when the next starts is a
    // matter of timing, but not all of them draw keys of their own.
    assert!(commitments.len() < 4, "{commitments:?}");
    assert_eq!(reference_runs, commitments.len(), "the reference answers once for each key");
    assert_eq!(daemon.stop(), 0);
}

/// Mean negative log-likelihood of the public prompts and the positions behind it, through
/// `assayd logprobs`.
fn predicted_apart(model: &Path) -> (f64, u64) {
    let key = Key::from_hex(&"assayd/measure/1".bytes().map(|b| format!("{b:02x}")).collect::<String>());
    let set = ChallengeSet::<Judging>::generate(&key.unwrap(), Plan::Text, 8).unwrap();
    let text = |challenge: &Challenge| match &challenge.prompt {
        Prompt::Text(text) => text.clone(),
        Prompt::Tokens(_) => panic!("not text"),
    };
    let texts: Vec<String> = set.challenges.iter().map(text).collect();
    let spec = LoadSpec::judged(EngineKind::LlamaCpp, vec![model.to_owned()], 256, 1);
    let program = Some(env!("CARGO_BIN_EXE_assayd").into());
    let limits = WorkerLimits { program, ..WorkerLimits::default() };
    let tokens = Worker::start(&spec, &limits, &mut |_| {}).unwrap().tokenize(&texts, true).unwrap();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("t.json"), json!(tokens).to_string()).unwrap();
    let scored = command(dir.path())
        .args(["logprobs", model.to_str().unwrap(), "--tokens", "t.json", "--portable", "--json"])
        .output()
        .unwrap();
    let scored: Value = serde_json::from_slice(&scored.stdout).unwrap();
    (scored["mean_nll"].as_f64().unwrap(), scored["positions"].as_u64().unwrap())
}
