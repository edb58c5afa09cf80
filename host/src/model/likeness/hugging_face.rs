//! `tokenizer.json`, `tokenizer_config.json` and `config.json` of a folder. The vocabulary is
//! read straight into lists: as general JSON it would take ten times its size.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::facts::Facts;
use crate::domain::{Problem, budget};
use crate::model::folder::{COSMETIC, named_templates};
use crate::model::source::{ReadAt as _, SourceFile};
use crate::model::template;

/// The parts of `tokenizer.json` that decide which tokens a text becomes.
#[derive(Debug, Deserialize)]
pub struct Tokenizer {
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    model: Model,
}

#[derive(Debug, Deserialize)]
struct Added {
    id: u64,
    content: String,
}

#[derive(Debug, Deserialize)]
struct Model {
    #[serde(rename = "type", default)]
    kind: Value,
    #[serde(default)]
    vocab: Vocabulary,
    #[serde(default)]
    merges: Option<Vec<Merge>>,
    #[serde(default)]
    byte_fallback: Value,
    #[serde(default)]
    ignore_merges: Value,
    #[serde(default)]
    unk_token: Value,
}

/// Pairs of token and id, or of token and score in the order of ids.
#[derive(Debug, Default)]
enum Vocabulary {
    #[default]
    None,
    Ids(Vec<(String, u64)>),
    Scores(Vec<(String, f64)>),
}

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Vocabulary;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a vocabulary")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocabulary, A::Error> {
                let mut out = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    out.push(entry);
                }
                Ok(Vocabulary::Ids(out))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vocabulary, A::Error> {
                let mut out = Vec::new();
                while let Some(entry) = list.next_element()? {
                    out.push(entry);
                }
                Ok(Vocabulary::Scores(out))
            }
        }
        deserializer.deserialize_any(Entries)
    }
}

/// `"left right"` or `["left", "right"]`.
#[derive(Debug)]
struct Merge(String);

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pair;
        impl<'de> Visitor<'de> for Pair {
            type Value = Merge;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("two tokens")
            }

            fn visit_str<E>(self, text: &str) -> Result<Merge, E> {
                Ok(Merge(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Merge, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = list.next_element::<String>()? {
                    if parts.len() < 3 {
                        parts.push(part);
                    }
                }
                Ok(Merge(parts.join(" ")))
            }
        }
        deserializer.deserialize_any(Pair)
    }
}

impl Tokenizer {
    /// # Errors
    /// The text is no tokenizer.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The largest id with the token that has it.
    pub fn last(&self) -> Option<(u64, &str)> {
        let added = self.added_tokens.iter().map(|token| (token.id, token.content.as_str()));
        let own = match &self.model.vocab {
            Vocabulary::None => None,
            Vocabulary::Ids(list) => list.iter().map(|(token, id)| (*id, token.as_str())).max(),
            Vocabulary::Scores(list) => list.last().map(|(token, _)| (list.len() as u64 - 1, token.as_str())),
        };
        added.chain(own).max()
    }

    fn into_facts(self, out: &mut Facts) {
        let mut tokens: Vec<Option<String>> = Vec::new();
        let mut put = |id: u64, token: String| {
            let place = usize::try_from(id).ok().filter(|_| id < budget::GGUF_ARRAY_ELEMENTS);
            let Some(place) = place else { return };
            if tokens.len() <= place {
                tokens.resize(place + 1, None);
            }
            if let Some(slot) = tokens.get_mut(place) {
                *slot = Some(token);
            }
        };
        match self.model.vocab {
            Vocabulary::None => {}
            Vocabulary::Ids(list) => list.into_iter().for_each(|(token, id)| put(id, token)),
            Vocabulary::Scores(list) => {
                out.scores = Some(list.iter().map(|(_, score)| *score).collect());
                (0..).zip(list).for_each(|(id, (token, _))| put(id, token));
            }
        }
        for added in self.added_tokens {
            put(added.id, added.content);
        }
        out.tokens = Some(tokens).filter(|tokens| !tokens.is_empty());
        out.merges = self.model.merges.map(|merges| merges.into_iter().map(|merge| merge.0).collect());
        for (key, value) in [
            ("normalizer", self.normalizer),
            ("pre_tokenizer", self.pre_tokenizer),
            ("post_processor", self.post_processor),
            ("decoder", self.decoder),
            ("model.type", self.model.kind),
            ("model.byte_fallback", self.model.byte_fallback),
            ("model.ignore_merges", self.model.ignore_merges),
            ("model.unk_token", self.model.unk_token),
        ] {
            if !value.is_null() {
                out.rules.insert(key.to_owned(), value);
            }
        }
    }
}

/// Names of special tokens in `tokenizer_config.json` and in GGUF.
const SPECIAL: [(&str, &str); 4] = [
    ("bos_token", "bos_token_id"),
    ("eos_token", "eos_token_id"),
    ("unk_token", "unknown_token_id"),
    ("pad_token", "padding_token_id"),
];

/// What the texts of a folder say.
pub(super) fn folder(path: &Path) -> Result<Facts, Problem> {
    let mut out = Facts::default();
    if let Some(text) = text(&path.join("tokenizer.json"), budget::JSON_FILE_BYTES)? {
        Tokenizer::parse(&text)
            .map_err(|error| damaged(&path.join("tokenizer.json"), &error))?
            .into_facts(&mut out);
    }
    let json = |name: &str| -> Result<Option<Value>, Problem> {
        let file = path.join(name);
        let text = text(&file, budget::CONFIG_BYTES)?;
        text.map(|text| serde_json::from_str(&text).map_err(|error| damaged(&file, &error))).transpose()
    };
    if let Some(config) = json("tokenizer_config.json")? {
        out.templates.extend(template::of_config(&config));
        for (name, id_name) in SPECIAL {
            let value = config.get(name);
            let text = value.and_then(|value| value.as_str().or_else(|| value.get("content")?.as_str()));
            let place = text.and_then(|text| {
                out.tokens.as_ref()?.iter().position(|token| token.as_deref() == Some(text))
            });
            if let Some(id) = place {
                out.special.insert(id_name.to_owned(), id.into());
            }
        }
        for key in ["add_bos_token", "add_eos_token"] {
            if let Some(flag) = config.get(key).filter(|flag| flag.is_boolean()) {
                out.rules.insert(key.to_owned(), flag.clone());
            }
        }
    }
    for file in std::iter::once("chat_template.jinja".to_owned()).chain(named_templates(path)?) {
        if let Some(template) = text(&path.join(&file), budget::CONFIG_BYTES)? {
            out.templates.insert(template::of_file(&file).to_owned(), template);
        }
    }
    if let Some(config) = json("config.json")? {
        flatten("", &config, &mut out.config);
        out.config.retain(|key, _| !COSMETIC.contains(&key.rsplit('.').next().unwrap_or(key)));
    }
    Ok(out)
}

/// `{"a": {"b": 1}}` as `a.b`. JSON this deep does not get past its parser.
fn flatten(prefix: &str, value: &Value, out: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let dot = if prefix.is_empty() { "" } else { "." };
                flatten(&format!("{prefix}{dot}{key}"), value, out);
            }
        }
        Value::Null => {}
        other => {
            out.insert(prefix.to_owned(), other.clone());
        }
    }
}

fn damaged(path: &Path, error: &serde_json::Error) -> Problem {
    Problem::input(format!("{} is not what it must be: {error}", path.display()))
}

/// A text of at most `limit` bytes; `None` if there is no such file.
fn text(path: &Path, limit: u64) -> Result<Option<String>, Problem> {
    if fs::symlink_metadata(path).is_err() {
        return Ok(None);
    }
    let failed = |error: std::io::Error| Problem::io("read", path, &error);
    let file = SourceFile::open(path).map_err(failed)?;
    if file.size() > limit {
        return Err(Problem::input(format!("{} is larger than {limit} bytes", path.display())));
    }
    let mut bytes = vec![0; usize::try_from(file.size()).unwrap_or(0)];
    file.read_at(&mut bytes, 0).map_err(failed)?;
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|_| Problem::input(format!("{} is not valid UTF-8", path.display())))
}
