//! One side of a comparison: an artifact opened, its tensors listed under the names and in
//! the row order of GGUF, whatever the format.
//!
//! Hugging Face names are translated where the other side is GGUF. For the llama family
//! the rows of the query and key projections are in another order there (the halves of a
//! head one after the other instead of interleaved); they are read in GGUF's order.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use crate::domain::inspection::ArtifactKind;
use crate::domain::{Problem, ProblemKind, budget};
use crate::model::discover::Artifact;
use crate::model::finding::Findings;
use crate::model::gguf::{self, GgmlType};
use crate::model::inspect::the_artifact;
use crate::model::source::{ReadAt as _, SourceFile};
use crate::model::{safetensors, split};

/// A tensor of one side.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub dtype: &'static str,
    /// How to read the weights; `None` for types that are no weights of a known form.
    pub kind: Option<GgmlType>,
    /// The slowest-varying dimension first, without leading dimensions of 1.
    pub shape: Vec<u64>,
    pub file: usize,
    pub offset: u64,
    pub bytes: u64,
    /// Rows per head, if the two halves of every head are to be interleaved.
    pub heads: Option<u64>,
}

impl Entry {
    pub fn elements(&self) -> u64 {
        self.shape.iter().fold(1, |product, &dimension| product.saturating_mul(dimension))
    }

    pub fn columns(&self) -> u64 {
        self.shape.last().copied().unwrap_or(1).max(1)
    }
}

/// An opened artifact.
#[derive(Debug)]
pub(super) struct Side {
    pub files: Vec<(PathBuf, SourceFile)>,
    pub tensors: BTreeMap<String, Entry>,
    /// Bytes before the tensor data of each file.
    pub data_offsets: Vec<u64>,
    /// Those that hold a second scale for weights of NVFP4, which then are not what their blocks
    /// alone say.
    pub scales: BTreeSet<String>,
    pub architecture: Option<String>,
    pub gguf: bool,
    config: Option<serde_json::Value>,
}

impl Side {
    /// Opens a GGUF file, a split set, a safetensors file or a folder.
    ///
    /// # Errors
    /// It cannot be read, is damaged, or is of a format without readable tensors.
    pub fn open(path: &Path) -> Result<Self, Problem> {
        let metadata = std::fs::metadata(path).map_err(|error| Problem::io("open", path, &error))?;
        let files = if metadata.is_dir() {
            let Artifact { path: own, kind, .. } = the_artifact(path)?;
            match (own.is_dir(), kind) {
                (true, ArtifactKind::Adapter) => return Err(no_weights(path, "an adapter")),
                (true, _) => shards(&own)?,
                (false, _) => return Self::open(&own),
            }
        } else {
            split::of_path(path).map_or_else(|| vec![path.to_owned()], |name| name.paths(path))
        };
        let mut side = Self {
            files: Vec::new(),
            tensors: BTreeMap::new(),
            data_offsets: Vec::new(),
            scales: BTreeSet::new(),
            architecture: None,
            gguf: false,
            config: None,
        };
        for file in &files {
            side.add(file)?;
        }
        let of_nvfp4 = side.tensors.iter().filter(|(_, entry)| entry.kind == Some(GgmlType::NVFP4));
        let scaled = of_nvfp4.filter_map(|(name, _)| {
            let scale = format!("{}.scale", name.strip_suffix(".weight")?);
            side.tensors.contains_key(&scale).then(|| (name.clone(), scale))
        });
        for (name, scale) in scaled.collect::<Vec<_>>() {
            if let Some(entry) = side.tensors.get_mut(&name) {
                entry.kind = None;
            }
            side.scales.insert(scale);
        }
        if !side.gguf {
            side.config = config(files.first().and_then(|file| file.parent()));
        }
        if side.tensors.is_empty() {
            return Err(no_weights(path, "without tensors"));
        }
        Ok(side)
    }

    fn add(&mut self, path: &Path) -> Result<(), Problem> {
        let io = |error: &io::Error| Problem::io("read", path, error);
        let source = SourceFile::open(path).map_err(|error| io(&error))?;
        let mut magic = [0; 4];
        if source.size() >= 4 {
            source.read_at(&mut magic, 0).map_err(|error| io(&error))?;
        }
        let file = self.files.len();
        if magic == gguf::MAGIC {
            let header = gguf::read_strict(&source).map_err(|error| damaged(path, &error.to_string()))?;
            self.gguf = true;
            if self.architecture.is_none() {
                self.architecture = header.metadata.architecture().map(str::to_owned);
            }
            for tensor in &header.tensors {
                let entry = Entry {
                    dtype: tensor.kind.name(),
                    kind: Some(tensor.kind),
                    shape: trimmed(tensor.shape.iter().rev()),
                    file,
                    offset: tensor.offset,
                    bytes: tensor.bytes,
                    heads: None,
                };
                self.insert(path, source.size(), &tensor.name, entry)?;
            }
            self.data_offsets.push(header.data_offset);
        } else {
            let mut findings = Findings::default();
            let header = safetensors::read(&source, &mut findings).map_err(|error| io(&error))?;
            let faults = findings.has_errors();
            let Some(header) = header.filter(|_| !faults) else {
                let why = findings.finish().first().map(|finding| finding.message.clone());
                return Err(damaged(path, why.as_deref().unwrap_or("no readable header")));
            };
            for tensor in &header.tensors {
                let entry = Entry {
                    dtype: tensor.dtype.name,
                    kind: match tensor.dtype.name {
                        "F32" => Some(GgmlType::F32),
                        "F16" => Some(GgmlType::F16),
                        "BF16" => Some(GgmlType::BF16),
                        "F64" => Some(GgmlType::F64),
                        _ => None,
                    },
                    shape: trimmed(tensor.shape.iter()),
                    file,
                    offset: tensor.offset,
                    bytes: tensor.bytes,
                    heads: None,
                };
                self.insert(path, source.size(), &tensor.name, entry)?;
            }
            self.data_offsets.push(header.data_offset);
        }
        self.files.push((path.to_owned(), source));
        Ok(())
    }

    fn insert(&mut self, path: &Path, size: u64, name: &str, entry: Entry) -> Result<(), Problem> {
        if entry.offset.checked_add(entry.bytes).is_none_or(|end| end > size) {
            return Err(damaged(path, &format!("the tensor {name} is not whole")));
        }
        match self.tensors.insert(name.to_owned(), entry) {
            None => Ok(()),
            Some(_) => Err(damaged(path, &format!("the tensor {name} occurs twice"))),
        }
    }

    /// Gives the tensors the names and the row order that the GGUF side uses.
    pub fn speak_gguf(&mut self, architecture: Option<&str>) {
        let number = |key: &str| self.config.as_ref()?.get(key)?.as_u64();
        let interleaved = matches!(architecture, Some("llama" | "mistral3"));
        let heads = number("num_attention_heads");
        let key_heads = number("num_key_value_heads").or(heads);
        let old = std::mem::take(&mut self.tensors);
        for (name, mut entry) in old {
            let new = gguf_name(&name);
            let of = match new.as_deref().and_then(|name| name.split('.').nth(2)) {
                Some("attn_q") if interleaved => heads,
                Some("attn_k") if interleaved => key_heads,
                _ => None,
            };
            let rows = entry.elements() / entry.columns();
            let rows = if entry.shape.len() == 1 { entry.columns() } else { rows };
            entry.heads =
                of.filter(|&heads| heads > 0 && rows.is_multiple_of(heads * 2)).map(|heads| rows / heads);
            self.tensors.entry(new.unwrap_or(name)).or_insert(entry);
        }
    }

    /// Where the other side has an output matrix and this one uses its embedding instead,
    /// the embedding stands under both names.
    pub fn untie_like(&mut self, other: &Self) {
        for (output, embedding) in
            [("output.weight", "token_embd.weight"), ("lm_head.weight", "model.embed_tokens.weight")]
        {
            if other.tensors.contains_key(output)
                && !self.tensors.contains_key(output)
                && let Some(entry) = self.tensors.get(embedding)
            {
                self.tensors.insert(output.to_owned(), entry.clone());
            }
        }
    }

    /// Reads bytes of a tensor, in the order of GGUF. `start` and `buffer` are whole rows
    /// where rows are moved, and whole blocks everywhere.
    pub fn read(&self, entry: &Entry, start: u64, buffer: &mut [u8]) -> Result<(), Problem> {
        let Some((path, source)) = self.files.get(entry.file) else {
            return Err(Problem::internal("a tensor of no file"));
        };
        let failed = |error: io::Error| Problem::io("read", path, &error);
        let Some(per_head) = entry.heads else {
            return source.read_at(buffer, entry.offset + start).map_err(failed);
        };
        let count = if entry.shape.len() == 1 { entry.columns() } else { entry.elements() / entry.columns() };
        let row_bytes = entry.bytes / count.max(1);
        let Ok(width) = usize::try_from(row_bytes) else {
            return Err(Problem::internal("a row beyond memory"));
        };
        for (row, out) in (start / row_bytes.max(1)..).zip(buffer.chunks_mut(width.max(1))) {
            let (head, within) = (row / per_head, row % per_head);
            let from = head * per_head + within % 2 * (per_head / 2) + within / 2;
            source.read_at(out, entry.offset + from * row_bytes).map_err(failed)?;
        }
        Ok(())
    }
}

/// `model.layers.3.mlp.up_proj.weight` is `blk.3.ffn_up.weight`; `None` if there is no rule.
fn gguf_name(name: &str) -> Option<String> {
    match name {
        "model.embed_tokens.weight" => return Some("token_embd.weight".to_owned()),
        "model.norm.weight" => return Some("output_norm.weight".to_owned()),
        "lm_head.weight" => return Some("output.weight".to_owned()),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (part, end) = rest.rsplit_once('.')?;
    let part = match part {
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" => "ffn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        _ => return None,
    };
    Some(format!("blk.{layer}.{part}.{end}"))
}

fn trimmed<'a>(shape: impl Iterator<Item = &'a u64>) -> Vec<u64> {
    shape.copied().skip_while(|&dimension| dimension == 1).collect()
}

fn damaged(path: &Path, why: &str) -> Problem {
    Problem::new(ProblemKind::Input, format!("{} is damaged: {why}", path.display()))
        .hint("`assayd inspect --full` says all that is wrong with it")
}

fn no_weights(path: &Path, what: &str) -> Problem {
    Problem::new(ProblemKind::Input, format!("{} is {what}; there are no weights to compare", path.display()))
}

/// The safetensors files of a folder.
fn shards(folder: &Path) -> Result<Vec<PathBuf>, Problem> {
    let entries = std::fs::read_dir(folder).map_err(|error| Problem::io("open", folder, &error))?;
    let mut files: Vec<PathBuf> = entries
        .take(budget::DISCOVER_ENTRIES)
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|end| end.eq_ignore_ascii_case("safetensors")))
        .collect();
    files.sort();
    Ok(files)
}

fn config(folder: Option<&Path>) -> Option<serde_json::Value> {
    let path = folder?.join("config.json");
    let file = SourceFile::open(&path).ok().filter(|file| file.size() <= budget::CONFIG_BYTES)?;
    let mut bytes = vec![0; usize::try_from(file.size()).ok()?];
    file.read_at(&mut bytes, 0).ok()?;
    serde_json::from_slice(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_translated() {
        for (name, gguf) in [
            ("lm_head.weight", Some("output.weight")),
            ("model.layers.12.self_attn.k_proj.bias", Some("blk.12.attn_k.bias")),
            ("model.layers.0.post_attention_layernorm.weight", Some("blk.0.ffn_norm.weight")),
            ("model.layers.0.block_sparse_moe.gate.weight", None),
            ("visual.blocks.0.norm1.weight", None),
        ] {
            assert_eq!(gguf_name(name).as_deref(), gguf, "{name}");
        }
    }
}
