//! The secret of a challenge set: never printed, never serialised, revealed on purpose only.

use crate::digest::sha256_parts;
use crate::domain::digest::{from_hex, hex};
use crate::domain::{Problem, Sha256};

use super::kdf::{BLOCK_BYTES, Choices, hmac_sha256};

/// Bytes of a key made here.
pub const KEY_BYTES: usize = 32;
/// Fewest and most bytes of a key that is brought along.
const KEY_RANGE: std::ops::RangeInclusive<usize> = 16..=64;

/// A challenge key. `Debug` withholds it; [`Key::reveal`] is the only way out.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(Vec<u8>);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(withheld)")
    }
}

impl Key {
    /// 32 bytes from the operating system's random source.
    ///
    /// # Errors
    /// The machine has no random source to offer.
    pub fn random() -> Result<Self, Problem> {
        let mut bytes = vec![0; KEY_BYTES];
        getrandom::fill(&mut bytes)
            .map_err(|error| Problem::machine(format!("cannot draw a random challenge key: {error}")))?;
        Ok(Self(bytes))
    }

    /// A key written as 32 to 128 hexadecimal digits; white space around it is ignored.
    ///
    /// # Errors
    /// Usage: other characters, an odd number of digits, too short or too long.
    pub fn from_hex(text: &str) -> Result<Self, Problem> {
        let text = text.trim();
        let bytes = from_hex(text)
            .ok_or_else(|| Problem::usage("the challenge key is not an even number of hexadecimal digits"))?;
        if !KEY_RANGE.contains(&bytes.len()) {
            return Err(Problem::usage(format!(
                "the challenge key has {} bytes; it needs {} to {}",
                bytes.len(),
                KEY_RANGE.start(),
                KEY_RANGE.end()
            ))
            .hint("make one with: openssl rand -hex 32"));
        }
        Ok(Self(bytes))
    }

    /// The key in hexadecimal, for the report after the run.
    pub fn reveal(&self) -> String {
        hex(&self.0)
    }

    /// What the commitment holds of the key.
    pub fn fingerprint(&self) -> Sha256 {
        sha256_parts(&[b"assayd/key-fingerprint/v1\0", &self.0])
    }

    /// The source of all choices. Extracting first makes keys of every length equally good
    /// and keeps `ab` and `ab00`, which HMAC pads to the same block, apart.
    pub(super) fn choices(&self) -> Choices {
        let length = u64::try_from(self.0.len()).unwrap_or(u64::MAX).to_be_bytes();
        let master: [u8; BLOCK_BYTES] = hmac_sha256(b"assayd/challenge-key/v1", &[&length, &self.0]);
        Choices::new(master)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parsing() {
        let key = Key::from_hex(&format!(" {}\n", "0f".repeat(32))).unwrap();
        assert_eq!(key.reveal(), "0f".repeat(32));
        for bad in ["", "0", "xyz", &"00".repeat(15), &"00".repeat(65), &"0".repeat(33)] {
            assert_eq!(Key::from_hex(bad).unwrap_err().exit_code(), 2, "{bad}");
        }
    }

    #[test]
    fn debug_shows_nothing() {
        let key = Key::from_hex(&"5a".repeat(32)).unwrap();
        assert!(!format!("{key:?} {:?}", key.choices()).contains("5a"));
    }

    #[test]
    fn padding_does_not_make_keys_equal() {
        let (short, long) = (
            Key::from_hex(&"11".repeat(16)).unwrap(),
            Key::from_hex(&format!("{}00", "11".repeat(16))).unwrap(),
        );
        assert_ne!(short.choices().below("x", u64::MAX), long.choices().below("x", u64::MAX));
        assert_ne!(short.fingerprint(), long.fingerprint());
    }

    #[test]
    fn random_keys_differ() {
        assert_ne!(Key::random().unwrap(), Key::random().unwrap());
    }
}
