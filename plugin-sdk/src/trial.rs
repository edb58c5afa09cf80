//! What two models did on one challenge, read from the host piece by piece or, in
//! native tests, from plain vectors.

use crate::bindings::scorer::assay::plugin::evidence::{self as host, Side};
use crate::{Refusal, Result};

/// Buckets and kept logits are f32, so a coarse row may miss one by this much.
const MASS_TOLERANCE: f64 = 1e-4;
/// Rows of one read of logits.
const READ: u32 = 262_144;

/// One challenge, answered by the reference and the candidate.
#[derive(Debug)]
pub struct Trial<'a> {
    /// The challenge's name.
    pub challenge: String,
    /// What the reference did.
    pub reference: Trace<'a>,
    /// What the candidate did.
    pub candidate: Trace<'a>,
}

/// Teacher-forced scoring of one token sequence by one model.
///
/// Row `i` is the model's prediction of `tokens[scored_from + i]` from all tokens before
/// it. All logarithms are natural; `ln p = logit - log_sum_exp[row]`.
#[derive(Debug)]
pub struct Trace<'a>(Source<'a>);

#[derive(Debug)]
enum Source<'a> {
    Host { trial: &'a host::Trial, side: Side },
    Plain(Box<PlainTrace>),
}

/// The same as plain data, for native tests.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PlainTrace {
    /// The whole sequence, prompt and continuation.
    pub tokens: Vec<u32>,
    /// Index in `tokens` of the first predicted token.
    pub scored_from: u32,
    /// Size of the vocabulary.
    pub vocab: u32,
    /// ln p of the actual next token, per row.
    pub token_logprobs: Vec<f64>,
    /// ln of the sum of exp(logit) over the vocabulary, per row.
    pub log_sum_exp: Vec<f64>,
    /// Entropy in nats, per row.
    pub entropy: Vec<f64>,
    /// Most likely token, lowest id on ties, per row.
    pub argmax: Vec<u32>,
    /// The distribution of every row.
    pub rows: Vec<Row>,
}

/// How much of each row's distribution there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distribution {
    /// Only the summaries per row.
    Summary,
    /// A logit for every token.
    Full,
    /// Some tokens one by one and the rest in buckets.
    Coarse,
}

/// The distribution of one row.
#[derive(Debug, Clone, PartialEq)]
pub enum Row {
    /// Nothing but the summaries.
    Summary,
    /// A logit for every token.
    Full(Vec<f32>),
    /// Some tokens one by one and the rest in buckets.
    Coarse {
        /// The kept tokens.
        ids: Vec<u32>,
        /// Their logits.
        logits: Vec<f32>,
        /// Per bucket, ln of the sum of exp(logit) of the others in it.
        buckets: Vec<f32>,
    },
}

/// One row of both models over the same cells: the tokens, or kept tokens and buckets.
/// Both sides sum to one. A cell of probability zero is minus infinity.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Cells {
    /// ln p of each cell under the reference.
    pub reference: Vec<f64>,
    /// ln p of each cell under the candidate.
    pub candidate: Vec<f64>,
}

impl<'a> Trial<'a> {
    pub(crate) fn from_host(trial: &'a host::Trial) -> Self {
        let trace = |side| Trace(Source::Host { trial, side });
        Self {
            challenge: trial.challenge(),
            reference: trace(Side::Reference),
            candidate: trace(Side::Candidate),
        }
    }
}

impl Trial<'static> {
    /// From plain data, for native tests.
    pub fn plain(challenge: &str, reference: PlainTrace, candidate: PlainTrace) -> Self {
        let trace = |plain| Trace(Source::Plain(Box::new(plain)));
        Self { challenge: challenge.into(), reference: trace(reference), candidate: trace(candidate) }
    }
}

impl Trial<'_> {
    /// The number of rows, after checking that both models predicted the same tokens of
    /// the same sequence over the same vocabulary, in at least one row.
    ///
    /// # Errors
    /// [`Refusal::InvalidEvidence`] names what does not fit.
    pub fn aligned_rows(&self) -> Result<u32> {
        let (reference, candidate) = (&self.reference, &self.candidate);
        let mismatch = |what: &str, r: &dyn std::fmt::Display, c: &dyn std::fmt::Display| {
            Err(Refusal::InvalidEvidence(format!(
                "{what} differ: {r} in the reference, {c} in the candidate"
            )))
        };
        if reference.vocab() != candidate.vocab() {
            return mismatch("vocabulary sizes", &reference.vocab(), &candidate.vocab());
        }
        if reference.scored_from() != candidate.scored_from() {
            return mismatch("first scored positions", &reference.scored_from(), &candidate.scored_from());
        }
        if reference.rows() != candidate.rows() {
            return mismatch("numbers of scored positions", &reference.rows(), &candidate.rows());
        }
        if reference.tokens() != candidate.tokens() {
            return Err(Refusal::InvalidEvidence("the two models did not read the same tokens".into()));
        }
        match reference.rows() {
            0 => Err(Refusal::InvalidEvidence("there are no scored positions".into())),
            rows => Ok(rows),
        }
    }

    /// How much of the distributions both models have; rows must be aligned.
    ///
    /// # Errors
    /// [`Refusal::InvalidEvidence`] if they differ.
    pub fn distribution(&self) -> Result<Distribution> {
        let (reference, candidate) = (self.reference.distribution(), self.candidate.distribution());
        if reference == candidate {
            Ok(reference)
        } else {
            Err(Refusal::InvalidEvidence(format!(
                "captured distributions differ: {reference:?} in the reference, {candidate:?} in the candidate"
            )))
        }
    }

    /// Both distributions of one row over the same cells; `log_sum_exp` is that row's
    /// entry of [`Trace::log_sum_exp`] for each side.
    ///
    /// # Errors
    /// [`Refusal::Unsupported`] for summaries; [`Refusal::InvalidEvidence`] if the kept tokens
    /// differ, a logit is NaN or infinite upwards, or the probabilities do not sum to one.
    pub fn cells(&self, row: u32, log_sum_exp: (f64, f64)) -> Result<Cells> {
        let (reference, candidate) = (self.reference.row(row)?, self.candidate.row(row)?);
        match (&reference, &candidate) {
            (Row::Coarse { ids, .. }, Row::Coarse { ids: other, .. }) if ids != other => {
                return Err(Refusal::InvalidEvidence(format!("the kept tokens of row {row} differ")));
            }
            (Row::Summary, _) | (_, Row::Summary) => {
                return Err(Refusal::Unsupported("the distributions were not captured".into()));
            }
            _ => {}
        }
        let cells = Cells {
            reference: log_probabilities(&reference, log_sum_exp.0, "reference", row)?,
            candidate: log_probabilities(&candidate, log_sum_exp.1, "candidate", row)?,
        };
        if cells.reference.len() != cells.candidate.len() {
            return Err(Refusal::InvalidEvidence(format!("row {row} has differently many cells")));
        }
        Ok(cells)
    }
}

fn log_probabilities(row: &Row, log_sum_exp: f64, side: &str, at: u32) -> Result<Vec<f64>> {
    let logits: Vec<f32> = match row {
        Row::Summary => Vec::new(),
        Row::Full(logits) => logits.clone(),
        Row::Coarse { logits, buckets, .. } => logits.iter().chain(buckets).copied().collect(),
    };
    let mut out: Vec<f64> = logits.iter().map(|&logit| f64::from(logit) - log_sum_exp).collect();
    // exp of NaN or of plus infinity spoils the sum, so one comparison finds every bad value.
    let mass: f64 = out.iter().map(|ln_p| ln_p.exp()).sum();
    let off = (mass - 1.0).abs();
    if off.is_nan() || off > MASS_TOLERANCE {
        return Err(Refusal::InvalidEvidence(format!(
            "the probabilities of the {side} in row {at} sum to {mass}, not to 1"
        )));
    }
    // Buckets are rounded to f32; without this a divergence could come out below zero.
    let rest = mass.ln();
    for ln_p in &mut out {
        *ln_p -= rest;
    }
    Ok(out)
}

impl Trace<'_> {
    /// The whole sequence, prompt and continuation.
    pub fn tokens(&self) -> Vec<u32> {
        match &self.0 {
            Source::Host { trial, side } => trial.tokens(*side),
            Source::Plain(plain) => plain.tokens.clone(),
        }
    }

    /// Index in `tokens` of the first predicted token.
    pub fn scored_from(&self) -> u32 {
        match &self.0 {
            Source::Host { trial, side } => trial.scored_from(*side),
            Source::Plain(plain) => plain.scored_from,
        }
    }

    /// Size of the vocabulary.
    pub fn vocab(&self) -> u32 {
        match &self.0 {
            Source::Host { trial, side } => trial.vocab(*side),
            Source::Plain(plain) => plain.vocab,
        }
    }

    /// Number of scored positions.
    pub fn rows(&self) -> u32 {
        match &self.0 {
            Source::Host { trial, side } => trial.rows(*side),
            Source::Plain(plain) => u32::try_from(plain.token_logprobs.len()).unwrap_or(u32::MAX),
        }
    }

    /// ln p of the actual next token, per row.
    pub fn token_logprobs(&self) -> Vec<f64> {
        match &self.0 {
            Source::Host { trial, side } => trial.token_logprobs(*side),
            Source::Plain(plain) => plain.token_logprobs.clone(),
        }
    }

    /// ln of the sum of exp(logit) over the vocabulary, per row.
    pub fn log_sum_exp(&self) -> Vec<f64> {
        match &self.0 {
            Source::Host { trial, side } => trial.log_sum_exp(*side),
            Source::Plain(plain) => plain.log_sum_exp.clone(),
        }
    }

    /// Entropy in nats, per row.
    pub fn entropy(&self) -> Vec<f64> {
        match &self.0 {
            Source::Host { trial, side } => trial.entropy(*side),
            Source::Plain(plain) => plain.entropy.clone(),
        }
    }

    /// Most likely token, lowest id on ties, per row.
    pub fn argmax(&self) -> Vec<u32> {
        match &self.0 {
            Source::Host { trial, side } => trial.argmax(*side),
            Source::Plain(plain) => plain.argmax.clone(),
        }
    }

    /// The same, checked: one token of the vocabulary per row.
    ///
    /// # Errors
    /// [`Refusal::InvalidEvidence`] otherwise.
    pub fn top_tokens(&self) -> Result<Vec<u32>> {
        let (argmax, rows, vocab) = (self.argmax(), self.rows(), self.vocab());
        if usize::try_from(rows).ok() != Some(argmax.len()) {
            return Err(Refusal::InvalidEvidence("there is not one most likely token per row".into()));
        }
        match argmax.iter().find(|token| **token >= vocab) {
            Some(token) => Err(Refusal::InvalidEvidence(format!(
                "the most likely token {token} is none of the {vocab} of the vocabulary"
            ))),
            None => Ok(argmax),
        }
    }

    /// How much of each row's distribution there is.
    pub fn distribution(&self) -> Distribution {
        match &self.0 {
            Source::Host { trial, side } => match trial.coverage(*side) {
                host::Coverage::Summary => Distribution::Summary,
                host::Coverage::Full => Distribution::Full,
                host::Coverage::Coarse => Distribution::Coarse,
            },
            Source::Plain(plain) => match plain.rows.first() {
                Some(Row::Full(_)) => Distribution::Full,
                Some(Row::Coarse { .. }) => Distribution::Coarse,
                Some(Row::Summary) | None => Distribution::Summary,
            },
        }
    }

    /// The distribution of one row.
    ///
    /// # Errors
    /// [`Refusal::InvalidEvidence`] if there is no such row.
    pub fn row(&self, row: u32) -> Result<Row> {
        let (trial, side) = match &self.0 {
            Source::Host { trial, side } => (trial, *side),
            Source::Plain(plain) => {
                let found = usize::try_from(row).ok().and_then(|row| plain.rows.get(row));
                return found.cloned().ok_or_else(|| {
                    Refusal::InvalidEvidence(format!("there is no distribution of row {row}"))
                });
            }
        };
        let refused = |error: host::RangeError| Refusal::InvalidEvidence(format!("row {row}: {error:?}"));
        match trial.coverage(side) {
            host::Coverage::Summary => Ok(Row::Summary),
            host::Coverage::Full => {
                let vocab = trial.vocab(side);
                let mut logits = trial.logits(side, row, 0, vocab.min(READ)).map_err(refused)?;
                for offset in (READ..vocab).step_by(READ as usize) {
                    let more =
                        trial.logits(side, row, offset, (vocab - offset).min(READ)).map_err(refused)?;
                    logits.extend(more);
                }
                Ok(Row::Full(logits))
            }
            host::Coverage::Coarse => Ok(Row::Coarse {
                ids: trial.kept_ids(side, row).map_err(refused)?,
                logits: trial.kept_logits(side, row).map_err(refused)?,
                buckets: trial.bucket_logits(side, row).map_err(refused)?,
            }),
        }
    }
}
