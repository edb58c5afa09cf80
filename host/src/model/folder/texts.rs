//! The texts beside the weights: chat templates, generation settings, the size of the
//! tokenizer, and documents.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::{Config, long_text, text};
use crate::domain::inspection::Finding;
use crate::domain::{Sha256, budget};
use crate::model::finding::{Code, Findings};
use crate::model::scan::tokens::{self, Idle};
use crate::model::source::{SourceFile, Stream};
use crate::model::{document, likeness, template};

/// Files that hold chat templates, or names of code to run, as JSON.
const TEMPLATES: [&str; 5] = [
    TOKENIZER_CONFIG,
    "chat_template.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
];
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const SPECIAL: &str = "special_tokens_map.json";

/// What a tokenizer that can be read says of itself.
#[derive(Default)]
pub(super) struct Said {
    pub hash: Option<Sha256>,
    /// Tokens added to what training found in texts, most of them for control or kept free for later.
    pub added: Idle,
}

/// Looks at every text that is there.
pub(super) fn check(
    path: &Path,
    names: &BTreeSet<String>,
    config: Option<&Config>,
    findings: &mut Findings,
) -> Said {
    let mut settings = None;
    for name in TEMPLATES.into_iter().filter(|name| names.contains(*name)) {
        let Some(value) = json(path, name, findings) else { continue };
        for (which, source) in template::of_config(&value) {
            within(name, findings, |findings| template::check(&which, &source, findings));
        }
        within(name, findings, |findings| remote_code(&value, findings));
        if name == TOKENIZER_CONFIG {
            settings = Some(value);
        }
    }
    for name in names.iter().filter(|name| name.ends_with(".jinja")) {
        if let Some(source) = text(path, name, budget::CONFIG_BYTES, findings) {
            within(name, findings, |findings| template::check(template::of_file(name), &source, findings));
        }
    }
    let size = config.and_then(|config| config.number("vocab_size"));
    if names.contains("generation_config.json")
        && let Some(value) = json(path, "generation_config.json", findings)
    {
        within("generation_config.json", findings, |findings| special(&value, size, findings));
    }
    if !names.contains("tokenizer.json") {
        return Said::default();
    }
    let map = if names.contains(SPECIAL) { json(path, SPECIAL, findings) } else { None };
    let Some(source) = long_text(path, "tokenizer.json", budget::JSON_FILE_BYTES, findings) else {
        return Said::default();
    };
    let tokenizer = within("tokenizer.json", findings, |findings| tokenizer(&source, size, findings));
    tokenizer.map_or_else(Said::default, |tokenizer| {
        let added = tokens::stretches(tokenizer.added_ids());
        Said { added, hash: likeness::tokenizer_hash(tokenizer, settings.as_ref(), map.as_ref()) }
    })
}

/// Does the file ask for Python code of the model?
fn remote_code(value: &Value, findings: &mut Findings) {
    if value.get("auto_map").is_some_and(|map| !map.is_null()) {
        findings.push(Code::RemoteCode.finding("auto_map asks the loader to run Python code of the model"));
    }
}

/// A tokenizer, unless it is none; ids must be in the vocabulary.
fn tokenizer(source: &SourceFile, size: Option<u64>, findings: &mut Findings) -> Option<likeness::Tokenizer> {
    let tokenizer = match likeness::Tokenizer::parse(Stream::new(source)) {
        Ok(tokenizer) => tokenizer,
        Err(error) if error.is_io() => {
            findings.push(Code::Unreadable.finding(format!("tokenizer.json cannot be read: {error}")));
            return None;
        }
        Err(error) => {
            let what = if error.is_data() { "is no tokenizer" } else { "is not valid JSON" };
            findings.push(Code::BadJson.finding(format!("tokenizer.json {what}: {error}")));
            return None;
        }
    };
    for (last, code) in
        [(tokenizer.last_trained(), Code::VocabMismatch), (tokenizer.last_added(), Code::SpecialTokenRange)]
    {
        if let (Some(size), Some((id, token))) = (size, last)
            && id >= size
        {
            let message = format!("the token {token:?} has the id {id} of {size} embedded ones");
            findings.push(code.finding(message));
        }
    }
    tokenizer.check(findings);
    Some(tokenizer)
}

/// Looks at the documents of the folder. Whatever is wrong with one is no fault of the weights.
pub(super) fn documents(path: &Path, names: &BTreeSet<String>, findings: &mut Findings) {
    let mut documents = names.iter().filter(|name| document::is_document(name));
    for name in documents.by_ref().take(budget::DOCUMENTS) {
        within(name, findings, |findings| {
            let read = SourceFile::open(&path.join(name)).and_then(|file| document::check(&file, findings));
            if let Err(error) = read {
                findings.push(Code::DocumentUnread.finding(format!("{name} cannot be read: {error}")));
            }
        });
    }
    if let Some(name) = documents.next() {
        let message = format!("the folder has more than {} documents", budget::DOCUMENTS);
        within(name, findings, |findings| findings.push(Code::DocumentUnread.finding(message)));
    }
}

fn within<T>(name: &str, findings: &mut Findings, look: impl FnOnce(&mut Findings) -> T) -> T {
    let outer = findings.part.replace(name.to_owned());
    let out = look(findings);
    findings.part = outer;
    out
}

fn json(path: &Path, name: &str, findings: &mut Findings) -> Option<Value> {
    let text = text(path, name, budget::CONFIG_BYTES, findings)?;
    match serde_json::from_str(&text) {
        Ok(value @ Value::Object(_)) => Some(value),
        Ok(_) => {
            let finding = Code::BadJson.finding(format!("{name} is not a JSON object"));
            findings.push(Finding { part: Some(name.to_owned()), ..finding });
            None
        }
        Err(error) => {
            let finding = Code::BadJson.finding(format!("{name} is not valid JSON: {error}"));
            findings.push(Finding { part: Some(name.to_owned()), ..finding });
            None
        }
    }
}

/// Ids of special tokens, one or a list, must be in the vocabulary.
fn special(value: &Value, size: Option<u64>, findings: &mut Findings) {
    for key in ["bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"] {
        let ids: Vec<&Value> = match value.get(key) {
            Some(Value::Array(list)) => list.iter().collect(),
            Some(Value::Null) | None => continue,
            Some(one) => vec![one],
        };
        for id in ids {
            let within = id.as_u64().is_some_and(|id| size.is_none_or(|size| id < size));
            if !within {
                let of = size.map(|size| format!(" of {size} tokens")).unwrap_or_default();
                findings.push(Code::SpecialTokenRange.finding(format!("{key} is {id}{of}")));
            }
        }
    }
}
