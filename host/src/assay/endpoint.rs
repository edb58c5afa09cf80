//! A candidate that is an endpoint and no files: what is left of the way of an assay.
//!
//! Nothing of it can be read, so its structure, weights, configuration and digests stay unknown,
//! each with a reason in the report. What is known is what it answers, and that it made the
//! reference's tokens of every prompt that it was asked.

use super::decision::{Agreement, HashChecks, Statistics};
use super::draft::artifact_root;
use super::halt::Halt;
use super::participants::participants;
use super::pipeline::{Assay, Inspect};
use super::report::Role;
use crate::domain::inspection::{Inspection, Status};
use crate::engine::remote::Endpoint;

/// What is judged.
#[derive(Debug, Clone, Copy)]
pub(super) enum Side<'a> {
    Files(&'a Inspection),
    Endpoint(&'a Endpoint),
}

impl<'a> Side<'a> {
    pub(super) fn files(self) -> Option<&'a Inspection> {
        match self {
            Self::Files(inspection) => Some(inspection),
            Self::Endpoint(_) => None,
        }
    }
}

impl Assay<'_> {
    /// The stages of a candidate that is an endpoint: nothing of it can be read, so what is
    /// known of it is what it answers.
    pub(super) fn endpoint_stages(
        &mut self,
        endpoint: Endpoint,
        inspected: Inspect<'_>,
    ) -> Result<Statistics, Halt> {
        let Some(path) = &self.request.reference else {
            return Err(Halt::not_run("an endpoint can only be compared, and there is no reference"));
        };
        let reference = self.inspect(Role::Reference, path, inspected)?;
        self.findings.reference_structure = Some(reference.status);
        let root = artifact_root(&reference);
        self.findings.provenance_complete = root.is_some();
        if reference.tokenizer_hash.is_some() {
            self.findings.tokenizer = Agreement::Observed;
        }
        self.draft.note("provenance.candidate_root: an endpoint shows no files; `engine` says who answered");
        self.draft
            .note("security.tokenizer.compatible: an endpoint shows no tokenizer; its tokens were compared");
        self.draft.note("lineage: an endpoint shows no weights");
        self.draft.report.plugins = participants(&self.context.plugins, self.request);
        self.findings.hash_checks = self.hash_checks(None, &reference);
        if reference.status == Status::Reject {
            return Err(Halt::rejected(None, &reference));
        }
        if matches!(self.findings.hash_checks, HashChecks::Failed | HashChecks::Fault) {
            return Ok(Statistics::NotComparable);
        }
        let root = root.ok_or_else(|| Halt::not_run("a file could not be digested"))?;
        self.compare(&reference, root, Side::Endpoint(&endpoint))
    }
}
