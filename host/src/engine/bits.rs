//! Weights that are made narrower while they are loaded: which widths there are, and which
//! engine can do it.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::EngineKind;
use crate::domain::Problem;

/// Bits of a weight in memory, where that is not what the files hold. A number in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum LoadBits {
    /// Blocks of 32 values in 8 bits with one scale of 16: Q8_0, 8.5 bits a weight.
    Eight,
}

impl LoadBits {
    /// What happened to the weights, after "were".
    pub fn words(self) -> &'static str {
        match self {
            Self::Eight => "quantised to 8 bits (Q8_0) while they were loaded",
        }
    }

    /// Can a model that `engine` runs be loaded like this?
    ///
    /// # Errors
    /// Usage: it cannot, and what to do instead.
    pub fn check(bits: Option<Self>, engine: EngineKind) -> Result<(), Problem> {
        let refused = |what: &str| {
            Problem::usage(format!("only safetensors folders can be quantised while loading: {what}"))
        };
        match (bits, engine) {
            (None, _) | (Some(_), EngineKind::Candle) => Ok(()),
            (Some(_), EngineKind::LlamaCpp) => Err(refused("a GGUF file is quantised in the file itself")
                .hint(
                    "make a quantised file with llama-quantize, or load the safetensors folder it came from",
                )),
            (Some(_), EngineKind::Remote) => Err(refused("an endpoint loads its model by itself")
                .hint("leave it out, or ask whoever runs the endpoint for an 8-bit model")),
            (Some(_), EngineKind::Scripted) => Err(refused("a scripted model has no weights")),
        }
    }
}

impl TryFrom<u8> for LoadBits {
    type Error = String;

    fn try_from(bits: u8) -> Result<Self, String> {
        match bits {
            8 => Ok(Self::Eight),
            _ => Err(format!("weights can be loaded in 8 bits, not in {bits}")),
        }
    }
}

impl From<LoadBits> for u8 {
    fn from(bits: LoadBits) -> Self {
        match bits {
            LoadBits::Eight => 8,
        }
    }
}

impl FromStr for LoadBits {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse::<u8>().map_err(|error| error.to_string())?.try_into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_is_the_only_width_and_a_number_in_json() {
        assert_eq!("8".parse(), Ok(LoadBits::Eight));
        assert_eq!(serde_json::to_string(&Some(LoadBits::Eight)).unwrap(), "8");
        assert_eq!(serde_json::from_str::<Option<LoadBits>>("8").unwrap(), Some(LoadBits::Eight));
        for bad in ["4", "16", "-8", "256", "eight", ""] {
            assert!(bad.parse::<LoadBits>().is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<LoadBits>("4").unwrap_err().to_string().contains("8 bits, not in 4"));
    }

    #[test]
    fn only_the_engine_that_can_is_asked_to() {
        use EngineKind::{Candle, LlamaCpp, Remote, Scripted};
        for engine in [Candle, LlamaCpp, Remote, Scripted] {
            assert_eq!(LoadBits::check(None, engine), Ok(()));
            let answer = LoadBits::check(Some(LoadBits::Eight), engine);
            assert_eq!(answer.is_ok(), engine == Candle, "{engine:?}");
        }
        let problem = LoadBits::check(Some(LoadBits::Eight), LlamaCpp).unwrap_err();
        assert!(problem.message.contains("GGUF") && problem.hint.is_some() && problem.exit_code() == 2);
    }
}
