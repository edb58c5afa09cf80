//! Metadata values. Arrays stay in their file encoding, so that a header never takes
//! more memory than it takes bytes in the file.

/// Type of a metadata value; the discriminants are the ids in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ValueKind {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueKind {
    pub fn from_id(id: u32) -> Option<Self> {
        Some(match id {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            8 => Self::String,
            9 => Self::Array,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => return None,
        })
    }

    /// Fewest bytes a value of this kind takes in a file.
    pub fn min_bytes(self) -> u64 {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::String => 8,
            Self::Array => 12,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::String => "string",
            Self::Array => "array",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F64 => "f64",
        }
    }
}

/// One metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// A metadata array of one element kind, in its file encoding (little-endian; a string
/// is a u64 length and that many bytes). Strings in it need not be UTF-8: byte-level
/// vocabularies hold fragments of characters.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    kind: ValueKind,
    count: u64,
    raw: Vec<u8>,
}

impl Array {
    /// `raw` must hold exactly `count` encoded elements; the reader has checked that.
    pub(super) fn from_raw(kind: ValueKind, count: u64, raw: Vec<u8>) -> Self {
        Self { kind, count, raw }
    }

    pub fn of_strings<S: AsRef<[u8]>>(items: impl IntoIterator<Item = S>) -> Self {
        let mut array = Self { kind: ValueKind::String, count: 0, raw: Vec::new() };
        for item in items {
            array.raw.extend_from_slice(&(item.as_ref().len() as u64).to_le_bytes());
            array.raw.extend_from_slice(item.as_ref());
            array.count += 1;
        }
        array
    }

    pub fn of_f32(items: &[f32]) -> Self {
        let raw = items.iter().flat_map(|item| item.to_le_bytes()).collect();
        Self { kind: ValueKind::F32, count: items.len() as u64, raw }
    }

    pub fn of_i32(items: &[i32]) -> Self {
        let raw = items.iter().flat_map(|item| item.to_le_bytes()).collect();
        Self { kind: ValueKind::I32, count: items.len() as u64, raw }
    }

    pub fn of_u32(items: &[u32]) -> Self {
        let raw = items.iter().flat_map(|item| item.to_le_bytes()).collect();
        Self { kind: ValueKind::U32, count: items.len() as u64, raw }
    }

    pub fn kind(&self) -> ValueKind {
        self.kind
    }

    pub fn len(&self) -> u64 {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The elements in file encoding.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The elements of a string array; nothing for other kinds.
    pub fn strings(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest: &[u8] = if self.kind == ValueKind::String { &self.raw } else { &[] };
        std::iter::from_fn(move || {
            let (length, after) = rest.split_first_chunk::<8>()?;
            let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
            let (item, after) = after.split_at_checked(length)?;
            rest = after;
            Some(item)
        })
    }

    /// The elements of an integer or boolean array, widened; nothing for other kinds.
    pub fn integers(&self) -> impl Iterator<Item = i128> {
        let width = match self.kind {
            ValueKind::F32 | ValueKind::F64 | ValueKind::String | ValueKind::Array => 0,
            kind => usize::try_from(kind.min_bytes()).unwrap_or(0),
        };
        let items = if width == 0 { [].chunks_exact(1) } else { self.raw.chunks_exact(width) };
        items.filter_map(|item| integer(self.kind, item))
    }

    /// The elements of a float array, widened; nothing for other kinds.
    pub fn floats(&self) -> impl Iterator<Item = f64> {
        let width = match self.kind {
            ValueKind::F32 => 4,
            ValueKind::F64 => 8,
            _ => 0,
        };
        let items = if width == 0 { [].chunks_exact(1) } else { self.raw.chunks_exact(width) };
        items.filter_map(|item| {
            item.first_chunk::<8>()
                .map(|bytes| f64::from_le_bytes(*bytes))
                .or_else(|| item.first_chunk::<4>().map(|bytes| f64::from(f32::from_le_bytes(*bytes))))
        })
    }
}

fn integer(kind: ValueKind, item: &[u8]) -> Option<i128> {
    Some(match kind {
        ValueKind::U8 | ValueKind::Bool => i128::from(*item.first()?),
        ValueKind::I8 => i128::from(i8::from_le_bytes(*item.first_chunk()?)),
        ValueKind::U16 => i128::from(u16::from_le_bytes(*item.first_chunk()?)),
        ValueKind::I16 => i128::from(i16::from_le_bytes(*item.first_chunk()?)),
        ValueKind::U32 => i128::from(u32::from_le_bytes(*item.first_chunk()?)),
        ValueKind::I32 => i128::from(i32::from_le_bytes(*item.first_chunk()?)),
        ValueKind::U64 => i128::from(u64::from_le_bytes(*item.first_chunk()?)),
        ValueKind::I64 => i128::from(i64::from_le_bytes(*item.first_chunk()?)),
        ValueKind::F32 | ValueKind::F64 | ValueKind::String | ValueKind::Array => return None,
    })
}

impl Value {
    pub fn kind(&self) -> ValueKind {
        match self {
            Self::U8(_) => ValueKind::U8,
            Self::I8(_) => ValueKind::I8,
            Self::U16(_) => ValueKind::U16,
            Self::I16(_) => ValueKind::I16,
            Self::U32(_) => ValueKind::U32,
            Self::I32(_) => ValueKind::I32,
            Self::F32(_) => ValueKind::F32,
            Self::Bool(_) => ValueKind::Bool,
            Self::String(_) => ValueKind::String,
            Self::Array(_) => ValueKind::Array,
            Self::U64(_) => ValueKind::U64,
            Self::I64(_) => ValueKind::I64,
            Self::F64(_) => ValueKind::F64,
        }
    }

    /// An integer of any width; `None` for other kinds.
    pub fn as_integer(&self) -> Option<i128> {
        Some(match *self {
            Self::U8(v) => v.into(),
            Self::I8(v) => v.into(),
            Self::U16(v) => v.into(),
            Self::I16(v) => v.into(),
            Self::U32(v) => v.into(),
            Self::I32(v) => v.into(),
            Self::U64(v) => v.into(),
            Self::I64(v) => v.into(),
            Self::F32(_) | Self::F64(_) | Self::Bool(_) | Self::String(_) | Self::Array(_) => return None,
        })
    }

    pub fn as_u64(&self) -> Option<u64> {
        self.as_integer().and_then(|value| value.try_into().ok())
    }

    pub fn as_float(&self) -> Option<f64> {
        match *self {
            Self::F32(v) => Some(v.into()),
            Self::F64(v) => Some(v),
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(v) => Some(v),
            _ => None,
        }
    }

    pub fn as_array(&self) -> Option<&Array> {
        match self {
            Self::Array(v) => Some(v),
            _ => None,
        }
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::String(value.to_owned())
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::U32(value)
    }
}

impl From<f32> for Value {
    fn from(value: f32) -> Self {
        Self::F32(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<Array> for Value {
    fn from(value: Array) -> Self {
        Self::Array(value)
    }
}
