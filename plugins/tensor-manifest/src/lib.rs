//! Hash check `tensor-manifest`: is every tensor as a list of `assayd hash` has it?
//!
//! The lines `#tensor ROOT TYPE [SHAPE] "name"` of the list are compared with those that the
//! host writes about the artifact. What is on one side only is named, and so is what has
//! other bytes, or the same under another type or shape.

use std::collections::BTreeMap;

use assayd_plugin_sdk::{
    Check, DigestRequest, Finding, HashCheck, Model, Outcome, Refusal, Severity, export_hash_check,
};
use serde::Deserialize;

/// Findings told one by one.
const TOLD: usize = 100;

/// Parameters, all optional.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// The text of a list.
    pub list: Option<String>,
}

/// The check.
#[derive(Debug)]
pub struct TensorManifest;

/// Root, and type with shape, by name.
type Tensors = BTreeMap<String, (String, String)>;

/// The tensors of a list; an error for a line that begins as one and is none, and for a name that
/// has two: nobody knows which one counts.
fn tensors(text: &str) -> Result<Tensors, String> {
    let mut out = Tensors::new();
    for (number, line) in (1..).zip(text.lines()) {
        let Some(rest) = line.strip_prefix("#tensor ") else { continue };
        let parts = || {
            let (root, rest) = rest.split_once(' ')?;
            let (form, name) = rest.split_once("] ")?;
            let digits = root.len() == 64 && root.bytes().all(|byte| byte.is_ascii_hexdigit());
            digits.then_some((serde_json::from_str::<String>(name).ok()?, root, form))
        };
        let (name, root, form) = parts().ok_or_else(|| format!("line {number} is no tensor"))?;
        if out.contains_key(&name) {
            return Err(format!("line {number} is a second tensor {name}"));
        }
        out.insert(name, (root.to_ascii_lowercase(), format!("{form}]")));
    }
    Ok(out)
}

/// Does the list speak about a file of the model?
fn is_about(model: &Model, text: &str) -> bool {
    let names = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(' '));
    let base =
        |name: &str| name.rsplit('/').next().map(|name| name.trim_start_matches([' ', '*']).to_owned());
    names.filter_map(|(_, name)| base(name)).any(|name| model.files.iter().any(|file| file.name == name))
}

/// The list to compare with, and its name.
fn list(model: &Model, params: &Params) -> Result<Option<(String, Tensors)>, Refusal> {
    if let Some(text) = &params.list {
        let tensors = tensors(text).map_err(|why| Refusal::InvalidParams(format!("the list: {why}")))?;
        if tensors.is_empty() {
            return Err(Refusal::InvalidParams("the list has no tensors".into()));
        }
        return Ok(Some(("the given list".into(), tensors)));
    }
    for manifest in model.manifests.iter().filter(|manifest| is_about(model, &manifest.text)) {
        let tensors = tensors(&manifest.text)
            .map_err(|why| Refusal::InvalidEvidence(format!("{}: {why}", manifest.name)))?;
        if !tensors.is_empty() {
            return Ok(Some((manifest.name.clone(), tensors)));
        }
    }
    Ok(None)
}

impl HashCheck for TensorManifest {
    type Params = Params;

    fn plan(model: &Model, params: &Params) -> Result<Vec<DigestRequest>, Refusal> {
        if list(model, params)?.is_none() {
            return Ok(Vec::new());
        }
        Ok(vec![DigestRequest { file: 0, algorithm: "list".into(), ranges: Vec::new() }])
    }

    fn judge(model: &Model, digests: &[Vec<u8>], params: &Params) -> Result<Check, Refusal> {
        let Some((name, listed)) = list(model, params)? else {
            return Ok(Check { outcome: Outcome::NotApplicable, findings: Vec::new() });
        };
        let [found] = digests else {
            return Err(Refusal::InvalidEvidence(format!("{} digests for 1 request", digests.len())));
        };
        let found = std::str::from_utf8(found).map_err(|_| Refusal::InvalidEvidence("not text".into()))?;
        let found = tensors(found).map_err(Refusal::InvalidEvidence)?;
        let mut wrong = Vec::new();
        for (tensor, (root, form)) in &listed {
            match found.get(tensor) {
                None => wrong.push(("tensor-missing", format!("{tensor} is not in the artifact"))),
                Some((other, _)) if other != root => {
                    wrong.push(("tensor-changed", format!("the bytes of {tensor} are others")));
                }
                Some((_, other)) if other != form => {
                    wrong.push(("tensor-retyped", format!("{tensor} was {form}, is {other}")));
                }
                Some(_) => {}
            }
        }
        let extra = found.keys().filter(|tensor| !listed.contains_key(*tensor));
        wrong.extend(extra.map(|tensor| ("tensor-extra", format!("{tensor} is not listed"))));
        let outcome = if wrong.is_empty() { Outcome::Passed } else { Outcome::Failed };
        let more = wrong.len().saturating_sub(TOLD);
        wrong.truncate(TOLD);
        if more > 0 {
            wrong.push(("tensor-changed", format!("{more} more differences")));
        }
        let finding = |(code, message): (&str, String)| Finding {
            code: code.into(),
            severity: Severity::Error,
            message: format!("{name}: {message}"),
            file: None,
        };
        Ok(Check { outcome, findings: wrong.into_iter().map(finding).collect() })
    }
}

export_hash_check!(
    "tensor-manifest",
    TensorManifest,
    r#"{"type":"object","additionalProperties":false,"properties":{"list":{"type":["string","null"]}}}"#
);

#[cfg(test)]
mod tests {
    use assayd_plugin_sdk::{File, Manifest};

    use super::*;

    fn line(byte: u8, form: &str, name: &str) -> String {
        format!("#tensor {} {form} {name:?}\n", format!("{byte:02x}").repeat(32))
    }

    fn good() -> String {
        line(1, "F32 [4,4]", "a b") + &line(2, "Q8_0 [32]", "c")
    }

    fn model(list: Option<&str>) -> Model {
        let beside = |text: &str| Manifest {
            name: "m.hashes".into(),
            text: format!("{}  x/m.gguf\n{text}", "0".repeat(64)),
        };
        Model {
            files: vec![File { name: "m.gguf".into(), bytes: 1 }],
            manifests: list.map(beside).into_iter().collect(),
            ..Model::default()
        }
    }

    fn codes(found: &str) -> (Outcome, Vec<String>) {
        let model = model(Some(&good()));
        assert_eq!(TensorManifest::plan(&model, &Params::default()).unwrap().len(), 1);
        let check = TensorManifest::judge(&model, &[found.as_bytes().to_vec()], &Params::default()).unwrap();
        (check.outcome, check.findings.into_iter().map(|finding| finding.code).collect())
    }

    #[test]
    fn differences_are_named() {
        assert_eq!(codes(&good()), (Outcome::Passed, vec![]));
        for (found, code) in [
            (line(1, "F32 [4,4]", "a b") + &line(3, "Q8_0 [32]", "c"), "tensor-changed"),
            (line(1, "F32 [16]", "a b") + &line(2, "Q8_0 [32]", "c"), "tensor-retyped"),
            (line(1, "F32 [4,4]", "a b"), "tensor-missing"),
            (good() + &line(2, "Q8_0 [32]", "d"), "tensor-extra"),
        ] {
            assert_eq!(codes(&found), (Outcome::Failed, vec![code.to_owned()]), "{found}");
        }
        let twice = good() + &line(3, "Q8_0 [32]", "c");
        let judged = TensorManifest::judge(&model(Some(&good())), &[twice.into_bytes()], &Params::default());
        assert!(judged.is_err(), "whichever of the two is as listed");
        let many: String = (0..200).map(|number| line(9, "F32 [1]", &format!("t{number}"))).collect();
        assert_eq!(codes(&(good() + &many)).1.len(), TOLD + 1);
    }

    #[test]
    fn refusals() {
        let none = model(None);
        assert_eq!(TensorManifest::plan(&none, &Params::default()).unwrap(), []);
        assert_eq!(
            TensorManifest::judge(&none, &[], &Params::default()).unwrap().outcome,
            Outcome::NotApplicable
        );
        let files_only = model(Some(""));
        assert_eq!(TensorManifest::plan(&files_only, &Params::default()).unwrap(), [], "no tensors listed");
        let mut elsewhere = model(Some(&good()));
        elsewhere.files[0].name = "other.gguf".into();
        assert_eq!(TensorManifest::plan(&elsewhere, &Params::default()).unwrap(), [], "about another file");
        let given = Params { list: Some(good()) };
        assert_eq!(TensorManifest::plan(&elsewhere, &given).unwrap().len(), 1);
        for bad in ["", "#tensor x", "#tensor 00 F32 [1] \"t\""] {
            assert!(TensorManifest::plan(&none, &Params { list: Some(bad.into()) }).is_err(), "{bad}");
        }
        assert!(TensorManifest::plan(&model(Some("#tensor x")), &Params::default()).is_err());
        let model = model(Some(&good()));
        assert!(TensorManifest::judge(&model, &[], &Params::default()).is_err());
        assert!(TensorManifest::judge(&model, &[vec![0xff]], &Params::default()).is_err());
    }
}
