//! `/v1/chat/completions`, with an example model that was given chat templates.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use assayd::model::gguf::write::{TensorData, write_file};
use assayd::model::gguf::{self, Value as Entry};
use assayd::model::source::{ReadAt as _, SourceFile};
use assayd::worker::{Conversation, Ending, Message, WorkerLimits, render};
use serde_json::{Value, json};

use super::completions::{example, serving, streamed};
use super::http::post;
use super::{Daemon, house, inspected, start};

const PATH: &str = "/v1/chat/completions";

/// `text` is what follows the token that begins a sequence.
const PLAIN: &str = "{% for message in messages %}{{ message.role + ': ' + message.content + '\\n' }}{% endfor %}\
                     {% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}";
/// No look at the template sees how many messages there will be.
const ENDLESS: &str = "{% for a in messages %}{% for b in messages %}{% for c in messages %}\
                       {% for d in messages %}{% for e in messages %}{% endfor %}{% endfor %}{% endfor %}{% endfor %}{% endfor %}";
/// Few steps, and each of them is long.
const SLOW: &str = "{% set n = messages | length * 10000 %}{% set s = 'ab' * (n * 100) %}\
                    {% for a in range(n) %}{% set t = s | replace('a', 'b') %}{% endfor %}";

/// The reference with a chat template.
fn with_template(path: &Path, template: &str) {
    let file = SourceFile::open(&example("reference.gguf")).unwrap();
    let header = gguf::read_strict(&file).unwrap();
    let mut entries: Vec<(&str, Entry)> =
        header.metadata.iter().map(|(key, value)| (key, value.clone())).collect();
    entries.push(("tokenizer.chat_template", template.into()));
    let data: Vec<Vec<u8>> = header
        .tensors
        .iter()
        .map(|tensor| {
            let mut bytes = vec![0; usize::try_from(tensor.bytes).unwrap()];
            file.read_at(&mut bytes, tensor.offset).unwrap();
            bytes
        })
        .collect();
    let tensors: Vec<TensorData<'_>> = header
        .tensors
        .iter()
        .zip(&data)
        .map(|(tensor, data)| TensorData {
            name: &tensor.name,
            kind: tensor.kind,
            shape: &tensor.shape,
            data,
        })
        .collect();
    write_file(path, &entries, &tensors).unwrap();
}

/// A daemon that serves the reference under each name with its template.
fn chatting(templates: &[(&str, &str)]) -> (tempfile::TempDir, Daemon) {
    let dir = house("measure = false\n");
    for (name, template) in templates {
        with_template(&dir.path().join("models").join(format!("{name}.gguf")), template);
    }
    let daemon = start(dir.path());
    for (name, _) in templates {
        inspected(daemon.address, &format!("{name}.gguf"));
    }
    (dir, daemon)
}

fn ask(model: &str, more: Value) -> Value {
    let messages = json!([{"role": "system", "content": "Tell of old times."}, {"role": "user", "content": "The old king"}]);
    let mut body = json!({"model": model, "messages": messages, "max_tokens": 24});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn chat(address: SocketAddr, body: &Value) -> Value {
    let answer = post(address, PATH, body);
    assert_eq!(answer.status, 200, "{body}: {answer:?}");
    answer.json()
}

#[test]
fn a_chat_is_the_completion_of_its_rendered_text_and_begins_once() {
    let printed = format!("{{{{ bos_token }}}}{PLAIN}");
    let twice = format!("{{{{ bos_token + bos_token }}}}{PLAIN}");
    let (_dir, daemon) = chatting(&[("plain", PLAIN), ("printed", &printed), ("twice", &twice)]);
    let address = daemon.address;
    let text = "system: Tell of old times.\nuser: The old king\nassistant:";
    let body = json!({"model": "plain", "prompt": text, "max_tokens": 24, "logprobs": 2});
    let completion = post(address, "/v1/completions", &body).json();
    let tokens = post(address, "/tokenize", &json!({"model": "plain", "prompt": text})).json();
    assert_eq!(tokens["tokens"][0], 1, "this tokenizer begins a text by itself");
    for model in ["plain", "printed", "twice"] {
        let answer = chat(address, &ask(model, json!({"logprobs": true, "top_logprobs": 2})));
        assert_eq!(answer["object"], "chat.completion");
        assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
        let choice = &answer["choices"][0];
        assert_eq!(choice["message"]["role"], "assistant");
        assert_eq!(choice["message"]["content"], completion["choices"][0]["text"], "{model}");
        assert_eq!(answer["usage"], completion["usage"], "{model}: as many tokens of the prompt");
        assert_eq!(answer["usage"]["prompt_tokens"], tokens["count"]);
        let told = choice["logprobs"]["content"].as_array().unwrap();
        let known = &completion["choices"][0]["logprobs"];
        for (at, told) in told.iter().enumerate() {
            assert_eq!(told["logprob"], known["token_logprobs"][at]);
            assert_eq!(told["token"], known["tokens"][at]);
            let top: Vec<f64> = told["top_logprobs"]
                .as_array()
                .unwrap()
                .iter()
                .map(|top| top["logprob"].as_f64().unwrap())
                .collect();
            assert!(top.len() == 2 && top[0] >= top[1] && top[0] >= told["logprob"].as_f64().unwrap());
        }
    }
    // Parts are one text; without a length the answer has room, and a stop ends it.
    let parts = json!([{"role": "system", "content": "Tell of old times."},
        {"role": "user", "content": [{"type": "text", "text": "The old king"}]}]);
    assert_eq!(
        chat(address, &ask("plain", json!({"messages": parts})))["choices"][0]["message"]["content"],
        completion["choices"][0]["text"]
    );
    let said = completion["choices"][0]["text"].as_str().unwrap();
    let stop: String = said.chars().skip(5).take(3).collect();
    let stopped =
        chat(address, &ask("plain", json!({"max_tokens": null, "max_completion_tokens": 24, "stop": stop})));
    let choice = &stopped["choices"][0];
    assert_eq!(choice["finish_reason"], "stop");
    assert_eq!(choice["message"]["content"].as_str(), said.split(&stop).next());
    let open = chat(address, &ask("plain", json!({"max_tokens": null, "stop": null})));
    assert!(open["usage"]["completion_tokens"].as_u64().unwrap() > 24, "{open}");
    assert!(open["choices"][0]["message"]["content"].as_str().unwrap().starts_with(said));
}

#[test]
fn a_streamed_chat_tells_the_same_text_and_whose_it_is_first() {
    let (_dir, daemon) = chatting(&[("plain", PLAIN)]);
    let address = daemon.address;
    let whole = chat(address, &ask("plain", json!({"max_tokens": 40})));
    let body =
        ask("plain", json!({"max_tokens": 40, "stream": true, "stream_options": {"include_usage": true}}));
    let data = streamed(address, PATH, &body);
    assert_eq!(data.iter().filter(|data| *data == "[DONE]").count(), 1);
    assert_eq!(data.last().unwrap(), "[DONE]");
    let chunks: Vec<Value> =
        data[..data.len() - 1].iter().map(|data| serde_json::from_str(data).unwrap()).collect();
    assert!(chunks.len() > 20, "piece by piece: {}", chunks.len());
    for chunk in &chunks {
        assert_eq!((&chunk["id"], &chunk["object"]), (&chunks[0]["id"], &json!("chat.completion.chunk")));
    }
    let usage = chunks.last().unwrap();
    assert_eq!((&usage["usage"], &usage["choices"]), (&whole["usage"], &json!([])));
    let choices: Vec<&Value> = chunks[..chunks.len() - 1].iter().map(|chunk| &chunk["choices"][0]).collect();
    for (at, choice) in choices.iter().enumerate() {
        let role = choice["delta"].get("role").and_then(Value::as_str);
        assert_eq!(role, (at == 0).then_some("assistant"), "{choice}");
        assert!(choice["delta"]["content"].is_string(), "{choice}");
        assert_eq!(choice["finish_reason"].is_string(), at == choices.len() - 1, "{choice}");
    }
    let text: String = choices.iter().map(|choice| choice["delta"]["content"].as_str().unwrap()).collect();
    assert_eq!(text, whole["choices"][0]["message"]["content"].as_str().unwrap());
    assert_eq!(choices.last().unwrap()["finish_reason"], whole["choices"][0]["finish_reason"]);
}

#[test]
fn what_a_chat_cannot_be_is_named() {
    let gemma = format!(
        "{{% if messages[0].role == 'system' %}}{{{{ raise_exception('no system role') }}}}{{% endif %}}{PLAIN}"
    );
    let (_dir, daemon) =
        chatting(&[("plain", PLAIN), ("gemma", &gemma), ("endless", ENDLESS), ("slow", SLOW)]);
    let address = daemon.address;
    let refused = |body: &Value| {
        let answer = post(address, PATH, body);
        let error = answer.json()["error"].clone();
        assert_eq!(error["type"].as_str(), Some("invalid_request_error"), "{body}: {answer:?}");
        let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
        (answer.status, text("param"), text("message"))
    };
    for (more, param) in [
        (json!({"tools": []}), "tools"),
        (json!({"functions": []}), "functions"),
        (json!({"response_format": {"type": "text"}}), "response_format"),
        (json!({"prompt": "x"}), "prompt"),
        (json!({"echo": true}), "echo"),
        (json!({"temperature": 1}), "temperature"),
        (json!({"n": 2}), "n"),
        (json!({"top_logprobs": 2}), "top_logprobs"),
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
        (json!({"logprobs": true, "stream": true}), "logprobs"),
        (json!({"stream_options": {}}), "stream_options"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"max_tokens": 100_000}), "max_tokens"),
        (json!({"max_tokens": 5, "max_completion_tokens": 6}), "max_completion_tokens"),
        (json!({"messages": []}), "messages"),
        (json!({"messages": [{"role": "tool", "content": "x"}]}), "messages"),
        (json!({"messages": [{"role": "user", "content": "x", "name": "me"}]}), "name"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}),
            "messages",
        ),
        (json!({"messages": [{"role": "user", "content": "king ".repeat(6_000)}]}), "messages"),
        (json!({"stop": [""]}), "stop"),
    ] {
        let (status, named, message) = refused(&ask("plain", more.clone()));
        assert_eq!((status, named.as_str()), (400, param), "{more}: {message}");
    }
    let (status, param, message) = refused(&ask("gemma", json!({})));
    assert_eq!((status, param.as_str()), (400, "messages"));
    assert!(message.contains("no system role"), "{message}");
    let alone = json!({"messages": [{"role": "user", "content": "The old king"}]});
    chat(address, &ask("gemma", alone));
    let started = Instant::now();
    let long = vec![json!({"role": "user", "content": "x"}); 26];
    let (status, param, message) = refused(&ask("endless", json!({"stream": true, "messages": long})));
    assert_eq!((status, param.as_str()), (400, "messages"));
    assert!(message.contains("steps"), "{message}");
    let (status, _, message) = refused(&ask("slow", json!({})));
    assert!(status == 422 && message.contains("STALLED"), "{message}");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    // The model is still there, and so is the daemon.
    assert_eq!(post(address, "/v1/completions", &json!({"model": "slow", "prompt": "The"})).status, 200);
}

#[test]
fn a_model_without_a_template_is_told_what_else_there_is() {
    let (_dir, daemon) = serving(&["reference.gguf"]);
    let answer = post(daemon.address, PATH, &ask("reference", json!({})));
    let error = &answer.json()["error"];
    assert_eq!((answer.status, error["param"].as_str()), (400, Some("model")), "{answer:?}");
    assert!(error["message"].as_str().unwrap().contains("/v1/completions"), "{answer:?}");
}

#[test]
fn the_template_of_a_folder_is_found_and_names_of_control_tokens_are_those_tokens() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/models/hf/base-float32");
    if !folder.exists() {
        eprintln!("skipped: there is no {}", folder.display());
        return;
    }
    let dir = house("measure = false\n");
    let own = dir.path().join("models/folder");
    std::fs::create_dir(&own).unwrap();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        std::fs::copy(&path, own.join(path.file_name().unwrap())).unwrap();
    }
    std::fs::write(own.join("chat_template.jinja"), format!("{{{{ bos_token }}}}{PLAIN}")).unwrap();
    let daemon = start(dir.path());
    inspected(daemon.address, "folder");
    let address = daemon.address;
    let answer = chat(address, &ask("folder", json!({"max_tokens": 8})));
    let text = "system: Tell of old times.\nuser: The old king\nassistant:";
    let completion =
        post(address, "/v1/completions", &json!({"model": "folder", "prompt": text, "max_tokens": 8})).json();
    assert_eq!(answer["choices"][0]["message"]["content"], completion["choices"][0]["text"]);
    assert_eq!(answer["usage"], completion["usage"]);
}

/// What would harm the process that renders harms a worker, and ends as what it was.
#[test]
fn a_template_that_breaks_its_worker_has_a_typed_end() {
    let rendered = |template: &str| {
        let conversation = Conversation {
            template: template.to_owned(),
            messages: vec![Message { role: "user".to_owned(), content: "x".to_owned() }],
            bos: String::new(),
            eos: String::new(),
        };
        let program = Some(PathBuf::from(env!("CARGO_BIN_EXE_assayd")));
        render(&conversation, &WorkerLimits { program, ..WorkerLimits::default() })
    };
    assert_eq!(rendered("{{ messages[0].content }}y"), Ok(Ok("xy".to_owned())));
    let memory = "{% set ns = namespace(x='xxxxxxxx') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}";
    let end = rendered(memory).unwrap_err();
    assert!(matches!(end.ending, Ending::LimitKilled | Ending::OomKilled), "{end:?}");
    let nested = "{% set ns = namespace(x=[]) %}{% for i in range(90000) %}{% for j in range(4) %}{% set ns.x = [ns.x] %}\
                  {% endfor %}{% endfor %}{{ ns.x | length }}";
    let end = rendered(nested);
    assert!(end.as_ref().is_err_and(|end| end.ending == Ending::Crashed), "{end:?}");
    let started = Instant::now();
    let end = rendered(SLOW).unwrap_err();
    assert!(end.ending == Ending::Stalled && started.elapsed() < Duration::from_secs(10), "{end:?}");
}
