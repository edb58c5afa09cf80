//! Why an assay stopped before its end, as the truth table and a person read it.

use super::decision::Statistics;
use super::draft::name_of;
use crate::domain::inspection::{Inspection, Severity, Status};
use crate::domain::modes::SCORED_POSITIONS;
use crate::domain::{Problem, ProblemKind};
use crate::plugin::PluginFault;

/// Why a comparison ended without a decision.
#[derive(Debug)]
pub struct Halt {
    pub statistics: Statistics,
    pub error: String,
}

impl Halt {
    pub fn not_run(error: impl Into<String>) -> Self {
        Self { statistics: Statistics::NotRun, error: error.into() }
    }

    pub fn failed(error: impl Into<String>) -> Self {
        Self { statistics: Statistics::Failed, error: error.into() }
    }

    pub fn cancelled() -> Self {
        Self { statistics: Statistics::Cancelled, error: "cancelled".to_owned() }
    }

    pub fn no_room(context: u32) -> Self {
        Self::not_run(format!(
            "a context of {context} tokens has no room for {SCORED_POSITIONS} scored positions"
        ))
    }

    /// Of two inspections, at least one of which rejects.
    pub fn rejected(reference: Option<&Inspection>, candidate: &Inspection) -> Self {
        let say = |inspection: &Inspection, role: &str| {
            let findings: Vec<&str> = inspection
                .findings
                .iter()
                .filter(|finding| finding.severity == Severity::Error)
                .map(|finding| finding.message.as_str())
                .take(3)
                .collect();
            format!("the {role} {} was rejected: {}", name_of(&inspection.path), findings.join("; "))
        };
        Self::not_run(match reference.filter(|inspection| inspection.status == Status::Reject) {
            Some(reference) if candidate.status == Status::Reject => {
                format!("{}; {}", say(candidate, "candidate"), say(reference, "reference"))
            }
            Some(reference) => say(reference, "reference"),
            None => say(candidate, "candidate"),
        })
    }
}

impl From<PluginFault> for Halt {
    fn from(fault: PluginFault) -> Self {
        Self { statistics: Statistics::PluginFault, error: fault.to_string() }
    }
}

impl From<Problem> for Halt {
    fn from(problem: Problem) -> Self {
        let statistics = match problem.kind {
            ProblemKind::Plugin => Statistics::PluginFault,
            _ => Statistics::NotRun,
        };
        let hint = problem.hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
        Self { statistics, error: format!("{}{hint}", problem.message) }
    }
}
