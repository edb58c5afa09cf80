//! The commitment to a challenge set: one RFC 6962 root over a header and every prompt.
//!
//! The header binds the key (through its fingerprint), the template version, the plan and
//! the number of challenges; each leaf binds a prompt with its place and its family. It is
//! published before the first model is loaded; the key follows after the run, and then
//! [`verify`] lets anyone make the set again and compare.

use crate::digest::merkle_root;
use crate::domain::Sha256;

use super::{Challenge, ChallengeSet, Key, Plan, Prompt, SpaceExhausted, TEMPLATE_VERSION};

/// Why a revealed key does not open a commitment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitmentError {
    #[error("the key gives the commitment {found}, not {expected}")]
    Mismatch { expected: Sha256, found: Sha256 },
    #[error(transparent)]
    Space(#[from] SpaceExhausted),
}

/// The root over the header and the challenges in their order.
pub fn root(key_fingerprint: &Sha256, plan: Plan, challenges: &[Challenge]) -> Sha256 {
    root_of(TEMPLATE_VERSION, key_fingerprint, plan, challenges)
}

fn root_of(version: &str, key_fingerprint: &Sha256, plan: Plan, challenges: &[Challenge]) -> Sha256 {
    let mut header = b"assayd/challenges/v1\0".to_vec();
    field(&mut header, version.as_bytes());
    field(&mut header, &key_fingerprint.0);
    match plan {
        Plan::Text => field(&mut header, b"text"),
        Plan::Tokens { vocab } => {
            field(&mut header, b"tokens");
            field(&mut header, &vocab.to_be_bytes());
        }
    }
    field(&mut header, &u64::try_from(challenges.len()).unwrap_or(u64::MAX).to_be_bytes());
    merkle_root(std::iter::once(header).chain(challenges.iter().map(leaf)))
}

/// The bytes of one challenge's leaf.
fn leaf(challenge: &Challenge) -> Vec<u8> {
    let mut out = challenge.index.to_be_bytes().to_vec();
    field(&mut out, challenge.family.as_str().as_bytes());
    match &challenge.prompt {
        Prompt::Text(text) => {
            field(&mut out, b"text");
            field(&mut out, text.as_bytes());
        }
        Prompt::Tokens(ids) => {
            field(&mut out, b"tokens");
            let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_be_bytes()).collect();
            field(&mut out, &bytes);
        }
    }
    out
}

/// A length, then the bytes: no two sequences of fields give the same leaf.
fn field(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
    out.extend(bytes);
}

/// Makes the set of a revealed key again and compares it with what was committed to.
///
/// # Errors
/// The roots differ, or the plan cannot hold that many challenges.
pub fn verify(
    commitment: &Sha256,
    key: &Key,
    plan: Plan,
    count: u64,
) -> Result<ChallengeSet, CommitmentError> {
    let set = ChallengeSet::generate(key, plan, count)?;
    if set.commitment == *commitment {
        Ok(set)
    } else {
        Err(CommitmentError::Mismatch { expected: *commitment, found: set.commitment })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Key {
        Key::from_hex(&crate::domain::digest::hex(&[byte; 32])).unwrap()
    }

    #[test]
    fn opens_with_the_key_and_nothing_else() {
        let set = ChallengeSet::generate(&key(1), Plan::Text, 40).unwrap();
        assert_eq!(verify(&set.commitment, &key(1), Plan::Text, 40).unwrap(), set);
        for (byte, plan, count) in [
            (2, Plan::Text, 40),
            (1, Plan::Text, 39),
            (1, Plan::Text, 41),
            (1, Plan::Tokens { vocab: 512 }, 40),
        ] {
            assert!(verify(&set.commitment, &key(byte), plan, count).is_err(), "{byte} {plan:?} {count}");
        }
    }

    #[test]
    fn binds_every_part() {
        let set = ChallengeSet::generate(&key(1), Plan::Text, 9).unwrap();
        let fingerprint = key(1).fingerprint();
        let original = root(&fingerprint, Plan::Text, &set.challenges);
        assert_eq!(original, set.commitment);

        assert_ne!(
            original,
            root_of("assayd-templates-0", &fingerprint, Plan::Text, &set.challenges),
            "version"
        );
        assert_ne!(original, root(&key(2).fingerprint(), Plan::Text, &set.challenges), "key");
        assert_ne!(original, root(&fingerprint, Plan::Tokens { vocab: 9 }, &set.challenges), "plan");
        assert_ne!(original, root(&fingerprint, Plan::Text, &set.challenges[..8]), "count");
        for i in 0..9 {
            let mut changed = set.challenges.clone();
            if let Prompt::Text(text) = &mut changed[i].prompt {
                text.push(' ');
            }
            assert_ne!(original, root(&fingerprint, Plan::Text, &changed), "prompt {i}");
            let mut changed = set.challenges.clone();
            changed.swap(i, (i + 1) % 9);
            assert_ne!(original, root(&fingerprint, Plan::Text, &changed), "order {i}");
        }
    }

    #[test]
    fn says_nothing_of_the_key() {
        let set = ChallengeSet::generate(&key(0xab), Plan::Text, 3).unwrap();
        assert!(!format!("{set:?}").contains("abababab"));
    }
}
