//! Hash check `root-pin`: has the artifact the Merkle roots that the user pinned? One that is
//! not whole has no root, which is not the pinned one. Without a pin it is not applicable.

use assayd_plugin_sdk::{
    Check, DigestRequest, Finding, HashCheck, Model, Outcome, Refusal, Severity, export_hash_check,
};
use serde::Deserialize;

/// Parameters, all optional.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// Over every byte.
    pub file_root: Option<String>,
    /// Over metadata and tensors.
    pub content_root: Option<String>,
    /// Over tensors.
    pub weights_root: Option<String>,
}

/// The check.
#[derive(Debug)]
pub struct RootPin;

/// What is pinned: the root's name for people, its name for the host, and its digits.
fn pins(params: &Params) -> Result<Vec<(&'static str, &'static str, String)>, Refusal> {
    let all = [
        ("file_root", "file-root", &params.file_root),
        ("content_root", "content-root", &params.content_root),
        ("weights_root", "weights-root", &params.weights_root),
    ];
    let pins = all.into_iter().filter_map(|(name, algorithm, pin)| Some((name, algorithm, pin.as_ref()?)));
    pins.map(|(name, algorithm, pin)| {
        let pin = pin.to_ascii_lowercase();
        let digits = pin.len() == 64 && pin.bytes().all(|byte| byte.is_ascii_hexdigit());
        let bad = || Refusal::InvalidParams(format!("{name} is not 64 hexadecimal digits"));
        digits.then_some((name, algorithm, pin)).ok_or_else(bad)
    })
    .collect()
}

impl HashCheck for RootPin {
    type Params = Params;

    fn plan(model: &Model, params: &Params) -> Result<Vec<DigestRequest>, Refusal> {
        let pins = pins(params)?;
        if model.files.is_empty() && !pins.is_empty() {
            return Err(Refusal::Unsupported("the artifact has no files".into()));
        }
        let request =
            |algorithm: &str| DigestRequest { file: 0, algorithm: algorithm.into(), ranges: Vec::new() };
        Ok(pins.into_iter().map(|(_, algorithm, _)| request(algorithm)).collect())
    }

    fn judge(_: &Model, digests: &[Vec<u8>], params: &Params) -> Result<Check, Refusal> {
        let pins = pins(params)?;
        if pins.len() != digests.len() {
            let why = format!("{} digests for {} requests", digests.len(), pins.len());
            return Err(Refusal::InvalidEvidence(why));
        }
        let mut findings = Vec::new();
        for ((name, _, pin), digest) in pins.iter().zip(digests) {
            let found: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            if found != *pin {
                let found = if found.is_empty() { "none, it is not whole".to_owned() } else { found };
                findings.push(Finding {
                    code: "root-mismatch".into(),
                    severity: Severity::Error,
                    message: format!("{name} is pinned to {pin}, but the artifact has {found}"),
                    file: None,
                });
            }
        }
        let outcome = match (pins.is_empty(), findings.is_empty()) {
            (true, _) => Outcome::NotApplicable,
            (false, true) => Outcome::Passed,
            (false, false) => Outcome::Failed,
        };
        Ok(Check { outcome, findings })
    }
}

export_hash_check!(
    "root-pin",
    RootPin,
    r#"{"type":"object","additionalProperties":false,"properties":{"file_root":{"type":["string","null"]},"content_root":{"type":["string","null"]},"weights_root":{"type":["string","null"]}}}"#
);

#[cfg(test)]
mod tests {
    use assayd_plugin_sdk::File;

    use super::*;

    fn hex(byte: u8) -> String {
        format!("{byte:02x}").repeat(32)
    }

    #[test]
    fn pins_hold_or_fail() {
        let params = Params {
            file_root: Some(hex(1)),
            weights_root: Some(hex(0xab).to_uppercase()),
            ..Params::default()
        };
        let model = Model { files: vec![File { name: "m".into(), bytes: 1 }], ..Model::default() };
        let plan = RootPin::plan(&model, &params).unwrap();
        let algorithms: Vec<&str> = plan.iter().map(|request| request.algorithm.as_str()).collect();
        assert_eq!(algorithms, ["file-root", "weights-root"]);
        let judge = |digests: &[Vec<u8>]| RootPin::judge(&model, digests, &params).unwrap();
        let good = judge(&[vec![1; 32], vec![0xab; 32]]);
        assert_eq!(good, Check { outcome: Outcome::Passed, findings: vec![] });
        let bad = judge(&[vec![1; 32], vec![0xac; 32]]);
        assert_eq!((bad.outcome, bad.findings.len()), (Outcome::Failed, 1));
        assert!(bad.findings[0].message.starts_with("weights_root is pinned"));
        let broken = judge(&[Vec::new(), vec![0xab; 32]]);
        assert_eq!(broken.outcome, Outcome::Failed, "what is not whole does not have the root");
    }

    #[test]
    fn refusals() {
        let model = Model::default();
        let none = Params::default();
        assert_eq!(RootPin::plan(&model, &none).unwrap(), []);
        assert_eq!(RootPin::judge(&model, &[], &none).unwrap().outcome, Outcome::NotApplicable);
        for bad in ["", "00", &"g".repeat(64)] {
            let params = Params { file_root: Some(bad.into()), ..Params::default() };
            assert!(RootPin::plan(&model, &params).is_err(), "{bad}");
            assert!(RootPin::judge(&model, &[vec![0; 32]], &params).is_err(), "{bad}");
        }
        let pinned = Params { file_root: Some(hex(1)), ..Params::default() };
        assert!(RootPin::plan(&model, &pinned).is_err(), "no files");
        assert!(RootPin::judge(&model, &[], &pinned).is_err(), "no digest");
    }
}
