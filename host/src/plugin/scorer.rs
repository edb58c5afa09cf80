//! A scorer, called and checked.

use std::sync::Arc;

use wasmtime::component::Resource;

use super::bindings::assay::plugin::types::PluginError;
use super::engine::{Exports, Usage};
use super::evidence::{Evidence, Trial};
use super::fault::{FaultClass, PluginFault, RefusalKind};
use super::set::Ready;
use crate::domain::budget::{SCORE_NOTE_NAME_BYTES, SCORE_NOTES, SCORER_FUEL_PER_VALUE, SCORER_LIMITS};
use crate::domain::score::Score;

/// A scorer of a [`super::PluginSet`].
#[derive(Debug, Clone)]
pub struct Scorer(pub(super) Arc<Ready>);

impl Scorer {
    /// What the calls through this handle took: fuel in all, most memory, the last log.
    pub fn used(&self) -> Usage {
        self.0.used()
    }

    /// Scores one challenge. `params` is JSON text, empty for the plugin's defaults.
    ///
    /// # Errors
    /// Every way in which the plugin gave no sound answer.
    pub fn score(&self, evidence: &Evidence, params: &str) -> Result<Score, PluginFault> {
        self.score_measured(evidence, params).map(|(score, _)| score)
    }

    /// The same, with what the call took.
    ///
    /// # Errors
    /// As [`Self::score`].
    pub fn score_measured(&self, evidence: &Evidence, params: &str) -> Result<(Score, Usage), PluginFault> {
        let mut limits = SCORER_LIMITS;
        let more = evidence.values().saturating_mul(SCORER_FUEL_PER_VALUE);
        limits.fuel = limits.fuel.saturating_add(more);
        let (evidence, params) = (evidence.clone(), params.to_owned());
        self.0.call("score", limits, move |store, instance, exports| {
            let Exports::Scorer(indices) = exports else { return Ok(Err(wrong_kind())) };
            let guest = indices.load(&mut *store, instance)?;
            let trial = store.data_mut().table.push(Trial(evidence))?;
            let borrowed = Resource::new_borrow(trial.rep());
            Ok(match guest.call_score(store, borrowed, &params)? {
                Ok(score) => check(score.value, score.notes),
                Err(error) => Err(refused(error)),
            })
        })
    }
}

fn check(value: f64, notes: Vec<(String, f64)>) -> Result<Score, FaultClass> {
    if !(0.0..=1.0).contains(&value) {
        return Err(FaultClass::BadOutput(format!("the score {value} is not in [0, 1]")));
    }
    if notes.len() > SCORE_NOTES {
        return Err(FaultClass::OutputTooLarge(format!("{} notes, at most {SCORE_NOTES}", notes.len())));
    }
    for (name, note) in &notes {
        if name.is_empty() || name.len() > SCORE_NOTE_NAME_BYTES || name.chars().any(char::is_control) {
            return Err(FaultClass::BadOutput(format!("the name of a note, {name:?}")));
        }
        if !note.is_finite() {
            return Err(FaultClass::BadOutput(format!("the note {name} is {note}")));
        }
    }
    Ok(Score { value, notes })
}

/// What the guest itself gave as a reason.
pub(super) fn refused(error: PluginError) -> FaultClass {
    let (kind, message) = match error {
        PluginError::InvalidParams(why) => (RefusalKind::InvalidParams, why),
        PluginError::InvalidEvidence(why) => (RefusalKind::InvalidEvidence, why),
        PluginError::Unsupported(why) => (RefusalKind::Unsupported, why),
        PluginError::Numeric(why) => (RefusalKind::Numeric, why),
        PluginError::Other(why) => (RefusalKind::Other, why),
    };
    let message = super::engine::cut(message, crate::domain::budget::PLUGIN_LOG_LINE_BYTES);
    FaultClass::Refused { kind, message }
}

/// The set hands out a handle only for the kind it loaded.
pub(super) fn wrong_kind() -> FaultClass {
    FaultClass::HostCall("the plugin is of another kind".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sound_scores_pass() {
        let note = |name: &str, value: f64| vec![(name.to_owned(), value)];
        assert!(check(0.0, vec![]).is_ok() && check(1.0, note("rows", 3.0)).is_ok());
        for bad in [
            check(-0.1, vec![]),
            check(1.1, vec![]),
            check(f64::NAN, vec![]),
            check(f64::INFINITY, vec![]),
            check(0.5, note("", 1.0)),
            check(0.5, note("a\nb", 1.0)),
            check(0.5, note(&"x".repeat(65), 1.0)),
            check(0.5, note("x", f64::INFINITY)),
            check(0.5, vec![("x".into(), 1.0); SCORE_NOTES + 1]),
        ] {
            assert!(bad.is_err(), "{bad:?}");
        }
    }
}
