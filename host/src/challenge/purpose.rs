//! What a challenge set is for, as a type: a set that a band was calibrated on can never
//! judge a candidate, because whatever judges takes sets for [`Judging`] only.
//!
//! Calibration challenges come from the same key under a label of their own, and none of
//! them is among the judging ones. Probes are the user's own prompts: they come from no key
//! and are neither calibrated on nor judged by.

use std::collections::HashSet;
use std::marker::PhantomData;

use super::{Challenge, ChallengeSet, Family, Key, Plan, Prompt, SpaceExhausted, commitment};
use crate::digest::sha256_parts;

/// The set that a verdict is reached on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judging {}

/// The set that a band is measured on before the candidate is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Calibration {}

/// The user's own prompts, reported apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probes {}

impl ChallengeSet<Calibration> {
    /// `count` challenges of the same key and plan as `judging`, none of them in it.
    ///
    /// # Errors
    /// The space does not hold so many more distinct prompts.
    pub fn calibration(
        key: &Key,
        judging: &ChallengeSet<Judging>,
        count: u64,
    ) -> Result<Self, SpaceExhausted> {
        let taken: HashSet<Prompt> =
            judging.challenges.iter().map(|challenge| challenge.prompt.clone()).collect();
        Self::drawn(key, "calibration", judging.plan, count, taken)
    }

    /// The first `count` challenges and the rest. Both keep the commitment of the whole.
    pub fn split_at(&self, count: u64) -> (Self, Self) {
        let (first, rest) =
            self.challenges.split_at(usize::try_from(count).unwrap_or(usize::MAX).min(self.challenges.len()));
        let part = |challenges: &[Challenge]| Self { challenges: challenges.to_vec(), ..self.clone() };
        (part(first), part(rest))
    }
}

impl ChallengeSet<Probes> {
    /// The user's prompts in their order.
    pub fn probes(prompts: &[String]) -> Self {
        let probe = |(index, text): (u64, &String)| Challenge {
            index,
            family: Family::Probe,
            prompt: Prompt::Text(text.clone()),
        };
        let challenges: Vec<Challenge> = (0..).zip(prompts).map(probe).collect();
        // No key, so a fingerprint of none: the root binds the prompts and their order.
        let commitment = commitment::root(&sha256_parts(&[b"assayd/probes/v1\0"]), Plan::Text, &challenges);
        Self { plan: Plan::Text, challenges, commitment, redraws: 0, purpose: PhantomData }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key::from_hex(&"17".repeat(32)).unwrap()
    }

    fn prompts<P>(set: &ChallengeSet<P>) -> HashSet<&Prompt> {
        set.challenges.iter().map(|challenge| &challenge.prompt).collect()
    }

    #[test]
    fn calibration_shares_no_prompt_with_judging() {
        let judging = ChallengeSet::generate(&key(), Plan::Text, 200).unwrap();
        let calibration = ChallengeSet::calibration(&key(), &judging, 72).unwrap();
        assert_eq!(prompts(&calibration).len(), 72);
        assert!(prompts(&calibration).is_disjoint(&prompts(&judging)));
        assert_ne!(calibration.commitment, judging.commitment);
        assert_eq!(calibration.redraws, 0, "drawn under a label of their own, not only past the others");
        let (pilot, rest) = calibration.split_at(8);
        assert_eq!((pilot.challenges.len(), rest.challenges.len()), (8, 64));
        assert!(prompts(&pilot).is_disjoint(&prompts(&rest)));
        assert_eq!(rest.challenges[0].index, 8, "places stay those of the whole set");
    }

    /// Among 2^24 prompts the two labels alone would share some five; the exclusion leaves none.
    #[test]
    fn even_a_crowded_space_is_kept_apart() {
        let plan = Plan::Tokens { vocab: 2 };
        let judging = ChallengeSet::generate(&key(), plan, 4_000).unwrap();
        let calibration = ChallengeSet::calibration(&key(), &judging, 20_000).unwrap();
        assert!(calibration.redraws > 0, "nothing had to be refused");
        assert!(prompts(&calibration).is_disjoint(&prompts(&judging)));
        let full = ChallengeSet::generate(&key(), Plan::Tokens { vocab: 1 }, 1).unwrap();
        assert!(ChallengeSet::calibration(&key(), &full, 1).is_err());
    }

    #[test]
    fn probes_are_bound_in_their_order() {
        let root = |list: &[&str]| {
            ChallengeSet::probes(&list.iter().map(|&text| text.to_owned()).collect::<Vec<_>>()).commitment
        };
        assert_eq!(root(&["a", "b"]), root(&["a", "b"]));
        assert_ne!(root(&["a", "b"]), root(&["b", "a"]));
        assert_ne!(root(&["a", "b"]), root(&["ab"]));
    }
}
