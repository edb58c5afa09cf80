//! A small GGUF version 3 writer: metadata and tensors given whole, laid out exactly as
//! the reader demands (contiguous, aligned, zero padding, the last tensor padded too).
//!
//! Deliberately absent: split sets, big-endian files, streaming of tensors larger than
//! memory. It serves the example models, generated benchmarks and tests.

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

/// Writes a file to `out`. The alignment is `general.alignment` of the metadata, else 32.
pub fn write(
    out: &mut dyn Write,
    metadata: &[(&str, Value)],
    tensors: &[TensorData<'_>],
) -> Result<(), WriteError> {
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
    for tensor in tensors {
        check(tensor)?;
        if !seen.insert(tensor.name) {
            return Err(WriteError::Name(tensor.name.to_owned()));
        }
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
        offset += (tensor.data.len() as u64).next_multiple_of(alignment);
    }
    out.write_all(&header)?;
    pad(out, header.len() as u64, alignment)?;
    for tensor in tensors {
        out.write_all(tensor.data)?;
        pad(out, tensor.data.len() as u64, alignment)?;
    }
    out.flush()?;
    Ok(())
}

fn check(tensor: &TensorData<'_>) -> Result<(), WriteError> {
    if tensor.name.is_empty() || tensor.name.len() as u64 >= budget::TENSOR_NAME_BYTES {
        return Err(WriteError::Name(tensor.name.to_owned()));
    }
    if tensor.shape.is_empty() || tensor.shape.len() > 4 || tensor.shape.contains(&0) {
        return Err(WriteError::Shape(tensor.name.to_owned()));
    }
    let whole_rows = tensor.shape.first().is_some_and(|row| row.is_multiple_of(tensor.kind.block()));
    let elements = tensor.shape.iter().try_fold(1u64, |product, &dimension| product.checked_mul(dimension));
    let expected = elements.filter(|_| whole_rows).and_then(|elements| tensor.kind.bytes(elements));
    if expected != Some(tensor.data.len() as u64) {
        return Err(WriteError::Size {
            name: tensor.name.to_owned(),
            shape: tensor.shape.to_vec(),
            kind: tensor.kind.name(),
            expected,
            got: tensor.data.len(),
        });
    }
    Ok(())
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
pub(in crate::model) fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => out.push(*v),
        Value::I8(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U16(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I16(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::F32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::String(v) => put_string(out, v.as_bytes()),
        Value::Array(v) => {
            out.extend_from_slice(&(v.kind() as u32).to_le_bytes());
            out.extend_from_slice(&v.len().to_le_bytes());
            out.extend_from_slice(v.raw());
        }
        Value::U64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::F64(v) => out.extend_from_slice(&v.to_le_bytes()),
    }
}
