//! A llama-architecture network in candle: RMS norm, rotary positions, grouped-query
//! attention, SwiGLU. Weights carry the names and shapes they have in a GGUF file.
//!
//! Rotary positions turn neighbouring pairs (2i, 2i+1), which is llama.cpp's
//! convention for this architecture, so that Q and K need no permutation on export.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use candle_core::{D, DType, Device, Tensor, Var};

use crate::rng::Rng;

/// The shape of a network.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Config {
    pub(crate) vocab: usize,
    pub(crate) width: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) ffn: usize,
    /// Longest sequence the model says it can take.
    pub(crate) context: usize,
    pub(crate) rope_base: f64,
    pub(crate) eps: f64,
}

impl Config {
    pub(crate) fn head_dim(&self) -> usize {
        self.width / self.heads
    }

    /// Every weight: name as in GGUF, shape as rows and columns (columns are contiguous,
    /// GGUF lists them the other way round).
    pub(crate) fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let kv = self.kv_heads * self.head_dim();
        let (width, ffn) = (self.width, self.ffn);
        let mut out = vec![("token_embd.weight".to_owned(), vec![self.vocab, width])];
        for layer in 0..self.layers {
            for (name, shape) in [
                ("attn_norm", vec![width]),
                ("attn_q", vec![width, width]),
                ("attn_k", vec![kv, width]),
                ("attn_v", vec![kv, width]),
                ("attn_output", vec![width, width]),
                ("ffn_norm", vec![width]),
                ("ffn_gate", vec![ffn, width]),
                ("ffn_up", vec![ffn, width]),
                ("ffn_down", vec![width, ffn]),
            ] {
                out.push((format!("blk.{layer}.{name}.weight"), shape));
            }
        }
        out.push(("output_norm.weight".to_owned(), vec![width]));
        out.push(("output.weight".to_owned(), vec![self.vocab, width]));
        out
    }

    pub(crate) fn parameters(&self) -> usize {
        self.shapes().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }
}

/// Weights by GGUF name: shape (rows, columns) and values, row-major.
pub(crate) type Weights = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// A network with its weights, in f32 on the CPU.
#[derive(Debug)]
pub(crate) struct Net {
    pub(crate) config: Config,
    vars: BTreeMap<String, Var>,
    /// (context, 1, head_dim): cosines and sines of the rotary angles.
    cos: Tensor,
    sin: Tensor,
    /// (head_dim, head_dim): x -> (-x1, x0, -x3, x2, ...).
    turn: Tensor,
}

impl Net {
    /// Fresh weights: norms 1, matrices normal with a deviation by their role.
    pub(crate) fn random(config: Config, rng: &mut Rng) -> Result<Self> {
        let mut weights = BTreeMap::new();
        for (name, shape) in config.shapes() {
            let count = shape.iter().product();
            let values: Vec<f32> = if name.contains("norm") {
                vec![1.0; count]
            } else {
                // Layers that write into the residual stream start smaller, by their number.
                let writes = name.contains("attn_output") || name.contains("ffn_down");
                let scale = if writes { 0.06 / (2.0 * config.layers as f64).sqrt() } else { 0.06 };
                (0..count).map(|_| (rng.normal() * scale) as f32).collect()
            };
            weights.insert(name, (shape, values));
        }
        Self::from_weights(config, weights)
    }

    /// A network from weights by GGUF name.
    pub(crate) fn from_weights(config: Config, weights: Weights) -> Result<Self> {
        let device = Device::Cpu;
        let vars = weights
            .into_iter()
            .map(|(name, (shape, values))| {
                Ok((name, Var::from_tensor(&Tensor::from_vec(values, shape, &device)?)?))
            })
            .collect::<Result<_>>()?;
        let dim = config.head_dim();
        let mut cos = Vec::with_capacity(config.context * dim);
        let mut sin = Vec::with_capacity(config.context * dim);
        for position in 0..config.context {
            for i in 0..dim {
                let pair = (i / 2 * 2) as f64;
                let angle = position as f64 * config.rope_base.powf(-pair / dim as f64);
                cos.push(angle.cos() as f32);
                sin.push(angle.sin() as f32);
            }
        }
        // x * turn: column 2i takes -x[2i+1], column 2i+1 takes x[2i].
        let turn: Vec<f32> = (0..dim * dim)
            .map(|at| match (at / dim, at % dim) {
                (row, column) if column % 2 == 0 && row == column + 1 => -1.0,
                (row, column) if column % 2 == 1 && row + 1 == column => 1.0,
                _ => 0.0,
            })
            .collect();
        Ok(Self {
            config,
            vars,
            cos: Tensor::from_vec(cos, (config.context, 1, dim), &device)?,
            sin: Tensor::from_vec(sin, (config.context, 1, dim), &device)?,
            turn: Tensor::from_vec(turn, (dim, dim), &device)?,
        })
    }

    pub(crate) fn vars(&self) -> Vec<Var> {
        self.vars.values().cloned().collect()
    }

    pub(crate) fn weights(&self) -> Result<Weights> {
        self.vars
            .iter()
            .map(|(name, var)| {
                Ok((name.clone(), (var.dims().to_vec(), var.flatten_all()?.to_vec1::<f32>()?)))
            })
            .collect()
    }

    fn weight(&self, name: &str) -> Result<&Tensor> {
        self.vars.get(name).map(Var::as_tensor).with_context(|| format!("no weight {name}"))
    }

    fn norm(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
        let normed = x.broadcast_div(&(mean + self.config.eps)?.sqrt()?)?;
        Ok(normed.broadcast_mul(self.weight(name)?)?)
    }

    fn linear(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        Ok(x.matmul(&self.weight(name)?.t()?)?)
    }

    /// Turns (batch * time, heads * dim) by position, giving (batch, heads, time, dim).
    fn rotate(&self, x: &Tensor, batch: usize, time: usize, heads: usize) -> Result<Tensor> {
        let dim = self.config.head_dim();
        let turned = x.reshape((batch * time * heads, dim))?.matmul(&self.turn)?;
        let shape = (batch, time, heads, dim);
        let cos = self.cos.narrow(0, 0, time)?;
        let sin = self.sin.narrow(0, 0, time)?;
        let out = (x.reshape(shape)?.broadcast_mul(&cos)? + turned.reshape(shape)?.broadcast_mul(&sin)?)?;
        Ok(out.transpose(1, 2)?.contiguous()?)
    }

    /// Tokens (batch, time) to logits (batch * time, vocab).
    pub(crate) fn forward(&self, tokens: &Tensor) -> Result<Tensor> {
        let config = &self.config;
        let (batch, time) = tokens.dims2()?;
        let (heads, kv_heads, dim) = (config.heads, config.kv_heads, config.head_dim());
        let mask: Vec<f32> =
            (0..time * time).map(|at| if at % time > at / time { f32::NEG_INFINITY } else { 0.0 }).collect();
        let mask = Tensor::from_vec(mask, (1, 1, time, time), tokens.device())?;

        let mut x = self.weight("token_embd.weight")?.index_select(&tokens.flatten_all()?, 0)?;
        for layer in 0..config.layers {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            let h = self.norm(&x, &name("attn_norm"))?;
            let q = self.rotate(&self.linear(&h, &name("attn_q"))?, batch, time, heads)?;
            let k = self.rotate(&self.linear(&h, &name("attn_k"))?, batch, time, kv_heads)?;
            let v = self.linear(&h, &name("attn_v"))?.reshape((batch, time, kv_heads, dim))?;
            let v = v.transpose(1, 2)?.contiguous()?;
            let (k, v) = (self.repeat(&k)?, self.repeat(&v)?);
            let scores = (q.matmul(&k.t()?)? * (dim as f64).powf(-0.5))?;
            let attention = candle_nn::ops::softmax(&scores.broadcast_add(&mask)?, D::Minus1)?;
            let mixed = attention.matmul(&v)?.transpose(1, 2)?;
            let mixed = mixed.reshape((batch * time, heads * dim))?;
            x = (x + self.linear(&mixed, &name("attn_output"))?)?;

            let h = self.norm(&x, &name("ffn_norm"))?;
            let gate = self.linear(&h, &name("ffn_gate"))?.silu()?;
            let inner = (gate * self.linear(&h, &name("ffn_up"))?)?;
            x = (x + self.linear(&inner, &name("ffn_down"))?)?;
        }
        self.linear(&self.norm(&x, "output_norm.weight")?, "output.weight")
    }

    /// (batch, kv_heads, time, dim) to (batch, heads, time, dim): query head h reads
    /// key and value head h / (heads / kv_heads).
    fn repeat(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, kv_heads, time, dim) = x.dims4()?;
        let times = self.config.heads / kv_heads;
        let wide = x.unsqueeze(2)?.expand((batch, kv_heads, times, time, dim))?;
        Ok(wide.reshape((batch, kv_heads * times, time, dim))?)
    }

    /// ln p of every token after each position, the softmax in f64 from the f32 logits:
    /// `out[t][v]` is ln p(v | tokens[..=t]).
    pub(crate) fn distributions(&self, tokens: &[u32]) -> Result<Vec<Vec<f64>>> {
        let input = Tensor::from_slice(tokens, (1, tokens.len()), &Device::Cpu)?;
        let logits = self.forward(&input)?.to_dtype(DType::F64)?;
        Ok(candle_nn::ops::log_softmax(&logits, D::Minus1)?.to_vec2()?)
    }

    /// Natural-log probability of each next token: `out[t]` is ln p(tokens[t+1] | tokens[..=t]).
    pub(crate) fn logprobs(&self, tokens: &[u32]) -> Result<Vec<f64>> {
        self.distributions(tokens)?
            .iter()
            .zip(tokens.iter().skip(1))
            .map(|(row, &next)| row.get(next as usize).copied().context("a token outside the vocabulary"))
            .collect()
    }

    /// `count` further tokens, always the likeliest one.
    pub(crate) fn greedy(&self, prompt: &[u32], count: usize) -> Result<Vec<u32>> {
        let mut tokens = prompt.to_vec();
        for _ in 0..count.min(self.config.context - prompt.len()) {
            let input = Tensor::from_slice(&tokens, (1, tokens.len()), &Device::Cpu)?;
            let logits = self.forward(&input)?;
            tokens.push(logits.get(tokens.len() - 1)?.argmax(0)?.to_scalar()?);
        }
        Ok(tokens.split_off(prompt.len()))
    }
}
