//! Public keys, and the signatures that they verify: ECDSA over P-256 with SHA-256 and over P-384
//! with SHA-384, and Ed25519. Other algorithms are named, not guessed.

use p256::ecdsa::signature::Verifier as _;

use super::der::{self, BIT_STRING, OID, SEQUENCE};
use crate::digest::PublicKey;

const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
pub const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
pub const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
pub const ECDSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];

/// A key that can verify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    P256(p256::ecdsa::VerifyingKey),
    P384(p384::ecdsa::VerifyingKey),
    Ed25519(PublicKey),
}

impl Key {
    /// From a SubjectPublicKeyInfo (RFC 5280, 4.1).
    ///
    /// # Errors
    /// What is wrong with it, or that its algorithm is not supported.
    pub fn from_der(bytes: &[u8]) -> Result<Self, String> {
        let parts = || {
            let mut info = der::only(bytes, SEQUENCE)?.inside();
            let mut algorithm = info.expect(SEQUENCE)?.inside();
            let oid = algorithm.expect(OID)?.content;
            let curve = algorithm.optional(OID).map(|curve| curve.content);
            Some((oid, curve, info.expect(BIT_STRING)?.bits()?))
        };
        let (oid, curve, bits) = parts().ok_or("the public key is damaged")?;
        match (oid, curve) {
            (EC_PUBLIC_KEY, Some(P256)) => p256::ecdsa::VerifyingKey::from_sec1_bytes(bits)
                .map(Self::P256)
                .map_err(|_| "the public key is no point of P-256".to_owned()),
            (EC_PUBLIC_KEY, Some(P384)) => p384::ecdsa::VerifyingKey::from_sec1_bytes(bits)
                .map(Self::P384)
                .map_err(|_| "the public key is no point of P-384".to_owned()),
            (ED25519, None) => {
                let bytes = bits.try_into().map_err(|_| "an Ed25519 key has 32 bytes".to_owned())?;
                Ok(Self::Ed25519(PublicKey(bytes)))
            }
            _ => Err("the public key is neither of P-256, of P-384 nor of Ed25519; others are not supported"
                .to_owned()),
        }
    }

    /// Is this the signature of `message`?
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::P256(key) => p256::ecdsa::Signature::from_der(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
            Self::P384(key) => p384::ecdsa::Signature::from_der(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
            Self::Ed25519(key) => signature.try_into().is_ok_and(|signature| key.verify(message, signature)),
        }
    }

    /// Does an algorithm identifier in a certificate go with this key?
    pub fn goes_with(&self, oid: &[u8]) -> bool {
        match self {
            Self::P256(_) => oid == ECDSA_SHA256,
            Self::P384(_) => oid == ECDSA_SHA384,
            Self::Ed25519(_) => oid == ED25519,
        }
    }
}
