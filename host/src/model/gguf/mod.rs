//! GGUF version 2 and 3: the header, strictly read, and a small writer.
//!
//! What is accepted here is accepted by every current runtime: every length is compared
//! with the bytes that remain before anything is allocated, sums are checked, names are
//! unique UTF-8 without control characters, tensors lie one after the other, aligned,
//! in the order of the table. Deliberately absent: GGUF 1, big-endian files, arrays of
//! arrays, memory mapping, and any reading of weights (see `scan`).

mod around;
mod fault;
mod read;
pub mod token;
mod types;
mod value;
pub mod write;

use std::collections::BTreeSet;

pub(super) use around::around;
pub use fault::{Fault, ReadError};
pub use read::{read, read_strict};
pub use types::GgmlType;
pub use value::{Array, Value, ValueKind};

pub(crate) const MAGIC: [u8; 4] = *b"GGUF";
pub(crate) const DEFAULT_ALIGNMENT: u64 = 32;
pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";

/// The header of one file.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    pub metadata: Metadata,
    /// In the order of the table, which is the order of the data.
    pub tensors: Vec<Tensor>,
    pub alignment: u64,
    /// Where the tensor table ends in the file; padding follows.
    pub table_end: u64,
    /// Where the tensor data begins in the file.
    pub data_offset: u64,
    /// Where the last tensor's data ends in the file, without padding.
    pub data_end: u64,
}

/// One entry of the tensor table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    pub name: String,
    pub kind: GgmlType,
    /// One to four dimensions, the fastest-varying first; none is 0.
    pub shape: Vec<u64>,
    /// Where the data begins, counted from the start of the file.
    pub offset: u64,
    /// Bytes of data, without padding.
    pub bytes: u64,
}

impl Tensor {
    /// Number of weights. The reader has checked that it fits.
    pub fn elements(&self) -> u64 {
        self.shape.iter().fold(1, |product, &dimension| product.saturating_mul(dimension))
    }

    /// Weights per row: the first dimension.
    pub fn columns(&self) -> u64 {
        self.shape.first().copied().unwrap_or(1)
    }

    /// The dimension with this index; 1 beyond the last.
    pub fn dimension(&self, index: usize) -> u64 {
        self.shape.get(index).copied().unwrap_or(1)
    }
}

/// The metadata entries in file order; keys are unique.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    /// Indices of `entries`, sorted by key.
    order: Vec<usize>,
    /// Entries whose key one of `entries` has already.
    repeated: Vec<(String, Value)>,
}

impl Metadata {
    /// The first of entries with equal keys counts; the second part says where the others
    /// were.
    fn new(all: Vec<(String, Value)>) -> (Self, Vec<usize>) {
        let sorted = |entries: &[(String, Value)]| {
            let mut order: Vec<usize> = (0..entries.len()).collect();
            // Stable, so that equal keys stay in file order.
            order.sort_by_key(|&i| entries.get(i).map(|(key, _)| key.as_str()));
            order
        };
        let key = |i: usize| all.get(i).map(|(key, _)| key);
        let order = sorted(&all);
        let pairs = order.iter().zip(order.iter().skip(1)).filter(|&(&a, &b)| key(a) == key(b));
        let again: BTreeSet<usize> = pairs.map(|(_, &b)| b).collect();
        if again.is_empty() {
            return (Self { entries: all, order, repeated: Vec::new() }, Vec::new());
        }
        let (mut entries, mut repeated) = (Vec::new(), Vec::new());
        for (i, entry) in all.into_iter().enumerate() {
            if again.contains(&i) { repeated.push(entry) } else { entries.push(entry) }
        }
        let order = sorted(&entries);
        (Self { entries, order, repeated }, again.into_iter().collect())
    }

    /// Entries that do not count: their keys were there before.
    pub fn repeated(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.repeated.iter().map(|(key, value)| (key.as_str(), value))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        let at = |&i: &usize| self.entries.get(i);
        let found =
            self.order.binary_search_by(|i| at(i).map_or("", |(other, _)| other.as_str()).cmp(key)).ok()?;
        self.order.get(found).and_then(at).map(|(_, value)| value)
    }

    pub fn str(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    pub fn u64(&self, key: &str) -> Option<u64> {
        self.get(key)?.as_u64()
    }

    pub fn float(&self, key: &str) -> Option<f64> {
        self.get(key)?.as_float()
    }

    pub fn array(&self, key: &str) -> Option<&Array> {
        self.get(key)?.as_array()
    }

    /// `general.architecture`.
    pub fn architecture(&self) -> Option<&str> {
        self.str("general.architecture")
    }

    /// The entry `{architecture}.{key}`.
    pub fn hparam(&self, key: &str) -> Option<&Value> {
        self.get(&format!("{}.{key}", self.architecture()?))
    }
}

impl Header {
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// Weights of all tensors.
    pub fn elements(&self) -> u64 {
        self.tensors.iter().fold(0, |sum, tensor| sum.saturating_add(tensor.elements()))
    }
}

#[cfg(test)]
mod tests;
