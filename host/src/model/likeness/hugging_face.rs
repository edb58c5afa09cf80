//! `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json`, `config.json` and
//! `generation_config.json` of a folder. The vocabulary is read straight into lists: as general JSON it would take ten times its
//! size.

mod contradictions;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io::{self, BufReader};
use std::path::Path;

use compact_str::CompactString;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::config;
use super::facts::Facts;
use crate::domain::{Problem, Sha256, budget};
use crate::model::folder::named_templates;
use crate::model::source::{ReadAt as _, SourceFile, Stream, is_utf8};
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

/// A token that is found in a text before anything else is done with it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Added {
    id: u64,
    content: CompactString,
    #[serde(default)]
    pub special: bool,
    #[serde(default)]
    pub normalized: bool,
    #[serde(default)]
    pub single_word: bool,
    #[serde(default)]
    pub lstrip: bool,
    #[serde(default)]
    pub rstrip: bool,
}

impl fmt::Display for Added {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.special { "special" } else { "not special" })?;
        for (flag, name) in [
            (self.normalized, "normalized"),
            (self.single_word, "single_word"),
            (self.lstrip, "lstrip"),
            (self.rstrip, "rstrip"),
        ] {
            if flag {
                write!(f, " {name}")?;
            }
        }
        Ok(())
    }
}

/// Whatever a loader knows of a model; other keys are ignored by all.
#[derive(Debug, Deserialize)]
struct Model {
    #[serde(rename = "type", default)]
    kind: Value,
    #[serde(default)]
    vocab: Vocabulary,
    #[serde(default)]
    merges: Option<Vec<Merge>>,
    #[serde(default)]
    dropout: Value,
    #[serde(default)]
    unk_token: Value,
    #[serde(default)]
    unk_id: Value,
    #[serde(default)]
    continuing_subword_prefix: Value,
    #[serde(default)]
    end_of_word_suffix: Value,
    #[serde(default)]
    max_input_chars_per_word: Value,
    #[serde(default)]
    fuse_unk: Value,
    #[serde(default)]
    byte_fallback: Value,
    #[serde(default)]
    ignore_merges: Value,
}

/// Pairs of token and id, or of token and score in the order of ids. There are hundreds of thousands
/// of short ones: each is kept in place, not in an allocation of its own.
#[derive(Debug, Default)]
enum Vocabulary {
    #[default]
    None,
    Ids(Vec<(CompactString, u64)>),
    Scores(Vec<(CompactString, f64)>),
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

/// `"left right"` or `["left", "right"]`; spaces of tokens are written as converters to GGUF do, so
/// that it stays clear where one ends.
#[derive(Debug)]
struct Merge(CompactString);

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pair;
        impl<'de> Visitor<'de> for Pair {
            type Value = Merge;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("two tokens")
            }

            fn visit_str<E>(self, text: &str) -> Result<Merge, E> {
                Ok(Merge(text.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Merge, A::Error> {
                let mut merge = CompactString::default();
                let mut parts = 0;
                while let Some(part) = list.next_element::<CompactString>()? {
                    if parts < 3 {
                        merge.push_str(if parts > 0 { " " } else { "" });
                        merge.extend(
                            part.chars().map(|letter| if letter == ' ' { '\u{120}' } else { letter }),
                        );
                        parts += 1;
                    }
                }
                Ok(Merge(merge))
            }
        }
        deserializer.deserialize_any(Pair)
    }
}

impl Tokenizer {
    /// # Errors
    /// What is read is no tokenizer, or cannot be read.
    pub fn parse(source: impl io::Read) -> Result<Self, serde_json::Error> {
        serde_json::from_reader(BufReader::new(source))
    }

    /// The largest id of a token that training made, with the token.
    pub fn last_trained(&self) -> Option<(u64, &str)> {
        match &self.model.vocab {
            Vocabulary::None => None,
            Vocabulary::Ids(list) => {
                // Some tokenizers list what was added later here, too.
                let added = self.added_ids();
                let trained = list.iter().filter(|(_, id)| !added.contains(id));
                trained.map(|(token, id)| (*id, token.as_str())).max()
            }
            Vocabulary::Scores(list) => list.last().map(|(token, _)| (list.len() as u64 - 1, token.as_str())),
        }
    }

    /// The ids of all tokens that were added later, in order.
    pub fn added_ids(&self) -> BTreeSet<u64> {
        self.added_tokens.iter().map(|token| token.id).collect()
    }

    /// The largest id of a token that was added later.
    pub fn last_added(&self) -> Option<(u64, &str)> {
        self.added_tokens.iter().map(|token| (token.id, token.content.as_str())).max()
    }

    fn into_facts(self, out: &mut Facts) {
        let entries = match &self.model.vocab {
            Vocabulary::None => 0,
            Vocabulary::Ids(list) => list.len(),
            Vocabulary::Scores(list) => list.len(),
        };
        // A list by id must not be longer than what fills it, but for some gaps.
        let room = (entries + self.added_tokens.len()) as u64 + budget::TOKEN_GAPS;
        let mut tokens: Vec<Option<CompactString>> = Vec::new();
        let mut put = |id: u64, token: CompactString| {
            let place = usize::try_from(id).ok().filter(|_| id < room);
            if let Some(place) = place
                && tokens.len() <= place
            {
                tokens.resize(place + 1, None);
            }
            match place.and_then(|place| tokens.get_mut(place)) {
                Some(slot) if slot.as_ref().is_none_or(|old| *old == token) => *slot = Some(token),
                // Two tokens of one id, and ids out of bounds, are told apart all the same.
                _ => drop(out.rules.insert(format!("tokens[{id}] {token:?}"), true.into())),
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
            put(added.id, added.content.clone());
            out.added.insert(added.id, added);
        }
        out.tokens = Some(tokens).filter(|tokens| !tokens.is_empty());
        out.merges = self.model.merges.map(|merges| merges.into_iter().map(|merge| merge.0).collect());
        for (key, value) in [
            ("normalizer", self.normalizer),
            ("pre_tokenizer", self.pre_tokenizer),
            ("post_processor", self.post_processor),
            ("decoder", self.decoder),
            ("model.type", self.model.kind),
            ("model.dropout", self.model.dropout),
            ("model.unk_token", self.model.unk_token),
            ("model.unk_id", self.model.unk_id),
            ("model.continuing_subword_prefix", self.model.continuing_subword_prefix),
            ("model.end_of_word_suffix", self.model.end_of_word_suffix),
            ("model.max_input_chars_per_word", self.model.max_input_chars_per_word),
            ("model.fuse_unk", self.model.fuse_unk),
            ("model.byte_fallback", self.model.byte_fallback),
            ("model.ignore_merges", self.model.ignore_merges),
        ] {
            // Each of these is what a loader assumes where nothing is said.
            let nothing = value.is_null()
                || value == Value::Bool(false)
                || value.as_str() == Some("")
                || key == "model.dropout" && value.as_f64() == Some(0.0);
            if !nothing {
                out.rules.insert(key.to_owned(), value);
            }
        }
    }
}

/// SHA-256 over everything in which two folders' tokenizers can differ here: tokens, scores,
/// merges, flags of added tokens, rules and special tokens. However it is spelt, the same hashes
/// the same. `settings` is `tokenizer_config.json`, `map` is `special_tokens_map.json`. `None`
/// without tokens.
pub fn tokenizer_hash(tokenizer: Tokenizer, settings: Option<&Value>, map: Option<&Value>) -> Option<Sha256> {
    let mut facts = Facts::default();
    tokenizer.into_facts(&mut facts);
    tokenizer_config(settings, map, &mut facts);
    facts.tokenizer_hash()
}

/// Names of special tokens in `tokenizer_config.json` and in GGUF, which misspells one.
const SPECIAL: [(&str, &str); 7] = [
    ("bos_token", "bos_token_id"),
    ("eos_token", "eos_token_id"),
    ("unk_token", "unknown_token_id"),
    ("pad_token", "padding_token_id"),
    ("sep_token", "seperator_token_id"),
    ("cls_token", "cls_token_id"),
    ("mask_token", "mask_token_id"),
];

/// Which tokens are special, and what is put around a text.
fn tokenizer_config(config: Option<&Value>, map: Option<&Value>, out: &mut Facts) {
    let get = |from: Option<&'_ Value>, key: &str| from.and_then(|from| from.get(key)).cloned();
    // Loaders let the older file win where the newer does not list the added tokens.
    let map = map.filter(|_| get(config, "added_tokens_decoder").is_none());
    for (name, id_name) in SPECIAL {
        let value = get(map, name).or_else(|| get(config, name));
        let value = value.as_ref();
        let text = value.and_then(|value| value.as_str().or_else(|| value.get("content")?.as_str()));
        let place = text
            .and_then(|text| out.tokens.as_ref()?.iter().position(|token| token.as_deref() == Some(text)));
        if let Some(id) = place {
            out.special.insert(id_name.to_owned(), id.into());
        } else if let Some(text) = text {
            // Named, and no token of the vocabulary.
            out.special.insert(id_name.to_owned(), text.into());
        }
    }
    for key in ["add_bos_token", "add_eos_token"] {
        if let Some(flag) = get(config, key).filter(Value::is_boolean) {
            out.rules.insert(key.to_owned(), flag);
        }
    }
}

/// What the texts of a folder say.
pub(super) fn folder(path: &Path) -> Result<Facts, Problem> {
    let mut out = Facts::default();
    let file = path.join("tokenizer.json");
    if let Some(source) = source(&file, budget::JSON_FILE_BYTES)? {
        let failed = |error: io::Error| Problem::io("read", &file, &error);
        if !is_utf8(&source).map_err(failed)? {
            return Err(not_utf8(&file));
        }
        let tokenizer = Tokenizer::parse(Stream::new(&source));
        tokenizer
            .map_err(|error| if error.is_io() { failed(error.into()) } else { damaged(&file, &error) })?
            .into_facts(&mut out);
    }
    let json = |name: &str| -> Result<Option<Map<String, Value>>, Problem> {
        let file = path.join(name);
        let text = text(&file, budget::CONFIG_BYTES)?;
        text.map(|text| serde_json::from_str(&text).map_err(|error| damaged(&file, &error))).transpose()
    };
    let settings = json("tokenizer_config.json")?.map(Value::Object);
    let map = json("special_tokens_map.json")?.map(Value::Object);
    if let Some(settings) = &settings {
        out.templates.extend(template::of_config(settings));
    }
    tokenizer_config(settings.as_ref(), map.as_ref(), &mut out);
    for file in std::iter::once("chat_template.jinja".to_owned()).chain(named_templates(path)?) {
        if let Some(template) = text(&path.join(&file), budget::CONFIG_BYTES)? {
            out.templates.insert(template::of_file(&file).to_owned(), template);
        }
    }
    if let Some(config) = json("config.json")? {
        out.config = config::settings(&config);
    }
    if let Some(generation) = json("generation_config.json")? {
        out.generation = config::settings(&generation);
    }
    Ok(out)
}

fn damaged(path: &Path, error: &serde_json::Error) -> Problem {
    Problem::input(format!("{} is not what it must be: {error}", path.display()))
}

fn not_utf8(path: &Path) -> Problem {
    Problem::input(format!("{} is not valid UTF-8", path.display()))
}

/// A file of at most `limit` bytes; `None` if there is no such file.
fn source(path: &Path, limit: u64) -> Result<Option<SourceFile>, Problem> {
    if fs::symlink_metadata(path).is_err() {
        return Ok(None);
    }
    let file = SourceFile::open(path).map_err(|error| Problem::io("read", path, &error))?;
    if file.size() > limit {
        return Err(Problem::input(format!("{} is larger than {limit} bytes", path.display())));
    }
    Ok(Some(file))
}

/// A text of at most `limit` bytes; `None` if there is no such file.
fn text(path: &Path, limit: u64) -> Result<Option<String>, Problem> {
    let Some(file) = source(path, limit)? else { return Ok(None) };
    let mut bytes = vec![0; usize::try_from(file.size()).unwrap_or(0)];
    file.read_at(&mut bytes, 0).map_err(|error| Problem::io("read", path, &error))?;
    String::from_utf8(bytes).map(Some).map_err(|_| not_utf8(path))
}
