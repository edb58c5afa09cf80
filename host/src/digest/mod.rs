//! Digests and signatures: the only home of hash functions over files, and of what signs them.
//!
//! Streaming with buffers of fixed size; whatever the file, memory stays the same.

pub mod bytes;
mod crc32;
mod file;
pub mod fuzzy;
mod kinds;
pub mod merkle;
pub mod sign;

pub use bytes::{HashCore, sha256_parts};
pub use crc32::crc32;
pub use file::{Sha256Stream, sha256, sha256_file, sha256_range};
pub use fuzzy::{TlshStream, tlsh_distance, tlsh_similarity};
pub use kinds::{AnyStream, GitBlob, HashKind};
pub use merkle::merkle_root;
pub use sign::{PublicKey, SigningKey};
