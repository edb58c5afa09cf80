//! The header: 8 bytes of length, then JSON.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::domain::inspection::{Finding, Severity};
use crate::domain::{budget, text};
use crate::model::finding::{Code, Findings};
use crate::model::gguf::GgmlType;
use crate::model::scan::{Float8, Kind};
use crate::model::sniff::sniff;
use crate::model::source::ReadAt;

/// Storage type of a tensor: its name and how many bits a value takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dtype {
    pub name: &'static str,
    pub bits: u64,
}

/// Those of the reference implementation (0.8).
const DTYPES: [Dtype; 22] = [
    Dtype { name: "BOOL", bits: 8 },
    Dtype { name: "F4", bits: 4 },
    Dtype { name: "F6_E2M3", bits: 6 },
    Dtype { name: "F6_E3M2", bits: 6 },
    Dtype { name: "U8", bits: 8 },
    Dtype { name: "I8", bits: 8 },
    Dtype { name: "F8_E5M2", bits: 8 },
    Dtype { name: "F8_E4M3", bits: 8 },
    Dtype { name: "F8_E8M0", bits: 8 },
    Dtype { name: "F8_E4M3FNUZ", bits: 8 },
    Dtype { name: "F8_E5M2FNUZ", bits: 8 },
    Dtype { name: "I16", bits: 16 },
    Dtype { name: "U16", bits: 16 },
    Dtype { name: "F16", bits: 16 },
    Dtype { name: "BF16", bits: 16 },
    Dtype { name: "I32", bits: 32 },
    Dtype { name: "U32", bits: 32 },
    Dtype { name: "F32", bits: 32 },
    Dtype { name: "C64", bits: 64 },
    Dtype { name: "F64", bits: 64 },
    Dtype { name: "I64", bits: 64 },
    Dtype { name: "U64", bits: 64 },
];

impl Dtype {
    pub fn from_name(name: &str) -> Option<Self> {
        DTYPES.iter().copied().find(|dtype| dtype.name == name)
    }

    /// Bytes of a tensor of this shape; `None` if it overflows or ends within a byte.
    pub fn bytes(self, shape: &[u64]) -> Option<u64> {
        let elements = shape.iter().try_fold(1u64, |product, &dimension| product.checked_mul(dimension))?;
        let bits = elements.checked_mul(self.bits)?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }

    /// The type to scan the weights as; one without special values where there is none.
    pub fn scanned_as(self) -> Kind {
        Kind::Ggml(match self.name {
            // A complex number is two of them.
            "F32" | "C64" => GgmlType::F32,
            "F16" => GgmlType::F16,
            "BF16" => GgmlType::BF16,
            "F64" => GgmlType::F64,
            "F8_E4M3" => return Kind::Float8(Float8::E4M3),
            "F8_E5M2" => return Kind::Float8(Float8::E5M2),
            "F8_E8M0" => return Kind::Float8(Float8::E8M0),
            "F8_E4M3FNUZ" | "F8_E5M2FNUZ" => return Kind::Float8(Float8::Fnuz),
            _ => GgmlType::I8,
        })
    }
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    pub name: String,
    pub dtype: Dtype,
    /// The slowest-varying dimension first; empty for a single number.
    pub shape: Vec<u64>,
    /// Where the data begins, counted from the start of the file.
    pub offset: u64,
    pub bytes: u64,
}

impl Tensor {
    pub fn elements(&self) -> u64 {
        self.shape.iter().fold(1, |product, &dimension| product.saturating_mul(dimension))
    }
}

/// The header of one file; tensors are in the order of their data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub metadata: BTreeMap<String, String>,
    pub tensors: Vec<Tensor>,
    pub data_offset: u64,
}

/// Reads the header of a file. What is wrong with it goes to `findings`; `None` if it
/// cannot be understood at all.
///
/// # Errors
/// The source cannot be read.
pub fn read(source: &dyn ReadAt, findings: &mut Findings) -> io::Result<Option<Header>> {
    let size = source.size();
    let mut push = |code: Code, offset: u64, message: String| {
        findings.push(Finding { offset: Some(offset), ..code.finding(message) });
    };
    if size < 8 {
        push(Code::Truncated, size, format!("the file has {size} bytes; a header needs more than 8"));
        return Ok(None);
    }
    let mut length = [0; 8];
    source.read_at(&mut length, 0)?;
    let length = u64::from_le_bytes(length);
    if length > budget::SAFETENSORS_HEADER_BYTES {
        let limit = budget::SAFETENSORS_HEADER_BYTES;
        push(
            Code::ImpossibleLength,
            0,
            format!("the header claims {length} bytes; at most {limit} are possible"),
        );
        return Ok(None);
    }
    if length > size - 8 {
        push(Code::Truncated, size, format!("the header claims {length} bytes; the file has {}", size - 8));
        return Ok(None);
    }
    let mut text = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    source.read_at(&mut text, 8)?;
    let text = match String::from_utf8(text) {
        Ok(text) => text,
        Err(error) => {
            let place = 8 + error.utf8_error().valid_up_to() as u64;
            push(Code::InvalidUtf8, place, "the header is not valid UTF-8".to_owned());
            return Ok(None);
        }
    };
    if !text.starts_with('{') {
        push(Code::BadJson, 8, "the header does not begin with {".to_owned());
        return Ok(None);
    }
    let raw: RawHeader = match serde_json::from_str(&text) {
        Ok(raw) => raw,
        Err(error) => {
            let message = error.to_string();
            let code = match &message {
                text if text.starts_with(TWICE) => Code::DuplicateTensor,
                text if text.starts_with(TOO_MANY) => Code::ImpossibleCount,
                _ => Code::BadJson,
            };
            push(code, 8, format!("the header is not valid: {message}"));
            return Ok(None);
        }
    };
    lay_out(source, raw, 8 + length, findings)
}

/// How the message about a repeated name begins.
const TWICE: &str = "the name ";
/// And the one about a list of tensors that is longer than any model's.
const TOO_MANY: &str = "more tensors ";

fn twice<E: serde::de::Error>(name: &str) -> E {
    E::custom(format!("{TWICE}{name} occurs twice"))
}

struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

struct RawHeader {
    metadata: BTreeMap<String, String>,
    tensors: Vec<(String, RawTensor)>,
}

impl<'de> Deserialize<'de> for RawTensor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            dtype: String,
            shape: Shape,
            data_offsets: (u64, u64),
        }
        let Fields { dtype, shape, data_offsets } = Fields::deserialize(deserializer)?;
        Ok(Self { dtype, shape: shape.0, data_offsets })
    }
}

/// Dimensions; a list that is longer than any tensor's is not taken into memory.
struct Shape(Vec<u64>);

const MAX_DIMENSIONS: usize = 32;

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Dimensions;
        impl<'de> Visitor<'de> for Dimensions {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of dimensions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Shape, A::Error> {
                let mut shape = Vec::new();
                while let Some(dimension) = list.next_element()? {
                    if shape.len() == MAX_DIMENSIONS {
                        return Err(A::Error::custom("too many dimensions"));
                    }
                    shape.push(dimension);
                }
                Ok(Shape(shape))
            }
        }
        deserializer.deserialize_seq(Dimensions)
    }
}

/// Entries of the metadata, each once.
struct Texts(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Texts, A::Error> {
                let mut texts = BTreeMap::new();
                while let Some((name, text)) = map.next_entry::<String, String>()? {
                    if texts.contains_key(&name) {
                        return Err(twice(&name));
                    }
                    texts.insert(name, text);
                }
                Ok(Texts(texts))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut header = RawHeader { metadata: BTreeMap::new(), tensors: Vec::new() };
                let mut seen = HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(twice(&name));
                    }
                    if name == "__metadata__" {
                        header.metadata = map.next_value::<Texts>()?.0;
                    } else {
                        if header.tensors.len() as u64 == budget::FILE_TENSORS {
                            let limit = budget::FILE_TENSORS;
                            return Err(A::Error::custom(format!("{TOO_MANY}than any model has ({limit})")));
                        }
                        let tensor = map.next_value()?;
                        header.tensors.push((name, tensor));
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// Checks types, sizes and ranges.
fn lay_out(
    source: &dyn ReadAt,
    raw: RawHeader,
    data_offset: u64,
    findings: &mut Findings,
) -> io::Result<Option<Header>> {
    let data_size = source.size() - data_offset;
    let mut push = |code: Code, tensor: &str, offset: u64, message: String| {
        let tensor = Some(tensor.to_owned());
        findings.push(Finding {
            tensor,
            offset: Some(data_offset.saturating_add(offset)),
            ..code.finding(message)
        });
    };
    let mut tensors = Vec::new();
    for (name, RawTensor { dtype, shape, data_offsets: (begin, end) }) in raw.tensors {
        if name.is_empty() || !text::is_plain(&name) {
            push(
                Code::BadName,
                &name,
                begin,
                format!("the tensor name {name:?} is empty or holds characters that nobody sees"),
            );
        }
        let Some(dtype) = Dtype::from_name(&dtype) else {
            push(
                Code::UnknownTensorType,
                &name,
                begin,
                format!("the tensor {name} has the unknown type {dtype:?}"),
            );
            continue;
        };
        let Some(bytes) = dtype.bytes(&shape) else {
            push(
                Code::DimsOverflow,
                &name,
                begin,
                format!("the shape {shape:?} of the tensor {name} overflows"),
            );
            continue;
        };
        if end.checked_sub(begin) != Some(bytes) {
            let message = format!("the tensor {name} takes {bytes} bytes; its range is {begin} to {end}");
            push(Code::ShapeMismatch, &name, begin, message);
        }
        tensors.push((
            begin,
            end,
            Tensor { name, dtype, shape, offset: data_offset.saturating_add(begin), bytes },
        ));
    }
    tensors.sort_by_key(|(begin, end, _)| (*begin, *end));
    let mut expected = 0;
    let mut cut = false;
    for (begin, end, tensor) in &tensors {
        let name = &tensor.name;
        if *end > budget::WEIGHTS_FILE_BYTES {
            let message =
                format!("the data of {name} lie at {begin} to {end}; no file of weights is that large");
            push(Code::TensorOutOfRange, name, *begin, message);
        } else if *begin < expected {
            let message =
                format!("the data of {name} begin at {begin}, before the end of those before ({expected})");
            push(Code::TensorOverlap, name, *begin, message);
        } else if *begin > expected && *begin <= data_size {
            push(
                Code::TensorGap,
                name,
                *begin,
                format!("the data of {name} begin at {begin}, expected at {expected}"),
            );
        } else if *begin > expected {
            let message = format!("the data of {name} lie at {begin} to {end} of {data_size} bytes");
            push(Code::TensorOutOfRange, name, *begin, message);
        } else if *end > data_size && !cut {
            cut = true;
            let message =
                format!("{data_size} bytes of data are there; the first tensor that is not whole is {name}");
            push(Code::Truncated, name, *begin, message);
        }
        expected = expected.max(*end);
    }
    if expected < data_size {
        let at = data_offset + expected;
        let content = sniff(source, at)?;
        let message = format!(
            "{} bytes follow the last tensor; they look like {}",
            data_size - expected,
            content.name()
        );
        let finding = Finding { offset: Some(at), ..Code::TrailingBytes.finding(message) };
        findings.push(Finding { severity: Severity::Error, ..finding });
    }
    let tensors = tensors.into_iter().map(|(_, _, tensor)| tensor).collect();
    Ok(Some(Header { metadata: raw.metadata, tensors, data_offset }))
}
