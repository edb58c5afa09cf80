//! Hash check `tlsh-similarity`: are the bytes like those that were published?
//!
//! The host digests a sample with TLSH, this plugin judges the distance to the digest that
//! the user gives. Without one, or where a digest cannot be made (too little variety), it is
//! not applicable; a digest of something else than such a sample is refused. It is no evidence
//! of lineage.

use assayd_plugin_sdk::{
    Check, DigestRequest, Finding, HashCheck, Model, Outcome, Refusal, Severity, export_hash_check,
};
use serde::Deserialize;
use tlsh2::TlshDefault;

/// The kind of digest that is compared, as the host names it.
const KIND: &str = "tlsh/bytes-64x64k/1";
/// Stretches of a sample, and bytes of each.
const STRETCHES: u64 = 64;
const STRETCH_BYTES: u64 = 64 << 10;

/// Parameters, all optional.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// The digest of the file as it should be, with or without the name of its kind.
    pub digest: Option<String>,
    /// Name of that file; the largest if none is given.
    pub file: Option<String>,
    /// The largest distance that passes.
    pub max_distance: u32,
}

impl Default for Params {
    fn default() -> Self {
        Self { digest: None, file: None, max_distance: 30 }
    }
}

/// The check.
#[derive(Debug)]
pub struct TlshSimilarity;

/// Where a file of this size is sampled: all of it if it is small.
fn sample(bytes: u64) -> Vec<(u64, u64)> {
    if bytes <= STRETCHES * STRETCH_BYTES {
        return vec![(0, bytes)];
    }
    let room = u128::from(bytes - STRETCH_BYTES);
    let start = |number: u64| (room * u128::from(number) / u128::from(STRETCHES - 1)) as u64;
    (0..STRETCHES).map(|number| (start(number), STRETCH_BYTES)).collect()
}

/// The file that is sampled.
fn file(model: &Model, params: &Params) -> Result<usize, Refusal> {
    let found = match &params.file {
        Some(name) => model.files.iter().position(|file| file.name == *name),
        None => (0..model.files.len()).max_by_key(|&file| model.files.get(file).map(|file| file.bytes)),
    };
    found.ok_or_else(|| Refusal::InvalidParams("there is no such file".into()))
}

fn parse(digest: &str) -> Option<TlshDefault> {
    digest.parse().ok()
}

/// What the user expects; `None` if nothing.
fn expected(params: &Params) -> Result<Option<(&str, TlshDefault)>, Refusal> {
    let Some(given) = params.digest.as_deref() else { return Ok(None) };
    let digest = match given.rsplit_once(':') {
        None => given,
        Some((KIND, digest)) => digest,
        Some((kind, _)) => return Err(other_kind(&format!("of the kind {kind}"))),
    };
    match parse(digest) {
        Some(parsed) => Ok(Some((digest, parsed))),
        None => Err(Refusal::InvalidParams("digest is not a TLSH digest (T1...)".into())),
    }
}

fn other_kind(what: &str) -> Refusal {
    Refusal::InvalidParams(format!(
        "the digest is {what}, not of a sample of such a file's bytes: give the one that `assayd hash` prints as tlsh_bytes"
    ))
}

/// Do both digests say that they are of the same number of bytes? Two of their digits tell it.
fn same_length(one: &str, other: &str) -> bool {
    let digits = |digest: &str| digest.get(4..6).map(str::to_ascii_uppercase);
    digits(one) == digits(other)
}

impl HashCheck for TlshSimilarity {
    type Params = Params;

    fn plan(model: &Model, params: &Params) -> Result<Vec<DigestRequest>, Refusal> {
        if expected(params)?.is_none() {
            return Ok(Vec::new());
        }
        if model.files.is_empty() {
            return Err(Refusal::Unsupported("the artifact has no files".into()));
        }
        let file = file(model, params)?;
        let bytes = model.files.get(file).map_or(0, |file| file.bytes);
        Ok(vec![DigestRequest { file, algorithm: "tlsh".into(), ranges: sample(bytes) }])
    }

    fn judge(model: &Model, digests: &[Vec<u8>], params: &Params) -> Result<Check, Refusal> {
        let Some((given, expected)) = expected(params)? else {
            return Ok(Check { outcome: Outcome::NotApplicable, findings: Vec::new() });
        };
        let file = file(model, params)?;
        let [digest] = digests else {
            return Err(Refusal::InvalidEvidence(format!("{} digests for 1 request", digests.len())));
        };
        let finding = |code: &str, severity, message| Finding {
            code: code.into(),
            severity,
            message,
            file: Some(file),
        };
        if digest.is_empty() {
            let why = "the file is too short or has too little variety for a TLSH digest";
            let findings = vec![finding("fuzzy-not-available", Severity::Warning, why.into())];
            return Ok(Check { outcome: Outcome::NotApplicable, findings });
        }
        let text = std::str::from_utf8(digest).unwrap_or_default();
        let found =
            parse(text).ok_or_else(|| Refusal::InvalidEvidence("the host gave no TLSH digest".into()))?;
        // Samples of large files are all of the same length.
        let bytes = model.files.get(file).map_or(0, |file| file.bytes);
        if bytes > STRETCHES * STRETCH_BYTES && !same_length(text, given) {
            return Err(other_kind("of another number of bytes"));
        }
        let distance = found.diff(&expected, true);
        let near = u32::try_from(distance).is_ok_and(|distance| distance <= params.max_distance);
        let message = format!("the distance is {distance}, at most {} passes", params.max_distance);
        Ok(if near {
            Check { outcome: Outcome::Passed, findings: vec![finding("fuzzy-near", Severity::Info, message)] }
        } else {
            Check { outcome: Outcome::Failed, findings: vec![finding("fuzzy-far", Severity::Error, message)] }
        })
    }
}

export_hash_check!(
    "tlsh-similarity",
    TlshSimilarity,
    r#"{"type":"object","additionalProperties":false,"properties":{"digest":{"type":["string","null"]},"file":{"type":["string","null"]},"max_distance":{"type":"integer","minimum":0}}}"#
);

#[cfg(test)]
mod tests {
    use assayd_plugin_sdk::File;

    use super::*;

    /// Of the test data of TLSH's reference implementation; their distance is 288.
    const ALICE: &str = "T145D18407A78523B35A030267671FA2C2F725402973629B25545EB43C3356679477F7FC";
    const STREET: &str = "T14221519BD71126276E6282B9668A6A81FF08C5293735431AA0CE50002B17DAE67FA7D4";

    fn model() -> Model {
        let file = |name: &str, bytes| File { name: name.into(), bytes };
        Model { files: vec![file("small", 10), file("large", 1 << 40)], ..Model::default() }
    }

    fn judge(digest: &str, params: &Params) -> Result<Check, Refusal> {
        TlshSimilarity::judge(&model(), &[digest.as_bytes().to_vec()], params)
    }

    #[test]
    fn digests_of_another_kind_are_refused() {
        let params =
            |digest: String| Params { digest: Some(digest), max_distance: 1000, ..Params::default() };
        let named = params(format!("{KIND}:{ALICE}"));
        assert_eq!(judge(ALICE, &named).unwrap().outcome, Outcome::Passed);
        let lower = params(format!("T1{}", ALICE[2..].to_ascii_lowercase()));
        assert_eq!(judge(ALICE, &lower).unwrap().outcome, Outcome::Passed, "digits are digits");
        let weights = params(format!("tlsh/largest-of-32/1:{ALICE}"));
        for refused in [TlshSimilarity::plan(&model(), &weights).err(), judge(ALICE, &weights).err()] {
            let Some(Refusal::InvalidParams(why)) = refused else { panic!("{refused:?}") };
            assert!(why.contains("largest-of-32") && why.contains("tlsh_bytes"), "{why}");
        }
        // Nobody says of what kind it is, but it is not of so many bytes.
        let Err(Refusal::InvalidParams(why)) = judge(STREET, &params(ALICE.into())) else { panic!("taken") };
        assert!(why.contains("another number of bytes"), "{why}");
        let small = Params { file: Some("small".into()), ..params(ALICE.into()) };
        assert_eq!(judge(STREET, &small).unwrap().outcome, Outcome::Passed, "files may be of any length");
    }

    #[test]
    fn near_passes_and_far_fails() {
        let params =
            |max_distance| Params { digest: Some(ALICE.into()), file: Some("small".into()), max_distance };
        assert_eq!(judge(ALICE, &params(0)).unwrap().outcome, Outcome::Passed);
        assert_eq!(judge(STREET, &params(288)).unwrap().outcome, Outcome::Passed);
        let far = judge(STREET, &params(287)).unwrap();
        assert_eq!((far.outcome, far.findings[0].code.as_str()), (Outcome::Failed, "fuzzy-far"));
        assert_eq!(far.findings[0].file, Some(0));
        let none = judge("", &params(30)).unwrap();
        assert_eq!(none.outcome, Outcome::NotApplicable, "no digest is not a pass");
    }

    #[test]
    fn what_cannot_be_judged_is_refused() {
        let params = Params { digest: Some(ALICE.into()), ..Params::default() };
        assert!(judge("TNULL", &params).is_err());
        assert!(TlshSimilarity::judge(&model(), &[], &params).is_err());
        let nonsense = Params { digest: Some("T1".into()), ..Params::default() };
        assert!(judge(ALICE, &nonsense).is_err());
        let elsewhere = Params { file: Some("missing".into()), ..params };
        assert!(TlshSimilarity::plan(&model(), &elsewhere).is_err());
        let nothing = TlshSimilarity::plan(&model(), &Params::default()).unwrap();
        assert_eq!(nothing, []);
        assert_eq!(
            TlshSimilarity::judge(&model(), &[], &Params::default()).unwrap().outcome,
            Outcome::NotApplicable
        );
    }

    #[test]
    fn the_sample_is_bounded_and_within_the_file() {
        for bytes in [0, 1, 4 << 20, (4 << 20) + 1, 1 << 40, u64::MAX] {
            let ranges = sample(bytes);
            assert!(ranges.iter().map(|range| range.1).sum::<u64>() <= STRETCHES * STRETCH_BYTES);
            assert!(ranges.iter().all(|range| range.0.checked_add(range.1).is_some_and(|end| end <= bytes)));
            let last = ranges.last().unwrap();
            assert_eq!(last.0 + last.1, bytes, "the end is in the sample");
        }
        let plan =
            TlshSimilarity::plan(&model(), &Params { digest: Some(ALICE.into()), ..Params::default() });
        assert_eq!((plan.as_ref().unwrap()[0].file, plan.unwrap()[0].ranges.len()), (1, 64));
    }
}
