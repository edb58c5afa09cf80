//! The final decision: one truth table over everything that was found.
//!
//! Behaviour decides between SAME and DIFFERENT. Whatever is missing, broken or failed makes
//! the outcome weaker, never stronger: nothing here turns an ERROR or an UNDECIDED into a pass.
//! Deliberately not decisive:
//! - **config**: the hash covers settings that change behaviour (then the scores show it) and
//!   settings that do not (a new default, a renamed key); judging by it would call an honest
//!   f16 conversion DIFFERENT. It is reported in `security` and as a remark.
//! - **equal bytes**: a copy of the reference is measured like anything else.
//! - **lineage**: it says how the weights came about, not what the model does.
//! - **fuzzy hash**: likeness of bytes is neither sameness nor difference of behaviour.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::domain::inspection::Status;
use crate::domain::score::{Decision, FinalDecision};
use crate::model::lineage::Relation;

/// What came of the statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Statistics {
    Decided(Decision),
    /// Not run because the models do not share their tokens.
    NotComparable,
    /// Not run because no reference was given.
    NoReference,
    /// Not run because something it needs is not there or not usable.
    NotRun,
    /// A worker failed, or too many challenges did.
    Failed,
    /// A plugin failed.
    PluginFault,
    /// Someone stopped it.
    Cancelled,
}

/// What is known of the two tokenizers, or of the two configurations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Agreement {
    Match,
    Mismatch,
    /// Neither model has one.
    AbsentInBoth,
    /// At least one could not be determined.
    Unknown,
    /// The candidate is an endpoint, which shows no tokenizer and no digests: it made the
    /// reference's tokens of every prompt that it was asked.
    Observed,
}

impl Agreement {
    /// Null never counts as a match, nor as a mismatch.
    pub fn of<T: PartialEq>(reference: Option<&T>, candidate: Option<&T>) -> Self {
        match (reference, candidate) {
            (Some(a), Some(b)) if a == b => Self::Match,
            (Some(_), Some(_)) => Self::Mismatch,
            (None, None) => Self::AbsentInBoth,
            _ => Self::Unknown,
        }
    }

    /// As reports write it: null unless both are known.
    pub fn as_match(self) -> Option<bool> {
        match self {
            Self::Match => Some(true),
            Self::Mismatch => Some(false),
            Self::AbsentInBoth | Self::Unknown | Self::Observed => None,
        }
    }
}

/// What the hash checks said, taken together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HashChecks {
    Passed,
    /// A manifest contradicts a file.
    Failed,
    /// There was nothing to check against.
    NotApplicable,
    /// A plugin failed.
    Fault,
}

/// Everything the final decision looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Findings {
    pub statistics: Statistics,
    /// `None` when there is no reference.
    pub reference_structure: Option<Status>,
    pub candidate_structure: Status,
    pub hash_checks: HashChecks,
    /// Both artifacts' digests are known; an endpoint has none, see [`Agreement::Observed`].
    pub provenance_complete: bool,
    pub tokenizer: Agreement,
    pub config: Agreement,
    /// `None` when the weights were not, or could not be, compared.
    pub lineage: Option<Relation>,
    /// `None` when there is no fuzzy hash.
    pub fuzzy_match: Option<bool>,
}

impl Findings {
    /// Before anything was looked at.
    pub fn unknown() -> Self {
        Self {
            statistics: Statistics::NotRun,
            reference_structure: None,
            candidate_structure: Status::Accept,
            hash_checks: HashChecks::NotApplicable,
            provenance_complete: false,
            tokenizer: Agreement::Unknown,
            config: Agreement::Unknown,
            lineage: None,
            fuzzy_match: None,
        }
    }
}

/// A final decision with the rule that made it, and remarks that go into the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Final {
    pub decision: FinalDecision,
    pub because: &'static str,
    pub remarks: Vec<&'static str>,
}

/// The truth table; the first row that applies decides.
pub fn decide(findings: &Findings) -> Final {
    use FinalDecision::{Different, Error, Same, Undecided};
    let rejected = |status: Option<Status>| status == Some(Status::Reject);
    let (decision, because) = if findings.statistics == Statistics::Cancelled {
        (Error, "the assay was stopped before it could decide")
    } else if rejected(Some(findings.candidate_structure)) {
        (Error, "the candidate's files were rejected; a broken file is not judged")
    } else if rejected(findings.reference_structure) {
        (Error, "the reference's files were rejected; nothing can be compared with them")
    } else if findings.hash_checks == HashChecks::Fault {
        (Error, "a hash check failed to run; that is never a pass")
    } else if findings.hash_checks == HashChecks::Failed {
        (Error, "a hash check failed: a file is not what its manifest, a pin or a list says")
    } else if findings.statistics == Statistics::PluginFault {
        (Error, "a plugin failed; that is never a pass")
    } else if findings.statistics == Statistics::NotRun {
        (Error, "the comparison could not begin")
    } else if findings.statistics == Statistics::Failed {
        (Error, "a model could not answer enough challenges")
    } else if findings.reference_structure.is_none() && findings.statistics != Statistics::NoReference {
        (Error, "there is a result but no reference that it could be about")
    } else if !findings.provenance_complete {
        (Error, "a digest is missing; there is no verdict without the digests of all that produced it")
    } else {
        match (findings.statistics, findings.tokenizer) {
            (Statistics::NoReference, _) => (
                Undecided,
                "no reference was given; the candidate was inspected and measured, and compared with nothing",
            ),
            (_, Agreement::Mismatch) => {
                (Different, "the tokenizers differ: the same text reaches the models as different tokens")
            }
            (Statistics::Decided(Decision::Different), _) => {
                (Different, "the models answer the challenges measurably differently")
            }
            (Statistics::Decided(Decision::Same), Agreement::Match) => {
                (Same, "the models answer the challenges alike, and their tokenizers are equal")
            }
            (Statistics::Decided(Decision::Same), Agreement::Observed) => (
                Same,
                "the endpoint answers the challenges alike, and makes the reference's tokens of their texts",
            ),
            (Statistics::Decided(Decision::Same), Agreement::AbsentInBoth) => {
                (Same, "the models answer raw token challenges alike; neither has a tokenizer")
            }
            (Statistics::Decided(Decision::Same), Agreement::Unknown) => {
                (Undecided, "the models answer alike, but a tokenizer could not be determined")
            }
            (Statistics::Decided(Decision::Undecided), _) => {
                (Undecided, "the challenges did not suffice to decide either way")
            }
            _ => (Error, "the models could not be compared"),
        }
    };
    let mut remarks = Vec::new();
    match findings.config {
        Agreement::Mismatch => remarks.push(
            "config: the hashes differ; reported only, because the hash also covers what does not change behaviour",
        ),
        Agreement::AbsentInBoth | Agreement::Unknown | Agreement::Observed => {
            remarks.push("config: not known for both models, so not compared");
        }
        Agreement::Match => {}
    }
    let changed = matches!(findings.lineage, Some(Relation::Derived | Relation::Unrelated));
    if changed && decision == Same {
        remarks.push("lineage: the weights are not the reference's, although the models answer alike");
    }
    if findings.lineage.is_none() && findings.reference_structure.is_some() {
        remarks.push("lineage: the weights were not compared");
    }
    if findings.fuzzy_match == Some(false) && decision == Same {
        remarks.push(
            "fuzzy hash: the weights are not alike byte by byte; reported only, as after any conversion",
        );
    }
    if findings.hash_checks == HashChecks::NotApplicable {
        remarks.push("hash checks: no manifest lies beside the files, so there was nothing to check against");
    }
    if findings.candidate_structure == Status::Warn || findings.reference_structure == Some(Status::Warn) {
        remarks.push("structure: an inspection has warnings; they do not change the verdict");
    }
    Final { decision, because, remarks }
}

#[cfg(test)]
mod tests {
    use super::*;
    use FinalDecision::{Different, Error, Same, Undecided};

    /// Everything in order and the statistics saying `decision`.
    fn clean(decision: Decision) -> Findings {
        Findings {
            statistics: Statistics::Decided(decision),
            reference_structure: Some(Status::Accept),
            candidate_structure: Status::Accept,
            hash_checks: HashChecks::Passed,
            provenance_complete: true,
            tokenizer: Agreement::Match,
            config: Agreement::Match,
            lineage: Some(Relation::Quantization),
            fuzzy_match: Some(true),
        }
    }

    /// Expects these outcomes when the statistics say SAME, DIFFERENT and UNDECIDED.
    fn row(change: impl Fn(&mut Findings), expected: [FinalDecision; 3]) {
        let decisions = [Decision::Same, Decision::Different, Decision::Undecided];
        for (decision, expected) in decisions.into_iter().zip(expected) {
            let mut findings = clean(decision);
            change(&mut findings);
            assert_eq!(decide(&findings).decision, expected, "{findings:?}");
        }
    }

    #[test]
    fn behaviour_decides() {
        row(|_| {}, [Same, Different, Undecided]);
    }

    #[test]
    fn rejected_candidate() {
        row(|f| f.candidate_structure = Status::Reject, [Error; 3]);
    }

    #[test]
    fn rejected_reference() {
        row(|f| f.reference_structure = Some(Status::Reject), [Error; 3]);
    }

    #[test]
    fn warnings_do_not_decide() {
        row(|f| f.candidate_structure = Status::Warn, [Same, Different, Undecided]);
        row(|f| f.reference_structure = Some(Status::Warn), [Same, Different, Undecided]);
    }

    #[test]
    fn failed_hash_check() {
        row(|f| f.hash_checks = HashChecks::Failed, [Error; 3]);
    }

    #[test]
    fn faulty_hash_check() {
        row(|f| f.hash_checks = HashChecks::Fault, [Error; 3]);
    }

    #[test]
    fn nothing_to_check_against() {
        row(|f| f.hash_checks = HashChecks::NotApplicable, [Same, Different, Undecided]);
    }

    #[test]
    fn missing_digest() {
        row(|f| f.provenance_complete = false, [Error; 3]);
    }

    #[test]
    fn other_tokenizer() {
        row(|f| f.tokenizer = Agreement::Mismatch, [Different; 3]);
        row(
            |f| {
                f.tokenizer = Agreement::Mismatch;
                f.statistics = Statistics::NotComparable;
            },
            [Different; 3],
        );
    }

    #[test]
    fn unknown_tokenizer_weakens_same() {
        row(|f| f.tokenizer = Agreement::Unknown, [Undecided, Different, Undecided]);
    }

    #[test]
    fn an_endpoint_shows_its_tokens_and_no_tokenizer() {
        row(|f| f.tokenizer = Agreement::Observed, [Same, Different, Undecided]);
    }

    #[test]
    fn no_tokenizer_in_either() {
        row(|f| f.tokenizer = Agreement::AbsentInBoth, [Same, Different, Undecided]);
    }

    #[test]
    fn config_is_reported_and_does_not_decide() {
        for config in [Agreement::Mismatch, Agreement::Unknown, Agreement::AbsentInBoth] {
            row(|f| f.config = config, [Same, Different, Undecided]);
            let mut findings = clean(Decision::Same);
            findings.config = config;
            assert!(decide(&findings).remarks.iter().any(|remark| remark.starts_with("config")));
        }
    }

    const RELATIONS: [Option<Relation>; 7] = [
        None,
        Some(Relation::Identical),
        Some(Relation::SameWeights),
        Some(Relation::Quantization),
        Some(Relation::Derived),
        Some(Relation::Unrelated),
        Some(Relation::Unknown),
    ];

    #[test]
    fn lineage_is_reported_and_does_not_decide() {
        for lineage in RELATIONS {
            row(|f| f.lineage = lineage, [Same, Different, Undecided]);
            let mut findings = clean(Decision::Same);
            findings.lineage = lineage;
            let said = decide(&findings).remarks.iter().any(|remark| remark.starts_with("lineage"));
            let changed = matches!(lineage, None | Some(Relation::Derived | Relation::Unrelated));
            assert_eq!(said, changed, "{lineage:?}");
        }
    }

    #[test]
    fn the_fuzzy_hash_is_reported_and_does_not_decide() {
        for fuzzy_match in [None, Some(true), Some(false)] {
            row(|f| f.fuzzy_match = fuzzy_match, [Same, Different, Undecided]);
        }
    }

    #[test]
    fn plugin_fault() {
        row(|f| f.statistics = Statistics::PluginFault, [Error; 3]);
    }

    #[test]
    fn failed_worker_or_too_many_failed_challenges() {
        row(|f| f.statistics = Statistics::Failed, [Error; 3]);
    }

    #[test]
    fn could_not_begin() {
        row(|f| f.statistics = Statistics::NotRun, [Error; 3]);
    }

    #[test]
    fn cancelled() {
        row(|f| f.statistics = Statistics::Cancelled, [Error; 3]);
    }

    #[test]
    fn not_comparable_for_another_reason() {
        row(|f| f.statistics = Statistics::NotComparable, [Error; 3]);
    }

    #[test]
    fn no_reference() {
        row(
            |f| {
                f.statistics = Statistics::NoReference;
                f.reference_structure = None;
                f.tokenizer = Agreement::Unknown;
                f.config = Agreement::Unknown;
            },
            [Undecided; 3],
        );
    }

    /// Over the whole space: SAME only when every condition of SAME holds.
    #[test]
    fn same_has_no_other_way_in() {
        let statuses = [Status::Accept, Status::Warn, Status::Reject];
        let agreements = [Agreement::Match, Agreement::Mismatch, Agreement::AbsentInBoth, Agreement::Unknown];
        let checks = [HashChecks::Passed, HashChecks::Failed, HashChecks::NotApplicable, HashChecks::Fault];
        let statistics = [
            Statistics::Decided(Decision::Same),
            Statistics::Decided(Decision::Different),
            Statistics::Decided(Decision::Undecided),
            Statistics::NotComparable,
            Statistics::NoReference,
            Statistics::NotRun,
            Statistics::Failed,
            Statistics::PluginFault,
            Statistics::Cancelled,
        ];
        let mut same = 0;
        for statistics in statistics {
            for reference_structure in [None, Some(statuses[0]), Some(statuses[1]), Some(statuses[2])] {
                for candidate_structure in statuses {
                    for hash_checks in checks {
                        for provenance_complete in [false, true] {
                            let both = agreements.iter().flat_map(|&t| agreements.map(|c| (t, c)));
                            for ((tokenizer, config), lineage) in
                                both.flat_map(|both| RELATIONS.map(|relation| (both, relation)))
                            {
                                let findings = Findings {
                                    statistics,
                                    reference_structure,
                                    candidate_structure,
                                    hash_checks,
                                    provenance_complete,
                                    tokenizer,
                                    config,
                                    lineage,
                                    fuzzy_match: Some(true),
                                };
                                if decide(&findings).decision == Same {
                                    same += 1;
                                    assert_eq!(statistics, Statistics::Decided(Decision::Same));
                                    assert!(provenance_complete);
                                    assert_ne!(candidate_structure, Status::Reject);
                                    assert!(!matches!(reference_structure, None | Some(Status::Reject)));
                                    assert!(!matches!(hash_checks, HashChecks::Failed | HashChecks::Fault));
                                    assert!(matches!(tokenizer, Agreement::Match | Agreement::AbsentInBoth));
                                }
                            }
                        }
                    }
                }
            }
        }
        // 2 reference and 2 candidate states, 2 check states, 2 tokenizer and 4 config states,
        // 7 relations.
        assert_eq!(same, 2 * 2 * 2 * 2 * 4 * 7);
    }
}
