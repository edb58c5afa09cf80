//! Which files of an artifact are loaded, and how; and whether they may be.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::claim;
use super::halt::Halt;
use super::pipeline::Assay;
use super::report::Role;
use crate::domain::Problem;
use crate::domain::inspection::Inspection;
use crate::domain::modes::{JUDGED_CONTEXT, JUDGED_PARALLEL};
use crate::engine::{LoadBits, LoadSpec, engine_for};
use crate::worker::Ending;

impl Assay<'_> {
    /// Decides whether and how models may be loaded, one after the other; gives the settings
    /// to load them with.
    pub(super) fn plan<const N: usize>(&mut self, asked: [LoadSpec; N]) -> Result<[LoadSpec; N], Halt> {
        let started = Instant::now();
        let plan = self.runner.plan(&asked, &self.stamps);
        self.draft.add_time("plan_seconds", started);
        let plan = plan.map_err(|end| {
            self.draft.worker_failed(Role::Candidate, &end);
            if self.context.cancel.load(Ordering::Relaxed) {
                return Halt::cancelled();
            }
            let hint = end.hint.as_deref().map(|hint| format!(" ({hint})")).unwrap_or_default();
            Halt::not_run(format!("{}{hint}", end.detail))
        })?;
        let Some(plan) = plan else { return Ok(asked) };
        self.draft.planned(&plan, self.request.guardrail);
        self.stop_if_cancelled()?;
        Ok(<[LoadSpec; N]>::try_from(plan.specs).unwrap_or(asked))
    }

    /// Whether the last worker ended for memory, before anything was judged: a second try after
    /// a look at scores would be a second chance to err.
    pub(super) fn ended_for_memory(&self) -> bool {
        let last = self.draft.report.workers.last();
        self.draft.report.records.is_empty()
            && last.is_some_and(|worker| matches!(worker.ending, Ending::OomKilled | Ending::LimitKilled))
    }

    /// The candidate's weights may be asked for narrower than they are stored; the reference is
    /// what it is compared with, as it is.
    pub(super) fn candidate_spec(
        &mut self,
        inspection: &Inspection,
        context: u32,
        threads: u32,
    ) -> Result<LoadSpec, Halt> {
        let load_bits = self.request.load_bits;
        let spec = self.load_spec(inspection, context, threads, load_bits)?;
        self.draft.report.load_bits = load_bits;
        let remark = |bits| {
            format!("{}; digests and lineage are of the files as they are stored", claim::quantised(bits))
        };
        self.draft.report.remarks.extend(load_bits.map(remark));
        Ok(spec)
    }

    pub(super) fn load_spec(
        &mut self,
        inspection: &Inspection,
        context: u32,
        threads: u32,
        load_bits: Option<LoadBits>,
    ) -> Result<LoadSpec, Halt> {
        let (engine, paths) = engine_for(inspection)?;
        let paths = absolute(&inspection.path, paths)?;
        let (adapter, paths) = paths.into_iter().partition(|path| self.adapter.contains(path));
        let mut spec = LoadSpec::judged(engine, paths, context, threads);
        spec.parallel = JUDGED_PARALLEL;
        // A daemon is told once for all models, also for those that no accelerator takes here.
        if engine.accelerates(load_bits) {
            (spec.gpu_layers, spec.cpu_experts) = (self.request.gpu_layers, self.request.cpu_experts);
        } else if self.request.gpu_layers != 0 {
            self.draft.report.remarks.push(format!(
                "{}: on the CPU, since there is no accelerator for such a model here",
                inspection.path.display()
            ));
        }
        (spec.adapter, spec.load_bits) = (adapter, load_bits);
        Ok(spec)
    }
}

/// A worker has a working folder of its own.
pub(super) fn absolute(of: &Path, paths: Vec<PathBuf>) -> Result<Vec<PathBuf>, Problem> {
    let paths: Result<Vec<_>, _> = paths.iter().map(std::path::absolute).collect();
    paths.map_err(|error| Problem::io("find", of, &error))
}

/// Tokens per sequence: what all models were trained for, at most what is judged with.
pub(super) fn context_of<'a>(models: impl Iterator<Item = &'a Inspection>) -> u32 {
    models.filter_map(|model| u32::try_from(model.context_length?).ok()).fold(JUDGED_CONTEXT, u32::min)
}
