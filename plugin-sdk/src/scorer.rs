//! Scorers: two traces of one challenge become one bounded score.

use serde::de::DeserializeOwned;

use crate::bindings::scorer as wit;
use crate::{Refusal, Result, Trial};

/// A value in [0, 1] and named details in natural units.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// 0 if nothing differs; 1 is as different as the scorer tells apart.
    pub value: f64,
    /// At most 16 finite details, such as `("mean_kl_nats", 0.003)`.
    pub notes: Vec<(String, f64)>,
}

impl Score {
    /// A score without notes.
    pub fn new(value: f64) -> Self {
        Self { value, notes: Vec::new() }
    }

    /// Adds a detail.
    #[must_use]
    pub fn note(mut self, name: &str, value: f64) -> Self {
        self.notes.push((name.into(), value));
        self
    }
}

/// One call from the host.
#[doc(hidden)]
pub fn run<P: Default + DeserializeOwned>(
    trial: &wit::assay::plugin::evidence::Trial,
    params: &str,
    score: fn(&Trial<'_>, &P) -> Result<Score>,
) -> Result<wit::exports::assay::plugin::scorer::BoundedScore, wit::assay::plugin::types::PluginError> {
    crate::install_panic_hook();
    let params: P = crate::error::params(params)?;
    let Score { value, notes } = score(&Trial::from_host(trial), &params)?;
    if !(0.0..=1.0).contains(&value) {
        return Err(Refusal::Numeric(format!("the score {value} is not in [0, 1]")).into());
    }
    Ok(wit::exports::assay::plugin::scorer::BoundedScore { value, notes })
}

/// Makes a function `fn(&Trial, &Params) -> Result<Score, Refusal>` a scorer plugin.
///
/// `Params` is deserialized from the user's JSON and defaulted when there is none. The
/// optional third argument is its JSON Schema. Does nothing on targets other than wasm32.
#[macro_export]
macro_rules! export_scorer {
    ($id:expr, $score:path) => {
        $crate::export_scorer!($id, $score, "");
    };
    ($id:expr, $score:path, $schema:expr) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            $crate::__plugin_info!(scorer, "scorer", $id, $schema);
            struct Plugin;
            impl $crate::bindings::scorer::exports::assay::plugin::scorer::Guest for Plugin {
                fn describe() -> $crate::bindings::scorer::assay::plugin::types::PluginInfo {
                    info()
                }
                fn score(
                    trial: &$crate::bindings::scorer::assay::plugin::evidence::Trial,
                    params: String,
                ) -> Result<
                    $crate::bindings::scorer::exports::assay::plugin::scorer::BoundedScore,
                    $crate::bindings::scorer::assay::plugin::types::PluginError,
                > {
                    $crate::run_scorer(trial, &params, $score)
                }
            }
    $crate::bindings::scorer::export!(Plugin with_types_in $crate::bindings::scorer);
        };
    };
}
