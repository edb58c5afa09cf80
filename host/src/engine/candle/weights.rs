//! The tensors of a folder: found by their headers, checked against the layout before any is
//! read, then read one at a time with plain reads and widened to F32.
//!
//! Nothing is mapped: a file that shrinks gives an error here and no signal.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use super::layout::{Layout, Place, is_computed};
use super::matrix::SLAB;
use crate::domain::inspection::Severity;
use crate::model::finding::Findings;
use crate::model::source::{ReadAt as _, SourceFile};
use crate::model::{folder, safetensors};

/// How many names an error lists.
const NAMED: usize = 8;

/// One tensor in one of the files.
#[derive(Debug)]
struct Stored {
    file: usize,
    tensor: safetensors::Tensor,
}

/// Opened files of weights and what their headers list.
#[derive(Debug)]
pub(super) struct Weights {
    files: Vec<(PathBuf, SourceFile)>,
    tensors: BTreeMap<String, Stored>,
}

impl Weights {
    /// Opens the safetensors files among `paths` that are the model's weights. `prefix` is taken off names that have it.
    ///
    /// # Errors
    /// A file cannot be read, a header is not sound, a tensor is there twice, or a file has
    /// another size than its header says.
    pub fn open(paths: &[PathBuf], prefix: &str) -> Result<Self, String> {
        let mut weights = Self { files: Vec::new(), tensors: BTreeMap::new() };
        for path in folder::loaded_of(paths) {
            let failed = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
            let source = SourceFile::open(path).map_err(|error| failed(&error))?;
            let mut findings = Findings::default();
            let header = safetensors::read(&source, &mut findings).map_err(|error| failed(&error))?;
            let findings = findings.finish();
            if let Some(finding) = findings.iter().find(|finding| finding.severity == Severity::Error) {
                return Err(failed(&finding.message));
            }
            let header = header.ok_or_else(|| failed(&"the header cannot be read"))?;
            for tensor in header.tensors {
                let name = tensor.name.strip_prefix(prefix).unwrap_or(&tensor.name).to_owned();
                let stored = Stored { file: weights.files.len(), tensor };
                if weights.tensors.insert(name.clone(), stored).is_some() {
                    return Err(failed(&format_args!("the tensor {name} is there twice")));
                }
            }
            weights.files.push((path.to_owned(), source));
        }
        if weights.files.is_empty() {
            return Err("there is no file of weights".to_owned());
        }
        Ok(weights)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let shape = &self.tensors.get(name)?.tensor.shape;
        shape.iter().map(|&size| usize::try_from(size).ok()).collect()
    }

    /// Values stored, and bytes they take as stored.
    pub fn size(&self) -> (u64, u64) {
        self.tensors.values().fold((0, 0), |(values, bytes), stored| {
            (values + stored.tensor.elements(), bytes + stored.tensor.bytes)
        })
    }

    /// Is everything there that the layout names, in its shape and a type that can be read,
    /// and nothing else? A second copy of the embedding under the name of the output matrix
    /// is allowed where the two are one; `tied` names it, and it must then be equal.
    ///
    /// # Errors
    /// The tensors that are missing, too many, or of another shape or type.
    pub fn check(&self, layout: &Layout) -> Result<(), String> {
        let wanted: BTreeSet<&str> = layout.all().map(|place| place.name.as_str()).collect();
        let missing: Vec<&str> =
            wanted.iter().copied().filter(|name| !self.tensors.contains_key(*name)).collect();
        let extra: Vec<&str> = self
            .names()
            .filter(|name| !wanted.contains(name) && !is_computed(name) && *name != HEAD)
            .collect();
        let mut wrong = Vec::new();
        if !missing.is_empty() {
            wrong.push(format!("missing tensors: {}", list(&missing)));
        }
        if !extra.is_empty() {
            wrong.push(format!("tensors that this architecture does not have: {}", list(&extra)));
        }
        let shapes: Vec<String> = layout
            .all()
            .filter_map(|place| {
                let got = self.shape(&place.name).filter(|got| *got != place.shape)?;
                Some(format!("{} has the shape {got:?} and not {:?}", place.name, place.shape))
            })
            .collect();
        if !shapes.is_empty() {
            wrong.push(list(&shapes.iter().map(String::as_str).collect::<Vec<_>>()));
        }
        let types: Vec<String> = layout
            .all()
            .filter_map(|place| {
                let dtype = self.tensors.get(&place.name)?.tensor.dtype;
                dtype_of(dtype.name).is_none().then(|| format!("{} is {}", place.name, dtype.name))
            })
            .collect();
        if !types.is_empty() {
            let types = list(&types.iter().map(String::as_str).collect::<Vec<_>>());
            wrong.push(format!("only F32, F16 and BF16 can be read: {types}"));
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
    }

    /// Reads a tensor of the layout, matrices with the output dimension first.
    pub fn read(&self, place: &Place) -> Result<Tensor, String> {
        let tensor = self.read_named(&place.name)?;
        let turned = if place.transposed { tensor.t().and_then(|t| t.contiguous()) } else { Ok(tensor) };
        turned.map_err(|error| format!("{}: {error}", place.name))
    }

    /// Reads a tensor as it is stored, widened to F32.
    pub fn read_named(&self, name: &str) -> Result<Tensor, String> {
        self.read_rows(name, 0, None)
    }

    /// As [`Self::read_named`], of some rows that follow one another; all if no number is given.
    pub fn read_rows(&self, name: &str, first: usize, count: Option<usize>) -> Result<Tensor, String> {
        let stored = self.tensors.get(name).ok_or(format!("the tensor {name} is missing"))?;
        let (path, source) = self.files.get(stored.file).ok_or("a file of weights is not open")?;
        let failed = |what: &dyn std::fmt::Display| format!("{}: the tensor {name}: {what}", path.display());
        let dtype = dtype_of(stored.tensor.dtype.name).ok_or_else(|| {
            failed(&format_args!("{} is not supported; F32, F16 and BF16 are", stored.tensor.dtype.name))
        })?;
        let mut shape = self.shape(name).ok_or_else(|| failed(&"its shape does not fit this machine"))?;
        let mut length = usize::try_from(stored.tensor.bytes).map_err(|error| failed(&error))?;
        let mut offset = stored.tensor.offset;
        if let (Some(count), Some(rows)) = (count, shape.first_mut().filter(|rows| **rows > 0)) {
            if first.checked_add(count).is_none_or(|end| end > *rows) {
                return Err(failed(&format_args!("it has {rows} rows, not {count} from {first} on")));
            }
            let row = length / *rows;
            offset = offset.saturating_add((first * row) as u64);
            (*rows, length) = (count, count * row);
        }
        // The header was checked against the size of the file, so the bytes are there.
        let mut bytes = vec![0; length];
        source.read_at(&mut bytes, offset).map_err(|error| failed(&error))?;
        Tensor::from_raw_buffer(&bytes, dtype, &shape, &Device::Cpu)
            .and_then(|tensor| tensor.to_dtype(DType::F32))
            .map_err(|error| failed(&error))
    }

    /// Where the output matrix and the embedding are one and both are stored, they must be
    /// equal: no guess which of them is meant.
    pub fn check_tied(&self, embedding: &str) -> Result<(), String> {
        if !self.tensors.contains_key(HEAD) {
            return Ok(());
        }
        let bits = |name: &str, first: usize, count: usize| -> Result<Vec<u32>, String> {
            let tensor = self.read_rows(name, first, Some(count))?;
            let values = tensor.flatten_all().and_then(|flat| flat.to_vec1::<f32>());
            let values = values.map_err(|error| format!("{name}: {error}"))?;
            Ok(values.into_iter().map(f32::to_bits).collect())
        };
        let shape = self.shape(HEAD);
        if let Some([rows, columns]) = shape.as_deref().filter(|_| shape == self.shape(embedding)) {
            let step = (SLAB / (*columns).max(1)).max(1);
            let mut starts = (0..*rows).step_by(step);
            let differs = starts.try_fold(false, |differs, first| {
                let count = step.min(rows - first);
                Ok::<bool, String>(differs || bits(HEAD, first, count)? != bits(embedding, first, count)?)
            })?;
            if !differs {
                return Ok(());
            }
        }
        Err(format!("the output is tied to {embedding}, and a different {HEAD} is there"))
    }
}

const HEAD: &str = "lm_head.weight";

fn dtype_of(name: &str) -> Option<DType> {
    match name {
        "F32" => Some(DType::F32),
        "F16" => Some(DType::F16),
        "BF16" => Some(DType::BF16),
        _ => None,
    }
}

/// The first few of a list, and how many more there are.
pub(super) fn list(names: &[&str]) -> String {
    let mut text = names.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    if names.len() > NAMED {
        text.push_str(&format!(" and {} more", names.len() - NAMED));
    }
    text
}

/// A small text file of the folder, found by its name among the files of the artifact.
///
/// # Errors
/// It cannot be read, or is larger than `limit` bytes.
pub(super) fn text_file(paths: &[PathBuf], name: &str, limit: u64) -> Result<Option<String>, String> {
    let named = |path: &&PathBuf| path.file_name() == Some(std::ffi::OsStr::new(name));
    paths.iter().find(named).map(|path| read_text(path, limit)).transpose()
}

fn read_text(path: &Path, limit: u64) -> Result<String, String> {
    let failed = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
    let source = SourceFile::open(path).map_err(|error| failed(&error))?;
    if source.size() > limit {
        return Err(failed(&format_args!("larger than {limit} bytes")));
    }
    let mut bytes = vec![0; usize::try_from(source.size()).map_err(|error| failed(&error))?];
    source.read_at(&mut bytes, 0).map_err(|error| failed(&error))?;
    String::from_utf8(bytes).map_err(|error| failed(&error))
}
