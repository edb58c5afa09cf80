//! Merkle trees as RFC 6962 section 2.1 defines them: a leaf is hashed with a 0x00 prefix,
//! a node with 0x01, and no node is ever duplicated, so two different lists of leaves
//! never share a root.
//!
//! [`Tree`] keeps one hash per level, whatever the number of leaves, and [`Prover`] gathers
//! a proof while the leaves pass by. Nothing here stores leaves. Proofs are checked as
//! RFC 9162 sections 2.1.3.2 and 2.1.4.2 say.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{Sha256Stream, sha256, sha256_parts};
use crate::domain::Sha256;

/// What a leaf's bytes are hashed behind.
const LEAF: u8 = 0;
const NODE: u8 = 1;

/// A stream that becomes the hash of a leaf.
pub fn leaf_stream() -> Sha256Stream {
    let mut stream = Sha256Stream::new();
    stream.update(&[LEAF]);
    stream
}

/// The hash of a leaf.
pub fn leaf_hash(bytes: &[u8]) -> Sha256 {
    sha256_parts(&[&[LEAF], bytes])
}

fn node(left: Sha256, right: Sha256) -> Sha256 {
    sha256_parts(&[&[NODE], &left.0, &right.0])
}

/// A growing tree of which only the roots of its complete subtrees are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    /// (leaves, root) of complete subtrees, the largest first.
    subtrees: Vec<(u64, Sha256)>,
    leaves: u64,
}

impl Tree {
    /// Adds the hash of the next leaf (see [`leaf_hash`]).
    pub fn push(&mut self, mut hash: Sha256) {
        let mut size = 1;
        while let Some(&(left_size, left)) = self.subtrees.last()
            && left_size == size
        {
            hash = node(left, hash);
            size *= 2;
            self.subtrees.pop();
        }
        self.subtrees.push((size, hash));
        self.leaves += 1;
    }

    pub fn leaves(&self) -> u64 {
        self.leaves
    }

    /// Of no leaves, the hash of the empty string.
    pub fn root(&self) -> Sha256 {
        let mut subtrees = self.subtrees.iter().rev().map(|&(_, hash)| hash);
        let last = subtrees.next();
        last.map_or_else(|| sha256(&[]), |last| subtrees.fold(last, |right, left| node(left, right)))
    }
}

/// The root over `leaves` in their order; of no leaves, the hash of the empty string.
pub fn merkle_root<L: AsRef<[u8]>>(leaves: impl IntoIterator<Item = L>) -> Sha256 {
    let mut tree = Tree::default();
    leaves.into_iter().for_each(|leaf| tree.push(leaf_hash(leaf.as_ref())));
    tree.root()
}

/// The largest power of two below `leaves`, which is at least 2.
fn left_of(leaves: u64) -> u64 {
    1 << (leaves - 1).ilog2()
}

/// Leaves under each hash of the proof that leaf `index` is one of `leaves`, from the leaf
/// up (RFC 6962, 2.1.1). Empty for an index that is none.
pub fn inclusion_ranges(index: u64, leaves: u64) -> Vec<Range<u64>> {
    let mut out = Vec::new();
    let (mut start, mut end) = (0, leaves);
    while index < leaves && end - start > 1 {
        let middle = start + left_of(end - start);
        if index < middle {
            out.push(middle..end);
            end = middle;
        } else {
            out.push(start..middle);
            start = middle;
        }
    }
    out.reverse();
    out
}

/// Leaves under each hash of the proof that the tree of the first `old` leaves is a prefix
/// of that of `new` (RFC 6962, 2.1.2). Empty unless 0 < `old` < `new`.
pub fn consistency_ranges(old: u64, new: u64) -> Vec<Range<u64>> {
    let mut out = Vec::new();
    if old == 0 || old >= new {
        return out;
    }
    let (mut start, mut end, mut whole) = (0, new, true);
    while old != end {
        let middle = start + left_of(end - start);
        if old <= middle {
            out.push(middle..end);
            end = middle;
        } else {
            out.push(start..middle);
            start = middle;
            whole = false;
        }
    }
    if !whole {
        out.push(start..end);
    }
    out.reverse();
    out
}

/// Gathers a proof from leaves that pass by in order.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Prover {
    parts: Vec<(Range<u64>, Tree)>,
    next: u64,
}

impl Prover {
    /// `ranges` is what [`inclusion_ranges`] or [`consistency_ranges`] say.
    pub fn new(ranges: Vec<Range<u64>>) -> Self {
        Self { parts: ranges.into_iter().map(|range| (range, Tree::default())).collect(), next: 0 }
    }

    pub fn push(&mut self, hash: Sha256) {
        for (range, tree) in &mut self.parts {
            if range.contains(&self.next) {
                tree.push(hash);
            }
        }
        self.next += 1;
    }

    /// The proof; `None` if leaves are missing.
    pub fn finish(self) -> Option<Vec<Sha256>> {
        let whole = |(range, tree): &(Range<u64>, Tree)| tree.leaves() == range.end - range.start;
        self.parts.iter().all(whole).then(|| self.parts.iter().map(|(_, tree)| tree.root()).collect())
    }
}

/// Is a leaf with this hash leaf `index` of the tree of `leaves` leaves with this root?
pub fn verify_inclusion(leaf: Sha256, index: u64, leaves: u64, proof: &[Sha256], root: Sha256) -> bool {
    if index >= leaves {
        return false;
    }
    let (mut at, mut last, mut hash) = (index, leaves - 1, leaf);
    for &other in proof {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            hash = node(other, hash);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            hash = node(hash, other);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && hash == root
}

/// Is the tree of `old` leaves with the root `old_root` a prefix of that of `new` leaves?
pub fn verify_consistency(
    (old, old_root): (u64, Sha256),
    (new, new_root): (u64, Sha256),
    proof: &[Sha256],
) -> bool {
    if old == new {
        return proof.is_empty() && old_root == new_root;
    }
    if old == 0 || old > new {
        return false;
    }
    // A complete first tree is its own first hash.
    let mut path = if old.is_power_of_two() { vec![old_root] } else { Vec::new() };
    path.extend_from_slice(proof);
    let Some((&first, rest)) = path.split_first() else { return false };
    let (mut at, mut last) = (old - 1, new - 1);
    while at & 1 == 1 {
        (at, last) = (at >> 1, last >> 1);
    }
    let (mut old_hash, mut new_hash) = (first, first);
    for &other in rest {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            old_hash = node(other, old_hash);
            new_hash = node(other, new_hash);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            new_hash = node(new_hash, other);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && old_hash == old_root && new_hash == new_root
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::HashCore;
    use ct_merkle::mem_backed_tree::MemoryBackedTree;

    /// The definition, written out: split at the largest power of two below the length.
    fn by_definition(leaves: &[&[u8]]) -> Sha256 {
        match leaves {
            [] => sha256_parts(&[]),
            [one] => sha256_parts(&[&[0], one]),
            _ => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                sha256_parts(&[&[1], &by_definition(left).0, &by_definition(right).0])
            }
        }
    }

    /// The leaves of the Certificate Transparency test data.
    const LEAVES: [&[u8]; 8] = [
        b"",
        b"\x00",
        b"\x10",
        b"\x20\x21",
        b"\x30\x31",
        b"\x40\x41\x42\x43",
        b"\x50\x51\x52\x53\x54\x55\x56\x57",
        b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
    ];

    fn hex(texts: &[&str]) -> Vec<Sha256> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn prove(ranges: Vec<Range<u64>>, leaves: &[&[u8]]) -> Vec<Sha256> {
        let mut prover = Prover::new(ranges);
        leaves.iter().for_each(|leaf| prover.push(leaf_hash(leaf)));
        prover.finish().unwrap()
    }

    #[test]
    fn known_answers_and_definition() {
        let root = |n: usize| merkle_root(&LEAVES[..n]).to_string();
        assert_eq!(root(0), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(root(7), "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c");
        assert_eq!(root(8), "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328");
        for n in 0..=8 {
            assert_eq!(merkle_root(&LEAVES[..n]), by_definition(&LEAVES[..n]), "{n} leaves");
        }
    }

    /// The proofs of the Certificate Transparency test data.
    #[test]
    fn known_proofs() {
        assert_eq!(prove(inclusion_ranges(0, 1), &LEAVES[..1]), []);
        assert_eq!(
            prove(inclusion_ranges(0, 8), &LEAVES),
            hex(&[
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ])
        );
        assert_eq!(
            prove(inclusion_ranges(5, 8), &LEAVES),
            hex(&[
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ])
        );
        assert_eq!(
            prove(consistency_ranges(1, 8), &LEAVES),
            hex(&[
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ])
        );
        assert_eq!(
            prove(consistency_ranges(6, 8), &LEAVES),
            hex(&[
                "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ])
        );
    }

    /// Every proof of every small tree agrees with another implementation's, holds, and does
    /// not hold for anything else.
    #[test]
    fn proofs_hold_and_nothing_else_does() {
        let leaves: Vec<Vec<u8>> = (0..33u8).map(|i| vec![i; usize::from(i)]).collect();
        let leaves: Vec<&[u8]> = leaves.iter().map(Vec::as_slice).collect();
        for n in 1..=leaves.len() {
            let (some, count) = (&leaves[..n], n as u64);
            let root = merkle_root(some);
            let mut other = MemoryBackedTree::<HashCore, Vec<u8>>::new();
            some.iter().for_each(|leaf| other.push(leaf.to_vec()));
            assert_eq!(other.root().as_bytes().as_slice(), root.0);
            for i in 0..n {
                let (leaf, index) = (leaf_hash(some[i]), i as u64);
                let proof = prove(inclusion_ranges(index, count), some);
                let flat: Vec<u8> = proof.iter().flat_map(|hash| hash.0).collect();
                assert_eq!(other.prove_inclusion(i).as_bytes(), flat, "leaf {i} of {n}");
                assert!(verify_inclusion(leaf, index, count, &proof, root));
                assert!(!verify_inclusion(sha256(b"x"), index, count, &proof, root));
                assert!(!verify_inclusion(leaf, index + 1, count, &proof, root));
                assert!(!verify_inclusion(leaf, index, count, &proof, sha256(b"x")));
                // Of a larger tree the proof would be longer.
                assert!(!verify_inclusion(leaf, index, count.next_power_of_two() * 2, &proof, root));
                for cut in 0..proof.len() {
                    assert!(!verify_inclusion(leaf, index, count, &proof[..cut], root));
                    let mut bent = proof.clone();
                    bent[cut].0[7] ^= 1;
                    assert!(!verify_inclusion(leaf, index, count, &bent, root));
                }
                let longer: Vec<Sha256> = proof.iter().copied().chain([root]).collect();
                assert!(!verify_inclusion(leaf, index, count, &longer, root));
            }
            for old in 1..n {
                let (before, old_root) = (old as u64, merkle_root(&leaves[..old]));
                let proof = prove(consistency_ranges(before, count), some);
                let flat: Vec<u8> = proof.iter().flat_map(|hash| hash.0).collect();
                assert_eq!(other.prove_consistency(n - old).as_bytes(), flat, "{old} of {n}");
                assert!(verify_consistency((before, old_root), (count, root), &proof));
                assert!(!verify_consistency((before, sha256(b"x")), (count, root), &proof));
                assert!(!verify_consistency((before, old_root), (count, sha256(b"x")), &proof));
                assert!(!verify_consistency((before, old_root), (count, root), &proof[1..]));
            }
            assert!(verify_consistency((count, root), (count, root), &[]));
            assert!(!verify_consistency((0, sha256(&[])), (count, root), &[]));
        }
        assert!(!verify_inclusion(leaf_hash(b""), 0, 0, &[], sha256(&[])));
        assert_eq!(Prover::new(inclusion_ranges(0, 4)).finish(), None, "no leaves came");
    }

    #[test]
    fn repeating_the_last_leaf_changes_the_root() {
        assert_ne!(merkle_root(["a", "b", "c"]), merkle_root(["a", "b", "c", "c"]));
    }
}
