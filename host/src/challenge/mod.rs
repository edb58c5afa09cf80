//! From a secret key to prompts, and the commitment that binds them.
//!
//! The same key gives the same prompts on every platform; `host/docs/challenges.md` writes
//! the construction down with vectors. Invariants: the prompts of a set are distinct; the
//! first k of a larger set are the set of k; families are drawn, never taken in turn, so
//! scores are exchangeable and the deciders' assumption of one mean holds.

pub mod commitment;
pub mod kdf;
pub mod key;
pub mod purpose;
mod template;
mod words;

use std::collections::HashSet;
use std::marker::PhantomData;

use serde::{Deserialize, Serialize};

use crate::domain::Sha256;

pub use key::Key;
pub use purpose::{Calibration, Judging, Probes};
pub use template::{Family, TEXT_FAMILIES, family_space, text_space};

use kdf::Choices;

/// Names templates and word lists; bound by the commitment. Raise it with any change there.
pub const TEMPLATE_VERSION: &str = "assayd-templates-1";
/// Bytes of the longest prompt that the templates can make.
pub const MAX_PROMPT_BYTES: usize = 320;
/// Token ids of a raw-token challenge.
pub const RAW_TOKENS: usize = 24;
/// Draws for one challenge before giving up on a distinct prompt.
const MAX_REDRAWS: u32 = 1_000;

/// What is asked: text, or token ids.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
}

/// One challenge of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Challenge {
    /// Place in the set, from 0.
    pub index: u64,
    pub family: Family,
    pub prompt: Prompt,
}

/// What kind of challenges a set holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Plan {
    /// Text of all families.
    Text,
    /// Token ids below `vocab`.
    Tokens { vocab: u32 },
}

impl Plan {
    /// How many different challenges the plan can draw, at most `u64::MAX`.
    pub fn space(self) -> u64 {
        match self {
            Self::Text => text_space(),
            Self::Tokens { vocab } => {
                (0..RAW_TOKENS).fold(1_u64, |space, _| space.saturating_mul(u64::from(vocab)))
            }
        }
    }
}

/// The space is too small for so many distinct challenges.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot draw {wanted} distinct challenges from a space of {space}")]
pub struct SpaceExhausted {
    pub wanted: u64,
    pub space: u64,
}

/// A set of distinct challenges with the root that commits to it. `Purpose` says what the
/// set is for, so that no set can serve two ends: see [`purpose`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChallengeSet<Purpose = Judging> {
    pub plan: Plan,
    pub challenges: Vec<Challenge>,
    /// The root to publish before the first model is loaded.
    pub commitment: Sha256,
    /// Prompts that had been drawn before and were drawn again.
    pub redraws: u64,
    purpose: PhantomData<Purpose>,
}

impl ChallengeSet<Judging> {
    /// The first `count` challenges of `key`.
    ///
    /// # Errors
    /// The space holds fewer than `count` distinct prompts.
    pub fn generate(key: &Key, plan: Plan, count: u64) -> Result<Self, SpaceExhausted> {
        Self::drawn(key, "challenge", plan, count, HashSet::new())
    }
}

impl<Purpose> ChallengeSet<Purpose> {
    /// `count` challenges drawn under `label`, none of them among `seen`.
    fn drawn(
        key: &Key,
        label: &str,
        plan: Plan,
        count: u64,
        mut seen: HashSet<Prompt>,
    ) -> Result<Self, SpaceExhausted> {
        let space = plan.space();
        let exhausted = SpaceExhausted { wanted: count, space };
        if space < count.saturating_add(seen.len() as u64) {
            return Err(exhausted);
        }
        let source = key.choices();
        let mut challenges = Vec::new();
        let mut redraws = 0;
        for index in 0..count {
            let challenge = (0..MAX_REDRAWS)
                .find_map(|attempt| {
                    let mut context = index.to_be_bytes().to_vec();
                    context.extend(attempt.to_be_bytes());
                    let (family, prompt) = draw(plan, &source.child(label, &context));
                    if seen.insert(prompt.clone()) {
                        return Some(Challenge { index, family, prompt });
                    }
                    redraws += 1;
                    None
                })
                .ok_or(exhausted.clone())?;
            challenges.push(challenge);
        }
        let commitment = commitment::root(&key.fingerprint(), plan, &challenges);
        Ok(Self { plan, challenges, commitment, redraws, purpose: PhantomData })
    }
}

/// One draw: first the family, then the template, then its slots.
fn draw(plan: Plan, choices: &Choices) -> (Family, Prompt) {
    match plan {
        Plan::Text => {
            let family = choices.pick("family", &TEXT_FAMILIES).copied().unwrap_or(Family::Factual);
            let text = choices
                .pick("template", family.templates())
                .map(|template| template::fill(template, choices))
                .unwrap_or_default();
            (family, Prompt::Text(text))
        }
        Plan::Tokens { vocab } => {
            let ids = (0..RAW_TOKENS).map(|position| {
                u32::try_from(choices.below(&format!("token/{position}"), u64::from(vocab)))
                    .unwrap_or_default()
            });
            (Family::RawTokens, Prompt::Tokens(ids.collect()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn key(byte: u8) -> Key {
        Key::from_hex(&crate::domain::digest::hex(&[byte; 32])).unwrap()
    }

    fn text(challenge: &Challenge) -> &str {
        match &challenge.prompt {
            Prompt::Text(text) => text,
            Prompt::Tokens(_) => panic!("a text plan made tokens"),
        }
    }

    #[test]
    fn distinct_and_within_bounds() {
        let set = ChallengeSet::generate(&key(1), Plan::Text, 20_000).unwrap();
        let distinct: HashSet<_> = set.challenges.iter().map(text).collect();
        assert_eq!(distinct.len(), 20_000);
        for challenge in &set.challenges {
            let bytes = text(challenge).len();
            assert!((70..=MAX_PROMPT_BYTES).contains(&bytes), "{bytes}: {}", text(challenge));
        }
    }

    /// Families come up equally often and do not follow a fixed turn.
    #[test]
    fn families_are_drawn() {
        let set = ChallengeSet::generate(&key(2), Plan::Text, 10_000).unwrap();
        let mut pairs: HashMap<(Family, Family), u32> = HashMap::new();
        for pair in set.challenges.windows(2) {
            *pairs.entry((pair[0].family, pair[1].family)).or_default() += 1;
        }
        assert_eq!(pairs.len(), 25);
        let chi2: f64 = pairs.values().map(|&c| (f64::from(c) - 399.96).powi(2) / 399.96).sum();
        assert!(chi2 < 73.0, "{chi2}: 24 degrees of freedom, quantile 1 - 1e-6");
    }

    #[test]
    fn two_keys_share_almost_nothing() {
        let prompts = |byte| -> HashSet<Prompt> {
            let set = ChallengeSet::generate(&key(byte), Plan::Text, 5_000).unwrap();
            set.challenges.into_iter().map(|challenge| challenge.prompt).collect()
        };
        let shared = prompts(3).intersection(&prompts(4)).count();
        assert!(shared < 50, "{shared} of 5000 shared");
    }

    #[test]
    fn a_smaller_set_is_a_prefix() {
        let (small, large) = (
            ChallengeSet::generate(&key(5), Plan::Text, 20).unwrap(),
            ChallengeSet::generate(&key(5), Plan::Text, 60).unwrap(),
        );
        assert_eq!(small.challenges[..], large.challenges[..20]);
        assert_ne!(small.commitment, large.commitment);
    }

    /// A tiny space forces repeats: they are drawn again, and an impossible demand is refused.
    #[test]
    fn repeats_are_drawn_again() {
        let set = ChallengeSet::generate(&key(6), Plan::Tokens { vocab: 1 }, 1).unwrap();
        assert_eq!(set.challenges[0].prompt, Prompt::Tokens(vec![0; RAW_TOKENS]));
        assert!(ChallengeSet::generate(&key(6), Plan::Tokens { vocab: 1 }, 2).is_err());
        // 20,000 draws out of 2^24 repeat about a dozen times.
        let crowded = ChallengeSet::generate(&key(6), Plan::Tokens { vocab: 2 }, 20_000).unwrap();
        let distinct: HashSet<_> = crowded.challenges.iter().map(|challenge| &challenge.prompt).collect();
        assert_eq!(distinct.len(), 20_000);
        assert!((1..60).contains(&crowded.redraws), "{}", crowded.redraws);
        let many = ChallengeSet::generate(&key(6), Plan::Tokens { vocab: 512 }, 300).unwrap();
        assert!(many.challenges.iter().all(|challenge| match &challenge.prompt {
            Prompt::Tokens(ids) => ids.len() == RAW_TOKENS && ids.iter().all(|&id| id < 512),
            Prompt::Text(_) => false,
        }));
    }

    #[test]
    fn space_is_large() {
        assert!(Plan::Text.space() >= 1_000_000_000);
        assert!(Plan::Tokens { vocab: 32 }.space() >= 1_000_000_000);
    }

    /// The vectors that `host/docs/challenges.md` publishes; the document holds the same values.
    #[test]
    fn published_vectors() {
        const DOCUMENT: &str = include_str!("../../docs/challenges.md");
        let check = |what: &str, value: String| {
            assert!(DOCUMENT.contains(&format!("`{value}`")), "{what} is now {value}");
        };
        let mut derived = [0; 40];
        kdf::derive(&[0x0b; 20], "label", b"context", &mut derived);
        check("the KDF", crate::domain::digest::hex(&derived));

        let key = Key::from_hex("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f").unwrap();
        check("the fingerprint", key.fingerprint().to_string());
        for (plan, count) in
            [(Plan::Text, 3), (Plan::Text, 64), (Plan::Text, 200), (Plan::Tokens { vocab: 512 }, 64)]
        {
            let set = ChallengeSet::generate(&key, plan, count).unwrap();
            check("the commitment", set.commitment.to_string());
            if plan == Plan::Text {
                set.challenges
                    .iter()
                    .take(3)
                    .for_each(|challenge| check("a prompt", text(challenge).to_owned()));
            }
        }
        assert!(DOCUMENT.contains(TEMPLATE_VERSION) && DOCUMENT.contains(&text_space().to_string()));
    }
}
