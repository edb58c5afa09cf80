//! SHA-256 of bytes, of streams and of files.

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek as _, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::Digest;
use sha2::digest::common::hazmat::{SerializableState, SerializedState};

use crate::domain::digest::{from_hex, hex};
use crate::domain::{Problem, Sha256};

/// Bytes read at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// SHA-256 over bytes that come in pieces.
#[derive(Clone, Default)]
pub struct Sha256Stream(sha2::Sha256);

impl fmt::Debug for Sha256Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sha256Stream")
    }
}

impl Sha256Stream {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn finish(self) -> Sha256 {
        Sha256(self.0.finalize().into())
    }
}

impl Write for Sha256Stream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A stream can be put down and taken up again: its state is some hundred hexadecimal digits.
impl Serialize for Sha256Stream {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex(&SerializableState::serialize(&self.0)))
    }
}

impl<'de> Deserialize<'de> for Sha256Stream {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = from_hex(&String::deserialize(deserializer)?);
        let state = bytes.as_deref().and_then(|bytes| <&SerializedState<sha2::Sha256>>::try_from(bytes).ok());
        let stream = state.and_then(|state| <sha2::Sha256 as SerializableState>::deserialize(state).ok());
        stream.map(Self).ok_or_else(|| de::Error::custom("not the state of a digest"))
    }
}

/// SHA-256 of bytes in memory.
pub fn sha256(bytes: &[u8]) -> Sha256 {
    Sha256(sha2::Sha256::digest(bytes).into())
}

/// SHA-256 of some bytes of a file; `None` if it has fewer.
///
/// # Errors
/// The file cannot be read.
pub fn sha256_range(path: &Path, bytes: Range<u64>) -> Result<Option<Sha256>, Problem> {
    let failed = |error: &std::io::Error| Problem::io("read", path, error);
    let mut file = File::open(path).map_err(|error| failed(&error))?;
    file.seek(SeekFrom::Start(bytes.start)).map_err(|error| failed(&error))?;
    let length = bytes.end.saturating_sub(bytes.start);
    let mut stream = Sha256Stream::new();
    let read = std::io::copy(&mut file.take(length), &mut stream).map_err(|error| failed(&error))?;
    Ok((read == length).then(|| stream.finish()))
}

/// SHA-256 of a file, in one pass. `progress` gets (bytes done, bytes in all).
///
/// # Errors
/// The file cannot be read, or its size changed meanwhile.
pub fn sha256_file(path: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Sha256, Problem> {
    let failed = |error: &std::io::Error| Problem::io("read", path, error);
    let mut file = File::open(path).map_err(|error| failed(&error))?;
    let total = file.metadata().map_err(|error| failed(&error))?.len();
    let mut stream = Sha256Stream::new();
    let mut buffer = vec![0u8; CHUNK_BYTES];
    let mut done = 0u64;
    loop {
        let got = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(&error)),
        };
        stream.update(buffer.get(..got).unwrap_or_default());
        done += got as u64;
        if done > total {
            break;
        }
        progress(done, total);
    }
    if done != total {
        return Err(Problem::input(format!("{} changed while it was read", path.display()))
            .hint("wait until whatever writes the file is done"));
    }
    Ok(stream.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_vectors() {
        let cases: [(&[u8], &str); 3] = [
            (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (
                b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
            ),
        ];
        for (bytes, expected) in cases {
            assert_eq!(sha256(bytes).to_string(), expected);
            let mut stream = Sha256Stream::new();
            bytes.chunks(5).for_each(|piece| stream.update(piece));
            assert_eq!(stream.finish().to_string(), expected);
        }
    }

    #[test]
    fn a_stream_can_be_put_down() {
        let bytes: Vec<u8> = (0..1000).map(|i| (i % 251) as u8).collect();
        for cut in [0, 1, 63, 64, 65, 999] {
            let mut stream = Sha256Stream::new();
            stream.update(&bytes[..cut]);
            let text = serde_json::to_string(&stream).unwrap();
            let mut stream: Sha256Stream = serde_json::from_str(&text).unwrap();
            stream.update(&bytes[cut..]);
            assert_eq!(stream.finish(), sha256(&bytes), "cut at {cut}");
        }
        for bad in ["\"\"", "\"00\"", "\"zz\"", "1"] {
            assert!(serde_json::from_str::<Sha256Stream>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn files_are_read_in_pieces_and_report_progress() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let bytes: Vec<u8> = (0..CHUNK_BYTES * 2 + 7).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let mut seen = Vec::new();
        let digest = sha256_file(&path, &mut |done, total| seen.push((done, total))).unwrap();
        assert_eq!(digest, sha256(&bytes));
        let total = bytes.len() as u64;
        assert_eq!(seen.last(), Some(&(total, total)));
        assert!(seen.len() >= 3);
        assert!(sha256_file(&folder.path().join("missing"), &mut |_, _| {}).is_err());
        assert!(sha256_file(folder.path(), &mut |_, _| {}).is_err());
    }
}
