//! Why a plugin gives no answer.

use std::fmt;

/// A result with this crate's [`Refusal`].
pub type Result<T, E = Refusal> = std::result::Result<T, E>;

/// A typed refusal. The assay reports it and never takes it for a number or a pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The parameters are not what the plugin takes.
    InvalidParams(String),
    /// The evidence contradicts itself or does not fit together.
    InvalidEvidence(String),
    /// The plugin cannot judge this kind of evidence.
    Unsupported(String),
    /// A computation left the numbers it may give.
    Numeric(String),
    /// Anything else.
    Other(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, why) = match self {
            Self::InvalidParams(why) => ("invalid parameters", why),
            Self::InvalidEvidence(why) => ("invalid evidence", why),
            Self::Unsupported(why) => ("unsupported", why),
            Self::Numeric(why) => ("numeric failure", why),
            Self::Other(why) => ("failed", why),
        };
        write!(f, "{what}: {why}")
    }
}

impl std::error::Error for Refusal {}

/// Each world has its own copy of the generated error type.
macro_rules! into_bindings {
    ($($world:ident),*) => {$(
        impl From<Refusal> for crate::bindings::$world::assay::plugin::types::PluginError {
            fn from(error: Refusal) -> Self {
                match error {
                    Refusal::InvalidParams(why) => Self::InvalidParams(why),
                    Refusal::InvalidEvidence(why) => Self::InvalidEvidence(why),
                    Refusal::Unsupported(why) => Self::Unsupported(why),
                    Refusal::Numeric(why) => Self::Numeric(why),
                    Refusal::Other(why) => Self::Other(why),
                }
            }
        }
    )*};
}
into_bindings!(scorer, decider, hash_check, report);

/// Parameters from their JSON text; empty text means the defaults.
pub(crate) fn params<P: Default + serde::de::DeserializeOwned>(text: &str) -> Result<P> {
    if text.is_empty() {
        return Ok(P::default());
    }
    serde_json::from_str(text).map_err(|error| Refusal::InvalidParams(error.to_string()))
}
