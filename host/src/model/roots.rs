//! Merkle roots over what a full pass has hashed (RFC 6962 trees, see `digest::merkle`).
//!
//! Three roots. `file_root`: a leaf per file (its place and size) and one per piece of it
//! (place, offset, length and SHA-256); pieces are tensors, and everything else in pieces
//! of at most 1 MiB. `weights_root`: a leaf per tensor, sorted by name. `content_root`: a
//! leaf per metadata entry and per file beside the weights, then those of the tensors.
//! Leaves begin with a letter that says what they are, and every part of variable length
//! has its length before it, so that no two different lists of things have equal leaves.
//!
//! File names are in no leaf: moving or renaming an artifact changes nothing. What could
//! not be read or understood in full has no root, never one over the rest.

use std::collections::{BTreeMap, HashMap};

use super::gguf::Header;
use super::gguf::write::put_value;
use super::scan::{Piece, Weights};
use crate::digest::{merkle_root, sha256};
use crate::domain::Sha256;
use crate::domain::inspection::{Digests, TensorDigest};

/// Collects leaves while files are read.
#[derive(Debug, Default)]
pub(super) struct Roots {
    files: Vec<Vec<u8>>,
    file_count: u64,
    metadata: Vec<Vec<u8>>,
    tensors: Vec<TensorDigest>,
    /// Some bytes were not read: no root.
    spoiled: bool,
    /// Some tensors or metadata are not known: a file root only.
    incomplete: bool,
}

/// A leaf under construction.
struct Leaf(Vec<u8>);

impl Leaf {
    fn new(what: u8) -> Self {
        Self(vec![what])
    }

    fn number(mut self, number: u64) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    fn text(self, bytes: &[u8]) -> Self {
        let mut leaf = self.number(bytes.len() as u64);
        leaf.0.extend_from_slice(bytes);
        leaf
    }
}

impl Roots {
    /// One file of weights, completely hashed. `tensors` is the number its header declares;
    /// `None` if it has no readable header.
    pub fn file(&mut self, size: u64, pieces: &[Piece], weights: &[Weights], tensors: Option<usize>) {
        let place = self.file_count;
        self.file_count += 1;
        self.files.push(Leaf::new(b'F').number(place).number(size).0);
        let mut at = HashMap::new();
        for piece in pieces {
            let leaf = Leaf::new(b'P').number(place).number(piece.offset).number(piece.bytes);
            self.files.push(leaf.text(&piece.sha256.0).0);
            at.insert((piece.offset, piece.bytes), piece.sha256);
        }
        self.incomplete |= tensors != Some(weights.len());
        for tensor in weights {
            let digest = match tensor.bytes {
                0 => Some(sha256(&[])),
                bytes => at.get(&(tensor.offset, bytes)).copied(),
            };
            let Some(sha256) = digest else {
                self.incomplete = true;
                continue;
            };
            self.tensors.push(TensorDigest {
                name: tensor.name.clone(),
                dtype: tensor.dtype.to_owned(),
                shape: tensor.shape.clone(),
                bytes: tensor.bytes,
                sha256,
            });
        }
    }

    /// A file could not be read to its end.
    pub fn spoiled(&mut self) {
        self.spoiled = true;
    }

    /// Something of the artifact is missing or not understood.
    pub fn incomplete(&mut self) {
        self.incomplete = true;
    }

    /// The metadata of part `part`, sorted by key.
    pub fn gguf_metadata(&mut self, part: u64, header: &Header) {
        let mut entries: Vec<_> = header.metadata.iter().collect();
        entries.sort_by_key(|(key, _)| *key);
        for (key, value) in entries {
            let mut encoded = Vec::new();
            put_value(&mut encoded, value);
            let leaf = Leaf::new(b'M').number(part).text(key.as_bytes());
            self.metadata.push(leaf.number(value.kind() as u64).text(&encoded).0);
        }
    }

    /// The metadata of the next safetensors file.
    pub fn text_metadata(&mut self, entries: &BTreeMap<String, String>) {
        for (key, value) in entries {
            let leaf = Leaf::new(b'M').number(self.file_count).text(key.as_bytes());
            self.metadata.push(leaf.text(value.as_bytes()).0);
        }
    }

    /// A configuration or tokenizer beside the weights.
    pub fn side_file(&mut self, name: &str, digest: Sha256) {
        self.metadata.push(Leaf::new(b'S').text(name.as_bytes()).text(&digest.0).0);
    }

    /// The roots and digests of everything seen.
    pub fn finish(mut self) -> Digests {
        self.tensors.sort_by(|a, b| a.name.cmp(&b.name));
        let leaves: Vec<Vec<u8>> = self.tensors.iter().map(tensor_leaf).collect();
        let known = !self.spoiled && self.file_count > 0;
        let whole = known && !self.incomplete;
        Digests {
            file_root: known.then(|| merkle_root(&self.files)),
            content_root: whole.then(|| merkle_root(self.metadata.iter().chain(&leaves))),
            weights_root: whole.then(|| merkle_root(&leaves)),
            tensor_digests: self.tensors,
        }
    }
}

fn tensor_leaf(tensor: &TensorDigest) -> Vec<u8> {
    let leaf = Leaf::new(b'T').text(tensor.name.as_bytes()).text(tensor.dtype.as_bytes());
    let leaf = leaf.number(tensor.shape.len() as u64);
    let leaf = tensor.shape.iter().fold(leaf, |leaf, &dimension| leaf.number(dimension));
    leaf.number(tensor.bytes).text(&tensor.sha256.0).0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::gguf::GgmlType;

    fn weights(name: &str, offset: u64, bytes: u64) -> Weights {
        let shape = vec![bytes / 4];
        Weights {
            name: name.into(),
            kind: GgmlType::F32,
            dtype: "F32",
            shape,
            row_bytes: bytes,
            offset,
            bytes,
        }
    }

    fn piece(offset: u64, bytes: u64, content: &str) -> Piece {
        Piece { offset, bytes, sha256: sha256(content.as_bytes()) }
    }

    /// Roots over a file of a header piece and two tensors.
    fn digests(edit: impl Fn(&mut Vec<Piece>, &mut Vec<Weights>, &mut Roots)) -> Digests {
        let mut pieces = vec![piece(0, 64, "header"), piece(64, 32, "a"), piece(96, 32, "b")];
        let mut list = vec![weights("a", 64, 32), weights("b", 96, 32)];
        let mut roots = Roots::default();
        edit(&mut pieces, &mut list, &mut roots);
        roots.file(128, &pieces, &list, Some(2));
        roots.finish()
    }

    /// Every edit, and which of (file, content, weights) it changes.
    #[test]
    fn every_difference_is_in_the_right_roots() {
        let plain = digests(|_, _, _| {});
        assert!(plain.file_root.is_some() && plain.content_root.is_some() && plain.weights_root.is_some());
        type Edit = fn(&mut Vec<Piece>, &mut Vec<Weights>, &mut Roots);
        let cases: [(&str, Edit, [bool; 3]); 9] = [
            ("bytes", |pieces, _, _| pieces[1] = piece(64, 32, "x"), [true, true, true]),
            ("header bytes", |pieces, _, _| pieces[0] = piece(0, 64, "x"), [true, false, false]),
            ("name, in the same order", |_, list, _| list[0].name = "aa".into(), [false, true, true]),
            ("name", |_, list, _| list[0].name = "c".into(), [false, true, true]),
            (
                "swapped names",
                |_, list, _| {
                    list[0].name = "b".into();
                    list[1].name = "a".into()
                },
                [false, true, true],
            ),
            ("type", |_, list, _| list[0].dtype = "I32", [false, true, true]),
            ("shape", |_, list, _| list[0].shape = vec![2, 4], [false, true, true]),
            (
                "metadata",
                |_, _, roots| roots.text_metadata(&[("k".into(), "v".into())].into()),
                [false, true, false],
            ),
            ("side file", |_, _, roots| roots.side_file("config.json", sha256(b"{}")), [false, true, false]),
        ];
        for (what, edit, changes) in cases {
            let other = digests(edit);
            let got = [
                other.file_root != plain.file_root,
                other.content_root != plain.content_root,
                other.weights_root != plain.weights_root,
            ];
            assert_eq!(got, changes, "{what}");
        }
        let order = digests(|_, list, _| list.swap(0, 1));
        assert_eq!(order, plain, "tensors are sorted by name");
    }

    #[test]
    fn what_is_not_whole_has_no_root() {
        let dropped = digests(|_, list, _| {
            list.pop();
        });
        assert!(dropped.file_root.is_some());
        assert_eq!((dropped.content_root, dropped.weights_root), (None, None), "a tensor is out of range");
        let skipped = digests(|pieces, _, _| {
            pieces.pop();
        });
        assert_eq!((skipped.content_root, skipped.weights_root), (None, None), "a tensor was not hashed");
        let spoiled = digests(|_, _, roots| roots.spoiled());
        assert_eq!((spoiled.file_root, spoiled.weights_root), (None, None));
        let empty = Roots::default().finish();
        assert_eq!((empty.file_root, empty.weights_root), (None, None), "nothing was read");
    }
}
