//! A decider, called and checked. The state between calls is the caller's to keep.

use std::sync::Arc;

use super::bindings::exports::assay::plugin::decider::{Decision as WitDecision, Look};
use super::engine::{Exports, Usage};
use super::fault::{FaultClass, PluginFault};
use super::scorer::{refused, wrong_kind};
use super::set::Ready;
use crate::domain::budget::{DECIDER_LIMITS, DECIDER_SCORES, DECIDER_STATE_BYTES};
use crate::domain::score::{Decision, DecisionParams, Step};

/// A decider of a [`super::PluginSet`].
#[derive(Debug, Clone)]
pub struct Decider(pub(super) Arc<Ready>);

impl Decider {
    /// What the calls through this handle took: fuel in all, most memory, the last log.
    pub fn used(&self) -> Usage {
        self.0.used()
    }

    /// The state before the first score.
    ///
    /// # Errors
    /// Every way in which the plugin gave no sound answer.
    pub fn start(&self, params: &DecisionParams) -> Result<Vec<u8>, PluginFault> {
        let params = serde_json::to_string(params)
            .map_err(|error| self.0.fault("start", FaultClass::HostCall(error.to_string())))?;
        let answer = self.0.call("start", DECIDER_LIMITS, move |store, instance, exports| {
            let Exports::Decider(indices) = exports else { return Ok(Err(wrong_kind())) };
            let guest = indices.load(&mut *store, instance)?;
            Ok(guest.call_start(store, &params)?.map_err(refused).and_then(check_state))
        });
        answer.map(|(state, _)| state)
    }

    /// The state after `scores`, and a step for each. How many are given at once does
    /// not matter; many are handed over in several calls.
    ///
    /// # Errors
    /// Every way in which the plugin gave no sound answer; nothing of `scores` counts then.
    pub fn step(&self, state: &[u8], scores: &[f64]) -> Result<(Vec<u8>, Vec<Step>), PluginFault> {
        let (mut state, mut steps) = (state.to_vec(), Vec::with_capacity(scores.len()));
        for scores in scores.chunks(DECIDER_SCORES) {
            let (next, looks) = self.step_once(state, scores.to_vec())?;
            state = next;
            steps.extend(looks);
        }
        let consecutive = steps.windows(2).all(|pair| match pair {
            [one, next] => next.n == one.n + 1,
            _ => true,
        });
        if !consecutive {
            let why = "its looks are not numbered one after the other".into();
            return Err(self.0.fault("step", FaultClass::BadOutput(why)));
        }
        Ok((state, steps))
    }

    fn step_once(&self, state: Vec<u8>, scores: Vec<f64>) -> Result<(Vec<u8>, Vec<Step>), PluginFault> {
        let answer = self.0.call("step", DECIDER_LIMITS, move |store, instance, exports| {
            let Exports::Decider(indices) = exports else { return Ok(Err(wrong_kind())) };
            let guest = indices.load(&mut *store, instance)?;
            let progress = match guest.call_step(store, &state, &scores)? {
                Ok(progress) => progress,
                Err(error) => return Ok(Err(refused(error))),
            };
            if progress.looks.len() != scores.len() {
                let why = format!("{} looks at {} scores", progress.looks.len(), scores.len());
                return Ok(Err(FaultClass::BadOutput(why)));
            }
            let steps: Result<Vec<Step>, FaultClass> = progress.looks.into_iter().map(check_look).collect();
            Ok(check_state(progress.state).and_then(|state| Ok((state, steps?))))
        });
        answer.map(|(progress, _)| progress)
    }
}

fn check_state(state: Vec<u8>) -> Result<Vec<u8>, FaultClass> {
    if state.len() > DECIDER_STATE_BYTES {
        let why = format!("{} bytes of state, at most {DECIDER_STATE_BYTES}", state.len());
        return Err(FaultClass::OutputTooLarge(why));
    }
    Ok(state)
}

fn check_look(look: Look) -> Result<Step, FaultClass> {
    let bad = |why: String| Err(FaultClass::BadOutput(why));
    let Look { n, decision, lower, upper, log_e_same, log_e_different } = look;
    for bound in [lower, upper].into_iter().flatten() {
        if !(0.0..=1.0).contains(&bound) {
            return bad(format!("the bound {bound} after {n} scores is not in [0, 1]"));
        }
    }
    if let (Some(lower), Some(upper)) = (lower, upper)
        && lower > upper
    {
        return bad(format!("the interval after {n} scores runs from {lower} down to {upper}"));
    }
    for evidence in [log_e_same, log_e_different].into_iter().flatten() {
        if !evidence.is_finite() {
            return bad(format!("the evidence after {n} scores is {evidence}"));
        }
    }
    let decision = match decision {
        WitDecision::Undecided => Decision::Undecided,
        WitDecision::Same => Decision::Same,
        WitDecision::Different => Decision::Different,
    };
    Ok(Step { n, decision, lower, upper, log_e_same, log_e_different })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sound_looks_pass() {
        let good = Look {
            n: 3,
            decision: WitDecision::Same,
            lower: Some(0.1),
            upper: Some(0.1),
            log_e_same: Some(-2.0),
            log_e_different: None,
        };
        assert_eq!(check_look(good).unwrap().decision, Decision::Same);
        for bad in [
            Look { lower: Some(0.2), ..good },
            Look { lower: Some(-0.1), ..good },
            Look { upper: Some(f64::NAN), ..good },
            Look { upper: Some(1.5), ..good },
            Look { log_e_same: Some(f64::INFINITY), ..good },
            Look { log_e_different: Some(f64::NAN), ..good },
        ] {
            assert!(check_look(bad).is_err(), "{bad:?}");
        }
        assert!(check_state(vec![0; DECIDER_STATE_BYTES + 1]).is_err());
    }
}
