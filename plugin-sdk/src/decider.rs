//! Deciders: a pure fold over scores, its state kept by the host between calls.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::bindings::decider as wit;
use crate::{Refusal, Result};

/// What is to be decided about the mean score.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecisionParams {
    /// Error probability, in (0, 1).
    pub alpha: f64,
    /// DIFFERENT means: the mean is above this.
    pub gamma: f64,
    /// SAME means: the mean is below this; `0 < gamma <= delta < 1`.
    pub delta: f64,
    /// Most scores that will be asked for.
    pub n_max: u64,
}

impl DecisionParams {
    /// From the JSON text that the host gives, checked.
    ///
    /// # Errors
    /// [`Refusal::InvalidParams`] if a field is missing, unknown or out of its range.
    pub fn parse(text: &str) -> Result<Self> {
        let params: Self =
            serde_json::from_str(text).map_err(|error| Refusal::InvalidParams(error.to_string()))?;
        let Self { alpha, gamma, delta, n_max } = params;
        let inside = |x: f64| x > 0.0 && x < 1.0;
        if !inside(alpha) {
            return Err(Refusal::InvalidParams(format!("alpha must be between 0 and 1, not {alpha}")));
        }
        if !inside(gamma) || !inside(delta) || gamma > delta {
            return Err(Refusal::InvalidParams(format!(
                "0 < gamma <= delta < 1 must hold, not gamma {gamma} and delta {delta}"
            )));
        }
        if n_max == 0 {
            return Err(Refusal::InvalidParams("n_max must be at least 1".into()));
        }
        Ok(params)
    }
}

/// The decision over the scores so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Decision {
    /// Neither claim is proven.
    #[default]
    Undecided,
    /// The mean is below delta, with error at most alpha.
    Same,
    /// The mean is above gamma, with error at most alpha.
    Different,
}

/// A decision that stays. The first score that proves exactly one claim decides; one that
/// proves both at once (the mean lies between) leaves it undecided for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Verdict(Option<Decision>);

impl Verdict {
    /// The decision, after hearing which claims this score proves.
    pub fn hear(&mut self, same: bool, different: bool) -> Decision {
        if self.0.is_none() {
            self.0 = match (same, different) {
                (true, true) => Some(Decision::Undecided),
                (true, false) => Some(Decision::Same),
                (false, true) => Some(Decision::Different),
                (false, false) => None,
            };
        }
        self.0.unwrap_or_default()
    }
}

/// What is known after some scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Stays once it is SAME or DIFFERENT.
    pub decision: Decision,
    /// Confidence bounds on the mean score, if the decider has them.
    pub interval: Option<(f64, f64)>,
    /// ln of the evidence against "the mean is at least delta".
    pub log_e_same: Option<f64>,
    /// ln of the evidence against "the mean is at most gamma".
    pub log_e_different: Option<f64>,
}

/// A fold over scores. The value itself is the state: it is serialized after each call
/// (at most 64 KiB) and comes back before the next, perhaps in another process.
pub trait Decider: Serialize + DeserializeOwned {
    /// The state before the first score; the parameters are already checked.
    ///
    /// # Errors
    /// What this decider cannot decide.
    fn start(params: &DecisionParams) -> Result<Self>;

    /// Takes one score, already checked to be in [0, 1].
    ///
    /// # Errors
    /// A number that got lost on the way.
    fn step(&mut self, score: f64) -> Result<Step>;
}

#[derive(Serialize, Deserialize)]
struct Saved<D> {
    n: u64,
    decider: D,
}

fn save<D: Decider>(saved: &Saved<D>) -> Result<Vec<u8>> {
    postcard::to_allocvec(saved).map_err(|error| Refusal::Other(format!("cannot save the state: {error}")))
}

/// The two exported functions over a [`Decider`].
#[doc(hidden)]
pub mod run {
    use super::{Decider, DecisionParams, Refusal, Result, Saved, Step, save, wit};
    use wit::assay::plugin::types::PluginError;
    use wit::exports::assay::plugin::decider as out;

    /// The state before the first score.
    pub fn start<D: Decider>(params: &str) -> Result<Vec<u8>, PluginError> {
        crate::install_panic_hook();
        let decider = D::start(&DecisionParams::parse(params)?)?;
        Ok(save(&Saved { n: 0, decider })?)
    }

    /// The state after `scores`, and a step for each.
    pub fn step<D: Decider>(state: &[u8], scores: &[f64]) -> Result<out::Progress, PluginError> {
        crate::install_panic_hook();
        let (state, steps) = fold::<D>(state, scores)?;
        let looks = steps.into_iter().map(|(n, step)| convert(n, step)).collect();
        Ok(out::Progress { state, looks })
    }

    /// The state after some scores, and their numbers and steps.
    pub type Folded = (Vec<u8>, Vec<(u64, Step)>);

    /// The same on plain types, for native tests.
    pub fn fold<D: Decider>(state: &[u8], scores: &[f64]) -> Result<Folded> {
        let (mut saved, rest) = postcard::take_from_bytes::<Saved<D>>(state)
            .map_err(|error| Refusal::Other(format!("the state is not one of this decider's: {error}")))?;
        if !rest.is_empty() {
            return Err(Refusal::Other("the state is not one of this decider's: it is too long".into()));
        }
        let mut steps = Vec::with_capacity(scores.len());
        for &score in scores {
            if !(0.0..=1.0).contains(&score) {
                let n = saved.n + 1;
                return Err(Refusal::InvalidEvidence(format!("score {n} is {score}, not in [0, 1]")));
            }
            saved.n += 1;
            steps.push((saved.n, saved.decider.step(score)?));
        }
        Ok((save(&saved)?, steps))
    }

    /// Starts on plain types, for native tests.
    pub fn begin<D: Decider>(params: &DecisionParams) -> Result<Vec<u8>> {
        save(&Saved { n: 0, decider: D::start(params)? })
    }

    fn convert(n: u64, step: Step) -> out::Look {
        let (lower, upper) = step.interval.unzip();
        out::Look {
            n,
            decision: match step.decision {
                super::Decision::Undecided => out::Decision::Undecided,
                super::Decision::Same => out::Decision::Same,
                super::Decision::Different => out::Decision::Different,
            },
            lower,
            upper,
            log_e_same: step.log_e_same,
            log_e_different: step.log_e_different,
        }
    }
}

/// Makes a type that implements [`Decider`] a decider plugin. Does nothing on targets
/// other than wasm32.
#[macro_export]
macro_rules! export_decider {
    ($id:expr, $decider:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            $crate::__plugin_info!(decider, "decider", $id, "");
            use $crate::bindings::decider::{assay::plugin::types, exports::assay::plugin::decider};
            struct Plugin;
            impl decider::Guest for Plugin {
                fn describe() -> types::PluginInfo {
                    info()
                }
                fn start(params: String) -> Result<Vec<u8>, types::PluginError> {
                    $crate::run_decider::start::<$decider>(&params)
                }
                fn step(state: Vec<u8>, scores: Vec<f64>) -> Result<decider::Progress, types::PluginError> {
                    $crate::run_decider::step::<$decider>(&state, &scores)
                }
            }
    $crate::bindings::decider::export!(Plugin with_types_in $crate::bindings::decider);
        };
    };
}
