//! Whether a bundle is what it says: every digest, the seal, the signature, and its verdict
//! worked out once more.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::container::{Fault, Mismatch, Scanned, Section, first_difference, scan};
use super::recompute::{Inputs, Leaf, find, recompute};
use crate::assay::constants_digest;
use crate::assay::decision::decide;
use crate::assay::report::Report;
use crate::assay::transcript;
use crate::digest::{PublicKey, merkle_root, sha256};
use crate::domain::score::FinalDecision;
use crate::domain::{Problem, Sha256, budget};
use crate::plugin::{self, Origin, PluginKind, PluginSet};
use crate::store::keyring::Pinned;

/// Whom and what the one who verifies trusts.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    pub pinned: Vec<Pinned>,
    /// The local key.
    pub own: Option<PublicKey>,
    /// Refuse what no trusted key signed.
    pub must_be_signed: bool,
    /// Refuse what this pinned name did not sign.
    pub signed_by: Option<String>,
    /// A plugin folder whose lock names trusted plugins.
    pub plugin_folder: Option<PathBuf>,
    /// Plugins trusted for this once.
    pub plugins: Vec<Sha256>,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Everything agrees, and what it rests on is trusted.
    Verified,
    /// Something does not agree, or is not signed as demanded.
    Mismatch,
    CannotBeJudged,
}

impl Outcome {
    /// 0 verified, 1 mismatch, 4 cannot be judged.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Verified => 0,
            Self::Mismatch => 1,
            Self::CannotBeJudged => 4,
        }
    }
}

/// Who signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SignedBy {
    /// Not looked at, because something before it was wrong.
    NotChecked,
    Nobody,
    /// A key that nobody here knows.
    Unknown,
    /// A key that is pinned here.
    Pinned,
    /// The local key.
    Own,
}

/// The signature, as found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Signature {
    pub by: SignedBy,
    pub key: Option<PublicKey>,
    /// The name that the key is pinned under.
    pub name: Option<String>,
}

/// Why a plugin of a bundle is trusted, if it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// The very bytes that are built into this binary.
    FirstParty,
    /// Its digest is in the lock of the user's plugin folder.
    Lock,
    /// The user named its digest.
    Named,
    /// Nobody here knows it, and who signed the bundle is trusted.
    Signer,
    /// Nobody here knows it.
    Unknown,
}

impl Standing {
    /// In words, after "is".
    pub fn words(self) -> &'static str {
        match self {
            Self::FirstParty => "first-party: the bytes built into this assayd",
            Self::Lock => "trusted by the plugin folder's lock",
            Self::Named => "trusted because you named it",
            Self::Signer => "unknown here; the signer, whom you trust, vouches for it",
            Self::Unknown => "unknown here: nobody you trust vouches for it",
        }
    }
}

/// A plugin of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BundledPlugin {
    pub kind: String,
    pub id: String,
    pub sha256: Sha256,
    pub standing: Standing,
}

/// One thing that was checked and found right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub found: String,
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verification {
    pub path: PathBuf,
    pub outcome: Outcome,
    /// What the bundle's verdict is; null unless it was worked out again.
    pub verdict: Option<FinalDecision>,
    /// Scores up to the stopping time, worked out again.
    pub n: Option<u64>,
    pub claim: Option<String>,
    /// The place that does not agree.
    pub mismatch: Option<Mismatch>,
    /// Why it is not verified, when no place is to blame; and what to do.
    pub reason: Option<String>,
    pub hint: Option<String>,
    /// Checks that were passed, in order.
    pub checks: Vec<Check>,
    pub signature: Signature,
    pub plugins: Vec<BundledPlugin>,
    pub remarks: Vec<String>,
    pub root: Option<Sha256>,
    pub transcript_root: Option<Sha256>,
    pub bytes: Option<u64>,
    pub records: Option<u64>,
}

impl Verification {
    fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            outcome: Outcome::CannotBeJudged,
            verdict: None,
            n: None,
            claim: None,
            mismatch: None,
            reason: None,
            hint: None,
            checks: Vec::new(),
            signature: Signature { by: SignedBy::NotChecked, key: None, name: None },
            plugins: Vec::new(),
            remarks: Vec::new(),
            root: None,
            transcript_root: None,
            bytes: None,
            records: None,
        }
    }

    fn passed(&mut self, name: &'static str, found: impl Into<String>) {
        self.checks.push(Check { name, found: found.into() });
    }
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Bytes read.
    Reading(u64, u64),
    /// Challenges scored.
    Scoring(u64, u64),
}

/// Verifies the bundle at `path`. `builtin` are the plugins of this binary: none of them is
/// run, they are what the bundle's are compared with.
pub fn verify(
    path: &Path,
    trust: &Trust,
    builtin: &PluginSet,
    progress: &mut dyn FnMut(Progress),
) -> Verification {
    let mut found = Verification::new(path);
    match check(&mut found, trust, builtin, progress) {
        Ok(outcome) => found.outcome = outcome,
        Err(Fault::Mismatch(mismatch)) => {
            found.outcome = Outcome::Mismatch;
            found.mismatch = Some(mismatch);
        }
        Err(Fault::CannotJudge(problem)) => {
            found.outcome = Outcome::CannotBeJudged;
            (found.reason, found.hint) = (Some(problem.message), problem.hint);
        }
    }
    found
}

fn check(
    found: &mut Verification,
    trust: &Trust,
    builtin: &PluginSet,
    progress: &mut dyn FnMut(Progress),
) -> Result<Outcome, Fault> {
    let path = found.path.clone();
    let mut bundle = scan(&path, &mut |done, total| progress(Progress::Reading(done, total)))?;
    (found.root, found.bytes) = (Some(bundle.root), Some(bundle.bytes));
    let records = bundle.entries.len() as u64 + 1;
    found.records = Some(records);
    found.passed("container", format!("{records} records; every digest and the root over them agree"));
    found.signature = signature(&bundle, trust)?;
    let (leaves, report) = transcript_and_report(&mut bundle)?;
    found.transcript_root = report.provenance.transcript_root;
    found.passed(
        "transcript",
        format!("{} leaves; the report says the same and names their root", leaves.len()),
    );
    let plugins = bundled_plugins(&mut bundle, &report, builtin, trust, found)?;

    if report.final_decision == FinalDecision::Error {
        return no_verdict(&report, &leaves);
    }
    let mut scoring = |done, total| progress(Progress::Scoring(done, total));
    let inputs = Inputs {
        report: &report,
        bundle: &mut bundle,
        leaves: &leaves,
        plugins: &plugins,
        progress: &mut scoring,
    };
    let (again, remarks) = recompute(inputs)?;
    found.remarks.extend(remarks);
    if report.constants_digest != constants_digest() {
        found
            .remarks
            .push("its table of constants is not that of this assayd, and was used as it is".to_owned());
    }
    same_leaves(&leaves, &transcript::leaves(&again)?, "worked out again, it is")?;
    let diff = &again.enhanced_diff;
    (found.verdict, found.n, found.claim) =
        (Some(again.final_decision), Some(diff.n_effective), Some(diff.claim.clone()));
    let asked = again.records.len();
    found.passed(
        "challenges",
        match &again.challenges {
            Some(challenges) => {
                format!("{} from the key, as committed to; {asked} were asked", challenges.distinct)
            }
            None => "none were made".to_owned(),
        },
    );
    found.passed(
        "scores",
        format!("{} scored again, {} failed", asked as u64 - diff.n_failed.min(asked as u64), diff.n_failed),
    );
    found.passed(
        "decision",
        format!("{} after {} scores, as stated", again.final_decision.as_str(), diff.n_effective),
    );
    Ok(standing(found, trust))
}

/// The outcome when everything agrees: trust decides.
fn standing(found: &mut Verification, trust: &Trust) -> Outcome {
    let wanted = match &trust.signed_by {
        Some(name) => found.signature.name.as_ref() == Some(name),
        None => !trust.must_be_signed || matches!(found.signature.by, SignedBy::Pinned | SignedBy::Own),
    };
    if !wanted {
        let who =
            trust.signed_by.as_ref().map_or_else(|| "a trusted key".to_owned(), |name| format!("{name:?}"));
        found.reason = Some(format!("it is not signed by {who}"));
        found.hint =
            Some("get the signer's public key from them and pin it: assayd keys pin NAME KEY".to_owned());
        return Outcome::Mismatch;
    }
    if let Some(plugin) = found.plugins.iter().find(|plugin| plugin.standing == Standing::Unknown) {
        found.reason = Some(format!(
            "everything agrees, but the verdict rests on the {} {}, which nobody here knows; such a plugin can \
             say anything",
            plugin.kind, plugin.id
        ));
        found.hint = Some(format!(
            "look at it, then name it: --trust-plugin {}; or pin the signer's key, or use --plugins DIR with a lock \
             that has it",
            plugin.sha256
        ));
        return Outcome::CannotBeJudged;
    }
    Outcome::Verified
}

fn signature(bundle: &Scanned, trust: &Trust) -> Result<Signature, Fault> {
    let Some(key) = bundle.check_signature()? else {
        return Ok(Signature { by: SignedBy::Nobody, key: None, name: None });
    };
    let pinned = trust.pinned.iter().find(|pinned| pinned.key == key);
    let by = match pinned {
        Some(_) => SignedBy::Pinned,
        None if trust.own == Some(key) => SignedBy::Own,
        None => SignedBy::Unknown,
    };
    Ok(Signature { by, key: Some(key), name: pinned.map(|pinned| pinned.name.clone()) })
}

/// The stored transcript and the report, which must tell the same.
///
/// # Errors
/// The first place where they do not, or a schema that is not known here.
pub fn transcript_and_report(bundle: &mut Scanned) -> Result<(Vec<Leaf>, Report), Fault> {
    let entries: Vec<_> = bundle.section(Section::Transcript).cloned().collect();
    let mut leaves = Vec::new();
    for entry in entries {
        let bytes = bundle.body(&entry)?;
        leaves.push((entry, bytes));
    }
    let reports: Vec<_> = bundle.section(Section::Report).cloned().collect();
    let [entry] = reports.as_slice() else {
        return Err(bundle.seal.whole(format!("{} reports instead of one", reports.len())).into());
    };
    let json = bundle.body(entry)?;
    let report: Report = serde_json::from_slice(&json).map_err(|error| {
        let before: usize =
            json.split_inclusive(|&b| b == b'\n').take(error.line().saturating_sub(1)).map(<[u8]>::len).sum();
        entry.byte(before + error.column().saturating_sub(1), format!("this is no report: {error}"))
    })?;
    if report.schema != crate::assay::report::SCHEMA {
        return Err(Problem::input(format!(
            "its report has the schema {}, which this assayd does not know",
            report.schema
        ))
        .hint("verify it with the assayd that made it")
        .into());
    }
    same_leaves(&leaves, &transcript::leaves(&report)?, "the report says")?;
    let root = merkle_root(leaves.iter().map(|(_, bytes)| bytes.as_slice()));
    if report.provenance.transcript_root != Some(root) {
        let at = find(&json, b"\"transcript_root\":").map_or(0, |at| at + 18);
        return Err(entry.byte(at, format!("the transcript's root is {root}")).into());
    }
    Ok((leaves, report))
}

/// Compares the stored leaves with others and names the first byte that differs.
fn same_leaves(stored: &[Leaf], others: &[Vec<u8>], who: &str) -> Result<(), Fault> {
    for ((entry, bytes), other) in stored.iter().zip(others) {
        if let Some(at) = first_difference(bytes, other) {
            let shown = |bytes: &[u8]| {
                let (start, end) = (at.saturating_sub(24), (at + 24).min(bytes.len()));
                String::from_utf8_lossy(bytes.get(start..end).unwrap_or_default()).into_owned()
            };
            let what = format!("the transcript says …{}…; {who} …{}…", shown(bytes), shown(other));
            return Err(entry.byte(at, what).into());
        }
    }
    match stored.get(others.len()).or(stored.last()) {
        Some((entry, _)) if stored.len() != others.len() => {
            Err(entry.whole(format!("{} leaves; {who} {}", stored.len(), others.len())).into())
        }
        Some(_) => Ok(()),
        None => Err(Problem::input("it has no transcript").into()),
    }
}

/// The plugins inside, as a set of their own, each with its standing.
fn bundled_plugins(
    bundle: &mut Scanned,
    report: &Report,
    builtin: &PluginSet,
    trust: &Trust,
    found: &mut Verification,
) -> Result<PluginSet, Fault> {
    let first_party: HashSet<Sha256> = builtin
        .list()
        .into_iter()
        .filter(|record| record.origin == Origin::Builtin)
        .map(|record| record.sha256)
        .collect();
    let trusted_signer = matches!(found.signature.by, SignedBy::Pinned | SignedBy::Own);
    let path = found.path.clone();
    let entries: Vec<_> = bundle.section(Section::Plugin).cloned().collect();
    let mut inside = Vec::new();
    for (i, entry) in entries.iter().enumerate() {
        if i >= budget::BUNDLE_PLUGINS {
            return Err(entry.whole(format!("more than {} plugins", budget::BUNDLE_PLUGINS)).into());
        }
        let bytes = bundle.body(entry)?;
        let digest = sha256(&bytes);
        let Some(named) = report.plugins.iter().find(|plugin| plugin.sha256 == digest) else {
            let what = format!("the plugin with sha256 {digest} is none that the report names");
            return Err(entry.whole(what).into());
        };
        let standing = if first_party.contains(&digest) {
            Standing::FirstParty
        } else if trust.plugins.contains(&digest) {
            Standing::Named
        } else if match &trust.plugin_folder {
            Some(folder) => plugin::trusts(folder, &digest)?,
            None => false,
        } {
            Standing::Lock
        } else if trusted_signer {
            Standing::Signer
        } else {
            Standing::Unknown
        };
        found.plugins.push(BundledPlugin {
            kind: named.kind.clone(),
            id: named.id.clone(),
            sha256: digest,
            standing,
        });
        inside.push((named.id.clone(), path.clone(), bytes));
    }
    let set = builtin.only(inside).map_err(|error| {
        Fault::from(Problem::plugin(format!("a plugin inside cannot be used: {error}")).hint(error.hint()))
    })?;
    // A component under another's name would be run in its place.
    for (entry, plugin) in entries.iter().zip(&found.plugins) {
        if let Some(record) = set.list().into_iter().find(|record| record.sha256 == plugin.sha256)
            && (record.kind.as_str(), &record.id) != (plugin.kind.as_str(), &plugin.id)
        {
            let (kind, id) = (record.kind.as_str(), record.id);
            let what =
                format!("this is the {kind} {id}; the report calls it the {} {}", plugin.kind, plugin.id);
            return Err(entry.whole(what).into());
        }
    }
    // Everything that scored or decided must be inside; the rest of a report's list was not run here.
    let there: HashSet<(PluginKind, Sha256)> = set.list().into_iter().map(|r| (r.kind, r.sha256)).collect();
    for plugin in &report.plugins {
        let kind = PluginKind::ALL.into_iter().find(|kind| kind.as_str() == plugin.kind);
        if let Some(kind @ (PluginKind::Scorer | PluginKind::Decider)) = kind
            && !there.contains(&(kind, plugin.sha256))
        {
            let what =
                format!("the {} {} with sha256 {} is not inside", plugin.kind, plugin.id, plugin.sha256);
            let place = bundle.section(Section::Transcript).next().map(|entry| entry.whole(what.clone()));
            return Err(place.unwrap_or_else(|| bundle.seal.whole(what)).into());
        }
    }
    found.passed("plugins", format!("{} inside, with the digests that the report names", entries.len()));
    Ok(set)
}

/// An assay that ended as ERROR has no verdict; only whether it may say so can be checked.
fn no_verdict(report: &Report, leaves: &[Leaf]) -> Result<Outcome, Fault> {
    if let Some(grounds) = &report.grounds {
        let last = decide(grounds);
        let again = Report { final_decision: last.decision, ..report.clone() };
        same_leaves(leaves, &transcript::leaves(&again)?, "its grounds amount to")?;
    }
    let cause = report.error.as_deref().unwrap_or(&report.because);
    Err(Problem::input(format!(
        "the assay itself ended as ERROR, so there is no verdict to recompute: {cause}"
    ))
    .hint("what is in the file is whole and agrees; mend the cause and run the assay again")
    .into())
}
