//! How the candidate seems to have come about, in one word with its evidence.
//!
//! Advisory: it is made from a report whose verdict is reached without it, and nothing reads
//! it afterwards. Weights speak first, because behaviour cannot tell a slight fine-tune from
//! a rounding; behaviour decides only between labels that equal weights leave open. What
//! cannot be said is `unknown`, never the friendlier label.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::claim::number;
use super::report::{Lineage, Report};
use crate::domain::score::Decision;
use crate::model::lineage::Relation;

/// The labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Label {
    /// The same files of weights, byte for byte.
    Identical,
    /// Equal weights and no difference in behaviour beyond rounding.
    SameWithinNoise,
    /// The reference's weights, rounded, and nothing else.
    HonestQuantisation,
    /// Equal weights that behave differently: the configuration or the tokenizer was changed.
    OtherSettings,
    /// Weights of the reference that were changed.
    FineTuneOrMerge,
    /// Other weights in tensors of the same names and shapes.
    SameArchitecture,
    /// Nothing in common.
    Unrelated,
    /// The evidence does not suffice.
    Unknown,
}

impl Label {
    /// As people read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Identical => "identical",
            Self::SameWithinNoise => "same within noise",
            Self::HonestQuantisation => "honest quantisation",
            Self::OtherSettings => "same weights, other settings",
            Self::FineTuneOrMerge => "fine-tune or merge",
            Self::SameArchitecture => "same architecture, other weights",
            Self::Unrelated => "unrelated",
            Self::Unknown => "unknown",
        }
    }
}

/// A label with what speaks for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Relationship {
    pub label: Label,
    /// In words, the strongest first.
    pub evidence: Vec<String>,
}

/// The label of a finished comparison; `None` if there was nothing to compare with.
pub fn relationship(report: &Report) -> Option<Relationship> {
    report.model1.as_ref()?;
    let architectures = [&report.inspections.reference, &report.inspections.candidate]
        .map(|side| side.as_ref().and_then(|summary| summary.architecture.as_deref()));
    let mut evidence = Vec::new();
    let label = match &report.lineage {
        Some(lineage) => {
            evidence.extend(lineage.reasons.iter().cloned());
            of_weights(lineage, report, architectures)
        }
        None => {
            evidence.push("the weights were not compared".to_owned());
            Label::Unknown
        }
    };
    if let [Some(reference), Some(candidate)] = architectures {
        let compared = if reference == candidate { "both are" } else { "the reference is" };
        let other =
            if reference == candidate { String::new() } else { format!(", the candidate is {candidate}") };
        evidence.push(format!("architecture: {compared} {reference}{other}"));
    }
    evidence.push(behaviour(report));
    if let Some(bits) = report.load_bits {
        evidence
            .push(format!("the weights compared are the files'; those that answered were {}", bits.words()));
    }
    if report.security.tokenizer.compatible == Some(false) {
        evidence.push("the tokenizers differ".to_owned());
    }
    if report.security.config_hash.matches == Some(false) {
        evidence.push("the configurations differ".to_owned());
    }
    Some(Relationship { label, evidence })
}

fn of_weights(lineage: &Lineage, report: &Report, architectures: [Option<&str>; 2]) -> Label {
    // What quantising on load does to the behaviour says nothing of the settings.
    let behaves = report.enhanced_diff.decision == Some(Decision::Different) && report.load_bits.is_none();
    let different = behaves || report.security.tokenizer.compatible == Some(false);
    match lineage.relation {
        Relation::Identical => Label::Identical,
        Relation::SameWeights if different => Label::OtherSettings,
        Relation::SameWeights => Label::SameWithinNoise,
        Relation::Quantization => Label::HonestQuantisation,
        Relation::Derived => Label::FineTuneOrMerge,
        Relation::Unrelated => {
            let [reference, candidate] = architectures;
            let same = reference.is_some() && reference == candidate && lineage.tensors_unmatched == 0;
            if same { Label::SameArchitecture } else { Label::Unrelated }
        }
        // Without comparable weights only answers equal to the last bit speak for sameness.
        Relation::Unknown if bitwise_equal(report) => Label::SameWithinNoise,
        Relation::Unknown => Label::Unknown,
    }
}

/// Whether the statistics say SAME and every single score is exactly zero.
fn bitwise_equal(report: &Report) -> bool {
    report.enhanced_diff.decision == Some(Decision::Same)
        && report.records.iter().filter_map(|record| record.score).all(|score| score == 0.0)
}

fn behaviour(report: &Report) -> String {
    let diff = &report.enhanced_diff;
    match (diff.decision, diff.mean_diff) {
        (Some(decision), Some(mean)) => format!(
            "behaviour: {} after {} challenges, mean divergence {} of the clip",
            decision.as_str(),
            diff.n_effective,
            number(mean)
        ),
        _ => "behaviour was not compared".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assay::AssayRequest;
    use crate::assay::draft::Draft;
    use crate::domain::modes::MODES;
    use crate::engine::LoadBits;

    fn lineage(relation: Relation, tensors_unmatched: u64) -> Option<Lineage> {
        Some(Lineage {
            relation,
            reasons: Vec::new(),
            tensors_compared: 9,
            tensors_identical: 0,
            max_excess_error: None,
            worst_tensor: None,
            tensors_unmatched,
        })
    }

    #[test]
    fn weights_speak_first_and_behaviour_only_where_they_leave_it_open() {
        let [_, audit, _] = MODES;
        let request = AssayRequest::new("candidate.gguf", Some("reference.gguf".into()));
        let mut report = Draft::new(&request, &audit.params).report;
        assert_eq!(relationship(&report).unwrap().label, Label::Unknown, "weights that were not compared");
        let (same, different) = (Some(Decision::Same), Some(Decision::Different));
        for (relation, decision, label) in [
            (Relation::Identical, same, Label::Identical),
            (Relation::SameWeights, same, Label::SameWithinNoise),
            (Relation::SameWeights, different, Label::OtherSettings),
            (Relation::Quantization, different, Label::HonestQuantisation),
            (Relation::Derived, same, Label::FineTuneOrMerge),
            (Relation::Unrelated, same, Label::Unrelated),
            (Relation::Unknown, different, Label::Unknown),
        ] {
            report.lineage = lineage(relation, 3);
            report.enhanced_diff.decision = decision;
            assert_eq!(relationship(&report).unwrap().label, label, "{relation:?} {decision:?}");
        }
        // Behaviour after quantising on load is not the files'.
        report.load_bits = Some(LoadBits::Eight);
        report.lineage = lineage(Relation::SameWeights, 0);
        let found = relationship(&report).unwrap();
        assert_eq!(found.label, Label::SameWithinNoise);
        assert!(found.evidence.iter().any(|line| line.contains("8 bits")), "{found:?}");
        report.model1 = None;
        assert_eq!(relationship(&report), None);
    }
}
