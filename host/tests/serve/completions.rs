//! `/v1/completions` and the tokenizer's endpoints, with the example models.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::http::{Answer, get, post, send, wait};
use super::{Daemon, command, house, inspected, start};

#[expect(dead_code, reason = "each test file uses a part of it")]
#[path = "../processes/mod.rs"]
mod processes;

pub fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models").join(name)
}

/// A daemon that serves these example models.
pub fn serving(names: &[&str]) -> (tempfile::TempDir, Daemon) {
    serving_with("measure = false\n", names)
}

fn serving_with(config: &str, names: &[&str]) -> (tempfile::TempDir, Daemon) {
    let dir = house(config);
    for name in names {
        std::fs::copy(example(name), dir.path().join("models").join(name)).unwrap();
    }
    let daemon = start(dir.path());
    for name in names {
        inspected(daemon.address, name);
    }
    (dir, daemon)
}

fn complete(address: SocketAddr, body: Value) -> Value {
    let answer = post(address, "/v1/completions", &body);
    assert_eq!(answer.status, 200, "{body}: {answer:?}");
    answer.json()
}

/// The natural-log probabilities that the command line tells of these tokens.
fn logprobs(dir: &Path, model: &str, tokens: &[u32]) -> Vec<f64> {
    std::fs::write(dir.join("tokens.json"), json!([tokens]).to_string()).unwrap();
    let model = example(model);
    let arguments = ["logprobs", model.to_str().unwrap(), "--tokens", "tokens.json", "--portable", "--json"];
    let output = command(dir).args(arguments).output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let list = document["sequences"][0]["logprobs"].as_array().unwrap();
    list.iter().map(|value| value.as_f64().unwrap()).collect()
}

fn numbers(list: &Value) -> Vec<Option<f64>> {
    list.as_array().unwrap_or_else(|| panic!("no list: {list}")).iter().map(Value::as_f64).collect()
}

/// How often a daemon loaded a model to be served.
fn loads(dir: &Path) -> usize {
    std::fs::read_to_string(dir.join("log")).unwrap().matches("loaded to be served").count()
}

#[test]
fn one_model_stays_in_memory_until_another_takes_its_place() {
    let (dir, daemon) = serving(&["reference.gguf", "finetuned.gguf"]);
    let (address, pid) = (daemon.address, daemon.child.id());
    let mut seen = Vec::new();
    for (model, loaded) in
        [("reference", 1), ("reference", 1), ("finetuned", 2), ("finetuned", 2), ("reference", 3)]
    {
        complete(address, json!({"model": model, "prompt": "The", "max_tokens": 2}));
        assert_eq!(loads(dir.path()), loaded, "after {model}");
        // The one before is gone, with its memory, before the next is there.
        let workers = processes::children(pid);
        assert_eq!(workers.len(), 1, "{workers:?}");
        seen.extend(workers);
    }
    assert!(seen[0] == seen[1] && seen[2] == seen[3], "the same worker answers again: {seen:?}");
    assert!(seen[1] != seen[2] && seen[3] != seen[4] && seen[0] != seen[4], "{seen:?}");
}

#[test]
fn completions_are_the_models_own_and_their_log_probabilities_those_of_a_judged_run() {
    let (dir, daemon) = serving(&["reference.gguf", "finetuned.gguf", "truncated.gguf"]);
    let address = daemon.address;
    // Scored, not continued: what the command line says of the same tokens.
    let tokens = [1, 333, 271, 283, 300, 17, 400, 23];
    for model in ["reference", "finetuned", "reference"] {
        let body = json!({"model": model, "prompt": tokens, "max_tokens": 0, "echo": true, "logprobs": 3});
        let choice = &complete(address, body)["choices"][0];
        let told = numbers(&choice["logprobs"]["token_logprobs"]);
        assert_eq!((told.len(), told[0]), (tokens.len(), None), "{choice}");
        for (told, known) in told[1..].iter().zip(logprobs(dir.path(), &format!("{model}.gguf"), &tokens)) {
            assert!((told.unwrap() - known).abs() < 1e-4, "{model}: {told:?} {known}");
        }
        for top in &choice["logprobs"]["top_logprobs"].as_array().unwrap()[1..] {
            let top = top.as_object().unwrap();
            assert!((3..=4).contains(&top.len()), "{top:?}");
            assert!(top.values().all(|value| value.as_f64().unwrap() <= 0.0));
        }
        let vllm = json!({"model": model, "prompt": [tokens], "max_tokens": 1, "prompt_logprobs": 1});
        let rows = complete(address, vllm)["choices"][0]["prompt_logprobs"].clone();
        assert_eq!(rows[0], Value::Null);
        for (at, token) in tokens.iter().enumerate().skip(1) {
            let own = &rows[at][token.to_string()];
            assert_eq!(own["logprob"].as_f64(), told[at], "the same pass gives the same number");
            let ranked: Vec<&Value> =
                rows[at].as_object().unwrap().values().filter(|about| about["rank"] == 1).collect();
            assert_eq!(ranked.len(), 1, "{}", rows[at]);
            assert!(ranked[0]["logprob"].as_f64().unwrap() >= own["logprob"].as_f64().unwrap());
        }
    }
    // Continued: greedy, the same every time, alone or beside another.
    let ask = |prompt: Value| json!({"model": "reference", "prompt": prompt, "max_tokens": 24, "temperature": 0, "seed": 7, "logprobs": 0});
    let alone = complete(address, ask(json!("The old king")));
    let text = alone["choices"][0]["text"].as_str().unwrap().to_owned();
    assert_eq!(alone["choices"][0]["finish_reason"], "length");
    assert_eq!(alone["usage"]["completion_tokens"], 24);
    let both = complete(address, ask(json!(["The old king", "A day"])));
    assert_eq!(both["choices"][0]["text"].as_str().unwrap(), text);
    let ids = post(address, "/tokenize", &json!({"model": "reference", "prompt": "The old king"})).json();
    assert_eq!(ids["count"].as_u64().unwrap() as usize, ids["tokens"].as_array().unwrap().len());
    let by_ids = complete(address, ask(ids["tokens"].clone()));
    assert_eq!(by_ids["choices"][0]["text"].as_str().unwrap(), text);
    // Each token is the most likely one, so with its log-probability its sequence scores the same.
    let continued = numbers(&alone["choices"][0]["logprobs"]["token_logprobs"]);
    assert_eq!(continued.len(), 24);
    // An echo begins with the prompt, and its offsets are places in the text.
    let body =
        json!({"model": "reference", "prompt": "The old king", "max_tokens": 4, "echo": true, "logprobs": 1});
    let echoed = complete(address, body)["choices"][0].clone();
    let whole = echoed["text"].as_str().unwrap();
    assert!(whole.starts_with("The old king") && text.starts_with(&whole["The old king".len()..]), "{whole}");
    let (pieces, offsets) = (&echoed["logprobs"]["tokens"], &echoed["logprobs"]["text_offset"]);
    for (piece, offset) in pieces.as_array().unwrap().iter().zip(offsets.as_array().unwrap()).skip(1) {
        let rest: String = whole.chars().skip(offset.as_u64().unwrap() as usize).collect();
        assert!(rest.starts_with(piece.as_str().unwrap()), "{piece} at {offset} of {whole}");
    }
    // A stop is not part of the answer.
    let stop = text.chars().skip(6).take(3).collect::<String>();
    let body = json!({"model": "reference", "prompt": "The old king", "max_tokens": 24, "stop": [stop]});
    let stopped = complete(address, body);
    let before = text.split(&stop).next().unwrap();
    assert_eq!(stopped["choices"][0]["text"].as_str().unwrap(), before);
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    assert!(stopped["usage"]["completion_tokens"].as_u64().unwrap() < 24);
    // Text to tokens and back.
    let back = post(address, "/detokenize", &json!({"model": "reference", "tokens": ids["tokens"]})).json();
    assert!(back["prompt"].as_str().unwrap().contains("The old king"), "{back}");
    let info = get(address, "/tokenizer_info?model=reference").json();
    assert_eq!((&info["bos_token"], &info["eos_token"]), (&json!("<s>"), &json!("</s>")), "{info}");
    assert_eq!(post(address, "/tokenize", &json!({"prompt": "x"})).status, 400, "two models, none named");
    // A file that was rejected is not served.
    assert_eq!(post(address, "/v1/completions", &json!({"model": "truncated", "prompt": "x"})).status, 404);
}

#[test]
fn what_is_not_supported_is_named_and_costs_nothing() {
    let (_dir, daemon) = serving(&["reference.gguf"]);
    let address = daemon.address;
    for (extra, status, param) in [
        (json!({"temperature": 0.7}), 400, "temperature"),
        (json!({"n": 2}), 400, "n"),
        (json!({"best_of": 3}), 400, "best_of"),
        (json!({"top_p": 0.9}), 400, "top_p"),
        (json!({"top_k": 40}), 400, "top_k"),
        (json!({"presence_penalty": 1}), 400, "presence_penalty"),
        (json!({"logit_bias": {"5": -100}}), 400, "logit_bias"),
        (json!({"suffix": "end"}), 400, "suffix"),
        (json!({"logprobs": 6}), 400, "logprobs"),
        (json!({"prompt_logprobs": 21}), 400, "prompt_logprobs"),
        (json!({"stream": true, "logprobs": 1}), 400, "logprobs"),
        (json!({"stream_options": {"include_usage": true}}), 400, "stream_options"),
        (json!({"max_tokens": 0}), 400, "max_tokens"),
        (json!({"max_tokens": 100_000}), 400, "max_tokens"),
        (json!({"stop": ["a", "b", "c", "d", "e"]}), 400, "stop"),
        (json!({"stop": [""]}), 400, "stop"),
        (json!({"prompt": []}), 400, "prompt"),
        (json!({"prompt": 5}), 400, "prompt"),
        (json!({"prompt": [[1], []]}), 400, "prompt"),
        (json!({"prompt": [1, 99_999]}), 400, "prompt"),
        (json!({"prompt": vec![5; 5_000]}), 400, "prompt"),
        (json!({"guided_json": {}}), 400, "guided_json"),
        (json!({"model": "nothing"}), 404, "model"),
    ] {
        let mut body = json!({"model": "reference", "prompt": "The"});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let answer = post(address, "/v1/completions", &body);
        let error = &answer.json()["error"];
        assert_eq!((answer.status, error["param"].as_str()), (status, Some(param)), "{extra}: {answer:?}");
        assert_eq!(error["type"], "invalid_request_error");
        assert!(error["message"].as_str().unwrap().len() > 5);
    }
    let neutral = json!({"model": "reference", "prompt": "The", "max_tokens": 2, "temperature": 0.0, "n": 1, "top_p": 1,
        "top_k": -1, "presence_penalty": 0, "logit_bias": {}, "user": "me", "suffix": null, "logprobs": null, "stop": null});
    assert_eq!(complete(address, neutral)["usage"]["completion_tokens"], 2);
}

/// The data of every event, to the end of the stream.
pub fn streamed(address: SocketAddr, path: &str, body: &Value) -> Vec<String> {
    let answer: Answer = send(address, "POST", path, &[], Some(&body.to_string()));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.header("content-type").starts_with("text/event-stream"));
    answer.body.lines().filter_map(|line| line.strip_prefix("data: ")).map(str::to_owned).collect()
}

#[test]
fn a_stream_tells_the_same_text_and_a_client_that_leaves_frees_the_model() {
    let (dir, daemon) = serving(&["reference.gguf"]);
    let address = daemon.address;
    let ask = |more: Value| {
        let mut body = json!({"model": "reference", "prompt": ["The old king", "A day"], "max_tokens": 40, "stop": ["zzz", "e q"]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for echo in [false, true] {
        let whole = complete(address, ask(json!({"echo": echo})));
        let data = streamed(
            address,
            "/v1/completions",
            &ask(json!({"echo": echo, "stream": true, "stream_options": {"include_usage": true}})),
        );
        assert_eq!(data.iter().filter(|data| *data == "[DONE]").count(), 1);
        assert_eq!(data.last().unwrap(), "[DONE]");
        let chunks: Vec<Value> = data
            .iter()
            .filter(|data| *data != "[DONE]")
            .map(|data| serde_json::from_str(data).unwrap())
            .collect();
        assert!(chunks.len() > 40, "piece by piece");
        assert!(chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"]));
        assert_eq!(chunks.last().unwrap()["usage"], whole["usage"]);
        for (index, choice) in whole["choices"].as_array().unwrap().iter().enumerate() {
            let of: Vec<&Value> = chunks
                .iter()
                .flat_map(|chunk| chunk["choices"].as_array().unwrap())
                .filter(|c| c["index"] == index)
                .collect();
            let text: String = of.iter().map(|c| c["text"].as_str().unwrap()).collect();
            assert_eq!(text, choice["text"].as_str().unwrap());
            assert_eq!(of.last().unwrap()["finish_reason"], choice["finish_reason"]);
            assert_eq!(of.iter().filter(|c| !c["finish_reason"].is_null()).count(), 1);
        }
    }
    // A client that leaves in the middle of much work.
    let body = json!({"model": "reference", "prompt": vec!["The"; 64], "max_tokens": 500, "stream": true});
    let body = body.to_string();
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    stream.read_exact(&mut [0u8; 300]).unwrap();
    drop(stream);
    complete(address, json!({"model": "reference", "prompt": "The", "max_tokens": 1}));
    assert_eq!(loads(dir.path()), 2, "its worker was ended in the middle, and another one answers");
}

#[test]
fn too_many_requests_and_an_assays_turn_are_told_when_to_come_back() {
    let (_dir, daemon) = serving(&["reference.gguf", "copy.gguf"]);
    let address = daemon.address;
    let body = json!({"model": "reference", "prompt": vec!["The"; 16], "max_tokens": 200});
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let clients: Vec<_> =
            (0..60).map(|_| scope.spawn(|| post(address, "/v1/completions", &body))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let of = |status: u16| answers.iter().filter(move |answer| answer.status == status);
    assert!(of(200).count() >= 32 && of(429).count() > 0, "{} {}", of(200).count(), of(429).count());
    assert_eq!(of(200).count() + of(429).count(), 60);
    for refused in of(429) {
        assert!(refused.header("retry-after").parse::<u32>().unwrap() > 0);
        assert_eq!(refused.json()["error"]["type"], "rate_limit_error");
    }
    // An assay takes its turn: the served model goes, and requests are told so until it is done.
    let path = example("reference.gguf").canonicalize().unwrap();
    let copy = example("copy.gguf").canonicalize().unwrap();
    let assay = json!({"candidate": copy, "reference": path, "mode": "extended"});
    let id = post(address, "/api/assays", &assay).json()["id"].as_str().unwrap().to_owned();
    let busy = wait("a busy answer", || {
        let answer = post(
            address,
            "/v1/completions",
            &json!({"model": "reference", "prompt": "The", "max_tokens": 1}),
        );
        (answer.status != 200).then_some(answer)
    });
    assert_eq!(busy.status, 503, "{busy:?}");
    assert!(busy.header("retry-after").parse::<u32>().unwrap() > 0);
    let done = wait("the verdict", || {
        Some(get(address, &format!("/api/assays/{id}")).json()).filter(|assay| assay["state"] == "done")
    });
    assert_eq!(done["decision"], "SAME");
    complete(address, json!({"model": "reference", "prompt": "The", "max_tokens": 1}));
    // An adapter that is none, and whole distributions, can be asked for here as on the command line.
    let refused =
        post(address, "/api/assays", &json!({"candidate": copy, "reference": path, "adapter": "none"}));
    assert_eq!((refused.status, refused.json()["param"].as_str()), (400, Some("adapter")));
    let refused =
        post(address, "/api/assays", &json!({"candidate": copy, "reference": path, "gpu_layers": -2}));
    assert_eq!(refused.status, 400);
    assert!(refused.body.contains("gpu_layers must be -1"), "{}", refused.body);
    let exact =
        json!({"candidate": copy, "reference": path, "mode": "quick", "exact": true, "adapter": path});
    let queued = post(address, "/api/assays", &exact).json();
    assert_eq!((&queued["request"]["exact"], &queued["request"]["adapter"]), (&json!(true), &json!(path)));
    let ended = wait("its end", || {
        let assay = get(address, &format!("/api/assays/{}", queued["id"].as_str().unwrap())).json();
        Some(assay).filter(|assay| assay["state"] == "done")
    });
    assert_eq!(ended["decision"], "ERROR", "a whole model is no adapter: {ended}");
    assert!(ended["error"].as_str().unwrap().contains("adapter"), "{ended}");
}
