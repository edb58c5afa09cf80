//! A small GGUF version 3 writer: metadata and tensors given whole, laid out exactly as
//! the reader demands (contiguous, aligned, zero padding, the last tensor padded too).
//!
//! Deliberately absent: split sets, big-endian files, weights larger than memory (but for
//! those that are all zero, which are a hole). It serves the example models, generated benchmarks and tests.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::types::GgmlType;
use super::value::Value;
use super::{DEFAULT_ALIGNMENT, MAGIC};
use crate::domain::budget;

/// One tensor to write.
#[derive(Debug, Clone, Copy)]
pub struct TensorData<'a> {
    pub name: &'a str,
    pub kind: GgmlType,
    /// Fastest-varying dimension first, as GGUF has it: a matrix of `rows` by `columns`
    /// (row-major) is `[columns, rows]`.
    pub shape: &'a [u64],
    /// Little-endian weights or blocks.
    pub data: &'a [u8],
}

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("tensor {name}: shape {shape:?} as {kind} takes {expected:?} bytes, got {got}")]
    Size { name: String, shape: Vec<u64>, kind: &'static str, expected: Option<u64>, got: usize },
    #[error("the name {0:?} is empty, too long, or used twice")]
    Name(String),
    #[error("general.alignment must be a u32 power of two of at least 8")]
    Alignment,
    #[error("tensor {0}: between 1 and 4 dimensions, none of them 0, are possible")]
    Shape(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Writes a file at `path` and syncs it to disk.
pub fn write_file(
    path: &Path,
    metadata: &[(&str, Value)],
    tensors: &[TensorData<'_>],
) -> Result<(), WriteError> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    write(&mut out, metadata, tensors)?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    Ok(())
}

/// Writes a file whose weights are all zero, and a hole on disk: only its header takes room.
/// Tensors are name, format and shape, as [`TensorData`] has them.
pub fn write_hollow(
    path: &Path,
    metadata: &[(&str, Value)],
    tensors: &[(&str, GgmlType, &[u64])],
) -> Result<(), WriteError> {
    let infos: Vec<Info<'_>> = tensors
        .iter()
        .map(|&(name, kind, shape)| Info::of(name, kind, shape, None))
        .collect::<Result<_, _>>()?;
    let (header, alignment) = header(metadata, &infos)?;
    let padded = |bytes: u64| bytes.next_multiple_of(alignment);
    let size =
        infos.iter().map(|info| padded(info.bytes)).fold(padded(header.len() as u64), u64::saturating_add);
    let mut file = File::create(path)?;
    file.write_all(&header)?;
    file.set_len(size)?;
    Ok(file.sync_all()?)
}

/// Writes a file to `out`. The alignment is `general.alignment` of the metadata, else 32.
pub fn write(
    out: &mut dyn Write,
    metadata: &[(&str, Value)],
    tensors: &[TensorData<'_>],
) -> Result<(), WriteError> {
    let infos: Vec<Info<'_>> = tensors
        .iter()
        .map(|tensor| Info::of(tensor.name, tensor.kind, tensor.shape, Some(tensor.data.len())))
        .collect::<Result<_, _>>()?;
    let (header, alignment) = header(metadata, &infos)?;
    out.write_all(&header)?;
    pad(out, header.len() as u64, alignment)?;
    for tensor in tensors {
        out.write_all(tensor.data)?;
        pad(out, tensor.data.len() as u64, alignment)?;
    }
    out.flush()?;
    Ok(())
}

/// What the header says of a tensor, and the bytes it takes.
struct Info<'a> {
    name: &'a str,
    kind: GgmlType,
    shape: &'a [u64],
    bytes: u64,
}

/// Everything before the weights, not padded yet, and the alignment.
fn header(metadata: &[(&str, Value)], tensors: &[Info<'_>]) -> Result<(Vec<u8>, u64), WriteError> {
    let alignment = match metadata.iter().find(|(key, _)| *key == super::ALIGNMENT_KEY) {
        None => DEFAULT_ALIGNMENT,
        Some((_, Value::U32(value))) if value.is_power_of_two() && *value >= 8 => u64::from(*value),
        Some(_) => return Err(WriteError::Alignment),
    };
    let mut seen = HashSet::new();
    if let Some((key, _)) = metadata.iter().find(|(key, _)| key.is_empty() || !seen.insert(*key)) {
        return Err(WriteError::Name((*key).to_owned()));
    }
    seen.clear();
    if let Some(tensor) = tensors.iter().find(|tensor| !seen.insert(tensor.name)) {
        return Err(WriteError::Name(tensor.name.to_owned()));
    }
    let mut header = Vec::new();
    header.extend_from_slice(&MAGIC);
    header.extend_from_slice(&3u32.to_le_bytes());
    header.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
    header.extend_from_slice(&(metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        put_string(&mut header, key.as_bytes());
        header.extend_from_slice(&(value.kind() as u32).to_le_bytes());
        put_value(&mut header, value);
    }
    let mut offset = 0u64;
    for tensor in tensors {
        put_string(&mut header, tensor.name.as_bytes());
        header.extend_from_slice(&u32::try_from(tensor.shape.len()).unwrap_or(0).to_le_bytes());
        for dimension in tensor.shape {
            header.extend_from_slice(&dimension.to_le_bytes());
        }
        header.extend_from_slice(&tensor.kind.id().to_le_bytes());
        header.extend_from_slice(&offset.to_le_bytes());
        offset += tensor.bytes.next_multiple_of(alignment);
    }
    Ok((header, alignment))
}

impl<'a> Info<'a> {
    /// `got` are the bytes that are there, where they have to be.
    fn of(name: &'a str, kind: GgmlType, shape: &'a [u64], got: Option<usize>) -> Result<Self, WriteError> {
        if name.is_empty() || name.len() as u64 >= budget::TENSOR_NAME_BYTES {
            return Err(WriteError::Name(name.to_owned()));
        }
        if shape.is_empty() || shape.len() > 4 || shape.contains(&0) {
            return Err(WriteError::Shape(name.to_owned()));
        }
        let whole_rows = shape.first().is_some_and(|row| row.is_multiple_of(kind.block()));
        let elements = shape.iter().try_fold(1u64, |product, &dimension| product.checked_mul(dimension));
        let expected = elements.filter(|_| whole_rows).and_then(|elements| kind.bytes(elements));
        match expected {
            Some(bytes) if got.is_none_or(|got| got as u64 == bytes) => Ok(Self { name, kind, shape, bytes }),
            _ => Err(WriteError::Size {
                name: name.to_owned(),
                shape: shape.to_vec(),
                kind: kind.name(),
                expected,
                got: got.unwrap_or(0),
            }),
        }
    }
}

fn pad(out: &mut dyn Write, written: u64, alignment: u64) -> io::Result<()> {
    let missing = written.next_multiple_of(alignment) - written;
    io::copy(&mut io::Read::take(io::repeat(0), missing), out)?;
    Ok(())
}

fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text);
}

/// The value as a file holds it.
fn put_value(out: &mut Vec<u8>, value: &Value) {
    let rest = put_begin(out, value);
    out.extend_from_slice(rest);
}

/// The value as a file holds it, up to what lies in memory as it does in the file: that is returned,
/// since it can be long.
pub(in crate::model) fn put_begin<'a>(out: &mut Vec<u8>, value: &'a Value) -> &'a [u8] {
    match value {
        Value::U8(v) => out.push(*v),
        Value::I8(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U16(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I16(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::F32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::String(v) => {
            out.extend_from_slice(&(v.len() as u64).to_le_bytes());
            return v.as_bytes();
        }
        Value::Array(v) => {
            out.extend_from_slice(&(v.kind() as u32).to_le_bytes());
            out.extend_from_slice(&v.len().to_le_bytes());
            return v.raw();
        }
        Value::U64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::F64(v) => out.extend_from_slice(&v.to_le_bytes()),
    }
    &[]
}
