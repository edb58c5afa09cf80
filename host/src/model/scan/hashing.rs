//! The trees over chunks, and digests of other kinds over tensors.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Content;
use crate::digest::merkle::{Prover, Tree, inclusion_ranges, leaf_stream};
use crate::digest::{AnyStream, HashKind};
use crate::domain::Sha256;

/// Digests by their kind's name, as `llama-gguf-hash` writes them.
pub type OtherDigests = BTreeMap<String, String>;

/// What a tensor's bytes amount to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorHash {
    /// Of the tree over its chunks.
    pub root: Sha256,
    pub others: OtherDigests,
}

/// The trees so far.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Hashing {
    pub tree: Tree,
    /// Over the chunks of the present tensor.
    tensor: Tree,
    /// (place in the list, root) of the tensors that are done.
    pub tensors: Vec<(usize, Sha256)>,
    prover: Option<Proving>,
}

/// A proof on its way.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Proving {
    leaf: u64,
    hash: Option<Sha256>,
    prover: Prover,
}

impl Hashing {
    /// `prove` is the number of a leaf of the `leaves` there will be.
    pub fn new(prove: Option<u64>, leaves: u64) -> Self {
        let proving =
            |leaf| Proving { leaf, hash: None, prover: Prover::new(inclusion_ranges(leaf, leaves)) };
        Self { prover: prove.map(proving), ..Self::default() }
    }

    /// Is this the leaf whose proof is gathered?
    pub fn proves(&self, leaf: Option<u64>) -> bool {
        self.prover.as_ref().map(|proving| proving.leaf) == leaf
    }

    /// The next chunk; `last` of its stretch.
    pub fn take(&mut self, bytes: &[u8], content: Content, last: bool) {
        let mut stream = leaf_stream();
        stream.update(bytes);
        let hash = stream.finish();
        if let Some(proving) = &mut self.prover {
            if self.tree.leaves() == proving.leaf {
                proving.hash = Some(hash);
            }
            proving.prover.push(hash);
        }
        self.tree.push(hash);
        if let Content::Tensor(place) = content {
            self.tensor.push(hash);
            if last {
                self.tensors.push((place, std::mem::take(&mut self.tensor).root()));
            }
        }
    }

    /// The leaf's hash and those beside its way up.
    pub fn proof(&mut self) -> Option<(Sha256, Vec<Sha256>)> {
        let proving = self.prover.take()?;
        Some((proving.hash?, proving.prover.finish()?))
    }
}

/// Digests of other kinds. UUIDs are of whole models only.
#[derive(Debug)]
pub(super) struct Others {
    kinds: Vec<HashKind>,
    tensor: Vec<AnyStream>,
    whole: Vec<AnyStream>,
    done: BTreeMap<usize, OtherDigests>,
}

impl Others {
    pub fn new(kinds: &[HashKind]) -> Self {
        let whole = kinds.iter().map(|&kind| AnyStream::new(kind)).collect();
        Self { kinds: kinds.to_vec(), tensor: Vec::new(), whole, done: BTreeMap::new() }
    }

    fn tensor_kinds(kinds: &[HashKind]) -> impl Iterator<Item = HashKind> {
        kinds.iter().copied().filter(|&kind| kind != HashKind::Uuid)
    }

    fn written(kinds: impl Iterator<Item = HashKind>, streams: Vec<AnyStream>) -> OtherDigests {
        kinds.zip(streams).map(|(kind, stream)| (kind.name().to_owned(), stream.finish())).collect()
    }

    /// Of no bytes at all.
    pub fn empty(kinds: &[HashKind]) -> OtherDigests {
        Self::written(Self::tensor_kinds(kinds), Self::tensor_kinds(kinds).map(AnyStream::new).collect())
    }

    pub fn take(&mut self, bytes: &[u8], content: Content, last: bool) {
        let Content::Tensor(place) = content else { return };
        if self.tensor.is_empty() {
            self.tensor = Self::tensor_kinds(&self.kinds).map(AnyStream::new).collect();
        }
        self.tensor.iter_mut().chain(&mut self.whole).for_each(|stream| stream.update(bytes));
        if last {
            let streams = std::mem::take(&mut self.tensor);
            self.done.insert(place, Self::written(Self::tensor_kinds(&self.kinds), streams));
        }
    }

    pub fn of(&mut self, place: usize) -> OtherDigests {
        self.done.remove(&place).unwrap_or_default()
    }

    /// Over all tensors.
    pub fn weights(&mut self) -> OtherDigests {
        Self::written(self.kinds.iter().copied(), std::mem::take(&mut self.whole))
    }
}
