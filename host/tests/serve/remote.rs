//! A model behind an endpoint: another assayd as the real peer, and a hostile one.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::command;
use super::completions::{example, serving};
use super::http::wait;

fn run(dir: &Path, arguments: &[&str]) -> Output {
    command(dir).env("ASSAYD_CACHE", dir.join("cache")).args(arguments).output().unwrap()
}

/// Exit code and report of a verification of an endpoint against the reference.
fn verify(dir: &Path, address: SocketAddr, model: &str, more: &[&str]) -> (i32, Value) {
    verify_url(dir, &format!("http://{address}/v1#{model}"), more, &[])
}

pub fn verify_url(dir: &Path, url: &str, more: &[&str], environment: &[(&str, &Path)]) -> (i32, Value) {
    let reference = example("reference.gguf");
    let mut arguments = vec!["verify", url, "--reference", reference.to_str().unwrap(), "--json"];
    arguments.extend(more);
    if !more.contains(&"--scorer") {
        arguments.extend(["--scorer", "delta-ce"]);
    }
    let mut command = command(dir);
    command.env("ASSAYD_CACHE", dir.join("cache")).envs(environment.iter().copied()).args(&arguments);
    let output = command.output().unwrap();
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code().unwrap(), report)
}

#[test]
fn a_served_model_is_judged_against_a_file() {
    let (dir, daemon) = serving(&["reference.gguf", "finetuned.gguf", "reference-q8_0.gguf"]);
    let dir = dir.path();
    let (code, report) = verify(dir, daemon.address, "reference", &["--bundle", "b", "--mode", "quick"]);
    assert_eq!((code, report["final_decision"].as_str()), (0, Some("SAME")), "{}", report["errors"]);
    let mean = report["enhanced_diff"]["mean_diff"].as_f64().unwrap();
    assert!(mean < 1e-6, "the same model gives the same numbers: {mean}");
    assert_eq!(report["provenance"]["candidate_root"], Value::Null);
    assert_eq!(report["security"]["tokenizer"]["compatible"], Value::Null, "seen, and not known");
    assert!(report["because"].as_str().unwrap().contains("endpoint"), "{}", report["because"]);
    assert!(report["errors"].to_string().contains("an endpoint shows no files"), "{}", report["errors"]);
    let device = report["engine"]["device"].as_str().unwrap();
    assert!(device.ends_with("/v1#reference"), "{device}");
    let checked = run(dir, &["bundle", "verify", "b"]);
    assert_eq!(checked.status.code(), Some(0), "{}", String::from_utf8_lossy(&checked.stdout));
    let (code, report) = verify(dir, daemon.address, "finetuned", &["--mode", "quick"]);
    assert_eq!((code, report["final_decision"].as_str()), (1, Some("DIFFERENT")), "{}", report["errors"]);
    let (code, report) =
        verify(dir, daemon.address, "reference-q8_0", &["--mode", "quick", "--scorer", "top1"]);
    assert_eq!((code, report["final_decision"].as_str()), (0, Some("SAME")), "{}", report["errors"]);

    // Log-probabilities one by one: the endpoint's are the file's.
    let tokens = json!([[1, 333, 271, 283, 300, 17], [1, 20, 21]]);
    std::fs::write(dir.join("t.json"), tokens.to_string()).unwrap();
    let of = |model: &str| {
        let output = run(dir, &["logprobs", model, "--tokens", "t.json", "--json"]);
        serde_json::from_slice::<Value>(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
    };
    let near = of(&format!("http://{}/v1#finetuned", daemon.address));
    let far = of(example("finetuned.gguf").to_str().unwrap());
    let (near_nll, far_nll) = (near["mean_nll"].as_f64().unwrap(), far["mean_nll"].as_f64().unwrap());
    assert!((near_nll - far_nll).abs() < 1e-4, "{near_nll} {far_nll}");
    assert_eq!(near["sequences"][0]["logprobs"].as_array().unwrap().len(), 5);
    assert_eq!(near["engine"]["name"], "remote");
}

#[test]
fn what_an_endpoint_cannot_tell_is_refused_before_it_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let reference = example("reference.gguf");
    let reference = reference.to_str().unwrap();
    let url = "http://127.0.0.1:9/v1#m";
    for (arguments, part) in [
        (vec!["verify", url, "--reference", reference], "needs whole distributions"),
        (vec!["verify", url, "--reference", reference, "--scorer", "tv"], "--scorer delta-ce"),
        (vec!["verify", reference, "--reference", url], "cannot be the reference"),
        (
            vec!["verify", url, "--reference", reference, "--scorer", "delta-ce", "--band", "auto"],
            "--band auto",
        ),
        (vec!["verify", url, "--reference", reference, "--scorer", "delta-ce", "--exact"], "--exact"),
        (
            vec![
                "verify",
                url,
                "--reference",
                reference,
                "--scorer",
                "delta-ce",
                "--hash-check",
                "root-pin={}",
            ],
            "--hash-check needs the candidate's files",
        ),
    ] {
        let output = run(dir.path(), &arguments);
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!([2, 4].contains(&output.status.code().unwrap()), "{arguments:?}: {said}");
        assert!(said.contains(part), "{arguments:?}: {said}");
    }
}

#[test]
fn an_endpoint_that_goes_away_is_lost_and_no_verdict() {
    let (dir, mut daemon) = serving(&["reference.gguf"]);
    let address = daemon.address;
    let judged = std::thread::scope(|scope| {
        let judging = scope.spawn(|| verify(dir.path(), address, "reference", &["--mode", "extended"]));
        // It is asked once it has the model loaded: then it is in the middle.
        wait("the first question", || {
            let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
            log.contains("loaded to be served").then_some(())
        });
        daemon.child.kill().unwrap();
        judging.join().unwrap()
    });
    let (code, report) = judged;
    assert_eq!((code, report["final_decision"].as_str()), (4, Some("ERROR")), "{report}");
    let workers = report["workers"].as_array().unwrap();
    assert_eq!(workers.last().unwrap()["ending"], "REMOTE_LOST", "{workers:?}");
    assert!(report["error"].as_str().unwrap().contains("endpoint"), "{}", report["error"]);
    // And one that never was there.
    let (code, report) = verify(dir.path(), address, "reference", &["--mode", "quick"]);
    assert_eq!(code, 4);
    assert_eq!(report["workers"].as_array().unwrap().last().unwrap()["ending"], "REMOTE_LOST");
}

/// A peer that passes every request on to a real one, and spoils the completions.
struct Hostile {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    keys: Arc<AtomicUsize>,
}

const KEY: &str = "a-key-that-must-not-be-told";

impl Hostile {
    fn start(real: SocketAddr, how: &'static str) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let (asked, keys) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counters = (asked.clone(), keys.clone());
        std::thread::spawn(move || {
            for stream in socket.incoming().flatten() {
                let counters = counters.clone();
                std::thread::spawn(move || serve(stream, real, how, &counters));
            }
        });
        Self { address, asked, keys }
    }
}

/// Head and body of one request.
fn request(stream: &mut impl Read) -> (String, String) {
    let mut bytes = Vec::new();
    let mut one = [0u8; 1];
    while !bytes.ends_with(b"\r\n\r\n") && stream.read(&mut one).unwrap_or(0) == 1 {
        bytes.push(one[0]);
    }
    let head = String::from_utf8(bytes).unwrap();
    let length = head.lines().find_map(|line| {
        line.to_lowercase().strip_prefix("content-length:").map(|n| n.trim().parse().unwrap())
    });
    let mut body = vec![0u8; length.unwrap_or(0)];
    stream.read_exact(&mut body).unwrap();
    (head, String::from_utf8(body).unwrap())
}

pub fn serve(
    mut stream: impl Read + Write,
    real: SocketAddr,
    how: &str,
    (asked, keys): &(Arc<AtomicUsize>, Arc<AtomicUsize>),
) {
    let (head, body) = request(&mut stream);
    keys.fetch_add(usize::from(head.contains(&format!("Bearer {KEY}"))), Ordering::SeqCst);
    let mut words = head.split(' ');
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let body = Some(body.as_str()).filter(|body| !body.is_empty());
    let honest = super::http::send(real, method, path, &[], body);
    let completion = path.ends_with("/completions");
    let count = if completion { asked.fetch_add(1, Ordering::SeqCst) } else { 0 };
    let mut answer = honest.body.clone();
    let mut status = honest.status;
    if completion {
        let mut value: Value = serde_json::from_str(&answer).unwrap_or_default();
        let choices = value["choices"].as_array_mut().map(Vec::as_mut_slice).unwrap_or_default();
        for choice in choices {
            let rows = choice["prompt_logprobs"].as_array_mut().unwrap();
            match how {
                "short" => {
                    rows.pop();
                }
                "positive" => rows
                    .iter_mut()
                    .skip(1)
                    .flat_map(|row| row.as_object_mut().unwrap().values_mut())
                    .for_each(|v| v["logprob"] = json!(0.5)),
                "nan" => rows
                    .iter_mut()
                    .skip(1)
                    .flat_map(|row| row.as_object_mut().unwrap().values_mut())
                    .for_each(|v| v["logprob"] = json!("NaN")),
                "other tokens" => {
                    rows.iter_mut().skip(1).for_each(|row| *row = json!({"0": {"logprob": -1.0}}))
                }
                _ => {}
            }
        }
        answer = value.to_string();
        match how {
            "endless" => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
                let block = [b' '; 65536];
                while stream.write_all(&block).is_ok() {}
                return;
            }
            "not text" => {
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n\xff\xfe");
                return;
            }
            "torn" => answer.truncate(answer.len() / 2),
            // Busy at first, and then it works.
            "busy" if count < 2 => (status, answer) = (429, "{}".to_owned()),
            _ => {}
        }
    }
    if how == "other tokenizer" && path == "/tokenize" {
        answer = json!({"count": 2, "max_model_len": 512, "tokens": [1, 300]}).to_string();
    }
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        answer.len()
    );
    let _ = stream.write_all(format!("{head}{answer}").as_bytes());
}

mod tls;

#[test]
fn a_hostile_endpoint_gives_an_error_and_never_a_number() {
    let (dir, daemon) = serving(&["reference.gguf"]);
    let dir = dir.path();
    for (how, part) in [
        ("short", "log-probabilities for"),
        ("positive", "a log-probability of 0.5"),
        ("nan", "no log-probability"),
        ("other tokens", "about other tokens"),
        ("torn", "no JSON"),
        ("not text", "UTF-8"),
        ("endless", "larger than"),
        ("other tokenizer", "cut"),
    ] {
        let peer = Hostile::start(daemon.address, how);
        let (code, report) = verify(dir, peer.address, "reference", &["--mode", "quick"]);
        assert_eq!((code, report["final_decision"].as_str()), (4, Some("ERROR")), "{how}: {report}");
        assert_eq!(report["enhanced_diff"]["mean_diff"], Value::Null, "{how}");
        let why = format!("{} {}", report["error"], report["errors"]);
        assert!(why.contains(part) && !why.contains("trusted connection"), "{how}: {why}");
    }
    // Busy for a while is no loss; the key goes to the endpoint and nowhere else.
    let peer = Hostile::start(daemon.address, "busy");
    let reference = example("reference.gguf");
    let url = format!("http://{}/v1#reference", peer.address);
    let arguments = [
        "verify",
        &url,
        "--reference",
        reference.to_str().unwrap(),
        "--scorer",
        "delta-ce",
        "--mode",
        "quick",
        "--json",
        "--bundle",
        "keyed",
    ];
    let output = command(dir)
        .env("ASSAYD_CACHE", dir.join("cache"))
        .env("ASSAYD_REMOTE_KEY", KEY)
        .args(arguments)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(peer.asked.load(Ordering::SeqCst) > 2);
    assert!(peer.keys.load(Ordering::SeqCst) > 3, "the key is sent");
    let bundle = std::fs::read(dir.join("keyed")).unwrap();
    let told = [output.stdout, output.stderr, bundle, std::fs::read(dir.join("log")).unwrap()].concat();
    assert!(!told.windows(KEY.len()).any(|part| part == KEY.as_bytes()), "the key is told");
}
