//! One side: what an artifact says of its tokenizer and its configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use compact_str::CompactString;
use serde_json::Value;

use super::hugging_face::{self, Added};
use crate::digest::Sha256Stream;
use crate::domain::{Problem, Sha256, budget};
use crate::model::gguf::{self, Array, GgmlType, Header, Metadata};
use crate::model::inspect::the_artifact;
use crate::model::source::{ReadAt as _, SourceFile};
use crate::model::{canonical, facts, split, template};

/// What one side says. `None` is not said.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub gguf: bool,
    /// By id; an id without a token is none.
    pub tokens: Option<Vec<Option<CompactString>>>,
    pub scores: Option<Vec<f64>>,
    pub kinds: Option<Vec<i128>>,
    /// `left right`, in order.
    pub merges: Option<Vec<CompactString>>,
    /// By id; GGUF has kinds instead.
    pub added: BTreeMap<u64, Added>,
    /// Ids under the names that GGUF has for them.
    pub special: BTreeMap<String, Value>,
    /// Everything else that decides how text is cut up.
    pub rules: BTreeMap<String, Value>,
    pub templates: BTreeMap<String, String>,
    pub config: BTreeMap<String, Value>,
    /// How text is generated if nobody says otherwise.
    pub generation: BTreeMap<String, Value>,
    /// Parts of the first layer of a GGUF file that have a bias, such as `attn_q`.
    pub biases: BTreeSet<String>,
}

impl Facts {
    /// Reads the headers and texts of an artifact; no weights.
    pub fn open(path: &Path) -> Result<Self, Problem> {
        let metadata = std::fs::metadata(path).map_err(|error| Problem::io("open", path, &error))?;
        if metadata.is_dir() {
            let own = the_artifact(path)?.path;
            return if own.is_dir() { hugging_face::folder(&own) } else { Self::open(&own) };
        }
        let files = split::of_path(path).map_or_else(|| vec![path.to_owned()], |name| name.paths(path));
        let mut out: Option<Self> = None;
        for file in &files {
            let read = |error: io::Error| Problem::io("read", file, &error);
            let source = SourceFile::open(file).map_err(|error| Problem::io("open", file, &error))?;
            let mut magic = [0; 4];
            if source.size() >= 4 {
                source.read_at(&mut magic, 0).map_err(read)?;
            }
            if magic != gguf::MAGIC && out.is_none() {
                return hugging_face::folder(file.parent().unwrap_or(Path::new(".")));
            }
            let header = gguf::read_strict(&source).map_err(|error| {
                Problem::input(format!("{} is damaged: {error}", file.display()))
                    .hint("`assayd inspect` says all that is wrong with it")
            })?;
            // The metadata of a split set are in its first part.
            let facts = out.get_or_insert_with(|| Self::of_metadata(&header.metadata));
            facts.of_tensors(&source, &header).map_err(read)?;
        }
        Ok(out.unwrap_or_default())
    }

    pub fn of_metadata(metadata: &Metadata) -> Self {
        let texts = |array: &Array| array.strings().map(CompactString::from_utf8_lossy).collect::<Vec<_>>();
        let of = |key: &str| metadata.array(&format!("tokenizer.ggml.{key}"));
        let settings = facts::tokenizer_settings(metadata);
        let (special, rules) = settings.into_iter().partition(|(key, _)| key.ends_with("_token_id"));
        let sampling = metadata.iter().filter_map(|(key, value)| {
            Some((key.strip_prefix("general.sampling.")?.to_owned(), facts::json(value)))
        });
        Self {
            gguf: true,
            tokens: of("tokens").map(|tokens| texts(tokens).into_iter().map(Some).collect()),
            scores: of("scores").map(|scores| scores.floats().collect()),
            kinds: of("token_type").map(|kinds| kinds.integers().collect()),
            merges: of("merges").map(texts),
            special,
            rules,
            templates: template::of_metadata(metadata)
                .into_iter()
                .map(|(name, text)| (name, text.to_owned()))
                .collect(),
            config: facts::config(metadata).unwrap_or_default(),
            generation: sampling.collect(),
            ..Self::default()
        }
    }

    /// What tensors say of the configuration, where metadata have no word for it: tables that are
    /// no weights, and biases.
    fn of_tensors(&mut self, source: &SourceFile, header: &Header) -> io::Result<()> {
        for tensor in &header.tensors {
            let Some(name) = tensor.name.strip_suffix(".weight") else {
                let bias = tensor.name.strip_prefix("blk.0.").and_then(|name| name.strip_suffix(".bias"));
                self.biases.extend(bias.map(str::to_owned));
                continue;
            };
            if !["rope_freqs", "rope_factors_long", "rope_factors_short"].contains(&name) {
                continue;
            }
            let value = if tensor.kind == GgmlType::F32 && tensor.elements() <= budget::ROPE_FACTORS {
                let mut bytes = vec![0; usize::try_from(tensor.bytes).unwrap_or(0)];
                source.read_at(&mut bytes, tensor.offset)?;
                bytes.as_chunks().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect()
            } else {
                Value::from(format!("{} {:?}", tensor.kind.name(), tensor.shape))
            };
            self.config.insert(name.to_owned(), value);
        }
        Ok(())
    }

    /// SHA-256 over everything that is compared of a folder's tokenizer; `None` without tokens.
    pub fn tokenizer_hash(&self) -> Option<Sha256> {
        let mut stream = Sha256Stream::new();
        let mut put = |part: &[u8]| {
            stream.update(&(part.len() as u64).to_le_bytes());
            stream.update(part);
        };
        put(b"assayd tokenizer of a folder 2");
        let tokens = self.tokens.as_ref()?;
        for (id, token) in (0u64..).zip(tokens).filter_map(|(id, token)| Some((id, token.as_ref()?))) {
            put(&id.to_le_bytes());
            put(token.as_bytes());
        }
        let count = |list: Option<usize>| (list.map_or(u64::MAX, |count| count as u64)).to_le_bytes();
        put(&count(self.scores.as_ref().map(Vec::len)));
        self.scores.iter().flatten().for_each(|score| put(&score.to_bits().to_le_bytes()));
        put(&count(self.merges.as_ref().map(Vec::len)));
        self.merges.iter().flatten().for_each(|merge| put(merge.as_bytes()));
        put(&count(Some(self.added.len())));
        for (id, added) in &self.added {
            put(&id.to_le_bytes());
            put(added.to_string().as_bytes());
        }
        for entries in [&self.special, &self.rules] {
            put(&canonical::digest(&serde_json::to_string(entries).ok()?, &[]).ok()?.0);
        }
        Some(stream.finish())
    }
}
