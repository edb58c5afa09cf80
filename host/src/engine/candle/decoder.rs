//! One decoder for every family: what differs between them is in the configuration.
//!
//! Computes in F32 (what weights are held in is the matrix's own business), one sequence at a
//! time, in chunks over a key-value cache, so that memory does not grow with the square of the
//! length and a sequence's numbers never depend on what is computed beside it. Attention: Vaswani et al. 2017, section 3.2.1; grouped queries:
//! Ainslie et al. 2023; norms per head as in Qwen3; parallel residuals as in Phi.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{Device, Result as Computed, Tensor};
use candle_nn::kv_cache::KvCache;
use candle_nn::ops::{layer_norm, rms_norm, softmax_last_dim};
use candle_nn::rotary_emb::rope;

use super::adapter::Adapter;
use super::config::{Activation, Config};
use super::layout::{Layout, Place, Slot};
use super::matrix::{Matrix, SLAB};
use super::weights::Weights;
use crate::engine::{LoadBits, PROBE};

/// Counts computed layers.
pub(super) static TICKS: AtomicU64 = AtomicU64::new(0);

/// Tokens computed at once.
pub(super) const CHUNK: usize = 256;

/// A matrix with the output dimension first, and its bias.
#[derive(Debug)]
struct Linear {
    weight: Matrix,
    bias: Option<Tensor>,
}

impl Linear {
    fn forward(&self, x: &Tensor) -> Computed<Tensor> {
        let y = self.weight.times(x)?;
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
}

/// Root mean square norm, or layer norm where there is a bias.
#[derive(Debug)]
struct Norm {
    weight: Tensor,
    bias: Option<Tensor>,
    eps: f32,
}

impl Norm {
    fn forward(&self, x: &Tensor) -> Computed<Tensor> {
        let x = x.contiguous()?;
        match &self.bias {
            Some(bias) => layer_norm(&x, &self.weight, bias, self.eps),
            None => rms_norm(&x, &self.weight, self.eps),
        }
    }
}

#[derive(Debug)]
struct Layer {
    attention_norm: Norm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    qk_norm: Option<(Norm, Norm)>,
    /// `None` where the feed-forward part reads the attention's input.
    ffn_norm: Option<Norm>,
    gate: Option<Linear>,
    up: Linear,
    down: Linear,
    window: Option<usize>,
}

/// A loaded decoder.
#[derive(Debug)]
pub(super) struct Decoder {
    config: Config,
    embedding: Matrix,
    positions: Option<Tensor>,
    rotation: Option<(Tensor, Tensor)>,
    layers: Vec<Layer>,
    norm: Norm,
    head: Linear,
}

/// Keys and values of one sequence.
#[derive(Debug)]
pub(super) struct Cache {
    layers: Vec<KvCache>,
    length: usize,
}

/// Where weights come from, and how they are to be held.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin<'a> {
    pub weights: &'a Weights,
    pub adapter: Option<&'a Adapter>,
    pub bits: Option<LoadBits>,
    /// Where they go.
    pub device: &'a Device,
}

impl Origin<'_> {
    fn wide(&self, place: &Place) -> Result<Tensor, String> {
        let base = self.weights.read(place)?;
        self.adapter.map_or(Ok(base.clone()), |adapter| adapter.apply(place, base))
    }

    /// What is narrower than it is stored is never whole in memory as it is stored, unless it has
    /// to be turned or changed first.
    fn read(&self, place: &Place) -> Result<Matrix, String> {
        let (Some(LoadBits::Eight), Some(shape)) = (self.bits, place.matrix()) else {
            let there = self.wide(place)?.to_device(self.device);
            return there.map(Matrix::Wide).map_err(|error| format!("{}: {error}", place.name));
        };
        let [rows, columns] = shape;
        let whole = place.transposed || self.adapter.is_some_and(|adapter| adapter.changes(place));
        let made = if whole {
            Matrix::eight(shape, rows, &mut |_, _| self.wide(place))
        } else {
            let step = SLAB / columns.max(1);
            Matrix::eight(shape, step, &mut |first, count| {
                self.weights.read_rows(&place.name, first, Some(count))
            })
        };
        made.map_err(|reason| format!("{}: {reason}", place.name))
    }
}

/// What of one layer, or of the whole, has been read.
struct Parts(HashMap<Slot, Matrix>);

impl Parts {
    fn read(places: &[Place], from: Origin<'_>, each: &mut dyn FnMut()) -> Result<Self, String> {
        let mut parts = HashMap::new();
        for place in places {
            parts.insert(place.slot, from.read(place)?);
            each();
        }
        Ok(Self(parts))
    }

    fn matrix(&mut self, slot: Slot) -> Result<Matrix, String> {
        self.0.remove(&slot).ok_or_else(|| format!("the layout has no {slot:?}"))
    }

    /// What is never narrower than F32, if it is there.
    fn vector(&mut self, slot: Slot) -> Result<Option<Tensor>, String> {
        match self.0.remove(&slot) {
            None => Ok(None),
            Some(Matrix::Wide(tensor)) => Ok(Some(tensor)),
            Some(Matrix::Eight(_)) => Err(format!("{slot:?} is not to be held in 8 bits")),
        }
    }

    fn weight(&mut self, slot: Slot) -> Result<Tensor, String> {
        self.vector(slot)?.ok_or_else(|| format!("the layout has no {slot:?}"))
    }

    fn norm(&mut self, weight: Slot, bias: Slot, eps: f32) -> Result<Norm, String> {
        Ok(Norm { weight: self.weight(weight)?, bias: self.vector(bias)?, eps })
    }

    fn linear(&mut self, weight: Slot, bias: Slot) -> Result<Linear, String> {
        Ok(Linear { weight: self.matrix(weight)?, bias: self.vector(bias)? })
    }

    /// Takes a stored tensor apart by rows.
    fn split(&mut self, from: Slot, into: &[(Slot, usize)]) -> Result<(), String> {
        let Some(whole) = self.0.remove(&from) else { return Ok(()) };
        let mut start = 0;
        for &(slot, rows) in into {
            let part = whole.part(start, rows);
            self.0.insert(slot, part.map_err(|error| format!("{from:?}: {error}"))?);
            start += rows;
        }
        Ok(())
    }
}

impl Decoder {
    /// Reads the weights. `context` is how many positions there will be at most; `progress`
    /// gets the share of tensors read.
    ///
    /// # Errors
    /// A tensor cannot be read.
    pub fn load(
        config: &Config,
        layout: &Layout,
        from: Origin<'_>,
        context: usize,
        progress: &mut dyn FnMut(f32),
    ) -> Result<Self, String> {
        let total = layout.all().count().max(1);
        let mut done = 0usize;
        let mut each = || {
            done += 1;
            progress(done as f32 / total as f32);
        };
        let mut whole = Parts::read(&layout.whole, from, &mut each)?;
        let embedding = whole.matrix(Slot::Embedding)?;
        let head = if config.tied { embedding.clone() } else { whole.matrix(Slot::Head)? };
        let head = Linear { weight: head, bias: whole.vector(Slot::HeadBias)? };
        let norm = whole.norm(Slot::FinalNorm, Slot::FinalNormBias, config.eps)?;
        let positions = whole.vector(Slot::Positions)?;
        let rotation = match &config.rope {
            Some(rope) => {
                Some(rope.tables(context.max(PROBE), from.device).map_err(|error| error.to_string())?)
            }
            None => None,
        };
        let mut layers = Vec::with_capacity(config.layers);
        for (places, &window) in layout.layers.iter().zip(&config.windows) {
            let parts = Parts::read(places, from, &mut each)?;
            layers.push(layer(config, parts, window)?);
        }
        Ok(Self { config: config.clone(), embedding, positions, rotation, layers, norm, head })
    }

    /// Room for a sequence of up to `capacity` tokens.
    pub fn cache(&self, capacity: usize) -> Cache {
        let layers = self.layers.iter().map(|_| KvCache::new(1, capacity.max(1))).collect();
        Cache { layers, length: 0 }
    }

    /// The normalised last hidden states of the next tokens: one row each.
    pub fn forward(&self, tokens: &[u32], cache: &mut Cache) -> Computed<Tensor> {
        let (past, count) = (cache.length, tokens.len());
        let mut x = self.embedding.look_up(tokens)?;
        if let Some(positions) = &self.positions {
            x = (x + positions.narrow(0, past, count)?)?;
        }
        let mut masks: HashMap<Option<usize>, Option<Tensor>> = HashMap::new();
        for (layer, kv) in self.layers.iter().zip(&mut cache.layers) {
            TICKS.fetch_add(1, Ordering::Relaxed);
            let mask = match masks.get(&layer.window) {
                Some(mask) => mask.clone(),
                None => {
                    let mask = mask(past, count, layer.window, x.device())?;
                    masks.insert(layer.window, mask.clone());
                    mask
                }
            };
            let h = layer.attention_norm.forward(&x)?;
            let attended = self.attend(layer, &h, kv, past, mask.as_ref())?;
            x = match &layer.ffn_norm {
                Some(norm) => {
                    let x = (x + attended)?;
                    let h = norm.forward(&x)?;
                    (&x + self.feed_forward(layer, &h)?)?
                }
                None => ((x + attended)? + self.feed_forward(layer, &h)?)?,
            };
        }
        cache.length += count;
        self.norm.forward(&x)
    }

    /// Logits of hidden states, row by row, one after the other.
    pub fn logits(&self, hidden: &Tensor) -> Computed<Vec<f32>> {
        self.head.forward(hidden)?.flatten_all()?.to_vec1()
    }

    fn attend(
        &self,
        layer: &Layer,
        h: &Tensor,
        kv: &mut KvCache,
        past: usize,
        mask: Option<&Tensor>,
    ) -> Computed<Tensor> {
        let Config { heads, kv_heads, head_dim, .. } = self.config;
        let count = h.dim(0)?;
        let (norm_q, norm_k) = layer.qk_norm.as_ref().map(|(q, k)| (q, k)).unzip();
        let q = self.heads_of(&layer.q.forward(h)?, heads, norm_q, past)?;
        let k = self.heads_of(&layer.k.forward(h)?, kv_heads, norm_k, past)?;
        let v = layer.v.forward(h)?.reshape((count, kv_heads, head_dim))?.transpose(0, 1)?.contiguous()?;
        let (k, v) = kv.append(&k, &v)?;
        let length = past + count;
        // Heads that share keys and values stand one after the other.
        let group = heads / kv_heads;
        let q = (q * (1.0 / (head_dim as f64).sqrt()))?.reshape((kv_heads, group * count, head_dim))?;
        let scores = q.matmul(&k.transpose(1, 2)?)?;
        let scores = scores.reshape((kv_heads, group, count, length))?;
        let scores = match mask {
            Some(mask) => scores.broadcast_add(mask)?,
            None => scores,
        };
        let shares = softmax_last_dim(&scores)?.reshape((kv_heads, group * count, length))?;
        let mixed = shares.matmul(&v)?.reshape((heads, count, head_dim))?;
        let mixed = mixed.transpose(0, 1)?.contiguous()?.reshape((count, heads * head_dim))?;
        layer.out.forward(&mixed)
    }

    /// Rows of all heads to one matrix per head, normalised and rotated.
    fn heads_of(&self, x: &Tensor, heads: usize, norm: Option<&Norm>, past: usize) -> Computed<Tensor> {
        let head_dim = self.config.head_dim;
        let count = x.dim(0)?;
        let mut x = x.reshape((count, heads, head_dim))?;
        if let Some(norm) = norm {
            x = norm.forward(&x)?;
        }
        let x = x.transpose(0, 1)?.contiguous()?;
        let (Some((cos, sin)), Some(rotary)) = (&self.rotation, &self.config.rope) else { return Ok(x) };
        let (cos, sin) = (cos.narrow(0, past, count)?, sin.narrow(0, past, count)?);
        if rotary.dims == head_dim {
            return rope(&x.unsqueeze(0)?, &cos, &sin)?.squeeze(0);
        }
        let turned = x.narrow(2, 0, rotary.dims)?.contiguous()?;
        let turned = rope(&turned.unsqueeze(0)?, &cos, &sin)?.squeeze(0)?;
        let rest = x.narrow(2, rotary.dims, head_dim - rotary.dims)?;
        Tensor::cat(&[&turned, &rest], 2)?.contiguous()
    }

    fn feed_forward(&self, layer: &Layer, h: &Tensor) -> Computed<Tensor> {
        let up = layer.up.forward(h)?;
        let inner = match &layer.gate {
            Some(gate) => (self.activate(&gate.forward(h)?)? * up)?,
            None => self.activate(&up)?,
        };
        layer.down.forward(&inner)
    }

    fn activate(&self, x: &Tensor) -> Computed<Tensor> {
        match self.config.activation {
            Activation::Silu => x.silu(),
            Activation::GeluTanh => x.gelu(),
            Activation::GeluErf => x.gelu_erf(),
            Activation::Relu => x.relu(),
        }
    }
}

fn layer(config: &Config, mut parts: Parts, window: Option<usize>) -> Result<Layer, String> {
    let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    parts.split(Slot::Qkv, &[(Slot::Q, q), (Slot::K, kv), (Slot::V, kv)])?;
    parts.split(Slot::QkvBias, &[(Slot::QBias, q), (Slot::KBias, kv), (Slot::VBias, kv)])?;
    parts.split(Slot::GateUp, &[(Slot::Gate, config.ffn), (Slot::Up, config.ffn)])?;
    let plain = |weight: Tensor| Norm { weight, bias: None, eps: config.eps };
    let qk_norm = match config.qk_norm {
        true => Some((plain(parts.weight(Slot::QNorm)?), plain(parts.weight(Slot::KNorm)?))),
        false => None,
    };
    let ffn_norm = match config.parallel() {
        true => None,
        false => Some(parts.norm(Slot::FfnNorm, Slot::FfnNormBias, config.eps)?),
    };
    let gate = match config.gated() {
        true => Some(parts.linear(Slot::Gate, Slot::GateBias)?),
        false => None,
    };
    Ok(Layer {
        attention_norm: parts.norm(Slot::AttentionNorm, Slot::AttentionNormBias, config.eps)?,
        q: parts.linear(Slot::Q, Slot::QBias)?,
        k: parts.linear(Slot::K, Slot::KBias)?,
        v: parts.linear(Slot::V, Slot::VBias)?,
        out: parts.linear(Slot::Out, Slot::OutBias)?,
        qk_norm,
        ffn_norm,
        gate,
        up: parts.linear(Slot::Up, Slot::UpBias)?,
        down: parts.linear(Slot::Down, Slot::DownBias)?,
        window,
    })
}

/// What is added to the scores so that a token sees itself, those before it, and of them only
/// its window: rows are the new tokens. `None` where a token sees everything.
fn mask(past: usize, count: usize, window: Option<usize>, device: &Device) -> Computed<Option<Tensor>> {
    let length = past + count;
    if count == 1 && window.is_none_or(|window| length <= window) {
        return Ok(None);
    }
    let cells = (past..length).flat_map(|at| {
        (0..length).map(move |seen| {
            let visible = seen <= at && window.is_none_or(|window| at - seen < window);
            if visible { 0.0 } else { f32::NEG_INFINITY }
        })
    });
    Tensor::from_vec(cells.collect::<Vec<f32>>(), (count, length), device).map(Some)
}
