//! Merkle trees as RFC 6962 section 2.1 defines them: a leaf is hashed with a 0x00 prefix,
//! a node with 0x01, and no node is ever duplicated, so two different lists of leaves
//! never share a root.

use ct_merkle::mem_backed_tree::MemoryBackedTree;

use super::HashCore;
use crate::domain::Sha256;

/// The root over `leaves` in their order; of no leaves, the hash of the empty string.
pub fn merkle_root<L: AsRef<[u8]>>(leaves: impl IntoIterator<Item = L>) -> Sha256 {
    let mut tree = MemoryBackedTree::<HashCore, Vec<u8>>::new();
    for leaf in leaves {
        tree.push(leaf.as_ref().to_vec());
    }
    Sha256((*tree.root().as_bytes()).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::sha256_parts;

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

    /// The tree of the Certificate Transparency test data: root of seven and of eight leaves.
    #[test]
    fn known_answers_and_definition() {
        let leaves: [&[u8]; 8] = [
            b"",
            b"\x00",
            b"\x10",
            b"\x20\x21",
            b"\x30\x31",
            b"\x40\x41\x42\x43",
            b"\x50\x51\x52\x53\x54\x55\x56\x57",
            b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
        ];
        let root = |n: usize| merkle_root(&leaves[..n]).to_string();
        assert_eq!(root(0), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(root(7), "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c");
        assert_eq!(root(8), "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328");
        for n in 0..=8 {
            assert_eq!(merkle_root(&leaves[..n]), by_definition(&leaves[..n]), "{n} leaves");
        }
    }

    #[test]
    fn repeating_the_last_leaf_changes_the_root() {
        assert_ne!(merkle_root(["a", "b", "c"]), merkle_root(["a", "b", "c", "c"]));
    }
}
