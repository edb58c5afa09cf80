//! The decider's side of the loop: scores in, looks out, stop at the first verdict.
//!
//! The statistics are those of the scores up to the stopping time; what a round produced
//! beyond it is recorded and not counted. Beside the chosen decider runs the hedged
//! confidence sequence, which every report shows whatever decides.

use crate::domain::Problem;
use crate::domain::modes::DEFAULT_DECIDER;
use crate::domain::score::{Decision, DecisionParams, Step};
use crate::plugin::{Decider, PluginFault, PluginKind, PluginSet};

/// Id of the decider whose interval every report shows.
pub const INTERVAL_DECIDER: &str = "hedged";

/// A decider with its state, fed score by score.
#[derive(Debug)]
pub struct Fold {
    decider: Decider,
    state: Vec<u8>,
    /// One step per score.
    pub steps: Vec<Step>,
}

impl Fold {
    /// # Errors
    /// The plugin failed.
    pub fn start(decider: Decider, params: &DecisionParams) -> Result<Self, PluginFault> {
        let state = decider.start(params)?;
        Ok(Self { decider, state, steps: Vec::new() })
    }

    /// Takes more scores and gives their steps.
    ///
    /// # Errors
    /// The plugin failed.
    pub fn push(&mut self, scores: &[f64]) -> Result<&[Step], PluginFault> {
        let before = self.steps.len();
        let (state, steps) = self.decider.step(&self.state, scores)?;
        self.state = state;
        self.steps.extend(steps);
        Ok(self.steps.get(before..).unwrap_or_default())
    }
}

/// Everything a decider said about a list of scores.
///
/// # Errors
/// The plugin failed.
pub fn replay(decider: &Decider, params: &DecisionParams, scores: &[f64]) -> Result<Vec<Step>, PluginFault> {
    let mut fold = Fold::start(decider.clone(), params)?;
    fold.push(scores)?;
    Ok(fold.steps)
}

/// First step with a verdict within `n_max` scores.
pub fn stopping_step(steps: &[Step], n_max: u64) -> Option<&Step> {
    steps.iter().take_while(|step| step.n <= n_max).find(|step| step.decision != Decision::Undecided)
}

/// The sequential judgement of one assay.
#[derive(Debug)]
pub struct Judge {
    params: DecisionParams,
    decider: Decider,
    fold: Fold,
    interval: Option<Fold>,
    scores: Vec<f64>,
    /// Score at which a verdict was reached, counted from 1.
    stopped_at: Option<usize>,
    /// Goes on to the last score, whatever the decider says.
    to_the_end: bool,
}

impl Judge {
    /// # Errors
    /// The decider is not there or failed to start.
    pub fn start(plugins: &PluginSet, id: &str, params: DecisionParams) -> Result<Self, Problem> {
        let decider = plugins.decider(id)?;
        let has_interval =
            plugins.list().iter().any(|r| r.kind == PluginKind::Decider && r.id == INTERVAL_DECIDER);
        let interval =
            if has_interval { Some(Fold::start(plugins.decider(INTERVAL_DECIDER)?, &params)?) } else { None };
        Ok(Self {
            params,
            fold: Fold::start(decider.clone(), &params)?,
            decider,
            interval,
            scores: Vec::new(),
            stopped_at: None,
            to_the_end: false,
        })
    }

    /// One that only takes down and never stops: for sets that no verdict is reached on.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn watching(plugins: &PluginSet, params: DecisionParams) -> Result<Self, Problem> {
        Ok(Self { to_the_end: true, ..Self::start(plugins, DEFAULT_DECIDER, params)? })
    }

    /// Takes the scores of a round; gives one step per score, with the interval of the
    /// hedged confidence sequence where the decider has none of its own.
    ///
    /// # Errors
    /// A plugin failed.
    pub fn push(&mut self, scores: &[f64]) -> Result<Vec<Step>, PluginFault> {
        let before = self.scores.len();
        self.scores.extend(scores);
        let mut steps = self.fold.push(scores)?.to_vec();
        if let Some(interval) = &mut self.interval {
            for (step, with_bounds) in steps.iter_mut().zip(interval.push(scores)?) {
                step.lower = step.lower.or(with_bounds.lower);
                step.upper = step.upper.or(with_bounds.upper);
            }
        }
        if self.stopped_at.is_none() && !self.to_the_end {
            let decided = steps.iter().position(|step| step.decision != Decision::Undecided);
            self.stopped_at = decided.map(|at| before + at + 1);
        }
        Ok(steps)
    }

    /// Whether it only takes down: see [`Self::watching`].
    pub fn runs_to_the_end(&self) -> bool {
        self.to_the_end
    }

    /// Whether a verdict was reached or n_max scores were seen.
    pub fn is_done(&self) -> bool {
        self.stopped_at.is_some() || self.scores.len() as u64 >= self.params.n_max
    }

    pub fn decision(&self) -> Decision {
        self.steps().last().map_or(Decision::Undecided, |step| step.decision)
    }

    /// Scores that count: those up to the stopping time.
    pub fn scores(&self) -> &[f64] {
        self.scores.get(..self.counted()).unwrap_or_default()
    }

    /// The decider's steps that count.
    pub fn steps(&self) -> &[Step] {
        self.fold.steps.get(..self.counted()).unwrap_or_default()
    }

    /// The steps that count of the hedged confidence sequence beside the decider.
    pub fn interval_steps(&self) -> &[Step] {
        let steps = self.interval.as_ref().map(|fold| fold.steps.as_slice()).unwrap_or_default();
        steps.get(..self.counted()).unwrap_or_default()
    }

    /// Bounds of the hedged confidence sequence after the last score that counts.
    pub fn interval(&self) -> Option<(f64, f64)> {
        let step = self.interval_steps().last()?;
        step.lower.zip(step.upper)
    }

    pub fn counted(&self) -> usize {
        self.stopped_at.unwrap_or(self.scores.len())
    }

    pub fn stopped_early(&self) -> bool {
        self.stopped_at.is_some_and(|n| (n as u64) < self.params.n_max)
    }

    pub fn params(&self) -> &DecisionParams {
        &self.params
    }

    pub fn decider(&self) -> &Decider {
        &self.decider
    }
}
