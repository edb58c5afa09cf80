//! Ed25519 signatures (RFC 8032): who stands behind bytes, beside what the bytes are.
//!
//! Invariants: a private key never appears in `Debug` output; verification is the strict one,
//! which refuses public keys of small order and signatures with more than one form, so that a
//! signature speaks for one message and one key. Deliberately absent: files (`store::keyring`
//! keeps keys), certificates, and time.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signature, Signer as _, SigningKey as Ed25519, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::domain::digest::{from_hex, hex};

/// What stands before the hexadecimal digits of a public key, so that it is not mistaken for a digest.
const PUBLIC_PREFIX: &str = "ed25519:";

/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 64;

/// A private key; `Debug` withholds it.
#[derive(Clone)]
pub struct SigningKey(Ed25519);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(withheld, public {})", self.public())
    }
}

impl SigningKey {
    /// The key of a 32-byte seed (RFC 8032 calls the seed the private key).
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(Ed25519::from_bytes(seed))
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// The signature of a message; the caller says in the message what it is for.
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        self.0.sign(message).to_bytes()
    }
}

/// A public key, written `ed25519:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// Whether the signature is this key's for this message; a key that is no point of the
    /// curve signs nothing.
    pub fn verify(&self, message: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool {
        VerifyingKey::from_bytes(&self.0)
            .is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(signature)).is_ok())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC_PREFIX}{}", hex(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text was no public key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a public key: expected `ed25519:` and 64 hexadecimal digits of a point of the curve")]
pub struct NotAPublicKey;

impl FromStr for PublicKey {
    type Err = NotAPublicKey;

    fn from_str(text: &str) -> Result<Self, NotAPublicKey> {
        let digits = text.trim().strip_prefix(PUBLIC_PREFIX).ok_or(NotAPublicKey)?;
        let bytes: [u8; 32] = from_hex(digits).and_then(|b| b.try_into().ok()).ok_or(NotAPublicKey)?;
        // What can verify nothing is not worth pinning.
        match VerifyingKey::from_bytes(&bytes) {
            Ok(key) if !key.is_weak() => Ok(Self(bytes)),
            _ => Err(NotAPublicKey),
        }
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize>(text: &str) -> [u8; N] {
        from_hex(text).unwrap().try_into().unwrap()
    }

    /// RFC 8032 section 7.1, tests 1 to 3: seed, public key, message, signature.
    #[test]
    fn rfc_8032() {
        for (seed, public, message, signature) in [
            (
                "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
                "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
                "",
                "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd2\
                 5bf5f0595bbe24655141438e7a100b",
            ),
            (
                "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
                "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
                "72",
                "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c38\
                 7b2eaeb4302aeeb00d291612bb0c00",
            ),
            (
                "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
                "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
                "af82",
                "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a\
                 7c15e9716ed28dc027beceea1ec40a",
            ),
        ] {
            let key = SigningKey::from_seed(&bytes(seed));
            assert_eq!(key.public().to_string(), format!("ed25519:{public}"));
            let (message, signature) = (from_hex(message).unwrap(), bytes::<64>(signature));
            assert_eq!(key.sign(&message), signature);
            assert!(key.public().verify(&message, &signature));
            // Another message, another key, and every flipped byte of the signature.
            assert!(!key.public().verify(&[&message[..], b"x"].concat(), &signature));
            assert!(!SigningKey::from_seed(&[7; 32]).public().verify(&message, &signature));
            for at in 0..SIGNATURE_BYTES {
                let mut flipped = signature;
                flipped[at] ^= 1;
                assert!(!key.public().verify(&message, &flipped), "byte {at}");
            }
        }
    }

    #[test]
    fn public_keys_as_text() {
        let key = SigningKey::from_seed(&[1; 32]).public();
        assert_eq!(format!(" {key}\n").parse(), Ok(key));
        // The neutral element: a point of the curve whose signatures anyone can make.
        let neutral = format!("ed25519:01{}", "00".repeat(31));
        for bad in ["", "ed25519:", &key.to_string()[8..], "ed25519:00", &neutral] {
            assert_eq!(bad.parse::<PublicKey>(), Err(NotAPublicKey), "{bad}");
        }
        assert!(!format!("{:?}", SigningKey::from_seed(&[0x5a; 32])).contains("5a5a"));
    }
}
