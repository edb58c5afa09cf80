//! The strict header reader.
//!
//! Faults after which the rest cannot be understood (a wrong count, an unknown type)
//! stop it; others (a duplicate, an overlap) are collected, so that a person sees all.

use std::collections::HashSet;

use super::fault::{Fault, ReadError};
use super::types::GgmlType;
use super::value::{Array, Value, ValueKind};
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, Header, MAGIC, Metadata, Tensor};
use crate::domain::{budget, text};
use crate::model::finding::Code;
use crate::model::source::{Cursor, ReadAt};

/// Fewest bytes of a metadata entry (length, one letter, type, one byte) and of a tensor
/// entry (length, one letter, dimension count, type, offset).
const MIN_ENTRY_BYTES: u64 = 14;
const MIN_TENSOR_BYTES: u64 = 25;
/// Largest alignment accepted; real files use 32, some 64 to 4096.
const MAX_ALIGNMENT: u64 = 1 << 20;

/// Reads the header and demands that nothing at all is wrong with it.
pub fn read_strict(source: &dyn ReadAt) -> Result<Header, ReadError> {
    let (header, faults) = read(source)?;
    match faults.into_iter().find(|fault| fault.code.severity() == crate::domain::inspection::Severity::Error)
    {
        Some(fault) => Err(fault.into()),
        None => Ok(header),
    }
}

/// Reads the header; the second part lists what is wrong with it but did not stop the
/// reading. Never allocates more than a small multiple of the bytes that are there.
pub fn read(source: &dyn ReadAt) -> Result<(Header, Vec<Fault>), ReadError> {
    let cursor = Cursor::new(source, 0, budget::GGUF_HEADER_BYTES);
    let mut reader = Reader { cursor, size: source.size(), faults: Vec::new() };
    let (version, tensor_count, entry_count) = reader.preamble()?;
    let metadata = reader.metadata(entry_count)?;
    let alignment = reader.alignment(&metadata)?;
    let mut tensors = reader.tensor_table(tensor_count)?;
    let table_end = reader.cursor.position();
    let data_offset = table_end.next_multiple_of(alignment);
    reader.lay_out(&mut tensors, data_offset, alignment);
    let data_end =
        tensors.iter().map(|tensor| tensor.offset.saturating_add(tensor.bytes)).max().unwrap_or(table_end);
    reader.hidden_tensor(&tensors, table_end, data_offset, alignment)?;
    let Reader { faults, .. } = reader;
    Ok((Header { version, metadata, tensors, alignment, table_end, data_offset, data_end }, faults))
}

struct Reader<'a> {
    cursor: Cursor<'a>,
    size: u64,
    faults: Vec<Fault>,
}

fn fault(code: Code, offset: u64, message: String) -> Fault {
    Fault { code, message, tensor: None, offset }
}

impl Reader<'_> {
    fn fail<T>(&self, code: Code, message: String) -> Result<T, ReadError> {
        Err(fault(code, self.cursor.position(), message).into())
    }

    /// The header ended too early: either the file did, or the budget.
    fn cut(&self, doing: &str) -> ReadError {
        let position = self.cursor.position();
        if self.size > budget::GGUF_HEADER_BYTES && position.saturating_add(8) < self.size {
            let limit = budget::GGUF_HEADER_BYTES;
            fault(Code::HeaderTooLarge, position, format!("the header exceeds {limit} bytes at {doing}"))
                .into()
        } else {
            fault(Code::Truncated, position, format!("the file ends at byte {} within {doing}", self.size))
                .into()
        }
    }

    fn u32(&mut self, doing: &str) -> Result<u32, ReadError> {
        self.cursor.array()?.map(u32::from_le_bytes).ok_or_else(|| self.cut(doing))
    }

    fn u64(&mut self, doing: &str) -> Result<u64, ReadError> {
        self.cursor.array()?.map(u64::from_le_bytes).ok_or_else(|| self.cut(doing))
    }

    /// The length of a string.
    fn length(&mut self, limit: u64, doing: &str) -> Result<u64, ReadError> {
        let at = self.cursor.position();
        let length = self.u64(doing)?;
        if length > limit {
            return Err(fault(
                Code::ImpossibleLength,
                at,
                format!("{doing} claims {length} bytes; at most {limit} are possible"),
            )
            .into());
        }
        Ok(length)
    }

    fn string(&mut self, limit: u64, doing: &str) -> Result<Vec<u8>, ReadError> {
        let length = self.length(limit, doing)?;
        self.cursor.bytes(length)?.ok_or_else(|| self.cut(doing))
    }

    /// Magic, version, number of tensors, number of metadata entries.
    fn preamble(&mut self) -> Result<(u32, u64, u64), ReadError> {
        if self.size == 0 {
            return self.fail(Code::Empty, "the file is empty".to_owned());
        }
        let magic: [u8; 4] = match self.cursor.array()? {
            Some(magic) => magic,
            None => return Err(self.cut("the magic bytes")),
        };
        if magic != MAGIC {
            let (code, message) = match &magic {
                b"FUGG" => (Code::BigEndian, "the magic bytes are reversed".to_owned()),
                [0, 0, 0, 0] => {
                    (Code::ZeroedHeader, "the file begins with zero bytes instead of a header".to_owned())
                }
                other => (
                    Code::BadMagic,
                    format!("the file begins with \"{}\", not \"GGUF\"", other.escape_ascii()),
                ),
            };
            return Err(fault(code, 0, message).into());
        }
        let version = self.u32("the version")?;
        match version {
            2 | 3 => {}
            0x0200_0000 | 0x0300_0000 => {
                return Err(fault(Code::BigEndian, 4, "version and counts are big-endian".to_owned()).into());
            }
            other => {
                let message = format!("GGUF version {other}; versions 2 and 3 are readable");
                return Err(fault(Code::UnsupportedVersion, 4, message).into());
            }
        }
        let tensors = self.count("tensors", MIN_TENSOR_BYTES, budget::FILE_TENSORS)?;
        let entries = self.count("metadata entries", MIN_ENTRY_BYTES, budget::GGUF_METADATA_ENTRIES)?;
        Ok((version, tensors, entries))
    }

    fn count(&mut self, what: &str, min_bytes: u64, limit: u64) -> Result<u64, ReadError> {
        let at = self.cursor.position();
        let count = self.u64(what)?;
        if count > limit {
            let message = format!("the header declares {count} {what}; no model has more than {limit}");
            return Err(fault(Code::ImpossibleCount, at, message).into());
        }
        if count > self.cursor.remaining() / min_bytes {
            return Err(self.cut(&format!("the {count} {what} that it declares")));
        }
        Ok(count)
    }

    /// Checks a key or tensor name; a bad one is noted and kept in a printable form.
    fn name(&mut self, bytes: Vec<u8>, at: u64, what: &str) -> String {
        let (name, code, why) = match String::from_utf8(bytes) {
            Ok(name) if name.is_empty() => (name, Code::BadName, "is empty"),
            Ok(name) if !text::is_plain(&name) => {
                (name, Code::BadName, "holds a control character or one that nobody sees")
            }
            Ok(name) => return name,
            Err(error) => (
                String::from_utf8_lossy(error.as_bytes()).into_owned(),
                Code::InvalidUtf8,
                "is not valid UTF-8",
            ),
        };
        self.faults.push(fault(code, at, format!("{what} {name:?} {why}")));
        name
    }

    fn metadata(&mut self, count: u64) -> Result<Metadata, ReadError> {
        let mut entries: Vec<(String, Value)> = Vec::new();
        let mut places = Vec::new();
        for _ in 0..count {
            let at = self.cursor.position();
            let key = self.string(budget::GGUF_KEY_BYTES, "a metadata key")?;
            let key = self.name(key, at, "the metadata key");
            let kind = self.kind(&key)?;
            let value = self.value(kind, &key)?;
            places.push(at);
            entries.push((key, value));
        }
        let (metadata, repeated) = Metadata::new(entries);
        for (place, (key, _)) in repeated.into_iter().zip(metadata.repeated()) {
            let at = places.get(place).copied().unwrap_or_default();
            self.faults.push(fault(Code::DuplicateKey, at, format!("the metadata key {key} occurs twice")));
        }
        Ok(metadata)
    }

    fn kind(&mut self, key: &str) -> Result<ValueKind, ReadError> {
        let at = self.cursor.position();
        let id = self.u32("a value type")?;
        ValueKind::from_id(id).ok_or_else(|| {
            fault(Code::BadMetadataType, at, format!("the metadata entry {key} has the unknown type {id}"))
                .into()
        })
    }

    fn value(&mut self, kind: ValueKind, key: &str) -> Result<Value, ReadError> {
        let at = self.cursor.position();
        let cut = |reader: &Self| reader.cut("a metadata value");
        macro_rules! number {
            ($variant:ident, $type:ty) => {
                match self.cursor.array()? {
                    Some(bytes) => Value::$variant(<$type>::from_le_bytes(bytes)),
                    None => return Err(cut(self)),
                }
            };
        }
        Ok(match kind {
            ValueKind::U8 => number!(U8, u8),
            ValueKind::I8 => number!(I8, i8),
            ValueKind::U16 => number!(U16, u16),
            ValueKind::I16 => number!(I16, i16),
            ValueKind::U32 => number!(U32, u32),
            ValueKind::I32 => number!(I32, i32),
            ValueKind::F32 => number!(F32, f32),
            ValueKind::U64 => number!(U64, u64),
            ValueKind::I64 => number!(I64, i64),
            ValueKind::F64 => number!(F64, f64),
            ValueKind::Bool => match self.cursor.array()? {
                Some([byte @ (0 | 1)]) => Value::Bool(byte == 1),
                Some([other]) => {
                    let message = format!("the metadata entry {key} is a bool with the value {other}");
                    return Err(fault(Code::BadMetadataType, at, message).into());
                }
                None => return Err(cut(self)),
            },
            ValueKind::String => {
                let text = self.string(budget::GGUF_STRING_BYTES, &format!("the value of {key}"))?;
                match String::from_utf8(text) {
                    Ok(text) => Value::String(text),
                    Err(error) => {
                        let message = format!("the value of {key} is not valid UTF-8");
                        self.faults.push(fault(Code::InvalidUtf8, at, message));
                        Value::String(String::from_utf8_lossy(error.as_bytes()).into_owned())
                    }
                }
            }
            ValueKind::Array => Value::Array(self.array(key)?),
        })
    }

    fn array(&mut self, key: &str) -> Result<Array, ReadError> {
        let at = self.cursor.position();
        let kind = self.kind(key)?;
        if kind == ValueKind::Array {
            let message = format!("the metadata entry {key} is an array of arrays");
            return Err(fault(Code::BadMetadataType, at, message).into());
        }
        let count = self.u64("an array length")?;
        if count > budget::GGUF_ARRAY_ELEMENTS {
            let limit = budget::GGUF_ARRAY_ELEMENTS;
            let message = format!("the array {key} claims {count} elements; at most {limit} are possible");
            return Err(fault(Code::ImpossibleLength, at + 4, message).into());
        }
        let doing = format!("the array {key}");
        let least = count.saturating_mul(kind.min_bytes());
        if least > self.cursor.remaining() {
            return Err(self.cut(&doing));
        }
        if kind != ValueKind::String {
            let raw = self.cursor.bytes(least)?.ok_or_else(|| self.cut(&doing))?;
            if kind == ValueKind::Bool && raw.iter().any(|&byte| byte > 1) {
                let message = format!("{doing} of bools holds other values than 0 and 1");
                return Err(fault(Code::BadMetadataType, at, message).into());
            }
            return Ok(Array::from_raw(kind, count, raw));
        }
        // How long it is shows at its end: a list that grew as it was read would take three times
        // its size, with what it grew out of.
        let start = self.cursor.position();
        for _ in 0..count {
            let length = self.length(budget::GGUF_STRING_BYTES, &doing)?;
            if !self.cursor.skip(length) {
                return Err(self.cut(&doing));
            }
        }
        Ok(Array::from_raw(kind, count, self.cursor.since(start)?))
    }

    fn alignment(&mut self, metadata: &Metadata) -> Result<u64, ReadError> {
        let alignment = match metadata.get(ALIGNMENT_KEY) {
            None => return Ok(DEFAULT_ALIGNMENT),
            Some(Value::U32(value)) => u64::from(*value),
            Some(other) => {
                let kind = other.kind().name();
                return self
                    .fail(Code::MetadataWrongType, format!("{ALIGNMENT_KEY} is {kind}, it must be u32"));
            }
        };
        // 1, 2 and 4 are powers of two as well, but runtimes abort on them.
        if !alignment.is_power_of_two() || !(8..=MAX_ALIGNMENT).contains(&alignment) {
            let message = format!(
                "{ALIGNMENT_KEY} is {alignment}; powers of two from 8 to {MAX_ALIGNMENT} are possible"
            );
            return self.fail(Code::BadAlignment, message);
        }
        Ok(alignment)
    }

    /// The table as it stands; offsets still count from the start of the data.
    fn tensor_table(&mut self, count: u64) -> Result<Vec<Tensor>, ReadError> {
        let mut tensors: Vec<Tensor> = Vec::new();
        let mut seen = HashSet::new();
        for _ in 0..count {
            let at = self.cursor.position();
            let tensor = self.tensor()?;
            if !seen.insert(tensor.name.clone()) {
                self.faults.push(Fault {
                    code: Code::DuplicateTensor,
                    message: format!("the tensor {} is in the table twice", tensor.name),
                    tensor: Some(tensor.name.clone()),
                    offset: at,
                });
            }
            tensors.push(tensor);
        }
        Ok(tensors)
    }

    fn tensor(&mut self) -> Result<Tensor, ReadError> {
        let at = self.cursor.position();
        let name = self.string(budget::TENSOR_NAME_BYTES - 1, "a tensor name")?;
        let name = self.name(name, at, "the tensor name");
        let stop = |code, message| -> ReadError {
            Fault { code, message, tensor: Some(name.clone()), offset: at }.into()
        };
        let dimensions = self.u32("a dimension count")?;
        if dimensions > 4 {
            return Err(stop(
                Code::BadDimensions,
                format!("the tensor {name} has {dimensions} dimensions, not 1 to 4"),
            ));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            shape.push(self.u64("a dimension")?);
        }
        // A tensor without dimensions is a single number to every runtime.
        if shape.is_empty() {
            shape.push(1);
        }
        let type_id = self.u32("a tensor type")?;
        let Some(kind) = GgmlType::from_id(type_id) else {
            return Err(stop(
                Code::UnknownTensorType,
                format!("the tensor {name} has the unknown type {type_id}"),
            ));
        };
        if shape.contains(&0) {
            return Err(stop(
                Code::BadDimensions,
                format!("the tensor {name} has the shape {shape:?} with a 0 in it"),
            ));
        }
        let elements = shape
            .iter()
            .try_fold(1u64, |product, &dimension| product.checked_mul(dimension))
            .filter(|&elements| elements <= i64::MAX as u64);
        let Some(elements) = elements else {
            return Err(stop(
                Code::DimsOverflow,
                format!("the shape {shape:?} of the tensor {name} overflows"),
            ));
        };
        let columns = shape.first().copied().unwrap_or(1);
        if !columns.is_multiple_of(kind.block()) {
            let (type_name, block) = (kind.name(), kind.block());
            return Err(stop(
                Code::BadDimensions,
                format!(
                    "the tensor {name} has rows of {columns} weights, not whole blocks of {type_name} ({block})"
                ),
            ));
        }
        let Some(bytes) = kind.bytes(elements).filter(|&bytes| bytes <= i64::MAX as u64) else {
            return Err(stop(Code::DimsOverflow, format!("the size of the tensor {name} overflows")));
        };
        let offset = self.u64("a tensor offset")?;
        Ok(Tensor { name, kind, shape, offset, bytes })
    }

    /// Checks that the data follow one another and makes offsets count from the start of
    /// the file.
    fn lay_out(&mut self, tensors: &mut [Tensor], data_offset: u64, alignment: u64) {
        let data_size = self.size.saturating_sub(data_offset);
        // Where the next tensor has to begin, counted from the start of the data.
        let mut expected = 0u64;
        let mut cut: Option<(String, u64)> = None;
        for tensor in tensors {
            let (name, offset, bytes) = (&tensor.name, tensor.offset, tensor.bytes);
            let end = offset.checked_add(bytes);
            let problem = if !offset.is_multiple_of(alignment) {
                Some((Code::TensorUnaligned, format!("is at {offset}, not a multiple of {alignment}")))
            } else if end.is_none_or(|end| end > budget::WEIGHTS_FILE_BYTES) {
                Some((
                    Code::TensorOutOfRange,
                    format!("claims {bytes} bytes at {offset}; no file of weights is that large"),
                ))
            } else if end.is_none_or(|end| end > data_size) && offset != expected {
                Some((
                    Code::TensorOutOfRange,
                    format!("claims {bytes} bytes at {offset} of {data_size} bytes of data"),
                ))
            } else if offset < expected {
                Some((
                    Code::TensorOverlap,
                    format!("begins at {offset}, before the end of the one before ({expected})"),
                ))
            } else if offset > expected {
                Some((Code::TensorGap, format!("begins at {offset}, expected at {expected}")))
            } else {
                if end.is_none_or(|end| end > data_size) && cut.is_none() {
                    cut = Some((name.clone(), data_offset.saturating_add(offset)));
                }
                None
            };
            if let Some((code, what)) = problem {
                self.faults.push(Fault {
                    code,
                    message: format!("the data of the tensor {name} {what}"),
                    tensor: Some(name.clone()),
                    offset: data_offset.saturating_add(offset),
                });
            }
            let padded = end.and_then(|end| end.checked_next_multiple_of(alignment)).unwrap_or(u64::MAX);
            // After a tensor beyond the end nothing can be expected behind it.
            if padded <= data_size || offset == expected {
                expected = expected.max(padded);
            }
            tensor.offset = data_offset.saturating_add(offset);
        }
        if let Some((name, offset)) = cut {
            let needed = data_offset.saturating_add(expected);
            self.faults.push(Fault {
                code: Code::Truncated,
                message: format!(
                    "the file has {} of {needed} bytes; the first tensor that is not whole is {name}",
                    self.size
                ),
                tensor: Some(name),
                offset,
            });
        }
    }

    /// A table with one entry more than declared: the header says one tensor too few, the
    /// rest of the file is as it was. Loaders then tie or drop what is missing and run.
    fn hidden_tensor(
        &mut self,
        tensors: &[Tensor],
        table_end: u64,
        data_offset: u64,
        alignment: u64,
    ) -> Result<(), ReadError> {
        let declared_end = tensors.iter().map(|tensor| tensor.offset.saturating_add(tensor.bytes)).max();
        let expected = declared_end
            .and_then(|end| end.saturating_sub(data_offset).checked_next_multiple_of(alignment))
            .unwrap_or(0);
        let faults = self.faults.len();
        let next = match self.tensor() {
            Ok(next) => next,
            Err(ReadError::Fault(_)) => {
                self.faults.truncate(faults);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let clean = self.faults.len() == faults;
        self.faults.truncate(faults);
        if clean && next.offset == expected {
            self.faults.push(Fault {
                code: Code::UndeclaredTensor,
                message: format!(
                    "the table goes on with the tensor {} after the declared {}",
                    next.name,
                    tensors.len()
                ),
                tensor: Some(next.name),
                offset: table_end,
            });
        }
        Ok(())
    }
}
