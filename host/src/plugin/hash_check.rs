//! A hash check, called and checked: the plugin plans, the host digests, the plugin judges.

use std::sync::Arc;

use wasmtime::component::Resource;

use super::artifact::{HashTarget, Model};
use super::bindings::exports::assay::plugin::hash_check as wit;
use super::engine::{Exports, Usage};
use super::fault::{FaultClass, PluginFault, RefusalKind};
use super::scorer::{refused, wrong_kind};
use super::set::Ready;
use crate::domain::Problem;
use crate::domain::budget::{FINDINGS, HASH_CHECK_LIMITS, HASH_FINDING_BYTES, HASH_RANGES, HASH_REQUESTS};
use crate::domain::inspection::{Finding, Severity};

/// Bytes a plugin asks to have digested; file and ranges exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DigestRequest {
    /// Index into [`HashTarget::files`].
    pub file: usize,
    /// Such as `sha256`.
    pub algorithm: String,
    /// `(offset, bytes)`, digested in order as one stream; empty means the whole file.
    pub ranges: Vec<(u64, u64)>,
}

/// What a check amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Passed,
    Failed,
    /// There was nothing to check against. Never counts as passed.
    NotApplicable,
}

/// The judgement of one hash check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckOutcome {
    pub outcome: Outcome,
    pub findings: Vec<CheckFinding>,
}

/// A finding about a file of the target, or about all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckFinding {
    /// Index into [`HashTarget::files`]; `finding.part` is that file's name.
    pub file: Option<usize>,
    pub finding: Finding,
}

/// A hash check of a [`super::PluginSet`].
#[derive(Debug, Clone)]
pub struct HashCheck(pub(super) Arc<Ready>);

impl HashCheck {
    /// What the calls through this handle took: fuel in all, most memory, the last log.
    pub fn used(&self) -> Usage {
        self.0.used()
    }

    /// Checks a target. `digest` is called on this thread for each request, in order, and
    /// streams the file.
    ///
    /// # Errors
    /// Every way in which the plugin gave no sound answer, and what `digest` says.
    pub fn run(
        &self,
        target: &HashTarget,
        params: &str,
        digest: &mut dyn FnMut(&DigestRequest) -> Result<Vec<u8>, Problem>,
    ) -> Result<CheckOutcome, PluginFault> {
        let target = Arc::new(target.clone());
        let requests = self.plan(&target, params)?;
        let mut digests = Vec::with_capacity(requests.len());
        for request in &requests {
            let failed = |problem: Problem| self.0.fault("digest", FaultClass::HostCall(problem.to_string()));
            digests.push(digest(request).map_err(failed)?);
        }
        self.judge(&target, params, digests)
    }

    /// Asks about parameters alone, by a plan for an artifact without files.
    ///
    /// # Errors
    /// They are invalid, or the plugin fails. What else it says is about the missing files.
    pub fn check_params(&self, params: &str) -> Result<(), PluginFault> {
        match self.plan(&Arc::default(), params) {
            Err(fault) => match &fault.class {
                FaultClass::Refused { kind, .. } if *kind != RefusalKind::InvalidParams => Ok(()),
                _ => Err(fault),
            },
            Ok(_) => Ok(()),
        }
    }

    fn plan(&self, target: &Arc<HashTarget>, params: &str) -> Result<Vec<DigestRequest>, PluginFault> {
        let (target, params) = (Arc::clone(target), params.to_owned());
        let answer = self.0.call("plan", HASH_CHECK_LIMITS, move |store, instance, exports| {
            let Exports::HashCheck(indices) = exports else { return Ok(Err(wrong_kind())) };
            let guest = indices.load(&mut *store, instance)?;
            let model = store.data_mut().table.push(Model::new(Arc::clone(&target)))?;
            let borrowed = Resource::new_borrow(model.rep());
            Ok(match guest.call_plan(store, borrowed, &params)? {
                Ok(requests) => check_plan(&target, requests),
                Err(error) => Err(refused(error)),
            })
        });
        answer.map(|(requests, _)| requests)
    }

    fn judge(
        &self,
        target: &Arc<HashTarget>,
        params: &str,
        digests: Vec<Vec<u8>>,
    ) -> Result<CheckOutcome, PluginFault> {
        let (target, params) = (Arc::clone(target), params.to_owned());
        let answer = self.0.call("judge", HASH_CHECK_LIMITS, move |store, instance, exports| {
            let Exports::HashCheck(indices) = exports else { return Ok(Err(wrong_kind())) };
            let guest = indices.load(&mut *store, instance)?;
            let model = store.data_mut().table.push(Model::new(Arc::clone(&target)))?;
            let borrowed = Resource::new_borrow(model.rep());
            Ok(match guest.call_judge(store, borrowed, &digests, &params)? {
                Ok(check) => check_judgement(&target, check),
                Err(error) => Err(refused(error)),
            })
        });
        answer.map(|(outcome, _)| outcome)
    }
}

fn file_of(target: &HashTarget, file: u32) -> Result<usize, FaultClass> {
    let index = usize::try_from(file).ok().filter(|&file| file < target.files.len());
    index.ok_or_else(|| FaultClass::BadOutput(format!("there is no file {file}")))
}

fn check_plan(
    target: &HashTarget,
    requests: Vec<wit::DigestRequest>,
) -> Result<Vec<DigestRequest>, FaultClass> {
    if requests.len() > HASH_REQUESTS {
        let why = format!("{} digest requests, at most {HASH_REQUESTS}", requests.len());
        return Err(FaultClass::OutputTooLarge(why));
    }
    let check = |request: wit::DigestRequest| {
        let file = file_of(target, request.file)?;
        if request.ranges.len() > HASH_RANGES {
            let why = format!("{} ranges, at most {HASH_RANGES}", request.ranges.len());
            return Err(FaultClass::OutputTooLarge(why));
        }
        let bytes = target.files.get(file).map_or(0, |file| file.bytes);
        for range in &request.ranges {
            if range.offset.checked_add(range.bytes).is_none_or(|end| end > bytes) {
                let (offset, len) = (range.offset, range.bytes);
                return Err(FaultClass::BadOutput(format!("{len} bytes at {offset} of a file of {bytes}")));
            }
        }
        let ranges = request.ranges.iter().map(|range| (range.offset, range.bytes)).collect();
        Ok(DigestRequest { file, algorithm: request.algorithm, ranges })
    };
    requests.into_iter().map(check).collect()
}

fn check_judgement(target: &HashTarget, check: wit::Check) -> Result<CheckOutcome, FaultClass> {
    if check.findings.len() > FINDINGS {
        let why = format!("{} findings, at most {FINDINGS}", check.findings.len());
        return Err(FaultClass::OutputTooLarge(why));
    }
    let convert = |finding: wit::Finding| {
        let file = finding.file.map(|file| file_of(target, file)).transpose()?;
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !(1..=64).contains(&finding.code.len()) || !finding.code.bytes().all(plain) {
            return Err(FaultClass::BadOutput(format!("the finding code {:?}", finding.code)));
        }
        Ok(CheckFinding {
            file,
            finding: Finding {
                code: finding.code,
                severity: match finding.severity {
                    wit::Severity::Info => Severity::Info,
                    wit::Severity::Warning => Severity::Warning,
                    wit::Severity::Error => Severity::Error,
                },
                message: super::engine::cut(finding.message, HASH_FINDING_BYTES),
                part: file.and_then(|file| target.files.get(file)).map(|file| file.name.clone()),
                tensor: None,
                offset: None,
            },
        })
    };
    let findings: Vec<CheckFinding> = check.findings.into_iter().map(convert).collect::<Result<_, _>>()?;
    let outcome = match check.outcome {
        wit::Outcome::Passed => Outcome::Passed,
        wit::Outcome::Failed => Outcome::Failed,
        wit::Outcome::NotApplicable => Outcome::NotApplicable,
    };
    let worst = findings.iter().map(|finding| finding.finding.severity).max();
    if outcome == Outcome::Passed && worst == Some(Severity::Error) {
        return Err(FaultClass::BadOutput("it passed the files in spite of an error it found".into()));
    }
    Ok(CheckOutcome { outcome, findings })
}
