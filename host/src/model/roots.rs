//! Merkle roots over what a full pass has hashed (RFC 6962 trees, see `digest::merkle`).
//!
//! Three roots. `file_root`: that of the tree over the file's chunks (see `scan`), whose
//! leaves are the bytes themselves; of several files, the root over a leaf for each (place,
//! size and root). `weights_root`: a leaf per tensor, sorted by name. `content_root`: a leaf
//! per metadata entry, one per file beside the weights, one for how tensors are split over
//! several files, then those of the tensors. These leaves begin with a letter that says what
//! they are, and every part of variable length has its length before it, so that no two
//! different lists of things have equal leaves.
//!
//! File names are in no leaf: moving or renaming an artifact changes nothing. What could
//! not be read or understood in full has no root, never one over the rest; nor has what
//! holds two tensors or two entries of one name, of which nobody knows which one counts.

use std::collections::BTreeMap;

use super::gguf::Header;
use super::gguf::write::put_begin;
use super::scan::{Scanned, Weights};
use crate::digest::merkle::{Tree, leaf_hash, leaf_stream};
use crate::digest::merkle_root;
use crate::domain::Sha256;
use crate::domain::inspection::{
    ByteSample, ChunkProof, Digests, EntryDigest, FileTree, FuzzyDigest, TensorDigest,
};

/// Collects leaves while files are read.
#[derive(Debug, Default)]
pub(super) struct Roots {
    files: Vec<FileTree>,
    sizes: Vec<u64>,
    /// Tensors that each file declares.
    tensor_counts: Vec<u64>,
    side_files: Vec<Sha256>,
    metadata: Vec<EntryDigest>,
    tensors: Vec<TensorDigest>,
    pub proof: Option<ChunkProof>,
    pub fuzzy: Option<FuzzyDigest>,
    pub byte_samples: Vec<ByteSample>,
    pub from_cache: u64,
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
    /// `None` if it has no readable header. `in_order` says that the table lists the tensors
    /// as they lie in the file.
    pub fn file(
        &mut self,
        (name, size): (&str, u64),
        scanned: Scanned,
        weights: &[Weights],
        tensors: Option<usize>,
        in_order: bool,
    ) {
        self.files.push(FileTree {
            file: name.to_owned(),
            leaves: scanned.leaves,
            root: scanned.root,
            weights: if in_order { scanned.weights } else { BTreeMap::new() },
        });
        self.sizes.push(size);
        self.tensor_counts.push(tensors.unwrap_or(0) as u64);
        self.proof = scanned.proof.or(self.proof.take());
        self.incomplete |= tensors != Some(weights.len());
        for (tensor, hashed) in weights.iter().zip(scanned.tensors) {
            let Some(hashed) = hashed else {
                self.incomplete = true;
                continue;
            };
            self.tensors.push(TensorDigest {
                name: tensor.name.clone(),
                dtype: tensor.dtype.to_owned(),
                shape: tensor.shape.clone(),
                bytes: tensor.bytes,
                root: hashed.root,
                others: hashed.others,
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

    /// The metadata of part `part`.
    pub fn gguf_metadata(&mut self, part: u64, header: &Header) {
        for (key, value) in header.metadata.iter().chain(header.metadata.repeated()) {
            let mut begin = Vec::new();
            let rest = put_begin(&mut begin, value);
            let leaf = Leaf::new(b'M').number(part).text(key.as_bytes()).number(value.kind() as u64);
            let leaf = leaf.number((begin.len() + rest.len()) as u64);
            self.entry(part, key, &[&leaf.0, &begin, rest]);
        }
    }

    /// The metadata of the next safetensors file.
    pub fn text_metadata(&mut self, entries: &BTreeMap<String, String>) {
        let part = self.files.len() as u64;
        for (key, value) in entries {
            let leaf = Leaf::new(b'M').number(part).text(key.as_bytes()).number(value.len() as u64);
            self.entry(part, key, &[&leaf.0, value.as_bytes()]);
        }
    }

    /// The leaf is hashed piece by piece: a vocabulary takes megabytes, and is in memory once.
    fn entry(&mut self, part: u64, key: &str, leaf: &[&[u8]]) {
        let mut stream = leaf_stream();
        leaf.iter().for_each(|piece| stream.update(piece));
        self.metadata.push(EntryDigest { part, key: key.to_owned(), sha256: stream.finish() });
    }

    /// A configuration or tokenizer beside the weights.
    pub fn side_file(&mut self, name: &str, digest: Sha256) {
        let leaf = Leaf::new(b'S').text(name.as_bytes()).text(&digest.0);
        self.side_files.push(leaf_hash(&leaf.0));
    }

    /// The roots and digests of everything seen.
    pub fn finish(mut self) -> Digests {
        self.tensors.sort_by(|a, b| a.name.cmp(&b.name));
        self.metadata.sort_by(|a, b| (a.part, &a.key).cmp(&(b.part, &b.key)));
        let leaves: Vec<Sha256> = self.tensors.iter().map(tensor_leaf).collect();
        let content = self.metadata.iter().map(|entry| entry.sha256);
        let content = content.chain(self.side_files.iter().copied()).chain(self.split_leaf());
        let unique = self.tensors.is_sorted_by(|a, b| a.name < b.name)
            && self.metadata.is_sorted_by(|a, b| (a.part, &a.key) < (b.part, &b.key));
        let known = !self.spoiled && !self.files.is_empty();
        let whole = known && unique && !self.incomplete;
        Digests {
            file_root: known.then(|| self.file_root()),
            content_root: whole.then(|| root_of(content.chain(leaves.iter().copied()))),
            weights_root: whole.then(|| root_of(leaves.iter().copied())),
            trees: self.files,
            metadata_digests: self.metadata,
            tensor_digests: self.tensors,
            fuzzy: self.fuzzy,
            byte_samples: self.byte_samples,
            proof: self.proof,
            files_from_cache: self.from_cache,
        }
    }

    fn file_root(&self) -> Sha256 {
        if let [only] = self.files.as_slice() {
            return only.root;
        }
        let leaf = |(place, (file, &size)): (u64, (&FileTree, &u64))| {
            Leaf::new(b'F').number(place).number(size).text(&file.root.0).0
        };
        merkle_root((0..).zip(self.files.iter().zip(&self.sizes)).map(leaf))
    }

    /// How many tensors each of several files holds.
    fn split_leaf(&self) -> Option<Sha256> {
        let counts = self.tensor_counts.iter().fold(Leaf::new(b'X'), |leaf, &count| leaf.number(count));
        (self.files.len() > 1).then(|| leaf_hash(&counts.0))
    }
}

fn root_of(leaves: impl Iterator<Item = Sha256>) -> Sha256 {
    let mut tree = Tree::default();
    leaves.for_each(|leaf| tree.push(leaf));
    tree.root()
}

fn tensor_leaf(tensor: &TensorDigest) -> Sha256 {
    let leaf = Leaf::new(b'T').text(tensor.name.as_bytes()).text(tensor.dtype.as_bytes());
    let leaf = leaf.number(tensor.shape.len() as u64);
    let leaf = tensor.shape.iter().fold(leaf, |leaf, &dimension| leaf.number(dimension));
    leaf_hash(&leaf.number(tensor.bytes).text(&tensor.root.0).0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::sha256;
    use crate::model::gguf::write::write_file;
    use crate::model::gguf::{self, Array, GgmlType, Value};
    use crate::model::scan::{Kind, TensorHash};
    use crate::model::source::SourceFile;

    fn weights(name: &str, offset: u64, bytes: u64) -> Weights {
        let shape = vec![bytes / 4];
        Weights {
            name: name.into(),
            kind: Kind::Ggml(GgmlType::F32),
            dtype: "F32",
            shape,
            row_bytes: bytes,
            offset,
            bytes,
        }
    }

    fn hashed(content: &str) -> Option<TensorHash> {
        Some(TensorHash { root: sha256(content.as_bytes()), others: BTreeMap::new() })
    }

    /// Roots over a file with two tensors, whose bytes have the root `file`.
    fn digests(edit: impl Fn(&mut Scanned, &mut Vec<Weights>, &mut Roots)) -> Digests {
        let mut scanned = Scanned {
            sha256: sha256(b""),
            root: sha256(b"file"),
            leaves: 3,
            tensors: vec![hashed("a"), hashed("b")],
            weights: BTreeMap::new(),
            proof: None,
        };
        let mut list = vec![weights("a", 64, 32), weights("b", 96, 32)];
        let mut roots = Roots::default();
        edit(&mut scanned, &mut list, &mut roots);
        roots.file(("m.gguf", 128), scanned, &list, Some(2), true);
        roots.finish()
    }

    /// An entry's leaf, put together by hand: letter, part, key, kind and value, each with its length.
    #[test]
    fn leaves_of_metadata() {
        let texts = Array::of_strings(["a", "bc"]);
        let value = b"\x08\0\0\0\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0a\x02\0\0\0\0\0\0\0bc";
        for (value, kind, encoded) in [
            (texts.into(), 9u64, &value[..]),
            ("text".into(), 8, b"\x04\0\0\0\0\0\0\0text"),
            (Value::from(7u32), 4, b"\x07\0\0\0"),
        ] {
            let file = tempfile::NamedTempFile::new().unwrap();
            write_file(file.path(), &[("key", value)], &[]).unwrap();
            let header = gguf::read_strict(&SourceFile::open(file.path()).unwrap()).unwrap();
            let mut roots = Roots::default();
            roots.gguf_metadata(2, &header);
            let number = |number: u64| number.to_be_bytes();
            let begin = [number(2), number(3)].concat();
            let middle = [number(kind), number(encoded.len() as u64)].concat();
            let leaf = [b"M", &begin[..], b"key", &middle, encoded].concat();
            assert_eq!(roots.metadata[0].sha256, leaf_hash(&leaf), "{kind}");
        }
    }

    /// Every edit, and which of (file, content, weights) it changes.
    #[test]
    fn every_difference_is_in_the_right_roots() {
        let plain = digests(|_, _, _| {});
        assert!(plain.file_root.is_some() && plain.content_root.is_some() && plain.weights_root.is_some());
        type Edit = fn(&mut Scanned, &mut Vec<Weights>, &mut Roots);
        let cases: [(&str, Edit, [bool; 3]); 9] = [
            ("a tensor's bytes", |scanned, _, _| scanned.tensors[0] = hashed("x"), [false, true, true]),
            ("the file's bytes", |scanned, _, _| scanned.root = sha256(b"x"), [true, false, false]),
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
        let order = digests(|scanned, list, _| {
            list.swap(0, 1);
            scanned.tensors.swap(0, 1);
        });
        assert_eq!(order, plain, "tensors are sorted by name");
    }

    #[test]
    fn the_split_is_part_of_the_content() {
        let split = |first: usize| {
            let mut roots = Roots::default();
            let list = [weights("a", 0, 4), weights("b", 4, 4), weights("c", 8, 4)];
            for (place, part) in [&list[..first], &list[first..]].into_iter().enumerate() {
                let scanned = Scanned {
                    sha256: sha256(b""),
                    root: sha256(&[place as u8]),
                    leaves: 1,
                    tensors: part.iter().map(|weights| hashed(&weights.name)).collect(),
                    weights: BTreeMap::new(),
                    proof: None,
                };
                roots.file(("p", 12), scanned, part, Some(part.len()), true);
            }
            roots.finish()
        };
        let (one, two) = (split(1), split(2));
        assert_eq!(one.weights_root, two.weights_root);
        assert_eq!(one.file_root, two.file_root, "the files have the same bytes here");
        assert_ne!(one.content_root, two.content_root);
        assert_ne!(one.file_root, Some(one.trees[0].root), "a root of several files is another");
    }

    #[test]
    fn what_is_not_whole_has_no_root() {
        let dropped = digests(|_, list, _| {
            list.pop();
        });
        assert!(dropped.file_root.is_some());
        assert_eq!((dropped.content_root, dropped.weights_root), (None, None), "a tensor is out of range");
        let skipped = digests(|scanned, _, _| scanned.tensors[1] = None);
        assert_eq!((skipped.content_root, skipped.weights_root), (None, None), "a tensor was not hashed");
        let tensors_twice = digests(|_, list, _| list[1].name = "a".into());
        let entries_twice = digests(|_, _, roots| {
            roots.entry(0, "k", &[&b"M"[..]]);
            roots.entry(0, "k", &[&b"M1"[..]]);
        });
        for twice in [tensors_twice, entries_twice] {
            assert!(twice.file_root.is_some());
            assert_eq!((twice.content_root, twice.weights_root), (None, None), "which of the two counts?");
        }
        let spoiled = digests(|_, _, roots| roots.spoiled());
        assert_eq!((spoiled.file_root, spoiled.weights_root), (None, None));
        let empty = Roots::default().finish();
        assert_eq!((empty.file_root, empty.weights_root), (None, None), "nothing was read");
    }
}
