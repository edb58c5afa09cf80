//! From a secret key to choices: HMAC-SHA256 in the counter mode of NIST SP 800-108,
//! and integers drawn from it without modulo bias.
//!
//! Invariants: a value depends on the key, the label and the context alone, never on what
//! was drawn before it, on the platform or on a library's random generator; a label
//! contains no NUL byte, so label and context cannot run into each other.
//! Deliberately absent: floating point, and any state shared between two draws.

use hmac::{Hmac, KeyInit, Mac};

use crate::digest::HashCore;

type HmacSha256 = Hmac<HashCore>;

/// Bytes of one HMAC-SHA256 block.
pub const BLOCK_BYTES: usize = 32;

/// HMAC-SHA256 (RFC 2104) of the concatenation of `parts`. Any key length is allowed.
pub fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; BLOCK_BYTES] {
    // HMAC accepts a key of any length: the fallible constructor cannot fail here, and
    // should that ever change, the empty-key HMAC below would break every published vector.
    let mut mac = HmacSha256::new_from_slice(key).unwrap_or_else(|_| HmacSha256::new(&Default::default()));
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// Fills `out` with SP 800-108r1 counter-mode output:
/// block i (from 1) is `HMAC(key, be32(i) || label || 0x00 || context || be32(bits of out))`.
///
/// `out` is at most 2^29 - 1 bytes; callers here ask for 8 or 32.
pub fn derive(key: &[u8], label: &str, context: &[u8], out: &mut [u8]) {
    let bits = u32::try_from(out.len().saturating_mul(8)).unwrap_or(u32::MAX).to_be_bytes();
    for (i, chunk) in (1_u32..).zip(out.chunks_mut(BLOCK_BYTES)) {
        let block = hmac_sha256(key, &[&i.to_be_bytes(), label.as_bytes(), &[0], context, &bits]);
        for (to, from) in chunk.iter_mut().zip(block) {
            *to = from;
        }
    }
}

/// A keyed source of named choices. Every name is an independent draw.
#[derive(Clone)]
pub struct Choices {
    key: [u8; BLOCK_BYTES],
}

impl std::fmt::Debug for Choices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Choices(key withheld)")
    }
}

impl Choices {
    pub fn new(key: [u8; BLOCK_BYTES]) -> Self {
        Self { key }
    }

    /// An independent source for one part of the work.
    #[must_use]
    pub fn child(&self, label: &str, context: &[u8]) -> Self {
        let mut key = [0; BLOCK_BYTES];
        derive(&self.key, label, context, &mut key);
        Self { key }
    }

    /// A uniform integer in `0..range`; 0 for a range of 0 or 1.
    ///
    /// Rejection sampling: a 64-bit draw at or above the largest multiple of `range` is
    /// thrown away and the next counter is drawn, so every value is exactly as likely.
    pub fn below(&self, name: &str, range: u64) -> u64 {
        if range < 2 {
            return 0;
        }
        // 2^64 mod range, without 128-bit arithmetic.
        let tail = (u64::MAX % range + 1) % range;
        let mut attempt: u32 = 0;
        loop {
            let mut bytes = [0; 8];
            derive(&self.key, name, &attempt.to_be_bytes(), &mut bytes);
            let value = u64::from_be_bytes(bytes);
            // A draw is refused with probability below 1/2, so 2^32 refusals do not happen.
            if value <= u64::MAX - tail || attempt == u32::MAX {
                return value % range;
            }
            attempt += 1;
        }
    }

    /// A uniform choice from a list; `None` from an empty one.
    pub fn pick<'a, T>(&self, name: &str, list: &'a [T]) -> Option<&'a T> {
        let range = u64::try_from(list.len()).ok()?;
        list.get(usize::try_from(self.below(name, range)).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::digest::{from_hex, hex};

    /// RFC 4231 section 4, test cases 1 to 4, 6 and 7 (5 tests truncation, which is not offered).
    #[test]
    fn rfc_4231() {
        let cases: [(Vec<u8>, Vec<u8>, &str); 6] = [
            (
                vec![0x0b; 20],
                b"Hi There".to_vec(),
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
            ),
            (
                b"Jefe".to_vec(),
                b"what do ya want for nothing?".to_vec(),
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                vec![0xaa; 20],
                vec![0xdd; 50],
                "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe",
            ),
            (
                from_hex("0102030405060708090a0b0c0d0e0f10111213141516171819").unwrap(),
                vec![0xcd; 50],
                "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
            ),
            (
                vec![0xaa; 131],
                b"Test Using Larger Than Block-Size Key - Hash Key First".to_vec(),
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
            (
                vec![0xaa; 131],
                b"This is a test using a larger than block-size key and a larger than block-size data. The key needs to be hashed before being used by the HMAC algorithm.".to_vec(),
                "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
            ),
        ];
        for (key, data, expected) in cases {
            assert_eq!(hex(&hmac_sha256(&key, &[&data])), expected);
            // Parts are concatenated, nothing is put between them.
            let (a, b) = data.split_at(data.len() / 2);
            assert_eq!(hex(&hmac_sha256(&key, &[a, b])), expected);
        }
    }

    #[test]
    fn label_context_and_length_are_separated() {
        let run = |label: &str, context: &[u8], bytes: usize| {
            let mut out = vec![0; bytes];
            derive(b"key", label, context, &mut out);
            out
        };
        assert_ne!(run("ab", b"c", 32), run("a", b"bc", 32));
        // A longer output is not an extension of a shorter one: the length is bound.
        assert_ne!(run("a", b"b", 32)[..], run("a", b"b", 64)[..32]);
        assert_ne!(run("a", b"b", 64)[..32], run("a", b"b", 64)[32..]);
    }

    /// Chi-square over a million draws for a range that a byte-wise modulo would skew
    /// strongly (256 mod 100 = 56: the first 56 values would come up 1.17 times as often).
    #[test]
    fn draws_are_uniform() {
        const RANGE: usize = 100;
        const DRAWS: u64 = 1_000_000;
        let choices = Choices::new([7; 32]);
        let mut counts = [0_u64; RANGE];
        for i in 0..DRAWS {
            counts[choices.below(&i.to_string(), RANGE as u64) as usize] += 1;
        }
        let expected = DRAWS as f64 / RANGE as f64;
        let chi2: f64 = counts.iter().map(|&c| (c as f64 - expected).powi(2) / expected).sum();
        // 99 degrees of freedom: quantiles 1e-6 and 1 - 1e-6 are about 44 and 182.
        assert!((44.0..182.0).contains(&chi2), "{chi2}");
    }

    /// With a range just above 2^63, a biased modulo would prefer the lower half two to one.
    #[test]
    fn rejection_is_exercised() {
        let range = (1_u64 << 63) + (1 << 62);
        let choices = Choices::new([1; 32]);
        let low = (0..30_000_u64)
            .filter(|i| choices.child("r", &i.to_be_bytes()).below("v", range) < range / 3)
            .count();
        // A third is 10,000 with a standard deviation of 82; modulo would give 15,000.
        assert!((9_600..10_400).contains(&low), "{low}");
    }

    #[test]
    fn degenerate_ranges() {
        let choices = Choices::new([0; 32]);
        assert_eq!(choices.below("x", 0), 0);
        assert_eq!(choices.below("x", 1), 0);
        assert_eq!(choices.pick::<u8>("x", &[]), None);
        assert_eq!(choices.pick("x", &[5]), Some(&5));
    }
}
