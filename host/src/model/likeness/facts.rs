//! One side: what an artifact says of its tokenizer and its configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::hugging_face;
use crate::domain::Problem;
use crate::model::gguf::{self, Array, Metadata};
use crate::model::inspect::the_artifact;
use crate::model::source::{ReadAt as _, SourceFile};
use crate::model::{facts, split, template};

/// What one side says. `None` is not said.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub gguf: bool,
    /// By id; an id without a token is none.
    pub tokens: Option<Vec<Option<String>>>,
    pub scores: Option<Vec<f64>>,
    pub kinds: Option<Vec<i128>>,
    /// `left right`, in order.
    pub merges: Option<Vec<String>>,
    /// Ids under the names that GGUF has for them.
    pub special: BTreeMap<String, Value>,
    /// Everything else that decides how text is cut up.
    pub rules: BTreeMap<String, Value>,
    pub templates: BTreeMap<String, String>,
    pub config: BTreeMap<String, Value>,
}

impl Facts {
    /// Reads the headers and texts of an artifact; no weights.
    pub fn open(path: &Path) -> Result<Self, Problem> {
        let metadata = std::fs::metadata(path).map_err(|error| Problem::io("open", path, &error))?;
        if metadata.is_dir() {
            let own = the_artifact(path)?.path;
            return if own.is_dir() { hugging_face::folder(&own) } else { Self::open(&own) };
        }
        // The metadata of a split set are in its first part.
        let first: PathBuf = split::of_path(path)
            .and_then(|name| name.paths(path).into_iter().next())
            .unwrap_or_else(|| path.to_owned());
        let source = SourceFile::open(&first).map_err(|error| Problem::io("open", &first, &error))?;
        let mut magic = [0; 4];
        if source.size() >= 4 {
            source.read_at(&mut magic, 0).map_err(|error| Problem::io("read", &first, &error))?;
        }
        if magic != gguf::MAGIC {
            return hugging_face::folder(first.parent().unwrap_or(Path::new(".")));
        }
        let header = gguf::read_strict(&source).map_err(|error| {
            Problem::input(format!("{} is damaged: {error}", first.display()))
                .hint("`assayd inspect` says all that is wrong with it")
        })?;
        Ok(Self::of_metadata(&header.metadata))
    }

    pub fn of_metadata(metadata: &Metadata) -> Self {
        let texts = |array: &Array| {
            array.strings().map(|text| String::from_utf8_lossy(text).into_owned()).collect::<Vec<_>>()
        };
        let of = |key: &str| metadata.array(&format!("tokenizer.ggml.{key}"));
        let mut out = Self {
            gguf: true,
            tokens: of("tokens").map(|tokens| texts(tokens).into_iter().map(Some).collect()),
            scores: of("scores").map(|scores| scores.floats().collect()),
            kinds: of("token_type").map(|kinds| kinds.integers().collect()),
            merges: of("merges").map(texts),
            templates: template::of_metadata(metadata)
                .into_iter()
                .map(|(name, text)| (name, text.to_owned()))
                .collect(),
            ..Self::default()
        };
        for (key, value) in metadata.iter() {
            let Some(key) = key.strip_prefix("tokenizer.ggml.") else { continue };
            if key.ends_with("_token_id") {
                // The largest u32 is how some converters write "none".
                if let Some(id) = value.as_u64().filter(|id| *id != u64::from(u32::MAX)) {
                    out.special.insert(key.to_owned(), id.into());
                }
            } else if value.as_array().is_none() {
                let value = match value {
                    gguf::Value::String(text) => Value::from(text.as_str()),
                    gguf::Value::Bool(flag) => Value::from(*flag),
                    other => other
                        .as_integer()
                        .and_then(|number| i64::try_from(number).ok())
                        .map_or(Value::Null, Value::from),
                };
                out.rules.insert(key.to_owned(), value);
            } else if !["tokens", "scores", "token_type", "merges"].contains(&key) {
                // Such as a precompiled normalizer: named by its digest.
                let digest = value.as_array().map(|array| crate::digest::sha256(array.raw()).to_string());
                out.rules.insert(key.to_owned(), digest.into());
            }
        }
        let config = facts::canonical_config(metadata).and_then(|text| serde_json::from_str(&text).ok());
        out.config = config.unwrap_or_default();
        out
    }

    /// The configuration under the keys of GGUF, as far as there is a rule.
    pub fn in_gguf_terms(&self) -> BTreeMap<String, Value> {
        if self.gguf {
            return self.config.clone();
        }
        let get = |key: &str| {
            let inner = format!("text_config.{key}");
            self.config.get(key).or_else(|| self.config.get(&inner)).filter(|value| !value.is_null()).cloned()
        };
        [
            ("hidden_size", "embedding_length"),
            ("num_hidden_layers", "block_count"),
            ("intermediate_size", "feed_forward_length"),
            ("num_attention_heads", "attention.head_count"),
            ("num_key_value_heads", "attention.head_count_kv"),
            ("head_dim", "attention.key_length"),
            ("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
            ("rope_theta", "rope.freq_base"),
            ("rope_parameters.rope_theta", "rope.freq_base"),
            ("max_position_embeddings", "context_length"),
            ("vocab_size", "vocab_size"),
            ("num_experts_per_tok", "expert_used_count"),
            ("sliding_window", "attention.sliding_window"),
        ]
        .into_iter()
        .filter_map(|(theirs, ours)| Some((ours.to_owned(), get(theirs)?)))
        .collect()
    }
}
