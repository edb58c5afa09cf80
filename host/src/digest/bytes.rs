//! SHA-256 of bytes in memory.

use sha2::Digest;

use crate::domain::Sha256;

/// The hash function itself, for constructions over it (HMAC lives with its users).
pub type HashCore = sha2::Sha256;

/// SHA-256 of the concatenation of `parts`; the caller separates what must not run together.
pub fn sha256_parts(parts: &[&[u8]]) -> Sha256 {
    let mut hasher = HashCore::new();
    for part in parts {
        hasher.update(part);
    }
    Sha256(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-4 example values.
    #[test]
    fn known_answers() {
        let check = |data: &[u8], hex: &str| assert_eq!(sha256_parts(&[data]).to_string(), hex);
        check(b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        check(b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(sha256_parts(&[b"a", b"bc"]), sha256_parts(&[b"abc"]));
    }
}
