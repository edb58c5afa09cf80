//! The transcript: what a verdict follows from, as a list of leaves in one canonical form.
//!
//! Leaf 0 holds everything that was fixed before the candidate was loaded, then comes one leaf
//! per calibration challenge, per challenge that was asked and per prompt of the user's, failed
//! ones too, and the last leaf holds the revealed key, what the prompts of the user's come to, the
//! statistics, what the truth table looked at, and the verdict. A leaf is canonical
//! JSON ([`super::canonical`]), so equal content is equal bytes. Deliberately absent: times,
//! paths and the machine, so that the same key gives the same transcript wherever it runs.

use serde_json::json;

use super::canonical::canonical_of;
use super::report::{InspectionSummary, Report, Role};
use crate::digest::merkle_root;
use crate::domain::{Problem, Sha256};

/// The leaves of a report's transcript, in order.
///
/// # Errors
/// Internal: a record has no canonical form.
pub fn leaves(report: &Report) -> Result<Vec<Vec<u8>>, Problem> {
    let mut leaves = vec![canonical_of(&header(report))?];
    for record in report.calibration.iter().chain(&report.records) {
        leaves.push(canonical_of(record)?);
    }
    for result in report.probes.iter().flat_map(|probes| &probes.results) {
        leaves.push(canonical_of(result)?);
    }
    leaves.push(canonical_of(&closing(report))?);
    Ok(leaves)
}

/// RFC 6962 root over [`leaves`].
///
/// # Errors
/// As [`leaves`].
pub fn transcript_root(report: &Report) -> Result<Sha256, Problem> {
    Ok(merkle_root(leaves(report)?))
}

/// What was fixed before the run.
fn header(report: &Report) -> serde_json::Value {
    let diff = &report.enhanced_diff;
    let files: Vec<_> = report
        .files
        .iter()
        .map(|file| json!({"role": file.role, "bytes": file.bytes, "sha256": file.sha256}))
        .collect();
    let challenges = report.challenges.as_ref().map(|challenges| {
        json!({
            "commitment": challenges.commitment,
            "distinct": challenges.distinct,
            "space_size": challenges.space_size,
            "template_version": challenges.template_version,
            "plan": challenges.plan,
        })
    });
    let side = |role: Role| {
        let (inspection, root, config) = match role {
            Role::Reference => (
                &report.inspections.reference,
                &report.provenance.reference_root,
                &report.security.config_hash.reference,
            ),
            Role::Candidate => (
                &report.inspections.candidate,
                &report.provenance.candidate_root,
                &report.security.config_hash.candidate,
            ),
        };
        json!({
            "root": root,
            "config_hash": config,
            "status": inspection.as_ref().map(|inspection| inspection.status),
            "tokenizer_hash": inspection.as_ref().and_then(|inspection| inspection.tokenizer_hash),
        })
    };
    let mut header = json!({
        "leaf": "header",
        "schema": report.schema,
        "assayd_version": report.assayd_version,
        "mode": report.mode,
        "confidence": diff.confidence,
        "gamma": diff.gamma,
        "delta": diff.delta,
        "n_max": diff.n_max,
        "clip_nats": diff.clip_nats,
        "scorer": diff.scorer,
        "scorer_params": diff.scorer_params,
        "band": report.band,
        "decider": diff.decider,
        "constants": report.constants,
        "constants_digest": report.constants_digest,
        "plugins": report.plugins,
        "engine": report.engine,
        "files": files,
        "challenges": challenges,
        "reference": side(Role::Reference),
        "candidate": side(Role::Candidate),
    });
    // Only where there is something to say, so that older transcripts keep their roots.
    if let (Some(bits), Some(fields)) = (report.load_bits, header.as_object_mut()) {
        fields.insert("load_bits".to_owned(), json!(bits));
    }
    if let (true, Some(fields)) = (report.inspections.formats_differ(), header.as_object_mut()) {
        let kind = |side: &Option<InspectionSummary>| side.as_ref().and_then(|inspection| inspection.kind);
        let kinds = [kind(&report.inspections.reference), kind(&report.inspections.candidate)];
        fields.insert("kinds".to_owned(), json!(kinds));
    }
    header
}

/// What became of it.
fn closing(report: &Report) -> serde_json::Value {
    let probes = report.probes.as_ref().map(|probes| {
        json!({
            "commitment": probes.commitment,
            "prompts": probes.prompts,
            "failed": probes.failed,
            "above_gamma": probes.above_gamma,
        })
    });
    json!({
        "leaf": "closing",
        "probes": probes,
        "key_revealed": report.challenges.as_ref().and_then(|challenges| challenges.key_revealed.as_ref()),
        "enhanced_diff": report.enhanced_diff,
        "grounds": report.grounds,
        "final_decision": report.final_decision,
        "because": report.because,
        "success": report.success,
    })
}
