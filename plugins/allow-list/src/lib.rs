//! Hash check `allow-list`: is the SHA-256 of every file on the user's list?
//!
//! Names do not matter. A list that is there and empty allows nothing; no list at all is not
//! applicable. A line that is no digest is refused, so that a mistyped one is noticed.

use std::collections::BTreeSet;

use assayd_plugin_sdk::{
    Check, DigestRequest, Finding, HashCheck, Model, Outcome, Refusal, Severity, export_hash_check,
};
use serde::Deserialize;

/// Parameters, all optional.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// What is allowed.
    pub digests: Option<Digests>,
}

/// A list, or its text.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Digests {
    /// One digest each.
    List(Vec<String>),
    /// Lines that begin with a digest; those that begin with `#` say nothing.
    Text(String),
}

/// The check.
#[derive(Debug)]
pub struct AllowList;

fn allowed(params: &Params) -> Result<Option<BTreeSet<String>>, Refusal> {
    let lines: Vec<&str> = match &params.digests {
        None => return Ok(None),
        Some(Digests::List(list)) => list.iter().map(String::as_str).collect(),
        Some(Digests::Text(text)) => {
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
            lines.collect()
        }
    };
    let digest = |line: &str| {
        let digest = line.split_whitespace().next().unwrap_or_default().to_ascii_lowercase();
        let digits = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        digits.then_some(digest).ok_or_else(|| Refusal::InvalidParams(format!("{line:?} is no SHA-256")))
    };
    lines.into_iter().map(digest).collect::<Result<_, _>>().map(Some)
}

impl HashCheck for AllowList {
    type Params = Params;

    fn plan(model: &Model, params: &Params) -> Result<Vec<DigestRequest>, Refusal> {
        if allowed(params)?.is_none() {
            return Ok(Vec::new());
        }
        let request = |file| DigestRequest { file, algorithm: "sha256".into(), ranges: Vec::new() };
        Ok((0..model.files.len()).map(request).collect())
    }

    fn judge(model: &Model, digests: &[Vec<u8>], params: &Params) -> Result<Check, Refusal> {
        let Some(allowed) = allowed(params)? else {
            return Ok(Check { outcome: Outcome::NotApplicable, findings: Vec::new() });
        };
        if model.files.is_empty() || model.files.len() != digests.len() {
            let why = format!("{} digests for {} files", digests.len(), model.files.len());
            return Err(Refusal::InvalidEvidence(why));
        }
        let mut findings = Vec::new();
        for (file, digest) in digests.iter().enumerate() {
            let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            if !allowed.contains(&digest) {
                findings.push(Finding {
                    code: "digest-not-allowed".into(),
                    severity: Severity::Error,
                    message: format!("its sha256 {digest} is not on the list"),
                    file: Some(file),
                });
            }
        }
        let outcome = if findings.is_empty() { Outcome::Passed } else { Outcome::Failed };
        Ok(Check { outcome, findings })
    }
}

export_hash_check!(
    "allow-list",
    AllowList,
    r#"{"type":"object","additionalProperties":false,"properties":{"digests":{"type":["array","string","null"],"items":{"type":"string"}}}}"#
);

#[cfg(test)]
mod tests {
    use assayd_plugin_sdk::File;

    use super::*;

    fn hex(byte: u8) -> String {
        format!("{byte:02x}").repeat(32)
    }

    fn model(files: usize) -> Model {
        let file = |number| File { name: format!("f{number}"), bytes: 1 };
        Model { files: (0..files).map(file).collect(), ..Model::default() }
    }

    fn judge(list: Digests, digests: &[u8]) -> Result<Check, Refusal> {
        let params = Params { digests: Some(list) };
        let model = model(digests.len());
        assert_eq!(AllowList::plan(&model, &params)?.len(), digests.len());
        AllowList::judge(&model, &digests.iter().map(|&byte| vec![byte; 32]).collect::<Vec<_>>(), &params)
    }

    #[test]
    fn every_file_must_be_listed() {
        let list = || Digests::List(vec![hex(1), hex(2).to_uppercase()]);
        assert_eq!(judge(list(), &[1, 2, 1]).unwrap(), Check { outcome: Outcome::Passed, findings: vec![] });
        let bad = judge(list(), &[1, 3]).unwrap();
        assert_eq!((bad.outcome, bad.findings[0].file), (Outcome::Failed, Some(1)));
        let text = Digests::Text(format!("# allowed\n{}  a.gguf\n\n", hex(1)));
        assert_eq!(judge(text.clone(), &[1]).unwrap().outcome, Outcome::Passed);
        assert_eq!(judge(text, &[2]).unwrap().outcome, Outcome::Failed);
        assert_eq!(
            judge(Digests::List(vec![]), &[1]).unwrap().outcome,
            Outcome::Failed,
            "nothing is allowed"
        );
    }

    #[test]
    fn refusals() {
        assert!(judge(Digests::List(vec!["abc".into()]), &[1]).is_err());
        assert!(judge(Digests::Text("hello world".into()), &[1]).is_err());
        let params = Params { digests: Some(Digests::List(vec![hex(1)])) };
        assert!(AllowList::judge(&model(1), &[], &params).is_err(), "a digest is missing");
        assert!(AllowList::judge(&model(0), &[], &params).is_err(), "nothing to check is no pass");
        let none = Params::default();
        assert_eq!(AllowList::plan(&model(1), &none).unwrap(), []);
        assert_eq!(AllowList::judge(&model(1), &[], &none).unwrap().outcome, Outcome::NotApplicable);
    }
}
