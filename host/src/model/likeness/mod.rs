//! Do two artifacts turn text into tokens alike, and compute alike? Tokenizer, chat templates
//! and configuration compared by content, key by key, whatever the formats.
//!
//! Between a GGUF file and a Hugging Face folder only what both say is compared. A side that
//! does not say is unknown, never equal. Deliberately absent: weights (`lineage`), and running
//! a tokenizer (a worker does that).

mod facts;
mod hugging_face;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::sha256;
use crate::domain::Problem;
use facts::Facts;
pub use hugging_face::Tokenizer;

/// Tokens, scores and merges that are named; the others are counted.
const LISTED: usize = 8;
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
    /// What could not be compared, in words.
    pub unknown: Vec<String>,
    /// Do both sides list tokens?
    pub tokens_compared: bool,
}

impl Likeness {
    /// Whether one tokenizer can stand for the other; `None` if a side has none to compare.
    pub fn compatible(&self) -> Option<bool> {
        self.tokens_compared.then_some(self.tokenizer.is_empty())
    }
}

/// Compares what lies around the weights of two artifacts.
///
/// # Errors
/// A side cannot be read.
pub fn compare(candidate: &Path, reference: &Path) -> Result<Likeness, Problem> {
    let (candidate, reference) = (Facts::open(candidate)?, Facts::open(reference)?);
    let mut out = Likeness::default();
    let same_form = candidate.gguf == reference.gguf;
    out.tokenizers(&candidate, &reference, same_form);
    let named = |templates: &BTreeMap<String, String>| -> BTreeMap<String, Value> {
        templates
            .iter()
            .map(|(name, text)| (name.clone(), format!("sha256 {}", sha256(text.as_bytes())).into()))
            .collect()
    };
    maps(
        "chat_template.",
        &named(&candidate.templates),
        &named(&reference.templates),
        false,
        &mut out.templates,
    );
    if candidate.config.is_empty() || reference.config.is_empty() {
        out.unknown.push("config: a side has no configuration".to_owned());
    } else if same_form {
        maps("", &candidate.config, &reference.config, false, &mut out.config);
    } else {
        maps("", &candidate.in_gguf_terms(), &reference.in_gguf_terms(), true, &mut out.config);
    }
    Ok(out)
}

/// The chat templates of an artifact by name; `default` is the one used when nobody asks for
/// another.
///
/// # Errors
/// The artifact cannot be read.
pub fn templates(path: &Path) -> Result<BTreeMap<String, String>, Problem> {
    Ok(Facts::open(path)?.templates)
}

impl Likeness {
    fn tokenizers(&mut self, candidate: &Facts, reference: &Facts, same_form: bool) {
        let (Some(ours), Some(theirs)) = (&candidate.tokens, &reference.tokens) else {
            self.unknown.push("tokenizer: a side lists no tokens".to_owned());
            return;
        };
        self.tokens_compared = true;
        let out = &mut self.tokenizer;
        let both = ours.len().min(theirs.len());
        // A folder has no names for ids that only pad the embedding.
        let padded = |list: &[Option<String>]| {
            !same_form && list.iter().skip(both).all(|token| token.as_deref().is_none_or(is_padding))
        };
        if ours.len() != theirs.len() && !padded(ours) && !padded(theirs) {
            out.push(difference("tokens", Some(theirs.len().to_string()), Some(ours.len().to_string())));
        }
        let holes = |ours: &Option<String>, theirs: &Option<String>| {
            !same_form
                && (ours.is_none() && theirs.as_deref().is_none_or(is_padding)
                    || theirs.is_none() && ours.as_deref().is_none_or(is_padding))
        };
        let pairs = (0..).zip(ours.iter().zip(theirs));
        let changed = pairs.filter(|(_, (a, b))| a != b && !holes(a, b));
        listed(
            "tokens",
            changed.map(|(id, (a, b))| (id, b.as_deref().map(quoted), a.as_deref().map(quoted))),
            out,
        );
        for (key, ours, theirs) in [("scores", &candidate.scores, &reference.scores)] {
            match (ours, theirs) {
                (Some(ours), Some(theirs)) => {
                    let pairs = (0..).zip(ours.iter().zip(theirs));
                    let changed = pairs.filter(|(_, (a, b))| a.to_bits() != b.to_bits());
                    listed(
                        key,
                        changed.map(|(id, (a, b))| (id, Some(b.to_string()), Some(a.to_string()))),
                        out,
                    );
                    lengths(key, ours.len(), theirs.len(), out);
                }
                (None, None) => {}
                _ if same_form => {
                    lengths(key, ours.as_ref().map_or(0, Vec::len), theirs.as_ref().map_or(0, Vec::len), out)
                }
                _ => {}
            }
        }
        if same_form {
            let none = Vec::new();
            let (ours, theirs) =
                (candidate.kinds.as_ref().unwrap_or(&none), reference.kinds.as_ref().unwrap_or(&none));
            let pairs = (0..).zip(ours.iter().zip(theirs));
            let changed = pairs.filter(|(_, (a, b))| a != b);
            listed(
                "token_type",
                changed.map(|(id, (a, b))| (id, Some(b.to_string()), Some(a.to_string()))),
                out,
            );
            lengths("token_type", ours.len(), theirs.len(), out);
        }
        match (&candidate.merges, &reference.merges) {
            (Some(ours), Some(theirs)) => {
                let pairs = (0..).zip(ours.iter().zip(theirs));
                let changed = pairs.filter(|(_, (a, b))| a != b);
                listed(
                    "merges",
                    changed.map(|(place, (a, b))| (place, Some(quoted(b)), Some(quoted(a)))),
                    out,
                );
                lengths("merges", ours.len(), theirs.len(), out);
            }
            (None, None) => {}
            (ours, theirs) if same_form => {
                lengths(
                    "merges",
                    ours.as_ref().map_or(0, Vec::len),
                    theirs.as_ref().map_or(0, Vec::len),
                    out,
                );
            }
            _ => self.unknown.push("tokenizer.merges: only one side lists them".to_owned()),
        }
        let out = &mut self.tokenizer;
        maps("", &candidate.special, &reference.special, !same_form, out);
        maps("", &candidate.rules, &reference.rules, !same_form, out);
    }
}

/// How converters name ids that have an embedding and no token.
fn is_padding(token: &str) -> bool {
    token.is_empty() || token.starts_with("[PAD") || token.starts_with("<pad") || token.starts_with("<unused")
}

fn difference(key: impl Into<String>, reference: Option<String>, candidate: Option<String>) -> Difference {
    Difference { key: key.into(), reference, candidate }
}

fn lengths(key: &str, ours: usize, theirs: usize, out: &mut Vec<Difference>) {
    if ours != theirs {
        out.push(difference(format!("{key} (number)"), Some(theirs.to_string()), Some(ours.to_string())));
    }
}

/// Names the first of the changed entries and counts the rest.
fn listed(
    key: &str,
    changed: impl Iterator<Item = (usize, Option<String>, Option<String>)>,
    out: &mut Vec<Difference>,
) {
    let mut more = 0u64;
    for (number, (place, reference, candidate)) in changed.enumerate() {
        if number < LISTED {
            out.push(difference(format!("{key}[{place}]"), reference, candidate));
        } else {
            more += 1;
        }
    }
    if more > 0 {
        out.push(difference(format!("{key}, {more} more"), None, None));
    }
}

/// Entries that differ. With `common`, only those that both have.
fn maps(
    prefix: &str,
    ours: &BTreeMap<String, Value>,
    theirs: &BTreeMap<String, Value>,
    common: bool,
    out: &mut Vec<Difference>,
) {
    let mut keys: Vec<&String> =
        theirs.keys().chain(ours.keys().filter(|key| !theirs.contains_key(*key))).collect();
    keys.sort();
    for key in keys {
        let (our, their) = (ours.get(key), theirs.get(key));
        if our.zip(their).is_some_and(|(a, b)| same(a, b)) || common && (our.is_none() || their.is_none()) {
            continue;
        }
        let text = |value: Option<&Value>| value.map(|value| shortened(&value.to_string()));
        out.push(difference(format!("{prefix}{key}"), text(their), text(our)));
    }
}

/// Numbers are equal up to the rounding of a 32-bit float.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(_), Value::Number(_)) => match (a.as_f64(), b.as_f64()) {
            (Some(x), Some(y)) => (x - y).abs() <= 1e-6 * x.abs().max(y.abs()),
            _ => a == b,
        },
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| same(x, y)),
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
