//! One side of a comparison: an artifact opened, its tensors listed under the names and in
//! the row order of GGUF, whatever the format.
//!
//! Hugging Face tensors are translated where the other side is GGUF (`names`): rows are read in
//! GGUF's order, experts as one tensor, and norms that are stored less one with that one.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::decode::{self, Weights};
use super::half::{f32_to_bf16, f32_to_f16};
use super::names::{Place, gguf_name, layout};
use super::quantize::has_reference;
use crate::domain::inspection::ArtifactKind;
use crate::domain::{Problem, ProblemKind, budget};
use crate::model::discover::Artifact;
use crate::model::finding::Findings;
use crate::model::gguf::{self, GgmlType};
use crate::model::inspect::the_artifact;
use crate::model::sniff::{Content, sniff};
use crate::model::source::{ReadAt as _, SourceFile};
use crate::model::{folder, safetensors, split};

/// A tensor of one side.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub dtype: &'static str,
    /// How to read the weights; `None` for types that are no weights of a known form.
    pub kind: Option<GgmlType>,
    /// The slowest-varying dimension first, without leading dimensions of 1.
    pub shape: Vec<u64>,
    /// Where the bytes are: in one piece, or in equal ones, one after the other.
    pub pieces: Vec<Piece>,
    pub bytes: u64,
    /// Rows per head, if the two halves of every head are to be interleaved.
    pub heads: Option<u64>,
    /// What its numbers are made of, if they are not stored as they are.
    made: Option<Made>,
}

/// Numbers that are others rounded to another float type.
#[derive(Debug, Clone)]
struct Made {
    of: Box<Entry>,
    /// They are stored less one.
    with_one: bool,
}

/// The file and the place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub file: usize,
    offset: u64,
}

impl Entry {
    pub fn elements(&self) -> u64 {
        self.shape.iter().fold(1, |product, &dimension| product.saturating_mul(dimension))
    }

    pub fn columns(&self) -> u64 {
        self.shape.last().copied().unwrap_or(1).max(1)
    }

    /// The first rows of a matrix, where they lie as they are read.
    pub fn first_rows(&self, count: u64) -> Option<Self> {
        let [rows, columns] = *self.shape.as_slice() else { return None };
        let plain = self.pieces.len() == 1 && self.heads.is_none() && self.made.is_none();
        (plain && count <= rows && rows > 0).then(|| Self {
            shape: vec![count, columns],
            bytes: self.bytes / rows * count,
            ..self.clone()
        })
    }

    /// The same weights as they would be after rounding to F16, BF16 or a block type with a reference
    /// algorithm here; `None` where they are not weights of another float type, or not whole blocks.
    pub fn rounded_to(&self, kind: GgmlType) -> Option<Self> {
        let is_float = |stored: &GgmlType| stored.block() == 1 && decode::is_known(*stored);
        self.kind.filter(|stored| is_float(stored) && *stored != kind)?;
        self.columns().is_multiple_of(kind.block()).then_some(())?;
        Some(Self {
            dtype: kind.name(),
            kind: Some(kind),
            bytes: kind.bytes(self.elements())?,
            made: Some(Made { of: Box::new(self.clone()), with_one: false }),
            ..self.clone()
        })
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
    /// Those of which it is not known under what name GGUF has them.
    pub foreign: BTreeSet<String>,
    /// How the family is laid out in GGUF is not known.
    pub guessed: bool,
    pub architecture: Option<String>,
    pub gguf: bool,
    /// The output matrix that is not there, and for which the embedding stands.
    pub tied: Option<&'static str>,
    /// In GGUF: heads of attention, and of its keys and values.
    heads: Option<[u64; 2]>,
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
            foreign: BTreeSet::new(),
            guessed: false,
            architecture: None,
            gguf: false,
            tied: None,
            heads: None,
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
                let count = |key: &str| header.metadata.hparam(key)?.as_u64();
                let heads = count("attention.head_count");
                self.heads = heads.zip(count("attention.head_count_kv").or(heads)).map(Into::into);
            }
            for tensor in &header.tensors {
                let entry = Entry {
                    dtype: tensor.kind.name(),
                    kind: Some(tensor.kind),
                    shape: trimmed(tensor.shape.iter().rev()),
                    pieces: vec![Piece { file, offset: tensor.offset }],
                    bytes: tensor.bytes,
                    heads: None,
                    made: None,
                };
                self.insert(path, &tensor.name, (tensor.offset, source.size()), entry)?;
            }
            self.data_offsets.push(header.data_offset);
        } else {
            let content = sniff(&source, 0).map_err(|error| io(&error))?;
            if content != Content::Safetensors {
                let what =
                    format!("{} is {}, and neither GGUF nor safetensors", path.display(), content.name());
                let hint =
                    "`assayd inspect` says more about it; weights of other formats must be converted first";
                return Err(Problem::new(ProblemKind::Input, what).hint(hint));
            }
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
                    pieces: vec![Piece { file, offset: tensor.offset }],
                    bytes: tensor.bytes,
                    heads: None,
                    made: None,
                };
                self.insert(path, &tensor.name, (tensor.offset, source.size()), entry)?;
            }
            self.data_offsets.push(header.data_offset);
        }
        self.files.push((path.to_owned(), source));
        Ok(())
    }

    fn insert(
        &mut self,
        path: &Path,
        name: &str,
        (offset, size): (u64, u64),
        entry: Entry,
    ) -> Result<(), Problem> {
        if offset.checked_add(entry.bytes).is_none_or(|end| end > size) {
            return Err(damaged(path, &format!("the tensor {name} is not whole")));
        }
        match self.tensors.insert(name.to_owned(), entry) {
            None => Ok(()),
            Some(_) => Err(damaged(path, &format!("the tensor {name} occurs twice"))),
        }
    }

    /// Gives the tensors the names, the row order and the shape that the GGUF side uses.
    pub fn speak_gguf(&mut self, architecture: Option<&str>) {
        let Some(layout) = architecture.and_then(layout) else {
            self.foreign = self.tensors.keys().cloned().collect();
            self.guessed = true;
            return;
        };
        let [heads, key_heads] = self.configured_heads().map_or([None; 2], |counts| counts.map(Some));
        let mut experts: BTreeMap<String, BTreeMap<u64, (String, Entry)>> = BTreeMap::new();
        for (name, mut entry) in std::mem::take(&mut self.tensors) {
            match gguf_name(layout, &name) {
                Some(Place::Own(own)) => {
                    let of = match own.split('.').nth(2) {
                        Some("attn_q") if layout.interleaved => heads,
                        Some("attn_k") if layout.interleaved => key_heads,
                        _ => None,
                    };
                    entry.interleave(of);
                    if layout.norms_less_one && own.ends_with("norm.weight") {
                        entry.add_one();
                    }
                    self.tensors.insert(own, entry);
                }
                Some(Place::Expert(own, number)) => {
                    experts.entry(own).or_default().insert(number, (name, entry));
                }
                None => {
                    self.foreign.insert(name.clone());
                    self.tensors.insert(name, entry);
                }
            }
        }
        for (own, list) in experts {
            match stacked(&list) {
                Some(entry) => drop(self.tensors.insert(own, entry)),
                None => {
                    self.foreign.extend(list.values().map(|(name, _)| name.clone()));
                    self.tensors.extend(list.into_values());
                }
            }
        }
    }

    fn configured_heads(&self) -> Option<[u64; 2]> {
        let number = |key: &str| self.config.as_ref()?.get(key)?.as_u64();
        let heads = number("num_attention_heads")?;
        Some([heads, number("num_key_value_heads").unwrap_or(heads)])
    }

    /// Heads of attention, and of its keys and values, where all are treated alike.
    pub fn head_counts(&self) -> Option<[u64; 2]> {
        if self.gguf {
            self.architecture.as_deref().and_then(layout)?;
            return self.heads;
        }
        let family = self.config.as_ref()?.get("model_type")?.as_str()?.replace('_', "");
        layout(&family)?;
        self.configured_heads()
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
                self.tied = Some(output);
            }
        }
    }

    /// Reads bytes of a tensor, in the order of GGUF. `start` and `buffer` are whole rows
    /// where rows are moved, and whole blocks everywhere.
    pub fn read(&self, entry: &Entry, start: u64, buffer: &mut [u8]) -> Result<(), Problem> {
        if let (Some(made), Some(kind)) = (&entry.made, entry.kind) {
            return self.read_made(made, kind, start, buffer);
        }
        let Some(per_head) = entry.heads else { return self.read_stored(entry, start, buffer) };
        let count = if entry.shape.len() == 1 { entry.columns() } else { entry.elements() / entry.columns() };
        let row_bytes = entry.bytes / count.max(1);
        let Ok(width) = usize::try_from(row_bytes) else {
            return Err(Problem::internal("a row beyond memory"));
        };
        for (row, out) in (start / row_bytes.max(1)..).zip(buffer.chunks_mut(width.max(1))) {
            let (head, within) = (row / per_head, row % per_head);
            let from = head * per_head + within % 2 * (per_head / 2) + within / 2;
            self.read_stored(entry, from * row_bytes, out)?;
        }
        Ok(())
    }

    /// As they are stored.
    fn read_stored(&self, entry: &Entry, start: u64, buffer: &mut [u8]) -> Result<(), Problem> {
        let size = (entry.bytes / (entry.pieces.len() as u64).max(1)).max(1);
        let (mut at, mut rest) = (start, buffer);
        while !rest.is_empty() {
            let piece = usize::try_from(at / size).ok().and_then(|number| entry.pieces.get(number));
            let Some((piece, (path, source))) =
                piece.and_then(|piece| Some((piece, self.files.get(piece.file)?)))
            else {
                return Err(Problem::internal("a tensor of no file"));
            };
            let left = usize::try_from(size - at % size).unwrap_or(usize::MAX).min(rest.len());
            let (part, others) = rest.split_at_mut(left);
            source
                .read_at(part, piece.offset + at % size)
                .map_err(|error| Problem::io("read", path, &error))?;
            (at, rest) = (at + left as u64, others);
        }
        Ok(())
    }

    /// Numbers that are made of others, as a float type.
    fn read_made(&self, made: &Made, kind: GgmlType, start: u64, buffer: &mut [u8]) -> Result<(), Problem> {
        let stored = made.of.kind.ok_or_else(|| Problem::internal("numbers are made of no type"))?;
        let (block, size, from) = (kind.block(), kind.block_bytes(), stored.block_bytes());
        let length = usize::try_from(buffer.len() as u64 / size * block * from).unwrap_or(0);
        let (mut bytes, mut values) = (vec![0; length], Vec::new());
        self.read(&made.of, start / size * block * from, &mut bytes)?;
        decode::values(stored, &bytes, &mut values, &mut Weights::default());
        if made.with_one {
            values.iter_mut().for_each(|value| *value += 1.0);
        }
        let halves = |round: fn(f32) -> u16, buffer: &mut [u8]| {
            let places = buffer.as_chunks_mut().0.iter_mut();
            places.zip(&values).for_each(|(out, &value)| *out = round(value).to_le_bytes());
        };
        match kind {
            GgmlType::F16 => halves(f32_to_f16, buffer),
            GgmlType::BF16 => halves(f32_to_bf16, buffer),
            _ if has_reference(kind) => {
                let blocks = super::quantize(kind, &values).filter(|blocks| blocks.len() == buffer.len());
                buffer.copy_from_slice(&blocks.ok_or_else(|| Problem::internal("a part of a block"))?);
            }
            _ => {
                let places = buffer.as_chunks_mut().0.iter_mut();
                places.zip(&values).for_each(|(out, value)| *out = value.to_le_bytes());
            }
        }
        Ok(())
    }
}

impl Entry {
    /// Its rows are those of so many heads, whose halves are to be interleaved.
    fn interleave(&mut self, heads: Option<u64>) {
        let rows = if self.shape.len() == 1 { self.columns() } else { self.elements() / self.columns() };
        self.heads =
            heads.filter(|&heads| heads > 0 && rows.is_multiple_of(heads * 2)).map(|heads| rows / heads);
    }

    /// One is to be added, in single precision; in half, sums are rounded in ways not known here.
    fn add_one(&mut self) {
        match self.kind {
            Some(GgmlType::F32 | GgmlType::BF16) => {
                self.made = Some(Made { of: Box::new(self.clone()), with_one: true });
                (self.kind, self.dtype) = (Some(GgmlType::F32), GgmlType::F32.name());
                self.bytes = self.elements().saturating_mul(4);
            }
            _ => self.kind = None,
        }
    }
}

/// The experts of a tensor as one; `None` if one is missing or they are not alike.
fn stacked(list: &BTreeMap<u64, (String, Entry)>) -> Option<Entry> {
    let (_, first) = list.get(&0)?;
    let alike = |(place, (number, (_, entry))): (u64, (&u64, &(String, Entry)))| {
        place == *number && entry.shape == first.shape && entry.dtype == first.dtype
    };
    if !(0..).zip(list).all(alike) {
        return None;
    }
    let count = list.len() as u64;
    let shape = [count].into_iter().chain(first.shape.iter().copied()).skip_while(|&size| size == 1);
    Some(Entry {
        shape: shape.collect(),
        pieces: list.values().flat_map(|(_, entry)| entry.pieces.iter().copied()).collect(),
        bytes: first.bytes.checked_mul(count)?,
        ..first.clone()
    })
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
    // All of them: the index has a say in which are the model's weights.
    let mut files: Vec<PathBuf> =
        entries.take(budget::DISCOVER_ENTRIES).filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    let name = |path: &PathBuf| Some(path.file_name()?.to_str()?.to_owned());
    // What the index lists is wanted whether it is there or not; a link to nothing is not.
    let names = files.iter().filter(|path| path.exists()).filter_map(name).collect();
    let (loaded, absent) = folder::wanted(folder, &names);
    if let Some(missing) = absent.first() {
        let what = format!("{} is not whole: {missing} is missing", folder.display());
        return Err(Problem::new(ProblemKind::Input, what).hint("Download the missing file"));
    }
    files.retain(|path| name(path).is_some_and(|name| loaded.contains(&name)));
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

    /// A comparison takes the weights that an inspection does.
    #[test]
    fn the_index_says_which_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let part = "m-00001-of-00001.safetensors";
        for name in [part, "model.safetensors", "notes.txt"] {
            std::fs::write(path(name), "").unwrap();
        }
        assert_eq!(shards(folder.path()).unwrap(), [path("model.safetensors")]);
        let index = serde_json::json!({"weight_map": {"a": part}}).to_string();
        std::fs::write(path("model.safetensors.index.json"), index).unwrap();
        assert_eq!(shards(folder.path()).unwrap(), [path(part)]);
    }
}
