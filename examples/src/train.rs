//! Training: AdamW over windows that begin at the beginning of a document, so that
//! position 0 is always BOS, as it is when the model is used.
//!
//! Reproducible on one kind of processor: chance comes from the seed alone and every
//! sum has a fixed order. Another instruction set rounds matrix products differently,
//! and after some hundred steps the weights differ: same loss, other bytes.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use candle_nn::{AdamW, Optimizer, ParamsAdamW, loss};

use crate::{
    net::Net,
    rng::Rng,
    tokenizer::{BOS, EOS, Tokenizer},
};

/// How long, on how much, how fast.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    pub(crate) steps: usize,
    /// Windows in a step.
    pub(crate) batch: usize,
    /// Tokens predicted in a window.
    pub(crate) window: usize,
    /// The highest learning rate; reached after a short climb, left on a cosine.
    pub(crate) rate: f64,
    pub(crate) seed: u64,
}

/// Documents as one row of tokens, and where each begins.
#[derive(Debug)]
pub(crate) struct Corpus {
    tokens: Vec<u32>,
    starts: Vec<usize>,
}

impl Corpus {
    pub(crate) fn new(tokenizer: &Tokenizer, documents: &[String]) -> Self {
        let mut tokens = Vec::new();
        let mut starts = Vec::new();
        for document in documents {
            starts.push(tokens.len());
            tokens.push(BOS);
            tokens.extend(tokenizer.encode(document));
            tokens.push(EOS);
        }
        Self { tokens, starts }
    }

    pub(crate) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Entropy of the single tokens, in nats: the loss of a model that knows only how
    /// frequent each token is.
    pub(crate) fn unigram_entropy(&self) -> f64 {
        let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
        for &token in &self.tokens {
            *counts.entry(token).or_default() += 1;
        }
        let total = self.tokens.len() as f64;
        counts.values().map(|&n| n as f64 / total).map(|p| -p * p.ln()).sum()
    }

    /// `batch` windows: inputs and the tokens that follow them, each (batch, window).
    fn batch(&self, rng: &mut Rng, batch: usize, window: usize) -> Result<(Tensor, Tensor)> {
        let usable = self.starts.partition_point(|&s| s + window < self.tokens.len());
        let mut inputs: Vec<u32> = Vec::with_capacity(batch * window);
        let mut targets: Vec<u32> = Vec::with_capacity(batch * window);
        for _ in 0..batch {
            let start = *self.starts.get(rng.below(usable)).context("too little text for a window")?;
            let row = self.tokens.get(start..=start + window).context("a window past the end")?;
            inputs.extend(row.iter().take(window));
            targets.extend(row.iter().skip(1));
        }
        let shape = (batch, window);
        Ok((
            Tensor::from_vec(inputs, shape, &Device::Cpu)?,
            Tensor::from_vec(targets, shape, &Device::Cpu)?.flatten_all()?,
        ))
    }
}

/// Trains `net` in place; tells `progress` the step and the mean loss since the last call.
pub(crate) fn train(
    net: &Net,
    corpus: &Corpus,
    schedule: Schedule,
    mut progress: impl FnMut(usize, f64),
) -> Result<()> {
    let params = ParamsAdamW { lr: schedule.rate, beta2: 0.98, weight_decay: 0.02, ..Default::default() };
    let mut optimizer = AdamW::new(net.vars(), params)?;
    let mut rng = Rng::new(schedule.seed);
    let mut sum = 0.0;
    let every = (schedule.steps / 20).max(1);
    for step in 0..schedule.steps {
        let done = step as f64 / schedule.steps as f64;
        let climb = ((step + 1) as f64 / 30.0).min(1.0);
        let cosine = 0.05 + 0.475 * (1.0 + (std::f64::consts::PI * done).cos());
        optimizer.set_learning_rate(schedule.rate * climb * cosine);
        let (inputs, targets) = corpus.batch(&mut rng, schedule.batch, schedule.window)?;
        let loss = loss::cross_entropy(&net.forward(&inputs)?, &targets)?;
        optimizer.backward_step(&loss)?;
        sum += f64::from(loss.to_scalar::<f32>()?);
        if (step + 1) % every == 0 {
            progress(step + 1, sum / every as f64);
            sum = 0.0;
        }
    }
    Ok(())
}

/// Mean loss in nats over `windows` windows of `corpus`.
pub(crate) fn evaluate(net: &Net, corpus: &Corpus, windows: usize, window: usize) -> Result<f64> {
    let mut rng = Rng::new(99);
    let mut sum = 0.0;
    for _ in 0..windows {
        let (inputs, targets) = corpus.batch(&mut rng, 1, window)?;
        sum += f64::from(loss::cross_entropy(&net.forward(&inputs)?, &targets)?.to_scalar::<f32>()?);
    }
    Ok(sum / windows as f64)
}
