//! Do two artifacts turn text into tokens alike, and compute alike? Tokenizer, chat templates
//! and configuration compared by content, key by key, whatever the formats.
//!
//! Between a GGUF file and a Hugging Face folder, the folder's words are put in the file's
//! (`across`, `config`) as far as there are any; all else is named as unknown, and then nothing is
//! called equal. A side that does not say is unknown, too. Deliberately absent: weights
//! (`lineage`), and running a tokenizer (a worker does that).

mod across;
mod config;
mod facts;
mod hugging_face;
mod pipeline;
mod vocabulary;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::sha256;
use crate::domain::Problem;
pub use config::hash as config_hash;
use facts::Facts;
pub use hugging_face::{Tokenizer, tokenizer_hash};

/// Characters of a value that are shown.
const SHOWN: usize = 120;

/// One thing that is not the same. A value that a side does not have is null.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Such as `tokens[265]`, `bos_token_id` or `rope.freq_base`.
    pub key: String,
    pub reference: Option<String>,
    pub candidate: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".to_owned());
        write!(f, "{}: {} -> {}", self.key, side(&self.reference), side(&self.candidate))
    }
}

/// What differs, and what cannot be told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Likeness {
    /// What decides which tokens a text becomes. Empty and nothing unknown: compatible.
    pub tokenizer: Vec<Difference>,
    /// Chat templates by name; a text is named by its SHA-256.
    pub templates: Vec<Difference>,
    /// What decides what is computed; names, labels and other cosmetic keys do not count.
    pub config: Vec<Difference>,
    /// How text is generated unless the user says otherwise.
    pub generation: Vec<Difference>,
    /// What could not be compared, in words that begin with what it is about: `tokenizer`,
    /// `special tokens`, `config` or `generation`.
    pub unknown: Vec<String>,
    /// Do both sides list tokens?
    pub tokens_compared: bool,
}

impl Likeness {
    /// Whether one tokenizer can stand for the other; `None` if a side has none to compare, or if
    /// something about them could not be compared.
    pub fn compatible(&self) -> Option<bool> {
        let answer = self.answer(&self.tokenizer, "tokenizer");
        answer.filter(|_| self.tokens_compared)
    }

    /// Whether both compute alike; `None` if something could not be compared.
    pub fn same_config(&self) -> Option<bool> {
        self.answer(&self.config, "config")
    }

    /// What could not be compared about one of them.
    pub fn unknown_about(&self, what: &str) -> impl Iterator<Item = &str> {
        self.unknown.iter().map(String::as_str).filter(move |line| line.starts_with(what))
    }

    fn answer(&self, differences: &[Difference], what: &str) -> Option<bool> {
        match (differences.is_empty(), self.unknown_about(what).next()) {
            (false, _) => Some(false),
            (true, None) => Some(true),
            (true, Some(_)) => None,
        }
    }
}

/// Compares what lies around the weights of two artifacts.
///
/// # Errors
/// A side cannot be read.
pub fn compare(candidate: &Path, reference: &Path) -> Result<Likeness, Problem> {
    let (mut candidate, mut reference) = (Facts::open(candidate)?, Facts::open(reference)?);
    let mut out = Likeness::default();
    let configured = !candidate.config.is_empty() && !reference.config.is_empty();
    out.tokens_compared = candidate.tokens.is_some() && reference.tokens.is_some();
    match (candidate.gguf, reference.gguf) {
        (false, true) => out.unknown = translated(&mut candidate, &mut reference),
        (true, false) => out.unknown = translated(&mut reference, &mut candidate),
        _ => {}
    }
    if out.tokens_compared {
        vocabulary::compare(&candidate, &reference, &mut out.tokenizer);
        maps("", &candidate.special, &reference.special, &mut out.tokenizer);
        maps("", &candidate.rules, &reference.rules, &mut out.tokenizer);
    } else {
        out.unknown.retain(|line| !line.starts_with("tokenizer"));
        out.unknown.push("tokenizer: a side lists no tokens".to_owned());
    }
    let named = |templates: &BTreeMap<String, String>| -> BTreeMap<String, Value> {
        templates
            .iter()
            .map(|(name, text)| (name.clone(), format!("sha256 {}", sha256(text.as_bytes())).into()))
            .collect()
    };
    maps("chat_template.", &named(&candidate.templates), &named(&reference.templates), &mut out.templates);
    if configured {
        maps("", &candidate.config, &reference.config, &mut out.config);
    } else {
        out.unknown.push("config: a side has no configuration".to_owned());
    }
    maps("", &candidate.generation, &reference.generation, &mut out.generation);
    Ok(out)
}

/// Puts what a folder says in the words of GGUF; what cannot be is left out of both, and said.
fn translated(folder: &mut Facts, file: &mut Facts) -> Vec<String> {
    let mut unknown = across::translate(folder, file);
    unknown.extend(config::translate(folder, file));
    unknown
}

/// The chat templates of an artifact by name; `default` is the one used when nobody asks for
/// another.
///
/// # Errors
/// The artifact cannot be read.
pub fn templates(path: &Path) -> Result<BTreeMap<String, String>, Problem> {
    Ok(Facts::open(path)?.templates)
}

fn difference(key: impl Into<String>, reference: Option<String>, candidate: Option<String>) -> Difference {
    Difference { key: key.into(), reference, candidate }
}

/// Entries that differ.
fn maps(
    prefix: &str,
    ours: &BTreeMap<String, Value>,
    theirs: &BTreeMap<String, Value>,
    out: &mut Vec<Difference>,
) {
    let mut keys: Vec<&String> =
        theirs.keys().chain(ours.keys().filter(|key| !theirs.contains_key(*key))).collect();
    keys.sort();
    for key in keys {
        let (our, their) = (ours.get(key), theirs.get(key));
        if our.zip(their).is_some_and(|(a, b)| same(a, b)) {
            continue;
        }
        let text = |value: Option<&Value>| value.map(|value| shortened(&value.to_string()));
        out.push(difference(format!("{prefix}{key}"), text(their), text(our)));
    }
}

/// 10000 says the same as 10000.0.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) if x.is_f64() || y.is_f64() => a.as_f64() == b.as_f64(),
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| same(x, y)),
        (Value::Object(x), Value::Object(y)) => {
            x.len() == y.len() && x.iter().all(|(key, x)| y.get(key).is_some_and(|y| same(x, y)))
        }
        _ => a == b,
    }
}

fn quoted(text: &str) -> String {
    shortened(&format!("{text:?}"))
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => {
            format!("{}… (sha256 {})", text.get(..at).unwrap_or_default(), sha256(text.as_bytes()))
        }
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
