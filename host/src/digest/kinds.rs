//! The other hash functions that lists of digests use. None of them but SHA-256 withstands
//! an attacker; they compare with what others have published.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha1::Digest as _;

use super::Sha256Stream;
use crate::domain::digest::hex;

/// A kind of digest of `llama-gguf-hash`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HashKind {
    Xxh64,
    Xxh3,
    Sha1,
    Sha256,
    /// Version 5 (RFC 9562, 5.5) in the name space of llama.cpp; of whole models only.
    Uuid,
}

/// `uuid5(NAMESPACE_URL, "en.wikipedia.org/wiki/Llama.cpp")`, as `llama-gguf-hash` has it.
const LLAMA_NAMESPACE: uuid::Uuid = uuid::Uuid::from_u128(0xef00_1206_dadc_5f6d_a15f_3359_e577_d4e5);

impl HashKind {
    pub const ALL: [Self; 5] = [Self::Xxh64, Self::Xxh3, Self::Sha1, Self::Sha256, Self::Uuid];

    pub fn name(self) -> &'static str {
        match self {
            Self::Xxh64 => "xxh64",
            Self::Xxh3 => "xxh3",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Uuid => "uuid",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Does `text` look like a digest of this kind, in lower case?
    pub fn fits(self, text: &str) -> bool {
        let digits = |length: usize, text: &str| {
            text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        match self {
            Self::Xxh64 | Self::Xxh3 => digits(16, text),
            Self::Sha1 => digits(40, text),
            Self::Sha256 => digits(64, text),
            Self::Uuid => text.len() == 36 && uuid::Uuid::try_parse(text).is_ok(),
        }
    }
}

/// A digest of any kind, in progress.
pub enum AnyStream {
    Xxh64(xxhash_rust::xxh64::Xxh64),
    Xxh3(Box<xxhash_rust::xxh3::Xxh3>),
    Sha1(sha1::Sha1),
    Sha256(Sha256Stream),
    Uuid(sha1::Sha1),
}

impl fmt::Debug for AnyStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnyStream")
    }
}

impl AnyStream {
    pub fn new(kind: HashKind) -> Self {
        match kind {
            HashKind::Xxh64 => Self::Xxh64(xxhash_rust::xxh64::Xxh64::new(0)),
            HashKind::Xxh3 => Self::Xxh3(Box::default()),
            HashKind::Sha1 => Self::Sha1(sha1::Sha1::new()),
            HashKind::Sha256 => Self::Sha256(Sha256Stream::new()),
            HashKind::Uuid => Self::Uuid(sha1::Sha1::new().chain_update(LLAMA_NAMESPACE.as_bytes())),
        }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Xxh64(stream) => stream.update(bytes),
            Self::Xxh3(stream) => stream.update(bytes),
            Self::Sha1(stream) | Self::Uuid(stream) => stream.update(bytes),
            Self::Sha256(stream) => stream.update(bytes),
        }
    }

    /// As `llama-gguf-hash` writes it.
    pub fn finish(self) -> String {
        match self {
            Self::Xxh64(stream) => format!("{:016x}", stream.digest()),
            Self::Xxh3(stream) => format!("{:016x}", stream.digest()),
            Self::Sha1(stream) => hex(&stream.finalize()),
            Self::Sha256(stream) => stream.finish().to_string(),
            Self::Uuid(stream) => {
                let digest: [u8; 20] = stream.finalize().into();
                let (first, _) = digest.split_first_chunk().unwrap_or((&[0; 16], &[]));
                uuid::Builder::from_sha1_bytes(*first).into_uuid().to_string()
            }
        }
    }
}

/// The name git gives a file's content: SHA-1 over `blob`, the size, and the bytes.
pub struct GitBlob(sha1::Sha1);

impl fmt::Debug for GitBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GitBlob")
    }
}

impl GitBlob {
    pub fn new(size: u64) -> Self {
        Self(sha1::Sha1::new().chain_update(format!("blob {size}\0")))
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// 40 hexadecimal digits.
    pub fn finish(self) -> String {
        hex(&self.0.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: HashKind, bytes: &[u8]) -> String {
        let mut stream = AnyStream::new(kind);
        bytes.chunks(7).for_each(|piece| stream.update(piece));
        stream.finish()
    }

    /// xxHash: its own documentation and sanity tests; SHA-1: FIPS 180-4; the UUID: Python's
    /// `uuid.uuid5` with the name space of llama.cpp; git: `git hash-object`.
    #[test]
    fn known_answers() {
        assert_eq!(of(HashKind::Xxh64, b""), "ef46db3751d8e999");
        assert_eq!(of(HashKind::Xxh64, b"abc"), "44bc2cf5ad770999");
        assert_eq!(of(HashKind::Xxh3, b""), "2d06800538d394c2");
        assert_eq!(of(HashKind::Sha1, b"abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(of(HashKind::Sha256, b"abc"), crate::digest::sha256(b"abc").to_string());
        assert_eq!(of(HashKind::Uuid, b"abc"), "9f2200fc-45e8-5a39-9535-c3ea5c0e0cef");
        let mut blob = GitBlob::new(6);
        blob.update(b"hello\n");
        assert_eq!(blob.finish(), "ce013625030ba8dba906f756967f9e9ca394464a");
    }

    #[test]
    fn names_and_shapes() {
        for kind in HashKind::ALL {
            assert_eq!(HashKind::from_name(kind.name()), Some(kind));
            let digest = of(kind, b"x");
            assert!(kind.fits(&digest));
            assert!(!kind.fits(&digest[1..]) && !kind.fits(&digest.replace(|_| true, "g")));
        }
        assert_eq!(HashKind::from_name("md5"), None);
    }
}
