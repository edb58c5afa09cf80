//! A report while it is being made: a place for every piece of evidence, and a reason for
//! every piece that is missing.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use super::canonical::constants_digest;
use super::decision::{Findings, Statistics, decide};
use super::relationship::relationship;
use super::report::{
    EnhancedDiff, InspectionSummary, Inspections, Memory, Provenance, Report, ReportFile, ReportWorker, Role,
    SCHEMA, Security,
};
use super::request::AssayRequest;
use super::transcript::transcript_root;
use crate::digest::merkle_root;
use crate::domain::inspection::Inspection;
use crate::domain::modes::{CLIP_NATS, constants};
use crate::domain::score::{DecisionParams, FinalDecision, complement};
use crate::domain::{Sha256, budget};
use crate::governor::admission::Guardrail;
use crate::worker::{Plan, WorkerEnd, WorkerSummary};

/// The report so far, and what the final decision will look at.
#[derive(Debug)]
pub struct Draft {
    pub report: Report,
    started: Instant,
    dropped_errors: usize,
}

impl Draft {
    /// An empty report about `request`.
    pub fn new(request: &AssayRequest, params: &DecisionParams) -> Self {
        let report = Report {
            schema: SCHEMA.to_owned(),
            assayd_version: env!("CARGO_PKG_VERSION").to_owned(),
            model1: request.reference.clone(),
            model2: request.candidate.clone(),
            adapter: request.adapter.clone(),
            load_bits: None,
            mode: request.mode.as_str().to_owned(),
            final_decision: FinalDecision::Error,
            grounds: None,
            because: String::new(),
            success: false,
            error: None,
            started_at: jiff::Timestamp::now().to_string(),
            finished_at: String::new(),
            seconds: 0.0,
            enhanced_diff: EnhancedDiff {
                decision: None,
                confidence: complement(params.alpha),
                effect_size: None,
                ci_lower: None,
                ci_upper: None,
                mean_diff: None,
                std_diff: None,
                mean_nats: None,
                n_effective: 0,
                n_failed: 0,
                n_max: params.n_max,
                gamma: params.gamma,
                delta: params.delta,
                clip_nats: CLIP_NATS,
                coverage: None,
                claim: "nothing is claimed: the models were not compared".to_owned(),
                p_same: None,
                p_different: None,
                smallest_delta_certified: None,
                scorer: request.scorer.clone(),
                scorer_params: String::new(),
                decider: request.decider.clone(),
                p_values_from: None,
                stopped_early: false,
                needed_n: None,
                rare_difference: None,
                outliers: Vec::new(),
            },
            security: Security::default(),
            lineage: None,
            relationship: None,
            band: None,
            calibration: Vec::new(),
            probes: None,
            measurement: None,
            provenance: Provenance::default(),
            files: Vec::new(),
            challenges: None,
            plugins: Vec::new(),
            constants: serde_json::to_value(constants()).unwrap_or_default(),
            constants_digest: constants_digest(),
            engine: None,
            memory: Memory { limit_bytes: request.max_memory_bytes, ..Memory::default() },
            peak_memory_gb: None,
            workers: Vec::new(),
            errors: Vec::new(),
            remarks: Vec::new(),
            timings: BTreeMap::new(),
            inspections: Inspections::default(),
            records: Vec::new(),
        };
        Self { report, started: Instant::now(), dropped_errors: 0 }
    }

    /// Adds a reason to `errors`.
    pub fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        if self.report.errors.contains(&text) {
            return;
        }
        if self.report.errors.len() < budget::REPORT_ERRORS {
            self.report.errors.push(text);
        } else {
            self.dropped_errors += 1;
        }
    }

    /// Adds the time since `from` to a stage; `name` ends in `_seconds`.
    pub fn add_time(&mut self, name: &str, from: Instant) {
        *self.report.timings.entry(name.to_owned()).or_default() += from.elapsed().as_secs_f64();
    }

    /// Takes down what an inspection says of one side.
    pub fn inspected(&mut self, role: Role, inspection: &Inspection) {
        self.report.files.extend(inspection.files.iter().map(|file| ReportFile {
            role,
            path: file.path.clone(),
            bytes: file.bytes,
            sha256: file.sha256,
        }));
        let summary = InspectionSummary {
            kind: Some(inspection.kind),
            status: inspection.status,
            architecture: inspection.architecture.clone(),
            parameters: inspection.parameters,
            quantization: inspection.quantization.clone(),
            tokenizer_hash: inspection.tokenizer_hash,
            findings: inspection.findings.clone(),
        };
        let (root, hash, slot) = match role {
            Role::Reference => (
                &mut self.report.provenance.reference_root,
                &mut self.report.security.config_hash.reference,
                &mut self.report.inspections.reference,
            ),
            Role::Candidate => (
                &mut self.report.provenance.candidate_root,
                &mut self.report.security.config_hash.candidate,
                &mut self.report.inspections.candidate,
            ),
        };
        (*root, *hash, *slot) = (artifact_root(inspection), inspection.config_hash, Some(summary));
    }

    /// Takes over what was used and what went wrong in a part of the work with a draft of its
    /// own; its numbers stay there.
    pub fn absorb(&mut self, part: Self, name: &str) {
        let Report { errors, workers, timings, memory, .. } = part.report;
        self.report.workers.extend(workers);
        self.report.memory.peak_bytes = self.report.memory.peak_bytes.max(memory.peak_bytes);
        for (stage, seconds) in timings {
            *self.report.timings.entry(stage).or_default() += seconds;
        }
        for error in errors {
            self.note(format!("{name}: {error}"));
        }
    }

    /// Takes down what was decided about memory before the first load.
    pub fn planned(&mut self, plan: &Plan, guardrail: Guardrail) {
        let demand = plan.demand();
        let memory = &mut self.report.memory;
        memory.limit_bytes = plan.limit_bytes;
        memory.predicted_bytes = Some(demand.held_bytes);
        memory.predicted_file_bytes = Some(demand.mapped_bytes);
        memory.available_bytes = Some(plan.budget.bytes);
        memory.limiting = Some(plan.budget.limiting.as_str().to_owned());
        memory.guardrail = Some(guardrail.as_str().to_owned());
        memory.enforcement = Some(plan.seen.enforcement.clone());
        memory.confinement = Some(plan.seen.confinement.names());
        memory.given_up.extend(plan.steps.iter().cloned());
        let missing = plan.seen.missing.iter().chain(&plan.seen.confinement.missing);
        self.report.remarks.extend(missing.map(|reason| format!("not in force: {reason}")));
        if let Some(reason) = &plan.forced {
            self.report.remarks.push(format!("loaded by force: {reason}"));
        }
        let given_up = plan.steps.iter().map(|step| format!("for lack of memory: {step}"));
        self.report.remarks.extend(given_up);
    }

    /// Takes down how a worker ended.
    pub fn worker_ended(&mut self, role: Role, summary: &WorkerSummary) {
        let memory = &mut self.report.memory;
        memory.peak_bytes = memory.peak_bytes.max(Some(summary.peak_rss_anon_bytes));
        memory.peak_file_bytes = memory.peak_file_bytes.max(Some(summary.peak_rss_file_bytes));
        let room = budget::ALERTS.saturating_sub(memory.alerts.len());
        memory.alerts.extend(summary.memory.alerts.list.iter().take(room).copied());
        let name = match role {
            Role::Reference => "reference_load_seconds",
            Role::Candidate => "candidate_load_seconds",
        };
        *self.report.timings.entry(name.to_owned()).or_default() += summary.load_seconds;
        let detail = format!("loaded in {:.3} s", summary.load_seconds);
        self.report.workers.push(ReportWorker { role, ending: summary.ending, detail });
    }

    /// Takes down a worker that gave no answer.
    pub fn worker_failed(&mut self, role: Role, end: &WorkerEnd) {
        self.report.workers.push(ReportWorker { role, ending: end.ending, detail: end.detail.clone() });
    }

    /// The finished report: the truth table has the last word, and whatever is null gets its reason.
    #[must_use]
    pub fn finish(mut self, findings: &Findings, error: Option<String>) -> Report {
        let last = decide(findings);
        self.report.final_decision = last.decision;
        self.report.because = last.because.to_owned();
        self.report.grounds = Some(*findings);
        self.report.success = last.decision != FinalDecision::Error;
        if !self.report.success {
            self.report.error = Some(error.unwrap_or_else(|| last.because.to_owned()));
        }
        self.report.remarks.extend(last.remarks.into_iter().map(str::to_owned));
        self.report.relationship = relationship(&self.report);
        match transcript_root(&self.report) {
            Ok(root) => self.report.provenance.transcript_root = Some(root),
            Err(problem) => self.note(format!("provenance.transcript_root: {problem}")),
        }
        self.report.peak_memory_gb = self.report.memory.peak_bytes.map(|bytes| bytes as f64 / 1e9);
        self.explain_nulls(findings.statistics);
        self.report.finished_at = jiff::Timestamp::now().to_string();
        self.report.seconds = self.started.elapsed().as_secs_f64();
        self.report.timings.insert("total_seconds".to_owned(), self.report.seconds);
        if self.dropped_errors > 0 {
            self.report.errors.push(format!("{} further entries are not listed", self.dropped_errors));
        }
        self.report
    }

    fn explain_nulls(&mut self, statistics: Statistics) {
        let report = &self.report;
        let compared = matches!(statistics, Statistics::Decided(_));
        let diff = &report.enhanced_diff;
        let mut reasons: Vec<String> = Vec::new();
        let mut explain = |missing: bool, reason: &str| {
            if missing {
                reasons.push(reason.to_owned());
            }
        };
        let noted = report.errors.iter().any(|error| error.starts_with("lineage: "));
        explain(report.lineage.is_none() && !noted, "lineage: the weights were not compared");
        explain(
            report.security.fuzzy_hash.distance.is_none(),
            "security.fuzzy_hash: there is no fuzzy digest of the weights of both",
        );
        explain(
            report.memory.predicted_bytes.is_none(),
            "memory.predicted_bytes: no estimate was made before loading",
        );
        explain(
            report.memory.limit_bytes.is_none(),
            "memory.limit_bytes: no limit was given, and none follows from an estimate",
        );
        explain(report.memory.enforcement.is_none(), "memory.enforcement: no worker was planned");
        explain(
            report.memory.peak_bytes.is_none(),
            "memory.peak_bytes, peak_memory_gb: no worker ended regularly",
        );
        explain(
            report.measurement.is_none() && report.model1.is_none(),
            "measurement: the candidate was not run",
        );
        explain(report.engine.is_none(), "engine: no model was loaded");
        explain(
            report.challenges.is_none(),
            "challenges: none were made, because the models were not compared",
        );
        explain(!compared, "enhanced_diff: the models were not compared to the end");
        explain(
            report.relationship.is_none(),
            "relationship: there is no reference to relate the candidate to",
        );
        if compared {
            explain(
                diff.ci_lower.is_none(),
                "enhanced_diff.ci_lower, ci_upper: no hedged decider is installed",
            );
            explain(
                diff.effect_size.is_none(),
                "enhanced_diff.effect_size: not defined, the scores have no spread",
            );
            explain(
                diff.p_same.is_none() || diff.p_different.is_none(),
                "enhanced_diff.p_same, p_different: neither the decider nor hedged gives e-values",
            );
            explain(
                diff.smallest_delta_certified.is_none(),
                "enhanced_diff.smallest_delta_certified: the scores certify none",
            );
            explain(diff.mean_nats.is_none(), "enhanced_diff.mean_nats: the scorer gives no value in nats");
        }
        for (hash, name) in [
            (&report.security.config_hash.reference, "reference"),
            (&report.security.config_hash.candidate, "candidate"),
        ] {
            explain(hash.is_none(), &format!("security.config_hash.{name}: not known"));
        }
        for reason in reasons {
            self.note(reason);
        }
    }
}

/// RFC 6962 root over the files of an artifact in their order: size and SHA-256 of each, and
/// no names, so that moving or renaming files changes nothing. `None` unless every file was
/// digested.
pub fn artifact_root(inspection: &Inspection) -> Option<Sha256> {
    files_root(inspection.files.iter().map(|file| (file.bytes, file.sha256)))
}

/// The same over sizes and digests.
pub fn files_root(files: impl Iterator<Item = (u64, Option<Sha256>)>) -> Option<Sha256> {
    let leaf = |(bytes, sha256): (u64, Option<Sha256>)| {
        let mut leaf = bytes.to_be_bytes().to_vec();
        leaf.extend(sha256?.0);
        Some(leaf)
    };
    let leaves: Option<Vec<Vec<u8>>> = files.map(leaf).collect();
    leaves.filter(|leaves| !leaves.is_empty()).map(merkle_root)
}

/// A file's name for messages.
pub fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
